"""What goes wrong within a sweep stays with those runs: no memory, gradients that overflow."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit import sweep
from vae_bit.programs import Programs, chunks, compile_evaluate, compile_programs
from vae_bit.store import results
from vae_bit.training import Metrics, State

THE_PARAMETERS: Any = lambda params, runs, check: params  # noqa: E731 - in place of the exact evaluation


@pytest.fixture
def small_memory(monkeypatch):
    """Devices with room for chunks of so many runs, whose programs only count steps: the parameter is the seed."""
    sizes = []

    def programs(most, group, chunk=None):
        sizes.append(chunks(group, chunk)[0].stop)

        def init(runs):
            step, finite = jnp.zeros(runs.n.size, jnp.int32), jnp.ones(runs.n.size, bool)
            return State(step, finite, {"q": [runs.seed]}, jnp.zeros((runs.n.size, 1)))

        def advance(state, runs, steps):
            if sizes[-1] > most and state.step[0] > 1 and 5 in runs.seed:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
            return state._replace(step=state.step + steps), Metrics(*[runs.seed.astype(np.float32)] * 3)

        return Programs(sizes[-1], init, advance)

    def limit(most):
        monkeypatch.setattr(sweep, "compile_programs", functools.partial(programs, most))
        return sizes

    return limit


def test_out_of_memory_the_chunk_is_halved(tiny, small_memory):
    """In the third; what is done by then stays."""
    sizes = small_memory(3)
    (group,) = sweep.plan(tiny["default"], [1], [2], [1.0], None, [1e-2], [*range(10, 18), *range(9)])
    heard = []
    watch = sweep.UNWATCHED._replace(report=lambda runs, progress: heard.append((int(runs[0]), int(runs[-1]) + 1)))
    with pytest.warns(UserWarning, match="out of device memory: layers 1, n up to 2: .* runs at a time") as notices:
        trained = sweep.train(group, sweep.compile_programs(group, 8), THE_PARAMETERS, watch)
    assert sizes == [6, 3]
    assert len(notices) == 1
    np.testing.assert_array_equal(trained.params["q"][0], group.runs.seed)
    np.testing.assert_array_equal(trained.curves.loss[:, -1], group.runs.seed)
    assert set(trained.steps) == {tiny["default"].recipe.steps}
    assert list(dict.fromkeys(heard)) == [(0, 6), (6, 12), (12, 17), (12, 15), (15, 17)]


def test_out_of_memory_with_a_run_on_each_device(tiny, small_memory):
    small_memory(0)
    (group,) = sweep.plan(tiny["default"], [1], [2], [1.0], None, [1e-2], range(17))
    with pytest.warns(UserWarning), pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        sweep.train(group, sweep.compile_programs(group), THE_PARAMETERS)


@pytest.fixture(scope="module")
def wide(tiny, quick_compile):
    """64 runs of one layer, their programs and their healthy outcome."""
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=60))
    (group,) = sweep.plan(preset, [1], [2], [1.0], None, [1e-2], range(64))
    programs = compile_programs(group), compile_evaluate(group.model, group.width, 64)
    return group, programs, sweep.train(group, *programs)


def test_three_of_64_runs_diverge_and_change_no_bit_of_the_others(wide):
    group, programs, healthy = wide
    bad = np.isin(np.arange(64), (0, 21, 63))
    rate = np.where(bad, 1e18, group.runs.learning_rate)
    mixed = sweep.train(group._replace(runs=group.runs._replace(learning_rate=rate)), *programs)
    for mine, theirs in zip(jax.tree.leaves(mixed[1:]), jax.tree.leaves(healthy[1:]), strict=True):
        np.testing.assert_array_equal(mine[~bad], theirs[~bad])
    rows = results.contents(mixed).rows
    np.testing.assert_array_equal(rows["status"] == "diverged", bad)
    assert set(rows["steps"][~bad]) == {60}
    assert np.all((rows["steps"][bad] > 0) & (rows["steps"][bad] < 60))
    curves = np.stack(mixed.curves)
    assert np.all(np.isfinite(curves))
    last = rows["steps"][bad].max()
    np.testing.assert_array_equal(curves[:, bad, last + 1 :], curves[:, bad, last : last + 1].repeat(60 - last, 2))
