"""Monotone rational-quadratic splines with straight ends, and their inverses: elementwise, smooth to first order.

Through knots (x_b, y_b) with slopes d_b > 0, b = 0..B, goes in each bin, with xi = (x - x_b) / (x_{b+1} - x_b), its chord's
slope s and D = d_b + d_{b+1} - 2 s,
    y = y_b + (y_{b+1} - y_b) (s xi^2 + d_b xi (1 - xi)) / (s + D xi (1 - xi))
(Gregory and Delbourgo 1982; Durkan et al. 2019). Beyond the first and last knot it goes on straight, with their slopes:
a flow can then be flat on one side and steep on the other, as the halves of a Gaussian ask for.
"""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array

Knots: TypeAlias = tuple[Array, Array, Array]  # x and y ascending, slope > 0, each [..., B + 1], leading axes broadcast


class _Bin(NamedTuple):
    """The bin that each number falls into: its left knot, width, height and slopes at both sides."""

    x: Array
    y: Array
    width: Array
    height: Array
    left: Array
    right: Array


def forward(knots: Knots, x: Array) -> tuple[Array, Array]:
    """y and ln dy/dx at x."""
    ends, own = knots[0][..., 0], _bin(knots, knots[0], x)
    inside = jnp.clip(x, ends, knots[0][..., -1])
    xi = (inside - own.x) / own.width
    rise, denominator = _rise(own, xi)
    y = own.y + own.height * rise / denominator
    return y + (x - inside) * _end(knots, x < ends), _log_slope(own, xi, denominator)


def inverse(knots: Knots, y: Array) -> tuple[Array, Array]:
    """x, and ln dy/dx there."""
    ends, own = knots[1][..., 0], _bin(knots, knots[1], y)
    inside = jnp.clip(y, ends, knots[1][..., -1])
    chord, climbed = own.height / own.width, inside - own.y
    bend = own.left + own.right - 2.0 * chord
    a = own.height * (chord - own.left) + climbed * bend
    b = own.height * own.left - climbed * bend
    c = chord * climbed
    xi = 2.0 * c / (b + jnp.sqrt(jnp.square(b) + 4.0 * a * c))  # of a xi^2 + b xi = c, without cancellation
    x = own.x + own.width * xi + (y - inside) / _end(knots, y < ends)
    return x, _log_slope(own, xi, _rise(own, xi)[1])


def _bin(knots: Knots, along: Array, at: Array) -> _Bin:
    """Chosen by a sum over all bins: a gather would be slower for the few there are."""
    index = jnp.sum(along[..., 1:-1] <= at[..., None], axis=-1)
    chosen = index[..., None] == jnp.arange(along.shape[-1] - 1)
    x, y, slope = knots
    parts = x[..., :-1], y[..., :-1], jnp.diff(x), jnp.diff(y), slope[..., :-1], slope[..., 1:]
    return _Bin(*(jnp.sum(jnp.where(chosen, part, 0.0), axis=-1) for part in parts))


def _rise(own: _Bin, xi: Array) -> tuple[Array, Array]:
    """Numerator and denominator of the share of a bin's height that lies below xi."""
    chord, both = own.height / own.width, xi * (1.0 - xi)
    return chord * jnp.square(xi) + own.left * both, chord + (own.left + own.right - 2.0 * chord) * both


def _log_slope(own: _Bin, xi: Array, denominator: Array) -> Array:
    chord = own.height / own.width
    numerator = own.right * jnp.square(xi) + 2.0 * chord * xi * (1.0 - xi) + own.left * jnp.square(1.0 - xi)
    return 2.0 * (jnp.log(chord) - jnp.log(denominator)) + jnp.log(numerator)


def _end(knots: Knots, below: Array) -> Array:
    """The slope of the straight end on one's own side."""
    slope = knots[2]
    return jnp.where(below, slope[..., 0], slope[..., -1])
