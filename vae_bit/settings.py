"""JAX's own settings under which runs are traced, compiled and called: fixed, whatever the user's are.

A setting that changes what is computed would change a run's bits without a word, and one that forbids or checks
something would break it. Each lies in the thread that enters it alone, and is the user's own again outside.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax


@contextmanager
def fixed(x64: bool = False) -> Iterator[None]:
    """Training's settings, or with x64 the exact evaluation's; a context, or a decorator."""
    with ExitStack() as stack:
        for setting in (
            jax.enable_x64(x64),
            jax.numpy_dtype_promotion("standard"),
            jax.default_prng_impl("threefry2x32"),
            jax.threefry_partitionable(True),
            jax.default_matmul_precision("highest"),
            jax.debug_nans(False),  # diverged runs have their own account
            jax.debug_infs(False),
            jax.disable_jit(False),
            jax.transfer_guard("allow"),
        ):
            stack.enter_context(setting)
        yield
