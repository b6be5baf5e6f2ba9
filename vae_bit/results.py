"""A sweep's files in one folder: `results.csv`, `curves.npz`, `params.npz` and `config.json`. No pickle anywhere.

A table is a dict of columns, one row for each run, ordered by layers, n, beta, learning_rate, seed; so are the curves
[R, T]. Parameters of all runs of one depth and n are stacked under names such as `layers=2/n=5/q/0/params/head/kernel`.
A kernel is [W b]; the encoder's first W has one column, which multiplies sum_i x_i, or +-8 (`vae_bit.models.encode`).
Every loader raises Damaged, naming the file, where one is missing or not as it was written.
"""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_bit import files, limits, models
from vae_bit.exact import Evaluation
from vae_bit.models import Architecture, Params
from vae_bit.presets import Preset
from vae_bit.sweep import Trained, block_ends

Table = dict[str, np.ndarray]

SCHEMA = 3
KEYS = ("layers", "n", "beta", "learning_rate", "seed")
EXACT = ("nll", "posterior_kl", "mutual_information", "marginal_kl", "valid_mass", "error")
CURVES = ("loss", "recon", "kl")
COLLAPSED = 0.01  # nats of mutual information at the top layer


class Contents(NamedTuple):
    """All that is known of some runs: table, curves [R, T], parameters by name [runs of one depth and n, ...]."""

    rows: Table
    curves: dict[str, np.ndarray]
    params: dict[str, np.ndarray]


class SavedRun(NamedTuple):
    """A run read back: its row of the table, its architecture (width = n) and its parameters."""

    row: dict[str, Any]
    arch: Architecture
    params: Params


def _columns(trained: Trained) -> Table:
    arch, recipe, _ = trained.group
    runs, figures = jax.tree.map(np.asarray, (trained.group.runs, trained.evaluation))
    limit = limits.limit(arch.layers, runs.n, runs.beta)
    return {
        "layers": np.full(runs.n.shape, arch.layers),
        "n": runs.n,
        "beta": runs.beta,
        "learning_rate": runs.learning_rate,
        "seed": runs.seed,
        "status": status(runs.n, runs.beta, trained.steps == recipe.steps, figures),
        "steps": trained.steps,
        "loss": figures.loss,
        "recon": figures.recon,
        "recon_per_dim": figures.recon / runs.n,
        "kl": figures.kl.sum(1),
        "limit": limit,
        "gap": figures.loss - limit,
    } | {name: getattr(figures, name) for name in EXACT}


def status(n: np.ndarray, beta: np.ndarray, finished: np.ndarray, figures: Evaluation) -> np.ndarray:
    """`diverged`: stopped early or the loss is not finite; `collapsed`: n > beta, so that a code pays, yet z_L holds
    none; else `ok`."""
    collapsed = (n > beta) & (figures.mutual_information < COLLAPSED)
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
    out: Path, preset: Preset, trained: Sequence[Trained], about: dict[str, Any], earlier: Contents | None = None
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
    files.commit(out, config(preset) | about, writers)
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


def load(out: Path) -> Contents:
    """All that the folder holds; Damaged where its files do not fit together."""
    rows, curves = load_table(out), load_curves(out)
    with files.checked(out, "params.npz") as path, np.load(path, allow_pickle=False) as file:
        return Contents(rows, curves, dict(file))


def load_table(out: Path) -> Table:
    """results.csv as columns; numbers are float64 or int64, `status` is text."""
    with files.checked(out, "results.csv") as path, path.open(newline="", encoding="ascii") as file:
        header, *lines = csv.reader(file)
        columns = zip(*lines, strict=True)
        return {name: _parse(name, column) for name, column in zip(header, columns, strict=True)}


def load_curves(out: Path) -> dict[str, np.ndarray]:
    """step [T], and sampled loss, recon and kl [R, T] in nats."""
    with files.checked(out, "curves.npz") as path, np.load(path, allow_pickle=False) as file:
        return dict(file)


def _parse(name: str, column: tuple[str, ...]) -> np.ndarray:
    if name == "status":
        return np.array(column)
    return np.array(column, np.int64 if name in ("layers", "n", "seed", "steps") else np.float64)


def load_run(out: Path, layers: int, n: int, **keys: float) -> SavedRun:
    """The first run of the given depth and n; `seed`, `beta` and `learning_rate` narrow the choice.

    Raises KeyError where the folder holds no such run.
    """
    rows = load_table(out)
    alike = (rows["layers"] == layers) & (rows["n"] == n)
    wanted = np.logical_and.reduce([alike, *(rows[name] == value for name, value in keys.items())])
    if not wanted.any():
        raise KeyError(f"{out}: no run with layers={layers}, n={n}, {keys}")
    index = int(np.flatnonzero(wanted)[0])
    arch = _load_architecture(out, layers, n)
    params = _read_params(out, arch, index - int(np.flatnonzero(alike)[0]))
    return SavedRun({name: column[index].item() for name, column in rows.items()}, arch, params)


def _load_architecture(out: Path, layers: int, n: int) -> Architecture:
    config = files.read_config(out)
    with files.naming(out / files.CONFIG):
        fields: dict[str, Any] = config["architecture"] | {"layers": layers, "width": n}
        fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return Architecture(**fields)


def _read_params(out: Path, arch: Architecture, index: int) -> Params:
    shapes = models.shapes(arch)
    with files.checked(out, "params.npz") as path, np.load(path, allow_pickle=False) as file:
        leaves = [jnp.asarray(file[_prefix(arch.layers, arch.width) + name][index]) for name in _leaves(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
