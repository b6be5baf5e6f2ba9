"""Decoders that see x_{i-1}: their cost against all patterns of word dropout, their samples and marginals against all
strings of bits, and that padding and batching change nothing, whatever the families."""

import functools
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from one_run import after, assert_close, random_params, run, sized, starter

from vae_bit import models, padding, training
from vae_bit.distributions import Normal
from vae_bit.families import FlowFamily, LearnedPrior, MixtureFamily, VampPrior, autoregressive
from vae_bit.models import Model

pytestmark = pytest.mark.usefixtures("quick_compile")
Z = np.array([[-1.2, 0.1, 2.0], [0.4, -0.3, 1.1]])  # of 0^n and of 1^n


@pytest.fixture(scope="module")
def arch(tiny):
    return replace(tiny["default"].model, decoder=autoregressive)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def logit(arch, params, z, before, i):
    """Of p(x_i = 1 | z, x_{i-1} = before), by numpy: before is -1 or 1, or 0 where it is not seen."""
    return oracle.network(arch, params["p"][0], z[None])[i] + 8.0 * params["context"][i] * before


def string_probabilities(arch, params, z, n, rate=0.0):
    """p(x | z) of every string of n bits: {x: [K]}, x_{i-1} being hidden at that rate from a dimension of its own."""

    def one(x):
        p = 1.0
        for i, bit in enumerate(x):
            seen = [0.0] if i == 0 else [0.0, 2.0 * x[i - 1] - 1.0]
            ones = [1.0 / (1.0 + np.exp(-logit(arch, params, z, before, i))) for before in seen]
            mean = ones[0] if i == 0 else rate * ones[0] + (1.0 - rate) * ones[1]
            p = p * (mean if bit else 1.0 - mean)
        return p

    return {x: one(x) for x in product((0, 1), repeat=n)}


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_recon_is_the_mean_over_all_patterns_of_word_dropout(arch, double, rate):
    """n = 4 of width 6: eight patterns of what is hidden from dimensions 2, 3, 4, each at its probability."""
    model = arch(1, 6)
    params = random_params(model, 6)
    expected = np.zeros(Z.shape)
    for hidden in product((False, True), repeat=3):
        weight = np.prod([rate if hide else 1.0 - rate for hide in hidden])
        for point, z in enumerate(Z):
            seen = [0.0] + [0.0 if hide else 2.0 * point - 1.0 for hide in hidden]
            logits = np.stack([logit(arch, params, z, before, i) for i, before in enumerate(seen)])
            expected[point] += weight * np.logaddexp(0.0, (1.0 - 2.0 * point) * logits).sum(0)
    recon = models.recon(model, params, jnp.int32(4), jnp.float64(rate), jnp.asarray(Z))
    np.testing.assert_allclose(recon, expected, rtol=1e-12)


def test_all_hidden_it_is_a_decoder_that_sees_z_alone(tiny, arch, double):
    """Rate 1: the cost of independent dimensions, and the weights of the bits before do not matter."""
    model, plain = arch(1, 6), tiny["default"].model(1, 6)
    params = random_params(model, 6)
    alone = {name: part for name, part in params.items() if name != "context"}
    one, other = (
        models.recon(each, own, jnp.int32(4), jnp.float64(1), jnp.asarray(Z))
        for each, own in ((model, params), (plain, alone))
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)
    blind = jax.grad(lambda p: jnp.sum(models.recon(model, p, jnp.int32(4), jnp.float64(1), jnp.asarray(Z))))(params)
    assert not blind["context"].any()


def test_without_dropout_the_cost_is_that_of_the_two_strings(arch, double):
    model = arch(1, 6)
    params = random_params(model, 6)
    cost = models.recon(model, params, jnp.int32(4), jnp.float64(0), jnp.asarray(Z))
    for point, x in enumerate([(0,) * 4, (1,) * 4]):
        p = string_probabilities(arch, params, Z[point], 4)
        assert sum(p.values()) == pytest.approx(1.0)
        np.testing.assert_allclose(cost[point], -np.log(p[x]), rtol=1e-12)


def test_marginal_logits_sum_over_the_bits_before(arch, double):
    model, z = arch(1, 6), Z.ravel()
    params = random_params(model, 6, scale=1.0)
    logits = np.asarray(models.marginal_logits(model, params, jnp.asarray(z)))
    p = string_probabilities(arch, params, z, 4)
    for i in range(4):
        one = sum(value for x, value in p.items() if x[i])
        np.testing.assert_allclose(logits[i], np.log(one / (1.0 - one)), rtol=1e-9, atol=1e-12)


def test_the_chain_that_is_evaluated_has_both_costs(arch, double):
    """The energy is -ln p(x | z), without dropout, at which the strings' probabilities are; the cost is with it."""
    model = arch(1, 6)
    params = random_params(model, 6)
    chain: Any = models.scalar_vae(model, params, jnp.int32(3), jnp.float64(0.4))
    z = jnp.asarray(Z[0])
    p = string_probabilities(arch, params, Z[0], 3)
    np.testing.assert_allclose(chain.energy(z), -np.log([p[0, 0, 0], p[1, 1, 1]]), rtol=1e-12)
    both = models.recon(model, params, jnp.int32(3), jnp.float64(0.4), jnp.stack([z, z]))
    np.testing.assert_allclose(chain.cost(z), both, rtol=1e-12)
    assert tiny_gap(chain.cost(z), chain.energy(z)) > 1e-3


def tiny_gap(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).min()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prior": LearnedPrior(MixtureFamily(2)), "posterior": FlowFamily(4)},
        {"prior": VampPrior(), "posterior": MixtureFamily(2)},
        {"prior": VampPrior()},
        {"prior": LearnedPrior(FlowFamily(4))},
    ],
    ids=["normal", "mixture", "vamp of mixtures", "vamp", "flow"],
)
def test_samples_are_strings_at_their_probability(arch, fields):
    """Each of the 2^3 strings, integrated over the prior's density by a dense sum."""
    arch, count = replace(arch, **fields), 100_000
    model = arch(1, 4)
    params = jax.tree.map(np.float32, random_params(model, 4, scale=0.5))
    params["q"][0] = jax.tree.map(lambda leaf: 0.3 * leaf, params["q"][0])  # it reads +-8
    x = np.asarray(jax.jit(functools.partial(models.sample, model, count=count))(params, 3, jax.random.key(0)))[:3]
    assert x.shape == (3, count) and set(np.unique(x)) == {0.0, 1.0}
    z = np.concatenate([-np.geomspace(200.0, 1e-3, 6000), np.geomspace(1e-3, 200.0, 6000)])
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        prior = models._beside(model.prior(exact, jnp.int32(3)), 0, 1)
        density = np.exp(np.asarray(prior.log_prob(jnp.asarray(z))))
    assert np.trapezoid(density, z) == pytest.approx(1.0, abs=2e-3)
    for string, p in string_probabilities(arch, params, z, 3).items():
        share = np.trapezoid(density * p, z)
        seen = np.mean(np.all(x == np.array(string)[:, None], axis=0))
        assert abs(seen - share) < 4.5 * np.sqrt(share * (1.0 - share) / count) + 5e-4, string


def test_padded_logits_count_for_nothing_whatever_they_are():
    """Nor does what a decoder of one's own gives there for the bits before."""
    z = jnp.linspace(-1.0, 1.0, 20).reshape(2, 10)

    def loss(slope, rest):
        def decode(params, z, bit=0.5):
            return jnp.concatenate([slope * (z + bit)[None], slope * z[None], jnp.full((2, z.size), rest)])

        model: Any = SimpleNamespace(decode=decode, follow=decode)
        return models.recon(model, {}, jnp.int32(2), jnp.float32(0.3), z).sum()

    expected, slope = jax.value_and_grad(loss)(0.5, 0.0)
    assert np.isfinite(expected) and slope != 0.0
    for rest in (3e38, -3e38, jnp.inf, jnp.nan):
        value, gradients = jax.value_and_grad(loss, (0, 1))(0.5, rest)
        np.testing.assert_allclose([value, *gradients], [expected, slope, 0.0], rtol=1e-6)


FAMILIES: dict[str, dict[str, Any]] = {
    "autoregressive": {"decoder": autoregressive},
    "mixtures": {"posterior": MixtureFamily(2), "prior": LearnedPrior(MixtureFamily(2)), "decoder": autoregressive},
    "flow of q(z)": {"posterior": FlowFamily(4), "prior": VampPrior()},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_padding_changes_nothing(tiny, name):
    """A run of n = 3 at width 5 and at width 3: initial parameters and ten steps."""
    preset = tiny["default"]._replace(model=replace(tiny["default"].model, **FAMILIES[name]))
    numbers = run(3, word_dropout=0.4)
    layers = 1 if name == "flow of q(z)" else 2
    for steps, tolerance in ((0, {"rtol": 1e-6}), (10, {"rtol": 1e-4, "atol": 1e-6})):
        padded, plain = (after(*sized(preset, layers, width), numbers, steps) for width in (5, 3))
        assert_close(padding.unpad(padded.params, plain.params), plain.params, **tolerance)
        assert not padded.params["p"][0]["params"]["head"]["kernel"][3:].any()
    assert steps and np.abs(np.asarray(plain.params["q"][0]["params"]["head"]["kernel"])).min() > 0.0


@pytest.mark.parametrize("name", ["mixtures", "flow of q(z)"])
def test_vmap_is_a_loop(tiny, name):
    preset = tiny["default"]._replace(model=replace(tiny["default"].model, **FAMILIES[name]))
    model, recipe = sized(preset, 1, 5)
    runs = [run(5, word_dropout=0.0), run(3, word_dropout=0.4), run(2, beta=2.0), run(5, word_dropout=0.0)]
    batch = jax.tree.map(lambda *fields: np.stack(fields), *runs)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(starter(model, recipe)(one) for one in runs))
    update = jax.jit(jax.vmap(functools.partial(training.update, model, recipe)))
    for _ in range(10):
        states = update(states, batch)
    alone = [after(model, recipe, one, 10).params for one in runs]
    assert_close(states.params, jax.tree.map(lambda *leaves: np.stack(leaves), *alone), rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[0], leaf[-1]), states.params)


def test_a_decoder_of_one_s_own_that_follows_is_a_model_s_field(double):
    """Nothing of `vae_bit.architecture`: with x_{i-1} seen, x_i copies it at odds e^3."""
    model = Model(
        init=lambda key, n: {},
        encode=lambda params, n: models.Normal(jnp.array([-1.0, 1.0]), jnp.full(2, 0.3)),
        up=(),
        down=(),
        prior=lambda params, n: Normal(0.0, 1.0),
        decode=lambda params, z: jnp.tile(z, (4, 1)),
        follow=lambda params, z, bit: jnp.tile(3.0 * (2.0 * bit - 1.0), (4, 1)),
    )
    recon = models.recon(model, {}, jnp.int32(3), jnp.float64(0.25), jnp.asarray(Z))
    blind = np.logaddexp(0.0, np.array([[1.0], [-1.0]]) * Z)
    expected = 1.5 * blind + 1.5 * np.log1p(np.exp(-3.0))
    np.testing.assert_allclose(recon, expected, rtol=1e-12)
