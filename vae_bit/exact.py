"""Exact evaluation of a VAE with L scalar latents: loss, evidence, posteriors, mutual information, by quadrature.

Every expectation is a chain of one-dimensional integrals, one per layer, each on an adaptive grid (`quadrature`). The
decoder, the only costly network, is tabulated once: -ln p(x_k | z_1) is a function of one scalar.
Numbers are in nats; arrays follow the dtype of the chain, and float64 is needed for the accuracy of 1e-5 promised here.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae_bit.distributions import LOG_2PI, Normal, softplus
from vae_bit.quadrature import Table, lookup, nodes, peaks, refine, resample, tabulate

PANELS = 64  # of a grid on which a function of one scalar is tabulated or integrated
INNER_PANELS = 16  # of the grids inside an integral, one for each of its nodes
PASSES = 4
INNER_PASSES = 2
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
    energy = _energy_table(chain)
    recon, kl = _elbo_terms(chain, energy)
    log_p = _log_evidence(chain, energy)
    nll = -jnp.mean(log_p)
    information, marginal_kl = _surgery(chain)
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
    """ln p(x_k) of every data point, [D]."""
    return _log_evidence(chain, _energy_table(chain))


def energies(chain: Chain, z: Array) -> Array:
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


def _energy_table(chain: Chain) -> Table:
    """-ln p(x_k | z_1) on the range that either q(z_1 | x) or p(z_1) reaches."""

    def features(z):
        energy = energies(chain, z)
        return jnp.concatenate([jnp.log1p(energy), peaks(-energy)])

    knots = jnp.concatenate([_spread(chain.q_data, REACH), _prior_knots(chain, _prior_reach(chain))])
    return tabulate(lambda z: energies(chain, z), refine(features, resample(knots, PANELS), PASSES))


def _elbo_terms(chain: Chain, energy: Table) -> tuple[Array, Array]:
    """E[-ln p(x | z_1)] and kl [L], averaged over the data."""

    def integrand(z):
        density = jnp.exp(_log_normal(z, chain.q_data))
        values = jnp.concatenate([lookup(energy, z)[:, None], jnp.broadcast_to(_kl_given(chain, 0, z)[None],(density.shape[0], len(chain.q)+1, z.size))], 1)
        return values, density

    def features(z):
        values, density = integrand(z)
        return (values * density[:, None]).reshape(-1, z.size)

    edges = refine(features, resample(_spread(chain.q_data, REACH), PANELS), PASSES)
    z, weights = nodes(edges)
    values, density = integrand(z)
    recon, *kl = jnp.mean(jnp.sum(values * density[:, None] * weights[None, None], axis=-1), axis=0)
    entropy = jnp.mean(jnp.log(chain.q_data.std) + 0.5 * (1.0 + LOG_2PI))
    return recon, jnp.stack(kl).at[0].add(-entropy)


def _kl_given(chain: Chain, l: int, z: Array) -> Array:
    """What layers l, l + 1, .. add to kl given z_l, but for ln q(z_l | z_{l-1}), counting from 0: z [K] -> [L - l, K]."""
    if l == len(chain.q):
        return 0.5 * (jnp.square(z) + LOG_2PI)[None]
    q = chain.q[l](z)
    if l + 1 == len(chain.q):
        top = 0.5 * (jnp.square(q.mean) + jnp.square(q.std) - 1.0) - jnp.log(q.std)
        cross = _expect(lambda t: -_log_normal_at(z[:, None], _apply(chain.p[l], t))[None], q)
        return jnp.concatenate([cross, top[None]])
    raise NotImplementedError


def _expect(f: Callable[[Array], Array], q: Normal) -> Array:
    """E_{z ~ N(mean_k, std_k^2)}[f(z)], each on a grid of its own: f maps z [K, M] to [m, K, M], result [m, K]."""

    def integrand(t):
        return f(q.mean[:, None] + q.std[:, None] * t) * jnp.exp(-0.5 * (jnp.square(t) + LOG_2PI))[None]

    start = jnp.linspace(-REACH, REACH, INNER_PANELS + 1, dtype=q.mean.dtype)
    edges = refine(integrand, jnp.broadcast_to(start, (*q.mean.shape, start.size)), INNER_PASSES)
    t, weights = nodes(edges)
    return jnp.sum(integrand(t) * weights[None], axis=-1)


def _log_evidence(chain: Chain, energy: Table) -> Array:
    reach = _prior_reach(chain)
    log_likelihood = lambda z: -lookup(energy, z)
    for p in chain.p[:1]:
        log_likelihood = lambda z: _log_expect(lambda t: -_flat_lookup(energy, t), p(z), reach)
    return _log_mean(log_likelihood, reach)


def _log_mean(log_f, reach):
    def log_integrand(z):
        return log_f(z) - 0.5 * (jnp.square(z) + LOG_2PI)[None]

    edges = refine(lambda z: peaks(log_integrand(z)), reach * jnp.linspace(-1.0, 1.0, PANELS + 1, dtype=reach.dtype), PASSES)
    z, weights = nodes(edges)
    return jax.nn.logsumexp(log_integrand(z), axis=-1, b=weights[None])


def _log_expect(log_f, p: Normal, reach) -> Array:
    def log_integrand(t):
        return log_f(p.mean[:, None] + p.std[:, None] * t) - 0.5 * (jnp.square(t) + LOG_2PI)[None]

    start = reach * jnp.linspace(-1.0, 1.0, INNER_PANELS + 1, dtype=reach.dtype)
    edges = refine(lambda t: peaks(log_integrand(t)), jnp.broadcast_to(start, (*p.mean.shape, start.size)), INNER_PASSES)
    t, weights = nodes(edges)
    return jax.nn.logsumexp(log_integrand(t), axis=-1, b=weights[None])


def _flat_lookup(table, z):
    return lookup(table, z.ravel()).reshape(-1, *z.shape)


def _surgery(chain: Chain) -> tuple[Array, Array]:
    """I_q(x; z_L) and KL(q(z_L) || p(z_L))."""
    log_density, edges = (lambda z: _log_normal(z, chain.q_data)), resample(_spread(chain.q_data, REACH), PANELS)
    for q in chain.q:
        knots = _spread(q(nodes(resample(edges, 16))[0]), REACH)
        log_density, edges = _pushed(log_density, edges, q), resample(knots, PANELS)

    def features(z):
        log_q = log_density(z)
        return jnp.concatenate([jnp.exp(log_q), jnp.exp(log_q)*log_q])

    z, weights = nodes(refine(features, edges, PASSES))
    log_q = log_density(z)
    log_marginal = jax.nn.logsumexp(log_q, axis=0) - jnp.log(log_q.shape[0])
    mass = weights[None] * jnp.exp(log_q)
    information = jnp.sum(mass * (log_q - log_marginal[None])) / log_q.shape[0]
    log_prior = -0.5 * (jnp.square(z) + LOG_2PI)
    return information, jnp.sum(weights * jnp.exp(log_marginal) * (log_marginal - log_prior))


def _pushed(log_density, start, q):
    """ln of int q(z | x_k) q(z' | z) dz as a function of z' [K] -> [D, K]."""

    def pushed(target):
        def joint(z):
            flat = q(z.ravel())
            r = (target[:, None] - flat.mean.reshape(z.shape)) / flat.std.reshape(z.shape)
            log_kernel = -0.5 * (jnp.square(r) + LOG_2PI) - jnp.log(flat.std.reshape(z.shape))
            return log_density(z.ravel()).reshape(-1, *z.shape) + log_kernel[None], r / jnp.sqrt(1.0 + jnp.square(r))

        def features(z):
            log_joint, step = joint(z)
            return jnp.concatenate([peaks(log_joint), step[None]])

        first = resample(start, INNER_PANELS)
        edges = refine(features, jnp.broadcast_to(first, (*target.shape, first.size)), INNER_PASSES)
        z, weights = nodes(edges)
        return jax.nn.logsumexp(joint(z)[0], axis=-1, b=weights[None])

    return pushed


def _prior_reach(chain: Chain) -> Array:
    """Radius beyond which the prior, N(0, 1) in every layer's own units, takes nothing from ln p(x).

    With E0 = -ln p(x) where all noise is 0, mass beyond radius R adds at most exp(-R^2 / 2) to exp(-E0 - ...).
    """
    z = jnp.zeros((1,), chain.q_data.mean.dtype)
    for p in reversed(chain.p):
        z = p(z).mean
    return jnp.sqrt(2.0 * (jnp.max(energies(chain, z)) + 45.0))


def _prior_knots(chain: Chain, reach: Array) -> Array:
    """Points spread over the range of p(z_1)."""
    z = reach * jnp.linspace(-1.0, 1.0, PANELS + 1, dtype=reach.dtype)
    for p in reversed(chain.p):
        z = resample(_spread(p(z), reach), PANELS)
    return z


def _spread(q: Normal, reach) -> Array:
    """mean + std * t for t evenly spaced on +-reach: [K] -> [33 K]."""
    t = reach * jnp.linspace(-1.0, 1.0, 17, dtype=q.mean.dtype)
    return jnp.ravel(q.mean[:, None] + q.std[:, None] * t[None])


def _apply(kernel, z: Array) -> Normal:
    flat = kernel(z.ravel())
    return Normal(flat.mean.reshape(z.shape), flat.std.reshape(z.shape))


def _log_normal(z: Array, q: Normal) -> Array:
    """ln N(z; mean_k, std_k^2): z [K], q [D] -> [D, K]."""
    return _log_normal_at(z[None], Normal(q.mean[:, None], q.std[:, None]))


def _log_normal_at(z: Array, q: Normal) -> Array:
    return -0.5 * (jnp.square((z - q.mean) / q.std) + LOG_2PI) - jnp.log(q.std)
