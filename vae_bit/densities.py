"""Distributions of one scalar as quadrature meets them: log densities, draws, and grids that resolve them.

m distributions of one family are one pytree, every leaf with a leading axis m. Their draws, for noise within some
standard deviations, must together reach wherever there is mass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae_bit.distributions import Distribution, Normal
from vae_bit.quadrature import Table, lookup, nodes, resample, tabulate

PARAMETERS = 12  # of families that are no Gaussians, for which the panels of one grid do


class Marginal(NamedTuple):
    """ln of m densities of one latent: at the nodes of a grid that resolves them, and anywhere."""

    edges: Array  # [P + 1]
    at_nodes: Array  # [m, K]
    rows: Any  # the densities as one pytree, every leaf with a leading axis m
    of_row: Callable[[Any, Array], Array]  # ln of the density of one row at z [...] -> [...]
    detail: int = 1  # how many times as many panels as a Gaussian's an integral over one of them needs

    def log_prob(self, z: Array) -> Array:
        """[...] -> [m, ...]."""
        return jax.vmap(self.of_row, (0, None))(self.rows, z)


def known(family: Distribution, edges: Array) -> Marginal:
    """The densities of a family whose leaves have a leading axis m, on a grid."""

    def log_prob(row: Distribution, z: Array) -> Array:
        return jax.vmap(row.log_prob)(z.ravel()).reshape(z.shape)

    values = jax.vmap(log_prob, (0, None))(family, nodes(edges)[0])
    return Marginal(edges, values, family, log_prob, detail(jax.tree.map(lambda leaf: leaf[0], family)))


def detail(family: Any) -> int:
    """How many times as many panels as a Gaussian's an integral over a family needs: by the parameters it has."""
    size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(family))
    return 1 if isinstance(family, Normal) else -(-size // PARAMETERS)


def interpolated(edges: Array, values: Array) -> Marginal:
    """The densities whose logarithms at the nodes of a grid are `values` [m, K]."""
    table = tabulate(edges, values)
    return Marginal(edges, values, table.coefficients, lambda row, z: lookup(Table(edges, row[None]), z)[0])


def draws(family: Any, eps: Array) -> tuple[Array, Array]:
    """z for noise eps [m, K] of m distributions, and of each of their C components, and the weights: [m, K, C] both."""

    def draw(row: Distribution, eps: Array) -> tuple[Array, Array]:
        z, _, weight = row.draw(eps)
        return jnp.ravel(z), jnp.ravel(jnp.broadcast_to(weight, jnp.shape(z)))

    return jax.vmap(jax.vmap(draw, (None, 0)))(family, eps)


def spread(family: Any, reach: float | Array, count: int = 17) -> Array:
    """The draws of m distributions for `count` even noises on +-reach, one after another."""
    size, dtype = (leaf := jax.tree.leaves(family)[0]).shape[0], leaf.dtype
    return draws(family, jnp.tile(reach * jnp.linspace(-1.0, 1.0, count, dtype=dtype), (size, 1)))[0].ravel()


def start(family: Any, reach: float | Array, panels: int) -> Array:
    """Edges to start from for m distributions of any family, more of them the more parameters there are.

    The noises are dense around 0 and geometric far out, as one component may be narrow and its neighbour broad.
    """
    leaves = jax.tree.leaves(family)
    end = jnp.arcsinh(jnp.asarray(reach, leaves[0].dtype))
    t = jnp.sinh(end * jnp.linspace(-1.0, 1.0, panels + 1, dtype=end.dtype))
    knots = draws(family, jnp.tile(t, (len(leaves[0]), 1)))[0]
    return resample(knots.ravel(), panels * detail(family))
