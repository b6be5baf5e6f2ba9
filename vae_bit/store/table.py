"""The table of a sweep: one row a run, from what was trained and as the text of `results.csv`.

A table is a dict of columns, ordered by its keys.
"""

import csv
import io
import math
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from vae_bit import limits, padding
from vae_bit.families import components
from vae_bit.models import Model
from vae_bit.sweep import Trained
from vae_bit.training import Run

Table = dict[str, np.ndarray]

LABELS = ("preset", "objective", "optimizer", "posterior", "prior", "decoder")
KEYS = (*LABELS, "layers", "n", "beta", "word_dropout", "learning_rate", "seed")
STATUS = ("ok", "collapsed", "diverged")
EXACT = ("nll", "posterior_kl", "mutual_information", "marginal_kl", "valid_mass", "error")
TRAINING = ("status", "collapsed", "steps")
COLUMNS = (*KEYS, *TRAINING, "loss", "recon", "recon_per_dim", "kl", "limit", "gap", *EXACT, "active_units")
WHOLE = {  # and their bounds
    "layers": (1, 64),
    "n": (1, 2**31 - 1),
    "seed": (0, 2**32 - 1),
    "steps": (0, 2**31 - 1),
    "active_units": (0, 64),
}
POSITIVE = ("beta", "learning_rate")
ACTIVE = 0.01  # variance of a latent's mean over the data, for it to count as active
COLLAPSED = 0.01  # nats of mutual information at the top layer, held and missing


def from_trained(trained: Trained) -> Table:
    """The rows of a group.

    `kl_1`, .., `kl_L` are the KL of each layer, which sum to `kl`; `active_units` counts the layers whose mean, given
    x, varies with x (Burda et al. 2016).
    """
    group = trained.group
    runs, figures = jax.tree.map(np.asarray, (group.runs, trained.evaluation))
    limit, information = optimum(group.model, group.width, runs)
    collapsed = is_collapsed(figures.mutual_information, information)
    diverged = ~trained.finite | ~np.isfinite(figures.loss)
    return {
        **{name: np.full(runs.n.shape, label) for name, label in group.labels._asdict().items()},
        "layers": np.full(runs.n.shape, group.layers),
        "n": runs.n,
        "beta": runs.beta,
        "word_dropout": runs.word_dropout,
        "learning_rate": runs.learning_rate,
        "seed": runs.seed,
        "status": np.where(diverged, "diverged", np.where(collapsed, "collapsed", "ok")),
        "collapsed": collapsed,
        "steps": trained.steps,
        "loss": figures.loss,
        "recon": figures.recon,
        "recon_per_dim": figures.recon / runs.n,
        "kl": figures.kl.sum(1),
        "limit": limit,
        "gap": figures.loss - limit,
        **{name: getattr(figures, name) for name in EXACT},
        "active_units": np.sum(figures.activity > ACTIVE, axis=1),
        **{f"kl_{l}": kl for l, kl in enumerate(figures.kl.T, 1)},
    }


def optimum(model: Model, width: int, runs: Run) -> tuple[np.ndarray, np.ndarray]:
    """`limits.limit` and `limits.information` of runs [R], NaN where they are not known for the model's families."""
    posterior, prior = families(model, width)
    if model.layers > 1:  # whatever q(z_1 | x) is
        posterior = prior = 1
    if math.isnan(posterior + prior) or (prior == 1 and limits.MOST_COMPONENTS < posterior < math.inf):
        return np.full(runs.n.shape, np.nan), np.full(runs.n.shape, np.nan)
    asked = model.layers, runs.n, runs.beta, posterior, prior, runs.word_dropout
    return limits.limit(*asked), limits.information(*asked)


def families(model: Model, width: int) -> tuple[float, float]:
    """Of how many Gaussians q(z_1 | x) and p(z_L) are mixtures; see `families.components`."""
    params, n = padding.shapes(model.init, width), jax.ShapeDtypeStruct((), np.int32)
    shapes = [jax.eval_shape(function, params, n) for function in (model.encode, model.prior)]
    return components(shapes[0]), components(shapes[1])


def is_collapsed(information: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Whether I < 0.01 and I <= I* - 0.01, of runs [R].

    I is the top layer's mutual information with x and I* what the optimum holds (`limits.information`), both in nats.
    Such a run holds less than half of what the optimum does; where the optimum itself holds less than 0.01, because a
    code pays nothing (n <= beta) or next to nothing, or is not known, no run collapses.
    """
    return (information < COLLAPSED) & (information <= best - COLLAPSED)


def joined(tables: Iterable[Table]) -> Table:
    """The rows of all tables, one after another; what a table lacks, the KL of layers that it does not have, is NaN."""
    tables = list(tables)
    names = dict.fromkeys(name for table in tables for name in table)
    return {
        name: np.concatenate([_column_or_nan(table, name) for table in tables]) for name in sorted(names, key=_place)
    }


def _column_or_nan(table: Table, name: str) -> np.ndarray:
    return table.get(name, np.full(table["n"].shape, np.nan))


def _place(name: str) -> tuple[int, str]:
    return (COLUMNS.index(name), "") if name in COLUMNS else (len(COLUMNS), name)


def order(rows: Table) -> np.ndarray:
    """The indices that sort the rows by their keys."""
    return np.lexsort([rows[name] for name in reversed(KEYS)])


def keys(rows: Table) -> list[tuple]:
    """What tells each row from all others."""
    return list(zip(*(rows[name].tolist() for name in KEYS), strict=True))


def to_csv(rows: Table) -> str:
    """The text of `results.csv`."""
    lines = zip(*(column.tolist() for column in rows.values()), strict=True)
    return "".join(",".join(map(str, line)) + "\n" for line in [rows, *lines])


def from_csv(text: str) -> Table:
    """The table; ValueError where the text is none. Numbers are float64 or int64, flags bool, the rest text."""
    header, *lines = csv.reader(io.StringIO(text))
    if not lines:
        raise ValueError("it has no rows")
    columns = dict(zip(header, zip(*lines, strict=True), strict=True))
    if missing := set(COLUMNS) - columns.keys():
        raise ValueError(f"column {min(missing)} is missing")
    rows = {name: _parsed(name, texts) for name, texts in columns.items() if name in COLUMNS}
    layers = {f"kl_{l}" for l in range(1, int(rows["layers"].max()) + 1)}
    if odd := (columns.keys() ^ {*COLUMNS, *layers}):
        raise ValueError(f"column {min(odd)} is {'missing' if min(odd) in layers else 'unknown'}")
    rows |= {name: _parsed(name, columns[name]) for name in sorted(layers)}
    if any(one >= other for one, other in pairwise(keys(rows))):
        raise ValueError(f"its rows are not in the order of {', '.join(KEYS)}, or not all different")
    return rows


def _parsed(name: str, texts: tuple[str, ...]) -> np.ndarray:
    """One column; ValueError where something in it cannot be."""
    if name in LABELS:
        column, good = np.array(texts), np.array([is_label(text) for text in texts])
    elif name == "status":
        column, good = np.array(texts), np.isin(texts, STATUS)
    elif name == "collapsed":
        column, good = np.array(texts) == "True", np.isin(texts, ("True", "False"))
    elif name == "word_dropout":
        column = np.array([float(text) for text in texts])
        good = (column >= 0.0) & (column <= 1.0)
    elif name in WHOLE:
        column = np.array([int(text) for text in texts])
        good = (column >= WHOLE[name][0]) & (column <= WHOLE[name][1])
    else:
        column = np.array([float(text) for text in texts])
        good = (column > 0.0) & np.isfinite(column) if name in POSITIVE else np.ones(column.size, bool)
    if not good.all():
        raise ValueError(f"{name} {texts[np.argmin(good)]} cannot be")
    return column


def is_label(text: Any) -> bool:
    """Whether the text can stand in a table and in the name of an array: letters, digits and `_ . + -`."""
    return isinstance(text, str) and bool(re.fullmatch(r"[\w.+-]{1,64}", text, re.ASCII))
