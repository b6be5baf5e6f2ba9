"""What the report and the pictures say of real sweeps that are not the post's: no sentence without its premise."""

import html
import re
from typing import Any

import commands
import numpy as np
import pytest
from commands import Command

from experiments import figures
from experiments.figures import premises, selection
from experiments.report import page, text
from vae_bit import limits, progress
from vae_bit.store import results
from vae_bit.sweep import plan
from vae_bit.training import Metrics

THEORY = ("Two Gaussians never make the prior", "Models made by hand")  # true of every run
OF_ONE_SETTING = ("costs", "learning", "encoding", "truncated", "decoder", "by_hand", "price")
BETA = ("--n=1", "--layers=1", "--beta=0.7,0.8333,0.95", "--steps=600", "--seeds=2")
FREE = ("--objective=free_bits", "--n=1,5", "--steps=600", "--seeds=2")
DREG = (
    *("--objective=dreg", "--k=8", "--noise=lattice", "--samples=64", "--n=1,5", "--layers=1"),
    *("--steps=600", "--seeds=2"),
)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Runs a sweep with the given flags, once, and reads it back."""
    commands.prepare(tmp_path_factory.mktemp("cache"))
    work, done = tmp_path_factory.mktemp("work"), {}

    def run(flags):
        if flags not in done:
            outcome = Command(work, "sweep", *flags, f"--out={len(done)}").wait()
            assert outcome.status == 0, outcome.stderr
            done[flags] = selection.load(work / f"{len(done)}")
        return done[flags]

    return run


@pytest.fixture
def story(sweep, monkeypatch):
    """The report's sections without their pictures: heading -> text."""

    def tell(flags):
        monkeypatch.setattr(page, "picture", lambda figure: "")
        parts = re.findall("<h2>(.*?)</h2>(.*?)</section>", "".join(page.sections(sweep(flags))), re.S)
        return {heading: " ".join(html.unescape(re.sub("<.*?>", "", text)).split()) for heading, text in parts}

    return tell


def titles(figure):
    """Everything that is written above a figure."""
    return " ".join([figure.get_suptitle(), *(text.get_text() for text in figure.texts), *notes(figure)])


def notes(figure):
    return [artist.get_text() for artist in figure.artists if hasattr(artist, "get_text")]


def test_at_beta_below_n_a_code_pays(sweep, story):
    loaded, told = sweep(BETA), story(BETA)
    beta = loaded.rows["beta"][0]
    text = told["The smallest n: a code"]
    for figure in (1 / beta, limits.information(1, 1, beta), np.median(loaded.rows["mutual_information"])):
        assert f"{figure:.3g}" in text
    assert f"n / β, here {1 / beta:.3g}, which is above 1: above it a code pays" in text
    everything = " ".join(text for heading, text in told.items() if heading not in THEORY)
    for falsehood in ("nothing is", "costs more", "falls", "valley", "unpleasant", "two layers"):
        assert falsehood not in everything, falsehood
    assert (
        f"With 1 layer and n = 1 the loss is {np.median(loaded.rows['loss']):.3f} nats" in told["What the code costs"]
    )
    assert f"β = {beta:g} as the KL's weight" in told["One bit"]
    assert {"Unpleasant averages", "Draws from the prior", "Two layers", "Why two layers work"}.isdisjoint(told)


def test_under_free_bits_a_code_is_no_price(sweep, story):
    loaded, told = sweep(FREE), story(FREE)
    everything = " ".join(told.values())
    text = told["The smallest n: a code"]
    for layers in (1, 2):
        information = selection.median(loaded, layers, 1, "mutual_information")
        assert information > 0.3
        assert f"The code holds {information:.3f} nats of x" in text
    assert "n / β, here 1, which is not above 1: no code pays" in text
    assert "max(KL, ln 2) in place of the KL" in told["One bit"]
    assert "That is not the ELBO" in told["One bit"]
    for falsehood in ("nothing is", "costs more", "training left", "A code has its price"):
        assert falsehood not in everything, falsehood
    text = told["The loss and its limit"]
    assert "Training did not minimise this loss." in text
    for layers, words in (
        (1, "the best that any networks could reach"),
        (2, "the limit, approached and never reached,"),
    ):
        loss, limit = selection.median(loaded, layers, 5, "loss"), float(limits.limit(layers, 5))
        assert f"n = 5 the loss is {loss:.3f} nats; {words} is {limit:.3f}" in text


def test_under_dreg_costs_that_rise_are_not_said_to_fall(sweep, story):
    loaded, told = sweep(DREG), story(DREG)
    everything = " ".join(told.values())
    low, high = premises.series(loaded, 1, "recon_per_dim")
    assert low < high
    assert f"With 1 layer: {low:.2g} at n = 1, {high:.2g} at n = 5; it does not fall throughout." in everything
    for falsehood in ("cost per dimension, in nats, falls", "training left", "valley", "A code has its price"):
        assert falsehood not in everything, falsehood
    assert "importance-weighted bound, with its doubly reparameterised gradient, 8 draws in each" in told["One bit"]
    nll = selection.median(loaded, 1, 5, "nll")
    assert f"-ln p(x) = {nll:.3f}. " in told["The loss and its limit"]
    assert "Draws from the prior" in told and "of such draws 6.25% or more" in told["Draws from the prior"]


@pytest.mark.parametrize("flags", [BETA, FREE, DREG])
def test_pictures_say_what_was_chosen(sweep, flags):
    loaded = sweep(flags)
    beta, objective = loaded.rows["beta"][0], loaded.recipe["objective"]
    drawn = [getattr(figures, f"figure_{name}") for name in OF_ONE_SETTING]
    for function in drawn:
        above = titles(function(loaded))
        assert f"objective: {objective}" in above and f"β = {beta:g}" in above and "learning rate = 0.01" in above
        assert not any(word in above for word in ("harder", "pays more", "must"))
        assert ("valley" in above or "unpleasant" in above) <= (objective == "free_bits")


def summary(loaded):
    rows, curves = results.load_table(loaded.out), results.load_curves(loaded.out)
    figure = figures.summary(rows, curves, loaded.recipe)
    figure.draw_without_rendering()
    return figure, rows, curves


def test_the_summary_of_several_betas_says_which_it_shows(sweep):
    figure, rows, _ = summary(sweep(BETA))
    best = min({*rows["beta"]}, key=lambda beta: np.median(rows["gap"][rows["beta"] == beta]))
    assert f"β = {best:g} (one of 3 trained)" in titles(figure)
    for axes in figure.axes:
        assert axes.yaxis.get_offset_text().get_text() == ""
    (limit,) = [line for line in figure.axes[1].lines if "limit" in str(line.get_label())]
    n, height = np.asarray(limit.get_data())
    assert (n[0], n[-1]) == (0.5, 2.0)
    np.testing.assert_allclose(height, limits.limit(1, n, best))


@pytest.mark.parametrize(("flags", "bounded"), [(BETA, True), (DREG, False)])
def test_the_summary_shows_a_gap_of_the_elbo_alone(sweep, flags, bounded):
    figure, rows, curves = summary(sweep(flags))
    chosen, _ = selection.one_setting(rows)
    own = chosen & (rows["n"] == 1)
    expected = np.median(curves["loss"][own], axis=0) - bounded * rows["limit"][own][0]
    np.testing.assert_allclose(np.asarray(figure.axes[0].lines[0].get_ydata()), expected, atol=1e-6)
    assert ("limit" in figure.axes[0].get_title(loc="left")) == bounded
    assert ("-dreg objective" in figure.axes[0].get_title(loc="left")) != bounded


@pytest.mark.parametrize("objective", premises.OBJECTIVES)
def test_one_draw_in_a_bound_is_the_elbo(objective):
    for k in (1, 8):
        expected = objective in ("elbo", "path") or (k == 1 and objective != "free_bits")
        assert premises.trains_elbo({"function": f"vae_bit.objectives.{objective}", "k": k}) == expected
    assert not premises.trains_elbo({"function": "mine.elbo", "k": 1})


def test_collapse_where_a_code_would_pay_is_no_success(sweep):
    """n > beta and nothing encoded: a run that failed."""
    loaded = sweep(BETA)
    rows = loaded.rows | {"mutual_information": np.zeros(loaded.rows["n"].size)}
    failed: Any = loaded._replace(rows=rows)
    assert premises.nothing_encoded(failed) and not premises.priced(failed)
    told = text.tell_nothing_encoded(failed)
    assert "The ELBO rewards a code here" in told and "nothing is lost" not in told
    assert f"{limits.limit(1, 1, loaded.rows['beta'][0]):.3f} with 1 layer" in told


@pytest.mark.parametrize(("values", "expected"), [([3, 2, 1], True), ([3, 3, 1], False), ([3], False), ([1, 2], False)])
def test_falling(values, expected):
    assert premises.falls(values) == expected


def test_the_bar_tells_the_median_gap_to_each_runs_own_limit(tiny):
    """Runs of n = 1 and of n = 5 share a bar: a median of their losses says nothing of either."""
    (group,) = plan(tiny["default"], [1], [1, 5], [0.5, 1.0], None, [1e-2], [0, 1, 2])
    limit = progress.own_limits(group)
    np.testing.assert_array_equal(limit, limits.limit(1, group.runs.n, group.runs.beta))
    kl = np.linspace(0.1, 0.4, limit.size)
    beta = np.asarray(group.runs.beta)
    above = np.array([0.01, 0.02, 0.03, np.nan] * 3)
    recon = limit + above - beta * kl
    sampled: Any = {"loss": np.full_like(kl, 7.0), "recon": recon, "kl": kl}
    metrics = Metrics(**sampled)
    assert progress.median_gap(metrics, beta, limit) == "median gap 0.0200"
    assert progress.median_gap(Metrics(**sampled | {"recon": recon * np.nan}), beta, limit) == "diverged"
