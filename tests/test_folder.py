"""Who may write into a sweep's folder, on every kind of file system; how a sweep begins there, and goes on."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import Command

from experiments import figures, folder
from experiments.options import BadInput
from vae_bit import results

ROOT = Path(__file__).parent.parent
SMALL = ("--n=1", "--layers=1", "--seeds=2", "--steps=4")
NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    commands.prepare(tmp_path_factory.mktemp("cache"))
    return tmp_path_factory.mktemp("work")


def without_locks(monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def refuses_another(out):
    with pytest.raises(BadInput, match=f"--out={out}: another sweep is writing there"), folder.opened(out, False):
        pass


def test_one_sweep_has_the_folder_until_it_ends(tmp_path):
    for _ in range(2):
        with folder.opened(tmp_path / "out", False):
            refuses_another(tmp_path / "out")
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", NO_LOCKS)
def test_where_the_file_system_has_no_locks_a_file_is_one(tmp_path, monkeypatch, number):
    without_locks(monkeypatch, number)
    for _ in range(2):
        with (
            pytest.warns(UserWarning, match=f"{tmp_path / 'lock'}: {os.strerror(number)}"),
            folder.opened(tmp_path, False),
        ):
            with pytest.warns(UserWarning):
                refuses_another(tmp_path)
            assert (tmp_path / "lock.held").read_text().startswith(f"{os.getpid()}\n")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*lock")
@pytest.mark.parametrize("alive", [True, False])
def test_the_file_of_a_process_that_was_killed_is_nobodys(tmp_path, alive):
    """Where there are no locks; a process takes the folder and says so, and is killed or not."""
    script = f"""
import errno, fcntl, os, sys
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
from pathlib import Path
from experiments import folder
with folder.opened(Path({str(tmp_path)!r}), False):
    print("mine", flush=True)
    sys.stdin.read()
"""
    line = [sys.executable, "-W", "ignore", "-c", script]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
        with pytest.MonkeyPatch.context() as patch:
            without_locks(patch, errno.ENOLCK)
            if alive:
                refuses_another(tmp_path)
            holder.kill()
            holder.wait()
            with folder.opened(tmp_path, False):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_fails_otherwise_is_named(tmp_path, monkeypatch):
    without_locks(monkeypatch, errno.EIO)
    with (
        pytest.raises(BadInput, match=f"--out={tmp_path}: its file lock: Input/output error"),
        folder.opened(tmp_path, False),
    ):
        pass


WINDOWS = """
import os, runpy, signal, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("getuid", "O_DIRECTORY", "sched_getaffinity", "posix_fallocate", "fork"):
    delattr(os, name)
sys.argv = ["sweep", *sys.argv[1:]]
runpy.run_module("experiments.sweep", run_name="__main__", alter_sys=True)
"""


def test_without_what_windows_lacks_a_sweep_runs(work):
    """The modules and functions of Unix alone; that Windows itself would run it is not shown."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(work / "mpl")}
    line = [sys.executable, "-c", WINDOWS, *SMALL, "--out=windows", "--compilation_cache=programs"]
    outcome = subprocess.run(line, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert results.load_table(work / "windows")["n"].size == 2


def begins(work, out):
    outcome = Command(work, "sweep", *SMALL, f"--out={out}", "--resume").wait()
    notice = f"notice: --resume: no sweep has begun in {out} yet; this one begins\n"
    assert (outcome.status, outcome.stderr) == (0, notice), outcome


def test_one_command_line_begins_and_goes_on(work):
    """In no folder, and in what a kill leaves of a start, with a notice; the next time there is nothing left to do."""
    begins(work, "again")
    (work / "started").mkdir()
    (work / "started" / "config.json.partial").touch()
    begins(work, "started")
    before = {path: path.read_bytes() for path in (work / "again").iterdir() if path.suffix in (".npz", ".csv")}
    outcome = Command(work, "sweep", *SMALL, "--out=again", "--resume").wait()
    assert (outcome.status, outcome.stderr) == (0, ""), outcome
    assert outcome.stdout.startswith("nothing left to train in again\n")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_bad_input_makes_no_folder_and_other_things_are_left_alone(work):
    outcome = Command(work, "sweep", "--first_seed=4294967295", "--out=none", "--resume").wait()
    assert outcome.status == 2 and not (work / "none").exists()
    (work / "mine").mkdir()
    (work / "mine" / "thesis.txt").touch()
    outcome = Command(work, "sweep", *SMALL, "--out=mine", "--resume").wait()
    assert outcome.status == 2
    assert outcome.stderr == "error: --out=mine: holds thesis.txt; expected a new or empty folder\n"
    assert [path.name for path in (work / "mine").iterdir()] == ["thesis.txt"]


def test_the_users_home_is_meant_by_a_tilde(work):
    """A shell expands none behind a `=`; of a user that is not there it is refused."""
    home = Path("~").expanduser()
    outcome = Command(work, "sweep", "--out=~/no such folder/res", "--seeds=4294967295").wait()
    assert outcome.status == 2
    for command in ("figures", "report"):
        outcome = Command(work, command, "--run=~/no such folder/res").wait()
        assert (outcome.status, outcome.stderr.count("\n")) == (2, 1)
        assert f"--run={home}/no such folder/res: " in outcome.stderr
    outcome = Command(work, "sweep", "--out=~nobody-of-this-name/res").wait()
    assert (outcome.status, outcome.stderr.count("\n")) == (2, 1)
    assert "~nobody-of-this-name/res" in outcome.stderr
    assert not [path for path in work.iterdir() if path.name.startswith("~")]


def test_a_folder_may_be_a_str_or_anything_that_is_a_path(tmp_path, tiny, trained):
    class Elsewhere:
        def __fspath__(self):
            return str(tmp_path)

    results.write(str(tmp_path), tiny["default"], trained[:1], {})
    for out in (str(tmp_path), Elsewhere()):
        assert results.load_run(out, 1, 5).row["n"] == 5
        assert results.load(out).rows["n"].size == results.load_table(out)["n"].size == 16
        assert results.load_curves(out)["loss"].shape[0] == 16
        np.testing.assert_array_equal(figures.load(out).rows["layers"], 1)
