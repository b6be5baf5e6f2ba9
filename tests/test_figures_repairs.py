"""Repairs, rate and distortion, one knob: what is drawn and told of tables that are known to the last digit."""

import html
import math
import re
from typing import Any

import family_tables
import numpy as np
import pytest
from family_tables import EXCESS, PLAIN, SEEN, saved
from matplotlib.figure import Figure

from experiments import figures
from experiments.figures import families, one_knob, premises, selection
from experiments.figures import repairs as pictures
from experiments.figures.families import Family
from experiments.figures.selection import Missing
from experiments.report import page, repairs, story
from vae_bit import limits, presets, runner
from vae_bit.limits import LN2, conditional_entropy

MIXED = PLAIN._replace(posterior="mixture2")
KNOBS = [PLAIN, *(SEEN._replace(word_dropout=rate) for rate in (0.0, 0.1, 0.5))]


@pytest.fixture(scope="module")
def everything():
    return saved()


@pytest.fixture(scope="module")
def knobs():
    return saved(KNOBS, betas=(0.5, 1.0, 2.0))


def plain_text(told):
    return " ".join(html.unescape(re.sub("<li>", " * ", told)).replace("<sub>", "_").split())


def points(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_data())


def curves(axes):
    """Lines without a name of their own."""
    return [np.asarray(line.get_data()) for line in axes.lines if str(line.get_label()).startswith("_")]


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (PLAIN, "1 layer, Gaussian q"),
        (PLAIN._replace(posterior="mixture4"), "q a mixture of 4 Gaussians"),
        (PLAIN._replace(posterior="flow", layers=2), "2 layers, q a flow"),
        (PLAIN._replace(prior="mixture2"), "a learned prior of 2 Gaussians"),
        (PLAIN._replace(prior="vamp"), "q(z) itself as the prior"),
        (SEEN, "decoder sees the bit before, dropped at rate 0.1"),
        (SEEN._replace(word_dropout=0.0), "decoder sees the bit before"),
        (SEEN._replace(word_dropout=1.0), "decoder sees a blank for the bit before"),
        (PLAIN._replace(posterior="my.family"), "my.family"),
    ],
)
def test_a_family_in_words(family, words):
    assert families.words(family, "the bit before") == words


def test_how_many_gaussians():
    labels = "gaussian", "normal", "mixture3", "mixture16", "flow", "vamp", "my.mixture", "mixture"
    numbers = [families.components(label) for label in labels]
    np.testing.assert_array_equal(numbers, [1, 1, 3, 16, math.inf, math.inf, math.nan, math.nan])


def test_what_is_not_known_has_no_limit():
    own = PLAIN._replace(posterior="my.family")
    assert np.isnan(families.limit(own, np.array([5.0]), 1.0)).all()
    assert np.isnan(families.optimum(own, np.array([5.0]), 1.0)).all() and math.isnan(families.information(own, 5, 1.0))


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("family", family_tables.ALL)
def test_the_optimum_is_that_of_the_limits(family, beta):
    n = np.array([1.0, 4.0, 100.0])
    loss, recon, kl = families.optimum(family, n, beta)
    np.testing.assert_allclose(loss, families.limit(family, n, beta), rtol=1e-12)
    whole = np.isfinite(recon)
    np.testing.assert_allclose((recon + beta * kl)[whole], loss[whole], rtol=1e-12)
    assert families.information(family, 100, beta) <= kl[-1] + 1e-12


def test_repairs_show_medians_above_ln_2(everything):
    axes = figures.plot_repairs(everything, Figure().subplots())
    for family in families.there(everything.every):
        name = families.words(family) + " (limit 0)" * (families.reaches_entropy(family) or family.word_dropout == 0)
        n, height = points(axes, name)
        np.testing.assert_array_equal(n, [1, 2, 5, 10, 100, 1000])
        expected = families.limit(family, n, 1.0) - LN2 + 2 * EXCESS  # of the seeds 0, 1, 2
        np.testing.assert_allclose(height, expected, atol=1e-9)


def test_curves_of_repairs_are_the_limits_of_real_n():
    """Of one Gaussian, of a decoder that sees x_{i-1}, whose pressure is n_eff, and of two Gaussians."""
    axes = figures.plot_repairs(saved([PLAIN, MIXED, SEEN], widths=(2, 50)), Figure().subplots())
    drawn = curves(axes)
    for posterior, rate, (n, gap) in zip((1, 2, 1), (1.0, 1.0, 0.1), drawn, strict=True):
        some = slice(10, None, 7)
        assert n[10] < 2 and n[-1] > 1000
        np.testing.assert_allclose(gap[some], limits.limit(1, n[some], 1.0, posterior, 1, rate) - LN2, rtol=1e-8)


def test_repairs_at_another_beta_are_measured_against_its_entropy():
    results = saved([PLAIN, MIXED, SEEN], widths=(1, 20), betas=(3.0,))
    rows = families.own(results.every, SEEN)
    np.testing.assert_allclose(pictures.above(rows), rows["loss"] - np.minimum(1 + (rows["n"] - 1) * 0.1, 3.0) * LN2)
    assert np.all(pictures.above(results.every) > 0)


def test_of_each_family_the_best_learning_rate():
    results = saved([PLAIN, MIXED], widths=(5,), rates=(0.1, 0.01))
    _, height = points(figures.plot_repairs(results, Figure().subplots()), families.words(MIXED))
    assert height == pytest.approx(limits.limit(1, 5, posterior=2) - LN2 + 2 * EXCESS, abs=1e-9)


def test_nothing_repaired():
    with pytest.raises(Missing, match="another q, prior or decoder, or 2 layers"):
        figures.plot_repairs(saved([PLAIN]))
    with pytest.raises(Missing, match="--posterior"):
        repairs.tell_repairs(saved([PLAIN]))


def test_rate_and_distortion_of_gaussians_is_the_channel_s(everything):
    kl, distortion = families.trade_off(PLAIN)
    np.testing.assert_allclose(distortion[100:], conditional_entropy(np.expm1(2 * kl[100:])), rtol=1e-9)
    for family in (MIXED, PLAIN._replace(posterior="mixture4")):
        kl, distortion = families.trade_off(family)
        assert np.all(np.diff(kl) > 0) and np.all(np.diff(distortion) < 0)
        assert np.all(kl + distortion >= LN2 - 1e-12)
        inner = np.interp(0.7, kl, distortion)
        assert inner < conditional_entropy(np.expm1(2 * 0.7))


def test_runs_lie_on_one_trade_off_whatever_their_n_and_beta(knobs):
    axes = figures.plot_rate_distortion(knobs, Figure().subplots())
    (curve,) = curves(axes)  # one for all decoders
    for family in KNOBS:
        kl, distortion = points(axes, families.words(family))
        assert kl.size == 18
        least = np.interp(kl, *curve)
        assert np.all(distortion > least - 1e-3) and np.all(distortion < least + 6 * EXCESS)


@pytest.mark.parametrize("outcome", one_knob.OUTCOMES)
def test_one_knob(knobs, outcome):
    """72 settings: all on one curve, those that vary dropout at n_eff / beta; the middle seed has an excess of 2."""
    axes = figures.plot_one_knob(knobs, outcome, Figure().subplots())
    x, height = points(axes, "exact, the best code")
    np.testing.assert_allclose(height, one_knob.exact(x, outcome))
    trained = [np.asarray(line.get_data()) for line in axes.lines if "trained" in str(line.get_label())]
    assert sum(x.size for x, _ in trained) == 72
    for x, height in trained:
        most = 4 * EXCESS if outcome == "loss" else 1e-9
        off = height - one_knob.exact(x, outcome)
        assert np.all(off > -1e-9) and np.all(off < most + 1e-9)
    x, _ = points(axes, "trained: word dropout r")
    assert {1.0, 5.5, 100.9, 500.5} <= {*np.round(x, 9).tolist()}


def test_the_exact_curve_of_the_knob():
    np.testing.assert_allclose(one_knob.exact(np.array([1.0, 5.0]), "loss"), [LN2, 1.0657867582])
    t = np.square(limits.one_layer(5.0).mean / limits.one_layer(5.0).std)
    assert one_knob.exact(np.array(5.0), "information") == pytest.approx(1 - conditional_entropy(t) / LN2)


def test_knobs_that_are_not_turned():
    for results in (saved([PLAIN]), saved([MIXED], betas=(0.5, 1.0))):
        with pytest.raises(Missing, match="vary two of n, beta and word_dropout"):
            figures.figure_one_knob(results)


def test_what_is_told_of_repairs(everything):
    told = plain_text(repairs.tell_repairs(everything))
    for line in (
        "q a mixture of 4 Gaussians, n = 1,000: 0.143 nats above; limit 0.141",
        "q a flow, n = 1,000: 0.002 nats above; limit 0.000",
        "1 layer, Gaussian q, n = 1,000: 0.809 nats above; limit 0.807",
        "dropped at rate 0.1, n = 1,000: 0.669 nats above; limit 0.667",
    ):
        assert line in told, line
    assert "ln 2 = 0.693 shows" in told and "At n = β" in told


def test_the_range_of_codes_at_the_critical_point():
    results = saved([PLAIN, PLAIN._replace(posterior="flow")], widths=(1, 5))
    own = (results.every["posterior"] == "flow") & (results.every["n"] == 1)
    results.every["mutual_information"][own] = [0.1, 0.5, 0.25]
    told = plain_text(repairs.tell_critical(families.at_one_beta(results)))
    assert "1 layer, Gaussian q: 0.000 to 0.000 nats" in told and "q a flow: 0.100 to 0.500 nats" in told
    assert repairs.tell_critical(families.at_one_beta(saved([PLAIN], widths=(5,)))) == ""


def test_what_is_told_of_one_knob(knobs):
    told = plain_text(repairs.tell_one_knob(knobs))
    assert "So 72 settings of one layer" in told and "from 0.5 to 2,000" in told
    assert "exceeds it by at most 0.004 nats" in told  # the middle seed's excess at beta = 1/2


def test_what_the_run_lacks_is_one_line(monkeypatch):
    chapters = [
        chapter for chapter in story.STORY if chapter.sections[0].heading in ("What each repair buys", "One knob")
    ]
    monkeypatch.setattr(page, "STORY", chapters)
    (said,) = page.sections(saved([PLAIN]))
    assert said.startswith("<p class='note'>Left out: What each repair buys (needs ") and "One knob (needs " in said


def test_the_plain_family_is_drawn_where_there_are_several(everything):
    chosen, notices = selection.one_setting(everything.every)
    drawn = {name: column[chosen] for name, column in everything.every.items()}
    assert {family._replace(layers=1) for family in families.there(drawn)} == {PLAIN}
    assert premises.plain(drawn) and any("decoder = autoregressive" in notice for notice in notices)


def test_a_repair_that_is_drawn_alone_is_named():
    results = saved([PLAIN._replace(posterior="mixture4"), PLAIN._replace(posterior="flow")])
    told = premises.setting(results.recipe, results.rows, results.every)
    assert "posterior: mixture4 (one of 2 trained)" in told and "prior" not in told
    assert not premises.plain(results.rows)
    assert Family(1, "mixture4", "normal", "independent", 1.0) == families.drawn(results, 1)


@pytest.mark.parametrize(("family", "adds_up"), [(PLAIN, True), (SEEN, False), (SEEN._replace(word_dropout=0.0), True)])
def test_items_are_told_where_they_add_up(family, adds_up):
    results = saved([family], widths=(5,))
    assert premises.adds_up(results) == adds_up
    if not adds_up:
        with pytest.raises(Missing, match="runs without word dropout"):
            figures.figure_price(results)


def test_a_family_that_is_not_the_post_s_is_told_without_what_it_is_not(quick_compile, tmp_path, monkeypatch):
    family = {"posterior": "mixture2", "prior": "vamp", "decoder": "autoregressive"}
    values: Any = {name: {label: presets.FAMILIES[name][label]} for name, label in family.items()}
    runner.run(n=2, layers=1, seeds=1, steps=20, word_dropout=0.5, out=tmp_path / "run", **values)
    results = selection.load(tmp_path / "run")
    lacking = figures.figure_map, figures.figure_price, figures.figure_one_knob, figures.figure_history
    for function in figures.FIGURES:
        if function not in lacking:
            function(results).draw_without_rendering()
    monkeypatch.setattr(page, "picture", lambda figure: "")
    told = plain_text(re.sub("<(?!li|sub)[^>]*>", " ", " ".join(page.sections(results))))
    its_own = "q a mixture of 2 Gaussians, q(z) itself as the prior, decoder sees x_i-1 , dropped at rate 0.5"
    assert f"Their family: {its_own}." in told
    for falsehood in (
        "each dimension goes its own way",
        "two Gaussians make up",
        "independently",
        "valley",
        "The dots",
    ):
        assert falsehood not in told, falsehood
    with pytest.raises(Missing, match="a Gaussian q"):
        selection.codes(selection.median_model(results, 1, 2))
    assert "Item by item (needs runs without word dropout" in told
