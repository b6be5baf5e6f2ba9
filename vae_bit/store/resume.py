"""What was asked of a sweep, as its config.json says, and which of its runs are still to be trained."""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict

import jax
import msgspec
import numpy as np

from vae_bit import sweep
from vae_bit.presets import Preset
from vae_bit.programs import Group
from vae_bit.store import files, results
from vae_bit.store.results import KEYS, Table

FIXED = ("preset", "layers", "beta", "learning_rate", "first_seed", "chunk")  # settings that a resumed sweep shares
PACKAGES = ("vae_bit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
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
    """config.json as a sweep writes it; the values of `settings` are those of the flags."""

    settings: dict[str, Any]
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
        steps = config["stages"]
        if odd := [step for step in steps if step["n"] != sorted(set(step["n"]))]:
            raise ValueError(f"stages: n of {odd[0]} is not ascending")
        for one, next in pairwise(steps):
            if not (set(one["n"]) <= set(next["n"]) and one["seeds"] <= next["seeds"]):
                raise ValueError(f"stages: {next} lacks runs of {one}")
        if any(steps[-1][name] != config["settings"].get(name) for name in ("n", "seeds")):
            raise ValueError(f"stages: the last, {steps[-1]}, is not what the settings ask for")
    return config


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a sweep of config `now` would do otherwise than `saved`, other than more n and more seeds."""
    old, new = saved["settings"], now["settings"]
    lines = [_line(name, new[name], old[name]) for name in FIXED if new[name] != old[name]]
    if not set(new["n"]) >= set(old["n"]):
        lines.append(_line("n", new["n"], old["n"]))
    if new["seeds"] < old["seeds"]:
        lines.append(_line("seeds", new["seeds"], old["seeds"]))
    for part in ("recipe", "architecture"):
        names = saved[part].keys() | now[part].keys()
        pairs = [(name, now[part].get(name), saved[part].get(name)) for name in sorted(names)]
        lines += [_line(name, *values) for name, *values in pairs if values[0] != values[1]]
    return lines


def _line(name: str, now: Any, saved: Any) -> str:
    now, saved = (",".join(map(str, value)) if isinstance(value, list) else value for value in (now, saved))
    return f"{name} {now} (saved: {saved})"


def stages(settings: dict[str, Any], earlier: Sequence[Stage]) -> list[Stage]:
    """The earlier stages, and one more where the settings ask for runs that they lack."""
    now = Stage(n=settings["n"], seeds=settings["seeds"])
    return [*earlier, *([] if now in earlier else [now])]


def lacking(preset: Preset, settings: dict[str, Any], stages: Sequence[Stage], rows: Table | None) -> list[Group]:
    """The runs that are not in the table, in groups for each stage, so that those that a stage began with stay.

    ValueError where the table holds others than the stages have.
    """
    done = set() if rows is None else set(zip(*(rows[name].tolist() for name in KEYS), strict=True))
    groups, strange = [], set(done)
    for stage in stages:
        seeds = range(settings["first_seed"], settings["first_seed"] + stage["seeds"])
        beta, rates = settings["beta"], settings["learning_rate"]
        for group in sweep.plan(preset, settings["layers"], stage["n"], beta, rates, seeds):
            keys = _keys(group)
            new = np.array([key not in done for key in keys])
            done.update(keys)
            strange.difference_update(keys)
            if new.any():
                runs = jax.tree.map(lambda field, new=new: field[new], group.runs)
                arch = dataclasses.replace(group.arch, width=int(runs.n.max()))
                groups.append(group._replace(runs=runs, arch=arch))
    if strange:
        raise ValueError(f"{dict(zip(KEYS, min(strange), strict=True))} is none of the runs in {files.CONFIG}")
    return sorted(groups, key=lambda group: group.arch.layers)


def _keys(group: Group) -> list[tuple]:
    runs = group.runs
    columns = [field.tolist() for field in (runs.n, runs.beta, runs.learning_rate, runs.seed)]
    return [(group.arch.layers, *key) for key in zip(*columns, strict=True)]


def load_results(out: Path) -> results.Contents | None:
    """What the folder holds of finished runs."""
    digests = files.read_config(out, files.Digests).files if (out / files.CONFIG).exists() else {}
    return results.load(out) if "results.csv" in digests or (out / "results.csv").exists() else None
