"""The networks of the presets' models: shapes, initial values, and what they compute."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from vae_bit import padding
from vae_bit.architecture import LECUN, EncoderInput, mean_column, read_sum
from vae_bit.presets import DEFAULT, ORIGINAL

OURS: Any = DEFAULT.model
POSTS: Any = ORIGINAL.model
pytestmark = pytest.mark.usefixtures("quick_compile")


def kernels(params):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def started(model, seed, n):
    return jax.jit(partial(model.init, jax.random.key(seed)))(jnp.int32(n))


def unpadded(arch, layers, params, n):
    return padding.unpad(params, padding.shapes(arch(layers, n).init, n))


@pytest.fixture(scope="module")
def original(quick_compile):
    """Parameters of the post's two-layer model for n = 7, padded to 40."""
    return started(ORIGINAL.model(2, 40), 4, 7)


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
    params = unpadded(ORIGINAL.model, 2, original, 7)
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
    arch = replace(POSTS, encoder_hidden=(500,))
    column, bias = started(arch(1, 40), 4, n)["q"][0]["params"]["mlp"]["hidden_0"]["kernel"].T
    bound = np.sqrt(6.0 / (n + 500))
    np.testing.assert_array_equal(bias, 0.0)
    assert np.abs(column).max() <= bound
    assert np.square(column).mean() * 3.0 * n / bound**2 == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / 500))
    assert (np.abs(column).max() > 0.98 * bound) == (n == 1)


def test_an_encoder_of_signs_starts_as_the_prior():
    model = DEFAULT.model(1, 3)
    mean, std = model.encode(started(model, 0, 3), jnp.int32(3))
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_array_equal(std, 1.0)


def test_initial_weights_are_independent_of_each_other(original):
    leading = [kernel.ravel()[0] for kernel in kernels(original).values()]
    assert len(set(leading)) == len(leading)


def test_residual_gaussians_start_around_their_input():
    arch = replace(OURS, decoder_hidden=(4,), latent_hidden=(3,))
    params = started(arch(2, 1), 0, 1)
    z = jnp.array([-3.0, 0.0, 0.5])
    for side in "qp":
        mean, std = oracle.conditional(arch, params[side][1], np.asarray(z))
        np.testing.assert_allclose(mean, z, rtol=1e-6)
        np.testing.assert_allclose(std, std[0], rtol=1e-6)


@pytest.mark.parametrize("n", [2, 300])
def test_lecun_kernels_have_the_variance_of_the_true_n(n):
    """Var = gain^2 / fan_in, with gain 3 in the decoder's head alone; 1 / n^2 for the mean of n columns."""
    arch = replace(
        OURS,
        encoder_hidden=(200,),
        decoder_hidden=(200,),
        encoder_input=EncoderInput(read_sum, mean_column),
        kernels=LECUN,
        logit_gain=3.0,
    )
    params = unpadded(arch, 1, started(arch(1, 300), 0, n), n)
    nets = params["q"][0]["params"], params["p"][0]["params"]
    expected = [(nets[0]["mlp"]["hidden_0"], n**2, 1.0), (nets[0]["head"], 200, 1.0), (nets[1]["head"], 200, 3.0)]
    for layer, fan_in, gain in expected:
        weights = layer["kernel"][:, :-1]
        assert np.square(weights).mean() * fan_in / gain**2 == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / weights.size))


@pytest.mark.parametrize("name", ["default", "original"])
def test_encoder_and_decoder_against_numpy(tiny, name):
    arch, rng = tiny[name].model, np.random.default_rng(0)
    model = arch(1, 6)
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), padding.shapes(model.init, 6))
    mean, std = model.encode(params, jnp.int32(4))
    expected = [oracle.encoder(arch, params, 4, bit) for bit in (0, 1)]
    np.testing.assert_allclose(np.stack([mean, std], 1), expected, rtol=1e-5)
    z = np.linspace(-2.0, 2.0, 5, dtype=np.float32)
    logits = model.decode(params, jnp.asarray(z))
    np.testing.assert_allclose(logits, oracle.network(arch, params["p"][0], z[None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "field, name", [("activation", "relu"), ("positive", "exp"), ("latent", "residual"), ("activation", None)]
)
def test_a_name_where_a_function_belongs_is_refused(field, name):
    with pytest.raises(ValueError, match=f"{field}: got {name!r}, expected a function"):
        replace(OURS, **{field: name})


@pytest.mark.parametrize("activation", [jnp.sin, jax.nn.relu, jax.jit(lambda v: v / (1.0 + jnp.abs(v)))])
def test_an_activation_of_one_s_own_is_what_hidden_units_apply(tiny, activation):
    arch = replace(tiny["default"].model, activation=activation, encoder_hidden=(4,))
    rng, z = np.random.default_rng(0), np.array([-1.0, 0.5], np.float32)
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), padding.shapes(arch(1, 3).init, 3))
    net = params["p"][0]["params"]
    rows = np.ones((1, 2), np.float32)
    hidden = activation(net["mlp"]["hidden_0"]["kernel"] @ np.concatenate([z[None], rows]))
    expected = net["head"]["kernel"] @ np.concatenate([hidden, rows])
    np.testing.assert_allclose(arch(1, 3).decode(params, jnp.asarray(z)), expected, rtol=1e-5, atol=1e-6)
