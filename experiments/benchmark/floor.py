"""The least time a step can take: its operations, counted from shapes, over the rates that this machine reaches.

Counted is what no program can leave out: the matrix products of the networks, forward and backward, on the encoder's
two distinct inputs, one number each (`vae_bit.architecture.EncoderInput`), and on every noise node (but no gradient for
the data); one exponential for each hidden unit and for each logit's sigmoid; what each Gaussian's spread and the noise
take of exponentials and logarithms; and reading and writing the parameters and Adam's two moments once. Sums, products
and the loss itself, which no step needs, count as free, and so does the sharing of work by faster memory. The parts are
added.
"""

import itertools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import subjaxprs
from jax.sharding import Mesh, PartitionSpec

from vae_bit import data
from vae_bit.architecture import Architecture
from vae_bit.training import Recipe

MOMENTS = 2
EXPONENTIALS, LOGARITHMS = {"exp"}, {"log", "log1p", "erf_inv"}  # JAX's operations that cost one
BYTES = 4


class Operations(NamedTuple):
    """Of one step of one seed."""

    flops: float
    exponentials: float
    logarithms: float
    bytes: float


class Rates(NamedTuple):
    """A second, of all devices together, in the order of Operations."""

    flops: float
    exponentials: float
    logarithms: float
    bytes: float


def count(arch: Architecture, recipe: Recipe, layers: int, n: int) -> Operations:
    """The operations of a step that maximises the ELBO."""
    nodes = columns(recipe, layers)
    latent = arch.latent_hidden
    nets = [((1, *arch.encoder_hidden, 2), data.POINTS, False), ((1, *arch.decoder_hidden, n), nodes[0], True)]
    for l in range(1, layers):  # q(z_{l+1} | z_l) at the nodes below, p(z_l | z_{l+1}) at those above too
        nets += [((1, *latent, 2), nodes[l - 1], True), ((1, *latent, 2), nodes[l], True)]
    gaussians = data.POINTS + sum(nodes[l - 1] + nodes[l] for l in range(1, layers))
    hidden = sum(k * sum(w[1:-1]) for w, k, _ in nets)
    exponentials, logarithms = draws(recipe, layers)
    return Operations(
        flops=float(sum(products(*net) for net in nets)),
        exponentials=float(hidden + gaussians * taken(EXPONENTIALS, arch.positive, 1.0) + nodes[0] * n + exponentials),
        logarithms=float(gaussians * taken(LOGARITHMS, arch.positive, 1.0) + logarithms),
        bytes=float(2 * (1 + MOMENTS) * BYTES * sum(parameters(net[0]) for net in nets)),
    )


def columns(recipe: Recipe, layers: int) -> list[int]:
    """Nodes of z_1, .. z_L for both points: all the same draws, or the product grid that grows with every layer."""
    eps, _ = jax.eval_shape(lambda: recipe.noise(jax.random.key(0), layers, recipe.samples))
    shapes = [e.shape for e in eps]
    return [data.POINTS * math.prod(np.broadcast_shapes(*shapes[: l + 1])) for l in range(layers)]


def draws(recipe: Recipe, layers: int) -> tuple[int, int]:
    """Exponentials and logarithms that the noise itself takes in a step."""

    def rule(key: Array) -> Any:
        return recipe.noise(key, layers, recipe.samples)

    key = jax.random.key(0)
    return data.POINTS * taken(EXPONENTIALS, rule, key), data.POINTS * taken(LOGARITHMS, rule, key)


def taken(names: set[str], function: Callable, *like: Any) -> int:
    """How many numbers the function's operations of these names give."""
    return _taken(names, jax.make_jaxpr(function)(*like).jaxpr)


def _taken(names: set[str], jaxpr: Any) -> int:
    own = sum(eqn.outvars[0].aval.size for eqn in jaxpr.eqns if eqn.primitive.name in names)
    return own + sum(_taken(names, sub) for sub in subjaxprs(jaxpr))


def products(widths: tuple[int, ...], columns: int, to_input: bool) -> int:
    """Flops of a network's matrix products: forward, weight gradients, and the gradients of every layer's input."""
    pairs = [a * b for a, b in itertools.pairwise(widths)]
    return 2 * columns * (3 * sum(pairs) - (0 if to_input else pairs[0]))


def parameters(widths: tuple[int, ...]) -> int:
    """Kernels and biases."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def seconds(operations: Operations, rates: Rates) -> float:
    """The floor."""
    return sum(amount / rate for amount, rate in zip(operations, rates, strict=True))


def measure() -> Rates:
    """The rates with every device busy, at this moment."""
    large = jax.default_backend() != "cpu"
    side, elements, length = (8192, 1 << 26, 1 << 27) if large else (768, 1 << 15, 1 << 18)
    square, line, array = jnp.full((side, side), 1.0 / side), jnp.zeros(elements), jnp.zeros(length)
    return Rates(
        flops=2.0 * side**3 * _per_second(lambda a: a @ square, square),
        exponentials=elements * _per_second(lambda v: jnp.exp(-v), line),
        logarithms=elements * _per_second(lambda v: jnp.log(v + 2.0), line),
        bytes=2.0 * BYTES * length * _per_second(lambda v: 0.5 * v + 1.0, array),
    )


def _per_second(function: Callable[[Array], Array], start: Array) -> float:
    """How often all devices together apply the function to arrays of their own, each to its last result."""
    mesh, split = Mesh(np.array(jax.devices()), ("devices",)), PartitionSpec("devices")

    def loop(x: Array, times: Array) -> Array:
        return jax.lax.fori_loop(0, times, lambda _, v: function(v), x[0])[None]

    program = jax.jit(jax.shard_map(loop, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split))
    x = jnp.broadcast_to(start, (mesh.size, *start.shape))

    def wall(times: int) -> float:
        begin = time.perf_counter()
        program(x, jnp.int32(times)).block_until_ready()
        return time.perf_counter() - begin

    wall(1)
    times = int(np.clip(0.1 / max(wall(4) / 4, 1e-6), 4, 100_000))
    return mesh.size * times / wall(times)
