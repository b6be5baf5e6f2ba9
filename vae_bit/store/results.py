"""A sweep's files: `results.csv`, `curves.npz`, `params.npz`, `config.json`, perhaps `history.npz`. No pickle.

The table is that of `vae_bit.store.table`, and the curves [R, T] are in its order. Parameters of all runs of one kind,
depth and n are stacked under names such as
    default/elbo/adam/gaussian/normal/independent/layers=2/n=5/q/0/params/head/kernel
A kernel is [W b]; the encoder's first W has one column, which multiplies what `architecture.EncoderInput` reads.
Every loader raises Damaged, naming the file, where one is missing, not as it was written, or not such a table, curves
or parameters as are said here.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

from vae_bit import padding, settings
from vae_bit.models import Build, Params
from vae_bit.presets import Preset, named_model
from vae_bit.programs import Labels
from vae_bit.store import files, table
from vae_bit.store.describe import describe
from vae_bit.store.files import Damaged
from vae_bit.store.table import LABELS, Table
from vae_bit.sweep import Trained, block_ends, history_steps

Folder = str | os.PathLike[str]
Variants = Mapping[Labels, Preset]  # all that a sweep trains, side by side

SCHEMA = 5
CURVES = ("loss", "recon", "kl")
HISTORY = (*CURVES, "nll", "posterior_kl", "mutual_information", "marginal_kl", "error")
KIND = (*LABELS, "layers", "n")  # runs whose parameters are stacked


class Contents(NamedTuple):
    """All that is known of some runs: table, curves [R, T], parameters by name [runs of one kind, ...]."""

    rows: Table
    curves: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    history: dict[str, np.ndarray]  # exact figures [R, H] at the steps [H], or nothing


class Variant(msgspec.Struct):
    """What was trained under some labels: descriptions of a model and a recipe."""

    preset: str
    objective: str
    optimizer: str
    posterior: str
    prior: str
    decoder: str
    model: Any
    recipe: dict[str, Any]

    @property
    def labels(self) -> Labels:
        """Its names in the table."""
        return Labels(*(getattr(self, name) for name in LABELS))


class Config(files.Digests, kw_only=True):
    """config.json, as far as it says what was trained."""

    schema: int
    steps: int
    history: int  # points of training at which the runs were evaluated
    variants: list[Variant]


def contents(trained: Trained) -> Contents:
    """What a group's training has given."""
    curves = {"step": block_ends(trained.group.recipe.steps), **trained.curves._asdict()}
    return Contents(table.from_trained(trained), curves, _named_params(trained), _history(trained))


def _history(trained: Trained) -> dict[str, np.ndarray]:
    if trained.history is None:
        return {}
    figures = trained.history._replace(kl=trained.history.kl.sum(-1))
    steps = history_steps(trained.group.recipe.steps, trained.group.history)
    return {"step": steps} | {name: getattr(figures, name).T for name in HISTORY}


def merge(parts: Sequence[Contents]) -> Contents:
    """The runs of all parts, in a table's order."""
    rows = table.joined(part.rows for part in parts)
    order = table.order(rows)
    return Contents(
        {name: column[order] for name, column in rows.items()},
        _merge_series([part.curves for part in parts], order),
        _merge_params(parts, rows, np.argsort(order)),
        _merge_series([part.history for part in parts], order),
    )


def _merge_series(parts: Sequence[dict[str, np.ndarray]], order: np.ndarray) -> dict[str, np.ndarray]:
    joined = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0] if name != "step"}
    return {name: parts[0]["step"] for name in parts[0] if name == "step"} | joined


def _merge_params(parts: Sequence[Contents], rows: Table, rank: np.ndarray) -> dict[str, np.ndarray]:
    """`rows` are the parts' rows one after another, `rank` the place of each in the table."""
    params = {}
    for kind, own in _kinds(rows):
        order, prefix = np.argsort(rank[own]), _prefix(*kind)
        held = [part.params for part in parts if any(name.startswith(prefix) for name in part.params)]
        names = [name for name in held[0] if name.startswith(prefix)]
        params |= {name: np.concatenate([part[name] for part in held])[order] for name in names}
    return params


def _kinds(rows: Table) -> list[tuple[tuple, np.ndarray]]:
    """Every kind of runs there is, in the table's order, and which rows are of it."""
    kinds = list(zip(*(rows[name].tolist() for name in KIND), strict=True))
    places: dict[tuple, list[int]] = {}
    for index, kind in enumerate(kinds):
        places.setdefault(kind, []).append(index)
    return [(kind, np.array(places[kind])) for kind in sorted(places)]


def write(
    out: Folder, variants: Variants, trained: Sequence[Trained], about: dict[str, Any], earlier: Contents | None = None
) -> Contents:
    """Writes the four files into the folder `out`, all or none, and returns the trained and earlier runs.

    `about` goes into config.json. OSError names the file that could not be written; the old files are intact then.
    """
    whole = merge([*([earlier] if earlier else []), *(contents(group) for group in trained)])
    writers: files.Writers = {
        "curves.npz": lambda file: np.savez(file, allow_pickle=False, **whole.curves),
        "params.npz": lambda file: np.savez(file, allow_pickle=False, **whole.params),
        "results.csv": lambda file: file.write(table.to_csv(whole.rows).encode()),
    }
    if whole.history:
        writers["history.npz"] = lambda file: np.savez(file, allow_pickle=False, **whole.history)
    files.commit(Path(out), config(variants) | about, writers)
    return whole


def config(variants: Variants, history: int = 0) -> dict[str, Any]:
    """What config.json says of the schema and of what is trained, as JSON would give it back."""
    described = [
        {**labels._asdict(), "model": describe(preset.model), "recipe": describe(preset.recipe)}
        for labels, preset in variants.items()
    ]
    (steps,) = {preset.recipe.steps for preset in variants.values()}
    return json.loads(json.dumps({"schema": SCHEMA, "steps": steps, "history": history, "variants": described}))


def _named_params(trained: Trained) -> dict[str, np.ndarray]:
    group, named = trained.group, {}
    for n in np.unique(group.runs.n).tolist():
        like = padding.shapes(group.build(group.layers, n).init, n)
        own = padding.unpad(jax.tree.map(lambda leaf, own=group.runs.n == n: leaf[own], trained.params), like)
        named |= {_prefix(*group.labels, group.layers, n) + name: leaf for name, leaf in _leaves(own).items()}
    return named


def _prefix(*kind: Any) -> str:
    *labels, layers, n = kind
    return f"{'/'.join(labels)}/layers={layers}/n={n}/"


def _leaves(params: Params) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def read_config(out: Path) -> Config:
    """config.json; Damaged where it has another schema or says of the training what cannot be."""
    schema = files.read_config(out, _Schema).schema
    if schema != SCHEMA:
        raise Damaged(f"{out / files.CONFIG}: schema {SCHEMA} is expected (saved: {schema})")
    config = files.read_config(out, Config)
    if config.steps < 1:
        raise Damaged(f"{out / files.CONFIG}: damaged, {config.steps} steps")
    return config


class _Schema(msgspec.Struct):
    schema: int


def builds(out: Path, own: Sequence[Build] = ()) -> dict[Labels, Build]:
    """The models of all that a folder's sweep trained: those of the presets, or the caller's own.

    ValueError where a saved description fits none of them.
    """
    found = {}
    for variant in read_config(out).variants:
        labels = variant.labels
        named = named_model(labels.preset, posterior=labels.posterior, prior=labels.prior, decoder=labels.decoder)
        known = {json.dumps(describe(build), sort_keys=True): build for build in (*own, *([named] if named else []))}
        description = json.dumps(variant.model, sort_keys=True)
        if description not in known:
            kind = "/".join(labels)
            example = "dataclasses.replace(vb.presets.DEFAULT.model, posterior=MyFamily())"
            raise ValueError(
                f"model: none given is that of {kind} in {out}, expected the one that was trained, such as {example}"
            )
        found[variant.labels] = known[description]
    return found


def load(out: Folder, own: Sequence[Build] = ()) -> Contents:
    """All that the folder holds; Damaged where its files do not fit together; `own` as in `builds`."""
    rows, curves, like = load_table(out), load_curves(out), {}
    known = builds(Path(out), own)
    with files.checked(Path(out), "params.npz") as path, np.load(path, allow_pickle=False) as file:
        for kind, index in _kinds(rows):
            like |= _like_params(known[Labels(*kind[:-2])], kind, index.size)
        params = dict(file)
        files.check_arrays(params, like)
        return Contents(rows, curves, params, load_history(out))


def load_table(out: Folder) -> Table:
    """results.csv as columns; see `table.from_csv`."""
    with files.checked(Path(out), "results.csv") as path:
        rows = table.from_csv(path.read_text(encoding="ascii"))
        known = {variant.labels for variant in read_config(Path(out)).variants}
        if odd := set(zip(*(rows[name].tolist() for name in LABELS), strict=True)) - known:
            raise ValueError(f"{min(odd)} is none of what {files.CONFIG} says was trained")
        return rows


def load_curves(out: Folder) -> dict[str, np.ndarray]:
    """step [T], and sampled loss, recon and kl [R, T] in nats."""
    steps = block_ends(read_config(Path(out)).steps)
    return _load_series(Path(out), "curves.npz", steps, CURVES, np.float32)


def load_history(out: Folder) -> dict[str, np.ndarray]:
    """step [H], and exact figures [R, H] in nats at these points of training; empty where none were asked for."""
    config = read_config(Path(out))
    steps = history_steps(config.steps, config.history)
    return _load_series(Path(out), "history.npz", steps, HISTORY, np.float64) if config.history else {}


def _load_series(out: Path, name: str, steps: np.ndarray, names: Sequence[str], dtype: Any) -> dict[str, np.ndarray]:
    count = load_table(out)["n"].size
    with files.checked(out, name) as path, np.load(path, allow_pickle=False) as file:
        series, like = dict(file), jax.ShapeDtypeStruct((count, steps.size), dtype)
        files.check_arrays(series, {"step": steps, **dict.fromkeys(names, like)})
        if np.any(series["step"] != steps):
            raise ValueError(f"step is not that of {steps[-1]} steps")
        return series


@settings.fixed()
def trained_model(rows: Table, params: Mapping[str, np.ndarray], index: int, known: Mapping[Labels, Build]) -> Any:
    """What builds the model of a row, and its parameters, among all those by name."""
    kind, where = next((kind, where) for kind, where in _kinds(rows) if index in where)
    build = known[Labels(*kind[:-2])]
    shapes = padding.shapes(build(*kind[-2:]).init, kind[-1])
    place = int(np.flatnonzero(where == index)[0])
    leaves = [params[_prefix(*kind) + name][place] for name in _leaves(shapes)]
    return build, jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _like_params(build: Build, kind: tuple, count: int) -> dict[str, np.ndarray]:
    """Names, shapes and types of the parameters of runs of one kind, in arrays that take no memory."""
    layers, n = kind[-2:]
    one = padding.shapes(build(layers, n).init, n)
    full = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), (count, *leaf.shape)), one)
    return {_prefix(*kind) + name: leaf for name, leaf in _leaves(full).items()}
