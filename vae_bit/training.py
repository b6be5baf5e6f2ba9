"""Training of one run: its state, one step, a block of steps. Batching is `vmap` outside, in `vae_bit.programs`."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from vae_bit import data, losses, models, noise
from vae_bit.distributions import Normal, standard_normal
from vae_bit.models import Architecture, Params, Pass

Objective = Literal["elbo", "path", "free_bits", "iwae", "dreg", "renyi"]
FREE_NATS = math.log(2.0)  # what the one bit holds
RENYI_ALPHA = 0.5
ADAM_EPS = 1e-8


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
        return self.objective in ("iwae", "dreg", "renyi")


class State(NamedTuple):
    """What a run carries from step to step."""

    step: Array
    params: Params
    mean: Array  # Adam's moments of the gradient, all parameters in one row: its running mean and mean square
    square: Array


class Metrics(NamedTuple):
    """Sampled loss, recon and KL summed over layers; nats, averaged over the two points."""

    loss: Array
    recon: Array
    kl: Array


def init(arch: Architecture, recipe: Recipe, run: Run) -> State:
    """The state before the first step."""
    params = models.init(arch, step_keys(run.seed, -1)[0], run.n)
    moment = jnp.zeros_like(ravel_pytree(params)[0])
    return State(jnp.zeros((), jnp.int32), params, moment, moment)


def kl_terms(path: Pass, eps: list[Array], kind: str) -> list[Array]:
    """kl_l at the draws z = mean + std * eps of one pass, each of a shape that broadcasts to [2, *nodes].

    Sampled, ln q(z) = -H(q) + (1 - eps^2) / 2, the last part of which is the noise's alone.
    """
    layers = _by_layer(path)
    kl = [losses.partly_closed_kl(*args) for args in layers]
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
        kl = _sampled_kl(path._replace(q=jax.lax.stop_gradient(path.q)))
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
    frozen = {**params, "q": jax.lax.stop_gradient(params["q"])}
    return losses.dreg(lambda z: log_weight(_densities(arch, frozen, run.n, z)), path.z)


def _densities(arch: Architecture, params: Params, n: Array, z: list[Array]) -> Pass:
    """Every conditional at given latents [2, groups, k]."""
    first = jax.tree.map(lambda field: field[:, None, None], models.encode(arch, params, n))
    up, down = models.inference_nets(arch)[1:], models.generative_nets(arch)[1:]
    q = [models.conditional(*args) for args in zip(up, params["q"][1:], z[:-1], strict=True)]
    p = [models.conditional(*args) for args in zip(down, params["p"][1:], z[1:], strict=True)]
    return Pass(z, [first, *q], [*p, standard_normal((1, 1, 1))], models.recon(arch, params, n, z[0]))


def decay(schedule: str, step: Array, steps: int) -> Array:
    """The learning rate's factor: a half cosine, or the post's 50-fold exponential with one more notch every 1,000."""
    if schedule == "cosine":
        return 0.5 * (1.0 + jnp.cos(jnp.pi * step / steps))
    return 50.0 ** (-(step + step // 1000) / steps)


def update(arch: Architecture, recipe: Recipe, state: State, run: Run) -> State:
    """One step of Adam (Kingma and Ba 2015), in the order of operations that ends their section 2.

    Once a gradient is not finite, no step is taken any more.
    """
    grads, _ = jax.grad(sampled_loss, argnums=2, has_aux=True)(arch, recipe, state.params, state.step, run)
    gradient, unravel = ravel_pytree(grads)
    step, finite = state.step + 1, jnp.isfinite(jnp.sum(gradient))
    b1, b2 = recipe.betas
    mean = optax.tree.update_moment(gradient, state.mean, b1, 1)
    square = optax.tree.update_moment(gradient, state.square, b2, 2)
    # The parameters are made from what is kept of the moments: XLA would copy the old ones were they read again later.
    mean, square = _where(finite, (mean, square), (state.mean, state.square))
    scale = jnp.sqrt(1.0 - b2**step)
    correction = scale / (1.0 - b1**step)
    rate = run.learning_rate * decay(recipe.schedule, state.step, recipe.steps)
    direction = unravel(correction * mean / (jnp.sqrt(square) + scale * ADAM_EPS))
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    step, params = _where(finite, (step, params), (state.step, state.params))
    return State(step, params, mean, square)


def _where(finite: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.where(finite, *leaves), new, old)


def advance(arch: Architecture, recipe: Recipe, state: State, run: Run, steps: Array) -> tuple[State, Metrics]:
    """`steps` updates, then the metrics of the parameters reached, under the noise of the step to come."""
    state = jax.lax.fori_loop(0, steps, lambda _, s: update(arch, recipe, s, run), state)
    return state, sampled_loss(arch, recipe, state.params, state.step, run)[1]
