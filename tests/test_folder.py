"""Who may write into a sweep's folder, on every kind of file system; how a sweep begins there, and goes on."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, SMALL, Command, one_line, same_bits

from experiments import figures
from vae_bit import runner
from vae_bit.store import folder, results

NO_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


def without_locks(monkeypatch, number):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def refuses_another(out):
    with pytest.raises(ValueError, match=f"^out={out}: another sweep is writing there"), folder.opened(out, False):
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
from vae_bit.store import folder
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
        pytest.raises(ValueError, match=f"^out={tmp_path}: its file lock: Input/output error"),
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
    line = [sys.executable, "-c", WINDOWS, *SMALL, "--out=windows", "--compilation_cache=programs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    outcome = subprocess.run(line, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0 and "Traceback" not in outcome.stderr, outcome.stderr
    assert results.load_table(work / "windows")["n"].size == 2


def begins(work, out):
    outcome = Command(work, "sweep", *SMALL, f"--out={out}", "--resume").wait()
    notice = f"notice: --resume: no sweep has begun in {out} yet; this one begins\n"
    assert (outcome.status, outcome.stderr) == (0, notice), outcome


def test_one_command_line_begins_and_goes_on(work, done):
    """In no folder, and in what a kill leaves of a start, with a notice; the next time there is nothing left to do."""
    begins(work, "again")
    (work / "started").mkdir()
    (work / "started" / "config.json.partial").touch()
    begins(work, "started")
    outcome = Command(work, "sweep", *SMALL, "--out=again", "--resume").wait()
    assert (outcome.status, outcome.stderr) == (0, ""), outcome
    assert outcome.stdout.startswith("nothing left to train in again\n")
    assert same_bits(work / "again", done) and same_bits(work / "started", done)


def test_bad_input_makes_no_folder_and_other_things_are_left_alone(work):
    one_line(Command(work, "sweep", "--first_seed=4294967295", "--out=none", "--resume").wait(), 2, "--first_seed")
    assert not (work / "none").exists()
    (work / "thesis").mkdir()
    (work / "thesis" / "thesis.txt").touch()
    outcome = Command(work, "sweep", *SMALL, "--out=thesis", "--resume").wait()
    one_line(outcome, 2, "--out=thesis: holds thesis.txt; expected a new or empty folder")
    assert [path.name for path in (work / "thesis").iterdir()] == ["thesis.txt"]


def test_the_users_home_is_meant_by_a_tilde(work):
    """A shell expands none behind a `=`; of a user that is not there it is refused."""
    home = Path("~").expanduser()
    one_line(Command(work, "sweep", "--out=~").wait(), 2, f"--out={home}: holds ")
    for command in ("figures", "report"):
        outcome = Command(work, command, "--run=~/no such folder/res").wait()
        one_line(outcome, 2, f"--run={home}/no such folder/res: ")
    one_line(Command(work, "sweep", "--out=~nobody-of-this-name/res").wait(), 2, "~nobody-of-this-name/res")
    assert not [path for path in work.iterdir() if path.name.startswith("~")]


def test_a_folder_may_be_a_str_or_anything_that_is_a_path(done):
    class Elsewhere:
        def __fspath__(self):
            return str(done)

    for out in (str(done), Elsewhere()):
        assert runner.load(out).load(seed=1).row == runner.load(done).load(seed=1).row
        assert results.load(out).rows["n"].size == results.load_table(out)["n"].size == 2
        assert results.load_curves(out)["loss"].shape == (2, 41)
        np.testing.assert_array_equal(figures.load(out).rows["seed"], [0, 1])
