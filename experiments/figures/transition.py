"""The figure of the best one-layer code as n / beta grows; its panels go into any axes."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import families, premises, selection, style
from experiments.figures.families import EFFECTIVE
from experiments.figures.selection import Gaussian, Saved
from vae_bit import limits
from vae_bit.limits import LN2
from vae_bit.store.table import Table

Quantity = Literal["mean", "std", "kl", "mutual_information"]
QUANTITIES: dict[Quantity, str] = {
    "mean": "mean m of the codes N(±m, s²)",
    "std": "standard deviation s",
    "kl": "KL (nats)",
    "mutual_information": "mutual information I(x; z) (nats)",
}


@style.look
def figure_transition(results: Saved) -> Figure:
    """How the best one-layer code opens at n = beta: its mean, width, KL and mutual information."""
    trained = f"{premises.objective_name(results.recipe)}; every β and learning rate"
    title = "The best code of one layer opens at n = β, continuously"
    figure = style.new(9, 6.4, title, trained if 1 in selection.depths(results.every) else "")
    panels = figure.subplots(2, 2, sharex=True)
    for axes, quantity in zip(panels.flat, QUANTITIES, strict=True):
        plot_transition(results, quantity, axes, legend=axes is panels[1, 1])
    for axes in panels[0]:
        axes.set_xlabel("")
    return figure


@style.look
def plot_transition(results: Saved, quantity: Quantity, ax: Axes | None = None, legend: bool = True) -> Axes:
    """One quantity of the best one-layer code against n / beta, and of all trained runs of one layer."""
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity: got {quantity!r}, expected one of {', '.join(QUANTITIES)}")
    axes, colour = style.panel(ax), style.depth_colour(1)
    n = np.unique(np.concatenate([np.geomspace(0.5, 1e4, 500), 1 + np.geomspace(1e-6, 1, 200)]))
    information = quantity == "mutual_information"
    height = limits.information(1, n) if information else getattr(limits.one_layer(n), quantity)
    axes.plot(n, height, color=colour, linewidth=1.2, label="limit: the best code")
    axes.plot(*_trained(results, quantity), "o", color=colour, markersize=5, label="trained, 1 layer")
    if information:
        axes.axhline(LN2, color=style.PALE, linewidth=1, linestyle="--", label="ln 2, the bit")
    if quantity == "mean":
        _power_law(axes.inset_axes((0.42, 0.25, 0.52, 0.42)))
    blank = np.any(of_gaussians(results)["word_dropout"] < 1)
    axes.set(xscale="log", xlabel=f"{EFFECTIVE} / β" if blank else "n / β", title=QUANTITIES[quantity])
    if legend:
        axes.legend(loc=(0.13, 0.03) if quantity == "mean" else "best")
    return axes


def _trained(results: Saved, quantity: Quantity) -> tuple[np.ndarray, np.ndarray]:
    """n / beta and the quantity of the one-layer runs: of codes those of the median runs, of figures all."""
    rows = of_gaussians(results)
    if quantity in ("kl", "mutual_information"):
        return families.effective(rows["n"], rows["word_dropout"]) / rows["beta"], rows[quantity]
    codes = trained_codes(results)
    height = [half_distance(q) if quantity == "mean" else q.std.mean() for _, q in codes]
    pressures = [families.effective(row["n"], row["word_dropout"]) / row["beta"] for row, _ in codes]
    return np.array(pressures), np.array(height)


def of_gaussians(results: Saved) -> Table:
    """All runs of one layer with Gaussian q and prior N(0, 1)."""
    return selection.of(results.every, layers=1, posterior="gaussian", prior="normal")


def trained_codes(results: Saved) -> list[tuple[dict, Gaussian]]:
    """Row and codes of the median run of one layer of Gaussians at each n, beta and word dropout."""
    rows = of_gaussians(results)
    names = "n", "beta", "word_dropout"
    settings = sorted(set(zip(*(rows[name].tolist() for name in names), strict=True)))
    own = [selection.of(rows, **dict(zip(names, setting, strict=True))) for setting in settings]
    medians = [selection.median_row(each) for each in own]
    return [(row, selection.codes(selection.model(results, row))) for row in medians]


def half_distance(q: Gaussian) -> float:
    """m of codes N(-m, s^2), N(m, s^2), shape [2], wherever they lie."""
    return float(abs(q.mean[1] - q.mean[0]) / 2)


def _power_law(axes: Axes) -> None:
    """Just above n = beta, m = (3 (n / beta - 1) / 2)^(1/6)."""
    above = np.geomspace(1e-6, 1, 200)
    axes.plot(above, limits.one_layer(1 + above).mean, color=style.depth_colour(1))
    axes.plot(above, (1.5 * above) ** (1 / 6), ":", color=style.INK)
    axes.set(xscale="log", yscale="log", xlabel="n / β - 1")
    axes.set_title("m; dotted $(3 (n / β - 1) / 2)^{1/6}$", fontsize=9)
    axes.tick_params(labelsize=8)
