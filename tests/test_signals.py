"""Signals to stop: none interrupts a save, none is lost, and none ends in a traceback."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import keeper
from experiments.signals import STOPPING, Signals, Stopped
from vae_bit import checkpoint, sweep
from vae_bit.sweep import Progress
from vae_bit.training import Metrics

ROOT = Path(__file__).parents[1]
FIRST = np.array([0])


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def signals():
    installed = Signals()
    installed.install()
    return installed


def meanings():
    return {signal.getsignal(number) for number in STOPPING}


def progress(blocks):
    """A chunk after so many blocks."""
    state: Any = np.zeros(2)
    return Progress(state, [Metrics(*jnp.zeros((3, 1)))] * blocks)


@pytest.fixture
def saves(monkeypatch):
    """What is saved, and whether a signal comes in the middle of it."""
    log: list[str] = []

    def save(*_):
        log.append("begun")
        if "signal" in log:
            signal.raise_signal(signal.SIGTERM)
        log.append("saved")

    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(checkpoint, "load", lambda *_: None)
    return log


@pytest.fixture
def watch(tiny, saves, signals, tmp_path):
    """A chunk of one run in training, of which 5 blocks are the end."""
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=4))
    (group,) = sweep.plan(preset, [1], [1], [1], [1], range(2))
    watch = keeper.Keeper(tmp_path, 30.0, signals).watch(group, lambda *_: None)
    watch.resume(FIRST)
    return watch


def test_a_signal_that_nothing_holds_stops_at_once(signals):
    with pytest.raises(Stopped) as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.signal == signal.SIGTERM
    assert meanings() == {signal.SIG_DFL}


def test_a_signal_in_training_waits_for_the_block_and_a_second_one_does_not(watch, saves, capfd):
    signal.raise_signal(signal.SIGINT)
    assert (meanings(), saves) == ({signal.SIG_DFL}, [])
    with pytest.raises(Stopped) as stop:
        watch.report(FIRST, progress(1))
    assert (stop.value.signal, saves) == (signal.SIGINT, ["begun", "saved"])
    assert capfd.readouterr().err.count("second signal") == 1


def test_a_signal_in_the_last_chunk_s_save_lets_it_end_and_then_stops(watch, saves, capfd):
    for blocks in range(1, 5):
        watch.report(FIRST, progress(blocks))
    saves.append("signal")
    with pytest.raises(Stopped):
        watch.report(FIRST, progress(5))
    assert saves == ["signal", "begun", "saved"]
    assert capfd.readouterr().err.count("second signal") == 1


def test_a_signal_within_what_is_held_is_heard_at_its_end(signals):
    log = []
    with pytest.raises(Stopped), signals.held():
        with signals.held():
            signal.raise_signal(signal.SIGINT)
        log.append("the outer one goes on")
    assert log and signals.asked


def test_a_fault_within_what_is_held_is_told_and_the_next_signal_is_heard(signals):
    with pytest.raises(OSError), signals.held():
        raise OSError
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)


def test_signals_that_are_ignored_stay_so_and_the_rest_is_restored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals = Signals()
    signals.install()
    signal.raise_signal(signal.SIGINT)
    assert not signals.asked
    signals.restore()
    assert [signal.getsignal(number) for number in STOPPING] == [signal.SIG_IGN, signal.SIG_DFL]


@pytest.mark.parametrize("seconds", [0.2, 0.6])
def test_a_command_that_is_importing_ends_without_a_word(tmp_path, seconds):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "experiments.sweep", "--n=1", "--steps=1"]
    process = subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (-signal.SIGINT, "")
    assert list(tmp_path.iterdir()) == []
