"""Log densities, divergences and reparameterised draws, of one example.

Events lie on the last axis and are summed over it, leading axes broadcast: a latent of size d has shape [..., d] and
its log density [...]. A `mask` (True or 1 counts, False or 0 does not) leaves padding out of the sum: what it hides,
be it NaN, touches neither value nor gradient. It broadcasts to the events, [d] or [..., d] or [..., 1], or counts whole
events, [...]; where a shape could mean either it is refused. Everything is in nats and nothing is averaged. Arrays of
different dtypes raise TypeError, shapes that do not fit ValueError. Results are in the dtype of the input, float32 or
float64; sums over narrower numbers (bfloat16, float16) are made, and returned, in float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from numpy.lib.array_utils import normalize_axis_tuple

from vae_bit import spline
from vae_bit.checks import Axes, agree, fit_mask

LOG_2PI = 1.8378770664093453


class Drawn(NamedTuple):
    """Reparameterised draws of scalars, one for each noise: E[f(z)] is the mean over the noise of weight * f(z)."""

    z: Array
    log_prob: Array  # ln q(z)
    weight: Array | float  # 1, or a share for each of the draws that one noise gives, on a last axis that z has more


class Normal(NamedTuple):
    """A diagonal Gaussian N(mean, std^2) of size d: `mean` and `std` [..., d], std > 0; a pytree."""

    mean: Array
    std: Array

    def log_prob(self, z: Array) -> Array:
        """ln N(z; mean, std^2), elementwise, of scalars."""
        return -0.5 * (jnp.square((z - self.mean) / self.std) + LOG_2PI) - jnp.log(self.std)

    def draw(self, eps: Array) -> Drawn:
        """z = mean + std * eps, elementwise."""
        log_prob = -0.5 * (jnp.square(eps) + LOG_2PI) - jnp.log(self.std)
        return Drawn(self.mean + self.std * eps, log_prob, 1.0)


class Mixture(NamedTuple):
    """A mixture of K diagonal Gaussians of size d, weights softmax(logits); a pytree.

    `logits` [..., K], `mean` and `std` [..., K, d]; of scalars, for the methods, [..., K] all three.
    """

    logits: Array
    mean: Array
    std: Array

    def log_prob(self, z: Array) -> Array:
        """ln sum_k w_k N(z; mean_k, std_k^2), elementwise, of scalars."""
        log_weight = jax.nn.log_softmax(self.logits)
        return jax.nn.logsumexp(log_weight + Normal(self.mean, self.std).log_prob(z[..., None]), axis=-1)

    def draw(self, eps: Array) -> Drawn:
        """One draw of each component, [..., K], whose weights are those of the components: these have gradients too."""
        z = self.mean + self.std * eps[..., None]
        log_prob = Mixture(*(field[..., None, :] for field in self)).log_prob(z)
        return Drawn(z, log_prob, jax.nn.softmax(self.logits))


class Flow(NamedTuple):
    """z = T(eps), eps ~ N(0, 1), with T a monotone spline of B bins (`vae_bit.spline`), one a dimension; a pytree.

    `x`, `y` and `slope` are the knots, [..., d, B + 1], x and y ascending and slope > 0; of scalars [..., B + 1].
    """

    x: Array
    y: Array
    slope: Array

    def log_prob(self, z: Array) -> Array:
        """ln N(T^-1(z)) - ln T'(T^-1(z)), elementwise, of scalars."""
        eps, log_slope = spline.inverse(self, z)
        return -0.5 * (jnp.square(eps) + LOG_2PI) - log_slope

    def draw(self, eps: Array) -> Drawn:
        """z = T(eps), elementwise."""
        z, log_slope = spline.forward(self, eps)
        return Drawn(z, -0.5 * (jnp.square(eps) + LOG_2PI) - log_slope, 1.0)


Distribution = Normal | Mixture | Flow


def standard_normal(shape: tuple[int, ...], dtype=None) -> Normal:
    """N(0, 1) of the given shape: the prior of the top layer; `dtype` is JAX's default float unless given.

    >>> standard_normal((2,)).std
    Array([1., 1.], dtype=float32)
    """
    return Normal(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))


def normal_sample(q: Normal, eps: ArrayLike) -> Array:
    """Reparameterised draw z = mean + std * eps, eps ~ N(0, 1) (Kingma and Welling 2014, section 2.4).

    q [..., d], eps [..., d] -> [..., d]: eps [K, d] gives K draws, differentiable in mean and std and of their dtype,
    bfloat16 too. Arrays of one rank, such as scalar latents on a grid, broadcast along every axis; of unlike rank, all
    but the first (ValueError).

    >>> q = Normal(jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0]))
    >>> normal_sample(q, jnp.array([[0.0, 0.0], [2.0, -1.0]])).tolist()
    [[1.0, 2.0], [2.0, 1.0]]
    """
    dtype = jnp.result_type(q.mean, q.std, eps)
    arrays = {"mean": q.mean, "std": q.std, "eps": eps}
    mean, std, eps = agree(None, **arrays)
    if len({jnp.ndim(array) for array in arrays.values()} - {0}) > 1:
        agree(**{name: array for name, array in arrays.items() if jnp.ndim(array) > 0})
    return (mean + std * eps).astype(dtype)


def normal_log_prob(z: ArrayLike, p: Normal, mask: ArrayLike | None = None) -> Array:
    """ln N(z; mean, std^2) = sum_d -((z - mean) / std)^2 / 2 - ln std - ln(2 pi) / 2: [..., d] -> [...].

    >>> print(f"{normal_log_prob(jnp.array([0.0, 1.0]), standard_normal((2,))):.4f}")
    -2.3379
    """

    def term(z: Array, mean: Array, std: Array) -> Array:
        standardised = (z - mean) / std
        return -0.5 * (jnp.square(standardised) + LOG_2PI) - jnp.log(std)

    return _total(term, mask, z=z, mean=p.mean, std=p.std)


def normal_entropy(q: Normal, mask: ArrayLike | None = None) -> Array:
    """H(q) = sum_d ln std_d + (1 + ln 2 pi) / 2: [..., d] -> [...].

    >>> print(f"{normal_entropy(standard_normal((1,))):.4f}")
    1.4189
    """
    return _total(lambda mean, std: jnp.log(std) + 0.5 * (1.0 + LOG_2PI), mask, mean=q.mean, std=q.std)


def normal_kl(q: Normal, p: Normal, mask: ArrayLike | None = None) -> Array:
    """KL(q || p) = sum_d ln(std_p / std_q) + (std_q^2 + (mean_q - mean_p)^2) / (2 std_p^2) - 1/2: [..., d] -> [...].

    >>> q, p = Normal(jnp.ones(1), jnp.ones(1)), Normal(jnp.zeros(1), 2.0 * jnp.ones(1))
    >>> print(f"{normal_kl(q, p):.4f}")
    0.4431
    """

    def term(q_mean: Array, q_std: Array, p_mean: Array, p_std: Array) -> Array:
        ratio = q_std / p_std
        shift = (q_mean - p_mean) / p_std
        return 0.5 * (jnp.square(ratio) + jnp.square(shift) - 1.0) - jnp.log(ratio)

    return _total(term, mask, q_mean=q.mean, q_std=q.std, p_mean=p.mean, p_std=p.std)


def normal_kl_standard(q: Normal, mask: ArrayLike | None = None) -> Array:
    """KL(q || N(0, 1)) = sum_d (mean^2 + std^2 - 1) / 2 - ln std: [..., d] -> [...] (Kingma and Welling 2014, app. B).

    >>> print(f"{normal_kl_standard(Normal(jnp.array([3.0, 0.0]), jnp.ones(2))):.4f}")
    4.5000
    """

    def term(mean: Array, std: Array) -> Array:
        return 0.5 * (jnp.square(mean) + jnp.square(std) - 1.0) - jnp.log(std)

    return _total(term, mask, mean=q.mean, std=q.std)


def mixture_sample(q: Mixture, eps: ArrayLike) -> tuple[Array, Array]:
    """One draw of each component, z [..., K, d], and the weights [..., K]: E_q[f] is the mean over eps of sum_k w_k f(z_k).

    eps [..., d] is N(0, 1) and serves every component; differentiable in the weights too, as no component is drawn.

    >>> q = Mixture(jnp.zeros(2), jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1)))
    >>> z, weight = mixture_sample(q, jnp.array([0.5]))
    >>> z.tolist(), weight.tolist()
    ([[-0.5], [1.5]], [0.5, 0.5])
    """
    return normal_sample(Normal(q.mean, q.std), jnp.asarray(eps)[..., None, :]), jax.nn.softmax(q.logits)


def mixture_log_prob(z: ArrayLike, p: Mixture, mask: ArrayLike | None = None) -> Array:
    """ln sum_k w_k N(z; mean_k, std_k^2), w = softmax(logits): [..., d] -> [...].

    >>> p = Mixture(jnp.zeros(2), jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1)))
    >>> print(f"{mixture_log_prob(jnp.zeros(1), p):.4f}")
    -1.4189
    """
    if mask is not None:
        mask = jnp.expand_dims(jnp.asarray(mask), -2)
    each = normal_log_prob(jnp.asarray(z)[..., None, :], Normal(p.mean, p.std), mask)
    return jax.nn.logsumexp(jax.nn.log_softmax(p.logits) + each, axis=-1)


def flow_sample(q: Flow, eps: ArrayLike) -> Array:
    """z = T(eps), eps ~ N(0, 1): [..., d] -> [..., d]."""
    return spline.forward(q, jnp.asarray(eps))[0]


def flow_log_prob(z: ArrayLike, p: Flow, mask: ArrayLike | None = None) -> Array:
    """sum_d ln N(T^-1(z)) - ln T'(T^-1(z)): [..., d] -> [...]."""
    eps, log_slope = spline.inverse(p, jnp.asarray(z))
    return _total(
        lambda eps, log_slope: -0.5 * (jnp.square(eps) + LOG_2PI) - log_slope, mask, eps=eps, log_slope=log_slope
    )


def log_prob(z: ArrayLike, p: Distribution, mask: ArrayLike | None = None) -> Array:
    """ln p(z) of whichever distribution: [..., d] -> [...]."""
    functions: dict[type, Callable[..., Array]] = {
        Normal: normal_log_prob,
        Mixture: mixture_log_prob,
        Flow: flow_log_prob,
    }
    return functions[type(p)](z, p, mask)


def _total(term: Callable[..., Array], mask: ArrayLike | None, axis: Axes = -1, **arrays: ArrayLike) -> Array:
    """The sum over `axis` of term(*arrays), times the mask.

    What the mask hides is replaced before the arithmetic, by 1, where every term and its derivatives are finite: the
    derivative of a NaN that is only left out of the sum is 0 * NaN.
    """
    given = agree(axis, **arrays)
    if mask is None:
        return jnp.sum(term(*given), axis)
    event = jnp.broadcast_shapes(*(array.shape for array in given))
    mask = fit_mask(mask, event, axis).astype(jnp.result_type(*given))
    from_last = tuple(
        i - len(event) for i in normalize_axis_tuple(axis, len(event))
    )  # the mask may lead with more axes
    *given, mask = agree(None, **dict(zip(arrays, given, strict=True)), mask=mask)
    return jnp.sum(mask * term(*(jnp.where(mask == 0.0, 1.0, array) for array in given)), from_last)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """ln(1 + e^x), as max(x, 0) + ln(1 + e^-|x|): elementwise, finite for every finite x, derivative sigmoid(x).

    >>> softplus(jnp.array([-1e4, 0.0, 1e4])).round(4).tolist()
    [0.0, 0.6930999755859375, 10000.0]
    """
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return softplus(x), jax.nn.sigmoid(x) * dx


def bernoulli_log_prob(x: ArrayLike, logits: Array, mask: ArrayLike | None = None, axis: Axes = -1) -> Array:
    """ln Bernoulli(x; sigmoid(logits)) = sum_i x_i logit_i - softplus(logit_i), summed over `axis`: [..., n] -> [...].

    x is of the logits' dtype, in [0, 1]. An image's axes are a tuple: axis = (-3, -2, -1). A logit may be infinite: a
    bit that is then certain costs nothing, and one that is then impossible makes the sum -inf.

    >>> x, logits = jnp.array([1.0, 0.0, 1.0]), jnp.array([0.0, 0.0, -1e4])
    >>> print(f"{bernoulli_log_prob(x, logits, mask=jnp.array([1, 1, 0])):.4f}")
    -1.3863
    """
    return _total(_log_bernoulli, mask, axis, x=x, logits=logits)


@jax.custom_jvp
def _log_bernoulli(x: Array, logits: Array) -> Array:
    """x logit - softplus(logit) as -m |logit| - ln(1 + e^-|logit|), m the mass of x on the less likely bit.

    Nothing cancels, so a likely bit keeps its digits at any logit, and m = 0 at an infinite one is a limit of 0.
    """
    m = jnp.where(logits > 0.0, 1.0 - x, x)
    size = jnp.abs(logits)
    return -m * jnp.where(m == 0.0, 0.0, size) - jnp.log1p(jnp.exp(-size))


@_log_bernoulli.defjvp
def _log_bernoulli_jvp(primals, tangents):
    (x, logits), (dx, dlogits) = primals, tangents
    slope = jnp.where(jnp.isinf(logits), 0.0, logits)  # x does not move where its logit is infinite
    return _log_bernoulli(x, logits), (x - jax.nn.sigmoid(logits)) * dlogits + slope * dx


def bernoulli_kl(q_logits: Array, p_logits: Array, mask: ArrayLike | None = None) -> Array:
    """KL(q || p) = sum_i sigmoid(a_i) (a_i - b_i) - softplus(a_i) + softplus(b_i) of logits a, b: [..., n] -> [...].

    Logits may be infinite: the divergence of a certain bit is finite unless p excludes it, and 0 where p is as certain.

    >>> print(f"{bernoulli_kl(jnp.array([1e4, 0.0]), jnp.zeros(2)):.4f}")
    0.6931
    """
    return _total(_bernoulli_kl, mask, q_logits=q_logits, p_logits=p_logits)


@jax.custom_jvp
def _bernoulli_kl(a: Array, b: Array) -> Array:
    """sum over both bits of q(bit) (ln q(bit) - ln p(bit)), where a bit of no mass counts nothing."""
    one, zero = jax.nn.sigmoid(a), jax.nn.sigmoid(-a)
    kl_one = one * jnp.where(one == 0.0, 0.0, softplus(-b) - softplus(-a))
    kl_zero = zero * jnp.where(zero == 0.0, 0.0, softplus(b) - softplus(a))
    excluded = jnp.isinf(b) & ((a < b) | (a > b))  # p is certain and q is not, though its mass may round to 0
    return jnp.where(excluded, jnp.inf, kl_one + kl_zero)


@_bernoulli_kl.defjvp
def _bernoulli_kl_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    variance = jax.nn.sigmoid(a) * jax.nn.sigmoid(-a)
    by_a = variance * jnp.where(variance == 0.0, 0.0, a - b)
    return _bernoulli_kl(a, b), by_a * da + (jax.nn.sigmoid(b) - jax.nn.sigmoid(a)) * db
