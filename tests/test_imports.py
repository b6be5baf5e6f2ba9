"""What an import or a command loads: nothing that it does not need."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from commands import ROOT

MISSING = "import sys; sys.modules |= dict.fromkeys({missing}); "  # imports of these then fail
LOSS = "import jax.numpy as jnp, vae_bit as vb; print(vb.elbo(jnp.array(-1.0), jnp.array(0.5)))"
OF_THE_COMMANDS = ("absl", "rich", "matplotlib")
OF_THE_STORE = ("flax", "optax", "msgspec", "filelock")


def loaded(*line):
    """Status and top-level packages that the line of Python's arguments has imported."""
    process = subprocess.run(
        [sys.executable, "-X", "importtime", *line], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = [text.split("|")[-1].strip() for text in process.stderr.splitlines() if text.startswith("import time:")]
    return process.returncode, {name.split(".")[0] for name in names}


def python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_losses_need_jax_and_numpy_alone():
    process = python(MISSING.format(missing=(*OF_THE_COMMANDS, *OF_THE_STORE)) + LOSS)
    assert (process.stdout, process.returncode) == ("-1.5\n", 0), process.stderr


def test_a_sweep_can_be_planned_without_what_the_commands_need():
    """All of the library; its dependencies may themselves bring some of it."""
    code = "import vae_bit.sweep, vae_bit.presets, vae_bit.store.results, vae_bit.store.checkpoint"
    process = python(MISSING.format(missing=("matplotlib",)) + code)
    assert process.returncode == 0, process.stderr


def test_a_command_says_what_to_install():
    code = "import experiments; experiments.require('matplotlib')"
    process = python(MISSING.format(missing=("matplotlib",)) + code)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ") and process.stderr.endswith("pip install -e '.[experiments]'\n")
    assert process.stderr.count("\n") == 1


def test_extras_hold_all_that_is_imported():
    """What the library imports is a dependency, and what the commands import besides is their extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base, extra = (
        {re.split(r"\W", line.replace("-", "_"))[0] for line in lines}
        for lines in (project["dependencies"], project["optional-dependencies"]["experiments"])
    )
    library, commands = imported("vae_bit"), imported("experiments", but="benchmark")
    assert library <= base
    assert {{"absl": "absl_py"}.get(name, name) for name in commands | library} == base | extra
    assert not base & extra


def imported(package, but="nothing"):
    """The packages of others that it imports, wherever in its files."""
    found = set()
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())) if but not in path.parts else ():
            if isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
    return found - set(sys.stdlib_module_names) - {"vae_bit", "experiments"}


@pytest.mark.parametrize(("flag", "status"), [("--help", 1), ("--n=0", 2)])
def test_without_work_no_picture_is_prepared(flag, status):
    found, packages = loaded("-m", "experiments.sweep", flag)
    assert found == status
    assert "absl" in packages and "matplotlib" not in packages
