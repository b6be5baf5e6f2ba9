"""The figure of n, beta and word dropout as one knob, n_eff / beta; its panels go into any axes."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import families, premises, selection, style
from experiments.figures.families import EFFECTIVE
from experiments.figures.selection import Missing, Saved
from vae_bit import limits
from vae_bit.limits import LN2
from vae_bit.store.table import Table

Outcome = Literal["information", "loss"]
OUTCOMES: dict[Outcome, str] = {
    "information": "what the code holds of the bit, I(x; z) / ln 2",
    "loss": "loss / β (nats)",
}
KNOBS = {"n": "data dimensions n alone", "beta": "weight β of the KL", "word_dropout": "word dropout r"}
STYLES = {"n": ("o", "#0072B2"), "beta": ("s", "#D55E00"), "word_dropout": ("^", "#009E73")}


@style.look
def figure_one_knob(results: Saved) -> Figure:
    """Runs that vary n, beta and word dropout, on one exact curve of n_eff / beta."""
    knobs = [words for name, words in KNOBS.items() if np.unique(require(results)[name]).size > 1]
    title = f"One knob, {EFFECTIVE} / β: {', '.join(knobs).replace(' alone', '')} act as one"
    chosen = f"{premises.objective_name(results.recipe)}; one layer, Gaussian q; median of each setting"
    figure = style.new(10, 4.6, title, chosen)
    panels = figure.subplots(1, 2)
    for axes, outcome in zip(panels, OUTCOMES, strict=True):
        plot_one_knob(results, outcome, axes, legend=False)
    style.legend_below(figure, panels[:1], 4)
    return figure


@style.look
def plot_one_knob(results: Saved, outcome: Outcome, ax: Axes | None = None, legend: bool = True) -> Axes:
    """What the code holds, or the loss over beta, against n_eff / beta: the exact curve and every trained setting."""
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome: got {outcome!r}, expected one of {', '.join(OUTCOMES)}")
    rows, axes = require(results), style.panel(ax)
    x, height = medians(rows, outcome)
    curve = np.unique(np.concatenate([np.geomspace(x.min() / 1.3, x.max() * 1.3, 400), 1 + np.geomspace(1e-6, 1, 200)]))
    axes.plot(curve, exact(curve, outcome), color=style.INK, linewidth=1.2, label="exact, the best code")
    turned = settings(rows)
    for name, (marker, colour) in STYLES.items():
        own = np.array([turn(beta, rate) == name for _, beta, rate in turned])
        if own.any():
            label = f"trained: {KNOBS[name]}"
            axes.plot(x[own], height[own], marker, color=colour, markersize=7, fillstyle="none", label=label)
    axes.set(xscale="log", xlabel=f"{EFFECTIVE} / β,  {EFFECTIVE} = 1 + (n - 1) r", title=OUTCOMES[outcome])
    if legend:
        axes.legend(fontsize=8)
    return axes


def require(results: Saved) -> Table:
    """One layer's runs of Gaussian q and prior N(0, 1); Missing unless they turn two of n, beta and word dropout."""
    rows = selection.of(families.alike(results), layers=1, posterior="gaussian", prior="normal")
    if sum(np.unique(rows[name]).size > 1 for name in KNOBS) < 2:
        raise Missing("runs of one layer of Gaussians that vary two of n, beta and word_dropout")
    return rows


def settings(rows: Table) -> list[tuple[float, float, float]]:
    """Every (n, beta, word dropout) there is."""
    return sorted({*zip(rows["n"].tolist(), rows["beta"].tolist(), rows["word_dropout"].tolist(), strict=True)})


def turn(beta: float, word_dropout: float) -> str:
    """Which of the knobs a setting is shown for; word dropout before beta, n where neither is turned."""
    return "word_dropout" if word_dropout < 1 else "beta" if beta != 1 else "n"


def medians(rows: Table, outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """n_eff / beta and the outcome of the median run at each setting."""
    alike = [selection.of(rows, n=n, beta=beta, word_dropout=rate) for n, beta, rate in settings(rows)]
    found = [selection.median_row(families.best_rate(own)) for own in alike]
    each = {name: np.array([row[name] for row in found]) for name in rows}
    height = each["mutual_information"] / LN2 if outcome == "information" else each["loss"] / each["beta"]
    return families.effective(each["n"], each["word_dropout"]) / each["beta"], height


def exact(pressure: np.ndarray, outcome: Outcome) -> np.ndarray:
    """The outcome at the optimum, which knows n_eff / beta alone."""
    return limits.information(1, pressure) / LN2 if outcome == "information" else limits.one_layer(pressure).loss
