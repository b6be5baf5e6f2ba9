"""The folder of a sweep: who may write into it, what was asked of it, and which runs it still lacks."""

import contextlib
import dataclasses
import datetime
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.options import BadInput
from vae_bit import files, results, sweep
from vae_bit.presets import Preset
from vae_bit.programs import Group
from vae_bit.results import KEYS, Table

LOCK = "lock"
CHECKPOINTS = "checkpoints"
BEGINNINGS = {LOCK, f"{files.CONFIG}.partial"}  # all that a sweep killed at its start leaves
FIXED = ("preset", "layers", "beta", "learning_rate", "first_seed", "chunk")  # settings that a resumed sweep shares
Stage = dict[str, Any]  # n and seeds of the grid that a sweep began with, or was extended to


@contextlib.contextmanager
def opened(given: str | None, resume: bool) -> Iterator[Path]:
    """The folder of `--out`, or a new one, which no other sweep may use meanwhile; BadInput where it cannot serve."""
    out = Path(given or f"runs/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}")
    try:
        _refuse(out, resume)
        out.mkdir(parents=True, exist_ok=True)
        lock = _lock(out / LOCK)
    except BlockingIOError as error:
        raise BadInput(f"--out={out}: another sweep is writing there; expected a folder of its own") from error
    except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"--out={out}: {reason}; expected a folder that can be written") from error
    with open(lock):
        try:
            _refuse(out, resume)
            _clean(out)
            yield out
        finally:
            with contextlib.suppress(OSError):
                (out / LOCK).unlink()


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
    if resume and not config:
        raise BadInput(f"--out={out}: holds no {files.CONFIG}; expected the folder of a sweep to resume")
    for path in [*out.glob("*"), *out.glob(f"{CHECKPOINTS}/**/*")]:
        if path.is_symlink() and not path.resolve().is_relative_to(out.resolve()):
            raise BadInput(f"--out={out}: {path} is a link out of the folder; expected none")


def _lock(path: Path) -> int:
    """Locks the file for as long as the process lives; BlockingIOError where another one has it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        os.close(lock)  # its owner has removed it meanwhile


def _clean(out: Path) -> None:
    """Finishes or removes what was being written when a sweep was killed."""
    if (out / files.CONFIG).exists():
        files.settle(out)
    files.remove_partials(out)


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
    return lines + [_line("schema", now["schema"], saved["schema"])] * (now["schema"] != saved["schema"])


def _line(name: str, now: Any, saved: Any) -> str:
    now, saved = (",".join(map(str, value)) if isinstance(value, list) else value for value in (now, saved))
    return f"{name} {now} (saved: {saved})"


def stages(settings: dict[str, Any], earlier: Sequence[Stage]) -> list[Stage]:
    """The earlier stages, and one more where the settings ask for runs that they lack."""
    now = {name: settings[name] for name in ("n", "seeds")}
    return [*earlier, *([] if now in earlier else [now])]


def lacking(preset: Preset, settings: dict[str, Any], stages: Sequence[Stage], rows: Table | None) -> list[Group]:
    """The runs that are not in the table, in groups for each stage, so that those that a stage began with stay."""
    done = set() if rows is None else set(zip(*(rows[name].tolist() for name in KEYS), strict=True))
    groups = []
    for stage in stages:
        seeds = range(settings["first_seed"], settings["first_seed"] + stage["seeds"])
        beta, rates = settings["beta"], settings["learning_rate"]
        for group in sweep.plan(preset, settings["layers"], stage["n"], beta, rates, seeds):
            keys = _keys(group)
            new = np.array([key not in done for key in keys])
            done.update(keys)
            if new.any():
                runs = jax.tree.map(lambda field, new=new: field[new], group.runs)
                arch = dataclasses.replace(group.arch, width=int(runs.n.max()))
                groups.append(group._replace(runs=runs, arch=arch))
    return sorted(groups, key=lambda group: group.arch.layers)


def _keys(group: Group) -> list[tuple]:
    runs = group.runs
    columns = [field.tolist() for field in (runs.n, runs.beta, runs.learning_rate, runs.seed)]
    return [(group.arch.layers, *key) for key in zip(*columns, strict=True)]


def load_results(out: Path) -> results.Contents | None:
    """What the folder holds of finished runs."""
    written = "results.csv" in files.read_config(out).get("files", {}) if (out / files.CONFIG).exists() else False
    return results.load(out) if written or (out / "results.csv").exists() else None
