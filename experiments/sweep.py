"""Trains one- and two-layer VAEs on 0^n and 1^n, many seeds at once, and says how far each run ends from the limit.

python -m experiments.sweep --n=1,5,1000
"""

import io
import shlex
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import jax
import numpy as np
from absl import flags
from rich.console import Console

from experiments import cli, require, signals
from experiments.cli import BadInput, Choice, Choices, Fault, Location, Number, Numbers, define, say
from experiments.signals import Stop, Stopped
from vae_bit import runner, runtime
from vae_bit.limits import MOST_COMPONENTS
from vae_bit.order import Order, order, variants
from vae_bit.presets import (
    DECODERS,
    FAMILIES,
    NOISES,
    OBJECTIVES,
    POSTERIORS,
    PRESETS,
    PRIORS,
    warmup,
)
from vae_bit.progress import progress_bars
from vae_bit.store import files, folder, resume
from vae_bit.store.results import Contents
from vae_bit.store.table import Table
from vae_bit.summary import medians, notices, rendered

FLAGS = flags.FLAGS
WIDTH = 170  # of the table where there is no terminal
NATURAL = (int, 1, 2**31 - 1, "a positive integer below 2^31")
NATURALS = (*NATURAL[:3], "comma-separated positive integers below 2^31")
POSITIVES = (
    float,
    float(np.finfo(np.float32).tiny),
    float(np.finfo(np.float32).max),
    "comma-separated positive numbers within float32's range",
)
RATES = (float, 0.0, 1.0, "comma-separated numbers from 0 to 1")
UP_TO_K = f"mixture1, .., mixture{MOST_COMPONENTS}"
SECONDS = Number(float, 0.0, 1e9, "seconds, 0 or more")

define(Numbers(*NATURALS), "n", [1, 5, 1000], "Data dimensions: the data are 0^n and 1^n.")
define(Numbers(int, 1, 6, "comma-separated integers from 1 to 6"), "layers", [1, 2], "Numbers of stochastic layers.")
define(Number(int, 1, 10**6, "a positive integer up to 1,000,000"), "seeds", 8, "How many seeds for each setting.")
define(Number(int, 0, 2**32 - 1, "an integer in [0, 2^32)"), "first_seed", 0, "The first of the consecutive seeds.")
define(Numbers(*POSITIVES), "beta", [1.0], "Weights of the KL in loss = recon + beta * KL.")
define(Numbers(*POSITIVES), "learning_rate", None, "The optimiser's initial rates; the preset's unless given.")
define(Number(*NATURAL), "steps", None, "Training steps; the preset's (5,000) unless given.")
define(Number(*NATURAL), "samples", None, "Noise nodes per data point and step; the preset's unless given.")
define(Number(*NATURAL), "chunk", None, "Most runs to advance together; the fastest number unless given.")
define(Choice(NOISES), "noise", None, "How noise is drawn; the preset's way unless given.")
define(Choices(OBJECTIVES), "objective", ["elbo"], "The bound that training maximises; several side by side.")
define(Number(*NATURAL), "k", None, "Draws in each bound of iwae, dreg and renyi; 1 unless given.")
define(Number(*NATURAL), "warmup", None, "Steps in which beta rises from 0; none unless given.")
define(Number(int, 0, 200, "an integer from 0 to 200"), "history", 0, "Points of training to evaluate exactly, too.")
define(Choices(POSTERIORS, UP_TO_K), "posterior", ["gaussian"], "The family of q(z_1 | x); several side by side.")
define(Choices(PRIORS, UP_TO_K), "prior", ["normal"], "p(z_L); mixtures are learned, vamp is q(z).")
define(Choices(DECODERS), "decoder", ["independent"], "Whether p(x_i | z) sees x_{i-1} too.")
define(Numbers(*RATES), "word_dropout", None, "Rates at which x_{i-1} is hidden; 0 unless given.")
define(Choices(PRESETS), "preset", ["default"], "The recipe: ours, or the post's, or both.")
define(Location(), "out", None, "Folder for the results; a new one under runs/ unless given.")
define(SECONDS, "checkpoint_every", 30.0, "Seconds of training after which what is unfinished is saved.")
define(Location(), "compilation_cache", None, "Folder that keeps compiled programs for later sweeps.")
define(flags.BooleanParser(), "resume", False, "Goes on with the sweep in --out, or adds seeds and n to it.")

ASKED = (
    *("preset", "objective", "posterior", "prior", "decoder"),
    *("layers", "n", "beta", "word_dropout", "learning_rate", "first_seed", "seeds"),
    *("steps", "samples", "noise", "k", "warmup", "history", "chunk"),
)  # the flags that say what is trained


def main() -> int:
    """Trains, writes the results' folder and prints the table; the exit status."""
    start = time.perf_counter()
    signals.leave_at_once()
    require("matplotlib")  # not before the flags are known to be good; what it refuses is told before any work
    runtime.use_all_cores()
    runtime.keep_freed_memory()
    warnings.showwarning = lambda message, *_: print(f"notice: {message}", file=sys.stderr)
    if FLAGS.resume and not FLAGS.out:
        raise BadInput("--resume: expected --out=DIR too, the folder to go on with")
    if FLAGS.compilation_cache:
        runtime.keep_programs(FLAGS.compilation_cache)
    cli.require_devices()
    out = Path(FLAGS.out) if FLAGS.out else folder.new()
    begun = FLAGS.resume and folder.begun(out)
    fresh = None if begun else asked()
    stop = Stop()
    with folder.opened(out, begun):
        if FLAGS.resume and not begun:
            print(f"notice: --resume: no sweep has begun in {out} yet; this one begins", file=sys.stderr)
        try:
            rows = carry_out(fresh or asked_again(out), out, stop)
            signals.leave_at_once()
            stop.check()
        except Stopped as stopped:
            print(f"stopped by {stopped.signal.name}; {how_to_resume(out)}", file=sys.stderr)
            return 128 + stopped.signal
    say(f"{rows['n'].size} runs in {time.perf_counter() - start:.0f} s: {out}")
    return int(np.all(rows["status"] == "diverged"))


def carry_out(order: Order, out: Path, stop: Stop) -> Table:
    """Trains what the folder lacks, writes it and shows all that there is then; Stopped between these."""
    try:
        whole, new = runner.carry_out(order, out, progress_bars, stop.check, FLAGS.checkpoint_every)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise Fault(f"out of device memory with one run on each device: {error}; {how_to_resume(out)}") from error
    if not new:
        say(f"nothing left to train in {out}")
    show(whole.rows)
    stop.check()
    draw(whole, order, out / "summary.png")
    return whole.rows


def asked() -> Order:
    """What the flags ask for; ValueError where they do not go together."""
    values = {name: FLAGS[name].value for name in ASKED}
    presets = {name: PRESETS[name] for name in values["preset"]}
    objectives = {name: OBJECTIVES[name] for name in values["objective"]}
    fields = {name: values[name] for name in ("steps", "samples", "k")}
    noise = values["noise"] and NOISES[values["noise"]]
    rise = values["warmup"] and partial(warmup, rise=values["warmup"])
    families = {kind: {name: known[name] for name in values[kind]} for kind, known in FAMILIES.items()}
    chosen = variants(presets, objectives, noise=noise, beta_schedule=rise, **fields, **families)
    axes = ("layers", "n", "beta", "word_dropout", "learning_rate", "seeds", "first_seed")
    grid = {name: values[name] for name in axes}
    return order(chosen, **grid, chunk=values["chunk"], history=values["history"], argv=sys.argv, flags=values)


def asked_again(out: Path) -> Order:
    """The same for a folder that a sweep has begun in: flags that are not given are as they were then."""
    saved = resume.read_account(out).get("flags")
    if saved is None:
        known = f"--resume: {out / files.CONFIG} is that of a sweep of vae_bit.run"
        raise BadInput(f"{known}; expected it to be gone on with there, with resume=True")
    with files.naming(out / files.CONFIG):
        if odd := saved.keys() ^ {*ASKED}:
            raise ValueError(f"flags: {min(odd)} is {'unknown' if min(odd) in saved else 'missing'}")
        for name, value in saved.items():
            if not FLAGS[name].present and value is not None:
                FLAGS[name].value = FLAGS[name].parser.parse(value)
    now = asked()
    config = resume.continued(out, now.config)
    if config["argv"] == now.config["argv"]:  # of a larger grid: the command line that asks for all of it at once
        config["argv"] = [sys.argv[0], *all_flags()]
    return Order(now.variants, config)


def all_flags() -> list[str]:
    """The flags that differ from their defaults, as on a command line."""
    return [FLAGS[name].serialize() for name in ASKED if FLAGS[name].value != FLAGS[name].default]


def how_to_resume(out: Path) -> str:
    """The command line, in words."""
    return f"go on with: {shlex.quote(sys.executable)} -m experiments.sweep --out={shlex.quote(str(out))} --resume"


def draw(whole: Contents, order: Order, path: Path) -> None:
    """Writes the summary picture; a notice where it cannot be drawn, as all results are written."""
    picture = io.BytesIO()
    try:
        from experiments import figures
        from experiments.figures.selection import trained_with

        figures.save(figures.summary(whole.rows, whole.curves, trained_with(order.config, whole.rows)), picture, "png")
    except Exception as error:  # matplotlib and what it draws with raise all sorts
        print(f"notice: {path}: not drawn, {' '.join(str(error).split())}", file=sys.stderr)
    else:
        files.write(path, lambda file: file.write(picture.getvalue()))


def show(rows: Table) -> None:
    """Prints the table, and says on standard error how many runs did not end well."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with console.capture() as capture:
        console.print(rendered(medians(rows)))
    for line in notices(rows, "results.csv"):
        print(f"warning: {line}", file=sys.stderr)
    say(capture.get(), end="")


if __name__ == "__main__":
    cli.run(main)
