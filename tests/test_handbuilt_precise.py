"""The models built by hand against their definitions in 30-digit arithmetic, at extremes of every argument."""

import itertools
import math

import mpmath
import pytest
from mpmath import mp, mpf
from scipy.special import ndtri

from vae_bit.handbuilt import steep_map
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
