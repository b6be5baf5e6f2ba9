"""A folder's files: replaced together or not at all, and checked when they are read.

`config.json` holds the SHA-256 of every other file. New files are written under temporary names, then config.json is
renamed into place, then they are. A kill before its rename leaves the old files valid, one after it leaves files that
`settle` knows by their digests and finishes renaming.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

CONFIG = "config.json"
Writers = dict[str, Callable[[IO[bytes]], Any]]


class Damaged(ValueError):
    """A file is missing, cut short, altered or not the folder's own; the message names it."""


def write(path: Path, write_to: Callable[[IO[bytes]], Any]) -> None:
    """Writes under a temporary name first, so that `path` is never half a file; OSError names the path."""
    _write_partial(path, write_to)
    os.replace(_partial(path), path)


def commit(out: Path, config: dict[str, Any], writers: Writers) -> None:
    """Replaces all files of `writers`, and config.json with their digests in it, or none of them."""
    for name, write_to in writers.items():
        _write_partial(out / name, write_to)
    digests = {name: digest(_partial(out / name)) for name in writers}
    write_config(out, config | {"files": digests})
    settle(out)


def write_config(out: Path, config: dict[str, Any]) -> None:
    """Replaces config.json."""
    write(out / CONFIG, lambda file: file.write(json.dumps(config, indent=2).encode()))


def read_config(out: Path) -> dict[str, Any]:
    """config.json; Damaged where it is not a JSON object."""
    with naming(out / CONFIG) as path:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("files", {}), dict):
            raise ValueError("not an object")
    return config


def settle(out: Path) -> dict[str, str]:
    """Finishes a commit that was cut short; the digests of the files there are to be."""
    digests = read_config(out).get("files", {})
    for path in (out / Path(name).name for name in digests):
        with naming(path), contextlib.suppress(FileNotFoundError):
            if digest(_partial(path)) == digests[path.name]:
                os.replace(_partial(path), path)
    return digests


@contextlib.contextmanager
def checked(out: Path, name: str) -> Iterator[Path]:
    """The path of a file that is as it was written; whatever fails while it is read is told as Damaged."""
    wanted = settle(out).get(name) if (out / CONFIG).exists() else None
    with naming(out / name) as path:
        if wanted and digest(path) != wanted:
            raise ValueError(f"its SHA-256 is not the one in {CONFIG}")
        yield path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[Path]:
    """Turns whatever goes wrong in reading `path` into Damaged, which names it; so does a link out of its folder."""
    try:
        if not path.resolve().is_relative_to(path.parent.resolve()):
            raise ValueError("a link out of its folder")
        yield path
    except FileNotFoundError as error:
        raise Damaged(f"{path}: {error.strerror}") from error
    except Exception as error:  # parsers of damaged files raise all sorts
        reason = error.strerror if isinstance(error, OSError) else error
        raise Damaged(f"{path}: damaged, {reason}") from error


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all names and files below a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    inside = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("\n".join(f"{name} {digest(path / name)}" for name in inside).encode()).hexdigest()


def remove_partials(out: Path) -> None:
    """Removes what a writer that was killed left under temporary names; to be called after `settle`."""
    for partial in out.glob("*.partial"):
        partial.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _write_partial(path: Path, write_to: Callable[[IO[bytes]], Any]) -> None:
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
