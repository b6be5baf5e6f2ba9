"""The marginals of a VAE with L scalar latents, by quadrature: q(z_l | x_k) from z_1 up, p(z_l) from z_L down.

Each is a table of its logarithm, the next being ln p'(z') = ln int p(z) kernel(z' | z) dz. The kernel may be a thousand
times narrower than the range of z', the integrand a spike at an unknown place: for every z' it gets a grid of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vae_bit.distributions import LOG_2PI, Normal
from vae_bit.quadrature import ORDER, Table, adapt, lookup, nodes, peaks, resample, share, tabulate

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

    q[l - 1] is q(z_{l+1} | z_l) and p[l - 1] is p(z_l | z_{l+1}), l = 1..L-1, both maps z [K] -> Normal of shape [K];
    the top prior is N(0, 1). logits maps z_1 [K] to those of p(x_i = 1 | z_1), [n, K].
    """

    x: Array  # [n, D], 0 or 1
    mask: Array  # [n], 1 = real dimension, 0 = padding
    q_data: Normal  # q(z_1 | x_k), shape [D]
    q: tuple[Kernel, ...]
    p: tuple[Kernel, ...]
    logits: Callable[[Array], Array]


def real_logits(chain: ScalarVAE, z: Array) -> Array:
    """The logits with 0 in the padding, whatever it holds: [K] -> [n, K]."""
    return jnp.where(chain.mask[:, None] > 0, chain.logits(z), 0.0)


def energies(chain: ScalarVAE, z: Array) -> Array:
    """-ln p(x_k | z_1) = sum_i softplus((1 - 2 x_ik) logit_i(z_1)): z [K] -> [D, K]. Holds n * CHUNK logits at a time.

    softplus(+-l) = max(+-l, 0) + ln(1 + exp(-|l|)), whose second part, the costly one, serves every data point.
    """
    mask = chain.mask.astype(z.dtype)
    ones = jnp.where(mask[:, None] > 0, chain.x.astype(z.dtype), 0.0)
    zeros = mask[:, None] - ones

    def chunk(z):
        logits = real_logits(chain, z)
        shared = jnp.sum(mask[:, None] * jnp.log1p(jnp.exp(-jnp.abs(logits))), axis=0)
        return shared[None] + zeros.T @ jnp.maximum(logits, 0.0) + ones.T @ jnp.maximum(-logits, 0.0)

    chunks = jnp.pad(z, (0, -z.size % CHUNK)).reshape(-1, CHUNK)
    return jax.lax.map(chunk, chunks).swapaxes(0, 1).reshape(chain.x.shape[1], -1)[:, : z.size]


def inference_marginals(chain: ScalarVAE, grids: Grids) -> list[Table]:
    """ln q(z_l | x_k), l = 1..L, each a table of D functions."""
    edges = resample(spread(chain.q_data, REACH), grids.outer)
    columns = Normal(chain.q_data.mean[:, None], chain.q_data.std[:, None])
    tables = [tabulate(edges, log_normal(nodes(edges)[0][None], columns))]
    for kernel in chain.q:
        tables.append(push(tables[-1], kernel, REACH, grids)[0])
    return tables


def generative_marginals(chain: ScalarVAE, grids: Grids) -> tuple[list[Table], Array]:
    """ln p(z_l), l = 1..L, and -ln p(x_k | z_1) at the nodes of the first, whose grid also resolves p(z_1 | x_k)."""
    reach = _prior_reach(chain)
    edges = reach * jnp.linspace(-1.0, 1.0, grids.outer + 1, dtype=reach.dtype)
    energy = partial(energies, chain)
    if not chain.p:
        edges, values = adapt(partial(_tempered, log_prior, energy), edges, PASSES)
        return [tabulate(edges, log_prior(nodes(edges)[0]))], values
    tables = [tabulate(edges, log_prior(nodes(edges)[0]))]
    for kernel in reversed(chain.p[1:]):
        tables.insert(0, push(tables[0], kernel, reach, grids)[0])
    first, values = push(tables[0], chain.p[0], reach, grids, energy)
    return [first, *tables], values


def push(
    source: Table,
    kernel: Kernel,
    reach: float | Array,
    grids: Grids,
    energy: Callable[[Array], Array] | None = None,
) -> tuple[Table, Array]:
    """ln int exp(source_k(z)) kernel(z' | z) dz as a table of z', and the energies [D, K] at its nodes.

    The grid reaches `reach` standard deviations of the kernel and resolves the result times exp(-energy_k(z')).
    """
    below, normals = adapt(partial(_under, source, kernel), source.edges, PASSES)
    z, weights = nodes(below)
    log_mass = lookup(source, z) + jnp.log(jnp.maximum(weights, jnp.finfo(z.dtype).tiny))[None]
    panels = normals.mean.reshape(-1, ORDER)
    blur = jnp.repeat(BLUR * (jnp.max(panels, axis=1) - jnp.min(panels, axis=1)), ORDER)
    broad = Normal(normals.mean[None], jnp.hypot(normals.std, blur)[None])

    def sketch(target):
        log_kernel = log_normal(target[:, None], broad)
        return jax.nn.logsumexp(log_mass[:, None] + log_kernel[None], axis=-1)

    start = resample(spread(normals, reach), grids.outer)
    edges, values = adapt(partial(_tempered, sketch, energy or _nothing), start, PASSES)
    exact = partial(_mixture, grids.inner, source.edges, kernel, below, normals, nodes(edges)[0])
    return tabulate(edges, jax.vmap(exact)(source.coefficients)), values


def given(kernel: Kernel, z: Array) -> Normal:
    """The Gaussians of a kernel at z of any shape, kept within what can be squared: only far tails ever exceed it."""
    normal = kernel(z.ravel())
    largest = float(jnp.finfo(z.dtype).max) ** 0.2
    mean = jnp.clip(normal.mean, -largest, largest)
    return Normal(mean.reshape(z.shape), jnp.clip(normal.std, 1.0 / largest, largest).reshape(z.shape))


def log_normal(z: Array, normal: Normal) -> Array:
    """ln N(z; mean, std^2), elementwise."""
    return -0.5 * (jnp.square((z - normal.mean) / normal.std) + LOG_2PI) - jnp.log(normal.std)


def log_prior(z: Array) -> Array:
    """ln N(z; 0, 1) as one row: [K] -> [1, K]."""
    return -0.5 * (jnp.square(z) + LOG_2PI)[None]


def _nothing(z: Array) -> Array:
    return jnp.zeros_like(z)[None]


def _tempered(log_density: Callable[[Array], Array], energy: Callable[[Array], Array], z: Array) -> tuple[Array, Array]:
    """Features of exp(log_density_k(z)), and of that times exp(-energy_k(z)); the value is the energy."""
    log_q, cost = log_density(z), energy(z)
    top = jnp.max(log_q, axis=-1, keepdims=True)
    return jnp.concatenate([jnp.exp(log_q - top), peaks(log_q - cost)]), cost


def _under(source: Table, kernel: Kernel, z: Array) -> tuple[Array, Normal]:
    """Features of the source and of what the kernel makes of it; the value is the kernel at z."""
    density = jnp.exp(lookup(source, z))
    normal = given(kernel, z)
    features = jnp.stack([jnp.ones_like(z), normal.mean, normal.std])
    return (density[:, None] * features[None]).reshape(-1, z.size), normal


def _mixture(
    panels: int,
    edges: Array,
    kernel: Kernel,
    below: Array,
    normals: Normal,
    target: Array,
    coefficients: Array,
) -> Array:
    """ln int exp(source(z)) kernel(z' | z) dz at every z' [K], each on a grid of its own, for one row of the source.

    The grids start from `below`, where the kernel is `normals`. A change of sign of z' - mean(z) leads to the spike.
    """
    source = Table(edges, coefficients[None])

    def joint(z, normal):
        log_joint = lookup(source, z)[0] + log_normal(target[:, None], normal)
        r = (target[:, None] - normal.mean) / normal.std
        return jnp.concatenate([peaks(log_joint[None]), (r / jnp.sqrt(1.0 + jnp.square(r)))[None]]), log_joint

    features, _ = joint(nodes(below)[0][None], Normal(normals.mean[None], normals.std[None]))
    start = share(jnp.broadcast_to(below, (target.size, below.size)), features, panels)
    inner, log_joint = adapt(lambda z: joint(z, given(kernel, z)), start, INNER_PASSES, guides=2)
    return jax.nn.logsumexp(log_joint, axis=-1, b=nodes(inner)[1])


def spread(normal: Normal, reach: float | Array) -> Array:
    """mean + std * t for 17 even t on +-reach: [K] -> [17 K]."""
    t = reach * jnp.linspace(-1.0, 1.0, 17, dtype=normal.mean.dtype)
    return jnp.ravel(normal.mean[:, None] + normal.std[:, None] * t[None])


def _prior_reach(chain: ScalarVAE) -> Array:
    """Radius R such that noise with |t| > R, in the prior's own standard deviations, adds nothing to ln p(x_k).

    Noise t in one layer and none elsewhere costs t^2 / 2 - ln p(x_k | z_1) nats; R is 1.1 times the largest |t| whose
    cost is within 45 nats of the lowest.
    """
    t = jnp.sinh(jnp.linspace(-5.5, 5.5, 2 * CHUNK, dtype=chain.q_data.mean.dtype))
    paths = t
    for p in reversed(chain.p):
        mean, std = given(p, jnp.pad(paths, (0, 1)))  # the last at 0
        paths = jnp.concatenate([mean[:-1], mean[-1] + std[-1] * t])
    t = jnp.tile(t, len(chain.p) + 1)
    cost = 0.5 * jnp.square(t)[None] + energies(chain, paths)
    near = jnp.any(cost < jnp.min(cost, axis=-1, keepdims=True) + 45.0, axis=0)
    return 1.1 * jnp.maximum(REACH, jnp.max(jnp.where(near, jnp.abs(t), 0.0)))
