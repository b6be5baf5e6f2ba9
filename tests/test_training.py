"""One run: its loss against the mathematics in numpy, its gradients, its optimiser, and what padding may not change."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.flatten_util import ravel_pytree

from vae_bit import models, noise, training
from vae_bit.training import Run

PRESETS = ("default", "original")
pytestmark = pytest.mark.usefixtures("quick_compile")


def run(n=5, seed=3, beta=0.7, learning_rate=0.02):
    numbers: Any = np.int32(n), np.uint32(seed), np.float64(beta), np.float64(learning_rate)
    return Run(*numbers)


def sized(preset, layers, width):
    return replace(preset.architecture, layers=layers, width=width), preset.recipe


def random_params(arch, seed=0, scale=0.6):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: scale * rng.normal(size=leaf.shape), models.shapes(arch))


def single(params):
    return jax.tree.map(np.float32, params)


@functools.cache
def starter(arch, recipe):
    return jax.jit(functools.partial(training.init, arch, recipe))


@functools.cache
def updater(arch, recipe):
    return jax.jit(functools.partial(training.update, arch, recipe))


def after(arch, recipe, run, steps):
    state = starter(arch, recipe)(run)
    for _ in range(steps):
        state = updater(arch, recipe)(state, run)
    return state


def assert_close(tree, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), tree, other)


def at_nodes(arch, params, n, eps, kl):
    """recon and kl_l at given noise, in float64."""
    with jax.enable_x64(True):

        @jax.jit
        def terms(params, eps):
            path = models.forward(arch, params, n, eps)
            return path.recon, training.kl_terms(path, list(eps), kl)

        return jax.tree.map(np.asarray, terms(params, list(eps)))


@pytest.mark.parametrize("name", PRESETS)
def test_one_layer_against_its_elbo_by_hand(tiny, name):
    """ln p(x | z) - KL(q(z | x) || N(0, 1)), or its one-draw estimate, for the parameters of a run without padding."""
    n, (arch, recipe) = 4, sized(tiny[name], 1, 6)
    padded = random_params(arch)
    eps = np.random.default_rng(1).normal(size=(1, 2, 7))
    recon, (kl,) = at_nodes(arch, padded, n, eps, recipe.kl)
    with jax.enable_x64(True):
        params = jax.tree.map(np.asarray, models.unpad(padded, n))

    def network(params, h):
        for layer in params["params"].get("mlp", {}).values():
            v = layer["kernel"] @ np.append(h, 1.0)
            h = np.tanh(v) if name == "default" else np.where(v > 0.0, v, np.exp(np.minimum(v, 0.0)) - 1.0)
        return params["params"]["head"]["kernel"] @ np.append(h, 1.0)

    for bit in (0, 1):
        mean, raw = network(params["q"][0], (-8.0, 8.0)[bit] if name == "default" else n * bit)
        std = np.exp(raw) if name == "default" else np.sqrt(np.log(1.0 + np.exp(raw)) + 1e-8)
        for k, e in enumerate(eps[0, bit]):
            z = mean + std * e
            logits = network(params["p"][0], z)
            log_p_x = np.sum(bit * logits - np.log(1.0 + np.exp(logits)))
            closed = (mean**2 + std**2 - 1.0) / 2.0 - np.log(std)
            drawn = (z**2 - e**2) / 2.0 - np.log(std)
            assert recon[bit, k] == pytest.approx(-log_p_x, rel=1e-12)
            by_hand = closed if recipe.kl == "closed" else drawn
            assert np.broadcast_to(kl, recon.shape)[bit, k] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", PRESETS)
def test_any_depth_against_numpy(tiny, name, layers):
    n, (arch, recipe) = 4, sized(tiny[name], layers, 6)
    params = random_params(arch)
    eps = np.random.default_rng(1).normal(size=(layers, 2, 9))
    recon, kl = at_nodes(arch, params, n, eps, recipe.kl)
    for bit in (0, 1):
        recon_by_hand, kl_by_hand = oracle.terms(arch, params, n, bit, eps[:, bit], recipe.kl)
        np.testing.assert_allclose(recon[bit], recon_by_hand, rtol=1e-10)
        for l in range(layers):
            np.testing.assert_allclose(np.broadcast_to(kl[l], recon.shape)[bit], kl_by_hand[l], rtol=1e-10, atol=1e-12)


def test_a_grid_of_noise_is_all_its_pairs(tiny):
    arch, recipe = sized(tiny["default"], 2, 4)
    params = random_params(arch)
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 3, 1)), rng.normal(size=(2, 1, 4))
    recon, kl = at_nodes(arch, params, 4, (first, second), recipe.kl)
    pairs = np.broadcast_arrays(first, second)
    for bit in (0, 1):
        eps = np.stack([axis[bit].ravel() for axis in pairs])
        expected = oracle.terms(arch, params, 4, bit, eps, "closed")
        np.testing.assert_allclose(np.broadcast_to(recon, (2, 3, 4))[bit].ravel(), expected[0], rtol=1e-10)
        for l in range(2):
            np.testing.assert_allclose(np.broadcast_to(kl[l], (2, 3, 4))[bit].ravel(), expected[1][l], rtol=1e-10)


@pytest.mark.parametrize("kind", ["iid", "lattice", "trapezoid"])
@pytest.mark.parametrize(("name", "layers"), [("default", 2), ("original", 1)])
def test_the_sampled_loss_is_the_weighted_mean_over_nodes(tiny, name, layers, kind):
    arch, recipe = sized(tiny[name], layers, 4)
    recipe, params, this = replace(recipe, noise=kind), random_params(arch), run(4)
    with jax.enable_x64(True):
        keys = [jax.random.wrap_key_data(jnp.array([this.seed, 2 * 11 + bit], jnp.uint32)) for bit in (0, 1)]
        eps, weight = zip(*(noise.draw(key, kind, layers, recipe.samples) for key in keys), strict=True)
        loss, metrics = jax.jit(functools.partial(training.sampled_loss, arch, recipe))(params, 11, this)
    recon, kl = 0.0, 0.0
    for bit in (0, 1):
        nodes = np.stack([axis.ravel() for axis in np.broadcast_arrays(*eps[bit])])
        terms = oracle.terms(arch, params, 4, bit, nodes, recipe.kl)
        recon += terms[0] @ np.ravel(weight[bit]) / 2.0
        kl += np.sum(terms[1] @ np.ravel(weight[bit])) / 2.0
    np.testing.assert_allclose(metrics, (recon + np.float64(this.beta) * kl, recon, kl), rtol=1e-7)
    assert loss == metrics.loss


@pytest.mark.parametrize("kind", ["iid", "lattice", "trapezoid"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_mean_of_the_sampled_loss_is_the_exact_loss(trained, layers, kind):
    group, params, evaluation = (getattr(trained[layers - 1], name) for name in ("group", "params", "evaluation"))
    index = int(np.nanargmax(evaluation.mutual_information))
    this = jax.tree.map(lambda field: field[index], group.runs)
    params = jax.tree.map(lambda leaf: leaf[index], params)
    recipe = replace(group.recipe, noise=kind, samples=16)
    losses = jax.jit(jax.vmap(lambda step: training.sampled_loss(group.arch, recipe, params, step, this)[0]))
    drawn = np.asarray(losses(jnp.arange(20_000)), np.float64)
    assert evaluation.mutual_information[index] > 0.3
    error = drawn.mean() - evaluation.loss[index]
    assert abs(error) < 4.0 * drawn.std() / np.sqrt(drawn.size) + 2e-6  # float32


@pytest.mark.parametrize(("name", "layers"), [("default", 1), ("default", 3), ("original", 2)])
def test_gradients_against_finite_differences(tiny, name, layers):
    arch, recipe = sized(tiny[name], layers, 4)
    step = 1e-5
    with jax.enable_x64(True):
        theta, unravel = ravel_pytree(jax.tree.map(jnp.float64, random_params(arch, scale=0.3)))

        def loss(theta):
            return training.sampled_loss(arch, recipe, unravel(theta), jnp.int32(5), run(3))[0]

        shifts = step * np.eye(theta.size)
        gradient = np.asarray(jax.jit(jax.grad(loss))(theta))
        losses = jax.jit(jax.vmap(loss))(theta[None] + np.concatenate([shifts, -shifts]))
        up, down = np.split(np.asarray(losses), 2)
    assert np.linalg.norm(gradient) > 0.1
    np.testing.assert_allclose(gradient, (up - down) / (2.0 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", PRESETS)
def test_extreme_logits_are_exact_and_their_gradients_finite(tiny, name):
    arch, recipe = sized(tiny[name], 1, 8)
    recipe, params = replace(recipe, noise="lattice"), single(random_params(arch))
    head = params["p"][0]["params"]["head"]["kernel"]
    value = jax.jit(jax.value_and_grad(functools.partial(training.sampled_loss, arch, recipe), has_aux=True))
    for logit in (-200.0, 200.0):
        head[:, :-1], head[:, -1] = 0.0, logit
        (loss, metrics), gradient = value(params, 0, run(5))
        np.testing.assert_allclose(metrics.recon, 5 * 200.0 / 2.0, rtol=1e-5)
        assert np.isfinite(loss)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
        bias = gradient["p"][0]["params"]["head"]["kernel"][:, -1]
        np.testing.assert_allclose(bias, [np.sign(logit) / 2.0] * 5 + [0.0] * 3, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", PRESETS)
def test_padding_changes_nothing(tiny, name, layers):
    """A run of n = 5 at width 8 and at width 5: initial parameters and ten steps."""
    padded, plain = (after(*sized(tiny[name], layers, width), run(), 0) for width in (8, 5))
    assert_close(models.unpad(padded.params, 5), plain.params, rtol=1e-6)
    start = padded.params["p"][0]["params"]["head"]["kernel"][5:]
    padded, plain = (after(*sized(tiny[name], layers, width), run(), 10) for width in (8, 5))
    assert_close(models.unpad(padded.params, 5), plain.params, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(padded.params["p"][0]["params"]["head"]["kernel"][5:], start)


def test_vmap_is_a_loop(tiny):
    arch, recipe = sized(tiny["default"], 2, 8)
    runs = [run(5), run(8, seed=4), run(2, beta=2.0), run(5, learning_rate=1e-3), run(5)]
    batch = jax.tree.map(lambda *fields: np.stack(fields), *runs)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(starter(arch, recipe)(one) for one in runs))
    update = jax.jit(jax.vmap(functools.partial(training.update, arch, recipe)))
    for _ in range(10):
        states = update(states, batch)
    alone = [after(arch, recipe, one, 10).params for one in runs]
    assert_close(states.params, jax.tree.map(lambda *leaves: np.stack(leaves), *alone), rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[0], leaf[-1]), states.params)


def test_jit_is_eager(tiny):
    arch, recipe = sized(tiny["original"], 1, 5)
    value = jax.value_and_grad(functools.partial(training.sampled_loss, arch, recipe), has_aux=True)
    args = jax.tree.map(jnp.asarray, (single(random_params(arch)), 3, run()))
    assert_close(jax.jit(value)(*args), value(*args), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_seed_fixes_a_run_and_no_other(tiny, seed):
    arch, recipe = sized(tiny["default"], 2, 8)
    first, again, other = (after(arch, recipe, run(seed=s), 3).params for s in (seed, seed, seed ^ 2**31))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert ravel_pytree(jax.tree.map(lambda a, b: np.abs(a - b), first, other))[0].mean() > 0.01


def test_every_step_draws_fresh_noise_for_each_point(tiny):
    arch, recipe = sized(tiny["default"], 1, 5)
    params, loss = single(random_params(arch)), jax.jit(functools.partial(training.sampled_loss, arch, recipe))
    losses = [float(loss(params, step, run(seed=seed))[0]) for step in range(4) for seed in (0, 1, 2**31, 2**32 - 1)]
    assert len(set(losses)) == 16


def test_adam_by_hand(tiny):
    """Kingma and Ba 2015, algorithm 1, fed the gradients of the program's own loss."""
    arch, recipe = sized(tiny["default"], 1, 5)
    this = run(learning_rate=0.02)
    gradient = jax.jit(jax.grad(functools.partial(training.sampled_loss, arch, recipe), has_aux=True))
    theta, unravel = ravel_pytree(after(arch, recipe, this, 0).params)
    theta, m, v, (b1, b2) = np.asarray(theta, np.float64), 0.0, 0.0, recipe.betas
    for t in range(1, 6):
        g = np.asarray(ravel_pytree(gradient(unravel(jnp.asarray(theta, jnp.float32)), t - 1, this)[0])[0], np.float64)
        m, v = b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g**2
        rate = 0.02 * (1.0 + np.cos(np.pi * (t - 1) / recipe.steps)) / 2.0
        theta = theta - rate * (m / (1.0 - b1**t)) / (np.sqrt(v / (1.0 - b2**t)) + 1e-8)
    np.testing.assert_allclose(ravel_pytree(after(arch, recipe, this, 5).params)[0], theta, rtol=1e-4, atol=1e-6)


def test_one_column_trains_as_the_n_whose_mean_it_is(tiny):
    """W's n columns as parameters of their own, trained by Adam, beside their mean."""
    n, (arch, recipe) = 4, sized(tiny["original"], 1, 4)
    this, b1, b2 = run(n), *recipe.betas
    start = jax.tree.map(np.asarray, after(arch, recipe, this, 0).params)
    spread = np.random.default_rng(0).normal(size=(4, n))
    kernel = start["q"][0]["params"]["mlp"]["hidden_0"]["kernel"]
    columns = kernel[:, :1] + spread - spread.mean(1, keepdims=True)

    def loss(theta, step):
        columns, params = theta
        params = jax.tree.map(jnp.asarray, params)
        first = params["q"][0]["params"]["mlp"]["hidden_0"]
        first["kernel"] = jnp.stack([columns @ jnp.ones(n) / n, first["kernel"][:, 1]], 1)  # reads the sum, n
        return training.sampled_loss(arch, recipe, params, step, this)[0]

    gradient = jax.jit(jax.grad(loss))
    theta, unravel = ravel_pytree(jax.tree.map(np.float32, (columns, start)))
    theta, m, v = np.asarray(theta, np.float64), 0.0, 0.0
    for t in range(1, 11):
        g = np.asarray(ravel_pytree(gradient(unravel(jnp.asarray(theta, jnp.float32)), t - 1))[0], np.float64)
        m, v = b1 * m + (1.0 - b1) * g, b2 * v + (1.0 - b2) * g**2
        rate = this.learning_rate * float(training.decay("post", jnp.int32(t - 1), recipe.steps))
        theta = theta - rate * (m / (1.0 - b1**t)) / (np.sqrt(v / (1.0 - b2**t)) + 1e-8)
    trained, params = unravel(jnp.asarray(theta, jnp.float32))
    ours = after(arch, recipe, this, 10).params
    column = ours["q"][0]["params"]["mlp"]["hidden_0"]["kernel"][:, 0]
    assert np.abs(column - kernel[:, 0]).min() > 0.01
    np.testing.assert_allclose(trained.mean(1), column, atol=1e-4)
    np.testing.assert_allclose(trained - trained.mean(1, keepdims=True), columns - kernel[:, :1], atol=1e-4)
    params["q"][0]["params"]["mlp"]["hidden_0"]["kernel"] = ours["q"][0]["params"]["mlp"]["hidden_0"]["kernel"]
    assert_close(params, ours, rtol=1e-3, atol=1e-4)


def test_advance_is_so_many_updates_and_the_loss_of_the_step_to_come(tiny):
    arch, recipe = sized(tiny["default"], 1, 5)
    advance = jax.jit(functools.partial(training.advance, arch, recipe))
    loss = jax.jit(functools.partial(training.sampled_loss, arch, recipe))
    for steps in (0, 1, 7):
        state, metrics = advance(starter(arch, recipe)(run()), run(), steps)
        expected = after(arch, recipe, run(), steps)
        assert state.step == expected.step == steps
        assert_close(state.params, expected.params, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics, loss(expected.params, steps, run())[1], rtol=1e-4)
        np.testing.assert_allclose(metrics.loss, metrics.recon + 0.7 * metrics.kl, rtol=1e-6)


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
        assert 5e-3 * training.decay("post", jnp.int32(step), 5000) == pytest.approx(used[step], rel=2e-6)


def test_the_cosine_schedule():
    steps = jnp.array([0, 25, 50, 75, 100])
    half = np.sqrt(0.5) / 2.0
    np.testing.assert_allclose(training.decay("cosine", steps, 100), [1.0, 0.5 + half, 0.5, 0.5 - half, 0.0], atol=1e-6)
