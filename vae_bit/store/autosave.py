"""When a sweep in training is saved: every so many seconds, when a chunk is finished, and before it is stopped."""

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np

from vae_bit import sweep
from vae_bit.programs import Group
from vae_bit.store import checkpoint
from vae_bit.sweep import Progress, Watch

SHARE = 0.02  # of the time, which saving what is finished may take
Show = Callable[[np.ndarray, Progress], None]


class Autosave:
    """Saves chunks into `folder`: those in training every so many seconds, finished ones as soon as it is cheap.

    `check` is called between blocks of steps, as `Watch.check` is, and raises where the sweep is to stop: the chunk is
    saved first, with what else is not saved yet. Whatever else ends the sweep, `save` saves the chunks that are
    finished; of the chunk in training, at most the last `seconds` are lost.
    """

    def __init__(self, folder: Path, seconds: float, check: Callable[[], None] = lambda: None):
        self.folder, self.seconds, self.check = folder, seconds, check
        self._start = self._saved = time.monotonic()
        self._spent = 0.0
        self._unsaved: list[tuple[Group, np.ndarray, Progress]] = []
        self._found = checkpoint.NOTHING

    def watch(self, group: Group, show: Show) -> Watch:
        """Resumes the group's runs from what is saved; saves, shows and stops after its blocks."""
        resume, report = partial(self._resume, group, show), partial(self._report, group, show)
        return Watch(self._find, resume, report, self.check)

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
            warnings.warn(f"{error}; its runs are trained from the start", stacklevel=2)
        return self._found.blocks

    def _resume(self, group: Group, show: Show, which: np.ndarray) -> Progress | None:
        progress = checkpoint.load(self._found, group, which)
        if progress:
            show(which, progress)
        self.check()
        return progress

    def _report(self, group: Group, show: Show, which: np.ndarray, progress: Progress) -> None:
        show(which, progress)
        try:
            self.check()  # not after a save: who asks in the middle of one waits for the next block, to have it saved
        except BaseException:
            self._take(group, which, progress)
            self.save()
            raise
        now = time.monotonic()
        finished, due = _finished(group, progress), now - self._saved >= self.seconds
        if finished or due:
            self._take(group, which, progress)
        if due or (finished and self._spent <= SHARE * (now - self._start)):
            self.save()

    def _take(self, group: Group, which: np.ndarray, progress: Progress) -> None:
        """Copies the state, whose arrays the next block is given."""
        state = jax.tree.map(np.asarray, progress.state)
        self._unsaved.append((group, which, progress._replace(state=state)))


def _finished(group: Group, progress: Progress) -> bool:
    return len(progress.curves) == sweep.block_ends(group.recipe.steps).size
