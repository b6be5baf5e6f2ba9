"""The table of a sweep in short: a line for each setting, medians over its seeds."""

import numpy as np
from rich.table import Table as Printed

from vae_bit.exact import TOLERANCE
from vae_bit.store.table import EXACT, KEYS, Table

FIGURES = ("recon", "recon_per_dim", "kl", *EXACT, "limit", "gap")
HIDDEN = ("runs", "sound", "marginal_kl", "error")  # of the printed table
DIGITS = {"recon_per_dim": 7}
HEADINGS = {"recon_per_dim": "per dim", "mutual_information": "I(x; z)", "learning_rate": "rate"}


def medians(rows: Table) -> Table:
    """A row for each setting: how many `runs` and, of them, `sound` ones that did not diverge; figures of the latter.

    `loss`, `min` and `max` are the median and the range of the loss; the rest are medians, NaN where no run is sound.
    """
    keys = [name for name in KEYS[:-1] if name in ("layers", "n") or np.unique(rows[name]).size > 1]  # all but the seed
    settings = list(zip(*(rows[name].tolist() for name in keys), strict=True))
    distinct = sorted(set(settings))
    lines = [_line(rows, np.array([other == setting for other in settings])) for setting in distinct]
    columns = dict(zip(keys, zip(*distinct, strict=True), strict=True))
    return {name: np.array(column) for name, column in columns.items()} | {
        name: np.array([line[name] for line in lines]) for name in lines[0]
    }


def _line(rows: Table, own: np.ndarray) -> dict[str, float]:
    sound = own & (rows["status"] != "diverged")
    low, middle, high = np.quantile(rows["loss"][sound], [0, 0.5, 1]) if sound.any() else [np.nan] * 3
    figures = {name: float(np.median(rows[name][sound])) if sound.any() else np.nan for name in FIGURES}
    return {"runs": own.sum(), "sound": sound.sum(), "loss": middle, "min": low, "max": high} | figures


def rendered(table: Table) -> Printed:
    """The summary as a table of text."""
    printed = Printed(title="Exact figures in nats: medians over seeds")
    names = [name for name in table if name not in HIDDEN]
    keys = names[: names.index("loss")]
    for name in (*keys, "seeds", *names[len(keys) :]):
        printed.add_column(HEADINGS.get(name, name.replace("_", " ")), justify="right")
    for line in range(table["loss"].size):
        runs, sound = table["runs"][line], table["sound"][line]
        count = f"{sound}" if sound == runs else f"{sound} of {runs}"
        figures = [_shown(name, table[name][line]) for name in names[len(keys) :]]
        printed.add_row(*(_key(table[name][line]) for name in keys), count, *figures)
    return printed


def notices(rows: Table, where: str) -> list[str]:
    """What went wrong, a line each, and `where` it is seen: runs diverged or collapsed, figures that may be off."""
    lines, total = [], rows["n"].size
    for status in ("diverged", "collapsed"):
        if count := np.sum(rows["status"] == status):
            lines.append(f"{count} of {total} runs {status}; see {where}")
    error = rows["error"][(rows["status"] != "diverged") & (rows["error"] > TOLERANCE)]
    if error.size:
        figures = f"their figures may be off by up to {error.max():.0e} of max(1, |figure|); see error in {where}"
        lines.append(f"{error.size} of {total} runs inexact: {figures}")
    return lines


def _key(value: np.generic) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _shown(name: str, value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.{DIGITS.get(name, 5)}f}"
