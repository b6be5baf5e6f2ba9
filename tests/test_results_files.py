"""A folder's files are replaced as one, survive a kill and a loss of power, and are checked when they are read."""

import json
import os
import random

import jax
import numpy as np
import pytest

from vae_bit import files, results
from vae_bit.files import Damaged


@pytest.fixture
def folder(tiny, trained, tmp_path):
    results.write(tmp_path, tiny["default"], trained, {"settings": {}})
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("moment", range(11))
def test_a_kill_leaves_the_old_files_or_the_new_ones(folder, tiny, trained, monkeypatch, moment):
    """Killed before its first, second, .. moment at which something becomes lasting: the sixth renames config.json."""
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
    assert rows["n"].size == (32 if moment < 6 else 16)
    files.remove_partials(folder)
    assert set(contents(folder)) == set(old)
    assert all(len(leaf) == (8 if "layers" in name else 0) for name, leaf in results.load(folder).params.items())
    if moment < 6:
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
