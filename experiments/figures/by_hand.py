"""The figure of models made by hand: the post's own falls short, a steep map does not, nor does a plain mixture."""

from functools import cache
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.interpolate import CubicSpline

from experiments.figures import premises, selection, style
from experiments.figures.selection import Saved
from vae_bit import handbuilt, limits
from vae_bit.limits import LN2

WIDTH = 1000  # n, the post's choice for two layers
SLOPE = 10  # of the decoder's logits by hand: at this n another gains less than 1e-5 nats
SEPARATIONS = (1, 1.5, 2, 3, 4, 6, 8)  # a
STEEP = (4, 5, 6)  # a, of the steep maps
NOISE = np.geomspace(1e-3, 0.5, 12)  # s


class HandLoss(NamedTuple):
    """The loss of the post's model by hand as a function of a, and where it is least."""

    loss: CubicSpline
    best_a: float
    best_loss: float


@cache
def hand_loss() -> HandLoss:
    """`handbuilt_loss` at n = WIDTH against ln a, interpolated, and at the least of that exact."""
    log_a = np.log(SEPARATIONS)
    curve = CubicSpline(log_a, [handbuilt.handbuilt_loss(WIDTH, a, SLOPE).loss for a in SEPARATIONS])
    fine = np.linspace(log_a[0], log_a[-1], 2001)
    best_a = float(np.exp(fine[np.argmin(curve(fine))]))
    return HandLoss(curve, best_a, float(handbuilt.handbuilt_loss(WIDTH, best_a, SLOPE).loss))


@cache
def steep_excess(a: float) -> np.ndarray:
    """What the steep map loses above ln 2 at n = WIDTH, for each noise s of NOISE."""
    return np.array([handbuilt.steep_map(WIDTH, a, s).loss for s in NOISE]) - LN2


def trained_two_layers(results: Saved) -> float | None:
    """The median loss of two layers at n = WIDTH and beta = 1, where there are such runs."""
    own = (2, WIDTH) in premises.settings(results) and premises.as_published(results.rows)
    return selection.median(results, 2, WIDTH, "loss") if own else None


@style.look
def figure_by_hand(results: Saved) -> Figure:
    """Models made by hand against ln 2, beside one layer's limit and trained runs."""
    trained = premises.setting(results.recipe, results.rows, results.every)
    title = "By hand: the post's two layers fall short of ln 2; a steep map and a plain mixture do not"
    figure = style.new(11, 4.2, title, trained)
    post, steep, mixture = figure.subplots(1, 3)
    plot_hand_loss(results, post)
    plot_steep_map(results, steep)
    plot_mixture(results, mixture)
    return figure


@style.look
def plot_hand_loss(results: Saved, ax: Axes | None = None) -> Axes:
    """The least loss of the post's model by hand against a, beside one layer's limit, trained two layers and ln 2."""
    axes, (loss, best_a, best_loss) = style.panel(ax), hand_loss()
    a = np.geomspace(SEPARATIONS[0], SEPARATIONS[-1], 300)
    axes.axhline(limits.one_layer(WIDTH).loss, color=style.depth_colour(1), label="1 layer: limit")
    axes.plot(a, loss(np.log(a)), color=style.INK, label="the post's model, best Gaussian q")
    axes.plot(best_a, best_loss, "o", color=style.INK, markersize=5)
    axes.annotate(f"{best_loss:.3f}", (best_a, best_loss), (0, 6), textcoords="offset points", ha="center", fontsize=9)
    trained = trained_two_layers(results)
    if trained is not None:
        axes.axhline(trained, color=style.depth_colour(2), linestyle="--", label="2 layers: trained, median")
    axes.axhline(LN2, color=style.INK, linestyle=":", linewidth=1, label="ln 2")
    axes.set(title=f"the post's N(±a, 1), n = {WIDTH:,}: loss (nats)", xlabel="a", ylim=(0.6, None))
    axes.legend(fontsize=8, loc=(0.28, 0.14))
    return axes


@style.look
def plot_steep_map(results: Saved, ax: Axes | None = None) -> Axes:
    """The steep map's loss above ln 2 against its noise s, for some a, beside that of trained two layers."""
    axes, trained = style.panel(ax), trained_two_layers(results)
    for a, colour in zip(STEEP, style.SHADES, strict=True):
        axes.plot(NOISE, steep_excess(a), color=colour, linewidth=2.5, label=f"a = {a}")
    if trained is not None:
        axes.axhline(trained - LN2, color=style.depth_colour(2), linestyle="--", label="2 layers: trained, median")
    axes.invert_xaxis()
    title = f"steep map onto N(±a, 1), n = {WIDTH:,}: loss - ln 2"
    axes.set(xscale="log", yscale="log", title=title, xlabel="noise s of $z_1$ given $z_2$")
    axes.legend(fontsize=8)
    return axes


@style.look
def plot_mixture(results: Saved, ax: Axes | None = None) -> Axes:
    """The loss of a plain mixture fitted to the data against n, beside one layer's limit and trained runs."""
    axes, widths = style.panel(ax), selection.widths(results.rows)
    beta, n = premises.beta(results), np.geomspace(*style.width_range(widths), 200)
    colour = style.depth_colour(1)
    axes.plot(n, limits.limit(1, n, beta), color=colour, linewidth=1.2, label="VAE of 1 layer: limit")
    if 1 in selection.depths(results.rows) and premises.plain(results.rows):
        own = selection.widths(results.rows, 1)
        axes.plot(own, premises.series(results, 1, "loss"), "o", color=colour, markersize=5, label="trained, median")
    fitted = [handbuilt.fit_mixture(width).loss for width in widths]
    axes.plot(widths, fitted, "s--", color=style.INK, markersize=5, linewidth=1, label="mixture of two, by EM")
    style.width_axis(axes, widths)
    axes.set(title="a simpler tool: loss (nats)", ylim=0)
    axes.legend(fontsize=8)
    return axes
