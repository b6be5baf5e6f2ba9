"""Adaptive one-dimensional quadrature and interpolation with fixed shapes: it can be jitted and vmapped.

A grid is P panels, kept as their edges [..., P + 1]; each holds ORDER Gauss-Legendre nodes. Passing the integrand
through those nodes also says how well it is resolved: the last Legendre coefficients of a panel bound its error. A
pass of `adapt` moves the edges so that the panels share that error, so a kink of width 1e-7 is closed in on by a
factor of nearly P a pass. Leading axes are independent grids.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Values = TypeVar("Values")

ORDER = 6
NODES, WEIGHTS = np.polynomial.legendre.leggauss(ORDER)
# values at the nodes -> Legendre coefficients: c_k = (2 k + 1) / 2 * sum_q w_q P_k(x_q) f(x_q)
_TO_LEGENDRE = np.polynomial.legendre.legvander(NODES, ORDER - 1).T * WEIGHTS * (np.arange(ORDER)[:, None] + 0.5)
POWERS = np.vander(NODES, increasing=True)  # coefficients of powers -> values at the nodes
TO_POWERS = np.linalg.inv(POWERS)
# values at the nodes -> the polynomial at the left and right edge of the panel, and its last two Legendre coefficients
ESTIMATES = np.concatenate([np.vander([-1.0, 1.0], ORDER, increasing=True) @ TO_POWERS, _TO_LEGENDRE[-2:]])
FLOOR = 0.2  # share of the panels that stays where it was, so that nothing is given up for good


def nodes(edges: Array) -> tuple[Array, Array]:
    """Gauss-Legendre nodes and weights of a grid: [..., P + 1] -> two arrays [..., P * ORDER]."""
    half = 0.5 * jnp.diff(edges)[..., None]
    middle = 0.5 * (edges[..., 1:] + edges[..., :-1])[..., None]
    points = middle + half * _row(NODES, half)
    weights = half * _row(WEIGHTS, half)
    return _flat(points), _flat(weights)


def resample(knots: Array, panels: int) -> Array:
    """P + 1 edges spread evenly over the rank of the given points, sorted: [..., M] -> [..., P + 1]."""
    knots = jnp.sort(knots, axis=-1)
    rank = jnp.linspace(0.0, knots.shape[-1] - 1.0, panels + 1, dtype=knots.dtype)
    return _interpolate(rank, jnp.arange(knots.shape[-1], dtype=knots.dtype), knots)


def adapt(
    f: Callable[[Array], tuple[Array, Values]], edges: Array, passes: int, guides: int = 0
) -> tuple[Array, Values]:
    """Evaluate f on a grid that is moved `passes - 1` times to where its features are hard to resolve.

    f(z [..., K]) -> (features [m, ..., K], values): the features say what is to be integrated or interpolated, each is
    compared with its own maximum. The last `guides` of them only lead to what matters: the last move leaves them out.
    Returns the last edges and the values at their nodes.
    """

    def one_pass(i, grid):
        edges = grid[0]
        features, values = f(nodes(edges)[0])
        count = features.shape[0]
        kept = (jnp.arange(count) < count - guides) | (i != passes - 2) if guides else None
        return share(edges, features, edges.shape[-1] - 1, kept), edges, values

    # The last values are carried: to keep those of every pass, as a scan would, is more to compile and to hold.
    none_yet = jax.tree.map(jnp.zeros_like, jax.eval_shape(f, nodes(edges)[0])[1])
    _, edges, values = jax.lax.fori_loop(0, passes, one_pass, (edges, edges, none_yet))
    return edges, values


def mass_defect(density: Array, edges: Array) -> Array:
    """|int f_k(z) dz - 1| for densities at the nodes of a grid, or one each: what it, or f_k, is off by: [D, K] -> [D].

    Densities are at hand wherever something is integrated, and they alone have integrals known beforehand.
    """
    return jnp.abs(jnp.sum(density * nodes(jnp.atleast_2d(edges))[1], axis=-1) - 1.0)


def share(edges: Array, features: Array, panels: int, kept: Array | None = None) -> Array:
    """New edges [..., panels + 1] such that every panel has an equal share of error^(1/4).

    features [m, ..., K] are given at the nodes of the old edges; those that are `kept` [m] count, or all of them.
    error^(1 / ORDER) would suit smooth functions; the fourth root closes in on kinks faster.
    """
    demand = jnp.sqrt(jnp.sqrt(jnp.maximum(_error(features, kept), jnp.finfo(edges.dtype).eps)))
    before = demand @ jnp.asarray(np.tri(edges.shape[-1], demand.shape[-1], -1).T, demand.dtype)  # sum up to each edge
    even = _row(np.linspace(0.0, 1.0, edges.shape[-1]), edges)
    cumulative = (1.0 - FLOOR) * before / before[..., -1:] + FLOOR * even
    return _interpolate(jnp.linspace(0.0, 1.0, panels + 1, dtype=edges.dtype), cumulative, edges)


def peaks(log_density: Array) -> Array:
    """Features for `adapt` of an unnormalised density given by its logarithm: [m, ..., K] -> [2 m, ..., K].

    Beside the density itself 1 / (1 + drop from its maximum), whose tails are long: it leads to a peak that falls
    between the nodes of a grid still too coarse.
    """
    drop = jnp.max(log_density, axis=-1, keepdims=True) - log_density
    return jnp.concatenate([jnp.exp(-drop), 1.0 / (1.0 + drop)])


class Table(NamedTuple):
    """Functions of one scalar, sum_k c_k u^k with |u| <= 1 on each panel: edges [P + 1], coefficients [m, ORDER, P]."""

    edges: Array
    coefficients: Array


def tabulate(edges: Array, values: Array) -> Table:
    """The functions with the given values [m, K] at the nodes of a grid [P + 1]."""
    values = values.reshape(values.shape[0], -1, ORDER)
    return Table(edges, jnp.einsum("kq,mpq->mkp", jnp.asarray(TO_POWERS, values.dtype), values))


def lookup(table: Table, z: Array) -> Array:
    """The tabulated functions at z, held constant beyond the ends: [...] -> [m, ...]."""
    edges = table.edges
    flat = jnp.clip(z.ravel(), edges[0], edges[-1])
    panel = jnp.sum(edges[1:-1, None] <= flat[None], axis=0, dtype=jnp.int32)
    left, right = edges[panel], edges[panel + 1]
    u = (2.0 * flat - left - right) / jnp.maximum(right - left, jnp.finfo(edges.dtype).tiny)
    coefficients = table.coefficients[:, :, panel]
    total = coefficients[:, -1]
    for k in reversed(range(ORDER - 1)):
        total = total * u[None] + coefficients[:, k]
    return total.reshape(-1, *z.shape)


def _error(values: Array, kept: Array | None = None) -> Array:
    """How badly each panel is resolved, the worst over the features kept, relative to each one's maximum: [..., P].

    The last two Legendre coefficients, or the jump between the polynomials of neighbouring panels at their edge, which
    finds a step that falls between two panels.
    """
    scale = jnp.maximum(jnp.max(jnp.abs(values), axis=-1), jnp.finfo(values.dtype).tiny)
    panels = values.reshape(*values.shape[:-1], -1, ORDER)
    left, right, *tail = jnp.einsum("eq,...pq->e...p", jnp.asarray(ESTIMATES, values.dtype), panels)
    jump = jnp.pad(jnp.abs(right[..., :-1] - left[..., 1:]), [(0, 0)] * (left.ndim - 1) + [(1, 1)])
    worst = jnp.maximum(jnp.abs(tail[0]), jnp.abs(tail[1]))
    worst = jnp.maximum(worst, jnp.maximum(jump[..., :-1], jump[..., 1:]))
    count = None if kept is None else kept.reshape(-1, *(1,) * (worst.ndim - 1))
    return jnp.max(worst / scale[..., None], axis=0, initial=0.0, where=count)


def _interpolate(x: Array, knots: Array, values: Array) -> Array:
    """Piecewise linear interpolation as a sum of ramps, without gathers: x [P + 1], knots and values [..., M]."""
    start, width = knots[..., None, :-1], jnp.diff(knots)[..., None, :]
    ramps = jnp.clip((x.reshape(*(1,) * (start.ndim - 2), -1, 1) - start) / width, 0.0, 1.0)
    return values[..., :1] + jnp.sum(ramps * jnp.diff(values)[..., None, :], axis=-1)


def _row(x: np.ndarray, like: Array) -> Array:
    return jnp.asarray(x, like.dtype).reshape(*(1,) * (like.ndim - 1), -1)


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-2], -1)
