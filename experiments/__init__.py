"""The commands: `python -m experiments.sweep` and its like."""

import signal
import sys

# A command that is still importing ends at Ctrl-C without a traceback. While Python looks for the module that `-m`
# names, and only then, "-m" is all that it knows of the command line's beginning.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
