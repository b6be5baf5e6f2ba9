"""A sweep stopped on one number of devices goes on on another with all that was saved."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
from commands import ROOT

from vae_bit.store import checkpoint, files, results

LINE = ("--n=1", "--layers=1", "--seeds=7", "--steps=40", "--chunk=4", "--out=out", "--resume", "--checkpoint_every=0")
PLANTED = 100.0  # added to what was saved of the curves


def started(work, devices):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices)}
    line = [sys.executable, "-m", "experiments.sweep", *LINE]
    return subprocess.Popen(line, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def test_what_was_saved_on_one_device_is_used_on_three(work):
    """One device trains chunks of 4 and 3 runs, three those of 3, 3 and 1: what is saved is known by a mark."""
    out, process = work / "out", started(work, 1)
    while len(list(out.glob("checkpoints/*.npz"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.003)
    process.send_signal(signal.SIGTERM)  # tests in the background of a shell hand on SIGINT as ignored
    process.communicate()
    assert process.returncode == 143
    saved = {}
    for path in out.glob("checkpoints/*.npz"):
        arrays = read(path)
        arrays["curves/loss"] = arrays["curves/loss"] + np.float32(PLANTED)
        files.write(path, checkpoint._digested(arrays))
        saved |= dict(zip(arrays["runs/seed"].tolist(), arrays["curves/loss"], strict=True))
    blocks = {seed: loss.size for seed, loss in saved.items()}
    assert [blocks[seed] for seed in range(4)] == [41] * 4
    assert len({blocks[seed] for seed in range(4, 7)}) == 1 and 0 < blocks[4] < 41
    process = started(work, 3)
    _, error = process.communicate()
    notice = "notice: devices have changed since the sweep began: equal bits are not to be expected\n"
    assert (process.returncode, error) == (0, notice)
    for seed, loss in enumerate(results.load_curves(out)["loss"]):
        np.testing.assert_array_equal(loss[: blocks[seed]], saved[seed])
        assert np.all(loss[blocks[seed] :] < PLANTED / 2)
