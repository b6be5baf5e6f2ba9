"""The presets, and how other values of their recipes go together."""

from functools import partial

import pytest

from vae_bit import noise, objectives
from vae_bit.presets import DEFAULT, ORIGINAL, override


def of_groups(recipe):
    """The rule that draws the groups of a recipe's noise, and how many draws each has."""
    assert recipe.noise.func is noise.grouped
    return recipe.noise.keywords["rule"], recipe.noise.keywords["k"]


@pytest.mark.parametrize("k, samples", [(1, 64), (5, 65), (8, 64), (64, 64), (100, 100)])
@pytest.mark.parametrize("objective", [objectives.iwae, objectives.dreg, partial(objectives.renyi, alpha=0.2)])
def test_a_bound_on_several_draws_takes_a_noise_that_serves_it(objective, k, samples):
    recipe = override(DEFAULT, objective=objective, k=k).recipe
    assert (*of_groups(recipe), recipe.samples) == (noise.lattice, k, samples)


def test_what_is_asked_for_is_kept():
    assert override(DEFAULT, objective=objectives.iwae, k=8, samples=16).recipe.samples == 16
    iid = override(DEFAULT, objective=objectives.iwae, k=8, noise=noise.iid).recipe
    assert (*of_groups(iid), iid.samples) == (noise.iid, 8, DEFAULT.recipe.samples)
    assert of_groups(override(ORIGINAL, objective=objectives.iwae, k=5).recipe) == (noise.iid, 5)
    assert override(DEFAULT, steps=7).recipe.noise is noise.trapezoid


def test_groups_of_another_size_take_the_place_of_those_before():
    eight = override(DEFAULT, objective=objectives.iwae, k=8)
    assert of_groups(override(eight, steps=7).recipe) == (noise.lattice, 8)
    assert of_groups(override(eight, k=4).recipe) == (noise.lattice, 4)


OTHER = {"noise": noise.iid, "samples": 10}


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"k": 4}, "k: got 4, expected 1 with objective 'elbo'"),
        ({"objective": objectives.path, "k": 2}, "k: got 2, expected 1 with objective 'path'"),
        ({"objective": objectives.iwae, "k": 4} | OTHER, "k: got 4, expected a divisor of samples, 10"),
        (
            {"objective": objectives.dreg, "k": 8, "noise": noise.trapezoid},
            "noise: got 'trapezoid', expected 'iid' or 'lattice' with objective 'dreg'",
        ),
    ],
)
def test_recipes_that_mean_nothing_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        override(DEFAULT, **fields)
