"""A sweep read back for pictures and reports: its table and curves, and exact functions of a trained model's latents.

Everything here is float64 numpy; a folder that is no sweep's raises BadInput.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.cli import BadInput
from vae_bit import runner, settings
from vae_bit.distributions import Normal
from vae_bit.models import Build
from vae_bit.store import files, results
from vae_bit.store.files import Damaged
from vae_bit.store.results import Folder
from vae_bit.store.table import KEYS, LABELS, Table
from vae_bit.trained import Results, TrainedModel

PREFERRED = {
    "preset": "default",
    "objective": "elbo",
    "optimizer": "adam",
    "posterior": "gaussian",
    "prior": "normal",
    "decoder": "independent",
    "word_dropout": 1.0,
    "beta": 1.0,
}
CHOSEN = (*LABELS, "word_dropout", "beta", "learning_rate")  # of each of these one value is drawn
PUBLISHED = Path(__file__).with_name("published.json")


class Missing(Exception):
    """The results hold nothing for a figure; the message says what it needs."""


class Saved(NamedTuple):
    """A sweep's finite runs: `rows` and `curves` of one value of each of CHOSEN, `every` of all; what was left out.

    `recipe` says how they were trained: see `trained_with`.
    """

    out: Path
    rows: Table
    curves: dict[str, np.ndarray]
    every: Table
    notices: list[str]
    recipe: dict[str, Any]
    history: dict[str, np.ndarray]  # exact figures [R, H] at `step` [H], of the runs in `rows`; perhaps nothing
    trained: Results | None = None  # where their model is known


class Gaussian(NamedTuple):
    """N(mean, std^2), float64 arrays of one shape."""

    mean: np.ndarray
    std: np.ndarray


@contextmanager
def _reading(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadInput(f"--run={out}: {reason}; expected a folder that experiments.sweep has written") from error


def load(out: Folder, model: Build | None = None) -> Saved:
    """Reads a sweep's folder, `~` being the home; BadInput where it is missing, damaged or something else.

    Where its models are not those of a preset, figures of them need `model`, the function that the sweep was given.
    """
    out = Path(out).expanduser()
    with _reading(out):
        every, curves, history = results.load_table(out), results.load_curves(out), results.load_history(out)
        trained, config = _trained(out, model), files.read_config(out)
    finite = every["status"] != "diverged"
    if not finite.any():
        raise BadInput(f"--run={out}: every run diverged; expected at least one that did not")
    chosen, notices = one_setting(every)
    rows = {name: column[chosen] for name, column in every.items()}
    curves, history = (
        {name: series if name == "step" else series[chosen] for name, series in some.items()}
        for some in (curves, history)
    )
    every = {name: column[finite] for name, column in every.items()}
    return Saved(out, rows, curves, every, notices, trained_with(config, rows), history, trained)


def _trained(out: Path, model: Build | None) -> Results | None:
    """The trained models, or None where they are of a kind that is not given."""
    try:
        return runner.load(out, model)
    except Damaged:
        raise
    except ValueError:
        return None


def trained_with(config: dict[str, Any], rows: Table) -> dict[str, Any]:
    """What config.json says of the training of rows that share their labels.

    `objective` as the table calls it, the qualified name of its `function`, its draws `k`, and `steps`.
    """
    labels = {name: rows[name][0] for name in LABELS} if rows["n"].size else {}
    recipe = next(v for v in config["variants"] if labels.items() <= v.items())["recipe"]
    function, noise = recipe["objective"], recipe["noise"]
    return {
        "objective": labels.get("objective", ""),
        "function": function["function"] if isinstance(function, dict) else function,
        "k": noise["arguments"].get("k", 1) if isinstance(noise, dict) and "arguments" in noise else 1,
        "steps": config["steps"],
    }


def one_setting(rows: Table) -> tuple[np.ndarray, list[str]]:
    """Which runs to draw: finite, of one setting; and what was left out.

    They are those of the post, as PREFERRED says, if there, and of the rest those of least median gap.
    """
    chosen, notices = rows["status"] != "diverged", []
    if diverged := np.sum(~chosen):
        notices.append(f"{diverged} of {chosen.size} runs: diverged")
    for name in CHOSEN if chosen.any() else ():
        values = np.unique(rows[name][chosen]).tolist()
        medians = [np.median(rows["gap"][chosen & (rows[name] == value)]) for value in values]
        least = values[np.argmin(np.nan_to_num(medians, nan=np.inf))]  # no gap where the limit is not known
        best = PREFERRED[name] if PREFERRED.get(name) in values else least
        others = [f"{name} = {short(value)}" for value in values if value != best]
        drawn = f"but where all are shown: those with {short(best)} are drawn"
        notices += [f"runs with {other}, {drawn}" for other in others]
        chosen = chosen & (rows[name] == best)
    return chosen, notices


def short(value: Any) -> str:
    """A label or a number as it is shown."""
    return value if isinstance(value, str) else f"{value:g}"


def of(rows: Table, **keys: float | str) -> Table:
    """The rows with the given values."""
    own = np.logical_and.reduce([rows[name] == value for name, value in keys.items()])
    return {name: column[own] for name, column in rows.items()}


def depths(rows: Table) -> list[int]:
    """Numbers of layers in the table, ascending."""
    return np.unique(rows["layers"]).tolist()


def widths(rows: Table, layers: int | None = None) -> list[int]:
    """Values of n in the table, of one depth or of all, ascending."""
    return np.unique(rows["n"] if layers is None else of(rows, layers=layers)["n"]).tolist()


def median(results: Saved, layers: int, n: int, name: str) -> float:
    """The median of a column over the seeds of one depth and n."""
    return float(np.median(of(results.rows, layers=layers, n=n)[name]))


def median_row(rows: Table) -> dict:
    """The row whose loss is the median (the lower of two)."""
    index = np.argsort(rows["loss"], kind="stable")[(rows["loss"].size - 1) // 2]
    return {name: column[index].item() for name, column in rows.items()}


def median_model(saved: Saved, layers: int, n: int) -> TrainedModel:
    """The trained run of median loss, of one depth and n."""
    return model(saved, median_row(of(saved.rows, layers=layers, n=n)))


def model(saved: Saved, row: dict) -> TrainedModel:
    """The trained run of a row."""
    if saved.trained is None:
        raise Missing("the model, which is no preset's: figures.load(.., model=..)")
    return saved.trained.load(**{name: row[name] for name in KEYS})


def codes(model: TrainedModel) -> Gaussian:
    """q(z_1 | x) of 0^n and 1^n, shape [2]; Missing where it is no Gaussian."""
    q = model.encode()
    if not isinstance(q, Normal):
        raise Missing("a Gaussian q")
    return Gaussian(np.asarray(q.mean), np.asarray(q.std))


def conditional(model: TrainedModel, side: str, layer: int, z: np.ndarray) -> Gaussian:
    """q(z_{l+1} | z_l) of side "q" or p(z_l | z_{l+1}) of side "p", l = `layer`, given z [K]: shape [K]."""
    with settings.fixed(x64=True):
        chain = model.scalar_vae()
        kernel = (chain.q if side == "q" else chain.p)[layer - 1]
        return Gaussian(*map(np.asarray, kernel(jnp.asarray(z, jnp.float64))))


def density(z: np.ndarray, q: Gaussian) -> np.ndarray:
    """N(z; mean, std^2), all shapes broadcast."""
    return np.exp(-0.5 * np.square((z - q.mean) / q.std)) / (q.std * np.sqrt(2 * np.pi))


def draws(model: TrainedModel, count: int) -> np.ndarray:
    """Ancestral samples x, those with fewer ones first: [n, count]."""
    x = model.sample(count)
    return x[:, np.argsort(x.sum(0), kind="stable")]


@cache
def published() -> list[dict]:
    """What the post's author saved, a dict for each depth and n; `published.json` says where it comes from."""
    return json.loads(PUBLISHED.read_text())["runs"]
