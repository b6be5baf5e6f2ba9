"""A run whose numbers overflow has diverged at that step, though its gradients may stay finite."""

import functools
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit import sweep, training
from vae_bit.training import Run

pytestmark = pytest.mark.usefixtures("quick_compile")


def run(learning_rate: float, n: int = 5) -> Run:
    numbers: Any = np.int32(n), np.uint32(0), *np.float32([1.0, learning_rate, 1.0])
    return Run(*numbers)


def started(tiny, **fields):
    model = tiny["default"].model(1, 5)
    recipe = replace(tiny["default"].recipe, **fields)
    return model, recipe, jax.jit(functools.partial(training.init, model, recipe))


@pytest.mark.parametrize("size, stops", [(1e15, False), (1e24, True), (np.inf, True), (np.nan, True)])
def test_a_gradient_whose_square_overflows_stops_the_run(tiny, monkeypatch, size, stops):
    """Adam would divide by an infinite moment and leave the parameters where they are, in steps counted as good."""
    model, recipe, init = started(tiny)
    state = init(run(1e-2))

    def steep(model, recipe, params, step, run):
        weight = jnp.where(step == 1, size, 1.0)
        return weight * jnp.sum(params["p"][0]["params"]["head"]["kernel"]), None

    monkeypatch.setattr(training, "sampled_loss", steep)
    update = jax.jit(functools.partial(training.update, model, recipe))
    states = [state]
    for _ in range(4):
        states.append(update(states[-1], run(1e-2)))
    assert [int(each.step) for each in states] == ([0, 1, 1, 1, 1] if stops else [0, 1, 2, 3, 4])
    assert bool(states[-1].finite) != stops
    heads = [each.params["p"][0]["params"]["head"]["kernel"] for each in states]
    assert np.isfinite(heads[-1]).all()
    moved = [bool((a != b).any()) for a, b in pairwise(heads)]
    assert moved == ([True, False, False, False] if stops else [True] * 4)


def test_a_change_that_overflows_is_not_made(tiny):
    model, recipe, init = started(tiny)
    state = init(run(3e38))
    after = jax.jit(functools.partial(training.update, model, recipe))(state, run(3e38))
    assert (int(after.step), bool(after.finite)) == (0, False)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_an_infinite_loss_with_finite_gradients_stops_the_run(tiny):
    """Logits of 2e38 in each of five dimensions: their sum overflows, their gradients are sigmoids."""
    model, recipe, init = started(tiny)
    state = init(run(1e-30))
    head = state.params["p"][0]["params"]["head"]
    head["kernel"] = jnp.zeros_like(head["kernel"]).at[:, -1].set(2e38)
    advance = jax.jit(functools.partial(training.advance, model, recipe))
    state, metrics = advance(state, run(1e-30), 3)
    assert (int(state.step), bool(state.finite), float(metrics.loss)) == (3, False, np.inf)
    assert int(advance(state, run(1e-30), 3)[0].step) == 3


def test_a_rate_of_four_diverges_where_a_square_overflows(tiny):
    """In a sweep such runs used to end with all steps counted as good, having stood still from the second on."""
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=20))
    (group,) = sweep.plan(preset, [1], [5], [1.0], None, [1e-2, 1e12], range(3))
    (trained,) = sweep.train_all([group])
    slow = group.runs.learning_rate < 1.0
    assert trained.finite.tolist() == slow.tolist()
    assert (trained.steps[slow] == 20).all() and (trained.steps[~slow] < 20).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.params))
