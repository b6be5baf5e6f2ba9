"""Exact evaluation against nested float64 quadrature in numpy, closed forms, and itself on finer grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_oracle import (
    ONE,
    TWO,
    chain,
    close,
    compute,
    evaluate_all,
    linear,
    oracle_evidence,
    oracle_kl,
    oracle_one,
    oracle_surgery,
)
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from vae_bit.distributions import Normal
from vae_bit.exact import GRIDS, TOLERANCE, ScalarVAE, evaluate, log_evidence

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def evaluated():
    return {1: evaluate_all(ONE), 2: evaluate_all(TWO)}


@pytest.mark.parametrize("name", ONE)
def test_one_layer(evaluated, name):
    recon, kl, log_p, information, marginal, posterior = oracle_one(ONE[name])
    value = evaluated[1][name]
    close(value.recon, recon)
    close(value.kl, [kl], 1e-7)
    close(value.nll, -log_p.mean(), 1e-6)
    close(value.valid_mass, np.exp(log_p).sum(), 1e-6)
    close(value.mutual_information, information, 1e-6)
    close(value.marginal_kl, marginal, 1e-6)
    close(value.posterior_kl, posterior)
    close(value.kl[0], value.mutual_information + value.marginal_kl, 1e-6)


@pytest.mark.parametrize("name", TWO)
def test_two_layers(evaluated, name):
    case, value = TWO[name], evaluated[2][name]
    close(value.recon, oracle_one(case[:5])[0])
    close(value.kl, oracle_kl(case))
    log_p = oracle_evidence(case)
    close(value.nll, -log_p.mean())
    close(value.valid_mass, np.exp(log_p).sum())
    information, marginal = oracle_surgery(case)
    close(value.mutual_information, information)
    close(value.marginal_kl, marginal)
    assert value.kl[1] > information + marginal - 1e-6  # z_1 tells more of z_2 than x does


@pytest.mark.parametrize("layers", [1, 2])
def test_identities_and_bounds(evaluated, layers):
    for value in evaluated[layers].values():
        slack = 1e-7 * max(1.0, value.loss)
        assert value.loss == pytest.approx(value.recon + value.kl.sum(), rel=1e-12)
        assert value.loss == pytest.approx(value.nll + value.posterior_kl, rel=1e-12)
        assert value.posterior_kl > -slack
        assert value.nll > np.log(2.0) - 1e-6
        assert value.valid_mass < 1.0 + 1e-6
        assert -1e-9 < value.mutual_information < np.log(2.0) + 1e-6
        assert value.marginal_kl > -1e-9


@pytest.mark.parametrize("layers", [1, 2])
def test_finer_grids_agree(evaluated, layers):
    fine = evaluate_all(ONE if layers == 1 else TWO, GRIDS[1])
    for name, value in evaluated[layers].items():
        for field, coarse, finer in zip(value._fields[:-1], value, fine[name], strict=False):
            np.testing.assert_allclose(coarse, finer, rtol=1e-5, atol=1e-5, err_msg=f"{name}: {field}")
    assert all(value.error < TOLERANCE for value in evaluated[layers].values())
    assert any((value.recon != fine[name].recon).any() for name, value in evaluated[layers].items())


def test_linear_gaussian_chain_of_three_layers():
    """Linear kernels keep every marginal Gaussian, so that all but a few one-dimensional integrals are closed forms."""
    n, slope, m, s = 5, 3.0, 0.8, 0.5
    steps = np.array([[0.9, 0.6, -0.8, 0.5], [-0.7, 0.8, 1.1, 0.3]])
    a, noise, b, tau = steps.T
    value = compute(
        lambda: evaluate(chain(n, slope, 0.0, m, s, width=n)._replace(q=linear(b, tau), p=linear(a, noise)), beta=0.5)
    )
    mean, var, kl = m, s**2, [-norm.entropy(m, s)]
    for a_l, noise_l, b_l, tau_l in zip(a, noise, b, tau, strict=True):
        residual = mean * (1.0 - a_l * b_l), var * (1.0 - a_l * b_l) ** 2 + (a_l * tau_l) ** 2
        kl[-1] += np.log(noise_l * np.sqrt(2.0 * np.pi)) + (residual[0] ** 2 + residual[1]) / (2.0 * noise_l**2)
        mean, var = b_l * mean, b_l**2 * var + tau_l**2
        kl.append(-norm.entropy(0.0, tau_l))
    kl[-1] += 0.5 * (np.log(2.0 * np.pi) + mean**2 + var)
    prior = 1.0
    for a_l, noise_l in zip(a[::-1], noise[::-1], strict=True):
        prior = a_l**2 * prior + noise_l**2
    evidence = quad(lambda z: norm.pdf(z, 0.0, np.sqrt(prior)) * expit(slope * z) ** n, -12.0, 12.0, epsabs=1e-13)[0]
    _, _, _, information, marginal, _ = oracle_one((n, slope, 0.0, mean, np.sqrt(var)))
    close(value.recon, oracle_one((n, slope, 0.0, m, s))[0], 1e-6)
    close(value.kl, kl, 1e-6)
    close(value.nll, -np.log(evidence), 1e-6)
    close(value.mutual_information, information, 1e-6)
    close(value.marginal_kl, marginal, 1e-6)
    assert float(value.loss) == pytest.approx(float(value.recon + 0.5 * value.kl.sum()), rel=1e-12)


def test_the_best_one_layer_model(evaluated):
    """The limit at n = 1000 is 1.50049; this one is nearly there."""
    assert 1.50049 < evaluated[1]["n = 1000"].loss < 1.5006


def test_points_that_are_not_mirror_images():
    """Three points of three dimensions with logits of their own, and padding that must not count."""
    x = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    weights, bias = np.array([2.0, -1.0, 0.5, np.pi]), np.array([0.1, 0.2, -0.3, 1e3])
    mean, std = np.array([-1.0, 0.3, 1.5]), np.array([0.4, 1.3, 0.7])

    def model():
        q = Normal(jnp.asarray(mean), jnp.asarray(std))
        mask = jnp.array([1.0, 1.0, 1.0, 0.0])
        return ScalarVAE(
            jnp.asarray(x), mask, q, (), (), lambda z: jnp.asarray(weights[:, None]) * z[None] + bias[:, None]
        )

    log_p, recon = compute(lambda: (log_evidence(model()), evaluate(model()).recon))

    def likelihood(k, z):
        return np.sum(-np.logaddexp(0.0, (1.0 - 2.0 * x[:3, k]) * (weights[:3] * z + bias[:3])))

    for k in range(3):
        expected = quad(lambda z, k=k: norm.pdf(z) * np.exp(likelihood(k, z)), -12.0, 12.0, epsabs=1e-13)[0]
        close(log_p[k], np.log(expected), 1e-8)
    terms = [quad(lambda z, k=k: -norm.pdf(z, mean[k], std[k]) * likelihood(k, z), -16.0, 16.0)[0] for k in range(3)]
    close(recon, np.mean(terms), 1e-8)


@pytest.mark.parametrize("layers", [1, 2])
def test_float32(evaluated, layers):
    case = (ONE if layers == 1 else TWO)["n = 1000"]
    single = jax.jit(lambda: evaluate(chain(*case)))()
    for coarse, fine in zip(single, evaluated[layers]["n = 1000"], strict=True):
        assert coarse.dtype == jnp.float32
        np.testing.assert_allclose(coarse, fine, rtol=2e-4, atol=2e-4)


def test_beyond_the_range_of_floats():
    """exp(network) overflows far out, where no mass is: every figure stays finite."""

    def model():
        base = chain(5, 1.0, 0.0, 0.5, 0.5, width=5)
        return base._replace(q=linear([0.3], [0.2]), p=(lambda z: Normal(z, jnp.exp(5.0 * jnp.square(z) - 1.0)),))

    assert all(np.isfinite(leaf).all() for leaf in compute(lambda: evaluate(model())))


def test_runs_can_be_batched():
    """vmap and lax.map give what one run gives."""

    def loss(slope):
        return evaluate(chain(5, slope, 0.0, 0.9, 0.4, width=5)).loss

    together, mapped = compute(lambda s: (jax.vmap(loss)(s), jax.lax.map(loss, s)), np.array([1.0, 4.0, 20.0]))
    np.testing.assert_allclose(together, mapped, rtol=1e-9)
    expected = [float(sum(oracle_one((5, slope, 0.0, 0.9, 0.4))[:2])) for slope in (1.0, 4.0, 20.0)]
    np.testing.assert_allclose(mapped, expected, rtol=1e-7)
