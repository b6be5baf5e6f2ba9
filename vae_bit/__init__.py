"""Autoencoding a single bit: the smallest VAE that can fail, with every answer known exactly.

`run` trains a sweep and `load` reads one back; `presets`, `objectives` and `families` are what to train. All other
names are for any VAE and need jax and numpy alone: `distributions`, `losses` and `noise` are pure functions of arrays
for latents and data of any size, `exact` integrates a VAE with scalar latents, `limits` says what none beats.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vae_bit.distributions import (
    Drawn,
    Flow,
    Mixture,
    Normal,
    bernoulli_kl,
    bernoulli_log_prob,
    flow_log_prob,
    flow_sample,
    log_prob,
    mixture_log_prob,
    mixture_sample,
    normal_entropy,
    normal_kl,
    normal_kl_standard,
    normal_log_prob,
    normal_sample,
    softplus,
    standard_normal,
)
from vae_bit.exact import Evaluation, ScalarVAE, evaluate, log_evidence
from vae_bit.limits import Limit, Mismatch, conditional_entropy, limit, mmse, one_layer, prior_mismatch
from vae_bit.losses import (
    average,
    dreg,
    elbo,
    entropy_form_kl,
    free_bits,
    iwae,
    loss,
    path_kl,
    renyi,
    sampled_kl,
    top_kl,
)
from vae_bit.noise import Noise, draw_latent

if TYPE_CHECKING:
    from vae_bit import families, objectives, presets
    from vae_bit.runner import load, run

OF_A_SWEEP = {"run": "vae_bit.runner", "load": "vae_bit.runner", "families": None, "objectives": None, "presets": None}

__all__ = [
    "Drawn",
    "Evaluation",
    "Flow",
    "Limit",
    "Mismatch",
    "Mixture",
    "Noise",
    "Normal",
    "ScalarVAE",
    "average",
    "bernoulli_kl",
    "bernoulli_log_prob",
    "conditional_entropy",
    "draw_latent",
    "dreg",
    "elbo",
    "entropy_form_kl",
    "evaluate",
    "families",
    "flow_log_prob",
    "flow_sample",
    "free_bits",
    "iwae",
    "limit",
    "load",
    "log_evidence",
    "log_prob",
    "loss",
    "mixture_log_prob",
    "mixture_sample",
    "mmse",
    "normal_entropy",
    "normal_kl",
    "normal_kl_standard",
    "normal_log_prob",
    "normal_sample",
    "objectives",
    "one_layer",
    "path_kl",
    "presets",
    "prior_mismatch",
    "renyi",
    "run",
    "sampled_kl",
    "softplus",
    "standard_normal",
    "top_kl",
]


def __getattr__(name: str) -> Any:
    """What a sweep needs is imported when it is asked for: flax and optax take a second."""
    if name not in OF_A_SWEEP:
        raise AttributeError(f"module 'vae_bit' has no attribute {name!r}")
    module = OF_A_SWEEP[name]
    return getattr(import_module(module), name) if module else import_module(f"vae_bit.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
