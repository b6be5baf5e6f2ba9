"""Evidence bounds as pure functions of log densities: of one example, in nats, nothing averaged that is not asked for.

An `elbo`, like every bound on ln p(x) here, is to be raised; a `loss` is to be lowered: loss = -elbo. A layer's
divergence is kl_l. Latents may be scalars, vectors or chains of either: these functions see only log densities.

One number serves all bounds that draw K times: the log weight ln w_k = ln p(x, z_k) - ln q(z_k | x), which is
`elbo(log_likelihood, kl)` when kl holds a `sampled_kl` for each layer. Draws lie on the last axis, [..., K] -> [...].

A `weight` [K] from `vae_bit.noise` may replace the equal weights 1 / K. It has two uses. Across bounds,
`average(bound [M], weight [M])` is the expectation of any bound here, each on draws of its own. Inside one,
`iwae(log_weight, weight)` is ln of a quadrature of p(x): a bound too, since E[sum_k weight_k w_k] = p(x) still, and a
tighter one than K independent draws give (Buchholz, Wenzel and Mandt 2018).
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_bit.checks import agree
from vae_bit.distributions import Normal, normal_entropy, normal_kl_standard, normal_log_prob

Latents = TypeVar("Latents")


def sampled_kl(z: Array, q: Normal, p: Normal) -> Array:
    """ln q(z) - ln p(z), whose mean over z ~ q is KL(q || p): [..., d] -> [...].

    For a layer below the top p was itself conditioned on a draw that came from this z, so the mean is the layer's
    share of the bound, E_q[ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1})], and no closed form of two Gaussians
    (Rezende, Mohamed and Wierstra 2014).

    >>> q, p = Normal(jnp.ones(2), jnp.ones(2)), Normal(jnp.zeros(2), jnp.ones(2))
    >>> sampled_kl(jnp.array([[1.0, 1.0], [0.0, 0.0]]), q, p).tolist()
    [1.0, -1.0]
    """
    log_q, log_p = agree(None, log_q=normal_log_prob(z, q), log_p=normal_log_prob(z, p))
    return log_q - log_p


def partly_closed_kl(z: Array, q: Normal, p: Normal) -> Array:
    """-H(q) - ln p(z): `sampled_kl` with its first term in closed form, so of lower variance: [..., d] -> [...].

    >>> q, p = Normal(jnp.ones(1), jnp.ones(1)), Normal(jnp.zeros(1), jnp.ones(1))
    >>> print(f"{partly_closed_kl(jnp.ones(1), q, p):.4f}")
    0.0000
    """
    entropy, log_p = agree(None, entropy=normal_entropy(q), log_p=normal_log_prob(z, p))
    return -entropy - log_p


def path_kl(z: Array, q: Normal, p: Normal) -> Array:
    """`sampled_kl` without the score term of its gradient, "sticking the landing": [..., d] -> [...].

        d/dphi [ln q_phi(z_phi) - ln p(z_phi)]  less  (d/dphi ln q_phi)(z), whose mean over z ~ q is 0.

    The gradient stays unbiased, and has no variance where q is the exact posterior (Roeder, Wu and Duvenaud 2017). The
    value is that of `sampled_kl`. It serves the ELBO, `average` of `elbo`; for K draws in one bound use `dreg`.

    >>> z = lambda m: normal_sample(Normal(m, jnp.ones(1)), jnp.array([0.7]))
    >>> kl = lambda m: path_kl(z(m), Normal(m, jnp.ones(1)), Normal(jnp.zeros(1), jnp.ones(1)))
    >>> jax.grad(kl)(jnp.zeros(1)).tolist()
    [0.0]
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
    the sum of kl_l: below the top one alone may be negative. With it the objective is at most the ELBO.

    >>> free_bits(jnp.array([0.5, 3.0]), 1.0).tolist()
    [1.0, 3.0]
    """
    kl, floor = agree(None, kl=kl, floor=floor)
    return jnp.maximum(kl, floor)


def elbo(log_likelihood: Array, kl: Array, beta: ArrayLike = 1.0) -> Array:
    """ELBO = ln p(x | z_1) - beta * sum_l kl_l, to be raised (Kingma and Welling 2014; beta: Higgins et al. 2017).

    log_likelihood [...]; kl [...] for one layer or [L, ...], one axis more, for L. beta = 1 is the bound on ln p(x);
    with a `sampled_kl` for each layer it is the log weight of the draw.

    >>> elbo(jnp.array(-1.0), jnp.array([0.5, 0.25])).item(), elbo(jnp.array(-1.0), jnp.array(0.5), beta=4.0).item()
    (-1.75, -3.0)
    """
    return -loss(-log_likelihood, kl, beta)


def loss(recon: Array, kl: Array, beta: ArrayLike = 1.0) -> Array:
    """The beta-VAE's loss, recon + beta * sum_l kl_l = -elbo, recon = -ln p(x | z_1); shapes as in `elbo`.

    >>> loss(jnp.array(1.0), jnp.array([0.5, 0.25]), beta=2.0).item()
    2.5
    """
    layers = jnp.ndim(kl) > jnp.ndim(recon)
    recon, total, beta = agree(None, recon=recon, kl=kl.sum(0) if layers else kl, beta=beta)
    return recon + beta * total


def average(values: Array, weight: Array | None = None) -> Array:
    """sum_k weight_k values_k, or the mean: the estimate of an expectation over draws, [..., K] -> [...].

    >>> average(jnp.array([1.0, 2.0]), jnp.array([0.25, 0.75])).item()
    1.75
    """
    if weight is None:
        return jnp.mean(*agree(values=values), axis=-1)
    values, weight = agree(values=values, weight=weight)
    return jnp.sum(weight * values, axis=-1)


def iwae(log_weight: Array, weight: Array | None = None) -> Array:
    """ln sum_k w_k / K, the importance-weighted bound (Burda, Grosse and Salakhutdinov 2016): [..., K] -> [...].

    It is the ELBO at K = 1 and rises to ln p(x) with K; a `weight` [K] takes the place of 1 / K.

    >>> print(f"{iwae(jnp.log(jnp.array([0.2, 0.4]))):.4f}")  # ln 0.3
    -1.2040
    """
    if weight is None:
        return jax.nn.logsumexp(*agree(log_weight=log_weight), axis=-1) - math.log(log_weight.shape[-1])
    log_weight, weight = agree(log_weight=log_weight, weight=weight)
    return jax.nn.logsumexp(log_weight, axis=-1, b=weight)


def renyi(log_weight: Array, alpha: float, weight: Array | None = None) -> Array:
    """ln(sum_k w_k^(1 - alpha) / K) / (1 - alpha), the variational Renyi bound (Li and Turner 2016): [..., K] -> [...].

    alpha = 0 is `iwae`, alpha -> 1 the ELBO (ValueError at 1: use `average`); its mean is a bound on ln p(x) for
    0 <= alpha < 1, the lower the greater alpha.

    >>> print(f"{renyi(jnp.log(jnp.array([0.16, 0.36])), alpha=0.5):.4f}")  # 2 ln 0.5
    -1.3863
    """
    if alpha == 1:
        raise ValueError("alpha = 1 is the ELBO: use average(log_weight, weight)")
    return iwae((1.0 - alpha) * log_weight, weight) / (1.0 - alpha)


def dreg(log_weight: Callable[[Latents], Array], z: Latents) -> Array:
    """The value of `iwae` with the doubly reparameterised gradient, DReG (Tucker et al. 2019): [..., K, d] -> [...].

    With shares s_k = w_k / sum_j w_j the gradient for theta, which log_weight closes over, is
    sum_k s_k d ln w_k / dtheta, and for phi, by which z was drawn, sum_k s_k^2 (d ln w_k / dz_k) (dz_k / dphi).

    log_weight maps z, an array [..., K, d] or a pytree of such, to ln w [..., K], and must hold the encoder constant:
    `jax.lax.stop_gradient` of q, or of its parameters where layers are chained. The K draws of one bound must be
    independent, so it takes no weight: `average` many such bounds with one instead.

    >>> def bound(m):
    ...     q, eps = Normal(m, jnp.ones(1)), jnp.array([[0.3], [-0.4]])
    ...     log_weight = lambda z: -sampled_kl(z, jax.lax.stop_gradient(q), standard_normal((1,)))
    ...     return dreg(log_weight, normal_sample(q, eps))
    >>> bound(jnp.zeros(1)).item(), jax.grad(bound)(jnp.zeros(1)).item()  # q is the posterior: no noise is left
    (0.0, 0.0)
    """
    share = jax.lax.stop_gradient(jax.nn.softmax(log_weight(jax.lax.stop_gradient(z)), axis=-1))
    return iwae(log_weight(jax.tree.map(lambda leaf: _scale_tangent(leaf, _extend(share, leaf)), z)))


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
    return z, scale * dz
