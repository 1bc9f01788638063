"""Options: YAML files and dotted overrides, stacked and turned into typed dataclasses.

Every mistake raises UsageError with one line that names the option in full.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from mpc import nearest
from scripts.usage import UsageError, first_line

Options = dict[str, Any]  # plain nested values, not checked yet
NAMED = ("env", "planner")  # groups that are chosen by name: `planner=cem` is `planner.name=cem`
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

S = TypeVar("S")


def read_options(files: Iterable[str], overrides: Iterable[str], *schemas: type[Any]) -> Options:
    """YAML `files` in order, then `key=value` overrides, stacked. Raises UsageError.

    An override of what is text in one of `schemas` is taken as it is written.
    """
    raw: Options = {}
    for name in files:
        raw = stack(raw, read_yaml(name))
    return stack(raw, parse_overrides(overrides, *schemas))


def stack(below: Mapping[str, Any], above: Mapping[str, Any]) -> Options:
    """`above` merged over `below`; naming another planner drops the options of the one below."""
    below, above = _named(below), _named(above)
    name = above.get("planner", {}).get("name")
    if name is not None and below.get("planner", {}).get("name") not in (None, name):
        below = {key: value for key, value in below.items() if key != "planner"}
    return _plain(OmegaConf.merge(below, above))


def parse_overrides(overrides: Iterable[str], *schemas: type[Any]) -> Options:
    """Dotted `key=value` arguments as nested options. Raises UsageError.

    Values are YAML, where 007 and 12:30 are numbers; text is not, as far as `schemas` tell it.
    """
    config: Any = OmegaConf.create({})
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{item!r} is not an option; write key=value, such as seed=2")
        try:
            one = _parsed(item, schemas)
            if key in NAMED and one[key] is None:
                raise UsageError(f"{item!r} names no {key}; see `telic list {key}s`")
            # One at a time, so that `planner=cem planner.horizon=5` may follow each other.
            config = OmegaConf.merge(config, _named(one))
        except (YAMLError, OmegaConfBaseException, ValueError):
            raise UsageError(f"{item!r} cannot be read as key=value") from None
    return _plain(config)


def word(value: Any) -> str:
    """An option's value as it is written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def read_yaml(name: str) -> Options:
    """A YAML file, or a bundled config by its name (see `telic list configs`).

    Raises UsageError when there is none, or it is not a mapping in valid YAML.
    """
    path: Any = Path(name)
    if not path.is_file():
        path = resources.files("configs") / f"{name}.yaml"
        if not path.is_file():
            raise UsageError(
                f"no config file {name!r}{nearest(name, bundled())}; "
                f"bundled configs: {', '.join(bundled())}"
            )
    try:
        config = OmegaConf.create(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{name}{line}: not valid YAML: {error.problem}") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: not valid YAML: {first_line(error)}") from None
    except OSError as error:
        raise UsageError(f"cannot read config file {name}: {error.strerror}") from None
    # An empty file comes back as {}, a bare word as {word: None}.
    if not isinstance(config, DictConfig):
        raise UsageError(f"{name}: expected a mapping such as `seed: 2`, got a list")
    return _plain(config)


def split_groups(raw: Mapping[str, Any], groups: Sequence[str]) -> tuple[Options, Options]:
    """Options of `groups`, and all others."""
    inside = {key: value for key, value in raw.items() if key in groups}
    return inside, {key: value for key, value in raw.items() if key not in groups}


def bundled() -> list[str]:
    """Names of the configs that come with telic."""
    files = (Path(f.name) for f in resources.files("configs").iterdir())
    return sorted(f.stem for f in files if f.suffix == ".yaml")


def typed(schema: type[S], raw: Mapping[str, Any]) -> S:
    """An object of dataclass `schema` from plain nested options.

    Raises UsageError naming the option in full (`planner.horizon`) for an unknown key, a wrong
    type, a missing value, or a value that a `__post_init__` refuses.
    """
    kinds = get_type_hints(schema)
    # A group without content in YAML, such as `train:` with every line commented out.
    groups = {key for key, kind in kinds.items() if dataclasses.is_dataclass(kind)}
    raw = {key: {} if v is None and key in groups else v for key, v in raw.items()}
    _check_keys(schema, raw, "")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), raw)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise UsageError(f"{missing[0]}=... is required")
        found: S = _build(merged, "")
    except OmegaConfBaseException as error:
        raise UsageError(_wrong_value(schema, raw, error)) from None
    return found


def _build(config: Any, prefix: str) -> Any:
    """The dataclass behind a structured config, its groups first."""
    values: Options = {}
    for key in map(str, config):
        value = config[key]
        if isinstance(value, DictConfig):
            value = _build(value, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{prefix}{key} must be a finite number, got {value}")
        values[key] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    try:
        return OmegaConf.get_type(config)(**values)  # type: ignore[misc]
    except ValueError as error:
        reason = first_line(error)
        if reason.split()[0] in values:
            reason = prefix + reason  # "horizon must be ..." of group "planner."
        elif not reason.startswith(prefix):
            reason = f"{prefix[:-1]}: {reason}"
        raise UsageError(reason) from None


def _check_keys(schema: type[Any], raw: Mapping[Any, Any], prefix: str) -> None:
    kinds = get_type_hints(schema)
    known = [field.name for field in dataclasses.fields(schema)]
    for key, value in raw.items():
        where = f"{prefix}{key}"
        if key not in known:
            group = f" of {prefix[:-1]} {raw.get('name', '')}".rstrip() if prefix else ""
            hint = nearest(str(key), known).replace("'", f"'{prefix}", 1)
            raise UsageError(f"unknown option {where!r}{hint} (options{group}: {', '.join(known)})")
        if dataclasses.is_dataclass(kinds[key]):
            if not isinstance(value, Mapping):
                example = dataclasses.fields(kinds[key])[0].name
                raise UsageError(
                    f"{where} is a group of options, not a value; write {where}.{example}=..."
                )
            _check_keys(kinds[key], value, f"{where}.")


def _wrong_value(schema: type[Any], raw: Mapping[str, Any], error: OmegaConfBaseException) -> str:
    """One line for a value that OmegaConf could not convert or resolve."""
    value: Any = raw
    path = str(error.full_key or "").replace("[", ".").replace("]", "").split(".")
    kind = _kind(schema, ".".join(path))
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    choices = get_args(kind) or (kind,)
    wanted = next((words for cls, words in KINDS.items() if cls in choices), None)
    if wanted is None or (isinstance(value, str) and "${" in value):
        return f"{error.full_key}: {first_line(error)}"
    if "list" in str(kind):
        wanted = "a list such as [a,b]"
    optional = " or null" if type(None) in choices else ""
    return f"{'.'.join(path)} must be {wanted}{optional}, got {value!r}"


def _kind(schema: type[Any], key: str) -> Any:
    """The type of the option with this dotted name; None where `schema` has none."""
    kind: Any = schema
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return kind


def _parsed(item: str, schemas: Sequence[type[Any]]) -> Options:
    """One `key=value` as nested options."""
    key, _, text = item.partition("=")
    kinds = [_kind(schema, key) for schema in schemas]
    texts = list[str] in kinds
    if text in ("", "null") or not (texts or str in kinds or (str | None) in kinds):
        return _plain(OmegaConf.from_dotlist([item]))
    config: Any = OmegaConf.create({})
    OmegaConf.update(config, key, yaml.load(text, yaml.BaseLoader) if texts else text)
    return _plain(config)


def _named(options: Mapping[str, Any]) -> Options:
    """`planner: cem` spelled out as `planner: {name: cem}`, likewise for `env`."""
    named: Options = {}
    for key, value in options.items():
        if key in NAMED and not isinstance(value, Mapping):
            value = {} if value is None else {"name": value}
        named[key] = value
    return named


def _plain(config: Any) -> Options:
    found: Any = OmegaConf.to_container(config)
    return found
