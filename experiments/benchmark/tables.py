"""The benchmark's tables: each section's columns with their headings, and a line a measurement."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

OWN = {
    "implementation": "recipe", "layers": "layers", "n": "n", "seeds": "seeds", "us": "us", "cpu_us": "cpu us",
    "floor_us": "floor us", "over_floor": "over floor", "compile_s": "compile s",
}  # fmt: skip
PEER = {
    "implementation": "implementation", "layers": "layers", "n": "n", "seeds": "seeds", "us": "us", "cpu_us": "cpu us",
    "over_ours": "over ours", "compile_s": "compile s",
}  # fmt: skip
TRUTH = {
    "implementation": "implementation", "n": "n", "median": "median s", "worst": "worst s", "total": "recipe s",
    "extrapolated": "extrapolated",
}  # fmt: skip
COMMAND = {"programs": "programs", "wall_s": "s", "cpu_s": "cpu s"}
SCALE = {
    "n": "n", "seeds": "seeds", "devices": "devices", "us": "us", "cpu_us": "cpu us", "peak_mb": "peak MB",
    "compile_s": "compile s",
}  # fmt: skip


def table(title: str, rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> Table:
    """A line a row, under the columns' headings."""
    result = Table(title=title)
    for name, heading in columns.items():
        result.add_column(heading, justify="left" if name == "implementation" else "right")
    for line in rows:
        result.add_row(*(_shown(line.get(name, "-")) for name in columns))
    return result


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000.0 else f"{value:.3g}"
    return "never" if value is None else str(value)
