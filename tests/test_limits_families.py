"""The limits of flows, learned priors and decoders with a context, against models that come near to them."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm

from vae_bit.limits import LN2, conditional_entropy, information, limit, mixture, one_layer

N, BETA = np.array([0.3, 1.0, 5.0, 1000.0]), np.array([[0.5], [1.0], [2.0]])
GRID = np.linspace(-12.0, 12.0, 4001)
SPACING = GRID[1] - GRID[0]


def flow_codes(width, share=1.0):
    """(1 -+ share tanh(z / width)) phi(z): two densities whose mean is the prior."""
    half = share * np.tanh(GRID / width)
    return np.stack([1.0 - half, 1.0 + half]) * norm.pdf(GRID) + 1e-300


def loss_and_information(codes, prior, n, beta):
    """recon + beta KL of one layer at the best decoder, and I(x; z), by quadrature."""
    unread = np.sum(codes * np.log(codes.sum(0) / codes)) / 2.0 * SPACING
    kl = np.sum(codes * np.log(codes / prior)) / 2.0 * SPACING
    return n * unread + beta * kl, LN2 - unread


@pytest.mark.parametrize(
    "family", [{"prior": 2}, {"prior": 7}, {"prior": math.inf}, {"posterior": math.inf}, {"posterior": 4, "prior": 2}]
)
def test_flows_and_learned_priors_reach_the_entropy(family):
    for layers in (1, 2, 3):
        np.testing.assert_array_equal(limit(layers, N, BETA, **family), np.minimum(N, BETA) * LN2)
        np.testing.assert_array_equal(information(layers, N, BETA, **family), np.where(N > BETA, LN2, 0.0))
    assert limit(2, 5.0, posterior=99) == LN2


@pytest.mark.parametrize(("n", "beta"), [(5.0, 1.0), (1000.0, 2.0)])
def test_codes_of_a_flow_approach_their_limit(n, beta):
    above = [loss_and_information(flow_codes(w), norm.pdf(GRID), n, beta) for w in (0.3, 0.1, 0.03)]
    excess = np.array([loss for loss, _ in above]) - limit(1, n, beta, posterior=math.inf)
    assert np.all(excess > 0.0) and np.all(np.diff(np.log(excess)) < -1.0)
    # At small widths H(x | z) = width phi(0) int H(sigmoid(2 y)) dy, and that integral is pi^2 / 6.
    np.testing.assert_allclose(excess[-1], (n - beta) * 0.03 * norm.pdf(0.0) * math.pi**2 / 6.0, rtol=2e-3)
    assert above[-1][1] == pytest.approx(information(1, n, beta, posterior=math.inf), abs=0.02)


@pytest.mark.parametrize(("n", "beta"), [(5.0, 1.0), (1000.0, 2.0)])
def test_gaussian_codes_under_a_learned_prior_approach_their_limit(n, beta):
    """A search over the code's m, s and the prior's ends at the limit; with q(z) = p(z) only R(t) is left."""

    def loss(parameters):
        m, s, mean, std = parameters[0], math.exp(parameters[1]), parameters[2], math.exp(parameters[3])
        codes = norm.pdf(GRID, np.array([[-m], [m]]), s) + 1e-300
        prior = (norm.pdf(GRID, -mean, std) + norm.pdf(GRID, mean, std)) / 2.0 + 1e-300
        return loss_and_information(codes, prior, n, beta)[0]

    found = minimize(loss, (1.0, -1.0, 0.8, -0.5), method="Nelder-Mead", options={"maxiter": 400, "fatol": 1e-12})
    best = limit(1, n, beta, prior=2)
    assert best - 1e-9 < found.fun < best + 1e-3
    for t in (4.0, 16.0):
        equal = loss((1.0, -math.log(t) / 2.0, 1.0, -math.log(t) / 2.0))
        assert equal == pytest.approx(n * conditional_entropy(t) + beta * (LN2 - conditional_entropy(t)), rel=1e-9)


def test_at_n_equal_to_beta_flows_and_learned_priors_are_indifferent():
    held = []
    for share in (0.0, 0.4, 0.8, 1.0):
        loss, bits = loss_and_information(flow_codes(0.05, share), norm.pdf(GRID), 3.0, 3.0)
        assert loss == pytest.approx(limit(1, 3.0, 3.0, posterior=math.inf), rel=1e-12)
        held.append(bits)
    assert held[0] == pytest.approx(0.0, abs=1e-12) and np.all(np.diff(held) > 0.05) and held[-1] > 0.65
    for m in (0.0, 0.7, 3.0):
        codes = norm.pdf(GRID, np.array([[-m], [m]]), 0.6) + 1e-300
        loss, _ = loss_and_information(codes, codes.mean(0), 3.0, 3.0)
        assert loss == pytest.approx(limit(1, 3.0, 3.0, prior=2), rel=1e-12)
    for components in (1, 2, 4):
        assert information(1, 3.0, 3.0, posterior=components) == pytest.approx(0.0, abs=1e-15)


def test_mixtures_have_their_own():
    for components in (2, 3):
        best = mixture(N, components, BETA)
        np.testing.assert_array_equal(limit(1, N, BETA, posterior=components), best.loss)
        np.testing.assert_array_equal(information(1, N, BETA, posterior=components), best.information)
    np.testing.assert_array_equal(limit(1, N, BETA, posterior=1), one_layer(N, BETA).loss)
    np.testing.assert_allclose(mixture(N, 1, BETA).loss, one_layer(N, BETA).loss, rtol=1e-13)
    np.testing.assert_allclose(mixture(N, 1, BETA).information, information(1, N, BETA), atol=1e-13)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_a_decoder_with_contexts_by_every_way_to_drop_them(rate):
    """n = 4: with its context a dimension copies it, without one it has the best logit of z."""
    n, beta, confident = 4, 0.7, 40.0
    code = one_layer(1.0 + 3.0 * rate, beta)
    m, s = float(code.mean), float(code.std)

    def cost(z):
        blank = np.logaddexp(0.0, -2.0 * m * z / s**2)
        total = 0.0
        for dropped in itertools.product((False, True), repeat=n - 1):
            chance = math.prod(rate if lost else 1.0 - rate for lost in dropped)
            costs = [blank, *(blank if lost else np.logaddexp(0.0, -confident) for lost in dropped)]
            total += chance * sum(costs)
        return total

    recon = quad(lambda z: norm.pdf(z, m, s) * cost(z), m - 10 * s, m + 10 * s, epsabs=1e-12, limit=200)[0]
    loss = recon + beta * ((m * m + s * s - 1.0) / 2.0 - math.log(s))
    assert loss == pytest.approx(limit(1, n, beta, word_dropout=rate), abs=1e-9)


def test_word_dropout_is_a_smaller_n():
    n, rate = np.array([1.0, 2.0, 100.0]), np.array([[0.0], [0.01], [0.5], [1.0]])
    effective = 1.0 + (n - 1.0) * rate
    for beta, (layers, posterior) in itertools.product((1.0, 0.5), ((1, 1), (1, 2), (2, 1), (1, math.inf))):
        for figure in (limit, information):
            given = figure(layers, n, beta, posterior=posterior, word_dropout=rate)
            np.testing.assert_allclose(given, figure(layers, effective, beta, posterior), rtol=1e-12, atol=1e-12)
    assert limit(1, 100.0, word_dropout=0.0) == pytest.approx(LN2, rel=1e-15)
    assert information(1, 100.0, word_dropout=0.0) == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(limit(1, 100, word_dropout=[0.01, 0.1, 0.5]), one_layer([1.99, 10.9, 50.5]).loss)
    # At rate 1 all stands as without the argument, bit for bit, and real n below 1 too.
    for figure in (limit, information):
        odd = np.array([0.1, 0.7, 1.1, 1e9])
        np.testing.assert_array_equal(figure(1, odd, 1.0, word_dropout=1.0), figure(1, odd))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"posterior": 0}, "posterior must be an integer from 1 to 16 or inf, got 0"),
        ({"posterior": 17}, "posterior must be an integer from 1 to 16 or inf, got 17"),
        ({"posterior": 1.5, "prior": 2}, "posterior must be an integer >= 1 or inf, got 1.5"),
        ({"posterior": "flow"}, "posterior must be an integer from 1 to 16 or inf, got flow"),
        ({"posterior": math.nan}, "posterior must be an integer from 1 to 16 or inf, got nan"),
        ({"prior": 0}, "prior must be an integer >= 1 or inf, got 0"),
        ({"prior": "normal"}, "prior must be an integer >= 1 or inf, got normal"),
        ({"layers": math.inf}, "layers must be an integer >= 1, got inf"),
        ({"word_dropout": -0.1}, "word_dropout must be from 0 to 1, got -0.1"),
        ({"word_dropout": [0.5, 1.5]}, "word_dropout must be from 0 to 1, got 1.5"),
        ({"word_dropout": math.nan}, "word_dropout must be finite, got nan"),
        ({"n": [2.0, 0.5], "word_dropout": 0.5}, "n must be >= 1 where word_dropout < 1, got 0.5 with 0.5"),
        ({"n": 0.0, "word_dropout": 0.5}, "n must be finite and > 0, got 0.0"),
        ({"beta": -1.0}, "beta must be finite and > 0, got -1.0"),
    ],
)
def test_invalid_arguments_are_named(changed, message):
    for figure in (limit, information):
        with pytest.raises(ValueError, match=f"^{message}$"):
            figure(**({"layers": 1, "n": 5.0} | changed))
