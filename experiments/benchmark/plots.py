"""The benchmark's picture: time per seed and step, ours against peers against the floor."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import style

OURS, PEER, FLOOR = style.DEPTHS[0], style.PALE, style.INK


@style.look
def bars(record: dict[str, Any]) -> Figure:
    """A panel for each setting that peers were measured in."""
    settings = list(dict.fromkeys((row["layers"], row["n"]) for row in record["peers"]))
    height = 1.0 + 0.3 * len(record["peers"])
    figure = style.new(9.0, max(height, 3.0), "Time to train one seed by one step of the post's recipe")
    panels = figure.subplots(len(settings), 1, sharex=True, squeeze=False)[:, 0]
    for axes, setting in zip(panels, settings, strict=True):
        _panel(axes, *setting, record)
    low, high = (f(bar.get_width() for axes in panels for bar in axes.patches) for f in (min, max))
    panels[-1].set_xlim(0.5 * low, 3.0 * high)
    panels[-1].set_xlabel("microseconds, less is better; all of the machine's cores may work")
    return figure


def _panel(axes: Axes, layers: int, n: int, record: dict[str, Any]) -> None:
    rows = sorted(_at(record["peers"], layers, n), key=lambda row: row["us"])
    own = [row for row in _at(record["ours"], layers, n) if row["implementation"] == "ours original"][:1]
    names = ["floor: the operations alone"] * len(own)
    names += [f"{_words(row)}, {row['seeds']} seed{'s' * (row['seeds'] > 1)}" for row in rows]
    times = [row["floor_us"] for row in own] + [row["us"] for row in rows]
    colours = [FLOOR] * len(own) + [OURS if row["implementation"].startswith("ours") else PEER for row in rows]
    axes.barh(names, times, color=colours, height=0.7)
    for position, value in enumerate(times):
        axes.annotate(f"{value:,.0f}", (value, position), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_title(f"{style.depth_name(layers)}, n = {n:,}")


def _words(row: dict[str, Any]) -> str:
    return row["implementation"].replace("_", " ")


def _at(rows: list[dict[str, Any]], layers: int, n: int) -> list[dict[str, Any]]:
    return [row for row in rows if (row["layers"], row["n"]) == (layers, n)]
