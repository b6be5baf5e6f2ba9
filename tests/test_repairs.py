"""Sweeps over posteriors, priors, decoders and word dropout: labels, limits, and folders that are gone on with."""

import math
import re
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from one_run import run
from own_family import LogisticFamily

import vae_bit as vb
from vae_bit import limits, objectives
from vae_bit.distributions import Flow
from vae_bit.families import (
    GAUSSIAN,
    STANDARD,
    FlowFamily,
    LearnedPrior,
    MixtureFamily,
    VampPrior,
    autoregressive,
    independent,
)
from vae_bit.order import order, variants
from vae_bit.presets import DEFAULT, override
from vae_bit.store import table

pytestmark = pytest.mark.usefixtures("quick_compile")
QUICK: dict[str, Any] = {"n": [1], "layers": [1], "seeds": 2, "steps": 4}
MADE: dict[str, dict[str, Any]] = {  # what is swept, and what `limits.limit` is told of it
    "mixture": {"posterior": MixtureFamily(2)},
    "flow": {"posterior": FlowFamily()},
    "vamp": {"prior": VampPrior()},
    "prior": {"prior": LearnedPrior(MixtureFamily(2))},
    "decoder": {"decoder": [independent, autoregressive], "word_dropout": [0.25, 0.75]},
    "own": {"posterior": LogisticFamily()},
}
TOLD = {"mixture": {"posterior": 2}, "flow": {"posterior": math.inf}, "vamp": {"prior": 2}, "prior": {"prior": 2}}


@pytest.fixture(scope="module")
def swept(tiny):
    """A few steps of each at two widths and two betas."""
    return {name: vb.run([1, 3], 1, 1, beta=[0.5, 1.0], preset=tiny["default"], steps=4, **MADE[name]) for name in MADE}


@pytest.mark.parametrize("name", TOLD)
def test_limits_are_those_of_the_families(swept, name):
    rows = swept[name].rows
    expected = [limits.limit(1, n, beta, **TOLD[name]) for n, beta in zip(rows["n"], rows["beta"], strict=True)]
    np.testing.assert_allclose(rows["limit"], expected, rtol=1e-12)
    np.testing.assert_allclose(rows["gap"], rows["loss"] - rows["limit"], rtol=1e-12)
    assert np.all(rows["gap"] > -1e-7) and np.all(rows["word_dropout"] == 1.0)


def test_limits_of_word_dropout(swept):
    """L1(1 + (n - 1) r, beta); independent dimensions have no rate but 1, however many are swept."""
    rows = swept["decoder"].rows
    keys = list(zip(*(rows[name].tolist() for name in ("decoder", "n", "beta", "word_dropout")), strict=True))
    own = [("independent", n, beta, 1.0) for n in (1, 3) for beta in (0.5, 1.0)]
    seeing = [("autoregressive", n, beta, r) for n in (1, 3) for beta in (0.5, 1.0) for r in (0.25, 0.75)]
    assert keys == seeing + own
    expected = [limits.one_layer(1.0 + (n - 1) * r, beta).loss for _, n, beta, r in keys]
    np.testing.assert_allclose(rows["limit"], expected, rtol=1e-12)
    assert np.all(rows["gap"] > 0.0)
    assert np.unique(rows["loss"][rows["n"] == 3]).size == 6  # each rate trains otherwise


def test_what_has_no_known_limit_has_none(swept, tmp_path):
    rows = swept["own"].rows
    assert np.all(np.isnan(rows["limit"]) & np.isnan(rows["gap"]))
    assert rows["status"].tolist() == ["ok"] * 4 and not rows["collapsed"].any()
    assert rows["posterior"].tolist() == ["LogisticFamily"] * 4
    assert np.all(np.isfinite(rows["loss"])) and np.all(rows["error"] < 1e-3)
    read = table.from_csv(table.to_csv(rows))
    assert list(read) == list(rows)
    for column in rows:
        np.testing.assert_array_equal(read[column], rows[column])
    lines = [line.split("│") for line in swept["own"].table(width=240).splitlines()]
    assert sum([cell.strip() for cell in line].count("-") == 2 for line in lines) == 4  # limit and gap


def test_which_limits_are_known(tiny):
    """Of two layers whatever q(z_1 | x) is; of more than 16 Gaussians none is; of q(z) itself as of a learned prior."""
    runs = jax.tree.map(lambda field: np.array([field]), run(5, beta=0.7))

    def known(layers, **fields):
        limit, information = table.optimum(replace(tiny["default"].model, **fields)(layers, 5), 5, runs)
        assert np.isnan(limit[0]) == np.isnan(information[0])
        return limit[0]

    assert math.isnan(known(1, posterior=LogisticFamily()))
    assert math.isnan(known(1, posterior=LogisticFamily(), prior=VampPrior()))
    assert math.isnan(known(1, prior=LearnedPrior(LogisticFamily())))
    assert math.isnan(known(1, posterior=MixtureFamily(17)))
    ln2 = pytest.approx(0.7 * math.log(2.0))
    assert known(2, posterior=LogisticFamily()) == ln2
    assert known(1, posterior=MixtureFamily(17), prior=VampPrior()) == ln2
    assert known(1, prior=LearnedPrior(FlowFamily())) == ln2
    one = pytest.approx(float(limits.one_layer(5, 0.7).loss))
    assert known(1, prior=LearnedPrior(GAUSSIAN)) == known(1, posterior=MixtureFamily(1)) == known(1) == one


def test_labels_are_the_command_s_names_or_one_s_own():
    own = LearnedPrior(FlowFamily(3))
    found = variants(
        DEFAULT, posterior=[GAUSSIAN, MixtureFamily(3), FlowFamily(5)], prior={"mine": own}, decoder=autoregressive
    )
    assert [(key.posterior, key.prior, key.decoder) for key in found] == [
        (name, "mine", "autoregressive") for name in ("gaussian", "mixture3", "FlowFamily")
    ]
    (plain,) = variants(DEFAULT)
    assert plain[3:] == ("gaussian", "normal", "independent")
    (kept,) = variants(override(DEFAULT, prior=VampPrior(), posterior=FlowFamily()))
    assert kept[3:] == ("flow", "vamp", "independent")
    (model,) = variants(DEFAULT, model=lambda layers, width: DEFAULT.model(layers, width))
    assert model[3:] == ("own", "own", "own")
    both = variants(DEFAULT, prior=[STANDARD, LearnedPrior(MixtureFamily(2))], decoder={"plain": independent})
    assert [key[4:] for key in both] == [("normal", "plain"), ("mixture2", "plain")]


SEES = {"decoder": autoregressive}


@pytest.mark.parametrize(
    "given, words",
    [
        ({"posterior": "flow"}, r"posterior: got 'flow', expected a value, such as vae_bit\.families\.Mixture"),
        ({"prior": ["vamp"]}, r"prior: got 'vamp', expected a value, such as vae_bit\.families\.VampPrior\(\)"),
        ({"decoder": {"a": "autoregressive"}}, "decoder: got 'autoregressive', expected a value, such as"),
        ({"prior": {"mine": 3}}, "prior: got 3, expected a function"),
        ({"posterior": lambda numbers, positive: 0}, "posterior: '<lambda>' cannot stand in a table"),
        ({"posterior": [FlowFamily(), FlowFamily()]}, "posterior: got .*, expected one or more of different names"),
        (
            {"posterior": {"mine": lambda numbers, positive: 0}},
            r"posterior: got <function .*, expected one such as vae_bit",
        ),
        (
            {"posterior": MixtureFamily},
            r"posterior: got <class .*, expected one such as vae_bit.families.MixtureFamily",
        ),
        ({"posterior": VampPrior()}, r"posterior: got VampPrior\(\), expected one such as vae_bit"),
        (
            {"prior": FlowFamily()},
            r"prior: got FlowFamily\(bins=8\), expected one such as vae_bit.families.LearnedPrior",
        ),
        ({"posterior": []}, "posterior: got .*, expected one or more"),
        ({"prior": VampPrior(), "layers": [1, 2]}, "prior: got vamp with 2 layers, expected layers=1"),
        ({"word_dropout": 0.5}, r"word_dropout: got \[0\.5\], expected none unless a decoder is autoregressive"),
        ({"word_dropout": 1.5} | SEES, r"word_dropout: got \[1\.5\], expected distinct numbers from 0 to 1"),
        ({"word_dropout": [0.5, 0.5]} | SEES, "word_dropout: got .*, expected distinct numbers from 0 to 1"),
        ({"posterior": MixtureFamily(2), "objective": objectives.dreg}, "posterior: got a mixture, .*'dreg'"),
        ({"posterior": FlowFamily(), "model": DEFAULT.model.__call__}, "posterior: got one for a model of one's own"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(tmp_path, given, words):
    with pytest.raises(ValueError, match=words) as caught:
        vb.run(**QUICK | given, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_of_one_s_own_may_be_of_one_depth_alone():
    """It is asked for the depths and widths that are swept, and for no other."""

    def deep(layers, width):
        if (layers, width) != (2, 3):
            raise ValueError(f"got {layers} layers and width {width}")
        return DEFAULT.model(2, 3)

    asked = order(variants(DEFAULT, model=deep), [2], [3], seeds=1)
    assert asked.config["settings"]["layers"] == [2]


FOLLOWING: dict[str, Any] = {"posterior": FlowFamily(), "decoder": autoregressive, "word_dropout": [0.0, 0.5]}


def test_a_folder_of_other_families_is_gone_on_with_and_read_back(tmp_path):
    """More seeds have the bits of a sweep of them alone; no model is asked for, as each has a name."""
    out = tmp_path / "out"
    first = vb.run(**QUICK, **FOLLOWING, out=out)
    more = vb.run(**QUICK | {"seeds": 4}, **FOLLOWING, out=out, resume=True)
    rest = vb.run(**QUICK, **FOLLOWING, first_seed=2)
    for name in ("loss", "nll", "mutual_information"):
        for seeds, part in ((more.rows["seed"] < 2, first), (more.rows["seed"] >= 2, rest)):
            np.testing.assert_array_equal(more.rows[name][seeds], part.rows[name])
    read = vb.load(out)
    for name in more.rows:
        np.testing.assert_array_equal(read.rows[name], more.rows[name])
    one = read.load(posterior="flow", decoder="autoregressive", word_dropout=0.5, seed=3)
    assert isinstance(one.encode(), Flow)
    assert one.evaluate().loss == pytest.approx(one.row["loss"], abs=1e-9)
    with pytest.raises(ValueError, match=r"^resume: .*config\.json differs: .*posterior"):
        vb.run(**QUICK, **FOLLOWING | {"posterior": FlowFamily(4)}, out=out, resume=True)
    with pytest.raises(ValueError, match=r"^resume: .*config\.json differs: .*word_dropout 0\.5 \(saved: 0\.0,0\.5\)"):
        vb.run(**QUICK, **FOLLOWING | {"word_dropout": [0.5]}, out=out, resume=True)


def test_a_folder_of_one_s_own_family_is_read_with_its_model(tmp_path):
    found = vb.run(**QUICK | {"seeds": 1}, posterior={"mine": LogisticFamily()}, out=tmp_path / "out")
    with pytest.raises(ValueError, match=re.escape("model: none given is that of")):
        vb.load(tmp_path / "out")
    model: Any = DEFAULT.model
    read = vb.load(tmp_path / "out", model=replace(model, posterior=LogisticFamily())).load(posterior="mine")
    assert read.row["loss"] == found.rows["loss"][0] and type(read.encode()).__name__ == "Logistic"
    z = np.linspace(-9.0, 9.0, 7)
    np.testing.assert_allclose(read.top_density(z), read.densities(z).q[0], rtol=1e-9)
