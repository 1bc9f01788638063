"""What is offered to a thread that waits is done once, by it or by the one that offers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from scripts.executors import Helper, Inline


@pytest.fixture
def learner() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_who_waits_does_what_is_offered(learner: ThreadPoolExecutor) -> None:
    helper, begun = Helper(), threading.Event()

    def part(number: int) -> tuple[int, int]:
        begun.set()
        return number, threading.get_ident()

    def whole() -> tuple[int, int]:
        result = helper.offer(part, 7)
        assert begun.wait(10)
        return result()

    assert helper.wait(learner.submit(whole)) == (7, threading.get_ident())


def test_what_nobody_has_begun_is_done_where_it_is_wanted(learner: ThreadPoolExecutor) -> None:
    helper, calls = Helper(), []

    def whole() -> list[int]:
        helper.offer(lambda: calls.append(threading.get_ident()))()
        return list(calls)

    updates = learner.submit(whole)
    alone = updates.result()
    assert len(alone) == 1 and alone != [threading.get_ident()]
    assert helper.wait(updates) == alone
    assert calls == alone, "done twice"


def test_errors_arise_where_the_result_is_wanted(learner: ThreadPoolExecutor) -> None:
    helper, begun = Helper(), threading.Event()

    def part() -> None:
        begun.set()
        raise ValueError("a mistake")

    def whole(forgive: bool) -> str:
        result = helper.offer(part)
        assert begun.wait(10)
        try:
            result()
        except ValueError:
            if not forgive:
                raise
        return "went on"

    assert helper.wait(learner.submit(whole, True)) == "went on"
    with pytest.raises(ValueError, match="a mistake"):
        helper.wait(learner.submit(whole, False))


def test_waiting_for_what_is_done_returns_at_once() -> None:
    done: Future[int] = Inline().submit(lambda: 3)
    assert Helper().wait(done) == Helper().wait(done) == 3
