"""Keeps a sweep's work: when a chunk of runs is saved, and what a signal to stop does."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

import jax
import numpy as np

from vae_bit import checkpoint, sweep
from vae_bit.programs import Group
from vae_bit.sweep import Progress, Watch

SHARE = 0.02  # of the time, which saving what is finished may take
Show = Callable[[np.ndarray, Progress], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal has asked the sweep to stop; `signal` is its number. No Exception, lest it be taken for a fault."""

    def __init__(self, number: int):
        self.signal = signal.Signals(number)


class Keeper:
    """Saves chunks into `folder`: those in training every so many seconds, finished ones as soon as it is cheap."""

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self._start = self._saved = time.monotonic()
        self._spent = 0.0
        self._unsaved: list[tuple[Group, np.ndarray, Progress]] = []
        self._found = checkpoint.NOTHING
        self._training = False
        self._signal: int | None = None

    def watch(self, group: Group, show: Show) -> Watch:
        """Resumes the group's runs from what is saved; saves, shows and stops after its blocks."""
        return Watch(self._find, partial(self._resume, group, show), partial(self._report, group, show))

    def save(self) -> None:
        """Saves what is not saved yet."""
        start = time.monotonic()
        while self._unsaved:
            checkpoint.save(self.folder, *self._unsaved[0])
            del self._unsaved[0]
        self._saved = time.monotonic()
        self._spent += self._saved - start

    def stop_on_signals(self) -> None:
        """From now on a signal raises Stopped, after the block where one is in training; a second signal kills."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)

    def _find(self, group: Group) -> np.ndarray:
        self._found, damaged = checkpoint.find(self.folder, group)
        for error in damaged:
            print(f"notice: {error}; its runs are trained from the start", file=sys.stderr)
        return self._found.blocks

    def _resume(self, group: Group, show: Show, which: np.ndarray) -> Progress | None:
        self._training = True
        progress = checkpoint.load(self._found, group, which)
        if progress:
            show(which, progress)
        self._training = progress is None or not _finished(group, progress)
        if self._signal is not None:
            raise Stopped(self._signal)
        return progress

    def _report(self, group: Group, show: Show, which: np.ndarray, progress: Progress) -> None:
        show(which, progress)
        now, number = time.monotonic(), self._signal
        finished = _finished(group, progress)
        due = number is not None or now - self._saved >= self.seconds
        if finished or due:
            state = jax.tree.map(np.asarray, progress.state)
            self._unsaved.append((group, which, progress._replace(state=state)))
        if due or (finished and self._spent <= SHARE * (now - self._start)):
            self.save()
        self._training = not finished
        if number is not None:
            raise Stopped(number)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        self._signal = number
        if not self._training:
            raise Stopped(number)
        with suppress(OSError):  # not print: the signal may have come in the middle of one
            os.write(2, b"stopping after this block; a second signal ends the sweep at once\n")


def _finished(group: Group, progress: Progress) -> bool:
    return len(progress.curves) == sweep.block_ends(group.recipe.steps).size
