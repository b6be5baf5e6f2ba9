"""Models built by hand against quadrature over their definitions, ancestral sampling and plain searches."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize
from scipy.stats import norm

from vae_bit.handbuilt import (
    fit_mixture,
    handbuilt_loss,
    posterior_distance,
    posterior_gap,
    posterior_z1,
    posterior_z2,
    steep_map,
)
from vae_bit.limits import LN2, conditional_entropy, one_layer


def test_steep_map_known_value():
    assert steep_map(1000, a=6, s=0.02).loss == pytest.approx(0.69366, abs=5e-6)


@pytest.mark.parametrize(("a", "s"), [(1.0, 0.5), (3.0, 0.2), (4.0, 0.05)])
def test_steep_map_by_quadrature_over_its_definition(a, s):
    """Means over both noises, with the map from a fine table and the density ln p(z_1 | z_2) as it stands."""
    table = np.linspace(-a - 12.0, a + 12.0, 400_001)
    upper = (norm.sf(np.abs(table) - a) + norm.sf(np.abs(table) + a)) / 2.0
    z_2_of = -np.sign(table) * norm.ppf(upper)
    eps, fine = np.linspace(-7.5, 7.5, 151), np.linspace(-8.0, 8.0, 8001)
    z_1 = a + eps
    mean = np.interp(z_1, table, z_2_of)
    slope = (norm.pdf(z_1 - a) + norm.pdf(z_1 + a)) / 2.0 / norm.pdf(mean)
    std = s * slope
    z_2 = mean[:, None] + std[:, None] * fine
    log_ratio = norm.logpdf(z_2, mean[:, None], std[:, None]) - norm.logpdf(z_2)
    log_ratio -= norm.logpdf(z_1[:, None], np.interp(z_2, z_2_of, table), s)
    inner = log_ratio @ norm.pdf(fine) * (fine[1] - fine[0])
    kl = norm.pdf(eps) @ (norm.logpdf(eps) + inner) * (eps[1] - eps[0])
    best = steep_map(7.5, a, s)
    assert best.kl == pytest.approx(kl, abs=2e-6)
    assert best.recon == pytest.approx(7.5 * conditional_entropy(a * a), rel=1e-14)
    assert best.loss == best.recon + best.kl


def test_steep_map_tends_to_ln_2_and_never_reaches_it():
    noise = 0.1 / 2.0 ** np.arange(7)
    excess = np.array([steep_map(1000, 9.0, s).loss for s in noise]) - LN2
    assert np.all(excess > 0.0)
    assert excess[-1] < 5e-6
    np.testing.assert_allclose(excess[3:-1] / excess[4:], 4.0, rtol=0.02)
    assert steep_map(1e9, 12.0, 0.001).loss - LN2 == pytest.approx(1.27e-6, rel=0.01)


@pytest.mark.parametrize("a", [0.0, 0.4, 1.0, 3.0])
def test_exact_posteriors_are_densities_and_their_distances(a):
    half_z1 = quad(lambda z: posterior_z1(z, a), 0.0, np.inf)[0]
    sides = [quad(lambda z: posterior_z2(z, a), *ends)[0] for ends in ((-12.0, 0.0), (0.0, 12.0))]
    assert half_z1 == pytest.approx(1.0, abs=1e-8)
    np.testing.assert_allclose(sides, [norm.cdf(-a), norm.cdf(a)], atol=1e-8)

    def distance(p, q):
        parts = ((-12.0, 0.0), (0.0, 15.0))
        return sum(quad(lambda z: abs(p(z, a) - q(z)), *ends)[0] for ends in parts) / 2.0

    to_gaussian = distance(posterior_z1, lambda z: norm.pdf(z - a))
    to_half = distance(posterior_z2, lambda z: 2.0 * norm.pdf(z) * (z > 0.0))
    np.testing.assert_allclose([to_gaussian, to_half], posterior_distance(a), atol=1e-8)


@pytest.mark.parametrize("a", [0.4, 1.5])
def test_exact_posteriors_by_ancestral_sampling(a):
    rng, draws = np.random.default_rng(1), 400_000
    z_2 = rng.normal(size=draws)
    z_1 = rng.normal(np.where(z_2 > 0.0, a, -a))
    ones = z_1 > 0.0
    assert np.mean(ones) == pytest.approx(0.5, abs=0.004)
    edges = np.linspace(-3.0, 4.0, 15)
    for sample, density in ((z_1[ones], posterior_z1), (z_2[ones], posterior_z2)):
        share = np.histogram(sample, edges)[0] / sample.size
        mass = [quad(lambda z, f=density: f(z, a), *ends)[0] for ends in pairwise(edges)]
        np.testing.assert_allclose(share, mass, atol=4.5 * 0.5 / np.sqrt(sample.size))


def _cost_of_top_layer(z_1, a):
    """min over (mu, tau) of KL(N(mu, tau^2) || N(0, 1)) - E[ln N(z_1; a sign(z_2), 1)], by search."""

    def cost(q):
        mu, tau = q[0], math.exp(q[1])
        left = math.erfc(mu / tau / math.sqrt(2.0)) / 2.0
        squares = (1.0 - left) * (z_1 - a) ** 2 + left * (z_1 + a) ** 2
        return (mu * mu + tau * tau - 1.0 + squares + math.log(2.0 * math.pi)) / 2.0 - q[1]

    return minimize(cost, (np.sign(z_1), -0.5), method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-10}).fun


@pytest.mark.parametrize("b", [-2.0, 0.0, 0.3, 2.0, 36.0, 400.0])
def test_posterior_gap_is_the_least_divergence(b):
    a = max(1.0, np.sqrt(abs(b)))
    z_1 = b / a
    log_p = np.logaddexp(norm.logpdf(z_1, a), norm.logpdf(z_1, -a)) - LN2
    assert posterior_gap(b) == pytest.approx(_cost_of_top_layer(z_1, a) + log_p, abs=1e-7)


def test_posterior_gap_grows_without_bound():
    b = np.geomspace(1e-3, 1e300, 400)
    gap = posterior_gap(b)
    assert posterior_gap(0.0) == pytest.approx(0.0, abs=1e-15)
    assert np.all(np.diff(gap) > 0.0)
    assert gap[-1] > 2.9
    np.testing.assert_allclose(posterior_gap(1e-3), 1e-6 * (0.5 - 1.0 / np.pi), rtol=1e-4)


def test_handbuilt_loss_is_the_minimum():
    n, a, slope = 20.0, 2.0, 5.0
    z_1 = np.linspace(-7.0, 12.0, 153)
    top = CubicSpline(z_1, [_cost_of_top_layer(z, a) for z in z_1])
    eps = np.linspace(-8.0, 8.0, 321)

    def loss(code):
        z = code[0] + np.exp(code[1]) * eps
        cost = n * np.logaddexp(0.0, -slope * z) + norm.logpdf(eps) - code[1] + top(z)
        return norm.pdf(eps) @ cost * (eps[1] - eps[0])

    best = handbuilt_loss(n, a, slope)
    found = [minimize(loss, start, method="Nelder-Mead").fun for start in ((1.0, 0.0), (-1.0, -1.0))]
    assert best.loss == pytest.approx(min(found), abs=1e-6)
    assert loss((best.mean, np.log(best.std))) == pytest.approx(best.loss, abs=1e-6)
    assert best.loss == pytest.approx(best.recon + best.kl, rel=1e-15)


@pytest.mark.parametrize("slope", [0.02, 0.3, 5.0, 15.0, 300.0, 1e5])
def test_reconstruction_under_soft_and_hard_decoders(slope):
    best = handbuilt_loss(1000, 6, slope)
    edge = -float(best.mean / best.std)
    knots = np.sort([-9.0, edge - 1e-3, edge - 1e-5, edge, edge + 1e-5, edge + 1e-3, 9.0])

    def integrand(e):
        return math.exp(-e * e / 2.0) * np.logaddexp(0.0, -slope * (best.mean + best.std * e))

    recon = sum(quad(integrand, *ends, epsabs=0.0)[0] for ends in pairwise(knots)) / math.sqrt(2.0 * math.pi)
    assert best.recon == pytest.approx(1000 * recon, rel=1e-6)


def test_a_harder_decoder_costs_more_without_end():
    losses = [handbuilt_loss(1000, 6, slope).loss for slope in (1e2, 1e4, 1e8, 1e16, 1e32, 1e64, 1e128)]
    assert np.all(np.diff(losses) > 0.0)
    assert np.all(np.diff(losses)[2:] > 0.1)


def test_what_the_post_s_approximations_are_worth():
    """At n = 1000 unit noise gains 0.3 of the 0.8 nats there are to gain; at n = 5 it gains nothing."""
    a = (1.0, 2.0, 3.0, 3.5, 4.0, 5.0, 7.0)
    best = min(handbuilt_loss(1000, value, 10.0).loss for value in a)
    assert best == pytest.approx(1.1873, abs=5e-4)
    assert best < one_layer(1000).loss - 0.3
    assert best > LN2 + 0.49
    assert min(handbuilt_loss(5, value, 6.0).loss for value in a) > one_layer(5).loss
    # wide apart, all terms but the gap leave ln 2: with q(z_2 | z_1) = p(z_2 | z_1) it would work
    far = handbuilt_loss(1000, 6, 10)
    z = np.linspace(-2.0, 14.0, 1601)
    gap = norm.pdf(z, far.mean, far.std) @ posterior_gap(6.0 * z) * 0.01
    assert far.loss - gap == pytest.approx(LN2, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: steep_map(5, 6, 0.0), "s must be finite and > 0, got 0.0"),
        (lambda: steep_map(5, 6, 1.5), "s must be at most 1, the width of the code, got 1.5"),
        (lambda: handbuilt_loss(5, 6, np.inf), "slope must be finite and > 0, got inf"),
        (lambda: handbuilt_loss(5, -6, 1.0), "a must be finite and > 0, got -6.0"),
        (lambda: fit_mixture(0), "n must be an integer >= 1, got 0"),
    ],
)
def test_invalid_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 100, 10_000])
def test_mixture_fits_the_bit_exactly(n):
    for seed in range(4):
        fitted = fit_mixture(n, seed=seed)
        assert fitted.loss == pytest.approx(LN2, abs=1e-12)
        assert fitted.weights.sum() == pytest.approx(1.0, abs=1e-12)
        if n > 1:
            np.testing.assert_allclose(np.sort(fitted.probs, axis=0), [np.zeros(n), np.ones(n)], atol=1e-12)
            np.testing.assert_allclose(fitted.weights, 0.5, atol=1e-12)


def test_every_step_of_em_lowers_the_loss():
    losses = [fit_mixture(3, steps=steps, seed=5).loss for steps in range(12)]
    assert np.all(np.diff(losses) <= 1e-12)
    assert losses[0] > LN2 + 1.0
