"""Bernoulli distributions of independent bits by their logits, and softplus, which they are made of."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_bit.checks import Axes
from vae_bit.distributions.events import total


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


def bernoulli_log_prob(x: ArrayLike, logits: Array, mask: ArrayLike | None = None, axis: Axes = -1) -> Array:
    """ln Bernoulli(x; sigmoid(logits)) = sum_i x_i logit_i - softplus(logit_i), summed over `axis`: [..., n] -> [...].

    x is of the logits' dtype, in [0, 1]. An image's axes are a tuple: axis = (-3, -2, -1). A logit may be infinite: a
    bit that is then certain costs nothing, and one that is then impossible makes the sum -inf.

    >>> x, logits = jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 0.0, -1e4])
    >>> print(f"{bernoulli_log_prob(x, logits, mask=jnp.array([1, 1, 0])):.4f}")
    -1.3863
    """
    return total(_log_bernoulli, mask, axis, x=x, logits=logits)


@jax.custom_jvp
def _log_bernoulli(x: Array, logits: Array) -> Array:
    """x logit - softplus(logit) as -m |logit| - ln(1 + e^-|logit|), m the mass of x on the less likely bit.

    Nothing cancels, so a likely bit keeps its digits at any logit, and m = 0 at an infinite one is a limit of 0.
    """
    m = jnp.where(logits > 0.0, 1.0 - x, x)
    size = jnp.abs(logits)
    return -m * jnp.where(m == 0.0, 0.0, size) - jnp.log1p(jnp.exp(-size))


@_log_bernoulli.defjvp
def _log_bernoulli_jvp(primals, tangents):
    (x, logits), (dx, dlogits) = primals, tangents
    slope = jnp.where(jnp.isinf(logits), 0.0, logits)  # x does not move where its logit is infinite
    return _log_bernoulli(x, logits), (x - jax.nn.sigmoid(logits)) * dlogits + slope * dx


def bernoulli_kl(q_logits: Array, p_logits: Array, mask: ArrayLike | None = None) -> Array:
    """KL(q || p) = sum_i sigmoid(a_i) (a_i - b_i) - softplus(a_i) + softplus(b_i) of logits a, b: [..., n] -> [...].

    Logits may be infinite: the divergence of a certain bit is finite unless p excludes it, and 0 where p is as certain.

    >>> print(f"{bernoulli_kl(jnp.array([1e4, 0.0]), jnp.zeros(2)):.4f}")
    0.6931
    """
    return total(_bernoulli_kl, mask, q_logits=q_logits, p_logits=p_logits)


@jax.custom_jvp
def _bernoulli_kl(a: Array, b: Array) -> Array:
    """sum over both bits of q(bit) (ln q(bit) - ln p(bit)), where a bit of no mass counts nothing."""
    one, zero = jax.nn.sigmoid(a), jax.nn.sigmoid(-a)
    kl_one = one * jnp.where(one == 0.0, 0.0, softplus(-b) - softplus(-a))
    kl_zero = zero * jnp.where(zero == 0.0, 0.0, softplus(b) - softplus(a))
    excluded = jnp.isinf(b) & ((a < b) | (a > b))  # p is certain and q is not, though its mass may round to 0
    return jnp.where(excluded, jnp.inf, kl_one + kl_zero)


@_bernoulli_kl.defjvp
def _bernoulli_kl_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    variance = jax.nn.sigmoid(a) * jax.nn.sigmoid(-a)
    by_a = variance * jnp.where(variance == 0.0, 0.0, a - b)
    return _bernoulli_kl(a, b), by_a * da + (jax.nn.sigmoid(b) - jax.nn.sigmoid(a)) * db
