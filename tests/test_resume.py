"""Which runs a folder lacks, and how they are trained from Python as from the command line."""

from typing import Any

import numpy as np

from vae_bit.store import results, resume


def described(group):
    """All that its checkpoints are found by."""
    return group.arch, group.recipe, [field.tolist() for field in group.runs]


def test_only_what_is_lacking_is_planned_in_groups_that_stay(tiny):
    preset = tiny["default"]
    settings = {"layers": [1, 2], "beta": [1.0], "learning_rate": [1e-2], "first_seed": 5, "n": [1, 5], "seeds": 2}
    stages = resume.stages(settings, [])
    assert resume.stages(settings, stages) == stages
    first = resume.lacking(preset, settings, stages, None)
    assert [(group.arch.layers, group.runs.n.size) for group in first] == [(1, 4), (2, 4)]
    settings |= {"n": [1, 5, 7], "seeds": 3}
    stages = resume.stages(settings, stages)
    both = resume.lacking(preset, settings, stages, None)
    assert [(group.arch.layers, group.runs.n.size) for group in both] == [(1, 4), (1, 5), (2, 4), (2, 5)]
    assert described(both[0]) == described(first[0])
    keys = [key for group in first for key in resume._keys(group)]
    rows: Any = dict(zip(results.KEYS, map(np.array, zip(*keys, strict=True)), strict=True))
    rest = resume.lacking(preset, settings, stages, rows)
    assert [described(group) for group in rest] == [described(group) for group in both[1::2]]
    assert rest[0].runs.n.tolist() == [1, 5, 7, 7, 7]
    assert rest[0].runs.seed.tolist() == [7, 7, 5, 6, 7]
