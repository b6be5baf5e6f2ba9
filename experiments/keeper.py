"""Keeps a sweep's work: when a chunk of runs is saved, which a signal to stop hastens but never cuts short."""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.signals import Stop
from vae_bit import sweep
from vae_bit.programs import Group
from vae_bit.store import checkpoint
from vae_bit.sweep import Progress, Watch

SHARE = 0.02  # of the time, which saving what is finished may take
Show = Callable[[np.ndarray, Progress], None]


class Keeper:
    """Saves chunks into `folder`: those in training every so many seconds, finished ones as soon as it is cheap.

    A signal to stop waits for the end of a block, whose chunk is then saved.
    """

    def __init__(self, folder: Path, seconds: float, stop: Stop):
        self.folder, self.seconds, self.stop = folder, seconds, stop
        self._start = self._saved = time.monotonic()
        self._spent = 0.0
        self._unsaved: list[tuple[Group, np.ndarray, Progress]] = []
        self._found = checkpoint.NOTHING

    def watch(self, group: Group, show: Show) -> Watch:
        """Resumes the group's runs from what is saved; saves, shows and stops after its blocks."""
        resume, report = partial(self._resume, group, show), partial(self._report, group, show)
        return Watch(self._find, resume, report, self.stop.check)

    def save(self) -> None:
        """Saves what is not saved yet."""
        start = time.monotonic()
        while self._unsaved:
            checkpoint.save(self.folder, *self._unsaved[0])
            del self._unsaved[0]
        self._saved = time.monotonic()
        self._spent += self._saved - start

    def _find(self, group: Group) -> np.ndarray:
        self._found, damaged = checkpoint.find(self.folder, group)
        for error in damaged:
            print(f"notice: {error}; its runs are trained from the start", file=sys.stderr)
        return self._found.blocks

    def _resume(self, group: Group, show: Show, which: np.ndarray) -> Progress | None:
        progress = checkpoint.load(self._found, group, which)
        if progress:
            show(which, progress)
        self.stop.check()
        return progress

    def _report(self, group: Group, show: Show, which: np.ndarray, progress: Progress) -> None:
        show(which, progress)
        now, stopping = time.monotonic(), self.stop.asked is not None
        finished = _finished(group, progress)
        due = stopping or now - self._saved >= self.seconds
        if finished or due:
            state = jax.tree.map(np.asarray, progress.state)
            self._unsaved.append((group, which, progress._replace(state=state)))
        if due or (finished and self._spent <= SHARE * (now - self._start)):
            self.save()
        if stopping:  # asked meanwhile, it waits for the next block, so that what is saved is the latest
            self.stop.check()


def _finished(group: Group, progress: Progress) -> bool:
    return len(progress.curves) == sweep.block_ends(group.recipe.steps).size
