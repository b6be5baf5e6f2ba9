"""Diagonal Gaussians: draws, log densities, and the divergences that have a closed form."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_bit.checks import agree, instance
from vae_bit.distributions.events import LOG_2PI, Drawn, total


class Normal(NamedTuple):
    """A diagonal Gaussian N(mean, std^2) of size d: `mean` and `std` [..., d], std > 0; a pytree."""

    mean: Array
    std: Array

    def log_prob(self, z: Array) -> Array:
        """ln N(z; mean, std^2), elementwise, of scalars."""
        return -0.5 * (jnp.square((z - self.mean) / self.std) + LOG_2PI) - jnp.log(self.std)

    def draw(self, eps: Array) -> Drawn:
        """z = mean + std * eps, elementwise."""
        log_prob = -0.5 * (jnp.square(eps) + LOG_2PI) - jnp.log(self.std)
        return Drawn(self.mean + self.std * eps, log_prob, 1.0)


def standard_normal(shape: tuple[int, ...], dtype=None) -> Normal:
    """N(0, 1) of the given shape: the prior of the top layer; `dtype` is JAX's default float unless given.

    >>> standard_normal((2,)).std
    Array([1., 1.], dtype=float32)
    """
    return Normal(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def normal_sample(q: Normal, eps: ArrayLike) -> Array:
    """Reparameterised draw z = mean + std * eps, eps ~ N(0, 1) (Kingma and Welling 2014, section 2.4).

    q [..., d], eps [..., d] -> [..., d]: eps [K, d] gives K draws, differentiable in mean and std and of their dtype,
    bfloat16 too. Arrays of one rank, such as scalar latents on a grid, broadcast along every axis; of unlike rank, all
    but the first (ValueError).

    >>> q = Normal(jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0]))
    >>> normal_sample(q, jnp.array([[0.0, 0.0], [2.0, -1.0]])).tolist()
    [[1.0, 2.0], [2.0, 1.0]]
    """
    instance(Normal, q=q)
    dtype = jnp.result_type(q.mean, q.std, eps)
    arrays = {"mean": q.mean, "std": q.std, "eps": eps}
    mean, std, eps = agree(None, **arrays)
    if len({jnp.ndim(array) for array in arrays.values()} - {0}) > 1:
        agree(**{name: array for name, array in arrays.items() if jnp.ndim(array) > 0})
    return (mean + std * eps).astype(dtype)


def normal_log_prob(z: ArrayLike, p: Normal, mask: ArrayLike | None = None) -> Array:
    """ln N(z; mean, std^2) = sum_d -((z - mean) / std)^2 / 2 - ln std - ln(2 pi) / 2: [..., d] -> [...].

    >>> print(f"{normal_log_prob(jnp.array([0.0, 1.0]), standard_normal((2,))):.4f}")
    -2.3379
    """
    instance(Normal, p=p)

    def term(z: Array, mean: Array, std: Array) -> Array:
        standardised = (z - mean) / std
        return -0.5 * (jnp.square(standardised) + LOG_2PI) - jnp.log(std)

    return total(term, mask, z=z, mean=p.mean, std=p.std)


def normal_entropy(q: Normal, mask: ArrayLike | None = None) -> Array:
    """H(q) = sum_d ln std_d + (1 + ln 2 pi) / 2: [..., d] -> [...].

    >>> print(f"{normal_entropy(standard_normal((1,))):.4f}")
    1.4189
    """
    instance(Normal, q=q)
    return total(lambda mean, std: jnp.log(std) + 0.5 * (1.0 + LOG_2PI), mask, mean=q.mean, std=q.std)


def normal_kl(q: Normal, p: Normal, mask: ArrayLike | None = None) -> Array:
    """KL(q || p) = sum_d ln(std_p / std_q) + (std_q^2 + (mean_q - mean_p)^2) / (2 std_p^2) - 1/2: [..., d] -> [...].

    >>> q, p = Normal(jnp.ones(1), jnp.ones(1)), Normal(jnp.zeros(1), 2.0 * jnp.ones(1))
    >>> print(f"{normal_kl(q, p):.4f}")
    0.4431
    """
    instance(Normal, q=q, p=p)

    def term(q_mean: Array, q_std: Array, p_mean: Array, p_std: Array) -> Array:
        ratio = q_std / p_std
        shift = (q_mean - p_mean) / p_std
        return 0.5 * (jnp.square(ratio) + jnp.square(shift) - 1.0) - jnp.log(ratio)

    return total(term, mask, q_mean=q.mean, q_std=q.std, p_mean=p.mean, p_std=p.std)


def normal_kl_standard(q: Normal, mask: ArrayLike | None = None) -> Array:
    """KL(q || N(0, 1)) = sum_d (mean^2 + std^2 - 1) / 2 - ln std: [..., d] -> [...] (Kingma and Welling 2014, app. B).

    >>> print(f"{normal_kl_standard(Normal(jnp.array([3.0, 0.0]), jnp.ones(2))):.4f}")
    4.5000
    """
    instance(Normal, q=q)

    def term(mean: Array, std: Array) -> Array:
        return 0.5 * (jnp.square(mean) + jnp.square(std) - 1.0) - jnp.log(std)

    return total(term, mask, mean=q.mean, std=q.std)
