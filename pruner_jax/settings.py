"""Settings as people write them, YAML and dotted overrides, read into frozen dataclasses.

`read` gathers what is given (``--learn.remat=full``, ``--method.length.weight=0.1`` over a file),
`build` has jsonargparse check it against a class: unknown keys, wrong types and contradictory
values are errors that name the field, what was found and what is allowed. `plain` is the way back.
Left out: every particular class (see `config`). Nothing here imports JAX.
"""

from __future__ import annotations

import argparse
import atexit
import collections.abc
import copy
import dataclasses
import enum
import functools
import pathlib
import re
import tempfile
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting is unknown, has the wrong type, or contradicts another."""


@dataclasses.dataclass(frozen=True)
class Given:
    """Settings as they were given; nothing about them is checked yet."""

    file: str | None
    """The YAML file, to be named in errors."""

    tree: Mapping[str, Any]
    """What the file says."""

    words: Sequence[str]
    """The overrides, spelled out as --dotted.name=value; they win over the tree."""

    def over(self, low: Mapping[str, Any]) -> Given:
        """The same above other settings, which hold wherever these say nothing."""
        return dataclasses.replace(self, tree=_overlay(low, self.tree))


# -- reading ---------------------------------------------------------------------------------------


def read(cls: type, file: str | None = None, overrides: Sequence[str] = ()) -> Given:
    """What a file and command-line words say, for a class whose names the words may shorten."""
    words = _spell_out(cls, overrides)
    return Given(file, _read_yaml(file) if file else {}, words)


def _spell_out(cls: type, words: Sequence[str]) -> list[str]:
    """Command-line words with what people leave out: ``--dry-run`` is ``--dry_run=true``, and
    ``--problems last_digit`` or ``--expander MODEL`` names what fills the room:
    ``--problems.name=last_digit``, ``--expander.model=MODEL``."""
    kinds = typing.get_type_hints(cls)
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        head, dot, tail = key.partition(".")
        name = head.replace("-", "_")
        kind = kinds.get(name)
        if not word.startswith("--") or kind is None:
            found.append(word)  # for jsonargparse to refuse, which knows how to name it
            continue
        takes_next = left and (
            left[0].lower() in ("true", "false") if kind is bool else not left[0].startswith("--")
        )
        if not equals and takes_next:
            equals, value = "=", left.pop(0)
        if kind is bool and not equals:
            equals, value = "=", "true"
        parts = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        fills = [part.name for part in parts if part.name in ("name", "model")]
        if fills and not dot and value and not value.lstrip().startswith("{"):  # a mapping in YAML
            dot, tail = ".", fills[0]
        found.append(f"--{name}{dot}{tail}{equals}{value}")
    return found


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may be written 1e-6, as people write them (YAML 1.1 wants 1.0e-6)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _read_yaml(file: str) -> dict[str, Any]:
    path = pathlib.Path(file)
    if not path.is_file():
        raise ConfigError(f"there is no configuration at {file}")
    try:
        given = yaml.load(path.read_text(), _Loader) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{file} holds {given!r}, not a mapping of settings")
    return given


def _overlay(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of settings as one; where both have a value, the second's.

    A mapping over a list changes the entries it numbers, or the single entry there is.
    """
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = _overlay(old, value)
        elif isinstance(value, Mapping) and isinstance(old, list):
            value = _overlay_list(str(key), old, value)
        merged[key] = value
    return merged


def _overlay_list(key: str, old: list[Any], changes: Mapping[str, Any]) -> list[Any]:
    if not all(str(place).isdigit() for place in changes):
        changes = {0: changes} if len(old) == 1 else changes
    entries = dict(enumerate(old))
    for place, change in changes.items():
        if not str(place).isdigit() or int(place) >= len(old):
            raise ConfigError(
                f"{key} is a list of {len(old)} entries, and {place!r} names none of them; say "
                f"which one by its number, {key}.0 to {key}.{len(old) - 1}"
            )
        entries |= _overlay({int(place): entries[int(place)]}, {int(place): change})
    return list(entries.values())


# -- building --------------------------------------------------------------------------------------


def build(cls: type[T], given: Given) -> T:
    """The value of a class: its defaults, then the tree, then the words, last one wins.

    Raises:
      ConfigError: with the field, what was found and what is allowed.
    """
    tree, words, free = _take_free(cls, given)
    where = f"{given.file}: " if given.file else ""
    _check_names(cls, tree, where)
    for word in words:
        _check_names(cls, _as_tree(word))
    try:
        made = parser(cls)
        settings = made.parse_args([f"--config={_write_yaml(tree)}", *words])
        values = vars(made.instantiate(settings))
        value = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
        for name, mapping in free.items():
            value = _replace(value, name.split("."), mapping)
        return value
    except argparse.ArgumentError as error:
        message = str(error.message or error)
        raise ConfigError(_refused(cls, tree, words, message, where)) from None
    except ValueError as error:  # of a class that refuses its values
        raise ConfigError(str(error)) from None


def _check_names(cls: type, tree: Mapping[str, Any], where: str = "") -> None:
    """Refuse what is no setting, and a value where a section belongs: jsonargparse names no
    alternatives, takes beginnings of names for them, and lets such a value pass in silence."""
    kinds = typing.get_type_hints(cls)
    for key, value in tree.items():
        if key not in kinds:
            raise ConfigError(f"{where}{key} is unknown; allowed: {', '.join(kinds)}")
        if dataclasses.is_dataclass(kinds[key]):
            if not isinstance(value, Mapping):
                names = ", ".join(typing.get_type_hints(kinds[key]))
                raise ConfigError(f"{where}{key} is {value!r}; allowed: a mapping of {names}")
            _check_names(kinds[key], value, f"{where}{key}.")


def _as_tree(word: str) -> dict[str, Any]:
    """The tree that ``--dotted.name=value`` stands for."""
    key, equals, value = word.partition("=")
    if not key.startswith("--") or not equals:
        raise ConfigError(f"{word!r} is no setting; write --name=value, see --help")
    try:
        tree = yaml.load(value, _Loader)
    except yaml.YAMLError:
        tree = value  # text, or for jsonargparse to refuse
    for part in reversed(key.removeprefix("--").removesuffix("+").split(".")):
        tree = {part: tree}
    return tree


def _refused(
    cls: type, tree: Mapping[str, Any], words: Sequence[str], message: str, where: str
) -> str:
    """What is wrong in our words, where jsonargparse says which setting it is about."""
    match = re.match(r'Parser key "([\w.]+)"', message)
    if match is None:
        return f"{where}{message}"
    kind = cls
    found: list[tuple[str, Any]] = [(where, tree), *(("", _as_tree(word)) for word in words)]
    for part in match[1].split("."):
        kind = typing.get_type_hints(kind)[part]
        found = [(w, x[part]) for w, x in found if isinstance(x, Mapping) and part in x]
    # A file's value is refused even where a word replaces it; the message quotes which it was.
    where, value = next((pair for pair in found if str(pair[1]) in message), found[-1])
    return f"{where}{match[1]} is {value!r}; allowed: {describe(kind)}"


def describe(hint: Any) -> str:
    """A type in the words of an error message."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is typing.Literal:
        return ", ".join(map(str, inner))
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(describe, inner))
    if kind in (dict, collections.abc.Mapping):
        return "a mapping" + (f" {{name: {describe(inner[1])}}}" if inner else "")
    if kind in (list, tuple):
        return "a list" + (f" [{describe(inner[0])}, ...]" if inner else "")
    words = {
        **{int: "a whole number", float: "a number", str: "text", bool: "true or false"},
        **{types.NoneType: "null", Any: "anything"},
    }
    return words.get(kind, str(hint))


@functools.cache  # made in a fifth of a second, and no parse changes it
def parser(cls: type, prog: str = "pruner-jax", description: str | None = None) -> Any:
    """The jsonargparse parser of a configuration class; ``--config FILE`` reads YAML."""
    import jsonargparse  # slow to import, and not needed by those who only name a class

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    made = jsonargparse.ArgumentParser(prog=prog, description=description, exit_on_error=False)
    made.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    made.add_class_arguments(cls)
    return made


def _write_yaml(settings: Mapping[str, Any]) -> str:
    """A file that jsonargparse can read, gone when the program ends."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(dict(settings), file)
    atexit.register(pathlib.Path(file.name).unlink, missing_ok=True)
    return file.name


def _replace(value: Any, path: Sequence[str], new: Any) -> Any:
    if not path:
        return new
    part = _replace(getattr(value, path[0]), path[1:], new)
    return dataclasses.replace(value, **{path[0]: part})


# -- free mappings ---------------------------------------------------------------------------------
# What a method or a problem source declares for itself is not known here. These settings go round
# jsonargparse, which would read every text in them as YAML once more ("#### (.+)" as a comment).


def _take_free(cls: type, given: Given) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Tree and words without the free mappings of a class, and these by their dotted names."""
    names = _free_names(cls)
    tree = copy.deepcopy(dict(given.tree))  # what was given stays whole
    free = _take_free_parts(names, tree)
    rest: list[str] = []
    for word in given.words:
        key = word.removeprefix("--").partition("=")[0]
        name = next((n for n in names if key == n or key.startswith(f"{n}.")), None)
        if not word.startswith("--") or name is None:
            rest.append(word)
        else:
            new, old = _read_free_word(name, word), free.get(name, {})
            if new.get("name", old.get("name")) != old.get("name"):
                old = {}  # what was set beside it belongs to what had the other name
            free[name] = _overlay(old, new)
    return tree, rest, free


def _free_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of the fields that are free mappings."""
    found = []
    for name, kind in typing.get_type_hints(cls).items():
        if typing.get_origin(kind) in (dict, collections.abc.Mapping):
            found.append(prefix + name)
        elif dataclasses.is_dataclass(kind):
            found += _free_names(kind, f"{prefix}{name}.")
    return found


def _take_free_parts(names: Sequence[str], tree: dict[str, Any]) -> dict[str, Any]:
    """The parts of a tree at these names, taken out of it in place."""
    free: dict[str, Any] = {}
    for name in names:
        *way, last = name.split(".")
        place: Any = tree
        for part in way:
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict) and last in place:
            free[name] = place.pop(last) or {}
            if not isinstance(free[name], dict):
                raise ConfigError(f"{name} is {free[name]!r}; allowed: a mapping")
    return free


def _read_free_word(name: str, word: str) -> dict[str, Any]:
    """What ``--NAME.some.key=VALUE`` says, as a tree below NAME."""
    key, equals, value = word.removeprefix("--").partition("=")
    if not equals:
        raise ConfigError(f"{word} needs a value: {word}=VALUE")
    try:
        tree = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{word}: the value is not YAML ({' '.join(str(error).split())}); put text that "
            f"YAML would read otherwise in quotes"
        ) from None
    for part in reversed(key.removeprefix(name).split(".")[1:]):
        tree = {part: tree}
    if not isinstance(tree, dict):
        raise ConfigError(f"{word}: {name} takes a mapping")
    return tree


# -- the way back ----------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Settings as plain data (dicts, lists, numbers, text), to be written as YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value
