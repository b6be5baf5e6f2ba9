"""Command-line plumbing of every experiment: lists of numbers as flags, and bad input in one line with status 2."""

import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from absl import app, flags, logging


class BadInput(Exception):
    """Something the user gave is wrong; the message names it and says what is allowed."""


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

    def __init__(self, words: Iterable[str]):
        self.words = tuple(words)
        self.syntactic_help = "one of " + ", ".join(self.words)

    def parse(self, argument: str) -> str:
        if argument not in self.words:
            raise ValueError(f"{argument!r}: expected {self.syntactic_help}")
        return argument


class NonEmpty(flags.ArgumentParser):
    """Any text but the empty one."""

    syntactic_help = "some text"

    def parse(self, argument: str) -> str:
        if not argument:
            raise ValueError(f"'': expected {self.syntactic_help}")
        return argument


def define(parser: flags.ArgumentParser, name: str, default: Any, help: str) -> None:
    """A flag of the command itself, so that --help lists it; it takes `parser`'s values and may be given once."""
    serializer = flags.CsvListSerializer(",") if isinstance(parser, Numbers) else flags.ArgumentSerializer()
    flag = flags.Flag(parser, serializer, name, default, help, allow_overwrite=False)
    flags.DEFINE_flag(flag, module_name=sys.argv[0])


def use_all_cores() -> None:
    """Makes one CPU device of each core this process may use; to be called before JAX starts."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def run(main: Callable[[], None]) -> None:
    """Parses the flags, refuses stray arguments, runs `main`; BadInput and flag errors become one line and status 2."""
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(lambda argv: main(), flags_parser=_parse)
    except BadInput as error:
        sys.exit(_refuse(error))


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        sys.exit(_refuse(error))
    if len(rest) > 1:
        sys.exit(_refuse(f"{rest[1]!r}: not a flag; flags look like --n=1,5,1000"))
    return rest


def _refuse(error: object) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
