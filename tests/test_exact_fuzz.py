"""Random steep chains of one to three layers: the exact figures are as good as they say, against a dense numpy rule."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_chains import chain, draw, oracle

from vae_bit.exact import GRIDS, TOLERANCE, evaluate_on
from vae_bit.programs import PLAIN

# With two layers all but the first are too steep for the first grids, with three all but the first.
SEEDS = {1: range(10), 2: (0, 2, 3, 5, 6, 9), 3: (0, 1, 8)}
PANELS = (500, 800)  # of the dense rule, for each latent
NAMES = ("recon", "kl", "nll", "mutual information", "marginal kl", "valid mass")


def relative(a, b):
    """The worst of |a - b| / max(1, |b|)."""
    return np.max(np.abs(a - b) / np.maximum(1.0, np.abs(b)))


@pytest.fixture(scope="module", params=SEEDS)
def evaluated(request):
    """Exact figures by one program, and those of the dense rule on two grids, for every seed of one depth."""
    cases = [draw(request.param, seed) for seed in SEEDS[request.param]]
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf, jnp.float64) for leaf in leaves]), *cases)
        program = jax.jit(partial(jax.lax.map, lambda case: evaluate_on(GRIDS[0], chain(case))))
        figures = jax.tree.map(np.asarray, program.lower(batch).compile(PLAIN)(batch))
    values = [jax.tree.map(lambda leaf, i=i: leaf[i], figures) for i in range(len(cases))]
    return [(value, *(oracle(case, panels) for panels in PANELS)) for value, case in zip(values, cases, strict=True)]


def test_figures_are_as_good_as_they_say(evaluated):
    """Wherever the dense rule has converged, which it nearly always has."""
    settled, off = [], []
    for value, coarse, dense in evaluated:
        got = value.recon, value.kl, value.nll, value.mutual_information, value.marginal_kl, value.valid_mass
        for name, a, b, c in zip(NAMES, got, dense, coarse, strict=True):
            settled.append(relative(c, b) < 1e-6)
            if settled[-1]:
                off.append(relative(a, b))
                assert off[-1] < max(TOLERANCE, value.error), f"{name}: {a}, {b}, {value.error}"
    assert np.mean(settled) > 0.6
    assert (max(off) > TOLERANCE) == (value.kl.size > 1)  # some cases are bad, or the claim would be idle
