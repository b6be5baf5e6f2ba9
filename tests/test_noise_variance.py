"""A lattice never varies much more than independent draws, whatever the size of the latent and the number of nodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from vae_bit import noise

pytestmark = pytest.mark.usefixtures("quick_compile")
CASES = [(2, 2), (3, 2), (40, 2), (40, 3), (6, 16), (8, 8), (8, 32), (12, 32), (20, 64)]


def square(eps: Array) -> Array:
    return jnp.square(jnp.sum(eps, -1)) / eps.shape[-1]


def last(eps: Array) -> Array:
    return eps[..., -1]


def bound(eps: Array) -> Array:
    """The log of the mean of two weights, each of half of eps."""
    return jnp.logaddexp(-square(eps[..., ::2]), -square(eps[..., 1::2])) - np.log(2.0)


def estimates(rule: noise.Rule, size: int, nodes: int, keys: int) -> np.ndarray:
    """[keys, 3] the mean over the nodes of each function."""

    def one(key: Array) -> Array:
        eps, weight = noise.draw_latent(key, rule, size, nodes)
        return jnp.stack([jnp.sum(weight * f(eps)) for f in (square, last, bound)])

    return np.float64(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), keys)))


@pytest.mark.parametrize("size, nodes", CASES)
def test_a_lattice_of_any_size_varies_no_more_than_independent_draws(size: int, nodes: int):
    found, independent = (estimates(rule, size, nodes, 2_000) for rule in (noise.lattice, noise.iid))
    assert found[:, 0].var() < 1.2 * 2.0 / nodes  # the square of a standard normal number has variance 2
    assert found[:, 1].var() < 1.0 / nodes
    assert found[:, 2].var() < 1.2 * independent[:, 2].var()
    error = np.sqrt((found.var(0) + independent.var(0)) / 2_000)
    assert (np.abs(found.mean(0) - independent.mean(0)) < 4.0 * error).all()
    assert abs(found[:, 0].mean() - 1.0) < 4.0 * error[0]


@pytest.mark.parametrize("size, nodes, gain", [(1, 64, 0.05), (2, 64, 0.3), (3, 64, 0.7), (4, 64, 0.85), (4, 512, 0.5)])
def test_a_lattice_gains_in_few_dimensions(size: int, nodes: int, gain: float):
    assert estimates(noise.lattice, size, nodes, 1_000)[:, 0].var() < gain * 2.0 / nodes


def test_every_axis_of_a_lattice_is_divided_evenly():
    for size, nodes in [(2, 9), (3, 36), (3, 64), (40, 36), (40, 256)]:
        points = np.float64(noise.shifted_lattice(jax.random.key(2), size, nodes))
        distinct = [len(np.unique(np.round(np.mod(axis - axis[0] + 0.5 / nodes, 1.0), 4))) for axis in points]
        assert min(distinct) ** 2 >= 2 * nodes and set(distinct[3:]) <= {nodes}
