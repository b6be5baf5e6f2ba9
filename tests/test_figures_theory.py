"""The pictures and sentences of arguments that need no training, against quadrature and free searches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from experiments import figures
from experiments.figures import by_hand, proof
from experiments.figures.families import PLAIN
from experiments.figures.selection import Saved
from experiments.report import theory
from vae_bit import handbuilt, limits
from vae_bit.limits import LN2, conditional_entropy

RECIPE = {"objective": "elbo", "function": "vae_bit.objectives.elbo", "k": 1, "steps": 300}
Z = np.linspace(-12, 12, 4001)


def table(loss, layers=2, n=1000, beta=1.0, gap=0.0) -> Saved:
    """Results of one run, without its model."""
    rows: Any = PLAIN._asdict() | {
        "layers": layers,
        "n": n,
        "beta": beta,
        "learning_rate": 0.01,
        "loss": loss,
        "gap": gap,
    }
    rows = {name: np.array([value]) for name, value in rows.items()}
    return Saved(Path(), rows, {}, rows, [], RECIPE, {})


def mismatch(m, s):
    q = (norm.pdf(Z, m, s) + norm.pdf(Z, -m, s)) / 2
    return np.sum(q * (np.log(q) - norm.logpdf(Z))) * (Z[1] - Z[0])


def lines(axes):
    return {line.get_label(): np.asarray(line.get_data()) for line in axes.lines}


def test_the_nearest_mixtures_are_drawn():
    least = lines(figures.plot_prior_mismatch(table(0.7), Figure().subplots()))[proof.LEAST]
    widths = lines(figures.plot_code_widths(table(0.7), Figure().subplots()))[proof.LEAST]
    for m in (0.6, 1.0, 1.7):
        best: Any = minimize_scalar(lambda s, m=m: mismatch(m, s), bounds=(0.3, 1.0), method="bounded")
        assert np.interp(m, *least) == pytest.approx(best.fun, rel=2e-3)
        assert np.interp(m, *widths) == pytest.approx(best.x, abs=2e-4)


def test_the_codes_of_least_loss_are_further_from_the_prior():
    m, height = lines(figures.plot_prior_mismatch(table(0.7), Figure().subplots()))[proof.BEST]
    k = np.argmin(abs(m - 0.9))
    assert height[k] == pytest.approx(mismatch(m[k], np.sqrt(1 - m[k] ** 2)), rel=1e-6)
    assert np.all(height >= limits.prior_mismatch(m).kl - 1e-12)


def test_the_least_loss_of_the_post_s_model():
    """1.18728 at a = 3.93 and slope 10.15: by a search over both."""
    best = by_hand.hand_loss()
    assert best.best_loss == pytest.approx(1.187280, abs=1e-5)
    assert best.best_a == pytest.approx(3.93, abs=0.05)
    for a, slope in ((best.best_a, 7), (best.best_a, 14), (3.2, 10), (4.8, 10)):
        assert handbuilt.handbuilt_loss(by_hand.WIDTH, a, slope).loss > best.best_loss + 5e-4
    assert best.loss(np.log(2.2)) == pytest.approx(handbuilt.handbuilt_loss(by_hand.WIDTH, 2.2, 10).loss, abs=2e-3)


@pytest.mark.parametrize("a", by_hand.STEEP)
def test_a_steep_map_s_rest_is_what_reading_the_bit_costs(a):
    rest = (by_hand.WIDTH - 1) * conditional_entropy(a * a)
    excess = by_hand.steep_excess(a)
    assert np.all(np.diff(excess) > 0)  # with the noise
    assert rest < excess[0] < rest + 5e-6


def test_a_plain_mixture_reaches_ln_2_where_one_layer_does_not():
    drawn = lines(figures.plot_mixture(table(1.5, layers=1, n=50), Figure().subplots()))
    np.testing.assert_allclose(drawn["mixture of two, by EM"][1], LN2, atol=1e-12)
    assert drawn["trained, median"][1] == [1.5]
    n, limit = drawn["VAE of 1 layer: limit"]
    np.testing.assert_allclose(limit, limits.one_layer(n).loss)


@pytest.mark.parametrize("results", [table(0.7, n=5), table(0.7, beta=0.5), table(0.7, layers=1)])
def test_two_trained_layers_are_shown_at_the_same_setting_alone(results):
    assert by_hand.trained_two_layers(results) is None
    assert "trained" not in theory.tell_post_model(results)
    assert "2 layers: trained, median" not in lines(figures.plot_hand_loss(results, Figure().subplots()))


def test_what_is_told_of_models_by_hand():
    told = theory.tell_by_hand(table(0.7123))
    for number in ("1.187", "a = 3.9", "1.500", "0.712", "0.313 of the 0.807", "0.693 at n = 1,000"):
        assert number in told, number
    assert "<script" not in told and told.count("<p>") == told.count("</p>") == 3


def test_what_is_told_of_the_proof():
    told = theory.tell_proof(table(0.7))
    assert f"{mismatch(1, float(limits.prior_mismatch(1).std)):.3f} at m = 1" in told
    assert "The median run" not in told
