"""Every panel of the figures as a function of its own, which draws into any axes."""

from functools import cache
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from sweeps import alone

from experiments import figures
from experiments.figures import selection
from experiments.figures.selection import Missing
from vae_bit.store import results

matplotlib.use("agg")

PANELS = {  # of a figure, where its axes' number is the key's second part
    ("data", 1): lambda _, ax: figures.plot_data(5, ax),
    ("costs", 0): lambda loaded, ax: figures.plot_costs(loaded, "loss", ax),
    ("costs", 2): lambda loaded, ax: figures.plot_costs(loaded, "kl", ax),
    ("learning", 1): lambda loaded, ax: figures.plot_learning(loaded, 2, ax),
    ("encoding", 0): lambda loaded, ax: figures.plot_encoding(loaded, 1, ax),
    ("encoding", 1): lambda loaded, ax: figures.plot_encoding(loaded, 2, ax),
    ("truncated", 1): lambda loaded, ax: figures.plot_truncated(loaded, 2, 5, ax),
    ("decoder", 0): lambda loaded, ax: figures.plot_decoder(loaded, 1, 5, ax),
    ("decoder", 3): lambda loaded, ax: figures.plot_draws(loaded, 2, 5, ax),
    ("map", 0): lambda loaded, ax: figures.plot_generative_map(loaded, 5, ax),
    ("map", 1): lambda loaded, ax: figures.plot_lower_codes(loaded, 5, ax),
    ("map", 2): lambda loaded, ax: figures.plot_inference_map(loaded, 5, ax),
    ("map", 3): lambda _, ax: figures.plot_hand_z1(ax),
    ("map", 4): lambda _, ax: figures.plot_hand_z2(ax),
    ("map", 5): lambda loaded, ax: figures.plot_hand_cost(loaded, 5, ax),
    ("proof", 0): lambda _, ax: figures.plot_nearest_mixtures(ax),
    ("proof", 1): lambda loaded, ax: figures.plot_prior_mismatch(loaded, ax),
    ("proof", 2): lambda loaded, ax: figures.plot_code_widths(loaded, ax),
    ("by_hand", 0): lambda loaded, ax: figures.plot_hand_loss(loaded, ax),
    ("by_hand", 1): lambda loaded, ax: figures.plot_steep_map(loaded, ax),
    ("by_hand", 2): lambda loaded, ax: figures.plot_mixture(loaded, ax),
    ("price", 1): lambda loaded, ax: figures.plot_loss_parts(loaded, 2, ax),
    ("price", 2): lambda loaded, ax: figures.plot_kl_parts(loaded, 1, ax),
    ("repairs", 0): lambda loaded, ax: figures.plot_repairs(loaded, ax),
    ("rate_distortion", 0): lambda loaded, ax: figures.plot_rate_distortion(loaded, ax),
    ("rate_distortion", 1): lambda loaded, ax: figures.plot_rate_distortion(loaded, ax, logarithmic=True),
    ("one_knob", 0): lambda loaded, ax: figures.plot_one_knob(loaded, "information", ax),
    ("one_knob", 1): lambda loaded, ax: figures.plot_one_knob(loaded, "loss", ax),
    ("transition", 0): lambda loaded, ax: figures.plot_transition(loaded, "mean", ax),
    ("transition", 3): lambda loaded, ax: figures.plot_transition(loaded, "mutual_information", ax),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, tiny, trained):
    out = tmp_path_factory.mktemp("runs")
    results.write(out, alone(tiny["default"]), trained, {"argv": ["sweep"], "versions": {}})
    return figures.load(out, tiny["default"].model)


@pytest.fixture(scope="module")
def whole_figure(loaded):
    return cache(lambda name: getattr(figures, f"figure_{name}")(loaded))


def drawn(axes):
    """All that the axes hold but their legend: coordinates of lines, of areas and bars, and pixels."""
    lines = [np.asarray(line.get_data()) for line in axes.lines]
    areas = [path.vertices for area in axes.collections for path in area.get_paths()]
    bars = [np.asarray([*bar.get_xy(), bar.get_height()]) for bar in axes.patches]
    return [*lines, *areas, *bars, *(np.asarray(image.get_array()) for image in axes.images)]


def explained(axes):
    """What the legend names."""
    legend = axes.get_legend()
    return [text.get_text() for text in legend.texts] if legend else []


@pytest.mark.parametrize(("name", "number"), PANELS)
def test_a_panel_in_axes_of_ones_own_is_that_of_the_figure(loaded, whole_figure, name, number):
    whole = whole_figure(name).axes[number]
    mine, other = Figure().subplots(1, 2)
    assert PANELS[name, number](loaded, mine) is mine
    mine.figure.draw_without_rendering()
    ours, theirs = drawn(mine), drawn(whole)
    assert len(ours) == len(theirs) > 0
    for one, same in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, same)
    assert mine.get_title(loc="left") and not drawn(other)
    assert sorted(explained(mine)) == sorted(whole.get_legend_handles_labels()[1])


def test_the_loss_curves_are_those_of_the_summary(loaded):
    mine = figures.plot_loss_curves(loaded, Figure().subplots())
    whole = figures.summary(results.load_table(loaded.out), results.load_curves(loaded.out), loaded.recipe).axes[0]
    for one, same in zip(drawn(mine), drawn(whole), strict=True):
        np.testing.assert_array_equal(one, same)
    assert explained(mine) == ["1 layer", "2 layers"]


def test_without_axes_a_panel_makes_a_figure(loaded):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    axes = figures.plot_encoding(loaded, layers=1)
    (number,) = set(pyplot.get_fignums()) - set(before)
    assert axes.figure is pyplot.figure(number) and axes.figure.axes == [axes]
    pyplot.close(number)


def test_a_panel_that_the_run_has_no_data_for(loaded):
    unknown: Any = "other"
    with pytest.raises(Missing, match=r"layers=3: no run has them; expected one of \[1, 2\]"):
        figures.plot_encoding(loaded, 3)
    with pytest.raises(Missing, match=r"n=7: no run of 2 layers has it; expected one of \[2, 5\]"):
        figures.plot_decoder(loaded, 2, 7)
    assert selection.widths(loaded.rows) == [2, 5]
    with pytest.raises(ValueError, match="measure: got 'other', expected one of loss, recon_per_dim, kl"):
        figures.plot_costs(loaded, unknown)
    with pytest.raises(ValueError, match="quantity: got 'other', expected one of mean, std, kl, mutual_information"):
        figures.plot_transition(loaded, unknown)
    with pytest.raises(ValueError, match="outcome: got 'other', expected one of information, loss"):
        figures.plot_one_knob(loaded, unknown)
