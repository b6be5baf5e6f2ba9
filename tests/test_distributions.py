import doctest
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.scipy import stats

import vae_bit
from vae_bit import distributions, spline
from vae_bit.distributions import (
    Normal,
    bernoulli,
    bernoulli_kl,
    bernoulli_log_prob,
    flow,
    mixture,
    normal_entropy,
    normal_kl,
    normal_kl_standard,
    normal_log_prob,
    normal_sample,
    softplus,
    standard_normal,
)
from vae_bit.distributions import normal as normal_module

pytestmark = pytest.mark.usefixtures("quick_compile")
TOLERANCE = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-10}
GRID = np.linspace(-40.0, 40.0, 80_001)  # for integrals in float64, spacing 1e-3


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield np.dtype(request.param)


def normal(dtype, mean=(0.5, -1.0, 2.0), std=(0.3, 1.0, 2.5)) -> Normal:
    return Normal(jnp.array(mean, dtype), jnp.array(std, dtype))


def close(actual, expected, dtype):
    actual_leaves, expected_leaves = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for a, b in zip(actual_leaves, expected_leaves, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_normal_log_prob_and_gradients_match_jax_scipy(dtype):
    def oracle(z, p):
        return stats.norm.logpdf(z, p.mean, p.std).sum()

    z, p = jnp.array([0.1, 1.0, -3.0], dtype), normal(dtype)
    close(normal_log_prob(z, p), oracle(z, p), dtype)
    close(jax.grad(normal_log_prob, (0, 1))(z, p), jax.grad(oracle, (0, 1))(z, p), dtype)


def test_bernoulli_log_prob_and_gradients_match_jax_scipy(dtype):
    def oracle(logits, x):
        return stats.bernoulli.logpmf(x, jax.nn.sigmoid(logits)).sum()

    x, logits = jnp.array([1.0, 0.0, 1.0, 0.0], dtype), jnp.array([0.3, -2.0, -1.0, 4.0], dtype)
    close(bernoulli_log_prob(x, logits), oracle(logits, x), dtype)
    gradient = jax.grad(lambda logits: bernoulli_log_prob(x, logits))
    close(gradient(logits), jax.grad(oracle)(logits, x), dtype)


def integral(log_q, log_p) -> float:
    return float(np.sum(np.exp(log_q) * (log_q - log_p)) * (GRID[1] - GRID[0]))


def log_normal(mean, std):
    return -0.5 * ((GRID - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2.0 * np.pi)


def test_normal_divergences_match_integration(dtype):
    q, p = normal(dtype), normal(dtype, mean=(0.0, 1.0, -1.0), std=(1.0, 0.5, 3.0))
    q_logs, p_logs = ([log_normal(*pair) for pair in zip(*map(np.float64, d), strict=True)] for d in (q, p))
    close(normal_kl(q, p), sum(map(integral, q_logs, p_logs)), dtype)
    close(normal_kl_standard(q), sum(integral(log_q, log_normal(0.0, 1.0)) for log_q in q_logs), dtype)
    close(normal_entropy(q), -sum(integral(log_q, 0.0) for log_q in q_logs), dtype)


def test_normal_divergence_gradients_match_hand_derivatives(dtype):
    (m, s), (a, b) = q, p = normal(dtype), normal(dtype, mean=(0.0, 1.0, -1.0), std=(1.0, 0.5, 3.0))
    by_q = Normal((m - a) / b**2, s / b**2 - 1.0 / s)
    by_p = Normal((a - m) / b**2, 1.0 / b - (s**2 + (m - a) ** 2) / b**3)
    close(jax.grad(normal_kl, (0, 1))(q, p), (by_q, by_p), dtype)
    close(jax.grad(normal_kl_standard)(q), (m, s - 1.0 / s), dtype)
    close(jax.grad(normal_entropy)(q), (np.zeros(3), 1.0 / s), dtype)


def test_bernoulli_kl_matches_its_definition(dtype):
    a, b = np.array([0.3, -2.0, 3.0]), np.array([1.0, 0.5, 2.0])
    q, p = 1.0 / (1.0 + np.exp(-a)), 1.0 / (1.0 + np.exp(-b))
    expected = np.sum(q * np.log(q / p) + (1.0 - q) * np.log((1.0 - q) / (1.0 - p)))
    actual, by_p = jax.value_and_grad(bernoulli_kl, 1)(jnp.array(a, dtype), jnp.array(b, dtype))
    close((actual, by_p), (expected, p - q), dtype)


def test_sample_is_affine_in_the_noise_and_its_gradient_is_one_and_eps(dtype):
    q, eps = normal(dtype), jnp.array([[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]], dtype)
    mean, std = (np.asarray(field, np.float64) for field in q)
    close(normal_sample(q, eps), mean + std * np.asarray(eps), dtype)
    by_q = jax.grad(lambda q: normal_sample(q, eps).sum())(q)
    close(by_q, (np.full(3, 2.0), np.sum(np.asarray(eps), 0)), dtype)


CALLS = {
    "normal_log_prob": lambda x, q, p, **mask: normal_log_prob(x, q, **mask),
    "normal_entropy": lambda x, q, p, **mask: normal_entropy(q, **mask),
    "normal_kl": lambda x, q, p, **mask: normal_kl(q, p, **mask),
    "normal_kl_standard": lambda x, q, p, **mask: normal_kl_standard(q, **mask),
    "bernoulli_log_prob": lambda x, q, p, **mask: bernoulli_log_prob(x, q.mean, **mask),
    "bernoulli_kl": lambda x, q, p, **mask: bernoulli_kl(q.mean, p.mean, **mask),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_leading_axes_are_a_batch_under_vmap_and_broadcasting(call):
    key = jax.random.split(jax.random.key(0), 3)
    x = (jax.random.uniform(key[0], (4, 3)) > 0.5).astype(jnp.float32)
    q = Normal(jax.random.normal(key[1], (4, 3)), 0.5 + jax.random.uniform(key[2], (4, 3)))
    p = normal(jnp.float32)
    each = jnp.stack([call(x[i], Normal(q.mean[i], q.std[i]), p) for i in range(4)])
    np.testing.assert_allclose(call(x, q, p), each, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(call, (0, 0, None)))(x, q, p), each, rtol=1e-6)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_forward_and_reverse_derivatives_agree(call):
    x, q, p = jnp.array([1.0, 0.0, 1.0]), normal(jnp.float32), normal(jnp.float32, (1.0, 1.0, 0.0), (0.5, 2.0, 1.0))
    tangent = Normal(jnp.array([1.0, 0.5, -1.0]), jnp.array([0.2, -0.3, 0.4]))
    forward = jax.jvp(lambda q: call(x, q, p), (q,), (tangent,))[1]
    reverse = jax.grad(lambda q: call(x, q, p))(q)
    np.testing.assert_allclose(forward, sum(jnp.vdot(a, b) for a, b in zip(reverse, tangent, strict=True)), rtol=1e-5)


@pytest.mark.parametrize("x, logit", list(itertools.product((0.0, 0.5, 1.0), (-1e4, 0.0, 1e4))))
def test_bernoulli_is_exact_at_extreme_logits(x, logit):
    value, slope = jax.value_and_grad(bernoulli_log_prob, 1)(jnp.array([x]), jnp.array([logit]))
    expected = -np.logaddexp(0.0, logit) + x * logit
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, [x - (logit > 0) - 0.5 * (logit == 0)], atol=1e-7)
    np.testing.assert_allclose(softplus(jnp.array(logit)), np.logaddexp(0.0, logit), rtol=1e-6)
    assert np.isfinite(jax.grad(bernoulli_kl, (0, 1))(jnp.array([logit]), jnp.array([-logit]))).all()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_extreme_spreads_are_finite_in_value_and_gradient(call):
    cases = jnp.array(list(itertools.product((1e-6, 1.0, 1e6), (1e-6, 1.0, 1e6), (0.0, 1e4))))
    q_std, p_std, mean = cases.T[..., None]
    both = jax.vmap(jax.value_and_grad(lambda q, p: call(jnp.array([1.0]), q, p), (0, 1)))
    for leaf in jax.tree.leaves(both(Normal(mean, q_std), Normal(-mean, p_std))):
        assert np.isfinite(leaf).all()


def test_extreme_divergences_match_float64():
    for q_std, p_std in itertools.product((1e-6, 1e6), (1e-6, 1e6)):
        q, p = Normal(jnp.array([1.0]), jnp.array([q_std])), Normal(jnp.array([2.0]), jnp.array([p_std]))
        s, b = np.float64(q.std[0]), np.float64(p.std[0])
        expected = np.log(b / s) + (s**2 + 1.0) / (2.0 * b**2) - 0.5
        np.testing.assert_allclose(normal_kl(q, p), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: normal_log_prob(jnp.zeros(3), standard_normal((4,))), ValueError, (r"z .*\(3,\)", r"mean .*\(4,\)")),
        (lambda: normal_log_prob(jnp.zeros(3), standard_normal((1,))), ValueError, (r"z .*\(3,\)", r"mean .*\(1,\)")),
        (lambda: normal_log_prob(jnp.zeros((2, 3)), standard_normal((4, 3))), ValueError, (r"\(2, 3\)", r"\(4, 3\)")),
        (lambda: normal_log_prob(jnp.zeros(()), standard_normal(())), ValueError, ("z and mean and std", r"\(1,\)")),
        (lambda: normal_entropy(Normal(jnp.zeros(3), jnp.ones(1))), ValueError, (r"mean .*\(3,\)", r"std \(1,\)")),
        (lambda: normal_kl_standard(Normal(jnp.zeros(2), jnp.ones(3))), ValueError, (r"\(2,\)", r"\(3,\)")),
        (lambda: normal_kl(standard_normal((2,)), standard_normal((3,))), ValueError, ("q_mean", "p_mean")),
        (lambda: normal_sample(standard_normal((2,)), jnp.zeros(3)), ValueError, ("mean", "eps")),
        (lambda: bernoulli_log_prob(jnp.zeros(5), jnp.zeros(1)), ValueError, (r"x .*\(5,\)", r"logits \(1,\)")),
        (lambda: bernoulli_log_prob(jnp.ones(5, int), jnp.zeros(5)), TypeError, ("x is int32", "logits is float32")),
        (lambda: bernoulli_kl(jnp.ones(5, bool), jnp.zeros(5)), TypeError, ("q_logits is bool", "p_logits is float32")),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, words):
    for word in words:
        with pytest.raises(error, match=word):
            call()


def test_mixed_precision_is_refused_and_python_numbers_are_not():
    with jax.enable_x64(True):
        p = Normal(jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32))
        with pytest.raises(TypeError, match="z is float64 and mean is float32"):
            normal_log_prob(jnp.zeros(2), p)
        assert normal_sample(p, 1.0).dtype == jnp.float32


VECTORS = hnp.arrays(np.float32, 3, elements=st.floats(-5.0, 5.0, width=32))
SPREADS = hnp.arrays(np.float32, 3, elements=st.floats(0.125, 8.0, width=32))
NORMALS = st.builds(lambda mean, std: Normal(jnp.asarray(mean), jnp.asarray(std)), VECTORS, SPREADS)


@settings(max_examples=50, deadline=None)
@given(NORMALS, NORMALS)
def test_kl_is_non_negative_zero_at_itself_and_agrees_with_the_standard_case(q, p):
    assert normal_kl(q, p) >= -1e-5
    np.testing.assert_allclose(normal_kl(q, q), 0.0, atol=1e-6)
    np.testing.assert_allclose(normal_kl(q, standard_normal((3,))), normal_kl_standard(q), rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(NORMALS, NORMALS, st.floats(0.25, 4.0), st.floats(-3.0, 3.0))
def test_kl_is_unmoved_by_a_change_of_units_and_the_density_by_its_jacobian(q, p, scale, shift):
    q_new, p_new = (Normal(scale * d.mean + shift, scale * d.std) for d in (q, p))
    np.testing.assert_allclose(normal_kl(q_new, p_new), normal_kl(q, p), rtol=1e-3, atol=1e-3)
    log_prob = normal_log_prob(scale * q.mean + shift, p_new) + 3.0 * np.log(scale)
    np.testing.assert_allclose(log_prob, normal_log_prob(q.mean, p), rtol=1e-3, atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(VECTORS, hnp.arrays(np.bool_, 3), VECTORS)
def test_bernoulli_is_a_distribution_and_flipping_bits_flips_logits(logits, bits, other):
    x, logits = jnp.asarray(bits, jnp.float32), jnp.asarray(logits)
    np.testing.assert_allclose(bernoulli_log_prob(1.0 - x, -logits), bernoulli_log_prob(x, logits), atol=1e-5)
    every = jnp.array(list(itertools.product((0.0, 1.0), repeat=3)))
    np.testing.assert_allclose(jnp.exp(bernoulli_log_prob(every, logits)).sum(), 1.0, rtol=1e-5)
    assert bernoulli_kl(logits, jnp.asarray(other)) >= -1e-5


def test_examples_in_the_docstrings():
    names = {name: getattr(vae_bit, name) for name in vae_bit.__all__}
    for module, least in [(distributions, 2), (normal_module, 8), (mixture, 9), (flow, 9), (bernoulli, 4), (spline, 6)]:
        result = doctest.testmod(module, extraglobs=names)
        assert result.failed == 0 and result.attempted >= least


def test_importing_needs_no_framework_and_starts_no_device():
    code = (
        "import sys, vae_bit, vae_bit.losses, vae_bit.noise, vae_bit.exact, vae_bit.limits\n"
        "from jax._src import xla_bridge\n"
        "print(sorted({'flax', 'absl', 'matplotlib', 'rich', 'optax'} & set(sys.modules)))\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split("\n")[:2] == ["[]", "False"]


def test_every_exported_name_exists_and_is_listed_once():
    assert all(hasattr(vae_bit, name) for name in vae_bit.__all__)
    assert len(set(vae_bit.__all__)) == len(vae_bit.__all__)
