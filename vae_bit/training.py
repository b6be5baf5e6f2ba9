"""Training of one run: its state, one step, a block of steps. Batching is `vmap` outside, in `vae_bit.programs`."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from vae_bit import data, losses, models, noise
from vae_bit.distributions import Normal
from vae_bit.models import Architecture, Params, Pass

Objective = Literal["elbo", "path", "free_bits", "iwae", "dreg", "renyi"]
GROUPED = ("iwae", "dreg", "renyi")  # bounds on several draws at once
FREE_NATS = math.log(2.0)  # what the one bit holds
RENYI_ALPHA = 0.5


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
    objective: Objective = "elbo"  # what is raised; path is the ELBO too, with another gradient
    k: int = 1  # independent draws in each bound, of iwae, dreg and renyi

    def __post_init__(self) -> None:
        if self.k > 1 and not self.draws_groups:
            raise ValueError(f"k: got {self.k}, expected 1 with objective {self.objective!r}; see samples")
        if self.samples % self.k:
            raise ValueError(f"k: got {self.k}, expected a divisor of samples, {self.samples}")
        if self.draws_groups and self.noise == "trapezoid":
            raise ValueError(f"noise: got 'trapezoid', expected 'iid' or 'lattice' with objective {self.objective!r}")

    @property
    def draws_groups(self) -> bool:
        """Whether the objective is a bound on groups of k draws, not an average over all of them."""
        return self.objective in GROUPED


class State(NamedTuple):
    """What a run carries from step to step."""

    step: Array  # good steps taken
    finite: Array  # whether every gradient, every change and the loss at the curves' points has been finite
    params: Params
    optimizer: optax.OptState


class Metrics(NamedTuple):
    """Sampled loss, recon and KL summed over layers; nats, averaged over the two points."""

    loss: Array
    recon: Array
    kl: Array


def init(arch: Architecture, recipe: Recipe, run: Run) -> State:
    """The state before the first step."""
    params = models.init(arch, step_keys(run.seed, -1)[0], run.n)
    return State(jnp.int32(0), jnp.bool(True), params, adam(recipe).init(ravel_pytree(params)[0]))


def adam(recipe: Recipe) -> optax.GradientTransformation:
    """Adam's direction (Kingma and Ba 2015), of all parameters as one row, which compiles faster."""
    return optax.scale_by_adam(*recipe.betas)


def kl_terms(path: Pass, eps: list[Array], kind: str) -> list[Array]:
    """kl_l at the draws z = mean + std * eps of one pass, each of a shape that broadcasts to [2, *nodes].

    Sampled, ln q(z) = -H(q) + (1 - eps^2) / 2, the last part of which is the noise's alone.
    """
    layers = _by_layer(path)
    kl = [losses.entropy_form_kl(*args) for args in layers]
    if kind == "closed":
        return [*kl[:-1], losses.top_kl(layers[-1][1])]
    return [kl_l + 0.5 * (1.0 - jnp.square(eps_l)) for kl_l, eps_l in zip(kl, eps, strict=True)]


def _sampled_kl(path: Pass) -> list[Array]:
    """ln q(z_l) - ln p(z_l) of every layer, for q as it is given: held constant, or at z that it did not draw."""
    return [losses.sampled_kl(*args) for args in _by_layer(path)]


def _by_layer(path: Pass) -> list[tuple[Array, Normal, Normal]]:
    """z_l, q and p of every layer, each as events of size 1."""
    return list(zip(*jax.tree.map(lambda a: a[..., None], (path.z, path.q, path.p)), strict=True))


def sampled_loss(arch: Architecture, recipe: Recipe, params: Params, step: Array, run: Run) -> tuple[Array, Metrics]:
    """The loss under the noise of one step, averaged over the two points, with its parts."""
    eps, weight = jax.vmap(lambda key: nodes(recipe, arch.layers, key))(step_keys(run.seed, step))
    path = models.forward(arch, params, run.n, eps)
    if recipe.objective == "path":
        kl = _sampled_kl(models.densities(arch, _hold_q(params), run.n, path.z))
    else:
        kl = kl_terms(path, eps, recipe.kl)
    recon, *kl = (jnp.sum(weight * term) / data.POINTS for term in (path.recon, *kl))
    if recipe.draws_groups:
        loss = -jnp.mean(_bound(arch, recipe, params, run, path))
    elif recipe.objective == "free_bits":
        loss = losses.loss(recon, losses.free_bits(jnp.stack(kl).sum(), FREE_NATS), run.beta)
    else:
        loss = losses.loss(recon, kl, run.beta)
    return loss, Metrics(loss, recon, jnp.stack(kl).sum())


def step_keys(seed: Array, step: Array | int) -> Array:
    """Keys of the two data points in one step, [2]: a seed and a count are a Threefry key as they stand."""
    count = jnp.astype(data.POINTS * step + jnp.arange(data.POINTS), jnp.uint32)
    pairs = jnp.stack([jnp.full_like(count, seed), count], axis=-1)
    return jax.random.wrap_key_data(pairs, impl="threefry2x32")


def nodes(recipe: Recipe, layers: int, key: Array) -> noise.Noise:
    """The noise of one data point in one step."""
    if recipe.draws_groups:
        return noise.draw_groups(key, recipe.noise, layers, recipe.samples // recipe.k, recipe.k)
    return noise.draw(key, recipe.noise, layers, recipe.samples)


def _bound(arch: Architecture, recipe: Recipe, params: Params, run: Run, path: Pass) -> Array:
    """The bound of each group of k draws: path.z [2, groups, k] -> [2, groups]. The log weights count beta * kl."""

    def log_weight(path: Pass) -> Array:
        return -losses.loss(path.recon, _sampled_kl(path), run.beta)

    if recipe.objective == "iwae":
        return losses.iwae(log_weight(path))
    if recipe.objective == "renyi":
        return losses.renyi(log_weight(path), RENYI_ALPHA)
    return losses.dreg(lambda z: log_weight(models.densities(arch, _hold_q(params), run.n, z)), path.z)


def _hold_q(params: Params) -> Params:
    """q's parameters as constants: its densities then still depend on the latents they are taken at."""
    return {**params, "q": jax.lax.stop_gradient(params["q"])}


def decay(schedule: str, step: Array, steps: int) -> Array:
    """The learning rate's factor: a half cosine, or the post's 50-fold exponential with one more notch every 1,000."""
    if schedule == "cosine":
        return 0.5 * (1.0 + jnp.cos(jnp.pi * step / steps))
    return 50.0 ** (-(step + step // 1000) / steps)


def update(arch: Architecture, recipe: Recipe, state: State, run: Run) -> State:
    """One step: theta - rate * decay * direction, the direction that of `adam`.

    A run stops before the first step whose gradient or change of a parameter is not finite or has a square that is not:
    Adam would divide by an infinite moment and stand still for good.
    """
    grads, _ = jax.grad(sampled_loss, argnums=2, has_aux=True)(arch, recipe, state.params, state.step, run)
    gradient, unravel = ravel_pytree(grads)
    direction, optimizer = adam(recipe).update(gradient, state.optimizer)
    change = run.learning_rate * decay(recipe.schedule, state.step, recipe.steps) * direction
    largest = jnp.max(jnp.maximum(jnp.abs(gradient), jnp.abs(change)))
    finite = state.finite & jnp.isfinite(jnp.square(largest))
    # A run that has stopped keeps its parameters alone: to keep the optimiser's state too would copy it in every step.
    params = jax.tree.map(lambda p, d: jnp.where(finite, p - d, p), state.params, unravel(change))
    return State(state.step + finite, finite, params, optimizer)


def advance(arch: Architecture, recipe: Recipe, state: State, run: Run, steps: Array) -> tuple[State, Metrics]:
    """`steps` updates, then the metrics of the parameters reached, under the noise of the step to come.

    A run whose loss is not finite there stops.
    """
    state = jax.lax.fori_loop(0, steps, lambda _, s: update(arch, recipe, s, run), state)
    metrics = sampled_loss(arch, recipe, state.params, state.step, run)[1]
    return state._replace(finite=state.finite & jnp.isfinite(metrics.loss)), metrics
