"""Evidence bounds as pure functions of log densities: of one example, in nats, nothing averaged that is not asked for.

An `elbo`, like every bound on ln p(x) here, is to be maximised; a `loss` is to be minimised: loss = -elbo. A layer's
divergence is kl_l. Latents may be scalars, vectors or chains of either: these functions see only log densities.

One number serves all bounds that draw K times: the log weight ln w_k = ln p(x, z_k) - ln q(z_k | x), which is
`elbo(log_likelihood, kl)` when kl holds a `sampled_kl` for each layer. Draws lie on `axis`, the last one unless given:
[..., K] -> [...]. A tuple stands for a product grid of nodes, axis = (-2, -1) for [..., K_1, K_2].

A `weight` [K] from `vae_bit.noise` may replace the equal weights 1 / K; it has the draws' axes alone, or as many as
what it weighs. A draw of weight 0 touches neither value nor gradient. It has two uses. Across bounds,
`average(bound [M], weight [M])` is the expectation of any bound here, each on draws of its own. Inside one,
`iwae(log_weight, weight)` is ln of a quadrature of p(x): a bound too, since E[sum_k weight_k w_k] = p(x) still, and a
tighter one than K independent draws give (Buchholz, Wenzel and Mandt 2018).

Results are in the dtype of the input, float32 or float64; narrower numbers (bfloat16, float16) are summed, and
returned, in float32.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from numpy.lib.array_utils import normalize_axis_tuple

from vae_bit.checks import Axes, agree, same_shape
from vae_bit.distributions import Distribution, Normal, log_prob, normal_entropy, normal_kl_standard

Latents = TypeVar("Latents")


def sampled_kl(z: Array, q: Distribution, p: Distribution) -> Array:
    """ln q(z) - ln p(z), whose mean over z ~ q is KL(q || p): [..., d] -> [...].

    q and p may each be a Normal, a Mixture or a Flow. A mixture gives one draw of each component: `average` them with
    its weights, as in the example of `mixture_sample`.

    For a layer below the top p was itself conditioned on a draw that came from this z, so the mean is the layer's
    share of the bound, E_q[ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1})], and no closed form of two Gaussians
    (Rezende, Mohamed and Wierstra 2014).

    >>> q, p = Normal(jnp.ones(2), jnp.ones(2)), Normal(jnp.zeros(2), jnp.ones(2))
    >>> sampled_kl(jnp.array([[1.0, 1.0], [0.0, 0.0]]), q, p).tolist()
    [1.0, -1.0]
    """
    log_q, log_p = agree(None, log_q=log_prob(z, q), log_p=log_prob(z, p))
    return log_q - log_p


def entropy_form_kl(z: Array, q: Normal, p: Distribution) -> Array:
    """-H(q) - ln p(z), whose mean over z ~ q is KL(q || p) too: [..., d] -> [...].

    The entropy is in closed form and the cross-entropy sampled, as in the ELBO's form E_q[ln p(x, z)] + H(q) (Roeder,
    Wu and Duvenaud 2017). It often has less variance than `sampled_kl`; where q is near p it may have more. p may be a
    Normal, a Mixture or a Flow; the entropies of the latter two have no closed form, so q is a Normal (TypeError).

    >>> q, p = Normal(jnp.ones(1), jnp.ones(1)), Normal(jnp.zeros(1), jnp.ones(1))
    >>> print(f"{entropy_form_kl(jnp.ones(1), q, p):.4f}")
    0.0000
    """
    entropy, log_p = agree(None, entropy=normal_entropy(q), log_p=log_prob(z, p))
    return -entropy - log_p


def path_kl(z: Array, q: Distribution, p: Distribution) -> Array:
    """`sampled_kl` without the score term of its gradient, "sticking the landing": [..., d] -> [...].

        d/dphi [ln q_phi(z_phi) - ln p(z_phi)]  less  (d/dphi ln q_phi)(z), whose mean over z ~ q is 0.

    The gradient stays unbiased, and has no variance where q is the exact posterior (Roeder, Wu and Duvenaud 2017). The
    value is that of `sampled_kl`. It serves the ELBO, `average` of `elbo`; for K draws in one bound use `dreg`. The
    weights by which a mixture's draws are averaged are not held constant.

    >>> z = lambda m: normal_sample(Normal(m, jnp.ones(1)), jnp.array([0.7]))
    >>> kl = lambda m: path_kl(z(m), Normal(m, jnp.ones(1)), Normal(jnp.zeros(1), jnp.ones(1)))
    >>> jax.grad(kl)(jnp.zeros(1)).tolist()
    [0.0]

    It holds the mean and std of q constant, which is right for q(z_1 | x) alone. In a chain those of q(z_2 | z_1)
    depend on the draw z_1 too, and that dependence must stay: hold the parameters of every q constant instead, evaluate
    it at the same draws, and take `sampled_kl`. Held by its values, q(z_2 | z_1) loses d ln q(z_2 | z_1) / dz_1, whose
    mean is 0 and whose variance is large where q is narrow. Here p(z_2) = N(0, 1) and p(z_1 | z_2) = N(z_2, 1):

    >>> def kl(m, eps):  # q(z_1) = N(m_1, 2), q(z_2 | z_1) = N(m_2 z_1, 1 / 2)
    ...     def q(m, z_1):
    ...         return Normal(m[:1], jnp.sqrt(jnp.full(1, 2.0))), Normal(m[1:] * z_1, jnp.sqrt(jnp.full(1, 0.5)))
    ...     z_1 = normal_sample(q(m, jnp.zeros(1))[0], eps[:1])
    ...     z_2 = normal_sample(q(m, z_1)[1], eps[1:])
    ...     q_1, q_2 = q(jax.lax.stop_gradient(m), z_1)
    ...     p_1, p_2 = Normal(z_2, jnp.ones(1)), Normal(jnp.zeros(1), jnp.ones(1))
    ...     return sampled_kl(z_1, q_1, p_1) + sampled_kl(z_2, q_2, p_2)
    >>> jax.grad(kl)(jnp.array([0.0, 0.5]), jnp.array([0.7, -1.3])).round(5).tolist()  # q is the posterior
    [0.0, 0.0]
    """
    return sampled_kl(z, jax.lax.stop_gradient(q), p)


def top_kl(q: Normal) -> Array:
    """KL(q(z_L | z_{L-1}) || N(0, 1)) in closed form: [..., d] -> [...].

    >>> top_kl(Normal(jnp.array([2.0, 0.0]), jnp.ones(2))).item()
    2.0
    """
    return normal_kl_standard(q)


def free_bits(kl: Array, floor: ArrayLike) -> Array:
    """max(kl, floor), elementwise: a group of latents whose KL is below `floor` nats feels no pull to the prior.

    Kingma et al. (2016), equation 15, where kl is the mean over the minibatch of each group's KL: average first. For
    the KL of each latent dimension pass `normal_kl_standard` a Normal of shape [..., d, 1]. Of a chain of layers give
    the sum of kl_l: below the top one alone may be negative. With it the objective is at most the ELBO. `floor` is a
    number or of kl's shape (ValueError).

    >>> free_bits(jnp.array([0.5, 3.0]), 1.0).tolist()
    [1.0, 3.0]
    """
    kl, floor = same_shape("floor must be a number or of kl's shape", ("floor",), kl=kl, floor=floor)
    return jnp.maximum(kl, floor)


def elbo(log_likelihood: ArrayLike, kl: ArrayLike | Sequence[ArrayLike], beta: ArrayLike = 1.0) -> Array:
    """ELBO = ln p(x | z_1) - beta * sum_l kl_l, to be maximised (Kingma and Welling 2014; beta: Higgins et al. 2017).

    log_likelihood [...] and kl [...], of one shape, for one layer; for L of them kl is a list or tuple of L such
    arrays. Nothing broadcasts but a scalar beta (ValueError): a mean beside a batch, or draws beside layers, mean
    nothing. So average a log likelihood over draws before a kl in closed form joins it. beta = 1 is the bound on
    ln p(x); with a `sampled_kl` for each layer it is the log weight of the draw.

    >>> elbo(jnp.array(-1.0), [jnp.array(0.5), jnp.array(0.25)]).item()
    -1.75
    >>> elbo(jnp.array(-1.0), jnp.array(0.5), beta=4.0).item()
    -3.0
    """
    log_likelihood, cost = _with_cost(kl, beta, log_likelihood=log_likelihood)
    return log_likelihood - cost


def loss(recon: ArrayLike, kl: ArrayLike | Sequence[ArrayLike], beta: ArrayLike = 1.0) -> Array:
    """The beta-VAE's loss, recon + beta * sum_l kl_l = -elbo, recon = -ln p(x | z_1); shapes as in `elbo`.

    >>> loss(jnp.array(1.0), [jnp.array(0.5), jnp.array(0.25)], beta=2.0).item()
    2.5
    """
    recon, cost = _with_cost(kl, beta, recon=recon)
    return recon + cost


def _with_cost(kl: ArrayLike | Sequence[ArrayLike], beta: ArrayLike, **likelihood: ArrayLike) -> tuple[Array, Array]:
    """The likelihood's term and beta * sum_l kl_l."""
    layers: dict[str, Any] = (
        {f"kl[{l}]": kl_l for l, kl_l in enumerate(kl)} if isinstance(kl, list | tuple) else {"kl": kl}
    )
    if not layers:
        raise ValueError("kl holds no layer: give an array, or a list with one for each layer")
    advice = "all must be of one shape, kl of several layers a list of such arrays and beta a number or such an array"
    first, beta, *terms = same_shape(advice, ("beta",), **likelihood, beta=beta, **layers)
    return first, beta * functools.reduce(operator.add, terms)


def average(values: Array, weight: Array | None = None, axis: Axes = -1) -> Array:
    """sum_k weight_k values_k, or the mean: the estimate of an expectation over draws, [..., K] -> [...].

    >>> average(jnp.array([1.0, 2.0]), jnp.array([0.25, 0.75])).item()
    1.75
    """
    values, weight = _weighed(weight, axis, values=values)
    return jnp.sum(weight * jnp.where(weight == 0.0, 0.0, values), axis)


def iwae(log_weight: Array, weight: Array | None = None, axis: Axes = -1) -> Array:
    """ln sum_k w_k / K, the importance-weighted bound (Burda, Grosse and Salakhutdinov 2016): [..., K] -> [...].

    It is the ELBO at K = 1 and rises to ln p(x) with K; a `weight` [K] takes the place of 1 / K. Where every w_k is 0
    it is -inf, where one is infinite inf; both of gradient 0.

    >>> print(f"{iwae(jnp.log(jnp.array([0.2, 0.4]))):.4f}")  # ln 0.3
    -1.2040
    """
    log_weight, weight = _weighed(weight, axis, log_weight=log_weight)
    log_weight = jnp.where(weight == 0.0, -jnp.inf, log_weight)
    largest = jax.lax.stop_gradient(jnp.max(log_weight, axis, keepdims=True))
    infinite = jnp.isinf(largest)  # the shares there would be 0 / 0
    bound = jax.nn.logsumexp(jnp.where(infinite, 0.0, log_weight), axis, b=weight, keepdims=True)
    return jnp.squeeze(jnp.where(infinite, largest, bound), axis)


def renyi(log_weight: Array, alpha: ArrayLike, weight: Array | None = None, axis: Axes = -1) -> Array:
    """ln(sum_k w_k^(1 - alpha) / K) / (1 - alpha), the variational Renyi bound (Li and Turner 2016): [..., K] -> [...].

    alpha, a scalar that may be traced, is 0 for `iwae` and 1, the limit, for the ELBO, `average`; the bound's mean is
    one on ln p(x) for 0 <= alpha <= 1, the lower the greater alpha. A `weight` stands for its shares of its sum, whose
    logarithm is added: with a sum of 1 it takes the place of 1 / K, and at alpha = 0 of any sum.

    >>> log_weight = jnp.log(jnp.array([0.16, 0.36]))
    >>> print(f"{renyi(log_weight, alpha=0.5):.4f}, {renyi(log_weight, alpha=1.0):.4f}")  # 2 ln 0.5, ln 0.24
    -1.3863, -1.4271
    """
    if jnp.ndim(alpha) > 0:
        raise ValueError(f"alpha has shape {jnp.shape(alpha)}: it must be a scalar; for several use vmap")
    log_weight, weight = _weighed(weight, axis, log_weight=log_weight)
    log_weight, alpha = agree(None, log_weight=log_weight, alpha=alpha)
    total, order = jnp.sum(weight, axis, keepdims=True), 1.0 - alpha
    share = weight / total
    mean = jnp.sum(share * jnp.where(share == 0.0, 0.0, log_weight), axis, keepdims=True)
    log_weight = jnp.where(share == 0.0, mean, log_weight)
    reach = jnp.abs(order) * (jnp.max(log_weight, axis, keepdims=True) - jnp.min(log_weight, axis, keepdims=True))
    near = reach < 1.0  # not so where a log weight is infinite
    away = jnp.where(near | (order == 0.0), 1.0, order)
    far = jnp.where(order == 0.0, mean, jnp.expand_dims(iwae(away * log_weight, share, axis), axis) / away)
    deviation = jnp.where(near, log_weight - mean, 0.0)
    bound = jnp.where(near, mean + _above_elbo(deviation, share, order, reach, axis), far)
    return jnp.squeeze(bound + jnp.log(total), axis)


def _above_elbo(deviation: Array, share: Array, order: Array, reach: Array, axis: Axes) -> Array:
    """ln(sum_k share_k e^(order deviation_k)) / order for deviations of mean 0 and |order deviation_k| < reach < 1.

    expm1 and log1p lose nothing to the 1 that the shares sum to. Where even their quotient would, as order nears 0, it
    is order / 2 times the deviations' variance, exact to rounding, and of the right slope in alpha at alpha = 1.
    """
    small = reach < jnp.sqrt(jnp.finfo(deviation.dtype).eps)
    c = jnp.where(small, 1.0, order)
    tilt = jnp.sum(share * jnp.expm1(c * jnp.where(small, 0.0, deviation)), axis, keepdims=True)
    half_variance = 0.5 * jnp.sum(share * (order * deviation) * deviation, axis, keepdims=True)
    return jnp.where(small, half_variance, jnp.log1p(tilt) / c)


def _weighed(weight: ArrayLike | None, axis: Axes, **named: ArrayLike) -> list[Array]:
    """The one named array and the weights of its draws, 1 / K unless given, at one rank."""
    [values] = agree(axis, **named)
    [name] = named
    axes = normalize_axis_tuple(axis, values.ndim)
    draws = [size if i in axes else 1 for i, size in enumerate(values.shape)]
    if 0 in draws:
        raise ValueError(f"{name} has shape {values.shape}: there is no draw on axis {axis}")
    if weight is None:
        return [values, jnp.full(draws, 1.0 / math.prod(draws), values.dtype)]
    weight = jnp.asarray(weight)
    if weight.ndim not in (len(axes), values.ndim):
        want = f"give weight one axis for each of {axis}, or as many as {name}"
        raise ValueError(f"{name} has shape {values.shape} and weight {weight.shape}: {want}")
    if weight.ndim < values.ndim:
        weight = jnp.expand_dims(weight, range(len(axes), values.ndim))
        weight = jnp.moveaxis(weight, range(len(axes)), axes)
    return agree(axis, **named, weight=weight)


def dreg(log_weight: Callable[[Latents], Array], z: Latents, axis: Axes = -1) -> Array:
    """The value of `iwae` with the doubly reparameterised gradient, DReG (Tucker et al. 2019): [..., K, d] -> [...].

    With shares s_k = w_k / sum_j w_j the gradient for theta, which log_weight closes over, is
    sum_k s_k d ln w_k / dtheta, and for phi, by which z was drawn, sum_k s_k^2 (d ln w_k / dz_k) (dz_k / dphi).

    log_weight maps z, an array [..., K, d] or a pytree of such, to ln w [..., K], and must hold the encoder constant:
    `jax.lax.stop_gradient` of q, or of its parameters where layers are chained. The K draws of one bound must be
    independent, so it takes no weight: `average` many such bounds with one instead. `axis` is that of ln w.

    >>> def bound(m):
    ...     q, eps = Normal(m, jnp.ones(1)), jnp.array([[0.3], [-0.4]])
    ...     log_weight = lambda z: -sampled_kl(z, jax.lax.stop_gradient(q), standard_normal((1,)))
    ...     return dreg(log_weight, normal_sample(q, eps))
    >>> bound(jnp.zeros(1)).item(), jax.grad(bound)(jnp.zeros(1)).item()  # q is the posterior: no noise is left
    (0.0, 0.0)
    """
    # s_k = d iwae / d ln w_k, which is 0 where every weight is 0 and softmax would be 0 / 0.
    share = jax.grad(lambda w: iwae(w, axis=axis).sum())(log_weight(jax.lax.stop_gradient(z)))
    share = jax.lax.stop_gradient(share)
    return iwae(log_weight(jax.tree.map(lambda leaf: _scale_tangent(leaf, _extend(share, leaf)), z)), axis=axis)


def _extend(share: Array, leaf: Array) -> Array:
    if leaf.shape[: share.ndim] != share.shape:
        raise ValueError(f"z has shape {leaf.shape} and log_weight(z) {share.shape}: z must begin like log_weight(z)")
    return share.reshape(share.shape + (1,) * (leaf.ndim - share.ndim))


@jax.custom_jvp
def _scale_tangent(z: Array, scale: Array) -> Array:
    return z


@_scale_tangent.defjvp
def _scale_tangent_jvp(primals, tangents):
    (z, scale), (dz, _) = primals, tangents
    return z, (scale * dz).astype(z.dtype)
