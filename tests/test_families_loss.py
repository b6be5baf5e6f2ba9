"""What training lowers, with other families of q(z_1 | x) and p(z_L) and a decoder that sees x_{i-1}: its value and its
gradient in every parameter, mixture weights too, against the exact evaluation."""

import functools
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from one_run import random_params, run

from vae_bit import exact, models, noise, objectives, training
from vae_bit.exact import GRIDS
from vae_bit.families import FlowFamily, LearnedPrior, MixtureFamily, VampPrior, autoregressive
from vae_bit.presets import override

pytestmark = pytest.mark.usefixtures("quick_compile")
N, WIDTH, BETA = 3, 4, 0.7
TWO = LearnedPrior(MixtureFamily(2))
ALL = {"posterior": MixtureFamily(2), "prior": TWO, "decoder": autoregressive, "word_dropout": 0.3}
CASES: dict[str, dict[str, Any]] = {  # depth, rate of word dropout, and what the model is of
    "mixture": {"posterior": MixtureFamily(3)},
    "flow": {"posterior": FlowFamily(4), "prior": TWO},
    "vamp": {"prior": VampPrior(), "posterior": MixtureFamily(2)},
    "autoregressive": {"prior": LearnedPrior(FlowFamily(2)), "decoder": autoregressive, "word_dropout": 0.3},
    "two layers": ALL | {"layers": 2},
    "two layers, flow": {"layers": 2, "posterior": FlowFamily(4)},
}
NODES = {1: (4000, 1), 2: (2400, 50)}  # of z_1 and z_2: dense, for the kinks of a flow's density


class Case:
    """A model of one case, in float64."""

    def __init__(self, preset, layers=1, word_dropout=1.0, **fields):
        self.model = replace(preset.model, **fields)(layers, WIDTH)
        self.run = run(N, beta=BETA, word_dropout=word_dropout)
        dense = partial(noise.trapezoid, upper=NODES[layers][1], half_width=8.5, upper_half_width=8.5)
        self.recipe = replace(preset.recipe, noise=dense, samples=NODES[layers][0])
        params = random_params(self.model, WIDTH)
        params["q"][0] = jax.tree.map(lambda leaf: 0.1 * leaf, params["q"][0])  # it reads +-8
        self.theta, self.unravel = ravel_pytree(params)

    def sampled(self, **fields):
        """Loss and gradient [size] of one step, at the parameters theta."""
        recipe = replace(self.recipe, **fields)
        loss = lambda theta: training.sampled_loss(self.model, recipe, self.unravel(theta), 5, self.run)[0]  # noqa: E731
        return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss))(self.theta))

    @functools.cached_property
    def exactly(self):
        """Exact figures at rows of parameters [R, size]."""

        def one(theta):
            chain = models.scalar_vae(self.model, self.unravel(theta), jnp.int32(N), self.run.word_dropout)
            return exact.evaluate_on(GRIDS[0], chain, BETA)

        program = jax.jit(partial(jax.lax.map, one))
        return lambda rows: jax.tree.map(np.asarray, program(jnp.asarray(rows)))


@functools.cache
def case(preset, name):
    return Case(preset, **CASES[name])


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def directions(case):
    """A random one in each array of parameters, and one in all, which alone serves two layers: [D, size]."""
    rng, ones = np.random.default_rng(0), case.unravel(jnp.ones(case.theta.size))
    leaves, structure = jax.tree.flatten(jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), ones))
    alone = [
        structure.unflatten([leaf * (at == place) for at, leaf in enumerate(leaves)]) for place in range(len(leaves))
    ]
    trees = [*(alone if case.model.layers == 1 else []), structure.unflatten(leaves)]
    return np.stack([ravel_pytree(tree)[0] for tree in trees])


@pytest.mark.parametrize("name", CASES)
def test_the_loss_and_its_gradient_are_the_exact_ones(tiny, double, name):
    this, step = case(tiny["default"], name), 5e-4
    along = directions(this)
    moved = np.concatenate([step * along, -step * along, np.zeros((1, this.theta.size))])
    figures = this.exactly(this.theta[None] + moved)
    assert figures.error.max() < 1e-5
    up, down, (here,) = np.split(figures.loss, [len(along), 2 * len(along)])
    gradient = 0.0
    for fields in ({}, {"kl": objectives.sampled_kl}, {"objective": objectives.path}):
        loss, gradient = this.sampled(**fields)
        assert loss == pytest.approx(here, abs=1e-5)
        np.testing.assert_allclose(along @ gradient, (up - down) / (2.0 * step), rtol=1e-3, atol=2e-4)
    tree = this.unravel(jnp.asarray(gradient))
    head, context = tree["p"][0]["params"]["head"]["kernel"], tree.get("context", np.zeros(0))
    if this.model.layers == 1:
        keeps_its_identities(name, jax.tree.map(lambda figure: figure[-1], figures))
    unseen = [head[N:].ravel(), context[:1], context[N:]]  # no bit lies before the first dimension
    assert np.count_nonzero(gradient) == gradient.size - sum(part.size for part in unseen)
    assert not np.concatenate(unseen).any()


def keeps_its_identities(name, figures):
    """KL = I + KL(q(z) || p(z)) of one layer, the last of which is 0 for q(z) itself."""
    np.testing.assert_allclose(np.sum(figures.kl), figures.mutual_information + figures.marginal_kl, atol=1e-6)
    if name == "vamp":
        assert figures.marginal_kl == pytest.approx(0.0, abs=1e-8)
        assert figures.loss == pytest.approx(figures.recon + BETA * figures.mutual_information, abs=1e-6)
    else:
        assert figures.marginal_kl > 1e-4


@pytest.mark.parametrize("name", ["two layers", "vamp"])
@pytest.mark.parametrize("rule", [noise.iid, noise.lattice])
def test_single_nodes_have_the_exact_loss_as_their_mean(tiny, double, name, rule):
    """Nodes that are no grid: one for all layers, of each component with a mixture."""
    this = case(tiny["default"], name)
    recipe = replace(this.recipe, noise=rule, samples=16)
    params = this.unravel(this.theta)
    loss = lambda step: training.sampled_loss(this.model, recipe, params, step, this.run)[0]  # noqa: E731
    drawn = np.asarray(jax.jit(jax.vmap(loss))(jnp.arange(2000)))
    error = drawn.mean() - this.exactly(this.theta[None]).loss[0]
    assert abs(error) < 4.0 * drawn.std() / np.sqrt(drawn.size)


@pytest.mark.parametrize("name", ["mixture"])
def test_free_bits_of_a_mixture(tiny, double, name):
    this = case(tiny["default"], name)
    elbo, _ = this.sampled()
    recon, _ = this.sampled(objective=lambda draws: draws.mean(draws.recon))
    for floor in (1e-3, 9.0):
        value, _ = this.sampled(objective=partial(objectives.free_bits, floor=floor))
        assert value == pytest.approx(recon + BETA * max((elbo - recon) / BETA, floor), rel=1e-12)


GROUPED = [objectives.iwae, objectives.dreg, partial(objectives.renyi, alpha=0.5)]


@pytest.mark.parametrize("objective", GROUPED)
def test_a_bound_on_several_draws_refuses_a_mixture(tiny, double, objective):
    """By its name in a preset, and where a model of one's own has one."""
    with pytest.raises(ValueError, match=r"^posterior: got a mixture, .*, expected gaussian or flow with objective '"):
        override(tiny["default"], objective=objective, posterior=MixtureFamily(2))
    with pytest.raises(ValueError, match=r"^posterior: got a mixture, expected one draw from q at a time"):
        case(tiny["default"], "mixture").sampled(
            objective=objective, noise=partial(noise.grouped, k=2, rule=noise.iid), samples=4
        )


@pytest.mark.parametrize("name", ["flow", "autoregressive"])
def test_bounds_on_many_draws_come_to_the_evidence(tiny, double, name):
    """Nearly -ln p(x), once k is large; without word dropout, under which recon is no -ln p(x | z)."""
    this = case(tiny["default"], name)
    rate = 0.0 if this.model.follow else 1.0
    params, one = this.unravel(this.theta), this.run._replace(beta=np.float64(1.0), word_dropout=np.float64(rate))
    nll = float(this.exactly(this.theta[None]).nll[0])
    found = []
    for k, objective in [(1, objectives.iwae), (4, objectives.iwae), *((64, objective) for objective in GROUPED)]:
        groups = partial(noise.grouped, k=k, rule=noise.iid)
        recipe = replace(this.recipe, objective=objective, samples=64, noise=groups)
        loss = lambda step, r=recipe: training.sampled_loss(this.model, r, params, step, one)[0]  # noqa: E731
        found.append(float(np.mean(jax.jit(jax.vmap(loss))(jnp.arange(1000)))))
    elbo, few, iwae, dreg, renyi = found
    assert elbo > few > iwae
    assert dreg == pytest.approx(iwae, abs=1e-9)
    assert elbo > renyi > iwae
    assert nll < iwae < nll + 0.1 * (elbo - nll)


@pytest.mark.parametrize("name", ["flow"])
def test_the_doubly_reparameterised_gradient_has_the_mean_of_the_plain_one(tiny, double, name):
    this = case(tiny["default"], name)
    grads, one = [], this.run._replace(beta=np.float64(1.0))  # by which the weights are ratios of densities
    for objective in (objectives.iwae, objectives.dreg):
        groups = partial(noise.grouped, k=4, rule=noise.iid)
        recipe = replace(this.recipe, objective=objective, samples=16, noise=groups)
        loss = lambda theta, step, r=recipe: training.sampled_loss(this.model, r, this.unravel(theta), step, one)[0]  # noqa: E731
        grads.append(np.asarray(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(this.theta, jnp.arange(2000))))
    difference = grads[0] - grads[1]
    error = difference.std(0) / np.sqrt(len(difference))
    assert np.all(np.abs(difference.mean(0)) < 5.0 * error + 1e-9)
    assert np.abs(difference).max() > 1e-3
