"""Trains one- and two-layer VAEs on 0^n and 1^n, many seeds at once, and says how far each run ends from the limit.

python -m experiments.sweep --n=1,5,1000
"""

import importlib.metadata
import io
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments import cli, folder, require, signals
from experiments.cli import BadInput, Choice, Fault, Location, Number, Numbers, define, say
from experiments.keeper import Keeper
from experiments.progress import progress_bars
from experiments.signals import Stop, Stopped
from vae_bit import sweep
from vae_bit.exact import TOLERANCE
from vae_bit.noise import Kind
from vae_bit.presets import PRESETS, Preset, override
from vae_bit.programs import Group
from vae_bit.store import files, results
from vae_bit.sweep import Trained
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
SECONDS = Number(float, 0.0, 1e9, "seconds, 0 or more")

define(Numbers(*NATURALS), "n", [1, 5, 1000], "Data dimensions: the data are 0^n and 1^n.")
define(Numbers(int, 1, 6, "comma-separated integers from 1 to 6"), "layers", [1, 2], "Numbers of stochastic layers.")
define(Number(int, 1, 10**6, "a positive integer up to 1,000,000"), "seeds", 8, "How many seeds for each setting.")
define(Number(int, 0, 2**32 - 1, "an integer in [0, 2^32)"), "first_seed", 0, "The first of the consecutive seeds.")
define(Numbers(*POSITIVES), "beta", [1.0], "Weights of the KL in loss = recon + beta * KL.")
define(Numbers(*POSITIVES), "learning_rate", None, "Adam's initial learning rates; the preset's unless given.")
define(Number(*NATURAL), "steps", None, "Training steps; the preset's (5,000) unless given.")
define(Number(*NATURAL), "samples", None, "Noise nodes per data point and step; the preset's unless given.")
define(Number(*NATURAL), "chunk", None, "Most runs to advance together; the fastest number unless given.")
define(Choice(get_args(Kind)), "noise", None, "How noise is drawn; the preset's way unless given.")
define(Choice(get_args(Objective)), "objective", None, "What training maximises; the ELBO unless given.")
define(Number(*NATURAL), "k", None, "Draws in each bound of iwae, dreg and renyi; 1 unless given.")
define(Choice(PRESETS), "preset", "default", "The recipe: ours, or the post's.")
define(Location(), "out", None, "Folder for the results; a new one under runs/ unless given.")
define(SECONDS, "checkpoint_every", 30.0, "Seconds of training after which what is unfinished is saved.")
define(Location(), "compilation_cache", None, "Folder that keeps compiled programs for later sweeps.")
define(flags.BooleanParser(), "resume", False, "Goes on with the sweep in --out, or adds seeds and n to it.")

SETTINGS = ("preset", "layers", "n", "beta", "learning_rate", "first_seed", "seeds")
OVERRIDES = ("steps", "samples", "noise", "objective", "k")


class Order(NamedTuple):
    """What is to be trained, and config.json's account of it."""

    preset: Preset
    config: dict[str, Any]


def main() -> int:
    """Trains, writes the results' folder and prints the table; the exit status."""
    start = time.perf_counter()
    signals.leave_at_once()
    require("matplotlib")  # not before the flags are known to be good; what it refuses is told before any work
    cli.use_all_cores()
    cli.keep_freed_memory()
    warnings.showwarning = lambda message, *_: print(f"notice: {message}", file=sys.stderr)
    if FLAGS.resume and not FLAGS.out:
        raise BadInput("--resume: expected --out=DIR too, the folder to go on with")
    if FLAGS.compilation_cache:
        cli.keep_programs(FLAGS.compilation_cache)
    cli.require_devices()
    out = Path(FLAGS.out) if FLAGS.out else folder.new()
    resume = FLAGS.resume and folder.begun(out)
    fresh = None if resume else order()
    stop = Stop()
    with folder.opened(out, resume):
        if FLAGS.resume and not resume:
            print(f"notice: --resume: no sweep has begun in {out} yet; this one begins", file=sys.stderr)
        try:
            rows = carry_out(fresh or resumed_order(out), out, stop)
            signals.leave_at_once()
            stop.check()
        except Stopped as stopped:
            print(f"stopped by {stopped.signal.name}; {how_to_resume(out)}", file=sys.stderr)
            return 128 + stopped.signal
    say(f"{rows['n'].size} runs in {time.perf_counter() - start:.0f} s: {out}")
    return int(np.all(rows["status"] == "diverged"))


def carry_out(order: Order, out: Path, stop: Stop) -> results.Table:
    """Trains what the folder lacks, writes it and shows all that there is then; Stopped between these."""
    earlier = folder.load_results(out)
    settings, stages = order.config["settings"], order.config["stages"]
    with files.naming(out / "results.csv"):
        groups = folder.lacking(order.preset, settings, stages, earlier and earlier.rows)
    if groups:
        files.write_config(out, order.config)
        rows = results.write(out, order.preset, train(groups, out, stop), order.config, earlier)
        stop.check()
    else:
        rows = results.load_table(out)
        say(f"nothing left to train in {out}")
    shutil.rmtree(out / folder.CHECKPOINTS, ignore_errors=True)
    show(rows)
    stop.check()
    draw(rows, results.load_curves(out), order.config["recipe"], out / "summary.png")
    return rows


def draw(rows: results.Table, curves: dict[str, np.ndarray], recipe: dict[str, Any], path: Path) -> None:
    """Writes the summary picture; a notice where it cannot be drawn, as all results are written."""
    picture = io.BytesIO()
    try:
        from experiments import figures

        figures.save(figures.summary(rows, curves, recipe), picture, "png")
    except Exception as error:  # matplotlib and what it draws with raise all sorts
        print(f"notice: {path}: not drawn, {' '.join(str(error).split())}", file=sys.stderr)
    else:
        files.write(path, lambda file: file.write(picture.getvalue()))


def train(groups: list[Group], out: Path, stop: Stop) -> list[Trained]:
    """Trains the groups, keeping their work in the folder."""
    keeper = Keeper(out / folder.CHECKPOINTS, FLAGS.checkpoint_every, stop)
    with progress_bars(groups) as reports:
        watches = [keeper.watch(group, report) for group, report in zip(groups, reports, strict=True)]
        try:
            trained = sweep.train_all(groups, FLAGS.chunk, watches)
            keeper.save()  # the results may not find room
            stop.check()
            return trained
        except (Stopped, jax.errors.JaxRuntimeError) as error:
            keeper.save()
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise Fault(f"out of device memory with one run on each device: {error}; {how_to_resume(out)}") from error


def how_to_resume(out: Path) -> str:
    """The command line, in words."""
    return f"go on with: {shlex.quote(sys.executable)} -m experiments.sweep --out={shlex.quote(str(out))} --resume"


def order() -> Order:
    """What the flags ask for; BadInput where they do not go together."""
    preset = chosen_preset()
    consecutive_seeds(FLAGS.first_seed, FLAGS.seeds)
    settings: dict[str, Any] = {name: FLAGS[name].value for name in (*SETTINGS, *OVERRIDES, "chunk")}
    settings["learning_rate"] = settings["learning_rate"] or [preset.learning_rate]
    settings |= {name: sorted(settings[name]) for name in ("layers", "n", "beta", "learning_rate")}
    stages = folder.stages(settings, [])
    return Order(preset, results.config(preset) | about() | {"settings": settings, "stages": stages})


def resumed_order(out: Path) -> Order:
    """The same for a folder that a sweep has begun in: flags that are not given are as they were then."""
    saved = folder.read_account(out)
    with files.naming(out / files.CONFIG):
        if odd := saved["settings"].keys() ^ {*SETTINGS, *OVERRIDES, "chunk"}:
            raise ValueError(f"settings: {min(odd)} is {'unknown' if min(odd) in saved['settings'] else 'missing'}")
        for name, value in saved["settings"].items():
            if not FLAGS[name].present and (value is not None or name in SETTINGS):
                FLAGS[name].value = FLAGS[name].parser.parse(value)
    now = order()
    with files.naming(out / files.CONFIG):
        lines = folder.differences(saved, now.config)
        stages = folder.stages(now.config["settings"], saved["stages"])
        changed = [name for name in ("versions", "devices") if saved[name] != now.config[name]]
    if lines:
        expected = "expected the saved values, or more of --seeds and --n"
        raise BadInput(f"--resume: {out / files.CONFIG} differs: {'; '.join(lines)}; {expected}")
    for name in changed:
        print(f"notice: {name} have changed since the sweep began: equal bits are not to be expected", file=sys.stderr)
    argv = saved["argv"] if stages == saved["stages"] else [sys.argv[0], *all_flags(now.config["settings"])]
    return Order(now.preset, now.config | {"files": saved.get("files", {}), "argv": argv, "stages": stages})


def all_flags(settings: dict[str, Any]) -> list[str]:
    """The command line that asks for the settings at once."""
    return [FLAGS[name].serialize() for name in settings if FLAGS[name].value != FLAGS[name].default]


def chosen_preset() -> Preset:
    """The preset with the flags that override it; BadInput where they do not go together."""
    preset = PRESETS[FLAGS.preset]
    given = {name: FLAGS[name].value for name in OVERRIDES if FLAGS[name].value is not None}
    try:
        return override(preset, **given)
    except ValueError as error:
        raise BadInput(f"--{error}") from error


def consecutive_seeds(first: int, count: int) -> None:
    """BadInput where the last would not fit in 32 bits."""
    if first + count > 2**32:
        raise BadInput(f"--first_seed={first} --seeds={count}: expected every seed in [0, 2^32)")


def about() -> dict[str, Any]:
    """Where and with what the sweep runs."""
    packages = ("vae_bit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    return {
        "argv": sys.argv,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "devices": [f"{device.device_kind} {device.id}" for device in jax.devices()],
    }


def show(rows: results.Table) -> None:
    """Prints the table, and says on standard error how many runs did not end well."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with console.capture() as capture:
        console.print(summary(rows))
    for status in ("diverged", "collapsed"):
        if count := np.sum(rows["status"] == status):
            print(f"warning: {count} of {rows['n'].size} runs {status}; see results.csv", file=sys.stderr)
    error = rows["error"][(rows["status"] != "diverged") & (rows["error"] > TOLERANCE)]
    if error.size:
        print(
            f"warning: {error.size} of {rows['n'].size} runs inexact: their figures may be off by up to "
            f"{error.max():.0e} of max(1, |figure|); see error in results.csv",
            file=sys.stderr,
        )
    say(capture.get(), end="")


def summary(rows: results.Table) -> Table:
    """A line per setting: medians over the seeds that did not diverge, and the range of their loss."""
    swept = [name for name in ("beta", "learning_rate") if np.unique(rows[name]).size > 1]
    keys = ["layers", "n", *swept]
    figures = ["recon", "recon_per_dim", "kl", "nll", "posterior_kl", "valid_mass", "limit", "gap"]
    table = Table(title="Exact figures in nats: medians over seeds")
    for name in (*keys, "seeds", "loss", "min", "max", *figures):
        table.add_column(name.replace("_", " "), justify="right")
    settings = np.stack([rows[name] for name in keys], 1)
    for setting in np.unique(settings, axis=0):
        own = (settings == setting).all(1)
        sound = own & (rows["status"] != "diverged")
        count = f"{sound.sum()}" if sound.sum() == own.sum() else f"{sound.sum()} of {own.sum()}"
        table.add_row(*(f"{value:g}" for value in setting), count, *_medians(rows, sound, figures))
    return table


def _medians(rows: results.Table, which: np.ndarray, names: Sequence[str]) -> Iterator[str]:
    """The loss's median, minimum and maximum and the other figures' medians, or dashes where there are no runs."""
    if not which.any():
        yield from "-" * (3 + len(names))
        return
    low, middle, high = np.quantile(rows["loss"][which], [0, 0.5, 1])
    yield from (f"{loss:.5f}" for loss in (middle, low, high))
    yield from (f"{np.median(rows[name][which]):.{7 if name == 'recon_per_dim' else 5}f}" for name in names)


if __name__ == "__main__":
    cli.run(main)
