"""Two and three layers with mixtures and flows at the data and at the top, against dense rules and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_oracle import close, compute, linear, tanh_kernel
from family_oracle import flow, mixture, one_layer, two_layers
from scipy.special import softmax
from scipy.stats import norm

from vae_bit.distributions import Flow, Mixture
from vae_bit.exact import GRIDS, TOLERANCE, ScalarVAE, evaluate_on

pytestmark = pytest.mark.usefixtures("quick_compile")

X = np.linspace(-2.0, 2.0, 5)
SLOPES = np.array([[0.02, 0.1, 1.0, 0.5, 0.3], [0.3, 2.0, 0.05, 1.0, 0.1]])
FLOWS = Flow(np.stack([X, X]), np.stack([X * 0.5 - 1.0, np.array([-1.0, 0.5, 0.8, 1.5, 3.0])]), SLOPES)
MIXTURES = Mixture(
    np.array([[0.0, 1.0], [0.0, -5.0]]), np.array([[-1.0, -1.2], [0.5, 2.0]]), np.array([[0.3, 0.02], [0.6, 0.001]])
)
PRIORS = {
    "two humps": Mixture(np.array([0.3, 0.0]), np.array([-1.0, 1.0]), np.array([0.4, 0.5])),
    "a spike far off": Mixture(np.array([0.0, 3.0]), np.array([0.2, 20.0]), np.array([0.7, 0.001])),
    "a spike within": Mixture(np.array([0.0, -2.0]), np.array([0.0, 0.1]), np.array([1.0, 0.003])),
}
CASES = {
    "plain": (5.0, 4.0, 0.1, 1.0, 0.5, 0.8, 0.8, 0.8, 0.6),
    "steep": (100.0, 30.0, 0.0, 1.0, 3.0, 0.3, 1.0, 2.0, 0.2),
}


def chain(q, prior, n, slope, shift, *kernels):
    def energy(z):
        logits = slope * (z - shift)
        return n * jnp.stack([jax.nn.softplus(logits), jax.nn.softplus(-logits)])

    p, up = (tanh_kernel(*step) for step in (kernels[:3], kernels[3:]))
    logits = lambda z: (slope * (z - shift))[None]  # noqa: E731
    return ScalarVAE(jnp.array([[0.0, 1.0]]), jnp.ones(1), q, (up,), (p,), logits, prior, energy)


def densities(family):
    make = {Mixture: lambda row: mixture(np.exp(row.logits), row.mean, row.std), Flow: lambda row: flow(*row)}
    return [make[type(family)](jax.tree.map(lambda leaf, k=k: leaf[k], family)) for k in range(2)]


def evaluated(q, cases, grids):
    """Figures of each case by one program."""
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
    run = partial(jax.lax.map, lambda case: evaluate_on(grids, chain(jax.tree.map(jnp.asarray, q), *case)))
    found = compute(run, batch)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(cases))]


def off(value, expected):
    """The worst of |figure - expected| / max(1, |expected|)."""
    log_p = expected["log_p"]
    pairs = {name: part for name, part in expected.items() if name not in ("log_p", "distortion")}
    pairs |= {"nll": -log_p.mean(), "valid_mass": np.exp(log_p).sum()}
    return max(np.max(np.abs(getattr(value, k) - v) / np.maximum(1.0, np.abs(v))) for k, v in pairs.items())


@pytest.mark.parametrize(("q", "few"), [(MIXTURES, 4), (FLOWS, 2)], ids=["mixture", "flow"])
def test_two_layers(q, few):
    """As good as they say on the first grids, and good on finer ones where these do not do."""
    cases = [(prior, *case) for prior in PRIORS.values() for case in CASES.values()][:few]
    worst = []
    for value, (prior, *case) in zip(evaluated(q, cases, GRIDS[0]), cases, strict=True):
        known = mixture(np.exp(prior.logits), prior.mean, prior.std)
        expected = two_layers(densities(q), known, case, (-30.0, 30.0))
        assert off(value, expected) < max(TOLERANCE, value.error)
        assert value.loss == pytest.approx(value.nll + value.posterior_kl, rel=1e-12)
        worst.append((value.error, prior, case, expected))
    error, prior, case, expected = max(worst, key=lambda each: each[0])
    if error > 10.0 * TOLERANCE:
        (value,) = evaluated(q, [(prior, *case)], GRIDS[1])
        assert off(value, expected) < TOLERANCE


def test_three_linear_layers():
    """Linear kernels keep a mixture a mixture: all is closed form but one-dimensional integrals."""
    n, slope = 5, 3.0
    steps = np.array([[0.9, 0.6, -0.8, 0.5], [-0.7, 0.8, 1.1, 0.3]])
    a, noise, b, tau = steps.T
    q = Mixture(
        np.array([[0.0, 1.0], [0.3, -7.0]]), np.array([[-0.8, 0.5], [0.7, 2.0]]), np.array([[0.5, 0.01], [0.3, 1.0]])
    )
    prior = Mixture(np.array([0.0, -1.0]), np.array([-0.6, 2.0]), np.array([0.8, 0.05]))

    def model():
        first = chain(jax.tree.map(jnp.asarray, q), jax.tree.map(jnp.asarray, prior), n, slope, 0.0, *np.ones(6))
        return evaluate_on(GRIDS[0], first._replace(q=linear(b, tau), p=linear(a, noise)))

    value = compute(model)
    weights, mean, var = softmax(q.logits, axis=1), q.mean, q.std**2

    def energy(z):
        return n * np.stack([np.logaddexp(0.0, slope * z), np.logaddexp(0.0, -slope * z)])

    codes = [mixture(w, m, np.sqrt(v)) for w, m, v in zip(weights, mean, var, strict=True)]
    first = one_layer(codes, mixture([1.0], [0.0], [1.0]), energy, [0.0], (-40.0, 40.0))
    # kl_1 of one layer is -H - E[ln N(z; 0, 1)]
    kl = [first["kl"][0] - 0.5 * (np.log(2.0 * np.pi) + np.mean(np.sum(weights * (mean**2 + var), 1)))]
    for a_l, noise_l, b_l, tau_l in zip(a, noise, b, tau, strict=True):
        residual = mean**2 * (1.0 - a_l * b_l) ** 2 + var * (1.0 - a_l * b_l) ** 2 + (a_l * tau_l) ** 2
        kl[-1] += np.log(noise_l * np.sqrt(2.0 * np.pi)) + np.mean(np.sum(weights * residual, 1)) / (2.0 * noise_l**2)
        mean, var = b_l * mean, b_l**2 * var + tau_l**2
        kl.append(-norm.entropy(0.0, tau_l))
    codes = [mixture(w, m, np.sqrt(v)) for w, m, v in zip(weights, mean, var, strict=True)]
    top = one_layer(codes, mixture(np.exp(prior.logits), prior.mean, prior.std), energy, [0.0], (-40.0, 40.0))
    kl[-1] += top["mutual_information"] + top["marginal_kl"] + top["entropy"]
    mean, var = prior.mean, prior.std**2
    for a_l, noise_l in zip(a[::-1], noise[::-1], strict=True):
        mean, var = a_l * mean, a_l**2 * var + noise_l**2
    below = one_layer(codes, mixture(np.exp(prior.logits), mean, np.sqrt(var)), energy, [0.0], (-40.0, 40.0))
    close(value.recon, first["recon"], 1e-6)
    close(value.kl, kl, TOLERANCE)
    close(value.nll, -below["log_p"].mean(), TOLERANCE)
    close(value.mutual_information, top["mutual_information"], TOLERANCE)
    close(value.marginal_kl, top["marginal_kl"], TOLERANCE)
    assert value.error < 1e-3
