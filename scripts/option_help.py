"""The options of a command as text: names, defaults, and the comments behind the fields."""

from __future__ import annotations

import dataclasses
import inspect
import io
import tokenize
from collections.abc import Iterable
from typing import Any

from omegaconf import MISSING, OmegaConf

Row = tuple[str, str, str]  # option, default, what it means

HEAD = "options and their defaults:"


def option_rows(settings: Any, prefix: str = "") -> list[Row]:
    """A row for every field of a dataclass object and of those inside it, with dotted names."""
    rows: list[Row] = []
    notes = comments(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            rows += option_rows(value, f"{prefix}{field.name}.")
        elif field.name == "name" and prefix:  # `planner=cem` chooses the group
            kind = prefix[:-1]
            rows.insert(0, (kind, shown(value), notes.get("name", f"see `telic list {kind}s`")))
        else:
            rows.append((prefix + field.name, shown(value), notes.get(field.name, "")))
    return rows


def comments(cls: type) -> dict[str, str]:
    """The comments behind or above the fields of a dataclass and its bases, by field name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            source = inspect.cleandoc("\n" + inspect.getsource(base))
        except (OSError, TypeError):  # made by make_dataclass
            continue
        name = ""
        above: list[str] = []
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            line = token.line.strip()
            if token.type == tokenize.NAME and token.line[: token.start[1]].strip() == "":
                name = token.string
                if above and line.startswith(f"{name}:"):
                    found[name] = " ".join(above)
                above = []
            elif token.type == tokenize.COMMENT and line.startswith("#"):
                above.append(token.string.lstrip("# "))
            elif token.type == tokenize.COMMENT and line.startswith(f"{name}:"):
                found[name] = token.string.lstrip("# ")
    return found


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if value == MISSING:
        return "(required)"
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    if value is None or isinstance(value, bool):
        return OmegaConf.to_yaml({"x": value}).removeprefix("x: ").strip()
    return str(value)


def layout(rows: Iterable[Row]) -> str:
    """Rows under a heading, in columns."""
    pairs = [(f"{option}={default}", note) for option, default, note in rows]
    width = min(44, max(len(pair) for pair, _ in pairs))
    return "\n".join([HEAD, *(f"  {pair:{width}}  {note}".rstrip() for pair, note in pairs)])
