"""JSON records of dataclasses, such as config.json: read with their types checked, nothing in them executed."""
import json
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

from runtime.errors import InputError, one_line
from runtime.files import check_readable, write_text


def read_json(path, remedy):
    """The object in a JSON file as a dict; InputError ending in `remedy` for anything else."""
    check_readable(path)
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}): {remedy}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds a {type(values).__name__}, expected a JSON object: {remedy}")
    return values


def from_record(cls, values, where, remedy):
    """The dataclass of a record's values; lists become tuples and strings paths where the fields say so.

    InputError names `where` and the fields that are unknown, absent without a default, or of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: holds a {type(values).__name__}, expected an object with fields: {remedy}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - {field.name for field in fields(cls)})
    if unknown:
        raise InputError(f"{where}: unknown fields {', '.join(unknown)}: it was written by another version or for "
                         "another data set; remove them, or train with that version")
    typed = {}
    for name, value in values.items():
        try:
            typed[name] = _typed(value, hints[name])
        except TypeError as error:
            found = json.dumps(value, default=str)[:60]
            raise InputError(f"{where}: {name} is {found}, expected {error}: {remedy}") from None
    try:
        return cls(**typed)
    except TypeError as error:
        raise InputError(f"{where}: {one_line(error).split('() ')[-1]}: {remedy}") from error


def read_record(cls, path, remedy):
    """The dataclass in a JSON file, None where there is no file; InputError as of `read_json` and `from_record`."""
    return from_record(cls, read_json(path, remedy), path, remedy) if path.exists() else None


def write_record(path, record, **how):
    """Write a dataclass, or values that JSON knows, as a JSON file; how: options of `json.dumps`."""
    write_text(path, json.dumps(asdict(record) if is_dataclass(record) else record, **how) + "\n")


def _typed(value, hint):
    """`value` from JSON as the type that `hint` names; TypeError with the name of what was expected."""
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind in (types.UnionType, typing.Union):
        for part in parts:
            try:
                return _typed(value, part)
            except TypeError:
                continue
    elif kind is typing.Literal:
        if value in parts and type(value) in map(type, parts):
            return value
    elif kind is tuple:
        if isinstance(value, list | tuple):
            inner = parts[:1] * len(value) if parts[1:] == (...,) else parts
            if len(inner) == len(value):
                return tuple(map(_typed, value, inner))
    elif kind is dict:
        if isinstance(value, dict):
            return {_key(key, parts[0]): _typed(item, parts[1]) for key, item in value.items()}
    elif hint is Path:
        if isinstance(value, str):
            return Path(value)
    elif hint is float:
        if type(value) in (int, float) and abs(value) < 2 ** 1023:      # or what JSON calls Infinity and NaN
            return float(value)
    elif hint is typing.Any or type(value) is hint or (hint is type(None) and value is None):
        return value
    raise TypeError(hint.__name__ if isinstance(hint, type) and not parts else str(hint).replace("typing.", ""))


def _key(text, hint):
    """JSON's keys are strings."""
    try:
        return hint(text)
    except ValueError:
        raise TypeError(f"keys that are {hint.__name__}") from None
