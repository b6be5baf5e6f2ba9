"""Densities of every layer's latent against nested float64 quadrature in numpy."""

import numpy as np
import pytest
from exact_oracle import TWO, chain, compute, energy, oracle_evidence, panels
from scipy.special import expit
from scipy.stats import norm

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
    np.testing.assert_allclose(d.at_zero, np.full(n + 1, expit(slope * (noise * t - shift)) @ w), rtol=1e-7)


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
