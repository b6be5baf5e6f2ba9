"""`limits.mixture` against searches that share nothing with it: other grids, other methods, random starts."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime, differential_evolution, minimize
from scipy.special import log_softmax, xlogy
from scipy.stats import norm

from vae_bit import mixture_codes
from vae_bit.limits import LN2, mixture, one_layer

GRID = np.linspace(-8.0, 8.0, 1001)
SPACING = GRID[1] - GRID[0]
LOG_PRIOR = norm.logpdf(GRID)


def density(weights, means, stds):
    """Of mixtures [..., K] at the grid's points [..., Z]."""
    heights, means, stds = (np.asarray(field)[..., None] for field in (weights / stds, means, stds))
    return np.sum(heights * np.exp(-np.square((GRID - means) / stds) / 2.0), axis=-2) / math.sqrt(2.0 * math.pi)


def loss_of_densities(n, q_0, q_1):
    """n H(x | z) + I(x; z) + KL(q(z) || p(z)) at the best decoder."""
    q = (q_0 + q_1) / 2.0
    joint = xlogy(q_0, q_0) / 2.0 + xlogy(q_1, q_1) / 2.0
    information = np.sum(joint - xlogy(q, q), axis=-1) * SPACING
    mismatch = np.sum(xlogy(q, q) - q * LOG_PRIOR, axis=-1) * SPACING
    return n * (LN2 - information) + information + mismatch


def mirrored(n, parameters):
    """The loss of mirrored codes; parameters [3 K, ...]: logits, means and ln std of q(z | x_1)."""
    logits, means, log_stds = np.moveaxis(np.reshape(parameters, (3, -1, *np.shape(parameters)[1:])), 1, -1)
    q_1 = density(np.exp(log_softmax(logits, axis=-1)), means, np.exp(log_stds))
    return loss_of_densities(n, q_1[..., ::-1], q_1)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (2.0, {1: 0.90756, 2: 0.79136, 3: 0.74654, 4: 0.72476}),
        (5.0, {1: 1.06579, 2: 0.86194, 3: 0.78472, 4: 0.74733, 6: 0.71508}),
        (1000.0, {1: 1.50049, 2: 1.08936, 3: 0.92035, 4: 0.83379, 6: 0.75439}),
    ],
)
def test_known_values(n, expected):
    for components, loss in expected.items():
        best = mixture(n, components)
        assert best.loss == pytest.approx(loss, abs=6e-6)
        assert best.weight.shape == best.mean.shape == best.std.shape == (components,)


@pytest.mark.parametrize(("n", "components"), [(5.0, 2), (1000.0, 2), (2.0, 3)])
def test_random_starts_find_the_same_and_nothing_lower(n, components):
    """L-BFGS-B in direct parameters on an even grid, with finite differences in place of our gradient."""
    rng = np.random.default_rng(components)
    best, found = mixture(n, components), []
    for _ in range(4):
        start = np.ravel(
            [rng.normal(size=components), rng.normal(0.8, 0.7, components), rng.normal(-1, 0.5, components)]
        )
        bounds = np.repeat([(-6.0, 6.0), (-4.0, 4.0), (-3.3, 1.0)], components, axis=0)
        found.append(minimize(lambda p: mirrored(n, p), start, method="L-BFGS-B", bounds=bounds).fun)
    assert min(found) == pytest.approx(best.loss, abs=1e-6)
    assert min(found) > best.loss - 1e-9


def test_a_search_of_the_whole_box_finds_the_same():
    """Differential evolution, n = 5, K = 2: 5 parameters, since one logit is free."""
    box = [(-4.0, 4.0), (-1.0, 2.5), (-1.0, 2.5), (-3.0, 0.5), (-3.0, 0.5)]

    def loss(parameters):
        return mirrored(5.0, np.concatenate([np.zeros((1, *parameters.shape[1:])), parameters]))

    found = differential_evolution(
        loss, box, popsize=12, maxiter=200, tol=1e-9, rng=0, polish=False, updating="deferred", vectorized=True
    )
    assert found.fun == pytest.approx(mixture(5.0, 2).loss, abs=1e-6)
    assert found.fun > mixture(5.0, 2).loss - 1e-9


@pytest.mark.parametrize("n", [1.5, 5.0])
def test_two_free_codes_do_no_better(n):
    """Both mixtures of two are free: 12 parameters, no mirror."""

    def loss(parameters):
        logits, means, log_stds = parameters.reshape(3, 2, 2)
        q_0, q_1 = density(np.exp(log_softmax(logits, axis=1)), means, np.exp(log_stds))
        return loss_of_densities(n, q_0, q_1)

    rng, middle = np.random.default_rng(0), np.array([[0.0] * 4, [-0.8, -0.8, 0.8, 0.8], [-1.0] * 4]).ravel()
    starts = middle + rng.normal(size=(3, 12)) * 0.4
    found = [minimize(loss, start, method="BFGS", options={"gtol": 1e-6}).fun for start in starts]
    assert min(found) == pytest.approx(mixture(n, 2).loss, abs=1e-6)
    assert min(found) > mixture(n, 2).loss - 1e-9


@pytest.mark.parametrize(("n", "components", "beta"), [(1.2, 3, 1.0), (40.0, 4, 2.5), (1e6, 2, 1.0), (1e6, 6, 1.0)])
def test_the_figures_are_those_of_the_codes(n, components, beta):
    """By adaptive quadrature, cut at 0, where the decoder turns, and about every component."""
    best = mixture(n, components, beta)

    def log_q(z):
        return np.logaddexp.reduce(norm.logpdf(z, best.mean, best.std) + np.log(best.weight))

    def mean(f):
        around = best.mean + np.array([[-6.0], [-2.0], [0.0], [2.0], [6.0]]) * best.std
        cuts = np.sort(np.concatenate([[-9.0, -0.01, 0.0, 0.01, 9.0], around[np.abs(around) < 9.0]]))
        parts = (quad(lambda z: math.exp(log_q(z)) * f(z), *ends, epsabs=1e-14)[0] for ends in pairwise(cuts))
        return sum(parts)

    unread = mean(lambda z: np.logaddexp(0.0, log_q(-z) - log_q(z)))
    kl = mean(lambda z: log_q(z) - norm.logpdf(z))
    expected = [n * unread + beta * kl, n * unread, kl, LN2 - unread]
    np.testing.assert_allclose(best[:4], expected, rtol=1e-9, atol=1e-11)
    assert sum(best.weight) == pytest.approx(1.0, abs=1e-14)
    assert np.all(np.diff(best.mean) > 0.0)


def test_slope_of_the_loss_in_n_and_beta():
    """Envelope theorem: dL/dn = recon / n, dL/dbeta = kl, at each optimum."""
    n, h = np.geomspace(1.001, 1e12, 9), 1e-5
    best = mixture(n, 2, 1.0)
    in_n = (mixture(n * (1 + h), 2).loss - mixture(n * (1 - h), 2).loss) / (2 * h)
    in_beta = (mixture(n, 2, 1 + h).loss - mixture(n, 2, 1 - h).loss) / (2 * h)
    np.testing.assert_allclose(in_n, best.recon, rtol=1e-5)
    np.testing.assert_allclose(in_beta, best.kl, rtol=1e-5)


def test_each_component_more_helps():
    """Down to ln 2, which none reaches, at every n > 1; one is `one_layer`."""
    for n in (1.001, 1e15):
        losses = [float(mixture(n, components).loss) for components in range(1, 6)]
        assert np.all(np.diff(losses) < -1e-7) and losses[-1] > LN2
        assert np.all(np.diff([mixture(n, components).information for components in range(1, 6)]) > -1e-15)
        one, known = mixture(n, 1), one_layer(n)
        np.testing.assert_allclose(one[:3], known[:3], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose([one.mean[0], one.std[0]], known[3:], rtol=1e-12)
    sixteen = mixture(5.0, 16)
    assert LN2 < sixteen.loss < 0.6945 and 0.693 < sixteen.information < LN2


@pytest.mark.parametrize("n", [1.0000000001, 3.0, 1e6, 1e300])
def test_the_grid_holds_at_every_n(n, monkeypatch):
    best = mixture_codes.best_codes(n, 2)
    codes = mixture_codes._Codes(*best[4:])
    monkeypatch.setattr(mixture_codes, "_STEP", mixture_codes._STEP / 2.0)
    monkeypatch.setattr(mixture_codes, "_FAR", 12.0)
    finer = mixture_codes._figures(codes, mixture_codes._grid(n, 2))
    np.testing.assert_allclose(finer[:3], best[:3], rtol=1e-13, atol=1e-15)


def test_gradient_of_the_search():
    grid = mixture_codes._grid(7.0, 3)
    parameters = np.array([0.2, -0.5, 0.4, 1.0, 2.5, 3.1, -2.2, -1.1, -0.7])
    value, gradient = mixture_codes._charged_loss(parameters, grid)
    differences = approx_fprime(parameters, lambda p: mixture_codes._charged_loss(p, grid)[0], 1e-7)
    np.testing.assert_allclose(gradient, np.asarray(differences), atol=1e-6)
    direct = np.concatenate([parameters[:3], grid.scale * np.sinh(parameters[3:6]), parameters[6:]])
    assert value == pytest.approx(mirrored(7.0, direct), rel=1e-9)


def test_a_search_gains_nothing_where_its_grid_is_blind():
    """Codes with one of two components far away or narrower than the grid cost more than the optimum."""
    best, grid = mixture(5.0, 2), mixture_codes._grid(5.0, 2)
    honest = np.concatenate([np.log(best.weight), np.arcsinh(best.mean / grid.scale), np.log(best.std)])
    assert mixture_codes._charged_loss(honest, grid)[0] == pytest.approx(best.loss, rel=1e-13)
    for component in (0, 1):
        for field, value in ((1, 40.0), (2, -20.0)):
            for logit in (-1.0, 0.0, 3.0):
                hidden = honest.copy().reshape(3, 2)
                hidden[field, component], hidden[0, component] = value, logit
                assert mixture_codes._charged_loss(hidden.ravel(), grid)[0] > best.loss + 0.1
    reverse = mixture_codes._search(mixture_codes._Codes(*(field[::-1] for field in best[4:])), grid)
    np.testing.assert_allclose(reverse, best[4:], atol=1e-7)


def test_the_code_opens_slowly():
    """Just above n = 1 the loss turns with the slope ln 2 - I, and I falls by no more than a third for each tenth."""
    excess = np.array([[1e-4, 1e-5, 1e-6, 1e-7]]) * np.array([[1.0], [1.5]])
    best = mixture(1.0 + excess, 2)
    saved, held = (1.0 + excess) * LN2 - best.loss, best.information
    slope = np.diff(saved, axis=0) / np.diff(excess, axis=0)
    assert np.all((held[:1] < slope) & (slope < held[1:]))
    assert np.all((held[:, 1:] > 0.67 * held[:, :-1]) & (held[:, 1:] < held[:, :-1]))
    assert np.all(held > 5.0 * mixture(1.0 + excess, 1).information)


def test_collapse_up_to_n_equal_to_beta():
    for beta in (1.0, 7.3):
        best = mixture(np.array([1e-6, 0.5, 1.0]) * beta, 3, beta)
        np.testing.assert_allclose(best.loss, np.array([1e-6, 0.5, 1.0]) * beta * LN2, rtol=1e-14)
        for field, value in zip(best[2:], (0.0, 0.0, 1.0 / 3.0, 0.0, 1.0), strict=True):
            np.testing.assert_array_equal(field, value)
    assert mixture(1e-308, 3, 1e308).kl == 0.0


def test_beta_rescales_n_and_shapes_broadcast():
    n, beta = np.array([0.5, 4.0, 1000.0]), np.array([[0.25], [4.0]])
    best, unit = mixture(n, 2, beta), mixture(n / beta, 2)
    assert [field.shape for field in best] == [(2, 3)] * 4 + [(2, 3, 2)] * 3
    np.testing.assert_allclose(best.loss, beta * unit.loss, rtol=1e-14)
    np.testing.assert_allclose(best.recon, beta * unit.recon, rtol=1e-14)
    np.testing.assert_allclose(best.loss, best.recon + beta * best.kl, rtol=1e-14)
    for field, scaled in zip(best[2:], unit[2:], strict=True):
        np.testing.assert_array_equal(field, scaled)
    assert mixture(4.0, 2).loss == mixture([[4.0]], 2).loss[0, 0]
    assert mixture([], 2).mean.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 2), "n must be finite and > 0, got 0.0"),
        ((np.nan, 2), "n must be finite and > 0, got nan"),
        ((5.0, 2, -1.0), "beta must be finite and > 0, got -1.0"),
        ((5.0, 0), "components must be an integer from 1 to 16, got 0"),
        ((5.0, 17), "components must be an integer from 1 to 16, got 17"),
        ((5.0, 1.5), "components must be an integer from 1 to 16, got 1.5"),
        ((5.0, "2"), "components must be an integer from 1 to 16, got 2"),
        ((1e200, 2, 1e-200), "n / beta must be at most 1e.300, got inf"),
    ],
)
def test_invalid_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        mixture(*arguments)
