"""The commands. What one imports takes a second or more: from here on a signal to stop ends it in one line."""

import sys
from importlib import import_module

from experiments import signals

if sys.argv[0] == "-m":  # `python -m experiments.NAME` is looking for NAME; nobody imports this into a program
    signals.leave_at_once()
    try:  # both refuse what makes no sense in the variables that are theirs
        import_module("jax")
        import_module("matplotlib")
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
