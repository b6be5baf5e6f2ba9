"""Codes that are mixtures of Gaussians and mirror images of each other: the search behind `limits.mixture`.

All is in nats, in float64 and at beta = 1: `ratio` is n / beta.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from vae_bit.channel import LN2, Array, best_ratio, conditional_entropy

_STEP = 0.4  # of the grid, times 8 + ln(ratio)
_FAR = 9.0  # where the grid ends
_FLAT = 1.001  # the ratio below which a search starts from the optimum at a larger one


class MixtureLimit(NamedTuple):
    """The lowest loss = recon + beta * kl, in nats, what its code holds of the bit, and q(z | x_1), [..., K]."""

    loss: Array
    recon: Array
    kl: Array
    information: Array
    weight: Array
    mean: Array
    std: Array


class _Codes(NamedTuple):
    """q(z | x_1) = sum_k weight[k] N(mean[k], std[k]^2), all [K]; q(z | x_0) is its mirror image."""

    weight: Array
    mean: Array
    std: Array


class _Grid(NamedTuple):
    """A trapezoid rule at z = scale sinh(u), even in u: fine near 0, where the codes are narrow and meet."""

    ratio: float
    scale: float
    z: Array
    weight: Array
    log_prior: Array


@cache
def best_codes(ratio: float, components: int) -> MixtureLimit:
    """The optimum at n = ratio > 1, beta = 1: the best of the searches, never worse than one component less."""
    if components == 1:
        return _figures(_one_gaussian(ratio), _grid(ratio, 1))
    grid = _grid(ratio, components)
    fewer = best_codes(ratio, components - 1)
    codes = _Codes(*fewer[4:])
    if ratio < _FLAT:
        starts = [_Codes(*best_codes(1.0 + 10.0 * (ratio - 1.0), components)[4:])]
    else:
        starts = [_with_inner(codes), _with_halves(codes, 0.7)]
    found = [_figures(_search(start, grid), grid) for start in starts]
    return min((*found, fewer._replace(**_with_halves(codes, 0.0)._asdict())), key=lambda limit: float(limit.loss))


def collapsed(components: int) -> MixtureLimit:
    """The optimum at n = 1, beta = 1: every component is the prior."""
    code = np.full(components, 1.0 / components), np.zeros(components), np.ones(components)
    return MixtureLimit(np.array(LN2), np.array(LN2), np.zeros(()), np.zeros(()), *code)


def _one_gaussian(ratio: float) -> _Codes:
    t = best_ratio(np.array([ratio]), np.ones(1))
    return _Codes(np.ones(1), np.sqrt(t / (1.0 + t)), 1.0 / np.sqrt(1.0 + t))


def _with_inner(codes: _Codes) -> _Codes:
    """One component more, between the innermost one and 0."""
    return _Codes(*(np.append(factor * field[0], field) for factor, field in zip((0.1, 0.3, 0.3), codes, strict=True)))


def _with_halves(codes: _Codes, shift: float) -> _Codes:
    """Two halves in place of the outermost component, `shift` standard deviations to either side of it."""
    weight, mean, std = (np.append(field, field[-1]) for field in codes)
    weight[-2:] /= 2.0
    mean[-2:] += shift * std[-1] * np.array([-1.0, 1.0])
    return _Codes(weight, mean, std)


def _grid(ratio: float, components: int) -> _Grid:
    """The narrowest component about halves with each further one; all, and the turns of ln q, narrow as ratio grows.

    So the rule holds at every ratio: at half the step no loss moves by more than 1e-14 of itself.
    """
    scale, step = 2.0**-components, _STEP / (8.0 + np.log(ratio))
    last = np.ceil(np.arcsinh(_FAR / scale) / step)
    u = step * np.arange(-last, last + 1.0)
    z = scale * np.sinh(u)
    return _Grid(ratio, scale, z, step * scale * np.cosh(u), -np.square(z) / 2.0 - np.log(2.0 * np.pi) / 2.0)


def _search(start: _Codes, grid: _Grid) -> _Codes:
    """The minimum near `start`, by BFGS on the logits of the weights, asinh(mean / scale) and ln std.

    The trapezoid rule does not see a component that is too narrow or too far away. So each unit of q(z | x_1) that it
    misses is charged c, J = c + int q_1 (g - c): with c a unit above one Gaussian's loss, hiding never pays.
    """
    from scipy.optimize import minimize  # a third of a second, which no one else should wait for

    t = best_ratio(np.array(grid.ratio), np.ones(()))
    charge = 1.0 + float(grid.ratio * conditional_entropy(t) + np.log1p(t) / 2.0)
    first = np.concatenate([np.log(start.weight), np.arcsinh(start.mean / grid.scale), np.log(start.std)])
    # Near ratio = 1 all that can be saved is of the order of ratio - 1.
    options = {"gtol": 1e-8 * min(grid.ratio - 1.0, 1.0), "maxiter": 1000}
    found = minimize(_charged_loss, first, (grid, charge), "BFGS", jac=True, options=options).x
    logits, place, log_std = found.reshape(3, -1)
    codes = _Codes(np.exp(logits - np.logaddexp.reduce(logits)), grid.scale * np.sinh(place), np.exp(log_std))
    return _Codes(*(field[np.argsort(codes.mean)] for field in codes))


def _charged_loss(parameters: Array, grid: _Grid, charge: float) -> tuple[float, Array]:
    """int q_1 (g - charge), g = ratio softplus(ln q_0 - ln q_1) + ln q_1 - ln p, and its gradient.

    The decoder is at its best and q_1 sums to 1, so to first order g's own change does not count:
        d int q_1 (g - c) = int (g - c) dq_1,  where with the parts w_k N_k of q_1 and x = (z - m_k) / s_k
        dq_1 / dlogit_k = w_k (N_k - q_1),  dq_1 / dm_k = w_k N_k x / s_k,  dq_1 / dln s_k = w_k N_k (x^2 - 1).
    """
    logits, place, log_std = parameters.reshape(3, -1, 1)
    log_weight = logits - np.logaddexp.reduce(logits)
    x = (grid.z - grid.scale * np.sinh(place)) / np.exp(log_std)
    log_parts = _log_parts(log_weight, x, log_std)
    log_q = np.logaddexp.reduce(log_parts)
    g = grid.ratio * np.logaddexp(0.0, log_q[::-1] - log_q) + log_q - grid.log_prior
    terms = np.exp(log_parts) * ((g - charge) * grid.weight)
    value = np.sum(terms)
    in_logits = np.sum(terms, axis=1) - np.exp(log_weight[:, 0]) * value
    in_place = np.sum(terms * x, axis=1) * (grid.scale * np.cosh(place) / np.exp(log_std))[:, 0]
    return float(value), np.concatenate([in_logits, in_place, np.sum(terms * (np.square(x) - 1.0), axis=1)])


def _log_parts(log_weight: Array, x: Array, log_std: Array) -> Array:
    """ln(w_k N_k), [K, Z], at x = (z - m_k) / s_k."""
    return log_weight - np.square(x) / 2.0 - log_std - np.log(2.0 * np.pi) / 2.0


def _figures(codes: _Codes, grid: _Grid) -> MixtureLimit:
    weight, mean, std = (field[:, None] for field in codes)
    log_q = np.logaddexp.reduce(_log_parts(np.log(weight), (grid.z - mean) / std, np.log(std)))
    mass = np.exp(log_q) * grid.weight
    unread = np.sum(mass * np.logaddexp(0.0, log_q[::-1] - log_q))
    kl = np.sum(mass * (log_q - grid.log_prior))
    return MixtureLimit(grid.ratio * unread + kl, grid.ratio * unread, kl, LN2 - unread, *codes)
