"""Infinite logits, likely bits to their last digit, and narrow dtypes."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from vae_bit.distributions import (
    Normal,
    bernoulli_kl,
    bernoulli_log_prob,
    normal_entropy,
    normal_kl,
    normal_kl_standard,
    normal_log_prob,
    normal_sample,
    softplus,
    standard_normal,
)

pytestmark = pytest.mark.usefixtures("quick_compile")
INF = np.inf


@pytest.mark.parametrize(
    "x, logit, expected, slope",
    [
        (1.0, INF, 0.0, 0.0),
        (0.0, INF, -INF, -1.0),
        (1.0, -INF, -INF, 1.0),
        (0.0, -INF, 0.0, 0.0),
        (0.5, INF, -INF, -0.5),
        (0.5, -INF, -INF, 0.5),
    ],
)
def test_a_bernoulli_of_infinite_logit_has_its_limit_and_a_finite_slope(x, logit, expected, slope):
    value, (by_x, by_logit) = jax.jit(jax.value_and_grad(bernoulli_log_prob, (0, 1)))(
        jnp.array([x]), jnp.array([logit])
    )
    assert (value, by_logit[0]) == (expected, slope)
    assert np.isfinite(by_x).all()
    tangent = jax.jvp(lambda l: bernoulli_log_prob(jnp.array([x]), l), (jnp.array([logit]),), (jnp.ones(1),))[1]
    assert tangent == slope
    others = bernoulli_log_prob(jnp.array([1.0, x, 0.0]), jnp.array([0.0, logit, 0.0]))
    np.testing.assert_allclose(others, expected - 2.0 * np.log(2.0), rtol=1e-6)


@pytest.mark.parametrize("finite", [-200.0, -20.0, -0.5, 0.0, 3.0, 20.0, 200.0])
def test_a_bernoulli_kl_at_infinite_logits_has_its_limits(finite):
    def kl(a, b):
        value, slopes = jax.jit(jax.value_and_grad(bernoulli_kl, (0, 1)))(jnp.array([a]), jnp.array([b]))
        assert not np.isnan(slopes).any()
        return float(value), float(slopes[1][0])

    p = 1.0 / (1.0 + np.exp(-finite))
    np.testing.assert_allclose(kl(INF, finite), (np.logaddexp(0.0, -finite), p - 1.0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(kl(-INF, finite), (np.logaddexp(0.0, finite), p), rtol=1e-6, atol=1e-7)
    assert kl(finite, INF)[0] == kl(finite, -INF)[0] == INF
    assert kl(INF, INF) == kl(-INF, -INF) == (0.0, 0.0)
    assert kl(INF, -INF)[0] == kl(-INF, INF)[0] == INF


def test_nan_stays_nan_beside_infinity():
    for other in (np.nan, INF, -INF, 0.0, 300.0):
        for a, b in ((np.nan, other), (other, np.nan)):
            assert np.isnan(bernoulli_kl(jnp.array([a]), jnp.array([b])))
        assert np.isnan(bernoulli_log_prob(jnp.array([np.nan]), jnp.array([other])))
    assert all(np.isnan(bernoulli_log_prob(jnp.array([x]), jnp.array([np.nan]))) for x in (0.0, 1.0))


def test_likely_bits_keep_their_digits():
    with mpmath.workdps(60):
        for x, logit in itertools.product((0.0, 1.0), (-80.0, -30.0, -10.0, -0.25, 0.25, 10.0, 30.0, 80.0)):
            exact = -mpmath.log1p(mpmath.exp(mpmath.mpf((1.0 - 2.0 * x) * logit)))
            actual = bernoulli_log_prob(jnp.array([x]), jnp.array([logit]))
            np.testing.assert_allclose(float(actual), float(exact), rtol=1e-6)
        for a, b in itertools.product((-30.0, -10.0, 0.0, 0.25, 10.0, 30.0), repeat=2):
            q, p = (1 / (1 + mpmath.exp(-mpmath.mpf(logit))) for logit in (a, b))
            exact = q * mpmath.log(q / p) + (1 - q) * mpmath.log((1 - q) / (1 - p))
            np.testing.assert_allclose(bernoulli_kl(jnp.array([a]), jnp.array([b])), float(exact), rtol=2e-6)
    huge = bernoulli_kl(jnp.array([3e38]), jnp.array([-3e38]))
    np.testing.assert_allclose(huge, np.float32(3e38))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_numbers_are_summed_and_returned_in_float32(dtype):
    mean, std = jnp.linspace(-3.0, 3.0, 100).astype(dtype), jnp.linspace(0.1, 4.0, 100).astype(dtype)
    bits = (mean > 0.5).astype(dtype)
    calls = (
        lambda m, s, x: normal_log_prob(x, Normal(m, s)),
        lambda m, s, x: normal_entropy(Normal(m, s)),
        lambda m, s, x: normal_kl(Normal(m, s), standard_normal(m.shape, m.dtype)),
        lambda m, s, x: normal_kl_standard(Normal(m, s)),
        lambda m, s, x: bernoulli_log_prob(x, m),
        lambda m, s, x: bernoulli_log_prob(x, m, x),
        lambda m, s, x: bernoulli_kl(m, s),
    )
    for call in calls:
        wide = call(*(a.astype(jnp.float32) for a in (mean, std, bits)))
        assert call(mean, std, bits).dtype == jnp.float32
        np.testing.assert_array_equal(call(mean, std, bits), wide)
        assert jax.grad(call)(mean, std, bits).dtype == dtype
    exact = -np.sum(np.logaddexp(0.0, np.float64(mean)) - np.float64(bits) * np.float64(mean))
    np.testing.assert_allclose(bernoulli_log_prob(bits, mean), exact, rtol=1e-6)
    assert normal_sample(Normal(mean, std), bits).dtype == softplus(mean).dtype == dtype
