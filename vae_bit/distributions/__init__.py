"""Log densities, divergences and reparameterised draws, of one example.

Events lie on the last axis and are summed over it, leading axes broadcast: a latent of size d has shape [..., d] and
its log density [...]. A `mask` (True or 1 counts, False or 0 does not) leaves padding out of the sum: what it hides,
be it NaN, touches neither value nor gradient. It broadcasts to the events, [d] or [..., d] or [..., 1], or counts whole
events, [...]; where a shape could mean either it is refused. Everything is in nats and nothing is averaged. Arrays of
different dtypes raise TypeError, shapes that do not fit ValueError. Results are in the dtype of the input, float32 or
float64; sums over narrower numbers (bfloat16, float16) are made, and returned, in float32.

Normal, Mixture and Flow have methods too, `log_prob` and `draw`, for latents that are scalars: they take each number of
z or eps [...] for a latent of its own, and have its components or knots on the last axis of their fields.
"""

from jax import Array
from jax.typing import ArrayLike

from vae_bit.distributions.bernoulli import bernoulli_kl, bernoulli_log_prob, softplus
from vae_bit.distributions.events import LOG_2PI, Distribution, Drawn
from vae_bit.distributions.flow import Flow, flow_log_prob, flow_sample
from vae_bit.distributions.mixture import Mixture, mixture_log_prob, mixture_sample
from vae_bit.distributions.normal import (
    Normal,
    normal_entropy,
    normal_kl,
    normal_kl_standard,
    normal_log_prob,
    normal_sample,
    standard_normal,
)

__all__ = [
    "LOG_2PI",
    "Distribution",
    "Drawn",
    "Flow",
    "Mixture",
    "Normal",
    "bernoulli_kl",
    "bernoulli_log_prob",
    "flow_log_prob",
    "flow_sample",
    "log_prob",
    "mixture_log_prob",
    "mixture_sample",
    "normal_entropy",
    "normal_kl",
    "normal_kl_standard",
    "normal_log_prob",
    "normal_sample",
    "softplus",
    "standard_normal",
]


def log_prob(z: ArrayLike, p: Distribution, mask: ArrayLike | None = None) -> Array:
    """ln p(z) of a Normal, a Mixture or a Flow, as their own functions give it: [..., d] -> [...].

    >>> import jax.numpy as jnp
    >>> print(f"{log_prob(jnp.zeros(1), standard_normal((1,))):.4f}")
    -0.9189
    """
    match p:
        case Normal():
            return normal_log_prob(z, p, mask)
        case Mixture():
            return mixture_log_prob(z, p, mask)
        case Flow():
            return flow_log_prob(z, p, mask)
    raise TypeError(f"p is a {type(p).__name__}: a Normal, Mixture or Flow is needed")
