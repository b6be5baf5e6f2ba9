"""Functions as text: what config.json and checkpoints know of a model, an objective, an optimiser.

A function is known by its qualified name, by the values that it holds (a partial's arguments, a closure's variables)
and, unless it comes from a package whose version is on record, by a digest of its source.
"""

import dataclasses
import functools
import hashlib
import inspect
import marshal
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

PACKAGES = ("vae_bit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")  # whose versions are on record


def label(value: Any) -> str:
    """A short name: that of a function, of what a partial calls, or of a value's type."""
    if isinstance(value, functools.partial):
        return label(value.func)
    return getattr(value, "__name__", type(value).__name__)


def describe(value: Any) -> Any:
    """The value as JSON would give it back, equal for equal values in any process; TypeError where that cannot be."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic) or type(value).__module__.startswith("jax"):
        return _array(value)
    if isinstance(value, functools.partial):
        arguments = {str(index): part for index, part in enumerate(value.args)} | value.keywords
        return {"function": describe(value.func)} | describe(arguments)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: describe(part) for name, part in zip(value._fields, value, strict=True)}
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): describe(part) for name, part in value.items()}
    if callable(value):
        return _function(value)
    raise TypeError(f"{value!r} cannot be described: expected numbers, functions, or containers of them")


def _array(value: Any) -> Any:
    if callable(value):  # jax.jit's
        return _function(value)
    array = np.asarray(value)
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": _digest(array.tobytes())}


def _function(function: Callable) -> Any:
    name = f"{function.__module__}.{getattr(function, '__qualname__', label(function))}"  # of jnp.tanh, not its inside
    function = inspect.unwrap(function)
    held = _held(function)
    if name.split(".")[0] not in PACKAGES:
        held["source"] = _digest(_source(function))
    return {"function": name} | held if held else name


def _held(function: Callable) -> dict[str, Any]:
    """The variables of a closure, the defaults that are not in the source read above, a bound method's object."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    held = {} if code is None else dict(zip(code.co_freevars, (cell.cell_contents for cell in cells), strict=True))
    return {name: describe(part) for name, part in held.items() if part is not function}


def _source(function: Callable) -> bytes:
    """The source, or where there is none, as in a console, the code that it was compiled to."""
    try:
        return inspect.getsource(function).encode()
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        return marshal.dumps(code) if code else label(function).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
