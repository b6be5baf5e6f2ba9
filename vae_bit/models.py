"""The VAE with L stochastic layers, z_0 = x and every z_l a scalar, as pure functions; one code path for every L >= 1.

    p(z_L), p(z_l | z_{l+1}) Gaussian for l < L, p(x | z_1) = prod_i Bernoulli(logit_i(z_1))
    q(z_1 | x), q(z_{l+1} | z_l) Gaussian: bottom-up structured inference

L = 1 is the post's VAE, L = 2 its deep latent Gaussian model (Rezende, Mohamed and Wierstra 2014). Whatever gives a
`Model` can be trained and evaluated: `vae_bit.architecture` builds those of the presets. Every function serves one run.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae_bit import data, padding
from vae_bit.distributions import Normal, normal_sample
from vae_bit.exact import ScalarVAE

Params = Any  # a pytree of arrays

Conditional = Callable[[Params, Array], Normal]  # parameters and scalars of any shape -> a Normal of that shape


class Model(NamedTuple):
    """A VAE for data of `width` dimensions, of which a run may use the first n only, as functions of its parameters.

    `init` gives the parameters of a run with n real dimensions. The data are two points, so `encode` gives q(z_1 | x)
    at 0^n and 1^n, shape [2]. `decode` gives the logits of p(x_i = 1 | z_1), a column for each z_1: [K] -> [width, K].
    A run of width n must have parameters of the same names, whose axes are shorter where they belong to the data.
    """

    init: Callable[[Array, Array], Params]  # key and n
    encode: Callable[[Params, Array], Normal]  # parameters and n
    up: tuple[Conditional, ...]  # q(z_{l+1} | z_l), l = 1..L-1
    down: tuple[Conditional, ...]  # p(z_l | z_{l+1}), l = 1..L-1
    prior: Callable[[Params], Normal]  # p(z_L), of scalars
    decode: Callable[[Params, Array], Array]

    @property
    def layers(self) -> int:
        """L."""
        return 1 + len(self.up)


Build = Callable[[int, int], Model]  # layers and width -> the model


class ForwardPass(NamedTuple):
    """One pass up through q and down through p: lists over layers of [2, *nodes], and -ln p(x | z_1) [2, *nodes]."""

    z: list[Array]
    q: list[Normal]
    p: list[Normal]
    recon: Array


def forward(model: Model, params: Params, n: Array, eps: list[Array]) -> ForwardPass:
    """Draws z_l = mean + std * eps_l, eps_l [2, *nodes], and evaluates every conditional there."""
    q = [_at_points(encode(model, params, n), eps[0].ndim)]
    z = [normal_sample(q[0], eps[0])]
    for up, layer_eps in zip(model.up, eps[1:], strict=True):
        q.append(conditional(up, params, z[-1]))
        z.append(normal_sample(q[-1], layer_eps))
    return _generate(model, params, n, z, q)


def densities(model: Model, params: Params, n: Array, z: list[Array]) -> ForwardPass:
    """Every conditional at given latents, z_l [2, *nodes], q's parameters held constant.

    The densities of q then depend on the latents that they are taken at, and on nothing else.
    """
    held = jax.lax.stop_gradient(params)
    q = [
        _at_points(encode(model, held, n), z[0].ndim),
        *(conditional(up, held, below) for up, below in zip(model.up, z, strict=False)),
    ]
    return _generate(model, params, n, z, q)


def _generate(model: Model, params: Params, n: Array, z: list[Array], q: list[Normal]) -> ForwardPass:
    p = [conditional(down, params, above) for down, above in zip(model.down, z[1:], strict=True)]
    prior = jax.tree.map(lambda field: jnp.full((1,) * z[-1].ndim, field, z[-1].dtype), model.prior(params))
    return ForwardPass(z, q, [*p, prior], padding.recon(partial(model.decode, params), n, z[0]))


def standard_prior(params: Params) -> Normal:
    """N(0, 1), whatever the parameters."""
    return Normal(0.0, 1.0)


def encode(model: Model, params: Params, n: Array) -> Normal:
    """q(z_1 | x) at the two points: mean and std [2], also where the model gives one number for both."""
    return jax.tree.map(lambda field: jnp.broadcast_to(field, (data.POINTS,)), model.encode(params, n))


def _at_points(q: Normal, ndim: int) -> Normal:
    """q(z_1 | x) [2] as [2, 1, ..], to stand beside latents of `ndim` axes."""
    return jax.tree.map(lambda field: field.reshape(-1, *[1] * (ndim - 1)), q)


def conditional(function: Conditional, params: Params, z: Array) -> Normal:
    """A conditional at z: mean and std of z's shape, also where the function gives one number for all."""
    return jax.tree.map(lambda field: jnp.broadcast_to(field, z.shape), function(params, z))


def sample(model: Model, params: Params, key: Array, count: int) -> Array:
    """Ancestral samples x [width, count], 0 or 1; padded dimensions are meaningless."""
    x_key, *keys = jax.random.split(key, model.layers + 1)
    mean, std = model.prior(params)
    z = mean + std * jax.random.normal(keys[0], (count,))
    for down, layer_key in zip(reversed(model.down), keys[1:], strict=True):
        z = normal_sample(conditional(down, params, z), jax.random.normal(layer_key, z.shape))
    return jax.random.bernoulli(x_key, jax.nn.sigmoid(model.decode(params, z))).astype(jnp.float32)


def scalar_vae(model: Model, params: Params, n: Array) -> ScalarVAE:
    """The model as the functions that `vae_bit.exact` integrates.

    The top latent is in units of its prior, u = (z_L - mean) / std, which changes no divergence and no p(x).
    """
    mean, std = model.prior(params)
    q, up = encode(model, params, n), [partial(conditional, function, params) for function in model.up]
    decode, down = partial(model.decode, params), [partial(conditional, function, params) for function in model.down]
    width = jax.eval_shape(decode, q.mean).shape[0]
    *below, top = [decode, *down]  # functions of z_1, .., z_L
    logits, *down = *below, lambda u: top(mean + std * u)

    def scaled(q: Normal) -> Normal:
        return Normal((q.mean - mean) / std, q.std / std)

    if up:
        up[-1] = lambda z, last=up[-1]: scaled(last(z))
    q = q if up else scaled(q)
    return ScalarVAE(data.points(n, width), data.mask(n, width), q, tuple(up), tuple(down), logits)
