"""Draws a sweep's saved results: exact densities of the trained models, costs against n, limits.

    python -m experiments.figures --run=runs/DIR

In a notebook `figures.figure_costs(figures.load("runs/DIR"))` is a whole picture, and so is every `figure_` below. Its
panels are `plot_` functions, which draw into any axes: `figures.plot_encoding(results, layers=1, ax=ax)`, or into a new
figure where none are given.
"""

from experiments import IS_COMMAND, require

if IS_COMMAND:
    require("matplotlib")

from experiments.figures import runs, selection, style
from experiments.figures.by_hand import figure_by_hand, plot_hand_loss, plot_mixture, plot_steep_map
from experiments.figures.codes import (
    figure_decoder,
    figure_encoding,
    figure_truncated,
    plot_decoder,
    plot_draws,
    plot_encoding,
    plot_truncated,
)
from experiments.figures.history import figure_history, plot_history
from experiments.figures.one_knob import figure_one_knob, plot_one_knob
from experiments.figures.proof import figure_proof, plot_code_widths, plot_nearest_mixtures, plot_prior_mismatch
from experiments.figures.rate_distortion import figure_rate_distortion, plot_rate_distortion
from experiments.figures.repairs import figure_repairs, plot_repairs
from experiments.figures.runs import (
    figure_costs,
    figure_data,
    figure_learning,
    figure_price,
    plot_costs,
    plot_data,
    plot_kl_parts,
    plot_learning,
    plot_loss_curves,
    plot_loss_parts,
)
from experiments.figures.transition import figure_transition, plot_transition
from experiments.figures.two_layers import (
    figure_map,
    plot_generative_map,
    plot_hand_cost,
    plot_hand_z1,
    plot_hand_z2,
    plot_inference_map,
    plot_lower_codes,
)

load, save, summary = selection.load, style.save, runs.summary

FIGURES = (
    figure_data,
    figure_costs,
    figure_learning,
    figure_encoding,
    figure_proof,
    figure_truncated,
    figure_decoder,
    figure_map,
    figure_by_hand,
    figure_price,
    figure_transition,
    figure_repairs,
    figure_rate_distortion,
    figure_one_knob,
    figure_history,
)

__all__ = [
    "FIGURES",
    "figure_by_hand",
    "figure_costs",
    "figure_data",
    "figure_decoder",
    "figure_encoding",
    "figure_history",
    "figure_learning",
    "figure_map",
    "figure_one_knob",
    "figure_price",
    "figure_proof",
    "figure_rate_distortion",
    "figure_repairs",
    "figure_transition",
    "figure_truncated",
    "load",
    "plot_code_widths",
    "plot_costs",
    "plot_data",
    "plot_decoder",
    "plot_draws",
    "plot_encoding",
    "plot_generative_map",
    "plot_hand_cost",
    "plot_hand_loss",
    "plot_hand_z1",
    "plot_hand_z2",
    "plot_history",
    "plot_inference_map",
    "plot_kl_parts",
    "plot_learning",
    "plot_loss_curves",
    "plot_loss_parts",
    "plot_lower_codes",
    "plot_mixture",
    "plot_nearest_mixtures",
    "plot_one_knob",
    "plot_prior_mismatch",
    "plot_rate_distortion",
    "plot_repairs",
    "plot_steep_map",
    "plot_transition",
    "plot_truncated",
    "save",
    "summary",
]
