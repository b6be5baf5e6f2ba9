"""Monotone rational-quadratic splines with straight ends, and their inverses: elementwise, smooth to first order.

Through knots (x_b, y_b) with slopes d_b > 0, b = 0..B, goes in each bin, with xi = (x - x_b) / (x_{b+1} - x_b), its
chord's slope s, l = d_b / s and r = d_{b+1} / s,
    (y - y_b) / (y_{b+1} - y_b) = (xi^2 + l xi (1 - xi)) / (xi^2 + (l + r) xi (1 - xi) + (1 - xi)^2)
(Gregory and Delbourgo 1982; Durkan et al. 2019, equation 4, with 1 = (xi + 1 - xi)^2 put into its denominator). So
written it has no negative term, and its inverse, in terms of v = xi / (1 - xi), is the positive root of a quadratic:
nothing cancels, however steep the slopes. Beyond the first and last knot it goes on straight, with their slopes: a
flow can then be flat on one side and steep on the other, as the halves of a Gaussian ask for.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_bit.checks import agree_scalars

Knots: TypeAlias = tuple[Array, Array, Array]  # x, y, slope, each [..., B + 1]


class _Bin(NamedTuple):
    """The bin that each number falls into: the knots at its left and right."""

    x: Array
    right_x: Array
    y: Array
    right_y: Array
    slope: Array
    right_slope: Array


def forward(knots: Sequence[ArrayLike], x: ArrayLike) -> tuple[Array, Array]:
    """y and ln dy/dx at x: [...] -> [...]; `knots` are x and y, ascending, and slope > 0, [..., B + 1], B >= 1.

    Leading axes broadcast. ValueError or TypeError, which name the arrays, where they do not or dtypes differ.

    >>> knots = jnp.array([-1.0, 1.0]), jnp.array([0.0, 2.0]), jnp.array([0.5, 2.0])
    >>> y, log_slope = forward(knots, jnp.array([-3.0, 0.0, 3.0]))
    >>> y.round(4).tolist(), jnp.exp(log_slope).round(4).tolist()
    ([-1.0, 0.666700005531311, 6.0], [0.5, 0.8888999819755554, 2.0])
    """
    x, curve = _fit(knots, x=x)
    inside = jnp.clip(x, curve[0][..., 0], curve[0][..., -1])
    own, low, high = _bin(curve, curve[0], x)
    width = own.right_x - own.x
    left, right = (inside - own.x) / width, (own.right_x - inside) / width
    share = left * (left + low * right) / _denominator(left, right, low, high)
    y = own.y + (own.right_y - own.y) * share
    return y + (x - inside) * _end(curve, x < inside), _log_slope(own, left, right, low, high)


def inverse(knots: Sequence[ArrayLike], y: ArrayLike) -> tuple[Array, Array]:
    """x with forward(knots, x) = y, and ln dy/dx there: [...] -> [...]; knots and errors as in `forward`.

    >>> knots = jnp.array([-1.0, 1.0]), jnp.array([0.0, 2.0]), jnp.array([0.5, 2.0])
    >>> x, log_slope = inverse(knots, jnp.array([-1.0, 1.0, 6.0]))
    >>> x.round(4).tolist(), jnp.exp(log_slope).round(4).tolist()
    ([-3.0, 0.33329999446868896, 3.0], [0.5, 1.125, 2.0])
    """
    y, curve = _fit(knots, y=y)
    inside = jnp.clip(y, curve[1][..., 0], curve[1][..., -1])
    own, low, high = _bin(curve, curve[1], y)
    height = own.right_y - own.y
    below, above = (inside - own.y) / height, (own.right_y - inside) / height
    # above v^2 + (low above - high below) v - below = 0 has one positive root v = left / right
    linear = low * above - high * below
    root = jnp.abs(linear) + jnp.sqrt(jnp.square(linear) + 4.0 * above * below)
    left, right = jnp.where(linear > 0.0, 2.0 * below, root), jnp.where(linear > 0.0, root, 2.0 * above)
    left, right = left / (left + right), right / (left + right)
    x = own.x + (own.right_x - own.x) * left + (y - inside) / _end(curve, y < inside)
    return x, _log_slope(own, left, right, low, high)


def _fit(knots: Sequence[ArrayLike], **point: ArrayLike) -> tuple[Array, Knots]:
    """The point [...] and the knots [..., B + 1] at ranks that broadcast."""
    names = "the knots' x", "the knots' y", "slope"
    number, (x, y, slope) = agree_scalars(2, dict(zip(names, knots, strict=True)), **point)
    return number, (x, y, slope)


def _bin(knots: Knots, along: Array, at: Array) -> tuple[_Bin, Array, Array]:
    """The bin, and l and r. It is chosen by a sum over all bins: a gather would be slower for the few there are."""
    index = jnp.sum(along[..., 1:-1] <= at[..., None], axis=-1)
    chosen = index[..., None] == jnp.expand_dims(jnp.arange(along.shape[-1] - 1), range(index.ndim))
    sides = [side for each in knots for side in (each[..., :-1], each[..., 1:])]
    own = _Bin(*(jnp.sum(jnp.where(chosen, side, 0.0), axis=-1) for side in sides))
    steepness = (own.right_x - own.x) / (own.right_y - own.y)
    return own, own.slope * steepness, own.right_slope * steepness


def _denominator(left: Array, right: Array, low: Array, high: Array) -> Array:
    return jnp.square(left) + (low + high) * left * right + jnp.square(right)


def _log_slope(own: _Bin, left: Array, right: Array, low: Array, high: Array) -> Array:
    """ln s (r xi^2 + 2 xi (1 - xi) + l (1 - xi)^2) / denominator^2."""
    chord = (own.right_y - own.y) / (own.right_x - own.x)
    numerator = own.right_slope * jnp.square(left) + 2.0 * chord * left * right + own.slope * jnp.square(right)
    return jnp.log(numerator) - 2.0 * jnp.log(_denominator(left, right, low, high))


def _end(knots: Knots, below: Array) -> Array:
    """The slope of the straight end on one's own side."""
    slope = knots[2]
    return jnp.where(below, slope[..., 0], slope[..., -1])
