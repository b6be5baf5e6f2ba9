"""How exact figures move while a sweep trains, where it was asked for its history."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import premises, selection, style
from experiments.figures.runs import setting
from experiments.figures.selection import Missing, Saved
from vae_bit.limits import LN2

Moving = Literal["gap", "kl", "mutual_information"]
MOVING = {
    "gap": "loss above its limit",
    "kl": "KL, summed over layers",
    "mutual_information": "I(x; z); dotted ln 2",
}


@style.look
def figure_history(results: Saved) -> Figure:
    """Gap, KL and mutual information at the points of training that were evaluated, a row for each depth."""
    _require(results)
    depths = selection.depths(results.rows)
    figure = style.new(10, 1.0 + 3.2 * len(depths), "What training learns, and when: exact figures", setting(results))
    panels = figure.subplots(len(depths), len(MOVING), sharex=True, squeeze=False)
    for row, layers in zip(panels, depths, strict=True):
        for axes, quantity in zip(row, MOVING, strict=True):
            plot_history(results, layers, quantity, axes, legend=False)
    for axes in panels[:-1].flat:
        axes.set_xlabel("")
    style.legend_right(figure, panels[0, 0], "median, all seeds")
    return figure


@style.look
def plot_history(results: Saved, layers: int, quantity: Moving, ax: Axes | None = None, legend: bool = True) -> Axes:
    """One exact figure of one depth's runs against training steps, a median and a band for each n."""
    _require(results)
    premises.require(results, layers)
    if quantity not in MOVING:
        raise ValueError(f"quantity: got {quantity!r}, expected one of {', '.join(MOVING)}")
    axes, rows, history = style.panel(ax), results.rows, results.history
    values = history["loss"] - rows["limit"][:, None] if quantity == "gap" else history[quantity]
    colours = style.width_colours(selection.widths(rows))
    for n in selection.widths(rows, layers):
        own = (rows["layers"] == layers) & (rows["n"] == n)
        low, middle, high = np.quantile(values[own], [0, 0.5, 1], axis=0)
        axes.plot(history["step"], middle, ".-", color=colours[n], label=f"n = {n:,}")
        axes.fill_between(history["step"], low, high, color=colours[n], alpha=0.25, linewidth=0)
    if quantity == "gap":
        axes.set_yscale("symlog", linthresh=1e-4)
    if quantity == "mutual_information":
        axes.axhline(LN2, color=style.INK, linestyle=":", linewidth=1)
    axes.set(xlabel="training step", ylabel="nats", title=f"{style.depth_name(layers)}: {MOVING[quantity]}")
    if legend:
        axes.legend(title="median, all seeds")
    return axes


def _require(results: Saved) -> None:
    if not results.history:
        raise Missing("it needs a sweep with --history")
