"""Log densities, divergences and reparameterised draws, of one example.

Events lie on the last axis and are summed over it, leading axes are broadcast: a latent of size d has shape [..., d].
Everything is in nats, in the dtype of the input, and nothing is averaged.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

LOG_2PI = 1.8378770664093453


class Normal(NamedTuple):
    """A diagonal Gaussian N(mean, std^2); `mean` and `std` have one shape, std > 0."""

    mean: Array
    std: Array


def standard_normal(shape: tuple[int, ...], dtype=None) -> Normal:
    """N(0, 1) of the given shape: the prior of the top layer."""
    return Normal(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def normal_sample(q: Normal, eps: Array) -> Array:
    """Reparameterised draw z = mean + std * eps, eps ~ N(0, 1) (Kingma and Welling 2014, section 2.4)."""
    return q.mean + q.std * eps


def normal_log_prob(z: Array, p: Normal) -> Array:
    """ln N(z; mean, std^2), summed over the last axis: [..., d] -> [...]."""
    standardised = (z - p.mean) / p.std
    return jnp.sum(-0.5 * (jnp.square(standardised) + LOG_2PI) - jnp.log(p.std), axis=-1)


def normal_entropy(q: Normal) -> Array:
    """H(q) = sum_d ln std_d + (1 + ln 2 pi) / 2: [..., d] -> [...]."""
    return jnp.sum(jnp.log(q.std) + 0.5 * (1.0 + LOG_2PI), axis=-1)


def normal_kl(q: Normal, p: Normal) -> Array:
    """KL(q || p) = sum_d ln(std_p / std_q) + (std_q^2 + (mean_q - mean_p)^2) / (2 std_p^2) - 1/2: [..., d] -> [...]."""
    ratio = q.std / p.std
    shift = (q.mean - p.mean) / p.std
    return jnp.sum(0.5 * (jnp.square(ratio) + jnp.square(shift) - 1.0) - jnp.log(ratio), axis=-1)


def normal_kl_standard(q: Normal) -> Array:
    """KL(q || N(0, 1)) = sum_d (mean^2 + std^2 - 1) / 2 - ln std: [..., d] -> [...]."""
    return jnp.sum(0.5 * (jnp.square(q.mean) + jnp.square(q.std) - 1.0) - jnp.log(q.std), axis=-1)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """ln(1 + e^x), as max(x, 0) + ln(1 + e^-|x|): finite for every finite x, derivative sigmoid(x)."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * dx


def bernoulli_log_prob(x: Array, logits: Array, mask: Array | None = None, axis: int = -1) -> Array:
    """ln Bernoulli(x; sigmoid(logits)) = x * logit - softplus(logit), summed over `axis`: [..., n] -> [...].

    `mask` [..., n] (1 counts, 0 does not) leaves padded dimensions out. The three arrays broadcast.
    """
    if mask is None:
        return jnp.sum(x * logits - softplus(logits), axis)
    return jnp.sum((mask * x) * logits - mask * softplus(logits), axis)
