"""What the figures show against the table and against brute-force integrals; what each does with half a run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from sweeps import LABELS, alone

from experiments import figures
from experiments.cli import BadInput
from experiments.figures import families, premises, runs, selection, style
from experiments.figures.selection import Missing
from vae_bit import limits, runner
from vae_bit.store import results

RECIPE = {"objective": "elbo", "function": "vae_bit.objectives.elbo", "k": 1, "steps": 300}
ABOUT = {"argv": ["sweep"], "versions": {}}
Z = np.array([-1.3, -0.2, 0.0, 0.4, 2.1])


def write(out, preset, trained):
    out.mkdir()
    results.write(out, alone(preset), trained, ABOUT)
    return out


def at_n(group, n):
    """The group's runs as if all had been trained at n: their first n dimensions."""
    runs = group.group.runs
    return group._replace(
        group=group.group._replace(
            runs=runs._replace(n=np.full_like(runs.n, n), seed=np.arange(runs.n.size, dtype=np.uint32))
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny, trained):
    return write(tmp_path_factory.mktemp("runs") / "both", tiny["default"], trained)


@pytest.fixture(scope="module")
def loaded(folder, tiny):
    return selection.load(folder, tiny["default"].model)


@pytest.fixture(scope="module")
def deep(loaded):
    return selection.median_model(loaded, 2, 5)


def test_a_folder_may_be_given_as_text(folder, monkeypatch, tiny):
    """In a notebook a folder is a str, of which the shell has not made `~` the home."""
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in (str(folder), f"~/{folder.name}"):
        loaded = figures.load(name, tiny["default"].model)
        assert loaded.out == folder
        assert selection.median_model(loaded, 1, 5).row["n"] == 5
    with pytest.raises(BadInput, match="--run=none: "):
        figures.load("none")


def normal(z, mean: Any = 0.0, std: Any = 1.0):
    return np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


def test_one_setting_is_drawn_and_the_rest_is_named(loaded):
    assert set(loaded.every["beta"]) == {0.5, 2.0} and len(set(loaded.rows["beta"])) == 1
    assert "diverged" not in loaded.every["status"]
    assert any("diverged" in notice for notice in loaded.notices) and any("beta" in notice for notice in loaded.notices)
    assert loaded.curves["loss"].shape == (loaded.rows["n"].size, loaded.curves["step"].size)


def test_beta_one_is_preferred_then_the_best_learning_rate():
    rows = {"beta": np.array([0.5, 1, 1, 1]), "learning_rate": np.array([1, 1, 2, 2.0]), "status": np.full(4, "ok")}
    rows |= {name: np.full(4, label) for name, label in (LABELS._asdict() | families.PLAIN._asdict()).items()}
    chosen, notices = selection.one_setting(rows | {"gap": np.array([0.0, 0.5, 0.1, 0.2])})
    np.testing.assert_array_equal(chosen, [False, False, True, True])
    assert len(notices) == 2


def test_the_median_row_is_the_lower_middle_one():
    rows = {"loss": np.array([4.0, 1.0, 3.0, 2.0]), "seed": np.arange(4)}
    assert selection.median_row(rows) == {"loss": 2.0, "seed": 3}


def test_the_top_density_is_the_integral_over_the_lower_layer(deep):
    q = selection.codes(deep)
    for k in range(2):
        z_1 = q.mean[k] + q.std[k] * np.linspace(-9, 9, 20001)
        above = selection.conditional(deep, "q", 1, z_1)
        weights = normal(z_1, q.mean[k], q.std[k]) * (z_1[1] - z_1[0])
        brute = [np.sum(weights * normal(z, *above)) for z in Z]
        np.testing.assert_allclose(deep.top_density(Z)[k], brute, rtol=1e-4)


def test_the_probability_of_a_bit_is_the_integral_over_the_lower_layer(deep):
    given = selection.conditional(deep, "p", 1, Z)
    eps = np.linspace(-9, 9, 2001)
    z_1 = np.asarray(given.mean + given.std * eps[:, None], np.float32)
    params = jax.tree.map(np.float32, deep.params)
    probability = expit(np.asarray(deep.model.decode(params, jnp.asarray(z_1.ravel())))).reshape(5, *z_1.shape)
    brute = np.einsum("e,iek->ik", normal(eps), probability) * (eps[1] - eps[0])
    np.testing.assert_allclose(deep.probability(Z), brute, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2])
def test_encoding_figure_agrees_with_the_table(loaded, layers):
    """KL(q(z) || p(z)) and I(x; z) of the curves drawn are those of the exact evaluation."""
    axes = figures.figure_encoding(loaded).axes[layers - 1]
    for line, n in zip(axes.lines, (2, 5), strict=False):
        row = selection.median_model(loaded, layers, n).row
        z, q = line.get_data()
        mismatch = np.trapezoid(q * np.log(q / normal(z)), z)
        assert mismatch == pytest.approx(row["marginal_kl"], abs=3e-3)


def test_draws_are_data_points_as_often_as_computed(deep):
    ones = selection.draws(deep, 20000).sum(0)
    assert np.all(np.diff(ones) >= 0)
    share = np.mean((ones == 0) | (ones == 5))
    assert share == pytest.approx(deep.row["valid_mass"], abs=4 * 0.5 / np.sqrt(20000))


def test_costs_show_medians_and_limits(loaded):
    axes = figures.figure_costs(loaded).axes[0]
    lines = {line.get_label(): np.asarray(line.get_data()) for line in axes.lines}
    n, height = lines["1 layer: median, all seeds"]
    own = selection.of(loaded.rows, layers=1)
    np.testing.assert_allclose(height, [np.median(own["loss"][own["n"] == value]) for value in n])
    n, height = lines["1 layer: limit"]
    np.testing.assert_allclose(height, limits.limit(1, n, loaded.rows["beta"][0]))


def test_the_parts_of_the_price_add_up(loaded):
    for layers in (1, 2):
        rows = selection.of(loaded.rows, layers=layers)
        for parts, total in ((runs._loss_parts, rows["recon"] + rows["kl"]), (runs._kl_parts, rows["kl"])):
            np.testing.assert_allclose(sum(height for _, height in parts(rows).values()), total, atol=1e-9)
            assert all(np.all(height > -1e-4) for _, height in parts(rows).values())


def test_published_runs_are_the_authors():
    runs = {(run["layers"], run["n"]): run for run in selection.published()}
    assert set(runs) == {(layers, n) for layers in (1, 2) for n in (1, 5, 10, 100, 1000)}
    assert all(run["loss"] == pytest.approx(run["recon"] + run["kl"], abs=2e-5) for run in runs.values())
    assert runs[1, 5]["loss"] == 1.06633 and runs[2, 1000]["kl"] == 0.74833


def test_one_colour_for_an_n(loaded):
    """q(z) of both depths and the learning curves, which alternate with the limits."""
    one, two = figures.figure_encoding(loaded).axes
    learning = figures.figure_learning(loaded).axes[0]
    for k in range(2):
        colours = one.lines[k].get_color(), two.lines[k].get_color(), learning.lines[2 * k].get_color()
        np.testing.assert_array_equal(colours[0], colours[1])
        np.testing.assert_array_equal(colours[0], colours[2])
    assert not np.array_equal(one.lines[0].get_color(), one.lines[1].get_color())


def test_a_run_of_n_1_alone_and_one_depth(tmp_path, tiny, trained):
    """Everything is drawn but the two-layer map, repairs, as there are none, and knobs, of which one is turned."""
    loaded = selection.load(write(tmp_path / "one", tiny["default"], [at_n(trained[0], 1)]), tiny["default"].model)
    with pytest.raises(Missing, match="2 layers"):
        figures.figure_map(loaded)
    with pytest.raises(Missing, match="another q, prior or decoder, or 2 layers"):
        figures.figure_repairs(loaded)
    with pytest.raises(Missing, match="two of n, beta and word_dropout"):
        figures.figure_one_knob(loaded)
    lacking = figures.figure_map, figures.figure_repairs, figures.figure_one_knob, figures.figure_history
    for function in figures.FIGURES:
        if function not in lacking:
            function(loaded).draw_without_rendering()


def test_a_run_of_two_layers_alone(tmp_path, tiny, trained):
    loaded = selection.load(write(tmp_path / "two", tiny["default"], [trained[1]]), tiny["default"].model)
    with pytest.raises(Missing, match="--history"):
        figures.figure_history(loaded)
    for function in figures.FIGURES:
        if function not in (figures.figure_one_knob, figures.figure_history):
            function(loaded).draw_without_rendering()


def test_summary_of_a_sweep_that_diverged(folder, tmp_path):
    rows = results.load_table(folder)
    rows["status"] = np.full(rows["n"].size, "diverged")
    style.save(figures.summary(rows, results.load_curves(folder), RECIPE), tmp_path / "summary.png")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path, change):
    path.write_text(change(path.read_text()))


DAMAGE = {
    "no table": lambda out: (out / "results.csv").unlink(),
    "half a table": lambda out: truncate(out / "results.csv"),
    "empty table": lambda out: (out / "results.csv").write_text(""),
    "no column": lambda out: edit(out / "results.csv", lambda text: text.replace("valid_mass", "other")),
    "half the curves": lambda out: truncate(out / "curves.npz"),
    "no parameters": lambda out: (out / "params.npz").unlink(),
    "half the parameters": lambda out: truncate(out / "params.npz"),
    "other parameters": lambda out: np.savez(out / "params.npz", other=np.zeros(3)),
    "text for config": lambda out: (out / "config.json").write_text("{"),
    "other config": lambda out: (out / "config.json").write_text("[]"),
    "other schema": lambda out: edit(out / "config.json", lambda text: json.dumps(json.loads(text) | {"schema": 99})),
    "fewer rows": lambda out: edit(out / "results.csv", lambda text: text.rsplit("\n", 2)[0] + "\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_that_names_the_folder(damage, folder, tmp_path, tiny):
    out = tmp_path / "damaged"
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("figures"))
    DAMAGE[damage](out)
    with pytest.raises(BadInput, match=str(out)):
        selection.median_model(selection.load(out, tiny["default"].model), 1, 5)


def command(*argv):
    line = [sys.executable, "-m", "experiments.figures", *argv]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_the_command_draws_all(quick_compile, tmp_path):
    out = tmp_path / "run"
    runner.run(n=[5], learning_rate=[1e-2, 1e30], seeds=1, steps=20, history=1, out=out)
    done = command(f"--run={out}", "--format=svg")
    assert done.returncode == 0, done.stderr
    drawn = {path.stem.split("_", 1)[1] for path in (out / "figures").glob("*.svg")}
    assert drawn == {function.__name__.removeprefix("figure_") for function in figures.FIGURES} - {"one_knob"}
    assert "skipped 2 of 4 runs: diverged" in done.stdout


def test_of_models_that_are_not_known_all_but_their_insides_is_drawn(folder, tmp_path):
    out = shutil.copytree(folder, tmp_path / "run")
    done = command(f"--run={out}", "--format=svg")
    assert done.returncode == 0, done.stderr
    drawn = {path.stem.split("_", 1)[1] for path in (out / "figures").glob("*.svg")}
    assert drawn == {"data", "costs", "learning", "by_hand", "price", "repairs", "rate_distortion", "one_knob"}
    assert done.stdout.count("the model, which is no preset's: figures.load(.., model=..)") == 6


def test_the_command_refuses_a_foreign_folder(tmp_path):
    done = command(f"--run={tmp_path}")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: --run={tmp_path}: ") and done.stderr.count("\n") == 1


def test_legible_width():
    for widths, best in (((1, 5, 10, 1000), 10), ((1,), 1), ((1, 100, 1000), 1000)):
        results = selection.Saved(Path(), {"n": np.array(widths)}, {}, {}, [], RECIPE, {})
        assert premises.legible_width(results) == best
