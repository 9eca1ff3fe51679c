"""What every request passes before anything is read: host, origin, token, number, size and time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anprompt.serve.settings import Settings, known_host

OPEN = ("/", "/healthz", "/openapi.json")
LONGEST = 500  # characters of an error


class TooLarge(Exception):
    """The body exceeds the limit."""


def refusal(status: int, text: str, **headers: str) -> JSONResponse:
    """An error as every one of this service looks: `{"error": "one line"}`."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    line = " ".join(text.split())  # what is quoted from a request may be long
    return JSONResponse({"error": line if len(line) <= LONGEST else line[:LONGEST] + "..."}, status, headers=named)


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
                message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff"),
                                      (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store")]  # fmt: skip
            await send(message)

        refused = self.refuse(scope["path"], Headers(scope=scope))
        await (refused or self.app)(scope, receive, counting)

    def refuse(self, path: str, headers: Headers) -> JSONResponse | None:
        """Why this request may not pass, or None."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not known_host(host, self.settings.names):
            return refusal(
                421, f"The host {host[:80]!r} is not served here; name it with --allow-host if it should be."
            )
        if origin and urlsplit(origin).netloc.lower() != host.lower():
            return refusal(403, f"Requests from pages of {origin[:80]!r} are not answered.")
        if path not in OPEN and not self._knows_token(headers):
            return refusal(
                401, "The token is missing or wrong; send it as 'Authorization: Bearer TOKEN'.",
                WWW_Authenticate="Bearer",
            )  # fmt: skip
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


def too_large(settings: Settings) -> JSONResponse:
    """413. The rest of the body is not read, so the connection ends."""
    return refusal(
        413, f"The body has more than {settings.body:,} bytes; send a smaller picture.", Connection="close"
    )


async def read_body(stream: Callable[[], Awaitable[Message]], limit: int, seconds: float) -> bytes:
    """The body of a request, with or without a length given.

    Raises:
        TooLarge: more than `limit` bytes.
        asyncio.TimeoutError: it did not come in time.
        ConnectionError: the sender has gone.
    """

    async def read() -> bytes:
        body = bytearray()
        while True:
            message = await stream()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            body += message.get("body", b"")
            if len(body) > limit:
                raise TooLarge
            if not message.get("more_body", False):
                return bytes(body)

    return await asyncio.wait_for(read(), seconds)
