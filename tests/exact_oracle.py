"""The chains of the tests of `vae_bit.exact`, and what they amount to by nested float64 quadrature in numpy.

The chains are functions with a known scale: logit_i = slope * z_1, q(z_1 | x) = N(-+m, s^2), p(z_1 | z_2) a tanh step
and q(z_2 | z_1) another. The oracle knows where their features are and puts geometric panels around them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

from vae_bit.distributions import Normal
from vae_bit.exact import GRIDS, ScalarVAE, evaluate_on

WIDTH = 1000

# n, slope, shift, m, s
ONE = {
    "n = 1": (1, 1.0, 0.0, 0.5, 0.8),
    "n = 5": (5, 4.0, 0.1, 0.92, 0.4),
    "n = 1000": (1000, 35.0, 0.0, 0.97, 0.235),
    "collapsed": (1000, 0.0, 0.0, 0.0, 1.0),
    "untrained": (1000, 0.3, 0.2, 0.1, 1.0),
    "steep": (1000, 1e4, 0.0, 0.97, 0.235),
    "steep, shifted": (1000, 1e4, 0.3, 0.97, 0.235),
    "steep the wrong way": (1000, -1e4, 0.0, 0.97, 0.235),
    "narrow q": (1000, 1e4, 0.0, 1.0, 1e-3),
    "wide q": (1000, 1e4, 0.0, 1.0, 10.0),
}
# ..., c, k, noise of p(z_1 | z_2) = N(c tanh(k z_2), noise^2), and the same of q(z_2 | z_1)
TWO = {
    "n = 5": (5, 4.0, 0.1, 1.0, 0.4, 1.0, 0.5, 0.8, 0.8, 0.8, 0.6),
    "n = 1000": (1000, 20.0, 0.0, 1.0, 0.3, 1.0, 1.0, 0.5, 1.0, 1.0, 0.5),
    "untrained": (1000, 0.2, 0.0, 0.1, 0.9, 0.3, 0.5, 0.9, 0.2, 0.8, 1.1),
    "the original's": (1000, 3.0, 0.0, 19.0, 1.9, 19.0, 5.0, 1.9, 0.8, 0.2, 0.5),
    "far apart": (1000, 1e4, 0.0, 1.0, 0.3, 50.0, 1.0, 1e-3, 0.8, 1.0, 0.5),
    "far apart, abrupt": (1000, 1e4, 0.0, 1.0, 0.3, 50.0, 100.0, 1e-3, 0.8, 1.0, 0.5),
    "two spikes": (1000, 1e4, 0.0, 50.0, 1e-3, 50.0, 100.0, 1e-3, 0.8, 1.0, 0.5),
    "narrow q": (1000, 1e4, 0.0, 1.0, 0.3, 50.0, 100.0, 1e-3, 0.8, 1.0, 1e-3),
    "narrow q, abrupt": (5, 4.0, 0.0, 1.0, 0.4, 1.0, 0.5, 0.8, 3.0, 100.0, 1e-3),
    "wide q": (1000, 1e4, 0.0, 1.0, 10.0, 50.0, 100.0, 1e-3, 0.8, 1.0, 10.0),
}


def tanh_kernel(c, k, noise):
    return lambda z: Normal(c * jnp.tanh(k * z), jnp.full_like(z, noise))


def chain(n, slope, shift, m, s, *kernels, width=WIDTH):
    """A chain of 1 + len(kernels) / 6 layers: each further layer adds (c, k, noise) of p and of q."""
    mask = (jnp.arange(width) < n).astype(jnp.result_type(float))
    x = mask[:, None] * jnp.array([[0.0, 1.0]])
    steps = [kernels[i : i + 3] for i in range(0, len(kernels), 3)]
    p, q = (tuple(tanh_kernel(*step) for step in steps[i::2]) for i in (0, 1))
    std = jnp.stack([jnp.asarray(s), jnp.asarray(s)])
    return ScalarVAE(
        x, mask, Normal(m * jnp.array([-1.0, 1.0]), std), q, p, lambda z: jnp.tile(slope * (z - shift), (width, 1))
    )


def compute(f, *args):
    """f(*args) in float64, compiled, as numpy arrays."""
    with jax.enable_x64(True):
        args = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), args)
        return jax.tree.map(np.asarray, jax.jit(f)(*args))


def evaluate_all(cases, grids=GRIDS[0]):
    """Every case in one program: name -> fields."""
    batch = tuple(np.array(column) for column in zip(*cases.values(), strict=True))
    result = compute(partial(jax.lax.map, lambda args: evaluate_on(grids, chain(*args))), batch)
    return {name: jax.tree.map(lambda leaf, i=i: leaf[i], result) for i, name in enumerate(cases)}


def panels(low, high, centres, order=12):
    """Gauss-Legendre nodes and weights on [low, high], panels shrinking geometrically to 1e-9 around the centres.

    `low` and `high` have the shape [...], centres [..., C]; the result is [..., K] each.
    """
    away = np.geomspace(1e-9, 60.0, 40)
    away = np.concatenate([-away[::-1], [0.0], away])
    spread = np.asarray(centres)[..., None] + away
    even = np.linspace(low, high, 25, axis=-1)
    edges = np.concatenate([spread.reshape(*spread.shape[:-2], -1), even], axis=-1)
    edges = np.sort(np.clip(edges, np.asarray(low)[..., None], np.asarray(high)[..., None]), axis=-1)
    x, w = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[..., None] / 2.0
    nodes = (edges[..., 1:] + edges[..., :-1])[..., None] / 2.0 + half * x
    return nodes.reshape(*nodes.shape[:-2], -1), (half * w).reshape(*nodes.shape[:-2], -1)


def energy(case, z):
    """-ln p(x | z_1) at 0^n and 1^n: [2, ...]."""
    n, slope, shift = case[:3]
    logits = slope * (z - shift)
    return n * np.stack([np.logaddexp(0.0, logits), np.logaddexp(0.0, -logits)])


def oracle_one(case):
    """recon, kl_1, ln p(x_k), I(x; z_1), KL(q(z_1) || p(z_1)), E KL(q(z_1 | x) || p(z_1 | x)), one by one."""
    _, _, shift, m, s = case
    recon, kl, information, marginal, posterior = [], [], [], [], []
    z, w = panels(-40.0, 40.0, [shift])
    log_p = np.asarray(logsumexp(norm.logpdf(z) - energy(case, z), axis=-1, b=w))
    for k, mean in enumerate([-m, m]):
        z, w = panels(mean - 12.0 * s, mean + 12.0 * s, [shift])
        log_q = norm.logpdf(z, mean, s)
        log_marginal = np.logaddexp(norm.logpdf(z, -m, s), norm.logpdf(z, m, s)) - np.log(2.0)
        mass = w * np.exp(log_q)
        recon.append(mass @ energy(case, z)[k])
        kl.append(mass @ (log_q - norm.logpdf(z)))
        information.append(mass @ (log_q - log_marginal))
        marginal.append(mass @ (log_marginal - norm.logpdf(z)))
        posterior.append(mass @ (log_q - (norm.logpdf(z) - energy(case, z)[k] - log_p[k])))
    return np.mean(recon), np.mean(kl), log_p, np.mean(information), np.mean(marginal), np.mean(posterior)


def oracle_evidence(case):
    """ln p(x_k) = ln int p(z_2) int p(z_1 | z_2) p(x_k | z_1) of two layers."""
    c, k, noise = case[5:8]
    crossing = np.arctanh(np.clip(case[2] / c, -1.0, 1.0)) / k
    z_2, w_2 = panels(-40.0, 40.0, [0.0, crossing])
    mean = c * np.tanh(k * z_2)
    t, w_1 = panels(np.full_like(mean, -40.0), np.full_like(mean, 40.0), (case[2] - mean[:, None]) / noise)
    inner = logsumexp(norm.logpdf(t) - energy(case, mean[:, None] + noise * t), axis=-1, b=w_1)
    return np.asarray(logsumexp(norm.logpdf(z_2) + inner, axis=-1, b=w_2))


def oracle_kl(case):
    """kl_1, kl_2 of two layers."""
    _, _, _, m, s, c, k, noise, c_q, k_q, s_q = case
    terms = []
    for mean in (-m, m):
        z_1, w_1 = panels(mean - 12.0 * s, mean + 12.0 * s, [0.0])
        mass = w_1 * norm.pdf(z_1, mean, s)
        mean_2 = c_q * np.tanh(k_q * z_1)
        t, w = panels(np.full_like(z_1, -12.0), np.full_like(z_1, 12.0), -mean_2[:, None] / s_q)
        log_p = norm.logpdf(z_1[:, None], c * np.tanh(k * (mean_2[:, None] + s_q * t)), noise)
        cross = np.sum(w * norm.pdf(t) * -log_p, axis=-1)
        terms.append([mass @ cross - norm.entropy(mean, s), mass @ (0.5 * (mean_2**2 + s_q**2 - 1.0) - np.log(s_q))])
    return np.mean(terms, axis=0)


def oracle_surgery(case):
    """I(x; z_2), KL(q(z_2) || p(z_2)) of two layers."""
    _, _, _, m, s, _, _, _, c, k, noise = case
    reach = c * np.tanh(k * (m + 12.0 * s)) + 12.0 * noise
    z_2, w = panels(-reach, reach, c * np.array([-1.0, 1.0, -np.tanh(k * m), np.tanh(k * m), 0.0]))
    root = np.arctanh(np.clip(z_2 / c, -1.0 + 1e-15, 1.0 - 1e-15)) / k
    densities = []
    for mean in (-m, m):
        low, high = np.full_like(z_2, mean - 12.0 * s), np.full_like(z_2, mean + 12.0 * s)
        z_1, w_1 = panels(low, high, np.stack([root, np.zeros_like(root)], -1))
        densities.append(np.sum(w_1 * norm.pdf(z_1, mean, s) * norm.pdf(z_2[:, None], c * np.tanh(k * z_1), noise), -1))
    q = np.maximum(densities, 1e-300)
    assert np.abs(q @ w - 1.0).max() < 1e-7
    aggregate = q.mean(0)
    return np.mean((q * np.log(q / aggregate)) @ w), w @ (aggregate * (np.log(aggregate) - norm.logpdf(z_2)))


def close(value, expected, tolerance=1e-5):
    """To 1e-5, relative to max(1, |expected|)."""
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)


def linear(slopes, stds):
    return tuple(lambda z, a=a, s=s: Normal(a * z, jnp.full_like(z, s)) for a, s in zip(slopes, stds, strict=True))
