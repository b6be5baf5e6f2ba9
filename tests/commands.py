"""The real commands, each in a process forked from one that has imported what is slow and compiled nothing."""

import contextlib
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent
FILES = {"results.csv", "curves.npz", "params.npz", "config.json", "summary.png"}
BITS = ("results.csv", "curves.npz", "params.npz")
SMALL = ("--n=1", "--layers=1", "--seeds=2", "--steps=40")
SLOW = ["experiments.figures.codes", "rich.progress", "vae_bit.store.autosave", "vae_bit.store.folder"]


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


class Command:
    """A command that has been started in the folder `cwd`."""

    def __init__(self, cwd: Path, name: str, *args: str, largest_file: int | None = None):
        context = multiprocessing.get_context("forkserver")
        self.output = [cwd / f"{time.monotonic_ns()}.{stream}" for stream in ("stdout", "stderr")]
        self.process = context.Process(target=_run, args=(cwd, self.output, name, args, largest_file))
        self.process.start()

    def wait(self, seconds: float = 120) -> Outcome:
        """Until it has ended by itself."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "still running"
        return Outcome(self.process.exitcode, *(path.read_text() for path in self.output))

    def until(self, condition: Callable[[], object]) -> None:
        """Until something holds; an error where the command ends first."""
        while not condition():
            assert self.process.is_alive(), self.output[1].read_text()
            time.sleep(0.003)

    def kill(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.process.pid or 0, number)


def prepare(cache: Path) -> None:
    """To be called once, before the first command: it sets what every command's process inherits."""
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    multiprocessing.get_context("forkserver").set_forkserver_preload(SLOW)


def _run(cwd: Path, output: list[Path], name: str, args: tuple[str, ...], largest_file: int | None) -> None:
    for descriptor, path in enumerate(output, 1):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), descriptor)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may itself ignore it
    os.chdir(cwd)
    sys.argv = [name, *args]
    status = 0
    try:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code or 0
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)  # taking the interpreter down in order takes two seconds


def names(out):
    return {path.name for path in out.iterdir()}


def saved(out):
    """How many blocks each checkpoint holds."""
    blocks = set()
    for path in out.glob("checkpoints/*.npz"):
        with np.load(path, allow_pickle=False) as file:
            blocks.add(file["curves/loss"].shape[1])
    return blocks


def same_bits(out, other):
    return [(out / name).read_bytes() for name in BITS] == [(other / name).read_bytes() for name in BITS]


def one_line(outcome, status, *words):
    """The outcome is an error of one line that names all the words."""
    assert outcome.status == status, outcome
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(str(word) in line for word in words), line
    return line


def snapshot(out):
    return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}
