"""The commands. What one imports takes a second or more: from here on a signal to stop ends it in one line."""

import sys
from importlib import import_module
from typing import NoReturn

from experiments import signals

IS_COMMAND = sys.argv[0] == "-m"  # `python -m experiments.NAME` is looking for NAME; nobody imports this into a program


def require(name: str) -> None:
    """Imports a library for a command; one line and status 2 without it, or where its own variables make no sense."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        _refuse(f"{error}; the commands need it: pip install -e '.[experiments]'")
    except ValueError as error:
        _refuse(str(error))


def _refuse(reason: str) -> NoReturn:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(2)


if IS_COMMAND:
    signals.leave_at_once()
    require("jax")
