"""The VAE with L stochastic layers, z_0 = x and every z_l a scalar, as pure functions; one code path for every L >= 1.

    p(z_L), p(z_l | z_{l+1}) for l < L, p(x | z_1) = prod_i Bernoulli(logit_i(z_1))
    q(z_1 | x), q(z_{l+1} | z_l): bottom-up structured inference

What lies between latents is Gaussian; q(z_1 | x) and p(z_L) may be of any family with the two methods of
`distributions.Normal`, `draw` and `log_prob`, and a decoder may see the bit before: p(x | z_1) = prod_i p(x_i | z_1,
x_{i-1}). L = 1 with Gaussians is the post's VAE, L = 2 its deep latent Gaussian model (Rezende, Mohamed and Wierstra
2014). Whatever gives a `Model` can be trained and evaluated: `vae_bit.architecture` builds those of the presets. Every
function serves one run.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae_bit import data, padding
from vae_bit.distributions import Distribution, Normal, softplus
from vae_bit.exact import ScalarVAE
from vae_bit.noise import Noise

Params = Any  # a pytree of arrays
Number = Array | int | float  # traced or not

Conditional = Callable[[Params, Array], Normal]  # parameters and scalars of any shape -> a Normal of that shape


class Model(NamedTuple):
    """A VAE for data of `width` dimensions, of which a run may use the first n only, as functions of its parameters.

    `init` gives the parameters of a run with n real dimensions. The data are two points, so `encode` gives q(z_1 | x)
    at 0^n and 1^n, shape [2]. `decode` gives the logits of p(x_i = 1 | z_1), a column for each z_1: [K] -> [width, K];
    where there is a `follow`, they are those of a dimension that sees no bit before it, and `follow` gives those of
    p(x_i = 1 | z_1, x_{i-1}) at bits [K], 0 or 1.
    A run of width n must have parameters of the same names, whose axes are shorter where they belong to the data.
    """

    init: Callable[[Array, Array], Params]  # key and n
    encode: Callable[[Params, Array], Distribution]  # parameters and n
    up: tuple[Conditional, ...]  # q(z_{l+1} | z_l), l = 1..L-1
    down: tuple[Conditional, ...]  # p(z_l | z_{l+1}), l = 1..L-1
    prior: Callable[[Params, Array], Distribution]  # p(z_L), of scalars: parameters and n
    decode: Callable[[Params, Array], Array]
    follow: Callable[[Params, Array, Array], Array] | None = None  # parameters, z_1 and x_{i-1}

    @property
    def layers(self) -> int:
        """L."""
        return 1 + len(self.up)


Build = Callable[[int, int], Model]  # layers and width -> the model


class ForwardPass(NamedTuple):
    """One pass up through q and down through p: lists over layers of [2, *nodes], and -ln p(x | z_1) [2, *nodes].

    The nodes are the noise's, and have one axis more, that of its components, where q(z_1 | x) is a mixture.
    """

    z: list[Array]
    q: list[Distribution]
    p: list[Distribution]
    recon: Array
    log_q: list[Array]  # ln q(z_l | z_{l-1}) at these z_l


def forward(model: Model, params: Params, n: Number, word_dropout: Number, noise: Noise) -> tuple[ForwardPass, Noise]:
    """Draws z_l from q at eps_l [2, *nodes], and evaluates every conditional there; with the noise at these draws."""
    eps, weight = noise
    points = encode(model, params, n)
    drawn = [_beside(points, 1, eps[0].ndim - 1).draw(eps[0])]
    if drawn[0].z.ndim > weight.ndim:
        eps, weight = [layer[..., None] for layer in eps], weight[..., None] * drawn[0].weight
    q: list[Distribution] = [_beside(points, 1, weight.ndim - 1)]
    for up, layer_eps in zip(model.up, eps[1:], strict=True):
        q.append(conditional(up, params, drawn[-1].z))
        drawn.append(q[-1].draw(layer_eps))
    z, log_q, _ = zip(*drawn, strict=True)
    return _generate(model, params, n, word_dropout, [*z], q, [*log_q]), Noise(eps, weight)


def densities(model: Model, params: Params, n: Number, word_dropout: Number, z: list[Array]) -> ForwardPass:
    """Every conditional at given latents, z_l [2, *nodes], q's parameters held constant.

    The densities of q then depend on the latents that they are taken at, and on nothing else.
    """
    held = jax.lax.stop_gradient(params)
    q = [
        _beside(encode(model, held, n), 1, z[0].ndim - 1),
        *(conditional(up, held, below) for up, below in zip(model.up, z, strict=False)),
    ]
    log_q = [layer.log_prob(at) for layer, at in zip(q, z, strict=True)]
    return _generate(model, params, n, word_dropout, z, q, log_q)


def _generate(
    model: Model,
    params: Params,
    n: Number,
    word_dropout: Number,
    z: list[Array],
    q: list[Distribution],
    log_q: list[Array],
) -> ForwardPass:
    p = [conditional(down, params, above) for down, above in zip(model.down, z[1:], strict=True)]
    prior = _beside(model.prior(params, n), 0, z[-1].ndim)
    return ForwardPass(z, q, [*p, prior], recon(model, params, n, word_dropout, z[0]), log_q)


def recon(model: Model, params: Params, n: Number, word_dropout: Number, z: Array) -> Array:
    """-ln p(x | z_1) of the two points, each at its own z_1 [2, *nodes].

    Where the decoder sees the bit before, it is the mean over whether each x_{i-1} is hidden, at that rate.
    -ln Bernoulli(x_i; logit_i) = softplus((1 - 2 x_i) logit_i), and all dimensions of a data point are one bit.
    """
    width = jax.eval_shape(model.decode, params, z.ravel()).shape[0]
    real, follow = data.mask(n, width), model.follow

    def costs(sign: Array, logits: Array) -> Array:
        return softplus(jnp.where(real[:, None] > 0.0, sign[None] * logits, -jnp.inf))

    def independent(z: Array, sign: Array) -> Array:
        return jnp.sum(costs(sign, model.decode(params, z)), axis=0)

    def autoregressive(z: Array, sign: Array) -> Array:
        hidden = real * jnp.where(jnp.arange(width) > 0, word_dropout, 1.0)
        blind = costs(sign, model.decode(params, z))
        seeing = costs(sign, follow(params, z, 0.5 * (1.0 - sign)))
        return hidden @ blind + (real - hidden) @ seeing

    return padding.by_columns(autoregressive if follow else independent, width, z)


def encode(model: Model, params: Params, n: Number) -> Distribution:
    """q(z_1 | x) at the two points, [2]; of a Normal also where the model gives one number for both."""
    q = model.encode(params, n)
    return Normal(*(jnp.broadcast_to(field, (data.POINTS,)) for field in q)) if isinstance(q, Normal) else q


def _beside(p: Distribution, batch: int, added: int) -> Distribution:
    """p of as many leading axes, with more behind these: to stand beside latents, its own axes staying last."""

    def lift(field: Array | float) -> Array:
        shape = jnp.shape(field)
        return jnp.reshape(field, (*shape[:batch], *[1] * added, *shape[batch:]))

    return jax.tree.map(lift, p)


def conditional(function: Conditional, params: Params, z: Array) -> Normal:
    """A conditional at z: mean and std of z's shape, also where the function gives one number for all."""
    return jax.tree.map(lambda field: jnp.broadcast_to(field, z.shape), function(params, z))


def sample(model: Model, params: Params, n: Array, key: Array, count: int) -> Array:
    """Ancestral samples x [width, count], 0 or 1; padded dimensions are meaningless."""
    x_key, *keys = jax.random.split(key, model.layers + 1)
    drawn = _beside(model.prior(params, n), 0, 1).draw(jax.random.normal(keys[0], (count,)))
    z = drawn.z
    if z.ndim > 1:  # one of each component
        chosen = jax.random.categorical(jax.random.fold_in(keys[0], 1), jnp.log(drawn.weight), shape=(count,))
        z = jnp.take_along_axis(z, chosen[:, None], axis=1)[:, 0]
    for down, layer_key in zip(reversed(model.down), keys[1:], strict=True):
        z = conditional(down, params, z).draw(jax.random.normal(layer_key, z.shape)).z
    logits = model.decode(params, z)
    if model.follow is None:
        return jax.random.bernoulli(x_key, jax.nn.sigmoid(logits)).astype(jnp.float32)
    return _bits(x_key, logits, *_after(model, params, z))


def _after(model: Model, params: Params, z: Array) -> list[Array]:
    """The logits of p(x_i = 1 | z_1, x_{i-1}), i >= 2, after a 0 and after a 1: [width - 1, K] both."""
    assert model.follow is not None
    return [model.follow(params, z, jnp.full_like(z, bit))[1:] for bit in data.BITS]


def _bits(key: Array, logits: Array, after_zero: Array, after_one: Array) -> Array:
    """Draws one dimension after the other, the first by its `logits`: [width, K]."""
    uniform = jax.random.uniform(key, logits.shape, logits.dtype)

    def draw(before: Array, seen: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        uniform, zero, one = seen
        x = (uniform < jax.nn.sigmoid(jnp.where(before > 0.0, one, zero))).astype(jnp.float32)
        return x, x

    first = draw(jnp.zeros(logits.shape[1]), (uniform[0], logits[0], logits[0]))[0]
    return jnp.concatenate([first[None], jax.lax.scan(draw, first, (uniform[1:], after_zero, after_one))[1]])


def marginal_logits(model: Model, params: Params, z: Array) -> Array:
    """The logits of p(x_i = 1 | z_1), whatever the bits before are: [K] -> [width, K]."""
    first = model.decode(params, z)
    if model.follow is None:
        return first

    def step(before: Array, after: tuple[Array, Array]) -> tuple[Array, Array]:
        """ln p(x_i = 0) and ln p(x_i = 1), [2, K], from those of i - 1 and the logits after a 0 and after a 1."""
        now = [jax.nn.logsumexp(before - softplus(sign * jnp.stack(after)), axis=0) for sign in (1.0, -1.0)]
        return jnp.stack(now), jnp.stack(now)

    start = -softplus(jnp.stack([first[0], -first[0]]))
    rest = jax.lax.scan(step, start, tuple(_after(model, params, z)))[1]
    zero, one = jnp.concatenate([start[None], rest]).swapaxes(0, 1)
    return one - zero


def scalar_vae(model: Model, params: Params, n: Number, word_dropout: Number) -> ScalarVAE:
    """The model as the functions that `vae_bit.exact` integrates."""
    q = encode(model, params, n)
    kernels = [tuple(partial(conditional, function, params) for function in side) for side in (model.up, model.down)]
    logits, prior = partial(marginal_logits, model, params), model.prior(params, n)
    width = jax.eval_shape(partial(model.decode, params), q.draw(jnp.zeros(data.POINTS)).z.ravel()).shape[0]
    chain = ScalarVAE(data.points(n, width), data.mask(n, width), q, *kernels, logits, prior)
    if model.follow is None:
        return chain

    def cost(hidden: Array | float, z: Array) -> Array:
        return recon(model, params, n, hidden, jnp.broadcast_to(z, (data.POINTS, *z.shape)))

    return chain._replace(energy=partial(cost, 0.0), cost=partial(cost, word_dropout))
