"""Random steep chains of scalar latents, and their figures by a dense rule in float64 numpy.

D = 3 points of 3 bits; every conditional and the decoder is a tanh network of 3 x 16. The rule is one grid for each
latent, panels being where any of the chain's functions turns, and sums over products of such grids.
"""

from functools import partial
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

from vae_bit.distributions import Normal
from vae_bit.exact import ScalarVAE

LOG_2PI = np.log(2.0 * np.pi)
T = np.linspace(-9.0, 9.0, 241)


def draw(layers, seed):
    """A chain as arrays, so that all of one depth share a program."""
    rng = np.random.default_rng([layers, seed])
    scale = rng.uniform(0.5, 5.0)

    def mlp(out):
        sizes = [1, 16, 16, 16, out]
        bias = rng.choice([0.0, 1.0])
        kernels = [rng.normal(size=(o, i)) * scale / np.sqrt(i) for i, o in pairwise(sizes)]
        return [(kernel, bias * rng.normal(size=len(kernel))) for kernel in kernels]

    return {
        "mean": 2.0 * rng.normal(size=3) * rng.choice([0.3, 1.0, 4.0]),
        "std": np.exp(rng.uniform(-4.0, 1.0, 3)),
        "x": rng.integers(0, 2, (3, 3)).astype(float),
        "residual": float(rng.random() < 0.5),
        "decoder": mlp(3),
        "q": [mlp(2) for _ in range(layers - 1)],
        "p": [mlp(2) for _ in range(layers - 1)],
    }


def network(xp, layers, z):
    h = z[None]
    for i, (kernel, bias) in enumerate(layers):
        h = kernel @ (xp.tanh(h) if i else h) + bias[:, None]
    return h


def conditional(xp, case, layers, z):
    """Mean and standard deviation given z [K]."""
    mean, raw = network(xp, layers, z)
    return mean + case["residual"] * z, xp.exp(xp.clip(raw - 1.0, -7.0, 4.0))


def chain(case):
    kernels = {name: tuple(partial(kernel, case, layers) for layers in case[name]) for name in ("q", "p")}
    q_data = Normal(case["mean"], case["std"])
    return ScalarVAE(case["x"], jnp.ones(3), q_data, logits=partial(network, jnp, case["decoder"]), **kernels)


def kernel(case, layers, z):
    return Normal(*conditional(jnp, case, layers, z))


def rule(panels, samples, curves):
    """Gauss-Legendre nodes and weights on panels shared evenly by the samples, the range, and the lengths of curves."""
    even = np.linspace(samples.min(), samples.max(), 20001)
    points = np.unique(np.concatenate([even, np.sort(samples.ravel())[::7]]))
    shares = [np.linspace(0.0, 1.0, points.size), (points - points[0]) / np.ptp(points)]
    for curve in curves:
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(curve(points))).sum(0))])
        shares.append(length / length[-1])
    edges = np.interp(np.linspace(0.0, 1.0, panels + 1), np.mean(shares, axis=0), points)
    x, w = np.polynomial.legendre.leggauss(4)
    half = np.diff(edges)[:, None] / 2.0
    return ((edges[1:] + edges[:-1])[:, None] / 2.0 + half * x).ravel(), (half * w).ravel()


def curve(case, layers, z):
    """What a conditional must be resolved by: its mean in standard deviations, and their logarithm."""
    mean, std = conditional(np, case, layers, z)
    return np.stack([mean / std, np.log(std)])


def pushed(panels, case, layers, z, mass, curves):
    """Nodes, weights and the densities [D, K] of the next latent, given masses [D, K'] at nodes of this one."""
    mean, std = conditional(np, case, layers, z)
    near = mass.max(0) > 1e-40
    mean, std, mass = mean[near], std[near], mass[:, near]
    new, weights = rule(panels, mean[:, None] + std[:, None] * np.linspace(-9.0, 9.0, 37), curves)
    density = np.zeros((len(mass), new.size))
    for block in np.array_split(np.arange(mean.size), mean.size // 32 + 1):  # narrow kernels reach few of the nodes
        m, s = mean[block], std[block]
        where = slice(*np.searchsorted(new, [(m - 9.0 * s).min(), (m + 9.0 * s).max()]))
        r = (new[where, None] - m) / s
        density[:, where] += mass[:, block] @ (np.exp(-0.5 * (r**2 + LOG_2PI)) / s).T
    return new, weights, density


def energies(case, z):
    logits = network(np, case["decoder"], z)
    return np.stack([np.logaddexp(0.0, (1.0 - 2.0 * bits[:, None]) * logits).sum(0) for bits in case["x"].T])


def oracle(case, panels):
    """recon, kl [L], nll, mutual information, KL(q(z_L) || p(z_L)), sum_k p(x_k)."""
    decoder = partial(network, np, case["decoder"])
    ups = [partial(curve, case, layers) for layers in case["q"]]
    samples = case["mean"][:, None] + case["std"][:, None] * np.linspace(-9.0, 9.0, 2001)
    z, w = rule(panels, samples, [decoder, *ups[:1]])
    density = norm.pdf(z, case["mean"][:, None], case["std"][:, None])
    recon, kl = np.mean((w * density * energies(case, z)).sum(1)), [-np.mean(np.log(case["std"]) + 0.5 * (1 + LOG_2PI))]
    for l, (q, p) in enumerate(zip(case["q"], case["p"], strict=True)):
        mass = (w * density).mean(0)
        mean, std = conditional(np, case, q, z)
        below = conditional(np, case, p, (mean[:, None] + std[:, None] * T).ravel())
        log_p = norm.logpdf(np.repeat(z, T.size), *below).reshape(z.size, -1)
        kl[-1] -= mass @ (log_p @ norm.pdf(T)) * (T[1] - T[0])
        kl.append(-mass @ (np.log(std) + 0.5 * (1.0 + LOG_2PI)))
        z, w, density = pushed(panels, case, q, z, w * density, ups[l + 1 : l + 2])
    log_q = np.log(np.maximum(density, 1e-300))
    log_aggregate = logsumexp(log_q, axis=0) - np.log(3.0)
    log_prior = norm.logpdf(z)
    kl[-1] -= (w * density).mean(0) @ log_prior
    information = np.sum(w * density * (log_q - log_aggregate)) / 3.0
    marginal = np.sum(w * density * (log_aggregate - log_prior)) / 3.0
    p_x = evidence(case, decoder, panels)
    return recon, np.array(kl), -np.mean(np.log(p_x)), information, marginal, p_x.sum()


def evidence(case, decoder, panels):
    """p(x_k), [3]."""
    downs = [partial(curve, case, layers) for layers in case["p"]]
    z, w = rule(panels, np.linspace(-13.0, 13.0, 2001), downs[-1:] or [decoder])
    density = norm.pdf(z)[None]
    for l in reversed(range(len(downs))):
        z, w, density = pushed(panels, case, case["p"][l], z, w * density, [downs[l - 1] if l else decoder])
    return np.exp(-energies(case, z)) @ (w * density[0])
