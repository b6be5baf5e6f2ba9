"""Writes `report.html` into a sweep's folder: the post's story told with this run's numbers and pictures.

python -m experiments.report --run=runs/DIR
"""

from absl import flags

from experiments import cli
from experiments.cli import BadInput, Location, define
from experiments.figures import selection
from experiments.report.page import page


def main() -> None:
    """Writes the report and says where."""
    cli.require_devices()
    results = selection.load(flags.FLAGS.run)
    path = results.out / "report.html"
    try:
        path.write_text(page(results), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; expected a folder that can be written") from error
    print(path)


if __name__ == "__main__":
    define(Location(), "run", None, "Folder of a sweep's results.", required=True)
    cli.run(main)
