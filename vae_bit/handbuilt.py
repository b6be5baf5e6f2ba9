"""Models built by hand, exact, in nats: the post's two layers, two layers that work, a plain mixture.

Two layers are z_2 ~ N(0, 1), p(z_1 | z_2), p(x | z_1) with Gaussian q(z_1 | x), q(z_2 | z_1). Those below
treat the two points as mirror images: all is said of x^(1), the point of ones, which z_1 > 0 stands for.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import ndtr, ndtri, xlogy

from vae_bit.limits import LN2, Array, Limit, conditional_entropy, invert, nonnegative, positive

SQRT_2PI = math.sqrt(2.0 * math.pi)


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
    z_1, weights = _normal_rule(a, 1.0, nodes=321, reach=8.0)
    recon = n * conditional_entropy(a * a)
    kl = weights @ _steep_cost(z_1, a, s) - 0.5 - math.log(SQRT_2PI)
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


def _steep_cost(z_1: Array, a: float, s: float) -> Array:
    """E_q[-ln p(z_1 | z_2)] + KL(q(z_2 | z_1) || N(0, 1)) of `steep_map`, at each z_1.

    The integral is taken over y = f(z_2), as far as 8 standard deviations of q(z_2 | z_1): between the two
    Gaussians z_2 itself hardly moves.
    """
    mu, slope = _flatten(z_1, a)
    tau = s * slope
    table = np.linspace(-a - 30.0, a + 30.0, 4001)
    low, high = (np.interp(mu + reach * tau, _flatten(table, a)[0], table) for reach in (-8.0, 8.0))
    y = low + (high - low) * np.linspace(0.0, 1.0, 512)[:, None]
    z_2, density = _flatten(y, a)
    weights = _phi((z_2 - mu) / tau) / tau * density * (high - low) / 511.0
    misfit = np.sum(weights * np.square(z_1 - y), axis=0) / (2.0 * s * s) + math.log(s * SQRT_2PI)
    return misfit + (np.square(mu) + np.square(tau) - 1.0) / 2.0 - np.log(tau)


def _flatten(z_1: Array, a: float) -> tuple[Array, Array]:
    """g(z_1) = Phi^-1(F(z_1)) of `steep_map`, by the upper tail of |z_1|, and its slope F'(z_1) / phi(g)."""
    upper = (ndtr(a - np.abs(z_1)) + ndtr(-a - np.abs(z_1))) / 2.0
    g = -np.sign(z_1) * ndtri(upper)
    below, above = ((np.square(g) - np.square(z_1 + shift)) / 2.0 for shift in (a, -a))
    return g, (np.exp(below) + np.exp(above)) / 2.0


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
