"""Compiled programs of groups of runs: training of one chunk at a time, and the exact evaluation of a few runs.

Each program takes the runs of a chunk by `vmap` and splits them over all local devices by `shard_map`.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import subjaxprs
from jax.sharding import AxisType, PartitionSpec

from vae_bit import exact, models, padding, settings, training
from vae_bit.exact import GRIDS, Evaluation
from vae_bit.marginals import Grids
from vae_bit.models import Build, Model, Params
from vae_bit.training import Metrics, Recipe, Run, State

KINDS = (np.int32, np.uint32, np.float32, np.float32, np.float32)  # of a Run's fields on the devices
CPU_CHUNK_BYTES = 5 << 20  # a device's share of a chunk: half takes a tenth longer at large n or L, 8 MiB no less
ACCELERATOR_CHUNK_BYTES = 8 << 30
FEWEST = 2  # runs a device in a chunk: a batch of one takes half as long again a run
LEAN = {"xla_backend_optimization_level": 1}  # as fast a loop as at level 3 after three quarters of the compile time
# Older kernels: less to compile, and as fast for the evaluation, but training takes 1.6 to 3.3 times as long.
PLAIN = {"xla_cpu_use_fusion_emitters": False}
RUN_ONCE = {"xla_backend_optimization_level": 0} | PLAIN  # what runs for milliseconds should not compile for seconds
EVALUATED = 4  # runs a device in one call of the exact evaluation


class Labels(NamedTuple):
    """The names by which a table tells apart what was trained in one sweep."""

    preset: str
    objective: str
    optimizer: str
    posterior: str = "gaussian"
    prior: str = "normal"
    decoder: str = "independent"


class Group(NamedTuple):
    """Runs [R] that share every static shape: models of `layers` layers, for up to `width` dimensions."""

    labels: Labels
    build: Build
    recipe: Recipe
    layers: int
    width: int
    runs: Run
    history: int = 0  # points of training at which the parameters are kept, to be evaluated

    @property
    def model(self) -> Model:
        """The functions that all runs share."""
        return self.build(self.layers, self.width)


class Programs(NamedTuple):
    """A group's two functions of one chunk of at most `chunk` runs, compiled, each split over the devices."""

    chunk: int
    init: Callable[[Run], State]
    advance: Callable[[State, Run, np.int32], tuple[State, Metrics]]


Evaluate = Callable[[Params, Run, Callable[[], None]], Evaluation]


def chunks(group: Group, chunk: int | None = None) -> list[slice]:
    """Slices of at most `chunk` runs that cover the group: as few as can be, or one more if less padding is trained."""
    total, devices = group.runs.n.size, jax.local_device_count()
    most = min(chunk or chunk_size(group.model, group.recipe, group.width), total)
    fewest = math.ceil(total / most)
    lengths = [min(most, math.ceil(total / count / devices) * devices) for count in (fewest, fewest + 1)]
    return slices(total, min(lengths, key=lambda length: math.ceil(total / length) * math.ceil(length / devices)))


def slices(total: int, size: int) -> list[slice]:
    """The indices below `total`, `size` at a time."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def chunk_size(model: Model, recipe: Recipe, width: int) -> int:
    """Runs whose training state and layers' outputs fit the budget of all local devices, at least `FEWEST` a device."""
    run: Any = Run(*(jax.ShapeDtypeStruct((), kind) for kind in KINDS))
    state = jax.eval_shape(partial(training.init, model, recipe), run)
    params, held = state.params, sum(leaf.size for leaf in jax.tree.leaves(state))
    nodes = jax.eval_shape(
        jax.vmap(lambda key: recipe.noise(key, model.layers, recipe.samples)), training.step_keys(0, 0)
    )
    forward, drawn = jax.eval_shape(partial(models.forward, model), params, run.n, run.word_dropout, nodes)
    columns = jax.ShapeDtypeStruct((forward.z[0].size,), np.float32)
    outputs = _outputs(model.decode, params, columns)
    outputs += _outputs(model.follow, params, columns, columns) if model.follow else 0
    for conditional in (*model.up, *model.down):
        outputs += _outputs(conditional, params, jax.ShapeDtypeStruct((drawn.weight.size,), np.float32))
    budget = CPU_CHUNK_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_CHUNK_BYTES
    return jax.local_device_count() * max(FEWEST, budget // (4 * (held + 3 * outputs)))


def _outputs(function: Callable, *like: Any) -> int:
    """Numbers in all that the function's products of matrices give."""
    return _products(jax.make_jaxpr(function)(*like).jaxpr)


def _products(jaxpr: Any) -> int:
    inner = sum(_products(sub) for sub in subjaxprs(jaxpr))
    own = [eqn.outvars[0].aval.size for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    return inner + sum(own)


def halved(group: Group, chunk: int, error: Exception) -> int:
    """Half the chunk where the error is one of memory and a device can do with fewer runs; raises the error if not."""
    if "RESOURCE_EXHAUSTED" not in str(error) or chunk <= jax.local_device_count():
        raise error
    half = math.ceil(chunk / 2)
    notice = f"out of device memory: layers {group.layers}, n up to {group.width}: {half} runs at a time"
    warnings.warn(notice, stacklevel=2)
    return half


@settings.fixed()
def compile_programs(group: Group, chunk: int | None = None) -> Programs:
    """The group's programs for chunks of the shape that `chunks` gives, or smaller ones that fit into memory."""
    first = chunks(group, chunk)[0]
    try:
        return _compile_programs(group, first)
    except jax.errors.JaxRuntimeError as error:
        return compile_programs(group, halved(group, first.stop, error))


def _compile_programs(group: Group, first: slice) -> Programs:
    model, recipe = group.model, group.recipe
    split, whole = PartitionSpec("runs"), PartitionSpec()
    init = _over_devices(jax.vmap(partial(training.init, model, recipe)), split)
    advance = jax.vmap(partial(training.advance, model, recipe), (0, 0, None))
    advance = _over_devices(advance, split, split, whole, donate_argnums=0)
    runs = padded(group.runs, first, first.stop)
    state = jax.eval_shape(init, runs)
    compiled = _compile(init.lower(runs), RUN_ONCE), _compile(advance.lower(state, runs, np.int32(0)), LEAN)
    return Programs(first.stop, *compiled)


def _compile(program: jax.stages.Lowered, options: dict[str, Any]) -> jax.stages.Compiled:
    """With options that were chosen on CPUs: there, and while XLA knows them."""
    try:
        return program.compile(options if jax.default_backend() == "cpu" else None)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return program.compile()


def _over_devices(function: Callable, *specs: PartitionSpec, **options: Any) -> Any:
    mesh = jax.make_mesh((jax.local_device_count(),), ("runs",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("runs")
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False), **options)


def compile_evaluate(model: Model, width: int, total: int) -> Evaluate:
    """The exact evaluation in float64 of runs [R] of any n up to `width`; `total` is how many there are to be.

    Runs whose figures are inexact are evaluated again on finer grids, whose program is compiled when a run needs it.
    The third argument is called before each few.
    """
    devices = jax.local_device_count()
    coarse = _compile_evaluate(model, width, GRIDS[0], devices * min(EVALUATED, math.ceil(total / devices)))
    finer = cache(lambda grids: _compile_evaluate(model, width, grids, devices))

    def evaluate(params: Params, runs: Run, check: Callable[[], None]) -> Evaluation:
        figures = coarse(params, runs, check)
        for grids in GRIDS[1:]:
            where = np.flatnonzero(exact.inexact(figures))
            if not where.size:
                break
            few, some, before = jax.tree.map(lambda leaf, where=where: leaf[where], (params, runs, figures))
            after = exact.refined(before, finer(grids)(few, some, check))
            figures = jax.tree.map(partial(_replaced, where), figures, after)
        return figures

    return evaluate


def _replaced(where: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    result = old.copy()
    result[where] = new
    return result


@settings.fixed(x64=True)
def _compile_evaluate(model: Model, width: int, grids: Grids, size: int) -> Evaluate:
    """The evaluation on given grids, `size` runs at a time and one after another on each device.

    That keeps memory small and loses no speed.
    """
    split = PartitionSpec("runs")
    program = _over_devices(lambda *args: jax.lax.map(lambda a: _evaluate(model, grids, *a), args), split, split)
    like = padding.shapes(model.init, width)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), like)
    runs: Any = [jax.ShapeDtypeStruct((size,), kind) for kind in KINDS]
    program = _compile(program.lower(params, Run(*runs)), PLAIN)

    def evaluate_few(params: Params, runs: Run, where: slice, check: Callable[[], None]) -> Evaluation:
        check()
        params = padding.pad(jax.tree.map(lambda leaf: leaf[indices(where, size)], params), like)
        with settings.fixed(x64=True):
            evaluation = program(params, padded(runs, where, size))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: where.stop - where.start], evaluation)

    def evaluate(params: Params, runs: Run, check: Callable[[], None]) -> Evaluation:
        pieces = [evaluate_few(params, runs, where, check) for where in slices(runs.n.size, size)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)

    return evaluate


def _evaluate(model: Model, grids: Grids, params: Params, run: Run) -> Evaluation:
    params, beta, word_dropout = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64), (params, run.beta, run.word_dropout)
    )
    return exact.evaluate_on(grids, models.scalar_vae(model, params, run.n, word_dropout), beta)


def padded(runs: Run, where: slice, length: int) -> Run:
    """The chosen runs as every program takes them, in 32 bits, whether it was compiled for float64 or not."""
    index = indices(where, length)
    return Run(*(field[index].astype(kind) for field, kind in zip(runs, KINDS, strict=True)))


def indices(where: slice, length: int) -> np.ndarray:
    """The slice, its last index repeated until there are `length` and the devices share them evenly."""
    devices = jax.local_device_count()
    return np.minimum(where.start + np.arange(math.ceil(length / devices) * devices), where.stop - 1)
