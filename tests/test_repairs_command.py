"""The sweep's command with posteriors, priors, decoders and word dropouts side by side."""

import json

import numpy as np
import pytest
from commands import Command, one_line

from vae_bit import limits
from vae_bit.distributions import Mixture
from vae_bit.runner import load
from vae_bit.store import results

QUICK = "--n=1,2", "--layers=1", "--seeds=1", "--steps=3"


@pytest.fixture(scope="module")
def families(work):
    outcome = Command(work, "sweep", *QUICK, "--posterior=gaussian,mixture2,flow", "--out=families").wait()
    assert outcome.status == 0, outcome
    return outcome, work / "families"


def test_posteriors_side_by_side(families):
    outcome, out = families
    rows = results.load_table(out)
    assert rows["posterior"].tolist() == ["flow"] * 2 + ["gaussian"] * 2 + ["mixture2"] * 2
    assert set(rows["prior"]) == {"normal"} and set(rows["decoder"]) == {"independent"}
    assert rows["word_dropout"].tolist() == [1.0] * 6
    expected = [limits.limit(1, n, posterior=k) for k in (np.inf, 1, 2) for n in (1, 2)]
    np.testing.assert_allclose(rows["limit"], expected, rtol=1e-12)
    assert all(word in outcome.stdout for word in ("posterior", "flow", "mixture2"))
    assert isinstance(load(out).load(posterior="mixture2", n=2).encode(), Mixture)


def test_more_seeds_and_no_other_posterior(work, families):
    """The flags that are not given are as they were."""
    before = results.load_table(families[1])
    outcome = Command(work, "sweep", "--out=families", "--resume", "--seeds=2").wait()
    assert outcome.status == 0, outcome
    rows = results.load_table(families[1])
    assert rows["seed"].tolist() == [0, 1] * 6
    np.testing.assert_array_equal(rows["loss"][::2], before["loss"])
    assert json.loads((families[1] / "config.json").read_text())["flags"]["posterior"] == [
        "gaussian",
        "mixture2",
        "flow",
    ]
    refused = Command(work, "sweep", "--out=families", "--resume", "--posterior=flow").wait()
    one_line(refused, 2, "families/config.json", "posterior")


def test_word_dropouts_priors_and_decoders_side_by_side(work):
    flags = "--prior=mixture2", "--decoder=independent,autoregressive", "--word_dropout=0,0.5,1"
    outcome = Command(work, "sweep", *QUICK, *flags, "--out=dropouts").wait()
    assert outcome.status == 0, outcome
    rows = results.load_table(work / "dropouts")
    assert rows["prior"].tolist() == ["mixture2"] * 8
    keys = list(zip(rows["decoder"].tolist(), rows["n"].tolist(), rows["word_dropout"].tolist(), strict=True))
    seeing = [("autoregressive", n, r) for n in (1, 2) for r in (0.0, 0.5, 1.0)]
    assert keys == [*seeing, ("independent", 1, 1.0), ("independent", 2, 1.0)]
    np.testing.assert_allclose(rows["limit"], np.log(2.0), rtol=1e-12)
    assert np.all(rows["gap"] > 0.0)
    assert "word_dropout" in outcome.stdout or "dropout" in outcome.stdout


WRONG = {
    "--posterior=foo": ("--posterior=foo", "gaussian", "flow", "mixture1, .., mixture16"),
    "--posterior=mixture0": ("--posterior=mixture0", "'mixture0'"),
    "--posterior=mixture17": ("--posterior=mixture17", "'mixture17'"),
    "--posterior=": ("--posterior=", "''"),
    "--prior=flow": ("--prior=flow", "normal", "vamp", "mixture1, .., mixture16"),
    "--decoder=deep": ("--decoder=deep", "independent", "autoregressive"),
    "--decoder=autoregressive --word_dropout=2": ("--word_dropout=2", "numbers from 0 to 1"),
    "--decoder=autoregressive --word_dropout=nan": ("--word_dropout=nan", "numbers from 0 to 1"),
    "--word_dropout=0.5": ("--word_dropout", "autoregressive"),
    "--prior=vamp --layers=1,2": ("--prior", "vamp with 2 layers", "layers=1"),
    "--posterior=mixture2 --objective=iwae": ("--posterior", "mixture", "'iwae'"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said_in_one_line(work, line):
    outcome = Command(work, "sweep", *line.split(), "--out=wrong").wait()
    one_line(outcome, 2, *WRONG[line])
    assert outcome.stdout == "" and not (work / "wrong").exists()
