"""The table's identities, and that what is written is what is read."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from scipy import integrate, stats

from vae_bit import exact, limits, models
from vae_bit.store import results

HEADER = (
    "layers,n,beta,learning_rate,seed,status,steps,loss,recon,recon_per_dim,kl,limit,gap,"
    "nll,posterior_kl,mutual_information,marginal_kl,valid_mass,error"
)
COLUMNS = HEADER.split(",")


@pytest.fixture(scope="module")
def rows(trained):
    return results.merge([results.contents(group) for group in trained]).rows


@pytest.fixture(scope="module")
def folder(trained, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    results.write(out, tiny["default"], trained, {"settings": {"n": [2, 5]}})
    return out


def test_columns_and_order(rows, trained):
    assert list(rows) == COLUMNS
    keys = list(zip(*(rows[name].tolist() for name in COLUMNS[:5]), strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == 32
    np.testing.assert_array_equal(rows["loss"], np.concatenate([group.evaluation.loss for group in trained]))


def test_identities(rows):
    ok = rows["status"] != "diverged"
    assert ok.sum() == 16
    own = {name: column[ok] for name, column in rows.items()}
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


def test_status_rules():
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
    figures: Any = exact.Evaluation(*map(jnp.asarray, [loss] * len(exact.Evaluation._fields)))
    figures = figures._replace(loss=loss, mutual_information=information)
    np.testing.assert_array_equal(results.status(2, n, beta, finished, figures), expected)


def evaluation(information) -> Any:
    """Finite figures of some runs with the given mutual information."""
    figures: Any = dict.fromkeys(exact.Evaluation._fields, np.ones(len(information)))
    return exact.Evaluation(**figures | {"mutual_information": information})


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
        status = results.status(1, n, beta, np.array([True]), evaluation(at))
        assert status[0] == ("collapsed" if held == 0.0 and best[0] > 0.01 else "ok"), (held, best)


def test_rounding_below_zero_is_no_collapse():
    """Where no code pays the exact mutual information may come out as -1e-9."""
    rounded = evaluation(np.full(2, -1e-9))
    for layers in (1, 2, 3):
        status = results.status(layers, np.array([1, 2]), np.array([1.0, 3.0]), np.array([True, True]), rounded)
        assert status.tolist() == ["ok", "ok"]


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
    assert {name.rsplit("/", 5)[0].split("/q")[0].split("/p")[0] for name in arrays} == {
        f"layers={layers}/n={n}" for layers in (1, 2) for n in (2, 5)
    }
    assert arrays["layers=2/n=2/p/0/params/head/kernel"].shape == (8, 2, 5)
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"] == {"n": [2, 5]}
    assert config["recipe"]["samples"] == tiny["default"].recipe.samples
    assert isinstance(config["schema"], int)


@pytest.mark.parametrize("layers", [1, 2])
def test_every_run_reads_back(folder, trained, layers):
    group, params = trained[layers - 1].group, trained[layers - 1].params
    for index, (n, seed, beta, rate) in enumerate(zip(*(field.tolist() for field in group.runs), strict=True)):
        saved = results.load_run(folder, layers, n, seed=seed, beta=beta, learning_rate=rate)
        own = models.unpad(jax.tree.map(lambda leaf, i=index: leaf[i], params), n)
        jax.tree.map(np.testing.assert_array_equal, saved.params, own)
        assert [saved.row[name] for name in COLUMNS[:5]] == [layers, n, beta, rate, seed]
        assert (saved.arch.layers, saved.arch.width) == (layers, n)
        if np.isfinite(saved.row["loss"]):
            recon, kl = oracle.exact(saved.arch, saved.params, n, 300)
            assert recon == pytest.approx(saved.row["recon"], abs=2e-6)
            assert recon + beta * kl.sum() == pytest.approx(saved.row["loss"], abs=2e-6)


def test_a_run_read_back_has_the_loss_of_its_row(folder):
    saved = results.load_run(folder, 1, 5, seed=2**32 - 1, beta=2.0)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), saved.params)
        loss = jax.jit(lambda params: exact.evaluate(models.chain(saved.arch, params, jnp.int32(5)), 2.0).loss)(params)
    assert float(loss) == pytest.approx(saved.row["loss"], abs=1e-9)


def test_the_first_run_that_fits_is_read(folder):
    assert results.load_run(folder, 2, 5).row["seed"] == 0
    assert results.load_run(folder, 2, 5, learning_rate=1e30).row["status"] == "diverged"


@pytest.mark.parametrize("keys", [{"layers": 3, "n": 5}, {"layers": 1, "n": 4}, {"layers": 1, "n": 5, "seed": 1}])
def test_a_run_that_is_not_there_is_named(folder, keys):
    with pytest.raises(KeyError, match=f"n={keys['n']}"):
        results.load_run(folder, **keys)
