"""One run: its loss against the mathematics in numpy, its gradients, and what padding may not change."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.flatten_util import ravel_pytree
from one_run import after, assert_close, random_params, run, single, sized, starter

from vae_bit import models, noise, padding, training
from vae_bit.noise import Noise

PRESETS = {"default": "closed", "original": "sampled"}  # and the KL that each takes
NOISES = [noise.iid, noise.lattice, noise.trapezoid]
pytestmark = pytest.mark.usefixtures("quick_compile")


def at_nodes(model, params, n, eps, kl):
    """recon and kl_l at given noise, in float64."""
    with jax.enable_x64(True):

        @jax.jit
        def terms(params, eps):
            noise = Noise(eps, jnp.ones(np.broadcast_shapes(*(layer.shape for layer in eps))))
            forward, _ = models.forward(model, params, n, jnp.float64(1), noise)
            return forward.recon, kl(forward)

        return jax.tree.map(np.asarray, terms(params, list(eps)))


@pytest.mark.parametrize("name", PRESETS)
def test_one_layer_against_its_elbo_by_hand(tiny, name):
    """ln p(x | z) - KL(q(z | x) || N(0, 1)), or its one-draw estimate, for the parameters of a run without padding."""
    n, (model, recipe) = 4, sized(tiny[name], 1, 6)
    padded = random_params(model, 6)
    eps = np.random.default_rng(1).normal(size=(1, 2, 7))
    recon, (kl,) = at_nodes(model, padded, n, eps, recipe.kl)
    with jax.enable_x64(True):
        like = padding.shapes(tiny[name].model(1, n).init, n)
        params = jax.tree.map(np.asarray, padding.unpad(padded, like))

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
            by_hand = closed if PRESETS[name] == "closed" else drawn
            assert np.broadcast_to(kl, recon.shape)[bit, k] == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", PRESETS)
def test_any_depth_against_numpy(tiny, name, layers):
    n, (model, recipe) = 4, sized(tiny[name], layers, 6)
    params = random_params(model, 6)
    eps = np.random.default_rng(1).normal(size=(layers, 2, 9))
    recon, kl = at_nodes(model, params, n, eps, recipe.kl)
    for bit in (0, 1):
        recon_by_hand, kl_by_hand = oracle.terms(tiny[name].model, params, n, bit, eps[:, bit], PRESETS[name])
        np.testing.assert_allclose(recon[bit], recon_by_hand, rtol=1e-10)
        for l in range(layers):
            np.testing.assert_allclose(np.broadcast_to(kl[l], recon.shape)[bit], kl_by_hand[l], rtol=1e-10, atol=1e-12)


def test_a_grid_of_noise_is_all_its_pairs(tiny):
    model, recipe = sized(tiny["default"], 2, 4)
    params = random_params(model, 4)
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 3, 1)), rng.normal(size=(2, 1, 4))
    recon, kl = at_nodes(model, params, 4, (first, second), recipe.kl)
    pairs = np.broadcast_arrays(first, second)
    for bit in (0, 1):
        eps = np.stack([axis[bit].ravel() for axis in pairs])
        expected = oracle.terms(tiny["default"].model, params, 4, bit, eps, "closed")
        np.testing.assert_allclose(np.broadcast_to(recon, (2, 3, 4))[bit].ravel(), expected[0], rtol=1e-10)
        for l in range(2):
            np.testing.assert_allclose(np.broadcast_to(kl[l], (2, 3, 4))[bit].ravel(), expected[1][l], rtol=1e-10)


@pytest.mark.parametrize("rule", NOISES)
@pytest.mark.parametrize(("name", "layers"), [("default", 2), ("original", 1)])
def test_the_sampled_loss_is_the_weighted_mean_over_nodes(tiny, name, layers, rule):
    model, recipe = sized(tiny[name], layers, 4)
    recipe, params, this = replace(recipe, noise=rule), random_params(model, 4), run(4)
    with jax.enable_x64(True):
        keys = [jax.random.wrap_key_data(jnp.array([this.seed, 2 * 11 + bit], jnp.uint32)) for bit in (0, 1)]
        eps, weight = zip(*(rule(key, layers, recipe.samples) for key in keys), strict=True)
        loss, metrics = jax.jit(functools.partial(training.sampled_loss, model, recipe))(params, 11, this)
    recon, kl = 0.0, 0.0
    for bit in (0, 1):
        nodes = np.stack([axis.ravel() for axis in np.broadcast_arrays(*eps[bit])])
        terms = oracle.terms(tiny[name].model, params, 4, bit, nodes, PRESETS[name])
        recon += terms[0] @ np.ravel(weight[bit]) / 2.0
        kl += np.sum(terms[1] @ np.ravel(weight[bit])) / 2.0
    np.testing.assert_allclose(metrics, (recon + np.float64(this.beta) * kl, recon, kl), rtol=1e-7)
    assert loss == metrics.loss


@pytest.mark.parametrize("rule", NOISES)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_mean_of_the_sampled_loss_is_the_exact_loss(trained, layers, rule):
    group, params, evaluation = (getattr(trained[layers - 1], name) for name in ("group", "params", "evaluation"))
    index = int(np.nanargmax(evaluation.mutual_information))
    this = jax.tree.map(lambda field: field[index], group.runs)
    params = jax.tree.map(lambda leaf: leaf[index], params)
    recipe = replace(group.recipe, noise=rule, samples=16)
    losses = jax.jit(jax.vmap(lambda step: training.sampled_loss(group.model, recipe, params, step, this)[0]))
    drawn = np.asarray(losses(jnp.arange(20_000)), np.float64)
    assert evaluation.mutual_information[index] > 0.3
    error = drawn.mean() - evaluation.loss[index]
    assert abs(error) < 4.0 * drawn.std() / np.sqrt(drawn.size) + 2e-6  # float32


@pytest.mark.parametrize(("name", "layers"), [("default", 1), ("default", 3), ("original", 2)])
def test_gradients_against_finite_differences(tiny, name, layers):
    model, recipe = sized(tiny[name], layers, 4)
    step = 1e-5
    with jax.enable_x64(True):
        theta, unravel = ravel_pytree(jax.tree.map(jnp.float64, random_params(model, 4, scale=0.3)))

        def loss(theta):
            return training.sampled_loss(model, recipe, unravel(theta), jnp.int32(5), run(3))[0]

        shifts = step * np.eye(theta.size)
        gradient = np.asarray(jax.jit(jax.grad(loss))(theta))
        losses = jax.jit(jax.vmap(loss))(theta[None] + np.concatenate([shifts, -shifts]))
        up, down = np.split(np.asarray(losses), 2)
    assert np.linalg.norm(gradient) > 0.1
    np.testing.assert_allclose(gradient, (up - down) / (2.0 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", PRESETS)
def test_extreme_logits_are_exact_and_their_gradients_finite(tiny, name):
    model, recipe = sized(tiny[name], 1, 8)
    recipe, params = replace(recipe, noise=noise.lattice), single(random_params(model, 8))
    head = params["p"][0]["params"]["head"]["kernel"]
    value = jax.jit(jax.value_and_grad(functools.partial(training.sampled_loss, model, recipe), has_aux=True))
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
    assert_close(padding.unpad(padded.params, plain.params), plain.params, rtol=1e-6)
    start = padded.params["p"][0]["params"]["head"]["kernel"][5:]
    padded, plain = (after(*sized(tiny[name], layers, width), run(), 10) for width in (8, 5))
    assert_close(padding.unpad(padded.params, plain.params), plain.params, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(padded.params["p"][0]["params"]["head"]["kernel"][5:], start)


def test_vmap_is_a_loop(tiny):
    model, recipe = sized(tiny["default"], 2, 8)
    runs = [run(5), run(8, seed=4), run(2, beta=2.0), run(5, learning_rate=1e-3), run(5)]
    batch = jax.tree.map(lambda *fields: np.stack(fields), *runs)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(starter(model, recipe)(one) for one in runs))
    update = jax.jit(jax.vmap(functools.partial(training.update, model, recipe)))
    for _ in range(10):
        states = update(states, batch)
    alone = [after(model, recipe, one, 10).params for one in runs]
    assert_close(states.params, jax.tree.map(lambda *leaves: np.stack(leaves), *alone), rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[0], leaf[-1]), states.params)


def test_jit_is_eager(tiny):
    model, recipe = sized(tiny["original"], 1, 5)
    value = jax.value_and_grad(functools.partial(training.sampled_loss, model, recipe), has_aux=True)
    args = jax.tree.map(jnp.asarray, (single(random_params(model, 5)), 3, run()))
    assert_close(jax.jit(value)(*args), value(*args), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_seed_fixes_a_run_and_no_other(tiny, seed):
    model, recipe = sized(tiny["default"], 2, 8)
    first, again, other = (after(model, recipe, run(seed=s), 3).params for s in (seed, seed, seed ^ 2**31))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert ravel_pytree(jax.tree.map(lambda a, b: np.abs(a - b), first, other))[0].mean() > 0.01


def test_every_step_draws_fresh_noise_for_each_point(tiny):
    model, recipe = sized(tiny["default"], 1, 5)
    params, loss = single(random_params(model, 5)), jax.jit(functools.partial(training.sampled_loss, model, recipe))
    losses = [float(loss(params, step, run(seed=seed))[0]) for step in range(4) for seed in (0, 1, 2**31, 2**32 - 1)]
    assert len(set(losses)) == 16


def test_advance_is_so_many_updates_and_the_loss_of_the_step_to_come(tiny):
    model, recipe = sized(tiny["default"], 1, 5)
    advance = jax.jit(functools.partial(training.advance, model, recipe))
    loss = jax.jit(functools.partial(training.sampled_loss, model, recipe))
    for steps in (0, 1, 7):
        state, metrics = advance(starter(model, recipe)(run()), run(), steps)
        expected = after(model, recipe, run(), steps)
        assert state.step == expected.step == steps
        assert_close(state.params, expected.params, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(metrics, loss(expected.params, steps, run())[1], rtol=1e-4)
        np.testing.assert_allclose(metrics.loss, metrics.recon + 0.7 * metrics.kl, rtol=1e-6)
