"""A sweep's files in one folder: `results.csv`, `curves.npz`, `params.npz` and `config.json`. No pickle anywhere.

A table is a dict of columns, one row for each run, ordered by layers, n, beta, learning_rate, seed; so are the curves
[R, T]. Parameters of all runs of one depth and n are stacked under names such as `layers=2/n=5/q/0/params/head/kernel`.
"""

import csv
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_bit import limits, models
from vae_bit.models import Architecture, Params
from vae_bit.presets import Preset
from vae_bit.sweep import Trained, block_ends
from vae_bit.training import Metrics

Table = dict[str, np.ndarray]

SCHEMA = 1
KEYS = ("layers", "n", "beta", "learning_rate", "seed")
EXACT = ("nll", "posterior_kl", "mutual_information", "marginal_kl", "valid_mass")
COLLAPSED = 0.01  # nats of mutual information at the top layer


class SavedRun(NamedTuple):
    """A run read back: its row of the table, its architecture (width = n) and its parameters."""

    row: dict[str, Any]
    arch: Architecture
    params: Params


def table(trained: list[Trained]) -> Table:
    """Keys, status and exact figures (nats) of every run."""
    parts = [_columns(group) for group in trained]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _columns(trained: Trained) -> Table:
    arch, _, _ = trained.group
    runs, figures = jax.tree.map(np.asarray, (trained.group.runs, trained.evaluation))
    limit = limits.limit(arch.layers, runs.n, runs.beta)
    return {
        "layers": np.full(runs.n.shape, arch.layers),
        "n": runs.n,
        "beta": runs.beta,
        "learning_rate": runs.learning_rate,
        "seed": runs.seed,
        "status": status(runs.n, runs.beta, figures.loss, figures.mutual_information),
        "steps": trained.steps,
        "loss": figures.loss,
        "recon": figures.recon,
        "recon_per_dim": figures.recon / runs.n,
        "kl": figures.kl.sum(1),
        "limit": limit,
        "gap": figures.loss - limit,
    } | {name: getattr(figures, name) for name in EXACT}


def status(n: np.ndarray, beta: np.ndarray, loss: np.ndarray, mutual_information: np.ndarray) -> np.ndarray:
    """`diverged`: the loss is not finite; `collapsed`: n > beta, so that a code pays, yet z_L holds none; else `ok`."""
    collapsed = (n > beta) & (mutual_information < COLLAPSED)
    return np.where(~np.isfinite(loss), "diverged", np.where(collapsed, "collapsed", "ok"))


def write(out: Path, preset: Preset, trained: list[Trained], about: dict[str, Any]) -> Table:
    """Writes the four files into the folder `out` and returns the table; `about` goes into config.json."""
    rows, (arch, recipe, _) = table(trained), preset
    curves: Metrics = jax.tree.map(lambda *parts: np.concatenate(parts), *(group.curves for group in trained))
    config = {"schema": SCHEMA, "architecture": dataclasses.asdict(arch), "recipe": dataclasses.asdict(recipe)}
    _replace(
        out / "curves.npz",
        lambda file: np.savez(file, allow_pickle=False, step=block_ends(recipe.steps), **curves._asdict()),
    )
    _replace(out / "params.npz", lambda file: np.savez(file, allow_pickle=False, **_named_params(trained)))
    _replace(out / "config.json", lambda file: file.write(json.dumps(config | about, indent=2).encode()))
    _replace(out / "results.csv", lambda file: file.write(_csv(rows).encode()))
    return rows


def _replace(path: Path, write_to: Callable[[IO[bytes]], Any]) -> None:
    """Writes under a temporary name first, so that `path` is never half a file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        write_to(file)
    os.replace(partial, path)


def _csv(rows: Table) -> str:
    lines = zip(*(column.tolist() for column in rows.values()), strict=True)
    return "".join(",".join(map(str, line)) + "\n" for line in [rows, *lines])


def _named_params(trained: list[Trained]) -> dict[str, np.ndarray]:
    named = {}
    for (arch, _, runs), _, _, params, _ in trained:
        for n in np.unique(runs.n).tolist():
            own = models.unpad(jax.tree.map(lambda leaf, own=runs.n == n: leaf[own], params), n)
            named |= {_prefix(arch.layers, n) + name: leaf for name, leaf in _leaves(own).items()}
    return named


def _prefix(layers: int, n: int) -> str:
    return f"layers={layers}/n={n}/"


def _leaves(params: Params) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def load_table(out: Path) -> Table:
    """results.csv as columns; numbers are float64 or int64, `status` is text."""
    with (out / "results.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    columns = zip(*lines, strict=True)
    return {name: _parse(name, column) for name, column in zip(header, columns, strict=True)}


def load_curves(out: Path) -> dict[str, np.ndarray]:
    """step [T], and sampled loss, recon and kl [R, T] in nats."""
    with np.load(out / "curves.npz", allow_pickle=False) as file:
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
    config = json.loads((out / "config.json").read_text())
    fields: dict[str, Any] = _tuples(config["architecture"]) | {"layers": layers, "width": n}
    arch = Architecture(**fields)
    params = _read_params(out, arch, index - int(np.flatnonzero(alike)[0]))
    return SavedRun({name: column[index].item() for name, column in rows.items()}, arch, params)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _read_params(out: Path, arch: Architecture, index: int) -> Params:
    shapes = models.shapes(arch)
    with np.load(out / "params.npz", allow_pickle=False) as file:
        leaves = [jnp.asarray(file[_prefix(arch.layers, arch.width) + name][index]) for name in _leaves(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
