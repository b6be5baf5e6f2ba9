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
from vae_bit.distributions import Normal, normal_kl
from vae_bit.models import ForwardPass


class Draws(NamedTuple):
    """One step's draws from q and all that is known there; lists have one entry a layer, z_1 first.

    Arrays are [2, *nodes], or broadcast to that: the first axis is the data point, 0^n and 1^n. `weight` sums to 1 over
    a point's nodes, whatever the noise is; see `mean`.
    """

    z: list[Array]  # z_l = mean_l + std_l eps_l
    eps: list[Array]  # standard-normal noise
    weight: Array
    q: list[Normal]  # q(z_l | z_{l-1}), z_0 = x
    p: list[Normal]  # p(z_l | z_{l+1}), the last being p(z_L)
    recon: Array  # -ln p(x | z_1)
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
    kl = sampled_kl(draws.at(draws.z), draws.eps)
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
    return -losses.loss(forward.recon, sampled_kl(forward, draws.eps), draws.beta)


def _negative(draws: Draws, bound: Array) -> Array:
    """Minus the mean over groups of a bound [2, groups]."""
    return -draws.mean(bound[..., None])


def _grouped(draws: Draws) -> Draws:
    """The draws, if they are groups of independent ones; ValueError else, for a grid too, whose axes are the layers."""
    if draws.weight.ndim != 3 or any(eps.shape != draws.weight.shape for eps in draws.eps):
        raise ValueError(
            f"noise: got nodes of shape {draws.weight.shape[1:]}, expected groups of independent draws for a bound on "
            "several: partial(noise.grouped, k=8, rule=noise.iid)"
        )
    return draws


Kl = Callable[[ForwardPass, list[Array]], list[Array]]  # of the layers, given a pass and its noise


def closed_kl(forward: ForwardPass, eps: list[Array]) -> list[Array]:
    """KL(q(z_L | z_{L-1}) || p(z_L)) in closed form, -H(q) - ln p below the top; broadcast to [2, *nodes]."""
    *below, (_, q, p) = _by_layer(forward)
    return [*(losses.entropy_form_kl(*layer) for layer in below), normal_kl(q, p)]


def sampled_kl(forward: ForwardPass | Draws, eps: list[Array]) -> list[Array]:
    """ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1}), at whatever latents the pass has."""
    return [losses.sampled_kl(*layer) for layer in _by_layer(forward)]


def drawn_kl(forward: ForwardPass, eps: list[Array]) -> list[Array]:
    """`sampled_kl` at z = mean + std * eps, where ln q = -H(q) + (1 - eps^2) / 2 needs no division."""
    kl = [losses.entropy_form_kl(*layer) for layer in _by_layer(forward)]
    return [kl_l + 0.5 * (1.0 - jnp.square(eps_l)) for kl_l, eps_l in zip(kl, eps, strict=True)]


def _by_layer(forward: ForwardPass | Draws) -> list[tuple[Array, Normal, Normal]]:
    """z_l, q and p of every layer, each as events of size 1."""
    return list(zip(*jax.tree.map(lambda a: a[..., None], (forward.z, forward.q, forward.p)), strict=True))
