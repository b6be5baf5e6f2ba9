"""Where formulas end: infinite and hidden log weights, orders near 1, log weights of many digits, narrow dtypes."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from vae_bit.distributions import Normal, normal_sample, standard_normal
from vae_bit.losses import average, dreg, elbo, entropy_form_kl, free_bits, iwae, renyi, sampled_kl

pytestmark = pytest.mark.usefixtures("quick_compile")
ORDERS = np.array(
    [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.999999, 0.9999999, 1.0, 1.0000001, 1.00001, 1.01, 2.0, -3.0], np.float32
)


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e30])
def test_extreme_log_weights_are_finite_in_value_and_gradient(scale):
    log_weight = scale * jnp.array([-1.0, 0.0, 1.0, -3.0])
    for bound in iwae, average, lambda w: renyi(w, 0.5), lambda w: renyi(w, -1.0), lambda w: iwae(w, jnp.full(4, 0.25)):
        value, slope = jax.jit(jax.value_and_grad(bound))(log_weight)
        assert np.isfinite(value) and np.isfinite(slope).all()
    shifted = np.exp(np.minimum(np.float64(log_weight) - log_weight[2], 0.0))
    np.testing.assert_allclose(iwae(log_weight), scale + np.log(shifted.mean()), rtol=1e-5, atol=1e-6)


def test_a_draw_of_no_weight_is_ignored():
    value, slope = jax.value_and_grad(iwae)(jnp.array([0.0, -jnp.inf]))
    np.testing.assert_allclose(value, -np.log(2.0), rtol=1e-6)
    np.testing.assert_allclose(slope, [1.0, 0.0])


@pytest.mark.parametrize("weight", [None, jnp.array([0.5, 0.25, 0.25])])
def test_no_weight_at_all_is_minus_infinity_with_a_gradient_of_zero(weight):
    log_weight = jnp.full((2, 3), -jnp.inf).at[1, 0].set(0.0)  # the first of two bounds
    for bound in iwae, lambda w, weight: renyi(w, 0.5, weight), lambda w, weight: renyi(w, 2.0, weight):
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(bound), (0, None)))(log_weight, weight)
        assert value[0] == -jnp.inf and not slope[0].any() and np.isfinite(slope).all()
    for alpha in ORDERS:
        assert renyi(log_weight[0], alpha, weight) == -jnp.inf
        assert (renyi(log_weight[1], alpha, weight) == -jnp.inf) == (alpha >= 1.0)


def test_no_weight_at_all_leaves_the_doubly_reparameterised_gradient_zero():
    def bound(z):
        return dreg(lambda z: jnp.where(z[:, 0] < 9.0, -jnp.inf, 0.0) - z[:, 0], z)

    value, slope = jax.value_and_grad(bound)(jnp.array([[1.0], [2.0]]))
    assert value == -jnp.inf
    np.testing.assert_array_equal(slope, np.zeros((2, 1)))


def test_an_infinite_weight_makes_the_bound_infinite():
    log_weight = jnp.array([jnp.inf, 0.0])
    value, slope = jax.value_and_grad(iwae)(log_weight)
    assert value == jnp.inf and np.isfinite(slope).all()
    values = [float(renyi(log_weight, alpha)) for alpha in (0.0, 0.5, 1.0, 2.0)]
    np.testing.assert_allclose(values, [np.inf, np.inf, np.inf, np.log(2.0)], rtol=1e-6)
    assert np.isnan(iwae(jnp.array([jnp.nan, 0.0])))


@pytest.mark.parametrize("hidden", [jnp.nan, jnp.inf, -jnp.inf, 3e38])
@pytest.mark.parametrize(
    "bound", [average, iwae, *(lambda w, p, a=a: renyi(w, a, p) for a in (0.3, 0.9999999, 1.0, 2.0))]
)
def test_a_draw_of_weight_zero_touches_neither_value_nor_gradient(bound, hidden):
    shown, weight = jnp.array([-1.0, 0.5]), jnp.array([0.25, 0.75])
    value, slope = jax.value_and_grad(bound)(jnp.append(shown, hidden), jnp.append(weight, 0.0))
    expected, expected_slope = jax.value_and_grad(bound)(shown, weight)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, [*expected_slope, 0.0], rtol=1e-6)


def exact_renyi(log_weight, alpha, share):
    """The bound, its shares w_k^(1 - alpha) / sum, and its slope in alpha, in 60 digits."""
    with mpmath.workdps(60):
        order, w = 1 - mpmath.mpf(float(alpha)), [mpmath.mpf(float(x)) for x in log_weight]
        share = [p / mpmath.fsum(share) for p in map(mpmath.mpf, share)]
        mean = mpmath.fdot(share, w)
        if order == 0:
            variance = mpmath.fdot(share, [(x - mean) ** 2 for x in w])
            return [float(x) for x in (mean, *share, -variance / 2)]
        tilted = [p * mpmath.exp(order * x) for p, x in zip(share, w, strict=True)]
        total = mpmath.fsum(tilted)
        shares = [t / total for t in tilted]
        bound = mpmath.log(total) / order
        return [float(x) for x in (bound, *shares, (bound - mpmath.fdot(shares, w)) / order)]


@pytest.mark.parametrize("scale", [0.03, 3.0, 30.0])
@pytest.mark.parametrize("weight", [None, np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])])
def test_renyi_and_its_gradients_are_right_at_every_order(scale, weight):
    log_weight = np.float32(scale * np.random.default_rng(0).normal(size=5))
    share = [0.2] * 5 if weight is None else list(weight)
    given = None if weight is None else jnp.asarray(weight, jnp.float32)
    both = jax.value_and_grad(lambda w, alpha: renyi(w, alpha, given), (0, 1))
    value, (slope, by_alpha) = jax.jit(jax.vmap(both, (None, 0)))(jnp.asarray(log_weight), jnp.asarray(ORDERS))
    exact = np.array([exact_renyi(log_weight, alpha, share) for alpha in ORDERS])
    np.testing.assert_allclose(value, exact[:, 0], rtol=5e-7, atol=2e-7)
    np.testing.assert_allclose(slope, exact[:, 1:6], atol=1e-6)
    np.testing.assert_allclose(by_alpha, exact[:, 6], rtol=3e-3)


def test_renyi_at_its_ends_is_iwae_and_the_elbo_also_for_a_rule_that_does_not_sum_to_one():
    log_weight, weight = jnp.array([-1.0, -2.0, -5.25]), jnp.array([0.3, 0.5, 0.1])
    np.testing.assert_allclose(renyi(log_weight, 0.0, weight), iwae(log_weight, weight), rtol=1e-6)
    elbo = np.log(0.9) + float(average(log_weight, weight)) / 0.9
    np.testing.assert_allclose([renyi(log_weight, a, weight) for a in (0.9999999, 1.0)], [elbo, elbo], rtol=1e-6)
    assert renyi(log_weight, 1) == renyi(log_weight, 1.0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_numbers_are_summed_and_returned_in_float32(dtype):
    values = jnp.linspace(-3.0, -0.1, 300).astype(dtype)
    wide = values.astype(jnp.float32)
    calls = (
        average,
        iwae,
        lambda w: renyi(w, 0.5),
        lambda w: elbo(w, [w, w], 2.0),
        lambda w: free_bits(w, 0.5),
        lambda w: sampled_kl(w, Normal(w, -w), standard_normal((300,), w.dtype)),
        lambda w: entropy_form_kl(w, Normal(w, -w), standard_normal((300,), w.dtype)),
        lambda w: dreg(lambda z: z.sum(-1), w[:, None]),
    )
    for call in calls:
        assert call(values).dtype == jnp.float32
        np.testing.assert_array_equal(call(values), call(wide))
    np.testing.assert_allclose(average(values), np.mean(np.float64(wide)), rtol=1e-6)
    assert jax.grad(calls[-1])(values).dtype == dtype
    assert normal_sample(Normal(values, -values), values).dtype == dtype


def test_a_draws_gradient_passes_through_dreg_from_float32_densities_to_narrow_latents():
    def bound(mean):
        z = normal_sample(Normal(mean, jnp.ones(1, mean.dtype)), jnp.array([[0.5], [-1.0]], mean.dtype))
        q, p = Normal(jnp.zeros(1, mean.dtype), jnp.ones(1, mean.dtype)), standard_normal((1,), mean.dtype)
        return dreg(lambda z: -sampled_kl(z, q, p) - z[:, 0].astype(jnp.float32), z)

    narrow, wide = (jax.grad(bound)(jnp.zeros(1, dtype)) for dtype in (jnp.bfloat16, jnp.float32))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(narrow), wide, rtol=1e-2)
