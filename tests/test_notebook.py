"""The commands under `%run` in a real IPython kernel, which they leave as it was."""

import os
import signal
import threading
import time

import nbformat
import pytest
from commands import FILES, ROOT
from nbclient import NotebookClient

BEFORE = """
import faulthandler, jax, os, signal, sys
def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return os.getpid(), handlers, sys.argv, id(sys.stdout), jax.config.jax_num_cpu_devices, faulthandler.is_enabled()
before = state()
"""
SWEEP = "%run -m experiments.sweep -- --n=1 --layers=1 --seeds=2 --steps=20 --out=a"
FIGURES = "%run -m experiments.figures -- --run=a --format=svg"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Runs cells, one a string, in one kernel whose folder is `tmp_path`; what each showed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=240, allow_errors=True)

    def run(*sources):
        client.nb.cells = [nbformat.v4.new_code_cell(source) for source in sources]
        client.execute(cwd=str(tmp_path))
        return [shown(cell) for cell in client.nb.cells]

    return run


def shown(cell):
    return "".join(str(output.get("text") or output.get("evalue") or output["data"]) for output in cell.outputs)


def test_a_sweep_and_its_figures_twice_in_one_kernel(kernel, tmp_path):
    """The second of each defines its flags anew; what is refused ends with its status and no more."""
    again = "%run -m experiments.sweep -- --out=a --resume --seeds=2"
    wrong = f"%run {ROOT}/experiments/figures/__main__.py --run=a --format=bmp"
    show = "from experiments import figures; figures.figure_costs(figures.load('a'))"
    lines = SWEEP, FIGURES, again, wrong, "print(before == state())", show
    first, trained, drawn, resumed, refused, after, shown_figure = kernel(BEFORE, *lines)
    assert first == ""
    title, *_, last = trained.splitlines()
    assert title.strip() == "Exact figures in nats: medians over seeds" and last.endswith(" s: a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {*FILES, "figures"}
    *skipped, said = drawn.splitlines()
    assert [line.split(":")[0].split("_", 1)[1] for line in skipped] == ["map", "repairs", "one_knob", "history"]
    assert said == "figures of 2 runs: a/figures"
    assert len(list((tmp_path / "a/figures").glob("*.svg"))) == 11
    assert resumed.splitlines()[:-1] == ["nothing left to train in a", *trained.splitlines()[:-1]]
    assert refused == "error: --format=bmp: expected some of png,pdf,svg\n2"  # the second is that of SystemExit
    assert after == "True\n" and "image/png" in shown_figure


def test_an_interrupt_stops_the_sweep_and_keeps_its_work(kernel, tmp_path):
    """As Ctrl-C in a shell does, and the kernel lives on."""

    def interrupt():
        while not list(tmp_path.glob("long/checkpoints/*.npz")):
            time.sleep(0.05)
        os.kill(int((tmp_path / "kernel").read_text()), signal.SIGINT)

    begin = "import os, pathlib; pathlib.Path('kernel').write_text(str(os.getpid()))"
    long = "%run -m experiments.sweep -- --n=1 --layers=1 --seeds=1 --steps=3000000 --checkpoint_every=0 --out=long"
    threading.Thread(target=interrupt, daemon=True).start()
    _, told, after = kernel(begin, long, "print(1 + 1)")
    assert "stopped by SIGINT; go on with: " in told and "--resume\n130" in told
    assert after == "2\n"
