"""Independent oracles: NumPyro on the same draws, quadrature in float64, a conjugate model known in closed form."""

import doctest
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from scipy.integrate import quad

import vae_bit
from vae_bit import losses
from vae_bit.distributions import Normal, bernoulli_log_prob, normal_kl, normal_log_prob, normal_sample, standard_normal
from vae_bit.losses import (
    average,
    dreg,
    elbo,
    free_bits,
    iwae,
    loss,
    partly_closed_kl,
    path_kl,
    renyi,
    sampled_kl,
    top_kl,
)
from vae_bit.noise import draw_latent

pytestmark = pytest.mark.usefixtures("quick_compile")
TOLERANCE = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-10}
DRAWS = 4


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield np.dtype(request.param)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def close(actual, expected, dtype):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# A VAE with a latent of size 2 and three Bernoulli dimensions; its parameters are those NumPyro knows by name.
X = np.array([1.0, 0.0, 1.0])


def parameters(dtype) -> dict[str, jax.Array]:
    values = {
        "mean": [0.4, -0.7],
        "std": [0.6, 1.3],
        "kernel": [[1.0, -2.0, 0.5], [0.3, 0.8, -1.5]],
        "bias": [0.1, 0.2, 0.3],
    }
    return {name: jnp.array(value, dtype) for name, value in values.items()}


def model(x):
    kernel, bias = (jnp.asarray(numpyro.param(name)) for name in ("kernel", "bias"))
    z = jnp.asarray(numpyro.sample("z", dist.Normal(jnp.zeros(2, x.dtype), jnp.ones(2, x.dtype)).to_event(1)))
    numpyro.sample("x", dist.Bernoulli(logits=z @ kernel + bias).to_event(1), obs=x)


def guide(x):
    numpyro.sample("z", dist.Normal(numpyro.param("mean"), numpyro.param("std")).to_event(1))


def noise_of(keys, x, params):
    """The standard-normal numbers behind the draws that NumPyro makes from these keys: [K, 2]."""

    def one(key):
        seeded = seed(substitute(guide, data=params), jax.random.split(key)[1])
        return (trace(seeded).get_trace(x)["z"]["value"] - params["mean"]) / params["std"]

    return jax.vmap(one)(keys)


def parts(params, x, eps, kl=sampled_kl):
    """Log likelihood and KL at each draw."""
    q = Normal(params["mean"], params["std"])
    z = normal_sample(q, eps)
    logits = z @ params["kernel"] + params["bias"][None]
    return bernoulli_log_prob(x, logits), kl(z, q, standard_normal((2,), x.dtype))


def compare_with_numpyro(dtype, objective, keys, ours):
    params, x = parameters(dtype), jnp.array(X, dtype)
    eps = noise_of(keys, x, params)
    expected = jax.jit(jax.value_and_grad(lambda p: objective.loss(jax.random.key(3), p, model, guide, x)))(params)
    close(jax.jit(jax.value_and_grad(lambda p: ours(p, x, eps)))(params), expected, dtype)


def test_elbo_with_closed_kl_matches_numpyro_mean_field(dtype):
    def ours(p, x, eps):
        log_likelihood, kl = parts(p, x, eps, lambda z, q, prior: top_kl(q))
        return loss(-average(log_likelihood), kl)

    keys = jax.random.split(jax.random.key(3), DRAWS)
    compare_with_numpyro(dtype, TraceMeanField_ELBO(num_particles=DRAWS), keys, ours)


def test_elbo_with_sampled_kl_matches_numpyro(dtype):
    keys = jax.random.split(jax.random.key(3), DRAWS)
    compare_with_numpyro(
        dtype, Trace_ELBO(num_particles=DRAWS), keys, lambda p, x, eps: -average(elbo(*parts(p, x, eps)))
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_iwae_and_renyi_match_numpyro(dtype, alpha):
    def ours(p, x, eps):
        log_weight = elbo(*parts(p, x, eps))
        return -(iwae(log_weight) if alpha == 0.0 else renyi(log_weight, alpha))

    keys = jax.random.split(jax.random.split(jax.random.key(3))[1], DRAWS)
    compare_with_numpyro(dtype, RenyiELBO(alpha=alpha, num_particles=DRAWS), keys, ours)


# Conjugate: z ~ N(0, 1), x | z ~ N(a z + b, s^2), so z | x ~ N(a (x - b) / (a^2 + s^2), s^2 / (a^2 + s^2)).
A, B, S, Y = 1.5, 0.3, 0.7, 2.0


def posterior(dtype):
    variance = A**2 + S**2
    return Normal(jnp.array([A * (Y - B) / variance], dtype), jnp.array([S / variance**0.5], dtype))


def conjugate_log_weight(q, z, dtype):
    likelihood = Normal(A * z + B, jnp.full_like(z, S))
    log_likelihood = normal_log_prob(jnp.array([Y], dtype), likelihood)
    return elbo(log_likelihood, sampled_kl(z, q, standard_normal((1,), dtype)))


def test_every_draw_of_the_exact_posterior_weighs_the_evidence(dtype):
    q, eps = posterior(dtype), jnp.array([[-2.0], [0.0], [0.3], [3.0]], dtype)
    evidence = -0.5 * (Y - B) ** 2 / (A**2 + S**2) - 0.5 * np.log(2.0 * np.pi * (A**2 + S**2))
    log_weight = conjugate_log_weight(q, normal_sample(q, eps), dtype)
    close(log_weight, np.full(4, evidence), dtype)
    close([average(log_weight), iwae(log_weight), renyi(log_weight, 0.5)], [evidence] * 3, dtype)
    closed = elbo(
        normal_log_prob(jnp.array([Y], dtype), Normal(A * q.mean + B, jnp.array([S], dtype)))
        - (A / S * q.std[0]) ** 2 / 2,
        top_kl(q),
    )
    close(closed, evidence, dtype)


def test_at_the_exact_posterior_path_and_dreg_gradients_vanish_for_every_draw(dtype):
    eps = jnp.array([[-2.0], [0.3], [3.0]], dtype)

    def path(q):
        z = normal_sample(q, eps)
        return conjugate_log_weight(jax.lax.stop_gradient(q), z, dtype).sum()

    def doubly(q):
        frozen = jax.lax.stop_gradient(q)
        return dreg(lambda z: conjugate_log_weight(frozen, z, dtype), normal_sample(q, eps))

    def plain(q):
        return iwae(conjugate_log_weight(q, normal_sample(q, eps), dtype))

    for bound in path, doubly:
        close(jax.jit(jax.grad(bound))(posterior(dtype)), Normal(jnp.zeros(1), jnp.zeros(1)), dtype)
    assert max(abs(leaf[0]) for leaf in jax.tree.leaves(jax.jit(jax.grad(plain))(posterior(dtype)))) > 0.1


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
    each = scalar_log_weight(params, q, normal_sample(q, jnp.asarray(eps)), lambda z, q, p: normal_kl(q, p))
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
    return elbo(bernoulli_log_prob(jnp.ones(1), p["slope"] * z_1), jnp.stack([below, top]))


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


def test_partly_closed_kl_has_the_mean_of_the_closed_form_and_less_variance(x64):
    q, p = Normal(jnp.array([0.4]), jnp.array([0.7])), Normal(jnp.array([-0.5]), jnp.array([1.2]))
    eps, weight = rule(1, 161)
    z = normal_sample(q, jnp.asarray(eps))
    sampled, partly = (np.asarray(kl(z, q, p)) for kl in (sampled_kl, partly_closed_kl))
    np.testing.assert_allclose([weight @ sampled, weight @ partly], [float(normal_kl(q, p))] * 2, rtol=1e-10)
    far = Normal(jnp.array([0.4]), jnp.array([30.0]))
    assert np.var(partly_closed_kl(z, q, far)) < 1e-3 * np.var(sampled_kl(z, q, far))


@pytest.mark.parametrize("kind, samples, error", [("trapezoid", 40, 1e-6), ("lattice", 512, 2e-2)])
def test_weighted_nodes_serve_the_elbo_and_integrate_the_evidence(x64, kind, samples, error):
    params = {name: jnp.array(value) for name, value in PARAMS.items()}
    q = scalar_q(params)

    def bounds(key):
        eps, weight = draw_latent(key, kind, 1, samples)
        log_weight = scalar_log_weight(params, q, normal_sample(q, eps))
        return average(log_weight, weight), iwae(log_weight, weight)

    inner, outer = jax.jit(jax.vmap(bounds))(jax.random.split(jax.random.key(1), 8))
    np.testing.assert_allclose(inner, np.full(8, numpy_bound(PARAMS, 1, 161)), atol=error)
    np.testing.assert_allclose(outer, np.full(8, evidence()), atol=error)


def test_a_lattice_over_all_draws_averages_bounds_of_k_draws(x64):
    params = {name: jnp.array(value) for name, value in PARAMS.items()}

    def estimate(key):
        eps, weight = draw_latent(key, "lattice", size=2, samples=256)
        return average(jax.vmap(plain_bound, (None, 0))(params, eps), weight)

    estimates = np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 64)))
    exact = numpy_bound(PARAMS, 2, 161)
    assert abs(np.mean(estimates) - exact) < 4.0 * np.std(estimates) / 8.0
    eps, weight = rule(2, 161)
    each = np.asarray(jax.jit(jax.vmap(plain_bound, (None, 0)))(params, jnp.asarray(eps)))
    assert np.var(estimates) < 0.2 * (weight @ (each - exact) ** 2) / 256


def test_free_bits_cuts_both_value_and_gradient_below_the_floor():
    value, slope = jax.value_and_grad(lambda kl: free_bits(kl, 0.5).sum())(jnp.array([0.1, 2.0]))
    assert (value, *slope) == (2.5, 0.0, 1.0)
    q = Normal(jnp.array([[1.0], [3.0]]), jnp.ones((2, 1)))
    np.testing.assert_allclose(free_bits(top_kl(q), jnp.array([1.0, 1.0])), [1.0, 4.5])


def test_beta_weighs_the_divergence_alone_and_loss_is_minus_elbo():
    recon, kl = jnp.array([1.0, 2.0]), jnp.array([[0.5, 0.25], [1.0, 0.0]])
    np.testing.assert_allclose(loss(recon, kl, 2.0), [4.0, 2.5])
    np.testing.assert_allclose(elbo(-recon, kl, jnp.array(2.0)), [-4.0, -2.5])
    np.testing.assert_allclose(loss(recon, kl[0]), [1.5, 2.25])


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e30])
def test_extreme_log_weights_are_finite_in_value_and_gradient(scale):
    log_weight = scale * jnp.array([-1.0, 0.0, 1.0, -3.0])
    for bound in iwae, average, lambda w: renyi(w, 0.5), lambda w: renyi(w, -1.0), lambda w: iwae(w, jnp.full(4, 0.25)):
        value, slope = jax.jit(jax.value_and_grad(bound))(log_weight)
        assert np.isfinite(value) and np.isfinite(slope).all()
    shifted = np.exp(np.minimum(np.float64(log_weight) - log_weight[2], 0.0))
    np.testing.assert_allclose(iwae(log_weight), scale + np.log(shifted.mean()), rtol=1e-5, atol=1e-6)


def test_a_draw_of_no_weight_is_ignored():
    value, slope = jax.value_and_grad(iwae)(jnp.array([0.0, -jnp.inf]))
    np.testing.assert_allclose(value, -np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(slope, [1.0, 0.0])


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


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: loss(jnp.zeros(2), jnp.zeros(3)), ValueError, (r"recon .*\(2,\)", r"kl \(3,\)")),
        (lambda: elbo(jnp.zeros(4), jnp.zeros((2, 3))), ValueError, (r"\(4,\)", r"\(3,\)")),
        (lambda: average(jnp.zeros(4), jnp.zeros(3)), ValueError, (r"values .*\(4,\)", r"weight \(3,\)")),
        (lambda: iwae(jnp.zeros(4), jnp.zeros(3)), ValueError, (r"log_weight .*\(4,\)", r"weight \(3,\)")),
        (lambda: iwae(jnp.zeros(())), ValueError, (r"log_weight have shape \(\)",)),
        (lambda: iwae(jnp.zeros(3, int)), TypeError, ("log_weight is int32",)),
        (lambda: average(jnp.zeros(3), jnp.ones(3, jnp.bfloat16)), TypeError, ("float32", "bfloat16")),
        (lambda: renyi(jnp.zeros(3), 1.0), ValueError, ("use average",)),
        (lambda: free_bits(jnp.zeros(3), jnp.zeros(2)), ValueError, (r"kl .*\(3,\)", r"floor \(2,\)")),
        (lambda: dreg(lambda z: jnp.zeros(4) + z.sum(), jnp.zeros((3, 2))), ValueError, (r"\(3, 2\)", r"\(4,\)")),
        (lambda: sampled_kl(jnp.zeros(3), standard_normal((2,)), standard_normal((3,))), ValueError, ("z", "mean")),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, words):
    for word in words:
        with pytest.raises(error, match=word):
            call()


LOG_WEIGHTS = hnp.arrays(np.float32, 5, elements=st.floats(-30.0, 30.0, width=32))


@settings(max_examples=60, deadline=None)
@given(LOG_WEIGHTS, st.floats(-20.0, 20.0), st.permutations(range(5)))
def test_bounds_are_ordered_shift_with_the_weights_and_ignore_their_order(log_weight, shift, order):
    w = jnp.asarray(log_weight)
    bounds = [average(w), renyi(w, 0.75), renyi(w, 0.25), iwae(w), renyi(w, -1.0), w.max()]
    assert all(low <= high + 1e-4 for low, high in itertools.pairwise(bounds))
    np.testing.assert_allclose(iwae(w + shift), iwae(w) + shift, atol=2e-5)
    np.testing.assert_allclose(iwae(w[np.array(order)]), iwae(w), atol=1e-5)
    np.testing.assert_allclose(iwae(w, jnp.full(5, 0.2)), iwae(w), atol=1e-5)
    np.testing.assert_allclose(renyi(w, 0.999), average(w), atol=1e-3 * (1.0 + float(np.var(log_weight))))


@settings(max_examples=60, deadline=None)
@given(LOG_WEIGHTS, hnp.arrays(np.float32, (3, 5), elements=st.floats(0.0, 30.0, width=32)), st.floats(0.0, 10.0))
def test_loss_is_linear_in_beta_and_free_bits_never_lower_it(recon, kl, beta):
    recon, kl = jnp.asarray(recon), jnp.asarray(kl)
    np.testing.assert_allclose(loss(recon, kl, beta), recon + beta * (loss(recon, kl) - recon), rtol=1e-3, atol=1e-3)
    assert (loss(recon, free_bits(kl, 1.0)) >= loss(recon, kl)).all()


def test_examples_in_the_docstrings():
    names = {name: getattr(vae_bit, name) for name in vae_bit.__all__}
    result = doctest.testmod(losses, extraglobs=names)
    assert result.failed == 0 and result.attempted >= 15
