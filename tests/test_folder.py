"""A sweep's folder: damaged in any part it is refused in one line that names the file; its lock."""

import errno
import json
import shutil
from typing import Any

import filelock
import numpy as np
import pytest
from commands import Command, one_line

from experiments import folder, saved
from experiments.options import BadInput
from vae_bit import files, results
from vae_bit.files import Damaged

NAN = float("nan")


@pytest.fixture
def out(done, tmp_path):
    return shutil.copytree(done, tmp_path / "out")


def change_config(out, **changes):
    """config.json with other values, where None takes the name out; what it says of other files is left out."""
    config = json.loads((out / "config.json").read_text()) | {"files": {}} | changes
    (out / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


@pytest.mark.parametrize(
    "changes",
    [
        *({"stages": stages} for stages in (0, {}, [], [1], ["n"], [{"n": [1]}], [{"n": 1, "seeds": 2}])),
        *({"stages": [{"n": [1], "seeds": seeds}]} for seeds in (0, -1, NAN, 2.5, 2**40, "2", 3)),
        *({"stages": [{"n": n, "seeds": 2}]} for n in ([], [0], [-1], [2**40], [NAN], [5])),
        {"stages": [{"n": [1], "seeds": 4}, {"n": [1], "seeds": 2}]},
        {"stages": [{"n": [3], "seeds": 1}, {"n": [1], "seeds": 2}]},
        *({name: None} for name in ("argv", "stages", "settings", "versions", "devices", "schema", "recipe")),
        *({"argv": argv} for argv in ([], "sweep", [1])),
        *({"files": digests} for digests in (1, {"results.csv": 1}, {"../elsewhere": "0" * 64}, {"results.csv": "0"})),
        {"schema": 99},
        {"settings": {}},
        {"architecture": {"layers": 1}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_config_that_is_not_one_is_refused(out, changes):
    change_config(out, **changes)
    with pytest.raises(Damaged, match=str(out / "config.json")):
        folder.read_account(out)


def rewrite_table(out, change):
    lines = (out / "results.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines]
    change(rows)
    (out / "results.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    change_config(out)


def cell(name, value):
    def change(rows):
        rows[1][rows[0].index(name)] = value

    return change


def without(name):
    def change(rows):
        column = rows[0].index(name)
        for row in rows:
            del row[column]

    return change


CELLS = [
    *(("n", n) for n in ("-1", "0", str(2**40), "1.5", "", "nan")),
    *(("layers", layers) for layers in ("-3", "0", "9")),
    *(
        ("seed", "-1"),
        ("seed", str(2**32)),
        ("beta", "0"),
        ("beta", "inf"),
        ("learning_rate", "-1"),
        ("status", "fine"),
    ),
]


@pytest.mark.parametrize(
    "change",
    [
        *(cell(*values) for values in CELLS),
        *(without(name) for name in ("n", "seed", "loss", "status", "valid_mass")),
        lambda rows: rows.append(rows[1]),
        lambda rows: rows[1].append("1"),
        lambda rows: rows[0].append("luck"),
        lambda rows: rows.clear(),
        lambda rows: rows.insert(1, rows.pop()),
    ],
)
def test_a_table_that_is_not_one_is_refused(out, change):
    rewrite_table(out, change)
    with pytest.raises(Damaged, match=rf"{out}/(results.csv|curves.npz|params.npz)"):
        results.load(out)


def rewrite_arrays(out, name, change):
    with np.load(out / name, allow_pickle=False) as file:
        arrays = dict(file)
    change(arrays)
    savez: Any = np.savez
    savez(out / name, allow_pickle=False, **arrays)
    change_config(out)


KERNEL = "layers=1/n=1/q/0/params/head/kernel"


@pytest.mark.parametrize(
    "name, change",
    [
        ("curves.npz", lambda arrays: arrays.update(loss=arrays["loss"][:-1])),
        ("curves.npz", lambda arrays: arrays.update(step=arrays["step"][:-1])),
        ("curves.npz", lambda arrays: arrays.pop("kl")),
        ("params.npz", lambda arrays: arrays.pop(KERNEL)),
        ("params.npz", lambda arrays: arrays.update({KERNEL: arrays[KERNEL][:1]})),
        ("params.npz", lambda arrays: arrays.update({KERNEL: arrays[KERNEL][..., :1]})),
        ("params.npz", lambda arrays: arrays.update({KERNEL: arrays[KERNEL].astype(str)})),
    ],
)
def test_arrays_that_do_not_fit_are_refused(out, name, change):
    rewrite_arrays(out, name, change)
    with pytest.raises(Damaged, match=str(out / name)):
        results.load(out)


def test_the_commands_refuse_in_one_line(work, done):
    out = shutil.copytree(done, work / "odd")
    change_config(out, stages=0)
    one_line(Command(work, "sweep", "--out=odd", "--resume").wait(), 2, "odd/config.json", "stages")
    one_line(Command(work, "sweep", "--out=odd", "--resume", "--seeds=3").wait(), 2, "odd/config.json", "stages")
    change_config(out, argv=None)
    one_line(Command(work, "report", "--run=odd").wait(), 2, "odd/config.json", "argv")
    shutil.copy(done / "config.json", out)
    (out / "checkpoints").write_text("")
    one_line(Command(work, "sweep", "--out=odd", "--resume").wait(), 2, "odd", "checkpoints")


def test_strays_among_checkpoints_are_left_alone(work, stopped, done):
    out = shutil.copytree(stopped, work / "stray")
    (out / "checkpoints" / "foo.sha256").write_text("1")
    (out / "checkpoints" / "foo.npz").write_text("1")
    outcome = Command(work, "sweep", "--out=stray", "--resume").wait()
    assert (outcome.status, outcome.stderr) == (0, "")


def test_a_folder_may_be_given_as_text(done):
    assert results.load_run(str(done), 1, 1, seed=1).row == results.load_run(done, 1, 1, seed=1).row
    assert saved.load(str(done)).rows["n"].tolist() == saved.load(done).rows["n"].tolist()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_a_file_system_has_no_locks_the_file_itself_is_one(tmp_path, monkeypatch, number):
    def refuse(self):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    out = tmp_path / "out"
    with (
        pytest.warns(UserWarning, match="no locks here") as notices,
        folder.opened(out, resume=False),
        pytest.raises(BadInput, match="another sweep is writing there"),
        folder.opened(out, resume=False),
    ):
        pass
    assert len(notices) == 2
    assert not list(out.iterdir())


def test_any_other_fault_of_the_lock_names_it(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with pytest.raises(BadInput, match="its file lock: broken"), folder.opened(tmp_path / "out", resume=False):
        pass


def test_config_is_read_as_it_was_written(done):
    config = folder.read_account(done)
    assert config["stages"] == [{"n": [1], "seeds": 2}]
    assert files.read_config(done)["settings"]["seeds"] == 2
