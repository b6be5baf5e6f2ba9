"""Kills a small sweep at random moments, resumes it each time, and compares every bit with a sweep left in peace.

python -m experiments.stress --kills=30
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from experiments import cli
from experiments.cli import Fault, Number, define, say

FLAGS = flags.FLAGS
SWEEP = ("--n=1,40", "--layers=1", "--seeds=4", "--steps=400", "--chunk=2")  # two groups of two chunks
SPAN = (0.3, 1.1)  # of the undisturbed sweep's time, from which the moments are drawn: before, it only imports
FILES = ("results.csv", "curves.npz", "params.npz")
CACHE = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

define(Number(int, 1, 10_000, "a positive integer"), "kills", 30, "How often to kill the sweep.")
define(Number(int, 0, 2**32 - 1, "an integer in [0, 2^32)"), "seed", 0, "Of the moments.")
define(Number(float, 0.0, 1e9, "seconds, 0 or more"), "checkpoint_every", 0.3, "The sweep's flag.")


def main() -> None:
    """Repeats the sweep until it has been killed often enough; Fault where a bit differs or a resumed sweep fails."""
    moments, kills, sweeps = random.Random(FLAGS.seed), 0, 0
    with tempfile.TemporaryDirectory() as work:
        run(Path(work), "warm")  # fills the cache of compiled programs
        start = time.perf_counter()
        run(Path(work), "peace")
        undisturbed = time.perf_counter() - start
        say(f"undisturbed: {undisturbed:.1f} s")
        while kills < FLAGS.kills:
            name, killed = f"killed_{sweeps}", 0
            while kills < FLAGS.kills and not finished(Path(work), name, moments.uniform(*SPAN) * undisturbed):
                kills, killed = kills + 1, killed + 1
                say(f"kill {kills}: {state(Path(work) / name)}")
            run(Path(work), name)
            compare(Path(work) / "peace", Path(work) / name)
            sweeps += 1
            say(f"sweep {sweeps}: killed {killed} times, results bit-identical")
    say(f"{kills} kills in {sweeps} sweeps: all results bit-identical; the sweep undisturbed took {undisturbed:.1f} s")


def run(work: Path, name: str) -> None:
    """The sweep to its end."""
    process = start_sweep(work, name)
    _, error = process.communicate()
    if process.returncode or error:
        raise Fault(f"{name} ended with status {process.returncode}: {error}")


def finished(work: Path, name: str, seconds: float) -> bool:
    """Whether the sweep has ended before it was killed, that many seconds after its start."""
    process = start_sweep(work, name)
    try:
        _, error = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, error = process.communicate()
    if error or process.returncode > 0:
        raise Fault(f"{name} ended with status {process.returncode}: {error}")
    return process.returncode == 0


def start_sweep(work: Path, name: str) -> subprocess.Popen[str]:
    """Begins the sweep, or goes on with it."""
    out = work / name
    begun = (out / "config.json").exists()
    what = ("--resume",) if begun else SWEEP
    line = [sys.executable, "-m", "experiments.sweep", *what, f"--out={out}"]
    line.append(f"--checkpoint_every={FLAGS.checkpoint_every}")
    environment = {**os.environ, **CACHE, "JAX_COMPILATION_CACHE_DIR": str(work / "cache")}
    return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def state(out: Path) -> str:
    """What a kill has left, in words."""
    complete, partial = list(out.glob("checkpoints/*.npz")), list(out.glob("**/*.partial"))
    parts = [f"checkpoints of {len(complete)} chunks" if complete else "no checkpoint"]
    parts += ["a file or checkpoint half written"] * bool(partial) + ["results written"] * (
        out / "results.csv"
    ).exists()
    return ", ".join(parts)


def compare(one: Path, other: Path) -> None:
    """Fault where the results differ in a bit."""
    for name in FILES:
        if (one / name).read_bytes() != (other / name).read_bytes():
            raise Fault(f"{other / name} differs from that of the undisturbed sweep")


if __name__ == "__main__":
    cli.run(main)
