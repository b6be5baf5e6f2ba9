"""The two presets, the post's own and ours, and the names by which the command line knows them and their parts.

This is the only place where a name becomes a value.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from vae_bit import noise, objectives
from vae_bit.architecture import (
    GLOROT,
    LECUN,
    Architecture,
    EncoderInput,
    mean_column,
    read_signs,
    read_sum,
    softplus_std,
    zero_column,
)
from vae_bit.families import (
    GAUSSIAN,
    STANDARD,
    Family,
    FlowFamily,
    LearnedPrior,
    MixtureFamily,
    Prior,
    VampPrior,
    autoregressive,
    independent,
)
from vae_bit.limits import MOST_COMPONENTS
from vae_bit.models import Build
from vae_bit.networks import ConditionalNet, ResidualGaussianNet, elu
from vae_bit.store.describe import label
from vae_bit.training import Recipe


class Preset(NamedTuple):
    """A full description of a run but for layers and width, which a sweep sets, and the swept numbers."""

    model: Build
    recipe: Recipe
    learning_rate: float


def adam(learning_rate: optax.ScalarOrSchedule, b1: float, b2: float) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) of all parameters as one row, which compiles faster."""
    return optax.flatten(optax.adam(learning_rate, b1, b2))


def cosine(steps: int) -> optax.Schedule:
    """From 1 to 0 along half a cosine."""
    return optax.cosine_decay_schedule(1.0, steps)


def post_decay(steps: int) -> optax.Schedule:
    """The post's 50-fold exponential decay with one more notch every 1,000 steps."""
    return lambda step: 50.0 ** (-(step + step // 1000) / steps)


def constant(steps: int) -> optax.Schedule:
    """1 at every step."""
    return optax.constant_schedule(1.0)


def warmup(steps: int, rise: int) -> optax.Schedule:
    """From 0 to 1 in `rise` steps, evenly, and 1 from then on (Bowman et al. 2016)."""
    return optax.linear_schedule(0.0, 1.0, rise)


ORIGINAL = Preset(
    Architecture(
        encoder_hidden=(10, 10, 10),
        decoder_hidden=(10, 10, 10),
        latent_hidden=(100, 100, 100),
        activation=elu,
        kernels=GLOROT,
        logit_gain=1.0,
        positive=softplus_std,
        latent=ConditionalNet,
        encoder_input=EncoderInput(read_sum, mean_column),
    ),
    Recipe(
        objective=objectives.elbo,
        noise=noise.iid,
        samples=500,
        kl=objectives.sampled_kl,
        optimizer=partial(adam, b1=0.9, b2=0.999),
        schedule=post_decay,
        beta_schedule=constant,
        steps=5000,
    ),
    learning_rate=5e-3,
)

DEFAULT = Preset(
    Architecture(
        encoder_hidden=(),
        decoder_hidden=(16, 16),
        latent_hidden=(16, 16),
        activation=jnp.tanh,
        kernels=LECUN,
        logit_gain=3.0,
        positive=jnp.exp,
        latent=partial(ResidualGaussianNet, offset=-1.0),
        encoder_input=EncoderInput(partial(read_signs, size=8.0), zero_column),
    ),
    Recipe(
        objective=objectives.elbo,
        noise=noise.trapezoid,
        samples=24,
        kl=objectives.closed_kl,
        optimizer=partial(adam, b1=0.98, b2=0.99),
        schedule=cosine,
        beta_schedule=constant,
        steps=5000,
    ),
    learning_rate=1e-2,
)

PRESETS = {"default": DEFAULT, "original": ORIGINAL}
OBJECTIVES = {
    function.__name__: function
    for function in (
        objectives.elbo,
        objectives.path,
        objectives.free_bits,
        objectives.iwae,
        objectives.dreg,
        objectives.renyi,
    )
}
NOISES: dict[str, noise.Rule] = {rule.__name__: rule for rule in (noise.iid, noise.lattice, noise.trapezoid)}
GROUPED = (objectives.iwae, objectives.dreg, objectives.renyi)  # bounds on several draws at once

MIXTURES = {f"mixture{k}": MixtureFamily(k) for k in range(1, MOST_COMPONENTS + 1)}
POSTERIORS: dict[str, Family] = {"gaussian": GAUSSIAN, "flow": FlowFamily()} | MIXTURES
LEARNED = {name: LearnedPrior(family) for name, family in MIXTURES.items()}
PRIORS: dict[str, Prior] = {"normal": STANDARD, "vamp": VampPrior()} | LEARNED
DECODERS = {function.__name__: function for function in (independent, autoregressive)}
FAMILIES: dict[str, dict[str, Any]] = {"posterior": POSTERIORS, "prior": PRIORS, "decoder": DECODERS}

DRAWS = 64  # a step, about, of an objective that takes several in one bound, unless a noise is given for it


def override(preset: Preset, k: int | None = None, **fields: Any) -> Preset:
    """The preset with other values of its recipe's fields, or of its model's posterior, prior and decoder.

    ValueError where they do not go together.

    A built-in bound on several draws needs groups of k independent ones, which the trapezoid's grid does not give:
    unless a noise is given, it takes a lattice.
    """
    model = {name: fields.pop(name) for name in FAMILIES if name in fields}
    if model and not isinstance(preset.model, Architecture):
        raise ValueError(f"{min(model)}: got one for a model of one's own, expected it to be in the model")
    preset = preset._replace(model=replace(preset.model, **model)) if model else preset
    recipe = replace(preset.recipe, **fields)
    if is_grouped(recipe.objective) and isinstance(getattr(preset.model, "posterior", None), MixtureFamily):
        allowed = f"expected gaussian or flow with objective {label(recipe.objective)!r}, a bound on several draws"
        raise ValueError(f"posterior: got a mixture, whose draw is one of each component, {allowed}")
    name = label(recipe.objective)
    if not is_grouped(recipe.objective):
        if k not in (None, 1):
            raise ValueError(f"k: got {k}, expected 1 with objective {name!r}; see samples")
    elif getattr(recipe.noise, "func", None) is not noise.grouped:
        recipe = _grouped(recipe, k or 1, fields)
    elif k:
        groups: Any = recipe.noise
        recipe = _grouped(replace(recipe, noise=groups.keywords["rule"]), k, fields)
    return preset._replace(recipe=recipe)


def known_as(kind: str, model: Build) -> str:
    """The name of a model's posterior, prior or decoder: that on the command line, or of its type, or "own"."""
    if not isinstance(model, Architecture):
        return "own"
    value = getattr(model, kind)
    return next((name for name, known in FAMILIES[kind].items() if known == value), label(value))


def named_model(preset: str, **names: str) -> Build | None:
    """The model of a preset with the posterior, prior and decoder of these names, if there is one."""
    if preset not in PRESETS or any(name not in FAMILIES[kind] for kind, name in names.items()):
        return None
    return override(PRESETS[preset], **{kind: FAMILIES[kind][name] for kind, name in names.items()}).model


def is_grouped(objective: objectives.Objective) -> bool:
    """Whether it is a built-in bound on several draws at once, or one of them with arguments of its own."""
    return getattr(objective, "func", objective) in GROUPED


def _grouped(recipe: Recipe, k: int, given: Mapping[str, Any]) -> Recipe:
    """The recipe with its noise in groups of k draws."""
    rule, samples = recipe.noise, recipe.samples
    if rule is noise.trapezoid and "noise" in given:
        raise ValueError(
            f"noise: got 'trapezoid', expected 'iid' or 'lattice' with objective {label(recipe.objective)!r}"
        )
    if rule is noise.trapezoid:
        rule, samples = noise.lattice, given.get("samples", k * math.ceil(DRAWS / k))
    if samples % k:
        raise ValueError(f"k: got {k}, expected a divisor of samples, {samples}")
    return replace(recipe, noise=partial(noise.grouped, k=k, rule=rule), samples=samples)
