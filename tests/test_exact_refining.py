"""Chains too steep for the first grids: they are evaluated again, and told of where that does not do."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_chains import chain, draw, oracle

from experiments import sweep as command
from vae_bit import exact, models, programs
from vae_bit.exact import TOLERANCE, Evaluation
from vae_bit.marginals import Grids
from vae_bit.store import results
from vae_bit.training import Run

pytestmark = pytest.mark.usefixtures("quick_compile")


def evaluate(case):
    """In float64."""
    with jax.enable_x64(True):
        return exact.evaluate(double(case))


def double(case):
    return chain(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), case))


@pytest.fixture
def coarse(monkeypatch):
    monkeypatch.setattr(exact, "GRIDS", (Grids(13), Grids(26), Grids(52), Grids(104)))


@pytest.mark.parametrize("seed", range(3))
def test_a_chain_is_evaluated_on_finer_grids_until_its_figures_hold(coarse, seed):
    case = draw(1, seed)
    with warnings.catch_warnings(action="error"):
        value = evaluate(case)
    recon, kl, nll, information, marginal, mass = oracle(case, 800)
    assert value.error < TOLERANCE
    expected = Evaluation(
        recon + kl[0], recon, kl, nll, recon + kl[0] - nll, information, marginal, mass, value.activity, value.error
    )
    for field, got, want in zip(value._fields, value, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=field)


def test_under_jit_the_first_grids_count(coarse):
    with jax.enable_x64(True):
        first = jax.jit(lambda: exact.evaluate(double(draw(1, 0))))()
    assert float(first.error) > TOLERANCE > float(evaluate(draw(1, 0)).error)


def test_a_chain_too_steep_for_every_grid_warns(monkeypatch):
    monkeypatch.setattr(exact, "GRIDS", (Grids(6), Grids(7)))
    with pytest.warns(UserWarning, match=r"evaluate: the chain is too steep .* off by \de-0\d of max") as told:
        value = evaluate(draw(1, 0))
    assert len(told) == 1
    assert value.error > TOLERANCE


def figures(value, error):
    scalar = np.asarray(value)
    return Evaluation(
        *[scalar] * 2, np.stack([scalar, 100.0 * scalar], -1), *[scalar] * 5, scalar[..., None], np.asarray(error)
    )


def test_the_error_is_at_least_an_eighth_of_what_refining_moved():
    """Relative to max(1, |figure|), whichever figure moved most, for one chain and for many."""
    fine = exact.refined(figures([1.0, 0.001, 1.0], [1.0, 1.0, 1.0]), figures([1.0, 0.002, 1.08], [1e-3, 1e-6, 1e-6]))
    np.testing.assert_allclose(fine.error, [1e-3, 0.1 / 8.0, 8.0 / 108.0 / 8.0], rtol=1e-12)
    assert exact.refined(figures(2.0, 1.0), figures(2.0, 1e-9)).error == 1e-9


def test_what_is_inexact():
    """Promised are 1e-5 in float64 and 1e-3 in float32; figures that are not numbers no grid can mend."""
    error = np.array([0.9e-5, 1.1e-5, 1.1e-3, 1.3e-3, np.nan])
    assert exact.inexact(figures(error, error)).tolist() == [False, True, True, True, False]
    assert exact.inexact(figures(error, error.astype(np.float32))).tolist() == [False, False, False, True, False]


def test_runs_of_a_sweep_are_evaluated_again_until_their_figures_hold(tiny, monkeypatch):
    """Figures that are off by beta / panels and say so: a run takes the first grids that do for it, or the last."""

    def off(grids, chain, beta):
        mean = jnp.mean(chain.q_data.mean)
        return Evaluation(
            *[mean + beta / grids.outer] * 2, chain.q_data.std, *[mean] * 5, chain.q_data.std, beta / grids.outer
        )

    monkeypatch.setattr(exact, "evaluate_on", off)
    monkeypatch.setattr(programs, "GRIDS", (Grids(1), Grids(10), Grids(100)))
    model = tiny["default"].model(1, 3)
    params = jax.vmap(lambda key: model.init(key, jnp.int32(3)))(jax.random.split(jax.random.key(0), 5))
    beta, panels = np.array([5e-5, 9e-6, 5e-4, 8e-6, 5e-3]), np.array([10, 1, 100, 1, 100])
    runs = Run(np.full(5, 3), np.arange(5), beta, np.ones(5), np.ones(5))
    figures = programs.compile_evaluate(model, 3, 5)(params, runs, lambda: None)
    np.testing.assert_allclose(figures.loss - figures.nll, beta / panels, rtol=1e-6)
    assert exact.inexact(figures).tolist() == [False, False, False, False, True]
    with jax.enable_x64(True):
        each = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(5)]
        alone = [models.scalar_vae(model, own, 3, 1.0).q_data.std for own in each]
    np.testing.assert_allclose(figures.kl, alone, rtol=1e-5)


def test_a_sweep_tells_of_inexact_runs(trained, capsys):
    rows = results.merge([results.contents(group) for group in trained]).rows
    sound = np.flatnonzero(rows["status"] != "diverged")
    rows["error"] = np.full(rows["n"].size, 1e-7)
    command.show(rows)
    assert "inexact" not in capsys.readouterr().err
    rows["error"][rows["status"] == "diverged"] = 1.0
    rows["error"][sound[:2]] = [2e-5, 3e-4]
    command.show(rows)
    lines = [line for line in capsys.readouterr().err.splitlines() if "inexact" in line]
    told = f"warning: 2 of {rows['n'].size} runs inexact: their figures may be off by up to 3e-04 of max(1, |figure|); "
    assert lines == [told + "see error in results.csv"]
