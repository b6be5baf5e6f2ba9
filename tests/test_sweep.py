"""Many runs: the plan, and that batches, devices and chunks change nothing."""

import functools
import gc
import weakref
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_bit import exact, padding, programs, sweep, training
from vae_bit.exact import Evaluation
from vae_bit.training import Metrics, Run, State

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def quick_evaluation(monkeypatch):
    """Something of every run that compiles at once, where the claim is not about the exact figures."""

    def figures(chain, beta):
        mean, std = chain.q_data
        scalar = jnp.sum(mean) * beta
        return Evaluation(scalar, scalar, std, scalar, scalar, scalar, scalar, jnp.sum(chain.mask), std, 0.0 * scalar)

    monkeypatch.setattr(exact, "evaluate_on", lambda grids, *args: figures(*args))


def small_group(tiny):
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=20))
    (group,) = sweep.plan(preset, [1], [1, 5], [1.0], None, [1e-2, 3e-3], [2**32 - 1])
    runs = jax.tree.map(lambda field: np.append(field, field[-3:]), group.runs)
    return group._replace(runs=runs._replace(seed=np.arange(7, dtype=np.uint32)))


def test_the_plan_covers_the_grid_in_order(tiny):
    grid = [1, 2], [1, 5, 1000], [0.5, 1.0], None, [1e-3, 1e-2], range(2**32 - 3, 2**32)
    groups = sweep.plan(tiny["default"], *grid)
    names = "n", "beta", "word_dropout", "learning_rate", "seed"
    rows = [
        (group.layers, *row)
        for group in groups
        for row in zip(*(getattr(group.runs, name).tolist() for name in names), strict=True)
    ]
    assert rows == list(product(*(axis or [1.0] for axis in grid)))  # no decoder here sees the bits before
    assert [(group.layers, group.width) for group in groups] == [(1, 5), (1, 1000), (2, 5), (2, 1000)]
    assert all(group.recipe == tiny["default"].recipe for group in groups)
    assert all(group.build == tiny["default"].model for group in groups)
    assert {group.labels for group in groups} == {("default", "elbo", "adam", "gaussian", "normal", "independent")}
    assert [group.model.layers for group in groups] == [1, 1, 2, 2]


@pytest.mark.parametrize("n", [[7], [1, 5, 1000], [1000, 1, 5], list(range(1, 400, 7)), [1, 10, 100, 1000, 10_000]])
def test_similar_widths_keep_padding_cheap(n):
    lists = sweep.similar_widths(n)
    assert [width for similar in lists for width in similar] == sorted(n)
    assert all(max(similar) <= max(32, 2 * min(similar)) for similar in lists)
    for narrow, wide in pairwise(lists):
        assert wide[0] > max(32, 2 * narrow[0])


@pytest.mark.parametrize("steps", [1, 2, 7, 199, 200, 201, 5000, 12_345])
def test_block_ends(steps):
    ends = sweep.block_ends(steps)
    assert ends[0] == 0
    assert ends[-1] == steps
    assert len(ends) == min(steps, sweep.CURVE_POINTS) + 1 <= 1000
    assert np.diff(ends).min() >= 1
    assert np.ptp(np.diff(ends)) <= 1


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 100, None])
def test_chunks_cover_the_runs_once(tiny, chunk):
    group = small_group(tiny)
    slices = programs.chunks(group, chunk)
    assert np.concatenate([np.arange(7)[where] for where in slices]).tolist() == list(range(7))
    sizes = [where.stop - where.start for where in slices]
    assert max(sizes) <= (chunk or 7)
    assert set(sizes[:-1]) <= {sizes[0]}
    assert len(slices) in (-(-7 // min(chunk or 7, 7)), -(-7 // min(chunk or 7, 7)) + 1)


@pytest.mark.parametrize(("total", "chunk", "length"), [(20, 9, 6), (32, 13, 12), (7, 4, 3), (7, 5, 3)])
def test_one_chunk_more_where_less_padding_is_trained(tiny, total, chunk, length):
    """Three devices: 20 runs take four chunks of 6, 24 places, not three of 9; for 32 it is 36 either way."""
    (group,) = sweep.plan(tiny["default"], [1], [5], [1.0], None, [1e-2], range(total))
    assert programs.chunks(group, chunk)[0].stop == length


class Program:
    """One that notes how it is compiled, by an XLA that knows no options or refuses the program."""

    def __init__(self, error: str | None = None):
        self.error, self.asked = error, []

    def compile(self, options=None):
        self.asked.append(options)
        if self.error and options:
            raise jax.errors.JaxRuntimeError(self.error)
        return "compiled"


def test_options_chosen_on_cpus_are_for_cpus_whose_xla_knows_them(monkeypatch):
    compiled: Any = programs._compile
    known, unknown, faulty = Program(), Program("INVALID_ARGUMENT: No such compile option: 'x'"), Program("no memory")
    assert compiled(known, {"x": 1}) == compiled(unknown, {"x": 1}) == "compiled"
    assert (known.asked, unknown.asked) == ([{"x": 1}], [{"x": 1}, None])
    with pytest.raises(jax.errors.JaxRuntimeError, match="no memory"):
        compiled(faulty, {"x": 1})
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiled(faulty, {"x": 1}) == "compiled"
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x).lower(1.0).compile({"xla_not_an_option": True})


def test_a_chunk_is_at_least_two_runs_for_each_device(tiny):
    (group,) = sweep.plan(tiny["original"], [2], [1_000_000], [1.0], None, [1e-3], [0])
    assert programs.chunk_size(group.model, group.recipe, group.width) == 2 * jax.local_device_count() == 6


def test_a_chunk_has_room_for_what_the_optimiser_keeps(tiny):
    """Adam keeps two numbers for each parameter, L-BFGS 20 and more: two of the last ten steps."""
    recipe, model = replace(tiny["default"].recipe, samples=1), tiny["default"].model(1, 1000)
    size = sum(leaf.size for leaf in jax.tree.leaves(padding.shapes(model.init, 1000)))
    adam, lbfgs = (
        programs.chunk_size(model, replace(recipe, optimizer=one), 1000) // jax.local_device_count()
        for one in (optax.adam, optax.lbfgs)
    )
    assert adam > 4 * lbfgs
    assert lbfgs * 4 * 20 * size < programs.CPU_CHUNK_BYTES < adam * 4 * 12 * size


@pytest.fixture(scope="module")
def alone(tiny, quick_compile):
    """Every run of the small group by itself: curves [R, T] and final parameters."""
    group = small_group(tiny)
    start = jax.jit(functools.partial(training.init, group.model, group.recipe))
    advance = jax.jit(functools.partial(training.advance, group.model, group.recipe))
    outcomes = []
    for fields in zip(*group.runs, strict=True):
        run, curve = Run(*fields), []
        state, metrics = advance(start(run), run, 0)
        curve.append(metrics)
        for _ in range(group.recipe.steps):
            state, metrics = advance(state, run, 1)
            curve.append(metrics)
        outcomes.append((jax.tree.map(lambda *points: np.stack(points), *curve), state.params))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *outcomes)


@pytest.mark.parametrize(("devices", "chunk"), [(1, None), (2, 3), (3, None)])
def test_devices_and_chunks_change_nothing(tiny, alone, quick_evaluation, monkeypatch, devices, chunk):
    """Seven runs, which two or three devices cannot share evenly, against each run by itself."""
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    group, blocks = small_group(tiny), []
    watch = sweep.UNWATCHED._replace(report=lambda runs, progress: blocks.append((runs, progress.curves)))
    (trained,) = sweep.train_all([group], chunk, [watch])
    # float32 sums in another order, after 20 steps of Adam
    assert_close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-5)
    jax.tree.map(assert_close, (trained.curves, trained.params), alone)
    assert trained.curves.loss.shape == (7, 21)
    np.testing.assert_array_equal(trained.evaluation.valid_mass, group.runs.n)
    every = [np.arange(7)[where].tolist() for where in programs.chunks(group, chunk)]
    assert [(runs.tolist(), len(curves)) for runs, curves in blocks] == [(w, p) for w in every for p in range(1, 22)]
    for runs, curves in blocks:
        np.testing.assert_array_equal(np.stack([m.loss for m in curves], 1), trained.curves.loss[runs, : len(curves)])


@pytest.mark.parametrize("point", [1, 7, 21])
def test_training_again_from_any_block_gives_the_same_bits(tiny, quick_evaluation, point):
    group, kept = small_group(tiny), {}

    def keep(runs, progress):
        if len(progress.curves) == point:
            kept[runs[0]] = progress._replace(state=jax.tree.map(np.asarray, progress.state))

    both = programs.compile_programs(group, 4), programs.compile_evaluate(group.model, group.width, 7)
    first = sweep.train(group, *both, sweep.UNWATCHED._replace(report=keep))
    again = sweep.train(group, *both, sweep.UNWATCHED._replace(resume=lambda runs: kept[runs[0]]))
    assert sorted(kept) == [0, 3, 6]
    jax.tree.map(np.testing.assert_array_equal, first[1:], again[1:])


def test_a_chunk_that_is_done_lets_go_of_the_optimisers_moments(tiny, monkeypatch):
    """Of all chunks before it, one holds parameters and curves alone."""
    group, kept = small_group(tiny), []

    class Memory(bytearray):  # of an array: unlike the array, all views of it hold it
        pass

    def moment():
        memory = Memory(3 * 8)
        kept.append(weakref.ref(memory))
        return np.frombuffer(memory).reshape(3, 1)

    def init(runs):
        gc.collect()
        assert not [memory for memory in kept if memory()]
        moments = [moment(), moment()]
        return State(np.zeros(3, np.int32), np.ones(3, bool), {"q": [np.asarray(runs.seed)]}, moments)

    def advance(state, runs, steps):
        return state._replace(step=state.step + steps), Metrics(*[runs.seed.astype(np.float32)] * 3)

    fake: Any = programs.Programs(3, init, advance)
    evaluate: Any = lambda params, runs, check: params  # noqa: E731
    trained = sweep.train(group, fake, evaluate)
    assert len(kept) == 6
    np.testing.assert_array_equal(trained.params["q"][0], group.runs.seed)
    np.testing.assert_array_equal(trained.steps, group.recipe.steps)


def test_what_comes_back_is_numpy_in_double_precision(trained):
    for group in trained:
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(group[1:]))
        assert {leaf.dtype for leaf in group.evaluation} == {np.dtype(np.float64)}
        assert group.evaluation.kl.shape == (16, group.group.layers)
        assert {leaf.dtype for leaf in jax.tree.leaves(group.params)} == {np.dtype(np.float32)}


def test_a_diverged_run_stops_and_leaves_the_others_alone(trained):
    for group in trained:
        sane = group.group.runs.learning_rate < 1.0
        np.testing.assert_array_equal(group.finite, sane)
        assert np.isfinite(group.evaluation.loss).all()  # of the parameters before the step that was not taken
        np.testing.assert_array_equal(group.steps == group.group.recipe.steps, sane)
        assert np.all(np.isfinite(jax.tree.leaves(group.curves)))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(group.params))
        pays = sane & (group.group.runs.n > group.group.runs.beta)  # to encode
        start, end = group.curves.loss[pays, 0], group.curves.loss[pays, -10:].mean(1)
        assert np.all(end < start)


@pytest.mark.parametrize(
    "axis, value, words",
    [
        ("seeds", 8, "seeds: got 8, expected a sequence of distinct integers from 0"),
        ("seeds", [1, -1], "expected distinct integers from 0 to"),
        ("seeds", [2**32], "seeds: got .4294967296., expected distinct integers from 0 to"),
        ("n", [5, 5], "n: got .5, 5., expected distinct integers from 1 to"),
        ("n", [0], "n: got .0., expected distinct integers from 1 to"),
        ("n", [1.5], "n: got .1.5., expected distinct integers from 1 to"),
        ("n", [], "n: got .., expected a sequence of distinct integers"),
        ("layers", [0], "layers: got .0., expected distinct integers from 1 to"),
        ("beta", [0.0], "beta: got .0.0., expected distinct numbers from 1.17549e-38 to"),
        ("beta", [1.0, -1.0], "beta: got .1.0, -1.0., expected distinct numbers from"),
        ("beta", [np.nan], "beta: got .nan., expected distinct numbers from"),
        ("learning_rate", [np.inf], "learning_rate: got .inf., expected distinct numbers from"),
        ("word_dropout", [1.5], "word_dropout: got .1.5., expected distinct numbers from 0 to 1"),
        ("word_dropout", [-0.1], "word_dropout: got .-0.1., expected distinct numbers from 0 to 1"),
        ("word_dropout", [0.5, np.nan], "word_dropout: got .0.5, nan., expected distinct numbers from 0 to 1"),
        ("word_dropout", [0.5, 0.5], "word_dropout: got .0.5, 0.5., expected distinct numbers from 0 to 1"),
        ("word_dropout", 0.5, "word_dropout: got 0.5, expected a sequence of distinct numbers from 0 to 1"),
        ("learning_rate", ["fast"], "learning_rate: got .'fast'., expected distinct numbers from"),
    ],
)
def test_a_plan_refuses_what_could_only_fail_later(tiny, axis, value, words):
    grid = {"layers": [1], "n": [5], "beta": [1.0], "word_dropout": None, "learning_rate": [1e-2], "seeds": range(2)}
    with pytest.raises(ValueError, match=words):
        sweep.plan(tiny["default"], **grid | {axis: value})
