"""Densities of every layer's latent against nested float64 quadrature in numpy."""

import jax.numpy as jnp
import numpy as np
import pytest
from exact_oracle import TWO, chain, compute, energy, oracle_evidence, panels
from scipy.special import expit
from scipy.stats import norm

from vae_bit.distributions import Normal
from vae_bit.exact import densities

pytestmark = pytest.mark.usefixtures("quick_compile")


def test_densities_of_two_layers():
    case = TWO["n = 5"]
    n, slope, shift, m, s, c, k, noise, c_q, k_q, s_q = case
    z_1, z_2 = np.linspace(-3.0, 3.0, 41), np.linspace(-2.5, 2.5, 31)
    d = compute(lambda *grids: densities(chain(*case, width=n + 1), grids), z_1, z_2)
    t, w = panels(-12.0, 12.0, [0.0])
    w = w * norm.pdf(t)
    log_p = oracle_evidence(case)
    q_1 = np.stack([norm.pdf(z_1, mean, s) for mean in (-m, m)])
    q_2 = np.stack([norm.pdf(z_2[:, None], c_q * np.tanh(k_q * (mean + s * t)), s_q) @ w for mean in (-m, m)])
    p_1 = norm.pdf(z_1[:, None], c * np.tanh(k * t), noise) @ w
    below = c * np.tanh(k * z_2)[:, None] + noise * t
    expected = {
        "q": (q_1, q_2),
        "aggregate": (q_1.mean(0), q_2.mean(0)),
        "p": (p_1, norm.pdf(z_2)),
        "posterior": (
            p_1 * np.exp(-energy(case, z_1) - log_p[:, None]),
            norm.pdf(z_2) * (np.exp(-energy(case, below)) @ w) / np.exp(log_p)[:, None],
        ),
        "probability": (expit(slope * (z_1 - shift)), expit(slope * (below - shift)) @ w),
    }
    for field, layers in expected.items():
        for got, want in zip(getattr(d, field), layers, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9, err_msg=field)
    np.testing.assert_allclose(d.at_zero[:n], np.full(n, expit(slope * (noise * t - shift)) @ w), rtol=1e-7)
    assert d.at_zero[n] == pytest.approx(0.5)  # padding


@pytest.mark.parametrize("layers", [1, 2])
def test_densities_integrate_to_one(layers):
    case = (5, 4.0, 0.1, 1.0, 0.4) + (1.0, 0.5, 0.8, 0.8, 0.8, 0.6) * (layers - 1)
    d = compute(lambda grid: densities(chain(*case, width=5), [grid] * layers), np.linspace(-10.0, 10.0, 2001))
    for field in (d.q, d.aggregate, d.p, d.posterior):
        for density in field:
            np.testing.assert_allclose(np.sum(density, axis=-1) * 0.01, 1.0, atol=1e-6)
    for probability, density, posterior in zip(d.probability, d.p, d.posterior, strict=True):
        assert np.sum(probability * density) * 0.01 == pytest.approx(np.sum(d.probability[0] * d.p[0]) * 0.01, abs=1e-6)
        assert np.abs(posterior[0] - posterior[1]).sum() > 1.0
    if layers == 1:
        np.testing.assert_allclose(d.at_zero, expit(-0.4), rtol=1e-12)


def steep(xp, z):
    """What training at n = 1000 finds: a Gaussian z_1 becomes about half a Gaussian z_2, cut off close to 0."""
    ahead = xp.abs(z) - 5.0
    return xp.sign(z) * xp.logaddexp(0.0, 2.0 * ahead), 0.001 + 0.1 / (1.0 + xp.exp(-6.0 * ahead))


def test_the_notch_of_a_steep_map():
    """q(z_2 | x) against a sum over 400,001 nodes of z_1, relative to its maximum; the first grids are off by 2e-4."""
    z_2 = np.concatenate([np.linspace(-4.0, 4.0, 81), np.linspace(-0.1, 0.1, 101)])
    kernel = (lambda z: Normal(*steep(jnp, z)),)
    model = chain(5, 1.0, 0.0, 5.5, 1.0, width=5)

    def top(z):
        return densities(model._replace(q=kernel, p=kernel), [z, z]).q[1]

    eps = np.linspace(-9.0, 9.0, 400_001)
    mass = norm.pdf(eps) * (eps[1] - eps[0])
    got = compute(top, z_2)
    for k, mean in enumerate((-5.5, 5.5)):
        centre, std = steep(np, mean + eps)
        dense = np.array([np.sum(mass * norm.pdf(z, centre, std)) for z in z_2])
        np.testing.assert_allclose(got[k], dense, rtol=0.0, atol=1e-5 * dense.max())
