"""Log densities, divergences and reparameterised draws, of one example.

Events lie on the last axis and are summed over it, leading axes broadcast: a latent of size d has shape [..., d] and
its log density [...]. A `mask` [..., d] (1 counts, 0 does not) leaves padding out of the sum; padded numbers must be
finite. Everything is in nats, in the dtype of the input (float32 or float64), and nothing is averaged. Arrays of
different dtypes raise TypeError, shapes that do not fit ValueError.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_bit.checks import agree

LOG_2PI = 1.8378770664093453


class Normal(NamedTuple):
    """A diagonal Gaussian N(mean, std^2) of size d: `mean` and `std` [..., d], std > 0; a pytree."""

    mean: Array
    std: Array


def standard_normal(shape: tuple[int, ...], dtype=None) -> Normal:
    """N(0, 1) of the given shape: the prior of the top layer; `dtype` is JAX's default float unless given.

    >>> standard_normal((2,)).std
    Array([1., 1.], dtype=float32)
    """
    return Normal(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def normal_sample(q: Normal, eps: ArrayLike) -> Array:
    """Reparameterised draw z = mean + std * eps, eps ~ N(0, 1) (Kingma and Welling 2014, section 2.4).

    q [..., d], eps [..., d] -> [..., d], all broadcast: eps [K, d] gives K draws, differentiable in mean and std.

    >>> q = Normal(jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0]))
    >>> normal_sample(q, jnp.array([[0.0, 0.0], [2.0, -1.0]])).tolist()
    [[1.0, 2.0], [2.0, 1.0]]
    """
    mean, std, eps = agree(None, mean=q.mean, std=q.std, eps=eps)
    return mean + std * eps


def normal_log_prob(z: ArrayLike, p: Normal, mask: ArrayLike | None = None) -> Array:
    """ln N(z; mean, std^2) = sum_d -((z - mean) / std)^2 / 2 - ln std - ln(2 pi) / 2: [..., d] -> [...].

    >>> print(f"{normal_log_prob(jnp.array([0.0, 1.0]), standard_normal((2,))):.4f}")
    -2.3379
    """
    z, mean, std = agree(z=z, mean=p.mean, std=p.std)
    standardised = (z - mean) / std
    return _total(-0.5 * (jnp.square(standardised) + LOG_2PI) - jnp.log(std), mask)


def normal_entropy(q: Normal, mask: ArrayLike | None = None) -> Array:
    """H(q) = sum_d ln std_d + (1 + ln 2 pi) / 2: [..., d] -> [...].

    >>> print(f"{normal_entropy(standard_normal((1,))):.4f}")
    1.4189
    """
    _, std = agree(mean=q.mean, std=q.std)
    return _total(jnp.log(std) + 0.5 * (1.0 + LOG_2PI), mask)


def normal_kl(q: Normal, p: Normal, mask: ArrayLike | None = None) -> Array:
    """KL(q || p) = sum_d ln(std_p / std_q) + (std_q^2 + (mean_q - mean_p)^2) / (2 std_p^2) - 1/2: [..., d] -> [...].

    >>> q, p = Normal(jnp.ones(1), jnp.ones(1)), Normal(jnp.zeros(1), 2.0 * jnp.ones(1))
    >>> print(f"{normal_kl(q, p):.4f}")
    0.4431
    """
    q_mean, q_std, p_mean, p_std = agree(q_mean=q.mean, q_std=q.std, p_mean=p.mean, p_std=p.std)
    ratio = q_std / p_std
    shift = (q_mean - p_mean) / p_std
    return _total(0.5 * (jnp.square(ratio) + jnp.square(shift) - 1.0) - jnp.log(ratio), mask)


def normal_kl_standard(q: Normal, mask: ArrayLike | None = None) -> Array:
    """KL(q || N(0, 1)) = sum_d (mean^2 + std^2 - 1) / 2 - ln std: [..., d] -> [...] (Kingma and Welling 2014, app. B).

    >>> print(f"{normal_kl_standard(Normal(jnp.array([3.0, 0.0]), jnp.ones(2))):.4f}")
    4.5000
    """
    mean, std = agree(mean=q.mean, std=q.std)
    return _total(0.5 * (jnp.square(mean) + jnp.square(std) - 1.0) - jnp.log(std), mask)


def _total(terms: Array, mask: ArrayLike | None) -> Array:
    if mask is None:
        return jnp.sum(terms, axis=-1)
    terms, mask = agree(event=terms, mask=jnp.asarray(mask, terms.dtype))
    return jnp.sum(mask * terms, axis=-1)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """ln(1 + e^x), as max(x, 0) + ln(1 + e^-|x|): elementwise, finite for every finite x, derivative sigmoid(x).

    >>> softplus(jnp.array([-1e4, 0.0, 1e4])).round(4).tolist()
    [0.0, 0.6930999755859375, 10000.0]
    """
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * dx


def bernoulli_log_prob(x: ArrayLike, logits: Array, mask: ArrayLike | None = None, axis: int = -1) -> Array:
    """ln Bernoulli(x; sigmoid(logits)) = sum_i x_i logit_i - softplus(logit_i), summed over `axis`: [..., n] -> [...].

    x is of the logits' dtype, in [0, 1].

    >>> x, logits = jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 0.0, -1e4])
    >>> print(f"{bernoulli_log_prob(x, logits, mask=jnp.array([1, 1, 0])):.4f}")
    -1.3863
    """
    if mask is None:
        x, logits = agree(axis, x=x, logits=logits)
        return jnp.sum(x * logits - softplus(logits), axis)
    x, logits, mask = agree(axis, x=x, logits=logits, mask=jnp.asarray(mask, jnp.result_type(logits)))
    return jnp.sum(mask * (x * logits - softplus(logits)), axis)


def bernoulli_kl(q_logits: Array, p_logits: Array, mask: ArrayLike | None = None) -> Array:
    """KL(q || p) = sum_i sigmoid(a_i) (a_i - b_i) - softplus(a_i) + softplus(b_i) of logits a, b: [..., n] -> [...].

    >>> print(f"{bernoulli_kl(jnp.array([1e4, 0.0]), jnp.zeros(2)):.4f}")
    0.6931
    """
    a, b = agree(q_logits=q_logits, p_logits=p_logits)
    return _total(jax.nn.sigmoid(a) * (a - b) - softplus(a) + softplus(b), mask)
