"""The layer that all networks are made of."""

import jax
import numpy as np
from jax.test_util import check_grads

from vae_bit import networks


def test_affine_and_its_gradients_against_numpy_and_finite_differences():
    rng = np.random.default_rng(0)
    weights, bias, h = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (3, 1), (4, 5)))
    kernel = np.concatenate([weights, bias], axis=1)
    np.testing.assert_allclose(networks.affine(kernel, h), weights @ h + bias, rtol=1e-5)
    with jax.enable_x64(True):
        check_grads(networks.affine, (np.float64(kernel), np.float64(h)), order=2, modes=["rev"], rtol=1e-6)
