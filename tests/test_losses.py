"""Independent oracles: NumPyro on the same draws, a conjugate model known in closed form."""

import doctest
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

import vae_bit
from vae_bit import losses
from vae_bit.distributions import Normal, bernoulli_log_prob, normal_log_prob, normal_sample, standard_normal
from vae_bit.losses import (
    average,
    dreg,
    elbo,
    free_bits,
    iwae,
    loss,
    renyi,
    sampled_kl,
    top_kl,
)

pytestmark = pytest.mark.usefixtures("quick_compile")
TOLERANCE = {np.dtype("float32"): 1e-5, np.dtype("float64"): 1e-10}
DRAWS = 4


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    with jax.enable_x64(request.param is np.float64):
        yield np.dtype(request.param)


def close(actual, expected, dtype):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# A VAE with a latent of size 2 and three Bernoulli dimensions; its parameters are those NumPyro knows by name.
X = np.array([1.0, 0.0, 1.0])


def parameters(dtype) -> dict[str, jax.Array]:
    values = {
        "mean": [0.4, -0.7],
        "std": [0.6, 1.3],
        "kernel": [[1.0, -2.0, 0.5], [0.3, 0.8, -1.5]],
        "bias": [0.1, 0.2, 0.3],
    }
    return {name: jnp.array(value, dtype) for name, value in values.items()}


def model(x):
    kernel, bias = (jnp.asarray(numpyro.param(name)) for name in ("kernel", "bias"))
    z = jnp.asarray(numpyro.sample("z", dist.Normal(jnp.zeros(2, x.dtype), jnp.ones(2, x.dtype)).to_event(1)))
    numpyro.sample("x", dist.Bernoulli(logits=z @ kernel + bias).to_event(1), obs=x)


def guide(x):
    numpyro.sample("z", dist.Normal(numpyro.param("mean"), numpyro.param("std")).to_event(1))


def noise_of(keys, x, params):
    """The standard-normal numbers behind the draws that NumPyro makes from these keys: [K, 2]."""

    def one(key):
        seeded = seed(substitute(guide, data=params), jax.random.split(key)[1])
        return (trace(seeded).get_trace(x)["z"]["value"] - params["mean"]) / params["std"]

    return jax.vmap(one)(keys)


def parts(params, x, eps, kl=sampled_kl):
    """Log likelihood and KL at each draw."""
    q = Normal(params["mean"], params["std"])
    z = normal_sample(q, eps)
    logits = z @ params["kernel"] + params["bias"][None]
    return bernoulli_log_prob(x, logits), kl(z, q, standard_normal((2,), x.dtype))


def compare_with_numpyro(dtype, objective, keys, ours):
    params, x = parameters(dtype), jnp.array(X, dtype)
    eps = noise_of(keys, x, params)
    expected = jax.jit(jax.value_and_grad(lambda p: objective.loss(jax.random.key(3), p, model, guide, x)))(params)
    close(jax.jit(jax.value_and_grad(lambda p: ours(p, x, eps)))(params), expected, dtype)


def test_elbo_with_closed_kl_matches_numpyro_mean_field(dtype):
    def ours(p, x, eps):
        log_likelihood, kl = parts(p, x, eps, lambda z, q, prior: top_kl(q))
        return loss(-average(log_likelihood), kl)

    keys = jax.random.split(jax.random.key(3), DRAWS)
    compare_with_numpyro(dtype, TraceMeanField_ELBO(num_particles=DRAWS), keys, ours)


def test_elbo_with_sampled_kl_matches_numpyro(dtype):
    keys = jax.random.split(jax.random.key(3), DRAWS)
    compare_with_numpyro(
        dtype, Trace_ELBO(num_particles=DRAWS), keys, lambda p, x, eps: -average(elbo(*parts(p, x, eps)))
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_iwae_and_renyi_match_numpyro(dtype, alpha):
    def ours(p, x, eps):
        log_weight = elbo(*parts(p, x, eps))
        return -(iwae(log_weight) if alpha == 0.0 else renyi(log_weight, alpha))

    keys = jax.random.split(jax.random.split(jax.random.key(3))[1], DRAWS)
    compare_with_numpyro(dtype, RenyiELBO(alpha=alpha, num_particles=DRAWS), keys, ours)


# Conjugate: z ~ N(0, 1), x | z ~ N(a z + b, s^2), so z | x ~ N(a (x - b) / (a^2 + s^2), s^2 / (a^2 + s^2)).
A, B, S, Y = 1.5, 0.3, 0.7, 2.0


def posterior(dtype):
    variance = A**2 + S**2
    return Normal(jnp.array([A * (Y - B) / variance], dtype), jnp.array([S / variance**0.5], dtype))


def conjugate_log_weight(q, z, dtype):
    likelihood = Normal(A * z + B, jnp.full_like(z, S))
    log_likelihood = normal_log_prob(jnp.array([Y], dtype), likelihood)
    return elbo(log_likelihood, sampled_kl(z, q, standard_normal((1,), dtype)))


def test_every_draw_of_the_exact_posterior_weighs_the_evidence(dtype):
    q, eps = posterior(dtype), jnp.array([[-2.0], [0.0], [0.3], [3.0]], dtype)
    evidence = -0.5 * (Y - B) ** 2 / (A**2 + S**2) - 0.5 * np.log(2.0 * np.pi * (A**2 + S**2))
    log_weight = conjugate_log_weight(q, normal_sample(q, eps), dtype)
    close(log_weight, np.full(4, evidence), dtype)
    close([average(log_weight), iwae(log_weight), renyi(log_weight, 0.5)], [evidence] * 3, dtype)
    closed = elbo(
        normal_log_prob(jnp.array([Y], dtype), Normal(A * q.mean + B, jnp.array([S], dtype)))
        - (A / S * q.std[0]) ** 2 / 2,
        top_kl(q),
    )
    close(closed, evidence, dtype)


def test_at_the_exact_posterior_path_and_dreg_gradients_vanish_for_every_draw(dtype):
    eps = jnp.array([[-2.0], [0.3], [3.0]], dtype)

    def path(q):
        z = normal_sample(q, eps)
        return conjugate_log_weight(jax.lax.stop_gradient(q), z, dtype).sum()

    def doubly(q):
        frozen = jax.lax.stop_gradient(q)
        return dreg(lambda z: conjugate_log_weight(frozen, z, dtype), normal_sample(q, eps))

    def plain(q):
        return iwae(conjugate_log_weight(q, normal_sample(q, eps), dtype))

    for bound in path, doubly:
        close(jax.jit(jax.grad(bound))(posterior(dtype)), Normal(jnp.zeros(1), jnp.zeros(1)), dtype)
    assert max(abs(leaf[0]) for leaf in jax.tree.leaves(jax.jit(jax.grad(plain))(posterior(dtype)))) > 0.1


def test_free_bits_cuts_both_value_and_gradient_below_the_floor():
    value, slope = jax.value_and_grad(lambda kl: free_bits(kl, 0.5).sum())(jnp.array([0.1, 2.0]))
    assert (value, *slope) == (2.5, 0.0, 1.0)
    q = Normal(jnp.array([[1.0], [3.0]]), jnp.ones((2, 1)))
    np.testing.assert_allclose(free_bits(top_kl(q), jnp.array([1.0, 1.0])), [1.0, 4.5])


def test_beta_weighs_the_divergence_alone_and_loss_is_minus_elbo():
    recon, kl = jnp.array([1.0, 2.0]), jnp.array([[0.5, 0.25], [1.0, 0.0]])
    np.testing.assert_allclose(loss(recon, list(kl), 2.0), [4.0, 2.5])
    np.testing.assert_allclose(loss(recon, tuple(kl), jnp.array([2.0, 0.0])), [4.0, 2.0])
    np.testing.assert_allclose(elbo(-recon, list(kl), jnp.array(2.0)), [-4.0, -2.5])
    np.testing.assert_allclose(loss(recon, kl[0]), [1.5, 2.25])


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: loss(jnp.zeros(2), jnp.zeros(3)), ValueError, (r"recon .*\(2,\)", r"kl \(3,\)")),
        (lambda: elbo(jnp.zeros(4), jnp.zeros((4, 1))), ValueError, (r"log_likelihood .*\(4,\)", r"kl \(4, 1\)")),
        (lambda: elbo(jnp.zeros(2), jnp.zeros((2, 2))), ValueError, (r"kl \(2, 2\)", "kl of several layers a list")),
        (lambda: elbo(jnp.zeros(2), [jnp.zeros(2), jnp.zeros(())]), ValueError, (r"\(2,\)", r"kl\[1\] \(\)")),
        (lambda: loss(jnp.zeros(()), jnp.zeros(4)), ValueError, (r"recon .*\(\)", r"kl \(4,\)")),
        (lambda: loss(jnp.zeros(4), jnp.zeros(())), ValueError, (r"recon .*\(4,\)", r"kl \(\)")),
        (lambda: loss(jnp.zeros(4), jnp.zeros(4), jnp.ones((4, 1))), ValueError, (r"beta \(4, 1\)",)),
        (lambda: loss(jnp.zeros(4), []), ValueError, ("kl holds no layer",)),
        (lambda: average(jnp.zeros(4), jnp.zeros(3)), ValueError, (r"values .*\(4,\)", r"weight \(3,\)")),
        (lambda: iwae(jnp.zeros(4), jnp.zeros(3)), ValueError, (r"log_weight .*\(4,\)", r"weight \(3,\)")),
        (lambda: iwae(jnp.zeros(())), ValueError, (r"log_weight have shape \(\)",)),
        (lambda: iwae(jnp.zeros(3, int)), TypeError, ("log_weight is int32",)),
        (lambda: average(jnp.zeros(3), jnp.ones(3, jnp.bfloat16)), TypeError, ("float32", "bfloat16")),
        (lambda: renyi(jnp.zeros(3), jnp.zeros(2)), ValueError, (r"alpha has shape \(2,\)", "vmap")),
        (lambda: free_bits(jnp.zeros((4, 1)), jnp.zeros(4)), ValueError, (r"kl .*\(4, 1\)", r"floor \(4,\)")),
        (lambda: free_bits(jnp.zeros(3), jnp.zeros(2)), ValueError, (r"kl .*\(3,\)", r"floor \(2,\)")),
        (lambda: dreg(lambda z: jnp.zeros(4) + z.sum(), jnp.zeros((3, 2))), ValueError, (r"\(3, 2\)", r"\(4,\)")),
        (lambda: sampled_kl(jnp.zeros(3), standard_normal((2,)), standard_normal((3,))), ValueError, ("z", "mean")),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, words):
    for word in words:
        with pytest.raises(error, match=word):
            call()


LOG_WEIGHTS = hnp.arrays(np.float32, 5, elements=st.floats(-30.0, 30.0, width=32))


@settings(max_examples=60, deadline=None)
@given(LOG_WEIGHTS, st.floats(-20.0, 20.0), st.permutations(range(5)))
def test_bounds_are_ordered_shift_with_the_weights_and_ignore_their_order(log_weight, shift, order):
    w = jnp.asarray(log_weight)
    bounds = [average(w), renyi(w, 0.75), renyi(w, 0.25), iwae(w), renyi(w, -1.0), w.max()]
    assert all(low <= high + 1e-4 for low, high in itertools.pairwise(bounds))
    np.testing.assert_allclose(iwae(w + shift), iwae(w) + shift, atol=2e-5)
    np.testing.assert_allclose(iwae(w[np.array(order)]), iwae(w), atol=1e-5)
    np.testing.assert_allclose(iwae(w, jnp.full(5, 0.2)), iwae(w), atol=1e-5)
    np.testing.assert_allclose(renyi(w, 0.999), average(w), atol=1e-3 * (1.0 + float(np.var(log_weight))))
    np.testing.assert_allclose(renyi(w, 1.0), average(w), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(LOG_WEIGHTS, hnp.arrays(np.float32, (3, 5), elements=st.floats(0.0, 30.0, width=32)), st.floats(0.0, 10.0))
def test_loss_is_linear_in_beta_and_free_bits_never_lower_it(recon, kl, beta):
    recon, kl, freed = jnp.asarray(recon), list(kl), list(free_bits(kl, 1.0))
    np.testing.assert_allclose(loss(recon, kl, beta), recon + beta * (loss(recon, kl) - recon), rtol=1e-3, atol=1e-3)
    assert (loss(recon, freed) >= loss(recon, kl)).all()


def test_examples_in_the_docstrings():
    names = {name: getattr(vae_bit, name) for name in vae_bit.__all__}
    result = doctest.testmod(losses, extraglobs=names)
    assert result.failed == 0 and result.attempted >= 15
