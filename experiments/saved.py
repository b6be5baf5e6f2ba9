"""A sweep read back for pictures and reports: its table and curves, and exact functions of a trained model's latents.

Everything here is float64 numpy; a folder that is no sweep's raises BadInput.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.options import BadInput
from vae_bit import exact, models, results, settings
from vae_bit.models import Architecture, Params
from vae_bit.results import Table

RECIPE = ("objective", "k", "steps")  # of config.json
BLOCK = 32  # dimensions of x whose probability is found at a time
PUBLISHED = Path(__file__).with_name("published.json")


class Missing(Exception):
    """The results hold nothing for a figure; the message says what it needs."""


class Saved(NamedTuple):
    """A sweep's finite runs: `rows` and `curves` of one beta and learning rate, `every` of all; what was left out.

    `recipe` is config.json's word on the objective, k and steps.
    """

    out: Path
    rows: Table
    curves: dict[str, np.ndarray]
    every: Table
    notices: list[str]
    recipe: dict[str, Any]


class Model(NamedTuple):
    """One trained run: its row of the table and its parameters, float64."""

    row: dict
    arch: Architecture
    params: Params


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


def load(out: results.Folder) -> Saved:
    """Reads a sweep's folder, `~` being the home; BadInput where it is missing, damaged or something else."""
    out = Path(out).expanduser()
    with _reading(out):
        every, curves, _ = results.load(out)
        recipe = {name: getattr(results.read_config(out).recipe, name) for name in RECIPE}
    finite = every["status"] != "diverged"
    if not finite.any():
        raise BadInput(f"--run={out}: every run diverged; expected at least one that did not")
    chosen, notices = one_setting(every)
    rows = {name: column[chosen] for name, column in every.items()}
    own_curves = {name: curve if name == "step" else curve[chosen] for name, curve in curves.items()}
    return Saved(out, rows, own_curves, {name: column[finite] for name, column in every.items()}, notices, recipe)


def one_setting(rows: Table) -> tuple[np.ndarray, list[str]]:
    """Which runs to draw: finite, beta = 1 if there, the learning rate of least median gap; and what was left out."""
    chosen, notices = rows["status"] != "diverged", []
    if diverged := np.sum(~chosen):
        notices.append(f"{diverged} of {chosen.size} runs: diverged")
    for name in ("beta", "learning_rate") if chosen.any() else ():
        values = np.unique(rows[name][chosen])
        medians = [np.median(rows["gap"][chosen & (rows[name] == value)]) for value in values]
        best = 1.0 if name == "beta" and 1.0 in values else values[np.argmin(medians)]
        others = [f"{name} = {value:g}" for value in values if value != best]
        notices += [f"runs with {other}, but where all are shown: those with {best:g} are drawn" for other in others]
        chosen = chosen & (rows[name] == best)
    return chosen, notices


def of(rows: Table, **keys: float) -> Table:
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


def median_model(saved: Saved, layers: int, n: int) -> Model:
    """The trained run of median loss, of one depth and n."""
    return model(saved, median_row(of(saved.rows, layers=layers, n=n)))


def model(saved: Saved, row: dict) -> Model:
    """The trained run of a row."""
    with _reading(saved.out):
        run = results.load_run(saved.out, **{name: row[name] for name in results.KEYS})
    with settings.fixed(x64=True):
        return Model(run.row, run.arch, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), run.params))


def codes(model: Model) -> Gaussian:
    """q(z_1 | x) of 0^n and 1^n, shape [2]."""
    with settings.fixed(x64=True):
        return Gaussian(*map(np.asarray, models.encode(model.arch, model.params, model.row["n"])))


def conditional(model: Model, side: str, layer: int, z: np.ndarray) -> Gaussian:
    """q(z_{l+1} | z_l) of side "q" or p(z_l | z_{l+1}) of side "p", l = `layer`, given z [K]: shape [K]."""
    with settings.fixed(x64=True):
        chain = models.chain(model.arch, model.params, model.row["n"])
        kernel = (chain.q if side == "q" else chain.p)[layer - 1]
        return Gaussian(*map(np.asarray, kernel(jnp.asarray(z, jnp.float64))))


def top_densities(model: Model, z: np.ndarray) -> np.ndarray:
    """q(z_L | x) of 0^n and 1^n at z [K]: [2, K]. It takes one dimension of the decoder, for a program of every n."""
    narrow = model._replace(arch=replace(model.arch, width=1), params=models.unpad(model.params, 1))
    return _exactly(_top_densities, narrow, z)


def pixel_probability(model: Model, z: np.ndarray) -> np.ndarray:
    """p(x_i = 1 | z_L) at z [K]: [n, K]."""
    return _exactly(_pixel_probability, model, z)


def _exactly(f: Callable[[Architecture, Params, int, Array], Array], model: Model, z: np.ndarray) -> np.ndarray:
    with settings.fixed(x64=True):
        return np.asarray(f(model.arch, model.params, model.row["n"], jnp.asarray(z, jnp.float64)))


@partial(jax.jit, static_argnums=0)
def _top_densities(arch: Architecture, params: Params, n: int, z: Array) -> Array:
    return exact.densities(models.chain(arch, params, n), [z] * arch.layers).q[-1]


@partial(jax.jit, static_argnums=0)
def _pixel_probability(arch: Architecture, params: Params, n: int, z: Array) -> Array:
    """A few dimensions at a time, as each holds numbers for every z and every node of its inner grid."""
    chain = models.chain(arch, params, n)

    def block(i: Array) -> Array:
        return exact.expectation(chain, lambda z_1: jax.nn.sigmoid(chain.logits(z_1)[i]), z)

    blocks = np.resize(np.arange(arch.width), (-(-arch.width // BLOCK), min(BLOCK, arch.width)))
    return jax.lax.map(block, blocks).reshape(-1, z.size)[: arch.width]


def density(z: np.ndarray, q: Gaussian) -> np.ndarray:
    """N(z; mean, std^2), all shapes broadcast."""
    return np.exp(-0.5 * np.square((z - q.mean) / q.std)) / (q.std * np.sqrt(2 * np.pi))


def draws(model: Model, count: int) -> np.ndarray:
    """Ancestral samples x, those with fewer ones first: [n, count]."""
    with settings.fixed(x64=True):
        x = np.asarray(models.sample(model.arch, model.params, jax.random.key(0), count))
    return x[:, np.argsort(x.sum(0), kind="stable")]


@cache
def published() -> list[dict]:
    """What the post's author saved, a dict for each depth and n; `published.json` says where it comes from."""
    return json.loads(PUBLISHED.read_text())["runs"]
