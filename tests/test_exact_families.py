"""One layer with any family of q(z_1 | x) and p(z_1), and decoders that are no product, against dense numpy rules."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_oracle import compute
from family_oracle import Density, flow, mixture, one_layer
from jax.scipy.special import log_ndtr
from scipy.stats import norm

from vae_bit.distributions import Drawn, Flow, Mixture, Normal
from vae_bit.exact import GRIDS, TOLERANCE, ScalarVAE, densities, evaluate_on

pytestmark = pytest.mark.usefixtures("quick_compile")
SPAN = (-3e4, 3e4)
DECODERS = [(1.0, 1.0, 0.0), (5.0, 30.0, 0.2), (1000.0, 1e4, -0.1), (1000.0, -1e3, 0.3)]  # n, slope, shift


class Laplace(NamedTuple):
    """A family of a user's own."""

    mean: jax.Array
    scale: jax.Array

    def log_prob(self, z):
        return -jnp.abs(z - self.mean) / self.scale - jnp.log(2.0 * self.scale)

    def draw(self, eps):
        z = self.mean - jnp.sign(eps) * self.scale * (jnp.log(2.0) + log_ndtr(-jnp.abs(eps)))
        return Drawn(z, self.log_prob(z), 1.0)


def row(family, k):
    return jax.tree.map(lambda leaf: leaf[k], family)


def known(family):
    """The same density in numpy."""
    if isinstance(family, Normal):
        return mixture([1.0], [family.mean], [family.std])
    if isinstance(family, Mixture):
        return mixture(np.exp(family.logits - family.logits.max()), family.mean, family.std)
    if isinstance(family, Flow):
        return flow(*family)
    return Density(lambda z: -np.abs(z - family.mean) / family.scale - np.log(2.0 * family.scale), [family.mean])


def energies(xp, n, slope, shift, z):
    logits = slope * (z - shift)
    return n * xp.stack([xp.logaddexp(0.0, logits), xp.logaddexp(0.0, -logits)])


def costs(xp, n, slope, shift, z):
    """More than the energy, and steep elsewhere."""
    return energies(xp, n, slope, shift, z) + n * xp.logaddexp(0.0, slope * (z - shift - 0.5))[None]


def chain(q, prior, decoder, pays=True):
    cost = partial(costs, jnp, *decoder) if pays else None
    _, slope, shift = decoder
    logits = lambda z: (slope * (z - shift))[None]  # noqa: E731
    energy = partial(energies, jnp, *decoder)
    return ScalarVAE(jnp.array([[0.0, 1.0]]), jnp.ones(1), q, (), (), logits, prior, energy, cost)


def random_mixture(rng, *shape):
    means = rng.normal(size=shape) * rng.choice([0.5, 3.0, 20.0])
    return Mixture(rng.uniform(np.log(1e-4), 0.0, shape), means, 10.0 ** rng.uniform(-3.0, 0.5, shape))


def random_flow(rng, smooth):
    """Slopes from 1e-4 to 1e3; `smooth` where each rises about as its knots' slopes say."""
    slope = 10.0 ** rng.uniform(-4.0, rng.choice([0.0, 1.0, 3.0]), (2, 9))
    rise = np.sqrt(slope[:, 1:] * slope[:, :-1]) * 10.0 ** rng.uniform(-0.5, 0.5, (2, 8))
    rise = rise if smooth else 10.0 ** rng.uniform(-2.0, 0.5, (2, 8))
    y = np.cumsum(np.concatenate([rng.normal(size=(2, 1)), rise], axis=1), axis=1)
    return Flow(np.tile(np.linspace(-4.0, 4.0, 9), (2, 1)), y - y[:, 4:5], slope)


def halves():
    """T(e) = Phi^-1((1 + Phi(e)) / 2) by a spline, and its mirror image: together nearly N(0, 1)."""
    x = np.linspace(-4.0, 4.0, 9)
    y = norm.isf(norm.sf(x) / 2.0)
    slope = norm.pdf(x) / (2.0 * norm.pdf(y))
    return Flow(np.stack([x, x]), np.stack([-y[::-1], y]), np.stack([slope[::-1], slope]))


def random_normal(rng, *shape):
    return Normal(rng.normal(size=shape) * 2.0, 10.0 ** rng.uniform(-3.0, 0.5, shape))


def vamp(rng):
    q = random_normal(rng, 2)
    return q, Mixture(np.zeros(2), q.mean, q.std)


KINDS = {
    "8 components": lambda rng: (random_mixture(rng, 2, 8), random_normal(rng)),
    "2 components each": lambda rng: (random_mixture(rng, 2, 2), random_mixture(rng, 2)),
    "vamp": vamp,
    "smooth flow": lambda rng: (random_flow(rng, True), Normal(np.array(0.3), np.array(1.4))),
    "rough flow": lambda rng: (random_flow(rng, False), Normal(np.array(0.3), np.array(1.4))),
    "half a Gaussian": lambda rng: (halves(), Normal(np.array(0.0), np.array(1.0))),
    "Laplace": lambda rng: (
        Laplace(rng.normal(size=2), 10.0 ** rng.uniform(-3.0, 0.5, 2)),
        Laplace(np.array(0.1), np.array(0.8)),
    ),
}
SAME = {"rough flow": "smooth flow", "half a Gaussian": "smooth flow"}  # the program that evaluates it


@pytest.fixture(scope="module")
def figures():
    """kind -> (case, its figures on each grid): all that share a program at a time."""
    rng = np.random.default_rng(0)
    cases = {kind: [(*make(rng), decoder) for decoder in DECODERS] for kind, make in KINDS.items()}
    found = {}
    for name in KINDS.keys() - SAME.keys():
        kinds = [kind for kind in KINDS if SAME.get(kind, kind) == name]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(case for kind in kinds for case in cases[kind]))
        for grids in (GRIDS[0], GRIDS[2])[: 1 + ("flow" in name)]:
            every = compute(partial(jax.lax.map, lambda case, grids=grids: evaluate_on(grids, chain(*case))), batch)
            for i, (own, case) in enumerate((kind, case) for kind in kinds for case in cases[kind]):
                found.setdefault(own, {}).setdefault(i, (case, []))[1].append(
                    jax.tree.map(lambda leaf, i=i: leaf[i], every)
                )
    return {kind: list(some.values()) for kind, some in found.items()}


def off(value, expected):
    """The worst of |figure - expected| / max(1, |expected|)."""
    recon, kl, log_p = expected["recon"], expected["kl"], expected["log_p"]
    want = {"recon": recon, "kl": kl, "nll": -log_p.mean(), "valid_mass": np.exp(log_p).sum(), "loss": recon + kl[0]}
    want |= {"posterior_kl": expected["distortion"] + kl[0] - want["nll"]}
    want |= {name: expected[name] for name in ("mutual_information", "marginal_kl")}
    return max(np.max(np.abs(getattr(value, k) - v) / np.maximum(1.0, np.abs(v))) for k, v in want.items())


def turns(prior, n, slope, shift):
    """Where the decoder turns, and where a component of the prior meets its straight flanks."""
    std = getattr(prior, "std", np.array([]))
    return np.concatenate(
        [[shift, shift + 0.5], *(np.ravel(prior[-2] + side * n * slope * std**2) for side in (-1, 1) if std.size)]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_layer(figures, kind):
    """As good as the error says, on the first grids; below the tolerance there or on the last."""
    for (q, prior, decoder), values in figures[kind]:
        expected = one_layer(
            [known(row(q, k)) for k in range(2)],
            known(prior),
            partial(energies, np, *decoder),
            turns(prior, *decoder),
            SPAN,
            partial(costs, np, *decoder),
        )
        for value in values:
            assert off(value, expected) < 3.0 * max(TOLERANCE, value.error)
        assert off(values[-1], expected) < 3.0 * TOLERANCE  # a spike thousands of nats down is told of by no mass
        assert values[-1].error < 10.0 * TOLERANCE


def test_identities(figures):
    for kind, cases in figures.items():
        for _, (*_, value) in cases:
            slack = 1e-5 * max(1.0, value.loss)
            assert value.loss == pytest.approx(value.recon + value.kl.sum(), rel=1e-12)
            assert value.posterior_kl > -slack
            assert value.loss > value.nll + value.posterior_kl - slack  # the cost is more than the energy
            assert value.kl[0] == pytest.approx(value.mutual_information + value.marginal_kl, abs=slack)
            assert -1e-5 < value.mutual_information < np.log(2.0) + 1e-5
            assert value.marginal_kl > -slack
            if kind == "vamp":  # the prior is q(z) itself
                assert abs(value.marginal_kl) < 1e-6
                assert value.kl[0] == pytest.approx(value.mutual_information, abs=1e-6)


def test_the_same_distribution_by_another_family():
    """A mixture of equal components and a flow with straight knots are Gaussians, at the data and at the top."""
    x = np.linspace(-4.0, 4.0, 9)
    mean, std = np.array([-0.9, 1.0]), np.array([0.4, 0.3])
    as_mixture = Mixture(np.zeros((2, 3)), np.tile(mean[:, None], 3), np.tile(std[:, None], 3))
    as_flow = Flow(np.stack([x, x]), mean[:, None] + std[:, None] * x, np.tile(std[:, None], 9))
    wide = Mixture(np.zeros(2), np.full(2, 0.2), np.full(2, 1.3))
    plain = Normal(np.array(0.2), np.array(1.3))
    decoder = tuple(map(np.float64, DECODERS[1]))
    pairs = [(Normal(mean, std), plain), (as_mixture, wide), (as_flow, wide)]
    first, *others = [
        compute(lambda *case: evaluate_on(GRIDS[0], chain(*case, False)), *pair, decoder) for pair in pairs
    ]
    for other in others:
        for name, a, b in zip(first._fields[:-1], other, first, strict=False):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_gaussian_prior_is_a_change_of_units():
    """p(z_1) = N(m, s^2) with everything else in those units is p(z_1) = N(0, 1)."""
    mean, std = 7.0, 1e-3
    n, slope, shift = DECODERS[1]
    q = Normal(np.array([-0.9, 1.0]), np.array([0.4, 0.3]))
    moved = Normal(mean + std * q.mean, std * q.std)
    cases = [(q, Normal(0.0, 1.0), (n, slope, shift)), (moved, Normal(mean, std), (n, slope / std, mean + std * shift))]
    run = lambda *case: evaluate_on(GRIDS[0], chain(*case, False))  # noqa: E731
    first, other = (compute(run, *case) for case in cases)
    for name, a, b in zip(first._fields, other, first, strict=True):
        if name != "activity":
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg=name)


def test_densities_follow_the_energy_and_the_prior():
    """The logits give the probability of a bit, the energy the posterior."""
    q, prior = (
        row(jax.tree.map(lambda leaf: leaf[None], random_mixture(np.random.default_rng(3), 2, 2)), 0),
        Mixture(np.array([0.0, 1.0]), np.array([-1.0, 1.0]), np.array([0.5, 0.02])),
    )
    z = np.linspace(-2.0, 2.0, 41)

    def found(q, prior):
        halved = chain(q, prior, (3.0, 2.0, 0.1))._replace(logits=lambda z: 0.5 * z[None])
        return densities(halved, [jnp.asarray(z)])

    d = compute(found, q, prior)
    expected = one_layer(
        [known(row(q, k)) for k in range(2)], known(prior), partial(energies, np, 3.0, 2.0, 0.1), [], SPAN
    )
    p = np.exp(known(prior).log(z))
    np.testing.assert_allclose(d.p[0], p, rtol=1e-9)
    np.testing.assert_allclose(d.q[0], [np.exp(known(row(q, k)).log(z)) for k in range(2)], rtol=1e-9, atol=1e-12)
    posterior = p * np.exp(-energies(np, 3.0, 2.0, 0.1, z) - expected["log_p"][:, None])
    np.testing.assert_allclose(d.posterior[0], posterior, rtol=1e-6)
    np.testing.assert_allclose(d.probability[0], 1.0 / (1.0 + np.exp(-0.5 * z)), rtol=1e-9)
