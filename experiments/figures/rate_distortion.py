"""The figure of rate and distortion (Alemi et al. 2018, "Fixing a broken ELBO"); its panel goes into any axes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import families, premises, selection, style
from experiments.figures.families import EFFECTIVE
from experiments.figures.selection import Saved
from vae_bit.limits import LN2
from vae_bit.store.table import Table

LEAST = 1e-7  # nats, of the logarithmic picture


@style.look
def figure_rate_distortion(results: Saved) -> Figure:
    """What a code costs against what it leaves unsaid, twice: as it is, and the latter on a logarithmic axis."""
    chosen = f"{premises.objective_name(results.recipe)}; every n and β; one curve of each family serves them all"
    figure = style.new(11, 5.2, "Rate and distortion: what a code costs, and what it leaves unsaid", chosen)
    panels = figure.subplots(1, 2)
    plot_rate_distortion(results, panels[0], legend=False)
    plot_rate_distortion(results, panels[1], legend=False, logarithmic=True)
    panels[1].set_ylabel("")
    style.legend_right(figure, panels[0], "curves: the best of the family;\npoints: trained, median")
    return figure


@style.look
def plot_rate_distortion(
    results: Saved, ax: Axes | None = None, legend: bool = True, logarithmic: bool = False
) -> Axes:
    """recon / n_eff against KL: each family's exact curve and trained medians; below, where the two make up ln 2."""
    axes, rows = style.panel(ax), families.alike(results)
    own = families.there(rows)
    axes.plot(*bottom(), ":", color=style.INK, linewidth=1.4, label=f"KL + reconstruction / {EFFECTIVE} = ln 2")
    drawn = set()
    for family, colour in families.colours(own).items():
        if families.searched(family) and family.posterior not in drawn:
            axes.plot(*families.trade_off(family), color=colour, linewidth=1.2)
            drawn.add(family.posterior)
        kl, distortion = medians(families.own(rows, family))
        axes.plot(kl, distortion, families.marker(family), color=colour, markersize=5, label=families.words(family))
    title = "the same, logarithmic" if logarithmic else "distortion against rate"
    axes.set(xlabel="rate: KL (nats)", ylabel=f"distortion: reconstruction / {EFFECTIVE} (nats)", title=title)
    axes.set_xlim(-0.03, None)
    if logarithmic:
        axes.set(yscale="log", ylim=(LEAST, 1))
    else:
        axes.set_ylim(-0.02, 0.75)
    if legend:
        axes.legend(fontsize=8)
    return axes


def bottom() -> tuple[np.ndarray, np.ndarray]:
    """KL and recon / n_eff where they add up to ln 2, below which no code gets."""
    kl = LN2 * (1 - np.geomspace(1, 1e-9, 400))
    return kl, LN2 - kl


def medians(rows: Table) -> tuple[list[float], list[float]]:
    """KL and recon / n_eff of the run of median loss at each n and beta."""
    settings = sorted({*zip(rows["n"].tolist(), rows["beta"].tolist(), strict=True)})
    each = [selection.median_row(selection.of(rows, n=n, beta=beta)) for n, beta in settings]
    return [row["kl"] for row in each], [
        row["recon"] / families.effective(row["n"], row["word_dropout"]) for row in each
    ]
