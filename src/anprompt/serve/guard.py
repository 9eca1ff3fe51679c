"""What every request passes before anything is read: host, origin, token, number, size and time."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anprompt.serve.batching import Full
from anprompt.serve.settings import Settings, known_host, same_origin

log = logging.getLogger("anprompt")

OPEN = ("/", "/healthz", "/openapi.json")
SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store"),
)  # fmt: skip
LONGEST = 500  # characters of an error
BODY_GRACE, BODY_RATE = 5.0, 8192  # a body comes, after so many seconds, at so many bytes a second on average
ONCE = ("host", "origin", "authorization", "content-type", "content-length", "content-encoding")


class TooLarge(Exception):
    """The body exceeds the limit."""


def refusal(status: int, text: str, **headers: str) -> Response:
    """An error as every one of this service looks: `{"error": "one line"}`."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    line = " ".join(text[: 4 * LONGEST].split())  # what is quoted from a request may be long, or not UTF-8
    body = json.dumps({"error": line if len(line) <= LONGEST else line[:LONGEST] + "..."})
    return Response(body, status, headers=named, media_type="application/json")


def failure(status: int, text: str, error: BaseException) -> Response:
    """The answer to a failure of ours, whose details go to the log under the same number."""
    number = secrets.token_hex(4)
    log.error("request %s failed: %s", number, error, exc_info=error)
    return refusal(status, f"{text}; the service's log has the details under {number}.", Retry_After="1")


class TooSlowly(Exception):
    """The body comes at less than `BODY_RATE`."""


class Room:
    """Bytes that all requests together may hold."""

    def __init__(self, most: int) -> None:
        self.left = most

    @contextlib.contextmanager
    def part(self) -> Iterator[Callable[[int], None]]:
        """A function that takes more bytes, all given back when the block ends.

        Raises:
            Full: there are no more.
        """
        held = 0

        def take(count: int) -> None:
            nonlocal held
            if count > self.left:
                raise Full
            self.left -= count
            held += count

        try:
            yield take
        finally:
            self.left += held


class Guard:
    """ASGI middleware: turns away strangers, and counts every answer.

    Args:
        counted: called with (path, status) of every answer.
        paths: the paths there are; others are counted as one.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings, counted: Callable[[str, int], None], paths: Iterable[str]
    ) -> None:
        self.app, self.settings, self.counted, self.paths = app, settings, counted, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counted(path, message["status"])
                message["headers"] = [*message.get("headers", []), *SAFE_HEADERS]
            await send(message)

        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await counting(message)

        try:
            answer = self.refuse(scope["path"], Headers(scope=scope)) or self.app
            await answer(scope, receive, watched)
        except asyncio.CancelledError:  # uvicorn ends what still runs when the service stops
            if started:
                raise
            await refusal(503, "The service is stopping.", Connection="close")(scope, receive, counting)
        except Exception as error:
            if started:
                raise
            await failure(500, "Unexpected failure", error)(scope, receive, counting)

    def refuse(self, path: str, headers: Headers) -> Response | None:
        """Why this request may not pass, or None."""
        for name in ONCE:
            if len(headers.getlist(name)) > 1:
                return refusal(400, f"The header {name} came more than once.")
        host, origin = headers.get("host", ""), headers.get("origin")
        if not known_host(host, self.settings.names):
            return refusal(
                421, f"The host {host[:80]!r} is not served here; name it with --allow-host if it should be."
            )
        if origin is not None and not same_origin(origin, host):
            return refusal(403, f"Requests from pages of {origin[:80]!r} are not answered.")
        if path not in OPEN and not self._knows_token(headers):
            return refusal(
                401, "The token is missing or wrong; send it as 'Authorization: Bearer TOKEN'.",
                WWW_Authenticate="Bearer",
            )  # fmt: skip
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            return refusal(415, "The body must be sent as it is, not compressed.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self.settings.body:
            return too_large(self.settings)
        return None

    def _knows_token(self, headers: Headers) -> bool:
        if self.settings.token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        # Compared in constant time, so that the time of an answer tells nothing about the token.
        same = hmac.compare_digest(given.strip().encode(), self.settings.token.encode())
        return kind.lower() == "bearer" and same


def too_large(settings: Settings) -> Response:
    """413. The rest of the body is not read, so the connection ends."""
    return refusal(413, f"The body has more than {settings.body:,} bytes; send a smaller picture.", Connection="close")


async def read_body(
    stream: Callable[[], Awaitable[Message]], limit: int, seconds: float, take: Callable[[int], None] = lambda n: None
) -> bytes:
    """The body of a request, with or without a length given.

    A body in drops would hold one of the few requests that may run for all its time, so each piece must come
    before its sender is behind `BODY_RATE`.

    Args:
        take: called with the bytes of each piece before it is kept.

    Raises:
        TooLarge: more than `limit` bytes.
        TooSlowly: less than `BODY_RATE` bytes a second after `BODY_GRACE` seconds.
        asyncio.TimeoutError: it did not come in time.
        ConnectionError: the sender has gone.
    """
    begun = time.monotonic()

    async def read() -> bytes:
        body = bytearray()
        while True:
            left = begun + BODY_GRACE + len(body) / BODY_RATE - time.monotonic()
            if left <= 0:
                raise TooSlowly
            try:
                message = await asyncio.wait_for(stream(), left)
            except asyncio.TimeoutError:
                raise TooSlowly from None
            if message["type"] == "http.disconnect":
                raise ConnectionError
            piece = message.get("body", b"")
            if len(body) + len(piece) > limit:
                raise TooLarge
            take(len(piece))
            body += piece
            if not message.get("more_body", False):
                return bytes(body)

    return await asyncio.wait_for(read(), seconds)
