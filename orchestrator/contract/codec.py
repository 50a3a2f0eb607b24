"""The values of `bodies` as JSON, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from orchestrator.contract.bodies import Also, Key
from orchestrator.errors import OrchestratorError

T = TypeVar("T")


class BodyError(OrchestratorError):
    """What came is no such body."""


def to_json(value: Any) -> dict[str, Any]:
    """A value as it stands in an answer."""
    shape = _shape(type(value))
    found = dict(zip(shape.keys, shape.get(value), strict=True))
    for key, write in shape.writers:
        if found[key] is not None:
            found[key] = write(found[key])
    return found


def from_json(kind: type[T], body: Any) -> T:
    """The value. Fields that this version does not know are passed over, and those that an older server does
    not send are as the type has them. Raises BodyError."""
    what = f"a {kind.__name__.lower()}"
    if not isinstance(body, dict):
        raise BodyError(f"instead of {what} came {str(body)[:80]!r}")
    given: dict[str, Any] = {}
    for one in _shape(kind).fields:
        item = body.get(one.key)
        try:
            if item is not None:
                given[one.name] = one.read(item)
            elif one.nullable:
                given[one.name] = None
            elif one.required:
                raise KeyError(one.key)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BodyError(f"{what} came without what belongs to it ({error})") from error
    return kind(**given, **({"raw": body} if hasattr(kind, "raw") else {}))


class _Field(NamedTuple):
    name: str
    key: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any] | None
    """None: JSON has it as it is."""
    nullable: bool
    required: bool


class _Shape(NamedTuple):
    """A type's fields as they are read, and all laid out for what is written most: lists of jobs, and their
    changes."""

    fields: tuple[_Field, ...]
    keys: tuple[str, ...]
    get: Callable[[Any], tuple[Any, ...]]
    writers: tuple[tuple[str, Callable[[Any], Any]], ...]


_SHAPES: Final[dict[type[Any], _Shape]] = {}


def _shape(kind: type[Any]) -> _Shape:
    if kind not in _SHAPES:
        hints = get_type_hints(kind, include_extras=True)
        declared = [one for one in fields(kind) if one.name != "raw"]
        found = tuple(
            _field(one.name, hints[one.name], one.default is MISSING and one.default_factory is MISSING)
            for one in declared
        )
        _SHAPES[kind] = _Shape(
            # What a value tells of itself is not read.
            tuple(shown for shown, one in zip(found, declared, strict=True) if one.init),
            tuple(one.key for one in found),
            attrgetter(*(one.name for one in found)),
            tuple((one.key, one.write) for one in found if one.write is not None),
        )
    return _SHAPES[kind]


def _field(name: str, hint: Any, required: bool) -> _Field:
    hint, notes = _unwrap(hint)
    nullable = isinstance(hint, UnionType) and NoneType in get_args(hint)
    if nullable:
        hint, inner = _unwrap(next(one for one in get_args(hint) if one is not NoneType))
        notes += inner
    key = next((str(note) for note in notes if isinstance(note, Key)), name)
    read = _reader(hint)
    for note in notes:
        if isinstance(note, Also) and {"minimum", "maximum"} <= note.keywords.keys():
            read = partial(_within, note.keywords["minimum"], note.keywords["maximum"])
    return _Field(name, key, read, _writer(hint), nullable, required)


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _writer(hint: Any) -> Callable[[Any], Any] | None:
    if hint is datetime:
        return _rfc3339
    if is_dataclass(hint):
        return to_json
    if get_origin(hint) is tuple:
        inner = _writer(get_args(hint)[0])
        return list if inner is None else lambda items: [inner(item) for item in items]
    return dict if get_origin(hint) is Mapping else None


def _reader(hint: Any) -> Callable[[Any], Any]:
    if hint is datetime:
        return datetime.fromisoformat
    if isinstance(hint, type) and is_dataclass(hint):
        return partial(from_json, hint)
    if get_origin(hint) is tuple:
        inner = _reader(get_args(hint)[0])
        return lambda items: tuple(inner(item) for item in items)
    found: Callable[[Any], Any] = dict if get_origin(hint) is Mapping else hint
    return found


def _rfc3339(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _within(least: float, most: float, item: Any) -> float:
    return min(most, max(least, float(item)))
