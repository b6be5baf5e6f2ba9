"""Exact evaluation against nested float64 quadrature in numpy, closed forms, and itself on finer grids.

The chains are functions with a known scale: logit_i = slope * z_1, q(z_1 | x) = N(-+m, s^2), p(z_1 | z_2) a tanh step
and q(z_2 | z_1) another. The oracle knows where their features are and puts geometric panels around them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit, logsumexp
from scipy.stats import norm

from vae_bit import marginals
from vae_bit.distributions import Normal
from vae_bit.exact import Chain, densities, evaluate, log_evidence

pytestmark = pytest.mark.usefixtures("quick_compile")
WIDTH = 1000

# n, slope, shift, m, s
ONE = {
    "n = 1": (1, 1.0, 0.0, 0.5, 0.8),
    "n = 5": (5, 4.0, 0.1, 0.92, 0.4),
    "n = 1000": (1000, 35.0, 0.0, 0.97, 0.235),
    "collapsed": (1000, 0.0, 0.0, 0.0, 1.0),
    "untrained": (1000, 0.3, 0.2, 0.1, 1.0),
    "steep": (1000, 1e4, 0.0, 0.97, 0.235),
    "steep, shifted": (1000, 1e4, 0.3, 0.97, 0.235),
    "steep the wrong way": (1000, -1e4, 0.0, 0.97, 0.235),
    "narrow q": (1000, 1e4, 0.0, 1.0, 1e-3),
    "wide q": (1000, 1e4, 0.0, 1.0, 10.0),
}
# ..., c, k, noise of p(z_1 | z_2) = N(c tanh(k z_2), noise^2), and the same of q(z_2 | z_1)
TWO = {
    "n = 5": (5, 4.0, 0.1, 1.0, 0.4, 1.0, 0.5, 0.8, 0.8, 0.8, 0.6),
    "n = 1000": (1000, 20.0, 0.0, 1.0, 0.3, 1.0, 1.0, 0.5, 1.0, 1.0, 0.5),
    "untrained": (1000, 0.2, 0.0, 0.1, 0.9, 0.3, 0.5, 0.9, 0.2, 0.8, 1.1),
    "the original's": (1000, 3.0, 0.0, 19.0, 1.9, 19.0, 5.0, 1.9, 0.8, 0.2, 0.5),
    "far apart": (1000, 1e4, 0.0, 1.0, 0.3, 50.0, 1.0, 1e-3, 0.8, 1.0, 0.5),
    "far apart, abrupt": (1000, 1e4, 0.0, 1.0, 0.3, 50.0, 100.0, 1e-3, 0.8, 1.0, 0.5),
    "two spikes": (1000, 1e4, 0.0, 50.0, 1e-3, 50.0, 100.0, 1e-3, 0.8, 1.0, 0.5),
    "narrow q": (1000, 1e4, 0.0, 1.0, 0.3, 50.0, 100.0, 1e-3, 0.8, 1.0, 1e-3),
    "narrow q, abrupt": (5, 4.0, 0.0, 1.0, 0.4, 1.0, 0.5, 0.8, 3.0, 100.0, 1e-3),
    "wide q": (1000, 1e4, 0.0, 1.0, 10.0, 50.0, 100.0, 1e-3, 0.8, 1.0, 10.0),
}


def tanh_kernel(c, k, noise):
    return lambda z: Normal(c * jnp.tanh(k * z), jnp.full_like(z, noise))


def chain(n, slope, shift, m, s, *kernels, width=WIDTH):
    """A chain of 1 + len(kernels) / 6 layers: each further layer adds (c, k, noise) of p and of q."""
    mask = (jnp.arange(width) < n).astype(jnp.result_type(float))
    x = mask[:, None] * jnp.array([[0.0, 1.0]])
    steps = [kernels[i : i + 3] for i in range(0, len(kernels), 3)]
    p, q = (tuple(tanh_kernel(*step) for step in steps[i::2]) for i in (0, 1))
    std = jnp.stack([jnp.asarray(s), jnp.asarray(s)])
    return Chain(
        x, mask, Normal(m * jnp.array([-1.0, 1.0]), std), q, p, lambda z: jnp.tile(slope * (z - shift), (width, 1))
    )


def compute(f, *args):
    """f(*args) in float64, compiled, as numpy arrays."""
    with jax.enable_x64(True):
        args = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), args)
        return jax.tree.map(np.asarray, jax.jit(f)(*args))


def evaluate_all(cases):
    """Every case in one program: name -> fields."""
    batch = tuple(np.array(column) for column in zip(*cases.values(), strict=True))
    result = compute(partial(jax.lax.map, lambda args: evaluate(chain(*args))), batch)
    return {name: jax.tree.map(lambda leaf, i=i: leaf[i], result) for i, name in enumerate(cases)}


@pytest.fixture(scope="module")
def evaluated():
    return {1: evaluate_all(ONE), 2: evaluate_all(TWO)}


def panels(low, high, centres, order=12):
    """Gauss-Legendre nodes and weights on [low, high], panels shrinking geometrically to 1e-9 around the centres.

    `low` and `high` have the shape [...], centres [..., C]; the result is [..., K] each.
    """
    away = np.geomspace(1e-9, 60.0, 40)
    away = np.concatenate([-away[::-1], [0.0], away])
    spread = np.asarray(centres)[..., None] + away
    even = np.linspace(low, high, 25, axis=-1)
    edges = np.concatenate([spread.reshape(*spread.shape[:-2], -1), even], axis=-1)
    edges = np.sort(np.clip(edges, np.asarray(low)[..., None], np.asarray(high)[..., None]), axis=-1)
    x, w = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[..., None] / 2.0
    nodes = (edges[..., 1:] + edges[..., :-1])[..., None] / 2.0 + half * x
    return nodes.reshape(*nodes.shape[:-2], -1), (half * w).reshape(*nodes.shape[:-2], -1)


def energy(case, z):
    """-ln p(x | z_1) at 0^n and 1^n: [2, ...]."""
    n, slope, shift = case[:3]
    logits = slope * (z - shift)
    return n * np.stack([np.logaddexp(0.0, logits), np.logaddexp(0.0, -logits)])


def oracle_one(case):
    """recon, kl_1, ln p(x_k), I(x; z_1), KL(q(z_1) || p(z_1)), E KL(q(z_1 | x) || p(z_1 | x)), one by one."""
    _, _, shift, m, s = case
    recon, kl, information, marginal, posterior = [], [], [], [], []
    z, w = panels(-40.0, 40.0, [shift])
    log_p = np.asarray(logsumexp(norm.logpdf(z) - energy(case, z), axis=-1, b=w))
    for k, mean in enumerate([-m, m]):
        z, w = panels(mean - 12.0 * s, mean + 12.0 * s, [shift])
        log_q = norm.logpdf(z, mean, s)
        log_marginal = np.logaddexp(norm.logpdf(z, -m, s), norm.logpdf(z, m, s)) - np.log(2.0)
        mass = w * np.exp(log_q)
        recon.append(mass @ energy(case, z)[k])
        kl.append(mass @ (log_q - norm.logpdf(z)))
        information.append(mass @ (log_q - log_marginal))
        marginal.append(mass @ (log_marginal - norm.logpdf(z)))
        posterior.append(mass @ (log_q - (norm.logpdf(z) - energy(case, z)[k] - log_p[k])))
    return np.mean(recon), np.mean(kl), log_p, np.mean(information), np.mean(marginal), np.mean(posterior)


def oracle_evidence(case):
    """ln p(x_k) = ln int p(z_2) int p(z_1 | z_2) p(x_k | z_1) of two layers."""
    c, k, noise = case[5:8]
    crossing = np.arctanh(np.clip(case[2] / c, -1.0, 1.0)) / k
    z_2, w_2 = panels(-40.0, 40.0, [0.0, crossing])
    mean = c * np.tanh(k * z_2)
    t, w_1 = panels(np.full_like(mean, -40.0), np.full_like(mean, 40.0), (case[2] - mean[:, None]) / noise)
    inner = logsumexp(norm.logpdf(t) - energy(case, mean[:, None] + noise * t), axis=-1, b=w_1)
    return np.asarray(logsumexp(norm.logpdf(z_2) + inner, axis=-1, b=w_2))


def oracle_kl(case):
    """kl_1, kl_2 of two layers."""
    _, _, _, m, s, c, k, noise, c_q, k_q, s_q = case
    terms = []
    for mean in (-m, m):
        z_1, w_1 = panels(mean - 12.0 * s, mean + 12.0 * s, [0.0])
        mass = w_1 * norm.pdf(z_1, mean, s)
        mean_2 = c_q * np.tanh(k_q * z_1)
        t, w = panels(np.full_like(z_1, -12.0), np.full_like(z_1, 12.0), -mean_2[:, None] / s_q)
        log_p = norm.logpdf(z_1[:, None], c * np.tanh(k * (mean_2[:, None] + s_q * t)), noise)
        cross = np.sum(w * norm.pdf(t) * -log_p, axis=-1)
        terms.append([mass @ cross - norm.entropy(mean, s), mass @ (0.5 * (mean_2**2 + s_q**2 - 1.0) - np.log(s_q))])
    return np.mean(terms, axis=0)


def oracle_surgery(case):
    """I(x; z_2), KL(q(z_2) || p(z_2)) of two layers."""
    _, _, _, m, s, _, _, _, c, k, noise = case
    reach = c * np.tanh(k * (m + 12.0 * s)) + 12.0 * noise
    z_2, w = panels(-reach, reach, c * np.array([-1.0, 1.0, -np.tanh(k * m), np.tanh(k * m), 0.0]))
    root = np.arctanh(np.clip(z_2 / c, -1.0 + 1e-15, 1.0 - 1e-15)) / k
    densities = []
    for mean in (-m, m):
        low, high = np.full_like(z_2, mean - 12.0 * s), np.full_like(z_2, mean + 12.0 * s)
        z_1, w_1 = panels(low, high, np.stack([root, np.zeros_like(root)], -1))
        densities.append(np.sum(w_1 * norm.pdf(z_1, mean, s) * norm.pdf(z_2[:, None], c * np.tanh(k * z_1), noise), -1))
    q = np.maximum(densities, 1e-300)
    assert np.abs(q @ w - 1.0).max() < 1e-7
    aggregate = q.mean(0)
    return np.mean((q * np.log(q / aggregate)) @ w), w @ (aggregate * (np.log(aggregate) - norm.logpdf(z_2)))


def close(value, expected, tolerance=1e-5):
    """To 1e-5, relative to max(1, |expected|)."""
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ONE)
def test_one_layer(evaluated, name):
    recon, kl, log_p, information, marginal, posterior = oracle_one(ONE[name])
    value = evaluated[1][name]
    close(value.recon, recon)
    close(value.kl, [kl], 1e-7)
    close(value.nll, -log_p.mean(), 1e-6)
    close(value.valid_mass, np.exp(log_p).sum(), 1e-6)
    close(value.mutual_information, information, 1e-6)
    close(value.marginal_kl, marginal, 1e-6)
    close(value.posterior_kl, posterior)
    close(value.kl[0], value.mutual_information + value.marginal_kl, 1e-6)


@pytest.mark.parametrize("name", TWO)
def test_two_layers(evaluated, name):
    case, value = TWO[name], evaluated[2][name]
    close(value.recon, oracle_one(case[:5])[0])
    close(value.kl, oracle_kl(case))
    log_p = oracle_evidence(case)
    close(value.nll, -log_p.mean())
    close(value.valid_mass, np.exp(log_p).sum())
    information, marginal = oracle_surgery(case)
    close(value.mutual_information, information)
    close(value.marginal_kl, marginal)
    assert value.kl[1] > information + marginal - 1e-6  # z_1 tells more of z_2 than x does


@pytest.mark.parametrize("layers", [1, 2])
def test_identities_and_bounds(evaluated, layers):
    for value in evaluated[layers].values():
        slack = 1e-7 * max(1.0, value.loss)
        assert value.loss == pytest.approx(value.recon + value.kl.sum(), rel=1e-12)
        assert value.loss == pytest.approx(value.nll + value.posterior_kl, rel=1e-12)
        assert value.posterior_kl > -slack
        assert value.nll > np.log(2.0) - 1e-6
        assert value.valid_mass < 1.0 + 1e-6
        assert -1e-9 < value.mutual_information < np.log(2.0) + 1e-6
        assert value.marginal_kl > -1e-9


@pytest.mark.parametrize("layers", [1, 2])
def test_finer_grids_agree(evaluated, layers, monkeypatch):
    monkeypatch.setattr(marginals, "PANELS", 2 * marginals.PANELS)
    monkeypatch.setattr(marginals, "INNER_PANELS", 2 * marginals.INNER_PANELS)
    fine = evaluate_all(ONE if layers == 1 else TWO)
    for name, value in evaluated[layers].items():
        for field, coarse, finer in zip(value._fields, value, fine[name], strict=True):
            np.testing.assert_allclose(coarse, finer, rtol=1e-5, atol=1e-5, err_msg=f"{name}: {field}")
    assert any((value.recon != fine[name].recon).any() for name, value in evaluated[layers].items())


def linear(slopes, stds):
    return tuple(lambda z, a=a, s=s: Normal(a * z, jnp.full_like(z, s)) for a, s in zip(slopes, stds, strict=True))


def test_linear_gaussian_chain_of_three_layers():
    """Linear kernels keep every marginal Gaussian, so that all but a few one-dimensional integrals are closed forms."""
    n, slope, m, s = 5, 3.0, 0.8, 0.5
    steps = np.array([[0.9, 0.6, -0.8, 0.5], [-0.7, 0.8, 1.1, 0.3]])
    a, noise, b, tau = steps.T
    value = compute(
        lambda: evaluate(chain(n, slope, 0.0, m, s, width=n)._replace(q=linear(b, tau), p=linear(a, noise)), beta=0.5)
    )
    mean, var, kl = m, s**2, [-norm.entropy(m, s)]
    for a_l, noise_l, b_l, tau_l in zip(a, noise, b, tau, strict=True):
        residual = mean * (1.0 - a_l * b_l), var * (1.0 - a_l * b_l) ** 2 + (a_l * tau_l) ** 2
        kl[-1] += np.log(noise_l * np.sqrt(2.0 * np.pi)) + (residual[0] ** 2 + residual[1]) / (2.0 * noise_l**2)
        mean, var = b_l * mean, b_l**2 * var + tau_l**2
        kl.append(-norm.entropy(0.0, tau_l))
    kl[-1] += 0.5 * (np.log(2.0 * np.pi) + mean**2 + var)
    prior = 1.0
    for a_l, noise_l in zip(a[::-1], noise[::-1], strict=True):
        prior = a_l**2 * prior + noise_l**2
    evidence = quad(lambda z: norm.pdf(z, 0.0, np.sqrt(prior)) * expit(slope * z) ** n, -12.0, 12.0, epsabs=1e-13)[0]
    _, _, _, information, marginal, _ = oracle_one((n, slope, 0.0, mean, np.sqrt(var)))
    close(value.recon, oracle_one((n, slope, 0.0, m, s))[0], 1e-6)
    close(value.kl, kl, 1e-6)
    close(value.nll, -np.log(evidence), 1e-6)
    close(value.mutual_information, information, 1e-6)
    close(value.marginal_kl, marginal, 1e-6)
    assert float(value.loss) == pytest.approx(float(value.recon + 0.5 * value.kl.sum()), rel=1e-12)


def test_the_best_one_layer_model(evaluated):
    """The limit at n = 1000 is 1.50049; this one is nearly there."""
    assert 1.50049 < evaluated[1]["n = 1000"].loss < 1.5006


def test_points_that_are_not_mirror_images():
    """Three points of three dimensions with logits of their own, and padding that must not count."""
    x = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    weights, bias = np.array([2.0, -1.0, 0.5, np.pi]), np.array([0.1, 0.2, -0.3, 1e3])
    mean, std = np.array([-1.0, 0.3, 1.5]), np.array([0.4, 1.3, 0.7])

    def model():
        q = Normal(jnp.asarray(mean), jnp.asarray(std))
        mask = jnp.array([1.0, 1.0, 1.0, 0.0])
        return Chain(jnp.asarray(x), mask, q, (), (), lambda z: jnp.asarray(weights[:, None]) * z[None] + bias[:, None])

    log_p, recon = compute(lambda: (log_evidence(model()), evaluate(model()).recon))

    def likelihood(k, z):
        return np.sum(-np.logaddexp(0.0, (1.0 - 2.0 * x[:3, k]) * (weights[:3] * z + bias[:3])))

    for k in range(3):
        expected = quad(lambda z, k=k: norm.pdf(z) * np.exp(likelihood(k, z)), -12.0, 12.0, epsabs=1e-13)[0]
        close(log_p[k], np.log(expected), 1e-8)
    terms = [quad(lambda z, k=k: -norm.pdf(z, mean[k], std[k]) * likelihood(k, z), -16.0, 16.0)[0] for k in range(3)]
    close(recon, np.mean(terms), 1e-8)


@pytest.mark.parametrize("layers", [1, 2])
def test_float32(evaluated, layers):
    case = (ONE if layers == 1 else TWO)["n = 1000"]
    single = jax.jit(lambda: evaluate(chain(*case)))()
    for coarse, fine in zip(single, evaluated[layers]["n = 1000"], strict=True):
        assert coarse.dtype == jnp.float32
        np.testing.assert_allclose(coarse, fine, rtol=2e-4, atol=2e-4)


def test_beyond_the_range_of_floats():
    """exp(network) overflows far out, where no mass is: every figure stays finite."""

    def model():
        base = chain(5, 1.0, 0.0, 0.5, 0.5, width=5)
        return base._replace(q=linear([0.3], [0.2]), p=(lambda z: Normal(z, jnp.exp(5.0 * jnp.square(z) - 1.0)),))

    assert all(np.isfinite(leaf).all() for leaf in compute(lambda: evaluate(model())))


def test_densities_of_two_layers():
    case = TWO["n = 5"]
    n, slope, shift, m, s, c, k, noise, c_q, k_q, s_q = case
    z_1, z_2 = np.linspace(-3.0, 3.0, 41), np.linspace(-2.5, 2.5, 31)
    d = compute(lambda *grids: densities(chain(*case, width=n + 1), grids), z_1, z_2)
    t, w = panels(-12.0, 12.0, [0.0])
    w = w * norm.pdf(t)
    log_p = oracle_evidence(case)
    q_1 = np.stack([norm.pdf(z_1, mean, s) for mean in (-m, m)])
    q_2 = np.stack([norm.pdf(z_2[:, None], c_q * np.tanh(k_q * (mean + s * t)), s_q) @ w for mean in (-m, m)])
    p_1 = norm.pdf(z_1[:, None], c * np.tanh(k * t), noise) @ w
    below = c * np.tanh(k * z_2)[:, None] + noise * t
    expected = {
        "q": (q_1, q_2),
        "aggregate": (q_1.mean(0), q_2.mean(0)),
        "p": (p_1, norm.pdf(z_2)),
        "posterior": (
            p_1 * np.exp(-energy(case, z_1) - log_p[:, None]),
            norm.pdf(z_2) * (np.exp(-energy(case, below)) @ w) / np.exp(log_p)[:, None],
        ),
        "probability": (expit(slope * (z_1 - shift)), expit(slope * (below - shift)) @ w),
    }
    for field, layers in expected.items():
        for got, want in zip(getattr(d, field), layers, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9, err_msg=field)
    np.testing.assert_allclose(d.at_zero, np.full(n + 1, expit(slope * (noise * t - shift)) @ w), rtol=1e-7)


@pytest.mark.parametrize("layers", [1, 2])
def test_densities_integrate_to_one(layers):
    case = (5, 4.0, 0.1, 1.0, 0.4) + (1.0, 0.5, 0.8, 0.8, 0.8, 0.6) * (layers - 1)
    d = compute(lambda grid: densities(chain(*case, width=5), [grid] * layers), np.linspace(-10.0, 10.0, 2001))
    for field in (d.q, d.aggregate, d.p, d.posterior):
        for density in field:
            np.testing.assert_allclose(np.sum(density, axis=-1) * 0.01, 1.0, atol=1e-6)
    for probability, density, posterior in zip(d.probability, d.p, d.posterior, strict=True):
        assert np.sum(probability * density) * 0.01 == pytest.approx(np.sum(d.probability[0] * d.p[0]) * 0.01, abs=1e-6)
        assert np.abs(posterior[0] - posterior[1]).sum() > 1.0
    if layers == 1:
        np.testing.assert_allclose(d.at_zero, expit(-0.4), rtol=1e-12)


def test_runs_can_be_batched():
    """vmap and lax.map give what one run gives."""

    def loss(slope):
        return evaluate(chain(5, slope, 0.0, 0.9, 0.4, width=5)).loss

    together, mapped = compute(lambda s: (jax.vmap(loss)(s), jax.lax.map(loss, s)), np.array([1.0, 4.0, 20.0]))
    np.testing.assert_allclose(together, mapped, rtol=1e-9)
    expected = [float(sum(oracle_one((5, slope, 0.0, 0.9, 0.4))[:2])) for slope in (1.0, 4.0, 20.0)]
    np.testing.assert_allclose(mapped, expected, rtol=1e-7)
