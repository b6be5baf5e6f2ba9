import jax.numpy as jnp
import numpy as np
import pytest

from vae_bit import data


@pytest.mark.parametrize("n", [1, 3, 5])
def test_points_and_mask(n):
    real = np.arange(5) < n
    np.testing.assert_array_equal(data.mask(jnp.int32(n), 5), real)
    np.testing.assert_array_equal(data.points(jnp.int32(n), 5), np.stack([np.zeros(5), real], 1))
    assert data.points(jnp.int32(n), 5).shape[1] == data.POINTS
