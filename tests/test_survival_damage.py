"""A folder whose files say what cannot be: every command refuses it in one line that names the file, and leaves it."""

import io
import json
import shutil

import numpy as np
import pytest
from commands import Command, one_line

from experiments.cli import BadInput
from experiments.figures import selection
from vae_bit.store import files, results
from vae_bit.store.files import Damaged
from vae_bit.store.table import COLUMNS

SMALL = ("--n=1,2", "--layers=1", "--seeds=2", "--steps=3")
N, LOSS = COLUMNS.index("n"), COLUMNS.index("loss")


@pytest.fixture(scope="module")
def done(work):
    outcome = Command(work, "sweep", *SMALL, "--out=done").wait()
    assert outcome.status == 0, outcome.stderr
    return work / "done"


def rewritten(out, name, content):
    """The file with other content, and its digest in config.json, as if it had been written so."""
    (out / name).write_bytes(content)
    config = files.read_config(out)
    files.write_config(out, config | {"files": config["files"] | {name: files.digest(out / name)}})


def config_with(*path, value):
    """Damage to one place of config.json; None removes it."""

    def damage(out):
        config = json.loads((out / "config.json").read_text())
        *above, last = path
        place = config
        for key in above:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
        (out / "config.json").write_text(json.dumps(config))

    return damage


def table(change):
    """Damage to the lines of results.csv, each a list of texts."""

    def damage(out):
        lines = [line.split(",") for line in (out / "results.csv").read_text().splitlines()]
        content = "".join(",".join(line) + "\n" for line in change(lines))
        rewritten(out, "results.csv", content.encode())

    return damage


def cell(row, column, text):
    def change(lines):
        lines[row][lines[0].index(column)] = text
        return lines

    return table(change)


def arrays(name, change):
    """Damage to the arrays of an npz."""

    def damage(out):
        with np.load(out / name, allow_pickle=False) as file:
            held = dict(file)
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **change(held))
        rewritten(out, name, content.getvalue())

    return damage


def without(name):
    return lambda held: {key: value for key, value in held.items() if name not in key}


def bare_array(out):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    rewritten(out, "curves.npz", content.getvalue())


GRID = {"n": [1, 2], "seeds": 2}
WRONG_STAGES = [
    "all",
    3,
    {},
    [],
    [3],
    [{"n": [1, 2]}],
    [GRID, {"n": [1, 2, 3], "seeds": 2}],
    [{"n": [7], "seeds": 2}, GRID],
]
WRONG_STAGES += [[GRID, {"n": [1], "seeds": 2}, GRID], [{"n": [1, 1], "seeds": 1}, GRID], [{"n": [], "seeds": 3}, GRID]]
PARTS = ("argv", "settings", "flags", "steps", "history", "variants", "versions", "devices")  # of config.json
WRONG_NUMBERS = ["two", -1, 0, float("nan"), 2**40, 1.5, True, [1]]
DAMAGE = {
    **{f"stages {stages}": ("config.json", config_with("stages", value=stages)) for stages in WRONG_STAGES},
    **{
        f"stages.{name} {value}": ("config.json", config_with("stages", 0, name, value=value))
        for name in ("n", "seeds")
        for value in WRONG_NUMBERS
    },
    **{
        f"no {name}": ("config.json", config_with(name, value=None))
        for name in (*PARTS, "stages", "schema")
    },
    **{
        f"{name} of a wrong type": ("config.json", config_with(name, value="x" if name in ("steps", "history") else 7))
        for name in (*PARTS, "files")
    },
    **{
        f"settings.{name} {value}": ("config.json", config_with("settings", name, value=value))
        for name, value in (("n", [0]), ("n", [2**40]), ("seeds", -2), ("layers", [9]), ("beta", ["x"]), ("out", "x"))
    },
    "no settings.chunk": ("config.json", config_with("settings", "chunk", value=None)),
    "no argument": ("config.json", config_with("argv", value=[])),
    "another schema": ("config.json", config_with("schema", value=99)),
    "a schema of words": ("config.json", config_with("schema", value="two")),
    "another activation": ("config.json", config_with("variants", 0, "model", "activation", value="relu6")),
    "another recipe": ("config.json", config_with("variants", 0, "recipe", "samples", value=7)),
    "no recipe": ("config.json", config_with("variants", 0, "recipe", value=None)),
    "another label": ("config.json", config_with("variants", 0, "objective", value="iwae")),
    "steps below 0": ("config.json", config_with("steps", value=-1)),
    "a file elsewhere": ("config.json", config_with("files", value={"../x": "0" * 64})),
    "a digest of nothing": ("config.json", config_with("files", value={"results.csv": 3})),
    "curves with a row too few": ("curves.npz", arrays("curves.npz", lambda held: {**held, "kl": held["kl"][1:]})),
    "curves without loss": ("curves.npz", arrays("curves.npz", without("loss"))),
    "curves of other kind": ("curves.npz", arrays("curves.npz", lambda held: {**held, "kl": held["kl"].astype(int)})),
    "other steps": ("curves.npz", arrays("curves.npz", lambda held: {**held, "step": held["step"] + 1})),
    "parameters without a name": ("params.npz", arrays("params.npz", without("n=2/p/0/params/head"))),
    "parameters without an n": ("params.npz", arrays("params.npz", without("n=2/"))),
    "too few parameters": ("params.npz", arrays("params.npz", lambda held: {k: a[1:] for k, a in held.items()})),
    "texts": ("params.npz", arrays("params.npz", lambda held: {k: a.astype(str) for k, a in held.items()})),
    "parameters of unknown name": ("params.npz", arrays("params.npz", lambda held: {**held, "foo": np.zeros(3)})),
    **{
        f"{column} {text}": ("results.csv", cell(2, column, text))
        for column, text in (
            *(("n", "-1"), ("n", str(2**40)), ("n", "x"), ("n", "1e1"), ("layers", "-3"), ("layers", "2.5")),
            *(("seed", "-1"), ("seed", str(2**32)), ("seed", "7"), ("steps", "-1"), ("beta", "nan"), ("beta", "0")),
            *(("learning_rate", "inf"), ("learning_rate", "0.5"), ("status", "fine"), ("loss", "low"), ("loss", "")),
        )
    },
    "a depth too many": ("results.csv", cell(-1, "layers", "9")),
    "a row twice": ("results.csv", table(lambda lines: [*lines[:2], *lines[1:]])),
    "rows in another order": ("results.csv", table(lambda lines: [*lines[:2], *lines[:1:-1]])),
    "a row too many": ("curves.npz", table(lambda lines: [*lines, [*lines[-1][:N], "3", *lines[-1][N + 1 :]]])),
    "a row too few": ("curves.npz", table(lambda lines: lines[:-1])),
    "no rows": ("results.csv", table(lambda lines: lines[:1])),
    "a short row": ("results.csv", table(lambda lines: [*lines[:-1], lines[-1][:-1]])),
    "a long row": ("results.csv", table(lambda lines: [*lines[:-1], [*lines[-1], "1"]])),
    "no column loss": ("results.csv", table(lambda lines: [[*line[:LOSS], *line[LOSS + 1 :]] for line in lines])),
    "a column foo": ("results.csv", table(lambda lines: [["foo", *lines[0]], *(["1", *line] for line in lines[1:])])),
    "an empty table": ("results.csv", lambda out: rewritten(out, "results.csv", b"")),
    "a table of bytes": ("results.csv", lambda out: rewritten(out, "results.csv", bytes(range(256)))),
    "no archive": ("params.npz", lambda out: rewritten(out, "params.npz", b"PK nothing")),
    "a bare array": ("curves.npz", bare_array),
}  # fmt: skip
PLANS = (
    *("stages", "settings", "devices", "argv", "versions", "argument", "seed 7", "learning_rate 0.5"),
    *("flags", "activation", "recipe", "label"),
)


def snapshot(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_sweep_refuses_to_go_on_and_changes_nothing(work, done, damage):
    out, (name, do) = shutil.copytree(done, work / "damaged", dirs_exist_ok=True), DAMAGE[damage]
    do(out)
    before = snapshot(out)
    one_line(Command(work, "sweep", "--out=damaged", "--resume", "--seeds=3").wait(), 2, f"damaged/{name}")
    assert snapshot(out) == before


@pytest.mark.parametrize("damage", [name for name in DAMAGE if not any(word in name for word in PLANS)])
def test_no_reader_takes_it(done, tmp_path, damage):
    """Whatever it says of the results, not of what a sweep has yet to do."""
    out, (name, do) = shutil.copytree(done, tmp_path / "out"), DAMAGE[damage]
    do(out)
    with pytest.raises(Damaged, match=str(out / name)):
        results.load(out)
    with pytest.raises(BadInput, match=str(out / name)):
        selection.load(out)


@pytest.mark.parametrize("damage", ["no argv", "argv of a wrong type", "no versions", "a depth too many", "n -1"])
@pytest.mark.parametrize("command", ["report", "figures"])
def test_no_picture_is_drawn_of_it(work, done, damage, command):
    out, (name, do) = shutil.copytree(done, work / "drawn", dirs_exist_ok=True), DAMAGE[damage]
    do(out)
    if command == "report" or name != "config.json":
        one_line(Command(work, command, "--run=drawn").wait(), 2, f"drawn/{name}")


def test_what_is_no_folder_or_no_checkpoint(work, done):
    """A stray file among the checkpoints is nothing; a file in the place of a folder is bad input."""
    out = shutil.copytree(done, work / "strange")
    (out / "checkpoints").touch()
    one_line(Command(work, "sweep", "--out=strange", "--resume", "--seeds=3").wait(), 2, "checkpoints")
    (out / "checkpoints").unlink()
    (out / "checkpoints" / "foo").mkdir(parents=True)
    (out / "checkpoints" / "foo.sha256").touch()
    (out / "checkpoints" / "foo" / "foo.sha256").touch()
    outcome = Command(work, "sweep", "--out=strange", "--resume", "--seeds=3").wait()
    assert (outcome.status, outcome.stderr) == (0, ""), outcome
    assert results.load(out).rows["n"].size == 6
