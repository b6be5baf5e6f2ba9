"""The VAE with L stochastic layers, z_0 = x and every z_l a scalar; one code path for every L >= 1.

    p(z_L) = N(0, 1),  p(z_l | z_{l+1}) Gaussian for l < L,  p(x | z_1) = prod_i Bernoulli(logit_i(z_1))
    q(z_1 | x), q(z_{l+1} | z_l) Gaussian: bottom-up structured inference

L = 1 is the post's VAE, L = 2 its deep latent Gaussian model (Rezende, Mohamed and Wierstra 2014). Parameters are
`{"q": [q_1, .., q_L], "p": [p_1, .., p_L]}`, a pytree; every function is pure and serves one run.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn.initializers import Initializer

from vae_bit import data, settings
from vae_bit.distributions import Normal, normal_sample, softplus, standard_normal
from vae_bit.exact import Chain
from vae_bit.networks import MLP, BernoulliNet, GaussianNet, ResidualGaussianNet, affine, elu, glorot, lecun

Params = dict[str, list[Any]]

SIGNAL = 8.0  # the size of signs: Adam moves all weights alike, so q moves 8 times as fast as it would with +-1
CPU_BLOCK_LOGITS = 1 << 19  # of one run in flight: 2^17 to 2^19 are equally fast, 2^20 takes up to twice the time


@dataclass(frozen=True)
class Architecture:
    """What fixes the shapes and functions of a model; `width` is n after padding."""

    layers: int
    width: int
    encoder_hidden: tuple[int, ...]  # hidden widths of q(z_1 | x)
    decoder_hidden: tuple[int, ...]  # of p(x | z_1)
    latent_hidden: tuple[int, ...]  # and of q(z_{l+1} | z_l) and p(z_l | z_{l+1})
    activation: Literal["elu", "tanh"]
    init: Literal["glorot", "lecun"]  # of kernels
    logit_gain: float  # that of the decoder's last kernel, times this
    std: Literal["softplus_variance", "exp"]  # what makes a network's second output positive
    residual: bool  # Gaussians between latents start around their own input
    encoder_input: Literal["sum", "signs"]  # what the encoder reads: sum_i x_i, or 8 (2 mean_i x_i - 1)


class Pass(NamedTuple):
    """One pass up through q and down through p: lists over layers of [2, *nodes], and -ln p(x | z_1) [2, *nodes]."""

    z: list[Array]
    q: list[Normal]
    p: list[Normal]
    recon: Array


def softplus_std(v: Array) -> Array:
    """std = sqrt(softplus(v) + 1e-8)."""
    return jnp.sqrt(softplus(v) + 1e-8)


def _mlp(arch: Architecture, widths: tuple[int, ...]) -> MLP:
    return MLP(widths, elu if arch.activation == "elu" else jnp.tanh, _init_family(arch)())


def _init_family(arch: Architecture) -> Callable[..., Initializer]:
    return glorot if arch.init == "glorot" else lecun


def _positive(arch: Architecture) -> Callable[[Array], Array]:
    return softplus_std if arch.std == "softplus_variance" else jnp.exp


def _latent_nets(arch: Architecture) -> list[nn.Module]:
    kind = ResidualGaussianNet if arch.residual else GaussianNet
    return [kind(_mlp(arch, arch.latent_hidden), _positive(arch)) for _ in range(1, arch.layers)]


def inference_nets(arch: Architecture) -> list[nn.Module]:
    """The modules of q(z_1 | x), q(z_2 | z_1), ..., q(z_L | z_{L-1})."""
    return [GaussianNet(_mlp(arch, arch.encoder_hidden), _positive(arch)), *_latent_nets(arch)]


def generative_nets(arch: Architecture) -> list[nn.Module]:
    """The modules of p(x | z_1), p(z_1 | z_2), ..., p(z_{L-1} | z_L)."""
    head = _init_family(arch)(arch.logit_gain)
    return [BernoulliNet(_mlp(arch, arch.decoder_hidden), arch.width, head), *_latent_nets(arch)]


def init(arch: Architecture, key: Array, n: Array) -> Params:
    """Random kernels and zero biases; those of the n real dimensions do not depend on the padding.

    The decoder's last kernel is drawn with the data axis leading (prefixes of a draw are stable), and its scale, which
    the initialiser sets by the padded width, is then set by n. For what multiplies the data see `_first_column`.
    """
    q_key, p_key, x_key = jax.random.split(key, 3)
    q, p = (
        [net.init(jax.random.fold_in(side, l), jnp.zeros((1, 1))) for l, net in enumerate(nets)]
        for side, nets in ((q_key, inference_nets(arch)), (p_key, generative_nets(arch)))
    )
    encoder: Any = q[0]["params"]
    first = encoder["mlp"]["hidden_0"] if arch.encoder_hidden else encoder["head"]
    start = _first_column(arch, x_key, first["kernel"].shape[0], n)
    first["kernel"] = jnp.stack([start, jnp.zeros_like(start)], axis=1)
    if arch.init == "glorot":
        head = _head({"p": p})
        head["kernel"] *= _rescale(arch, head["kernel"].shape[1] - 1, n)
    return {"q": q, "p": p}


def _first_column(arch: Architecture, key: Array, units: int, n: Array) -> Array:
    """The start of what multiplies the encoder's input: the mean of n columns, or 0, as if x said nothing yet."""
    if arch.encoder_input == "signs":
        return jnp.zeros(units)
    columns = _init_family(arch)(in_axis=-2, out_axis=-1)(key, (arch.width, units))
    return jnp.mean(columns, 0, where=data.mask(n, arch.width)[:, None] > 0.0) * _rescale(arch, units, n)


def _rescale(arch: Architecture, units: int, n: Array) -> Array:
    """From a kernel's scale between some units and the padded width to that between the units and n dimensions."""
    fixed = units if arch.init == "glorot" else 0
    return jnp.sqrt((arch.width + fixed) / (n + fixed))


def _head(params: Params) -> dict[str, Any]:
    """The decoder's last layer, whose kernel [n, in + 1] has a row for each dimension of the data."""
    return params["p"][0]["params"]["head"]


@settings.fixed()
def shapes(arch: Architecture) -> Params:
    """Shapes and dtypes of the parameters, padding included."""
    return jax.eval_shape(lambda: init(arch, jax.random.key(0), jnp.int32(arch.width)))


def unpad(params: Params, n: int) -> Params:
    """Parameters of a run without the dimensions beyond n; leading axes, of runs, are kept."""
    params = jax.tree.map(lambda leaf: leaf, params)
    head = _head(params)
    head["kernel"] = head["kernel"][..., :n, :]
    return params


def pad(params: Params, width: int) -> Params:
    """Parameters of runs with zeros for the dimensions added up to `width`; the inverse of `unpad`."""
    params = jax.tree.map(lambda leaf: leaf, params)
    head = _head(params)
    n = head["kernel"].shape[-2]
    head["kernel"] = np.insert(head["kernel"], [n] * (width - n), 0.0, axis=-2)
    return params


def _apply(net: nn.Module, params: Any, h: Array) -> Any:
    return net.apply(params, h)


def conditional(net: nn.Module, params: Any, z: Array) -> Normal:
    """A Gaussian network applied to scalars z of any shape, giving a Normal of that shape."""
    mean, std = _apply(net, params, z.reshape(1, -1))
    return Normal(mean.reshape(z.shape), std.reshape(z.shape))


def encode(arch: Architecture, params: Params, n: Array) -> Normal:
    """q(z_1 | x) at the two data points: Normal of shape [2].

    A data point is one bit, n times over: the n columns w_i of a first layer that reads x would get equal gradients
    and, from Adam, equal steps, and what they contribute is sum_i w_i x_i = mean_i(w_i) sum_i x_i. So one column holds
    their mean, reads the sum, and trains as the n would, but for Adam's epsilon (`tests/test_training.py`).
    """
    bits = jnp.asarray(data.BITS[None])
    x = SIGNAL * (2.0 * bits - 1.0) if arch.encoder_input == "signs" else n * bits
    mean, std = _apply(inference_nets(arch)[0], params["q"][0], x)
    return Normal(mean[0], std[0])


def decode(arch: Architecture, params: Params, z: Array) -> Array:
    """Logits of p(x_i = 1 | z_1), a column for each entry of z_1: [width, z.size]."""
    return _apply(generative_nets(arch)[0], params["p"][0], z.reshape(1, -1))


def recon(arch: Architecture, params: Params, n: Array, z: Array) -> Array:
    """-ln p(x | z_1) of the two points, each at its own z_1 [2, *nodes].

    -ln Bernoulli(x_i; logit_i) = softplus((1 - 2 x_i) logit_i), and all dimensions of a data point are one bit. Written
    so, no array of the logits' shape stays the same from step to step: it would be read from memory in each. Nor does
    one outlive its block of dimensions: the gradient computes the logits of a block again, in place of a loss that no
    step of the ELBO needs.
    """
    net, layers = generative_nets(arch)[0], params["p"][0]
    hidden = net.apply(layers, z.reshape(1, -1), method=lambda net, h: net.mlp(h))
    sign = jnp.repeat(jnp.asarray(1.0 - 2.0 * data.BITS, z.dtype), z.size // data.POINTS)

    def energy(block: tuple[Array, Array]) -> Array:
        kernel, mask = block
        logits = affine(kernel, hidden)
        return jnp.sum(softplus(jnp.where(mask[:, None] > 0.0, sign[None] * logits, -jnp.inf)), axis=0)

    blocks = _in_blocks(z.size, _head(params)["kernel"], data.mask(n, arch.width))
    return jnp.sum(jax.lax.map(jax.checkpoint(energy), blocks), axis=0).reshape(z.shape)


def _in_blocks(columns: int, *by_dimension: Array) -> list[Array]:
    """Arrays [width, ...] as [blocks, rows, ...], zeros below the last row: as few as CPU_BLOCK_LOGITS allows."""
    width = by_dimension[0].shape[0]
    blocks = math.ceil(width * columns / CPU_BLOCK_LOGITS) if jax.default_backend() == "cpu" else 1
    rows = math.ceil(width / blocks)
    blocks = math.ceil(width / rows)
    padding = [(0, blocks * rows - width)]
    return [jnp.pad(a, padding + [(0, 0)] * (a.ndim - 1)).reshape(blocks, rows, *a.shape[1:]) for a in by_dimension]


def forward(arch: Architecture, params: Params, n: Array, eps: list[Array]) -> Pass:
    """Draws z_l = mean + std * eps_l, eps_l [2, *nodes], and evaluates every conditional there."""
    q = [_at_points(encode(arch, params, n), eps[0].ndim)]
    z = [normal_sample(q[0], eps[0])]
    for net, net_params, layer_eps in zip(_latent_nets(arch), params["q"][1:], eps[1:], strict=True):
        q.append(conditional(net, net_params, z[-1]))
        z.append(normal_sample(q[-1], layer_eps))
    return _generate(arch, params, n, z, q)


def densities(arch: Architecture, params: Params, n: Array, z: list[Array]) -> Pass:
    """Every conditional at given latents, z_l [2, *nodes]."""
    above = zip(_latent_nets(arch), params["q"][1:], z[:-1], strict=True)
    q = [_at_points(encode(arch, params, n), z[0].ndim), *(conditional(*args) for args in above)]
    return _generate(arch, params, n, z, q)


def _generate(arch: Architecture, params: Params, n: Array, z: list[Array], q: list[Normal]) -> Pass:
    p = [conditional(*args) for args in zip(_latent_nets(arch), params["p"][1:], z[1:], strict=True)]
    return Pass(z, q, [*p, standard_normal((1,) * z[-1].ndim)], recon(arch, params, n, z[0]))


def _at_points(q: Normal, ndim: int) -> Normal:
    """q(z_1 | x) [2] as [2, 1, ..], to stand beside latents of `ndim` axes."""
    return jax.tree.map(lambda field: field.reshape(-1, *[1] * (ndim - 1)), q)


def sample(arch: Architecture, params: Params, key: Array, count: int) -> Array:
    """Ancestral samples x [width, count], 0 or 1; padded dimensions are meaningless."""
    x_key, *keys = jax.random.split(key, arch.layers + 1)
    z = jax.random.normal(keys[0], (count,))
    for net, net_params, layer_key in zip(_latent_nets(arch), params["p"][:0:-1], keys[1:], strict=True):
        z = normal_sample(conditional(net, net_params, z), jax.random.normal(layer_key, z.shape))
    return jax.random.bernoulli(x_key, jax.nn.sigmoid(decode(arch, params, z))).astype(jnp.float32)


def chain(arch: Architecture, params: Params, n: Array) -> Chain:
    """The trained model as the functions that `vae_bit.exact` integrates."""

    def functions(side: str) -> tuple[Callable[[Array], Normal], ...]:
        nets = zip(_latent_nets(arch), params[side][1:], strict=True)
        return tuple(lambda z, net=net, p=p: conditional(net, p, z) for net, p in nets)

    return Chain(
        x=data.points(n, arch.width),
        mask=data.mask(n, arch.width),
        q_data=encode(arch, params, n),
        q=functions("q"),
        p=functions("p"),
        logits=lambda z: decode(arch, params, z),
    )
