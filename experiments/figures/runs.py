"""Figures of a sweep's table and curves: the data, costs against n, learning, the price of a Gaussian posterior.

A `figure_` function makes a whole picture of the panels that the `plot_` functions draw, each into any matplotlib axes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import families, premises, selection, style
from experiments.figures.selection import Missing, Saved
from vae_bit.limits import LN2
from vae_bit.store.table import Table

Measure = Literal["loss", "recon_per_dim", "kl"]
MEASURES: dict[Measure, str] = {
    "loss": "loss = reconstruction + β KL (nats)",
    "recon_per_dim": "reconstruction / n (nats)",
    "kl": "KL (nats)",
}
LEARNING = "median; band:\nall seeds; dotted:\nbest for the ELBO,\n1 layer"


@style.look
def figure_data(results: Saved) -> Figure:
    """The whole data set for n = 1 and n = 5."""
    figure = style.new(6.4, 2.3, "The data: two points, so one bit, n times over")
    for axes, n in zip(figure.subplots(1, 2, width_ratios=(1, 5)), (1, 5), strict=True):
        plot_data(n, axes)
    return figure


@style.look
def plot_data(n: int, ax: Axes | None = None) -> Axes:
    """The two data points of n dimensions."""
    axes = style.panel(ax, 1.5 + 0.7 * n, 2.0)
    axes.imshow(np.array([[0] * n, [1] * n]), cmap="gray_r", vmin=-0.15, vmax=1.15, aspect="equal")
    for i in range(n):
        axes.text(i, 0, "0", ha="center", va="center", color="black")
        axes.text(i, 1, "1", ha="center", va="center", color="white")
    axes.set_xticks([])
    axes.vlines(np.arange(1, n) - 0.5, -0.5, 1.5, color="white", linewidth=2)
    chance = ", prob. 1/2" if n == 1 else ""
    axes.set_yticks([0, 1], ["$x^{(0)}$" + chance, "$x^{(1)}$" + chance])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(f"n = {n}")
    return axes


@style.look
def figure_costs(results: Saved) -> Figure:
    """Loss, reconstruction cost per dimension and KL against n: trained, best possible, published."""
    pays = premises.one_layer_pays_more(results)
    title = "One layer pays more the larger n; deeper models stay near ln 2" if pays else "Costs against n"
    figure = style.new(10, 4.4, title, setting(results))
    panels = figure.subplots(1, 3)
    for axes, measure in zip(panels, MEASURES, strict=True):
        plot_costs(results, measure, axes, legend=False)
    style.legend_below(figure, panels[:1], len(selection.depths(results.rows)))
    return figure


@style.look
def plot_costs(
    results: Saved, measure: Measure, ax: Axes | None = None, legend: bool = True, published: bool = True
) -> Axes:
    """One column of the table against n: all seeds, the best possible, and the post's own runs if `published`."""
    if measure not in MEASURES:
        raise ValueError(f"measure: got {measure!r}, expected one of {', '.join(MEASURES)}")
    axes, rows = style.panel(ax), results.rows
    for layers in selection.depths(rows):
        _trained(axes, rows, layers, measure)
        _limit(axes, results, layers, measure)
        if published:
            _published(axes, rows, layers, measure)
    style.width_axis(axes, selection.widths(rows))
    axes.set_title(MEASURES[measure])
    if measure == "recon_per_dim":
        axes.set_yscale("log")
    if legend:
        axes.legend()
    return axes


@style.look
def figure_learning(results: Saved) -> Figure:
    """Learning curves of the reconstruction cost per dimension, for each n."""
    depths = selection.depths(results.rows)
    pushed = premises.pushed_open(results)
    title = "The larger n, the harder the code is pushed open" if pushed else "Reconstruction cost while training"
    figure = style.new(style.columns(depths), 4.0, title, setting(results))
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)
    for axes, layers in zip(panels[0], depths, strict=True):
        plot_learning(results, layers, axes, legend=False)
    style.only_left_labels(panels)
    style.legend_right(figure, panels[0, 0], LEARNING)
    return figure


@style.look
def plot_learning(results: Saved, layers: int, ax: Axes | None = None, legend: bool = True) -> Axes:
    """One depth's learning curves, a median and a band for each n; dotted, for one layer, what is best for the ELBO."""
    premises.require(results, layers)
    axes, rows, curves = style.panel(ax), results.rows, results.curves
    colours = style.width_colours(selection.widths(rows))
    for n in selection.widths(rows, layers):
        own = (rows["layers"] == layers) & (rows["n"] == n)
        low, middle, high = np.quantile(curves["recon"][own] / n, [0, 0.5, 1], axis=0)
        axes.plot(curves["step"], middle, color=colours[n], label=f"n = {n:,}")
        axes.fill_between(curves["step"], low, high, color=colours[n], alpha=0.25, linewidth=0)
        recon = families.optimum(families.drawn(results, layers), n, rows["beta"][0])[1]
        if np.isfinite(recon):
            axes.axhline(recon / n, color=colours[n], linestyle=":", linewidth=1)
    axes.set(yscale="log", xlabel="training step", title=style.depth_name(layers))
    axes.set_ylabel("reconstruction / n (nats)")
    if legend:
        axes.legend(title=LEARNING)
    return axes


@style.look
def figure_price(results: Saved) -> Figure:
    """What loss and KL are made of, for the median run of each depth and n."""
    if not premises.adds_up(results):
        raise Missing("runs without word dropout, as -ln p(x) is that of a decoder that drops nothing")
    depths = selection.depths(results.rows)
    title = "What comes on top of ln 2, and what the KL is made of"
    figure = style.new(style.columns(depths), 6.2, title, setting(results))
    panels = figure.subplots(2, len(depths), sharey="row", squeeze=False)
    for column, layers in zip(panels.T, depths, strict=True):
        for plot, axes in zip((plot_loss_parts, plot_kl_parts), column, strict=True):
            plot(results, layers, axes, legend=layers == depths[-1])
    style.only_left_labels(panels)
    return figure


@style.look
def plot_loss_parts(results: Saved, layers: int, ax: Axes | None = None, legend: bool = True) -> Axes:
    """What the loss of one depth's median runs is made of, a bar for each n."""
    rows = _median_rows(results, layers)
    axes = _stack(style.panel(ax), rows["n"].tolist(), _loss_parts(rows), legend)
    axes.set_title(f"{style.depth_name(layers)}: reconstruction + KL")
    return axes


@style.look
def plot_kl_parts(results: Saved, layers: int, ax: Axes | None = None, legend: bool = True) -> Axes:
    """What the KL of one depth's median runs is made of, a bar for each n."""
    rows = _median_rows(results, layers)
    axes = _stack(style.panel(ax), rows["n"].tolist(), _kl_parts(rows), legend)
    axes.set_title(f"{style.depth_name(layers)}: KL")
    return axes


@style.look
def summary(rows: Table, curves: dict[str, np.ndarray], recipe: Mapping[str, Any]) -> Figure:
    """A sweep at a glance: training, and the exact loss and reconstruction cost per dimension against n."""
    chosen, notices = selection.one_setting(rows)
    drawn = {name: column[chosen] for name, column in rows.items()}
    own = {name: curve if name == "step" else curve[chosen] for name, curve in curves.items()}
    results = Saved(Path(), drawn, own, rows, notices, dict(recipe), {})
    title = "Trained runs and the lowest loss there is" if chosen.any() else "Every run diverged"
    figure = style.new(10, 4.1, title, setting(results))
    learning, *panels = figure.subplots(1, 3)
    plot_loss_curves(results, learning, legend=False)
    for axes, measure in zip(panels, ("loss", "recon_per_dim"), strict=True):
        plot_costs(results, measure, axes, legend=False, published=False)
    style.legend_below(figure, panels[:1], 4)
    return figure


@style.look
def plot_loss_curves(results: Saved, ax: Axes | None = None, legend: bool = True) -> Axes:
    """The median loss while training, a curve for each depth and n.

    Of the ELBO its distance from the limit; of another objective, which that does not bound, the value itself.
    """
    axes, rows, recipe = style.panel(ax), results.rows, results.recipe
    bounded = premises.trains_elbo(recipe)
    for layers in selection.depths(rows):
        widths = selection.widths(rows, layers)
        for n in widths:
            own = (rows["layers"] == layers) & (rows["n"] == n)
            height = np.median(results.curves["loss"][own] - rows["limit"][own, None] * bounded, axis=0)
            label = style.depth_name(layers) if n == widths[0] else None
            axes.plot(results.curves["step"], height, color=style.depth_colour(layers), linewidth=1, label=label)
    title = "loss above its limit (nats), each n" if bounded else f"-{recipe['objective']} objective (nats), each n"
    axes.set(xlabel="training step", title=title)
    axes.set_yscale("symlog", linthresh=1e-3 if bounded else 1.0)
    if not bounded:  # such a value stays around ln 2, within one decade
        ticks = [tick for tick in (0, 0.25, 0.5, 0.75, 1, 10, 100, 1000) if tick < axes.get_ylim()[1]]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    if legend:
        axes.legend()
    return axes


def setting(results: Saved) -> str:
    """What was chosen for the runs that are drawn."""
    return premises.setting(results.recipe, results.rows, results.every)


def _trained(axes: Axes, rows: Table, layers: int, name: str) -> None:
    colour, widths = style.depth_colour(layers), selection.widths(rows, layers)
    spread = np.array([np.quantile(selection.of(rows, layers=layers, n=n)[name], [0, 0.5, 1]) for n in widths])
    label = f"{style.depth_name(layers)}: median, all seeds"
    axes.fill_between(widths, spread[:, 0], spread[:, 2], color=colour, alpha=0.2, linewidth=0)
    axes.vlines(widths, spread[:, 0], spread[:, 2], color=colour, alpha=0.5, linewidth=3)
    axes.plot(widths, spread[:, 1], "o", color=colour, markersize=5, label=label)


def _limit(axes: Axes, results: Saved, layers: int, name: str) -> None:
    """The exact limit: a curve over real n; the reconstruction cost of what approaches ln 2 tends to 0."""
    family = families.drawn(results, layers)
    quick = family.posterior == "gaussian" or not families.searched(family)
    n = np.geomspace(*style.width_range(selection.widths(results.rows)), 400 if quick else 30)
    loss, recon, kl = families.optimum(family, n, premises.beta(results))
    height = {"loss": loss, "recon_per_dim": recon / n, "kl": kl}[name]
    line = "-" if layers == 1 else "--"
    label = f"{style.depth_name(layers)}: limit"
    axes.plot(n, height, line, color=style.depth_colour(layers), linewidth=1.2, label=label)


def _published(axes: Axes, rows: Table, layers: int, name: str) -> None:
    points = [run for run in selection.published() if run["layers"] == layers and run["n"] in rows["n"]]
    if points and premises.as_published(rows):
        n, height = zip(*((run["n"], run[name]) for run in points), strict=True)
        label = f"{style.depth_name(layers)}: the post's run"
        axes.plot(n, height, "D", fillstyle="none", color=style.depth_colour(layers), markersize=8, label=label)


def _median_rows(results: Saved, layers: int) -> Table:
    """The rows of one depth's median runs, by ascending n."""
    premises.require(results, layers)
    rows = selection.of(results.rows, layers=layers)
    medians = [selection.median_row(selection.of(rows, n=n)) for n in selection.widths(rows)]
    return {name: np.array([row[name] for row in medians]) for name in medians[0]}


def _loss_parts(rows: Table) -> dict[str, tuple[str, np.ndarray]]:
    """recon + sum_l kl_l = ln 2 + (nll - ln 2) + KL(q(z | x) || p(z | x)): label -> colour, nats."""
    return {
        "entropy of the data, ln 2": (style.PARTS[0], np.full(rows["nll"].shape, LN2)),
        "model error,\n-ln p(x) - ln 2": (style.PARTS[1], rows["nll"] - LN2),
        "posterior error,\nKL(q(z|x) || p(z|x))": (style.PARTS[2], rows["posterior_kl"]),
    }


def _kl_parts(rows: Table) -> dict[str, tuple[str, np.ndarray]]:
    """sum_l kl_l = I(x; z_L) + KL(q(z_L) || p(z_L)) + what the layers below add: label -> colour, nats."""
    rest = rows["kl"] - rows["mutual_information"] - rows["marginal_kl"]
    parts = {
        "information,\nI(x; z)": (style.PARTS[3], rows["mutual_information"]),
        "mismatch,\nKL(q(z) || p(z))": (style.PARTS[4], rows["marginal_kl"]),
    }
    return parts | ({"lower layers": (style.PARTS[5], rest)} if rows["layers"][0] > 1 else {})


def _stack(axes: Axes, widths: list[int], parts: dict[str, tuple[str, np.ndarray]], legend: bool) -> Axes:
    position, base = np.arange(len(widths)), np.zeros(len(widths))
    for label, (colour, height) in parts.items():
        height = np.maximum(height, 0.0)  # 0 may come out as -1e-8
        axes.bar(position, height, 0.7, base, color=colour, edgecolor=style.INK, linewidth=0.5, label=label)
        base = base + height
    for x, total in zip(position, base, strict=True):
        axes.annotate(f"{total:.3f}", (x, total), (0, 2), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xticks(position, [f"{n:,}" for n in widths])
    axes.set(xlabel="data dimensions n", ylabel="nats", ylim=0)
    axes.grid(False, axis="x")
    if legend:
        axes.legend(*(part[::-1] for part in axes.get_legend_handles_labels()), loc="upper left", bbox_to_anchor=(1, 1))
    return axes
