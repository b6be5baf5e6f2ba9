"""A sweep from Python: the bits of the command, what it goes on with, and what it refuses before any work."""

import os
import re
import subprocess
import sys
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import ROOT, Command, names, same_bits

import vae_bit as vb
from vae_bit import noise, objectives, presets
from vae_bit.presets import DEFAULT
from vae_bit.store.files import Damaged

pytestmark = pytest.mark.usefixtures("quick_compile")
QUICK = {"n": [1], "layers": [1], "seeds": 2, "steps": 20}


def elbo_twice(draws):
    return 2.0 * objectives.elbo(draws)


def test_python_and_the_command_give_the_same_bits(work):
    """The README's command in small, on as many devices, with programs that are compiled alike."""
    flags = "--n=1", "--layers=1,2", "--seeds=1", "--steps=30", "--objective=elbo,path", "--history=1"
    outcome = Command(work, "sweep", *flags, "--out=command").wait()
    assert outcome.status == 0, outcome
    script = """
import vae_bit as vb
both = [vb.objectives.elbo, vb.objectives.path]
found = vb.run(n=1, layers=[1, 2], seeds=1, steps=30, objective=both, history=1, out="python")
print(found.table(width=170), end="")
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines() == outcome.stdout.splitlines()[:-1]
    assert same_bits(work / "python", work / "command")
    assert (work / "python" / "history.npz").read_bytes() == (work / "command" / "history.npz").read_bytes()


def test_history_is_the_exact_figures_on_the_way():
    found = vb.run(n=[1, 5], layers=1, seeds=2, steps=20, history=3)
    assert found.history["step"].tolist() == [0, 10, 20]
    for name in ("loss", "recon", "kl", "nll", "mutual_information"):
        assert found.history[name].shape == (4, 3)
        np.testing.assert_array_equal(found.history[name][:, -1], found.rows[name])
    np.testing.assert_allclose(found.history["kl"][:, 0], 0.0, atol=1e-9)  # q starts as the prior


def test_a_folder_is_gone_on_with_by_the_same_functions_alone(tmp_path):
    out = tmp_path / "mine"
    first = vb.run(**QUICK, objective=elbo_twice, out=out)
    assert names(out) == {"config.json", "results.csv", "curves.npz", "params.npz"}
    more = vb.run(**QUICK | {"seeds": 3}, objective=elbo_twice, out=out, resume=True)
    assert more.rows["seed"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(more.rows["loss"][:2], first.rows["loss"])
    assert set(more.rows["objective"]) == {"elbo_twice"}
    read = vb.load(out)
    np.testing.assert_array_equal(read.rows["loss"], more.rows["loss"])

    def changed(draws):
        return 2.0 * objectives.elbo(draws) + 0.0

    with pytest.raises(ValueError, match=re.escape("objective.source")):
        vb.run(**QUICK, objective={"elbo_twice": changed}, out=out, resume=True)
    with pytest.raises(ValueError, match=f"^out={out}: holds results already"):
        vb.run(**QUICK, objective=elbo_twice, out=out)
    with pytest.raises(Damaged, match=r"results\.csv: No such file"):
        vb.load(tmp_path)
    with pytest.raises(ValueError, match="optimizer"):
        vb.run(**QUICK, objective=elbo_twice, optimizer={"adam": optax.sgd}, out=out, resume=True)


def test_everything_is_swept_side_by_side():
    """Presets, objectives and optimisers in one table; each row is that of a sweep of it alone."""
    optimisers = {"adam": DEFAULT.recipe.optimizer, "sgd": optax.sgd}
    wider = presets.override(DEFAULT, samples=32)
    both = vb.run(
        **QUICK,
        preset={"default": DEFAULT, "wide": wider},
        objective=[objectives.elbo, elbo_twice],
        optimizer=optimisers,
    )
    assert both.rows["n"].size == 16
    labels = list(zip(*(both.rows[name].tolist() for name in ("preset", "objective", "optimizer")), strict=True))
    assert labels == sorted(labels) and len(set(labels)) == 8
    for preset, name, chosen in ((DEFAULT, "default", "sgd"), (wider, "wide", "adam")):
        one = vb.run(**QUICK, preset={name: preset}, objective=elbo_twice, optimizer=optimisers[chosen])
        own = [label == (name, "elbo_twice", chosen) for label in labels]
        np.testing.assert_array_equal(both.curves["loss"][own], one.curves["loss"])
        # evaluated by a program for more runs at once, whose sums may be in another order
        np.testing.assert_allclose(both.rows["loss"][own], one.rows["loss"], rtol=1e-12)
    text = both.table(width=240)
    assert "elbo_twice" in both._repr_html_()
    assert all(word in text for word in ("wide", "elbo_twice", "sgd", "objective", "optimizer"))


def test_k_is_for_the_bounds_on_several_draws():
    """Beside the ELBO it counts for the others, as if each had been swept alone."""
    both = vb.run(**QUICK, objective=[objectives.elbo, objectives.dreg], k=4)
    plain, dreg = vb.run(**QUICK), vb.run(**QUICK, objective=objectives.dreg, k=4)
    assert both.rows["objective"].tolist() == ["dreg", "dreg", "elbo", "elbo"]
    np.testing.assert_array_equal(both.rows["loss"], [*dreg.rows["loss"], *plain.rows["loss"]])
    presets_side_by_side = vb.run(**QUICK, preset=[DEFAULT, presets.ORIGINAL], samples=8)
    assert set(presets_side_by_side.rows["preset"]) == {"default", "original"}


def test_a_warmup_and_a_schedule_change_what_is_learned():
    plain = vb.run(**QUICK)
    assert plain.history == {}
    plain = plain.rows["loss"]
    warm = vb.run(**QUICK, beta_schedule=partial(presets.warmup, rise=10)).rows["loss"]
    constant = vb.run(**QUICK, schedule=presets.constant).rows["loss"]
    assert len({*plain, *warm, *constant}) == 6


@pytest.mark.parametrize(
    "given, words",
    [
        ({"objective": "dreg"}, "objective: got 'dreg', expected a value"),
        ({"objective": ["elbo"]}, "objective: got 'elbo', expected a value"),
        ({"objective": lambda draws: 0.0}, "objective: '<lambda>' cannot stand in a table, expected a dict of names"),
        ({"objective": {"a/b": elbo_twice}}, "objective: 'a/b' cannot stand in a table"),
        ({"objective": {}}, "objective: got .., expected one or more"),
        ({"objective": {"mine": 3}}, "objective: got 3, expected a function"),
        ({"model": 3}, "model: got 3, expected a function of layers and width"),
        ({"objective": {"points": lambda draws: draws.recon}}, "objective: got values of shape .*, expected a scalar"),
        (
            {"objective": objectives.iwae, "noise": noise.trapezoid},
            "noise: got 'trapezoid', expected 'iid' or 'lattice'",
        ),
        ({"objective": {"own": lambda draws: objectives.iwae(draws)}}, "noise: got nodes of shape .*, expected groups"),
        (
            {"optimizer": optax.sgd(0.1)},
            "optimizer: got a GradientTransformation.*, expected a function of the learning rate",
        ),
        ({"preset": [DEFAULT, DEFAULT]}, "preset: got several presets without names"),
        ({"preset": "original"}, "preset: got 'original', expected a value"),
        ({"preset": {"mine": 3}}, "preset: got 3, expected a Preset"),
        ({"noise": "iid"}, "noise: got 'iid', expected a function"),
        ({"schedule": "constant"}, "schedule: got 'constant', expected a function"),
        ({"seeds": 0}, "seeds: got 0, expected an integer from 1"),
        ({"seeds": [1, 2]}, r"seeds: got \[1, 2\], expected an integer from 1"),
        ({"n": 0}, r"n: got \[0\], expected distinct integers"),
        ({"beta": [1.0, -1.0]}, "beta: got .*, expected distinct numbers"),
        ({"history": -1}, "history: got -1, expected an integer from 0"),
        ({"first_seed": 2**32 - 1}, "first_seed=4294967295 seeds=2: expected every seed"),
        ({"steps": 0}, "steps: got 0, expected an integer from 1"),
        ({"steps": 30.0}, r"steps: got 30\.0, expected an integer from 1"),
        ({"samples": 0}, "samples: got 0, expected an integer from 1"),
        ({"chunk": 0}, "chunk: got 0, expected an integer from 1"),
        ({"objective": objectives.dreg, "k": -2}, "k: got -2, expected an integer from 1"),
        ({"k": 3}, "k: got 3, expected 1 with objective 'elbo'"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(tmp_path, given, words):
    with pytest.raises(ValueError, match=words):
        vb.run(**QUICK | given, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def capped(draws, cap):
    return jnp.minimum(objectives.elbo(draws), cap)


def test_what_a_first_reader_tried(tmp_path):
    """Numbers of NumPy, an infinite constant, two models of one's own in a folder, a model that gives plain numbers."""

    def one(layers, width):
        return DEFAULT.model(layers, width)

    def other(layers, width):
        ours = one(layers, width)
        return ours._replace(encode=lambda params, n: vb.Normal(ours.encode(params, n).mean, 1.0))

    models = {"one": DEFAULT._replace(model=one), "other": DEFAULT._replace(model=other)}
    endless = partial(capped, cap=float("inf"))
    numbers = {"steps": np.int64(20), "seeds": np.int32(2), "chunk": np.int64(2)}
    found = vb.run(**QUICK | numbers, preset=models, objective=endless, out=tmp_path / "out")
    assert set(found.rows["preset"]) == {"one", "other"} and set(found.rows["objective"]) == {"capped"}
    with pytest.raises(ValueError, match="model: none given is that of"):
        vb.load(tmp_path / "out", model=one)
    read = vb.load(tmp_path / "out", model=[one, other])
    assert read.load(preset="other").encode().std.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="resume: got True without out"):
        vb.run(**QUICK, resume=True)


def test_the_top_density_of_an_encoder_that_reads_every_dimension():
    """Its parameters belong to the data's dimensions, so no narrower model may stand for it."""

    def reading(layers, width):
        ours = DEFAULT.model(layers, width)
        return ours._replace(
            init=lambda key, n: ours.init(key, n) | {"read": jnp.ones(width)},
            encode=lambda params, n: vb.Normal(
                jnp.sum(params["read"], where=jnp.arange(width) < n) * jnp.array([-1.0, 1.0]), jnp.ones(2)
            ),
        )

    run = vb.run(**QUICK | {"n": 3}, model=reading).load()
    z = np.linspace(-5.0, 5.0, 11)
    np.testing.assert_allclose(run.top_density(z), run.densities(z).q[0], atol=1e-9)


def test_a_learned_prior_is_evaluated_exactly():
    """N(m, s^2) in place of N(0, 1), every latent moved and stretched with it: the same figures."""

    def shifted(layers, width):
        ours = DEFAULT.model(layers, width)
        moved = lambda z: (z - 2.0) / 3.0  # noqa: E731
        out = lambda q: vb.Normal(2.0 + 3.0 * q.mean, 3.0 * q.std)  # noqa: E731
        return ours._replace(
            encode=lambda params, n: out(ours.encode(params, n)),
            prior=lambda params, n: vb.Normal(2.0, 3.0),
            decode=lambda params, z: ours.decode(params, moved(z)),
        )

    plain, other = (vb.run(n=[5], layers=[1], seeds=2, steps=40, model=model) for model in (DEFAULT.model, shifted))
    for name in ("loss", "kl", "nll", "mutual_information", "marginal_kl"):
        np.testing.assert_allclose(other.rows[name], plain.rows[name], rtol=2e-3, atol=2e-4)
    z = np.linspace(-2.0, 2.0, 9)
    ours, theirs = plain.load(seed=1).densities(z), other.load(seed=1).densities(2.0 + 3.0 * z)
    np.testing.assert_allclose(3.0 * theirs.q[0], ours.q[0], rtol=0.05, atol=1e-2)
    np.testing.assert_allclose(3.0 * theirs.p[0], ours.p[0], rtol=1e-6)


def test_a_trained_model_speaks_double_precision():
    run = vb.run(n=[3], layers=[2], seeds=1, steps=40).load()
    figures = run.evaluate()
    assert {leaf.dtype for leaf in figures} == {np.dtype(np.float64)}
    assert figures.loss == pytest.approx(run.row["loss"], rel=1e-12)
    z = np.linspace(-8.0, 8.0, 801)
    top = run.top_density(z)
    np.testing.assert_allclose(np.trapezoid(top, z), [1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(run.densities(z, z).q[1], top, atol=1e-6)
    probability = run.probability(np.array([-1.0, 0.0, 1.0]))
    assert probability.shape == (3, 3) and np.all((probability > 0.0) & (probability < 1.0))
    assert repr(run) == (
        "TrainedModel(preset=default, objective=elbo, optimizer=adam, posterior=gaussian, prior=normal, "
        "decoder=independent, layers=2, n=3, beta=1.0, word_dropout=1.0, learning_rate=0.01, seed=0)"
    )
    assert run.sample(7).shape == (3, 7)
    assert set(np.unique(run.sample(50))) <= {0.0, 1.0}
    assert jnp.zeros(1).dtype == jnp.float32  # outside it is as it was
