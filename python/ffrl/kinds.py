"""Whether a value that was read from a file has the type that a dataclass gives its field."""

import math
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ffrl.errors import UserError


def require_kinds(cls: type, values: dict[str, Any]) -> None:
    """UserError unless `values` has exactly the fields of the dataclass `cls`, each of its type.

    Checked are str, bool, int, finite float, None, Literal, tuples and lists of one type, and dictionaries; a field
    that is itself a dataclass has to be a dictionary.
    """
    kinds = get_type_hints(cls)
    names = {field.name for field in fields(cls)}
    if values.keys() != names:
        unknown, missing = sorted(values.keys() - names), sorted(names - values.keys())
        raise UserError(f"expected the names of {cls.__name__}, found unknown {unknown}, missing {missing}")
    for name, value in values.items():
        if not _is_of(value, kinds[name]):
            raise UserError(f"{name}: expected {_described(kinds[name])}, found {value!r}")


def is_finite_number(value: Any) -> bool:
    """Whether `value` is an int or a float that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an int of hundreds of digits
        return False


def _is_of(value: Any, kind: Any) -> bool:
    origin, of = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_of(value, one) for one in of)
    if origin is Literal:
        return isinstance(value, str) and value in of
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_is_of(one, of[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(k, of[0]) and _is_of(v, of[1]) for k, v in value.items())
    if kind is Any:
        return True
    if kind is float:
        return is_finite_number(value)
    if kind in (int, bool, str, NoneType):
        return type(value) is kind
    return isinstance(value, dict)


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if kind is float:
        return "a finite number"
    return str(kind) if get_origin(kind) else getattr(kind, "__name__", str(kind))
