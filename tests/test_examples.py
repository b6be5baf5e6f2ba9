"""Ideas of one's own, each a function of a few lines, beside what is built in and against the truth.

The sweeps of these examples are those of the README but for their steps and seeds.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vae_bit as vb

pytestmark = pytest.mark.usefixtures("quick_compile")


def test_an_objective_of_ones_own():
    """A maximum mean discrepancy between q(z) and p(z) in place of the KL (Zhao et al. 2019)."""

    def mmd(draws):
        z, w = draws.z[0].ravel(), draws.weight.ravel() / 2.0  # of q(z), both points together
        kernel = jnp.exp(-0.5 * (z[:, None] - z[None]) ** 2)
        cross = w @ (jnp.exp(-0.25 * z**2) / jnp.sqrt(2.0))  # E over p(z) in closed form, as the last term
        return draws.mean(draws.recon) + 10.0 * draws.beta * (w @ kernel @ w - 2.0 * cross + 1.0 / jnp.sqrt(3.0))

    results = vb.run(n=[5], layers=[1], seeds=64, steps=400, objective={"elbo": vb.objectives.elbo, "mmd": mmd})
    table = results.summary()
    assert table["objective"].tolist() == ["elbo", "mmd"] and table["sound"].tolist() == [64, 64]
    elbo, other = table["gap"]
    assert 0.0 < elbo < 0.01 < other  # the ELBO's own minimiser is the one that is near its limit
    assert table["mutual_information"][1] > table["mutual_information"][0]  # which the other does not make cheaper
    assert "mmd" in results.table()


def test_an_optimiser_and_a_schedule_of_ones_own():
    def late(steps):
        return optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 10, steps)

    optimisers = {"adam": vb.presets.DEFAULT.recipe.optimizer, "lion": optax.lion}
    results = vb.run(n=[5], layers=[1], seeds=8, steps=1000, optimizer=optimisers, schedule=late, learning_rate=3e-3)
    for name in optimisers:
        rows = {key: column[results.rows["optimizer"] == name] for key, column in results.rows.items()}
        assert np.all(rows["gap"] > 0.0) and np.median(rows["gap"]) < 0.05
        assert np.all(rows["nll"] > np.log(2.0)) and np.all(rows["mutual_information"] > 0.5)


def test_a_decoder_of_ones_own_in_plain_jax():
    """Logits of one slope, the same for all dimensions: all that the best decoder of two Gaussian codes needs."""

    def line(layers, width):
        ours = vb.presets.DEFAULT.model(layers, width)
        return ours._replace(
            init=lambda key, n: ours.init(key, n) | {"log_slope": jnp.zeros(())},
            decode=lambda params, z: jnp.broadcast_to(jnp.exp(params["log_slope"]) * z, (width, z.size)),
        )

    results = vb.run(n=[2, 5], layers=[1], seeds=8, steps=1000, model=line)
    assert set(results.rows["preset"]) == {"line"}
    assert np.all(results.rows["gap"] > 0.0) and np.median(results.rows["gap"]) < 0.02
    run = results.load(n=5, seed=3)
    mean, std = run.encode()
    slope = np.exp(np.float64(run.params["log_slope"]))
    np.testing.assert_allclose(run.decode(np.array([-1.0, 2.0])), [[-slope, 2.0 * slope]] * 5, rtol=1e-6)
    assert slope == pytest.approx(2.0 * abs(mean[1]) / std[1] ** 2, rel=0.05)  # that of ln q(x = 1 | z) / q(x = 0 | z)
