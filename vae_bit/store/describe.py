"""Functions as text: what config.json and checkpoints know of a model, an objective, an optimiser.

A function is known by its qualified name, by the values that it holds (a partial's arguments, a closure's variables,
defaults, a bound method's object) and, unless it comes from a package whose version is on record, by a digest of its
source. What it reads from its module, constants and other functions, is not looked at: hand that in as a partial's
argument.
"""

import dataclasses
import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from types import CodeType, MethodType
from typing import Any

import jax
import numpy as np

PACKAGES = ("vae_bit", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")  # whose versions are on record


def label(value: Any) -> str:
    """A short name: that of a function, of what a partial calls, or of a value's type."""
    if isinstance(value, functools.partial):
        return label(value.func)
    return getattr(value, "__name__", type(value).__name__)


def describe(value: Any) -> Any:
    """The value as JSON would give it back, equal for equal values in any process; TypeError where that cannot be."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # JSON has no such number
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": _digest(array.tobytes())}
    if isinstance(value, functools.partial):
        arguments = {str(index): part for index, part in enumerate(value.args)} | value.keywords
        return {"function": describe(value.func), "arguments": describe(arguments)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _of_type(value, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _of_type(value, value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): describe(part) for name, part in value.items()}
    if callable(value):
        return _callable(value)
    raise TypeError(f"{value!r} cannot be described: expected numbers, functions, or containers of them")


def _of_type(value: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": describe(type(value))} | describe(parts)


def _callable(value: Any) -> Any:
    """Of jit and the like only what they were made of, as they change no number."""
    while not _known(_module(value)) and _known(type(value).__module__) and hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    if isinstance(value, MethodType):
        return {"function": describe(value.__func__), "self": describe(value.__self__)}
    known = _known(_module(value))
    if not known and not hasattr(value, "__qualname__"):
        return _of_type(value, vars(value))
    name = f"{_module(value)}.{getattr(value, '__qualname__', label(value))}"
    held = _held(value) if known else _held(value) | _defaults(value) | {"source": _digest(_source(value))}
    return {"function": name} | held if held else name


def _module(value: Any) -> str:
    return getattr(value, "__module__", None) or type(value).__module__


def _known(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def _held(function: Callable) -> dict[str, Any]:
    """A closure's variables but for the function itself, and for bare objects, which stand for what is not given."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    held = {} if code is None else dict(zip(code.co_freevars, (cell.cell_contents for cell in cells), strict=True))
    return {name: describe(part) for name, part in held.items() if part is not function and type(part) is not object}


def _defaults(function: Callable) -> dict[str, Any]:
    """Values that were computed where the function was defined: its source has their names alone."""
    defaults, keywords = (getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__"))
    return {"defaults": describe([*(defaults or ()), keywords])} if defaults or keywords else {}


def _source(value: Any) -> bytes:
    """The source, or the code that it was compiled to: of a lambda, whose line may hold others, or in a console."""
    code = getattr(value, "__code__", None)
    try:
        if label(value) != "<lambda>":
            return inspect.getsource(code or value).encode()
    except (OSError, TypeError):
        pass
    parts = [code] if code else [getattr(part, "__code__", None) for part in getattr(value, "__dict__", {}).values()]
    return repr([_instructions(part) for part in parts if part]).encode()


def _instructions(code: CodeType) -> tuple[Any, ...]:
    """What the code does, wherever it stands."""
    constants = [_instructions(part) if isinstance(part, CodeType) else _constant(part) for part in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames


def _constant(part: Any) -> Any:
    return sorted(map(repr, part)) if isinstance(part, frozenset) else part


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
