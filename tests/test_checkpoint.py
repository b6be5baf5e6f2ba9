"""A checkpoint gives back the bits it was given, for whatever chunk of the runs, or says that it cannot."""

import dataclasses
import errno
import os
import random

import jax
import numpy as np
import pytest

from vae_bit import sweep
from vae_bit.networks import elu
from vae_bit.store import checkpoint, files
from vae_bit.sweep import Progress
from vae_bit.training import Metrics

WHICH = np.array([1, 2, 3])


@pytest.fixture(scope="module")
def group(tiny):
    (group,) = sweep.plan(tiny["default"], [2], [2, 3], [1.0], None, [1e-2], range(3))
    return group


def progress(group, blocks, which=WHICH, padding=2):
    """Random bits in the shapes of the runs and two of padding."""
    rng = np.random.default_rng(blocks)
    like = checkpoint._like(group, which.size, blocks)["state"]

    def draw(leaf):
        shape = (which.size + padding, *leaf.shape[1:])
        if leaf.dtype == bool:
            return rng.integers(0, 2, shape).astype(bool)
        return rng.integers(0, 255, (*shape, 4), np.uint8).view(leaf.dtype)[..., 0]

    state = jax.tree.map(draw, like)
    curves = [Metrics(*rng.normal(size=(3, which.size)).astype(np.float32)) for _ in range(blocks)]
    return Progress(state, curves)


def loaded(folder, group, which=WHICH):
    """What there is of the runs."""
    saved, damaged = checkpoint.find(folder, group)
    assert damaged == []
    return checkpoint.load(saved, group, which)


def blocks(folder, group):
    return checkpoint.find(folder, group)[0].blocks.tolist()


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def taken(progress, index):
    return jax.tree.map(lambda leaf: leaf[index], progress)


def test_the_same_bits_come_back_without_the_padding(group, tmp_path):
    given = progress(group, 7)
    checkpoint.save(tmp_path, group, WHICH, given)
    found = loaded(tmp_path, group)
    assert jax.tree.structure(found) == jax.tree.structure(given)
    assert bits(found) == bits(taken(given, slice(3)))
    assert blocks(tmp_path, group) == [0, 7, 7, 7, 0, 0]


def test_runs_are_found_in_any_chunk(group, tmp_path):
    """Of two files, in another order, and in a group of other runs: what identifies a run is the run alone."""
    one, two = progress(group, 4), progress(group, 4, np.array([4, 5]))
    checkpoint.save(tmp_path, group, WHICH, one)
    checkpoint.save(tmp_path, group, np.array([4, 5]), two)
    found = loaded(tmp_path, group, np.array([5, 1, 3]))
    expected = jax.tree.map(lambda a, b: np.stack([b[1], a[0], a[2]]), one, two)
    assert bits(found) == bits(expected)
    longer = group._replace(runs=jax.tree.map(lambda field: np.concatenate([field[:1] + 9, field[::-1]]), group.runs))
    assert blocks(tmp_path, longer) == [0, 4, 4, 4, 4, 4, 0]
    assert bits(loaded(tmp_path, longer, np.array([1, 5, 3]))) == bits(expected)


def test_the_latest_of_a_run_counts(group, tmp_path):
    """In place of what was saved of the same chunk; beside what was saved of another."""
    for count in (3, 4, 11):
        checkpoint.save(tmp_path, group, WHICH, progress(group, count))
    assert len(list(tmp_path.iterdir())) == 1
    assert blocks(tmp_path, group) == [0, 11, 11, 11, 0, 0]
    checkpoint.save(tmp_path, group, np.array([3, 4]), progress(group, 12, np.array([3, 4])))
    checkpoint.save(tmp_path, group, np.array([0, 1]), progress(group, 2, np.array([0, 1])))
    assert blocks(tmp_path, group) == [2, 11, 11, 12, 12, 0]
    found = loaded(tmp_path, group, np.array([2, 1]))
    assert bits(found) == bits(taken(progress(group, 11), np.array([1, 0])))


def test_what_a_kill_cuts_short_is_not_seen(group, tmp_path, monkeypatch):
    """Before the file has its name there is only the older one."""

    class Killed(BaseException):
        pass

    def dies(*_):
        raise Killed

    checkpoint.save(tmp_path, group, WHICH, progress(group, 3))
    (path,) = tmp_path.iterdir()
    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(files.os, function, dies)
            checkpoint.save(tmp_path, group, WHICH, progress(group, 4))
        assert len(list(tmp_path.iterdir())) == 2
        assert blocks(tmp_path, group) == [0, 3, 3, 3, 0, 0]
        assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_is_for_the_very_same_runs(group, tmp_path, monkeypatch):
    checkpoint.save(tmp_path, group, WHICH, progress(group, 2))
    runs = group.runs
    others = [
        group._replace(recipe=dataclasses.replace(group.recipe, steps=7)),
        group._replace(build=dataclasses.replace(group.build, activation=elu)),
        group._replace(width=4),
        *(group._replace(runs=runs._replace(**{name: field + 7})) for name, field in runs._asdict().items()),
    ]
    assert [sum(blocks(tmp_path, other)) for other in others] == [0] * 8
    assert loaded(tmp_path, group, np.array([0, 4])) is None
    monkeypatch.setattr(checkpoint, "LAYOUT", checkpoint.LAYOUT + 1)
    assert loaded(tmp_path, group) is None


def damages(content):
    """Cut short, and a changed bit in some fifty places: of the digest, the archive's directory, the arrays."""
    yield b""
    yield content[:20]
    yield content[: len(content) // 2]
    yield content[:-1]
    places = random.Random(0).sample(range(len(content)), 40)
    for place in (*places, 0, len(content) - 1, len(content) - 33, len(content) - 40):
        yield content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def test_no_changed_bit_goes_unnoticed_and_what_is_damaged_is_removed(group, tmp_path):
    checkpoint.save(tmp_path, group, WHICH, progress(group, 2))
    checkpoint.save(tmp_path, group, np.array([0, 3]), progress(group, 1, np.array([0, 3])))
    path = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    for damage in damages(content):
        path.write_bytes(damage)
        saved, (error,) = checkpoint.find(tmp_path, group)
        assert str(path) in str(error)
        assert saved.blocks.tolist() == [1, 0, 0, 1, 0, 0]
        assert not path.exists()
    path.mkdir()
    saved, (error,) = checkpoint.find(tmp_path, group)
    assert str(path) in str(error)
    path.write_bytes(content)
    assert blocks(tmp_path, group) == [1, 2, 2, 2, 0, 0]


def test_a_file_of_other_runs_under_a_name_of_ours_is_refused(group, tmp_path):
    other = group._replace(build=dataclasses.replace(group.build, activation=elu))
    checkpoint.save(tmp_path, other, WHICH, progress(group, 2))
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / path.name.replace(checkpoint._name(other), checkpoint._name(group)))
    saved, (error,) = checkpoint.find(tmp_path, group)
    assert "another model or recipe" in str(error)
    assert not saved.blocks.any()


def test_what_else_lies_there_is_left_alone(group, tmp_path):
    (tmp_path / "foo.sha256").touch()
    (tmp_path / "foo.npz").touch()
    checkpoint.save(tmp_path, group, WHICH, progress(group, 2))
    assert blocks(tmp_path, group) == [0, 2, 2, 2, 0, 0]
    assert (tmp_path / "foo.npz").exists()


def test_no_room(group, tmp_path, monkeypatch):
    checkpoint.save(tmp_path, group, WHICH, progress(group, 2))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoint.save(tmp_path, group, WHICH, progress(group, 3))
    assert str(tmp_path) in caught.value.filename
    assert blocks(tmp_path, group) == [0, 2, 2, 2, 0, 0]


@pytest.fixture
def counted(tiny, quick_compile):
    """14 runs, their programs in chunks of so many, and a list that the steps of every chunk go into."""
    preset = tiny["default"]._replace(recipe=dataclasses.replace(tiny["default"].recipe, steps=8))
    (group,) = sweep.plan(preset, [1], [2], [1.0], None, [1e-2], range(14))
    return group


def train(group, folder, chunk, stop=None):
    """Trains what `folder` lacks, saving every block until `stop` blocks in all; the outcome and the blocks trained."""
    heard = []

    def report(which, progress):
        heard.append((which.tolist(), len(progress.curves)))
        checkpoint.save(folder, group, which, progress)
        if len(heard) == stop:
            raise InterruptedError

    saved, damaged = checkpoint.find(folder, group)
    assert damaged == []
    watch = sweep.Watch(lambda group: saved.blocks, lambda which: checkpoint.load(saved, group, which), report)
    programs = sweep.compile_programs(group, chunk)
    try:
        return sweep.train(group, programs, lambda params, runs, check: params, watch), heard
    except InterruptedError:
        return None, heard


@pytest.mark.parametrize("chunk", [3, 6, 9, 12])
def test_what_is_saved_in_chunks_of_6_is_used_in_chunks_of_any_size(counted, tmp_path, chunk):
    """Stopped in the fourth of the second chunk's nine blocks. In chunks of the same size every bit is the same."""
    whole, every = train(counted, tmp_path / "whole", 6)
    assert len(every) == 27
    _, begun = train(counted, tmp_path / "resumed", 6, stop=13)
    again, rest = train(counted, tmp_path / "resumed", chunk)
    assert again is not None and whole is not None
    trained = [(run, point) for which, point in begun + rest for run in which]
    assert sorted(trained) == [(run, point) for run in range(14) for point in range(1, 10)]
    if chunk == 6:
        jax.tree.map(np.testing.assert_array_equal, again[1:], whole[1:])
    np.testing.assert_allclose(again.curves.loss, whole.curves.loss, rtol=1e-3)
    for ours, theirs in zip(jax.tree.leaves(again[1:4]), jax.tree.leaves(whole[1:4]), strict=True):
        np.testing.assert_array_equal(ours[:6], theirs[:6])
