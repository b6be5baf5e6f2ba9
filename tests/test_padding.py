"""What makes runs of different n one program: padding undone, logits that count up to n alone, a block at a time."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit import models, padding
from vae_bit.presets import ORIGINAL

pytestmark = pytest.mark.usefixtures("quick_compile")


def random_params(model, width):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), padding.shapes(model.init, width))


def test_unpad_keeps_real_dimensions_and_leading_axes(tiny):
    build = tiny["default"].model
    padded, like = random_params(build(1, 6), 6), padding.shapes(build(1, 4).init, 4)
    stacked = padding.unpad(jax.tree.map(lambda leaf: np.stack([leaf, leaf]), padded), like)
    for params in (padding.unpad(padded, like), jax.tree.map(lambda leaf: leaf[1], stacked)):
        head = params["p"][0]["params"]["head"]["kernel"]
        np.testing.assert_array_equal(head, padded["p"][0]["params"]["head"]["kernel"][:4])
        jax.tree.map(np.testing.assert_array_equal, params["q"], padded["q"])
    assert padded["p"][0]["params"]["head"]["kernel"].shape == (6, 5)


def test_pad_undoes_unpad():
    wide_like, narrow_like = (padding.shapes(ORIGINAL.model(2, n).init, n) for n in (7, 3))
    params = jax.jit(ORIGINAL.model(2, 7).init)(jax.random.key(4), jnp.int32(7))
    params = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1.0]), params)
    narrow = padding.unpad(params, narrow_like)
    wide = padding.pad(narrow, wide_like)
    assert jax.tree.map(np.shape, wide) == jax.tree.map(np.shape, params)
    jax.tree.map(np.testing.assert_array_equal, padding.unpad(wide, narrow_like), narrow)
    assert not wide["p"][0]["params"]["head"]["kernel"][..., 3:7, :].any()


@pytest.mark.parametrize(("logits", "blocks"), [(10**6, 1), (200, 2), (120, 3), (1, 3)])
def test_recon_and_its_gradient_in_blocks_of_columns(tiny, monkeypatch, logits, blocks):
    """Of 7 dimensions, 5 real, at 2 x 23 nodes: one block, two of 23 columns, three of which the last is ragged."""
    monkeypatch.setattr(padding, "CPU_BLOCK_LOGITS", logits)
    assert padding._blocks(7, 46) == blocks
    model, n = tiny["default"].model(1, 7), jnp.int32(5)
    params = random_params(model, 7)
    z = np.random.default_rng(1).normal(size=(2, 23, 1)).astype(np.float32)
    weight = np.random.default_rng(2).normal(size=z.shape).astype(np.float32)

    def recon(params, z):
        return models.recon(model, params, n, jnp.float32(1), z)

    def plain(params, z):
        logits = model.decode(params, z)[:5].reshape(5, *z.shape)
        return -jnp.sum(jax.nn.log_sigmoid(jnp.array([-1.0, 1.0]).reshape(1, 2, 1, 1) * logits), axis=0)

    def weighed(recon):
        return jax.value_and_grad(lambda params, z: jnp.sum(weight * recon(params, z)), argnums=(0, 1))(params, z)

    np.testing.assert_allclose(recon(params, jnp.asarray(z)), plain(params, jnp.asarray(z)), rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), weighed(recon), weighed(plain))


@pytest.mark.parametrize("logits", [10**6, 1])
def test_padded_logits_count_for_nothing_whatever_they_are(monkeypatch, logits):
    monkeypatch.setattr(padding, "CPU_BLOCK_LOGITS", logits)
    z = jnp.linspace(-1.0, 1.0, 40).reshape(2, 20)

    def loss(slope, rest):
        def decode(params, z):
            return jnp.concatenate([slope * z[None], jnp.full((2, z.size), rest)])

        model: Any = SimpleNamespace(decode=decode, follow=None)
        return models.recon(model, {}, jnp.int32(1), jnp.float32(1), z).sum()

    expected, slope = jax.value_and_grad(loss)(0.5, 0.0)
    assert np.isfinite(expected) and slope != 0.0
    for rest in (3e38, -3e38, jnp.inf, jnp.nan):
        value, gradients = jax.value_and_grad(loss, (0, 1))(0.5, rest)
        np.testing.assert_allclose([value, *gradients], [expected, slope, 0.0], rtol=1e-6)
