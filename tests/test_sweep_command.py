"""`python -m experiments.sweep` as a user meets it: its files, its table, and one line for everything it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vae_bit.store import results

ROOT = Path(__file__).parent.parent
FILES = {"results.csv", "curves.npz", "params.npz", "config.json", "summary.png"}


def environment():
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}


def command(folder, *args):
    return subprocess.run(
        [sys.executable, "-m", "experiments.sweep", *args],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    grid = "--n=1,3,3", "--layers=1,2", "--seeds=3", "--steps=3", "--first_seed=4294967293"
    return folder, command(folder, *grid, "--compilation_cache=kept/programs")


def test_a_sweep_writes_its_files_into_a_new_folder(finished):
    folder, process = finished
    assert process.returncode == 0, process.stderr
    (out,) = (folder / "runs").iterdir()
    assert {path.name for path in out.iterdir()} == FILES
    assert all(path.stat().st_size for path in out.iterdir())
    rows = results.load_table(out)
    np.testing.assert_array_equal(rows["layers"], np.repeat([1, 2], 6))
    np.testing.assert_array_equal(rows["n"], [1, 1, 1, 3, 3, 3] * 2)
    np.testing.assert_array_equal(rows["seed"], [2**32 - 3, 2**32 - 2, 2**32 - 1] * 4)
    assert set(rows["steps"]) == {3}
    assert np.all(rows["gap"] > 0.0)
    curves = results.load_curves(out)
    assert curves["step"].tolist() == [0, 1, 2, 3]
    assert curves["loss"].shape == (12, 4)
    with np.load(out / "params.npz", allow_pickle=False) as file:
        assert all(np.all(np.isfinite(file[name])) for name in file)
    assert (out / "summary.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["first_seed"] == 2**32 - 3
    assert config["versions"]["jax"]
    assert config["devices"]


def test_compiled_programs_are_kept_in_a_private_folder(finished):
    kept = finished[0] / "kept" / "programs"
    assert kept.stat().st_mode & 0o777 == 0o700
    assert sum(path.name.startswith(("jit_advance", "jit__lambda")) for path in kept.iterdir()) >= 4


def test_a_cache_where_others_can_write_is_refused(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    process = command(tmp_path, "--compilation_cache=shared")
    assert process.returncode == 2
    assert process.stderr.startswith("error: --compilation_cache=shared: others can write programs there; expected")
    assert len(process.stderr.splitlines()) == 1
    assert contents(tmp_path) == ["shared"]


def test_the_printed_table_is_the_saved_one(finished):
    folder, process = finished
    (out,) = (folder / "runs").iterdir()
    rows = results.load_table(out)
    for layers in (1, 2):
        for n in (1, 3):
            own = (rows["layers"] == layers) & (rows["n"] == n)
            figures = [np.median(rows["loss"][own]), rows["loss"][own].min(), rows["loss"][own].max()]
            figures += [np.median(rows["recon"][own])]
            wanted = [str(layers), str(n), "3", *(f"{figure:.5f}" for figure in figures)]
            lines = [line.replace("│", " ").split() for line in process.stdout.splitlines()]
            assert any(line[:7] == wanted for line in lines), wanted
    assert str(out.relative_to(folder)) in process.stdout.splitlines()[-1]


def test_standard_error_holds_the_notice_and_warnings_alone(finished):
    folder, process = finished
    (out,) = (folder / "runs").iterdir()
    collapsed = int(np.sum(results.load_table(out)["status"] == "collapsed"))
    notice, *warnings = process.stderr.splitlines()
    assert notice.startswith("notice: ")
    assert "1,3,3" in notice
    assert warnings == [f"warning: {collapsed} of 12 runs collapsed; see results.csv"] * bool(collapsed)


WRONG = {  # arguments -> what the one line must name: flag, value, what is allowed
    "--n=": ("--n=", "''", "positive integers"),
    "--n=0": ("--n=0", "'0'", "positive integers"),
    "--n=-1": ("--n=-1", "'-1'", "positive integers"),
    "--n=1,x": ("--n=1,x", "'x'", "positive integers"),
    "--n=1.5": ("--n=1.5", "'1.5'", "positive integers"),
    "--n=1,,5": ("--n=1,,5", "''", "positive integers"),
    "--n=2147483648": ("--n=2147483648", "positive integers below 2^31"),
    "--n=1 --n=5": ("--n=5", "already defined", "1"),
    "--layers=0": ("--layers=0", "integers from 1 to 6"),
    "--seeds=0": ("--seeds=0", "positive integer"),
    "--seeds=1,2": ("--seeds=1,2", "positive integer"),
    "--steps=0": ("--steps=0", "positive integer"),
    "--steps=99999999999": ("--steps=99999999999", "positive integer below 2^31"),
    "--samples=0": ("--samples=0", "positive integer"),
    "--chunk=0": ("--chunk=0", "positive integer"),
    "--learning_rate=nan": ("--learning_rate=nan", "positive numbers"),
    "--learning_rate=0": ("--learning_rate=0", "positive numbers"),
    "--learning_rate=inf": ("--learning_rate=inf", "positive numbers"),
    "--learning_rate=1e39": ("--learning_rate=1e39", "float32"),
    "--beta=-1": ("--beta=-1", "positive numbers"),
    "--beta=1e-306": ("--beta=1e-306", "float32"),
    "--first_seed=-1": ("--first_seed=-1", "[0, 2^32)"),
    "--first_seed=4294967296": ("--first_seed=4294967296", "[0, 2^32)"),
    "--first_seed=4294967295 --seeds=2": ("--first_seed=4294967295 --seeds=2", "[0, 2^32)"),
    "--preset=foo": ("--preset=foo", "default", "original"),
    "--preset=default --preset=original": ("--preset=original", "already defined", "default"),
    "--noise=foo": ("--noise=foo", "iid", "lattice", "trapezoid"),
    "--unknown=1": ("unknown",),
    "--n": ("--n",),
    "stray": ("'stray'", "not a flag"),
    "--out=": ("--out=", "expected"),
    "--out=file": ("--out=file", "folder"),
    "--out=file/below": ("--out=file/below", "folder"),
    "--out=results": ("--out=results", "new or empty folder", "--resume"),
    "--out=results --resume": ("--out=results", "config.json"),
    "--resume": ("--resume", "--out"),
    "--resume=maybe": ("--resume", "maybe"),
    "--checkpoint_every=-1": ("--checkpoint_every=-1", "seconds, 0 or more"),
    "--checkpoint_every=nan": ("--checkpoint_every=nan", "seconds, 0 or more"),
}
AS_COMMANDS = ["--n=1,x", "--first_seed=4294967295 --seeds=2", "--out=file/below"]

# Imports what is slow once, then runs the module in a fork for each line of arguments.
FORKS = """
import os, runpy, sys
from pathlib import Path

import experiments.figures, rich.progress, vae_bit.store.autosave, vae_bit.store.folder

for number, line in enumerate(sys.stdin):
    if not os.fork():
        folder = Path(str(number)).resolve()
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY), descriptor)
        os.chdir(folder / "work")
        sys.argv[1:] = line.split()
        try:
            runpy.run_module("experiments.sweep", run_name="__main__", alter_sys=True)
        except SystemExit as stop:  # taking the interpreter down in order would cost two seconds a line
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(stop.code or 0)
    (Path(str(number)) / "status").write_text(str(os.waitstatus_to_exitcode(os.wait()[1])))
"""


def obstacles(folder):
    """What the wrong values of --out meet: a file, and a folder that holds results."""
    folder.mkdir(parents=True)
    (folder / "file").touch()
    (folder / "results").mkdir()
    (folder / "results" / "results.csv").touch()


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Status, output, error and folder of every wrong command line."""
    folder = tmp_path_factory.mktemp("refused")
    for number in range(len(WRONG)):
        obstacles(folder / str(number) / "work")
    subprocess.run(
        [sys.executable, "-c", FORKS],
        input="".join(line + "\n" for line in WRONG),
        cwd=folder,
        env=environment(),
        text=True,
        check=True,
        timeout=300,
    )
    return {line: folder / str(number) for number, line in enumerate(WRONG)}


def assert_refused(line, status, stdout, stderr, work):
    assert stderr.endswith("\n")
    assert len(stderr.splitlines()) == 1, stderr
    assert stderr.startswith("error: ")
    assert all(word in stderr for word in WRONG[line]), stderr
    assert stdout == ""
    assert status == 2
    assert contents(work) == ["file", "results", "results/results.csv"]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_values_are_refused_in_one_line(refused, line):
    status, stdout, stderr = ((refused[line] / name).read_text() for name in ("status", "stdout", "stderr"))
    assert_refused(line, int(status), stdout, stderr, refused[line] / "work")


@pytest.mark.parametrize("line", AS_COMMANDS)
def test_a_process_of_its_own_says_the_same(tmp_path, line):
    obstacles(tmp_path / "work")
    process = command(tmp_path / "work", *line.split())
    assert_refused(line, process.returncode, process.stdout, process.stderr, tmp_path / "work")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """Not even root may make a folder in /proc, where there is one."""
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    process = command(tmp_path, "--out=/proc/results")
    assert process.returncode == 2
    assert process.stderr.startswith("error: --out=/proc/results: ")
    assert len(process.stderr.splitlines()) == 1
    assert contents(tmp_path) == []
