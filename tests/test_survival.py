"""The real command, broken for real: killed, stopped, damaged, used twice, extended."""

import json
import shutil
import signal

import numpy as np
import pytest
from commands import BITS, FILES, SMALL, Command, names, one_line, same_bits, saved, snapshot

from vae_bit import runner
from vae_bit.store import results


def test_stopped_and_killed_it_ends_with_the_same_bits(work, done, stopped):
    out = shutil.copytree(stopped, work / "again")
    resume = ("sweep", "--out=again", "--resume")
    blocks = saved(out)
    term = Command(work, *resume, "--checkpoint_every=0")
    term.until(lambda: saved(out) - blocks)
    one_line(Command(work, *resume).wait(), 2, "--out=again", "another sweep is writing there")
    term.kill(signal.SIGTERM)
    assert term.wait().status == 143
    for moment in ("checkpoints/*.partial", "*.partial"):
        killed = Command(work, *resume, "--checkpoint_every=0")
        killed.until(lambda moment=moment: any(path.name != "config.json.partial" for path in out.glob(moment)))
        killed.kill(signal.SIGKILL)
        assert killed.wait().status == -signal.SIGKILL
        assert len(saved(out)) == 1
    outcome = Command(work, *resume).wait()
    assert (outcome.status, outcome.stderr) == (0, "")
    assert names(out) == FILES
    assert same_bits(out, done)


def test_a_damaged_checkpoint_is_told_and_trained_again(work, done, stopped):
    out = shutil.copytree(stopped, work / "damaged")
    largest = max(
        (path for path in out.glob("checkpoints/**/*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    outcome = Command(work, "sweep", "--out=damaged", "--resume").wait()
    assert outcome.status == 0
    (notice,) = outcome.stderr.splitlines()
    assert notice.startswith("notice: damaged/checkpoints/")
    assert same_bits(out, done)


def test_more_runs_are_added_to_those_there_are(work, done):
    """Killed on the way, the old results stay readable and the longer sweep goes on."""
    out = shutil.copytree(done, work / "more")
    longer = Command(work, "sweep", "--out=more", "--resume", "--seeds=3", "--n=2,1", "--checkpoint_every=0")
    longer.until(lambda: saved(out))
    longer.kill(signal.SIGKILL)
    longer.wait()
    assert same_bits(out, done)
    assert results.load(out).rows["n"].size == 2
    assert Command(work, "sweep", "--out=more", "--resume").wait().status == 0
    whole, old = results.load(out), results.load(done)
    assert list(zip(whole.rows["n"].tolist(), whole.rows["seed"].tolist(), strict=True)) == [
        (n, seed) for n in (1, 2) for seed in (0, 1, 2)
    ]
    assert whole.rows["loss"][:2].tolist() == old.rows["loss"].tolist()
    for row in (0, 1, 5):
        n, seed = (int(whole.rows[name][row]) for name in ("n", "seed"))
        run = runner.load(out).load(layers=1, n=n, seed=seed)
        assert run.row["loss"] == whole.rows["loss"][row]
        assert run.decode(np.zeros(1)).shape == (n, 1)
    np.testing.assert_array_equal(whole.curves["loss"][:2], old.curves["loss"])
    before = snapshot(out)
    argv = json.loads(before[str(out / "config.json")])["argv"]
    assert set(argv[1:]) == {"--layers=1", "--n=2,1", "--seeds=3", "--steps=40"}
    outcome = Command(work, "sweep", "--out=more", "--resume").wait()
    assert (outcome.status, outcome.stdout.splitlines()[0]) == (0, "nothing left to train in more")
    assert {**snapshot(out), str(out / "config.json"): b""} == {**before, str(out / "config.json"): b""}


def test_a_folder_in_use_is_refused(work, done, stopped):
    before = snapshot(done), snapshot(stopped)
    one_line(Command(work, "sweep", "--out=done").wait(), 2, "--out=done", "holds results", "--resume")
    one_line(Command(work, "sweep", "--out=stopped").wait(), 2, "--out=stopped", "unfinished", "--resume")
    one_line(Command(work, "sweep", "--resume").wait(), 2, "--resume", "--out")
    assert (snapshot(done), snapshot(stopped)) == before


def test_other_settings_are_refused_one_by_one(work, done):
    before = snapshot(done)
    given = (
        "--n=5 --seeds=1 --steps=41 --beta=2,3 --learning_rate=0.5 --layers=1,2 --first_seed=3 --chunk=1 --noise=iid"
    )
    line = one_line(Command(work, "sweep", "--out=done", "--resume", *given.split()).wait(), 2, "done/config.json")
    for difference in (
        *("n 5 (saved: 1)", "seeds 1 (saved: 2)", "steps 41 (saved: 40)", "beta 2.0,3.0 (saved: 1.0)"),
        *("learning_rate 0.5 (saved: 0.01)", "layers 1,2 (saved: 1)", "first_seed 3 (saved: 0)"),
        *("chunk 1 (saved: None)", "noise iid (saved: trapezoid)"),
    ):
        assert difference in line
    line = one_line(Command(work, "sweep", "--out=done", "--resume", "--preset=original").wait(), 2, "preset original")
    assert "activation elu (saved: tanh)" in line
    assert snapshot(done) == before


def test_another_schema_and_a_broken_config_are_refused(work, done):
    out = shutil.copytree(done, work / "schema")
    config = json.loads((out / "config.json").read_text())
    text = json.dumps(config)
    lacking = {name: value for name, value in config.items() if name != "settings"}
    wrong = {**config, "settings": {**config["settings"], "seeds": "many"}}
    for broken, words in (
        (json.dumps({**config, "schema": 99}), (f"schema {results.SCHEMA} is expected (saved: 99)",)),
        (text[:200], ("damaged",)),
        (json.dumps(lacking), ("settings",)),
        (json.dumps(wrong), ("stages", "settings")),
        ("[]", ("object", "array")),
    ):
        (out / "config.json").write_text(broken)
        one_line(Command(work, "sweep", "--out=schema", "--resume").wait(), 2, "schema/config.json", *words)


@pytest.mark.parametrize("name", BITS)
def test_no_command_reads_damaged_results(work, done, name):
    out = shutil.copytree(done, work / f"broken_{name}")
    content = (out / name).read_bytes()
    (out / name).write_bytes(content[: len(content) // 2])
    for args in (("sweep", "--resume", "--seeds=3", f"--out={out.name}"), ("figures", f"--run={out.name}")):
        one_line(Command(work, *args).wait(), 2, f"{out.name}/{name}")
    if name == "results.csv":
        (out / name).write_bytes(content.replace(b"1,1,1.0", b"1,1,2.0"))
        one_line(Command(work, "report", f"--run={out.name}").wait(), 2, f"{out.name}/{name}")


def test_a_link_out_of_the_folder_is_refused(work, stopped):
    out = shutil.copytree(stopped, work / "linked")
    shutil.move(out / "checkpoints", work / "elsewhere")
    (out / "checkpoints").symlink_to(work / "elsewhere")
    before = snapshot(work / "elsewhere")
    one_line(
        Command(work, "sweep", "--out=linked", "--resume").wait(), 2, "linked/checkpoints", "link out of the folder"
    )
    assert snapshot(work / "elsewhere") == before


def test_a_folder_of_other_things_is_left_alone(work):
    (work / "mine" / "checkpoints").mkdir(parents=True)
    one_line(Command(work, "sweep", *SMALL, "--out=mine").wait(), 2, "--out=mine", "holds checkpoints")
    assert names(work / "mine") == {"checkpoints"}


def test_lost_results_are_not_trained_again(work, done):
    out = shutil.copytree(done, work / "lost")
    (out / "results.csv").unlink()
    one_line(Command(work, "sweep", "--out=lost", "--resume").wait(), 2, "lost/results.csv", "No such file")
    assert names(out) == FILES - {"results.csv"}


def test_a_diverged_run_is_a_warning_and_all_of_them_a_failure(work, done):
    rates = ("--n=1", "--layers=1", "--steps=40", "--seeds=1")
    some = Command(work, "sweep", *rates, "--learning_rate=0.01,1e30", "--out=some").wait()
    assert (some.status, some.stderr) == (0, "warning: 1 of 2 runs diverged; see results.csv\n")
    rows, curves = results.load_table(work / "some"), results.load_curves(work / "some")
    assert rows["status"].tolist() == ["ok", "diverged"]
    assert rows["loss"][0] == results.load_table(work / "done")["loss"][0]
    assert rows["steps"].tolist() == [40, 0]
    assert all(np.all(np.isfinite(curve)) for curve in curves.values())
    every = Command(work, "sweep", "--n=1", "--layers=1", "--steps=40", "--seeds=2", "--learning_rate=1e30").wait()
    assert every.status == 1
    assert every.stderr == "warning: 2 of 2 runs diverged; see results.csv\n"
