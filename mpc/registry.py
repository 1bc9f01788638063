"""Planners by name: built in, or brought by other packages through entry points."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from mpc.planner import Planner

T = TypeVar("T")


def nearest(name: str, choices: list[str]) -> str:
    """A hint such as "; did you mean 'grasp'?", empty when nothing is near."""
    close = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Registry(Generic[T]):
    """Classes by name. Refuses duplicates, lists the choices, loads entry points when asked."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that adds a class under `name`; ValueError if the name is taken."""

        def add(cls: type[T]) -> type[T]:
            if name in self._entries:
                raise ValueError(
                    f"{self.kind} {name!r} is already {self._entries[name].__qualname__}"
                )
            self._entries[name] = cls
            cls.name = name  # type: ignore[attr-defined]
            return cls

        return add

    def names(self) -> list[str]:
        """All names, those of entry points included, sorted."""
        return sorted({*self._entries, *(point.name for point in self._points())})

    def __getitem__(self, name: str) -> type[T]:
        """The class; ValueError that lists the choices and suggests the nearest if unknown."""
        if name not in self._entries:
            for point in self._points():
                if point.name == name:
                    cls = point.load()
                    # The package may have used the decorator itself.
                    if name not in self._entries:
                        self.register(name)(cls)
        if name not in self._entries:
            raise ValueError(
                f"unknown {self.kind} {name!r}{nearest(name, self.names())} "
                f"(choose from: {', '.join(self.names())})"
            )
        return self._entries[name]

    def _points(self) -> Any:
        return entry_points(group=self.group)


PLANNERS: Registry[Planner[Any]] = Registry("planner", "telic.planners")
register = PLANNERS.register


def make_planner(name: str, **options: Any) -> Planner[Any]:
    """A planner by name. ValueError for an unknown name or option, with the nearest valid one."""
    cls = PLANNERS[name]
    known = cls.Config.options()
    for option in options:
        if option not in known:
            raise ValueError(
                f"planner {name!r} has no option {option!r}{nearest(option, known)} "
                f"(choose from: {', '.join(known)})"
            )
    try:
        return cls(cls.Config(**options))
    except ValueError as error:
        raise ValueError(f"planner {name!r}: {error}") from None
