"""A user's own settings of JAX and matplotlib: they neither break a sweep nor change what it computes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

import vae_bit as vb
from experiments import figures
from experiments import sweep as command
from experiments.figures import style
from vae_bit import sweep
from vae_bit.order import Order
from vae_bit.store import results

ROOT = Path(__file__).parent.parent
HOSTILE = {
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_disable_jit": True,
    "jax_transfer_guard": "disallow",
    "jax_default_matmul_precision": "bfloat16",
}


@pytest.fixture
def settings():
    """Sets JAX's settings for every thread, as the environment does, until the test ends."""
    before = {name: getattr(jax.config, name) for name in HOSTILE}

    def change(**new):
        for name, value in new.items():
            jax.config.update(name, value)

    yield change
    change(**before)


def train(preset, folder):
    """All of a sweep's figures, through its files: two layers, padding, a run that diverges, the loaded run."""
    groups = sweep.plan(preset, [2], [2, 5], [1.0], None, [1e-2, 1e30], [3])
    (trained,) = sweep.train_all(groups)
    results.write(folder, {groups[0].labels: preset}, [trained], {})
    whole = vb.load(folder, preset.model)
    run = whole.load(n=5, learning_rate=1e-2)
    return trained[1:], run.params, run.evaluate(), whole.rows


def test_no_setting_changes_a_bit(tiny, quick_compile, settings, tmp_path):
    for name in ("own", "usual"):
        (tmp_path / name).mkdir()
    preset = tiny["default"]._replace(recipe=replace(tiny["default"].recipe, steps=20))
    usual = train(preset, tmp_path / "usual")
    assert "diverged" in usual[-1]["status"]
    settings(**HOSTILE)
    own = train(preset, tmp_path / "own")
    assert {name: getattr(jax.config, name) for name in HOSTILE} == HOSTILE  # the user's own again
    for mine, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(usual), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("setting", [{"jax_numpy_dtype_promotion": "strict"}, {"jax_enable_x64": True}])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_the_public_functions_under_a_setting(quick_compile, settings, setting, kind):
    """The ELBO of q = p = N(0, 1) and a fair coin is -ln 2 a dimension, in the dtype that was given."""
    settings(**setting)
    if kind == "float64" and "jax_enable_x64" not in setting:
        pytest.skip("there is no float64")
    zeros = jnp.zeros((3,), kind)
    q = vb.Normal(zeros, zeros + 1)
    eps, weight = vb.draw_latent(jax.random.key(0), vb.noise.lattice, size=3, samples=8, dtype=kind)
    z = vb.normal_sample(q, eps)
    log_likelihood = vb.average(vb.bernoulli_log_prob(jnp.zeros((8, 3), kind), 0 * z), weight)
    elbo = vb.elbo(log_likelihood, vb.normal_kl_standard(q))
    assert elbo.dtype == kind
    np.testing.assert_allclose(elbo, -3 * np.log(2), rtol=1e-6)
    path: Any = vb.path_kl(z, q, vb.standard_normal((3,), kind))
    np.testing.assert_allclose(path, 0.0, atol=1e-6)
    chain = vb.ScalarVAE(
        x=jnp.array([[0.0, 1.0]], kind),
        mask=jnp.ones(1, kind),
        q_data=vb.Normal(jnp.zeros(2, kind), jnp.ones(2, kind)),
        q=(),
        p=(),
        logits=lambda z: 0 * z[None],
    )
    np.testing.assert_allclose(jax.jit(lambda: vb.evaluate(chain).loss)(), np.log(2), rtol=1e-4)


@pytest.mark.parametrize("platforms", ["nowhere", "cuda,nowhere"])
def test_a_platform_that_is_not_there(tmp_path, platforms):
    process = real(tmp_path, "--n=1", JAX_PLATFORMS=platforms)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(f"error: JAX_PLATFORMS={platforms}: ")
    assert len(process.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["JAX_ENABLE_X64", "MPLBACKEND"])
def test_a_variable_that_makes_no_sense(tmp_path, variable):
    process = real(tmp_path, "--n=1", **{variable: "perhaps"})
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("error: ")
    assert "perhaps" in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_a_log_of_every_library_is_not_written(tmp_path):
    process = real(
        tmp_path, "--v=9", "--n=1", "--layers=1", "--seeds=1", "--steps=2", JAX_DISABLE_MOST_OPTIMIZATIONS="1"
    )
    assert process.returncode == 0
    assert process.stderr == "notice: --v=9: no command writes a log\n"


def real(cwd, *args, **variables):
    line = [sys.executable, "-m", "experiments.sweep", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def picture(path):
    """A figure with text and axes that matplotlib makes as it draws, written."""
    style.save(drawn(), path)
    return path.read_bytes()


@style.look
def drawn():
    figure = style.new(3, 2, "title")
    figure.subplots().plot([0, 1e-3], [1, 1.0001])
    return figure


def test_figures_are_drawn_from_matplotlibs_defaults(tmp_path):
    usual = picture(tmp_path / "usual.png")
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "savefig.facecolor": "red", "axes.grid": False}):
        assert picture(tmp_path / "own.png") == usual
        assert matplotlib.rcParams["text.usetex"]


def test_a_picture_that_fails_is_a_notice(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("latex was not able to process\nthe string")

    monkeypatch.setattr(figures, "summary", fail)
    whole = results.Contents({"n": np.zeros(0)}, {}, {}, {})
    variant = {"recipe": {"objective": "own.loss", "noise": "own.rule"}}
    command.draw(whole, Order({}, {"variants": [variant], "steps": 1}), tmp_path / "summary.png")
    path = tmp_path / "summary.png"
    assert capsys.readouterr().err == f"notice: {path}: not drawn, latex was not able to process the string\n"
    assert not list(tmp_path.iterdir())
