"""A folder's files: replaced together or not at all, and checked when they are read.

`config.json` holds the SHA-256 of every other file. New files are written under temporary names, then config.json is
renamed into place, then they are. A kill before its rename leaves the old files valid, one after it leaves files that
`settle` knows by their digests and finishes renaming. The folder is synced between those steps, so that a loss of
power cannot undo an earlier one and keep a later one.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec

CONFIG = "config.json"
UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # what says that a folder cannot be synced, not that it failed
Writers = dict[str, Callable[[IO[bytes]], Any]]
Name = Annotated[str, msgspec.Meta(pattern=r"^[^/\\]+$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Form = TypeVar("Form")


class Damaged(ValueError):
    """A file is missing, cut short, altered or not the folder's own; the message names it."""


class Digests(msgspec.Struct, kw_only=True):
    """What config.json says of the other files."""

    files: dict[Name, Sha256] = msgspec.field(default_factory=dict)


def make_folder(path: Path) -> None:
    """Makes a folder that lasts, and those above it, where they are missing."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _sync(folder.parent)


def write(path: Path, write_to: Callable[[IO[bytes]], Any]) -> None:
    """Writes under a temporary name first, so that `path` is never half a file; OSError names the path."""
    _write_partial(path, write_to)
    os.replace(_partial(path), path)
    _sync(path.parent)


def commit(out: Path, config: dict[str, Any], writers: Writers) -> None:
    """Replaces all files of `writers`, and config.json with their digests in it, or none of them."""
    for name, write_to in writers.items():
        _write_partial(out / name, write_to)
    _sync(out)
    digests = {name: digest(_partial(out / name)) for name in writers}
    write_config(out, config | {"files": digests})
    settle(out)


def write_config(out: Path, config: dict[str, Any]) -> None:
    """Replaces config.json."""
    write(out / CONFIG, lambda file: file.write(json.dumps(config, indent=2).encode()))


def read_config(out: Path, form: type[Form] = dict[str, Any]) -> Form:
    """config.json as a value of the given form; Damaged, saying where, if it has another."""
    with naming(out / CONFIG) as path:
        return msgspec.json.decode(path.read_bytes(), type=form)


def settle(out: Path) -> dict[str, str]:
    """Finishes a commit that was cut short; the digests of the files there are to be."""
    digests, renamed = read_config(out, Digests).files, False
    for name, wanted in digests.items():
        with naming(out / name) as path, contextlib.suppress(FileNotFoundError):
            if digest(_partial(path)) == wanted:
                os.replace(_partial(path), path)
                renamed = True
    if renamed:
        _sync(out)
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
    except Damaged:
        raise
    except FileNotFoundError as error:
        raise Damaged(f"{path}: {error.strerror}") from error
    except Exception as error:  # parsers of damaged files raise all sorts
        reason = error.strerror if isinstance(error, OSError) else error
        raise Damaged(f"{path}: damaged, {reason}") from error


def check_arrays(arrays: Mapping[str, Any], like: Mapping[str, Any]) -> None:
    """ValueError unless the arrays have the names, shapes and dtypes of `like`."""
    if odd := arrays.keys() ^ like.keys():
        raise ValueError(f"{'it lacks' if min(odd) in like else 'it holds an unknown'} {min(odd)}")
    for name, wanted in like.items():
        found = arrays[name]
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            expected = f"expected {wanted.dtype} {list(wanted.shape)}"
            raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, {expected}")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partials(out: Path) -> None:
    """Removes what a writer that was killed left under temporary names; to be called after `settle`."""
    for partial in out.glob("*.partial"):
        if not partial.is_dir():
            partial.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _write_partial(path: Path, write_to: Callable[[IO[bytes]], Any]) -> None:
    partial = _partial(path)
    try:
        with partial.open("w+b") as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _sync(folder: Path) -> None:
    """Makes the names in a folder outlast a loss of power, where its file system can."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise OSError(error.errno, error.strerror, str(folder)) from error
