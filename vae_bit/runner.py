"""A sweep in one call: `run` trains and evaluates a grid of runs, `load` reads one back."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vae_bit import runtime, settings, sweep
from vae_bit.families import Decoder, Family, Prior
from vae_bit.models import Build
from vae_bit.noise import Rule
from vae_bit.objectives import Kl, Objective
from vae_bit.order import Order, order, try_out, variants
from vae_bit.presets import DEFAULT, Preset
from vae_bit.programs import Group
from vae_bit.progress import progress_bars
from vae_bit.store import files, results
from vae_bit.store.autosave import Autosave, Show
from vae_bit.store.folder import CHECKPOINTS, begun, opened
from vae_bit.store.results import Contents
from vae_bit.store.resume import continued, lacking, load_results
from vae_bit.summary import notices
from vae_bit.sweep import Trained
from vae_bit.trained import Results
from vae_bit.training import Optimizer, Schedule

Reports = Callable[[list[Group]], AbstractContextManager[list[Show]]]  # a function for each group hears of its progress


def run(
    n: int | Sequence[int] = (1, 5, 1000),
    layers: int | Sequence[int] = (1, 2),
    seeds: int = 8,
    *,
    beta: float | Sequence[float] = 1.0,
    word_dropout: float | Sequence[float] | None = None,
    learning_rate: float | Sequence[float] | None = None,
    preset: Preset | Mapping[str, Preset] = DEFAULT,
    objective: Objective | Sequence[Objective] | Mapping[str, Objective] | None = None,
    optimizer: Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer] | None = None,
    posterior: Family | Sequence[Family] | Mapping[str, Family] | None = None,
    prior: Prior | Sequence[Prior] | Mapping[str, Prior] | None = None,
    decoder: Decoder | Sequence[Decoder] | Mapping[str, Decoder] | None = None,
    model: Build | None = None,
    steps: int | None = None,
    samples: int | None = None,
    noise: Rule | None = None,
    k: int | None = None,
    kl: Kl | None = None,
    schedule: Schedule | None = None,
    beta_schedule: Schedule | None = None,
    first_seed: int = 0,
    history: int = 0,
    chunk: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Results:
    """Trains a grid of runs on all local devices.

    It is preset x objective x optimizer x posterior x prior x decoder x layers x n x beta x word_dropout x
    learning_rate x seed. Axes are one number or several, the others values, several of them in a dict whose keys name
    them in the table. An objective is a function of `vae_bit.objectives.Draws`, an optimiser one of the learning
    rate, such as optax.lion, a model one of layers and width, such as `vae_bit.presets.DEFAULT.model`; `kl` is how
    `draws.kl` is taken (`objectives.closed_kl`, `sampled_kl`), `schedule` and `beta_schedule` are functions of the
    number of steps that give factors of the learning rate and of beta. What is None is the preset's.

    `posterior` is the family of q(z_1 | x) and `prior` p(z_L), `decoder` whether p(x_i | z_1) sees x_{i-1} too, but
    for the share `word_dropout` of them that is hidden: all from `vae_bit.families`. A model of one's own has all three
    in it.

    `k` draws are in each bound of `objectives.iwae`, `dreg` and `renyi`. At `history` points of training, at most as
    many as the curves have, the runs are evaluated too. `chunk` bounds the runs that advance together. With `out`, a
    folder, all is saved there as by the command `experiments.sweep`, and `resume=True` goes on with it; without,
    everything stays in memory.

    ValueError names an argument that is wrong, its value and what is allowed, before any work. UserWarning says how
    many runs diverged, collapsed or have figures that may be off.
    """
    runtime.use_all_cores()
    runtime.keep_freed_memory()
    if resume and out is None:
        raise ValueError("resume: got True without out, expected the folder to go on with, too")
    fields = {"steps": steps, "samples": samples, "noise": noise, "k": k, "kl": kl}
    fields |= {"schedule": schedule, "beta_schedule": beta_schedule}
    fields |= {"posterior": posterior, "prior": prior, "decoder": decoder}
    chosen = variants(preset, objective, optimizer, model, **fields)
    axes = {"layers": layers, "n": n, "beta": beta, "word_dropout": word_dropout, "learning_rate": learning_rate}
    grid = {name: axis if axis is None else _several(axis) for name, axis in axes.items()}
    asked = order(chosen, **grid, seeds=seeds, first_seed=first_seed, chunk=chunk, history=history)
    with settings.fixed():
        try_out(asked)
    builds = {labels: preset.model for labels, preset in chosen.items()}
    reports = progress_bars if progress else silent
    folder = Path(out).expanduser() if out else None
    whole = _in_folder(asked, folder, resume, reports) if folder else _in_memory(asked, reports)
    for line in notices(whole.rows, "status and error in rows"):
        warnings.warn(line, stacklevel=2)
    return Results(whole, builds, folder)


def _in_folder(asked: Order, folder: Path, resume: bool, reports: Reports) -> Contents:
    going_on = resume and begun(folder)
    with opened(folder, going_on):
        if going_on:
            asked = Order(asked.variants, continued(folder, asked.config))
        return carry_out(asked, folder, reports)[0]


def load(out: str | os.PathLike[str], model: Build | Sequence[Build] | None = None) -> Results:
    """A sweep's folder; `model`, one or several, is needed where its models are not those of a preset.

    ValueError where it is no such folder, or damaged: a `vae_bit.store.files.Damaged`, which names the file.
    """
    folder = Path(out).expanduser()
    own = list(model) if isinstance(model, list | tuple) else [model] if callable(model) else []
    return Results(results.load(folder, own), results.builds(folder, own), folder)


def carry_out(
    order: Order, out: Path, reports: Reports, check: Callable[[], None] = lambda: None, seconds: float = 30.0
) -> tuple[Contents, int]:
    """Trains what an opened folder lacks, saving every so many seconds, and writes it; all runs, how many are new.

    `check` is called between blocks of steps, and whatever it raises stops the sweep once what is done is saved.
    """
    earlier = load_results(out, [preset.model for preset in order.variants.values()])
    with files.naming(out / "results.csv"):
        groups = missing(order, earlier)
    if groups:
        files.write_config(out, order.config)
        trained = _train(groups, order, reports, Autosave(out / CHECKPOINTS, seconds, check))
        earlier = results.write(out, order.variants, trained, order.config, earlier)
        check()
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    assert earlier is not None  # with nothing to train there were results
    return earlier, sum(group.runs.n.size for group in groups)


def missing(order: Order, earlier: Contents | None) -> list[Group]:
    """The runs that are not there yet."""
    return lacking(order.variants, order.config["settings"], order.config["stages"], earlier and earlier.rows)


def _train(groups: list[Group], order: Order, reports: Reports, autosave: Autosave) -> list[Trained]:
    with reports(groups) as shows:
        watches = [autosave.watch(group, show) for group, show in zip(groups, shows, strict=True)]
        try:
            trained = sweep.train_all(groups, order.config["settings"]["chunk"], watches)
        except BaseException:
            autosave.save()
            raise
        autosave.save()  # the results may not find room
        return trained


def _in_memory(order: Order, reports: Reports) -> Contents:
    groups = missing(order, None)
    with reports(groups) as shows:
        watches = [sweep.UNWATCHED._replace(report=show) for show in shows]
        return results.merge(
            list(map(results.contents, sweep.train_all(groups, order.config["settings"]["chunk"], watches)))
        )


@contextmanager
def silent(groups: list[Group]) -> Iterator[list[Show]]:
    """Reports to nobody."""
    yield [lambda which, progress: None for _ in groups]


def _several(axis: Any) -> Any:
    return [axis] if np.ndim(axis) == 0 else axis
