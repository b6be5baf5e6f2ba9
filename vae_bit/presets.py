"""The two recipes: the post's own, and ours."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

from vae_bit.models import Architecture
from vae_bit.training import GROUPED, Recipe


class Preset(NamedTuple):
    """A full description of a run but for layers and width, which a sweep sets, and the swept numbers."""

    architecture: Architecture
    recipe: Recipe
    learning_rate: float


ORIGINAL = Preset(
    Architecture(
        layers=1,
        width=1,
        encoder_hidden=(10, 10, 10),
        decoder_hidden=(10, 10, 10),
        latent_hidden=(100, 100, 100),
        activation="elu",
        init="glorot",
        logit_gain=1.0,
        std="softplus_variance",
        residual=False,
        encoder_input="sum",
    ),
    Recipe(noise="iid", samples=500, kl="sampled", schedule="post", betas=(0.9, 0.999), steps=5000),
    learning_rate=5e-3,
)

DEFAULT = Preset(
    Architecture(
        layers=1,
        width=1,
        encoder_hidden=(),
        decoder_hidden=(16, 16),
        latent_hidden=(16, 16),
        activation="tanh",
        init="lecun",
        logit_gain=3.0,
        std="exp",
        residual=True,
        encoder_input="signs",
    ),
    Recipe(noise="trapezoid", samples=24, kl="closed", schedule="cosine", betas=(0.98, 0.99), steps=5000),
    learning_rate=1e-2,
)

PRESETS = {"default": DEFAULT, "original": ORIGINAL}

DRAWS = 64  # a step, about, of an objective that takes several in one bound, unless a noise is given for it


def override(preset: Preset, **fields: Any) -> Preset:
    """The preset with other values of its recipe's fields; ValueError where they do not go together.

    A bound on several draws needs independent ones, which the trapezoid's grid does not give: unless a noise is named,
    it takes a lattice.
    """
    grouped = fields.get("objective", preset.recipe.objective) in GROUPED
    if grouped and "noise" not in fields and preset.recipe.noise == "trapezoid":
        k = fields.get("k", preset.recipe.k)
        fields = {"samples": k * math.ceil(DRAWS / k)} | fields | {"noise": "lattice"}
    return preset._replace(recipe=replace(preset.recipe, **fields))
