"""What a process asks for before it trains: all cores, kept programs; each in a Python of its own."""

import os
import subprocess
import sys

import pytest
from commands import ROOT

from vae_bit import runtime

COUNT = """
import os
os.sched_getaffinity = lambda process: {0, 1, 2}
import jax, vae_bit
from vae_bit import runtime
%s
print(jax.device_count())
"""
ASK = "for _ in range(2): runtime.use_all_cores()"


def python(script, **variables):
    """Its output and its errors."""
    chosen = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR")
    usual = {name: value for name, value in os.environ.items() if name not in chosen}
    environment = {**usual, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **variables}
    line = [sys.executable, "-c", script]
    process = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return process.stdout, process.stderr


@pytest.mark.parametrize(
    ("lines", "variables", "devices"),
    [
        ("", {}, 1),  # nobody has asked
        (ASK, {}, 3),
        (ASK, {"JAX_NUM_CPU_DEVICES": "2"}, 2),
        (ASK, {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4),
        (f"jax.config.update('jax_num_cpu_devices', 2)\n{ASK}", {}, 2),
        (f"jax.config.update('jax_num_cpu_devices', 1)\njax.devices()\n{ASK}", {}, 1),
    ],
)
def test_a_device_for_each_core_unless_the_user_has_chosen(lines, variables, devices):
    assert python(COUNT % lines, **variables) == (f"{devices}\n", "")


def test_a_jax_that_has_started_keeps_its_devices_and_says_so_once():
    """As in a notebook, whose earlier cells have used JAX."""
    output, errors = python(COUNT % f"jax.numpy.zeros(1)\n{ASK}")
    assert output == "1\n"
    assert errors.count("Warning") == 1
    assert "UserWarning: JAX has started already: 1 of 3 cores will train; to use all, restart Python" in errors


def test_with_the_cores_there_are_nothing_is_said():
    assert python(COUNT.replace("{0, 1, 2}", "{0}") % f"jax.devices()\n{ASK}") == ("1\n", "")


def test_programs_are_kept_from_then_on_in_the_folder_named_last(tmp_path):
    """Also in a process that has compiled before, and kept that elsewhere."""
    script = f"""
import jax
from vae_bit import runtime
for number in range(3):
    if number:
        runtime.keep_programs(f"{tmp_path}/above/{{number}}")
    jax.jit(lambda x: x + number)(1.0)
"""
    python(script, JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1")
    for number in (1, 2):
        folder = tmp_path / "above" / str(number)
        assert sum(path.name.startswith("jit__lambda") for path in folder.iterdir()) == 1
        assert folder.stat().st_mode & 0o777 == 0o700


def test_programs_that_others_can_write_are_not_run(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ValueError, match=f"^compilation_cache={shared}: others can write programs there; expected"):
        runtime.keep_programs(shared)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^compilation_cache={tmp_path}/file: File exists; expected a folder$"):
        runtime.keep_programs(str(tmp_path / "file"))
