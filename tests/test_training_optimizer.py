"""What a step does with a gradient: Adam, any other optimiser of optax, schedules of the rate and of beta."""

import functools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from one_run import after, assert_close, random_params, run, single, sized

from vae_bit import padding, presets, sweep, training

pytestmark = pytest.mark.usefixtures("quick_compile")


def test_adam_by_hand(tiny):
    """Kingma and Ba 2015, algorithm 1, fed the gradients of the program's own loss."""
    model, recipe = sized(tiny["default"], 1, 5)
    this = run(learning_rate=0.02)
    gradient = jax.jit(jax.grad(functools.partial(training.sampled_loss, model, recipe), has_aux=True))
    theta, unravel = ravel_pytree(after(model, recipe, this, 0).params)
    theta, m, v, (b1, b2) = np.asarray(theta, np.float64), 0.0, 0.0, recipe.optimizer.keywords.values()
    for t in range(1, 6):
        g = np.asarray(ravel_pytree(gradient(unravel(jnp.asarray(theta, jnp.float32)), t - 1, this)[0])[0], np.float64)
        m, v = b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g**2
        rate = 0.02 * (1.0 + np.cos(np.pi * (t - 1) / recipe.steps)) / 2.0
        theta = theta - rate * (m / (1.0 - b1**t)) / (np.sqrt(v / (1.0 - b2**t)) + 1e-8)
    np.testing.assert_allclose(ravel_pytree(after(model, recipe, this, 5).params)[0], theta, rtol=1e-4, atol=1e-6)


def test_one_column_trains_as_the_n_whose_mean_it_is(tiny):
    """W's n columns as parameters of their own, trained by Adam, beside their mean."""
    n, (model, recipe) = 4, sized(tiny["original"], 1, 4)
    this, b1, b2 = run(n), *recipe.optimizer.keywords.values()
    start = jax.tree.map(np.asarray, after(model, recipe, this, 0).params)
    spread = np.random.default_rng(0).normal(size=(4, n))
    kernel = start["q"][0]["params"]["mlp"]["hidden_0"]["kernel"]
    columns = kernel[:, :1] + spread - spread.mean(1, keepdims=True)

    def loss(theta, step):
        columns, params = theta
        params = jax.tree.map(jnp.asarray, params)
        first = params["q"][0]["params"]["mlp"]["hidden_0"]
        first["kernel"] = jnp.stack([columns @ jnp.ones(n) / n, first["kernel"][:, 1]], 1)  # reads the sum, n
        return training.sampled_loss(model, recipe, params, step, this)[0]

    gradient = jax.jit(jax.grad(loss))
    theta, unravel = ravel_pytree(jax.tree.map(np.float32, (columns, start)))
    theta, m, v = np.asarray(theta, np.float64), 0.0, 0.0
    for t in range(1, 11):
        g = np.asarray(ravel_pytree(gradient(unravel(jnp.asarray(theta, jnp.float32)), t - 1))[0], np.float64)
        m, v = b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g**2
        rate = this.learning_rate * np.asarray(presets.post_decay(recipe.steps)(jnp.int32(t - 1)), np.float64)
        theta = theta - rate * (m / (1.0 - b1**t)) / (np.sqrt(v / (1.0 - b2**t)) + 1e-8)
    trained, params = unravel(jnp.asarray(theta, jnp.float32))
    ours = after(model, recipe, this, 10).params
    column = ours["q"][0]["params"]["mlp"]["hidden_0"]["kernel"][:, 0]
    assert np.abs(column - kernel[:, 0]).min() > 0.01
    np.testing.assert_allclose(trained.mean(1), column, atol=1e-4)
    np.testing.assert_allclose(trained - trained.mean(1, keepdims=True), columns - kernel[:, :1], atol=1e-4)
    params["q"][0]["params"]["mlp"]["hidden_0"]["kernel"] = ours["q"][0]["params"]["mlp"]["hidden_0"]["kernel"]
    assert_close(params, ours, rtol=1e-3, atol=1e-4)


def test_the_post_s_schedule_step_by_step():
    """5e-3, times exp(ln(1e-4 / 5e-3) / 5000) after every step, and once more after every 1000th."""
    rate, used = 5e-3, []
    factor = np.exp(np.log(1e-4 / 5e-3) / 5000)
    for step in range(1, 5001):
        used.append(rate)
        rate *= factor
        if step % 1000 == 0:
            rate *= factor
    for step in (0, 1, 999, 1000, 1001, 4999):
        assert 5e-3 * presets.post_decay(5000)(jnp.int32(step)) == pytest.approx(used[step], rel=2e-6)


def test_the_cosine_schedule():
    steps = jnp.array([0, 25, 50, 75, 100])
    half = np.sqrt(0.5) / 2.0
    np.testing.assert_allclose(presets.cosine(100)(steps), [1.0, 0.5 + half, 0.5, 0.5 - half, 0.0], atol=1e-6)


def momentum(rate):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate, momentum=0.9))


def polyak(rate):
    """Needs the loss itself."""
    return optax.chain(optax.polyak_sgd(max_learning_rate=0.1), optax.scale_by_schedule(rate))


OPTIMIZERS = [optax.lion, momentum, optax.lamb, polyak, optax.lbfgs, optax.contrib.schedule_free_adamw]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_optimiser_of_optax_takes_the_steps_of_a_loop_written_with_it(tiny, optimizer):
    """`lbfgs` calls the loss again, under the noise of the same step."""
    model, recipe = sized(tiny["default"], 1, 5)
    recipe, this = replace(recipe, optimizer=optimizer, steps=40), run()
    outside = optax.with_extra_args_support(optimizer(lambda t: 0.02 * 0.5 * (1.0 + jnp.cos(jnp.pi * t / 40))))

    @jax.jit
    def one(params, state, step):
        def loss(params):
            return training.sampled_loss(model, recipe, params, step, this)[0]

        value, grad = jax.value_and_grad(loss)(params)
        updates, state = outside.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(params, updates), state

    start = after(model, recipe, this, 0).params
    params, state = start, outside.init(start)
    for step in range(6):
        params, state = one(params, state, step)
    assert np.abs(ravel_pytree(params)[0] - ravel_pytree(start)[0]).max() > 1e-3
    assert_close(after(model, recipe, this, 6).params, params, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_padding_changes_no_step_of_any_optimiser(tiny, optimizer):
    """Though `lamb` divides by a kernel's norm, `lbfgs` by inner products of all parameters, and `lion` decays them."""
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, optimizer=optimizer))
    padded, plain = (after(*sized(preset, 1, width), run(), 6).params for width in (8, 5))
    assert_close(padding.unpad(padded, plain), plain, rtol=1e-4, atol=1e-5)
    assert not padded["p"][0]["params"]["head"]["kernel"][5:].any()


def test_a_sweep_trains_with_an_optimiser_that_searches_along_a_line(tiny):
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, optimizer=optax.lbfgs, steps=5))
    (group,) = sweep.plan(preset, [1], [5], [0.7], None, [0.02], range(4))
    (trained,) = sweep.train_all([group])
    assert trained.finite.all() and trained.steps.tolist() == [5] * 4
    for seed in range(4):
        alone = after(group.model, group.recipe, run(seed=seed), 5).params
        assert_close(jax.tree.map(lambda leaf, i=seed: leaf[i], trained.params), alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step, share", [(0, 0.0), (3, 0.3), (10, 1.0), (25, 1.0)])
def test_a_warm_up_scales_beta(tiny, step, share):
    model, recipe = sized(tiny["original"], 2, 5)
    recipe, params = replace(recipe, beta_schedule=partial(presets.warmup, rise=10)), single(random_params(model, 5))
    loss, metrics = training.sampled_loss(model, recipe, params, jnp.int32(step), run(beta=0.7))
    np.testing.assert_allclose(loss, metrics.recon + share * 0.7 * metrics.kl, rtol=1e-6)
    assert abs(metrics.kl) > 0.01


@pytest.mark.parametrize("field", ["objective", "noise", "kl", "optimizer", "schedule", "beta_schedule"])
def test_a_name_where_a_function_belongs_is_refused(tiny, field):
    with pytest.raises(ValueError, match=f"^{field}: got 'adam', expected a function"):
        replace(tiny["default"].recipe, **{field: "adam"})
