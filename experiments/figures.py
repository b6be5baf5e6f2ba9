"""Figures of a sweep's saved results. Each function takes loaded results and gives a matplotlib Figure."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vae_bit import limits
from vae_bit.results import Table

# Okabe and Ito's colours, told apart by colour-blind readers.
DEPTH_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def save(figure: Figure, path: Path) -> None:
    """Writes the figure in the format that the name's ending says."""
    figure.savefig(path, dpi=150)


def summary(rows: Table, curves: dict[str, np.ndarray]) -> Figure:
    """Left: the gap to the limit while training; middle and right: loss and recon per dimension against n."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    learning, loss, recon = figure.subplots(1, 3)
    _learning_curves(learning, rows, curves)
    for depth in np.unique(rows["layers"]):
        _against_n(loss, rows, depth, "loss")
        _against_n(recon, rows, depth, "recon_per_dim")
    _limit_lines(loss, recon, rows)
    loss.set(xscale="log", xlabel="data dimensions n", ylabel="loss (nats)", title="Loss: trained runs and limits")
    recon.set(xscale="log", yscale="log", xlabel="data dimensions n", ylabel="recon / n (nats)")
    recon.set_title("Reconstruction cost per dimension")
    return figure


def depth_colour(layers: int) -> str:
    """One colour for a depth in every figure."""
    return DEPTH_COLOURS[(layers - 1) % len(DEPTH_COLOURS)]


def _learning_curves(axes: Axes, rows: Table, curves: dict[str, np.ndarray]) -> None:
    settings = sorted({*zip(rows["layers"].tolist(), rows["n"].tolist(), strict=True)})
    widths = sorted({n for _, n in settings})
    for layers, n in settings:
        own = (rows["layers"] == layers) & (rows["n"] == n)
        low, middle, high = np.quantile(curves["loss"][own], [0, 0.5, 1], axis=0)
        shade = 0.35 + 0.65 * (widths.index(n) + 1) / len(widths)
        colour = depth_colour(layers)
        axes.plot(curves["step"], middle, color=colour, alpha=shade, label=f"{layers} layers, n = {n}")
        axes.fill_between(curves["step"], low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel="sampled loss (nats)", ylim=(0.5, 3.0), title="Learning: median and range of seeds")
    axes.legend(fontsize="small", ncols=2)


def _against_n(axes: Axes, rows: Table, layers: int, name: str) -> None:
    own = rows["layers"] == layers
    axes.plot(rows["n"][own], rows[name][own], "o", color=depth_colour(layers), alpha=0.5, label=f"{layers} layers")


def _limit_lines(loss: Axes, recon: Axes, rows: Table) -> None:
    n = np.geomspace(rows["n"].min(), max(rows["n"].max(), 2), 200)
    one = limits.one_layer(n)
    loss.plot(n, one.loss, color=depth_colour(1), linewidth=1, label="limit, 1 layer")
    recon.plot(n, one.recon / n, color=depth_colour(1), linewidth=1)
    loss.axhline(np.log(2), color=depth_colour(2), linewidth=1, linestyle="--", label="limit, 2 or more: ln 2")
    loss.legend(fontsize="small")
