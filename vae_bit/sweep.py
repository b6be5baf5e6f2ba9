"""Many runs: a grid is planned into groups that share one program, each group trains in chunks over all local devices.

A group's runs differ in n, seed, beta and learning rate alone. They are advanced together by `vmap`, split over the
devices by `shard_map`, and driven by one host loop over blocks of steps. All groups of one depth share the program of
the exact evaluation, padded to the largest n.
"""

import math
import os
import warnings
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
CPU_CHUNK_BYTES = 2 << 20  # one device's share of a chunk: about what a core's cache can hold
ACCELERATOR_CHUNK_BYTES = 8 << 30
LEAN = {"xla_backend_optimization_level": 1}  # as fast a loop as at level 3 after three quarters of the compile time
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
    """Who follows a group: `resume` may know how far a chunk came (padded or not), `report` hears of every block."""

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
    """A group's two functions of one chunk of at most `chunk` runs, compiled, each split over the devices."""

    chunk: int
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
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        evaluate = {arch.layers: pool.submit(compile_evaluate, arch, total) for arch, total in _depths(groups)}
        programs = _ahead(pool, [partial(compile_programs, group, chunk) for group in groups])
        calls = zip(groups, programs, watches or [UNWATCHED] * len(groups), strict=True)
        return [train(g, program, evaluate[g.arch.layers].result(), watch) for g, program, watch in calls]
    finally:  # whoever stops the sweep does not wait for programs that nobody needs
        pool.shutdown(wait=False, cancel_futures=True)


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


def train(group: Group, programs: Programs, evaluate: Evaluate, watch: Watch = UNWATCHED) -> Trained:
    """Trains a group chunk by chunk and evaluates it."""
    pieces = _train_from(0, programs, group, watch)
    state, curves = jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
    return Trained(group, state.step, curves, state.params, evaluate(state.params, group.runs))


def _train_from(start: int, programs: Programs, group: Group, watch: Watch) -> list[tuple[State, Metrics]]:
    """The runs from `start` on, in smaller chunks from where the devices run out of memory."""
    pieces = []
    for where in _slices(group.runs.n.size, programs.chunk, start):
        try:
            pieces.append(_train_chunk(programs, group, where, watch))
        except jax.errors.JaxRuntimeError as error:
            programs = compile_programs(group, _halved(group, programs.chunk, error))
            return pieces + _train_from(where.start, programs, group, watch)
    return pieces


def _halved(group: Group, chunk: int, error: Exception) -> int:
    """Half the chunk where the error is one of memory and a device can do with fewer runs; raises the error if not."""
    if "RESOURCE_EXHAUSTED" not in str(error) or chunk <= jax.local_device_count():
        raise error
    arch, half = group.arch, math.ceil(chunk / 2)
    notice = f"out of device memory: layers {arch.layers}, n up to {arch.width}: {half} runs at a time"
    warnings.warn(notice, stacklevel=2)
    return half


def _train_chunk(programs: Programs, group: Group, where: slice, watch: Watch) -> tuple[State, Metrics]:
    count = where.stop - where.start
    runs = _padded(group.runs, where, programs.chunk)
    state, curves = watch.resume(where) or Progress(programs.init(runs), [])
    if curves:
        state = jax.tree.map(lambda leaf: leaf[_indices(slice(0, count), programs.chunk)], state)
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


def _slices(total: int, size: int, first: int = 0) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(first, total, size)]


def chunk_size(arch: Architecture, recipe: Recipe) -> int:
    """Runs whose training state and layers' outputs fit the budget of all local devices, at least one a device."""
    state = 3 * sum(leaf.size for leaf in jax.tree.leaves(models.shapes(arch)))
    weight = jax.eval_shape(partial(training.nodes, recipe, arch.layers), jax.random.key(0)).weight
    lowest, all_nodes = data.POINTS * recipe.samples, data.POINTS * weight.size
    outputs = lowest * (sum(arch.data_hidden) + arch.width) + all_nodes * 2 * (arch.layers - 1) * sum(
        arch.latent_hidden
    )
    budget = CPU_CHUNK_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_CHUNK_BYTES
    return jax.local_device_count() * max(1, budget // (4 * (state + 3 * outputs)))


def compile_programs(group: Group, chunk: int | None = None) -> Programs:
    """The group's programs for chunks of the shape that `chunks` gives, or smaller ones that fit into memory."""
    first = chunks(group, chunk)[0]
    try:
        return _compile_programs(group, first)
    except jax.errors.JaxRuntimeError as error:
        return compile_programs(group, _halved(group, first.stop, error))


def _compile_programs(group: Group, first: slice) -> Programs:
    arch, recipe, _ = group
    split, whole = PartitionSpec("runs"), PartitionSpec()
    init = _over_devices(jax.vmap(partial(training.init, arch, recipe)), split)
    advance = jax.vmap(partial(training.advance, arch, recipe), (0, 0, None))
    advance = _over_devices(advance, split, split, whole, donate_argnums=0)
    runs = _padded(group.runs, first, first.stop)
    state = jax.eval_shape(init, runs)
    compiled = init.lower(runs).compile(RUN_ONCE), advance.lower(state, runs, np.int32(0)).compile(LEAN)
    return Programs(first.stop, *compiled)


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
