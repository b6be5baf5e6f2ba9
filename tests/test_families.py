"""Families of q(z_1 | x) and p(z_L): how many numbers each takes, where it begins, and what the aggregate is."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from own_family import Logistic
from scipy.special import logsumexp
from scipy.stats import norm

from vae_bit import families, models
from vae_bit.distributions import Flow, Mixture, Normal
from vae_bit.families import (
    GAUSSIAN,
    STANDARD,
    Aggregate,
    FlowFamily,
    LearnedPrior,
    MixtureFamily,
    VampPrior,
)
from vae_bit.presets import DEFAULT, MIXTURES, ORIGINAL

pytestmark = pytest.mark.usefixtures("quick_compile")
POSITIVES = {"default": jnp.exp, "original": ORIGINAL.model.positive}  # pyright: ignore[reportFunctionMemberAccess]
Z = np.linspace(-12.0, 12.0, 4001)


def density(p, index: Any = 0):
    """The index-th member's density on Z, in float64."""
    with jax.enable_x64(True):
        member = jax.tree.map(lambda field: jnp.asarray(field[index], jnp.float64), p)
        return np.exp(np.asarray(member.log_prob(jnp.asarray(Z))))


@pytest.mark.parametrize(
    "family, size, kind",
    [
        (GAUSSIAN, 2, Normal),
        (MixtureFamily(1), 3, Mixture),
        (MixtureFamily(4), 12, Mixture),
        (FlowFamily(), 18, Flow),
        (FlowFamily(3), 8, Flow),
    ],
)
def test_members_are_one_for_each_column_of_numbers(family, size, kind):
    """[size, K] -> K members, each a density, and each that of its own column alone."""
    assert family.size == size
    numbers = np.random.default_rng(0).normal(size=(size, 3)).astype(np.float32)
    members = family(jnp.asarray(numbers), jnp.exp)
    assert isinstance(members, kind)
    for index in range(3):
        one = family(jnp.asarray(numbers[:, index : index + 1]), jnp.exp)
        jax.tree.map(lambda a, b, i=index: np.testing.assert_allclose(a[i], b[0], rtol=1e-6), members, one)
        wide = np.exp(np.asarray(members.log_prob(jnp.zeros(3))))
        assert np.isfinite(wide).all()
    drawn = members.draw(jnp.zeros(3))
    assert drawn.z.shape[0] == 3


@pytest.mark.parametrize("family", [GAUSSIAN, FlowFamily(), FlowFamily(3), MixtureFamily(1)])
def test_numbers_of_zero_are_the_standard_normal(family):
    """Where `positive` is exp: the spline is then the identity."""
    p = family(jnp.zeros((family.size, 2)), jnp.exp)
    np.testing.assert_allclose(density(p, 1), norm.pdf(Z), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("components", [1, 2, 3, 4, 16])
def test_a_mixture_of_zeros_has_the_prior_s_two_moments_and_distinct_components(components):
    p = MixtureFamily(components)(jnp.zeros((3 * components, 1)), jnp.exp)
    mass = density(p) * (Z[1] - Z[0])
    np.testing.assert_allclose([mass.sum(), mass @ Z, mass @ Z**2], [1.0, 0.0, 1.0], atol=1e-6)
    np.testing.assert_array_equal(p.mean, 0.0)
    ratios = np.asarray(p.std[0, 1:] / p.std[0, :-1])
    np.testing.assert_allclose(ratios, 0.5 ** (1.0 / max(components - 1, 1)), rtol=1e-5)


def test_a_mixture_s_numbers_are_logits_means_and_scales():
    """Weights e^(l / 8), each mean moved by its own number, and stds times what `positive` makes."""
    numbers = jnp.array([[8.0], [0.0], [0.3], [-0.2], [0.1], [0.5]])
    p = MixtureFamily(2)(numbers, jnp.exp)
    std = np.array([2.0, 1.0]) / math.sqrt(2.5)
    np.testing.assert_allclose(jax.nn.softmax(p.logits[0]), [math.e / (1 + math.e), 1 / (1 + math.e)], rtol=1e-6)
    np.testing.assert_allclose(p.mean[0], [0.3, -0.2], rtol=1e-6)
    np.testing.assert_allclose(p.std[0], std * np.exp([0.1, 0.5]), rtol=1e-6)


def test_a_flow_s_numbers_are_the_middle_the_climbs_and_the_slopes():
    numbers = np.zeros((10, 1), np.float32)  # 4 bins between the noises -4, -2, 0, 2, 4
    numbers[:, 0] = [0.7, *2.0 * np.log([1.0, 2.0, 0.5, 3.0]), *2.0 * np.log([1.5, 1.0, 4.0, 0.5, 2.0])]
    p = FlowFamily(4)(jnp.asarray(numbers), jnp.exp)
    np.testing.assert_allclose(p.x[0], [-4.0, -2.0, 0.0, 2.0, 4.0])
    np.testing.assert_allclose(p.y[0], [-5.3, -3.3, 0.7, 1.7, 7.7], rtol=1e-5)
    np.testing.assert_allclose(p.slope[0], [1.5, 1.0, 4.0, 0.5, 2.0], rtol=1e-6)
    z = np.asarray(p.draw(jnp.array([-5.0])).z)
    np.testing.assert_allclose(z, -5.3 - 1.5, rtol=1e-6)


@pytest.mark.parametrize("preset", POSITIVES)
@pytest.mark.parametrize("family", [FlowFamily(), MixtureFamily(3)])
def test_any_numbers_make_a_density(family, preset):
    numbers = np.random.default_rng(1).normal(size=(family.size, 4)).astype(np.float32)
    p = family(jnp.asarray(numbers), POSITIVES[preset])
    for index in range(4):
        grid = np.linspace(-60.0, 60.0, 200_001)
        with jax.enable_x64(True):
            member = jax.tree.map(lambda field, i=index: jnp.asarray(field[i], jnp.float64), p)
            mass = np.exp(np.asarray(member.log_prob(jnp.asarray(grid)))).sum() * (grid[1] - grid[0])
        assert mass == pytest.approx(1.0, abs=1e-4)


TWO = {
    "gaussian": Normal(jnp.array([-1.0, 0.5]), jnp.array([0.3, 0.8])),
    "mixture": Mixture(
        jnp.array([[0.0, 1.0], [-1.0, 0.5]]), jnp.array([[-1.0, 0.2], [0.5, 2.0]]), jnp.array([[0.3, 0.8], [0.5, 1.1]])
    ),
    "flow": Flow(
        jnp.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]]),
        jnp.array([[-2.0, -1.0, 1.0], [0.0, 0.5, 3.0]]),
        jnp.array([[1.0, 0.5, 2.0], [0.3, 1.0, 1.0]]),
    ),
}


def aggregate(both, rank):
    """In float64, to stand beside arrays of a rank."""
    return models._beside(Aggregate(jax.tree.map(lambda field: jnp.asarray(field, jnp.float64), both)), 0, rank)


def points():
    """On the same scale, a row, one number and a table of them."""
    return [jnp.asarray(Z), jnp.asarray(Z[2100]), jnp.asarray(Z[:4000].reshape(8, 500))]


@pytest.mark.parametrize("name", TWO)
def test_the_aggregate_is_the_mean_of_the_densities(name):
    both = TWO[name]
    each = [np.log(np.maximum(density(both, index), 1e-300)) for index in (0, 1)]
    with jax.enable_x64(True):
        row, one, table = (aggregate(both, z.ndim).log_prob(z) for z in points())
    expected = logsumexp(each, axis=0) - math.log(2.0)
    near = expected > -600.0
    np.testing.assert_allclose(np.asarray(row)[near], expected[near], rtol=1e-9)
    np.testing.assert_allclose(one, expected[2100], rtol=1e-9)
    np.testing.assert_allclose(np.asarray(table).ravel()[near[:4000]], expected[:4000][near[:4000]], rtol=1e-9)


@pytest.mark.parametrize("name", TWO)
def test_draws_of_the_aggregate_have_its_mean_of_any_function(name):
    """E[f] as the mean over the noise of weight * f(z), against the integral over the density."""
    eps, step = np.linspace(-9.0, 9.0, 20_001, retstep=True)
    noise = norm.pdf(eps) * step
    mass = (density(TWO[name], 0) + density(TWO[name], 1)) / 2.0 * (Z[1] - Z[0])
    with jax.enable_x64(True):
        many, one = aggregate(TWO[name], 1).draw(jnp.asarray(eps)), aggregate(TWO[name], 0).draw(jnp.float64(eps[7]))
        z, weight = np.asarray(many.z), np.broadcast_to(many.weight, many.z.shape)
        np.testing.assert_allclose(many.log_prob, aggregate(TWO[name], 2).log_prob(many.z))
    np.testing.assert_allclose(one.z, z[7])
    np.testing.assert_allclose(weight.sum(-1), 1.0)
    for f in (np.sin, np.square, lambda z: 1.0 / (1.0 + np.exp(-3.0 * z))):
        assert noise @ (weight * f(z)).sum(-1) == pytest.approx(mass @ f(Z), abs=2e-5)


def test_how_many_gaussians_a_distribution_is_a_mixture_of():
    assert families.components(TWO["gaussian"]) == 1
    assert families.components(TWO["mixture"]) == 2
    assert families.components(TWO["flow"]) == math.inf
    assert [families.components(Aggregate(both)) for both in TWO.values()] == [2, 4, math.inf]
    own = Logistic(jnp.zeros(2), jnp.ones(2))
    assert math.isnan(families.components(own)) and math.isnan(families.components(Aggregate(own)))


def test_a_learned_prior_is_the_family_s_member_of_its_numbers():
    prior, own = LearnedPrior(MixtureFamily(2)), jnp.array([8.0, 0.0, 0.3, -0.2, 0.1, 0.5])
    p = prior(own, lambda: pytest.fail("it does not ask for q"), jnp.exp)
    assert (prior.size, p.logits.shape) == (6, (2,))
    mean, std = [0.3, -0.2], np.array([2.0, 1.0]) / math.sqrt(2.5) * np.exp([0.1, 0.5])
    expected = norm.pdf(Z[:, None], mean, std) @ (np.array([math.e, 1.0]) / (1.0 + math.e))
    np.testing.assert_allclose(density(p, ()), expected, rtol=1e-4, atol=1e-12)


def test_the_standard_prior_and_q_itself():
    assert (STANDARD.size, STANDARD(None, lambda: pytest.fail("no q"), jnp.exp)) == (0, Normal(0.0, 1.0))
    assert (VampPrior().size, VampPrior()(None, lambda: TWO["flow"], jnp.exp)) == (0, Aggregate(TWO["flow"]))
    VampPrior().check(1)
    with pytest.raises(ValueError, match=r"^prior: got vamp with 2 layers, expected layers=1, where q\(z\) is known$"):
        VampPrior().check(2)


def test_equal_families_are_equal_values():
    """So that models of equal families share their programs, and names are found again."""
    assert MixtureFamily(2) == MIXTURES["mixture2"] != MixtureFamily(3)
    assert hash(FlowFamily()) == hash(FlowFamily(8)) and FlowFamily() != FlowFamily(4)
    assert LearnedPrior(MixtureFamily(2)) == LearnedPrior(MIXTURES["mixture2"])
    assert DEFAULT.model.posterior == GAUSSIAN and DEFAULT.model.prior == STANDARD  # pyright: ignore
