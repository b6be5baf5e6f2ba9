"""The figure of the post's proof that two Gaussians never make the prior; its panels go into any axes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import premises, selection, style
from experiments.figures.codes import PRIOR, Z
from experiments.figures.selection import Gaussian, Saved
from experiments.figures.transition import half_distance, trained_codes
from vae_bit import limits

MEANS = (0.5, 1, 2)  # m, of the mixtures whose densities are drawn
FAR = 2.5  # the largest m drawn
LEAST, BEST = "two Gaussians, nearest to the prior", "those of least loss, as n / β grows from 1"
AXIS = "m, half the distance of the two means"


@style.look
def figure_proof(results: Saved) -> Figure:
    """Two Gaussians against the prior: the nearest mixtures, their divergence and their width, and trained codes."""
    trained = f"{premises.objective_name(results.recipe)}; every β and learning rate"
    title = "Two different Gaussians never make the prior: only m = 0 does, where z says nothing"
    figure = style.new(11, 4.4, title, trained if 1 in selection.depths(results.every) else "")
    mixtures, divergence, widths = figure.subplots(1, 3)
    plot_nearest_mixtures(mixtures)
    plot_prior_mismatch(results, divergence, legend=False)
    plot_code_widths(results, widths, legend=False)
    style.legend_below(figure, [divergence], 3)
    return figure


@style.look
def plot_nearest_mixtures(ax: Axes | None = None) -> Axes:
    """(N(-m, s^2) + N(m, s^2)) / 2 of some m, each with the s that brings it nearest to the prior, and the prior."""
    axes = style.panel(ax)
    for m, colour in zip(MEANS, style.SHADES, strict=True):
        std = limits.prior_mismatch(m).std
        codes = Gaussian(np.array([[-m], [m]]), std)
        density = selection.density(Z, codes).mean(0)
        axes.plot(Z, density, color=colour, linewidth=2.5, label=f"m = {m}, best s = {std:.2f}")
    axes.plot(Z, selection.density(Z, PRIOR), "--", color=style.INK, linewidth=1.2, label="prior p(z)")
    axes.set(title="q(z): codes N(-m, s²) and N(m, s²), mixed", xlabel="z", ylabel="density", ylim=(0, 0.62))
    axes.legend(fontsize=8, loc="upper center", ncols=2)
    return axes


@style.look
def plot_prior_mismatch(results: Saved, ax: Axes | None = None, legend: bool = True) -> Axes:
    """KL(q(z) || p(z)) against m: the least of two Gaussians, that of the codes of least loss, and of trained runs."""
    axes, m = style.panel(ax), np.linspace(0, FAR, 400)[1:]
    best = limits.one_layer(_pressures())
    axes.plot(m, limits.prior_mismatch(m).kl, color=style.INK, label=LEAST)
    mismatch = best.kl - limits.information(1, _pressures())
    axes.plot(best.mean, mismatch, "--", color=style.depth_colour(1), linewidth=1.2, label=BEST)
    codes = trained_codes(results)
    _dots(axes, [half_distance(q) for _, q in codes], [row["marginal_kl"] for row, _ in codes])
    axes.set(title="KL(q(z) || p(z)) (nats)", xlabel=AXIS, xlim=(-0.1, FAR), yscale="log", ylim=(1e-6, 10))
    return _explained(axes, legend)


@style.look
def plot_code_widths(results: Saved, ax: Axes | None = None, legend: bool = True) -> Axes:
    """The codes' standard deviation against m: what is nearest to the prior, of least loss, and trained."""
    axes, m = style.panel(ax), np.linspace(0, FAR, 400)
    best = limits.one_layer(_pressures())
    axes.plot(m, limits.prior_mismatch(m).std, color=style.INK, label=LEAST)
    axes.plot(best.mean, best.std, "--", color=style.depth_colour(1), linewidth=1.2, label=BEST)
    codes = trained_codes(results)
    _dots(axes, [half_distance(q) for _, q in codes], [q.std.mean() for _, q in codes])
    axes.set(title="standard deviation s of a code", xlabel=AXIS, xlim=(-0.1, FAR), ylim=(0, 1.05))
    return _explained(axes, legend)


def _pressures() -> np.ndarray:
    """n / beta from 1, where codes open, so spaced that their means are even."""
    return 1 + np.geomspace(1e-9, 1e4, 400)


def _dots(axes: Axes, m: list[float], height: list[float]) -> None:
    if m:
        axes.plot(m, height, "o", color=style.depth_colour(1), markersize=5, label="trained, 1 layer")


def _explained(axes: Axes, legend: bool) -> Axes:
    if legend:
        axes.legend(fontsize=8)
    return axes
