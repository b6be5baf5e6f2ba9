"""Two and three layers with mixtures and flows at the data and at the top, against dense rules and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_oracle import close, compute, linear, tanh_kernel
from family_oracle import flow, mixture, one_layer, two_layers
from scipy.stats import norm

from vae_bit.distributions import Flow, Mixture, Normal
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


@pytest.mark.parametrize("q", [MIXTURES, FLOWS], ids=["mixture", "flow"])
def test_two_layers(q):
    cases = [(prior, *case) for prior in PRIORS.values() for case in CASES.values()]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *cases)
    run = partial(jax.lax.map, lambda case: evaluate_on(GRIDS[0], chain(jax.tree.map(jnp.asarray, q), *case)))
    found = compute(run, batch)
    for i, (prior, *case) in enumerate(cases):
        value = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        known = mixture(np.exp(prior.logits), prior.mean, prior.std)
        expected = two_layers(densities(q), known, case, (-40.0, 40.0))
        log_p = expected.pop("log_p")
        expected |= {"nll": -log_p.mean(), "valid_mass": np.exp(log_p).sum()}
        print(i, float(value.error), {k: float(np.max(np.abs(getattr(value,k)-v)/np.maximum(1,np.abs(v)))) for k,v in expected.items()})
