"""When a sweep's work is saved."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit import sweep
from vae_bit.store import autosave, checkpoint
from vae_bit.sweep import Progress
from vae_bit.training import Metrics


@pytest.fixture
def clock(monkeypatch):
    """An Autosave's time, and what it saves in place of writing it."""
    now, log = [0.0], []
    monkeypatch.setattr(autosave.time, "monotonic", lambda: now[0])

    def save(folder, group, which, progress):
        log.append((now[0], int(which[0]), len(progress.curves)))
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
    (group,) = sweep.plan(preset, [1], [1], [1], None, [1], range(9))
    watch = autosave.Autosave(tmp_path, 30.0).watch(group, lambda *_: None)
    for start, seconds in ((0, 1.0), (1, 1.0), (2, 12.0), (3, 2.0), (4, 1.0)):
        watch.resume(np.array([start]))
        for blocks in range(1, 6):
            now[0] += seconds
            watch.report(np.array([start]), progress(blocks))
    # time, first run and blocks of each save: one took a second, so the next finished chunks wait for 30 s to pass
    assert log == [(5.0, 0, 5), (47.0, 1, 5), (48.0, 2, 3), (79.0, 2, 5), (80.0, 3, 3)]


class Enough(BaseException):
    """As raised by whoever wants the sweep to stop; it may be no Exception."""


def test_the_chunk_in_training_is_saved_before_the_sweep_stops(tiny, clock, tmp_path):
    """And with it what is finished and was not worth saving yet."""
    _, log = clock
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=1))
    (group,) = sweep.plan(preset, [1], [1], [1], None, [1], range(3))
    ends = []

    def check():
        if ends:
            raise Enough

    watch = autosave.Autosave(tmp_path, 30.0, check).watch(group, lambda *_: None)
    for start in (0, 1):
        watch.report(np.array([start]), progress(2))
    assert log == [(0.0, 0, 2)]
    ends.append(None)
    with pytest.raises(Enough):
        watch.report(np.array([2]), progress(1))
    assert log == [(0.0, 0, 2), (1.0, 1, 2), (2.0, 2, 1)]
    with pytest.raises(Enough):
        watch.check()
    with pytest.raises(Enough):
        watch.resume(np.array([2]))
