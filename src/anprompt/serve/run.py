"""Running the application: the socket, the signals, and connections that say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from anprompt.errors import UserError
from anprompt.serve.guard import SAFE_HEADERS

HEADER_SECONDS = 10.0
HEADER_BYTES = 16_384
TAKE_SECONDS = 20.0  # for the other side to take an answer
PIECES, PIECE_BYTES = 1000, 256  # pieces of a body: so many, and one more for so many bytes
END_SECONDS = 30.0  # after the time of a request, for all else that ends
SPARE_CONNECTIONS = 192  # idle or refused ones, beside the requests that are let in


class _Connection(h11.Connection):
    """h11's parser, which takes some 20 microseconds for a chunk of one byte; bodies in crumbs are refused."""

    pieces = 0
    size = 0

    def next_event(self) -> Any:
        """The next event, counted."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.pieces = self.size = 0
        elif isinstance(event, h11.Data):
            self.pieces += 1
            self.size += len(event.data)
            if self.pieces > PIECES + self.size // PIECE_BYTES:
                raise h11.RemoteProtocolError("the body comes in too many pieces")
        return event


class Protocol(H11Protocol):
    """HTTP/1.1 whose clients must send a request's headers, and take its answer, in time; uvicorn waits for ever."""

    seconds = 60.0  # for a request and for its answer
    most = 256  # connections
    timer: asyncio.TimerHandle | None = None
    watched: bool | None = None  # whether the timer is for a request that runs

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Connection(h11.SERVER, HEADER_BYTES)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # Head and body of an answer are two packets; asyncio turns off waiting between them only for sockets
        # that were made with the protocol's number, which those of `create_server` are not.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.most:
            self._refuse(503, "Too many connections; try again later.", b"retry-after: 1")
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), HEADER_BYTES):  # h11 bounds what it can't use yet, not what it is given
            if not self.transport.is_closing():
                super().data_received(data[start : start + HEADER_BYTES])
                self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP, refused as everything else here is."""
        if self.cycle is not None and not self.cycle.response_complete:  # the body broke off: nobody answers twice
            begun, self.cycle.disconnected = self.cycle.response_started, True
            self.cycle.message_event.set()
            if begun:
                self._close()
                return
        self._refuse(400, "This is not a request of HTTP/1.1 as it is served here.")

    def _refuse(self, status: int, text: str, *headers: bytes) -> None:
        """Answer without a request, and close."""
        body = json.dumps({"error": text}).encode()
        reason = HTTPStatus(status).phrase.encode()
        head = [b"HTTP/1.1 %d %b" % (status, reason), *headers, b"content-type: application/json", b"connection: close",
                b"content-length: %d" % len(body), *(b"%b: %b" % pair for pair in SAFE_HEADERS)]  # fmt: skip
        self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        self._close()

    def _watch(self) -> None:
        """A timer for the headers while none is busy, another for a request and its answer."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy == self.watched or self.transport.is_closing():
            return
        if self.timer is not None:
            self.timer.cancel()
        self.watched = busy
        self.timer = self.loop.call_later(self.seconds + TAKE_SECONDS if busy else HEADER_SECONDS, self._late)

    def _late(self) -> None:
        if self.watched:  # long after its time: the other side does not take the answer
            self.transport.abort()
        else:
            self._close()

    def _close(self) -> None:
        """Close when all is sent, and anyway after a while: the other side may never take it."""
        if self.timer is not None:
            self.timer.cancel()
        self.transport.close()
        self.timer = self.loop.call_later(TAKE_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """uvicorn's server that says when it is ready."""

    ready: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        UserError: the address is not of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"Can't listen on {host} port {port} ({_reason(error)}); try another --port or --host."
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)  # Python's own text repeats the address
    return getattr(error, "strerror", None) or str(error)


def address(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(app: FastAPI) -> Server:
    """A server for the application, with bounded connections and a bounded end."""
    settings = app.state.service.settings
    most = settings.requests + SPARE_CONNECTIONS
    protocol = type("Protocol", (Protocol,), {"seconds": settings.seconds, "most": most})
    config = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=15,
        timeout_graceful_shutdown=int(settings.seconds) + 1,
    )  # fmt: skip
    return Server(config)


def run(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; requests that run then are finished first, but not for ever."""
    own = logging.getLogger("anprompt")
    for name in ("uvicorn.error", "asyncio"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = own.handlers, not own.handlers
        log.setLevel(logging.ERROR)
    server = make_server(app)
    server.ready = ready
    with _quiet_signals(), _ended_in_time(server, app.state.service.settings.seconds + END_SECONDS):
        server.run(sockets=[listener])


@contextlib.contextmanager
def _ended_in_time(server: Server, seconds: float) -> Iterator[None]:
    """End the process, whatever holds it up, so many seconds after a signal asked for its end."""
    ended = threading.Event()

    def watch() -> None:
        while not server.should_exit:
            if ended.wait(0.5):
                return
        if not ended.wait(seconds):
            logging.getLogger("anprompt").error("the service did not stop within %g s and was ended", seconds)
            os._exit(1)

    threading.Thread(target=watch, name="anprompt-end", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextlib.contextmanager
def _quiet_signals() -> Iterator[None]:
    """uvicorn raises the signal again when it is done; the end was asked for, so nothing is left to do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in stops}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
