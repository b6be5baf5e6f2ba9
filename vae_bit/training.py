"""Training of one run: its state, one step, a block of steps. Batching is `vmap` outside, in `vae_bit.programs`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from vae_bit import checks, data, models, noise
from vae_bit.models import Model, Params
from vae_bit.objectives import Draws, Kl, Objective


class Run(NamedTuple):
    """The numbers that may differ between runs of one program; a sweep is a Run of arrays [R]."""

    n: Array
    seed: Array
    beta: Array
    learning_rate: Array
    word_dropout: Array  # rate at which x_{i-1} is hidden from a decoder that sees it


Optimizer = Callable[[optax.Schedule], optax.GradientTransformation]  # such as optax.lion: of the learning rate
Schedule = Callable[[int], optax.Schedule]  # of the number of steps


@dataclass(frozen=True)
class Recipe:
    """How to train: all that is fixed for all runs of one program, beside the model."""

    objective: Objective  # what a step minimises
    noise: noise.Rule
    samples: int  # noise nodes per data point and step
    kl: Kl  # how the KL of each layer is taken at the draws
    optimizer: Optimizer
    schedule: Schedule  # of the learning rate: a factor at each step
    beta_schedule: Schedule  # and of beta
    steps: int

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, optax.GradientTransformation):
            made = type(self.optimizer).__name__
            raise ValueError(f"optimizer: got a {made}, expected a function of the learning rate, such as optax.lion")
        functions = ("objective", "noise", "kl", "optimizer", "schedule", "beta_schedule")
        checks.functions(**{name: getattr(self, name) for name in functions})


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


def init(model: Model, recipe: Recipe, run: Run) -> State:
    """The state before the first step."""
    params = model.init(step_keys(run.seed, -1)[0], run.n)
    return State(jnp.int32(0), jnp.bool(True), params, optimizer(recipe, run).init(params))


def optimizer(recipe: Recipe, run: Run) -> optax.GradientTransformationExtraArgs:
    """The recipe's optimiser at the run's learning rate, which the schedule multiplies."""
    factor = recipe.schedule(recipe.steps)
    return optax.with_extra_args_support(recipe.optimizer(lambda step: run.learning_rate * factor(step)))


def draws(model: Model, recipe: Recipe, params: Params, step: Array, run: Run) -> Draws:
    """What the objective sees of a step."""
    nodes = jax.vmap(lambda key: recipe.noise(key, model.layers, recipe.samples))(step_keys(run.seed, step))
    forward, (eps, weight) = models.forward(model, params, run.n, run.word_dropout, nodes)
    return Draws(
        z=forward.z,
        eps=eps,
        weight=weight,
        q=forward.q,
        p=forward.p,
        recon=forward.recon,
        log_q=forward.log_q,
        kl=recipe.kl(forward),
        beta=run.beta * recipe.beta_schedule(recipe.steps)(step),
        progress=step / recipe.steps,
        at=partial(models.densities, model, params, run.n, run.word_dropout),
    )


def sampled_loss(model: Model, recipe: Recipe, params: Params, step: Array, run: Run) -> tuple[Array, Metrics]:
    """The objective under the noise of one step, and that with recon and KL."""
    seen = draws(model, recipe, params, step, run)
    loss = recipe.objective(seen)
    if jnp.shape(loss):
        raise ValueError(f"objective: got values of shape {jnp.shape(loss)}, expected a scalar, such as draws.mean(..)")
    return loss, Metrics(loss, seen.mean(seen.recon), sum(map(seen.mean, seen.kl)))


def step_keys(seed: Array, step: Array | int) -> Array:
    """Keys of the two data points in one step, [2]: a seed and a count are a Threefry key as they stand."""
    count = jnp.astype(data.POINTS * step + jnp.arange(data.POINTS), jnp.uint32)
    pairs = jnp.stack([jnp.full_like(count, seed), count], axis=-1)
    return jax.random.wrap_key_data(pairs, impl="threefry2x32")


def update(model: Model, recipe: Recipe, state: State, run: Run) -> State:
    """One step of the optimiser.

    A run stops before the first step whose gradient or change of a parameter is not finite or has a square that is not:
    Adam would divide by an infinite moment and stand still for good.
    """

    def loss(params: Params) -> Array:
        return sampled_loss(model, recipe, params, state.step, run)[0]

    value, grad = jax.value_and_grad(loss)(state.params)
    change, after = optimizer(recipe, run).update(
        grad, state.optimizer, state.params, value=value, grad=grad, value_fn=loss
    )
    largest = jnp.max(jnp.maximum(*(jnp.abs(ravel_pytree(tree)[0]) for tree in (grad, change))))
    finite = state.finite & jnp.isfinite(jnp.square(largest))
    # A run that has stopped keeps its parameters alone: to keep the optimiser's state too would copy it in every step.
    params = jax.tree.map(lambda p, d: jnp.where(finite, p + d, p), state.params, change)
    return State(state.step + finite, finite, params, after)


def advance(model: Model, recipe: Recipe, state: State, run: Run, steps: Array) -> tuple[State, Metrics]:
    """`steps` updates, then the metrics of the parameters reached, under the noise of the step to come.

    A run whose loss is not finite there stops.
    """
    state = jax.lax.fori_loop(0, steps, lambda _, s: update(model, recipe, s, run), state)
    metrics = sampled_loss(model, recipe, state.params, state.step, run)[1]
    return state._replace(finite=state.finite & jnp.isfinite(metrics.loss)), metrics
