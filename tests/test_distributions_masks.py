"""What a mask hides touches nothing; what a mask may look like; images."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit.distributions import (
    Normal,
    bernoulli_kl,
    bernoulli_log_prob,
    normal_entropy,
    normal_kl,
    normal_kl_standard,
    normal_log_prob,
)

pytestmark = pytest.mark.usefixtures("quick_compile")
CALLS = {  # each with the number of arrays it takes
    normal_log_prob: (lambda z, mean, std, **kw: normal_log_prob(z, Normal(mean, std), **kw), 3),
    normal_entropy: (lambda mean, std, **kw: normal_entropy(Normal(mean, std), **kw), 2),
    normal_kl: (lambda m, s, mean, std, **kw: normal_kl(Normal(m, s), Normal(mean, std), **kw), 4),
    normal_kl_standard: (lambda mean, std, **kw: normal_kl_standard(Normal(mean, std), **kw), 2),
    bernoulli_log_prob: (bernoulli_log_prob, 2),
    bernoulli_kl: (bernoulli_kl, 2),
}
each_call = pytest.mark.parametrize("call, count", CALLS.values(), ids=[f.__name__ for f in CALLS])
HIDDEN = (0.0, -1.0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45)


def arrays(count, shape) -> list[jax.Array]:
    """Numbers in (0.1, 0.9), which can be means, spreads, logits and soft bits."""
    return list(jax.random.uniform(jax.random.key(0), (count, *shape), minval=0.1, maxval=0.9))


@each_call
@pytest.mark.parametrize("mask", [np.array([1.0, 1.0, 0.0]), np.array([True, True, False]), np.array([1, 1, 0])])
def test_what_a_mask_hides_touches_neither_value_nor_gradient(call, count, mask):
    shown = arrays(count, (2,))
    expected, slopes = jax.value_and_grad(call, range(count))(*shown)
    cases = jnp.array(list(itertools.product(HIDDEN, repeat=count if count < 4 else 2)), jnp.float32)
    hidden = [cases[:, i % cases.shape[1], None] for i in range(count)]
    padded = [jnp.concatenate([jnp.broadcast_to(a, (len(cases), 2)), h], 1) for a, h in zip(shown, hidden, strict=True)]
    both = jax.jit(jax.vmap(jax.value_and_grad(lambda *a: call(*a, mask=jnp.asarray(mask)), range(count))))
    value, gradients = both(*padded)
    np.testing.assert_allclose(value, np.full(len(cases), expected), rtol=1e-6)
    for gradient, slope in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(gradient[:, :2], np.broadcast_to(slope, (len(cases), 2)), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(gradient[:, 2], 0.0)


@each_call
def test_hidden_numbers_leave_forward_and_second_derivatives_finite(call, count):
    padded = [jnp.append(a, h) for a, h in zip(arrays(count, (2,)), [jnp.nan, 0.0, jnp.inf, 0.0], strict=False)]

    def masked(*a):
        return call(*a, mask=jnp.array([True, True, False]))

    hessian = jax.jit(jax.jacfwd(jax.jacrev(masked, range(count)), range(count)))(*padded)
    assert all(
        np.isfinite(leaf).all() and not leaf[2].any() and not leaf[:, 2].any() for leaf in jax.tree.leaves(hessian)
    )


@each_call
def test_a_mask_broadcasts_to_the_events_or_counts_whole_ones(call, count):
    given = arrays(count, (4, 3))
    entries = jax.vmap(jax.vmap(lambda *a: call(*(x[None] for x in a))))(*given)  # every entry an event of its own
    examples = np.array([1.0, 0.0, 1.0, 0.0])
    for mask, full in [
        (examples, examples[:, None]),
        (examples[:, None], examples[:, None]),
        (np.array([1, 0, 1]), np.array([[1, 0, 1]])),
        (np.array([[1, 0, 1]]), np.array([[1, 0, 1]])),
        (np.eye(4, 3), np.eye(4, 3)),
        (np.array(True), np.ones((1, 1))),
        (np.zeros(()), np.zeros((1, 1))),
        (np.ones((2, 1, 1)), np.ones((2, 1, 1))),
    ]:
        expected = np.sum(np.asarray(entries) * full, -1)
        actual = call(*given, mask=jnp.asarray(mask))
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@each_call
def test_a_mask_that_does_not_fit_or_may_mean_two_things_is_refused(call, count):
    for event, mask, words in [
        ((3,), (2,), r"mask has shape \(2,\) and the event \(3,\)"),
        ((4, 3), (2, 3), r"\(2, 3\) and the event \(4, 3\).*or mask be \(4,\)"),
        ((3, 3), (3,), r"mask has shape \(3,\) and may count entries or whole events of \(3, 3\): give it 2 axes"),
    ]:
        with pytest.raises(ValueError, match=words):
            call(*arrays(count, event), mask=jnp.ones(mask))


def test_an_image_is_one_event_on_several_axes():
    x, logits = jax.random.normal(jax.random.key(1), (2, 5, 4, 3, 2))
    x = (x > 0.0).astype(jnp.float32)
    flat = bernoulli_log_prob(x.reshape(5, -1), logits.reshape(5, -1))
    for axis in (-3, -2, -1), (1, 2, 3), (-1, 1, 2):
        np.testing.assert_allclose(bernoulli_log_prob(x, logits, axis=axis), flat, rtol=1e-5)
    np.testing.assert_allclose(bernoulli_log_prob(x[0], logits, axis=(-3, -2, -1))[0], flat[0], rtol=1e-5)
    border = np.ones((4, 3, 1)) - np.pad(np.ones((2, 1, 1)), ((1, 1), (1, 1), (0, 0)))
    cases = [(border, border), (np.arange(5) > 2, (np.arange(5) > 2)[:, None, None, None]), (np.ones((1, 1, 2)), 1.0)]
    for mask, full in cases:
        hidden = jnp.where(jnp.asarray(full) > 0.0, logits, jnp.nan)
        kept = np.broadcast_to(np.asarray(full, np.float32), x.shape).reshape(5, -1)
        expected = bernoulli_log_prob(x.reshape(5, -1), logits.reshape(5, -1), jnp.asarray(kept))
        actual = bernoulli_log_prob(x, hidden, jnp.asarray(mask), axis=(-3, -2, -1))
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
        last = bernoulli_log_prob(jnp.moveaxis(x, 0, -1), jnp.moveaxis(logits, 0, -1), axis=(0, 1, 2))
        np.testing.assert_allclose(last, flat, rtol=1e-5)
    more = bernoulli_log_prob(x[0], logits[0], jnp.ones((7, 1, 1, 1)), axis=(0, 1, 2))
    np.testing.assert_allclose(more, np.full(7, flat[0]), rtol=1e-5)


@pytest.mark.parametrize(
    "x, mask, axis, words",
    [
        ((4, 3), (4, 4), (-2, -1), r"mask has shape \(4, 4\)"),
        ((4, 2), None, (-2, -1), r"x has shape \(4, 2\) and logits \(4, 3\).*equal along axis \(-2, -1\)"),
        ((4, 3), None, (-3, -1), "axis -3 is out of bounds"),
        ((4, 3), None, 5, "axis 5 is out of bounds"),
    ],
)
def test_images_that_do_not_fit_are_refused(x, mask, axis, words):
    with pytest.raises(ValueError, match=words):
        bernoulli_log_prob(jnp.zeros(x), jnp.zeros((4, 3)), None if mask is None else jnp.ones(mask), axis)
