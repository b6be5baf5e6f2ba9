"""Which runs a folder lacks, and how Python trains them, stops and goes on, without a command."""

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from commands import names, same_bits, saved
from sweeps import alone

from vae_bit import sweep
from vae_bit.store import files, folder, results, resume, table
from vae_bit.store.autosave import Autosave


def described(group):
    """All that its checkpoints are found by."""
    return group.build, group.layers, group.width, group.recipe, [field.tolist() for field in group.runs]


def test_only_what_is_lacking_is_planned_in_groups_that_stay(tiny):
    preset = alone(tiny["default"])
    settings = {"layers": [1, 2], "beta": [1.0], "learning_rate": [1e-2], "first_seed": 5, "n": [1, 5], "seeds": 2}
    settings |= {"word_dropout": None, "history": 0, "chunk": None}
    stages = resume.stages(settings, [])
    assert resume.stages(settings, stages) == stages
    first = resume.lacking(preset, settings, stages, None)
    assert [(group.layers, group.runs.n.size) for group in first] == [(1, 4), (2, 4)]
    settings |= {"n": [1, 5, 7], "seeds": 3}
    stages = resume.stages(settings, stages)
    both = resume.lacking(preset, settings, stages, None)
    assert [(group.layers, group.runs.n.size) for group in both] == [(1, 4), (1, 5), (2, 4), (2, 5)]
    assert described(both[0]) == described(first[0])
    keys = [key for group in first for key in resume._keys(group)]
    rows: Any = dict(zip(table.KEYS, map(np.array, zip(*keys, strict=True)), strict=True))
    rest = resume.lacking(preset, settings, stages, rows)
    assert [described(group) for group in rest] == [described(group) for group in both[1::2]]
    assert rest[0].runs.n.tolist() == [1, 5, 7, 7, 7]
    assert rest[0].runs.seed.tolist() == [7, 7, 5, 6, 7]


class Enough(Exception):
    """Raised by whoever wants the sweep to stop."""


def trained_into(out, variants, again=False, check=lambda: None):
    """What a sweep does with its folder, in a few lines."""
    settings = {"layers": [1], "n": [1], "beta": [1.0], "learning_rate": [1e-2], "first_seed": 0, "seeds": 4}
    settings |= {"word_dropout": None, "history": 0, "chunk": None}
    account = {**results.config(variants), **resume.origin(["python"]), "settings": settings}
    account["stages"] = resume.stages(settings, resume.read_account(out)["stages"] if again else [])
    with folder.opened(out, again):
        groups = resume.lacking(variants, settings, account["stages"], None)
        files.write_config(out, account)
        autosave = Autosave(out / folder.CHECKPOINTS, 0.0, check)
        trained = sweep.train_all(groups, 3, [autosave.watch(group, lambda *_: None) for group in groups])
        results.write(out, variants, trained, account)


def test_python_stops_a_sweep_and_goes_on(tiny, quick_compile, tmp_path):
    """With the bits of one that nothing disturbed, and a warning where what was saved is damaged."""
    preset = alone(tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=40)))
    trained_into(tmp_path / "done", preset)
    out = tmp_path / "stopped"

    def check():
        if any(blocks > 9 for blocks in saved(out)):
            raise Enough

    with pytest.raises(Enough):
        trained_into(out, preset, check=check)
    assert names(out) == {"config.json", "checkpoints"}
    assert max(saved(out)) == 11  # blocks: the tenth is saved, and the one after which the check was
    with pytest.raises(ValueError, match=f"^out={out}: holds an unfinished sweep already; .*, or resume=True to go on"):
        trained_into(out, preset)
    damaged = shutil.copytree(out, tmp_path / "damaged")
    (path,) = damaged.glob("checkpoints/*.npz")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=f"^{path}: damaged, .*; its runs are trained from the start"):
        trained_into(damaged, preset, again=True)
    assert same_bits(damaged, tmp_path / "done")
    trained_into(out, preset, again=True)
    assert same_bits(out, tmp_path / "done")
