"""Training of one run: its state, one step, a block of steps. Batching is `vmap` outside, in `vae_bit.sweep`."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_bit import data, losses, models, noise
from vae_bit.distributions import bernoulli_log_prob
from vae_bit.models import Architecture, Params, Pass


class Run(NamedTuple):
    """The numbers that may differ between runs of one program; a sweep is a Run of arrays [R]."""

    n: Array
    seed: Array
    beta: Array
    learning_rate: Array


@dataclass(frozen=True)
class Recipe:
    """What is fixed for all runs of one program, beside the architecture."""

    noise: noise.Kind
    samples: int  # noise nodes per data point and step
    kl: Literal["closed", "sampled"]  # closed: in closed form where there is one
    schedule: Literal["cosine", "post"]
    betas: tuple[float, float]  # Adam's decay rates of the gradient's first and second moment
    steps: int


class State(NamedTuple):
    """What a run carries from step to step."""

    step: Array
    params: Params
    adam: Any


class Metrics(NamedTuple):
    """Sampled loss, recon and KL summed over layers; nats, averaged over the two points."""

    loss: Array
    recon: Array
    kl: Array


def init(arch: Architecture, recipe: Recipe, run: Run) -> State:
    """The state before the first step."""
    params = models.init(arch, jax.random.key(run.seed), run.n)
    return State(jnp.zeros((), jnp.int32), params, _adam(recipe).init(params))


def _adam(recipe: Recipe) -> optax.GradientTransformation:
    return optax.scale_by_adam(*recipe.betas, eps=1e-8)


def elbo_terms(path: Pass, mask: Array, kl: str) -> tuple[Array, list[Array]]:
    """recon and kl_l at the nodes of one pass, each of a shape that broadcasts to [2, *nodes].

    All dimensions of a data point are one bit, which is broadcast here: a full x would be read from memory every step.
    """
    bits = jnp.repeat(jnp.asarray(data.BITS, path.logits.dtype), path.z[0].size // data.POINTS)
    x, mask = (jnp.broadcast_to(a, path.logits.shape) for a in (bits[None], mask[:, None]))
    recon = -bernoulli_log_prob(x, path.logits, mask, axis=0).reshape(path.z[0].shape)
    *lower, top = zip(*jax.tree.map(lambda a: a[..., None], path[:3]), strict=True)
    if kl == "sampled":
        return recon, [losses.sampled_kl(*args) for args in (*lower, top)]
    return recon, [*(losses.partly_closed_kl(*args) for args in lower), losses.top_kl(top[1])]


def sampled_loss(arch: Architecture, recipe: Recipe, params: Params, step: Array, run: Run) -> tuple[Array, Metrics]:
    """The loss under the noise of one step, averaged over the two points, with its parts."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(run.seed), step), data.POINTS)
    eps, weight = jax.vmap(lambda key: noise.draw(key, recipe.noise, arch.layers, recipe.samples))(keys)
    path = models.forward(arch, params, run.n, eps)
    recon, kl = elbo_terms(path, data.mask(run.n, arch.width), recipe.kl)
    recon, *kl = (jnp.sum(weight * term) / data.POINTS for term in (recon, *kl))
    loss = losses.loss(recon, jnp.stack(kl), run.beta)
    return loss, Metrics(loss, recon, jnp.stack(kl).sum())


def decay(schedule: str, step: Array, steps: int) -> Array:
    """The learning rate's factor: a half cosine, or the post's 50-fold exponential with one more notch every 1,000."""
    if schedule == "cosine":
        return 0.5 * (1.0 + jnp.cos(jnp.pi * step / steps))
    return 50.0 ** (-(step + step // 1000) / steps)


def update(arch: Architecture, recipe: Recipe, state: State, run: Run) -> State:
    """One Adam step (Kingma and Ba 2015)."""
    gradient = jax.grad(sampled_loss, argnums=2, has_aux=True)
    grads, _ = gradient(arch, recipe, state.params, state.step, run)
    direction, adam = _adam(recipe).update(grads, state.adam)
    rate = run.learning_rate * decay(recipe.schedule, state.step, recipe.steps)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    return State(state.step + 1, params, adam)


def advance(arch: Architecture, recipe: Recipe, state: State, run: Run, steps: Array) -> tuple[State, Metrics]:
    """`steps` updates, then the metrics of the parameters reached, under the noise of the step to come."""
    state = jax.lax.fori_loop(0, steps, lambda _, s: update(arch, recipe, s, run), state)
    return state, sampled_loss(arch, recipe, state.params, state.step, run)[1]
