"""Under IPython's `%run` a command is given a process of its own, as a shell would give it.

So it may take every core, handle signals and end its process as it must, and the kernel stays as it was.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent  # where `python -m experiments.NAME` finds the package
TERMINAL = ("FORCE_COLOR", "CLICOLOR_FORCE")  # a kernel's claim that it is one, but no bar can move in a notebook


def is_running() -> bool:
    """Whether the process is IPython's, or a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def run_apart() -> int:
    """Runs `%run -m MODULE -- FLAGS` as `python -m MODULE FLAGS`, and shows what it says; its exit status.

    Interrupting the kernel interrupts it, as Ctrl-C does in a shell: it saves its work, and a second time ends at once.
    """
    line = [sys.executable, "-m", _name(Path(str(sys.modules["__main__"].__file__))), *sys.argv[1:]]
    environment = {name: value for name, value in os.environ.items() if name not in TERMINAL}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        line,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # else it would get an interrupt twice, from the kernel's parent and from here
    ) as process:
        while not _shown(process):
            pass
    return process.returncode


def _name(file: Path) -> str:
    """What `python -m` calls the module."""
    return ".".join(file.resolve().relative_to(ROOT.resolve()).with_suffix("").parts).removesuffix(".__main__")


def _shown(process: subprocess.Popen[str]) -> bool:
    """Shows what the process says until it ends, or until an interrupt, which is passed on: False."""
    try:
        for line in process.stdout or ():
            print(line, end="", flush=True)
        process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        return False
    return True
