"""When a sweep's work is saved, and which runs a folder lacks."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import folder, keeper
from vae_bit import sweep
from vae_bit.store import checkpoint, results
from vae_bit.sweep import Progress
from vae_bit.training import Metrics

NEVER: Any = SimpleNamespace(asked=None, check=lambda: None)  # in place of a Stop


def described(group):
    """All that its checkpoints are found by."""
    return group.arch, group.recipe, [field.tolist() for field in group.runs]


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
    assert described(both[0]) == described(first[0])
    keys = [key for group in first for key in folder._keys(group)]
    rows: Any = dict(zip(results.KEYS, map(np.array, zip(*keys, strict=True)), strict=True))
    rest = folder.lacking(preset, settings, stages, rows)
    assert [described(group) for group in rest] == [described(group) for group in both[1::2]]
    assert rest[0].runs.n.tolist() == [1, 5, 7, 7, 7]
    assert rest[0].runs.seed.tolist() == [7, 7, 5, 6, 7]


@pytest.fixture
def clock(monkeypatch):
    """A keeper's time, and what it saves in place of writing it."""
    now, log = [0.0], []
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now[0])

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
    (group,) = sweep.plan(preset, [1], [1], [1], [1], range(9))
    watch = keeper.Keeper(tmp_path, 30.0, NEVER).watch(group, lambda *_: None)
    for start, seconds in ((0, 1.0), (1, 1.0), (2, 12.0), (3, 2.0), (4, 1.0)):
        watch.resume(np.array([start]))
        for blocks in range(1, 6):
            now[0] += seconds
            watch.report(np.array([start]), progress(blocks))
    # time, first run and blocks of each save: one took a second, so the next finished chunks wait for 30 s to pass
    assert log == [(5.0, 0, 5), (47.0, 1, 5), (48.0, 2, 3), (79.0, 2, 5), (80.0, 3, 3)]
