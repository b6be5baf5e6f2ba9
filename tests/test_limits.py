"""The optimum against searches that know nothing of its derivation: scipy's minimisers over quadrature."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm

from vae_bit.limits import LN2, conditional_entropy, information, limit, mmse, one_layer, prior_mismatch

GRID = np.linspace(-14.0, 14.0, 5601)


def test_one_layer_known_values():
    expected = np.array(
        [
            [1, 0.69315, 0.69315, 0.0, 0.0, 1.0],
            [2, 0.90756, 0.21634, 0.6912, 0.8655, 0.5010],
            [5, 1.06579, 0.14153, 0.9243, 0.9179, 0.3968],
            [10, 1.15371, 0.11434, 1.0394, 0.9354, 0.3537],
            [100, 1.35960, 0.07161, 1.2880, 0.9612, 0.2758],
            [1000, 1.50049, 0.05277, 1.4477, 0.9720, 0.2351],
        ]
    )
    n, rows = expected[:, 0], np.stack(one_layer(expected[:, 0]), axis=1)
    assert n.shape == (6,)
    np.testing.assert_allclose(rows[:, :2], expected[:, 1:3], atol=5.1e-6)
    np.testing.assert_allclose(rows[:, 2:], expected[:, 3:], atol=5.1e-5)


def normal_mean(f, corner):
    """E[f(eps)] by adaptive quadrature, cut where f turns."""

    def integrand(eps):
        return math.exp(-eps * eps / 2.0) * f(eps)

    ends = (-12.0 + min(corner, 0.0), corner, 12.0)
    parts = (quad(integrand, *part, epsabs=0.0, epsrel=1e-12)[0] for part in pairwise(ends))
    return sum(parts) / math.sqrt(2.0 * math.pi)


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@pytest.mark.parametrize(("n", "beta"), [(1.2, 1.0), (5.0, 3.1), (1e3, 1.0), (1e9, 1.0)])
def test_one_layer_is_the_minimum_over_mean_and_std(n, beta):
    def terms(code):
        m, s = code[0], math.exp(code[1])
        recon = n * normal_mean(lambda eps: softplus(-2.0 * m / s * (m / s + eps)), -m / s)
        return recon, (m * m + s * s - 1.0) / 2.0 - code[1]

    def loss(code):
        return np.dot(terms(code), (1.0, beta))

    options = {"xatol": 1e-8, "fatol": 1e-14}
    found = minimize(loss, (0.8, -0.8), method="Nelder-Mead", options=options).x
    best = one_layer(n, beta)
    np.testing.assert_allclose(best.loss, loss(found), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(best[1:], (*terms(found), found[0], np.exp(found[1])), atol=1e-6)


@pytest.mark.parametrize("n", [0.8, 2.0, 1000.0])
def test_two_free_codes_do_no_better(n):
    def loss(codes):
        means, log_stds = codes[:2], codes[2:]
        log_q = norm.logpdf(GRID, means[:, None], np.exp(log_stds)[:, None])
        costs = np.exp(log_q) * np.logaddexp(0.0, log_q[::-1] - log_q)
        kl = (means**2 + np.exp(2.0 * log_stds) - 1.0) / 2.0 - log_stds
        return n * np.mean(np.sum(costs, axis=1)) * (GRID[1] - GRID[0]) + np.mean(kl)

    starts = np.random.default_rng(0).normal(size=(4, 4)) * 0.5 + np.array([-0.8, 0.8, -1.0, -1.0])
    found = [minimize(loss, start, method="BFGS").fun for start in starts]
    assert min(found) == pytest.approx(one_layer(n).loss, abs=1e-8)


def test_collapse_up_to_n_equal_to_beta():
    n = np.array([1e-6, 0.5, 0.999, 1.0])
    for beta in (1.0, 7.3):
        best = one_layer(n * beta, beta)
        np.testing.assert_allclose(best.loss, n * beta * LN2, rtol=1e-14)
        np.testing.assert_array_equal(best.kl, 0.0)
        np.testing.assert_array_equal(best.mean, 0.0)
        np.testing.assert_array_equal(best.std, 1.0)


def test_the_code_opens_as_a_sixth_root():
    excess = np.geomspace(1e-14, 1e-3, 23)
    n = 1.0 + excess
    best = one_layer(n)
    t = np.cbrt(1.5 * (n - 1.0))
    assert np.all(np.abs(best.mean / np.sqrt(t) - 1.0) < 0.2 * t)
    assert np.all(np.abs((best.std - 1.0) / t + 0.5) < 0.5 * t + 1e-10)
    saved = n[-8:] * LN2 - best.loss[-8:]
    np.testing.assert_allclose(saved, 0.375 * np.cbrt(1.5) * (n[-8:] - 1.0) ** (4.0 / 3.0), rtol=0.1, atol=1e-15)


def test_slope_of_the_loss_in_n_and_beta():
    """Envelope theorem: dL/dn = recon / n, dL/dbeta = kl. It ties the five fields together at every n."""
    n, beta, h = np.geomspace(0.1, 1e9, 200)[:, None], np.array([0.7, 3.0]), 1e-5
    best = one_layer(n, beta)
    in_n = (one_layer(n * (1 + h), beta).loss - one_layer(n * (1 - h), beta).loss) / (2 * h)
    in_beta = (one_layer(n, beta * (1 + h)).loss - one_layer(n, beta * (1 - h)).loss) / (2 * h)
    np.testing.assert_allclose(in_n, best.recon, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(in_beta, beta * best.kl, rtol=1e-5, atol=1e-9)


def test_beta_rescales_n():
    n, beta = np.array([0.5, 4.0, 1000.0]), np.array([[0.25], [4.0]])
    best, unit = one_layer(n, beta), one_layer(n / beta)
    assert best.loss.shape == (2, 3)
    np.testing.assert_allclose(best.loss, beta * unit.loss, rtol=1e-14)
    np.testing.assert_allclose(best.loss, best.recon + beta * best.kl, rtol=1e-14)


def test_scalars_and_many_points():
    scalar, curve = one_layer(5), one_layer(np.geomspace(0.1, 1e9, 1000))
    assert all(np.ndim(field) == 0 and field.dtype == np.float64 for field in scalar)
    assert all(field.shape == (1000,) and np.all(np.isfinite(field)) for field in curve)
    assert np.all(np.diff(curve.loss) > 0.0)


@pytest.mark.parametrize(
    ("n", "beta", "message"),
    [
        (0.0, 1.0, "n must be finite and > 0, got 0.0"),
        ([1.0, -2.0], 1.0, "n must be finite and > 0, got -2.0"),
        (np.nan, 1.0, "n must be finite and > 0, got nan"),
        (np.inf, 1.0, "n must be finite and > 0, got inf"),
        (1.0, 0.0, "beta must be finite and > 0, got 0.0"),
    ],
)
def test_invalid_arguments_are_named(n, beta, message):
    for layers in (1, 2):
        with pytest.raises(ValueError, match=message):
            limit(layers, n, beta)


@pytest.mark.parametrize("t", [0.0, 1e-3, 0.7, 9.0, 40.0])
def test_the_channel(t):
    root = math.sqrt(t)
    entropy = normal_mean(lambda eps: softplus(-2.0 * (t + root * eps)), -root)
    error = normal_mean(lambda eps: 2.0 / (1.0 + math.exp(2.0 * (t + root * eps))), -root)
    np.testing.assert_allclose(conditional_entropy(t), entropy, rtol=1e-11)
    np.testing.assert_allclose(mmse(t), error, rtol=1e-11)


def test_information_and_error_of_the_channel():
    t = np.linspace(0.01, 30.0, 300)
    slope = (conditional_entropy(t + 1e-5) - conditional_entropy(t - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope, -mmse(t) / 2.0, rtol=1e-7, atol=1e-10)
    assert np.all(np.diff((1.0 + t) * mmse(t)) < 0.0)
    assert conditional_entropy(0.0) == pytest.approx(LN2, rel=1e-15)
    with pytest.raises(ValueError, match="t must be finite and >= 0, got"):
        conditional_entropy(-1.0)


def test_limit_of_more_layers():
    n, beta = np.array([0.3, 1.0, 5.0, 1000.0]), np.array([[0.5], [1.0], [2.0]])
    np.testing.assert_array_equal(limit(1, n, beta), one_layer(n, beta).loss)
    for layers in (2, 3, 7):
        np.testing.assert_allclose(limit(layers, n, beta), LN2 * np.minimum(n, beta), rtol=1e-15)
        assert np.all(limit(layers, n, beta) <= limit(1, n, beta) * (1.0 + 1e-15))
    for layers in (0, -1, 1.5):
        with pytest.raises(ValueError, match="layers must be an integer >= 1, got"):
            limit(layers, 5)  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="layers must be an integer >= 1, got"):
            information(layers, 5)  # pyright: ignore[reportArgumentType]


def _mixture_kl(means, stds):
    density = np.mean(norm.pdf(GRID, np.reshape(means, (2, 1)), np.reshape(stds, (2, 1))), axis=0)
    log_ratio = np.log(np.maximum(density, 1e-300)) - norm.logpdf(GRID)
    return np.sum(density * log_ratio) * (GRID[1] - GRID[0])


@pytest.mark.parametrize("m", [0.3, 0.8, 1.5, 4.0])
def test_prior_mismatch_is_the_minimum_over_all_pairs_at_that_distance(m):
    """Free: the middle of the pair and both widths."""

    def kl(free):
        return _mixture_kl((free[0] - m, free[0] + m), np.exp(free[1:]))

    found = [minimize(kl, start, method="BFGS") for start in ((0.1, -0.3, -0.1), (-0.2, 0.1, -0.8))]
    best = prior_mismatch(m)
    assert min(f.fun for f in found) == pytest.approx(best.kl, abs=1e-9)
    assert _mixture_kl((-m, m), (best.std, best.std)) == pytest.approx(best.kl, rel=1e-11, abs=1e-12)


def test_two_gaussians_are_the_prior_only_when_they_coincide():
    assert prior_mismatch(0.0).kl == pytest.approx(0.0, abs=1e-15)
    assert prior_mismatch(0.0).std == 1.0
    m = np.linspace(0.05, 12.0, 500)
    kl = prior_mismatch(m).kl
    assert np.all(kl > 0.0)
    assert np.all(np.diff(kl) > 0.0)
    small = np.array([0.05, 0.1, 0.15])
    np.testing.assert_allclose(prior_mismatch(small).kl, small**8 / 12.0, rtol=0.01)
    np.testing.assert_allclose(kl[-1], 72.0 - LN2, rtol=1e-12)
    with pytest.raises(ValueError, match="m must be finite and >= 0, got"):
        prior_mismatch(-1.0)
