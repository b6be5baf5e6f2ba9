"""Draws a sweep's saved results: exact densities of the trained models, costs against n, limits.

    python -m experiments.figures --run=runs/DIR

In a notebook: `figures.figure_costs(figures.load("runs/DIR"))`, and so every figure below.
"""

from experiments.figures import runs, selection, style
from experiments.figures.codes import (
    figure_decoder,
    figure_encoding,
    figure_map,
    figure_transition,
    figure_truncated,
)
from experiments.figures.runs import figure_costs, figure_data, figure_learning, figure_price

load, save, summary = selection.load, style.save, runs.summary

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
