"""What a training step minimises: a function of one step's draws, in nats. One of your own is written like these.

    def squared_kl(draws):
        return draws.mean(draws.recon) + draws.beta * sum(map(draws.mean, draws.kl)) ** 2

Each gives the negative of a bound on the evidence, averaged over the two data points.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae_bit import data, losses
from vae_bit.distributions import LOG_2PI, Distribution, Mixture, Normal, normal_kl
from vae_bit.models import ForwardPass


class Draws(NamedTuple):
    """One step's draws from q and all that is known there; lists have one entry a layer, z_1 first.

    Arrays are [2, *nodes], or broadcast to that: the first axis is the data point, 0^n and 1^n. `weight` sums to 1 over
    a point's nodes, whatever the noise is; see `mean`. Nodes are the noise's, times components of a mixture q(z_1 | x).
    """

    z: list[Array]  # z_l = mean_l + std_l eps_l where q is Gaussian
    eps: list[Array]  # standard-normal noise
    weight: Array  # of a mixture's draws one for each component, by its share
    q: list[Distribution]  # q(z_l | z_{l-1}), z_0 = x
    p: list[Distribution]  # p(z_l | z_{l+1}), the last being p(z_L)
    recon: Array  # -ln p(x | z_1), averaged over the bits that word dropout hides
    log_q: list[Array]  # ln q(z_l | z_{l-1})
    kl: list[Array]  # kl_l, as the recipe takes it: its mean is E[ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1})]
    beta: Array  # the run's, times its schedule
    progress: Array  # the share of the steps that is behind
    at: Callable[[list[Array]], ForwardPass]  # every conditional at given latents, q's parameters held constant

    def mean(self, values: Array) -> Array:
        """The expectation over draws, averaged over the two points: [2, *nodes] -> a scalar."""
        return jnp.sum(self.weight * values) / data.POINTS


Objective = Callable[[Draws], Array]


def elbo(draws: Draws) -> Array:
    """The negative ELBO, recon + beta * sum_l kl_l; see `losses.elbo`."""
    return losses.loss(draws.mean(draws.recon), [draws.mean(kl) for kl in draws.kl], draws.beta)


def path(draws: Draws) -> Array:
    """The same with the path gradient, which has no noise at the exact posterior; see `losses.path_kl`."""
    kl = sampled_kl(draws.at(draws.z))
    return losses.loss(draws.mean(draws.recon), [draws.mean(term) for term in kl], draws.beta)


def free_bits(draws: Draws, floor: float = math.log(2.0)) -> Array:
    """recon + beta * max(sum_l kl_l, floor); see `losses.free_bits`. The floor is what the one bit holds."""
    kl = sum(map(draws.mean, draws.kl))
    return losses.loss(draws.mean(draws.recon), losses.free_bits(kl, floor), draws.beta)


def iwae(draws: Draws) -> Array:
    """The importance-weighted bound on the k draws of each group; see `losses.iwae` and `noise.grouped`."""
    return _negative(draws, losses.iwae(_log_weight(draws, _grouped(draws))))


def renyi(draws: Draws, alpha: float = 0.5) -> Array:
    """The variational Renyi bound on each group of k draws, between IWAE (0) and the ELBO (1); see `losses.renyi`."""
    return _negative(draws, losses.renyi(_log_weight(draws, _grouped(draws)), alpha))


def dreg(draws: Draws) -> Array:
    """IWAE's bound with the doubly reparameterised gradient; see `losses.dreg`."""
    return _negative(draws, losses.dreg(lambda z: _log_weight(draws, draws.at(z)), _grouped(draws).z))


def _log_weight(draws: Draws, forward: ForwardPass | Draws) -> Array:
    """ln w of each draw, in which beta multiplies the KL: [2, groups, k]."""
    return -losses.loss(forward.recon, sampled_kl(forward), draws.beta)


def _negative(draws: Draws, bound: Array) -> Array:
    """Minus the mean over groups of a bound [2, groups]."""
    return -draws.mean(bound[..., None])


def _grouped(draws: Draws) -> Draws:
    """The draws, if they are groups of independent ones; ValueError else, for a grid too, whose axes are the layers."""
    if isinstance(draws.q[0], Mixture):
        raise ValueError("posterior: got a mixture, expected one draw from q at a time for a bound on several draws")
    if draws.weight.ndim != 3 or any(eps.shape != draws.weight.shape for eps in draws.eps):
        raise ValueError(
            f"noise: got nodes of shape {draws.weight.shape[1:]}, expected groups of independent draws for a bound on "
            "several: partial(noise.grouped, k=8, rule=noise.iid)"
        )
    return draws


Kl = Callable[[ForwardPass], list[Array]]  # of the layers, given a pass


def closed_kl(forward: ForwardPass) -> list[Array]:
    """What of `sampled_kl` has a closed form: KL(q(z_L | z_{L-1}) || p(z_L)) of two Gaussians, and the entropy of one.

    Broadcast to [2, *nodes].
    """
    *below, (z, q, p, log_q) = _by_layer(forward)
    if isinstance(q, Normal) and isinstance(p, Normal):
        top = normal_kl(*jax.tree.map(lambda field: field[..., None], (q, p)))
    else:
        top = _entropy_form(z, q, p, log_q)
    return [*(_entropy_form(*layer) for layer in below), top]


def _entropy_form(z: Array, q: Distribution, p: Distribution, log_q: Array) -> Array:
    """-H(q) - ln p(z) where q is Gaussian, ln q(z) - ln p(z) where not."""
    negentropy = -jnp.log(q.std) - 0.5 * (1.0 + LOG_2PI) if isinstance(q, Normal) else log_q
    return negentropy - p.log_prob(z)


def sampled_kl(forward: ForwardPass | Draws) -> list[Array]:
    """ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1}), at whatever latents the pass has."""
    return [log_q - p.log_prob(z) for z, _, p, log_q in _by_layer(forward)]


def _by_layer(forward: ForwardPass | Draws) -> list[tuple[Array, Distribution, Distribution, Array]]:
    """z_l, q, p and ln q of every layer."""
    return list(zip(forward.z, forward.q, forward.p, forward.log_q, strict=True))
