"""What was asked of a sweep, as its config.json says, and which of its runs are still to be trained."""

import importlib.metadata
import re
import warnings
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, TypedDict

import jax
import msgspec
import numpy as np

from vae_bit import sweep
from vae_bit.models import Build
from vae_bit.presets import Preset
from vae_bit.programs import Group, Labels
from vae_bit.store import files, results, table
from vae_bit.store.describe import PACKAGES
from vae_bit.store.results import Variants
from vae_bit.store.table import LABELS, Table

# Settings that a resumed sweep shares:
FIXED = ("layers", "beta", "word_dropout", "learning_rate", "first_seed", "chunk", "history")
Natural = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


class Stage(TypedDict):
    """n and seeds of the grid that a sweep began with, or was extended to."""

    n: list[Natural]
    seeds: Natural


class Origin(results.Config, kw_only=True):
    """config.json, as far as it says how the results were made."""

    argv: Annotated[list[str], msgspec.Meta(min_length=1)]
    versions: dict[str, str]


class Account(Origin, kw_only=True):
    """config.json as a sweep writes it: `settings` is the grid, `flags` what a command line gave, if one did."""

    settings: dict[str, Any]
    flags: dict[str, Any] | None = None
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1)]
    devices: list[str]


def origin(argv: Sequence[str]) -> dict[str, Any]:
    """How results are made from here on: by which command line, with which versions, on which devices."""
    return {
        "argv": [*argv],
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [f"{device.device_kind} {device.id}" for device in jax.devices()],
    }


def read_account(out: Path) -> dict[str, Any]:
    """config.json of a sweep; Damaged where it is none, or where its stages do not lead to its settings."""
    results.read_config(out)
    files.read_config(out, Account)
    config = files.read_config(out)
    with files.naming(out / files.CONFIG):
        if odd := config["settings"].keys() ^ {"n", "seeds", *FIXED}:
            raise ValueError(f"settings: {min(odd)} is {'unknown' if min(odd) in config['settings'] else 'missing'}")
        steps = config["stages"]
        if odd := [step for step in steps if step["n"] != sorted(set(step["n"]))]:
            raise ValueError(f"stages: n of {odd[0]} is not ascending")
        for one, next in pairwise(steps):
            if not (set(one["n"]) <= set(next["n"]) and one["seeds"] <= next["seeds"]):
                raise ValueError(f"stages: {next} lacks runs of {one}")
        if any(steps[-1][name] != config["settings"].get(name) for name in ("n", "seeds")):
            raise ValueError(f"stages: the last, {steps[-1]}, is not what the settings ask for")
    return config


def continued(out: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a sweep that goes on in the folder: ValueError where it is not the one that began there.

    UserWarning where packages or devices are other ones now.
    """
    saved = read_account(out)
    with files.naming(out / files.CONFIG):
        lines = differences(saved, config)
        now = stages(config["settings"], saved["stages"])
        changed = [name for name in ("versions", "devices") if saved[name] != config[name]]
    if lines:
        expected = "expected the saved values, or more seeds and n"
        raise ValueError(f"resume: {out / files.CONFIG} differs: {'; '.join(lines)}; {expected}")
    for name in changed:
        warnings.warn(f"{name} have changed since the sweep began: equal bits are not to be expected", stacklevel=2)
    argv = saved["argv"] if now == saved["stages"] else config["argv"]
    if "flags" in saved and "flags" not in config:  # a command's folder stays one
        config = config | {"flags": saved["flags"] | {name: config["settings"][name] for name in ("n", "seeds")}}
    return config | {"files": saved.get("files", {}), "argv": argv, "stages": now}


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a sweep of config `now` would do otherwise than `saved`, other than more n and more seeds."""
    old, new = saved["settings"], now["settings"]
    lines = [_line(name, new[name], old[name]) for name in FIXED if new[name] != old[name]]
    if not set(new["n"]) >= set(old["n"]):
        lines.append(_line("n", new["n"], old["n"]))
    if new["seeds"] < old["seeds"]:
        lines.append(_line("seeds", new["seeds"], old["seeds"]))
    variants = now["variants"], saved["variants"]
    if max(map(len, variants)) > 1 and (labels := _label_lines(*variants)):
        return lines + labels  # what else differs between so many would fill a page
    one, other = map(flattened, variants)
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return lines + [_line(re.sub(r"(model|recipe)\.", "", name), one.get(name), other.get(name)) for name in names]


def _label_lines(now: list[dict[str, Any]], saved: list[dict[str, Any]]) -> list[str]:
    """A line for each kind of label of which there are other ones now."""
    kinds = {name: [list(dict.fromkeys(v[name] for v in some)) for some in (now, saved)] for name in LABELS}
    return [_line(name, one, other) for name, (one, other) in kinds.items() if sorted(one) != sorted(other)]


def flattened(variants: list[dict[str, Any]]) -> dict[str, Any]:
    """The leaves of the variants' descriptions by dotted names, such as `recipe.samples`, the labels before them."""
    leaves: dict[str, Any] = {}

    def visit(name: str, value: Any) -> None:
        for key, part in value.items() if isinstance(value, dict) else ():
            visit(f"{name}.{key}", part)
        if not isinstance(value, dict):
            leaves[name] = value

    for variant in variants:
        before = " ".join(variant[name] for name in LABELS) + " " if len(variants) > 1 else ""
        for name, part in variant.items():
            visit(before + name, part)
    return leaves


def _line(name: str, now: Any, saved: Any) -> str:
    return f"{name} {_shown(now)} (saved: {_shown(saved)})"


def _shown(value: Any) -> Any:
    """Lists as on a command line, and what is built in without its module."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return re.sub(r"^(vae_bit|jax)[\w.]*\.(?=\w)", "", value) if isinstance(value, str) else value


def stages(settings: dict[str, Any], earlier: Sequence[Stage]) -> list[Stage]:
    """The earlier stages, and one more where the settings ask for runs that they lack."""
    now = Stage(n=settings["n"], seeds=settings["seeds"])
    return [*earlier, *([] if now in earlier else [now])]


def lacking(variants: Variants, settings: dict[str, Any], stages: Sequence[Stage], rows: Table | None) -> list[Group]:
    """The runs that are not in the table, in groups for each stage, so that those that a stage began with stay.

    ValueError where the table holds others than the stages have.
    """
    done = set() if rows is None else set(table.keys(rows))
    groups, strange = [], set(done)
    for stage, (labels, preset) in product(stages, variants.items()):
        for group in _planned(labels, preset, settings, stage):
            keys = _keys(group)
            new = np.array([key not in done for key in keys])
            done.update(keys)
            strange.difference_update(keys)
            if new.any():
                runs = jax.tree.map(lambda field, new=new: field[new], group.runs)
                groups.append(group._replace(runs=runs, width=int(runs.n.max())))
    if strange:
        raise ValueError(f"{dict(zip(table.KEYS, min(strange), strict=True))} is none of the runs in {files.CONFIG}")
    return sorted(groups, key=lambda group: group.layers)


def _planned(labels: Labels, preset: Preset, settings: dict[str, Any], stage: Stage) -> list[Group]:
    seeds = range(settings["first_seed"], settings["first_seed"] + stage["seeds"])
    rates = settings["learning_rate"] or [preset.learning_rate]
    axes = settings["layers"], stage["n"], settings["beta"], settings["word_dropout"], rates, seeds
    return sweep.plan(preset, *axes, labels, settings["history"])


def _keys(group: Group) -> list[tuple]:
    runs = group.runs
    columns = [field.tolist() for field in (runs.n, runs.beta, runs.word_dropout, runs.learning_rate, runs.seed)]
    return [(*group.labels, group.layers, *key) for key in zip(*columns, strict=True)]


def load_results(out: Path, own: Sequence[Build] = ()) -> results.Contents | None:
    """What the folder holds of finished runs; `own` as in `results.builds`."""
    digests = files.read_config(out, files.Digests).files if (out / files.CONFIG).exists() else {}
    return results.load(out, own) if "results.csv" in digests or (out / "results.csv").exists() else None
