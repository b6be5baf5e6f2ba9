"""The closed forms of `limits` against 30-digit arithmetic, where their terms cancel, overflow or underflow."""

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

from vae_bit.limits import conditional_entropy, limit, mmse, one_layer, prior_mismatch


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(40):
        yield


def _even_mean(f, t):
    """exp(-t / 2) E[f(w)], w = sqrt(t) eps, for even f that varies on the scale 1: the trapezoid rule."""
    step = mpf(1) / (8 if mp.dps <= 40 else 16)
    std = mp.sqrt(t / (1 + t))
    w = [std * step * k for k in range(1, int(56 / step))]
    total = f(mpf(0)) / 2 + sum(f(v) * mp.exp(-v * v / (2 * t)) for v in w)
    return mp.exp(-t / 2) * total * 2 * step * std / mp.sqrt(2 * mp.pi * t)


def _entropy(t):
    return _even_mean(lambda w: mp.cosh(w) * (mp.log(1 + mp.exp(-2 * w)) + 2 * w / (1 + mp.exp(2 * w))), t)


def _mmse(t):
    return _even_mean(mp.sech, t)


@pytest.mark.parametrize("t", ["1e-300", "1e-30", "1e-8", "0.01", "1", "30", "500", "1300"])
def test_the_channel_in_30_digits(t):
    np.testing.assert_allclose(conditional_entropy(float(t)), float(_entropy(mpf(float(t)))), rtol=3e-13)
    np.testing.assert_allclose(mmse(float(t)), float(_mmse(mpf(float(t)))), rtol=3e-13)


@pytest.mark.parametrize(
    ("n", "beta"),
    [(1.0 + 2.0**-52, 1.0), (1.0 + 1e-9, 1.0), (3.3, 3.2), (1.1, 1.0), (1e308, 1.0), (1e308, 1e300), (1e308, 1e-308)],
)
def test_one_layer_in_30_digits(n, beta):
    """The one root t of the stationarity condition, by secants from close by."""
    best = one_layer(n, beta)
    start = mp.log(mpf(float(best.mean)) / mpf(float(best.std))) * 2
    condition = mp.log(mpf(n) / mpf(beta))
    t = mp.exp(
        mp.findroot(
            lambda log_t: condition + mp.log((1 + mp.exp(log_t)) * _mmse(mp.exp(log_t))),
            (start - mpf("1e-3"), start + mpf("1e-3")),
            tol=mpf("1e-60"),
        )
    )
    recon, kl = mpf(n) * _entropy(t), mp.log(1 + t) / 2
    expected = [recon + beta * kl, recon, kl, mp.sqrt(t / (1 + t)), 1 / mp.sqrt(1 + t)]
    rtol = 1e-11 if beta > 1e-300 else 1e-7  # beta and recon are subnormal in the last case
    np.testing.assert_allclose(best, [float(v) for v in expected], rtol=rtol)


def test_one_layer_at_ratios_that_no_float_holds():
    assert one_layer(1e-308, 1e308).loss == one_layer(1e-308).loss
    assert one_layer(1e-308, 1e308).kl == 0.0
    assert limit(1, 1e308, 1e-308) > limit(2, 1e308, 1e-308)
    assert one_layer(5e-324, 5e-324).kl == 0.0


@pytest.mark.parametrize("t", [1e-10, 1e-6, 1e-4, 0.01, 0.1, 0.4, 0.6, 2.0, 30.0])
def test_prior_mismatch_in_60_digits(t):
    with mpmath.workdps(60):
        t = mpf(t)
        variance = 1 - t * _mmse(t)
        square = t * variance
        kl = (square + variance - 1 - mp.log(variance)) / 2 - mp.log(2) + _entropy(t)
        best = prior_mismatch(float(mp.sqrt(square)))
        np.testing.assert_allclose(best, [float(kl), float(mp.sqrt(variance))], rtol=2e-12)


def test_prior_mismatch_beyond_what_floats_square():
    np.testing.assert_array_equal(prior_mismatch([0.0, 5e-324, 1e-200, 1e-100]), [[0.0] * 4, [1.0] * 4])
    np.testing.assert_allclose(prior_mismatch(1e-20).kl, 1e-160 / 12.0, rtol=1e-12)
    np.testing.assert_allclose(prior_mismatch([1e3, 1.5e154]).kl, [5e5 - np.log(2.0), 1.125e308], rtol=1e-14)
    np.testing.assert_array_equal(prior_mismatch(1e200), [np.inf, 1.0])
