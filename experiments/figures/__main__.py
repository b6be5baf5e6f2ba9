"""Draws every figure that a sweep's results hold the data for.

python -m experiments.figures --run=runs/DIR
"""

from pathlib import Path

from absl import flags

from experiments import cli
from experiments.cli import BadInput, Location, define
from experiments.figures import FIGURES, selection, style
from experiments.figures.selection import Missing

FORMATS = ("png", "pdf", "svg")


def main() -> None:
    """Writes every figure that the run has the data for into its folder `figures`, and says what it left out."""
    formats = flags.FLAGS.format
    if not formats or set(formats) - set(FORMATS):
        raise BadInput(f"--format={','.join(formats)}: expected some of {','.join(FORMATS)}")
    cli.require_devices()
    results = selection.load(flags.FLAGS.run)
    out = folder(results.out / "figures")
    for notice in results.notices:
        print(f"skipped {notice}")
    for number, function in enumerate(FIGURES, 1):
        try:
            figure = function(results)
        except Missing as reason:
            print(f"skipped {function.__name__}: {reason}")
            continue
        for ending in formats:
            style.save(figure, out / f"{number}_{function.__name__.removeprefix('figure_')}.{ending}")
    print(f"figures of {results.rows['n'].size} runs: {out}")


def folder(out: Path) -> Path:
    """Makes the folder; BadInput where that fails."""
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(f"{out}: {error.strerror}; expected a folder that can be written") from error
    return out


if __name__ == "__main__":
    define(Location(), "run", None, "Folder of a sweep's results.", required=True)
    define(flags.ListParser(), "format", ["png", "pdf"], "Formats of the pictures: png, pdf, svg.")
    cli.run(main)
