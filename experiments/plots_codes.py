"""Figures of what trained models do with their latents: exact densities of the median run of each depth and n."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import premises, saved, style
from experiments.plots_runs import setting
from experiments.saved import Gaussian, Missing, Model, Saved
from vae_bit import handbuilt, limits
from vae_bit.limits import LN2

Z = premises.GRID
DRAWS = 100
PRIOR = Gaussian(np.zeros(()), np.ones(()))
POINT_NAMES = ("$x^{(0)}$", "$x^{(1)}$")


@style.look
def figure_encoding(results: Saved) -> Figure:
    """The encoding distribution q(z) = (q(z | 0^n) + q(z | 1^n)) / 2 of the top layer, for each n."""
    depths = saved.depths(results.rows)
    title = "The code's distribution q(z), and the prior"
    if premises.leaves_prior(results):
        title = "One layer's code leaves the prior: a valley opens where the prior is highest"
    if premises.only_one_layer_leaves(results):
        title = "Codes leave the prior as n grows: one layer must, deeper models need not"
    figure = style.new(style.columns(depths), 4.0, title, setting(results))
    colours = style.width_colours(saved.widths(results.rows))
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for axes, layers in zip(panels, depths, strict=True):
        for n in saved.widths(results.rows, layers):
            q = saved.top_densities(saved.median_model(results, layers, n), Z).mean(0)
            axes.plot(Z, q, color=colours[n], label=f"n = {n:,}")
        _prior(axes)
        axes.set(xlabel=f"{top(layers)}", title=style.depth_name(layers), ylim=0)
    panels[0].set_ylabel("density q(z) of the top layer")
    style.legend_right(figure, panels[0], "q(z)")
    return figure


@style.look
def figure_truncated(results: Saved) -> Figure:
    """Prior, q(z) and q(z | x) of the top layer at the largest n, and half Gaussians, whose mean is the prior."""
    n = saved.widths(results.rows)[-1]
    depths = [layers for layers in saved.depths(results.rows) if n in saved.widths(results.rows, layers)]
    pays = n > premises.beta(results)
    title = f"n = {n:,}: q(z | x), and half Gaussians" + (", which would be ideal" if pays else "")
    figure = style.new(style.columns(depths), 4.6, title, setting(results))
    panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for axes, layers in zip(panels, depths, strict=True):
        densities = saved.top_densities(saved.median_model(results, layers, n), Z)
        for density, name, colour in zip(densities, POINT_NAMES, style.POINTS, strict=True):
            axes.fill_between(Z, density, color=colour, alpha=0.45, linewidth=0, label=f"q(z | {name})")
        axes.plot(Z, densities.mean(0), color=style.INK, label="q(z)")
        _prior(axes)
        axes.plot(Z, 2 * saved.density(Z, PRIOR), ":", color=style.INK, linewidth=1.4, label="half Gaussians")
        axes.vlines(0, 0, 2 * saved.density(np.zeros(()), PRIOR), linestyle=":", color=style.INK, linewidth=1.4)
        axes.set(xlabel=f"{top(layers)}", title=style.depth_name(layers), ylim=0)
    panels[0].set_ylabel("density, z of the top layer")
    style.legend_below(figure, panels[:1], 5)
    return figure


@style.look
def figure_decoder(results: Saved) -> Figure:
    """What the decoder makes of the valley of q(z), and ancestral samples."""
    n = premises.legible_width(results)
    depths = [layers for layers in saved.depths(results.rows) if n in saved.widths(results.rows, layers)]
    averages = premises.averages(results)
    what = (
        "where q(z) has a valley, the decoder makes unpleasant averages" if averages else "the decoder, and draws of x"
    )
    figure = style.new(style.columns(depths), 5.2, f"n = {n:,}: {what}", setting(results))
    panels = figure.subplots(2, len(depths), height_ratios=(2, 1), sharey="row", squeeze=False)
    for (curves, strip), layers in zip(panels.T, depths, strict=True):
        model = saved.median_model(results, layers, n)
        _decoder_curves(curves, model)
        strip.imshow(saved.draws(model, DRAWS), cmap="gray_r", aspect="auto", interpolation="nearest")
        strip.set_title(f"{DRAWS} draws of x; {model.row['valid_mass']:.1%} of all are data points", fontsize=9)
        strip.set(xlabel="draws, sorted by their number of ones", xticks=[], yticks=[])
        strip.spines[:].set_visible(True)
        strip.grid(False)
    panels[0, 0].set_ylabel("density; probability")
    panels[1, 0].set_ylabel("dimension i")
    style.legend_below(figure, panels[0], 3 + len(depths))
    return figure


@style.look
def figure_map(results: Saved) -> Figure:
    """Above, the learned two-layer map; below, the post's model by hand as its separation a grows."""
    widths = saved.widths(results.rows, 2) if 2 in saved.depths(results.rows) else []
    if not widths:
        raise Missing("it needs a run with 2 layers")
    model = saved.median_model(results, 2, widths[-1])
    title = "The map that two layers learned, and the post's model by hand"
    if premises.steep_map(results):
        title = "Why two layers work: a narrow, steep map makes Gaussians good enough"
    figure = style.new(10, 6.8, title, setting(results))
    panels = figure.subplots(2, 3)
    _learned_map(panels[0], model)
    _by_hand(panels[1], model)
    return figure


@style.look
def figure_transition(results: Saved) -> Figure:
    """How the best one-layer code opens at n = beta: its mean, width, KL and mutual information."""
    trained = f"{premises.objective_name(results.recipe)}; every β and learning rate"
    title = "The best code of one layer opens at n = β, continuously"
    figure = style.new(9, 6.4, title, trained if 1 in saved.depths(results.every) else "")
    n = np.unique(np.concatenate([np.geomspace(0.5, 1e4, 500), 1 + np.geomspace(1e-6, 1, 200)]))
    limit = limits.one_layer(n)
    heights = limit.mean, limit.std, limit.kl, limits.information(1, n)
    titles = "mean m of the codes N(±m, s²)", "standard deviation s", "KL (nats)", "mutual information I(x; z) (nats)"
    panels = figure.subplots(2, 2, sharex=True)
    colour = style.depth_colour(1)
    for axes, height, title in zip(panels.flat, heights, titles, strict=True):
        axes.plot(n, height, color=colour, linewidth=1.2, label="limit: the best code")
        axes.set(xscale="log", title=title)
    for axes, heights in zip(panels.flat, _trained_codes(results), strict=True):
        axes.plot(*heights, "o", color=colour, markersize=5, label="trained, 1 layer")
    panels[1, 1].axhline(LN2, color=style.PALE, linewidth=1, linestyle="--", label="ln 2, the bit")
    panels[1, 1].legend(loc="lower right")
    for axes in panels[1]:
        axes.set_xlabel("n / β")
    _power_law(panels[0, 0].inset_axes((0.42, 0.25, 0.52, 0.42)))
    return figure


def top(layers: int) -> str:
    """The name of the top latent."""
    return "z" if layers == 1 else f"$z_{layers}$"


def _prior(axes: Axes) -> None:
    axes.plot(Z, saved.density(Z, PRIOR), "--", color=style.INK, linewidth=1.2, label="prior p(z)")


def _decoder_curves(axes: Axes, model: Model) -> None:
    layers = model.arch.layers
    colour, probability = style.depth_colour(layers), saved.pixel_probability(model, Z)
    q = saved.top_densities(model, Z).mean(0)
    axes.fill_between(Z, q, color=style.PALE, alpha=0.5, linewidth=0, label="q(z)")
    _prior(axes)
    axes.fill_between(Z, probability.min(0), probability.max(0), color=colour, alpha=0.25, linewidth=0)
    axes.plot(Z, probability.mean(0), color=colour, label=f"p($x_i$ = 1 | z), {style.depth_name(layers)}")
    axes.set(xlabel=top(layers), title=style.depth_name(layers), ylim=(0, 1.05))


def _learned_map(panels: np.ndarray, model: Model) -> None:
    """Panels that share their vertical axis z_1: p(z_1 | z_2) over z_2, q(z_1 | x) sideways, q(z_2 | z_1)."""
    down, code, up = panels
    colour = style.depth_colour(2)
    p, q = saved.conditional(model, "p", 1, Z), saved.codes(model)
    z_1 = np.linspace(np.min(q.mean - 5 * q.std), np.max(q.mean + 5 * q.std), 801)
    free = 0.62 if p.mean[-1] > p.mean[0] else 0.14  # the lower corner that the map leaves free
    zoom = down.inset_axes((free, 0.12, 0.36, 0.36), xlim=(0.9, 1.1), ylim=_range(p, abs(Z - 1) < 0.1))
    for axes in (down, zoom):
        axes.fill_between(Z, p.mean - 2 * p.std, p.mean + 2 * p.std, color=colour, alpha=0.35, linewidth=0)
        axes.plot(Z, p.mean, color=colour, linewidth=1)
    zoom.tick_params(labelsize=8)
    for mean, std, name, point in zip(*q, POINT_NAMES, style.POINTS, strict=True):
        density = saved.density(z_1, Gaussian(mean, std))
        code.fill_betweenx(z_1, density, color=point, alpha=0.6, linewidth=0, label=f"q($z_1$ | {name})")
    back = saved.conditional(model, "q", 1, z_1)
    up.fill_betweenx(z_1, back.mean - 2 * back.std, back.mean + 2 * back.std, color=colour, alpha=0.35, linewidth=0)
    up.plot(back.mean, z_1, color=colour, linewidth=1)
    for axes in panels:
        axes.set_ylim(z_1[0], z_1[-1])
    down.set(title=f"p($z_1$ | $z_2$), n = {model.row['n']:,}: mean ± 2 s.d.", xlabel="$z_2$", ylabel="$z_1$")
    code.set(title="q($z_1$ | x): plain Gaussians", xlabel="density", ylabel="$z_1$", xlim=0)
    up.set(title="q($z_2$ | $z_1$): mean ± 2 s.d.", xlabel="$z_2$", ylabel="$z_1$", xlim=(Z[0], Z[-1]))
    code.legend(loc="center right")


def _range(p: Gaussian, own: np.ndarray) -> tuple[float, float]:
    """What mean ± 2.5 s.d. covers of the chosen points."""
    return np.min((p.mean - 2.5 * p.std)[own]), np.max((p.mean + 2.5 * p.std)[own])


def _by_hand(panels: np.ndarray, model: Model) -> None:
    """p(z_1 | x) and p(z_2 | x) of the model with unit noise N(±a, 1), and what a Gaussian q(z_2 | z_1 = a) costs."""
    first, second, price = panels
    z_1 = np.linspace(-2, 8, 1001)
    for a, colour in zip((1, 2, 4), style.SHADES, strict=True):
        first.plot(z_1, handbuilt.posterior_z1(z_1, a), color=colour, linewidth=2.5, label=f"a = {a}")
        first.plot(z_1, saved.density(z_1 - a, PRIOR), ":", color=style.INK, linewidth=1)
        second.plot(Z, handbuilt.posterior_z2(Z, a), color=colour, linewidth=2.5, label=f"a = {a}")
    half = np.where(Z > 0, 2 * saved.density(Z, PRIOR), 0)
    second.plot(Z, half, ":", color=style.INK, linewidth=1, label="half Gaussian")
    a = np.linspace(0, 6, 200)
    price.plot(a, handbuilt.posterior_gap(a * a), color=style.INK, label="by hand, N(±a, 1)")
    price.axhline(model.row["gap"], color=style.depth_colour(2), linestyle="--", label="trained: loss - its limit")
    first.set(title="by hand: p($z_1$ | $x^{(1)}$), dotted N(a, 1)", xlabel="$z_1$", ylabel="density")
    second.set(title="by hand: p($z_2$ | $x^{(1)}$)", xlabel="$z_2$", ylabel="density")
    price.set(title="cost of a Gaussian q($z_2$ | $z_1$ = a)", xlabel="a", ylabel="nats", ylim=-0.02)
    for axes in panels:
        axes.legend(loc="best", fontsize=8)


def _trained_codes(results: Saved) -> list[tuple[np.ndarray, np.ndarray]]:
    """n / beta and m, s, KL, I of the one-layer runs: codes of the median runs, figures of all."""
    rows = saved.of(results.every, layers=1)
    ratio = rows["n"] / rows["beta"]
    if not ratio.size:
        return [(ratio, ratio)] * 4
    settings = sorted({*zip(rows["n"].tolist(), rows["beta"].tolist(), strict=True)})
    models = [saved.model(results, saved.median_row(saved.of(rows, n=n, beta=beta))) for n, beta in settings]
    shared = np.array([model.row["n"] / model.row["beta"] for model in models])
    q = [saved.codes(model) for model in models]
    mean = np.array([abs(np.diff(code.mean)[0]) / 2 for code in q])
    std = np.array([code.std.mean() for code in q])
    return [(shared, mean), (shared, std), (ratio, rows["kl"]), (ratio, rows["mutual_information"])]


def _power_law(axes: Axes) -> None:
    """Just above n = beta, m = (3 (n / beta - 1) / 2)^(1/6)."""
    above = np.geomspace(1e-6, 1, 200)
    axes.plot(above, limits.one_layer(1 + above).mean, color=style.depth_colour(1))
    axes.plot(above, (1.5 * above) ** (1 / 6), ":", color=style.INK)
    axes.set(xscale="log", yscale="log", xlabel="n / β - 1")
    axes.set_title("m; dotted $(3 (n / β - 1) / 2)^{1/6}$", fontsize=9)
    axes.tick_params(labelsize=8)
