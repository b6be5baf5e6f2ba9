"""Bounds and their gradients against quadrature in float64: means, variances, and the order of the bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from vae_bit.distributions import Normal, bernoulli_log_prob, normal_kl, normal_sample, standard_normal
from vae_bit.losses import average, dreg, elbo, entropy_form_kl, iwae, path_kl, sampled_kl
from vae_bit.noise import draw_latent, lattice, trapezoid

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


# A scalar latent and one Bernoulli dimension: everything is a low-dimensional integral.
PARAMS = {"mean": 0.3, "log_std": 0.1, "slope": 2.0, "bias": -0.5}


def rule(dimensions: int, nodes: int, reach: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """A product trapezoid rule for expectations over N(0, I): nodes [M, dimensions] and weights [M], in float64."""
    t, step = np.linspace(-reach, reach, nodes, retstep=True)
    w = step * np.exp(-0.5 * t**2) / np.sqrt(2.0 * np.pi)
    grid = np.stack(np.meshgrid(*[t] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)
    return grid, np.prod(np.stack(np.meshgrid(*[w] * dimensions, indexing="ij"), -1).reshape(-1, dimensions), -1)


def scalar_q(p):
    return Normal(jnp.reshape(p["mean"], 1), jnp.reshape(jnp.exp(p["log_std"]), 1))


def scalar_log_weight(p, q, z, kl=sampled_kl):
    return elbo(bernoulli_log_prob(jnp.ones(1), p["slope"] * z + p["bias"]), kl(z, q, standard_normal((1,))))


def plain_bound(p, eps):
    """The IWAE bound at one set of draws, eps [K]."""
    q = scalar_q(p)
    return iwae(scalar_log_weight(p, q, normal_sample(q, eps[:, None])))


def dreg_bound(p, eps):
    q = scalar_q(p)
    frozen = jax.lax.stop_gradient(q)
    return dreg(lambda z: scalar_log_weight(p, frozen, z), normal_sample(q, eps[:, None]))


def path_bound(p, eps):
    q = scalar_q(p)
    return average(scalar_log_weight(p, q, normal_sample(q, eps[:, None]), path_kl))


def numpy_bound(p, draws, nodes) -> float:
    """E[ln mean_k w_k] by quadrature, written out in numpy: nothing here comes from vae_bit."""
    eps, weight = rule(draws, nodes)
    z = p["mean"] + np.exp(p["log_std"]) * eps
    logit = p["slope"] * z + p["bias"]
    log_w = -np.logaddexp(0.0, -logit) - 0.5 * z**2 + 0.5 * eps**2 + p["log_std"]
    return float(weight @ np.log(np.mean(np.exp(log_w), -1)))


def numpy_gradient(p, draws, nodes) -> dict[str, float]:
    def shifted(name, by):
        return numpy_bound(p | {name: p[name] + by}, draws, nodes)

    return {name: (shifted(name, 1e-5) - shifted(name, -1e-5)) / 2e-5 for name in p}


def evidence() -> float:
    def integrand(z):
        return np.exp(-0.5 * z**2 - np.logaddexp(0.0, -PARAMS["slope"] * z - PARAMS["bias"])) / np.sqrt(2.0 * np.pi)

    return float(np.log(quad(integrand, -12.0, 12.0, epsabs=1e-13)[0]))


@functools.cache
def gradient_moments(bound, draws, nodes) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and variance over the noise of one bound's gradient, by quadrature."""
    with jax.enable_x64(True):
        eps, weight = rule(draws, nodes)
        params = {name: jnp.array(value) for name, value in PARAMS.items()}
        gradients = jax.jit(jax.vmap(jax.grad(bound), (None, 0)))(params, jnp.asarray(eps))
        mean = {name: float(weight @ np.asarray(g)) for name, g in gradients.items()}
        return mean, {name: float(weight @ (np.asarray(g) - mean[name]) ** 2) for name, g in gradients.items()}


def test_iwae_of_one_draw_is_the_elbo_and_the_bound_rises_to_the_evidence(x64):
    params = {name: jnp.array(value) for name, value in PARAMS.items()}
    batched = jax.jit(jax.vmap(plain_bound, (None, 0)))
    bounds = []
    for draws, nodes in (1, 161), (2, 161), (3, 81):
        eps, weight = rule(draws, nodes)
        bounds.append(float(weight @ np.asarray(batched(params, jnp.asarray(eps)))))
        np.testing.assert_allclose(bounds[-1], numpy_bound(PARAMS, draws, nodes), rtol=1e-10)
    eps, weight = rule(1, 161)
    q = scalar_q(params)

    def closed_kl(z, q, p):
        return jnp.full(len(z), normal_kl(q, p))

    each = scalar_log_weight(params, q, normal_sample(q, jnp.asarray(eps)), closed_kl)
    np.testing.assert_allclose(bounds[0], float(weight @ np.asarray(each)), rtol=1e-10)
    many = batched(params, jax.random.normal(jax.random.key(0), (4, 20_000)))
    assert bounds[0] < bounds[1] < bounds[2] < evidence()
    np.testing.assert_allclose(np.mean(many), evidence(), atol=8e-3)


@pytest.mark.parametrize("draws, nodes", [(1, 161), (2, 161)])
def test_plain_and_doubly_reparameterised_gradients_have_the_exact_mean(draws, nodes):
    exact = numpy_gradient(PARAMS, draws, nodes)
    for bound in plain_bound, dreg_bound:
        mean, _ = gradient_moments(bound, draws, nodes)
        for name in PARAMS:
            np.testing.assert_allclose(mean[name], exact[name], atol=1e-8, err_msg=f"{bound.__name__} {name}")


def test_the_path_derivative_has_the_exact_mean():
    exact, (mean, _) = numpy_gradient(PARAMS, 1, 161), gradient_moments(path_bound, 1, 161)
    for name in PARAMS:
        np.testing.assert_allclose(mean[name], exact[name], atol=1e-8, err_msg=name)


def test_dreg_and_path_gradients_vary_less_for_the_encoder_and_alike_for_the_decoder():
    for better, draws in (path_bound, 1), (dreg_bound, 2):
        (_, plain), (_, reduced) = gradient_moments(plain_bound, draws, 161), gradient_moments(better, draws, 161)
        assert reduced["mean"] < 0.5 * plain["mean"]
        assert reduced["log_std"] < 0.5 * plain["log_std"]
        np.testing.assert_allclose([reduced["slope"], reduced["bias"]], [plain["slope"], plain["bias"]], rtol=1e-6)


def test_values_of_dreg_and_path_are_those_of_the_plain_bounds(x64):
    params = {name: jnp.array(value) for name, value in PARAMS.items()}
    eps = jnp.array([0.3, -1.0, 2.0])
    np.testing.assert_allclose(dreg_bound(params, eps), plain_bound(params, eps), rtol=1e-12)
    for i in range(3):
        np.testing.assert_allclose(path_bound(params, eps[i : i + 1]), plain_bound(params, eps[i : i + 1]), rtol=1e-12)


# Two scalar layers: q(z_1) = N(mean, std^2), q(z_2 | z_1) = N(tanh(v z_1), 0.8^2); p(z_1 | z_2) = N(c z_2, 0.9^2).
CHAIN = {"mean": 0.3, "log_std": 0.0, "up": 0.9, "down": 0.7, "slope": 2.0}


def upper_q(p, z_1):
    return Normal(jnp.tanh(p["up"] * z_1), jnp.full_like(z_1, 0.8))


def chain_draw(p, eps):
    q = Normal(jnp.reshape(p["mean"], 1), jnp.reshape(jnp.exp(p["log_std"]), 1))
    z_1 = normal_sample(q, eps[:, :1])
    return z_1, normal_sample(upper_q(p, z_1), eps[:, 1:])


def chain_log_weight(p, encoder, z):
    z_1, z_2 = z
    q_1 = Normal(jnp.reshape(encoder["mean"], 1), jnp.reshape(jnp.exp(encoder["log_std"]), 1))
    below = sampled_kl(z_1, q_1, Normal(p["down"] * z_2, jnp.full_like(z_2, 0.9)))
    top = sampled_kl(z_2, upper_q(encoder, z_1), standard_normal((1,)))
    return elbo(bernoulli_log_prob(jnp.ones(1), p["slope"] * z_1), [below, top])


def test_dreg_of_a_chain_of_layers_has_the_mean_of_the_plain_gradient(x64):
    def doubly(p, eps):
        frozen = jax.lax.stop_gradient(p)
        return dreg(lambda z: chain_log_weight(p, frozen, z), chain_draw(p, eps.reshape(2, 2)))

    def plain(p, eps):
        return iwae(chain_log_weight(p, p, chain_draw(p, eps.reshape(2, 2))))

    params = {name: jnp.array(value) for name, value in CHAIN.items()}
    eps, weight = rule(4, 25, reach=5.5)
    keep = weight > 1e-10
    eps, weight = jnp.asarray(eps[keep]), weight[keep]
    means = [
        {name: weight @ np.asarray(g) for name, g in jax.jit(jax.vmap(jax.grad(f), (None, 0)))(params, eps).items()}
        for f in (doubly, plain)
    ]
    for name in CHAIN:
        np.testing.assert_allclose(means[0][name], means[1][name], atol=1e-5, err_msg=name)


def test_loss_of_two_layers_is_the_sum_written_out():
    with jax.enable_x64(True):
        params = {name: jnp.array(value) for name, value in CHAIN.items()}
        eps = jnp.array([[0.5, -1.0], [1.5, 0.2]])
        z_1, z_2 = (np.asarray(z)[:, 0] for z in chain_draw(params, eps))
        actual = np.asarray(chain_log_weight(params, params, chain_draw(params, eps)))

    def log_normal(z, mean, std):
        return -0.5 * ((z - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2.0 * np.pi)

    expected = -np.logaddexp(0.0, -2.0 * z_1) + log_normal(z_2, 0.0, 1.0) + log_normal(z_1, 0.7 * z_2, 0.9)
    expected -= log_normal(z_1, 0.3, 1.0) + log_normal(z_2, np.tanh(0.9 * z_1), 0.8)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_entropy_form_kl_has_the_mean_of_the_closed_form_and_less_variance_far_from_p(x64):
    q, p = Normal(jnp.array([0.4]), jnp.array([0.7])), Normal(jnp.array([-0.5]), jnp.array([1.2]))
    eps, weight = rule(1, 161)
    z = normal_sample(q, jnp.asarray(eps))
    sampled, entropy_form = (np.asarray(kl(z, q, p)) for kl in (sampled_kl, entropy_form_kl))
    np.testing.assert_allclose([weight @ sampled, weight @ entropy_form], [float(normal_kl(q, p))] * 2, rtol=1e-10)
    far = Normal(jnp.array([0.4]), jnp.array([30.0]))
    assert np.var(entropy_form_kl(z, q, far)) < 1e-3 * np.var(sampled_kl(z, q, far))
    np.testing.assert_allclose(np.square(entropy_form_kl(z, q, q)) @ weight, 0.5, rtol=1e-10)  # of -ln q(z), d / 2
    np.testing.assert_array_equal(sampled_kl(z, q, q), 0.0)


@pytest.mark.parametrize("rule, samples, error", [(trapezoid, 40, 1e-6), (lattice, 512, 2e-2)])
def test_weighted_nodes_serve_the_elbo_and_integrate_the_evidence(x64, rule, samples, error):
    params = {name: jnp.array(value) for name, value in PARAMS.items()}
    q = scalar_q(params)

    def bounds(key):
        eps, weight = draw_latent(key, rule, 1, samples)
        log_weight = scalar_log_weight(params, q, normal_sample(q, eps))
        return average(log_weight, weight), iwae(log_weight, weight)

    inner, outer = jax.jit(jax.vmap(bounds))(jax.random.split(jax.random.key(1), 8))
    np.testing.assert_allclose(inner, np.full(8, numpy_bound(PARAMS, 1, 161)), atol=error)
    np.testing.assert_allclose(outer, np.full(8, evidence()), atol=error)


def test_a_lattice_over_all_draws_averages_bounds_of_k_draws(x64):
    params = {name: jnp.array(value) for name, value in PARAMS.items()}

    def estimate(key):
        eps, weight = draw_latent(key, lattice, size=2, samples=256)
        return average(jax.vmap(plain_bound, (None, 0))(params, eps), weight)

    estimates = np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 64)))
    exact = numpy_bound(PARAMS, 2, 161)
    assert abs(np.mean(estimates) - exact) < 4.0 * np.std(estimates) / 8.0
    eps, weight = rule(2, 161)
    each = np.asarray(jax.jit(jax.vmap(plain_bound, (None, 0)))(params, jnp.asarray(eps)))
    assert np.var(estimates) < 0.2 * (weight @ (each - exact) ** 2) / 256


@pytest.mark.parametrize("extreme", [1e-6, 1e6])
def test_extreme_encoders_leave_dreg_and_path_finite(extreme):
    params = {name: jnp.array(value) for name, value in PARAMS.items()} | {"log_std": jnp.log(extreme)}
    for bound in plain_bound, dreg_bound, path_bound:
        value, slopes = jax.jit(jax.value_and_grad(bound))(params, jnp.array([0.5, -1.0, 2.0]))
        assert np.isfinite(value) and np.isfinite(list(slopes.values())).all()


def test_derivatives_survive_jit_vmap_and_forward_mode():
    params = {name: jnp.array(value) for name, value in PARAMS.items()}
    eps = jax.random.normal(jax.random.key(0), (5, 3))
    for bound in plain_bound, dreg_bound, path_bound:
        reverse = jax.jit(jax.vmap(jax.grad(bound), (None, 0)))(params, eps)
        forward = jax.jit(jax.vmap(jax.jacfwd(bound), (None, 0)))(params, eps)
        for name in PARAMS:
            np.testing.assert_allclose(forward[name], reverse[name], rtol=1e-4, atol=1e-6)
