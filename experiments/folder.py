"""The folder of a sweep: who may write into it, what was asked of it, and which runs it still lacks."""

import contextlib
import dataclasses
import datetime
import errno
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypedDict

import filelock
import jax
import msgspec
import numpy as np

from experiments.cli import BadInput
from vae_bit import sweep
from vae_bit.presets import Preset
from vae_bit.programs import Group
from vae_bit.store import files, results
from vae_bit.store.results import KEYS, Table

LOCK, MARKER = "lock", "lock.held"  # the second where the file system has no locks: that it is there is the lock
CHECKPOINTS = "checkpoints"
BEGINNINGS = {LOCK, MARKER, f"{files.CONFIG}.partial"}  # all that a sweep killed at its start leaves
FIXED = ("preset", "layers", "beta", "learning_rate", "first_seed", "chunk")  # settings that a resumed sweep shares
LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # what a file system without locks answers
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


def new() -> Path:
    """A folder for the results where none is given."""
    return Path(f"runs/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}")


def begun(out: Path) -> bool:
    """Whether a sweep has begun in the folder, or something is left of one."""
    with _telling(out):
        return any((out / name).exists() for name in (files.CONFIG, "results.csv"))


@contextlib.contextmanager
def opened(out: Path, resume: bool) -> Iterator[None]:
    """The folder, which no other sweep may use meanwhile; BadInput where it cannot serve."""
    with _telling(out):
        _refuse(out, resume)
        files.make_folder(out)
        lock = _lock(out / LOCK)
    try:
        with _telling(out):
            _refuse(out, resume)
            _clean(out)
        yield
    finally:
        with contextlib.suppress(OSError):
            (out / LOCK).unlink()  # while it is held: whoever has opened it sees that it has gone, and makes another
        lock.release()


@contextlib.contextmanager
def _telling(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"--out={out}: {reason}; expected a folder that can be written") from error


def _lock(path: Path) -> filelock.BaseFileLock:
    """Locks the file for as long as the process lives, or does so by another file's being there, with a notice."""
    try:
        return _acquired(filelock.FileLock(path, fallback_to_soft=False), path.parent)
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise OSError(error.errno, f"its file {LOCK}: {error.strerror}") from error
        marker = path.with_name(MARKER)
        notice = f"{marker} keeps other sweeps out; if its machine dies, remove it"
        warnings.warn(f"{path}: {error.strerror}: {notice}", stacklevel=2)
        return _acquired(filelock.SoftFileLock(marker), path.parent)


def _acquired(lock: filelock.BaseFileLock, out: Path) -> filelock.BaseFileLock:
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise BadInput(f"--out={out}: another sweep is writing there; expected a folder of its own") from error
    return lock


def _refuse(out: Path, resume: bool) -> None:
    """BadInput where the folder is not what was meant, or the sweep would write out of it."""
    if not str(out.absolute()).isascii() and sys.getfilesystemencoding() != "utf-8":
        raise BadInput(f"--out={out}: this locale cannot spell it; expected ASCII, or PYTHONUTF8=1 to be set")
    config, table = ((out / name).exists() for name in (files.CONFIG, "results.csv"))
    if (config or table) and not resume:
        held = "results" if table else "an unfinished sweep"
        raise BadInput(f"--out={out}: holds {held} already; expected a new or empty folder, or --resume to go on")
    if not resume and out.is_dir() and (others := {path.name for path in out.iterdir()} - BEGINNINGS):
        raise BadInput(f"--out={out}: holds {min(others)}; expected a new or empty folder")
    if (out / CHECKPOINTS).exists() and not (out / CHECKPOINTS).is_dir():
        raise BadInput(f"--out={out}: {CHECKPOINTS} in it is no folder; expected it to be removed")
    if resume and not config:
        raise BadInput(f"--out={out}: holds no {files.CONFIG}; expected the folder of a sweep to resume")
    for path in [*out.glob("*"), *out.glob(f"{CHECKPOINTS}/**/*")]:
        if path.is_symlink() and not path.resolve().is_relative_to(out.resolve()):
            raise BadInput(f"--out={out}: {path} is a link out of the folder; expected none")


def _clean(out: Path) -> None:
    """Finishes or removes what was being written when a sweep was killed."""
    if (out / files.CONFIG).exists():
        files.settle(out)
    files.remove_partials(out)


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
