"""Flax modules. Columns are samples: a layer maps h [in, K] to W @ h + b[:, None].

W and b are one parameter [W b], of shape [out, in + 1], applied to h with a row of ones below it. The bias and its
gradient then cost no pass of their own over the wide arrays.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling, zeros_init
from jax import Array
from jax.nn.initializers import Initializer

from vae_bit.distributions import Normal

glorot = variance_scaling(1.0, "fan_avg", "uniform", in_axis=-1, out_axis=-2)


def data_first(init: Initializer) -> Initializer:
    """Draws a kernel [out, in] with its input axis leading, so that padding the input leaves the rest unchanged."""
    return lambda key, shape, *args, **kwargs: init(key, shape[::-1], *args, **kwargs).T


def with_zero_bias(init: Initializer) -> Initializer:
    """[W b] of shape [out, in + 1]: W as `init` draws it, b = 0."""
    return lambda key, shape: jnp.pad(init(key, (shape[0], shape[1] - 1)), ((0, 0), (0, 1)))


class Affine(nn.Module):
    """W @ h + b[:, None]: [in, K] -> [features, K]."""

    features: int
    kernel_init: Initializer = glorot

    @nn.compact
    def __call__(self, h: Array) -> Array:
        shape = (self.features, h.shape[0] + 1)
        kernel = self.param("kernel", with_zero_bias(self.kernel_init), shape)
        return kernel @ jnp.concatenate([h, jnp.ones((1, h.shape[1]), h.dtype)])


class MLP(nn.Module):
    """Hidden layers of the given widths, each followed by the activation: [in, K] -> [widths[-1], K]."""

    widths: tuple[int, ...]
    activation: Callable[[Array], Array]
    first_init: Initializer = glorot

    @nn.compact
    def __call__(self, h: Array) -> Array:
        for depth, width in enumerate(self.widths):
            init = glorot if depth else self.first_init
            h = self.activation(Affine(width, init, name=f"hidden_{depth}")(h))
        return h


class GaussianNet(nn.Module):
    """A conditional Gaussian of one scalar, h [in, K] -> Normal of shape [1, K]; `positive` maps R to std > 0."""

    widths: tuple[int, ...]
    activation: Callable[[Array], Array]
    positive: Callable[[Array], Array]
    first_init: Initializer = glorot

    @nn.compact
    def __call__(self, h: Array) -> Normal:
        h = MLP(self.widths, self.activation, self.first_init, name="mlp")(h)
        mean, scale = jnp.split(Affine(2, name="head")(h), 2)
        return Normal(mean, self.positive(scale))


class ResidualGaussianNet(nn.Module):
    """A Gaussian around its own input: h [1, K] -> N(h + mean(h), std(h)^2), which starts as N(h, e^-2)."""

    widths: tuple[int, ...]
    activation: Callable[[Array], Array]
    positive: Callable[[Array], Array]

    @nn.compact
    def __call__(self, h: Array) -> Normal:
        hidden = MLP(self.widths, self.activation, name="mlp")(h)
        mean, scale = jnp.split(Affine(2, zeros_init(), name="head")(hidden), 2)
        return Normal(h + mean, self.positive(scale - 1.0))


class BernoulliNet(nn.Module):
    """Independent Bernoullis: h [in, K] -> logits [features, K]."""

    widths: tuple[int, ...]
    activation: Callable[[Array], Array]
    features: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        return Affine(self.features, name="head")(MLP(self.widths, self.activation, name="mlp")(h))
