"""The terms of a chain's loss, and ELBO surgery, by quadrature: each with the worst defect of the masses on its way.

Where q(z_1 | x) and p(z_L) are Gaussian the closed forms count; any other family is integrated by its log density.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_bit.densities import Marginal, draws, known, start
from vae_bit.distributions import LOG_2PI, Distribution, Normal
from vae_bit.marginals import (
    INNER_PASSES,
    PASSES,
    REACH,
    Grids,
    Kernel,
    ScalarVAE,
    costs,
    energies,
    given,
    prior_row,
)
from vae_bit.quadrature import adapt, mass_defect, nodes, peaks, resample


def recon(chain: ScalarVAE, q: Marginal, grids: Grids) -> tuple[Array, Array, Array]:
    """The mean training cost and E[-ln p(x | z_1)] under q(z_1 | x), and the defect of the masses on their grids."""

    def both(z):
        energy, cost = energies(chain, z), costs(chain, z)
        return energy[None] if cost is None else jnp.stack([energy, cost])

    def along_z(z):
        density, pays = jnp.exp(q.log_prob(z)), both(z)
        return jnp.concatenate([density, *(density * each for each in pays)]), (density, pays)

    def along_noise(eps):
        density, (z, weight) = jnp.exp(-0.5 * (jnp.square(eps) + LOG_2PI)), draws(chain.q_data, eps)
        pays = jnp.diagonal(both(z.ravel()).reshape(-1, len(z), *z.shape), axis1=1, axis2=2)  # x_k's under q(z_1 | x_k)
        pays = jnp.sum(weight[None] * jnp.moveaxis(pays, -1, 1), axis=-1)
        return jnp.concatenate([density[None], density[None] * pays]), (density, pays)

    if isinstance(chain.q_data, Normal):
        edges, (density, pays) = adapt(along_z, q.edges, PASSES)
    else:  # a flow is smooth in its noise, wherever it is flat
        even = REACH * jnp.linspace(-1.0, 1.0, grids.outer + 1, dtype=chain.dtype)
        edges, (density, pays) = adapt(along_noise, jnp.tile(even, (chain.x.shape[1], 1)), PASSES)
    mass = _mass(density, edges)
    means = [jnp.mean(jnp.sum(mass * each, axis=-1)) for each in pays]
    return means[-1], means[0], jnp.max(mass_defect(density, edges))


def kl(chain: ScalarVAE, q_marginals: list[Marginal], grids: Grids) -> tuple[Array, Array]:
    """E[ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1})], l = 1..L, less p(z_L): [L]; and the largest defect on its way."""
    entropy, lacking = _entropy(chain.q_data, q_marginals[0])
    defects, terms = [lacking], [-entropy]
    for q, q_above, p in zip(q_marginals, chain.q, chain.p, strict=False):
        edges, (density, above) = adapt(partial(_cross_features, q, q_above, p), q.edges, PASSES)
        z, mass = nodes(edges)[0], jnp.mean(_mass(density, edges), axis=0)
        cross, lost = expect(lambda up, z=z, p=p: given(p, up).log_prob(z[:, None])[None], above, grids)
        cross = cross[0]
        defects += [jnp.max(mass_defect(density, edges)), jnp.sum(mass * lost)]
        terms[-1] -= jnp.sum(mass * cross)
        terms.append(-jnp.sum(mass * (jnp.log(above.std) + 0.5 * (1.0 + LOG_2PI))))
    return jnp.stack(terms), jnp.max(jnp.stack(defects))


def _entropy(family: Distribution, q: Marginal) -> tuple[Array, Array]:
    """The mean entropy of q(z_1 | x), in closed form where it has one, and the defect of its masses."""
    if isinstance(family, Normal):
        return jnp.mean(jnp.log(family.std) + 0.5 * (1.0 + LOG_2PI)), jnp.zeros_like(q.edges[0])
    return -jnp.mean(jnp.sum(_mass(jnp.exp(q.at_nodes), q.edges) * q.at_nodes, axis=-1)), defect(q)


def _cross_features(q: Marginal, q_above: Kernel, p: Kernel, z: Array) -> tuple[Array, tuple[Array, Normal]]:
    """Features of E[ln p(z_l | z_{l+1}) | z_l] and of H(q(z_{l+1} | z_l)); values q(z_l | x_k) and q(z_{l+1} | z_l).

    The noise of q(z_{l+1} | z_l) only smooths: a grid good for three fixed values of it will do.
    """
    density, above = jnp.exp(q.log_prob(z)), given(q_above, z)
    t = jnp.array([-2.0, 0.0, 2.0], z.dtype)[:, None]
    cross = given(p, above.mean[None] + t * above.std[None]).log_prob(z[None])
    features = jnp.concatenate([jnp.ones_like(z)[None], jnp.log(above.std)[None], cross])
    return (density[:, None] * features[None]).reshape(-1, z.size), (density, above)


def expect(f: Callable[[Array], Array], normal: Normal, grids: Grids) -> tuple[Array, Array]:
    """E[f(z)], z ~ N(mean_k, std_k^2), each on a grid of its own: f maps z [K, M] to [m, K, M], the result [m, K].

    Also the defects [K] of the Gaussians' masses.
    """

    def integrand(t):
        density = jnp.exp(-0.5 * jnp.square(t))[None]
        values = jnp.concatenate([density, density * f(normal.mean[:, None] + normal.std[:, None] * t)])
        return values, values

    even = REACH * jnp.linspace(-1.0, 1.0, grids.inner + 1, dtype=normal.mean.dtype)
    even = jnp.broadcast_to(even, (*normal.mean.shape, even.size))
    edges, values = adapt(integrand, even, INNER_PASSES + 1)  # no peak leads to a step of f
    mass, *sums = jnp.sum(values * nodes(edges)[1][None], axis=-1)
    return jnp.stack(sums) / mass[None], jnp.abs(mass * np.exp(-0.5 * LOG_2PI) - 1.0)


def _mass(density: Array, edges: Array) -> Array:
    """Weights that sum to one for the densities [D, K] at the nodes of a grid."""
    mass = density * nodes(jnp.atleast_2d(edges))[1]
    return mass / jnp.sum(mass, axis=-1, keepdims=True)


def defect(marginal: Marginal) -> Array:
    """The worst defect of the densities' masses on their grid."""
    return jnp.max(mass_defect(jnp.exp(marginal.at_nodes), marginal.edges))


def activity(q: Marginal) -> Array:
    """Var_x E[z_l | x], from ln q(z_l | x_k)."""
    z, _ = nodes(q.edges)
    return jnp.var(jnp.sum(_mass(jnp.exp(q.at_nodes), q.edges) * z[None], axis=-1))


def surgery(chain: ScalarVAE, q: Marginal, grids: Grids) -> tuple[Array, Array, Array, Array]:
    """I_q(x; z_L), KL(q(z_L) || p(z_L)) and E_q[ln p(z_L)], from ln q(z_L | x_k); and the defect of their masses.

    A Gaussian prior is smooth wherever q is; of any other the grid must resolve what it makes of q, and itself.
    """
    prior = known(prior_row(chain), q.edges)
    edges, log_q, log_p, lacking = q.edges, q.at_nodes, prior.at_nodes, defect(q)
    if not isinstance(chain.prior, Normal):
        own = start(prior.rows, REACH, grids.outer)
        knots = resample(jnp.concatenate([q.edges, own]), q.edges.size + own.size - 2)
        edges, (log_q, log_p) = adapt(partial(_contrast, q, prior), knots, PASSES)
        lacking = jnp.max(mass_defect(jnp.exp(jnp.concatenate([log_q, log_p])), edges))
    log_aggregate = jax.nn.logsumexp(log_q, axis=0) - jnp.log(log_q.shape[0])
    mass = _mass(jnp.exp(log_q), edges) / log_q.shape[0]
    information = jnp.sum(mass * (log_q - log_aggregate[None]))
    cross = jnp.sum(jnp.sum(mass, axis=0) * log_p[0])
    return information, jnp.sum(mass * (log_aggregate[None] - log_p)), cross, lacking


def _contrast(q: Marginal, p: Marginal, z: Array) -> tuple[Array, tuple[Array, Array]]:
    """Features of densities q_k and p, and of ln q_k, ln q and ln p under q_k; values ln q_k and ln p."""
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    density, log_aggregate = jnp.exp(log_q), jax.nn.logsumexp(log_q, axis=0, keepdims=True)
    surprisals = [density * each for each in (log_q, log_aggregate, log_p)]
    return jnp.concatenate([peaks(log_q), peaks(log_p), *surprisals]), (log_q, log_p)
