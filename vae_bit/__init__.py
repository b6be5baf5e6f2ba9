"""Autoencoding a single bit: the smallest VAE that can fail, with every answer known exactly.

The names below are for any VAE, and none of them needs flax: `distributions`, `losses` and `noise` are pure functions
of arrays for latents and data of any size, `exact` integrates a VAE with scalar latents, `limits` says what none beats.
"""

from vae_bit.distributions import (
    Normal,
    bernoulli_kl,
    bernoulli_log_prob,
    normal_entropy,
    normal_kl,
    normal_kl_standard,
    normal_log_prob,
    normal_sample,
    softplus,
    standard_normal,
)
from vae_bit.exact import Chain, Evaluation, evaluate, log_evidence
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

__all__ = [
    "Chain",
    "Evaluation",
    "Limit",
    "Mismatch",
    "Noise",
    "Normal",
    "average",
    "bernoulli_kl",
    "bernoulli_log_prob",
    "conditional_entropy",
    "draw_latent",
    "dreg",
    "elbo",
    "entropy_form_kl",
    "evaluate",
    "free_bits",
    "iwae",
    "limit",
    "log_evidence",
    "loss",
    "mmse",
    "normal_entropy",
    "normal_kl",
    "normal_kl_standard",
    "normal_log_prob",
    "normal_sample",
    "one_layer",
    "path_kl",
    "prior_mismatch",
    "renyi",
    "sampled_kl",
    "softplus",
    "standard_normal",
    "top_kl",
]
