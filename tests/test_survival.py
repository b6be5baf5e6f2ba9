"""The real command, broken for real: killed, stopped, out of room, damaged, used twice, run where little works."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import Command

from experiments import folder, keeper
from vae_bit import checkpoint, results, sweep
from vae_bit.programs import Programs, chunks, compile_evaluate, compile_programs
from vae_bit.sweep import Progress
from vae_bit.training import Metrics, State

ROOT = Path(__file__).parent.parent
FILES = {"results.csv", "curves.npz", "params.npz", "config.json", "summary.png"}
BITS = ("results.csv", "curves.npz", "params.npz")
SMALL = ("--n=1", "--layers=1", "--seeds=2", "--steps=40")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    commands.prepare(tmp_path_factory.mktemp("cache"))
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def done(work):
    """A sweep that nothing disturbed."""
    outcome = Command(work, "sweep", *SMALL, "--out=done").wait()
    assert (outcome.status, outcome.stderr) == (0, "")
    assert names(work / "done") == FILES
    return work / "done"


@pytest.fixture(scope="module")
def stopped(work, done):
    """The same sweep, stopped by Ctrl-C soon after its first checkpoint."""
    out = work / "stopped"
    command = Command(work, "sweep", *SMALL, "--out=stopped", "--checkpoint_every=0")
    command.until(lambda: saved(out))
    command.kill(signal.SIGINT)
    outcome = command.wait()
    assert outcome.status == 130
    assert outcome.stderr.splitlines()[-1].endswith("-m experiments.sweep --out=stopped --resume")
    assert names(out) == {"config.json", "checkpoints"}
    return out


def names(out):
    return {path.name for path in out.iterdir()}


def saved(out):
    """Complete checkpoints: how many blocks each holds."""
    return {int(path.name.removesuffix(".sha256")) for path in out.glob("checkpoints/*/*.sha256")}


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


def test_stopped_and_killed_it_ends_with_the_same_bits(work, done, stopped):
    out = shutil.copytree(stopped, work / "again")
    resume = ("sweep", "--out=again", "--resume")
    blocks = saved(out)
    term = Command(work, *resume, "--checkpoint_every=0")
    term.until(lambda: saved(out) - blocks)
    one_line(Command(work, *resume).wait(), 2, "--out=again", "another sweep is writing there")
    term.kill(signal.SIGTERM)
    assert term.wait().status == 143
    for moment in ("checkpoints/*/*.orbax-checkpoint-tmp*", "*.partial"):
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
        run = results.load_run(out, 1, n, seed=seed)
        assert run.row["loss"] == whole.rows["loss"][row]
        assert run.arch.width == n
    np.testing.assert_array_equal(whole.curves["loss"][:2], old.curves["loss"])
    before = snapshot(out)
    argv = json.loads(before[str(out / "config.json")])["argv"]
    assert set(argv[1:]) == {"--layers=1", "--n=2,1", "--seeds=3", "--steps=40", "--learning_rate=0.01"}
    outcome = Command(work, "sweep", "--out=more", "--resume").wait()
    assert (outcome.status, outcome.stdout.splitlines()[0]) == (0, "nothing left to train in more")
    assert {**snapshot(out), str(out / "config.json"): b""} == {**before, str(out / "config.json"): b""}


def test_only_what_is_lacking_is_planned_in_groups_that_stay(tiny):
    preset = tiny["default"]
    settings = {"layers": [1, 2], "beta": [1.0], "learning_rate": [1e-2], "first_seed": 5, "n": [1, 5], "seeds": 2}
    stages = folder.stages(settings, [])
    assert folder.stages(settings, stages) == stages
    first = folder.lacking(preset, settings, stages, None)
    assert [(group.arch.layers, group.runs.n.size) for group in first] == [(1, 4), (2, 4)]
    settings |= {"n": [1, 5, 7], "seeds": 3}
    stages = folder.stages(settings, stages)
    both = folder.lacking(preset, settings, stages, None)
    assert [(group.arch.layers, group.runs.n.size) for group in both] == [(1, 4), (1, 5), (2, 4), (2, 5)]
    assert checkpoint.name(both[0], slice(0, 4)) == checkpoint.name(first[0], slice(0, 4))
    keys = [key for group in first for key in folder._keys(group)]
    rows: Any = dict(zip(results.KEYS, map(np.array, zip(*keys, strict=True)), strict=True))
    rest = folder.lacking(preset, settings, stages, rows)
    assert [checkpoint.name(group, slice(0, 5)) for group in rest] == [
        checkpoint.name(group, slice(0, 5)) for group in both[1::2]
    ]
    assert rest[0].runs.n.tolist() == [1, 5, 7, 7, 7]
    assert rest[0].runs.seed.tolist() == [7, 7, 5, 6, 7]


def test_a_folder_in_use_is_refused(work, done, stopped):
    before = snapshot(done), snapshot(stopped)
    one_line(Command(work, "sweep", "--out=done").wait(), 2, "--out=done", "holds results", "--resume")
    one_line(Command(work, "sweep", "--out=stopped").wait(), 2, "--out=stopped", "unfinished", "--resume")
    one_line(Command(work, "sweep", "--out=none", "--resume").wait(), 2, "--out=none", "config.json")
    one_line(Command(work, "sweep", "--resume").wait(), 2, "--resume", "--out")
    assert (snapshot(done), snapshot(stopped)) == before
    assert not (work / "none").exists()


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
        (json.dumps({**config, "schema": 99}), (f"schema {results.SCHEMA} (saved: 99)",)),
        (text[:200], ("damaged",)),
        (json.dumps(lacking), ("settings",)),
        (json.dumps(wrong), ("many", "positive integer")),
        ("[]", ("object",)),
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
        fill(out, 16_384)
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


def test_a_folder_of_other_things_is_left_alone(work):
    (work / "mine" / "checkpoints").mkdir(parents=True)
    one_line(Command(work, "sweep", *SMALL, "--out=mine").wait(), 2, "--out=mine", "holds checkpoints")
    assert names(work / "mine") == {"checkpoints"}


def test_lost_results_are_not_trained_again(work, done):
    out = shutil.copytree(done, work / "lost")
    (out / "results.csv").unlink()
    one_line(Command(work, "sweep", "--out=lost", "--resume").wait(), 2, "lost/results.csv", "No such file")
    assert names(out) == FILES - {"results.csv"}


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


def test_a_diverged_run_is_a_warning_and_all_of_them_a_failure(work, done):
    rates = ("--n=1", "--layers=1", "--steps=40", "--seeds=1")
    some = Command(work, "sweep", *rates, "--learning_rate=0.01,1e30", "--out=some").wait()
    assert (some.status, some.stderr) == (0, "warning: 1 of 2 runs diverged; see results.csv\n")
    rows, curves = results.load_table(work / "some"), results.load_curves(work / "some")
    assert rows["status"].tolist() == ["ok", "diverged"]
    assert rows["loss"][0] == results.load_table(work / "done")["loss"][0]
    assert 0 < rows["steps"][1] < rows["steps"][0] == 40
    assert all(np.all(np.isfinite(curve)) for curve in curves.values())
    every = Command(work, "sweep", "--n=1", "--layers=1", "--steps=40", "--seeds=2", "--learning_rate=1e30").wait()
    assert every.status == 1
    assert every.stderr == "warning: 2 of 2 runs diverged; see results.csv\n"


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


NEVER: Any = SimpleNamespace(asked=None, check=lambda: None)  # in place of a Stop


@pytest.fixture
def clock(monkeypatch):
    """A keeper's time, and what it saves in place of writing it."""
    now, log = [0.0], []
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now[0])

    def save(folder, group, where, progress):
        log.append((now[0], where.start, len(progress.curves)))
        now[0] += 1.0

    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(checkpoint, "load", lambda *_: None)
    return now, log


def progress(blocks):
    """A chunk after so many blocks."""
    state: Any = np.zeros(2)
    return Progress(state, [Metrics(*jnp.zeros((3, 1)))] * blocks)


def test_when_work_is_saved(tiny, clock, tmp_path):
    """Every 30 s of training, and what is finished at once where saving takes less than 2 % of the time."""
    now, log = clock
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=4))
    (group,) = sweep.plan(preset, [1], [1], [1], [1], range(9))
    watch = keeper.Keeper(tmp_path, 30.0, NEVER).watch(group, lambda *_: None)
    for start, seconds in ((0, 1.0), (1, 1.0), (2, 12.0), (3, 2.0), (4, 1.0)):
        watch.resume(slice(start, start + 1))
        for blocks in range(1, 6):
            now[0] += seconds
            watch.report(slice(start, start + 1), progress(blocks))
    # time, first run and blocks of each save: one took a second, so the next finished chunks wait for 30 s to pass
    assert log == [(5.0, 0, 5), (47.0, 1, 5), (48.0, 2, 3), (79.0, 2, 5), (80.0, 3, 3)]


THE_PARAMETERS: Any = lambda params, runs, check: params  # noqa: E731 - in place of the exact evaluation


@pytest.fixture
def small_memory(monkeypatch):
    """Devices with room for chunks of so many runs, whose programs only count steps: the parameter is the seed."""
    sizes = []

    def programs(most, group, chunk=None):
        sizes.append(chunks(group, chunk)[0].stop)

        def init(runs):
            moment = jnp.zeros((runs.n.size, 1))
            return State(jnp.zeros(runs.n.size, jnp.int32), {"q": [runs.seed]}, moment, moment)

        def advance(state, runs, steps):
            if sizes[-1] > most and state.step[0] > 1 and 5 in runs.seed:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
            return state._replace(step=state.step + steps), Metrics(*[runs.seed.astype(np.float32)] * 3)

        return Programs(sizes[-1], init, advance)

    def limit(most):
        monkeypatch.setattr(sweep, "compile_programs", functools.partial(programs, most))
        return sizes

    return limit


def test_out_of_memory_the_chunk_is_halved(tiny, small_memory):
    """In the third; what is done by then stays."""
    sizes = small_memory(3)
    (group,) = sweep.plan(tiny["default"], [1], [2], [1.0], [1e-2], [*range(10, 18), *range(9)])
    heard = []
    watch = sweep.UNWATCHED._replace(report=lambda runs, progress: heard.append((runs.start, runs.stop)))
    with pytest.warns(UserWarning, match="out of device memory: layers 1, n up to 2: .* runs at a time") as notices:
        trained = sweep.train(group, sweep.compile_programs(group, 8), THE_PARAMETERS, watch)
    assert sizes == [6, 3]
    assert len(notices) == 1
    np.testing.assert_array_equal(trained.params["q"][0], group.runs.seed)
    np.testing.assert_array_equal(trained.curves.loss[:, -1], group.runs.seed)
    assert set(trained.steps) == {tiny["default"].recipe.steps}
    assert list(dict.fromkeys(heard)) == [(0, 6), (6, 12), (12, 17), (12, 15), (15, 17)]


def test_out_of_memory_with_a_run_on_each_device(tiny, small_memory):
    small_memory(0)
    (group,) = sweep.plan(tiny["default"], [1], [2], [1.0], [1e-2], range(17))
    with pytest.warns(UserWarning), pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        sweep.train(group, sweep.compile_programs(group), THE_PARAMETERS)


@pytest.fixture(scope="module")
def wide(tiny, quick_compile):
    """64 runs of one layer, their programs and their healthy outcome."""
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=60))
    (group,) = sweep.plan(preset, [1], [2], [1.0], [1e-2], range(64))
    programs = compile_programs(group), compile_evaluate(group.arch, 64)
    return group, programs, sweep.train(group, *programs)


def test_three_of_64_runs_diverge_and_change_no_bit_of_the_others(wide):
    group, programs, healthy = wide
    bad = np.isin(np.arange(64), (0, 21, 63))
    rate = np.where(bad, 1e30, group.runs.learning_rate)
    mixed = sweep.train(group._replace(runs=group.runs._replace(learning_rate=rate)), *programs)
    for mine, theirs in zip(jax.tree.leaves(mixed[1:]), jax.tree.leaves(healthy[1:]), strict=True):
        np.testing.assert_array_equal(mine[~bad], theirs[~bad])
    rows = results.contents(mixed).rows
    np.testing.assert_array_equal(rows["status"] == "diverged", bad)
    assert set(rows["steps"][~bad]) == {60}
    assert np.all((rows["steps"][bad] > 0) & (rows["steps"][bad] < 60))
    curves = np.stack(mixed.curves)
    assert np.all(np.isfinite(curves))
    last = rows["steps"][bad].max()
    np.testing.assert_array_equal(curves[:, bad, last + 1 :], curves[:, bad, last : last + 1].repeat(60 - last, 2))
