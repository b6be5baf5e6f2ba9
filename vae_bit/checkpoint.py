"""Checkpoints of chunks of runs, saved by orbax (its v1 interface) as folders `CHUNK/BLOCKS` of a checkpoint folder.

CHUNK names the runs and everything that their training depends on, so a checkpoint is found by just the sweep that it
fits. One is complete once its SHA-256 lies beside it: what a kill has cut short has none, and orbax never gets to read
a damaged one. Only a chunk's latest is kept. The padding that the devices needed is not saved.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from vae_bit import files, training
from vae_bit.programs import Group
from vae_bit.sweep import Progress, block_ends
from vae_bit.training import Metrics

DIGEST = ".sha256"
LAYOUT = 2  # of the arrays saved; checkpoints of another are not found
OVERHEAD = 1 << 18  # bytes that a checkpoint takes beside its arrays: some twenty small files


def name(group: Group, where: slice) -> str:
    """A folder name for some runs of the group, the same for equal runs, architecture and recipe alone."""
    blocks, runs = block_ends(group.recipe.steps).size, [field[where].tolist() for field in group.runs]
    content = repr((LAYOUT, group.arch, group.recipe, blocks, runs))
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return f"layers={group.arch.layers}_width={group.arch.width}_runs={where.stop - where.start}_{digest}"


def save(folder: Path, group: Group, where: slice, progress: Progress) -> None:
    """Saves how far these runs have come and then removes what was saved of them before; OSError names the path."""
    root, blocks = folder / name(group, where), len(progress.curves)
    root.mkdir(parents=True, exist_ok=True)
    tree = _tree(progress, where.stop - where.start)
    _reserve(root / str(blocks), OVERHEAD + sum(leaf.nbytes for leaf in jax.tree.leaves(tree)))
    try:
        ocp.save(str(root.absolute() / str(blocks)), tree, custom_metadata={"steps": int(np.max(tree["state"].step))})
    except (ValueError, RuntimeError) as error:  # what tensorstore makes of the system's errors
        raise OSError(errno.EIO, str(error).split("[tensorstore")[0], str(root / str(blocks))) from error
    digest = files.digest(root / str(blocks))
    files.write(root / f"{blocks}{DIGEST}", lambda file: file.write(digest.encode()))
    _remove_others(root, blocks)


def load(folder: Path, group: Group, where: slice) -> Progress | None:
    """The latest that was saved of these runs, if anything; Damaged where it is not as it was written.

    Removes what a kill has cut short.
    """
    root = folder / name(group, where)
    blocks = max((int(path.name.removesuffix(DIGEST)) for path in root.glob(f"*{DIGEST}")), default=0)
    if root.exists():
        _remove_others(root, blocks)
    if not blocks:
        return None
    with files.naming(root / str(blocks)) as path:
        if files.digest(path) != (root / f"{blocks}{DIGEST}").read_text():
            raise ValueError("its SHA-256 is not the one beside it")
        tree = ocp.load(str(path.absolute()), _like(group, where, blocks))
        curves = [Metrics(**{key: curve[:, point] for key, curve in tree["curves"].items()}) for point in range(blocks)]
        return Progress(tree["state"], curves)


def remove(folder: Path, group: Group, where: slice) -> None:
    """Removes all that was saved of these runs."""
    shutil.rmtree(folder / name(group, where))


def _tree(progress: Progress, count: int) -> dict[str, Any]:
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], progress.state)
    return {"state": state, "curves": jax.tree.map(lambda *points: np.stack(points, 1), *progress.curves)._asdict()}


def _like(group: Group, where: slice, blocks: int) -> dict[str, Any]:
    """The shapes and types of what `_tree` gives."""
    runs = jax.tree.map(lambda field: field[where].astype(field.dtype.name.replace("64", "32")), group.runs)
    state = jax.eval_shape(jax.vmap(partial(training.init, group.arch, group.recipe)), runs)
    curve = jax.ShapeDtypeStruct((where.stop - where.start, blocks), np.float32)
    tree = {"state": state, "curves": dict.fromkeys(Metrics._fields, curve)}
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)


def _reserve(path: Path, size: int) -> None:
    """Fails where there is no room for `size` bytes, in the system's own words and before orbax begins to write."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _remove_others(root: Path, blocks: int) -> None:
    """Removes all but the given blocks; digests go first, as a folder without one counts for nothing."""
    for path in sorted(root.iterdir(), key=lambda path: path.is_dir()):
        if path.name.removesuffix(DIGEST) != str(blocks):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
