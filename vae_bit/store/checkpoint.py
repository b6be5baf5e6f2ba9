"""Checkpoints of runs in training: one file for each chunk that was trained together, an npz followed by its SHA-256.

A run is known by its numbers and by everything that its training depends on beside them: model, depth, padded width,
recipe and points of the curves. Which runs it was trained together with does not matter, so that what was saved
is found whatever the chunks are now. The padding that the devices needed is not saved. No pickle anywhere.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from vae_bit import training
from vae_bit.models import Model
from vae_bit.programs import KINDS, Group
from vae_bit.store import files
from vae_bit.store.describe import describe
from vae_bit.store.files import Damaged
from vae_bit.sweep import Progress, block_ends, history_steps
from vae_bit.training import Metrics, Recipe, Run, State

LAYOUT = 5  # of the arrays saved; checkpoints of another are not found
DIGEST_BYTES = hashlib.sha256().digest_size
Arrays = dict[str, np.ndarray]


class Saved(NamedTuple):
    """The latest that is saved of each of a group's R runs."""

    blocks: np.ndarray  # [R] that the run has come, 0 where nothing is saved
    row: np.ndarray  # [R] in the arrays of its file
    path: list[Path | None]


NOTHING = Saved(np.zeros(0, int), np.zeros(0, int), [])


def save(folder: Path, group: Group, which: np.ndarray, progress: Progress) -> None:
    """Saves how far these runs have come, in place of what was saved of just them; OSError names the path."""
    runs = Run(*(field[which] for field in group.runs))
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[: which.size], progress.state)
    curves = jax.tree.map(lambda *points: np.stack(points, 1), *progress.curves)
    tree = {"runs": runs, "state": state, "curves": curves, "history": progress.history}
    arrays = {"of": np.array(_subject(group)), **_named(tree)}
    files.make_folder(folder)
    files.write(folder / f"{_name(group)}_{_short(repr(_keys(runs)))}.npz", _digested(arrays))


def find(folder: Path, group: Group) -> tuple[Saved, list[Damaged]]:
    """What is saved of the group's runs, and what is wrong with files that are damaged, which are removed."""
    count = group.runs.n.size
    saved, damaged = Saved(np.zeros(count, int), np.zeros(count, int), [None] * count), []
    files.remove_partials(folder)
    place = {key: index for index, key in enumerate(_keys(group.runs))}
    for path in sorted(folder.glob(f"{_name(group)}_*.npz")):
        try:
            runs, progress = _read(path, group)
        except Damaged as error:
            damaged.append(error)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            continue
        for row, key in enumerate(_keys(runs)):
            index = place.get(key)
            if index is not None and len(progress.curves) > saved.blocks[index]:
                saved.blocks[index], saved.row[index], saved.path[index] = len(progress.curves), row, path
    return saved, damaged


def load(saved: Saved, group: Group, which: np.ndarray) -> Progress | None:
    """The Progress of runs of which equally many blocks are saved, None where none are; Damaged names a file."""
    if not np.any(saved.blocks[which]):
        return None
    paths = sorted({path for index in which if (path := saved.path[index])})
    parts = [_read(path, group) for path in paths]
    starts = dict(zip(paths, np.cumsum([0, *(runs.n.size for runs, _ in parts[:-1])]), strict=True))
    index = np.array([starts[saved.path[run]] + saved.row[run] for run in which])
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[index], *(progress for _, progress in parts))


def _read(path: Path, group: Group) -> tuple[Run, Progress]:
    """The runs of a file and how far they have come; Damaged where it is not as it was written for such a group."""
    with files.naming(path):
        content = path.read_bytes()
        if hashlib.sha256(memoryview(content)[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
            raise ValueError("it does not end with its SHA-256")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if arrays.pop("of").item() != _subject(group):
            raise ValueError("it holds runs of another model or recipe")
        like = _like(group, *arrays["curves/loss"].shape)
        files.check_arrays(arrays, _named(like))
        tree = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in _named(like)])
        points = zip(*(curve.T for curve in tree["curves"]), strict=True)
        return tree["runs"], Progress(tree["state"], [Metrics(*point) for point in points], tree["history"])


def _like(group: Group, count: int, blocks: int) -> dict[str, Any]:
    """Shapes and types of what is saved of so many runs after so many blocks."""
    runs: Any = [jax.ShapeDtypeStruct((count,), field.dtype) for field in group.runs]
    one = _like_one(group.model, group.recipe)
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), one)
    curve: Any = jax.ShapeDtypeStruct((count, blocks), np.float32)
    steps = group.recipe.steps
    passed = np.sum(history_steps(steps, group.history) <= block_ends(steps)[blocks - 1])
    history = (state.params,) * int(passed)
    return {"runs": Run(*runs), "state": state, "curves": Metrics(curve, curve, curve), "history": history}


@cache
def _like_one(model: Model, recipe: Recipe) -> State:
    run: Any = [jax.ShapeDtypeStruct((), kind) for kind in KINDS]
    return jax.eval_shape(partial(training.init, model, recipe), Run(*run))


def _named(tree: Any) -> Any:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _digested(arrays: Arrays) -> Callable[[IO[bytes]], Any]:
    def write_to(file: Any) -> None:
        np.savez(file, allow_pickle=False, **arrays)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.write(digest)

    return write_to


def _subject(group: Group) -> str:
    """What a run's training depends on beside its numbers."""
    points = block_ends(group.recipe.steps).size
    subject = LAYOUT, describe(group.build), group.layers, group.width, describe(group.recipe), points, group.history
    return json.dumps(subject, sort_keys=True)


def _name(group: Group) -> str:
    return f"layers={group.layers}_width={group.width}_{_short(_subject(group))}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _keys(runs: Run) -> list[tuple]:
    return list(zip(*(field.tolist() for field in runs), strict=True))
