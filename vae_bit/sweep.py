"""Many runs: a grid is planned into groups that share one program, each group trains in chunks over all local devices.

A group's runs differ in n, seed, beta and learning rate alone. They are advanced together by `vmap`, split over the
devices by `shard_map`, and driven by one host loop over blocks of steps. All groups of one depth share the program of
the exact evaluation, padded to the largest n.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
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
EVALUATED = 4  # runs a device in one call of the exact evaluation
AHEAD = 4  # groups whose programs are compiled before their turn


class Group(NamedTuple):
    """Runs [R] that share every static shape."""

    arch: Architecture
    recipe: Recipe
    runs: Run


class Progress(NamedTuple):
    """How far a chunk of runs has come: its state, padded with runs that the devices share evenly, and its curves.

    Curves hold a Metrics [R] for every block so far. The state's arrays are given away to the next block.
    """

    state: State
    curves: list[Metrics]


class Watch(NamedTuple):
    """Who follows a group's training: `resume` may know how far a chunk came, `report` hears of every block."""

    resume: Callable[[slice], Progress | None]
    report: Callable[[slice, Progress], None]


UNWATCHED = Watch(lambda runs: None, lambda runs, progress: None)


class Trained(NamedTuple):
    """A group's outcome as numpy arrays in the order of its runs: curves [R, T], parameters (padded), exact figures."""

    group: Group
    steps: np.ndarray  # taken: a run stops before the first step whose gradient is not finite
    curves: Metrics
    params: Params
    evaluation: Evaluation


class Programs(NamedTuple):
    """A group's two functions of one chunk of runs, compiled, each split over the devices."""

    init: Callable[[Run], State]
    advance: Callable[[State, Run, np.int32], tuple[State, Metrics]]


Evaluate = Callable[[Params, Run], Evaluation]


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


def train_all(groups: Sequence[Group], chunk: int | None = None, watches: Sequence[Watch] = ()) -> list[Trained]:
    """Trains and evaluates the groups in turn, while programs of others are compiled; watches[i] follows group i."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        evaluate = {arch.layers: pool.submit(compile_evaluate, arch, total) for arch, total in _depths(groups)}
        programs = _ahead(pool, [partial(compile_programs, group, chunk) for group in groups])
        calls = zip(groups, programs, watches or [UNWATCHED] * len(groups), strict=True)
        return [train(g, program, evaluate[g.arch.layers].result(), chunk, watch) for g, program, watch in calls]


def _ahead(pool: ThreadPoolExecutor, tasks: Sequence[Callable[[], Any]]) -> Iterator[Any]:
    """The tasks' results in order, while the next few are worked on."""
    rest = iter(tasks)
    waiting = deque(map(pool.submit, islice(rest, AHEAD)))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(map(pool.submit, islice(rest, 1)))


def _depths(groups: Sequence[Group]) -> Iterator[tuple[Architecture, int]]:
    """The widest architecture of each depth, and how many runs have that depth."""
    for _, alike in groupby(groups, lambda group: group.arch.layers):
        archs, runs = zip(*((group.arch, group.runs.n.size) for group in alike), strict=True)
        yield max(archs, key=lambda arch: arch.width), sum(runs)


def train(
    group: Group, programs: Programs, evaluate: Evaluate, chunk: int | None = None, watch: Watch = UNWATCHED
) -> Trained:
    """Trains a group, `chunk` runs at a time (by default as many as suit the cache or memory), and evaluates it."""
    slices = chunks(group, chunk)
    pieces = [_train_chunk(programs, group, where, slices[0].stop, watch) for where in slices]
    state, curves = jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
    return Trained(group, state.step, curves, state.params, evaluate(state.params, group.runs))


def _train_chunk(programs: Programs, group: Group, where: slice, length: int, watch: Watch) -> tuple[State, Metrics]:
    count = where.stop - where.start
    runs = _padded(group.runs, where, length)
    state, curves = watch.resume(where) or Progress(programs.init(runs), [])
    ends = block_ends(group.recipe.steps)
    for steps in np.diff(ends, prepend=0).astype(np.int32)[len(curves) :]:
        state, metrics = programs.advance(state, runs, steps)
        curves = [*curves, jax.tree.map(lambda leaf: np.asarray(leaf)[:count], metrics)]
        watch.report(where, Progress(state, curves))
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], state)
    return state, jax.tree.map(lambda *points: _last_finite(np.stack(points, 1)), *curves)


def _last_finite(curve: np.ndarray) -> np.ndarray:
    """[R, T] with what is not finite replaced by the last value that was."""
    last = np.maximum.accumulate(np.where(np.isfinite(curve), np.arange(curve.shape[1]), 0), axis=1)
    return np.take_along_axis(curve, last, axis=1)


def chunks(group: Group, chunk: int | None = None) -> list[slice]:
    """Slices that cover the group's runs, as few as `chunk` allows, of one length but for the last."""
    total = group.runs.n.size
    size = min(chunk or chunk_size(group.arch, group.recipe), total)
    return _slices(total, math.ceil(total / math.ceil(total / size)))


def _slices(total: int, size: int) -> list[slice]:
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
    split, whole = PartitionSpec("runs"), PartitionSpec()
    init = _over_devices(jax.vmap(partial(training.init, arch, recipe)), split)
    advance = jax.vmap(partial(training.advance, arch, recipe), (0, 0, None))
    advance = _over_devices(advance, split, split, whole, donate_argnums=0)
    where = chunks(group, chunk)[0]
    runs = _padded(group.runs, where, where.stop)
    state = jax.eval_shape(init, runs)
    return Programs(init.lower(runs).compile(RUN_ONCE), advance.lower(state, runs, np.int32(0)).compile())


def _over_devices(function: Callable, *specs: PartitionSpec, **options: Any) -> Any:
    mesh = jax.make_mesh((jax.local_device_count(),), ("runs",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("runs")
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False), **options)


def compile_evaluate(arch: Architecture, total: int) -> Evaluate:
    """The exact evaluation in float64 of runs [R] of any n up to arch.width; `total` is how many there are to be.

    A few are evaluated at a time and one after another on each device: that keeps memory small and loses no speed.
    """
    split = PartitionSpec("runs")
    program = _over_devices(lambda *args: jax.lax.map(lambda a: _evaluate(arch, *a), args), split, split)
    devices = jax.local_device_count()
    size = devices * min(EVALUATED, math.ceil(total / devices))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), models.shapes(arch))
    runs = Run(*(jax.ShapeDtypeStruct((size,), kind) for kind in KINDS))
    with jax.enable_x64(True):
        program = program.lower(params, runs).compile()

    def evaluate_few(params: Params, runs: Run, where: slice) -> Evaluation:
        params = models.pad(jax.tree.map(lambda leaf: leaf[_indices(where, size)], params), arch.width)
        with jax.enable_x64(True):
            evaluation = program(params, _padded(runs, where, size))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: where.stop - where.start], evaluation)

    def evaluate(params: Params, runs: Run) -> Evaluation:
        pieces = [evaluate_few(params, runs, where) for where in _slices(runs.n.size, size)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)

    return evaluate


def _evaluate(arch: Architecture, params: Params, run: Run) -> Evaluation:
    params, beta = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, run.beta))
    return exact.evaluate(models.chain(arch, params, run.n), beta)


def block_ends(steps: int) -> np.ndarray:
    """The steps at which a curve has a point: 0, the last, and at most `CURVE_POINTS` - 1 between, evenly spaced."""
    return np.unique(np.linspace(0, steps, min(steps, CURVE_POINTS) + 1).round().astype(int))


def _padded(runs: Run, where: slice, length: int) -> Run:
    """The chosen runs as every program takes them, in 32 bits, whether it was compiled for float64 or not."""
    index = _indices(where, length)
    return Run(*(field[index].astype(kind) for field, kind in zip(runs, KINDS, strict=True)))


def _indices(where: slice, length: int) -> np.ndarray:
    """The slice, its last index repeated until there are `length` and the devices share them evenly."""
    devices = jax.local_device_count()
    return np.minimum(where.start + np.arange(math.ceil(length / devices) * devices), where.stop - 1)
