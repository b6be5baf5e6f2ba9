"""One run of a tiny preset: its numbers, parameters to be evaluated at, and steps one by one."""

import functools
from typing import Any

import jax
import numpy as np

from vae_bit import padding, training
from vae_bit.training import Run


def run(n=5, seed=3, beta=0.7, learning_rate=0.02, word_dropout=1.0):
    numbers: Any = np.int32(n), np.uint32(seed), *map(np.float64, (beta, learning_rate, word_dropout))
    return Run(*numbers)


def sized(preset, layers, width):
    return preset.model(layers, width), preset.recipe


def random_params(model, width, seed=0, scale=0.6):
    """In float64."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: scale * rng.normal(size=leaf.shape), padding.shapes(model.init, width))


def single(params):
    return jax.tree.map(np.float32, params)


@functools.cache
def starter(model, recipe):
    return jax.jit(functools.partial(training.init, model, recipe))


@functools.cache
def updater(model, recipe):
    return jax.jit(functools.partial(training.update, model, recipe))


def after(model, recipe, run, steps):
    """The state after so many steps."""
    state = starter(model, recipe)(run)
    for _ in range(steps):
        state = updater(model, recipe)(state, run)
    return state


def assert_close(tree, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), tree, other)
