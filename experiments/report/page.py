"""The report of a sweep: one HTML file that tells the post's story with its numbers and pictures."""

import base64
import html
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.figures import premises, selection, style
from experiments.figures.selection import Missing, Saved
from experiments.report.story import STORY
from vae_bit.store import files, resume
from vae_bit.store.table import KEYS

PAGE = Path(__file__).with_name("page.html")
FULL_WIDTH = 9  # inches of a figure as wide as the page
COLUMNS = ("loss", "limit", "gap", "recon", "recon_per_dim", "kl", "nll", "posterior_kl", "valid_mass")
DECIMALS = {"recon_per_dim": 7}


def page(results: Saved) -> str:
    """The whole document; nothing in it is loaded from elsewhere."""
    parts = {"ORIGIN": origin(results), "TABLE": table(results), "SECTIONS": "".join(sections(results))}
    document = PAGE.read_text(encoding="utf-8")
    for name, part in parts.items():
        document = document.replace(f"<!-- {name} -->", part)
    return document


def sections(results: Saved) -> Iterator[str]:
    """The story, chapter by chapter; what the run cannot tell is named and left out."""
    lacking = []
    for told, needs, draw in STORY:
        try:
            section = next((section for section in told if section.holds(results)), None)
            if section is None:
                raise Missing(needs)
            figure = picture(draw(results)) if draw else ""
            yield f"<section><h2>{section.heading}</h2>{section.tell(results)}{figure}</section>"
        except Missing as reason:
            lacking.append(f"{told[0].heading} (needs {reason})")
    if lacking:
        yield f"<p class='note'>Left out: {'; '.join(lacking)}.</p>"


def picture(figure: Figure) -> str:
    """The figure as an SVG inside the document."""
    file = io.BytesIO()
    style.save(figure, file, "svg")
    data = base64.b64encode(file.getvalue()).decode()
    alt = html.escape(figure.get_suptitle().strip())
    width = figure.get_figwidth()
    size = f"width: {100 * min(width / FULL_WIDTH, 1):.0f}%; min-width: {3.5 * width:.0f}rem"
    return f"<figure><img style='{size}' alt='{alt}' src='data:image/svg+xml;base64,{data}'></figure>"


def table(results: Saved) -> str:
    """Medians over the seeds, a line for each setting of all runs, beside what the post's author saved at beta = 1."""
    swept = [name for name in selection.CHOSEN if np.unique(results.every[name]).size > 1]
    heads = "layers", "n", *swept, "seeds", *COLUMNS, "the post's loss"
    lines = [_row("th", (name.replace("_", " ") for name in heads))]
    for setting in sorted(set(zip(*(results.every[name].tolist() for name in KEYS[:-1]), strict=True))):
        keys = dict(zip(KEYS, setting, strict=False))
        own, point = selection.of(results.every, **keys), (keys["layers"], keys["n"])
        known = selection.published() if premises.as_published(own) else []
        alike = [run for run in known if (run["layers"], run["n"]) == point]
        medians = [f"{np.median(own[name]):z.{DECIMALS.get(name, 4)}f}" for name in COLUMNS]
        shown = [f"{keys['layers']}", f"{keys['n']:,}", *(selection.short(keys[name]) for name in swept), own["n"].size]
        lines.append(_row("td", [*shown, *medians, *([f"{run['loss']:.4f}" for run in alike] or ["-"])]))
    return f"<table>{''.join(lines)}</table>"


def origin(results: Saved) -> str:
    """How the run was made, as config.json says, and what is not shown of it."""
    config = files.read_config(results.out, resume.Origin)
    command = " ".join(["python -m experiments.sweep", *config.argv[1:]])
    versions = ", ".join(f"{name} {version}" for name, version in config.versions.items())
    parts = resume.flattened([{"recipe": variant.recipe} | variant.labels._asdict() for variant in config.variants])
    recipe = ", ".join(f"{name} {value}" for name, value in parts.items())
    notices = "".join(f"<p class='note'>Not drawn: {html.escape(notice)}.</p>" for notice in results.notices)
    how = "".join(f"<p>{html.escape(line)}</p>" for line in (recipe, versions))
    return f"{notices}<p><code>{html.escape(command)}</code></p>{how}"


def _row(kind: str, cells: Iterable[object]) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"
