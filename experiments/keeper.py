"""Keeps a sweep's work: when a chunk of runs is saved, which a signal to stop hastens but never cuts short."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.signals import Stop
from vae_bit import checkpoint, sweep
from vae_bit.files import Damaged
from vae_bit.programs import Group
from vae_bit.sweep import Progress, Watch

SHARE = 0.02  # of the time, which saving what is finished may take


class Keeper:
    """Saves chunks into `folder`: those in training every so many seconds, finished ones as soon as it is cheap."""

    def __init__(self, folder: Path, seconds: float, stop: Stop):
        self.folder, self.seconds, self.stop = folder, seconds, stop
        self._start = self._saved = time.monotonic()
        self._spent = 0.0
        self._unsaved: list[tuple[Group, slice, Progress]] = []

    def watch(self, group: Group, show: Callable[[slice, Progress], None]) -> Watch:
        """Resumes the group's chunks from what is saved; saves, shows and stops after its blocks."""
        return Watch(partial(self._resume, group), partial(self._report, group, show), self.stop.check)

    def save(self) -> None:
        """Saves what is not saved yet."""
        start = time.monotonic()
        while self._unsaved:
            checkpoint.save(self.folder, *self._unsaved[0])
            del self._unsaved[0]
        self._saved = time.monotonic()
        self._spent += self._saved - start

    def _resume(self, group: Group, where: slice) -> Progress | None:
        try:
            progress = checkpoint.load(self.folder, group, where)
        except Damaged as error:
            print(f"notice: {error}; its runs are trained from the start", file=sys.stderr)
            checkpoint.remove(self.folder, group, where)
            progress = None
        self.stop.check()
        return progress

    def _report(self, group: Group, show: Callable[[slice, Progress], None], where: slice, progress: Progress) -> None:
        show(where, progress)
        now, stopping = time.monotonic(), self.stop.asked is not None
        finished = _finished(group, progress)
        due = stopping or now - self._saved >= self.seconds
        if finished or due:
            state = jax.tree.map(np.asarray, progress.state)
            self._unsaved.append((group, where, progress._replace(state=state)))
        if due or (finished and self._spent <= SHARE * (now - self._start)):
            self.save()
        if stopping:  # asked meanwhile, it waits for the next block, so that what is saved is the latest
            self.stop.check()


def _finished(group: Group, progress: Progress) -> bool:
    return len(progress.curves) == sweep.block_ends(group.recipe.steps).size
