"""One worker thread and a bounded queue: images of many requests go through the model together, each in its turn."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Full(Exception):
    """The queue has no room; ask again later."""


class Closed(Exception):
    """The service is stopping."""


@dataclass(order=True)
class _Job(Generic[Task, Result]):
    turn: float
    number: int
    task: Task = field(compare=False)
    since: float = field(compare=False)
    future: Future[Result] = field(default_factory=Future, compare=False)


class Batcher(Generic[Task, Result]):
    """Runs `work` on lists of tasks, in one thread, in the order of their turns.

    The turn of a task is the time it came, and later by what it and those of its request before it will take: so one
    that costs much does not hold up those that cost little, and, as time goes on, it is not held up for ever either.

    While a pass runs, others queue up and become the next pass, so that batches grow with the load by
    themselves; `wait` makes a lonely task wait for company on top of that.

    Args:
        work: tasks -> one result, or one exception to be raised by its future, per task.
        queue: most tasks waiting.
        batch: most tasks in one call of `work`.
        wait: seconds a task may wait for the batch to fill.
        seen: called with the size of every batch.
        name: of the thread.
    """

    def __init__(
        self, work: Callable[[Sequence[Task]], Sequence[Result | Exception]], *, queue: int, batch: int,
        wait: float = 0.0, seen: Callable[[int], None] = lambda size: None,
        name: str = "anprompt-model",
    ) -> None:  # fmt: skip
        self.work, self.queue, self.batch, self.wait, self.seen = work, queue, batch, wait, seen
        self._jobs: list[_Job[Task, Result]] = []  # a heap
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._jobs)

    def submit(self, tasks: Sequence[Task], *, cost: float = 0.0) -> list[Future[Result]]:
        """Queue tasks, all or none.

        Args:
            cost: seconds by which each of the tasks lets others pass, beside those before it.

        Raises:
            Full: there is no room for all of them.
            Closed: `close` was called.
        """
        now = time.monotonic()
        jobs: list[_Job[Task, Result]] = [
            _Job(now + number * cost, next(self._numbers), task, now) for number, task in enumerate(tasks, 1)
        ]
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._jobs) + len(jobs) > self.queue:
                # Those whose request has given up take no room away from the living.
                self._jobs = [job for job in self._jobs if not job.future.cancelled()]
                heapq.heapify(self._jobs)
                if len(self._jobs) + len(jobs) > self.queue:
                    raise Full
            for job in jobs:
                heapq.heappush(self._jobs, job)
            self._changed.notify()
        return [job.future for job in jobs]

    def close(self, seconds: float | None = None) -> None:
        """Take nothing new, finish what waits, stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            jobs = self._next()
            if jobs is None:
                return
            living = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if living:
                self._finish(living)

    def _next(self) -> list[_Job[Task, Result]] | None:
        """The next batch; None when closed and empty."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            until = self._jobs[0].since + self.wait
            while self.wait and len(self._jobs) < self.batch and not self._closed:
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return [heapq.heappop(self._jobs) for _ in range(min(self.batch, len(self._jobs)))]

    def _finish(self, jobs: Sequence[_Job[Task, Result]]) -> None:
        self.seen(len(jobs))
        try:
            results: Sequence[Result | Exception] = self.work([job.task for job in jobs])
        except Exception as error:  # the thread must outlive whatever one batch does
            results = [error] * len(jobs)
        for job, result in zip(jobs, results):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
