"""Writes `report.html` into a sweep's folder: the post's story told with this run's numbers and pictures, in one file.

python -m experiments.report --run=runs/DIR
"""

import base64
import html
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from experiments import options, saved, style
from experiments.options import BadInput
from experiments.report_story import STORY, median
from experiments.saved import Missing, Saved

PAGE = Path(__file__).with_name("report_page.html")
FULL_WIDTH = 9  # inches of a figure as wide as the page
COLUMNS = ("loss", "limit", "gap", "recon", "recon_per_dim", "kl", "nll", "posterior_kl", "valid_mass")
DECIMALS = {"recon_per_dim": 7}


def main() -> None:
    """Writes the report and says where."""
    options.require_devices()
    results = saved.load(Path(flags.FLAGS.run))
    path = results.out / "report.html"
    try:
        path.write_text(page(results), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; expected a folder that can be written") from error
    print(path)


def page(results: Saved) -> str:
    """The whole document; nothing in it is loaded from elsewhere."""
    body = "".join(sections(results))
    parts = {"SECTIONS": body, "TABLE": table(results), "ORIGIN": origin(results)}
    document = PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():
        document = document.replace(f"<!-- {name} -->", part)
    return document


def sections(results: Saved) -> Iterator[str]:
    """The story, section by section; what the run cannot tell is named and left out."""
    for heading, tell, draw in STORY:
        try:
            yield f"<section><h2>{heading}</h2>{tell(results)}{picture(draw(results)) if draw else ''}</section>"
        except Missing as reason:
            yield f"<section><h2>{heading}</h2><p class='note'>Left out: {reason}.</p></section>"


def picture(figure: Figure) -> str:
    """The figure as an SVG inside the document."""
    file = io.BytesIO()
    style.save(figure, file, "svg")
    data = base64.b64encode(file.getvalue()).decode()
    alt = html.escape(figure.get_suptitle())
    width = figure.get_figwidth()
    size = f"width: {100 * min(width / FULL_WIDTH, 1):.0f}%; min-width: {3.5 * width:.0f}rem"
    return f"<figure><img style='{size}' alt='{alt}' src='data:image/svg+xml;base64,{data}'></figure>"


def table(results: Saved) -> str:
    """Medians over the seeds, a line for each depth and n, beside what the post's author saved."""
    names = ("layers", "n", "seeds", *COLUMNS, "the post's loss")
    lines = [_row("th", (name.replace("_", " ") for name in names))]
    for layers in saved.depths(results.rows):
        for n in saved.widths(results.rows, layers):
            count = saved.of(results.rows, layers=layers, n=n)["n"].size
            post = [f"{run['loss']:.4f}" for run in saved.published() if (run["layers"], run["n"]) == (layers, n)]
            medians = [f"{median(results, layers, n, name):z.{DECIMALS.get(name, 4)}f}" for name in COLUMNS]
            lines.append(_row("td", [layers, f"{n:,}", count, *medians, *(post or ["-"])]))
    return f"<table>{''.join(lines)}</table>"


def origin(results: Saved) -> str:
    """How the run was made, as config.json says, and what is not shown of it."""
    config = json.loads((results.out / "config.json").read_text())
    command = " ".join(["python -m experiments.sweep", *config["argv"][1:]])
    versions = ", ".join(f"{name} {version}" for name, version in config["versions"].items())
    recipe = ", ".join(f"{name} {value}" for name, value in config["recipe"].items())
    notices = "".join(f"<p class='note'>Not shown: {html.escape(notice)}.</p>" for notice in results.notices)
    how = "".join(f"<p>{html.escape(line)}</p>" for line in (recipe, versions))
    return f"{notices}<p><code>{html.escape(command)}</code></p>{how}"


def _row(kind: str, cells: Iterable[object]) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Folder of a sweep's results.", required=True)
    options.run(main)
