"""What strangers send a service: nothing holds it up, everything is refused in one line, and it stops when told to."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [serve]")

import anprompt
from anprompt.backbones import Backbone
from anprompt.methods.base import Method
from anprompt.serve import guard, readers, run
from anprompt.serve.batching import Batcher
from anprompt.serve.settings import Settings, known_host, same_origin
from tests.serving import Running, form, picture, serving

JSON = {"Content-Type": "application/json"}
GOOD = {"pictures": [base64.b64encode(picture(0)).decode()]}
SAFE = ("x-content-type-options", "referrer-policy", "cache-control")


@pytest.fixture(scope="module")
def method(adapter_folder: Path, tiny_backbone: Backbone) -> Method:
    return anprompt.load(adapter_folder, backbone=tiny_backbone).method_


@pytest.fixture(scope="module")
def service(method: Method) -> Iterator[Running]:
    with serving(method, Settings(body=2_000_000, seconds=20)) as running:
        yield running


def raw(service: Running, data: bytes, seconds: float = 30) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the first answer to bytes on a connection; status 0 where it only closes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as line:
        line.sendall(data)
        file, answer = line.makefile("rb"), b""
        while b"\r\n\r\n" not in answer and (piece := file.readline()):
            answer += piece
        lines = answer.decode("latin-1").split("\r\n")
        if not answer:
            return 0, {}, b""
        headers = {key.lower(): value.strip() for key, _, value in (text.partition(":") for text in lines[1:]) if key}
        body = file.read(int(headers.get("content-length", 0))) if not data.startswith(b"HEAD") else b""
        return int(lines[0].split()[1]), headers, body


def head(first: str = "GET /healthz HTTP/1.1", host: str | None = "localhost", **headers: str) -> bytes:
    named = {"Host": host} if host is not None else {}
    named |= {key.replace("_", "-"): value for key, value in headers.items()}
    return (first + "\r\n" + "".join(f"{k}: {v}\r\n" for k, v in named.items()) + "\r\n").encode("latin-1")


def refused(answer: tuple[int, Mapping[str, str], bytes], *statuses: int) -> str:
    """The line of a refusal, with every header that all answers carry."""
    status, headers, body = answer
    assert status in statuses, answer
    assert all(key in headers for key in SAFE), headers
    found = json.loads(body)
    assert set(found) == {"error"} and found["error"].isprintable(), found
    return str(found["error"])


def alive(service: Running, seconds: float = 5.0) -> None:
    begun = time.monotonic()
    assert service.ask("GET", "/healthz")[0] == 200
    assert time.monotonic() - begun < seconds


# --- hosts, origins, headers ----------------------------------------------------------------------
STRANGE_HOSTS = [
    "[::1].evil.com", "[::1]evil.com", "[::1", "::1]", "[::1]:80:80", "[::1%25lo]", "[::1%lo]", "[fe80::1%eth0]:80", "::1",
    "localhost.", "localhost..", "127.0.0.1.", "user@localhost", "evil.com@localhost", "localhost@evil.com", "localhost:",
    "localhost:99999", "localhost:-1", "localhost:8a", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1",
    "[127.0.0.1]", "localhost evil.com", "localhost,evil.com", "localhost/evil", "localhost#x", "localhost\\evil",
    "lоcalhost".encode().decode("latin-1"), "local\xadhost", "%6cocalhost", "[::ffff:127.0.0.1].x", "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("host", STRANGE_HOSTS, ids=lambda host: host[:20])
def test_hosts_that_only_look_like_this_one_do_not_pass(service: Running, host: str) -> None:
    assert not known_host(host, ("box",))
    refused(raw(service, head(host=host)), 400, 421)


def test_no_host_and_two_hosts_do_not_pass(service: Running) -> None:
    refused(raw(service, head(host=None)), 400, 421)
    refused(raw(service, head("GET /healthz HTTP/1.0", host=None)), 400, 421)
    refused(raw(service, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n"), 400, 421)


STRANGE_ORIGINS = [
    "http://[", "http://[::1", "http://]", "http://localhost:x", "http://localhost:1:2", "://", "null", "", " ", "localhost",
    "http:localhost", "ftp://localhost", "http://localhost/", "http://localhost@evil.com", "http://evil.com#@localhost",
    "http://localhost, http://evil.com", "http://localhost.evil.com", "http://\xff", "http://[::1%25lo]", "javascript:x",
    "http://" + "a" * 8000, "http://localhost:81",
]  # fmt: skip


@pytest.mark.parametrize("origin", STRANGE_ORIGINS, ids=lambda origin: origin[:20] or "empty")
def test_malformed_and_other_origins_are_refused_before_the_token(
    method: Method, service: Running, origin: str
) -> None:
    assert not same_origin(origin, "localhost")
    line = refused(raw(service, head("GET /v1/info HTTP/1.1", Origin=origin)), 403)
    assert "\\x1b" not in line and len(line) <= 510


def test_the_same_origin_may_be_written_with_its_port(service: Running) -> None:
    for host, origin in (
        ("localhost", "http://localhost"), ("localhost:80", "http://localhost"), ("LOCALHOST", "HTTP://localhost:80"),
        ("localhost", "https://localhost:443"), ("[::1]:8000", "http://[::1]:8000"),
    ):  # fmt: skip
        assert raw(service, head("GET /v1/info HTTP/1.1", host, Origin=origin))[0] == 200, (host, origin)


@pytest.mark.parametrize("name", ["Origin", "Authorization", "Content-Type", "Content-Length"])
def test_a_header_that_comes_twice_is_refused(service: Running, name: str) -> None:
    two = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n{name}: 1\r\n{name}: 2\r\n\r\n".encode()
    refused(raw(service, two), 400)


STRANGE_TYPES = [
    "", ";", "application/json;charset=utf-16", "application/json; charset=idna", 'application/json; charset="',
    "multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary="', "multipart/form-data; boundary=" + "x" * 71,
    "multipart/form-data; boundary=x; charset=utf-7", "multipart/form-data; boundary=x; charset=zlib", "multipart/mixed; boundary=x",
    "application/json; " + "a=b; " * 2000, "application/json\xff", "multipart/form-data; boundary*=utf-8''x", "/", "*/*",
]  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE_TYPES, ids=lambda kind: kind[:40] or "empty")
def test_content_types_that_are_not_served_are_refused(service: Running, kind: str) -> None:
    body = b"--x\r\n\r\n--x--"
    line = head("POST /v1/predict HTTP/1.1", Content_Type=kind, Content_Length=str(len(body)))
    refused(raw(service, line + body), 400, 415)


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x"])
def test_packed_bodies_are_refused_unread(service: Running, name: str) -> None:
    status, answer, _ = service.ask("POST", "/v1/predict", zlib.compress(b"{}"), {**JSON, "Content-Encoding": name})
    assert status == 415 and "not compressed" in answer["error"]


BROKEN = {
    "not http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "no version": b"GET /\r\n\r\n",
    "two lengths": b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "length below 0": b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    "length of digits": b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 4000 + b"\r\n\r\n",
    "length and chunks": b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    "chunk of no size": b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "huge header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: localhost\r\n evil.com\r\n\r\n", "NUL": b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_http_is_refused(service: Running, data: bytes) -> None:
    try:
        answer = raw(service, data)
    except ConnectionError:
        answer = (0, {}, b"")  # closed while it was still sending
    if answer[0]:
        refused(answer, 400, 413, 415, 421)
    alive(service)


@pytest.mark.parametrize("name", ["HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "CONNECT", "FOO", "A" * 3000])
def test_other_methods_are_refused_on_every_path(service: Running, name: str) -> None:
    for path in ("/", "/v1/predict"):
        status, headers, body = raw(service, head(f"{name} {path} HTTP/1.1"))
        assert status == 405 and all(key in headers for key in SAFE), (status, headers, body)
        assert len(body) < 700


PATHS = [
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.css", "/static/../page.html", "/%00", "/healthz%00", "/\\..\\x",
    "/healthz/", "//healthz", "/%ff%fe", "/v1/predict/../info", "http://evil.com/v1/info", "/" + "%41" * 3000, "/;x", "*",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:25])
def test_paths_lead_nowhere_else(service: Running, path: str) -> None:
    line = refused(raw(service, head(f"GET {path} HTTP/1.1")), 404, 405)
    assert "root:" not in line and len(line) < 510


def test_pipelined_requests_are_answered_in_order(service: Running) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as line:
        line.sendall(head() * 30 + head("GET /nowhere HTTP/1.1", Connection="close"))
        data = b""
        while piece := line.recv(65536):
            data += piece
    assert [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+)", data)] == [200] * 30 + [404]


# --- bodies -----------------------------------------------------------------------------------------
LONG = "a" + "\u0301" * 150_000 + "\u0327" * 150_000
BODIES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "marks to sort": ({**GOOD, "classes": [LONG, "b"]}, (400,)),
    "ligatures": ({**GOOD, "classes": ["\ufdfa" * 200_000, "b"]}, (400,)),
    "spaces": ({**GOOD, "classes": ["_ " * 400_000, "b"]}, (400,)),
    "depth": (b'{"pictures": ' + b"[" * 900_000, (400,)),
    "objects": (b'{"a":' * 100_000, (400,)),
    "digits": (b'{"top": ' + b"9" * 1_000_000 + b"}", (400,)),
    "huge number": ({**GOOD, "top": 10**4000}, (200,)),
    "infinity": (b'{"top": 1e999}', (400,)),
    "NaN": (b'{"top": NaN}', (400,)),
    "many keys": ({str(n): n for n in range(100_000)}, (400,)),
    "many lists": (b'{"pictures": [' + b"[]," * 600_000 + b"[]]}", (400,)),
    "twice": (b'{"top": 1, "top": 2}', (400,)),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), (400,)),
    "UTF-8 with a mark": (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), (200,)),
    "latin-1": ('{"classes": ["\u00e9", "b"]}'.encode("latin-1"), (400,)),
    "surrogate": (b'{"\\ud800": 1}', (400,)),
    "no base64": ({"pictures": ["=" * 1_000_000]}, (400,)),
    "data URL": ({"pictures": ["data:" + "," * 1_000_000]}, (400,)),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_cost_much_are_refused_and_hold_up_nobody(service: Running, name: str) -> None:
    value, statuses = BODIES[name]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.json, value)
        alive(service)
        status, answer, _ = asked.result(60)
    assert status in statuses, answer
    if status != 200:
        assert set(answer) == {"error"} and answer["error"].isprintable() and len(answer["error"]) < 510


def part(name: str, value: bytes, *headers: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"', *headers]
    return b"--x\r\n" + "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + value + b"\r\n"


FORMS = {
    "thousands of parts": part("a", b"1") * 20_000 + b"--x--",
    "thousands of files": part("pictures", b"", 'X: y"; filename="a"') * 20_000 + b"--x--",
    "no parts": b"\r\n" * 900_000,
    "dashes": b"--x" * 600_000,
    "headers": b"--x\r\n" + b"A: b\r\n" * 200_000,
    "one header": b"--x\r\nContent-Disposition: " + b"a;" * 900_000 + b"\r\n\r\n",
    "charset of a field": part("classes", b"a\nb", "Content-Type: text/plain; charset=utf-16") + b"--x--",
    "base64 of a field": part("classes", b"YQpi", "Content-Transfer-Encoding: base64") + b"--x--",
    "latin-1 of a field": part("classes", b"\xe9\nb") + b"--x--",
    "name of marks": part("\xcc\x81" * 300_000, b"1") + b"--x--",
    "long field": part("top", b"1" * 1_900_000) + b"--x--",
    "marks": part("classes", LONG.encode()[:550_000] + b"\nb") + b"--x--",
    "cut off": part("top", b"1")[:-9],
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_cost_much_are_refused_and_hold_up_nobody(service: Running, name: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        asked = pool.submit(service.ask, "POST", "/v1/predict", FORMS[name], kind)
        alive(service)
        status, answer, _ = asked.result(60)
    assert status == 400 and set(answer) == {"error"} and answer["error"].isprintable(), answer


def test_a_body_in_crumbs_is_refused(service: Running) -> None:
    start = head("POST /v1/predict HTTP/1.1", Transfer_Encoding="chunked", **{"Content_Type": "application/json"})
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as line:
        line.sendall(start)
        try:
            line.sendall(b"1\r\nx\r\n" * 100_000)
            answer = line.recv(100)
        except ConnectionError:
            answer = b""
        assert answer[:12] in (b"", b"HTTP/1.1 400")
    alive(service)


def test_those_who_leave_are_not_waited_for(service: Running) -> None:
    kind, body = form([picture(n) for n in range(4)], {})
    for cut in (len(body), len(body) // 2, 1):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", service.port), timeout=30) as line:
                line.sendall(
                    head("POST /v1/predict HTTP/1.1", Content_Type=kind, Content_Length=str(len(body))) + body[:cut]
                )
    until = time.monotonic() + 20
    while service.service.running and time.monotonic() < until:
        time.sleep(0.02)
    assert service.service.running == 0
    assert service.json(GOOD)[0] == 200


# --- time, memory, disk -----------------------------------------------------------------------------
def slow_image() -> bytes:
    """Small as a file, long to decode: as many pixels as one image may have."""
    buffer = io.BytesIO()
    Image.new("RGB", (4900, 4900), (9, 99, 199)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_image_that_takes_long_is_ended_and_others_go_on(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "QUICK_SECONDS", 0.2)
    monkeypatch.setattr(readers, "SLOW_SECONDS", 0.5)
    with serving(method, Settings(seconds=60)) as service, ThreadPoolExecutor(6) as pool:
        late = [pool.submit(service.form, [slow_image()] * 16) for _ in range(3)]
        begun = time.monotonic()
        assert [service.json(GOOD)[0] for _ in range(5)] == [200] * 5
        assert time.monotonic() - begun < 30
        for status, answer, headers in (one.result(60) for one in late):
            assert status == 504 and "processor time" in answer["error"] and "retry-after" in headers, answer
        assert service.json(GOOD)[0] == 200


def test_the_time_of_a_request_ends_its_reading(method: Method) -> None:
    with serving(method, Settings(seconds=1.0)) as service:
        status, answer, _ = service.form([slow_image()] * 16)
        assert status == 504 and ("No answer within 1 s" in answer["error"] or "processor time" in answer["error"])
        until = time.monotonic() + 20
        while service.service.readers.slow.busy and time.monotonic() < until:
            time.sleep(0.05)
        assert not service.service.readers.slow.busy


def test_memory_of_one_request_is_bounded(method: Method) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (4000, 4000)).save(buffer, "PNG")
    with serving(method, Settings(memory=30_000_000, body=100_000)) as service:
        status, answer, _ = service.form([buffer.getvalue()])
        assert status in (400, 413) and set(answer) == {"error"}, answer
        assert service.json(GOOD)[0] == 200


def test_bodies_of_all_requests_are_bounded_together(method: Method) -> None:
    with serving(method, Settings(body=200_000, held=300_000, seconds=5)) as service:
        start = (
            head("POST /v1/predict HTTP/1.1", Content_Type="application/json", Content_Length="190000") + b" " * 180_000
        )
        lines = [socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(3)]
        for line in lines:
            line.sendall(start)
            time.sleep(0.3)  # the first has its room before the next asks
        found = sorted(line.recv(12)[9:] for line in lines)
        assert set(found) == {b"408", b"503"}
        for line in lines:
            line.close()
        assert service.json(GOOD)[0] == 200


def test_a_body_in_drops_gives_its_place_back_long_before_the_time_of_a_request(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_GRACE", 0.5)
    body = json.dumps(GOOD).encode()
    start = head("POST /v1/predict HTTP/1.1", Content_Type="application/json", Content_Length=str(len(body)))
    with serving(method, Settings(seconds=60, requests=1)) as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as line:
            line.sendall(start + body[:1])
            begun = time.monotonic()
            line.settimeout(0.1)
            answer = b""
            for at in range(1, 200):  # a drop each 100 ms: its time alone would end it after a minute
                with contextlib.suppress(TimeoutError):
                    answer = line.recv(1000)
                    break
                line.sendall(body[at : at + 1])
            line.settimeout(30)
            with contextlib.suppress(ConnectionResetError):
                while more := line.recv(1000):  # headers and body may come apart
                    answer += more
            assert answer.startswith(b"HTTP/1.1 408") and b"too slowly" in answer, answer
            assert time.monotonic() - begun < 10
        assert service.json(GOOD)[0] == 200  # the only place is free again
        monkeypatch.setattr(guard, "BODY_RATE", len(body) // 20)
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as line:  # slow, but fast enough
            for at in range(0, len(body), len(body) // 8):
                line.sendall((b"" if at else start) + body[at : at + len(body) // 8])
                time.sleep(0.1)
            assert line.recv(100).startswith(b"HTTP/1.1 200")


def test_a_full_or_missing_temporary_folder_changes_nothing(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with serving(method) as service:
        assert service.form([picture(0, (1200, 1200))])[0] == 200  # above the megabyte from which uploads go to disk


def test_a_reader_that_dies_is_replaced_and_the_log_has_the_details(
    method: Method, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(method) as service:
        lane = service.service.readers.quick

        async def end(self: readers.Process, job: readers.Job) -> Any:
            self.process.send_signal(signal.SIGSEGV)
            return await self._receive()

        with monkeypatch.context() as patch, caplog.at_level("ERROR", "anprompt"):
            patch.setattr(readers.Process, "read", end)
            monkeypatch.setattr("logging.Logger.propagate", True, raising=False)
            status, answer, _ = service.json(GOOD)
        assert status == 400 and "log has the details under" in answer["error"], answer
        until = time.monotonic() + 60
        while len(lane.idle) < readers.QUICK and time.monotonic() < until:
            time.sleep(0.05)
        assert service.json(GOOD)[0] == 200


def test_the_clients_of_a_lane_take_turns() -> None:
    """Tasks of a request that asks much let those pass that ask little."""
    gate, order = threading.Event(), []

    def work(tasks: Any) -> Any:
        assert gate.wait(30)
        order.extend(tasks)
        return list(tasks)

    batcher: Batcher[str, str] = Batcher(work, queue=99, batch=4)
    first = batcher.submit(["first"])
    while len(batcher):
        time.sleep(0.001)
    many = batcher.submit([f"many {n}" for n in range(40)], cost=1.0)
    one = batcher.submit(["one"], cost=1.0)
    gate.set()
    assert [f.result(10) for f in (*first, *many, *one)] and order.index("one") <= 5
    batcher.close(10)


def test_a_client_that_takes_no_answer_is_cut_off(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "TAKE_SECONDS", 0.5)
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.5)
    with serving(method, Settings(seconds=5)) as service:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        line.connect(("127.0.0.1", service.port))
        with line:
            for _ in range(200):
                try:
                    line.sendall(head("GET / HTTP/1.1"))
                except ConnectionError:
                    break
            until = time.monotonic() + 20
            while service.server.server_state.connections and time.monotonic() < until:
                time.sleep(0.05)
            assert not service.server.server_state.connections


def test_too_many_connections_are_told(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SPARE_CONNECTIONS", 0)
    with serving(method, Settings(requests=2)) as service:
        held = [socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(2)]
        time.sleep(0.3)
        line = refused(raw(service, b""), 503)
        assert "Too many connections" in line
        for one in held:
            one.close()
        time.sleep(0.3)
        alive(service)


# --- a process of its own ---------------------------------------------------------------------------
CODE = """
import sys, time
from anprompt.serve import engine, app
WHAT = sys.argv.pop(1)
if WHAT == "stuck":
    engine.Engine.run = lambda self, tasks: time.sleep(600)
elif WHAT == "fails":
    engine.Engine.run = lambda self, tasks: {}["of \\x1b[31m"]
from anprompt.serve import run
run.END_SECONDS = 6.0
from anprompt.commands.main import main
sys.exit(main(sys.argv[1:]))
"""


class Served:
    """`anprompt serve` in a process of its own."""

    def __init__(self, adapter: Path, log: Path, what: str, *options: str) -> None:
        self.log = log
        words = [sys.executable, "-u", "-c", CODE, what, "serve", str(adapter), "--port", "0", *options]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        assert self.process.stdout is not None
        found = re.search(rb"http://127\.0\.0\.1:(\d+)/", self.process.stdout.readline())
        assert found, log.read_text()
        self.running = Running(int(found[1]), None, None)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_sigterm_ends_it_in_time_though_the_model_is_stuck_and_strangers_hold_on(
    adapter_folder: Path, tmp_path: Path
) -> None:
    with Served(adapter_folder, tmp_path / "log", "stuck", "--timeout", "2") as served, ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(served.running.json, GOOD) for _ in range(4)]
        lines = [socket.create_connection(("127.0.0.1", served.running.port), timeout=30) for _ in range(3)]
        lines[0].sendall(b"GET / HT")
        lines[1].sendall(head("POST /v1/predict HTTP/1.1", Content_Type="application/json", Content_Length="99") + b"{")
        time.sleep(0.5)
        begun = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(45) in (0, 1)
        assert time.monotonic() - begun < 40
        for one in asked:
            try:
                assert one.result(30)[0] in (503, 504)
            except (OSError, Exception) as error:  # the connection was closed with the service
                assert not isinstance(error, AssertionError), error
        for line in lines:
            line.close()


def test_the_log_has_the_details_of_every_failure(adapter_folder: Path, tmp_path: Path) -> None:
    with Served(adapter_folder, tmp_path / "log", "fails", "--quiet") as served:
        numbers = []
        for _ in range(8):  # more than the lines of one kind that a terminal gets
            status, answer, _ = served.running.json(GOOD)
            assert status == 500 and "of" not in answer["error"].split(), answer
            numbers.append(re.search(r"under ([0-9a-f]{8})\.", answer["error"])[1])  # type: ignore[index]
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(45) == 0
    log = (tmp_path / "log").read_text()
    assert all(number in log for number in numbers)
    assert log.count("KeyError: 'of \\x1b[31m'") >= 8 and "Traceback" in log and "\x1b" not in log
