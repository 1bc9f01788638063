"""Where a training learns: in the thread that acts, or beside it and with its help."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any


class Inline(Executor):
    """Runs everything at once, in the thread that asks for it."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done; what `function` raises is raised here."""
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


class Helper:
    """Lets a thread that waits for another one's work do parts of it.

    A thread of its own for them would share a core with one of the two.
    """

    def __init__(self) -> None:
        self._offered: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def offer(self, function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        """`function(*args)`, for whoever waits; what comes back gives its result, once.

        If nobody has begun with it by then, it is called there.
        """
        future: Future[Any] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*args))
                except BaseException as error:  # noqa: BLE001 - raised where the result is wanted
                    future.set_exception(error)

        self._offered.put(run)
        return lambda: function(*args) if future.cancel() else future.result()

    def wait(self, awaited: Future[Any]) -> Any:
        """Do what is offered until `awaited` is done; returns its result."""
        awaited.add_done_callback(lambda _: self._offered.put(None))
        while run := self._offered.get():
            run()
        return awaited.result()
