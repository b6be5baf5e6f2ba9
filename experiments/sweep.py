"""Trains one- and two-layer VAEs on 0^n and 1^n, many seeds at once, and says how far each run ends from the limit.

python -m experiments.sweep --n=1,5,1000
"""

import dataclasses
import datetime
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from experiments import figures, options
from experiments.options import BadInput, Choice, NonEmpty, Number, Numbers, define
from vae_bit import results, sweep
from vae_bit.noise import Kind
from vae_bit.presets import PRESETS, Preset
from vae_bit.sweep import Group, Progress, Watch
from vae_bit.training import Objective

FLAGS = flags.FLAGS
WIDTH = 150  # of the table where there is no terminal
NATURAL = (int, 1, 2**31 - 1, "a positive integer below 2^31")
NATURALS = (*NATURAL[:3], "comma-separated positive integers below 2^31")
POSITIVES = (
    float,
    float(np.finfo(np.float32).tiny),
    float(np.finfo(np.float32).max),
    "comma-separated positive numbers within float32's range",
)

define(Numbers(*NATURALS), "n", [1, 5, 1000], "Data dimensions: the data are 0^n and 1^n.")
define(Numbers(*NATURALS), "layers", [1, 2], "Numbers of stochastic layers.")
define(Number(*NATURAL), "seeds", 8, "How many seeds for each setting.")
define(Number(int, 0, 2**32 - 1, "an integer in [0, 2^32)"), "first_seed", 0, "The first of the consecutive seeds.")
define(Numbers(*POSITIVES), "beta", [1.0], "Weights of the KL in loss = recon + beta * KL.")
define(Numbers(*POSITIVES), "learning_rate", None, "Adam's initial learning rates; the preset's unless given.")
define(Number(*NATURAL), "steps", None, "Training steps; the preset's (5,000) unless given.")
define(Number(*NATURAL), "samples", None, "Noise nodes per data point and step; the preset's unless given.")
define(Number(*NATURAL), "chunk", None, "Most runs to advance together; chosen from cache or memory unless given.")
define(Choice(get_args(Kind)), "noise", None, "How noise is drawn; the preset's way unless given.")
define(Choice(get_args(Objective)), "objective", None, "What training raises; the ELBO unless given.")
define(Number(*NATURAL), "k", None, "Draws in each bound of iwae, dreg and renyi; 1 unless given.")
define(Choice(PRESETS), "preset", "default", "The recipe: ours, or the post's.")
define(NonEmpty(), "out", None, "Folder for the results; a new one under runs/ unless given.")


def main() -> None:
    """Trains, writes the results' folder and prints the table."""
    start = time.perf_counter()
    preset = chosen_preset()
    seeds = consecutive_seeds(FLAGS.first_seed, FLAGS.seeds)
    rates = FLAGS.learning_rate or [preset.learning_rate]
    groups = sweep.plan(preset, sorted(FLAGS.layers), FLAGS.n, sorted(FLAGS.beta), sorted(rates), seeds)
    out = results_folder(FLAGS.out)
    with progress_bars(groups) as reports:
        watches = [Watch(lambda runs: None, report) for report in reports]
        trained = sweep.train_all(groups, FLAGS.chunk, watches)
    rows = results.write(out, preset, trained, about())
    figures.save(figures.summary(rows, results.load_curves(out)), out / "summary.png")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(summary(rows))
    warn(rows)
    print(f"{rows['n'].size} runs in {time.perf_counter() - start:.0f} s: {out}")


def chosen_preset() -> Preset:
    """The preset with the flags that override it; BadInput where they do not go together."""
    preset, names = PRESETS[FLAGS.preset], ("steps", "samples", "noise", "objective", "k")
    given = {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}
    try:
        return preset._replace(recipe=dataclasses.replace(preset.recipe, **given))
    except ValueError as error:
        raise BadInput(f"--{error}") from error


def consecutive_seeds(first: int, count: int) -> range:
    """BadInput where the last would not fit in 32 bits."""
    if first + count > 2**32:
        raise BadInput(f"--first_seed={first} --seeds={count}: expected every seed in [0, 2^32)")
    return range(first, first + count)


def results_folder(given: str | None) -> Path:
    """Makes the folder of `--out`, or a new one; BadInput where it is a file, not writable or already holds results."""
    out = Path(given or f"runs/{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{os.getpid()}")
    if (out / "results.csv").exists():
        raise BadInput(f"--out={out}: holds results already; expected a new or empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json.partial").touch()
    except OSError as error:
        raise BadInput(f"--out={out}: {error.strerror}; expected a folder that can be written") from error
    return out


def about() -> dict[str, Any]:
    """What config.json says of the sweep beside the recipe."""
    packages = ("vae_bit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    settings = ("preset", "layers", "n", "beta", "learning_rate", "first_seed", "seeds", "chunk")
    return {
        "settings": {name: FLAGS[name].value for name in settings},
        "argv": sys.argv,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "devices": [f"{device.device_kind} {device.id}" for device in jax.devices()],
    }


@contextmanager
def progress_bars(groups: list[Group]) -> Iterator[list[Callable[[slice, Progress], None]]]:
    """Bars, one a group, and the function that moves each; silent where standard error is no terminal."""
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), SpeedColumn(), TimeRemainingColumn(), "{task.fields[loss]}")
    with Bars(*columns, console=console, disable=not console.is_terminal) as bars:
        yield [_report(bars, group) for group in groups]


class SpeedColumn(ProgressColumn):
    """Steps of one run each second, over all runs of the group."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} steps/s")


def _report(bars: Bars, group: Group) -> Callable[[slice, Progress], None]:
    n = f"{group.runs.n.min()}..{group.arch.width}" if group.runs.n.min() < group.arch.width else group.arch.width
    name = f"layers {group.arch.layers}, n {n}, {group.runs.n.size} runs"
    task = bars.add_task(name, total=group.runs.n.size * group.recipe.steps, loss="")

    ends = sweep.block_ends(group.recipe.steps)

    def report(runs: slice, progress: Progress) -> None:
        done = runs.start * group.recipe.steps + (runs.stop - runs.start) * ends[len(progress.curves) - 1]
        bars.update(task, completed=done, loss=f"median loss {np.median(progress.curves[-1].loss):.4f}")

    return report


def summary(rows: results.Table) -> Table:
    """A line per setting: medians over the seeds, and the range of the loss."""
    swept = [name for name in ("beta", "learning_rate") if np.unique(rows[name]).size > 1]
    keys = ["layers", "n", *swept]
    figures = ["recon", "recon_per_dim", "kl", "nll", "posterior_kl", "valid_mass", "limit", "gap"]
    table = Table(title="Exact figures in nats: medians over seeds")
    for name in (*keys, "seeds", "loss", "min", "max", *figures):
        table.add_column(name.replace("_", " "), justify="right")
    settings = np.stack([rows[name] for name in keys], 1)
    for setting in np.unique(settings, axis=0):
        own = {name: column[(settings == setting).all(1)] for name, column in rows.items()}
        low, middle, high = np.quantile(own["loss"], [0, 0.5, 1])
        table.add_row(
            *(f"{value:g}" for value in setting),
            str(own["seed"].size),
            *(f"{loss:.5f}" for loss in (middle, low, high)),
            *(f"{np.median(own[name]):.{7 if name == 'recon_per_dim' else 5}f}" for name in figures),
        )
    return table


def warn(rows: results.Table) -> None:
    """Says on standard error how many runs did not end well."""
    for status in ("diverged", "collapsed"):
        if count := np.sum(rows["status"] == status):
            print(f"warning: {count} of {rows['n'].size} runs {status}; see results.csv", file=sys.stderr)


if __name__ == "__main__":
    options.use_all_cores()
    options.run(main)
