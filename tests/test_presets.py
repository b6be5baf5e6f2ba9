"""The presets, and how other values of their recipes go together."""

import pytest

from vae_bit.presets import DEFAULT, ORIGINAL, override


@pytest.mark.parametrize("k, samples", [(1, 64), (5, 65), (8, 64), (64, 64), (100, 100)])
@pytest.mark.parametrize("objective", ["iwae", "dreg", "renyi"])
def test_a_bound_on_several_draws_takes_a_noise_that_serves_it(objective, k, samples):
    recipe = override(DEFAULT, objective=objective, k=k).recipe
    assert (recipe.noise, recipe.samples, recipe.k) == ("lattice", samples, k)


def test_what_is_asked_for_is_kept():
    assert override(DEFAULT, objective="iwae", k=8, samples=16).recipe.samples == 16
    assert override(DEFAULT, objective="iwae", k=8, noise="iid").recipe.samples == DEFAULT.recipe.samples
    assert override(ORIGINAL, objective="iwae", k=5).recipe.noise == "iid"
    assert override(DEFAULT, steps=7).recipe.noise == "trapezoid"
    with pytest.raises(ValueError, match="noise: got 'trapezoid', expected 'iid' or 'lattice' with objective 'dreg'"):
        override(DEFAULT, objective="dreg", k=8, noise="trapezoid")
    with pytest.raises(ValueError, match="k: got 4, expected 1 with objective 'elbo'"):
        override(DEFAULT, k=4)
