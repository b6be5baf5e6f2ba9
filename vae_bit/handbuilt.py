"""Models built by hand, exact, in nats: the post's two layers, two layers that work, a plain mixture.

Two layers are z_2 ~ N(0, 1), p(z_1 | z_2), p(x | z_1) with Gaussian q(z_1 | x), q(z_2 | z_1). Those below
treat the two points as mirror images: all is said of x^(1), the point of ones, which z_1 > 0 stands for.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr, ndtri_exp, xlogy

from vae_bit.limits import LN2, Array, Limit, conditional_entropy, invert, nonnegative, positive

SQRT_2PI = math.sqrt(2.0 * math.pi)

# Panels of 16 Gauss-Legendre nodes, ever wider from a point where all happens on the scale s out to _FAR s.
_FAR = 1000.0
_PANELS = np.concatenate([[0.0], np.geomspace(0.5 / _FAR, 1.0, 20)])
_LEGENDRE, _LEGENDRE_WEIGHTS = legendre.leggauss(16)
# Column j integrates the polynomial through all nodes from -1 to node j.
_LEGENDRE_SUMS = np.linalg.solve(
    legendre.legvander(_LEGENDRE, 15).T, legendre.legval(_LEGENDRE, legendre.legint(np.eye(16), lbnd=-1.0))
)


class Mixture(NamedTuple):
    """sum_k weights[k] prod_i Bernoulli(x_i; probs[k, i]), and its loss -E_x[ln p(x)] in nats."""

    loss: float
    weights: Array
    probs: Array


def steep_map(n: float, a: float, s: float) -> Limit:
    """Two layers with Gaussian q whose loss tends to ln 2: z_1 follows z_2 closely, onto two Gaussians.

    Let F be the distribution function of (N(-a, 1) + N(a, 1)) / 2, Phi that of N(0, 1). Then f = F^-1(Phi(.))
    carries the prior onto the two Gaussians, most steeply between them. With g = Phi^-1(F(.)), its inverse,
        p(z_1 | z_2) = N(f(z_2), s^2)            q(z_1 | x) = N(+-a, 1)
        p(x_i = 1 | z_1) = sigmoid(2 a z_1)      q(z_2 | z_1) = N(g(z_1), (s g'(z_1))^2)
    where the decoder is the best for these codes and q(z_2 | z_1) the posterior that a straight f would have.
        recon = n R(a^2),    kl = ln 2 - R(a^2) + O(s^2),
    so at every n the loss tends to ln 2 as s -> 0 and a -> infinity.

    `n` > 0 real, `a` > 0 in standard deviations of the code, 0 < `s` <= 1; anything else raises ValueError.
    """
    n, a, s = float(positive("n", n)), float(positive("a", a)), float(positive("s", s))
    if s > 1.0:
        raise ValueError(f"s must be at most 1, the width of the code, got {s}")
    unread = float(conditional_entropy(min(a, 1e100) ** 2))
    recon, kl = n * unread, LN2 - unread + _steep_excess(a, s) / 2.0
    return Limit(*map(np.asarray, (recon + kl, recon, kl, a, 1.0)))


def posterior_z1(z_1: ArrayLike, a: float) -> Array:
    """p(z_1 | x^(1)) = 1[z_1 > 0] (phi(z_1 - a) + phi(z_1 + a)) in the post's model by hand, at any z_1.

    The model: p(z_1 | z_2) = N(a sign(z_2), 1), x^(1) if z_1 > 0 and else x^(0), so that p(x) = 1/2. The post
    takes this posterior for N(a, 1): see `posterior_distance`.
    """
    z_1 = np.asarray(z_1, np.float64)
    return np.where(z_1 > 0.0, _phi(z_1 - a) + _phi(z_1 + a), 0.0)


def posterior_z2(z_2: ArrayLike, a: float) -> Array:
    """p(z_2 | x^(1)) = 2 phi(z_2) Phi(a sign(z_2)) in the post's model by hand, at any z_2.

    Two half Gaussians, with masses Phi(a) and Phi(-a). The post takes it for one, 2 phi(z_2) 1[z_2 > 0].
    """
    z_2 = np.asarray(z_2, np.float64)
    return 2.0 * _phi(z_2) * ndtr(a * np.sign(z_2))


def posterior_distance(a: ArrayLike) -> Array:
    """Phi(-a): how far, in total variation, the post's two approximate posteriors are from the exact ones.

    It is the same for both. N(a, 1) has the mass Phi(-a) at z_1 <= 0, where p(z_1 | x^(1)) has none, and lies
    below it elsewhere; p(z_2 | x^(1)) has that mass at z_2 <= 0, where the half Gaussian has none.
    `a` >= 0 of any shape; anything else raises ValueError.
    """
    return ndtr(-nonnegative("a", a))


def posterior_gap(b: ArrayLike) -> Array:
    """min KL(N(mu, tau^2) || p(z_2 | z_1)) over Gaussians, in nats, in the post's model by hand; b = a z_1.

    There p(z_2 | z_1) = phi(z_2) exp(b sign(z_2)) / cosh(b), and with c = mu / tau the divergence is
        (tau^2 (1 + c^2) - 1) / 2 - ln tau - b (2 Phi(c) - 1) + ln cosh b.
    As in `limits.one_layer`, tau^2 = 1 / (1 + c^2) is best. That leaves
        ln(1 + c^2) / 2 - b (2 Phi(c) - 1) + ln cosh b,
    stationary at the one c with b = sqrt(pi / 2) c exp(c^2 / 2) / (1 + c^2). It grows without bound, as
    ln(2 ln b) / 2 - ln 2: the nearer p(z_2 | z_1) comes to half a Gaussian, the worse a Gaussian fits it.
    `b` is real, of any shape; only |b| matters.
    """
    b = np.abs(np.asarray(b, np.float64))
    opened = np.where(b > 0.0, b, 1.0)
    c = np.where(b > 0.0, invert(_sign_balance, opened, np.sqrt(2.0 * np.log1p(opened))), 0.0)
    return np.log1p(c * c) / 2.0 + 2.0 * b * ndtr(-c) + np.log1p(np.exp(-2.0 * b)) - LN2


def handbuilt_loss(n: float, a: float, slope: float) -> Limit:
    """The lowest loss of the post's model by hand, p(z_1 | z_2) = N(a sign(z_2), 1), under any Gaussian q.

    With the post's decoder, x^(1) if z_1 > 0, it is infinite: every Gaussian q(z_1 | x) puts mass where
    p(x | z_1) = 0. So here each of the n dimensions has the logit slope * z_1, which hardens as slope grows.
    Over q(z_1 | x^(1)) = N(m, s^2) and, at every z_1, the best Gaussian q(z_2 | z_1),
        loss = min_{m, s}  n E[softplus(-slope z_1)] + KL(N(m, s^2) || p(z_1)) + E[posterior_gap(a z_1)],
    z_1 ~ N(m, s^2), p(z_1) = phi(z_1) cosh(a z_1) exp(-a^2 / 2). As p is given, each point and each z_1 has a
    minimum of its own: mirror images are no restriction. The last term is what keeps the loss from ln 2.

    `n`, `a`, `slope` finite and > 0; anything else raises ValueError.
    """
    n, a, slope = float(positive("n", n)), float(positive("a", a)), float(positive("slope", slope))

    def terms(mean: float, std: float) -> tuple[float, float]:
        return n * _softplus_mean(slope * mean, slope * std), _handbuilt_kl(mean, std, a)

    best = minimize(
        lambda code: sum(terms(code[0], math.exp(code[1]))),
        x0=(a, 0.0),
        method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-13, "maxiter": 2000},
    )
    mean, std = float(best.x[0]), math.exp(best.x[1])
    recon, kl = terms(mean, std)
    return Limit(*map(np.asarray, (recon + kl, recon, kl, mean, std)))


def fit_mixture(n: int, steps: int = 100, seed: int = 0) -> Mixture:
    """A mixture of two Bernoulli vectors fitted to the two points by EM from random probabilities: loss ln 2.

    E: r[x, k] = weights[k] p(x | k) / p(x).
    M: weights[k] = E_x[r[x, k]], probs[k] = E_x[r[x, k] x] / weights[k].
    The likelihood is exact, so nothing can collapse. In logarithms, so that no component dies out.
    `n` >= 1 dimensions; anything else raises ValueError.
    """
    if not (n >= 1 and n % 1 == 0):
        raise ValueError(f"n must be an integer >= 1, got {n}")
    x = np.stack([np.zeros(n), np.ones(n)])
    probs = np.random.default_rng(seed).uniform(0.25, 0.75, (2, n))
    log_weights = np.full(2, -LN2)
    for _ in range(steps):
        joint = _log_joint(x, log_weights, probs)
        log_share = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
        log_total = np.logaddexp.reduce(log_share, axis=0)
        log_weights, probs = log_total - LN2, np.exp(log_share - log_total).T @ x
    loss = -np.mean(np.logaddexp.reduce(_log_joint(x, log_weights, probs), axis=1))
    return Mixture(float(loss), np.exp(log_weights), probs)


def _steep_excess(a: float, s: float) -> float:
    """E[r^2] - 1 + E[tau^2] of `steep_map`, r = (z_1 - y) / s with y = f(z_2), and tau = s g'(z_1).

    u = (z_2 - g(z_1)) / tau is N(0, 1) under q. Given z_1, the mean of r^2 is an integral over y:
        u(y) = int_{z_1}^y g'(v) dv / tau,    E[r^2 | z_1] = int r^2 phi(u(y)) u'(y) dy.
    Only ratios g'(v) / g'(z_1) enter, by their logarithms: however small s is and however steep f, nothing
    cancels. The parts of y are above z_1, below it to `start`, and the other Gaussian from -`start` on; the
    gap between the two starts, if there is one, holds nothing. All positions are relative to a Gaussian's centre.
    """
    s = max(s, 1e-100)  # below, nothing moves any more
    # z_2 strays to the other Gaussian, 2 a / s away, with probability exp(-1 / s), mostly from x = -s^(-1/2).
    flank = 10.0 + math.sqrt(2.0 * math.log1p(a))
    x = np.linspace(-flank, 10.0, math.ceil(10.0 * (flank + 10.0)) + 1)
    log_weight = -np.square(x) / 2.0 + math.log((x[1] - x[0]) / SQRT_2PI)
    start = max(-a, -flank - 2.0)
    depth = np.abs(x - start)[:, None, None]  # z_1 < 0 costs what -z_1 does
    x = start + depth
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        here = _log_slope(x, a)
        # g' rises away from the middle, so that u >= r above z_1.
        above, _ = _own_misfit(x, here, a, s, np.full_like(x, 10.0))
        below, crossed = _own_misfit(x, here, a, s, -np.minimum(depth / s, _FAR))
        crossed = crossed[:, None, None] + 2.0 * _gap(start, a) * np.exp(_log_slope(start, a) - here) / s
        reach = np.concatenate([_FAR * s * _PANELS, np.arange(0.0, 10.0 - start, 0.2), [10.0 - start]])
        edges = np.unique(np.minimum(reach, 10.0 - start))
        climb = _nodes(edges)
        log_rise = _log_slope(start + climb, a) - here - math.log(s)
        u = crossed + _cumulative(np.exp(np.minimum(log_rise, 600.0)), edges)
        log_r = np.log(a + start + (depth + climb) / 2.0) + LN2 - math.log(s)
        log_terms = log_weight[:, None, None] + 2.0 * log_r + log_rise - np.square(u) / 2.0
        other = np.sum(_panel_sums(np.exp(log_terms), edges)) / SQRT_2PI
        own = above + below - 1.0 + np.square(s * np.exp(here[:, 0, 0]))
        return float(np.exp(log_weight) @ own + other)


def _own_misfit(x: Array, here: Array, a: float, s: float, reach: Array) -> tuple[Array, Array]:
    """The mean of r^2 over r from 0 to `reach` (either sign) at each z_1 = a + x, and |u| at its end."""
    edges = np.abs(reach[:, 0]) * _PANELS
    r = _nodes(edges)
    rise = np.exp(_log_slope(np.maximum(x + np.sign(reach) * s * r, -a), a) - here)
    misfit = np.square(r) * _phi(_cumulative(rise, edges)) * rise
    return np.sum(_panel_sums(misfit, edges), axis=-1), np.sum(_panel_sums(rise, edges), axis=-1)


def _log_slope(x: ArrayLike, a: float) -> Array:
    """ln g'(a + x) = ln F'(a + x) - ln phi(g) of `steep_map` where a + x >= 0, by logarithms of the upper tail."""
    x = np.asarray(x, np.float64)
    other = x + a + a
    g = ndtri_exp(np.logaddexp(log_ndtr(-x), log_ndtr(-other)) - LN2)
    return np.logaddexp(-np.square(x) / 2.0, -np.square(other) / 2.0) - LN2 + np.square(g) / 2.0


def _gap(start: float, a: float) -> float:
    """g / g' at a + start: 0 in the middle; far in the flank, where g is linear in F - 1/2, Mills' ratio."""
    return 0.0 if start == -a else float(np.exp(log_ndtr(start) + start * start / 2.0)) * SQRT_2PI


def _nodes(edges: Array) -> Array:
    """Gauss-Legendre nodes of each panel: edges [..., P + 1] -> [..., P, 16]."""
    return edges[..., :-1, None] + np.diff(edges)[..., None] * (1.0 + _LEGENDRE) / 2.0


def _panel_sums(values: Array, edges: Array) -> Array:
    """The integral over each panel of what has `values` at `_nodes`."""
    return values @ _LEGENDRE_WEIGHTS * np.diff(edges) / 2.0


def _cumulative(values: Array, edges: Array) -> Array:
    """The integral from edges[..., 0] to each node of what has `values` at `_nodes`."""
    sums = _panel_sums(values, edges)[..., :-1]
    before = np.concatenate([np.zeros_like(sums[..., :1]), np.cumsum(sums, axis=-1)], axis=-1)
    return before[..., None] + np.diff(edges)[..., None] / 2.0 * (values @ _LEGENDRE_SUMS)


def _handbuilt_kl(mean: float, std: float, a: float) -> float:
    """sum_l kl_l: KL(N(mean, std^2) || p(z_1)) + E[posterior_gap(a z_1)] of `handbuilt_loss`."""
    z_1, weights = _normal_rule(mean, std)
    log_cosh = np.logaddexp(a * z_1, -a * z_1) - LN2
    cross = (mean * mean + std * std + a * a) / 2.0 - 0.5 - math.log(std)
    return float(cross + weights @ (posterior_gap(a * z_1) - log_cosh))


def _softplus_mean(mean: float, std: float) -> float:
    """E[softplus(-y)], y ~ N(mean, std^2).

    softplus(-y) is the hinge max(r - y, 0) averaged over logistic noise r. For wide y, against which softplus
    has a sharp corner, the hinge's mean over y has a closed form and r is what is integrated.
    """
    if std < 10.0:
        y, weights = _normal_rule(mean, std)
        return float(weights @ np.logaddexp(0.0, -y))
    r = np.arange(-40.0, 40.1, 0.2)
    shift = (r - mean) / std
    return float(0.2 * np.sum(std * (_phi(shift) + shift * ndtr(shift)) / np.square(2.0 * np.cosh(r / 2.0))))


def _sign_balance(c: Array) -> tuple[Array, Array]:
    """The b at which mu / tau = c is best in `posterior_gap`, and its slope."""
    b = math.sqrt(math.pi / 2.0) * c * np.exp(c * c / 2.0) / (1.0 + c * c)
    return b, b * (1.0 + c**4) / (c * (1.0 + c * c))


def _log_joint(x: Array, log_weights: Array, probs: Array) -> Array:
    """ln weights[k] + ln p(x | k): points [N, n], components [K, n] -> [N, K]."""
    log_prob = xlogy(x[:, None], probs) + xlogy(1.0 - x[:, None], 1.0 - probs)
    return log_weights + np.sum(log_prob, axis=-1)


def _normal_rule(mean: float, std: float, nodes: int = 2001, reach: float = 10.0) -> tuple[Array, Array]:
    """Trapezoid nodes and weights for N(mean, std^2), out to `reach` standard deviations."""
    eps = np.linspace(-reach, reach, nodes)
    return mean + std * eps, _phi(eps) * (2.0 * reach / (nodes - 1))


def _phi(z: Array) -> Array:
    return np.exp(-np.square(z) / 2.0) / SQRT_2PI
