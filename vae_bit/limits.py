"""What no training can beat: the exact optimum for every n, in nats, by float64 numpy alone.

Everything here rests on one channel. Let X = +-1 with equal probability, Y = sqrt(t) X + eps, eps ~ N(0, 1):
two Gaussian codes N(+-m, s^2) are this channel with signal-to-noise ratio t = m^2 / s^2. Two facts about it:
    dR/dt = -mmse(t) / 2      R(t) = H(X | Y), mmse(t) = E[(X - E[X | Y])^2]  (Guo, Shamai and Verdu, 2005)
    mmse(t) <= 1 / (1 + t)    the error of the best linear estimate; equal only at t = 0
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
LN2 = float(np.log(2.0))

# Trapezoid rule for even functions. The integrands below are analytic in a strip of half-width pi / 2, so its
# error is about exp(-pi^2 / step) = 4e-22; they fall as exp(-x) or faster: 1e-16 lies beyond the last node.
_STEP = 0.2
_NODES = _STEP * np.arange(191.0)
_WEIGHTS = np.where(_NODES == 0.0, 1.0, 2.0) * _STEP / np.sqrt(2.0 * np.pi)


class Limit(NamedTuple):
    """The lowest loss = recon + beta * kl, in nats, and the codes N(-mean, std^2), N(mean, std^2) it has."""

    loss: Array
    recon: Array
    kl: Array
    mean: Array
    std: Array


class Mismatch(NamedTuple):
    """The least KL(q(z) || p(z)) of codes N(-m, std^2), N(m, std^2), in nats, and the std that reaches it."""

    kl: Array
    std: Array


def conditional_entropy(t: ArrayLike) -> Array:
    """R(t) = H(X | sqrt(t) X + eps), X = +-1, in nats: what reading the bit from z costs the best decoder.

    R(t) = E[softplus(-2 (t + sqrt(t) eps))] = exp(-t / 2) E[cosh(w) H(w)],  w = sqrt(t) eps,
    where H(w) = softplus(-2 w) + 2 w sigmoid(-2 w) is even: the entropy of X once sqrt(t) Y = w is seen.
    `t` >= 0 of any shape; the result has the same shape.
    """
    t = nonnegative("t", t)
    return np.exp(-t / 2.0) * _entropy_mean(t)


def mmse(t: ArrayLike) -> Array:
    """E[(X - E[X | Y])^2] = exp(-t / 2) E[sech(sqrt(t) eps)] for Y = sqrt(t) X + eps; `t` >= 0, any shape."""
    t = nonnegative("t", t)
    return np.exp(-t / 2.0) * _sech_means(t)[0]


def one_layer(n: ArrayLike, beta: ArrayLike = 1.0) -> Limit:
    """The lowest loss of one layer with Gaussian q, under any decoder and any networks.

    For given codes N(+-m, s^2) the best decoder is logit(z) = 2 m z / s^2, and with t = m^2 / s^2 the loss is
        n R(t) + beta ((s^2 (1 + t) - 1) / 2 - ln s).
    R knows t alone, so s^2 = 1 / (1 + t), m^2 = t / (1 + t), and one number is left to choose:
        L1(n, beta) = min_{t >= 0}  n R(t) + beta ln(1 + t) / 2  =  beta L1(n / beta, 1).
    It is stationary where (n / beta) (1 + t) mmse(t) = 1. Since (1 + t) mmse(t) falls strictly from 1 to 0,
    n <= beta has no such t > 0 (collapse: t = 0, loss n ln 2) and n > beta has just one, the minimum. It
    falls because minus its logarithm's slope has the sign of (1 + t) E[sech^3 w] - E[sech w] with
    w = sqrt(t) eps: by Stein's identity E[w gd(w) / 2 + w sech w tanh w / 2 - sech w tanh^2 w], gd the
    integral of sech, and w >= gd(w) >= tanh w at w > 0 bounds that below by E[tanh^2 w (1 - sech w)] / 2 > 0.
    That the two codes mirror each other is no loss: a free search over both finds nothing lower.

    How the code opens: -ln((1 + t) mmse(t)) = 2 t^3 / 3 + O(t^4), so just above n = beta
        t = (3 (n / beta - 1) / 2)^(1/3),    m = (3 (n / beta - 1) / 2)^(1/6),    s = 1 - t / 2.

    `n` and `beta` are finite real numbers > 0 and broadcast; anything else raises ValueError.
    """
    n, beta = positive("n", n), positive("beta", beta)
    t = _best_ratio(n, beta)
    factor = np.exp(-t / 4.0)  # its square alone underflows where n / beta is huge
    recon, kl = n * factor * _entropy_mean(t) * factor, np.log1p(t) / 2.0
    std = 1.0 / np.sqrt(1.0 + t)
    return Limit(recon + beta * kl, recon, kl, np.sqrt(t) * std, std)


def limit(layers: int, n: ArrayLike, beta: ArrayLike = 1.0) -> Array:
    """The loss, in nats, that no model with `layers` stochastic layers and Gaussian q's can beat.

    layers = 1: `one_layer`, which is reached. layers >= 2: min(n, beta) ln 2. Let I = I_q(x; z_1) be what the
    code says of the bit, 0 <= I <= ln 2. Each of the n equal dimensions costs at least H_q(x | z_1), that is
    ln 2 - I, to decode, and sum_l kl_l = E_x KL(q(z | x) || p(z)) >= I_q(x; z) >= I, hence
        loss = recon + beta sum_l kl_l >= n (ln 2 - I) + beta I >= min(n, beta) ln 2:
    linear in I, so least at an end. For n <= beta collapse, I = 0, reaches it. For n > beta it takes
    I = ln 2, which `handbuilt.steep_map` approaches and nothing reaches, because two Gaussians overlap. The
    weight n may be any real number > 0, and layers above the second change nothing: they can copy the prior.
    Raises ValueError unless `layers` is an integer >= 1, and as `one_layer` does.
    """
    _require_depth(layers)
    if layers == 1:
        return one_layer(n, beta).loss
    return np.minimum(positive("n", n), positive("beta", beta)) * LN2


def information(layers: int, n: ArrayLike, beta: ArrayLike = 1.0) -> Array:
    """I(x; z) in nats at the optimum: what the best code of `limit` holds of the bit, 0 <= I <= ln 2.

    layers = 1: ln 2 - R(t), t = m^2 / s^2 of `one_layer`'s codes, about t / 2 just above n = beta.
    layers >= 2: ln 2 where n > beta, approached as the loss approaches its limit. Both are 0 for n <= beta; at
    n = beta two layers lose nothing by a code, nor gain. Shapes and errors as in `limit`.
    """
    _require_depth(layers)
    if layers == 1:
        code = one_layer(n, beta)
        return LN2 - conditional_entropy(np.square(code.mean / code.std))
    return np.where(positive("n", n) > positive("beta", beta), LN2, 0.0)


def _require_depth(layers: int) -> None:
    if not (layers >= 1 and layers % 1 == 0):
        raise ValueError(f"layers must be an integer >= 1, got {layers}")


def prior_mismatch(m: ArrayLike) -> Mismatch:
    """How far codes N(-m, s^2), N(m, s^2) leave q(z) = (q(z | x_0) + q(z | x_1)) / 2 from p(z) = N(0, 1).

    With t = m^2 / s^2 it is the cost of the codes less what they say of the bit ("ELBO surgery"),
        KL(q(z) || p(z)) = (m^2 + s^2 - 1) / 2 - ln s - (ln 2 - R(t)),
    stationary in s where s^2 = 1 - t mmse(t). Then m^2 = t (1 - t mmse(t)), which rises with t (its slope is
    at least (1 - t mmse)^2): one s for each m. Along these minima dKL/dm = m (1 - mmse / s^2), positive for
    m > 0, since s^2 = 1 - t mmse > mmse. So two Gaussians make up the prior at m = 0 alone, where z says
    nothing. The price is about m^8 / 12 nats near it and m^2 / 2 - ln 2 far away.
    `m` >= 0 of any shape; anything else raises ValueError.
    """
    m = nonnegative("m", m)
    with np.errstate(over="ignore"):
        square, half = np.square(m), m * (m / 2.0)
    opened = square > 0.0
    # Beyond 1e4 the codes do not overlap: t mmse(t) = 0.
    guess = np.clip(np.where(opened, square, 1.0), None, 1e4)
    t = np.where(opened, invert(_separation, np.log(guess), guess), 0.0)
    variance = 1.0 - t * mmse(t)
    far = half + (variance - 1.0 - np.log(variance)) / 2.0 - LN2 + conditional_entropy(t)
    return Mismatch(np.where(t < 0.5, _small_mismatch(np.minimum(t, 0.5)), far), np.sqrt(variance))


def finite(name: str, value: ArrayLike) -> Array:
    """`value` as float64; ValueError that names it unless every entry is a finite number."""
    array = np.asarray(value, np.float64)
    return _require(name, array, np.isfinite(array), "")


def positive(name: str, value: ArrayLike) -> Array:
    """`value` as float64; ValueError that names it unless every entry is finite and > 0."""
    array = np.asarray(value, np.float64)
    return _require(name, array, array > 0.0, " and > 0")


def nonnegative(name: str, value: ArrayLike) -> Array:
    """`value` as float64; ValueError that names it unless every entry is finite and >= 0."""
    array = np.asarray(value, np.float64)
    return _require(name, array, array >= 0.0, " and >= 0")


def _require(name: str, array: Array, allowed: NDArray[np.bool_], want: str) -> Array:
    bad = ~(allowed & np.isfinite(array))
    if np.any(bad):
        raise ValueError(f"{name} must be finite{want}, got {array[bad][0]}")
    return array


def invert(curve: Callable[[Array], tuple[Array, Array]], log_value: Array, start: Array) -> Array:
    """The t > 0 where the logarithm of a rising curve has a given value, by Newton's method on ln t -> ln curve.

    `curve` returns (ln height, d ln height / d ln t); all shapes agree. Meant for curves that are nearly
    straight in logarithms: from the starts used here a sixth step no longer moves the result.
    """
    log_t = np.log(start)
    for _ in range(6):
        log_height, slope = curve(np.exp(log_t))
        log_t = log_t - (log_height - log_value) / slope
    return np.exp(log_t)


def _best_ratio(n: Array, beta: Array) -> Array:
    """The t > 0 with (n / beta) (1 + t) mmse(t) = 1 where n > beta, else 0."""
    opened = n > beta
    # ln(n / beta), where n / beta rounds near 1 and overflows far from it
    close = opened & (n / 2.0 < beta)
    near = -np.log1p(-np.where(close, n - beta, 0.0) / n)
    gap = np.where(close, near, np.where(opened, np.log(n) - np.log(beta), 1.0))
    start = np.cbrt(1.5 * gap) + 2.0 * gap
    return np.where(opened, invert(_linear_gap, np.log(gap), start), 0.0)


def _linear_gap(t: Array) -> tuple[Array, Array]:
    """-ln((1 + t) mmse(t)), by how much the best estimate of X beats the best linear one, for `invert`."""
    sech, sech_cubed = _sech_means(t)
    gap = t / 2.0 - np.log1p(t) - np.log(sech)
    small = t < 0.1
    excess = _squared_difference(np.where(small, t, 0.0))
    gap = np.where(small, -np.log1p(-(1.0 + t) * excess), gap)
    return np.log(gap), t * (sech_cubed / sech - 1.0 / (1.0 + t)) / gap


def _squared_difference(t: Array) -> Array:
    """1 / (1 + t) - mmse(t) = E[(E[X | Y] - linear estimate)^2], orthogonal to the error of E[X | Y].

    It is 2 t^3 / 3 near 0, where the difference of the two terms would cancel; a mean of squares does not. Nor
    do tanh w and w / (1 + t) in it, as w (c - t) / ((1 + c) (1 + t)) up to sign with c = w / tanh w - 1: by
    Lambert's continued fraction, c = w^2 / (3 + w^2 / (5 + ...)).
    """
    w, weights = _normal_rule(t)
    small = np.minimum(w, 1.0)
    c = np.zeros_like(w)
    for odd in range(21, 1, -2):
        c = np.square(small) / (odd + c)
    c = np.where(w < 1.0, c, w / np.tanh(np.maximum(w, 1.0)) - 1.0)
    t = np.asarray(t)[..., None]
    difference = w * (c - t) / ((1.0 + c) * (1.0 + t))
    return np.exp(-t[..., 0] / 2.0) * np.sum(weights * np.cosh(w) * np.square(difference), axis=-1)


def _small_mismatch(t: Array) -> Array:
    """`prior_mismatch`'s KL for small t, where its terms cancel, as the integral of dKL/dm over the minima.

    m dm = d(m^2) / 2 and mmse = s^2 - (1 + t) D, D the squared difference: dKL = (1 + t) D / (2 s^2) d(m^2).
    """
    nodes, weights = np.polynomial.legendre.leggauss(16)
    path = t[..., None] * (1.0 + nodes) / 2.0
    variance = 1.0 - path * mmse(path)
    slope = _separation_slope(path)
    return t / 4.0 * np.sum(weights * (1.0 + path) * _squared_difference(path) / variance * slope, axis=-1)


def _separation(t: Array) -> tuple[Array, Array]:
    """t (1 - t mmse(t)), the squared mean of `prior_mismatch`'s codes, for `invert`."""
    variance = 1.0 - t * mmse(t)
    return np.log(t * variance), _separation_slope(t) / variance


def _separation_slope(t: Array) -> Array:
    error, curvature = (np.exp(-t / 2.0) * mean for mean in _sech_means(t))
    return 1.0 - 2.0 * t * error + np.square(t) * curvature


def _entropy_mean(t: Array) -> Array:
    """E[cosh(w) H(w)] of `conditional_entropy`."""
    w, weights = _normal_rule(t)
    ratio = np.exp(-2.0 * w)
    entropy = np.log1p(ratio) / ratio + 2.0 * w / (1.0 + ratio)
    return np.sum(weights * np.exp(-w) * (1.0 + ratio) / 2.0 * entropy, axis=-1)


def _sech_means(t: Array) -> tuple[Array, Array]:
    """E[sech w], E[sech^3 w], w = sqrt(t) eps: times exp(-t / 2) they are mmse(t) and minus its slope."""
    w, weights = _normal_rule(t)
    sech = 1.0 / np.cosh(w)
    return np.sum(weights * sech, axis=-1), np.sum(weights * sech**3, axis=-1)


def _normal_rule(t: Array) -> tuple[Array, Array]:
    """Nodes w >= 0 and weights, [..., 191]: E[f(sqrt(t) eps)] = sum(weights * f(w)) for even f.

    The nodes keep pace with both the Gaussian, sqrt(t) wide, and sech, 1 wide: w = x sqrt(t / (1 + t)).
    """
    std = 1.0 / np.sqrt(1.0 + t)[..., None]
    w = np.sqrt(t)[..., None] * std * _NODES
    return w, std * np.exp(-np.square(std * _NODES) / 2.0) * _WEIGHTS
