"""A sweep's files in one folder: `results.csv`, `curves.npz`, `params.npz` and `config.json`. No pickle anywhere.

A table is a dict of columns, one row for each run, ordered by layers, n, beta, learning_rate, seed; so are the curves
[R, T]. Parameters of all runs of one depth and n are stacked under names such as `layers=2/n=5/q/0/params/head/kernel`.
A kernel is [W b]; the encoder's first W has one column, which multiplies sum_i x_i, or +-8 (`vae_bit.models.encode`).
Every loader raises Damaged, naming the file, where one is missing, not as it was written, or not such a table, curves
or parameters as are said here.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from vae_bit import limits, models, settings
from vae_bit.exact import Evaluation
from vae_bit.models import Architecture, Params
from vae_bit.presets import Preset
from vae_bit.store import files
from vae_bit.store.files import Damaged
from vae_bit.sweep import Trained, block_ends
from vae_bit.training import Recipe

Table = dict[str, np.ndarray]
Folder = str | os.PathLike[str]

SCHEMA = 3
KEYS = ("layers", "n", "beta", "learning_rate", "seed")
STATUS = ("ok", "collapsed", "diverged")
EXACT = ("nll", "posterior_kl", "mutual_information", "marginal_kl", "valid_mass", "error")
COLUMNS = (*KEYS, "status", "steps", "loss", "recon", "recon_per_dim", "kl", "limit", "gap", *EXACT)
WHOLE = {"layers": (1, 64), "n": (1, 2**31 - 1), "seed": (0, 2**32 - 1), "steps": (0, 2**31 - 1)}  # and their bounds
POSITIVE = ("beta", "learning_rate")
CURVES = ("loss", "recon", "kl")
COLLAPSED = 0.01  # nats of mutual information at the top layer, held and missing


class Contents(NamedTuple):
    """All that is known of some runs: table, curves [R, T], parameters by name [runs of one depth and n, ...]."""

    rows: Table
    curves: dict[str, np.ndarray]
    params: dict[str, np.ndarray]


class Config(files.Digests, kw_only=True):
    """config.json, as far as it says what was trained."""

    schema: int
    architecture: Architecture  # of one layer and n = 1
    recipe: Recipe


class SavedRun(NamedTuple):
    """A run read back: its row of the table, its architecture (width = n) and its parameters."""

    row: dict[str, Any]
    arch: Architecture
    params: Params


def _columns(trained: Trained) -> Table:
    arch = trained.group.arch
    runs, figures = jax.tree.map(np.asarray, (trained.group.runs, trained.evaluation))
    limit = limits.limit(arch.layers, runs.n, runs.beta)
    return {
        "layers": np.full(runs.n.shape, arch.layers),
        "n": runs.n,
        "beta": runs.beta,
        "learning_rate": runs.learning_rate,
        "seed": runs.seed,
        "status": status(arch.layers, runs.n, runs.beta, trained.finite, figures),
        "steps": trained.steps,
        "loss": figures.loss,
        "recon": figures.recon,
        "recon_per_dim": figures.recon / runs.n,
        "kl": figures.kl.sum(1),
        "limit": limit,
        "gap": figures.loss - limit,
    } | {name: getattr(figures, name) for name in EXACT}


def status(layers: int, n: np.ndarray, beta: np.ndarray, finished: np.ndarray, figures: Evaluation) -> np.ndarray:
    """`diverged`, `collapsed` or `ok`, of runs [R].

    diverged: training stopped early, or the loss is not finite.
    collapsed: I < 0.01 and I <= I* - 0.01, with I the top layer's mutual information with x and I* what the optimum
    holds (`limits.information`), both in nats. Such a run holds less than half of what the optimum does; where the
    optimum itself holds less than 0.01, because a code pays nothing (n <= beta) or next to nothing, no run collapses.
    """
    information = figures.mutual_information
    best = limits.information(layers, n, beta)
    collapsed = (information < COLLAPSED) & (information <= best - COLLAPSED)
    diverged = ~finished | ~np.isfinite(figures.loss)
    return np.where(diverged, "diverged", np.where(collapsed, "collapsed", "ok"))


def contents(trained: Trained) -> Contents:
    """What a group's training has given."""
    steps = block_ends(trained.group.recipe.steps)
    return Contents(_columns(trained), {"step": steps, **trained.curves._asdict()}, _named_params(trained))


def merge(parts: Sequence[Contents]) -> Contents:
    """The runs of all parts, in a table's order."""
    rows = {name: np.concatenate([part.rows[name] for part in parts]) for name in parts[0].rows}
    order = np.lexsort([rows[name] for name in reversed(KEYS)])
    curves = {name: np.concatenate([part.curves[name] for part in parts])[order] for name in CURVES}
    return Contents(
        {name: column[order] for name, column in rows.items()},
        {"step": parts[0].curves["step"], **curves},
        _merge_params(parts, rows, np.argsort(order)),
    )


def _merge_params(parts: Sequence[Contents], rows: Table, rank: np.ndarray) -> dict[str, np.ndarray]:
    """`rows` are the parts' rows one after another, `rank` the place of each in the table."""
    params = {}
    for layers, n in np.unique(np.stack([rows["layers"], rows["n"]], 1), axis=0).tolist():
        order = np.argsort(rank[(rows["layers"] == layers) & (rows["n"] == n)])
        prefix = _prefix(layers, n)
        held = [part.params for part in parts if any(name.startswith(prefix) for name in part.params)]
        names = [name for name in held[0] if name.startswith(prefix)]
        params |= {name: np.concatenate([part[name] for part in held])[order] for name in names}
    return params


def write(
    out: Folder, preset: Preset, trained: Sequence[Trained], about: dict[str, Any], earlier: Contents | None = None
) -> Table:
    """Writes the four files into the folder `out`, all or none, and returns the table of the trained and earlier runs.

    `about` goes into config.json. OSError names the file that could not be written; the old files are intact then.
    """
    whole = merge([*([earlier] if earlier else []), *(contents(group) for group in trained)])
    writers: files.Writers = {
        "curves.npz": lambda file: np.savez(file, allow_pickle=False, **whole.curves),
        "params.npz": lambda file: np.savez(file, allow_pickle=False, **whole.params),
        "results.csv": lambda file: file.write(_csv(whole.rows).encode()),
    }
    files.commit(Path(out), config(preset) | about, writers)
    return whole.rows


def config(preset: Preset) -> dict[str, Any]:
    """What config.json says of the schema and the preset, as JSON would give it back."""
    arch, recipe, _ = preset
    parts = {"schema": SCHEMA, "architecture": dataclasses.asdict(arch), "recipe": dataclasses.asdict(recipe)}
    return json.loads(json.dumps(parts))


def _csv(rows: Table) -> str:
    lines = zip(*(column.tolist() for column in rows.values()), strict=True)
    return "".join(",".join(map(str, line)) + "\n" for line in [rows, *lines])


def _named_params(trained: Trained) -> dict[str, np.ndarray]:
    (arch, _, runs), params, named = trained.group, trained.params, {}
    for n in np.unique(runs.n).tolist():
        own = models.unpad(jax.tree.map(lambda leaf, own=runs.n == n: leaf[own], params), n)
        named |= {_prefix(arch.layers, n) + name: leaf for name, leaf in _leaves(own).items()}
    return named


def _prefix(layers: int, n: int) -> str:
    return f"layers={layers}/n={n}/"


def _leaves(params: Params) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def read_config(out: Path) -> Config:
    """config.json; Damaged where it has another schema or says of the training what cannot be."""
    schema = files.read_config(out, _Schema).schema
    if schema != SCHEMA:
        raise Damaged(f"{out / files.CONFIG}: schema {SCHEMA} is expected (saved: {schema})")
    config = files.read_config(out, Config)
    if config.recipe.steps < 1:
        raise Damaged(f"{out / files.CONFIG}: damaged, {config.recipe.steps} steps")
    return config


class _Schema(msgspec.Struct):
    schema: int


def load(out: Folder) -> Contents:
    """All that the folder holds; Damaged where its files do not fit together."""
    rows, curves, arch = load_table(out), load_curves(out), read_config(Path(out)).architecture
    kinds, counts = np.unique(np.stack([rows["layers"], rows["n"]], 1), axis=0, return_counts=True)
    with files.checked(Path(out), "params.npz") as path, np.load(path, allow_pickle=False) as file:
        params, like = dict(file), {}
        for (layers, n), count in zip(kinds.tolist(), counts.tolist(), strict=True):
            like |= _like_params(arch, layers, n, count)
        files.check_arrays(params, like)
        return Contents(rows, curves, params)


def load_table(out: Folder) -> Table:
    """results.csv as columns; numbers are float64 or int64, `status` is text."""
    with files.checked(Path(out), "results.csv") as path, path.open(newline="", encoding="ascii") as file:
        header, *lines = csv.reader(file)
        if odd := set(header) ^ set(COLUMNS):
            raise ValueError(f"column {min(odd)} is {'missing' if min(odd) in COLUMNS else 'unknown'}")
        if not lines:
            raise ValueError("it has no rows")
        columns = dict(zip(header, zip(*lines, strict=True), strict=True))
        rows = {name: _column(name, columns[name]) for name in COLUMNS}
        keys = list(zip(*(rows[name].tolist() for name in KEYS), strict=True))
        if any(one >= other for one, other in pairwise(keys)):
            raise ValueError(f"its rows are not in the order of {', '.join(KEYS)}, or not all different")
        return rows


def load_curves(out: Folder) -> dict[str, np.ndarray]:
    """step [T], and sampled loss, recon and kl [R, T] in nats."""
    count, recipe = load_table(out)["n"].size, read_config(Path(out)).recipe
    with files.checked(Path(out), "curves.npz") as path, np.load(path, allow_pickle=False) as file:
        curves, steps = dict(file), block_ends(recipe.steps)
        curve = jax.ShapeDtypeStruct((count, steps.size), np.float32)
        files.check_arrays(curves, {"step": steps, **dict.fromkeys(CURVES, curve)})
        if np.any(curves["step"] != steps):
            raise ValueError(f"step is not that of {recipe.steps} steps")
        return curves


def _column(name: str, texts: tuple[str, ...]) -> np.ndarray:
    """One column of the table; ValueError where something in it cannot be."""
    if name == "status":
        column, good = np.array(texts), np.isin(texts, STATUS)
    elif name in WHOLE:
        column = np.array([int(text) for text in texts])
        good = (column >= WHOLE[name][0]) & (column <= WHOLE[name][1])
    else:
        column = np.array([float(text) for text in texts])
        good = (column > 0.0) & np.isfinite(column) if name in POSITIVE else np.ones(column.size, bool)
    if not good.all():
        raise ValueError(f"{name} {texts[np.argmin(good)]} cannot be")
    return column


@settings.fixed()
def load_run(out: Folder, layers: int, n: int, **keys: float) -> SavedRun:
    """The first run of the given depth and n; `seed`, `beta` and `learning_rate` narrow the choice.

    Raises KeyError where the folder holds no such run.
    """
    rows = load_table(out)
    alike = (rows["layers"] == layers) & (rows["n"] == n)
    wanted = np.logical_and.reduce([alike, *(rows[name] == value for name, value in keys.items())])
    if not wanted.any():
        raise KeyError(f"{out}: no run with layers={layers}, n={n}, {keys}")
    index = int(np.flatnonzero(wanted)[0])
    arch = read_config(Path(out)).architecture
    params = _read_params(Path(out), arch, layers, n, alike.sum())
    row = {name: column[index].item() for name, column in rows.items()}
    arch = dataclasses.replace(arch, layers=layers, width=n)
    return SavedRun(row, arch, jax.tree.map(lambda leaf: jnp.asarray(leaf[np.sum(alike[:index])]), params))


def _read_params(out: Path, arch: Architecture, layers: int, n: int, count: int) -> Params:
    """Parameters of all runs of one depth and n."""
    with files.checked(out, "params.npz") as path, np.load(path, allow_pickle=False) as file:
        like = _like_params(arch, layers, n, count)
        arrays = {name: file[name] for name in like.keys() & set(file.files)}
        files.check_arrays(arrays, like)
        structure = jax.tree.structure(_shapes(dataclasses.replace(arch, layers=layers)))
        return jax.tree.unflatten(structure, [arrays[name] for name in like])


def _like_params(arch: Architecture, layers: int, n: int, count: int) -> dict[str, np.ndarray]:
    """Names, shapes and types of the parameters of runs of one depth and n, in arrays that take no memory."""
    one = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), (count, *leaf.shape)),
        _shapes(dataclasses.replace(arch, layers=layers, width=n)),
    )
    return {_prefix(layers, n) + name: leaf for name, leaf in _leaves(one).items()}


_shapes = cache(models.shapes)
