"""Times training against the floor, peers and the truth.

python -m experiments.benchmark
"""

from absl import flags

from experiments import cli
from experiments.benchmark.suite import main
from experiments.cli import Location, define

if __name__ == "__main__":
    quick = "Few repeats; no time to truth, README's command or scaling: two minutes."
    define(flags.BooleanParser(), "quick", False, quick)
    define(Location(), "out", None, "Folder for the results; a new one under runs/ unless given.")
    cli.run(main)
