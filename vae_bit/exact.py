"""Exact evaluation of a VAE with L scalar latents: loss, evidence, posteriors, mutual information, by quadrature.

Every figure is a chain of one-dimensional integrals, one a layer, each on an adaptive grid. Everything follows the
dtype of the chain. In float64 (`with jax.enable_x64(True)`) grids are refined until the estimated error of every figure
is below 1e-5, relative to max(1, |figure|), also for decoders of slope 1e4 and noise of 1e-3; float32 is good to 1e-3.
The chain is known by log densities and kernels alone: q(z_1 | x) and p(z_L) may be mixtures, flows or of one's own
family, and p(x | z_1) need not be a product (see `vae_bit.marginals.ScalarVAE`).
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_bit import terms
from vae_bit.densities import Marginal, spread
from vae_bit.marginals import (
    PASSES,
    REACH,
    Grids,
    ScalarVAE,
    energies,
    generative_marginals,
    given,
    inference_marginals,
    real_logits,
)
from vae_bit.quadrature import adapt, lookup, nodes, resample, tabulate

GRIDS = (Grids(), Grids(96, 36), Grids(192, 72))  # tried in turn; each takes four times as long as the one before
TOLERANCE = 1e-5  # of a figure in float64, relative to max(1, |figure|)
SAFETY = 3.0  # a figure's error over the worst defect of a mass: seen to be 2 at most where either is above TOLERANCE
GAIN = 8.0  # a figure's error over that on grids twice as fine: seen to be 15 and more


class Evaluation(NamedTuple):
    """Exact figures of a chain, in nats: scalars but for kl [L] and activity [L].

    An autoregressive model's nll is that without dropout; loss is what training lowers, with it.
    """

    loss: Array  # recon + beta * sum_l kl_l
    recon: Array  # E[-ln p(x | z_1)], or of what training pays in its place (`ScalarVAE.cost`)
    kl: Array  # E[ln q(z_l | z_{l-1}) - ln p(z_l | z_{l+1})], z_0 = x
    nll: Array  # E[-ln p(x)]
    posterior_kl: Array  # E KL(q(z | x) || p(z | x)), all layers jointly: E[-ln p(x | z_1)] + sum_l kl_l - nll
    mutual_information: Array  # I_q(x; z_L) = E KL(q(z_L | x) || q(z_L))
    marginal_kl: Array  # KL(q(z_L) || p(z_L))
    valid_mass: Array  # sum_k p(x_k)
    activity: Array  # Var_x E[z_l | x]: latents above 0.01 are called active (Burda et al. 2016)
    error: Array  # estimated, the worst of the figures above, each relative to max(1, |figure|)


class Densities(NamedTuple):
    """What a chain makes of each latent, on a grid [K_l] a layer; the tuples have one entry a layer."""

    q: tuple[Array, ...]  # q(z_l | x_k), [D, K_l]
    aggregate: tuple[Array, ...]  # q(z_l), [K_l]
    p: tuple[Array, ...]  # p(z_l), [K_l]
    posterior: tuple[Array, ...]  # p(z_l | x_k), [D, K_l]
    probability: tuple[Array, ...]  # p(x_i = 1 | z_l), averaged over the real dimensions, [K_l]
    at_zero: Array  # p(x_i = 1 | z_L = 0), [n]; 1/2 in the padding


def evaluate(chain: ScalarVAE, beta: float | Array = 1.0) -> Evaluation:
    """Loss, evidence and ELBO surgery of a chain; see `Evaluation`. Warns where the error stays above the tolerance.

    Under `jit` and `vmap`, where nothing can depend on the error, the first grids count: look at `error` afterwards.
    """
    return refine(lambda grids: evaluate_on(grids, chain, beta))


def refine(figures_on: Callable[[Grids], Evaluation]) -> Evaluation:
    """The figures on the first grids that do, or on the finest; warns where these do not."""
    figures = figures_on(GRIDS[0])
    if isinstance(figures.error, jax.core.Tracer):
        return figures
    for grids in GRIDS[1:]:
        if not inexact(figures):
            return figures
        figures = refined(figures, figures_on(grids))
    if inexact(figures):
        message = f"evaluate: the chain is too steep for the finest grids; figures may be off by {figures.error:.0e}"
        warnings.warn(f"{message} of max(1, |figure|)", stacklevel=3)
    return figures


def inexact(figures: Evaluation) -> np.ndarray:
    """Whether the error is above what is promised: 1e-5 in float64, 1e-3 in float32."""
    error = np.asarray(figures.error)
    return error > max(TOLERANCE, 1e4 * float(np.finfo(error.dtype).eps))  # no grid can mend a NaN


def refined(coarse: Evaluation, fine: Evaluation) -> Evaluation:
    """The figures on the finer of two grids; the error is at least an eighth of what refining has moved."""
    moved = [np.abs(a - b) / np.maximum(1.0, np.abs(b)) for a, b in zip(coarse[:-1], fine[:-1], strict=True)]
    worst = [np.max(x, axis=-1) if x.ndim > np.ndim(fine.loss) else x for x in moved]
    return fine._replace(error=np.maximum(fine.error, np.max(worst, axis=0) / GAIN))


def evaluate_on(grids: Grids, chain: ScalarVAE, beta: float | Array = 1.0) -> Evaluation:
    """`evaluate` on grids of the given size, whatever the error.

    Surgery (Hoffman and Johnson 2016): E KL(q(z_L | x) || p(z_L)) = I_q(x; z_L) + KL(q(z_L) || p(z_L)), that is kl_1
    if L = 1 and less than kl_L otherwise, z_{L-1} having been integrated out.
    Under `vmap` every run holds n * CHUNK logits and (L > 1) some 1e6 numbers; `lax.map` is as fast on a CPU.
    """
    q_marginals, (p_marginals, energy) = inference_marginals(chain, grids), generative_marginals(chain, grids)
    recon, distortion, recon_defect = terms.recon(chain, q_marginals[0], grids)
    kl, kl_defect = terms.kl(chain, q_marginals, grids)
    information, marginal_kl, cross, top_defect = terms.surgery(chain, q_marginals[-1], grids)
    kl = kl.at[-1].add(-cross)
    log_p = _log_evidence(p_marginals[0], energy)
    nll = -jnp.mean(log_p)
    # What a mass lacks is handed on from layer to layer: the last of each side, q(z_L | x) and p(z_1), tell of all.
    defects = recon_defect, kl_defect, top_defect, terms.defect(p_marginals[0])
    return Evaluation(
        loss=recon + beta * jnp.sum(kl),
        recon=recon,
        kl=kl,
        nll=nll,
        posterior_kl=distortion + jnp.sum(kl) - nll,
        mutual_information=information,
        marginal_kl=marginal_kl,
        valid_mass=jnp.sum(jnp.exp(log_p)),
        activity=jnp.stack([terms.activity(q) for q in q_marginals]),
        error=SAFETY * jnp.max(jnp.stack(defects)),
    )


def log_evidence(chain: ScalarVAE) -> Array:
    """ln p(x_k) = ln int p(z_1) p(x_k | z_1) dz_1 of every data point, [D]."""
    marginals, energy = generative_marginals(chain, GRIDS[0])
    return _log_evidence(marginals[0], energy)


def _log_evidence(p: Marginal, energy: Array) -> Array:
    return jax.nn.logsumexp(p.at_nodes - energy, axis=-1, b=nodes(p.edges)[1][None])


def densities(chain: ScalarVAE, grids: Sequence[Array]) -> Densities:
    """The densities of every layer's latent on a grid of its own, z_1 first; see `Densities`.

    p(z_l | x_k) = p(z_l) r_k(z_l), r_k(z_l) = p(x_k | z_l) / p(x_k), and r_k(z_{l+1}) = E_{p(z_l | z_{l+1})}[r_k(z_l)].
    q is good to 1e-5 of its maximum, in float64, also where a steep map cuts it off.
    Compiled as a whole, once a call: of several chains of one shape under a `jit` of one's own, which also leaves out
    what is not asked for.
    """
    return jax.jit(partial(_densities, chain))(tuple(grids))


def _densities(chain: ScalarVAE, grids: Sequence[Array]) -> Densities:
    # On finer grids, as a table is read between its nodes, where a deep chain's densities may have notches.
    log_q = [q.log_prob(z) for q, z in zip(inference_marginals(chain, GRIDS[1]), grids, strict=True)]
    marginals, energy = generative_marginals(chain, GRIDS[1])
    seen = partial(_seen, chain, _log_evidence(marginals[0], energy))
    ratios = [expectation(chain._replace(p=chain.p[:below]), seen, z) for below, z in enumerate(grids)]
    p = [jnp.exp(marginal.log_prob(z)[0]) for marginal, z in zip(marginals, grids, strict=True)]
    zero = jnp.zeros((1,), chain.dtype)
    return Densities(
        q=tuple(jnp.exp(row) for row in log_q),
        aggregate=tuple(jnp.mean(jnp.exp(row), axis=0) for row in log_q),
        p=tuple(p),
        posterior=tuple(density[None] * ratio[:-1] for density, ratio in zip(p, ratios, strict=True)),
        probability=tuple(ratio[-1] for ratio in ratios),
        at_zero=expectation(chain, lambda z: jax.nn.sigmoid(real_logits(chain, z)), zero)[:, 0],
    )


def expectation(chain: ScalarVAE, f: Callable[[Array], Array], z: Array) -> Array:
    """E[f(z_1) | z_L] under p, at z_L [K]: f maps z_1 [J] to [m, J], the result is [m, K].

    E[f | z_{l+1}] = E_{p(z_l | z_{l+1})}[E[f | z_l]], each step from a table of the one below.
    """
    starts = [z]
    for p in reversed(chain.p):
        starts.insert(0, resample(spread(given(p, starts[0]), REACH), GRIDS[1].outer))
    for p, edges in zip(chain.p, starts, strict=False):
        below = tabulate(*adapt(lambda z, f=f: (f(z), f(z)), edges, PASSES))
        f = lambda z, p=p, below=below: terms.expect(partial(lookup, below), given(p, z), GRIDS[0])[0]  # noqa: E731
    return f(z)


def _seen(chain: ScalarVAE, log_p: Array, z: Array) -> Array:
    """p(x_k | z_1) / p(x_k) and, in the last row, the mean of p(x_i = 1 | z_1): z_1 [K] -> [D + 1, K]."""
    ratio = jnp.exp(-energies(chain, z) - log_p[:, None])
    mask = chain.mask.astype(z.dtype)
    probability = mask @ jax.nn.sigmoid(real_logits(chain, z)) / jnp.sum(mask)
    return jnp.concatenate([ratio, probability[None]])
