"""The marginals of a VAE with L scalar latents, by quadrature: q(z_l | x_k) from z_1 up, p(z_l) from z_L down.

q(z_1 | x_k) and p(z_L) are known by their log densities, whatever their family; each of the others is a table of its
logarithm, the next being ln p'(z') = ln int p(z) kernel(z' | z) dz. The kernel may be a thousand times narrower than
the range of z', the integrand a spike at an unknown place: for every z' it gets a grid of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_bit.densities import Marginal, draws, interpolated, known, spread, start
from vae_bit.distributions import Distribution, Normal
from vae_bit.quadrature import ORDER, adapt, nodes, peaks, resample, share

Kernel = Callable[[Array], Normal]

PASSES = 5  # evaluations on a grid of one latent, the last of which counts
INNER_PASSES = 5
REACH = 9.5  # half-width of a Gaussian's grid, in standard deviations
BLUR = 0.25  # of the way that a panel's nodes go: a sum over them of Gaussians that much wider is smooth to about 1e-4
CHUNK = 64  # decoder inputs evaluated at a time


class Grids(NamedTuple):
    """How fine the grids are, in panels."""

    outer: int = 48  # of a grid on which functions of one latent are integrated or tabulated
    inner: int = 18  # of the grids of an inner integral, one for each node of the outer one


class ScalarVAE(NamedTuple):
    """A VAE with L scalar latents, as functions; D equally likely data points of n Bernoulli dimensions.

    q[l - 1] is q(z_{l+1} | z_l) and p[l - 1] is p(z_l | z_{l+1}), l = 1..L-1, both maps z [K] -> Normal of shape [K].
    q(z_1 | x) and p(z_L) may be of any family. logits maps z_1 [K] to those of p(x_i = 1 | z_1), [n, K].

    A decoder that also sees the bits before a bit makes p(x | z_1) no product of its marginals: `energy` then gives
    -ln p(x_k | z_1), z_1 [K] -> [D, K], for all that follows from p(x), and the logits serve `Densities.probability`
    and `at_zero` alone. `cost`, likewise, is what training pays in its place: with word dropout the mean of
    -ln p(x_k | z_1, context) over the contexts dropped. It counts in recon and loss alone.
    """

    x: Array  # [n, D], 0 or 1
    mask: Array  # [n], 1 = real dimension, 0 = padding
    q_data: Distribution  # q(z_1 | x_k): every leaf has a leading axis D
    q: tuple[Kernel, ...]
    p: tuple[Kernel, ...]
    logits: Callable[[Array], Array]
    prior: Distribution = Normal(0.0, 1.0)  # type: ignore[arg-type]  # p(z_L)
    energy: Callable[[Array], Array] | None = None  # None: sum_i of the independent Bernoullis of the logits
    cost: Callable[[Array], Array] | None = None  # None: the energy

    @property
    def dtype(self) -> Any:
        """That of the codes, which every figure is in."""
        return jnp.result_type(*jax.tree.leaves(self.q_data))


def real_logits(chain: ScalarVAE, z: Array) -> Array:
    """The logits with 0 in the padding, whatever it holds: [K] -> [n, K]."""
    return jnp.where(chain.mask[:, None] > 0, chain.logits(z), 0.0)


def energies(chain: ScalarVAE, z: Array) -> Array:
    """-ln p(x_k | z_1): z [K] -> [D, K]. Holds n * CHUNK logits at a time."""
    return _chunked(chain.energy or partial(_independent, chain), z)


def costs(chain: ScalarVAE, z: Array) -> Array | None:
    """What training pays in place of the energies, or None where it is these: z [K] -> [D, K]."""
    return None if chain.cost is None else _chunked(chain.cost, z)


def _independent(chain: ScalarVAE, z: Array) -> Array:
    """sum_i softplus((1 - 2 x_ik) logit_i(z_1)): z [K] -> [D, K].

    softplus(+-l) = max(+-l, 0) + ln(1 + exp(-|l|)), whose second part, the costly one, serves every data point.
    """
    mask = chain.mask.astype(z.dtype)
    ones = jnp.where(mask[:, None] > 0, chain.x.astype(z.dtype), 0.0)
    logits = real_logits(chain, z)
    shared = jnp.sum(mask[:, None] * jnp.log1p(jnp.exp(-jnp.abs(logits))), axis=0)
    return shared[None] + (mask[:, None] - ones).T @ jnp.maximum(logits, 0.0) + ones.T @ jnp.maximum(-logits, 0.0)


def _chunked(f: Callable[[Array], Array], z: Array) -> Array:
    """f(z) [D, K] for z [K], CHUNK at a time."""
    chunks = jnp.pad(z, (0, -z.size % CHUNK)).reshape(-1, CHUNK)
    values = jax.lax.map(f, chunks).swapaxes(0, 1)
    return values.reshape(values.shape[0], -1)[:, : z.size]


def inference_marginals(chain: ScalarVAE, grids: Grids) -> list[Marginal]:
    """ln q(z_l | x_k), l = 1..L, D densities each."""
    q = chain.q_data
    if isinstance(q, Normal):
        edges = resample(spread(q, REACH), grids.outer)
    else:
        edges = start(q, REACH, grids.outer)
        edges, _ = adapt(partial(_surprise, known(q, edges)), edges, PASSES)
    marginals = [known(q, edges)]
    for kernel in chain.q:
        marginals.append(push(marginals[-1], kernel, REACH, grids)[0])
    return marginals


def generative_marginals(chain: ScalarVAE, grids: Grids) -> tuple[list[Marginal], Array]:
    """ln p(z_l), l = 1..L, and -ln p(x_k | z_1) at the nodes of the first, whose grid also resolves p(z_1 | x_k)."""
    reach, prior = _prior_reach(chain), prior_row(chain)
    if isinstance(chain.prior, Normal):
        edges = resample(spread(prior, reach, grids.outer + 1), grids.outer)
    else:
        edges = start(prior, reach, grids.outer)
    energy = partial(energies, chain)
    if not chain.p:
        edges, values = adapt(partial(_tempered, known(prior, edges).log_prob, energy), edges, PASSES)
        return [known(prior, edges)], values
    marginals = [known(prior, edges)]
    for kernel in reversed(chain.p[1:]):
        marginals.insert(0, push(marginals[0], kernel, reach, grids)[0])
    first, values = push(marginals[0], chain.p[0], reach, grids, energy)
    return [first, *marginals], values


def prior_row(chain: ScalarVAE) -> Any:
    """p(z_L) as a family whose leaves have a leading axis of one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, chain.dtype)[None], chain.prior)


def push(
    source: Marginal,
    kernel: Kernel,
    reach: float | Array,
    grids: Grids,
    energy: Callable[[Array], Array] | None = None,
) -> tuple[Marginal, Array]:
    """ln int exp(source_k(z)) kernel(z' | z) dz as a table of z', and the energies [D, K] at its nodes.

    The grid reaches `reach` standard deviations of the kernel and resolves the result times exp(-energy_k(z')).
    """
    below, normals = adapt(partial(_under, source, kernel), source.edges, PASSES)
    z, weights = nodes(below)
    log_mass = source.log_prob(z) + jnp.log(jnp.maximum(weights, jnp.finfo(z.dtype).tiny))[None]
    panels = normals.mean.reshape(-1, ORDER)
    blur = jnp.repeat(BLUR * (jnp.max(panels, axis=1) - jnp.min(panels, axis=1)), ORDER)
    broad = Normal(normals.mean[None], jnp.hypot(normals.std, blur)[None])

    def sketch(target):
        log_kernel = broad.log_prob(target[:, None])
        return jax.nn.logsumexp(log_mass[:, None] + log_kernel[None], axis=-1)

    edges = resample(spread(normals, reach), grids.outer)
    edges, values = adapt(partial(_tempered, sketch, energy or _nothing), edges, PASSES)
    exact = partial(_mixture, grids.inner * source.detail, source.of_row, kernel, below, normals, nodes(edges)[0])
    return interpolated(edges, jax.vmap(exact)(source.rows)), values


def given(kernel: Kernel, z: Array) -> Normal:
    """The Gaussians of a kernel at z of any shape, kept within what can be squared: only far tails ever exceed it."""
    normal = kernel(z.ravel())
    largest = float(jnp.finfo(z.dtype).max) ** 0.2
    mean = jnp.clip(normal.mean, -largest, largest)
    return Normal(mean.reshape(z.shape), jnp.clip(normal.std, 1.0 / largest, largest).reshape(z.shape))


def _nothing(z: Array) -> Array:
    return jnp.zeros_like(z)[None]


def _tempered(log_density: Callable[[Array], Array], energy: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
    """Features of exp(log_density_k(z)), and of that times exp(-energy_k(z)); the value is the energy."""
    log_q, cost = log_density(z), energy(z)
    top = jnp.max(log_q, axis=-1, keepdims=True)
    return jnp.concatenate([jnp.exp(log_q - top), peaks(log_q - cost)]), cost


def _surprise(marginal: Marginal, z: Array) -> tuple[Array, None]:
    """Features of densities, of their surprisal under themselves, and of that of their mixture."""
    log_q = marginal.log_prob(z)
    density, log_aggregate = jnp.exp(log_q), jax.nn.logsumexp(log_q, axis=0, keepdims=True)
    return jnp.concatenate([peaks(log_q), density * log_q, density * log_aggregate]), None


def _under(source: Marginal, kernel: Kernel, z: Array) -> tuple[Array, Normal]:
    """Features of the source and of what the kernel makes of it; the value is the kernel at z."""
    density = jnp.exp(source.log_prob(z))
    normal = given(kernel, z)
    features = jnp.stack([jnp.ones_like(z), normal.mean, normal.std])
    return (density[:, None] * features[None]).reshape(-1, z.size), normal


def _mixture(
    panels: int,
    log_prob: Callable[[Any, Array], Array],
    kernel: Kernel,
    below: Array,
    normals: Normal,
    target: Array,
    row: Any,
) -> Array:
    """ln int exp(source(z)) kernel(z' | z) dz at every z' [K], each on a grid of its own, for one row of the source.

    The grids start from `below`, where the kernel is `normals`. A change of sign of z' - mean(z) leads to the spike.
    """

    def joint(z, normal):
        log_joint = log_prob(row, z) + normal.log_prob(target[:, None])
        r = (target[:, None] - normal.mean) / normal.std
        return jnp.concatenate([peaks(log_joint[None]), (r / jnp.sqrt(1.0 + jnp.square(r)))[None]]), log_joint

    features, _ = joint(nodes(below)[0][None], Normal(normals.mean[None], normals.std[None]))
    start = share(jnp.broadcast_to(below, (target.size, below.size)), features, panels)
    inner, log_joint = adapt(lambda z: joint(z, given(kernel, z)), start, INNER_PASSES, guides=2)
    return jax.nn.logsumexp(log_joint, axis=-1, b=nodes(inner)[1])


def _prior_reach(chain: ScalarVAE) -> Array:
    """Radius R such that noise with |t| > R, of the prior's draws or of a kernel's, adds nothing to ln p(x_k).

    Noise t in one layer and none elsewhere costs t^2 / 2 - ln p(x_k | z_1) nats; R is 1.1 times the largest |t| whose
    cost is within 45 nats of the lowest, whichever component of the prior one starts from.
    """
    prior = prior_row(chain)
    t = jnp.sinh((np.arange(4 * CHUNK) - 2 * CHUNK + 0.5).astype(chain.dtype) * (11.0 / 127.0))  # to +-3e4
    z = draws(prior, jnp.append(t, 0.0)[None])[0][0]
    paths, still = z[:-1].T.ravel(), z[-1]  # the last without noise
    count = still.size
    for p in reversed(chain.p):
        mean, std = given(p, jnp.concatenate([paths, still]))
        noisy = mean[-count:, None] + std[-count:, None] * t[None]
        paths, still = jnp.concatenate([mean[:-count], noisy.ravel()]), mean[-count:]
    t = jnp.tile(t, count * (len(chain.p) + 1))
    cost = 0.5 * jnp.square(t)[None] + energies(chain, paths)
    near = jnp.any(cost < jnp.min(cost, axis=-1, keepdims=True) + 45.0, axis=0)
    return 1.1 * jnp.maximum(REACH, jnp.max(jnp.where(near, jnp.abs(t), 0.0)))
