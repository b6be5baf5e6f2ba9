"""Monotone flows: a standard normal latent sent through a spline of its own in each dimension."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_bit import spline
from vae_bit.checks import agree, fit_mask, instance
from vae_bit.distributions.events import LOG_2PI, Drawn, total


class Flow(NamedTuple):
    """z = T(eps), eps ~ N(0, 1), with T a monotone spline of B bins (`vae_bit.spline`), one a dimension; a pytree.

    `x`, `y` and `slope` are the knots, [..., d, B + 1], B >= 1, x and y ascending and slope > 0; of scalars, for the
    methods, [..., B + 1]. A rational-quadratic spline, since both it and its inverse are in closed form: draws and the
    density at any z cost the same, unlike those of planar or of neural monotone flows. Its ends are straight, with
    slopes of their own: those of Durkan et al. (2019) have slope 1 on both sides, which leaves the tails Gaussian of
    width 1; here one end may be flat and the other not, so that a flow comes near half a Gaussian.
    """

    x: Array
    y: Array
    slope: Array

    def log_prob(self, z: Array) -> Array:
        """ln N(T^-1(z)) - ln T'(T^-1(z)), elementwise, of scalars."""
        eps, log_slope = spline.inverse(self, z)
        return _log_density(eps, log_slope)

    def draw(self, eps: Array) -> Drawn:
        """z = T(eps), elementwise."""
        z, log_slope = spline.forward(self, eps)
        return Drawn(z, _log_density(eps, log_slope), 1.0)


def flow_sample(q: Flow, eps: ArrayLike) -> Array:
    """z_i = T_i(eps_i), eps ~ N(0, I): [..., d] -> [..., d], of the fields' dtype; errors as in `flow_log_prob`.

    >>> q = Flow(*jnp.array([[[-1.0, 1.0]], [[0.0, 2.0]], [[0.5, 2.0]]]))  # d = 1 and B = 1
    >>> flow_sample(q, jnp.array([[-3.0], [-1.0], [1.0], [3.0]])).ravel().tolist()
    [-1.0, 0.0, 2.0, 6.0]

    A KL is the mean of `sampled_kl` at such draws. The density has kinks at the knots and its gradient jumps, so that
    the trapezoid rule's error falls with the number of nodes and not, as for Gaussians, exponentially:

    >>> import jax
    >>> from vae_bit.noise import trapezoid
    >>> def kl(q, p, key):
    ...     eps, weight = draw_latent(key, trapezoid, size=1, samples=4096)
    ...     return average(sampled_kl(flow_sample(q, eps), q, p), weight)
    >>> print(f"{kl(q, standard_normal((1,)), jax.random.key(0)):.3f}")
    0.657
    """
    instance(Flow, q=q)
    wanted = jnp.result_type(*q, eps)
    eps, q = _fit(q, eps=eps)
    return spline.forward(q, eps)[0].astype(wanted)


def flow_log_prob(z: ArrayLike, p: Flow, mask: ArrayLike | None = None) -> Array:
    """sum_i ln N(T_i^-1(z_i)) - ln T_i'(T_i^-1(z_i)): [..., d] -> [...].

    d and the number of knots must be the same for all fields, and d that of z (ValueError). That knots ascend and
    slopes are positive is not checked: the density is NaN or wrong where they are not.

    >>> p = Flow(*jnp.array([[[-1.0, 1.0]], [[-2.0, 2.0]], [[2.0, 2.0]]]))  # T(eps) = 2 eps
    >>> z, same = jnp.array([3.0]), Normal(jnp.zeros(1), 2.0 * jnp.ones(1))
    >>> print(f"{flow_log_prob(z, p):.4f} {normal_log_prob(z, same):.4f}")
    -2.7371 -2.7371
    """
    instance(Flow, p=p)
    z, p = _fit(p, z=z)
    if mask is not None:
        mask = fit_mask(mask, jnp.broadcast_shapes(z.shape, *(knots.shape[:-1] for knots in p)), -1)
        z, p = _without_hidden(mask != 0, z, p)
    eps, log_slope = spline.inverse(p, z)
    return total(_log_density, mask, eps=eps, log_slope=log_slope)


def _log_density(eps: Array, log_slope: Array) -> Array:
    """ln of the density of T(eps), where T has this slope."""
    return -0.5 * (jnp.square(eps) + LOG_2PI) - log_slope


def _fit(p: Flow, **event: ArrayLike) -> tuple[Array, Flow]:
    """The event [..., d] and the fields, at ranks that broadcast; ValueError or TypeError if they do not fit."""
    if jnp.ndim(p.x) < 2:
        raise ValueError(f"x has shape {jnp.shape(p.x)}: a flow's is [..., d, B + 1]")
    fields = agree((-2, -1), **p._asdict())
    z, _ = agree(-1, **event, **{"x[..., 0]": jnp.asarray(p.x)[..., 0]})
    return z, Flow(*(jnp.expand_dims(knots, range(z.ndim + 1 - knots.ndim)) for knots in fields))


def _without_hidden(shown: Array, z: Array, p: Flow) -> tuple[Array, Flow]:
    """With z = 0 and the knots of the identity in place of what is hidden: they have finite derivatives."""
    rank = max(shown.ndim, z.ndim)
    shown, z = (jnp.expand_dims(a, range(rank - a.ndim)) for a in (shown, z))
    p = Flow(*(jnp.expand_dims(knots, range(rank + 1 - knots.ndim)) for knots in p))
    line = jnp.broadcast_to(jnp.arange(p.x.shape[-1], dtype=p.x.dtype), p.x.shape)
    identity = Flow(line, line, jnp.ones_like(line))
    kept = (jnp.where(shown[..., None], knots, straight) for knots, straight in zip(p, identity, strict=True))
    return jnp.where(shown, z, 0.0), Flow(*kept)
