"""The figure of the map that two layers learn, beside the post's model by hand; its panels go into any axes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import premises, selection, style
from experiments.figures.codes import POINT_NAMES, PRIOR, Z, median_model
from experiments.figures.runs import setting
from experiments.figures.selection import Gaussian, Missing, Saved
from vae_bit import handbuilt
from vae_bit.trained import TrainedModel

SEPARATIONS = (1, 2, 4)  # a, of the models by hand


@style.look
def figure_map(results: Saved) -> Figure:
    """Above, the learned two-layer map; below, the post's model by hand as its separation a grows."""
    widths = selection.widths(results.rows, 2) if 2 in selection.depths(results.rows) else []
    if not widths or results.rows["posterior"][0] != "gaussian":
        raise Missing("it needs a run with 2 layers" + " and a Gaussian q" * bool(widths))
    title = "The map that two layers learned, and the post's model by hand"
    if premises.steep_map(results):
        title = "Why two layers work: a narrow, steep map makes Gaussians good enough"
    figure = style.new(10, 6.8, title, setting(results))
    learned, by_hand = figure.subplots(2, 3)
    for plot, axes in zip((plot_generative_map, plot_lower_codes, plot_inference_map), learned, strict=True):
        plot(results, widths[-1], axes)
    plot_hand_z1(by_hand[0])
    plot_hand_z2(by_hand[1])
    plot_hand_cost(results, widths[-1], by_hand[2])
    return figure


@style.look
def plot_generative_map(results: Saved, n: int, ax: Axes | None = None) -> Axes:
    """p(z_1 | z_2) of two layers over z_2, and closely around z_2 = 1."""
    axes, model = style.panel(ax), median_model(results, 2, n)
    p = selection.conditional(model, "p", 1, Z)
    colour = style.depth_colour(2)
    free = 0.62 if p.mean[-1] > p.mean[0] else 0.14  # the lower corner that the map leaves free
    zoom = axes.inset_axes((free, 0.12, 0.36, 0.36), xlim=(0.9, 1.1), ylim=_range(p, abs(Z - 1) < 0.1))
    zoom.tick_params(labelsize=8)
    for each in (axes, zoom):
        each.fill_between(Z, p.mean - 2 * p.std, p.mean + 2 * p.std, color=colour, alpha=0.35, linewidth=0)
        each.plot(Z, p.mean, color=colour, linewidth=1)
    axes.set(title=f"p($z_1$ | $z_2$), n = {n:,}: mean ± 2 s.d.", xlabel="$z_2$", ylabel="$z_1$")
    axes.set_ylim(*_ends(model))
    return axes


@style.look
def plot_lower_codes(results: Saved, n: int, ax: Axes | None = None) -> Axes:
    """q(z_1 | x) of two layers, sideways."""
    axes, model = style.panel(ax), median_model(results, 2, n)
    q, z_1 = selection.codes(model), np.linspace(*_ends(model), 801)
    for mean, std, name, point in zip(*q, POINT_NAMES, style.POINTS, strict=True):
        density = selection.density(z_1, Gaussian(mean, std))
        axes.fill_betweenx(z_1, density, color=point, alpha=0.6, linewidth=0, label=f"q($z_1$ | {name})")
    axes.set(title="q($z_1$ | x): plain Gaussians", xlabel="density", ylabel="$z_1$", xlim=0, ylim=_ends(model))
    axes.legend(loc="center right")
    return axes


@style.look
def plot_inference_map(results: Saved, n: int, ax: Axes | None = None) -> Axes:
    """q(z_2 | z_1) of two layers, z_1 upwards."""
    axes, model = style.panel(ax), median_model(results, 2, n)
    z_1 = np.linspace(*_ends(model), 801)
    q, colour = selection.conditional(model, "q", 1, z_1), style.depth_colour(2)
    axes.fill_betweenx(z_1, q.mean - 2 * q.std, q.mean + 2 * q.std, color=colour, alpha=0.35, linewidth=0)
    axes.plot(q.mean, z_1, color=colour, linewidth=1)
    axes.set(title="q($z_2$ | $z_1$): mean ± 2 s.d.", xlabel="$z_2$", ylabel="$z_1$")
    axes.set(xlim=(Z[0], Z[-1]), ylim=_ends(model))
    return axes


@style.look
def plot_hand_z1(ax: Axes | None = None) -> Axes:
    """p(z_1 | x = 1^n) of the model by hand with unit noise, N(±a, 1), beside N(a, 1)."""
    axes, z_1 = style.panel(ax), np.linspace(-2, 8, 1001)
    for a, colour in zip(SEPARATIONS, style.SHADES, strict=True):
        axes.plot(z_1, handbuilt.posterior_z1(z_1, a), color=colour, linewidth=2.5, label=f"a = {a}")
        axes.plot(z_1, selection.density(z_1 - a, PRIOR), ":", color=style.INK, linewidth=1)
    axes.set(title="by hand: p($z_1$ | $x^{(1)}$), dotted N(a, 1)", xlabel="$z_1$", ylabel="density")
    axes.legend(fontsize=8)
    return axes


@style.look
def plot_hand_z2(ax: Axes | None = None) -> Axes:
    """p(z_2 | x = 1^n) of the model by hand with unit noise, and the half Gaussian it nears as a grows."""
    axes = style.panel(ax)
    for a, colour in zip(SEPARATIONS, style.SHADES, strict=True):
        axes.plot(Z, handbuilt.posterior_z2(Z, a), color=colour, linewidth=2.5, label=f"a = {a}")
    half = np.where(Z > 0, 2 * selection.density(Z, PRIOR), 0)
    axes.plot(Z, half, ":", color=style.INK, linewidth=1, label="half Gaussian")
    axes.set(title="by hand: p($z_2$ | $x^{(1)}$)", xlabel="$z_2$", ylabel="density")
    axes.legend(fontsize=8)
    return axes


@style.look
def plot_hand_cost(results: Saved, n: int, ax: Axes | None = None) -> Axes:
    """What a Gaussian q(z_2 | z_1 = a) costs in the model by hand, and what the trained one loses in all."""
    axes, a = style.panel(ax), np.linspace(0, 6, 200)
    gap = median_model(results, 2, n).row["gap"]
    axes.plot(a, handbuilt.posterior_gap(a * a), color=style.INK, label="by hand, N(±a, 1)")
    axes.axhline(gap, color=style.depth_colour(2), linestyle="--", label="trained: loss - its limit")
    axes.set(title="cost of a Gaussian q($z_2$ | $z_1$ = a)", xlabel="a", ylabel="nats", ylim=-0.02)
    axes.legend(fontsize=8)
    return axes


def _ends(model: TrainedModel) -> tuple[float, float]:
    """The range of z_1 in which the codes q(z_1 | x) lie."""
    q = selection.codes(model)
    return np.min(q.mean - 5 * q.std), np.max(q.mean + 5 * q.std)


def _range(p: Gaussian, own: np.ndarray) -> tuple[float, float]:
    """What mean ± 2.5 s.d. covers of the chosen points."""
    return np.min((p.mean - 2.5 * p.std)[own]), np.max((p.mean + 2.5 * p.std)[own])
