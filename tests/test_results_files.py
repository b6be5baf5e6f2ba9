"""A folder's files are replaced as one, survive a kill and a loss of power, and are checked when they are read."""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil

import jax
import numpy as np
import pytest
from sweeps import alone

from vae_bit.store import files, results
from vae_bit.store.files import Damaged


@pytest.fixture
def folder(tiny, trained, tmp_path):
    results.write(tmp_path, alone(tiny["default"]), trained, {"settings": {}})
    return tmp_path


@pytest.fixture
def load(tiny):
    return lambda folder: results.load(folder, [tiny["default"].model])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


CALLS = ["fsync"] * 5 + ["replace", "fsync"] + ["replace"] * 3 + ["fsync"]  # of files and folder in one commit
RENAMED = 6  # of them have been made once config.json has its name


def intercepted(monkeypatch, before):
    """Has `before(name, count)` called ahead of each change of a file's name and each write to the disk."""
    names = []

    def hooked(name, function):
        def call(*args):
            before(name, len(names))
            names.append(name)
            function(*args)

        return call

    for name in ("replace", "fsync"):
        monkeypatch.setattr(files.os, name, hooked(name, getattr(os, name)))
    return names


@pytest.mark.parametrize("moment", range(len(CALLS)))
def test_a_kill_leaves_the_old_files_or_the_new_ones(folder, tiny, trained, monkeypatch, moment, load):
    old = contents(folder)

    class Killed(BaseException):
        pass

    def dies(name, count):
        if count == moment:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        intercepted(patch, dies)
        results.write(folder, alone(tiny["default"]), trained[:1], {"settings": {}})
    rows = load(folder).rows
    assert rows["n"].size == (32 if moment < RENAMED else 16)
    files.remove_partials(folder)
    assert set(contents(folder)) == set(old)
    assert all(len(leaf) == (8 if "layers" in name else 0) for name, leaf in load(folder).params.items())
    if moment < RENAMED:
        assert contents(folder) == old


def test_a_loss_of_power_leaves_the_old_files_or_the_new_ones(folder, tiny, trained, monkeypatch, load):
    """A disk keeps the names as they were when the folder was last synced, or any of those given since."""
    kept, real_sync = [], files._sync

    def sync(out):
        real_sync(out)
        kept.append(contents(out))

    monkeypatch.setattr(files, "_sync", sync)
    names = intercepted(monkeypatch, lambda *_: None)
    kept.append(contents(folder))
    results.write(folder, alone(tiny["default"]), trained[:1], {"settings": {}})
    assert names == CALLS
    assert kept[-1] == contents(folder)
    assert len(kept) == 4
    monkeypatch.undo()
    for earlier, later in itertools.pairwise(kept):
        changed = [name for name in later.keys() | earlier.keys() if later.get(name) != earlier.get(name)]
        renames = {name.removesuffix(".partial") for name in changed}
        for some in itertools.chain.from_iterable(itertools.combinations(renames, k) for k in range(len(renames) + 1)):
            shutil.rmtree(folder)
            folder.mkdir()
            for name in later.keys() | earlier.keys():
                held = (later if name.removesuffix(".partial") in some else earlier).get(name)
                if held is not None:
                    (folder / name).write_bytes(held)
            assert load(folder).rows["n"].size in (32, 16)


def test_a_new_folder_and_a_new_name_outlast_a_loss_of_power(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "_sync", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}
    files.write(tmp_path / "a" / "b" / "file", lambda file: file.write(b"x"))
    assert synced[2:] == [tmp_path / "a" / "b"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced_is_no_fault_but_a_disk_that_fails_is(tmp_path, monkeypatch, number):
    def fails(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fails)
    with pytest.raises(OSError, match=str(tmp_path)) if number == errno.EIO else contextlib.nullcontext():
        files._sync(tmp_path)


@pytest.mark.parametrize("name", ["curves.npz", "params.npz", "results.csv", "config.json"])
def test_a_file_that_cannot_be_written_is_named_and_the_others_stay(folder, tiny, trained, name, load):
    old = contents(folder)
    (folder / f"{name}.partial").mkdir()
    with pytest.raises(OSError) as caught:
        results.write(folder, alone(tiny["default"]), trained[:1], {"settings": {}})
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
def test_damaged_results_are_refused(folder, name, digests, load):
    if not digests:
        config = files.read_config(folder)
        (folder / "config.json").write_text(json.dumps({**config, "files": {}}))
    content = (folder / name).read_bytes()
    for damage in list(damages(content))[: None if digests else 2]:
        (folder / name).write_bytes(damage)
        with pytest.raises(Damaged, match=str(folder / name)):
            load(folder)
    (folder / name).unlink()
    with pytest.raises(Damaged, match=rf"{folder / name}: No such file"):
        load(folder)
    elsewhere = folder.parent / f"{folder.name}_elsewhere"
    elsewhere.write_bytes(content)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(Damaged, match=f"{folder / name}: .*link"):
        load(folder)


@pytest.mark.parametrize("name", ["curves.npz", "params.npz"])
def test_pickled_objects_are_never_loaded(folder, name, tmp_path, load):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(folder / name, allow_pickle=True, loss=np.array([Trap()], object))
    config = files.read_config(folder)
    digests = config["files"] | {name: files.digest(folder / name)}
    files.write_config(folder, config | {"files": digests})
    with pytest.raises(Damaged, match=f"{folder / name}.*allow_pickle=False"):
        load(folder)
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
