"""Draws a sweep's saved results: exact densities of the trained models, costs against n, limits.

    python -m experiments.figures --run=runs/DIR

In a notebook: `figures.figure_costs(figures.load("runs/DIR"))`, and so every figure below.
"""

from pathlib import Path

from absl import flags

from experiments import options, plots_runs, saved, style
from experiments.options import BadInput
from experiments.plots_codes import (
    figure_decoder,
    figure_encoding,
    figure_map,
    figure_transition,
    figure_truncated,
)
from experiments.plots_runs import figure_costs, figure_data, figure_learning, figure_price
from experiments.saved import Missing

load, save, summary = saved.load, style.save, plots_runs.summary

FIGURES = (
    figure_data,
    figure_costs,
    figure_learning,
    figure_encoding,
    figure_truncated,
    figure_decoder,
    figure_map,
    figure_price,
    figure_transition,
)
FORMATS = ("png", "pdf", "svg")


def main() -> None:
    """Writes every figure that the run has the data for into its folder `figures`, and says what it left out."""
    formats = flags.FLAGS.format
    if not formats or set(formats) - set(FORMATS):
        raise BadInput(f"--format={','.join(formats)}: expected some of {','.join(FORMATS)}")
    options.require_devices()
    results = load(flags.FLAGS.run)
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
            save(figure, out / f"{number}_{function.__name__.removeprefix('figure_')}.{ending}")
    print(f"figures of {results.rows['n'].size} runs: {out}")


def folder(out: Path) -> Path:
    """Makes the folder; BadInput where that fails."""
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(f"{out}: {error.strerror}; expected a folder that can be written") from error
    return out


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Folder of a sweep's results.", required=True)
    flags.DEFINE_list("format", ["png", "pdf"], "Formats of the pictures: png, pdf, svg.")
    options.run(main)
