"""The folder of a sweep: who may write into it. What is wrong with it is a ValueError of one line, `out=DIR: ...`."""

import contextlib
import datetime
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock

from vae_bit.store import files

LOCK, MARKER = "lock", "lock.held"  # the second where the file system has no locks: that it is there is the lock
CHECKPOINTS = "checkpoints"
BEGINNINGS = {LOCK, MARKER, f"{files.CONFIG}.partial"}  # all that a sweep killed at its start leaves
LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # what a file system without locks answers


def new() -> Path:
    """A folder for the results where none is given."""
    return Path(f"runs/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}")


def begun(out: Path) -> bool:
    """Whether a sweep has begun in the folder, or something is left of one."""
    with _telling(out):
        return any((out / name).exists() for name in (files.CONFIG, "results.csv"))


@contextlib.contextmanager
def opened(out: Path, resume: bool) -> Iterator[None]:
    """The folder, which no other sweep may use meanwhile; ValueError where it cannot serve."""
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
        raise ValueError(f"out={out}: {reason}; expected a folder that can be written") from error


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
        raise ValueError(f"out={out}: another sweep is writing there; expected a folder of its own") from error
    return lock


def _refuse(out: Path, resume: bool) -> None:
    """ValueError where the folder is not what was meant, or the sweep would write out of it."""
    if not str(out.absolute()).isascii() and sys.getfilesystemencoding() != "utf-8":
        raise ValueError(f"out={out}: this locale cannot spell it; expected ASCII, or PYTHONUTF8=1 to be set")
    config, table = ((out / name).exists() for name in (files.CONFIG, "results.csv"))
    if (config or table) and not resume:
        held = "results" if table else "an unfinished sweep"
        raise ValueError(f"out={out}: holds {held} already; expected a new or empty folder, or resume=True to go on")
    if not resume and out.is_dir() and (others := {path.name for path in out.iterdir()} - BEGINNINGS):
        raise ValueError(f"out={out}: holds {min(others)}; expected a new or empty folder")
    if (out / CHECKPOINTS).exists() and not (out / CHECKPOINTS).is_dir():
        raise ValueError(f"out={out}: {CHECKPOINTS} in it is no folder; expected it to be removed")
    if resume and not config:
        raise ValueError(f"out={out}: holds no {files.CONFIG}; expected the folder of a sweep to resume")
    for path in [*out.glob("*"), *out.glob(f"{CHECKPOINTS}/**/*")]:
        if path.is_symlink() and not path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"out={out}: {path} is a link out of the folder; expected none")


def _clean(out: Path) -> None:
    """Finishes or removes what was being written when a sweep was killed."""
    if (out / files.CONFIG).exists():
        files.settle(out)
    files.remove_partials(out)
