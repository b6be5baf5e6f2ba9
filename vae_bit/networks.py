"""Flax modules. Columns are samples: a layer maps h [in, K] to W @ h + b[:, None].

W and b are one parameter [W b], of shape [out, in + 1], applied to h with a row of ones below it. The bias and its
gradient then cost no pass of their own over the wide arrays.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling, zeros_init
from jax import Array
from jax.nn.initializers import Initializer

from vae_bit.distributions import Distribution, Normal
from vae_bit.families import GAUSSIAN, Family


def glorot(gain: float = 1.0, in_axis: int = -1, out_axis: int = -2) -> Initializer:
    """Uniform of variance 2 gain^2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""
    return variance_scaling(gain**2, "fan_avg", "uniform", in_axis, out_axis)


def lecun(gain: float = 1.0, in_axis: int = -1, out_axis: int = -2) -> Initializer:
    """Normal of variance gain^2 / fan_in (LeCun et al. 1998)."""
    return variance_scaling(gain**2, "fan_in", "normal", in_axis, out_axis)


def elu(x: Array) -> Array:
    """x for x > 0, else e^x - 1 (Clevert et al. 2016); on CPU `expm1` would cost more than twice as much."""
    return jnp.where(x > 0.0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


def with_zero_bias(init: Initializer) -> Initializer:
    """[W b] of shape [out, in + 1]: W as `init` draws it, b = 0."""
    return lambda key, shape, *args, **kwargs: jnp.pad(
        init(key, (shape[0], shape[1] - 1), *args, **kwargs), ((0, 0), (0, 1))
    )


@jax.custom_vjp
def affine(kernel: Array, h: Array) -> Array:
    """W @ h + b[:, None] with kernel = [W b]: [out, in + 1], [in, K] -> [out, K]; no forward-mode derivatives."""
    return kernel @ _with_ones(h)


def _with_ones(h: Array) -> Array:
    return jnp.concatenate([h, jnp.ones((1, h.shape[1]), h.dtype)])


def _affine_forward(kernel: Array, h: Array) -> tuple[Array, tuple[Array, Array]]:
    h = _with_ones(h)
    return kernel @ h, (kernel, h)


def _affine_backward(saved: tuple[Array, Array], out: Array) -> tuple[Array, Array]:
    """The barrier makes a transposed copy of W: XLA's fast products on CPU read their left operand by rows."""
    kernel, h = saved
    return out @ h.T, jax.lax.optimization_barrier(kernel[:, :-1].T) @ out


affine.defvjp(_affine_forward, _affine_backward)


class Affine(nn.Module):
    """`affine` with a kernel of its own: [in, K] -> [features, K]."""

    features: int
    init_kernel: Initializer

    @nn.compact
    def __call__(self, h: Array) -> Array:
        shape = (self.features, h.shape[0] + 1)
        kernel = self.param("kernel", with_zero_bias(self.init_kernel), shape)
        return affine(kernel, h)


class MLP(nn.Module):
    """Hidden layers of the given widths, each followed by the activation: [in, K] -> [widths[-1], K]."""

    widths: tuple[int, ...]
    activation: Callable[[Array], Array]
    init_kernel: Initializer

    @nn.compact
    def __call__(self, h: Array) -> Array:
        for depth, width in enumerate(self.widths):
            h = self.activation(Affine(width, self.init_kernel, name=f"hidden_{depth}")(h))
        return h


class ConditionalNet(nn.Module):
    """A conditional distribution of one scalar, h [in, K] -> K members of a family; `positive` maps R to std > 0."""

    mlp: MLP
    positive: Callable[[Array], Array]
    family: Family = GAUSSIAN

    @nn.compact
    def __call__(self, h: Array) -> Distribution:
        numbers = Affine(self.family.size, self.mlp.init_kernel, name="head")(self.mlp(h))
        return self.family(numbers, self.positive)


class ResidualGaussianNet(nn.Module):
    """A Gaussian around its own input: h [1, K] -> N(h + mean(h), std(h)^2), which starts narrow and centred on h."""

    mlp: MLP
    positive: Callable[[Array], Array]
    offset: float  # of what `positive` is applied to: -1 makes the first std 1 / e where `positive` is exp

    @nn.compact
    def __call__(self, h: Array) -> Normal:
        mean, scale = jnp.split(Affine(2, zeros_init(), name="head")(self.mlp(h)), 2)
        return Normal(h + mean, self.positive(scale + self.offset))


class BernoulliNet(nn.Module):
    """Independent Bernoullis: h [in, K] -> logits [features, K]."""

    mlp: MLP
    features: int
    init_head: Initializer

    @nn.compact
    def __call__(self, h: Array) -> Array:
        return Affine(self.features, self.init_head, name="head")(self.mlp(h))
