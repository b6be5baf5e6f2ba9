"""The models of the presets: what their networks are made of, and how they are put together."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import Initializer

from vae_bit import checks, data
from vae_bit.distributions import Distribution, Normal, softplus
from vae_bit.families import GAUSSIAN, STANDARD, Decoder, Family, Prior, independent
from vae_bit.models import Model, Params
from vae_bit.networks import MLP, BernoulliNet, ConditionalNet, glorot, lecun


class Kernels(NamedTuple):
    """How kernels are drawn: an initialiser for a gain and axes, and its variance by fan in and fan out."""

    init: Callable[..., Initializer]
    variance: Callable[[Any, Any], Any]


def glorot_variance(fan_in: Any, fan_out: Any) -> Any:
    """2 / (fan_in + fan_out)."""
    return 2.0 / (fan_in + fan_out)


def lecun_variance(fan_in: Any, fan_out: Any) -> Any:
    """1 / fan_in."""
    return 1.0 / fan_in


GLOROT, LECUN = Kernels(glorot, glorot_variance), Kernels(lecun, lecun_variance)


class EncoderInput(NamedTuple):
    """What the encoder reads of a data point, a number, and how the column of its first kernel that it meets starts.

    A data point is one bit, n times over: the n columns w_i of a first layer that reads x would get equal gradients
    and, from Adam, equal steps, and what they contribute is sum_i w_i x_i = mean_i(w_i) sum_i x_i. So one column holds
    their mean, reads the sum, and trains as the n would, but for Adam's epsilon (`tests/test_training.py`).
    """

    read: Callable[[Array, Array], Array]  # bits [2] and n -> [2]
    start: Callable[[Kernels, Array, int, int, Array], Array]  # kernels, key, width, units, n -> [units]


def read_sum(bits: Array, n: Array) -> Array:
    """sum_i x_i."""
    return n * bits


def read_signs(bits: Array, n: Array, size: float) -> Array:
    """size (2 mean_i x_i - 1): Adam moves all weights alike, so q moves `size` times as fast as it would with +-1."""
    return size * (2.0 * bits - 1.0)


def mean_column(kernels: Kernels, key: Array, width: int, units: int, n: Array) -> Array:
    """The mean of the n columns that the kernel would have had."""
    columns = kernels.init(in_axis=-2, out_axis=-1)(key, (width, units))
    mean = jnp.mean(columns, 0, where=data.mask(n, width)[:, None] > 0.0)
    return mean * jnp.sqrt(kernels.variance(n, units) / kernels.variance(width, units))


def zero_column(kernels: Kernels, key: Array, width: int, units: int, n: Array) -> Array:
    """Zeros, as if x said nothing yet."""
    return jnp.zeros(units)


@dataclass(frozen=True)
class Architecture:
    """Networks of a VAE of any depth and width: called with both, it gives the `Model`."""

    encoder_hidden: tuple[int, ...]  # hidden widths of q(z_1 | x)
    decoder_hidden: tuple[int, ...]  # of p(x | z_1)
    latent_hidden: tuple[int, ...]  # and of q(z_{l+1} | z_l) and p(z_l | z_{l+1})
    activation: Callable[[Array], Array]
    kernels: Kernels
    logit_gain: float  # that of the decoder's last kernel, times this
    positive: Callable[[Array], Array]  # from a network's second output to a standard deviation
    latent: Callable[..., nn.Module]  # the Gaussians between latents, of an MLP and `positive`
    encoder_input: EncoderInput
    posterior: Family = GAUSSIAN  # of q(z_1 | x)
    prior: Prior = STANDARD  # p(z_L)
    decoder: Decoder = independent  # what x_{i-1} makes of the logits

    def __post_init__(self) -> None:
        functions = ("activation", "positive", "latent", "posterior", "prior", "decoder")
        checks.functions(**{name: getattr(self, name) for name in functions})
        _require_family("posterior", self.posterior, "MixtureFamily(2)")
        _require_family("prior", self.prior, "LearnedPrior(MixtureFamily(2))")

    def __call__(self, layers: int, width: int) -> Model:
        return _build(self, layers, width)


def _require_family(name: str, value: Any, example: str) -> None:
    """ValueError unless it is a value with a size, and one that can be checked if, and only if, it is a prior."""
    is_family = isinstance(getattr(value, "size", None), int) and not isinstance(value, type)
    if not is_family or hasattr(value, "check") != (name == "prior"):
        raise ValueError(f"{name}: got {value!r}, expected one such as vae_bit.families.{example}")


def softplus_std(v: Array) -> Array:
    """std = sqrt(softplus(v) + 1e-8)."""
    return jnp.sqrt(softplus(v) + 1e-8)


@cache
def _build(arch: Architecture, layers: int, width: int) -> Model:
    """Parameters are `{"q": [q_1, .., q_L], "p": [p_1, .., p_L]}`, p_1 the decoder's; perhaps "prior", "context"."""
    q, p = inference_nets(arch, layers), generative_nets(arch, layers, width)
    encode = partial(_encode, arch, q[0])
    arch.prior.check(layers)

    def decode(params: Params, z: Array) -> Array:
        return _apply(p[0], params["p"][0], z.reshape(1, -1))

    def follow(params: Params, z: Array, bit: Array) -> Array:
        return arch.decoder(decode(params, z), params["context"], bit)

    return Model(
        init=partial(_init, arch, q, p, width),
        encode=encode,
        up=tuple(partial(_conditional, "q", l, net) for l, net in enumerate(q) if l),
        down=tuple(partial(_conditional, "p", l, net) for l, net in enumerate(p) if l),
        prior=lambda params, n: arch.prior(params.get("prior"), partial(encode, params, n), arch.positive),
        decode=decode,
        follow=None if arch.decoder is independent else follow,
    )


def inference_nets(arch: Architecture, layers: int) -> list[nn.Module]:
    """The modules of q(z_1 | x), q(z_2 | z_1), ..., q(z_L | z_{L-1})."""
    first = ConditionalNet(_mlp(arch, arch.encoder_hidden), arch.positive, arch.posterior)
    return [first, *_latent_nets(arch, layers)]


def generative_nets(arch: Architecture, layers: int, width: int) -> list[nn.Module]:
    """The modules of p(x | z_1), p(z_1 | z_2), ..., p(z_{L-1} | z_L)."""
    head = arch.kernels.init(arch.logit_gain)
    return [BernoulliNet(_mlp(arch, arch.decoder_hidden), width, head), *_latent_nets(arch, layers)]


def _latent_nets(arch: Architecture, layers: int) -> list[nn.Module]:
    return [arch.latent(_mlp(arch, arch.latent_hidden), arch.positive) for _ in range(1, layers)]


def _mlp(arch: Architecture, widths: tuple[int, ...]) -> MLP:
    return MLP(widths, arch.activation, arch.kernels.init())


def _init(arch: Architecture, q: list[nn.Module], p: list[nn.Module], width: int, key: Array, n: Array) -> Params:
    """Random kernels and zero biases; those of the n real dimensions do not depend on the padding.

    The decoder's last kernel is drawn with the data axis leading (prefixes of a draw are stable), and its scale, which
    the initialiser sets by the padded width, is then set by n. For what multiplies the data see `EncoderInput`.
    """
    q_key, p_key, x_key = jax.random.split(key, 3)
    params: dict[str, Any] = {
        name: [net.init(jax.random.fold_in(side, l), jnp.zeros((1, 1))) for l, net in enumerate(nets)]
        for name, side, nets in (("q", q_key, q), ("p", p_key, p))
    }
    if arch.prior.size:
        params["prior"] = jnp.zeros(arch.prior.size)
    if arch.decoder is not independent:
        params["context"] = jnp.zeros(width)
    encoder, decoder = params["q"][0]["params"], params["p"][0]["params"]
    first = encoder["mlp"]["hidden_0"] if arch.encoder_hidden else encoder["head"]
    start = arch.encoder_input.start(arch.kernels, x_key, width, first["kernel"].shape[0], n)
    first["kernel"] = jnp.stack([start, jnp.zeros_like(start)], axis=1)
    units, variance = decoder["head"]["kernel"].shape[1] - 1, arch.kernels.variance
    scale = jnp.sqrt(variance(units, n) / variance(units, width))
    decoder["head"]["kernel"] *= data.mask(n, width)[:, None] * scale  # an optimiser may take a kernel's norm
    return params


def _apply(net: nn.Module, params: Any, h: Array) -> Any:
    return net.apply(params, h)


def _encode(arch: Architecture, net: nn.Module, params: Params, n: Array) -> Distribution:
    return _apply(net, params["q"][0], arch.encoder_input.read(jnp.asarray(data.BITS), n)[None])


def _conditional(side: str, layer: int, net: nn.Module, params: Params, z: Array) -> Normal:
    """A Gaussian network applied to scalars z of any shape, giving a Normal of that shape."""
    mean, std = _apply(net, params[side][layer], z.reshape(1, -1))
    return Normal(mean.reshape(z.shape), std.reshape(z.shape))
