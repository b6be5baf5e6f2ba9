import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 3)

import commands  # noqa: E402
from commands import FILES, SMALL, Command  # noqa: E402

from vae_bit import sweep  # noqa: E402
from vae_bit.presets import PRESETS, Preset  # noqa: E402
from vae_bit.sweep import Trained  # noqa: E402


@pytest.fixture(scope="module")
def quick_compile() -> Iterator[None]:
    """Compiles without optimising, in half the time: for tests that compile for seconds and run for moments."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def tiny() -> dict[str, Preset]:
    """The presets at widths and sample counts that compile and run at once."""

    def shrunk(preset: Preset) -> Preset:
        arch: Any = preset.model
        hidden = {"encoder_hidden": (4,) if arch.encoder_hidden else (), "decoder_hidden": (4,), "latent_hidden": (3,)}
        recipe = dataclasses.replace(preset.recipe, samples=4, steps=300)
        return preset._replace(model=dataclasses.replace(arch, **hidden), recipe=recipe)

    return {name: shrunk(preset) for name, preset in PRESETS.items()}


@pytest.fixture(scope="session")
def trained(tiny: dict[str, Preset]) -> list[Trained]:
    """Groups of one and two layers: 16 runs each, which three devices cannot share evenly; half of them diverge."""
    groups = sweep.plan(tiny["default"], [1, 2], [2, 5], [0.5, 2.0], None, [2e-2, 1e30], [0, 2**32 - 1])
    return sweep.train_all(groups)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which commands run that share their compiled programs."""
    commands.prepare(tmp_path_factory.mktemp("cache"))
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def done(work: Path) -> Path:
    """A sweep that nothing disturbed."""
    outcome = Command(work, "sweep", *SMALL, "--out=done").wait()
    assert (outcome.status, outcome.stderr) == (0, "")
    assert commands.names(work / "done") == FILES
    return work / "done"


@pytest.fixture(scope="module")
def stopped(work: Path, done: Path) -> Path:
    """The same sweep, stopped by Ctrl-C soon after its first checkpoint."""
    out = work / "stopped"
    command = Command(work, "sweep", *SMALL, "--out=stopped", "--checkpoint_every=0")
    command.until(lambda: commands.saved(out))
    command.kill(signal.SIGINT)
    outcome = command.wait()
    assert outcome.status == 130
    assert outcome.stderr.splitlines()[-1].endswith("-m experiments.sweep --out=stopped --resume")
    assert commands.names(out) == {"config.json", "checkpoints"}
    return out
