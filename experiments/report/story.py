"""The report's chapters in their order, each with the ways to tell it and their premises."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments import figures
from experiments.figures import premises, selection
from experiments.figures.selection import Saved
from experiments.report import repairs, text, theory


class Section(NamedTuple):
    """One way to tell a chapter: a heading, the premise under which it is true, and what to say (HTML)."""

    heading: str
    holds: Callable[[Saved], bool]
    tell: Callable[[Saved], str]


class Chapter(NamedTuple):
    """Sections, of which the first whose premise holds tells it; what the run lacks where none does; a figure."""

    sections: tuple[Section, ...]
    needs: str
    draw: Callable[[Saved], Figure] | None


def always(results: Saved) -> bool:
    """The premise of what is true of every run."""
    return True


def draws_differ(results: Saved) -> bool:
    """Whether the draws that are shown can be anything but data points."""
    return premises.legible_width(results) > 1


def draws_alone(results: Saved) -> bool:
    """Whether they can, of a decoder that sees z alone."""
    return draws_differ(results) and bool(np.all(results.rows["decoder"] == "independent"))


def two_depths(results: Saved) -> bool:
    """Whether one layer and two can be compared at one n."""
    return premises.compared(results) is not None


def two_layers(results: Saved) -> bool:
    """Whether there are runs with two layers."""
    return 2 in selection.depths(results.rows)


STORY = (
    Chapter((Section("One bit", always, text.tell_data),), "", figures.figure_data),
    Chapter(
        (
            Section("The smallest n: nothing is encoded", premises.nothing_encoded, text.tell_nothing_encoded),
            Section("The smallest n: a code", always, text.tell_encoded),
        ),
        "",
        None,
    ),
    Chapter(
        (
            Section("More dimensions force a code", premises.pushed_open, text.tell_pushed_open),
            Section("The cost of a dimension", always, text.tell_reconstruction),
        ),
        "",
        figures.figure_learning,
    ),
    Chapter(
        (
            Section("What the code costs", premises.priced, text.tell_price_of_a_code),
            Section("The loss and its limit", always, text.tell_exact_losses),
        ),
        "",
        figures.figure_costs,
    ),
    Chapter(
        (
            Section("The code leaves the prior", premises.leaves_prior, text.tell_valley),
            Section("The code and the prior", always, text.tell_encoding),
        ),
        "",
        figures.figure_encoding,
    ),
    Chapter((Section("Two Gaussians never make the prior", always, theory.tell_proof),), "", figures.figure_proof),
    Chapter(
        (
            Section("Unpleasant averages", premises.averages, text.tell_averages),
            Section("Draws from the prior", draws_alone, text.tell_draws),
            Section("Draws from the prior", draws_differ, text.tell_shares),
        ),
        "runs with n = 2 or more: at n = 1 every draw is a data point",
        figures.figure_decoder,
    ),
    Chapter(
        (
            Section("Two layers", premises.second_layer_helps, text.tell_two_layers),
            Section("One layer and two", two_depths, text.tell_no_help),
        ),
        "runs with 1 layer and with 2 layers at one n",
        figures.figure_truncated,
    ),
    Chapter(
        (
            Section("Why two layers work", premises.steep_map, text.tell_steep_map),
            Section("How two layers could work", two_layers, text.tell_other_map),
        ),
        "runs with 2 layers",
        figures.figure_map,
    ),
    Chapter((Section("Models made by hand", always, theory.tell_by_hand),), "", figures.figure_by_hand),
    Chapter(
        (Section("Item by item", premises.adds_up, text.tell_items),),
        "runs without word dropout, as -ln p(x) is that of a decoder that drops nothing",
        figures.figure_price,
    ),
    Chapter((Section("Where the code opens", always, text.tell_transition),), "", figures.figure_transition),
    Chapter((Section("What each repair buys", always, repairs.tell_repairs),), "", figures.figure_repairs),
    Chapter(
        (Section("Rate and distortion", always, repairs.tell_rate_distortion),), "", figures.figure_rate_distortion
    ),
    Chapter((Section("One knob", always, repairs.tell_one_knob),), "", figures.figure_one_knob),
)
