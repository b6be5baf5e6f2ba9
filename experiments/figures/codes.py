"""Figures of what trained models do with their latent: exact densities of the median run of each depth and n.

A `figure_` function makes a whole picture of the panels that the `plot_` functions draw, each into any matplotlib axes.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import premises, selection, style
from experiments.figures.runs import setting
from experiments.figures.selection import Gaussian, Saved
from vae_bit.trained import TrainedModel

Z = premises.GRID
DRAWS = 100
PRIOR = Gaussian(np.zeros(()), np.ones(()))
POINT_NAMES = ("$x^{(0)}$", "$x^{(1)}$")


@style.look
def figure_encoding(results: Saved) -> Figure:
    """The encoding distribution q(z) = (q(z | 0^n) + q(z | 1^n)) / 2 of the top layer, for each n."""
    depths = selection.depths(results.rows)
    title = "The code's distribution q(z), and the prior"
    if premises.leaves_prior(results):
        title = "One layer's code leaves the prior: a valley opens where the prior is highest"
    if premises.only_one_layer_leaves(results):
        title = "Codes leave the prior as n grows: one layer must, deeper models need not"
    figure = style.new(style.columns(depths), 4.0, title, setting(results))
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)
    for axes, layers in zip(panels[0], depths, strict=True):
        plot_encoding(results, layers, axes, legend=False)
    style.only_left_labels(panels)
    style.legend_right(figure, panels[0, 0], "q(z)")
    return figure


@style.look
def plot_encoding(results: Saved, layers: int, ax: Axes | None = None, legend: bool = True) -> Axes:
    """q(z) of one depth's top layer, a curve for each n, and the prior."""
    premises.require(results, layers)
    axes, colours = style.panel(ax), style.width_colours(selection.widths(results.rows))
    for n in selection.widths(results.rows, layers):
        q = median_model(results, layers, n).top_density(Z).mean(0)
        axes.plot(Z, q, color=colours[n], label=f"n = {n:,}")
    _prior(axes, results)
    axes.set(xlabel=top(layers), ylabel="density q(z) of the top layer", title=style.depth_name(layers), ylim=0)
    if legend:
        axes.legend(title="q(z)")
    return axes


@style.look
def figure_truncated(results: Saved) -> Figure:
    """Prior, q(z) and q(z | x) of the top layer at the largest n, and half Gaussians, whose mean is the prior."""
    n = selection.widths(results.rows)[-1]
    depths = [layers for layers in selection.depths(results.rows) if n in selection.widths(results.rows, layers)]
    pays = premises.pressure(results, n) > premises.beta(results) and np.all(results.rows["prior"] == "normal")
    title = f"n = {n:,}: q(z | x), and half Gaussians" + (", which would be ideal" if pays else "")
    figure = style.new(style.columns(depths), 4.6, title, setting(results))
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)
    for axes, layers in zip(panels[0], depths, strict=True):
        plot_truncated(results, layers, n, axes, legend=False)
        axes.set_title(style.depth_name(layers))
    style.only_left_labels(panels)
    style.legend_below(figure, panels[0, :1], 5)
    return figure


@style.look
def plot_truncated(results: Saved, layers: int, n: int, ax: Axes | None = None, legend: bool = True) -> Axes:
    """q(z | x) of the top layer at one n, their mean q(z), the prior, and half Gaussians."""
    axes, densities = style.panel(ax), median_model(results, layers, n).top_density(Z)
    for density, name, colour in zip(densities, POINT_NAMES, style.POINTS, strict=True):
        axes.fill_between(Z, density, color=colour, alpha=0.45, linewidth=0, label=f"q(z | {name})")
    axes.plot(Z, densities.mean(0), color=style.INK, label="q(z)")
    _prior(axes, results)
    axes.plot(Z, 2 * selection.density(Z, PRIOR), ":", color=style.INK, linewidth=1.4, label="half Gaussians")
    axes.vlines(0, 0, 2 * selection.density(np.zeros(()), PRIOR), linestyle=":", color=style.INK, linewidth=1.4)
    axes.set(xlabel=top(layers), ylabel="density, z of the top layer", title=named(layers, n), ylim=0)
    if legend:
        axes.legend()
    return axes


@style.look
def figure_decoder(results: Saved) -> Figure:
    """What the decoder makes of the valley of q(z), and ancestral samples."""
    n = premises.legible_width(results)
    depths = [layers for layers in selection.depths(results.rows) if n in selection.widths(results.rows, layers)]
    averages = premises.averages(results)
    what = (
        "where q(z) has a valley, the decoder makes unpleasant averages" if averages else "the decoder, and draws of x"
    )
    figure = style.new(style.columns(depths), 5.2, f"n = {n:,}: {what}", setting(results))
    panels = figure.subplots(2, len(depths), height_ratios=(2, 1), sharey="row", squeeze=False)
    for (curves, strip), layers in zip(panels.T, depths, strict=True):
        plot_decoder(results, layers, n, curves, legend=False)
        curves.set_title(style.depth_name(layers))
        plot_draws(results, layers, n, strip)
    style.only_left_labels(panels)
    style.legend_below(figure, panels[0], 3 + len(depths))
    return figure


@style.look
def plot_decoder(results: Saved, layers: int, n: int, ax: Axes | None = None, legend: bool = True) -> Axes:
    """p(x_i = 1 | z) over the top latent z, mean and range over i; q(z) and the prior behind it."""
    axes, model = style.panel(ax), median_model(results, layers, n)
    colour, probability = style.depth_colour(layers), model.probability(Z)
    q = model.top_density(Z).mean(0)
    axes.fill_between(Z, q, color=style.PALE, alpha=0.5, linewidth=0, label="q(z)")
    _prior(axes, results)
    axes.fill_between(Z, probability.min(0), probability.max(0), color=colour, alpha=0.25, linewidth=0)
    axes.plot(Z, probability.mean(0), color=colour, label=f"p($x_i$ = 1 | z), {style.depth_name(layers)}")
    axes.set(xlabel=top(layers), ylabel="density; probability", title=named(layers, n), ylim=(0, 1.05))
    if legend:
        axes.legend()
    return axes


@style.look
def plot_draws(results: Saved, layers: int, n: int, ax: Axes | None = None) -> Axes:
    """Ancestral samples x as columns, black for 1."""
    axes, model = style.panel(ax, 5.0, 2.0), median_model(results, layers, n)
    axes.imshow(selection.draws(model, DRAWS), cmap="gray_r", aspect="auto", interpolation="nearest")
    axes.set_title(f"{DRAWS} draws of x; {model.row['valid_mass']:.1%} of all are data points", fontsize=9)
    axes.set(xlabel="draws, sorted by their number of ones", ylabel="dimension i", xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.grid(False)
    return axes


def median_model(results: Saved, layers: int, n: int) -> TrainedModel:
    """The trained run of median loss, of one depth and n; Missing where there is none."""
    premises.require(results, layers, n)
    return selection.median_model(results, layers, n)


def top(layers: int) -> str:
    """The name of the top latent."""
    return "z" if layers == 1 else f"$z_{layers}$"


def named(layers: int, n: int) -> str:
    """The title of a panel that stands alone."""
    return f"{style.depth_name(layers)}, n = {n:,}"


def _prior(axes: Axes, results: Saved) -> None:
    """N(0, 1), where a learned prior begins."""
    label = "prior p(z)" if np.all(results.rows["prior"] == "normal") else "N(0, 1)"
    axes.plot(Z, selection.density(Z, PRIOR), "--", color=style.INK, linewidth=1.2, label=label)
