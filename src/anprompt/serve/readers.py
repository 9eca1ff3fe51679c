"""Processes that read requests, and whose turn it is.

Two lanes. Every request goes to the quick one, where it has a second of processor time; what takes longer is ended
and begins again in the slow lane, behind whatever else the machine does. So a request that costs much waits for its
like and not the others for it. Within a lane clients take turns, one request each.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anprompt.serve.forms import Ask
from anprompt.serve.reading import LENGTHS, ask_of, pack
from anprompt.serve.settings import Settings

log = logging.getLogger("anprompt")

QUICK, SLOW = 2, 1  # processes of each lane
QUICK_SECONDS, SLOW_SECONDS = 1.0, 10.0  # processor time for one request
NICE = 10
START_SECONDS = 60.0
_CODE = "import sys; sys.path.append({!r}); from anprompt.serve.reading import main; main()"
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Refused(Exception):
    """What is wrong with a request, with the status of the answer."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line


class TooSlow(Exception):
    """Reading took more processor time than a request has."""


class Ended(Exception):
    """The process ended on a request (a decoder crashed, or took all memory); the text says how."""


class Failed(Exception):
    """Reading failed in a way that no request should make it; the text says how."""


class NotStarted(Exception):
    """A process could not be started."""


@dataclass(frozen=True)
class Reading:
    """A request that has been read.

    Attributes:
        ask: what is asked; its `pictures` are left out.
        views: [n, size, size, 3] uint8, the images as the model gets them.
        digests: SHA-256 of each image's bytes.
    """

    ask: Ask
    views: np.ndarray
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """The bytes to read."""

    kind: str
    body: bytes
    seconds: float
    quick: bool


class Process:
    """One reader."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, settings: Settings, size: int, nice: int) -> Process:
        """A process that is ready to read.

        Raises:
            NotStarted: it did not.
        """
        bounds = {**dataclasses.asdict(settings), "token": None, "names": ()}
        start = {"settings": bounds, "size": size, "nice": nice, "memory": settings.memory + 4 * settings.body}
        code = _CODE.format(str(Path(__file__).parents[2]))
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, json.dumps(start), stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, start_new_session=True, env={**os.environ, **_ONE_THREAD},
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise NotStarted(f"a reading process can't be started ({error})") from error
        made = cls(process)
        try:
            await asyncio.wait_for(made._receive(), START_SECONDS)
        except (asyncio.IncompleteReadError, asyncio.TimeoutError):
            await made.end()
            raise NotStarted(f"a reading process did not start (exit code {process.returncode})") from None
        except BaseException:
            await made.end()
            raise
        return made

    async def read(self, job: Job) -> tuple[dict[str, Any], bytes]:
        """The process's answer.

        Raises:
            EOFError, OSError: it ended.
        """
        assert self.process.stdin is not None
        head, body = pack({"type": job.kind, "seconds": job.seconds, "quick": job.quick}, job.body)
        self.process.stdin.write(head)
        self.process.stdin.write(body)
        await self.process.stdin.drain()
        return await self._receive()

    async def _receive(self) -> tuple[dict[str, Any], bytes]:
        assert self.process.stdout is not None
        header, body = LENGTHS.unpack(await self.process.stdout.readexactly(LENGTHS.size))
        text = await self.process.stdout.readexactly(header)
        return json.loads(text), await self.process.stdout.readexactly(body)

    def kill(self) -> None:
        """End it at once."""
        if self.process.returncode is None:
            with contextlib.suppress(OSError):  # not `process.kill`: it may take the exit code from `wait`
                os.kill(self.process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))

    async def end(self, after: float = 0.0) -> int | None:
        """End it, if it has not ended by itself after so many seconds, and its exit code (below 0: the signal)."""
        if after:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.process.wait(), after)
        self.kill()
        code = await self.process.wait()
        self.process._transport.close()  # type: ignore[attr-defined]  # else its pipes outlive the event loop
        return code


class Lane:
    """Some processes of one kind, and the requests that wait for them.

    Args:
        seconds: processor time for one request.
        wall: seconds after which a process that answers nothing is ended.
    """

    def __init__(self, settings: Settings, size: int, *, count: int, seconds: float, quick: bool) -> None:
        self.settings, self.size, self.count, self.seconds, self.quick = settings, size, count, seconds, quick
        self.idle: list[Process | None] = []
        self.busy: set[asyncio.Task[None]] = set()
        self.waiting: OrderedDict[str, deque[asyncio.Future[Process | None]]] = OrderedDict()
        self.closed = False

    async def start(self) -> None:
        """Start all processes."""
        self.idle = list(await asyncio.gather(*(self._process() for _ in range(self.count))))

    async def _process(self) -> Process:
        return await Process.start(self.settings, self.size, 0 if self.quick else NICE)

    async def read(self, kind: str, body: bytes, client: str) -> tuple[dict[str, Any], bytes]:
        """What a process makes of a body, when it is this client's turn.

        Raises:
            TooSlow, Ended, NotStarted: no answer came.
        """
        process = await self._turn(client)
        found: asyncio.Future[tuple[dict[str, Any], bytes]] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(self._work(process, Job(kind, body, self.seconds, self.quick), found))
        self.busy.add(task)
        task.add_done_callback(self.busy.discard)
        return await found  # a cancelled future tells `_work` that nobody waits

    async def _turn(self, client: str) -> Process | None:
        """A process, None for one that must be started first; clients that wait are served in turn."""
        if self.idle:
            return self.idle.pop()
        turn: asyncio.Future[Process | None] = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(client, deque()).append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free(turn.result())  # it had just got its turn: pass it on
            raise

    def _free(self, process: Process | None) -> None:
        """Hand a process to the next that waits, or keep it."""
        while self.waiting:
            client, turns = self.waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self.waiting[client] = turns  # to the end of the row
            if not turn.done():
                turn.set_result(process)
                return
        self.idle.append(process)

    async def _work(self, process: Process | None, job: Job, found: asyncio.Future[Any]) -> None:
        """One job; whoever gave it up, the process is free, or replaced, before the next one gets it."""
        answered = False
        try:
            process = process or await self._process()
            if not self.quick:  # a long job that nobody waits for is ended; a short one ends by itself
                found.add_done_callback(lambda f: process.kill() if f.cancelled() and process else None)
            reply = await asyncio.wait_for(process.read(job), self.settings.seconds + 5)
            answered = True
            _settle(found, reply)
        except (EOFError, OSError, asyncio.TimeoutError):
            assert process is not None
            _settle(found, _why(await process.end(after=1.0), job))
        except NotStarted as error:
            _settle(found, error)
        finally:
            await self._replace(process, answered)

    async def _replace(self, process: Process | None, sound: bool) -> None:
        """Give a process back, or another in its place."""
        if not sound and process is not None:
            await process.end()
            process = None
        if not self.closed:
            with contextlib.suppress(NotStarted):  # the next job tries again, and tells
                process = process or await self._process()
            self._free(process)
        elif process is not None:
            await process.end()

    async def close(self) -> None:
        """End all processes."""
        self.closed = True
        for turns in self.waiting.values():
            for turn in turns:
                turn.cancel()
        for task in list(self.busy):
            task.cancel()
        await asyncio.gather(*self.busy, return_exceptions=True)
        await asyncio.gather(*(process.end() for process in self.idle if process is not None))


def _settle(found: asyncio.Future[Any], value: Any) -> None:
    if found.done():
        return
    if isinstance(value, Exception):
        found.set_exception(value)
    else:
        found.set_result(value)


def _why(code: int | None, job: Job) -> Exception:
    """What the end of a process means."""
    if code == -getattr(signal, "SIGPROF", 27):
        return TooSlow(f"more than {job.seconds:g} s of processor time")
    return Ended(f"a reading process ended with exit code {code} on {len(job.body):,} bytes of {job.kind[:80]!r}")


class Readers:
    """Both lanes.

    Args:
        size: pixels per side of what the model gets.
    """

    def __init__(self, settings: Settings, size: int) -> None:
        self.size = size
        slow = min(SLOW_SECONDS, settings.seconds)
        self.quick = Lane(settings, size, count=QUICK, seconds=min(QUICK_SECONDS, slow), quick=True)
        self.slow = Lane(settings, size, count=SLOW, seconds=slow, quick=False)

    async def start(self) -> None:
        """Start the processes of both lanes.

        Raises:
            NotStarted: one did not.
        """
        await asyncio.gather(self.quick.start(), self.slow.start())

    async def read(self, kind: str, body: bytes, client: str) -> Reading:
        """A request, read.

        Raises:
            Refused: what is wrong with it.
            TooSlow, Ended, Failed, NotStarted: there is no answer.
        """
        try:
            header, data = await self.quick.read(kind, body, client)
        except TooSlow:
            header, data = {"slow": True}, b""
        if "slow" in header:
            header, data = await self.slow.read(kind, body, client)
        if "refused" in header:
            raise Refused(*header["refused"])
        if "failed" in header:
            raise Failed(header["failed"])
        digests = tuple(header["digests"])
        views = np.frombuffer(data, np.uint8).reshape(len(digests), self.size, self.size, 3)
        return Reading(ask_of(header["ask"]), views, digests)

    async def close(self) -> None:
        """End all processes."""
        await asyncio.gather(self.quick.close(), self.slow.close())
