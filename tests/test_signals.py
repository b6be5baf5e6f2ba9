"""Ctrl-C and SIGTERM: no save is cut short, no signal is lost, from the first import to the summary picture."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from commands import BITS, ROOT, SMALL, Command

from experiments import signals
from experiments.signals import Stop, Stopped
from vae_bit import sweep
from vae_bit.programs import Programs
from vae_bit.store import checkpoint, results
from vae_bit.store.autosave import Autosave
from vae_bit.sweep import Progress
from vae_bit.training import Metrics, State


@pytest.fixture(autouse=True)
def handlers():
    """What the tests' own process did with signals, put back."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def group(tiny):
    """Four runs of two blocks."""
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=1))
    (group,) = sweep.plan(preset, [1], [1], [1.0], None, [1e-2], range(4))
    return group


@pytest.fixture
def saves(monkeypatch):
    """Saves by run and blocks in place of files; `during(start, blocks)` is called in the middle of each."""
    done, before, during = [], [], []

    def save(folder, group, which, progress):
        item = (int(which[0]), len(progress.curves))
        before.append(item)
        for call in during:
            call(item)
        done.append(item)

    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(checkpoint, "load", lambda *_: None)
    return done, before, during


@pytest.fixture
def counting(monkeypatch):
    """Programs that only count steps, in chunks of two runs; the exact figures are the parameters."""

    def init(runs):
        return State(jnp.zeros(2, jnp.int32), jnp.ones(2, bool), {"q": [runs.seed]}, jnp.zeros((2, 1)))

    def advance(state, runs, steps):
        return state._replace(step=state.step + steps), Metrics(*[runs.seed.astype(np.float32)] * 3)

    def evaluate(params, runs, check):
        check()
        return params

    monkeypatch.setattr(sweep, "compile_programs", lambda group, chunk=None: Programs(2, init, advance))
    monkeypatch.setattr(sweep, "compile_evaluate", lambda *_: evaluate)


def progress(blocks):
    state: Any = np.zeros(2)
    return Progress(state, [Metrics(*jnp.zeros((3, 1)))] * blocks)


def test_a_signal_waits_until_it_is_looked_for_and_a_second_one_kills(capfd):
    stop = Stop()
    stop.check()
    signal.raise_signal(signal.SIGTERM)
    assert {signal.getsignal(number) for number in signals.SIGNALS} == {signal.SIG_DFL}
    assert len(capfd.readouterr().err.splitlines()) == 1
    with pytest.raises(Stopped) as stopped:
        stop.check()
    assert stopped.value.signal == signal.SIGTERM


def test_a_second_signal_that_comes_before_the_first_is_through():
    """As when Ctrl-C and SIGTERM come at once."""
    script = "from experiments.signals import Stop; stop = Stop(); stop._hear(2, None); stop._hear(15, None)"
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 143
    assert process.stderr.splitlines()[1:] == ["stopped by SIGTERM"]


def test_a_signal_that_is_to_be_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = Stop()
    signal.raise_signal(signal.SIGINT)
    stop.check()
    signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signals.leave_at_once()
    signals.interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_block_in_training_is_saved_before_the_sweep_stops(group, saves, tmp_path):
    stop = Stop()
    watch = Autosave(tmp_path, 1e9, stop.check).watch(group, lambda *_: None)
    watch.resume(np.arange(2))
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(Stopped):
        watch.report(np.arange(2), progress(1))
    assert saves[0] == [(0, 1)]


@pytest.mark.parametrize("moment", [(0, 1), (0, 2), (2, 1), (2, 2)])
def test_a_signal_in_a_save_neither_cuts_it_short_nor_is_lost(group, saves, counting, tmp_path, moment):
    """The last of them is that of the last chunk: all that is left is to evaluate."""
    done, begun, during = saves
    stop = Stop()
    autosave = Autosave(tmp_path, 0.0, stop.check)
    during.append(lambda item: item == moment and signal.raise_signal(signal.SIGINT))
    with pytest.raises(Stopped):
        sweep.train_all([group], 2, [autosave.watch(group, lambda *_: None)])
    assert done == begun  # no save is begun and not done, and none is done twice
    assert len(set(done)) == len(done)
    every = [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert done[: every.index(moment) + 1] == every[: every.index(moment) + 1]


def test_who_waits_for_a_program_stops_at_once(group, monkeypatch):
    """Whether the program of the training is awaited or that of the evaluation."""
    release = threading.Event()
    monkeypatch.setattr(sweep, "compile_programs", lambda *_: release.wait(60))
    monkeypatch.setattr(sweep, "compile_evaluate", lambda *_: release.wait(60))
    asked = []

    def check():
        asked.append(None)
        if len(asked) == 3:
            raise Stopped(signal.SIGINT)

    try:
        with pytest.raises(Stopped):
            sweep.train_all([group], None, [sweep.UNWATCHED._replace(check=check)])
    finally:
        release.set()


@pytest.mark.parametrize("number", signals.SIGNALS)
@pytest.mark.parametrize("module", ["jax.numpy", "optax"])
def test_while_the_command_imports(tmp_path, number, module):
    """Python says what it imports, and is stopped there."""
    line = [sys.executable, "-X", "importtime", "-m", "experiments.sweep", *SMALL]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any(text.split("|")[-1].strip() == module for text in process.stderr)
        process.send_signal(number)
        said = [text for text in process.stderr if not text.startswith("import time:")]
    assert said == [f"stopped by {signal.Signals(number).name}\n"]
    assert process.returncode == 128 + number
    assert not list(tmp_path.iterdir())


def test_after_the_last_save_and_before_the_picture(work, done):
    """Results are written and nothing is lost; what is left to do is drawn by the sweep that goes on."""
    out = work / "late"
    command = Command(work, "sweep", *SMALL, "--out=late")
    command.until((out / "results.csv").exists)
    command.kill(signal.SIGTERM)
    outcome = command.wait()
    assert outcome.status == 143
    assert outcome.stderr.splitlines()[-1].startswith("stopped by SIGTERM")
    assert len(outcome.stderr.splitlines()) <= 2
    again = Command(work, "sweep", "--out=late", "--resume").wait()
    assert (again.status, again.stderr) == (0, "")
    assert (out / "summary.png").exists()
    assert [(out / name).read_bytes() for name in BITS] == [(done / name).read_bytes() for name in BITS]
    assert results.load(out).rows["n"].size == 2
