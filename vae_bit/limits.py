"""What no training can beat: the exact optimum for every n, in nats, by float64 numpy alone.

Gaussian codes rest on `vae_bit.channel`: two codes N(+-m, s^2) are a channel with signal-to-noise ratio
t = m^2 / s^2, of which R(t) = H(X | Y) and mmse(t) say all.
"""

import math
from numbers import Real
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
from vae_bit.mixture_codes import MixtureLimit, best_codes, collapsed

# How far `mixture` goes: some seconds of search, and what a grid of float64 holds.
MOST_COMPONENTS, MOST_RATIO = 16, 1e300


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


def mixture(n: ArrayLike, components: int, beta: ArrayLike = 1.0) -> MixtureLimit:
    """The lowest loss of one layer, p(z) = N(0, 1), with q(z | x) a mixture of K Gaussians, under any decoder.

    Let q_1(z) = sum_k weight_k N(z; mean_k, std_k^2) be the code of x_1 and q_0(z) = q_1(-z) its mirror image, that of
    x_0. The best decoder is logit(z) = ln q_1(z) - ln q_0(z), which leaves
        LK(n, beta) = min  n E_{q_1}[softplus(ln q_0 - ln q_1)] + beta E_{q_1}[ln q_1 - ln p]  =  beta LK(n / beta, 1).
    K = 1 is `one_layer`; as K grows, LK falls to min(n, beta) ln 2. With I = I_q(x; z) and q(z) = (q_0 + q_1) / 2 it is
        n ln 2 - (n - beta) I + beta KL(q(z) || p(z)),
    so n <= beta collapses: n ln 2, all components N(0, 1). (At n = beta, KL = 0 still leaves I = 0: see `limit`.)

    For n > beta the codes are searched for (`vae_bit.mixture_codes`): the loss is a minimum that random starts, other
    methods and a free search over both codes confirm and do not beat, right to 1e-12 of itself at every n. The codes
    are fixed by it less well, and not at all where n / beta < 1 + 1e-8 and there is next to nothing to save.
    `components` is an integer from 1 to 16; `n`, `beta` are finite real numbers > 0, n / beta <= 1e300, and broadcast;
    anything else raises ValueError. weight, mean, std have a last axis K, by rising mean. The first call takes some
    30 ms for K = 4 and 2 s for K = 16, for each n / beta; later ones remember it.
    """
    _require_count("components", components, MOST_COMPONENTS)
    n, beta = np.broadcast_arrays(positive("n", n), positive("beta", beta))
    with np.errstate(over="ignore"):
        ratio = np.where(n > beta, n / beta, 1.0)
    if np.any(ratio > MOST_RATIO):
        raise ValueError(f"n / beta must be at most {MOST_RATIO}, got {np.max(ratio)}")
    opened, index = np.unique(ratio, return_inverse=True)
    found = [best_codes(float(r), int(components)) if r > 1.0 else collapsed(int(components)) for r in opened]
    _, recon, kl, *code = (np.stack(field)[index.reshape(ratio.shape)] for field in zip(*found, strict=True))
    recon = np.where(ratio > 1.0, beta * recon, n * LN2)
    return MixtureLimit(recon + beta * kl, recon, kl, *code)


def limit(
    layers: int,
    n: ArrayLike,
    beta: ArrayLike = 1.0,
    posterior: float = 1,
    prior: float = 1,
    word_dropout: ArrayLike = 1.0,
) -> Array:
    """The loss, in nats, that no model of these families can beat.

    `layers`: of stochastic variables. `posterior`: of how many Gaussians q(z_1 | x) is a mixture; math.inf is a flow,
    which comes as near to any density as one likes. `prior`: of how many Gaussians p(z_L) is a LEARNED mixture; 1 is
    N(0, 1), and any other single Gaussian is the same in other units. `word_dropout`: the rate r at which a decoder
    p(x_i | z, x_{i-1}) sees a blank in place of x_{i-1}; 1 is a decoder that sees z alone.

    Word dropout. Dimension 1 has no x_{i-1}, each of the others lacks it at rate r. Where x_{i-1} is seen it equals
    x_i, and copying it costs nothing in the limit; where it is not, the decoder has z alone. The two cases are told
    apart, so each is decoded at its best, and in all below n stands for
        n_eff = 1 + (n - 1) r,    r = 1: n,    r = 0: 1.

    Lower bound. Let I = I_q(x; z_1), 0 <= I <= ln 2. Each of the n equal dimensions costs at least
    H_q(x | z_1) = ln 2 - I to decode, and for every prior sum_l kl_l = E_x KL(q(z | x) || p(z)) >= I_q(x; z) >= I:
        loss = recon + beta sum_l kl_l >= n (ln 2 - I) + beta I >= min(n, beta) ln 2,
    linear in I, so least at an end. For n <= beta collapse, I = 0, reaches it. For n > beta it takes I = ln 2 at
    sum_l kl_l = I. One layer with p(z) = N(0, 1) and K Gaussians cannot: its limit is `one_layer`, K = 1, or `mixture`,
    which is reached. All else approaches min(n, beta) ln 2 and does not reach it, since positive densities overlap:
        layers >= 2: `handbuilt.steep_map`. Further layers can copy the prior.
        prior >= 2: with Gaussian codes N(-m, s^2), N(m, s^2) let p(z) be their mean q(z). What q pays beyond I,
            KL(q(z) || p(z)), vanishes, and n R(t) + beta (ln 2 - R(t)) falls to beta ln 2 as t = m^2 / s^2 grows.
        posterior = inf: q(z | x) = (1 +- tanh(z / w)) phi(z) have the mean phi(z) = p(z) at every w, so again the
            loss is n (ln 2 - I) + beta I, and I tends to ln 2 as w -> 0 and they become the two half Gaussians.
    Families may be combined: each of these holds the simpler ones.

    At n = beta one layer's loss is beta ln 2 + beta KL(q(z) || p(z)) at the best decoder. A flow or a learned prior
    (or a second layer, in the limit) is indifferent: KL = 0 at any I, as with (1 +- c tanh(z / w)) phi(z), 0 <= c <= 1.
    A finite mixture collapses: where sum_k w_k N(z; m_k, s_k^2) = phi(z), no s_k > 1, nor m_k != 0 with s_k = 1, or
    the ratio of the two sides would be infinite at one end; there it is now the weight of the components N(0, 1), which
    must be 1. So q(z) = p(z) takes q(z | x_0) = q(z | x_1) = N(0, 1), and I = 0.

    `n`, `beta` are finite real numbers > 0, `word_dropout` is from 0 to 1, and they broadcast; below 1, `n` counts
    dimensions and is >= 1. `layers`, `prior`, `posterior` are integers >= 1, the latter two also math.inf; `posterior`
    is at most 16 where `mixture` is the limit. Anything else raises ValueError.
    """
    entropy_reached = _reaches_entropy(layers, posterior, prior)
    pressure, beta = _pressure(n, word_dropout), positive("beta", beta)
    if entropy_reached:
        return np.minimum(pressure, beta) * LN2
    return one_layer(pressure, beta).loss if posterior == 1 else mixture(pressure, int(posterior), beta).loss


def information(
    layers: int,
    n: ArrayLike,
    beta: ArrayLike = 1.0,
    posterior: float = 1,
    prior: float = 1,
    word_dropout: ArrayLike = 1.0,
) -> Array:
    """I(x; z) in nats at the optimum: what the best code of `limit` holds of the bit, 0 <= I <= ln 2.

    One layer of Gaussians: ln 2 - R(t), t = m^2 / s^2 of `one_layer`'s codes, about t / 2 just above n_eff = beta. Of
    mixtures: that of `mixture`. All else: ln 2 where n_eff > beta, approached as the loss approaches its limit, and 0
    where not; at n_eff = beta any other I does as well there. Arguments, shapes and errors as in `limit`.
    """
    entropy_reached = _reaches_entropy(layers, posterior, prior)
    pressure, beta = _pressure(n, word_dropout), positive("beta", beta)
    if entropy_reached:
        return np.where(pressure > beta, LN2, 0.0)
    if posterior > 1:
        return mixture(pressure, int(posterior), beta).information
    code = one_layer(pressure, beta)
    return LN2 - conditional_entropy(np.square(code.mean / code.std))


def _reaches_entropy(layers: int, posterior: float, prior: float) -> bool:
    """Whether the limit is min(n_eff, beta) ln 2; ValueError unless the three are what `limit` asks for."""
    _require_count("layers", layers)
    if prior != math.inf:
        _require_count("prior", prior, also=" or inf")
    either = layers > 1 or prior > 1
    if posterior != math.inf:
        _require_count("posterior", posterior, math.inf if either else MOST_COMPONENTS, " or inf")
    return either or posterior == math.inf


def _require_count(name: str, value: float, most: float = math.inf, also: str = "") -> None:
    if not (isinstance(value, Real) and 1 <= value <= most and value % 1 == 0):
        want = ">= 1" if most == math.inf else f"from 1 to {most}"
        raise ValueError(f"{name} must be an integer {want}{also}, got {value}")


def _pressure(n: ArrayLike, word_dropout: ArrayLike) -> Array:
    """n_eff = 1 + (n - 1) r, which is exactly n at r = 1."""
    n, r = np.broadcast_arrays(positive("n", n), finite("word_dropout", word_dropout))
    outside, few = (r < 0.0) | (r > 1.0), (n < 1.0) & (r < 1.0)
    if np.any(outside):
        raise ValueError(f"word_dropout must be from 0 to 1, got {r[outside][0]}")
    if np.any(few):
        raise ValueError(f"n must be >= 1 where word_dropout < 1, got {n[few][0]} with {r[few][0]}")
    return np.where(r == 1.0, n, 1.0 + (n - 1.0) * r)


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
