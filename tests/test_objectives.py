"""What each objective makes training raise: its value and gradient under the noise of one step."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit import models, training
from vae_bit.training import Run

pytestmark = pytest.mark.usefixtures("quick_compile")
RUN = Run(*(jnp.asarray(field) for field in (np.float32(3), np.uint32(5), np.float32(1), np.float32(1e-2))))


def started(arch):
    """Parameters a little away from the start, where an encoder of signs is the prior and its KL flat."""
    rng = np.random.default_rng(1)
    params = models.init(arch, jax.random.key(1), RUN.n)
    return jax.tree.map(lambda leaf: leaf + np.float32(0.03 * rng.normal(size=leaf.shape)), params)


@pytest.fixture(scope="module")
def step(tiny):
    """(depth, steps, recipe's fields) -> losses and gradients under the noise of each step, [steps, ...]."""
    preset = tiny["default"]

    def run(layers, steps, **fields):
        arch = replace(preset.architecture, layers=layers, width=3)
        recipe = replace(preset.recipe, **fields)
        loss = functools.partial(training.sampled_loss, arch, recipe)
        params = started(arch)
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
@pytest.mark.parametrize("objective", ["iwae", "renyi", "dreg"])
def test_one_draw_makes_every_bound_the_elbo(step, layers, objective):
    elbo, gradient = step(layers, 2, noise="lattice", samples=64, kl="sampled")
    bound, other = step(layers, 2, noise="lattice", samples=64, objective=objective, k=1)
    np.testing.assert_allclose(bound, elbo, rtol=1e-5)
    np.testing.assert_allclose(flat(gradient["p"]), flat(other["p"]), rtol=1e-4, atol=1e-5)
    if objective != "dreg":
        np.testing.assert_allclose(flat(gradient["q"]), flat(other["q"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("objective, k, plain", [("path", 1, "elbo"), ("dreg", 4, "iwae")])
def test_other_gradients_have_the_value_and_the_mean_of_the_plain_one(step, layers, objective, k, plain):
    fields = {"noise": "iid", "samples": 8, "kl": "sampled", "k": k}
    value, gradient = step(layers, 2_000, objective=plain, **fields)
    other_value, other_gradient = step(layers, 2_000, objective=objective, **fields)
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    np.testing.assert_allclose(flat(gradient["p"]), flat(other_gradient["p"]), rtol=1e-4, atol=1e-5)
    assert_same_mean(flat(gradient["q"]), flat(other_gradient["q"]))
    assert (np.abs(flat(gradient["q"])[0] - flat(other_gradient["q"])[0]) > 1e-3).any()


@pytest.mark.parametrize("noise", ["iid", "lattice"])
def test_the_bound_of_two_draws_is_its_double_integral(step, tiny, noise):
    arch = replace(tiny["default"].architecture, layers=1, width=3)
    params = started(arch)
    t, h = np.linspace(-7.0, 7.0, 141, retstep=True)
    q = models.encode(arch, params, RUN.n)
    log_w = []
    for point, sign in enumerate((1.0, -1.0)):
        mean, std = float(q.mean[point]), float(q.std[point])
        z = mean + std * t
        logits = np.float64(models.decode(arch, params, jnp.asarray(z, jnp.float32)))
        log_w.append(-np.logaddexp(0.0, sign * logits).sum(0) - 0.5 * z**2 + 0.5 * t**2 + np.log(std))
    weight = h * np.exp(-0.5 * t**2) / np.sqrt(2.0 * np.pi)
    exact = [weight @ (np.logaddexp(w[:, None], w[None]) - np.log(2.0)) @ weight for w in log_w]
    values, _ = step(1, 200, objective="iwae", noise=noise, samples=64, k=2)
    assert abs(-np.mean(values) - np.mean(exact)) < 4.0 * np.std(values) / np.sqrt(200) + 1e-5
    renyi, _ = step(1, 200, objective="renyi", noise=noise, samples=64, k=2)
    tempered = [weight @ (2 * np.logaddexp(w[:, None] / 2, w[None] / 2) - 2 * np.log(2.0)) @ weight for w in log_w]
    assert abs(-np.mean(renyi) - np.mean(tempered)) < 4.0 * np.std(renyi) / np.sqrt(200) + 1e-5


def test_more_draws_raise_the_bound_and_renyi_lies_below_it(step):
    fields = {"noise": "lattice", "samples": 64}
    elbo, two, eight = (np.mean(step(2, 50, objective="iwae", k=k, **fields)[0]) for k in (1, 2, 8))
    renyi = np.mean(step(2, 50, objective="renyi", k=8, **fields)[0])
    assert elbo > two > eight
    assert elbo > renyi > eight


@pytest.mark.parametrize("layers", [1, 2])
def test_free_bits_are_one_bit_in_all(step, tiny, layers):
    arch = replace(tiny["default"].architecture, layers=layers, width=3)
    recipe = replace(tiny["default"].recipe, samples=24, objective="free_bits")
    params = started(arch)
    loss, metrics = training.sampled_loss(arch, recipe, params, jnp.array(0), RUN)
    assert metrics.kl < np.log(2.0)
    np.testing.assert_allclose(loss, metrics.recon + np.log(2.0), rtol=1e-6)
    _, gradient = step(layers, 1, samples=24, objective="free_bits")
    recon_only = jax.grad(lambda p: training.sampled_loss(arch, recipe, p, jnp.array(0), RUN)[1].recon)(params)
    np.testing.assert_allclose(flat(gradient)[0], flat(jax.tree.map(lambda g: g[None], recon_only))[0], atol=1e-5)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"k": 4}, "k: got 4, expected 1 with objective 'elbo'"),
        ({"objective": "path", "k": 2}, "k: got 2, expected 1 with objective 'path'"),
        ({"objective": "iwae", "noise": "iid", "samples": 10, "k": 4}, "k: got 4, expected a divisor of samples, 10"),
        ({"objective": "dreg"}, "noise: got 'trapezoid', expected 'iid' or 'lattice' with objective 'dreg'"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(tiny, fields, words):
    with pytest.raises(ValueError, match=words):
        replace(tiny["default"].recipe, **fields)


NARROW = 0.1  # standard deviation of p(z_l | z_{l+1})


def linear_gaussian(arch):
    """Parameters in float64 of z_L ~ N(0, 1), p(z_l | z_{l+1}) = N(z_{l+1}, NARROW^2), x apart from z, and the exact q.

    q(z_{l+1} | z_l) = N(g z_l, g NARROW^2), g = v_{l+1} / v_l, where v_l = 1 + (L - l) NARROW^2 is z_l's variance.
    """
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), models.shapes(arch))
    variance = [1.0 + (arch.layers - l) * NARROW**2 for l in range(1, arch.layers + 1)]
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
    arch = replace(tiny["default"].architecture, layers=layers, width=3)
    recipe = replace(tiny["default"].recipe, noise="iid", samples=1, kl="sampled")
    with jax.enable_x64(True):
        params, run = jax.tree.map(jnp.asarray, linear_gaussian(arch)), RUN._replace(beta=jnp.float64(1))

        def spread(objective):
            loss = functools.partial(training.sampled_loss, arch, replace(recipe, objective=objective))
            gradients = jax.vmap(lambda step: jax.grad(lambda p: loss(p, step, run)[0])(params)["q"])
            return np.std(flat(jax.jit(gradients)(jnp.arange(500))), 0)

        plain, path = spread("elbo"), spread("path")
    assert plain[: arch.layers].max() > 0.5
    assert path.max() < 1e-4 * plain.max()
