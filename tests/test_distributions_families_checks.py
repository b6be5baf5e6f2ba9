"""Mixtures and flows: what a mask hides, what is refused, batches, narrow dtypes and extreme numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit.distributions import (
    Flow,
    Mixture,
    Normal,
    flow_log_prob,
    flow_sample,
    log_prob,
    mixture_log_prob,
    mixture_sample,
    normal_entropy,
    normal_kl,
    normal_kl_standard,
    normal_log_prob,
    normal_sample,
    standard_normal,
)

pytestmark = pytest.mark.usefixtures("quick_compile")


def mixture(*batch, d=3, k=2) -> Mixture:
    keys = jax.random.split(jax.random.key(d), 3)
    mean, std = (jax.random.uniform(key, (*batch, k, d), minval=0.3, maxval=1.5) for key in keys[:2])
    return Mixture(jax.random.normal(keys[2], (*batch, k)), mean, std)


def flow(*batch, d=3, bins=2) -> Flow:
    keys = jax.random.split(jax.random.key(d), 3)
    x, y, slope = (jax.random.uniform(key, (*batch, d, bins + 1), minval=0.3, maxval=1.5) for key in keys)
    return Flow(jnp.cumsum(x, -1) - 2.0, jnp.cumsum(y, -1) - 2.0, slope)


FAMILIES = {"mixture": (mixture, mixture_log_prob), "flow": (flow, flow_log_prob)}
each_family = pytest.mark.parametrize("make, density", FAMILIES.values(), ids=FAMILIES.keys())


def columns(p, keep):
    """The distribution of the dimensions in `keep` alone."""
    if isinstance(p, Mixture):
        return Mixture(p.logits, p.mean[..., keep], p.std[..., keep])
    return Flow(*(field[..., keep, :] for field in p))


def spoilt(p, i, value):
    """With this in all numbers of dimension i."""
    if isinstance(p, Mixture):
        return Mixture(p.logits, p.mean.at[..., i].set(value), p.std.at[..., i].set(value))
    return Flow(*(field.at[..., i, :].set(value) for field in p))


@each_family
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 3e38])
def test_a_masked_dimension_touches_neither_value_nor_gradient(make, density, value):
    p, z, kept = make(), jnp.array([[0.2, -0.5, 1.0], [3.0, 1.0, -2.0]]), np.array([0, 2])
    run = jax.jit(jax.value_and_grad(lambda *args: density(*args).sum(), (0, 1)))
    expected, (by_z, by_p) = run(z[:, kept], columns(p, kept))
    for mask in (
        jnp.array([1, 0, 1]),
        jnp.array([[True, False, True]]),
        jnp.broadcast_to(jnp.array([1.0, 0, 1]), (2, 3)),
    ):
        actual, (to_z, to_p) = run(z.at[:, 1].set(value), spoilt(p, 1, value), mask)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        for a, b in zip(
            jax.tree.leaves((to_z[:, kept], columns(to_p, kept))), jax.tree.leaves((by_z, by_p)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        hidden = jax.tree.leaves((to_z[:, 1], columns(to_p, [1])[-2:]))
        assert all(np.all(leaf == 0.0) for leaf in hidden)


@each_family
def test_a_masked_event_is_worth_nothing_whatever_it_holds(make, density):
    p, z, density = make(4), jax.random.normal(jax.random.key(0), (4, 3)), jax.jit(density)
    bad = jax.tree.map(lambda field: field.at[1].set(jnp.nan), p)
    mask = jnp.array([True, False, True, True])
    full = density(z, p)
    for form in (mask, mask[:, None], jnp.broadcast_to(mask[:, None], (4, 3))):
        value, back = jax.vjp(lambda z, p, form=form: density(z, p, form), z.at[1].set(jnp.nan), bad)
        np.testing.assert_allclose(value, jnp.where(mask, full, 0.0), rtol=1e-5)
        assert all(np.isfinite(leaf).all() and not leaf[1].any() for leaf in jax.tree.leaves(back(jnp.ones(4))))
    nothing = [log_prob(z, mixture(4, k=k), jnp.zeros((4, 1))) for k in (3, 5, 6, 7)]
    np.testing.assert_array_equal(jnp.stack(nothing), 0.0)
    more = jnp.ones((2, 1, 3)).at[1, 0, 2].set(0.0)  # two masks for the same events
    masked = density(z, p, more)
    np.testing.assert_allclose(masked, jnp.stack([full, density(z, p, more[1])]), rtol=1e-5)
    with pytest.raises(ValueError, match=r"mask has shape \(2,\) and the event \(4, 3\)"):
        density(z, p, jnp.ones(2))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\) and may count entries or whole events of \(3, 3\)"):
        density(z[:3], make(), jnp.ones(3))


@each_family
def test_leading_axes_jit_and_vmap_agree_with_one_at_a_time(make, density):
    p, z = make(4), jax.random.normal(jax.random.key(1), (5, 4, 3))
    sample = mixture_sample if isinstance(p, Mixture) else flow_sample
    at = [[(z[j, i], jax.tree.map(lambda field, i=i: field[i], p)) for i in range(4)] for j in range(5)]
    looped = jnp.stack([jnp.stack([density(*pair) for pair in row]) for row in at])
    mapped = jax.jit(jax.vmap(jax.vmap(log_prob), (0, None)))(z, p)
    for whole in (density(z, p), jax.jit(log_prob)(z, p), mapped):
        np.testing.assert_allclose(whole, looped, rtol=1e-5, atol=1e-6)
    drawn, mapped = sample(p, z), jax.jit(jax.vmap(jax.vmap(sample), (None, 0)))(p, z)
    if isinstance(p, Mixture):
        (drawn, weight), (mapped, weights) = drawn, mapped
        np.testing.assert_allclose(weights, jnp.broadcast_to(weight, weights.shape), rtol=1e-6)
    np.testing.assert_allclose(drawn, mapped, rtol=1e-5, atol=1e-6)


def scalars(logits=2, mean=2, z=()):
    return lambda: Mixture(jnp.zeros(logits), jnp.zeros(mean), jnp.ones(mean)).log_prob(jnp.zeros(z))


def events(logits=(2,), mean=(2, 3), std=(2, 3), z=(3,), dtype=jnp.float32, call=mixture_log_prob):
    p = Mixture(jnp.zeros(logits), jnp.zeros(mean), jnp.ones(std))
    return lambda: call(p, jnp.zeros(z, dtype)) if call is mixture_sample else call(jnp.zeros(z, dtype), p)


def flows(x=(3, 4), y=(3, 4), z=(3,), dtype=jnp.float32, call=flow_log_prob):
    p = Flow(jnp.zeros(x), jnp.zeros(y), jnp.ones(x))
    return lambda: call(p, jnp.zeros(z, dtype)) if call is flow_sample else call(jnp.zeros(z, dtype), p)


@pytest.mark.parametrize(
    "attempt, error, words",
    [
        (
            events(logits=(3,)),
            ValueError,
            r"logits has shape \(3,\) and mean\[..., 0\] \(2,\): they must be equal along",
        ),
        (events(logits=(1,)), ValueError, r"logits has shape \(1,\) and mean\[..., 0\] \(2,\)"),
        (events(std=(1, 3)), ValueError, r"mean has shape \(2, 3\) and std \(1, 3\)"),
        (events(std=(3,)), ValueError, r"mean has shape \(2, 3\) and std \(3,\)"),
        (events(mean=(3,), std=(3,)), ValueError, r"logits has shape \(2,\) and mean \(3,\): a mixture's are"),
        (events(logits=()), ValueError, r"logits has shape \(\) and mean \(2, 3\): a mixture's are"),
        (events(z=(1,)), ValueError, r"z has shape \(1,\) and mean\[..., 0, :\] \(3,\)"),
        (events(z=(1,), call=mixture_sample), ValueError, r"eps has shape \(1,\) and mean\[..., 0, :\] \(3,\)"),
        (events(dtype=int), TypeError, "z is int32, a floating dtype is needed; mean"),
        (events(dtype=jnp.bfloat16), TypeError, "z is bfloat16 and mean.* is float32: one dtype is needed"),
        (scalars(logits=1), ValueError, r"logits has shape \(1,\) and mean \(2,\)"),
        (scalars(logits=0, mean=0), ValueError, r"logits has shape \(0,\): at least 1 on the last axis"),
        (flows(y=(3, 5)), ValueError, r"x has shape \(3, 4\) and y \(3, 5\)"),
        (flows(x=(4,), y=(4,)), ValueError, r"x has shape \(4,\): a flow's is \[..., d, B \+ 1\]"),
        (flows(x=(3, 1), y=(3, 1)), ValueError, r"\(3, 1\): at least 2 on the last axis are needed"),
        (flows(z=(1,)), ValueError, r"z has shape \(1,\) and x\[..., 0\] \(3,\)"),
        (flows(z=(2,), call=flow_sample), ValueError, r"eps has shape \(2,\) and x\[..., 0\] \(3,\)"),
        (flows(dtype=int), TypeError, "z is int32"),
        (lambda: log_prob(jnp.zeros(1), 3.0), TypeError, "p is a float: a Normal, Mixture or Flow is needed"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(attempt, error, words):
    with pytest.raises(error, match=words) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def test_no_function_takes_one_family_for_another():
    """A mixture has a mean and std too: with a Gaussian's formulas they would give a wrong number."""
    q, p, z = mixture(), standard_normal((3,)), jnp.zeros(3)
    for call in (
        lambda: normal_sample(q, z),
        lambda: normal_log_prob(z, q),
        lambda: normal_entropy(q),
        lambda: normal_kl(q, p),
        lambda: normal_kl_standard(q),
    ):
        with pytest.raises(TypeError, match=r"[pq] is a Mixture: a Normal is needed"):
            call()
    for call, words in [
        (lambda: normal_kl(p, q), "p is a Mixture: a Normal"),
        (lambda: mixture_log_prob(z, p), "p is a Normal: a Mixture"),
        (lambda: mixture_sample(flow(), z), "q is a Flow: a Mixture"),
        (lambda: flow_log_prob(z, q), "p is a Mixture: a Flow"),
        (lambda: flow_sample(p, z), "q is a Normal: a Flow"),
    ]:
        with pytest.raises(TypeError, match=words):
            call()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_numbers_are_summed_in_float32_and_draws_keep_their_dtype(dtype):
    q, p, z = jax.tree.map(lambda a: a.astype(dtype), (mixture(), flow(), jnp.array([0.5, -1.0, 2.0])))
    for family in q, p:
        wide = jax.tree.map(lambda a: a.astype(jnp.float32), (z, family))
        value = log_prob(z, family)
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, log_prob(*wide))
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(jax.grad(log_prob, (0, 1))(z, family)))
    drawn, weight = mixture_sample(q, z)
    assert (drawn.dtype, weight.dtype, flow_sample(p, z).dtype) == (dtype, jnp.float32, dtype)


def test_extreme_mixtures_are_finite_and_a_component_may_have_no_weight():
    cases = jnp.array(list(itertools.product((1e-6, 1.0, 1e6), (1e-6, 1.0, 1e6), (0.0, 1e4), (0.0, 80.0, -jnp.inf))))
    first, second, apart, logit = cases.T
    both = Mixture(
        jnp.stack([logit, jnp.zeros_like(logit)], -1), jnp.stack([apart, -apart], -1), jnp.stack([first, second], -1)
    )
    run = jax.jit(jax.vmap(jax.value_and_grad(lambda p, z: p.log_prob(z)), (0, None)))
    for leaf in jax.tree.leaves(run(both, jnp.array(1.0))):
        assert np.isfinite(leaf).all()
    alone = Mixture(jnp.array([-jnp.inf, 0.0]), jnp.array([9.0, 0.5]), jnp.array([1.0, 2.0]))
    expected = Normal(jnp.array(0.5), jnp.array(2.0)).log_prob(jnp.array(1.0))
    np.testing.assert_allclose(alone.log_prob(jnp.array(1.0)), expected, rtol=1e-6)


def test_a_draw_of_a_narrow_component_keeps_its_digits():
    q, eps = Mixture(jnp.zeros(2), jnp.array([100.0, -100.0]), jnp.full(2, 1e-4)), jnp.array([0.3, -2.0])
    expected = -0.5 * np.array([0.3, -2.0]) ** 2 - 0.5 * np.log(2.0 * np.pi) - np.log(1e-4) - np.log(2.0)
    np.testing.assert_allclose(q.draw(eps).log_prob, np.stack([expected, expected], -1), rtol=1e-6)
