"""The standard-normal noise that drives sampling: its nodes and their weights.

A rule is a function of a key, a number of layers and of samples. Every one gives nodes and weights with
E[sum_nodes weight * f(eps)] = E_{N(0, I)}[f], so a loss never knows which it was fed: a rule serves a chain of L scalar
latents, `draw_latent` one latent of size d. The randomised quasi-Monte Carlo rules shift fixed nodes by a fresh uniform
number per layer, which keeps them unbiased and keeps a network from fitting the nodes.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri

from vae_bit import checks


class Noise(NamedTuple):
    """eps_l for each layer, L arrays that broadcast to the shape of weight: [K], or [K_1, ..., K_L] for a grid."""

    eps: list[Array]
    weight: Array


Rule = Callable[[Array, int, int], Noise]  # key, layers, samples


def draw_latent(
    key: Array, rule: Rule, size: int, samples: int, dtype: jax.typing.DTypeLike = float
) -> tuple[Array, Array]:
    """Nodes eps [K, size] and weights [K] for one latent of `size` dimensions.

    K = `samples`, but for a grid, whose nodes are all of its points: give `trapezoid` as many `upper` nodes as samples
    and a size of 1 or 2.

    >>> eps, weight = draw_latent(jax.random.key(0), lattice, size=3, samples=64)
    >>> eps.shape, weight.shape
    ((64, 3), (64,))
    """
    checks.functions(rule=rule)
    eps, weight = rule(key, size, samples)
    nodes = jnp.stack([jnp.broadcast_to(axis, weight.shape).ravel() for axis in eps], -1)
    return nodes.astype(dtype), weight.ravel().astype(dtype)


def grouped(key: Array, layers: int, samples: int, k: int, rule: Rule) -> Noise:
    """Groups of k independent draws, for bounds that take k at once: eps_l and weight [samples / k, k].

    A group is one node in k * L dimensions, so any two groups may depend on each other but no two draws of one group.
    ValueError for a grid, which would have far too many nodes, and where k does not divide `samples`.
    """
    checks.functions(rule=rule)
    if samples % k:
        raise ValueError(f"k: got {k}, expected a divisor of samples, {samples}")
    eps, weight = rule(key, layers * k, samples // k)
    if weight.ndim > 1:
        raise ValueError(f"noise: got a grid of {weight.ndim} axes, expected single nodes, as of iid or lattice")
    nodes = jnp.stack(eps).reshape(layers, k, -1).swapaxes(-1, -2)
    return Noise(list(nodes), jnp.broadcast_to(weight[:, None] / k, nodes.shape[1:]))


def iid(key: Array, layers: int, samples: int) -> Noise:
    """Independent normal draws with equal weights: the post's recipe."""
    return Noise(list(jax.random.normal(key, (layers, samples))), _equal_weights(samples))


def lattice(key: Array, layers: int, samples: int) -> Noise:
    """eps = quantile of a randomly shifted lattice, equal weights (Cranley and Patterson 1976).

    Only the first few layers form a lattice; the others are a Latin hypercube: see `shifted_lattice`.
    """
    uniform = jnp.clip(shifted_lattice(key, layers, samples), 1e-7, 1.0 - 1e-7)
    return Noise(list(ndtri(uniform)), _equal_weights(samples))


def trapezoid(
    key: Array, layers: int, samples: int, upper: int = 8, half_width: float = 6.0, upper_half_width: float = 5.5
) -> Noise:
    """The product of one shifted trapezoid rule per layer, `samples` nodes in the lowest and `upper` in those above.

    Nodes -a + h (k + U), h = 2a / K, weights h phi(node): the error falls exponentially with K on smooth integrands
    (Trefethen and Weideman 2014). A tail of 6e-7 beyond a = 5 would already cost 0.004 nats at n = 1000. Above the
    lowest layer the noise is small beside what it is added to, so fewer nodes do.

    >>> eps, weight = trapezoid(jax.random.key(0), layers=2, samples=32)
    >>> eps[0].shape, eps[1].shape, weight.shape
    ((32, 1), (1, 8), (32, 8))
    >>> print(f"{jnp.sum(weight * eps[0]**2):.3f}")  # E[eps^2] = 1
    1.000
    """
    shifts = jax.random.uniform(key, (layers,))
    rules = [_trapezoid_rule(shifts[0], half_width, samples)]
    rules += [_trapezoid_rule(shift, upper_half_width, upper) for shift in shifts[1:]]
    eps, weights = zip(*rules, strict=True)
    return Noise(list(jnp.ix_(*eps)), functools.reduce(jnp.multiply, jnp.ix_(*weights)))


def _trapezoid_rule(shift: Array, half_width: float, nodes: int) -> tuple[Array, Array]:
    spacing = 2.0 * half_width / nodes
    eps = spacing * (jnp.arange(nodes) + shift) - half_width
    return eps, spacing / np.sqrt(2.0 * np.pi) * jnp.exp(-0.5 * jnp.square(eps))


def shifted_lattice(key: Array, layers: int, samples: int) -> Array:
    """[L, K] points of the unit cube: a lattice in the first layers, a Latin hypercube in the rest, randomly shifted.

    The first J layers are frac(k g_l / K + U_l): J is 1, from 7 nodes 2, from 20 nodes 3 and from 512 nodes 4, because
    a lattice of few nodes in many dimensions repeats coordinates. Every further layer is frac(pi_l(k) / K + U_l) with a
    random permutation pi_l of its own. Let r_A be the mean correlation between two nodes of a function of lattice
    layers and r_l that of a function of a further layer l. The product of these functions over a set F of further
    layers has 1 + (K - 1) r_A prod_{l in F} r_l times the variance of independent draws, and any function is a sum of
    such products, uncorrelated between sets of layers. As r_l of eps_l lies between -1 / (K - 1) and 0, a sum of
    functions of one layer each loses nearly all its variance, and eps_l eps_m gains at most 12 % (at 3 nodes) however
    many layers there are (Owen 1998, Latin supercube sampling).
    """
    shift = jax.random.uniform(key, (layers, 1))
    joint = min(layers, 1 + sum(samples >= least for least in (7, 20, 512)))
    order = jnp.argsort(jax.random.bits(jax.random.fold_in(key, 1), (layers - joint, samples)), axis=1)
    further = order.astype(jnp.float32) / np.float32(samples)
    return jnp.mod(jnp.concatenate([rank1_lattice(joint, samples), further]) + shift, 1.0)


@functools.cache
def rank1_lattice(layers: int, samples: int) -> np.ndarray:
    """[L, K] the Korobov lattice frac(k (1, g, g^2, ...) / K) whose g has the least worst-case error P_2.

    P_2 = mean_k prod_l (1 + 2 pi^2 B_2(x_kl)) - 1 with B_2(x) = x^2 - x + 1/6 (Sloan and Joe 1994, chapter 4). Axes
    of m distinct numbers with m^2 < 2 K are refused: a function of such an axis could vary more than on iid draws.
    """
    least = math.sqrt(2 * samples)
    generators = [g for g in range(1, min(samples, 1000) // 2 + 2) if _least_distinct(g, layers, samples) >= least]
    return min((_korobov(g, layers, samples) for g in generators or [1]), key=_worst_case_error).astype(np.float32)


def _least_distinct(g: int, layers: int, samples: int) -> int:
    return samples // math.gcd(g ** (layers - 1), samples)


def _korobov(g: int, layers: int, samples: int) -> np.ndarray:
    generator = np.array([pow(g, power, samples) for power in range(layers)])
    return np.outer(generator, np.arange(samples)) % samples / samples


def _worst_case_error(nodes: np.ndarray) -> float:
    return float(np.mean(np.prod(1.0 + 2.0 * np.pi**2 * (nodes**2 - nodes + 1.0 / 6.0), axis=0)))


def _equal_weights(samples: int) -> Array:
    return jnp.full(samples, 1.0 / samples)
