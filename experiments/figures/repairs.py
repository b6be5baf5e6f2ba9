"""The figure of every repair of the bound, its limit and what training makes of it; its panel goes into any axes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import families, premises, selection, style
from experiments.figures.families import EFFECTIVE, Family
from experiments.figures.selection import Missing, Saved
from vae_bit.limits import LN2
from vae_bit.store.table import Table

FLOOR = 1e-4  # nats, below which the picture's axis is linear


@style.look
def figure_repairs(results: Saved) -> Figure:
    """How far above the data's entropy each family stays: limits and trained medians against n."""
    require(results)
    figure = style.new(10, 5.2, "What each repair of the bound buys", about(results))
    axes = figure.subplots()
    plot_repairs(results, axes, legend=False)
    style.legend_right(figure, axes, "curves: limits; points: trained, median")
    return figure


@style.look
def plot_repairs(results: Saved, ax: Axes | None = None, legend: bool = True) -> Axes:
    """Loss above min(n_eff, beta) ln 2, which nothing beats, against n: each family's limit and trained medians.

    The limit of one layer of Gaussians, which all of this repairs, is there in any case.
    """
    require(results)
    axes, rows = style.panel(ax, 6.0, 4.5), families.at_one_beta(results)
    own = families.there(rows)
    for family, colour in families.colours(own).items():
        _limit(axes, family, premises.beta(results), colour)
        n, height = medians(families.own(rows, family))
        label = families.words(family) + " (limit 0)" * _vanishes(family, premises.beta(results))
        axes.plot(n, height, families.marker(family), color=colour, markersize=6, label=label)
    if families.PLAIN not in own:
        _limit(axes, families.PLAIN, premises.beta(results), style.PALE)
        axes.plot([], [], color=style.PALE, linewidth=1.2, label=f"{families.words(families.PLAIN)}: limit")
    widths = selection.widths(rows)
    style.width_axis(axes, widths)
    low, high = style.width_range(widths)
    axes.set_yscale("symlog", linthresh=FLOOR, linscale=0.5)
    least = "ln 2" if premises.beta(results) == 1.0 else f"min({EFFECTIVE}, β) ln 2, the least there is"
    axes.set(title=f"loss above {least} (nats)", xlim=(low / 1.3, high * 1.3))
    axes.set_ylim(-FLOOR / 5, None)
    if legend:
        axes.legend(fontsize=8)
    return axes


def require(results: Saved) -> None:
    """Missing where nothing is repaired."""
    if families.there(families.at_one_beta(results)) == [families.PLAIN]:
        raise Missing("runs with another q, prior or decoder, or 2 layers: --posterior, --prior, --decoder, --layers")


def above(rows: Table) -> np.ndarray:
    """loss - min(n_eff, beta) ln 2."""
    return rows["loss"] - np.minimum(families.effective(rows["n"], rows["word_dropout"]), rows["beta"]) * LN2


def medians(rows: Table) -> tuple[list[int], list[float]]:
    """Every n, and the median of `above` there."""
    widths = selection.widths(rows)
    return widths, [float(np.median(above(selection.of(rows, n=n)))) for n in widths]


def about(results: Saved) -> str:
    """What was chosen for the runs of every family."""
    chosen = [premises.objective_name(results.recipe), f"β = {premises.beta(results):g}"]
    return "; ".join(
        [*chosen, "of each family the learning rate of least median loss", f"{results.recipe['steps']:,} steps"]
    )


def _vanishes(family: Family, beta: float) -> bool:
    """Whether the family's limit is as low as any at every n."""
    return families.bounded(family) and (families.reaches_entropy(family) or (family.word_dropout == 0 and beta >= 1))


def _limit(axes: Axes, family: Family, beta: float, colour: str | tuple) -> None:
    """The family's limit as a curve of real n, where it is above 0."""
    if family.word_dropout > 0 and families.searched(family):
        pressure, excess = families.excess(family)
        n = 1 + (pressure * beta - 1) / family.word_dropout
        axes.plot(n, beta * excess, color=colour, linewidth=1.2)
