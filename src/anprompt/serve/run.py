"""Running the application: the socket, the signals, and connections that say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from anprompt.errors import UserError

HEADER_SECONDS = 10.0
SPARE_CONNECTIONS = 192  # idle or refused ones, beside the requests that are let in


class Protocol(H11Protocol):
    """HTTP/1.1 whose clients must finish a request's headers in time; uvicorn alone would wait for ever."""

    header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # Head and body of an answer are two packets; asyncio turns off waiting between them only for sockets
        # that were made with the protocol's number, which those of `create_server` are not.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.header_timer is not None:
            self.header_timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and self.header_timer is not None:
            self.header_timer.cancel()
            self.header_timer = None
        elif not busy and self.header_timer is None:
            self.header_timer = self.loop.call_later(HEADER_SECONDS, self._late)

    def _late(self) -> None:
        self.header_timer = None
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server that says when it is ready."""

    ready: Callable[[], None] = staticmethod(lambda: None)  # type: ignore[assignment]

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
        raise UserError(f"Can't listen on {host} port {port} ({_reason(error)}); try another --port or --host.") from None


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
    config = uvicorn.Config(
        app, http=Protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_keep_alive=15, limit_concurrency=settings.requests + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=int(settings.seconds) + 1,
    )  # fmt: skip
    return Server(config)


def run(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; requests that run then are finished first."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every damaged form
    server = make_server(app)
    server.ready = ready  # type: ignore[method-assign]
    with _quiet_signals():
        server.run(sockets=[listener])


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
