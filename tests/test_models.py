"""Initialisation, encoder, decoder and ancestral samples of the L-layer VAE."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from vae_bit import models
from vae_bit.presets import DEFAULT, ORIGINAL

pytestmark = pytest.mark.usefixtures("quick_compile")


def kernels(params):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def started(arch, seed, n):
    return jax.jit(lambda n: models.init(arch, jax.random.key(seed), n))(jnp.int32(n))


@pytest.fixture(scope="module")
def original(quick_compile):
    """Parameters of the post's two-layer model for n = 7, padded to 40."""
    arch = replace(ORIGINAL.architecture, layers=2, width=40)
    return started(arch, 4, 7)


def test_the_post_s_shapes(original):
    def shapes(first, hidden, last):
        return [(hidden, first + 1), (hidden, hidden + 1), (hidden, hidden + 1), (last, hidden + 1)]

    def own(params):
        params = params["params"]
        hidden = [params["mlp"][f"hidden_{depth}"]["kernel"].shape for depth in range(len(params["mlp"]))]
        return [*hidden, params["head"]["kernel"].shape]

    assert [own(net) for net in original["q"]] == [shapes(1, 10, 2), shapes(1, 100, 2)]
    assert [own(net) for net in original["p"]] == [shapes(1, 10, 40), shapes(1, 100, 2)]


def test_initial_kernels_are_glorot_uniform_for_the_true_n(original):
    """All but the encoder's first, see below."""
    params = models.unpad(original, 7)
    del params["q"][0]["params"]["mlp"]["hidden_0"]
    for name, kernel in kernels(params).items():
        weights, bias = kernel[:, :-1], kernel[:, -1]
        bound = np.sqrt(6.0 / sum(weights.shape))
        np.testing.assert_array_equal(bias, 0.0, err_msg=name)
        assert np.abs(weights).max() <= bound * (1.0 + 1e-6), name
        assert np.abs(weights).max() > bound * (1.0 - 5.0 / weights.size), name
        assert abs(weights.mean()) < 4.0 * bound / np.sqrt(3.0 * weights.size), name


@pytest.mark.parametrize("n", [1, 2, 30])
def test_the_encoder_starts_with_the_mean_of_n_glorot_columns(n):
    """Uniform on +-a, a^2 = 6 / (n + units), of variance a^2 / 3: a mean of n has variance a^2 / (3 n), bound a."""
    arch = replace(ORIGINAL.architecture, encoder_hidden=(500,), width=40)
    column, bias = started(arch, 4, n)["q"][0]["params"]["mlp"]["hidden_0"]["kernel"].T
    bound = np.sqrt(6.0 / (n + 500))
    np.testing.assert_array_equal(bias, 0.0)
    assert np.abs(column).max() <= bound
    assert np.square(column).mean() * 3.0 * n / bound**2 == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / 500))
    assert (np.abs(column).max() > 0.98 * bound) == (n == 1)


def test_an_encoder_of_signs_starts_as_the_prior():
    arch = replace(DEFAULT.architecture, width=3)
    mean, std = models.encode(arch, started(arch, 0, 3), jnp.int32(3))
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_array_equal(std, 1.0)


def test_initial_weights_are_independent_of_each_other(original):
    leading = [kernel.ravel()[0] for kernel in kernels(original).values()]
    assert len(set(leading)) == len(leading)


def test_residual_gaussians_start_around_their_input():
    arch = replace(DEFAULT.architecture, layers=2, width=1, decoder_hidden=(4,), latent_hidden=(3,))
    params = started(arch, 0, 1)
    z = jnp.array([-3.0, 0.0, 0.5])
    for side in "qp":
        mean, std = oracle.conditional(arch, params[side][1], np.asarray(z))
        np.testing.assert_allclose(mean, z, rtol=1e-6)
        np.testing.assert_allclose(std, std[0], rtol=1e-6)


def random_params(arch, scale=1.0):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(scale * rng.normal(size=leaf.shape)), models.shapes(arch))


@pytest.mark.parametrize("n", [2, 300])
def test_lecun_kernels_have_the_variance_of_the_true_n(n):
    """Var = gain^2 / fan_in, with gain 3 in the decoder's head alone; 1 / n^2 for the mean of n columns."""
    wide = {"width": 300, "encoder_hidden": (200,), "decoder_hidden": (200,), "encoder_input": "sum"}
    arch = replace(DEFAULT.architecture, **wide, init="lecun", logit_gain=3.0)
    params = models.unpad(started(arch, 0, n), n)
    nets = params["q"][0]["params"], params["p"][0]["params"]
    expected = [(nets[0]["mlp"]["hidden_0"], n**2, 1.0), (nets[0]["head"], 200, 1.0), (nets[1]["head"], 200, 3.0)]
    for layer, fan_in, gain in expected:
        weights = layer["kernel"][:, :-1]
        assert np.square(weights).mean() * fan_in / gain**2 == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / weights.size))


def test_unpad_keeps_real_dimensions_and_leading_axes(tiny):
    arch = replace(tiny["default"].architecture, layers=1, width=6)
    padded = random_params(arch)
    stacked = models.unpad(jax.tree.map(lambda leaf: np.stack([leaf, leaf]), padded), 4)
    for params in (models.unpad(padded, 4), jax.tree.map(lambda leaf: leaf[1], stacked)):
        head = params["p"][0]["params"]["head"]["kernel"]
        np.testing.assert_array_equal(head, padded["p"][0]["params"]["head"]["kernel"][:4])
        jax.tree.map(np.testing.assert_array_equal, params["q"], padded["q"])
    assert padded["p"][0]["params"]["head"]["kernel"].shape == (6, 5)


@pytest.mark.parametrize("name", ["default", "original"])
def test_encoder_and_decoder_against_numpy(tiny, name):
    arch = replace(tiny[name].architecture, width=6)
    params = random_params(arch)
    mean, std = models.encode(arch, params, jnp.int32(4))
    expected = [oracle.encoder(arch, params, 4, bit) for bit in (0, 1)]
    np.testing.assert_allclose(np.stack([mean, std], 1), expected, rtol=1e-5)
    z = np.linspace(-2.0, 2.0, 5, dtype=np.float32)
    logits = models.decode(arch, params, jnp.asarray(z))
    np.testing.assert_allclose(logits, oracle.network(arch, params["p"][0], z[None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("logits", "blocks"), [(10**6, (1, 7)), (12, (4, 2)), (1, (7, 1))])
def test_recon_and_its_gradient_in_blocks_of_dimensions(tiny, monkeypatch, logits, blocks):
    """Of 7 dimensions, 5 real, at 2 x 3 nodes: one block, four of which the last is ragged, seven."""
    monkeypatch.setattr(models, "CPU_BLOCK_LOGITS", logits)
    assert models._in_blocks(6, jnp.zeros(7))[0].shape == blocks
    arch, n = replace(tiny["default"].architecture, width=7), jnp.int32(5)
    params = random_params(arch)
    z = np.random.default_rng(1).normal(size=(2, 3, 1)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=z.shape).astype(np.float32)

    def plain(params, z):
        logits = models.decode(arch, params, z)[:5].reshape(5, *z.shape)
        return -jnp.sum(jax.nn.log_sigmoid(jnp.array([-1.0, 1.0]).reshape(1, 2, 1, 1) * logits), axis=0)

    def weighed(recon):
        return jax.value_and_grad(lambda params, z: jnp.sum(weight * recon(params, z)), argnums=(0, 1))(params, z)

    np.testing.assert_allclose(models.recon(arch, params, n, jnp.asarray(z)), plain(params, z), rtol=1e-5)
    gradients, expected = weighed(lambda params, z: models.recon(arch, params, n, z)), weighed(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, expected)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_share_of_ancestral_samples_that_are_data_points(trained, layers):
    group, params, evaluation = (getattr(trained[layers - 1], name) for name in ("group", "params", "evaluation"))
    count = 200_000
    draw = jax.jit(functools.partial(models.sample, group.arch, count=count))
    for index in np.flatnonzero(np.isfinite(evaluation.loss)):
        n, mass = int(group.runs.n[index]), evaluation.valid_mass[index]
        x = np.asarray(draw(jax.tree.map(lambda leaf, i=index: leaf[i], params), jax.random.key(index)))[:n]
        assert set(np.unique(x)) == {0.0, 1.0}
        valid = np.all(x == x[:1], axis=0)
        assert abs(valid.mean() - mass) < 4.0 * np.sqrt(mass * (1.0 - mass) / count)


def test_layers_are_sampled_from_the_top_down(tiny):
    """With p(z_1 | z_2) = N(z_2 + 3, tiny), p(z_2 | z_3) = N(z_3 - 1, tiny): z_1 ~ N(2, 1), and x says its sign."""
    arch = replace(tiny["default"].architecture, layers=3, width=1)
    params = jax.tree.map(np.zeros_like, random_params(arch))
    params["p"][0] = random_params(arch)["p"][0]
    for depth, shift in ((1, 3.0), (2, -1.0)):
        params["p"][depth]["params"]["head"]["kernel"][:, -1] = (shift, -20.0)
    count = 100_000
    x = models.sample(arch, params, jax.random.key(1), count)
    eps, weight = oracle.trapezoid(401)
    share = 1.0 / (1.0 + np.exp(-oracle.network(arch, params["p"][0], (2.0 + eps)[None])[0])) @ weight
    assert abs(float(x.mean()) - share) < 4.0 * np.sqrt(share * (1.0 - share) / count)


def test_pad_undoes_unpad():
    arch = replace(ORIGINAL.architecture, layers=2, width=7)
    params = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1.0]), started(arch, 4, 7))
    narrow = models.unpad(params, 3)
    wide = models.pad(narrow, 7)
    assert jax.tree.map(np.shape, wide) == jax.tree.map(np.shape, params)
    jax.tree.map(np.testing.assert_array_equal, models.unpad(wide, 3), narrow)
    assert not wide["p"][0]["params"]["head"]["kernel"][..., 3:7, :].any()
