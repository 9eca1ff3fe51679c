"""A service in a thread of the test process, asked over a real socket."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from anprompt.methods.base import Method
from anprompt.serve.app import create_app
from anprompt.serve.run import bind, make_server
from anprompt.serve.settings import Settings


class Running:
    """Where a service listens, the `Service` behind it, and the server with its connections."""

    def __init__(self, port: int, service: Any, server: Any) -> None:
        self.port, self.service, self.server = port, service, server

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, parsed JSON (or text), headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        named = {key.lower(): value for key, value in answer.getheaders()}
        return answer.status, json.loads(data) if "json" in named.get("content-type", "") else data.decode(), named

    def json(self, value: Any, **headers: str) -> tuple[int, Any, Mapping[str, str]]:
        """A JSON request to /v1/predict."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", "/v1/predict", body, {"Content-Type": "application/json", **headers})

    def form(self, pictures: Sequence[bytes], /, **fields: Any) -> tuple[int, Any, Mapping[str, str]]:
        """A form to /v1/predict; a list is sent as one field per value."""
        kind, body = form(pictures, fields)
        return self.ask("POST", "/v1/predict", body, {"Content-Type": kind})


def form(pictures: Sequence[bytes], fields: Mapping[str, Any]) -> tuple[str, bytes]:
    """Content type and body of a multipart form."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{one}\r\n'.encode()
        for key, value in fields.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    for data in pictures:
        head = f'--{mark}\r\nContent-Disposition: form-data; name="pictures"; filename="../../etc/x"\r\n\r\n'
        parts.append(head.encode() + data + b"\r\n")
    return f"multipart/form-data; boundary={mark}", b"".join(parts) + f"--{mark}--\r\n".encode()


@contextlib.contextmanager
def serving(method: Method, settings: Settings | None = None) -> Iterator[Running]:
    """Serve on a free port until the block ends."""
    app = create_app(method, settings)
    server, listener, ready = make_server(app), bind("127.0.0.1", 0), threading.Event()
    server.ready = ready.set
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield Running(listener.getsockname()[1], app.state.service, server)
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
        assert not thread.is_alive()


def picture(seed: int = 0, size: tuple[int, int] = (44, 36), kind: str = "PNG", **options: Any) -> bytes:
    """A file of a picture of noise around one colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, 3) + rng.integers(-60, 60, (size[1], size[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def shares(top: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Probability by class."""
    return {entry["class"]: entry["probability"] for entry in top}
