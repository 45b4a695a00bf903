"""A parameter as the type of its field, whatever papermill, a shell or a notebook handed over."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Iterable

EXPECTED = {  # of a value, by the type of its field
    bool: "true or false", int: "a whole number", float: "a number", str: "text",
    tuple[int, ...]: "whole numbers such as 1,2,4", tuple[float, ...]: "numbers such as 1,0.5,0.25",
}  # fmt: skip


class ConfigError(ValueError):
    """A parameter that is unknown, of the wrong type or out of range; one line that says what is allowed."""


def read_fields(parameters: dict, settings: type) -> dict:
    """Return parameters as values of the fields of a dataclass; one that is None is left out.

    Raises: ConfigError for a name that is no field, or a value that is not of its type.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    annotations = typing.get_type_hints(settings)
    for name in given:
        if name not in annotations:
            raise ConfigError(_unknown(name, annotations))
    return {name: coerce(name, value, annotations[name]) for name, value in given.items()}


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown parameter {name!r}{hint}; allowed: {', '.join(known)}"


def check_choice(name: str, value, allowed: Iterable):
    """Return a value that is one of those allowed. Raises: ConfigError if it is not."""
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
    return value


def check_bound(name: str, value, bound: float, *, is_below: bool) -> None:
    """Raise ConfigError if a number, or one of several, is below the bound (or else above); None is no number."""
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None and (number < bound if is_below else number > bound):
            raise ConfigError(f"{name} is {number}; expected {'at least' if is_below else 'at most'} {bound}")
    if value == ():
        raise ConfigError(f"{name} is empty; expected one number or more")


def describe_fields(settings: type) -> str:
    """Return a heading and a line for each field of a dataclass: the option, its default, its comment."""
    rows = re.findall(r"^    (\w+): [^#\n]*(?:# (.*))?$", inspect.getsource(settings), flags=re.MULTILINE)
    default = settings()
    lines = (f"  --{field}={getattr(default, field)}  {comment}".rstrip() for field, comment in rows)
    heading = "Any of these can be given as --NAME=VALUE; shown are the values of the preset tiny:"
    return "\n".join([heading, *lines])


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
        raise ConfigError(f"{name} is {value!r}; expected {EXPECTED[kind]}") from None


def _coerce_kind(value, kind):
    if kind is str:
        return str(value)
    if kind is bool:
        if str(value).lower() not in ("true", "false"):
            raise ValueError
        return str(value).lower() == "true"
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        return int(value)
    if kind is float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            raise ValueError
        return number
    if isinstance(value, str):
        value = ast.literal_eval(value) if value.strip()[:1] in ("[", "(") else value.split(",")
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_coerce_kind(item, typing.get_args(kind)[0]) for item in items)


def as_given(recorded: dict, settings: type) -> dict:
    """Return the fields of a dataclass in a record of one, so that those that are None stay so (`read_fields`)."""
    known = typing.get_type_hints(settings)
    return {name: "none" if value is None else value for name, value in recorded.items() if name in known}


def as_text(value) -> str:
    """Return the text that `coerce` turns back into the value of a field."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
