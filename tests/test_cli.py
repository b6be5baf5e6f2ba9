"""How a command tells what the library refuses."""

import os
import subprocess
import sys

import pytest
from commands import ROOT

SCRIPT = """
import sys
from absl import flags
from experiments import cli
cli.define(cli.Location(), "out", None, "A folder.")
def main():
    raise ValueError(sys.stdin.read())
cli.run(main)
"""


def refused(message):
    """Status and errors of a command whose library raises ValueError."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=message, env=environment, capture_output=True, text=True, check=False
    )
    return process.returncode, process.stderr


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "out=runs/n=5 b=1: holds results already; expected a new folder, or resume=True to go on",
            "--out=runs/n=5 b=1: holds results already; expected a new folder, or --resume to go on",
        ),
        ("out: got 3, expected a path", "--out: got 3, expected a path"),
    ],
)
def test_a_flag_stands_for_the_argument(message, line):
    assert refused(message) == (2, f"error: {line}\n")


@pytest.mark.parametrize("message", ["axis=3: out of bounds", "out of bounds", "cannot reshape: out=3"])
def test_any_other_error_is_ours_and_keeps_its_traceback(message):
    status, errors = refused(message)
    assert status == 1
    assert errors.startswith("Traceback") and errors.endswith(f"ValueError: {message}\n")
