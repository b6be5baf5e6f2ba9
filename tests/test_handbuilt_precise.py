"""The models built by hand against their definitions in 30-digit arithmetic, at extremes of every argument."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf
from scipy.special import ndtri

from vae_bit.handbuilt import handbuilt_loss, posterior_distance, posterior_gap, posterior_z1, posterior_z2, steep_map
from vae_bit.limits import conditional_entropy


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(30):
        yield


def _inverse(z, a):
    """g(z) = Phi^-1(F(z)) and g'(z): Newton from float64, which doubles the digits each time."""
    tail = (mp.ncdf(a - abs(z)) + mp.ncdf(-a - abs(z))) / 2
    g = mpf(-ndtri(float(tail)))
    for _ in range(2):
        g += (mp.ncdf(-g) - tail) / mp.npdf(g)
    return mp.sign(z) * g, (mp.npdf(z - a) + mp.npdf(z + a)) / (2 * mp.npdf(g))


def _steep_cost(z_1, a, s, r):
    """E_q[-ln p(z_1 | z_2)] + KL(q(z_2 | z_1) || N(0, 1)) at one z_1, over y = f(z_2) = z_1 + s r."""
    mean, slope = _inverse(z_1, a)
    std, step = s * slope, r[1] - r[0]
    y = [(k, *_inverse(z_1 + s * k, a)) for k in r]
    misfit = sum(k * k * mp.npdf(z_2, mean, std) * density for k, z_2, density in y) * step * s
    return misfit / 2 + mp.log(s * mp.sqrt(2 * mp.pi)) + (mean**2 + std**2 - 1) / 2 - mp.log(std)


def test_the_cost_of_one_code_by_steep_map():
    r = [mpf(k) / 4 for k in range(-40, 41)]
    assert float(_steep_cost(mpf(5), mpf(6), mpf("1e-6"), r)) == pytest.approx(2.112085714, abs=1e-9)


@pytest.mark.parametrize(
    ("n", "a", "s", "expected"),
    [
        (1000, 6.0, 1e-5, 0.693150),
        (1000, 6.0, 1e-6, 0.693150),
        (1000, 10.0, 1e-12, 0.693147),
        (1000, 100.0, 1e-4, 0.693147),
        (1000, 6.0, 0.02, 0.69366),
        (5, 0.3, 1e-8, None),
    ],
)
def test_steep_map_by_its_definition_in_30_digits(n, a, s, expected):
    r = [mpf(k) / 2 for k in range(-19, 20)]
    # ln p(z_1) turns within 1 / a of the middle, which a step of 1 / 2 sees to some 1e-10 at a = 6.
    step, kl = mpf(1) / 2, -mp.log(2 * mp.pi * mp.e) / 2
    for k in range(-16, 17):
        kl += step * mp.npdf(step * k) * _steep_cost(a + step * k, mpf(a), mpf(s), r)
    best = steep_map(n, a, s)
    assert float(best.kl) == pytest.approx(float(kl), abs=3e-10)
    assert expected is None or float(best.loss) == pytest.approx(expected, abs=6e-6 if s == 0.02 else 5.1e-7)


def test_steep_map_stays_above_ln_2_at_extremes():
    """At every n from 1 on the limit is ln 2; equal to it only in the last digits."""
    for a, s in itertools.product((1.0, 6.0, 100.0, 1e300), (1e-300, 1e-6, 0.01, 1.0)):
        assert steep_map(1e308, a, s).loss >= math.log(2.0) * (1.0 - 1e-15)
    assert steep_map(5.0, 1.0, 1e-300).kl == pytest.approx(math.log(2.0) - conditional_entropy(1.0), rel=1e-14)
    assert steep_map(2.0, 1e-200, 1.0).kl == pytest.approx(0.5, rel=1e-13)


@pytest.mark.parametrize("b", [5e-324, 1e-150, 1e-10, 1e-3, 0.5, 0.999, 1.0, 30.0, 1e6, 1e300, 1e307, 1.7e308])
def test_posterior_gap_in_30_digits(b):
    """c by bisection on b = sqrt(pi / 2) c exp(c^2 / 2) / (1 + c^2)."""
    with mpmath.workdps(340 if b < 1e-100 else 60):
        exact, c, ends = mpf(b), mpf(0), [mpf(0), mpf(50) if b > 1.0 else 2 * mpf(b)]
        for _ in range(160):
            c = (ends[0] + ends[1]) / 2
            ends[0 if mp.sqrt(mp.pi / 2) * c * mp.exp(c * c / 2) / (1 + c * c) < exact else 1] = c
        # b and ln cosh b = b + ln(1 + exp(-2 b)) - ln 2 taken together
        gap = mp.log1p(c * c) / 2 + exact * mp.erfc(c / mp.sqrt(2)) + mp.log1p(mp.exp(-2 * exact)) - mp.log(2)
        assert float(posterior_gap(b)) == pytest.approx(float(gap), rel=2e-13, abs=0.0)


def _loss_by_quadrature(code, n, a, slope):
    """The loss of N(mean, std^2), its terms as `handbuilt_loss` states them, but ln p(z_1) in long arithmetic."""
    mean, std = (mpf(float(number)) for number in code)
    total, step = mpf(0), mpf(1) / 16
    for k in range(-144, 145, 2):
        z = mean + std * step * k
        log_p = mp.log((mp.npdf(z - a) + mp.npdf(z + a)) / 2)
        gap = float(posterior_gap(float(a * z)))
        total += 2 * step * mp.npdf(step * k) * (n * mp.log1p(mp.exp(-slope * z)) - log_p + gap)
    return float(total - mp.log(std * mp.sqrt(2 * mp.pi * mp.e)))


@pytest.mark.parametrize(
    ("n", "a", "slope"),
    [(20, 2.0, 5.0), (1, 1e-300, 1.0), (1e-300, 1.0, 1.0), (1e300, 1.0, 1.0), (1, 1e6, 1.0), (5, 1.0, 1e-9)],
)
def test_handbuilt_loss_at_extremes(n, a, slope):
    best = handbuilt_loss(n, a, slope)
    with mpmath.workdps(60):
        args = mpf(n), mpf(a), mpf(slope)
        at_best = _loss_by_quadrature((best.mean, best.std), *args)
        assert float(best.loss) == pytest.approx(at_best, rel=1e-9)
        around = [(best.mean + d * best.std, best.std * f) for d, f in ((0.1, 1), (-0.1, 1), (0, 1.1), (0, 0.9))]
        assert all(_loss_by_quadrature(code, *args) > at_best for code in around)


def test_handbuilt_loss_where_a_has_no_square():
    """Far apart, with sure decoding, one Gaussian is met exactly: what is left is ln 2 and the gap at b = a^2."""
    for a in (1e10, 1e160, 1e300):
        log_b = 2.0 * math.log(a)
        c = math.sqrt(2.0 * log_b)
        for _ in range(50):
            c = math.sqrt(2.0 * (log_b + math.log((1.0 + c * c) / c) - math.log(math.pi / 2.0) / 2.0))
        tail = 2.0 * math.exp(log_b + float(mp.log(mp.ncdf(-c))))
        assert handbuilt_loss(1, a, 1.0).loss == pytest.approx(math.log1p(c * c) / 2.0 + tail, rel=1e-11)


def test_densities_far_out_and_what_is_no_number():
    np.testing.assert_array_equal(posterior_z1([1e200, 1.7e308], 1e300), 0.0)
    np.testing.assert_array_equal(posterior_z2([1e200, -1e200], 2.0), 0.0)
    assert posterior_distance(1e308) == 0.0
    for name, call in (
        ("b", lambda: posterior_gap([1.0, np.nan])),
        ("z_1", lambda: posterior_z1(np.nan, 1.0)),
        ("a", lambda: posterior_z1(1.0, np.inf)),
        ("z_2", lambda: posterior_z2(np.inf, 1.0)),
        ("a", lambda: posterior_z2(1.0, np.nan)),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be finite, got"):
            call()
