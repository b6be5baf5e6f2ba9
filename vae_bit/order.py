"""What a sweep is asked for: its variants, presets times objectives times optimisers, and the grid of their runs."""

import sys
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_bit import padding, training
from vae_bit.checks import integer
from vae_bit.models import Build
from vae_bit.presets import FAMILIES, PRESETS, Preset, is_grouped, known_as, override
from vae_bit.programs import KINDS, Labels
from vae_bit.store import results, resume
from vae_bit.store.describe import label
from vae_bit.store.results import Variants
from vae_bit.store.table import is_label
from vae_bit.training import Run

EXAMPLES = {
    "preset": "vae_bit.presets.DEFAULT",
    "objective": "vae_bit.objectives.elbo",
    "optimizer": "optax.lion",
    "posterior": "vae_bit.families.MixtureFamily(2)",
    "prior": "vae_bit.families.VampPrior()",
    "decoder": "vae_bit.families.autoregressive",
}


class Order(NamedTuple):
    """What is to be trained, and config.json's account of it."""

    variants: Variants
    config: dict[str, Any]


def variants(
    presets: Any, objectives: Any = None, optimizers: Any = None, model: Build | None = None, **fields: Any
) -> dict[Labels, Preset]:
    """Every combination with its labels, posteriors, priors and decoders too; `fields` are of `presets.override`.

    One value stands for itself, several are a sequence or a dict by labels, None is the preset's own.
    """
    for name in ("steps", "samples", "k"):
        if fields.get(name) is not None:
            fields[name] = integer(name, fields[name], 1)
    chosen: dict[Labels, Preset] = {}
    asked = {"objective": objectives, "optimizer": optimizers} | {name: fields.pop(name, None) for name in FAMILIES}
    axes = [_choices(name, values) for name, values in asked.items()]
    any_grouped = any(value is not None and is_grouped(value) for _, value in axes[0])
    for (name, preset), *choices in product(_presets(presets, model), *axes):
        own = fields | {kind: value for kind, (_, value) in zip(asked, choices, strict=True)}
        if any_grouped and not is_grouped(own["objective"]):
            own.pop("k", None)  # it is meant for the others
        whole = override(preset, **{key: value for key, value in own.items() if value is not None})
        known = {"objective": label(whole.recipe.objective), "optimizer": label(whole.recipe.optimizer)}
        known |= {kind: known_as(kind, whole.model) for kind in FAMILIES}
        given = {kind: name for kind, (name, _) in zip(asked, choices, strict=True) if name}
        chosen[Labels(name, **(known | given))] = whole
    if len({preset.recipe.steps for preset in chosen.values()}) > 1:
        raise ValueError("steps: got presets of different steps, expected one number of steps for all of a sweep")
    return chosen


def _presets(presets: Any, model: Build | None) -> list[tuple[str, Preset]]:
    if isinstance(presets, Preset):
        presets = [presets]
    if isinstance(presets, list | tuple):
        known = {id(preset): name for name, preset in PRESETS.items()}
        named = [known.get(id(preset), "own") for preset in presets]
        if model and len(presets) == 1:
            named = [label(model) if is_label(label(model)) else "own"]
        if len(set(named)) < len(named):
            raise ValueError("preset: got several presets without names, expected a dict of names and presets")
        presets = dict(zip(named, presets, strict=True))
    choices = _choices("preset", presets)
    for _, preset in choices:
        if not isinstance(preset, Preset):
            raise ValueError(f"preset: got {preset!r}, expected a Preset, such as vae_bit.presets.DEFAULT")
    if model is not None and not callable(model):
        raise ValueError(f"model: got {model!r}, expected a function of layers and width that gives a Model")
    for _, preset in choices:
        if getattr(model or preset.model, "__hash__", None) is None:
            raise ValueError(
                f"model: got {label(model or preset.model)}, expected a hashable one: freeze the dataclass"
            )
    return [(name, preset._replace(model=model) if model else preset) for name, preset in choices]


def _choices(name: str, values: Any) -> list[tuple[Any, Any]]:
    """Labels and values; ValueError where a label cannot stand in a table, or two are alike."""
    if values is None:
        return [(None, None)]
    if isinstance(values, Mapping):
        choices = list(values.items())
    else:
        several = isinstance(values, list | tuple) and not hasattr(values, "_fields")
        choices = [(_known(name, value), value) for value in (values if several else [values])]
    for key, value in choices:
        if isinstance(value, str):
            raise ValueError(f"{name}: got {value!r}, expected a value, such as {EXAMPLES[name]}, not its name")
        if not is_label(key):
            advice = (
                f"expected a dict of names and values, the names of letters, digits and _ . + -, as {{'mine': {key}}}"
            )
            raise ValueError(f"{name}: {key!r} cannot stand in a table, {advice}")
    if not choices or len({key for key, _ in choices}) < len(choices):
        raise ValueError(f"{name}: got {[key for key, _ in choices]}, expected one or more of different names")
    return choices


def _known(kind: str, value: Any) -> str:
    named = FAMILIES.get(kind, {}).items()
    return next((name for name, known in named if known == value), label(value))


def order(
    variants: Variants,
    layers: Sequence[int],
    n: Sequence[int],
    beta: Sequence[float] = (1.0,),
    word_dropout: Sequence[float] | None = None,
    learning_rate: Sequence[float] | None = None,
    seeds: int = 8,
    first_seed: int = 0,
    chunk: int | None = None,
    history: int = 0,
    argv: Sequence[str] = (),
    flags: dict[str, Any] | None = None,
) -> Order:
    """The variants at every point of the grid; ValueError names what is wrong with it.

    `chunk` bounds the runs that advance together, `history` is at how many points of training to evaluate, and `argv`
    and `flags` are a command's account of itself.
    """
    seeds, first_seed = integer("seeds", seeds, 1), integer("first_seed", first_seed, 0)
    chunk, history = chunk if chunk is None else integer("chunk", chunk, 1), integer("history", history, 0)
    if first_seed + seeds > 2**32:
        raise ValueError(f"first_seed={first_seed} seeds={seeds}: expected every seed in [0, 2^32)")
    if learning_rate is None and len(own := {preset.learning_rate for preset in variants.values()}) == 1:
        learning_rate = [*own]
    axes = {"layers": layers, "n": n, "beta": beta, "word_dropout": word_dropout, "learning_rate": learning_rate}
    settings = {name: axis if axis is None else _ascending(axis) for name, axis in axes.items()}
    settings |= {"first_seed": first_seed, "seeds": seeds, "chunk": chunk, "history": history}
    stages = resume.stages(settings, [])
    resume.lacking(variants, settings, stages, None)  # refuses what is no axis
    deep = product(variants.values(), settings["layers"])
    models = [preset.model(depth, max(settings["n"])) for preset, depth in deep]  # refuses what no such depth has
    if word_dropout is not None and all(model.follow is None for model in models):
        raise ValueError(f"word_dropout: got {word_dropout}, expected none unless a decoder is autoregressive")
    account = {"settings": settings, "stages": stages} | ({"flags": flags} if flags is not None else {})
    return Order(variants, results.config(variants, history) | resume.origin(argv or sys.argv) | account)


def _ascending(axis: Any) -> Any:
    """In order, if it has one; what is no axis is refused by `sweep.plan`."""
    try:
        return sorted(np.asarray(axis).tolist())
    except TypeError:
        return axis


def try_out(order: Order) -> None:
    """Traces a step of every model at hand: what is wrong with a function of the user's own then shows at once."""
    settings = order.config["settings"]
    numbers: Any = [jax.ShapeDtypeStruct((), kind) for kind in KINDS]
    for preset in order.variants.values():
        for layers in settings["layers"]:
            model, recipe = preset.model(layers, max(settings["n"])), preset.recipe

            def step(run: Run, model=model, recipe=recipe):
                return training.update(model, recipe, training.init(model, recipe, run), run)

            whole = jax.eval_shape(step, Run(*numbers)).params
            for n in settings["n"]:
                own = padding.shapes(preset.model(layers, n).init, n)
                if jax.tree.structure(own) != jax.tree.structure(whole):
                    raise ValueError(
                        f"model: got other parameters at n = {n} than at {max(settings['n'])}, expected equal names"
                    )
