"""Mixtures and flows: densities, draws and KL estimates against other libraries, bisection and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.optimize import brentq
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm

from vae_bit.distributions import Flow, Mixture, Normal, log_prob, normal_sample, standard_normal
from vae_bit.distributions.flow import flow_log_prob, flow_sample
from vae_bit.distributions.mixture import mixture_log_prob, mixture_sample
from vae_bit.losses import average, entropy_form_kl, path_kl, sampled_kl
from vae_bit.noise import draw_latent, lattice

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def mixture(d, k=3) -> Mixture:
    rng = np.random.default_rng(d)
    return Mixture(*map(jnp.asarray, (rng.normal(size=k), rng.normal(size=(k, d)), rng.uniform(0.3, 1.2, (k, d)))))


def flow(d, bins=4) -> Flow:
    rng = np.random.default_rng(d)
    x, y = np.cumsum(rng.uniform(0.4, 1.2, (2, d, bins + 1)), -1) - 2.5
    return Flow(*map(jnp.asarray, (x, y, rng.uniform(0.3, 3.0, (d, bins + 1)))))


P = Normal(jnp.array([0.4]), jnp.array([1.3]))


def numpy_mixture(z, logits, mean, std):
    return logsumexp(log_softmax(logits) + norm.logpdf(z[..., None], mean, std), axis=-1)


def numpy_spline(knots, eps):
    """Durkan et al.'s equation 4 for one scalar, with straight ends."""
    x, y, slope = knots
    if not x[0] < eps < x[-1]:
        end = 0 if eps <= x[0] else -1
        return y[end] + (eps - x[end]) * slope[end]
    b = np.searchsorted(x, eps, side="right") - 1
    s, xi = (y[b + 1] - y[b]) / (x[b + 1] - x[b]), (eps - x[b]) / (x[b + 1] - x[b])
    bend = (slope[b] + slope[b + 1] - 2.0 * s) * xi * (1.0 - xi)
    return y[b] + (y[b + 1] - y[b]) * (s * xi**2 + slope[b] * xi * (1.0 - xi)) / (s + bend)


def numpy_flow(z, knots):
    """ln of the density of one scalar: the distribution function Phi(T^-1(z)) by bisection, differentiated."""

    def inverse(z):
        return brentq(lambda eps: numpy_spline(knots, eps) - z, -60.0, 60.0, xtol=1e-13, rtol=1e-14)

    return norm.logpdf(inverse(z)) + np.log((inverse(z + 1e-5) - inverse(z - 1e-5)) / 2e-5)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_a_mixtures_density_and_gradient_are_those_of_numpyro(x64, d, dtype, rtol):
    p = jax.tree.map(lambda field: field.astype(dtype), mixture(d))
    z = jnp.asarray(np.random.default_rng(9).normal(size=(7, d)), dtype)

    def numpyros(z, p):
        components = dist.Normal(p.mean, p.std).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=p.logits), components).log_prob(z)

    with jax.numpy_rank_promotion("allow"):
        slopes = jax.jit(jax.grad(lambda z, p: numpyros(z, p).sum(), (0, 1)))(z, p)
        each = jax.jit(numpyros)(z, p)
    actual = mixture_log_prob(z, p)
    assert actual.dtype == dtype and actual.shape == (7,)
    np.testing.assert_allclose(actual, each, rtol=rtol)
    np.testing.assert_array_equal(log_prob(z, p), actual)
    ours = jax.jit(jax.grad(lambda z, p: mixture_log_prob(z, p).sum(), (0, 1)))(z, p)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=20 * rtol, atol=20 * rtol)
    if d == 1:
        scalars = Mixture(p.logits, p.mean[:, 0], p.std[:, 0])
        np.testing.assert_allclose(scalars.log_prob(z[:, 0]), each, rtol=rtol)


def test_a_flows_density_is_that_of_a_spline_inverted_by_bisection(x64):
    p, z = flow(3), np.random.default_rng(4).normal(0.0, 3.0, (8, 3))
    expected = [[numpy_flow(v, [field[i] for field in p]) for i, v in enumerate(row)] for row in z]
    np.testing.assert_allclose(jax.jit(p.log_prob)(jnp.asarray(z)), expected, atol=1e-5)
    for density in log_prob, flow_log_prob:
        np.testing.assert_allclose(jax.jit(density)(z, p), np.sum(expected, -1), atol=3e-5)
    eps = np.random.default_rng(5).normal(0.0, 2.0, (8, 3))
    moved = [[numpy_spline([np.asarray(field[i]) for field in p], v) for i, v in enumerate(row)] for row in eps]
    np.testing.assert_allclose(jax.jit(flow_sample)(p, eps), moved, rtol=1e-12)
    z, step = np.linspace(-60.0, 60.0, 600_001, retstep=True)
    total = step * jnp.exp(jax.jit(p.log_prob)(jnp.asarray(z)[:, None])).sum(0)
    np.testing.assert_allclose(total, np.ones(3), atol=1e-7)


@pytest.mark.parametrize("q", [Normal(jnp.array([0.3]), jnp.array([0.7])), mixture(1), flow(1)], ids=type)
def test_the_methods_of_scalars_are_the_functions_of_events(q):
    eps = jnp.linspace(-3.0, 3.0, 9)
    own = Mixture(q.logits, q.mean[:, 0], q.std[:, 0]) if isinstance(q, Mixture) else q
    if isinstance(q, Flow):
        own = Flow(*(field[0] for field in q))
    drawn = own.draw(eps)
    np.testing.assert_allclose(drawn.log_prob, own.log_prob(drawn.z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drawn.log_prob, log_prob(drawn.z[..., None], q), rtol=1e-4, atol=1e-5)
    if isinstance(q, Mixture):
        z, weight = mixture_sample(q, eps[:, None])
        np.testing.assert_array_equal(drawn.weight, jnp.broadcast_to(weight, drawn.weight.shape))
    else:
        assert drawn.weight == 1.0
        z = (flow_sample if isinstance(q, Flow) else normal_sample)(q, eps[:, None])
    np.testing.assert_array_equal(z[..., 0], drawn.z)


def estimate(q, p, eps, weight, kl=sampled_kl):
    """KL(q || p), from nodes [M, d] and their weights."""
    if isinstance(q, Mixture):
        z, share = mixture_sample(q, eps)
        return average(average(kl(z, q, p), share), weight)
    return average(kl(flow_sample(q, eps), q, p), weight)


def panels(inner, *outer) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights between edges: at knots densities have kinks, and their gradients jumps."""
    edges = np.sort(np.concatenate([np.ravel(inner), outer, -np.array(outer)]))
    nodes, weight = np.polynomial.legendre.leggauss(40)
    half = np.diff(edges)[:, None] / 2.0
    return (edges[:-1, None] + half * (1.0 + nodes)).ravel(), (half * weight).ravel()


def exact_kl(q, flat) -> float:
    """KL to P of the family of q, with these numbers as its fields, by quadrature over z."""
    fields = np.split(flat, np.cumsum([field.size for field in q])[:-1])
    z, weight = panels(fields[1], 4.0, 8.0, 18.0)
    log_q = np.array([numpy_flow(v, fields) for v in z]) if isinstance(q, Flow) else numpy_mixture(z, *fields)
    return float(weight @ (np.exp(log_q) * (log_q - norm.logpdf(z, P.mean[0], P.std[0]))))


@pytest.mark.parametrize("q", [mixture(1), flow(1)], ids=["mixture", "flow"])
def test_a_kl_estimate_and_its_gradient_have_the_values_of_quadrature(x64, q):
    flat = np.concatenate([np.float64(field).ravel() for field in q])
    q, p = jax.tree.map(lambda field: jnp.asarray(field, float), (q, P))
    eps, weight = panels(q.x if isinstance(q, Flow) else [], 3.0, 6.0, 9.0)
    noise = jnp.asarray(eps)[:, None], jnp.asarray(weight * norm.pdf(eps))
    steps = 1e-3 * np.eye(flat.size)
    differences = [(exact_kl(q, flat + step) - exact_kl(q, flat - step)) / 2e-3 for step in steps]
    for kl in sampled_kl, path_kl:
        value, slopes = jax.jit(jax.value_and_grad(lambda q, kl=kl: estimate(q, p, *noise, kl)))(q)
        np.testing.assert_allclose(value, exact_kl(q, flat), atol=1e-6)
        actual = np.concatenate([np.asarray(slope).ravel() for slope in slopes])
        np.testing.assert_allclose(actual, differences, atol=2e-5)


@pytest.mark.parametrize("q", [mixture(3), flow(3)], ids=["mixture", "flow"])
def test_the_mean_over_noise_is_the_kl_of_three_dimensions(q):
    """To a mixture: E_q[ln q - ln p] from a plain Monte Carlo of numpy, whose components are drawn by chance."""
    p, rng, draws = mixture(3, k=2), np.random.default_rng(0), 400_000
    eps = rng.normal(size=(draws, 3))
    if isinstance(q, Mixture):
        chosen = rng.choice(3, size=draws, p=np.asarray(jax.nn.softmax(q.logits)))
        z = np.asarray(q.mean)[chosen] + np.asarray(q.std)[chosen] * eps
    else:
        z = np.asarray(flow_sample(q, jnp.float32(eps)))
    each = np.asarray(jax.jit(sampled_kl)(jnp.float32(z), q, p))
    nodes = [draw_latent(key, lattice, 3, 4096) for key in jax.random.split(jax.random.key(1), 16)]
    run = jax.jit(estimate)
    means = np.array([run(q, p, *pair) for pair in nodes])
    spread = np.hypot(np.std(each) / np.sqrt(draws), np.std(means) / 4.0)
    assert abs(means.mean() - each.mean()) < 4.0 * spread and spread < 3e-3 * means.mean()


def test_paths_have_no_variance_at_the_target_and_the_entropy_form_keeps_to_gaussians():
    q, eps = mixture(2), jax.random.normal(jax.random.key(2), (5, 2))
    slopes = jax.jit(jax.grad(lambda q: estimate(q, mixture(2), eps, jnp.full(5, 0.2), path_kl)))(q)
    for slope in slopes:
        np.testing.assert_allclose(slope, np.zeros_like(slope), atol=1e-6)
    z, gaussian = jnp.zeros((4, 2)), standard_normal((2,))
    for p in (q, flow(2), gaussian):
        expected = -np.log(2.0 * np.pi * np.e) - log_prob(z, p)
        np.testing.assert_allclose(entropy_form_kl(z, gaussian, p), expected, rtol=1e-5)
    with pytest.raises(TypeError, match="q is a Mixture: a Normal is needed"):
        entropy_form_kl(z, q, gaussian)  # type: ignore[arg-type]


def test_straight_ends_of_free_slopes_come_nearer_to_half_a_gaussian(x64):
    """KL(half Gaussian || flow), knots on the exact map. Durkan et al.'s ends, of slope 1, do not fit the flat side."""
    eps = np.linspace(-3.0, 3.0, 13)
    y = norm.isf(norm.sf(eps) / 2.0)  # T(eps) = Phi^-1((1 + Phi(eps)) / 2)
    slope = norm.pdf(eps) / (2.0 * norm.pdf(y))
    z, step = np.linspace(1e-6, 9.0, 200_001, retstep=True)

    def kl(slope):
        p = Flow(*map(jnp.asarray, (eps, y, slope)))
        log_half = np.log(2.0) + norm.logpdf(z)
        return float(step * np.sum(np.exp(log_half) * (log_half - p.log_prob(jnp.asarray(z)))))

    durkans = np.concatenate([[1.0], slope[1:-1], [1.0]])
    assert 0.0 < kl(slope) < 1e-3 and kl(durkans) > 10.0 * kl(slope)
