"""Models built by hand, exact, in nats: the post's two layers, two layers that work, a plain mixture.

Two layers are z_2 ~ N(0, 1), p(z_1 | z_2), p(x | z_1) with Gaussian q(z_1 | x), q(z_2 | z_1). Those below
treat the two points as mirror images: all is said of x^(1), the point of ones, which z_1 > 0 stands for.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult, minimize
from scipy.special import erf, log_ndtr, ndtr, ndtri_exp, xlogy

from vae_bit.limits import LN2, Array, Limit, conditional_entropy, finite, invert, nonnegative, positive

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

    The loss is right to 1e-13 where it is near ln 2 (and to 1e-6 of itself where a / s makes it huge).
    `n` > 0 real, `a` > 0 in standard deviations of the code, 0 < `s` <= 1; anything else raises ValueError.
    """
    n, a, s = float(positive("n", n)), float(positive("a", a)), float(positive("s", s))
    if s > 1.0:
        raise ValueError(f"s must be at most 1, the width of the code, got {s}")
    unread = float(conditional_entropy(min(a, 1e100) ** 2))
    recon, kl = n * unread, LN2 - unread + _steep_excess(a, s) / 2.0
    return Limit(*map(np.asarray, (recon + kl, recon, kl, a, 1.0)))


def posterior_z1(z_1: ArrayLike, a: ArrayLike) -> Array:
    """p(z_1 | x^(1)) = 1[z_1 > 0] (phi(z_1 - a) + phi(z_1 + a)) in the post's model by hand, at any z_1.

    The model: p(z_1 | z_2) = N(a sign(z_2), 1), x^(1) if z_1 > 0 and else x^(0), so that p(x) = 1/2. The post
    takes this posterior for N(a, 1): see `posterior_distance`. `z_1`, `a` finite, else ValueError.
    """
    z_1, a = finite("z_1", z_1), finite("a", a)
    return np.where(z_1 > 0.0, _phi(z_1 - a) + _phi(z_1 + a), 0.0)


def posterior_z2(z_2: ArrayLike, a: ArrayLike) -> Array:
    """p(z_2 | x^(1)) = 2 phi(z_2) Phi(a sign(z_2)) in the post's model by hand, at any z_2.

    Two half Gaussians, with masses Phi(a) and Phi(-a). The post takes it for one, 2 phi(z_2) 1[z_2 > 0].
    `z_2`, `a` finite, else ValueError.
    """
    z_2, a = finite("z_2", z_2), finite("a", a)
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
    `b` is finite, of any shape; only |b| matters. Anything else raises ValueError.
    """
    with np.errstate(divide="ignore"):
        return _gap_at(np.log(np.abs(finite("b", b))))


def handbuilt_loss(n: float, a: float, slope: float) -> Limit:
    """The lowest loss of the post's model by hand, p(z_1 | z_2) = N(a sign(z_2), 1), under any Gaussian q.

    With the post's decoder, x^(1) if z_1 > 0, it is infinite: every Gaussian q(z_1 | x) puts mass where
    p(x | z_1) = 0. So here each of the n dimensions has the logit slope * z_1, which hardens as slope grows.
    Over q(z_1 | x^(1)) = N(m, s^2) and, at every z_1, the best Gaussian q(z_2 | z_1),
        loss = min_{m, s}  n E[softplus(-slope z_1)] + KL(N(m, s^2) || p(z_1)) + E[posterior_gap(a z_1)],
    z_1 ~ N(m, s^2), p(z_1) = phi(z_1) cosh(a z_1) exp(-a^2 / 2). As p is given, each point and each z_1 has a
    minimum of its own: mirror images are no restriction. The last term is what keeps the loss from ln 2.

    The loss is right to about 1e-11 of itself; the code only as far as that fixes it, to some 1e-7.
    `n`, `a`, `slope` finite and > 0; anything else raises ValueError.
    """
    n, a, slope = float(positive("n", n)), float(positive("a", a)), float(positive("slope", slope))

    def terms(code: Array) -> tuple[float, float, float, float]:
        shift, std = float(np.sinh(code[0])), float(np.exp(code[1]))
        return n * _softplus_mean(a + shift, std, slope), _handbuilt_kl(shift, std, a), a + shift, std

    def search(start: Array, size: float, xatol: float, fatol: float) -> OptimizeResult:
        simplex = start + size * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        options = {"initial_simplex": simplex, "xatol": xatol, "fatol": fatol, "maxiter": 500}
        bounds = ((-700.0, 700.0), (-700.0, 300.0))
        return minimize(lambda code: sum(terms(code)[:2]), start, method="Nelder-Mead", bounds=bounds, options=options)

    # From one of the two Gaussians and, unless they are far apart, the middle; then again, to the last digits.
    starts = [np.zeros(2), np.array([-math.asinh(a), 0.0])][: 2 if a < 10.0 else 1]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rough = min((search(start, 0.5, 0.05, math.inf) for start in starts), key=lambda found: found.fun)
        recon, kl, mean, std = terms(search(rough.x, 0.02, 1e-8, 1e-15 * max(abs(rough.fun), 1.0)).x)
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


def _handbuilt_kl(shift: float, std: float, a: float) -> float:
    """sum_l kl_l: KL(N(a + shift, std^2) || p(z_1)) + E[posterior_gap(a z_1)] of `handbuilt_loss`.

    -ln p(z_1) = (z_1 - a)^2 / 2 + ln 2 - softplus(-2 a z_1) + ln sqrt(2 pi): a itself does not enter squared.
    """
    z_1, weights = _normal_rule(a + shift, std)
    to_gaussian = (shift * shift + std * std - 1.0) / 2.0 - math.log(std)
    gap = weights @ _gap_at(np.log(np.maximum(np.abs(z_1), 1e-300)) + math.log(a))
    return float(to_gaussian + LN2 - _softplus_mean(a + shift, std, 2.0 * min(a, 1e300)) + gap)


def _softplus_mean(mean: float, std: float, slope: float) -> float:
    """E[softplus(-slope z)], z ~ N(mean, std^2).

    softplus(-y) is the hinge max(r - y, 0) averaged over logistic noise r. For wide y, against which softplus
    has a sharp corner, the hinge's mean over y has a closed form and r is what is integrated.
    """
    width = min(slope * std, 1e305)
    if width < 40.0:
        eps = 0.01 * np.arange(-3800.0, 1001.0)
        return float(0.01 * _phi(eps) @ np.logaddexp(0.0, -slope * (mean + std * eps)))
    r = np.arange(-40.0, 40.1, 0.2)
    shift = r / width - mean / std
    return float(0.2 * np.sum(width * (_phi(shift) + shift * ndtr(shift)) / np.square(2.0 * np.cosh(r / 2.0))))


def _gap_at(log_b: Array) -> Array:
    """`posterior_gap` at b = exp(log_b), which may overflow."""
    log_b = np.maximum(log_b, -460.0)  # there the gap, which is b^2 times a constant, has underflowed
    c = invert(_sign_balance, log_b, np.sqrt(2.0 * np.logaddexp(0.0, log_b)))
    b, low = np.exp(np.minimum(log_b, 700.0)), np.exp(np.minimum(log_b, 0.0))
    near = np.log1p(2.0 * np.square(np.sinh(low / 2.0))) - low * erf(c / math.sqrt(2.0))
    far = 2.0 * np.exp(log_b + log_ndtr(-c)) + np.log1p(np.exp(-2.0 * b)) - LN2
    return np.log1p(c * c) / 2.0 + np.where(log_b < 0.0, near, far)


def _sign_balance(c: Array) -> tuple[Array, Array]:
    """ln b, where mu / tau = c is best in `posterior_gap`, and d ln b / d ln c."""
    square = c * c
    log_b = np.log(c) + square / 2.0 - np.log1p(square) + math.log(math.pi / 2.0) / 2.0
    return log_b, (1.0 + np.square(square)) / (1.0 + square)


def _log_joint(x: Array, log_weights: Array, probs: Array) -> Array:
    """ln weights[k] + ln p(x | k): points [N, n], components [K, n] -> [N, K]."""
    log_prob = xlogy(x[:, None], probs) + xlogy(1.0 - x[:, None], 1.0 - probs)
    return log_weights + np.sum(log_prob, axis=-1)


def _normal_rule(mean: float, std: float, nodes: int = 2001, reach: float = 10.0) -> tuple[Array, Array]:
    """Trapezoid nodes and weights for N(mean, std^2), out to `reach` standard deviations."""
    eps = np.linspace(-reach, reach, nodes)
    return mean + std * eps, _phi(eps) * (2.0 * reach / (nodes - 1))


def _phi(z: Array) -> Array:
    return np.exp(-np.square(np.clip(z, -40.0, 40.0)) / 2.0) / SQRT_2PI
