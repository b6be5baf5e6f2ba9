"""Mixtures of diagonal Gaussians. No component is chosen by chance, so draws are differentiable in the weights too."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_bit.checks import agree, agree_scalars, fit_mask, instance
from vae_bit.distributions.events import Drawn
from vae_bit.distributions.normal import Normal, normal_log_prob, normal_sample


class Mixture(NamedTuple):
    """A mixture of K diagonal Gaussians of size d, weights softmax(logits); a pytree.

    `logits` [..., K], `mean` and `std` [..., K, d], std > 0; of scalars, for the methods, [..., K] all three. A logit
    may be -inf: its component has no weight.
    """

    logits: Array
    mean: Array
    std: Array

    def log_prob(self, z: Array) -> Array:
        """ln sum_k w_k N(z; mean_k, std_k^2), elementwise, of scalars."""
        z, (logits, mean, std) = agree_scalars(1, self._asdict(), z=z)
        return _mixed(logits, Normal(mean, std).log_prob(z[..., None]))

    def draw(self, eps: Array) -> Drawn:
        """One draw of each component, [..., K], whose weights are those of the components: these have gradients too."""
        eps, (logits, mean, std) = agree_scalars(1, self._asdict(), eps=eps)
        step = std * eps[..., None]
        # Seen from each component's own mean: z_k - mean_k would lose the digits of a narrow component.
        others = Mixture(logits[..., None, :], mean[..., None, :] - mean[..., None], std[..., None, :])
        return Drawn(mean + step, others.log_prob(step), jax.nn.softmax(logits))


def mixture_sample(q: Mixture, eps: ArrayLike) -> tuple[Array, Array]:
    """One draw of each component, z_k = mean_k + std_k eps, [..., K, d], and the weights [..., K].

        E_q[f(z)] = sum_k w_k E[f(z_k)],  w = softmax(logits),  eps ~ N(0, I).

    eps [..., d] serves every component. As no component is drawn by chance, the weights' gradient needs no score
    function: stratified sampling, as in Roeder, Wu and Duvenaud (2017) and Morningstar et al. (2021). z is of the
    fields' dtype, the weights are float32 at least. Errors as in `mixture_log_prob`.

    >>> q = Mixture(jnp.zeros(2), jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1)))
    >>> z, weight = mixture_sample(q, jnp.array([0.5]))
    >>> z.tolist(), weight.tolist()
    ([[-0.5], [1.5]], [0.5, 0.5])

    So a KL is `sampled_kl` at each component's draw, averaged with the weights, and then over the noise. The trapezoid
    rule gives it and its gradient to four digits with 64 nodes, whatever the key:

    >>> from vae_bit.noise import trapezoid
    >>> def kl(q, p, key):
    ...     eps, weight = draw_latent(key, trapezoid, size=1, samples=64)
    ...     z, share = mixture_sample(q, eps)  # [64, K, d] and [K]
    ...     return average(average(sampled_kl(z, q, p), share), weight)
    >>> p = Normal(jnp.ones(1), jnp.ones(1))
    >>> value, slope = jax.value_and_grad(kl)(q, p, jax.random.key(0))
    >>> print(f"{value:.4f}", [f"{part:.4f}" for part in slope.logits])
    0.6632 ['0.5000', '-0.5000']

    For a batch of mixtures use `jax.vmap`: beside z [B, K, d] the batch axis of logits [B, K] would stand under z's K.
    """
    instance(Mixture, q=q)
    wanted = jnp.result_type(q.mean, q.std, eps)
    eps, (logits, mean, std) = _fit(q, eps=eps)
    z = normal_sample(Normal(mean, std), eps[..., None, :])
    return z.astype(wanted), jax.nn.softmax(logits).reshape(jnp.shape(q.logits))


def mixture_log_prob(z: ArrayLike, p: Mixture, mask: ArrayLike | None = None) -> Array:
    """ln sum_k w_k N(z; mean_k, std_k^2), w = softmax(logits): [..., d] -> [...].

    K must be the same for all fields and d for z, mean and std (ValueError). A mask hides dimensions of z, which the
    density is then not of, in every component; or whole events, whose log density is 0.

    >>> p = Mixture(jnp.zeros(2), jnp.array([[-1.0], [1.0]]), jnp.ones((2, 1)))
    >>> print(f"{mixture_log_prob(jnp.zeros(1), p):.4f}")
    -1.4189
    """
    instance(Mixture, p=p)
    z, (logits, mean, std) = _fit(p, z=z)
    if mask is None:
        return _mixed(logits, normal_log_prob(z[..., None, :], Normal(mean, std)))
    mask = fit_mask(mask, jnp.broadcast_shapes(z.shape, mean[..., 0, :].shape, (*logits.shape[:-1], 1)), -1)
    each = normal_log_prob(z[..., None, :], Normal(mean, std), mask[..., None, :])
    shown = jnp.any(mask != 0, axis=-1, keepdims=True)  # an event that is hidden whole hides its logits
    logits = jnp.where(shown, jnp.expand_dims(logits, range(each.ndim - logits.ndim)), 0.0)
    return _mixed(logits, each)


def _mixed(logits: Array, each: Array) -> Array:
    """ln sum_k w_k e^each_k, w = softmax(logits): [..., K] -> [...]."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + each, axis=-1)


def _fit(p: Mixture, **event: ArrayLike) -> tuple[Array, Mixture]:
    """The event [..., d] and the fields, at ranks that broadcast; ValueError or TypeError if they do not fit."""
    if jnp.ndim(p.mean) < 2 or jnp.ndim(p.logits) < 1:
        shapes = f"logits has shape {jnp.shape(p.logits)} and mean {jnp.shape(p.mean)}"
        raise ValueError(f"{shapes}: a mixture's are [..., K] and [..., K, d]")
    of_components, of_events = jnp.asarray(p.mean)[..., 0], jnp.asarray(p.mean)[..., 0, :]
    mean, std = agree((-2, -1), mean=p.mean, std=p.std)
    logits, _ = agree(-1, logits=p.logits, **{"mean[..., 0]": of_components})
    z, _ = agree(-1, **event, **{"mean[..., 0, :]": of_events})
    rank = max(z.ndim, logits.ndim, mean.ndim - 1)
    z, logits = (jnp.expand_dims(a, range(rank - a.ndim)) for a in (z, logits))
    mean, std = (jnp.expand_dims(a, range(rank + 1 - a.ndim)) for a in (mean, std))
    return z, Mixture(logits, mean, std)
