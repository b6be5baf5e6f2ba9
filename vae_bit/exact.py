"""Exact evaluation of a VAE with L scalar latents: loss, evidence, posteriors, mutual information, by quadrature.

Every expectation is a chain of one-dimensional integrals, one per layer, each on an adaptive grid (`quadrature`). The
decoder, the only costly network, is tabulated once: -ln p(x_k | z_1) is a function of one scalar.
Numbers are in nats; arrays follow the dtype of the chain, and float64 is needed for the accuracy of 1e-5 promised here.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae_bit.distributions import LOG_2PI, Normal, softplus
from vae_bit.quadrature import Table, adapt, lookup, nodes, peaks, resample, share, tabulate

PANELS = 64  # of a grid on which a function of one scalar is tabulated or integrated
INNER_PANELS = 16  # of the grids inside an integral, one for each of its nodes
PASSES = 5
INNER_PASSES = 6
REACH = 9.5  # half-width of a Gaussian's grid, in standard deviations
CHUNK = 64  # decoder inputs held at a time


class Chain(NamedTuple):
    """A VAE with L scalar latents, as functions; D equally likely data points of n Bernoulli dimensions.

    q[l - 1] is q(z_{l+1} | z_l) and p[l - 1] is p(z_l | z_{l+1}), l = 1..L-1, both maps z [K] -> Normal of shape [K]; the
    top prior is N(0, 1). logits maps z_1 [K] to those of p(x_i = 1 | z_1), [n, K].
    """

    x: Array  # [n, D], 0 or 1
    mask: Array  # [n], 1 = real dimension, 0 = padding
    q_data: Normal  # q(z_1 | x_k), shape [D]
    q: tuple[Callable[[Array], Normal], ...]
    p: tuple[Callable[[Array], Normal], ...]
    logits: Callable[[Array], Array]


class Evaluation(NamedTuple):
    """Exact figures of a chain, in nats: scalars but for kl [L]."""

    loss: Array  # recon + beta * sum_l kl_l
    recon: Array  # E[-ln p(x | z_1)]
    kl: Array  # E[ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1})], z_0 = x
    nll: Array  # E[-ln p(x)]
    posterior_kl: Array  # E KL(q(z | x) || p(z | x)), all layers jointly: recon + sum_l kl_l - nll
    mutual_information: Array  # I_q(x; z_L) = E KL(q(z_L | x) || q(z_L))
    marginal_kl: Array  # KL(q(z_L) || p(z_L))
    valid_mass: Array  # sum_k p(x_k)


def evaluate(chain: Chain, beta: float | Array = 1.0) -> Evaluation:
    """Loss, evidence and ELBO surgery of a chain; see `Evaluation`.

    Surgery (Hoffman and Johnson 2016): E KL(q(z_L | x) || p(z_L)) = I_q(x; z_L) + KL(q(z_L) || p(z_L)).
    """
    q_marginals = _inference_marginals(chain)
    recon, kl = _elbo_terms(chain, q_marginals)
    log_p = log_evidence(chain)
    nll = -jnp.mean(log_p)
    information, marginal_kl = _surgery(q_marginals[-1])
    return Evaluation(
        loss=recon + beta * jnp.sum(kl),
        recon=recon,
        kl=kl,
        nll=nll,
        posterior_kl=recon + jnp.sum(kl) - nll,
        mutual_information=information,
        marginal_kl=marginal_kl,
        valid_mass=jnp.sum(jnp.exp(log_p)),
    )


def log_evidence(chain: Chain) -> Array:
    """ln p(x_k) = ln int p(z_1) p(x_k | z_1) dz_1 of every data point, [D]."""
    prior, energy = _generative_marginal(chain)
    z, weights = nodes(prior.edges)
    return jax.nn.logsumexp(lookup(prior, z) - energy, axis=-1, b=weights[None])


def _energies(chain: Chain, z: Array) -> Array:
    """-ln p(x_k | z_1) = sum_i softplus((1 - 2 x_ik) logit_i(z_1)): z [K] -> [D, K]. Holds n * CHUNK logits at a time."""
    chunks = jnp.pad(z, (0, -z.size % CHUNK)).reshape(-1, CHUNK)
    wrong = (chain.mask[:, None] * (1.0 - chain.x)).T[..., None].astype(z.dtype)
    right = (chain.mask[:, None] * chain.x).T[..., None].astype(z.dtype)

    def chunk(z):
        logits = chain.logits(z)
        overlap = jnp.sum(chain.mask[:, None].astype(z.dtype) * softplus(-jnp.abs(logits)), axis=0)
        logits = logits[None]
        return overlap[None] + jnp.sum(wrong * jnp.maximum(logits, 0.0) + right * jnp.maximum(-logits, 0.0), axis=1)

    return jax.lax.map(chunk, chunks).swapaxes(0, 1).reshape(chain.x.shape[1], -1)[:, : z.size]


def _elbo_terms(chain: Chain, q_marginals: list[Table]) -> tuple[Array, Array]:
    """E[-ln p(x | z_1)] and kl [L], averaged over the data."""
    kl = [-jnp.mean(jnp.log(chain.q_data.std) + 0.5 * (1.0 + LOG_2PI))]
    recon = jnp.zeros_like(kl[0])
    for l, q in enumerate(q_marginals):
        edges, (density, energy) = adapt(partial(_layer, chain, l, q), q.edges, PASSES)
        z, weights = nodes(edges)
        mass = density * weights[None]
        mass = mass / jnp.sum(mass, axis=-1, keepdims=True) / density.shape[0]
        recon += jnp.sum(mass * energy)
        here, above = _kl_parts(chain, l, z)
        kl[l] += jnp.sum(mass * here[None])
        kl.append(jnp.sum(mass * above[None]))
    return recon, jnp.stack(kl[:-1])


def _layer(chain: Chain, l: int, q: Table, z: Array) -> tuple[Array, tuple[Array, Array]]:
    """Features, and the values q(z_l | x_k) and -ln p(x_k | z_1), for the expectations under q(z_l | x_k); l from 0.

    The noise of q(z_{l+1} | z_l) only smooths p(z_l | z_{l+1}): a grid that resolves it at a few fixed values will do.
    """
    density = jnp.exp(lookup(q, z))
    energy = _energies(chain, z) if l == 0 else jnp.zeros_like(density)
    features = [jnp.ones_like(z), jnp.square(z)]
    if l < len(chain.q):
        above = chain.q[l](z)
        features += [jnp.square(above.mean), jnp.square(above.std), jnp.log(above.std)]
        features += [_log_normal(z, chain.p[l](above.mean + t * above.std)) for t in (-2.0, 0.0, 2.0)]
    features = (density[:, None] * jnp.stack(features)[None]).reshape(-1, z.size)
    return jnp.concatenate([features, density * energy]), (density, energy)


def _kl_parts(chain: Chain, l: int, z: Array) -> tuple[Array, Array]:
    """What p(z_l | z_{l+1}) adds to kl_l and q(z_{l+1} | z_l) to kl_{l+1}, given z_l; l from 0: [K] -> two of [K]."""
    if l == len(chain.q):
        return 0.5 * (jnp.square(z) + LOG_2PI), jnp.zeros_like(z)
    q = chain.q[l](z)
    cross = _expect(lambda above: -_log_normal(z[:, None], _at(chain.p[l], above))[None], q)[0]
    return cross, -jnp.log(q.std) - 0.5 * (1.0 + LOG_2PI)


def _expect(f: Callable[[Array], Array], q: Normal) -> Array:
    """E_{z ~ N(mean_k, std_k^2)}[f(z)], each on a grid of its own: f maps z [K, M] to [m, K, M], result [m, K]."""

    def integrand(t):
        density = jnp.exp(-0.5 * jnp.square(t))[None]
        values = jnp.concatenate([density, density * f(q.mean[:, None] + q.std[:, None] * t)])
        return values, values

    start = jnp.linspace(-REACH, REACH, INNER_PANELS + 1, dtype=q.mean.dtype)
    edges, values = adapt(integrand, jnp.broadcast_to(start, (*q.mean.shape, start.size)), INNER_PASSES)
    mass, *sums = jnp.sum(values * nodes(edges)[1][None], axis=-1)
    return jnp.stack(sums) / mass[None]


def _surgery(q: Table) -> tuple[Array, Array]:
    """I_q(x; z_L) and KL(q(z_L) || p(z_L))."""
    z, weights = nodes(q.edges)
    log_q = lookup(q, z)
    log_marginal = jax.nn.logsumexp(log_q, axis=0) - jnp.log(log_q.shape[0])
    mass = weights[None] * jnp.exp(log_q)
    information = jnp.sum(mass * (log_q - log_marginal[None])) / log_q.shape[0]
    log_prior = -0.5 * (jnp.square(z) + LOG_2PI)
    return information, jnp.sum(weights * jnp.exp(log_marginal) * (log_marginal - log_prior))


def _inference_marginals(chain: Chain) -> list[Table]:
    """ln q(z_l | x_k), l = 1..L."""
    q = Normal(chain.q_data.mean[:, None], chain.q_data.std[:, None])

    def first(z):
        log_density = _log_normal(z[None], q)
        return jnp.exp(log_density), log_density

    tables = [tabulate(*adapt(first, resample(_spread(chain.q_data, REACH), PANELS), PASSES))]
    for kernel in chain.q:
        tables.append(_push(tables[-1], kernel, REACH))
    return tables


def _generative_marginal(chain: Chain) -> tuple[Table, Array]:
    """ln p(z_1), on a grid that resolves p(z_1 | x) too, and -ln p(x_k | z_1) at its nodes."""
    reach = _prior_reach(chain)
    edges = reach * jnp.linspace(-1.0, 1.0, PANELS + 1, dtype=reach.dtype)
    weight = lambda z: -_energies(chain, z)
    def first(z):
        log_p = -0.5 * (jnp.square(z) + LOG_2PI)[None]
        if chain.p:
            return peaks(log_p), log_p
        return peaks(log_p + weight(z)), log_p
    table = tabulate(*adapt(first, edges, PASSES))
    for kernel in reversed(chain.p):
        table = _push(table, kernel, reach, weight if kernel is chain.p[0] else None)
    return table, _energies(chain, nodes(table.edges)[0])


def _push(source: Table, kernel, reach, weight=None) -> Table:
    """ln int exp(source(z)) kernel(z' | z) dz as a table of z'."""
    def below(z):
        given = kernel(z)
        density = jnp.exp(lookup(source, z))
        features = jnp.stack([jnp.ones_like(z), given.mean, given.std])
        return (density[:, None] * features[None]).reshape(-1, z.size), given

    source_edges, given = adapt(below, source.edges, PASSES)
    z, weights = nodes(source_edges)
    log_mass = lookup(source, z) + jnp.log(jnp.maximum(weights, jnp.finfo(z.dtype).tiny))[None]
    step = jnp.abs(jnp.gradient(given.mean))
    broad = Normal(given.mean[None], jnp.sqrt(jnp.square(given.std) + jnp.square(step))[None])

    def sketch(target):
        log_q = jax.nn.logsumexp(log_mass[:, None] + _log_normal(target[:, None], broad)[None], axis=-1)
        features = jnp.exp(log_q - jnp.max(log_q, axis=-1, keepdims=True))
        if weight is not None:
            features = jnp.concatenate([features, peaks(log_q + weight(target))])
        return features, log_q[:, :0]

    edges, _ = adapt(sketch, resample(_spread(given, reach), PANELS), PASSES)
    target = nodes(edges)[0]

    def joint(z, given, log_density):
        r = (target[:, None] - given.mean) / given.std
        log_joint = log_density - (0.5 * (jnp.square(r) + LOG_2PI) + jnp.log(given.std))[None]
        step = r / jnp.sqrt(1.0 + jnp.square(r))
        return jnp.concatenate([peaks(log_joint), step[None]]), log_joint

    row = Normal(given.mean[None], given.std[None])
    start = share(jnp.broadcast_to(source_edges, (target.size, PANELS + 1)), joint(z, row, lookup(source, z)[:, None])[0], INNER_PANELS)
    inner, log_joint = adapt(lambda z: joint(z, _at(kernel, z), lookup(source, z)), start, INNER_PASSES)
    return tabulate(edges, jax.nn.logsumexp(log_joint, axis=-1, b=nodes(inner)[1][None]))


def _prior_reach(chain: Chain) -> Array:
    """Radius R such that noise with |t| > R, in units of the prior's own standard deviations, adds nothing to ln p(x_k).

    Any noise-free path from z_L down to x costs z_L^2 / 2 - ln p(x_k | z_1) nats: noise of exp(-R^2 / 2) is rarer than the
    cheapest one seen by far more than what its small volume may cost.
    """
    top = jnp.sinh(jnp.linspace(-5.5, 5.5, 2 * CHUNK, dtype=chain.q_data.mean.dtype))
    z = top
    for p in reversed(chain.p):
        z = p(z).mean
    cheapest = jnp.min(0.5 * jnp.square(top)[None] + _energies(chain, z), axis=-1)
    return jnp.sqrt(2.0 * (jnp.max(cheapest) + 45.0))


def _spread(q: Normal, reach) -> Array:
    """mean + std * t for t evenly spaced on +-reach: [K] -> [33 K]."""
    t = reach * jnp.linspace(-1.0, 1.0, 17, dtype=q.mean.dtype)
    return jnp.ravel(q.mean[:, None] + q.std[:, None] * t[None])


def _at(kernel, z: Array) -> Normal:
    flat = kernel(z.ravel())
    return Normal(flat.mean.reshape(z.shape), flat.std.reshape(z.shape))


def _log_normal(z: Array, q: Normal) -> Array:
    return -0.5 * (jnp.square((z - q.mean) / q.std) + LOG_2PI) - jnp.log(q.std)
