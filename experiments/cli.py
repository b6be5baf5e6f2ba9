"""Command-line plumbing of every experiment: lists of numbers as flags, and bad input in one line with status 2."""

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging

from experiments import notebook, signals
from vae_bit.store.files import Damaged


class BadInput(Exception):
    """Something the user gave is wrong; the message names it and says what is allowed."""


class Fault(Exception):
    """The machine has failed, not the user; the message says where."""


class Number(flags.ArgumentParser):
    """One number within bounds; `allowed` says in words what they are."""

    def __init__(self, kind: type[int] | type[float], low: float, high: float, allowed: str):
        self.kind, self.low, self.high = kind, low, high
        self.syntactic_help = allowed

    def parse(self, argument: Any) -> Any:
        try:
            number = self.kind(argument)
        except ValueError:
            number = math.nan
        if not (self.low <= number <= self.high):
            raise ValueError(f"{str(argument)!r}: expected {self.syntactic_help}")
        return number


class Numbers(Number):
    """A comma-separated list of distinct numbers; repeated ones are dropped with a notice."""

    def parse(self, argument: Any) -> list:
        items = argument.split(",") if isinstance(argument, str) else argument
        numbers = [super(Numbers, self).parse(item) for item in items]
        distinct = list(dict.fromkeys(numbers))
        if len(distinct) < len(numbers):
            print(f"notice: {argument}: repeated values are used once", file=sys.stderr)
        return distinct


class Choice(flags.ArgumentParser):
    """One of a few words."""

    how = "one of "

    def __init__(self, words: Iterable[str], numbered: str = ""):
        """Words that end in a number are told as `numbered`."""
        self.words = tuple(words)
        told = [word for word in self.words if not (numbered and word[-1].isdigit())]
        self.syntactic_help = self.how + ", ".join([*told, numbered] if numbered else told)

    def parse(self, argument: str) -> str:
        if argument not in self.words:
            raise ValueError(f"{argument!r}: expected {self.syntactic_help}")
        return argument


class Choices(Choice):
    """A comma-separated list of distinct ones of a few words."""

    how = "comma-separated words of "

    def parse(self, argument: Any) -> list[str]:
        items = argument.split(",") if isinstance(argument, str) else argument
        return list(dict.fromkeys(super(Choices, self).parse(item) for item in items))


class Location(flags.ArgumentParser):
    """A path; a `~` at its start is the user's home, which no shell puts in place behind a `=`."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        if not argument:
            raise ValueError(f"'': expected {self.syntactic_help}")
        try:
            return str(Path(argument).expanduser())
        except RuntimeError as error:
            raise ValueError(f"{argument!r}: {error}; expected {self.syntactic_help}") from error


def define(parser: flags.ArgumentParser, name: str, default: Any, help: str, required: bool = False) -> None:
    """A flag of the command itself, so that --help lists it; it takes `parser`'s values, and but a switch only once.

    A second `%run` in one process defines it anew.
    """
    if name in flags.FLAGS:
        delattr(flags.FLAGS, name)
    lists = isinstance(parser, Numbers | Choices | flags.ListParser)
    serializer = flags.CsvListSerializer(",") if lists else flags.ArgumentSerializer()
    boolean = isinstance(parser, flags.BooleanParser)
    flag = flags.Flag(parser, serializer, name, default, help, boolean=boolean, allow_overwrite=boolean)
    flags.DEFINE_flag(flag, module_name=sys.argv[0], required=required)


def require_devices() -> None:
    """BadInput where the platforms that the user has named to JAX are not there."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX knows the name but has no plugin for it
        platforms = getattr(jax.config, "jax_platforms", None)
        asked = f"JAX_PLATFORMS={platforms}" if platforms else "JAX"
        reason = str(error) or "no such device, or no plugin for it"
        raise BadInput(f"{asked}: {reason}; expected platforms of this machine, or none named") from error


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags, refuses stray arguments, runs `main`, whose result is the exit status.

    BadInput, Damaged and flag errors become one line and status 2, and so does a ValueError of the library about an
    argument that is a flag here; Fault and OSError one line and status 1. The process is
    the command's own: it ends here. In a notebook, whose process is not, the whole command runs in another.
    """
    if notebook.is_running():
        if status := notebook.run_apart():
            sys.exit(status)
        return
    logging.set_verbosity(logging.WARNING)
    _open_streams()
    try:
        signals.interrupt()
        app.run(lambda argv: _leave(main() or 0), flags_parser=_parse)
    except (BadInput, Damaged) as error:
        sys.exit(_refuse(error))
    except ValueError as error:
        if not (line := _in_flags(str(error))):
            raise
        sys.exit(_refuse(line))
    except KeyboardInterrupt:
        _leave(130)
    except Fault as error:
        _leave(_refuse(error, 1))
    except OSError as error:
        _leave(_refuse(f"{error.filename or 'system'}: {error.strerror or error}", 1))


def say(text: str = "", end: str = "\n") -> None:
    """Prints on standard output; nobody needs to be reading it, but a disk behind it must not be full."""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise Fault(f"standard output: {error.strerror}") from error


def _open_streams() -> None:
    """Nothing is lost for want of a standard stream or of letters in its encoding."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _leave(status: int) -> NoReturn:
    """Ends the process at once: neither what other threads compile is waited for nor Python's own end.

    The latter takes up to seconds, in which a signal would be lost.
    """
    try:
        say(end="")
    except Fault:
        if not status:
            raise
    sys.stderr.flush()
    os._exit(status)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        sys.exit(_refuse(error))
    if flags.FLAGS.verbosity > logging.WARNING:  # every library's log of every step would drown the command
        print(f"notice: --v={flags.FLAGS.verbosity}: no command writes a log", file=sys.stderr)
        logging.set_verbosity(logging.WARNING)
    if len(rest) > 1:
        sys.exit(_refuse(f"{rest[1]!r}: not a flag; flags look like --n=1,5,1000"))
    return rest


def _in_flags(message: str) -> str | None:
    """`out=DIR: ...` as --out=DIR, and `resume=True` in it as --resume; None where no flag's name comes first."""
    name = re.match(r"(\w+)[=:]", message)
    if name and name[1] in flags.FLAGS:
        told = re.sub(r"(?<= )(\w+)=True\b", r"--\1", message)
        return "--" + re.sub(r"(?<= )(\w+)(?==)", lambda word: f"{'--' * (word[1] in flags.FLAGS)}{word[1]}", told)
    return None


def _refuse(error: object, status: int = 2) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status
