"""Many runs: a grid is planned into groups that share one program, each group trains in chunks over all local devices.

A group's runs differ in n, seed, beta and learning rate alone. They are advanced together by `vmap`, split over the
devices by `shard_map`, and driven by one host loop over blocks of steps.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from vae_bit import data, exact, models, training
from vae_bit.exact import Evaluation
from vae_bit.models import Architecture, Params
from vae_bit.presets import Preset
from vae_bit.training import Metrics, Recipe, Run, State

CURVE_POINTS = 200
KINDS = (np.int32, np.uint32, np.float32, np.float32)  # of a Run's fields on the devices
CPU_CHUNK_BYTES = 4 << 20  # one device's share of a chunk: about what stays in a core's cache between steps
ACCELERATOR_CHUNK_BYTES = 8 << 30
RUN_ONCE = {"xla_backend_optimization_level": 0}  # what runs for milliseconds should not take seconds to compile


def _ignore(news: object) -> None:
    """The report of whoever wants none."""


class Group(NamedTuple):
    """Runs [R] that share every static shape."""

    arch: Architecture
    recipe: Recipe
    runs: Run


class Block(NamedTuple):
    """News from the host loop: `runs` of a group have reached `step`."""

    runs: slice
    step: int
    metrics: Metrics


class Trained(NamedTuple):
    """A group's outcome as numpy arrays in the order of its runs: curves [R, T], parameters (padded), exact figures."""

    group: Group
    curves: Metrics
    params: Params
    evaluation: Evaluation


class Programs(NamedTuple):
    """A group's three functions of one chunk of runs, compiled, each split over the devices."""

    init: Callable[[Run], State]
    advance: Callable[[State, Run, np.int32], tuple[State, Metrics]]
    evaluate: Callable[[Params, Run], Evaluation]


def plan(
    preset: Preset,
    layers: Sequence[int],
    n: Sequence[int],
    beta: Sequence[float],
    learning_rate: Sequence[float],
    seeds: Sequence[int],
) -> list[Group]:
    """The grid layers x n x beta x learning_rate x seeds as groups, one for each depth and set of similar n."""
    return [
        Group(
            replace(preset.architecture, layers=depth, width=max(similar)),
            preset.recipe,
            _grid(similar, beta, learning_rate, seeds),
        )
        for depth in layers
        for similar in similar_widths(n)
    ]


def similar_widths(n: Sequence[int]) -> list[list[int]]:
    """Splits n, ascending, into lists within which padding to the largest is cheap: at most 32, or at most twofold."""
    lists: list[list[int]] = []
    for width in sorted(n):
        if lists and width <= max(32, 2 * lists[-1][0]):
            lists[-1].append(width)
        else:
            lists.append([width])
    return lists


def _grid(n: Sequence[int], beta: Sequence[float], rate: Sequence[float], seeds: Sequence[int]) -> Run:
    axes: Any = np.meshgrid(
        np.array(n, np.int32),
        np.array(seeds, np.uint32),
        np.array(beta, np.float64),
        np.array(rate, np.float64),
        indexing="ij",
    )
    return Run(*(axis.transpose(0, 2, 3, 1).ravel() for axis in axes))


def train_all(
    groups: Sequence[Group], chunk: int | None = None, reports: Sequence[Callable[[Block], None]] = ()
) -> list[Trained]:
    """Trains the groups in turn, while the programs of those to come are compiled; reports[i] hears of group i."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = [pool.submit(compile_programs, group, chunk) for group in groups]
        calls = zip(groups, programs, reports or [_ignore] * len(groups), strict=True)
        return [train(group, program.result(), chunk, report) for group, program, report in calls]


def train(
    group: Group, programs: Programs, chunk: int | None = None, report: Callable[[Block], None] = _ignore
) -> Trained:
    """Trains and evaluates a group, `chunk` runs at a time (by default as many as suit the cache or memory)."""
    slices = chunks(group, chunk)
    pieces = [_train_chunk(programs, group, where, slices[0].stop, report) for where in slices]
    return Trained(group, *jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces))


def chunks(group: Group, chunk: int | None = None) -> list[slice]:
    """Slices that cover the group's runs, as few as `chunk` allows, of one length but for the last."""
    total = group.runs.n.size
    size = min(chunk or chunk_size(group.arch, group.recipe), total)
    size = math.ceil(total / math.ceil(total / size))
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def chunk_size(arch: Architecture, recipe: Recipe) -> int:
    """Runs whose training state and widest arrays fit the budget of all local devices, at least one a device."""
    state = 3 * sum(leaf.size for leaf in jax.tree.leaves(models.shapes(arch)))
    logits = 3 * arch.width * data.POINTS * recipe.samples
    budget = CPU_CHUNK_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_CHUNK_BYTES
    return jax.local_device_count() * max(1, budget // (4 * (state + logits)))


def compile_programs(group: Group, chunk: int | None = None) -> Programs:
    """The group's programs for chunks of the shape that `chunks` gives."""
    arch, recipe, _ = group
    mesh = jax.make_mesh((jax.local_device_count(),), ("runs",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("runs"), PartitionSpec()

    def over_devices(function: Callable, *specs: PartitionSpec, **options: Any) -> Any:
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False), **options)

    init = over_devices(jax.vmap(partial(training.init, arch, recipe)), split)
    advance = jax.vmap(partial(training.advance, arch, recipe), (0, 0, None))
    advance = over_devices(advance, split, split, whole, donate_argnums=0)
    evaluate = over_devices(lambda *args: jax.lax.map(lambda a: _evaluate(arch, *a), args), split, split)
    where = chunks(group, chunk)[0]
    runs = _padded(group.runs, where, where.stop)
    state = jax.eval_shape(init, runs)
    init, advance = init.lower(runs).compile(RUN_ONCE), advance.lower(state, runs, np.int32(0)).compile()
    with jax.enable_x64(True):
        return Programs(init, advance, evaluate.lower(state.params, runs).compile())


def _evaluate(arch: Architecture, params: Params, run: Run) -> Evaluation:
    params, beta = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, run.beta))
    return exact.evaluate(models.chain(arch, params, run.n), beta)


def _train_chunk(
    programs: Programs, group: Group, where: slice, length: int, report: Callable[[Block], None]
) -> tuple[Metrics, Params, Evaluation]:
    count = where.stop - where.start
    runs = _padded(group.runs, where, length)
    state = programs.init(runs)
    curves = []
    ends = block_ends(group.recipe.steps)
    for end, steps in zip(ends.tolist(), np.diff(ends, prepend=0).astype(np.int32), strict=True):
        state, metrics = programs.advance(state, runs, steps)
        curves.append(jax.tree.map(lambda leaf: np.asarray(leaf)[:count], metrics))
        report(Block(where, end, curves[-1]))
    with jax.enable_x64(True):
        evaluation = programs.evaluate(state.params, runs)
    params, evaluation = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], (state.params, evaluation))
    return jax.tree.map(lambda *points: np.stack(points, 1), *curves), params, evaluation


def block_ends(steps: int) -> np.ndarray:
    """The steps at which a curve has a point: 0, the last, and at most `CURVE_POINTS` - 1 between, evenly spaced."""
    return np.unique(np.linspace(0, steps, min(steps, CURVE_POINTS) + 1).round().astype(int))


def _padded(runs: Run, where: slice, length: int) -> Run:
    """The chunk's runs, the last repeated until it has `length` of them and the devices share them evenly.

    In 32 bits, which every program takes, whether it was compiled for float64 or not.
    """
    devices = jax.local_device_count()
    index = np.minimum(where.start + np.arange(math.ceil(length / devices) * devices), where.stop - 1)
    return Run(*(field[index].astype(kind) for field, kind in zip(runs, KINDS, strict=True)))
