"""A parameter as the type of its field, whatever papermill, a shell or a notebook handed over."""

from __future__ import annotations

import ast
import math
import types
import typing


class ConfigError(ValueError):
    """A parameter that is unknown, of the wrong type or out of range; one line that says what is allowed."""


def coerce(name: str, value, annotation):
    """Return a value as the type of its field; the one place where text from papermill or a shell is understood.

    Raises: ConfigError if the value is not of the type.
    """
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if value is None or (isinstance(value, str) and value in ("None", "none", "null") and type(None) in options):
        if type(None) in options:
            return None
    kind = next(option for option in options if option is not type(None))
    try:
        return _coerce_kind(value, kind)
    except (ValueError, TypeError, SyntaxError, OverflowError):
        text = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        expected = text.get(kind, "whole numbers such as 1,2,4")
        raise ConfigError(f"{name} is {value!r}; expected {expected}") from None


def _coerce_kind(value, kind):
    if kind is str:
        return str(value)
    if kind is bool:
        if str(value).lower() not in ("true", "false"):
            raise ValueError
        return str(value).lower() == "true"
    if kind is int:
        return _whole(value)
    if kind is float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError
        return number
    if isinstance(value, str):
        value = ast.literal_eval(value) if value.strip()[:1] in ("[", "(") else value.split(",")
    return tuple(_whole(item) for item in (value if isinstance(value, (list, tuple)) else [value]))


def _whole(value) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def as_text(value) -> str:
    """Return the text that `coerce` turns back into the value of a field."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
