"""What makes a whole process train faster, each to be asked for: nothing here happens when `vae_bit` is imported."""

import ctypes
import os
import sys
import warnings
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def use_all_cores() -> None:
    """Makes one CPU device of each core this process may use, unless the user has chosen a number of devices.

    JAX makes its devices when it is first used and keeps them. Where that was before, with fewer CPU devices than
    cores and no accelerator, a UserWarning says so and all goes on with these.
    """
    chosen = getattr(jax.config, "jax_num_cpu_devices", -1) != -1
    if chosen or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", usable)
    except RuntimeError:
        made = jax.local_device_count()
        if jax.default_backend() == "cpu" and made < usable:
            advice = "to use all, restart Python and call vae_bit.runtime.use_all_cores() before anything else of JAX"
            warnings.warn(f"JAX has started already: {made} of {usable} cores will train; {advice}", stacklevel=2)


def keep_freed_memory() -> None:
    """Has glibc, where it is, keep the megabytes that every block of steps takes and frees.

    To ask the system for them again, page by page, took up to a quarter of a narrow sweep's time.
    """
    if mallopt := sys.platform == "linux" and getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)


def keep_programs(folder: str | os.PathLike[str]) -> None:
    """Keeps compiled programs in `folder`, which is made where it is missing, for later processes.

    Programs are run as they are found: ValueError where others may write them, and where there can be no such folder.
    """
    try:
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.stat(folder)
    except OSError as error:
        raise ValueError(f"compilation_cache={folder}: {error.strerror}; expected a folder") from error
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        raise ValueError(f"compilation_cache={folder}: others can write programs there; expected a folder of your own")
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()  # JAX would go on with the folder that it has used before
