"""What signals to stop do: no save is interrupted, and no signal is lost."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal has asked the sweep to stop; `signal` is its number. No Exception, lest it be taken for a fault."""

    def __init__(self, number: int):
        self.signal = signal.Signals(number)


class Signals:
    """The first signal raises Stopped: at once, or when it is released where it is held. A second ends the process."""

    def __init__(self) -> None:
        self._held = False
        self._number: int | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._number is not None

    def install(self) -> None:
        """From now on the signals mean this, but for those that whoever started the process has it ignore."""
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._come)

    def restore(self) -> None:
        """From now on they mean what Python has them mean."""
        for number, handler in zip(STOPPING, (signal.default_int_handler, signal.SIG_DFL), strict=True):
            if signal.getsignal(number) == self._come:
                signal.signal(number, handler)

    def hold(self) -> None:
        """From now on a signal waits."""
        self._held = True

    def release(self) -> None:
        """Raises Stopped where a signal waits; from now on one does so at once."""
        self._held = False
        if self._number is not None:
            raise Stopped(self._number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done within is not interrupted: a signal waits for its end, or longer where one waits already."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
        if not before:
            self.release()

    def _come(self, number: int, frame: FrameType | None) -> None:
        for each in STOPPING:
            signal.signal(each, signal.SIG_DFL)
        self._number = number
        if not self._held:
            raise Stopped(number)
        with suppress(OSError):  # not print: the signal may have come in the middle of one
            os.write(2, b"stopping once what is done is saved; a second signal ends the sweep at once\n")
