"""The channel that two Gaussian codes make of one bit, in nats, by float64 numpy alone; the checks of `limits`.

Let X = +-1 with equal probability, Y = sqrt(t) X + eps, eps ~ N(0, 1): two codes N(+-m, s^2) are this channel with
signal-to-noise ratio t = m^2 / s^2. Two facts about it:
    dR/dt = -mmse(t) / 2      R(t) = H(X | Y), mmse(t) = E[(X - E[X | Y])^2]  (Guo, Shamai and Verdu, 2005)
    mmse(t) <= 1 / (1 + t)    the error of the best linear estimate; equal only at t = 0
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
LN2 = float(np.log(2.0))

# Trapezoid rule for even functions. The integrands below are analytic in a strip of half-width pi / 2, so its
# error is about exp(-pi^2 / step) = 4e-22; they fall as exp(-x) or faster: 1e-16 lies beyond the last node.
_STEP = 0.2
_NODES = _STEP * np.arange(191.0)
_WEIGHTS = np.where(_NODES == 0.0, 1.0, 2.0) * _STEP / np.sqrt(2.0 * np.pi)


def conditional_entropy(t: ArrayLike) -> Array:
    """R(t) = H(X | sqrt(t) X + eps), X = +-1, in nats: what reading the bit from z costs the best decoder.

    R(t) = E[softplus(-2 (t + sqrt(t) eps))] = exp(-t / 2) E[cosh(w) H(w)],  w = sqrt(t) eps,
    where H(w) = softplus(-2 w) + 2 w sigmoid(-2 w) is even: the entropy of X once sqrt(t) Y = w is seen.
    `t` >= 0 of any shape; the result has the same shape.
    """
    t = nonnegative("t", t)
    return np.exp(-t / 2.0) * entropy_mean(t)


def mmse(t: ArrayLike) -> Array:
    """E[(X - E[X | Y])^2] = exp(-t / 2) E[sech(sqrt(t) eps)] for Y = sqrt(t) X + eps; `t` >= 0, any shape."""
    t = nonnegative("t", t)
    return np.exp(-t / 2.0) * sech_means(t)[0]


def best_ratio(n: Array, beta: Array) -> Array:
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
    sech, sech_cubed = sech_means(t)
    gap = t / 2.0 - np.log1p(t) - np.log(sech)
    small = t < 0.1
    excess = squared_difference(np.where(small, t, 0.0))
    gap = np.where(small, -np.log1p(-(1.0 + t) * excess), gap)
    return np.log(gap), t * (sech_cubed / sech - 1.0 / (1.0 + t)) / gap


def squared_difference(t: Array) -> Array:
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


def entropy_mean(t: Array) -> Array:
    """E[cosh(w) H(w)] of `conditional_entropy`."""
    w, weights = _normal_rule(t)
    ratio = np.exp(-2.0 * w)
    entropy = np.log1p(ratio) / ratio + 2.0 * w / (1.0 + ratio)
    return np.sum(weights * np.exp(-w) * (1.0 + ratio) / 2.0 * entropy, axis=-1)


def sech_means(t: Array) -> tuple[Array, Array]:
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
