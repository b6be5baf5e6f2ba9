"""What no training can beat: the exact optimum for every n, in nats, by float64 numpy alone.

Gaussian codes rest on `vae_bit.channel`: two codes N(+-m, s^2) are a channel with signal-to-noise ratio
t = m^2 / s^2, of which R(t) = H(X | Y) and mmse(t) say all.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vae_bit.channel import (
    LN2,
    Array,
    best_ratio,
    conditional_entropy,
    entropy_mean,
    finite,
    invert,
    mmse,
    nonnegative,
    positive,
    sech_means,
    squared_difference,
)


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
    t = best_ratio(n, beta)
    factor = np.exp(-t / 4.0)  # its square alone underflows where n / beta is huge
    recon, kl = n * factor * entropy_mean(t) * factor, np.log1p(t) / 2.0
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


def _small_mismatch(t: Array) -> Array:
    """`prior_mismatch`'s KL for small t, where its terms cancel, as the integral of dKL/dm over the minima.

    m dm = d(m^2) / 2 and mmse = s^2 - (1 + t) D, D the squared difference: dKL = (1 + t) D / (2 s^2) d(m^2).
    """
    nodes, weights = np.polynomial.legendre.leggauss(16)
    path = t[..., None] * (1.0 + nodes) / 2.0
    variance = 1.0 - path * mmse(path)
    slope = _separation_slope(path)
    return t / 4.0 * np.sum(weights * (1.0 + path) * squared_difference(path) / variance * slope, axis=-1)


def _separation(t: Array) -> tuple[Array, Array]:
    """t (1 - t mmse(t)), the squared mean of `prior_mismatch`'s codes, for `invert`."""
    variance = 1.0 - t * mmse(t)
    return np.log(t * variance), _separation_slope(t) / variance


def _separation_slope(t: Array) -> Array:
    error, curvature = (np.exp(-t / 2.0) * mean for mean in sech_means(t))
    return 1.0 - 2.0 * t * error + np.square(t) * curvature
