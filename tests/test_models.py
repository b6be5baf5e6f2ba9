"""Passes through the L-layer VAE, its ancestral samples, and a model of one's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from scipy.stats import norm

from vae_bit import models, padding
from vae_bit.distributions import Normal
from vae_bit.models import Model
from vae_bit.noise import Noise

pytestmark = pytest.mark.usefixtures("quick_compile")


def random_params(model, width):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), padding.shapes(model.init, width))


@pytest.mark.parametrize("layers", [1, 2])
def test_the_share_of_ancestral_samples_that_are_data_points(trained, layers):
    group, params, evaluation = (getattr(trained[layers - 1], name) for name in ("group", "params", "evaluation"))
    count = 200_000
    draw = jax.jit(functools.partial(models.sample, group.model, count=count))
    for index in np.flatnonzero(np.isfinite(evaluation.loss)):
        n, mass = int(group.runs.n[index]), evaluation.valid_mass[index]
        x = np.asarray(draw(jax.tree.map(lambda leaf, i=index: leaf[i], params), n, jax.random.key(index)))[:n]
        assert set(np.unique(x)) == {0.0, 1.0}
        valid = np.all(x == x[:1], axis=0)
        assert abs(valid.mean() - mass) < 4.0 * np.sqrt(mass * (1.0 - mass) / count)


def test_layers_are_sampled_from_the_top_down(tiny):
    """With p(z_1 | z_2) = N(z_2 + 3, tiny), p(z_2 | z_3) = N(z_3 - 1, tiny): z_1 ~ N(2, 1), and x says its sign."""
    arch = tiny["default"].model
    model = arch(3, 1)
    params = jax.tree.map(np.zeros_like, random_params(model, 1))
    params["p"][0] = random_params(model, 1)["p"][0]
    for depth, shift in ((1, 3.0), (2, -1.0)):
        params["p"][depth]["params"]["head"]["kernel"][:, -1] = (shift, -20.0)
    count = 100_000
    x = models.sample(model, params, jnp.int32(1), jax.random.key(1), count)
    eps, weight = oracle.trapezoid(401)
    share = 1.0 / (1.0 + np.exp(-oracle.network(arch, params["p"][0], (2.0 + eps)[None])[0])) @ weight
    assert abs(float(x.mean()) - share) < 4.0 * np.sqrt(share * (1.0 - share) / count)


def plain(layers, width):
    """A model of a few numbers: nothing of `vae_bit.architecture`, and a prior that its parameters move."""
    return Model(
        init=lambda key, n: {"up": jnp.float32(0.5), "prior": jnp.float32(2.0), "slope": jnp.ones(width)},
        encode=lambda params, n: Normal(jnp.array([-1.0, 1.0]), jnp.full(2, 0.3)),
        up=(lambda params, z: Normal(params["up"] * z, jnp.full_like(z, 0.6)),) * (layers - 1),
        down=(lambda params, z: Normal(jnp.tanh(z), jnp.full_like(z, 0.4)),) * (layers - 1),
        prior=lambda params, n: Normal(params["prior"], jnp.float32(0.7)),
        decode=lambda params, z: params["slope"][:, None] * z.ravel()[None],
    )


def test_a_model_of_one_s_own_passes_up_and_down_as_written():
    model, n, eps = plain(2, 4), jnp.int32(3), np.array([[[0.5], [-1.0]], [[1.5], [0.2]]], np.float32)
    params = model.init(jax.random.key(0), n)
    noise = Noise(list(map(jnp.asarray, eps)), jnp.ones((2, 1)))
    one, (used, weight) = models.forward(model, params, n, jnp.float32(1), noise)
    assert used == noise.eps and weight is noise.weight
    z_1 = np.array([[-1.0], [1.0]]) + 0.3 * eps[0]
    z_2 = 0.5 * z_1 + 0.6 * eps[1]
    np.testing.assert_allclose(one.z, [z_1, z_2], rtol=1e-6)
    np.testing.assert_allclose(one.p[0].mean, np.tanh(z_2), rtol=1e-6)
    np.testing.assert_allclose([np.ravel(one.p[1].mean), np.ravel(one.p[1].std)], [[2.0], [0.7]])
    energy = 3.0 * np.logaddexp(0.0, np.array([[1.0], [-1.0]]) * z_1)
    np.testing.assert_allclose(one.recon, energy, rtol=1e-6)
    again = models.densities(model, params, n, jnp.float32(1), one.z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, one)

    def mean(params):
        held = models.densities(model, params, n, jnp.float32(1), one.z)
        return held.q[1].mean.sum() + 3.0 * params["prior"]

    slope = jax.grad(mean)(params)
    assert (slope["up"], slope["prior"]) == (0.0, 3.0)  # q's parameters are held constant


def test_ancestral_samples_start_from_the_model_s_own_prior():
    """x_1 is Bernoulli(sigmoid(z)), z ~ N(2, 0.7^2)."""
    model = plain(1, 1)
    n = jnp.int32(1)
    x = models.sample(model, model.init(jax.random.key(0), n), n, jax.random.key(1), 100_000)
    z, step = np.linspace(-3.0, 7.0, 2001, retstep=True)
    share = np.sum(norm.pdf(z, 2.0, 0.7) / (1.0 + np.exp(-z))) * step
    assert abs(float(x.mean()) - share) < 4.0 * np.sqrt(share * (1.0 - share) / 100_000)
