"""Descriptions of functions: equal for equal ones in any process, different for any that could compute otherwise."""

import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_bit import noise, objectives
from vae_bit.architecture import Architecture
from vae_bit.presets import DEFAULT, ORIGINAL, PRESETS
from vae_bit.store.describe import describe, label

MODULE = """
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_bit import objectives


class Pair(NamedTuple):
    first: object
    second: object


def scaled(size):
    def objective(draws):
        return size * draws.mean(draws.recon)

    return objective


@jax.jit
def jitted(x):
    return x in {"a", "b", "c"}


def searched(rate):
    return optax.chain(optax.clip(1.0), optax.adam(rate))


VALUES = {
    "partial": functools.partial(objectives.free_bits, floor=0.1),
    "closure": scaled(2.0),
    "lambda": lambda draws, size=3.0: size * draws.beta,
    "pair": Pair(jnp.tanh, (1, 2.5, None, "text")),
    "jax": [jnp.tanh, jnp.add, jax.nn.relu, jax.vmap(jnp.sin), jnp.float32],
    "numpy": [np.tanh, np.arange(3.0), np.float32(2.0)],
    "optax": [optax.lion, optax.cosine_decay_schedule(1.0, 10), searched(0.1)],
    "jitted": jitted,
}
"""


@pytest.fixture(autouse=True)
def no_module():
    """Forgets what `load` has imported."""
    yield
    sys.modules.pop("own", None)


def load(path: Path):
    spec = importlib.util.spec_from_file_location("own", path)
    assert spec and spec.loader
    module = sys.modules["own"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def elsewhere(code: str, seed: int) -> str:
    """What a fresh process prints, whose strings hash in their own way."""
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(Path.cwd())])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(seed)}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return process.stdout


def text(value) -> str:
    return json.dumps(describe(value), sort_keys=True)


def test_descriptions_are_the_same_in_every_process(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    here = "import json, own; from vae_bit.store.describe import describe; from vae_bit.presets import PRESETS\n"
    code = here + "print(json.dumps(describe([own.VALUES, PRESETS]), sort_keys=True))"
    first, second = (elsewhere(code, seed) for seed in (1, 2))
    assert first == second == text([load(tmp_path / "own.py").VALUES, PRESETS]) + "\n"


def test_functions_typed_into_a_console_too():
    """They have no source that could be read."""
    lines = [
        "from vae_bit.store.describe import describe",
        "size = 2",
        "def own(x): return size * x in {'a', 'b', 'c'}",
    ]
    show = "print(describe([own, lambda x: 2 * x]))"
    first, second = (elsewhere("\n".join([*lines, show]), seed) for seed in (1, 2))
    assert first == second == elsewhere("\n".join([*lines[:2], "", "", lines[2], show]), 3)
    other = elsewhere("\n".join([*lines[:2], lines[2].replace("size * x", "size + x"), show]), 1)
    assert other != first


def test_the_presets_are_told_apart_and_known_again():
    assert text(DEFAULT) != text(ORIGINAL)
    arch: Any = DEFAULT.model
    assert text(arch) == text(replace(arch))
    assert text(DEFAULT.recipe) != text(replace(DEFAULT.recipe, steps=1))
    assert json.loads(text(DEFAULT)) == describe(DEFAULT)


def closure(size):
    return lambda x: size * x


def with_default(size):
    def function(x, size=size):
        return size * x

    return function


def with_keyword(size):
    def function(x, *, size=size):
        return size * x

    return function


def wrapped(size):
    def decorate(function):
        @functools.wraps(function)
        def decorated(x):
            return size * function(x)

        return decorated

    return decorate(math.sqrt)


class Scaled:
    def __init__(self, size):
        self.size = size

    def __call__(self, x):
        return self.size * x

    def method(self, x):
        return self.size * x


class Point(NamedTuple):
    size: float


@dataclass
class Data:
    size: float


MAKERS = {
    "closure": closure,
    "default": with_default,
    "keyword": with_keyword,
    "decorator": wrapped,
    "object": Scaled,
    "method": lambda size: Scaled(size).method,
    "named tuple": Point,
    "dataclass": Data,
    "array": lambda size: jnp.full(3, size),
    "partial": lambda size: functools.partial(closure, size),
    "partial of a keyword": lambda size: functools.partial(noise.trapezoid, upper=size),
    "function that holds a function": lambda size: closure(closure(size)),
    "jit": lambda size: jax.jit(closure(size)),
    "vmap": lambda size: jax.vmap(closure(size)),
    "optax": lambda size: optax.chain(optax.clip(1.0), optax.sgd(size)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_functions_that_hold_other_values_differ(name):
    make = MAKERS[name]
    assert text(make(2.0)) == text(make(2.0)) != text(make(3.0))


def test_types_of_the_same_fields_differ():
    class Own(Architecture):
        def __call__(self, layers, width):
            return super().__call__(layers + 1, width)

    fields = vars(DEFAULT.model)
    assert text(Own(**fields)) != text(Architecture(**fields)) == text(DEFAULT.model)
    assert text(Point(2.0)) != text(Data(2.0)) != text(Scaled(2.0))


def test_functions_of_one_line_differ():
    one, other = (lambda x: x + 1), (lambda x: x + 2)
    assert text(one) != text(other)


def test_a_changed_source_differs(tmp_path):
    path, sources = tmp_path / "own.py", []
    for body in ("2.0 * x", "2.0 * x", "2.1 * x"):
        path.write_text(f"def objective(x):\n    return {body}\n\n\nclass Net:\n    size = {body[0:3]}\n")
        sources.append([text(part) for part in (load(path).objective, load(path).Net)])
        path = tmp_path / f"own_{len(sources)}.py"
    assert sources[0] == sources[1]
    assert all(a != b for a, b in zip(sources[0], sources[2], strict=True))


def test_functions_of_packages_go_by_their_names():
    assert describe(objectives.elbo) == "vae_bit.objectives.elbo"
    assert describe(jnp.tanh) == describe(jax.jit(jnp.tanh)) == "jax.numpy.tanh"
    assert describe(np.tanh) == "numpy.tanh"
    floored = {"function": "vae_bit.objectives.free_bits", "arguments": {"floor": 0.1}}
    assert describe(functools.partial(objectives.free_bits, floor=0.1)) == floored
    names = [label(value) for value in (objectives.elbo, functools.partial(optax.lion, b1=0.5), Scaled(1.0))]
    assert names == ["elbo", "lion", "Scaled"]


@pytest.mark.parametrize("value", [object(), {1, 2}, closure({1, 2}), b"bytes"])
def test_what_has_no_description_is_refused(value):
    with pytest.raises(TypeError, match="cannot be described: expected numbers, functions, or containers of them"):
        describe(value)
