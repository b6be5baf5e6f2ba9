"""Monotone splines against Durkan et al.'s formula and its numerical inverse, and in float32 where they are steep."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.optimize import brentq

from vae_bit import spline

pytestmark = pytest.mark.usefixtures("quick_compile")
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def knots(seed, bins, steepest, runs=()) -> Any:
    """Bins of widths and heights from 1e-2 to 10, slopes from 1 / steepest to steepest; exact in float32."""
    rng = np.random.default_rng(seed)
    x, y = np.cumsum(10.0 ** rng.uniform(-2.0, 1.0, (2, *runs, bins + 1)), -1)
    slope = steepest ** rng.uniform(-1.0, 1.0, (*runs, bins + 1))
    return tuple(
        np.float64(np.float32(a)) for a in (x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True), slope)
    )


def durkan(knots, at):
    """Equation 4 of Durkan et al. (2019) in 40 digits, straight with the end slopes outside, and its slope."""
    x, y, slope = ([mpmath.mpf(float(v)) for v in each] for each in knots)
    at = mpmath.mpf(float(at))
    if at <= x[0] or at >= x[-1]:
        end = 0 if at <= x[0] else -1
        return y[end] + (at - x[end]) * slope[end], slope[end]
    b = max(i for i in range(len(x) - 1) if x[i] <= at)

    def inside(at):
        s, xi = (y[b + 1] - y[b]) / (x[b + 1] - x[b]), (at - x[b]) / (x[b + 1] - x[b])
        rise = (y[b + 1] - y[b]) * (s * xi**2 + slope[b] * xi * (1 - xi))
        return y[b] + rise / (s + (slope[b + 1] + slope[b] - 2 * s) * xi * (1 - xi))

    return inside(at), mpmath.diff(inside, at)


@pytest.mark.parametrize("bins", [1, 2, 7])
@pytest.mark.parametrize("steepest", [3.0, 1e4])
def test_values_and_slopes_are_those_of_the_published_formula_both_ways(x64, bins, steepest):
    k = knots(bins, bins, steepest)
    span = k[0][-1] - k[0][0]
    at = np.concatenate([k[0][0] + span * np.linspace(-0.4, 1.4, 37), k[0], k[0][[0, -1]] + [-1e4, 1e4]])
    with mpmath.workdps(40):
        exact = np.array([[float(v) for v in durkan(k, a)] for a in at])
    y, log_slope = spline.forward(k, at)
    np.testing.assert_allclose(y, exact[:, 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.exp(log_slope), exact[:, 1], rtol=1e-10)
    x, log_slope = spline.inverse(k, y)
    np.testing.assert_allclose(x, at, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.exp(log_slope), exact[:, 1], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_inverse_is_the_root_that_bisection_finds_in_float32_as_well(seed):
    """To what one rounding of y, over the slope there, and one of x allow."""
    k = knots(seed, 5, 1e4)
    span = k[1][-1] - k[1][0]
    y = np.concatenate([k[1][0] + span * np.linspace(0.0, 1.0, 50), k[1]]).astype(np.float32)
    x, log_slope = spline.inverse([jnp.float32(each) for each in k], jnp.asarray(y))
    with mpmath.workdps(30):
        for i in range(len(y)):
            inside = np.clip(np.float64(y[i]), k[1][0], k[1][-1])
            root: Any = brentq(
                lambda a, y=inside: float(durkan(k, a)[0] - y), k[0][0], k[0][-1], xtol=1e-14, rtol=1e-14
            )
            slope = float(durkan(k, root)[1])
            allowed = 4.0 * EPS * (np.abs(k[1]).max() / slope + np.abs(k[0]).max())
            assert abs(x[i] - root) <= allowed
            near = [float(durkan(k, root + shift)[1]) for shift in (-allowed, 0.0, allowed)]
            assert min(near) * (1.0 - 1e-5) <= np.exp(log_slope[i]) <= max(near) * (1.0 + 1e-5)


def test_steep_splines_come_back_and_have_finite_gradients_in_float32():
    """Slopes from 1e-4 to 1e4 beside bins as narrow as 1e-2, far beyond the ends and exactly at the knots."""
    k = [jnp.float32(each) for each in knots(0, 6, 1e4, runs=(300,))]
    low, high = k[1][:, :1], k[1][:, -1:]
    y = jnp.concatenate([low + (high - low) * jnp.linspace(0.0, 1.0, 60)[None], k[1], low - 1e4, high + 1e4], 1)

    def both(way):
        return jax.jit(jax.vmap(lambda k, at: jax.vmap(lambda at: way(k, at))(at)))

    x, log_slope = both(spline.inverse)(k, y)
    again, same_slope = both(spline.forward)(k, x)
    largest_x, largest_y = (jnp.maximum(abs(at), abs(to).max(-1, keepdims=True)) for at, to in ((x, k[0]), (y, k[1])))
    rounding = EPS * (largest_y + largest_x * jnp.exp(jnp.maximum(log_slope, same_slope)))
    assert np.all(np.abs(again - y) <= 4.0 * rounding)
    assert np.isfinite(log_slope).all()
    for way, at in (spline.forward, x), (spline.inverse, y):
        slopes = both(jax.jacrev(way, (0, 1)))(k, at)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_knots_are_met_and_slopes_there_are_theirs():
    k: Any = [jnp.float32(each) for each in knots(1, 6, 1e4)]
    for way, (at, to) in (spline.forward, k[:2]), (spline.inverse, k[1::-1]):
        value, log_slope = way(k, at)
        np.testing.assert_allclose(value, to, atol=float(2.0 * EPS * jnp.abs(to).max()))
        np.testing.assert_allclose(log_slope, jnp.log(k[2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", [spline.forward, spline.inverse])
def test_derivatives_are_the_slope_and_those_of_finite_differences(x64, way):
    k = [jnp.asarray(each) for each in knots(2, 4, 5.0)]
    across = k[0] if way is spline.forward else k[1]
    at = jnp.linspace(across[0] - 3.0, across[-1] + 3.0, 23)
    value = jax.vmap(jax.grad(lambda a: way(k, a)[0]))(at)
    np.testing.assert_allclose(value, jnp.exp((1.0 if way is spline.forward else -1.0) * way(k, at)[1]), rtol=1e-10)
    batched = jax.jit(lambda k: way(k, at))
    gradients = jax.jit(jax.jacrev(batched))(k)
    for slot, i in itertools.product(range(3), range(5)):
        step = 1e-6 * np.eye(5)[i]
        up, down = (batched([*k[:slot], k[slot] + shift, *k[slot + 1 :]]) for shift in (step, -step))
        for gradient, above, below in zip(gradients, up, down, strict=True):
            np.testing.assert_allclose(gradient[slot][:, i], (above - below) / 2e-6, rtol=2e-5, atol=2e-6)


def test_broadcasting_jit_and_vmap_agree_with_one_at_a_time():
    k = [jnp.float32(each) for each in knots(3, 4, 10.0, runs=(5,))]
    at = jnp.linspace(-4.0, 4.0, 9)
    for way in spline.forward, spline.inverse:
        table = way([each[:, None] for each in k], at)  # knots [5, 1, 5] beside points [9]
        one = jax.jit(way)
        looped = [[one([each[i] for each in k], at[j]) for j in range(9)] for i in range(5)]
        mapped = jax.jit(jax.vmap(way, (0, None)))(k, at)
        for part in 0, 1:
            assert table[part].shape == (5, 9)
            np.testing.assert_allclose(
                table[part], [[pair[part] for pair in row] for row in looped], rtol=1e-5, atol=1e-6
            )
            np.testing.assert_allclose(mapped[part], table[part], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", [spline.forward, spline.inverse])
def test_knots_that_make_no_spline_are_refused(way):
    def call(*sizes, at=(3,), dtype=jnp.float32):
        return lambda: way([jnp.ones(size) for size in sizes], jnp.zeros(at, dtype))

    for attempt, error, words in [
        (call((4,), (4,), (3,)), ValueError, r"the knots' x has shape \(4,\) and slope \(3,\): they must be equal"),
        (call((1,), (1,), (1,)), ValueError, r"the knots' x has shape \(1,\): at least 2 on the last axis are needed"),
        (
            call((2, 4), (4,), (4,)),
            ValueError,
            r"has shape \(3,\) and the knots' x\[..., 0\] \(2,\): they must broadcast",
        ),
        (call((4,), (4,), (4,), dtype=int), TypeError, "is int32, a floating dtype is needed"),
    ]:
        with pytest.raises(error, match=words):
            attempt()
