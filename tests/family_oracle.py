"""What chains of any family amount to, by one dense float64 rule in numpy whose panels shrink around every feature.

A family is a log density and the places that panels close in on: the means of a mixture, the knots of a flow, whose
inverse is found by bisection.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm


class Density(NamedTuple):
    """ln of a density, [...] -> [...], and where it has features [C]."""

    log: Callable[[Any], Any]
    centres: Any


def mixture(weights, means, stds):
    weights, means, stds = (np.asarray(part, float) for part in (weights, means, stds))

    def log(z):
        return logsumexp(norm.logpdf(z[..., None], means, stds) + np.log(weights / weights.sum()), axis=-1)

    return Density(log, means)


def flow(x, y, slope):
    """Of z = T(eps), T a monotone rational-quadratic spline (Durkan et al. 2019, eq. 4 and 5) with straight ends."""

    def log(z):
        bin_ = np.clip(np.searchsorted(y, z) - 1, 0, len(x) - 2)
        width, height = np.diff(x)[bin_], np.diff(y)[bin_]
        chord, left, right = height / width, slope[bin_], slope[bin_ + 1]
        share = (np.clip(z, y[0], y[-1]) - y[bin_]) / height
        low, high = np.zeros_like(z), np.ones_like(z)
        for _ in range(90):  # geometric at both ends, so that a root near to 0 keeps its digits
            xi = np.where(low > 0.0, np.sqrt(low * high), np.minimum(high * 1e-3, 0.5 * high))
            xi = np.where(high - low < 0.5 * high, 0.5 * (low + high), xi)
            rise = chord * xi**2 + left * xi * (1.0 - xi)
            above = rise > share * (chord + (right + left - 2.0 * chord) * xi * (1.0 - xi))
            low, high = np.where(above, low, xi), np.where(above, xi, high)
        bottom = chord + (right + left - 2.0 * chord) * xi * (1.0 - xi)
        steep = chord**2 * (right * xi**2 + 2.0 * chord * xi * (1.0 - xi) + left * (1.0 - xi) ** 2) / bottom**2
        outside = [z < y[0], z > y[-1]]
        eps = np.select(outside, [x[0] + (z - y[0]) / slope[0], x[-1] + (z - y[-1]) / slope[-1]], x[bin_] + width * xi)
        return norm.logpdf(eps) - np.log(np.select(outside, [slope[0], slope[-1]], steep))

    xi = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9])[:, None]
    chord, both = np.diff(y) / np.diff(x), slope[:-1] + slope[1:]
    rise = (chord * xi**2 + slope[:-1] * xi * (1.0 - xi)) / (chord + (both - 2.0 * chord) * xi * (1.0 - xi))
    return Density(log, np.append(y[:-1] + np.diff(y) * rise, y[-1]))  # where it is flat, q is narrow


def rule(centres, low, high, order=10, least=1e-10, even=1):
    """Gauss-Legendre nodes and weights on [low, high], `even` panels that shrink to `least` around the centres."""
    away = np.geomspace(least, high - low, int(3 * np.log10((high - low) / least)))
    shrinking = np.clip(np.add.outer(np.ravel(centres), [*-away, 0.0, *away]), low, high)
    edges = np.unique(np.concatenate([shrinking.ravel(), np.linspace(low, high, even + 1)]))
    x, w = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2.0
    return (edges[:-1, None] + half * (1.0 + x)).ravel(), (half * w).ravel()


def one_layer(q, prior, energy, edges, span, cost=None):
    """Figures of one layer, q being D densities: recon, kl, ln p(x_k), information, marginal KL, distortion.

    `edges` are the places where the decoder turns, `span` holds all mass.
    """
    z, w = rule(np.concatenate([edges, prior.centres, *(each.centres for each in q)]), *span)
    log_q, log_p = np.stack([each.log(z) for each in q]), prior.log(z)
    mass = w * np.exp(log_q)
    assert np.abs(mass.sum(1) - 1.0).max() < 1e-7, mass.sum(1)
    assert abs(w @ np.exp(log_p) - 1.0) < 1e-8, w @ np.exp(log_p)
    log_aggregate = logsumexp(log_q, axis=0) - np.log(len(q))
    pays = energy if cost is None else cost
    return {
        "recon": np.mean(np.sum(mass * pays(z), 1)),
        "kl": [np.mean(np.sum(mass * (log_q - log_p), 1))],
        "log_p": np.asarray(logsumexp(log_p - energy(z), axis=-1, b=w)),
        "mutual_information": np.mean(np.sum(mass * (log_q - log_aggregate), 1)),
        "marginal_kl": np.mean(np.sum(mass * (log_aggregate - log_p), 1)),
        "distortion": np.mean(np.sum(mass * energy(z), 1)),
        "entropy": -np.mean(np.sum(mass * log_q, 1)),
    }


def two_layers(q, prior, case, span):
    """Figures of two layers: p(z_1 | z_2) = N(c tanh(k z_2), noise^2), q(z_2 | z_1) another; `case` as `TWO`'s are."""
    n, slope, shift, c, k, noise, c_q, k_q, s_q = case

    def energy(z):
        logits = slope * (z - shift)
        return n * np.stack([np.logaddexp(0.0, logits), np.logaddexp(0.0, -logits)])

    z, w = rule(np.concatenate([[shift, 0.0], *(each.centres for each in q)]), *span, order=8, least=1e-6, even=300)
    z_2, w_2 = rule(np.concatenate([[0.0, -c_q, c_q], prior.centres]), *span, order=8, least=1e-6, even=300)
    t, w_t = rule([0.0], -9.5, 9.5, least=0.1, even=40)
    w_t = w_t * norm.pdf(t)
    log_q, log_p2 = np.stack([each.log(z) for each in q]), prior.log(z_2)
    mass = w * np.exp(log_q)
    near = mass.max(0) > 1e-18
    z, mass, log_q = z[near], mass[:, near], log_q[:, near]
    assert np.abs(mass.sum(1) - 1.0).max() < 1e-8, mass.sum(1)
    up = c_q * np.tanh(k_q * z)
    below = np.array(
        [norm.logpdf(one, c * np.tanh(k * (mean + s_q * t)), noise) @ w_t for one, mean in zip(z, up, strict=True)]
    )
    density = np.stack([norm.pdf(one, up, s_q) @ mass.T for one in z_2], axis=1)
    log_density = np.log(np.maximum(density, 1e-300))
    log_aggregate = logsumexp(log_density, axis=0) - np.log(len(q))
    masses = w_2 * density
    own = w_2 * np.exp(log_p2) > 1e-25
    likelihood = np.stack([np.exp(-energy(c * np.tanh(k * one) + noise * t)) @ w_t for one in z_2[own]], axis=1)
    return {
        "recon": np.mean(np.sum(mass * energy(z), 1)),
        "kl": [
            np.mean(np.sum(mass * (log_q - below), 1)),
            -norm.entropy(0.0, s_q) - np.mean(np.sum(masses * log_p2, 1)),
        ],
        "log_p": np.log(likelihood @ (w_2 * np.exp(log_p2))[own]),
        "mutual_information": np.mean(np.sum(masses * (log_density - log_aggregate), 1)),
        "marginal_kl": np.mean(np.sum(masses * (log_aggregate - log_p2), 1)),
    }
