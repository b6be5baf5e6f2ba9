"""The table's identities, and that what is written is what is read."""

import json
import math
import re
from typing import Any

import jax
import numpy as np
import oracle
import pytest
from scipy import integrate, stats
from sweeps import LABELS, alone

from vae_bit import exact, limits, padding, runner
from vae_bit.store import results, table
from vae_bit.training import Run

HEADER = (
    "preset,objective,optimizer,posterior,prior,decoder,layers,n,beta,word_dropout,learning_rate,seed,status,collapsed,"
    "steps,loss,recon,recon_per_dim,kl,limit,gap,nll,posterior_kl,mutual_information,marginal_kl,valid_mass,error,active_units,kl_1,kl_2"
)
COLUMNS = HEADER.split(",")
KEYS = COLUMNS[:12]


@pytest.fixture(scope="module")
def rows(trained):
    return results.merge([results.contents(group) for group in trained]).rows


@pytest.fixture(scope="module")
def folder(trained, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    results.write(out, alone(tiny["default"]), trained, {"settings": {"n": [2, 5]}})
    return out


def test_columns_and_order(rows, trained):
    assert list(rows) == COLUMNS
    keys = list(zip(*(rows[name].tolist() for name in KEYS), strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == 32
    np.testing.assert_array_equal(rows["loss"], np.concatenate([group.evaluation.loss for group in trained]))


def test_identities(rows):
    ok = rows["status"] != "diverged"
    assert ok.sum() == 16
    own = {name: column[ok] for name, column in rows.items()}
    np.testing.assert_array_equal(np.isnan(own["kl_2"]), own["layers"] == 1)
    np.testing.assert_allclose(own["kl_1"] + np.nan_to_num(own["kl_2"]), own["kl"], rtol=0, atol=1e-12)
    close = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(own["loss"], own["recon"] + own["beta"] * own["kl"], **close)
    np.testing.assert_allclose(own["gap"], own["loss"] - own["limit"], **close)
    np.testing.assert_allclose(own["recon_per_dim"] * own["n"], own["recon"], **close)
    np.testing.assert_allclose(own["posterior_kl"], own["recon"] + own["kl"] - own["nll"], **close)
    one = own["layers"] == 1
    surgery = own["mutual_information"] + own["marginal_kl"]
    np.testing.assert_allclose(surgery[one], own["kl"][one], atol=1e-6)
    assert np.all(own["gap"] > 0.0)
    assert np.all(own["posterior_kl"] > 0.0)
    assert np.all((own["mutual_information"] > 0.0) & (own["mutual_information"] < math.log(2.0)))
    assert np.all((own["valid_mass"] > 0.0) & (own["valid_mass"] < 1.0))
    assert np.all(own["nll"] >= math.log(2.0))


def test_limits_are_those_of_each_row(rows):
    for layers, n, beta, limit in zip(*(rows[name] for name in ("layers", "n", "beta", "limit")), strict=True):
        expected = limits.one_layer(n, beta).loss if layers == 1 else min(n, beta) * math.log(2.0)
        assert limit == pytest.approx(expected, rel=1e-12)


def test_status_rules(trained):
    cases = [  # n, beta, finished, loss, mutual information; of two layers, whose optimum holds ln 2 where n > beta
        (5, 1.0, True, 1.1, 0.6, "ok"),
        (5, 1.0, True, math.nan, math.nan, "diverged"),
        (5, 1.0, True, math.inf, 0.6, "diverged"),
        (5, 1.0, True, -math.inf, 0.001, "diverged"),
        (5, 1.0, False, 1.1, 0.6, "diverged"),
        (5, 1.0, False, 3.5, 0.001, "diverged"),
        (5, 1.0, True, 3.5, 0.0099, "collapsed"),
        (5, 1.0, True, 3.5, 0.0101, "ok"),
        (5, 5.0, True, 3.5, 0.0, "ok"),
        (5, 6.0, True, 3.5, 0.0, "ok"),
        (1, 1.0, True, 0.7, 0.0, "ok"),
        (1, 0.5, True, 0.7, 0.0, "collapsed"),
    ]
    n, beta, finished, loss, information, expected = (np.array(column) for column in zip(*cases, strict=True))
    runs = Run(n, np.arange(n.size), beta, np.full(n.size, 0.01), np.ones(n.size))
    figures = evaluation(information)._replace(loss=loss)
    group = trained[1].group._replace(runs=runs)
    rows = table.from_trained(trained[1]._replace(group=group, finite=finished, evaluation=figures))
    np.testing.assert_array_equal(rows["status"], expected)
    np.testing.assert_array_equal(rows["collapsed"], information < 0.01 * (n > beta))


def evaluation(information) -> Any:
    """Finite figures of some runs of two layers with the given mutual information."""
    figures: Any = dict.fromkeys(exact.Evaluation._fields, np.ones(len(information)))
    layers = dict.fromkeys(("kl", "activity"), np.ones((len(information), 2)))
    return exact.Evaluation(**figures | layers | {"mutual_information": information})


def information_of(m, s):
    """I(x; z) = H(z) - H(z | x) of the codes N(+-m, s^2), by integrating the density of z."""

    def term(z):
        q = (stats.norm.pdf(z, m, s) + stats.norm.pdf(z, -m, s)) / 2.0
        return -q * np.log(q)

    height, _ = integrate.quad(term, -m - 12.0 * s, m + 12.0 * s, epsabs=1e-12, epsrel=1e-12, limit=500)
    return height - stats.norm(0.0, s).entropy()


@pytest.mark.parametrize("ratio", [1.000001, 1.00001, 1.0001, 1.4, 5.0, 1000.0])
def test_a_run_at_the_optimum_has_not_collapsed(ratio):
    """Just above n = beta one layer's optimum itself holds less than 0.01 nats."""
    n, beta = np.array([1]), np.array([1.0 / ratio])
    code = limits.one_layer(n, beta)
    best = np.array([information_of(code.mean[0], code.std[0])])
    np.testing.assert_allclose(limits.information(1, n, beta), best, atol=1e-10)
    assert (best[0] < 0.01) == (ratio == 1.000001)
    for held, at in ((0.0, np.zeros(1)), (0.51, 0.51 * best), (1.0, best)):
        collapsed = table.is_collapsed(at, limits.information(1, n, beta))
        assert collapsed[0] == (held == 0.0 and best[0] > 0.01), (held, best)


def test_rounding_below_zero_is_no_collapse():
    """Where no code pays the exact mutual information may come out as -1e-9."""
    for layers in (1, 2, 3):
        best = limits.information(layers, np.array([1, 2]), np.array([1.0, 3.0]))
        collapsed = table.is_collapsed(np.full(2, -1e-9), best)
        assert collapsed.tolist() == [False, False]


def test_status_of_runs(rows):
    np.testing.assert_array_equal(rows["status"] == "diverged", rows["learning_rate"] > 1.0)
    assert (
        rows["status"][(rows["n"] == 2) & (rows["beta"] == 2.0) & (rows["learning_rate"] < 1.0)].tolist() == ["ok"] * 4
    )


def test_csv_round_trip(folder, rows):
    assert (folder / "results.csv").read_text().startswith(HEADER + "\n")
    read = results.load_table(folder)
    assert list(read) == COLUMNS
    for name in COLUMNS:
        np.testing.assert_array_equal(read[name], rows[name])


def test_files_and_curves(folder, trained, tiny):
    names = {"results.csv", "curves.npz", "params.npz", "config.json"}
    assert {path.name for path in folder.iterdir()} == names
    curves = results.load_curves(folder)
    assert set(curves) == {"step", "loss", "recon", "kl"}
    assert curves["step"][[0, -1]].tolist() == [0, 300]
    for name in ("loss", "recon", "kl"):
        assert curves[name].shape == (32, curves["step"].size)
        expected = np.concatenate([getattr(group.curves, name) for group in trained])
        np.testing.assert_array_equal(curves[name], expected)
    with np.load(folder / "params.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert {re.split("/[qp]/", name)[0] for name in arrays} == {
        f"{'/'.join(LABELS)}/layers={layers}/n={n}" for layers in (1, 2) for n in (2, 5)
    }
    kind = "default/elbo/adam/gaussian/normal/independent/layers=2/n=2"
    assert arrays[kind + "/p/0/params/head/kernel"].shape == (8, 2, 5)
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"] == {"n": [2, 5]}
    (variant,) = config["variants"]
    assert variant["recipe"]["samples"] == tiny["default"].recipe.samples
    assert isinstance(config["schema"], int)


@pytest.fixture(scope="module")
def loaded(folder, tiny):
    return runner.load(folder, tiny["default"].model)


@pytest.mark.parametrize("layers", [1, 2])
def test_every_run_reads_back(loaded, trained, tiny, layers):
    group, params = trained[layers - 1].group, trained[layers - 1].params
    for index, (n, seed, beta, rate, _) in enumerate(zip(*(field.tolist() for field in group.runs), strict=True)):
        run = loaded.load(layers=layers, n=n, seed=seed, beta=beta, learning_rate=rate)
        like = padding.shapes(group.build(layers, n).init, n)
        own = padding.unpad(jax.tree.map(lambda leaf, i=index: leaf[i], params), like)
        jax.tree.map(np.testing.assert_array_equal, run.params, own)
        assert [run.row[name] for name in KEYS] == [*LABELS, layers, n, beta, 1.0, rate, seed]
        assert run.model.layers == layers
        assert run.decode(np.zeros(3)).shape == (n, 3)
        if np.isfinite(run.row["loss"]):
            recon, kl = oracle.exact(tiny["default"].model, run.params, n, 300)
            assert recon == pytest.approx(run.row["recon"], abs=2e-6)
            assert recon + beta * kl.sum() == pytest.approx(run.row["loss"], abs=2e-6)


def test_a_run_read_back_has_the_figures_of_its_row(loaded):
    run = loaded.load(layers=1, n=5, seed=2**32 - 1, beta=2.0)
    figures = run.evaluate()
    for name in ("loss", "recon", "nll", "mutual_information", "marginal_kl", "valid_mass"):
        assert getattr(figures, name) == pytest.approx(run.row[name], abs=1e-9)
    assert figures.loss.dtype == np.float64
    assert run.evaluate(beta=1.0).loss == pytest.approx(run.row["recon"] + run.row["kl"], abs=1e-9)


def test_the_first_run_that_fits_is_read(loaded):
    assert loaded.load(layers=2, n=5).row["seed"] == 0
    assert loaded.load(layers=2, n=5, learning_rate=1e30).row["status"] == "diverged"


@pytest.mark.parametrize("keys", [{"layers": 3, "n": 5}, {"layers": 1, "n": 4}, {"layers": 1, "n": 5, "seed": 1}])
def test_a_run_that_is_not_there_is_named(loaded, keys):
    with pytest.raises(KeyError, match=f"n={keys['n']}"):
        loaded.load(**keys)
    with pytest.raises(ValueError, match="depth: no column"):
        loaded.load(depth=2)


def test_a_model_of_ones_own_must_be_given(folder):
    with pytest.raises(ValueError, match="model: none given is that of"):
        runner.load(folder)
