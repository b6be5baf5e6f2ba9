"""The look that every figure shares, and the only way they are written to files."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib import colormaps, rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

# Okabe and Ito's colours, told apart by colour-blind readers.
DEPTHS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
POINTS = ("#56B4E9", "#E69F00")  # of 0^n and 1^n
# Tol's muted ones, for the parts of a sum.
PARTS = ("#BBBBBB", "#882255", "#DDCC77", "#332288", "#999933", "#CC6677")
SHADES = ("#E7D4E8", "#C2A5CF", "#9970AB")  # of a third parameter, light to dark as it grows
INK, PALE = "#333333", "#999999"
PIXELS_PER_INCH = 150
LETTERS = 14  # of the setting to an inch
DEFAULTS: Any = {
    name: value for name, value in rcParamsDefault.items() if name != "backend"
}  # whatever a matplotlibrc says
look = rc_context(
    DEFAULTS
    | {
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.formatter.useoffset": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "lines.linewidth": 1.6,
        "pdf.fonttype": 42,
        "svg.hashsalt": "vae_bit",
    }
)  # decorates a function that draws or writes a figure, whatever the user's matplotlibrc says


class Picture(Figure):
    """A figure that a notebook shows even where nothing has loaded pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        save(self, file, "png")
        return file.getvalue()


def new(width: float, height: float, title: str, setting: str = "") -> Figure:
    """An empty figure, inches, whose title says what to see; below it, smaller, what was chosen for the runs shown."""
    figure = Picture(figsize=(width, height), layout="constrained")
    setting = textwrap.fill(setting, int(LETTERS * width))  # it may name much
    heading = title + "\n" * (setting.count("\n") + 1 if setting else 0)
    above = figure.suptitle(heading, x=0.01, horizontalalignment="left", fontsize=12, fontweight="bold")
    below = Annotation(setting, (0, 0), xycoords=above, va="bottom", fontsize=9, color=INK, annotation_clip=False)
    below.set_in_layout(False)
    figure.add_artist(below)
    return figure


def panel(ax: Axes | None, width: float = 5.0, height: float = 4.0) -> Axes:
    """The axes given, or those of a new pyplot figure, inches, which a notebook shows by itself."""
    if ax is not None:
        return ax
    from matplotlib import pyplot  # only here: it looks for a screen, which the commands never need

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def columns(depths: Sequence[int]) -> float:
    """Width, inches, of a figure with a panel for each depth."""
    return 1 + 4 * max(len(depths), 1.5)


@look
def save(figure: Figure, target: Path | IO[bytes], format: str | None = None) -> None:
    """Writes the figure in the given format, or the one that the name's ending says; text in a PDF stays text."""
    figure.savefig(target, format=format, dpi=PIXELS_PER_INCH)


def depth_colour(layers: int) -> str:
    """One colour for a depth in every figure."""
    return DEPTHS[(layers - 1) % len(DEPTHS)]


def depth_name(layers: int) -> str:
    """ "1 layer", "2 layers"."""
    return f"{layers} layer{'s' * (layers > 1)}"


def width_colours(widths: Sequence[int]) -> dict[int, tuple]:
    """A colour for each n of a run, dark to light as n grows."""
    return dict(zip(widths, colormaps["viridis"](np.linspace(0.0, 0.88, max(len(widths), 2))), strict=False))


def width_range(widths: Sequence[int]) -> tuple[float, float]:
    """From the least n to the largest, or from half to twice the only one."""
    return (widths[0], widths[-1]) if len(widths) > 1 else (widths[0] / 2, widths[0] * 2)


def width_axis(axes: Axes, widths: Sequence[int]) -> None:
    """A logarithmic axis of n that names the values there are."""
    axes.set_xscale("log")
    axes.set_xticks(widths, [f"{n:,}" for n in widths])
    axes.minorticks_off()
    axes.set_xlabel("data dimensions n")


def only_left_labels(panels: np.ndarray) -> None:
    """Of panels [rows, columns] whose rows share their vertical axis, the first of each row alone names it."""
    for axes in panels[:, 1:].flat:
        axes.set_ylabel("")


def legend_below(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """One legend for all panels, below them; each label once."""
    entries = {}
    for axes in panels:
        entries |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def legend_right(figure: Figure, axes: Axes, title: str) -> None:
    """One legend for all panels, to their right."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title=title)
