"""The real command where there is little room, or little of anything."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import FILES, ROOT, SMALL, Command, names, one_line, same_bits, saved


@contextlib.contextmanager
def disk(path, size):
    """A disk of that size, where the machine lets us have one."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes privileges")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(out, left):
    """Leaves so many bytes of the disk."""
    with contextlib.suppress(OSError), (out / "filler").open("wb", 0) as filler:
        while filler.write(bytes(4096)):
            pass
    os.truncate(out / "filler", (out / "filler").stat().st_size - left)


def test_a_full_disk_leaves_what_was_saved(work, done, stopped):
    with disk(work / "full", "1m") as out:
        shutil.copytree(stopped, out, dirs_exist_ok=True)
        blocks = saved(out)
        fill(out, 8192)
        outcome = Command(work, "sweep", "--out=full", "--resume", "--checkpoint_every=0").wait()
        one_line(outcome, 1, "full/checkpoints/", "No space left on device")
        assert saved(out) == blocks
        (out / "filler").unlink()
        assert Command(work, "sweep", "--out=full", "--resume").wait().status == 0
        assert same_bits(out, done)
        fill(out, 4096)
        one_line(Command(work, "sweep", "--out=full", "--resume").wait(), 1, "full/summary.png", "No space left")
        fill(out, 0)
        more = Command(work, "sweep", "--out=full", "--resume", "--seeds=3")
        one_line(more.wait(), 1, "full/config.json", "No space left")
        assert same_bits(out, done)


def test_a_file_that_grows_too_large_leaves_what_was_saved(work, done):
    """As on a full disk, and it takes no privileges to bring about."""
    outcome = Command(work, "sweep", *SMALL, "--out=limited", largest_file=8000).wait()
    one_line(outcome, 1, "limited/checkpoints", "File too large")
    out = shutil.copytree(done, work / "drawn")
    outcome = Command(work, "sweep", "--out=drawn", "--resume", largest_file=30_000).wait()
    one_line(outcome, 1, "drawn/summary.png", "File too large")
    assert "Exact figures" in outcome.stdout
    assert same_bits(out, done)
    assert names(out) == FILES


def real(cwd, script, **variables):
    """A shell's line, with nothing of the command imported before."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COMMAND": f"{sys.executable} -m experiments.sweep"}
    script = f"set -o pipefail; {script}"
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, env=environment | variables, capture_output=True, check=False
    )


def test_where_little_works_it_works(work, done):
    """No display, terminal, UTF-8 or home; a folder of odd letters; nobody who reads to the end, or at all."""
    poor = {"LC_ALL": "C", "HOME": "/dev/null", "DISPLAY": "", "TERM": "dumb", "PYTHONIOENCODING": "ascii"}
    process = real(work, f"$COMMAND {' '.join(SMALL)} --out='a b\u00fc' | head -1", **poor)
    assert process.returncode == 0, process.stderr
    assert b"Exact figures" in process.stdout
    assert b"Traceback" not in process.stderr
    assert b"Exception" not in process.stderr
    assert same_bits(work / "a b\u00fc", done)
    closed = real(work, "$COMMAND --resume --out='a b\u00fc' >&- 2>&-")
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, b"", b"")
    if Path("/dev/full").exists():
        full = real(work, "$COMMAND --resume --out=done > /dev/full")
        assert (full.returncode, full.stderr) == (1, b"error: standard output: No space left on device\n")
