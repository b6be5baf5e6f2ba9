"""What each objective makes training raise: its value and gradient under the noise of one step."""

import functools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from vae_bit import noise, objectives, padding, training
from vae_bit.training import Run

pytestmark = pytest.mark.usefixtures("quick_compile")
RUN = Run(*(jnp.asarray(field) for field in (np.float32(3), np.uint32(5), *np.float32([1, 1e-2, 1]))))


def groups(k, rule):
    """Noise in groups of k draws."""
    return partial(noise.grouped, k=k, rule=rule)


def started(model):
    """Parameters a little away from the start, where an encoder of signs is the prior and its KL flat."""
    rng = np.random.default_rng(1)
    params = model.init(jax.random.key(1), RUN.n)
    return jax.tree.map(lambda leaf: leaf + np.float32(0.03 * rng.normal(size=leaf.shape)), params)


@pytest.fixture(scope="module")
def step(tiny):
    """(depth, steps, recipe's fields) -> losses and gradients under the noise of each step, [steps, ...]."""
    preset = tiny["default"]

    def run(layers, steps, **fields):
        model = preset.model(layers, 3)
        recipe = replace(preset.recipe, **fields)
        loss = partial(training.sampled_loss, model, recipe)
        params = started(model)
        one = jax.value_and_grad(lambda params, step: loss(params, step, RUN)[0])
        return jax.jit(jax.vmap(one, (None, 0)))(params, jnp.arange(steps))

    return functools.cache(run)


def flat(tree):
    leaves = [np.reshape(leaf, (leaf.shape[0], -1)) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves, -1, dtype=np.float64)


def assert_same_mean(a, b):
    """Two estimates of one vector, [steps, size] each, agree within five standard errors of their difference."""
    error = np.std(a - b, 0) / np.sqrt(len(a))
    assert (np.abs(np.mean(a - b, 0)) < 5.0 * error + 1e-6).all()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("objective", [objectives.iwae, objectives.renyi, objectives.dreg])
def test_one_draw_makes_every_bound_the_elbo(step, layers, objective):
    elbo, gradient = step(layers, 2, noise=noise.lattice, samples=64, kl=objectives.sampled_kl)
    bound, other = step(layers, 2, noise=groups(1, noise.lattice), samples=64, objective=objective)
    np.testing.assert_allclose(bound, elbo, rtol=1e-5)
    np.testing.assert_allclose(flat(gradient["p"]), flat(other["p"]), rtol=1e-4, atol=1e-5)
    if objective is not objectives.dreg:
        np.testing.assert_allclose(flat(gradient["q"]), flat(other["q"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    "objective, rule, plain",
    [
        (objectives.path, noise.iid, objectives.elbo),
        (objectives.dreg, groups(4, noise.iid), objectives.iwae),
    ],
)
def test_other_gradients_have_the_value_and_the_mean_of_the_plain_one(step, layers, objective, rule, plain):
    fields = {"noise": rule, "samples": 8, "kl": objectives.sampled_kl}
    value, gradient = step(layers, 2_000, objective=plain, **fields)
    other_value, other_gradient = step(layers, 2_000, objective=objective, **fields)
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    np.testing.assert_allclose(flat(gradient["p"]), flat(other_gradient["p"]), rtol=1e-4, atol=1e-5)
    assert_same_mean(flat(gradient["q"]), flat(other_gradient["q"]))
    assert (np.abs(flat(gradient["q"])[0] - flat(other_gradient["q"])[0]) > 1e-3).any()


@pytest.mark.parametrize("rule", [noise.iid, noise.lattice])
def test_the_bound_of_two_draws_is_its_double_integral(step, tiny, rule):
    model = tiny["default"].model(1, 3)
    params = started(model)
    t, h = np.linspace(-7.0, 7.0, 141, retstep=True)
    q = model.encode(params, RUN.n)
    log_w = []
    for point, sign in enumerate((1.0, -1.0)):
        mean, std = float(q.mean[point]), float(q.std[point])
        z = mean + std * t
        logits = np.float64(model.decode(params, jnp.asarray(z, jnp.float32)))
        log_w.append(-np.logaddexp(0.0, sign * logits).sum(0) - 0.5 * z**2 + 0.5 * t**2 + np.log(std))
    weight = h * np.exp(-0.5 * t**2) / np.sqrt(2.0 * np.pi)
    exact = [weight @ (np.logaddexp(w[:, None], w[None]) - np.log(2.0)) @ weight for w in log_w]
    values, _ = step(1, 200, objective=objectives.iwae, noise=groups(2, rule), samples=64)
    assert abs(-np.mean(values) - np.mean(exact)) < 4.0 * np.std(values) / np.sqrt(200) + 1e-5
    renyi, _ = step(1, 200, objective=objectives.renyi, noise=groups(2, rule), samples=64)
    tempered = [weight @ (2 * np.logaddexp(w[:, None] / 2, w[None] / 2) - 2 * np.log(2.0)) @ weight for w in log_w]
    assert abs(-np.mean(renyi) - np.mean(tempered)) < 4.0 * np.std(renyi) / np.sqrt(200) + 1e-5


def test_more_draws_raise_the_bound_and_renyi_lies_below_it(step):
    def mean(objective, k):
        return np.mean(step(2, 50, objective=objective, noise=groups(k, noise.lattice), samples=64)[0])

    elbo, two, eight = (mean(objectives.iwae, k) for k in (1, 2, 8))
    renyi = mean(objectives.renyi, 8)
    assert elbo > two > eight
    assert elbo > renyi > eight


@pytest.mark.parametrize("layers", [1, 2])
def test_free_bits_are_one_bit_in_all(step, tiny, layers):
    model = tiny["default"].model(layers, 3)
    recipe = replace(tiny["default"].recipe, samples=24, objective=objectives.free_bits)
    params = started(model)
    loss, metrics = training.sampled_loss(model, recipe, params, jnp.array(0), RUN)
    assert metrics.kl < np.log(2.0)
    np.testing.assert_allclose(loss, metrics.recon + np.log(2.0), rtol=1e-6)
    _, gradient = step(layers, 1, samples=24, objective=objectives.free_bits)
    recon_only = jax.grad(lambda p: training.sampled_loss(model, recipe, p, jnp.array(0), RUN)[1].recon)(params)
    np.testing.assert_allclose(flat(gradient)[0], flat(jax.tree.map(lambda g: g[None], recon_only))[0], atol=1e-5)


@pytest.mark.parametrize("floor", [0.05, 2.0])
def test_free_bits_of_another_floor(step, floor):
    fields = {"samples": 24, "objective": partial(objectives.free_bits, floor=floor)}
    value, _ = step(1, 1, **fields)
    elbo, _ = step(1, 1, samples=24)
    recon, _ = step(1, 1, samples=24, objective=lambda draws: draws.mean(draws.recon))
    np.testing.assert_allclose(value, recon + np.maximum(elbo - recon, floor), rtol=1e-6)


def squared_kl(draws):
    return draws.mean(draws.recon) + draws.beta * sum(map(draws.mean, draws.kl)) ** 2


@pytest.mark.parametrize(
    "name, layers, kl", [("default", 1, "closed"), ("default", 3, "closed"), ("original", 2, "sampled")]
)
def test_an_objective_of_one_s_own_against_its_formula_by_hand(tiny, name, layers, kl):
    """recon + beta KL^2, and its gradient, which an ELBO's recon and KL give by the chain rule."""
    arch, run = tiny[name].model, RUN._replace(beta=jnp.float32(0.7))
    model, recipe = arch(layers, 3), replace(tiny[name].recipe, objective=squared_kl)
    params = started(model)
    loss, gradient = jax.value_and_grad(lambda p: training.sampled_loss(model, recipe, p, jnp.int32(4), run)[0])(params)
    keys = [jax.random.wrap_key_data(jnp.array([run.seed, 2 * 4 + bit], jnp.uint32)) for bit in (0, 1)]
    recon, kls = 0.0, 0.0
    for bit, (eps, weight) in enumerate(recipe.noise(key, layers, recipe.samples) for key in keys):
        nodes = np.stack([np.ravel(axis) for axis in np.broadcast_arrays(*eps)]).astype(np.float64)
        terms = oracle.terms(arch, params, 3, bit, nodes, kl)
        recon += terms[0] @ np.ravel(weight) / 2.0
        kls += np.sum(terms[1] @ np.ravel(weight)) / 2.0
    np.testing.assert_allclose(loss, recon + 0.7 * kls**2, rtol=1e-5)
    parts = jax.jacobian(lambda p: training.sampled_loss(model, recipe, p, jnp.int32(4), run)[1])(params)
    expected = jax.tree.map(lambda recon, kl: recon + 0.7 * 2.0 * kls * kl, parts.recon, parts.kl)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, expected)


def test_an_objective_sees_how_much_of_training_is_behind(tiny):
    model, recipe = tiny["default"].model(1, 3), replace(tiny["default"].recipe, objective=lambda draws: draws.progress)
    losses = [training.sampled_loss(model, recipe, started(model), jnp.int32(step), RUN)[0] for step in (0, 75, 300)]
    np.testing.assert_allclose(losses, [0.0, 0.25, 1.0])


def test_an_objective_that_is_no_number_is_refused(tiny):
    model, recipe = tiny["default"].model(1, 3), replace(tiny["default"].recipe, objective=lambda draws: draws.recon)
    with pytest.raises(ValueError, match=r"objective: got values of shape \(2, 4\), expected a scalar, such as"):
        training.sampled_loss(model, recipe, started(model), jnp.int32(0), RUN)


@pytest.mark.parametrize("objective", [objectives.iwae, objectives.renyi, objectives.dreg])
@pytest.mark.parametrize("layers, rule", [(1, noise.iid), (1, noise.trapezoid), (2, noise.iid), (2, noise.trapezoid)])
def test_a_bound_on_several_draws_refuses_noise_that_is_not_in_groups(tiny, objective, layers, rule):
    """A grid of two layers has two axes, as groups have, but the second holds no draws of their own."""
    model, recipe = tiny["default"].model(layers, 3), replace(tiny["default"].recipe, objective=objective, noise=rule)
    with pytest.raises(ValueError, match=r"noise: got nodes of shape \(4.*, expected groups of independent draws"):
        jax.eval_shape(lambda p: training.sampled_loss(model, recipe, p, jnp.int32(0), RUN), started(model))


@pytest.mark.parametrize("objective", [objectives.iwae, objectives.renyi, objectives.dreg])
def test_groups_count_by_their_weight(step, objective):
    """The bound on one draw is the ELBO, of a trapezoid's unequal weights too."""
    elbo, _ = step(1, 2, noise=noise.trapezoid, samples=24, kl=objectives.sampled_kl)
    bound, _ = step(1, 2, noise=groups(1, noise.trapezoid), samples=24, objective=objective)
    np.testing.assert_allclose(bound, elbo, rtol=1e-5)


NARROW = 0.1  # standard deviation of p(z_l | z_{l+1})


def linear_gaussian(model):
    """Parameters in float64 of z_L ~ N(0, 1), p(z_l | z_{l+1}) = N(z_{l+1}, NARROW^2), x apart from z, and the exact q.

    q(z_{l+1} | z_l) = N(g z_l, g NARROW^2), g = v_{l+1} / v_l, where v_l = 1 + (L - l) NARROW^2 is z_l's variance.
    """
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), padding.shapes(model.init, 3))
    variance = [1.0 + (model.layers - l) * NARROW**2 for l in range(1, model.layers + 1)]
    params["q"][0]["params"]["head"]["kernel"][1, -1] = 0.5 * np.log(variance[0])
    for l, (p, q) in enumerate(zip(params["p"][1:], params["q"][1:], strict=True)):
        gain = variance[l + 1] / variance[l]
        p["params"]["head"]["kernel"][1, -1] = 1.0 + np.log(NARROW)
        q["params"]["head"]["kernel"][1, -1] = 1.0 + np.log(NARROW) + 0.5 * np.log(gain)
        q["params"]["mlp"]["hidden_0"]["kernel"][0, 0] = 1e-4  # so small that tanh is the identity
        q["params"]["head"]["kernel"][0, 0] = (gain - 1.0) / 1e-4
    return params


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_at_the_exact_posterior_the_path_gradient_has_no_variance(tiny, layers):
    """Held by its values instead of its parameters, q(z_2 | z_1) would lose a term of standard deviation 10."""
    model = tiny["default"].model(layers, 3)
    recipe = replace(tiny["default"].recipe, noise=noise.iid, samples=1, kl=objectives.sampled_kl)
    with jax.enable_x64(True):
        params, run = jax.tree.map(jnp.asarray, linear_gaussian(model)), RUN._replace(beta=jnp.float64(1))

        def spread(objective):
            loss = partial(training.sampled_loss, model, replace(recipe, objective=objective))
            gradients = jax.vmap(lambda step: jax.grad(lambda p: loss(p, step, run)[0])(params)["q"])
            return np.std(flat(jax.jit(gradients)(jnp.arange(500))), 0)

        plain, path = spread(objectives.elbo), spread(objectives.path)
    assert plain[: model.layers].max() > 0.5
    assert path.max() < 1e-4 * plain.max()
