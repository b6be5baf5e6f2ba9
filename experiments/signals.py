"""What a signal to stop does: it ends the command at once, or where the command next looks whether to stop.

No handler raises: an exception from one could come in the middle of a save, or of foreign code that swallows it.
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HEARD = b"stopping as soon as what is done is saved; a second signal ends the sweep at once\n"


class Stopped(Exception):
    """A signal has asked the command to stop; `signal` says which."""

    def __init__(self, number: int):
        self.signal = signal.Signals(number)


class Stop:
    """From its making on, a signal only asks to stop; a second one kills. To be made in the main thread."""

    def __init__(self) -> None:
        self.asked: int | None = None
        _handle(self._hear)

    def check(self) -> None:
        """Raises Stopped where a signal has asked."""
        if self.asked is not None:
            raise Stopped(self.asked)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            _leave(number, frame)
        self.asked = number
        _handle(signal.SIG_DFL)  # even in the middle of foreign code
        _tell(HEARD)


def leave_at_once() -> None:
    """From now on a signal ends the process with status 128 + its number and one line: there is nothing to be saved."""
    _handle(_leave)


def interrupt() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, for commands that have something to tidy up."""
    if _wanted(signal.SIGINT):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _handle(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in filter(_wanted, SIGNALS):
        signal.signal(number, handler)


def _wanted(number: int) -> bool:
    """Not where the command was started to ignore it, as by nohup or in the background of a script."""
    return signal.getsignal(number) is not signal.SIG_IGN


def _leave(number: int, frame: FrameType | None) -> None:
    _tell(f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def _tell(line: bytes) -> None:
    """Not by print: the signal may have come in the middle of one."""
    with suppress(OSError):
        os.write(2, line)
