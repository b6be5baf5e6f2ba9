"""Many runs: a grid is planned into groups that share one program, each group trains in chunks over all local devices.

A group's runs differ in n, seed, beta and learning rate alone; one host loop drives them over blocks of steps. All
groups of one kind of model and depth share the program of the exact evaluation, padded to the largest n.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_bit import settings
from vae_bit.exact import Evaluation
from vae_bit.models import Build, Model, Params
from vae_bit.presets import Preset
from vae_bit.programs import (
    Evaluate,
    Group,
    Labels,
    Programs,
    compile_evaluate,
    compile_programs,
    halved,
    indices,
    padded,
)
from vae_bit.store.describe import label
from vae_bit.training import Metrics, Run, State

CURVE_POINTS = 200
POSITIVE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
AHEAD = 4  # groups whose programs are compiled before their turn
PATIENCE = 0.1  # seconds for which a program is waited for before the watch may say that the sweep stops


class Progress(NamedTuple):
    """How far a chunk of runs has come: its state, padded with runs that the devices share evenly, and its curves.

    Curves hold a Metrics [R] for every block so far, `history` the parameters [R, ...] at those points of it that are
    passed. The state's arrays are given away to the next block.
    """

    state: State
    curves: list[Metrics]
    history: tuple[Params, ...] = ()


class Watch(NamedTuple):
    """Who follows a group of R runs: what is known of each, how far a chunk of them came, and how far it comes now.

    `saved` gives the blocks [R] that each run has come already; `resume` the Progress of runs that have come equally
    far, None where that is nowhere; `report` hears of every block. Runs are given by their indices in the group.
    `check` is called where there is nothing to report: ten times a second while a program is waited for, and between
    the calls of the evaluation. Whatever these raise ends the sweep.
    """

    saved: Callable[[Group], np.ndarray]
    resume: Callable[[np.ndarray], Progress | None]
    report: Callable[[np.ndarray, Progress], None]
    check: Callable[[], None] = lambda: None


Outcome = tuple[State, Metrics, tuple[Params, ...]]  # of a chunk: its end, its curves [R, T], its history

UNWATCHED = Watch(lambda group: np.zeros(group.runs.n.size, int), lambda which: None, lambda which, progress: None)


class Trained(NamedTuple):
    """A group's outcome as numpy arrays in the order of its runs: curves [R, T], parameters (padded), exact figures."""

    group: Group
    steps: np.ndarray  # taken before the run diverged, if it did
    finite: np.ndarray  # whether it did not
    curves: Metrics
    params: Params
    evaluation: Evaluation
    history: Evaluation | None = None  # [H, R], at the points that `history_steps` gives, if it was asked for


def plan(
    preset: Preset,
    layers: Sequence[int],
    n: Sequence[int],
    beta: Sequence[float],
    word_dropout: Sequence[float] | None,
    learning_rate: Sequence[float],
    seeds: Sequence[int],
    labels: Labels | None = None,
    history: int = 0,
) -> list[Group]:
    """The grid layers x n x beta x word_dropout x learning_rate x seeds as groups, by depth and similar n.

    Each axis is a sequence of distinct numbers: `layers` and `n` integers >= 1, `beta` and `learning_rate` positive
    within float32's range, `word_dropout` in [0, 1], `seeds` integers in [0, 2^32). A decoder that sees no bit before
    has a word dropout of 1, whatever is asked for; one that does of 0 where that is None. ValueError names the axis,
    the value and what is allowed.
    """
    layers, n = _axis("layers", layers, 1, 64), _axis("n", n, 1, 2**31 - 1)
    seeds = _axis("seeds", seeds, 0, 2**32 - 1)
    beta, learning_rate = _axis("beta", beta, *POSITIVE), _axis("learning_rate", learning_rate, *POSITIVE)
    dropout = _axis("word_dropout", [0.0] if word_dropout is None else word_dropout, 0.0, 1.0)
    if preset.model(layers[0], max(n)).follow is None:
        dropout = [1.0]
    numbers = beta, dropout, learning_rate, seeds
    labels = labels or Labels("default", label(preset.recipe.objective), label(preset.recipe.optimizer))
    return [
        Group(labels, preset.model, preset.recipe, depth, max(similar), _grid(similar, *numbers), history)
        for depth in layers
        for similar in similar_widths(n)
    ]


def _axis(name: str, values: Any, low: Any, high: Any) -> list[Any]:
    """The values as they are, once each of them is known to be distinct, of the bounds' type and between them."""
    whole = isinstance(low, int)
    allowed = f"distinct {'integers' if whole else 'numbers'} from {low:g} to {high:g}"
    array = np.asarray(values)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name}: got {values!r}, expected a sequence of {allowed}, such as [1]")
    of_kind = np.issubdtype(array.dtype, np.integer if whole else np.number)
    if not of_kind or np.unique(array).size < array.size or not np.all((array >= low) & (array <= high)):
        raise ValueError(f"{name}: got {values!r}, expected {allowed}")
    return array.tolist()


def similar_widths(n: Sequence[int]) -> list[list[int]]:
    """Splits n, ascending, into lists within which padding to the largest is cheap: at most 32, or at most twofold."""
    lists: list[list[int]] = []
    for width in sorted(n):
        if lists and width <= max(32, 2 * lists[-1][0]):
            lists[-1].append(width)
        else:
            lists.append([width])
    return lists


def _grid(
    n: Sequence[int], beta: Sequence[float], dropout: Sequence[float], rate: Sequence[float], seeds: Sequence[int]
) -> Run:
    axes: Any = np.meshgrid(
        np.array(n, np.int32),
        np.array(seeds, np.uint32),
        np.array(beta, np.float64),
        np.array(rate, np.float64),
        np.array(dropout, np.float64),
        indexing="ij",
    )
    return Run(*(axis.transpose(0, 2, 4, 3, 1).ravel() for axis in axes))


@settings.fixed()
def train_all(groups: Sequence[Group], chunk: int | None = None, watches: Sequence[Watch] = ()) -> list[Trained]:
    """Trains and evaluates the groups in turn, while programs of others are compiled; watches[i] follows group i."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        evaluate = {key: pool.submit(compile_evaluate, *alike) for key, alike in _alike(groups).items()}
        programs = _ahead(pool, [partial(compile_programs, group, chunk) for group in groups])
        calls = zip(groups, programs, watches or [UNWATCHED] * len(groups), strict=True)
        return [train(g, *_results(p, evaluate[_evaluated(g)], watch.check), watch) for g, p, watch in calls]
    finally:  # whoever stops the sweep does not wait for programs that nobody needs
        pool.shutdown(wait=False, cancel_futures=True)


def _ahead(pool: ThreadPoolExecutor, tasks: Sequence[Callable[[], Any]]) -> Iterator[Future]:
    """The tasks in order, while the next few are worked on."""
    rest = iter(tasks)
    waiting = deque(map(pool.submit, islice(rest, AHEAD)))
    while waiting:
        yield waiting.popleft()
        waiting.extend(map(pool.submit, islice(rest, 1)))


def _results(programs: Future, evaluate: Future, check: Callable[[], None]) -> tuple[Programs, Evaluate]:
    """Both, once they are compiled."""
    while wait([programs, evaluate], PATIENCE).not_done:
        check()
    return programs.result(), evaluate.result()


def _alike(groups: Sequence[Group]) -> dict[Any, tuple[Model, int, int]]:
    """For all groups that one program evaluates: the widest model, its width, and how many runs there are."""
    alike: dict[Any, list[Group]] = {}
    for group in groups:
        alike.setdefault(_evaluated(group), []).append(group)
    widest = {key: max(some, key=lambda group: group.width) for key, some in alike.items()}
    return {key: (widest[key].model, widest[key].width, sum(g.runs.n.size for g in alike[key])) for key in alike}


def _evaluated(group: Group) -> tuple[Build, int]:
    return group.build, group.layers


@settings.fixed()
def train(group: Group, programs: Programs, evaluate: Evaluate, watch: Watch = UNWATCHED) -> Trained:
    """Trains a group chunk by chunk and evaluates it."""
    which, *pieces = zip(*_train_chunks(programs, group, watch), strict=True)
    order = np.argsort(np.concatenate(which))
    state, curves, snapshots = (jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *piece) for piece in pieces)
    evaluation = evaluate(state.params, group.runs, watch.check)
    points = [evaluate(params, group.runs, watch.check) for params in snapshots]
    history = jax.tree.map(lambda *figures: np.stack(figures), *points) if points else None
    return Trained(group, state.step, state.finite, curves, state.params, evaluation, history)


def _train_chunks(
    programs: Programs, group: Group, watch: Watch
) -> list[tuple[np.ndarray, State, Metrics, tuple[Params, ...]]]:
    """Chunk by chunk, each of runs that have come equally far; in smaller ones from where the devices lack memory."""
    saved = watch.saved(group)
    left = [np.flatnonzero(saved == blocks) for blocks in np.unique(saved)[::-1]]
    pieces, smaller = [], None
    while left:
        if smaller:  # not while the error is handled, as that keeps the large chunk in memory
            programs, smaller = compile_programs(group, smaller), None
        which, rest = np.split(left[0], [programs.chunk])
        try:
            pieces.append((which, *_train_chunk(programs, group, which, watch)))
            left[:1] = [rest] if rest.size else []
        except jax.errors.JaxRuntimeError as error:
            smaller = halved(group, programs.chunk, error)
    return pieces


def _train_chunk(
    programs: Programs, group: Group, which: np.ndarray, watch: Watch
) -> tuple[State, Metrics, tuple[Params, ...]]:
    every = slice(0, which.size)
    runs = padded(jax.tree.map(lambda field: field[which], group.runs), every, programs.chunk)
    state, curves, history = watch.resume(which) or Progress(programs.init(runs), [])
    if curves:
        state = jax.tree.map(lambda leaf: leaf[indices(every, programs.chunk)], state)
    ends, kept = block_ends(group.recipe.steps), history_steps(group.recipe.steps, group.history)
    for end, steps in list(zip(ends, np.diff(ends, prepend=0).astype(np.int32), strict=True))[len(curves) :]:
        state, metrics = programs.advance(state, runs, steps)
        curves = [*curves, jax.tree.map(lambda leaf: np.asarray(leaf)[every], metrics)]
        if end in kept:
            history = (*history, jax.tree.map(lambda leaf: np.array(leaf[every]), state.params))
        watch.report(which, Progress(state, curves, history))
    # Whoever waits for the other chunks needs no moments, which are twice as large as the parameters.
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[every], state._replace(optimizer=None))
    return state, jax.tree.map(lambda *points: _last_finite(np.stack(points, 1)), *curves), history


def _last_finite(curve: np.ndarray) -> np.ndarray:
    """[R, T] with what is not finite replaced by the last value that was."""
    last = np.maximum.accumulate(np.where(np.isfinite(curve), np.arange(curve.shape[1]), 0), axis=1)
    return np.take_along_axis(curve, last, axis=1)


def block_ends(steps: int) -> np.ndarray:
    """The steps at which a curve has a point: 0, the last, and at most `CURVE_POINTS` - 1 between, evenly spaced."""
    return np.unique(np.linspace(0, steps, min(steps, CURVE_POINTS) + 1).round().astype(int))


def history_steps(steps: int, points: int) -> np.ndarray:
    """Those of `block_ends` at which parameters are kept: as many as asked, evenly spaced, the last being the end."""
    ends = block_ends(steps)
    return ends[np.unique(np.linspace(ends.size - 1, 0, points).round().astype(int))]
