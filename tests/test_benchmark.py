"""The benchmark's parts: the floor's operations by hand, exact losses, summaries, and processes that share the work."""

import os
import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import oracle
import pytest

from experiments.benchmark import floor, plots, suite, time_to_truth, workers
from experiments.benchmark.floor import Operations, Rates
from experiments.benchmark.time_to_truth import Path
from experiments.benchmark.workers import PEERS, Case, Time
from vae_bit import limits, noise, padding
from vae_bit.presets import DEFAULT, ORIGINAL

TINY = suite.QUICK._replace(repeats=2, seconds=0.01)


def test_operations_of_the_posts_recipe_counted_by_hand():
    """L = 1, n = 5: encoder 1-10-10-10-2 at 2 points, decoder 1-10-10-10-5 at 1,000 nodes."""
    encoder, decoder = 10 + 100 + 100 + 20, 10 + 100 + 100 + 50
    operations = floor.count(ORIGINAL.model, ORIGINAL.recipe, 1, 5)
    assert operations.flops == 2 * 2 * (3 * encoder - 10) + 2 * 1000 * 3 * decoder
    assert operations.exponentials == 2 * 30 + 1000 * 30 + 2 + 1000 * 5  # hidden units, softplus, sigmoids
    assert operations.logarithms == 2 + 1000  # softplus, normal draws
    assert operations.bytes == 6 * 4 * (encoder + 32 + decoder + 35)


def test_operations_of_two_default_layers_counted_by_hand():
    """n = 3: 2 x 24 nodes of z_1, and 8 nodes of z_2 for each of them; networks 16-16, encoder 1-2."""
    encoder, decoder, latent = 2, 16 + 16 * 16 + 16 * 3, 16 + 16 * 16 + 32
    operations = floor.count(DEFAULT.model, DEFAULT.recipe, 2, 3)
    products = 2 * (3 * encoder - 2) + 48 * 3 * decoder + 48 * 3 * latent + 384 * 3 * latent
    assert operations.flops == 2 * products
    exponentials = 32 * (48 + 48 + 384) + (2 + 48 + 384) + 48 * 3 + 2 * (24 + 8)
    assert operations.exponentials == exponentials  # hidden units, std, sigmoids, weights of the nodes
    assert operations.logarithms == 0
    assert operations.bytes == 24 * sum(
        leaf.size for leaf in jax.tree.leaves(padding.shapes(DEFAULT.model(2, 3).init, 3))
    )


def test_draws_of_two_original_layers():
    assert floor.count(ORIGINAL.model, ORIGINAL.recipe, 2, 1).logarithms == 2000 + (2 + 1000 + 1000)


def test_nodes_and_their_weights_are_those_of_the_rule():
    recipe = replace(DEFAULT.recipe, noise=partial(noise.trapezoid, upper=5))
    assert floor.columns(recipe, 3) == [48, 48 * 5, 48 * 25]
    assert floor.draws(recipe, 3) == (2 * (24 + 5 + 5), 0)
    assert floor.columns(replace(recipe, noise=noise.lattice), 3) == [48] * 3


def test_the_floor_adds_its_parts():
    assert floor.seconds(Operations(8.0, 6.0, 4.0, 2.0), Rates(4.0, 3.0, 2.0, 1.0)) == 8.0


def test_rates_are_what_all_devices_do():
    calls = floor._per_second(lambda v: v + 1.0, jax.numpy.zeros(1 << 16))
    assert 1e1 < calls < 1e8


@pytest.mark.parametrize("implementation", ["ours default", "ours original"])
def test_the_exact_loss_is_that_of_an_independent_quadrature(implementation):
    preset, n = {"ours default": DEFAULT, "ours original": ORIGINAL}[implementation], 4
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(0.2 * rng.normal(size=leaf.shape)), padding.shapes(preset.model(1, n).init, n)
    )
    recon, kl = oracle.exact(preset.model, params, n, 1001)
    np.testing.assert_allclose(time_to_truth.loss_of(implementation, n)(params), recon + kl.sum(), rtol=1e-5)


def test_the_exact_loss_of_a_peer_is_ours_for_the_same_networks():
    params = ORIGINAL.model(1, 4).init(jax.random.key(0), jax.numpy.int32(4))

    def net(tree):
        hidden = tree["params"]["mlp"]
        layers = [*(hidden[name] for name in sorted(hidden)), tree["params"]["head"]]
        return [(layer["kernel"][:, :-1].T, layer["kernel"][:, -1]) for layer in layers]

    nets = {side: [net(tree) for tree in params[side]] for side in params}
    (weights, bias), *rest = nets["q"][0]
    nets["q"][0] = [(np.repeat(weights, 4, 0), bias), *rest]  # reads each of x's numbers, not their sum
    loss = time_to_truth.loss_of("flax_vmap", 4)(nets)
    np.testing.assert_allclose(loss, time_to_truth.loss_of("ours original", 4)(params), rtol=1e-5)


def test_time_to_truth_of_two_processes_counts_the_slower():
    limit = float(limits.limit(1, 5))
    far, near = limit + 0.1, limit + 0.001
    fast = Path(np.array([1.0, 2.0, 3.0]), np.array([[far, far], [near, near], [near, near]]))
    slow = Path(np.array([2.0, 4.0]), np.array([[near], [far]]))
    result = time_to_truth.summary([fast, slow], 5)
    assert result.median == 4.0
    assert result.worst is None
    assert result.extrapolated
    assert result.total == 4.0 + (5000 / time_to_truth.BLOCK - 2) * 2.0
    assert time_to_truth.summary([fast], 5).worst == 2.0


def test_our_trainer_trains_every_seed_in_chunks(monkeypatch, quick_compile):
    monkeypatch.setattr(workers.programs, "chunk_size", lambda *args: 4)
    trainer = workers.ours("default", 1, 5, range(7))
    start = trainer.advance(0)
    end = trainer.advance(60)
    assert start.shape == end.shape == (7,)
    assert np.all(end < start)
    assert len(np.unique(end)) == 7
    assert all(leaf.shape[0] == 7 for leaf in jax.tree.leaves(trainer.params()))


def test_processes_share_the_seeds_and_the_environment_stays():
    """NumPy, whose processes need not compile."""
    environment = dict(os.environ)
    (row,) = suite.measure_cases([Case("numpy_batched", 1, 2, 5)], TINY)
    assert dict(os.environ) == environment
    assert (row["implementation"], row["seeds"], len(row["us_repeats"])) == ("numpy_batched", 5, 2)
    assert 1.0 < row["us"] < 1e6
    assert row["cpu_us"] > 0.0
    assert row["compile_s"] > 0.0


def test_steps_fill_the_time_in_spite_of_an_overhead():
    assert workers.enough_steps(lambda steps: 1e-3 + 1e-6 * steps, 0.1) == pytest.approx(100_000, rel=0.15)
    assert workers.enough_steps(lambda steps: 1.0 * steps, 0.1) == 25
    first = iter([1.0])
    assert workers.enough_steps(lambda steps: next(first, 1e-3 * steps), 0.1) == 100


def test_a_command_is_timed_with_its_processor_time():
    wall, cpu = workers.timed_command([sys.executable, "-c", "import time; time.sleep(0.3); sum(range(10_000_000))"])
    assert 0.01 < cpu < wall - 0.2


def test_the_readmes_command_runs_twice_with_the_same_programs(monkeypatch):
    commands = []
    monkeypatch.setattr(workers, "timed_command", lambda command: commands.append(command) or Time(2.0, 3.0))
    rows = suite.measure_command()
    assert [row["programs"] for row in rows] == ["compiled", "kept"]
    assert (rows[0]["wall_s"], rows[0]["cpu_s"]) == (2.0, 3.0)
    (*same, first), (*again, second) = commands
    assert same == again
    assert first != second


def test_an_implementation_that_does_not_work_here_is_skipped_with_a_notice(monkeypatch, capsys):
    """Its process does not know this one, as it might not know PyTorch."""
    monkeypatch.setitem(workers.IMPLEMENTATIONS, "missing", workers.IMPLEMENTATIONS["flax_loop"])
    assert suite.measure_cases([Case("missing", 1, 2, 1)], TINY) == []
    assert "skipped missing" in capsys.readouterr().err


def test_an_accelerator_leaves_out_what_cannot_use_it():
    size = suite.fitting(suite.FULL, "gpu")
    assert set(size.peers) == {"flax_loop", "flax_vmap", "numpyro_svi"}
    assert size.scale_seeds[-1] == 65_536
    assert suite.fitting(suite.QUICK, "gpu").scale_seeds == ()
    assert suite.fitting(suite.FULL, "cpu") is suite.FULL


def test_the_picture_has_a_bar_for_every_implementation_and_the_floor():
    case = Case("ours original", 1, 5, 32)
    ours = suite.row(case, Time(1.0, 2.0), [Time(3e-6, 4e-6), Time(5e-6, 6e-6), Time(9e-6, 9e-6)])
    assert (ours["us"], ours["cpu_us"], ours["compile_s"]) == pytest.approx((5.0, 6.0, 1.0))
    floored = suite.with_floor(ours, Rates(1e11, 1e9, 1e9, 1e10))
    assert floored["over_floor"] == pytest.approx(5.0 / floored["floor_us"])
    peers = [ours, *(ours | {"implementation": name, "us": 9.0} for name in PEERS)]
    (axes,) = plots.bars({"ours": [floored], "peers": peers}).axes
    assert len(axes.patches) == 2 + len(PEERS)
    assert axes.get_yticklabels()[0].get_text().startswith("floor")
