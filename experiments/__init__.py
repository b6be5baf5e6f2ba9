"""The commands. What one imports takes a second or more: from here on a signal to stop ends it in one line."""

import sys

from experiments import signals

if sys.argv[0] == "-m":  # `python -m experiments.NAME` is looking for NAME; nobody imports this into a program
    signals.leave_at_once()
