"""A checkpoint gives back the bits it was given, or says that it cannot; the folder's files are replaced as one."""

import dataclasses
import errno
import json
import os
import random

import jax
import numpy as np
import pytest

from vae_bit import checkpoint, files, results, sweep
from vae_bit.files import Damaged
from vae_bit.sweep import Progress
from vae_bit.training import Metrics

WHERE = slice(1, 4)


@pytest.fixture(scope="module")
def group(tiny):
    (group,) = sweep.plan(tiny["default"], [2], [2, 3], [1.0], [1e-2], range(3))
    return group


def progress(group, blocks, padding=2):
    """Random bits in the shapes of three runs and two of padding."""
    rng = np.random.default_rng(blocks)
    like = checkpoint._like(group, WHERE, blocks)["state"]
    state = jax.tree.map(
        lambda leaf: rng.integers(0, 255, (3 + padding, *leaf.shape[1:], 4), np.uint8).view(leaf.dtype)[..., 0], like
    )
    return Progress(state, [Metrics(*rng.normal(size=(3, 3)).astype(np.float32)) for _ in range(blocks)])


def loaded(*args):
    """What `load` gives where there is something."""
    found = checkpoint.load(*args)
    assert found is not None
    return found


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_the_same_bits_come_back_without_the_padding(group, tmp_path):
    given = progress(group, 7)
    checkpoint.save(tmp_path, group, WHERE, given)
    found = loaded(tmp_path, group, WHERE)
    assert jax.tree.structure(found) == jax.tree.structure(given)
    assert bits(found.state) == bits(jax.tree.map(lambda leaf: leaf[:3], given.state))
    assert bits(found.curves) == bits(given.curves)


def test_only_the_latest_is_kept(group, tmp_path):
    for blocks in (3, 4, 11):
        checkpoint.save(tmp_path, group, WHERE, progress(group, blocks))
    (root,) = tmp_path.iterdir()
    assert sorted(path.name for path in root.iterdir()) == ["11", "11.sha256"]
    assert len(loaded(tmp_path, group, WHERE).curves) == 11
    checkpoint.remove(tmp_path, group, WHERE)
    assert checkpoint.load(tmp_path, group, WHERE) is None


def test_what_a_kill_cuts_short_is_not_seen(group, tmp_path):
    """At any of save's moments: while orbax writes, before the digest, before the older checkpoint has gone."""
    checkpoint.save(tmp_path, group, WHERE, progress(group, 3))
    (root,) = tmp_path.iterdir()
    (root / "4.orbax-checkpoint-tmp").mkdir()
    (root / "4").mkdir()
    (root / "4.sha256.partial").touch()
    assert len(loaded(tmp_path, group, WHERE).curves) == 3
    assert sorted(path.name for path in root.iterdir()) == ["3", "3.sha256"]
    older = {path.name: path.read_bytes() for path in root.glob("*.sha256")}
    checkpoint.save(tmp_path, group, WHERE, progress(group, 5))
    (root / "3").mkdir()
    (root / "3.sha256").write_bytes(older["3.sha256"])
    assert len(loaded(tmp_path, group, WHERE).curves) == 5
    (root / "5.sha256").unlink()
    assert checkpoint.load(tmp_path, group, WHERE) is None
    checkpoint.save(tmp_path, group, WHERE, progress(group, 5))
    assert len(loaded(tmp_path, group, WHERE).curves) == 5


def test_a_checkpoint_is_for_the_very_same_runs(group, tmp_path, monkeypatch):
    checkpoint.save(tmp_path, group, WHERE, progress(group, 2))
    runs = group.runs
    others = [
        group._replace(recipe=dataclasses.replace(group.recipe, steps=7)),
        group._replace(arch=dataclasses.replace(group.arch, activation="elu")),
        *(group._replace(runs=runs._replace(**{name: field + 1})) for name, field in runs._asdict().items()),
    ]
    assert all(checkpoint.load(tmp_path, other, WHERE) is None for other in others)
    assert all(checkpoint.load(tmp_path, group, where) is None for where in (slice(0, 4), slice(1, 3), slice(2, 5)))
    assert checkpoint.load(tmp_path, group._replace(runs=jax.tree.map(np.copy, runs)), WHERE) is not None
    monkeypatch.setattr(checkpoint, "LAYOUT", checkpoint.LAYOUT + 1)
    assert checkpoint.load(tmp_path, group, WHERE) is None


def test_no_changed_bit_goes_unnoticed(group, tmp_path):
    checkpoint.save(tmp_path, group, WHERE, progress(group, 2))
    paths = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(paths) > 5
    for path in paths:
        content = path.read_bytes()
        place = random.Random(path.name).randrange(len(content))
        for damage in (content[:place], content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]):
            path.write_bytes(damage)
            with pytest.raises(Damaged, match=str(tmp_path)):
                checkpoint.load(tmp_path, group, WHERE)
        path.write_bytes(content)
    assert len(loaded(tmp_path, group, WHERE).curves) == 2


def test_no_room(group, tmp_path, monkeypatch):
    checkpoint.save(tmp_path, group, WHERE, progress(group, 2))

    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save(tmp_path, group, WHERE, progress(group, 3))
    assert str(tmp_path) in caught.value.filename
    assert len(loaded(tmp_path, group, WHERE).curves) == 2


@pytest.fixture
def folder(tiny, trained, tmp_path):
    results.write(tmp_path, tiny["default"], trained, {"settings": {}})
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("moment", range(8))
def test_a_kill_leaves_the_old_files_or_the_new_ones(folder, tiny, trained, monkeypatch, moment):
    """Killed before its first, second, .. change of a file's name or its last but one write."""
    old, calls = contents(folder), []

    class Killed(BaseException):
        pass

    def dies(function):
        def call(*args):
            calls.append(args)
            if len(calls) > moment:
                raise Killed
            function(*args)

        return call

    monkeypatch.setattr(files.os, "replace", dies(os.replace))
    monkeypatch.setattr(files.os, "fsync", dies(os.fsync))
    with pytest.raises(Killed):  # 4 files are written and renamed
        results.write(folder, tiny["default"], trained[:1], {"settings": {}})
    monkeypatch.undo()
    rows = results.load(folder).rows
    assert rows["n"].size == (32 if moment < 5 else 16)
    files.remove_partials(folder)
    assert set(contents(folder)) == set(old)
    assert all(len(leaf) == (8 if "layers" in name else 0) for name, leaf in results.load(folder).params.items())
    if moment < 5:
        assert contents(folder) == old


@pytest.mark.parametrize("name", ["curves.npz", "params.npz", "results.csv", "config.json"])
def test_a_file_that_cannot_be_written_is_named_and_the_others_stay(folder, tiny, trained, name):
    old = contents(folder)
    (folder / f"{name}.partial").mkdir()
    with pytest.raises(OSError) as caught:
        results.write(folder, tiny["default"], trained[:1], {"settings": {}})
    assert caught.value.filename == str(folder / name)
    (folder / f"{name}.partial").rmdir()
    files.remove_partials(folder)
    assert contents(folder) == old


def damages(content):
    """Ways in which a disk, an editor or an attacker leaves a file."""
    place = random.Random(0).randrange(len(content))
    yield b""
    yield content[: len(content) // 2]
    yield content[:-1]
    yield content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("name", ["results.csv", "curves.npz", "params.npz"])
def test_damaged_results_are_refused(folder, name, digests):
    if not digests:
        config = files.read_config(folder)
        (folder / "config.json").write_text(json.dumps({**config, "files": {}}))
    content = (folder / name).read_bytes()
    for damage in list(damages(content))[: None if digests else 2]:
        (folder / name).write_bytes(damage)
        with pytest.raises(Damaged, match=str(folder / name)):
            results.load(folder)
    (folder / name).unlink()
    with pytest.raises(Damaged, match=rf"{folder / name}: No such file"):
        results.load(folder)
    elsewhere = folder.parent / f"{folder.name}_elsewhere"
    elsewhere.write_bytes(content)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(Damaged, match=f"{folder / name}: .*link"):
        results.load(folder)


@pytest.mark.parametrize("name", ["curves.npz", "params.npz"])
def test_pickled_objects_are_never_loaded(folder, name, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(folder / name, allow_pickle=True, loss=np.array([Trap()], object))
    config = files.read_config(folder)
    digests = config["files"] | {name: files.digest(folder / name)}
    files.write_config(folder, config | {"files": digests})
    with pytest.raises(Damaged, match=f"{folder / name}.*allow_pickle=False"):
        results.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_merged_parts_are_the_whole(trained):
    """Each run of the table with its own curves and parameters, however the runs came in."""
    whole = results.merge([results.contents(group) for group in trained])
    odd = [np.arange(group.group.runs.n.size) % 2 == 1 for group in trained]
    parts = []
    for group, own in zip(trained, odd, strict=True):
        for which in (own, ~own):
            fields = jax.tree.map(lambda leaf, which=which: leaf[which], tuple(group[1:]))
            runs = jax.tree.map(lambda leaf, which=which: leaf[which], group.group.runs)
            parts.append(results.contents(type(group)(group.group._replace(runs=runs), *fields)))
    again = results.merge(parts[::-1])
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert whole.rows["n"].tolist() == results.merge([results.contents(group) for group in trained]).rows["n"].tolist()
