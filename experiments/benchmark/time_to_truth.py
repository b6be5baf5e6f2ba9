"""How long an implementation takes, from its process's start, until its seeds are close to the exact limit."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.benchmark.workers import IMPLEMENTATIONS, Case, Team
from vae_bit import data, exact, limits, models
from vae_bit.architecture import softplus_std
from vae_bit.distributions import Normal
from vae_bit.exact import ScalarVAE
from vae_bit.presets import ORIGINAL, PRESETS

TOLERANCE = 0.005  # nats
BLOCK = 25  # steps between snapshots


class Path(NamedTuple):
    """Snapshots at `seconds` [T] since the process was asked for, and the exact losses [T, seeds] there, in nats."""

    seconds: np.ndarray
    losses: np.ndarray


class Truth(NamedTuple):
    """Seconds until the median and the worst seed were within the tolerance, None where they never were; and the total.

    The total is that of the whole recipe: measured, or `extrapolated` from the steps that fitted into the time allowed.
    """

    median: float | None
    worst: float | None
    total: float
    extrapolated: bool


def run(implementation: str, n: int, seeds: int, allowed: float) -> Truth:
    """Trains in fresh processes, for `allowed` seconds at most; several processes count from the first one's start."""
    began, case = time.time(), Case(implementation, 1, n, seeds)
    members = Team(IMPLEMENTATIONS[implementation].environment, IMPLEMENTATIONS[implementation].processes)
    try:
        return summary(members.call(follow, case, began, allowed), n)
    finally:
        members.close()


def follow(case: Case, began: float, allowed: float) -> Path:
    """One process's part: trains, keeping every block's parameters, and evaluates them when the clock has stopped."""
    trainer = IMPLEMENTATIONS[case.implementation].build(1, case.n, range(case.first, case.first + case.seeds))
    seconds, snapshots = [], []
    for _ in range(ORIGINAL.recipe.steps // BLOCK):
        trainer.advance(BLOCK)
        snapshots.append(jax.tree.map(np.array, trainer.params()))
        seconds.append(time.time() - began)
        if seconds[-1] > allowed and len(seconds) > 1:
            break
    loss = jax.jit(jax.vmap(loss_of(case.implementation, case.n)))
    return Path(np.array(seconds), np.stack([np.asarray(loss(params)) for params in snapshots]))


def summary(paths: list[Path], n: int) -> Truth:
    """All processes' seeds together, at the snapshots that all of them reached."""
    count = min(path.seconds.size for path in paths)
    seconds = np.max([path.seconds[:count] for path in paths], axis=0)
    gap = np.concatenate([path.losses[:count] for path in paths], 1) - limits.limit(1, n)
    missing = ORIGINAL.recipe.steps // BLOCK - count
    total = seconds[-1] + (missing * (seconds[-1] - seconds[0]) / (count - 1) if missing else 0.0)
    return Truth(first(seconds, np.median(gap, 1)), first(seconds, np.max(gap, 1)), float(total), bool(missing))


def first(seconds: np.ndarray, gap: np.ndarray) -> float | None:
    """When the gap first was within the tolerance."""
    within = gap < TOLERANCE
    return float(seconds[np.argmax(within)]) if within.any() else None


def loss_of(implementation: str, n: int) -> Callable[[Any], Array]:
    """The exact loss of one seed's parameters, one layer, for parameters as the implementation gives them."""
    if implementation.startswith("ours"):
        model = PRESETS[implementation.removeprefix("ours ")].model(1, n)
        return lambda params: exact.evaluate(models.scalar_vae(model, params, jnp.int32(n), jnp.float32(1))).loss
    return lambda nets: exact.evaluate(_chain(nets["q"][0], nets["p"][0], n)).loss


def _chain(q: Any, p: Any, n: int) -> ScalarVAE:
    """A peer's networks as functions: the encoder reads x, the decoder z_1."""
    return ScalarVAE(data.points(n, n), data.mask(n, n), _encode(q, n), (), (), lambda z: _network(p, z[:, None]).T)


def _encode(net: Any, n: int) -> Normal:
    out = _network(net, jnp.repeat(jnp.array([[0.0], [1.0]]), n, 1))
    return Normal(out[:, 0], softplus_std(out[:, 1]))


def _network(net: Any, h: Array) -> Array:
    for i, (kernel, bias) in enumerate(net):
        h = (nn.elu(h) if i else h) @ kernel + bias[None]
    return h
