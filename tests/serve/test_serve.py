"""The service over a real socket: answers equal to the offline ones, and one clear line for everything else."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra [serve]")

import anprompt
from anprompt.backbones import Backbone
from anprompt.classifier import PromptClassifier
from anprompt.data.crop import centre_view
from anprompt.evaluation.conditions import NOISE_SEED
from anprompt.methods import build_method
from anprompt.noise.image import corrupt, picture_rng
from anprompt.serve.settings import Settings
from tests.pictures import bomb
from tests.serving import Running, form, picture, serving, shares

TRAINED = ["blue square", "green square", "red square", "yellow square"]
LISTS: list[list[str]] = [TRAINED, ["lynx", "puma", "tabby"], ["a, b", "c"], ["red square", "something else"]]


@pytest.fixture(scope="module")
def offline(adapter_folder: Path, tiny_backbone: Backbone) -> PromptClassifier:
    return anprompt.load(adapter_folder, backbone=tiny_backbone)


@pytest.fixture(scope="module")
def service(offline: PromptClassifier) -> Iterator[Running]:
    settings = Settings(body=300_000, pictures=4, pixels=1_000_000, classes=20, batch=8, names=("my-box",))
    with serving(offline.method_, settings) as running:
        yield running


def expected(offline: PromptClassifier, data: bytes, names: list[str]) -> dict[str, float]:
    row = offline.predict_proba([Image.open(io.BytesIO(data))], classes=names)[0]
    return dict(zip(names, row.tolist()))


def encoded(*pictures: bytes) -> list[str]:
    return [base64.b64encode(data).decode() for data in pictures]


def test_answers_do_not_wait_for_the_other_side(service: Running) -> None:
    """Head and body are two packets; with Nagle's algorithm the second waits 40 ms for a receipt."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert line.recv(4096).startswith(b"HTTP/1.1 200")
        (mine,) = [
            connection.transport.get_extra_info("socket")
            for connection in service.server.server_state.connections
            if connection.transport.get_extra_info("peername") == line.getsockname()
        ]
        assert mine.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- right answers --------------------------------------------------------------------------------
def test_mixed_requests_at_once_get_the_offline_answers(service: Running, offline: PromptClassifier) -> None:
    """Many class lists and sizes, good and bad mixed, eight at a time: batching must change nothing."""
    rng = random.Random(0)
    jobs = [(seed, rng.choice(LISTS), rng.randint(1, 4)) for seed in range(40)]

    def ask(job: tuple[int, list[str], int]) -> tuple[int, Any]:
        seed, names, count = job
        files = [picture(seed * 10 + n, (20 + seed, 50)) for n in range(count)]
        if seed % 5 == 4:
            files[-1] = b"no picture"
        if seed % 2:
            return service.form(files, classes=names, top=9)[:2]
        return service.json({"pictures": encoded(*files), "classes": names, "top": 9})[:2]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, jobs))
    for (seed, names, count), (status, answer) in zip(jobs, answers):
        if seed % 5 == 4:
            assert status == 400 and answer["error"].startswith(f"picture {count}: is not a picture"), answer
            continue
        assert status == 200 and answer["classes"] == names, answer
        assert answer["head"] == ("trained" if names == TRAINED else "unseen")
        assert len(answer["predictions"]) == count
        for n, prediction in enumerate(answer["predictions"]):
            want = expected(offline, picture(seed * 10 + n, (20 + seed, 50)), names)
            assert shares(prediction["top"]) == pytest.approx(want, abs=1e-5)
            order = [entry["probability"] for entry in prediction["top"]]
            assert order == sorted(order, reverse=True)
    assert "anprompt_batch_pictures_count" in service.ask("GET", "/metrics")[1]


def test_trained_classes_are_the_default_and_top_is_bounded(service: Running) -> None:
    status, answer, _ = service.form([picture(1)])
    assert status == 200 and answer["classes"] == TRAINED and answer["head"] == "trained"
    assert len(answer["predictions"][0]["top"]) == 4 and set(answer["predictions"][0]) == {"top"}
    assert len(service.form([picture(1)], top=2)[1]["predictions"][0]["top"]) == 2


def test_noise_is_the_benchmarks_and_zeroshot_is_plain_clip(service: Running, offline: PromptClassifier) -> None:
    data = picture(3, (60, 40), "JPEG")
    status, answer, _ = service.form([data], classes=LISTS[1], noise="fog:4", zeroshot="true", view="true")
    assert status == 200
    rng = picture_rng(NOISE_SEED, hashlib.sha256(data).hexdigest(), "fog", 4)
    view = corrupt(centre_view(Image.open(io.BytesIO(data)), 32), "fog", 4, rng=rng)
    prediction = answer["predictions"][0]
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(prediction["view"].partition(",")[2]))))
    assert np.array_equal(sent, view)
    assert shares(prediction["top"]) == pytest.approx(
        dict(zip(LISTS[1], offline.predict_proba([view], classes=LISTS[1])[0].tolist())), abs=1e-5
    )
    plain = PromptClassifier(offline.method_.backbone)._adopt(
        build_method("zeroshot", offline.method_.backbone, LISTS[1], template=offline.method_.template)
    )
    assert shares(prediction["zeroshot"]) == pytest.approx(
        dict(zip(LISTS[1], plain.predict_proba([view])[0].tolist())), abs=1e-5
    )
    again = service.form([data], classes=LISTS[1], noise="fog:4")[1]
    assert shares(again["predictions"][0]["top"]) == pytest.approx(shares(prediction["top"]), abs=1e-6)


def test_influence_is_what_covering_a_square_does(service: Running, offline: PromptClassifier) -> None:
    data = picture(4, (32, 32))
    answer = service.json({"pictures": encoded(data), "influence": True})[1]
    found = answer["predictions"][0]["influence"]["adapter"]
    whole = expected(offline, data, TRAINED)
    assert found["class"] == max(whole, key=whole.__getitem__)
    assert found["probability"] == pytest.approx(whole[found["class"]], abs=1e-5)
    grid = found["grid"]
    assert np.shape(found["change"]) == np.shape(found["covered"]) == (grid, grid)
    view = np.array(Image.open(io.BytesIO(data)))
    edges = [round(32 * step / grid) for step in range(grid + 1)]
    view[edges[2] : edges[3], edges[4] : edges[5]] = view.reshape(-1, 3).mean(axis=0).round()
    share = offline.predict_proba([view])[0][TRAINED.index(found["class"])]
    assert found["covered"][2][4] == pytest.approx(share, abs=1e-5)
    before = found["probability"]
    odds = np.log(before / (1 - before)) - np.log(share / (1 - share))
    assert found["change"][2][4] == pytest.approx(odds, abs=1e-3)


def test_files_are_turned_upright_and_laid_on_white(
    service: Running, offline: PromptClassifier, tmp_path: Path
) -> None:
    """The way of a file through the service is that of a file on the disk."""
    image = Image.open(io.BytesIO(picture(5, (40, 24))))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.putalpha(90)
    image.save(tmp_path / "clear.png")
    for path in tmp_path.iterdir():
        want = dict(zip(TRAINED, offline.predict_proba([path])[0].tolist()))
        got = service.json({"pictures": encoded(path.read_bytes())})[1]["predictions"][0]["top"]
        assert shares(got) == pytest.approx(want, abs=1e-5)


# --- wrong input ----------------------------------------------------------------------------------
GOOD = encoded(picture(0))
WRONG: list[tuple[Any, str]] = [
    (b"", "The body is not JSON"),
    (b"{", "The body is not JSON"),
    (b"\xff\xfe", "The body is not JSON"),
    (b"[" * 100_000, "The body is not JSON (nested too deeply)"),
    (b'{"top": ' + b"9" * 5000 + b"}", "The body is not JSON"),
    ([], "The body must be a JSON object, not list."),
    ({}, "No picture; send one or more as 'pictures'."),
    ({"pictures": []}, "No picture"),
    ({"pictures": "abc"}, "picture 1: is not base64 text"),
    ({"pictures": [1]}, "picture 1: must be a base64 text, not int."),
    ({"pictures": ["%%%"]}, "picture 1: is not base64 text"),
    ({"pictures": ["\u00e9"]}, "picture 1: is not base64 text"),
    ({"pictures": ["/etc/passwd"]}, "picture 1: is not base64 text"),
    ({"pictures": [""]}, "picture 1: is empty (0 bytes)"),
    ({"pictures": encoded(b"hello")}, "picture 1: is not a picture"),
    ({"pictures": encoded(b"%PDF-1.4")}, "picture 1: is a PDF document, not a picture"),
    ({"pictures": encoded(picture(0)[:200])}, "picture 1: is damaged or cut off"),
    ({"pictures": encoded(picture(0), b"GIF89a")}, "picture 2: "),
    ({"pictures": GOOD * 5}, "5 pictures; at most 4 fit in one request."),
    ({"pictures": GOOD, "classes": 7}, "classes must be a list of names."),
    ({"pictures": GOOD, "classes": ["cat", 3]}, "classes must be a list of names."),
    ({"pictures": GOOD, "classes": []}, "The class list needs at least two names"),
    ({"pictures": GOOD, "classes": ["cat"]}, "The class list needs at least two names"),
    ({"pictures": GOOD, "classes": ["cat", "Cat"]}, "The class names 'cat' and 'Cat' both read as"),
    ({"pictures": GOOD, "classes": ["cat", " "]}, "The class name ' ' is empty"),
    ({"pictures": GOOD, "classes": ["cat", "a\x00b"]}, "The class name 'a\\x00b' holds control"),
    ({"pictures": GOOD, "classes": ["cat", "\ud800"]}, "The class name '\\ud800' holds control or undecodable"),
    ({"pictures": GOOD, "classes": ["cat", "x" * 301]}, "The class name"),
    ({"pictures": GOOD, "classes": ["cat", "ab " * 60]}, "has more tokens|tokens|too long"),
    ({"pictures": GOOD, "classes": [str(n) for n in range(21)]}, "21 class names; at most 20 fit"),
    ({"pictures": GOOD, "top": 0}, "top must be a whole number from 1 on, not 0."),
    ({"pictures": GOOD, "top": True}, "top must be a whole number"),
    ({"pictures": GOOD, "top": "many"}, "top must be a whole number from 1 on, not 'many'."),
    ({"pictures": GOOD, "noise": "fogg:3"}, "Unknown corruption 'fogg'. Did you mean 'fog'?"),
    ({"pictures": GOOD, "noise": "fog:6"}, "Unknown severity '6'."),
    ({"pictures": GOOD, "noise": "fog"}, "noise must be FAMILY:SEVERITY, like fog:3, not 'fog'."),
    ({"pictures": GOOD, "noise": 3}, "noise must be FAMILY:SEVERITY"),
    ({"pictures": GOOD, "zeroshot": "yes"}, "zeroshot must be true or false, not 'yes'."),
    ({"pictures": GOOD * 2, "influence": True}, "influence is for one picture at a time, not 2."),
    ({"pictures": GOOD, "clases": ["a", "b"]}, "Unknown field 'clases'. Did you mean 'classes'?"),
    ({"pictures": GOOD, "z" * 5000: 1}, "Unknown field 'zzz"),
]


@pytest.mark.parametrize("value, message", WRONG, ids=[m[:30] for _, m in WRONG])
def test_wrong_json_is_one_line(service: Running, value: Any, message: str) -> None:
    status, answer, _ = service.json(value)
    assert status == 400 and set(answer) == {"error"}, answer
    line = answer["error"]
    assert any(part in line for part in message.split("|")), line
    assert "\n" not in line and len(line) <= 510 and "Traceback" not in line


def test_wrong_forms_are_one_line(service: Running) -> None:
    good = picture(0)
    kind, body = form([good], {})
    for wrong in (body[:-30], body.replace(b'name="pictures"; ', b""), b"", b"x" * 1000):
        status, answer, _ = service.ask("POST", "/v1/predict", wrong, {"Content-Type": kind})
        assert status == 400 and ("form can't be read" in answer["error"] or "picture" in answer["error"]), answer
    status, answer, _ = service.ask("POST", "/v1/predict", body, {"Content-Type": "multipart/form-data"})
    assert status == 400 and "form can't be read" in answer["error"]
    for fields, message in (
        ({"classes": '["a", "b"'}, "neither names, one a line, nor a JSON list"),
        ({"classes": '{"a": 1}'}, "at least two names"),
        ({"top": "1.5"}, "top must be a whole number from 1 on, not '1.5'."),
        ({"top": ["1", "2"]}, "The field 'top' came twice."),
        ({"pictures": "text"}, "came as text; send pictures as files"),
        ({"view": "perhaps"}, "view must be true or false, not 'perhaps'."),
        ({"classes": [str(n) for n in range(60)]}, "Too many fields"),
    ):
        status, answer, _ = service.form([good], **fields)
        assert status == 400 and message in answer["error"], answer
    assert service.form([good], classes="a, b\nc\n\n")[1]["classes"] == ["a, b", "c"]
    assert service.form([good], classes='["a, b", "c"]')[1]["classes"] == ["a, b", "c"]


def test_bombs_and_large_bodies_are_refused(service: Running, tmp_path: Path) -> None:
    bomb(tmp_path / "bomb.png")
    status, answer, _ = service.form([(tmp_path / "bomb.png").read_bytes()])
    assert status == 400 and "pixels, more than 1,000,000; make it smaller" in answer["error"]
    status, answer, _ = service.form([picture(0, (2001, 2000), "JPEG", quality=1)])  # decoded small: four times as many
    assert status == 400 and "more than 4,000,000; make it smaller" in answer["error"], answer
    status, answer, _ = service.form([b"x" * 400_000])
    assert status == 413 and "more than 300,000 bytes" in answer["error"]
    status, answer, _ = service.ask("POST", "/v1/predict", b"", {"Content-Length": "1e9"})
    assert status in (400, 413)


def test_a_body_without_a_length_is_bounded_too(service: Running) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as line:
        line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(5):
            line.sendall(chunk)
        assert line.recv(100).startswith(b"HTTP/1.1 413")


def test_other_paths_methods_and_types(service: Running) -> None:
    status, answer, _ = service.ask("GET", "/v1/predictt")
    assert status == 404 and answer["error"].startswith("Unknown path '/v1/predictt'. Available: /,")
    status, answer, headers = service.ask("GET", "/v1/predict")
    assert status == 405 and headers["allow"] == "POST" and set(answer) == {"error"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, answer, _ = service.ask("POST", "/v1/predict", b"{}", {"Content-Type": kind})
        assert status == 415 and "application/json or multipart/form-data" in answer["error"]
    for path in ("/docs", "/redoc", "/../etc/passwd", "/%00", "/page.js"):
        assert service.ask("GET", path)[0] == 404


# --- who may ask ----------------------------------------------------------------------------------
def test_only_known_hosts_and_own_pages_are_answered(service: Running) -> None:
    for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "my-box", "MY-BOX:80"):
        assert service.ask("GET", "/healthz", headers={"Host": host})[0] == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", ""):
        status, answer, _ = service.ask("GET", "/v1/info", headers={"Host": host})
        assert status == 421 and "--allow-host" in answer["error"], host
    own = {"Host": "localhost:1", "Origin": "http://localhost:1"}
    assert service.ask("GET", "/v1/info", headers=own)[0] == 200
    for origin in ("http://evil.example", "null", "http://localhost:2"):
        status, answer, headers = service.ask("GET", "/v1/info", headers={**own, "Origin": origin})
        assert status == 403 and "access-control-allow-origin" not in headers


def test_the_token_is_needed_and_compared_whole(offline: PromptClassifier) -> None:
    with serving(offline.method_, Settings(token="correct horse".replace(" ", "-"))) as service:
        for path in ("/healthz", "/", "/openapi.json"):
            assert service.ask("GET", path)[0] == 200
        for wrong in ("", "Bearer", "Bearer correct-hors", "Bearer correct-horsee", "Basic correct-horse",
                      "correct-horse", "Bearer \u00e9"):  # fmt: skip
            for path in ("/v1/info", "/metrics"):
                status, answer, headers = service.ask(
                    "GET", path, headers={"Authorization": wrong.encode("latin-1").decode("latin-1")}
                )
                assert status == 401 and headers["www-authenticate"] == "Bearer", wrong
                assert "correct" not in answer["error"]
        status, answer, _ = service.json({"pictures": GOOD})
        assert status == 401
        assert service.json({"pictures": GOOD}, Authorization="Bearer correct-horse")[0] == 200
        assert 'id="token-field" >' in service.ask("GET", "/")[1]


# --- bounds in time and number ----------------------------------------------------------------------
def test_a_full_queue_and_a_slow_model_are_said(offline: PromptClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(offline.method_, Settings(queue=2, batch=1, seconds=1.5, requests=4)) as service:
        real, slow = service.service.batcher.work, 0.7

        def work(tasks: Any) -> Any:
            time.sleep(slow)
            return real(tasks)

        monkeypatch.setattr(service.service.batcher, "work", work)
        status, answer, headers = service.json({"pictures": GOOD * 3})  # never fits
        assert status == 503 and headers["retry-after"] == "1" and "queue is full" in answer["error"]
        with ThreadPoolExecutor(10) as pool:
            found = list(pool.map(lambda _: service.json({"pictures": GOOD}), range(10)))
        assert {status for status, _, _ in found} <= {200, 503, 504}
        assert sum(status == 503 for status, _, _ in found) >= 5  # at most four are let in
        assert all("error" in answer for status, answer, _ in found if status != 200)
        slow = 2.5
        status, answer, headers = service.json({"pictures": GOOD})
        assert status == 504 and headers["retry-after"] == "1" and "No answer within 1.5 s" in answer["error"]
        slow = 0.0
        time.sleep(1.5)
        assert service.json({"pictures": GOOD})[0] == 200  # and it goes on
        assert service.service.running == 0 and len(service.service.batcher) == 0


def test_a_body_that_never_ends_is_given_up(offline: PromptClassifier) -> None:
    with (
        serving(offline.method_, Settings(seconds=0.5)) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=30) as line,
    ):
        line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: 100\r\n\r\n{")  # fmt: skip
        assert line.recv(100).startswith(b"HTTP/1.1 408")


def test_headers_that_never_end_are_given_up(offline: PromptClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    from anprompt.serve import run

    monkeypatch.setattr(run, "HEADER_SECONDS", 0.4)
    with serving(offline.method_) as service:
        for start in (b"", b"GET / HTTP/1.1\r\nHost: local"):
            with socket.create_connection(("127.0.0.1", service.port), timeout=30) as line:
                line.sendall(start)
                assert line.recv(100) == b""  # closed, without an answer


def test_an_unexpected_failure_is_one_line_and_the_next_request_works(
    offline: PromptClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(offline.method_) as service:
        with monkeypatch.context() as patch:
            patch.setattr(service.service.engine, "_answers", lambda *_: 1 / 0)
            status, answer, _ = service.json({"pictures": GOOD})
            assert status == 500 and "division" not in answer["error"]
        assert service.json({"pictures": GOOD})[0] == 200


# --- what is told ---------------------------------------------------------------------------------
def test_info_health_and_description(service: Running) -> None:
    assert service.ask("GET", "/healthz")[1] == {"status": "ok", "version": anprompt.__version__}
    info = service.ask("GET", "/v1/info")[1]
    assert info["classes"] == TRAINED and info["method"] == "anprompt" and info["picture_size"] == 32
    assert "/" not in info["backbone"] and sum(map(len, info["noise"].values())) == 18
    described = service.ask("GET", "/openapi.json")[1]
    assert set(described["paths"]) == {"/healthz", "/metrics", "/v1/info", "/v1/predict"}
    post = described["paths"]["/v1/predict"]["post"]
    assert set(post["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {"400", "413", "503", "504"} <= set(post["responses"])


def test_metrics_count_what_was_answered(offline: PromptClassifier) -> None:
    with serving(offline.method_) as service:
        service.form([picture(0), picture(1)])
        service.json({})
        for n in range(50):
            service.ask("GET", f"/made-up-{n}")
        text = service.ask("GET", "/metrics")[1]
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['anprompt_requests_total{path="/v1/predict",status="200"}'] == "1"
    assert values['anprompt_requests_total{path="/v1/predict",status="400"}'] == "1"
    assert values['anprompt_requests_total{path="other",status="404"}'] == "50" and "made-up" not in text
    assert values["anprompt_errors_total"] == "51"
    assert values["anprompt_request_seconds_count"] == values['anprompt_request_seconds_bucket{le="+Inf"}'] == "2"
    assert values["anprompt_batch_pictures_sum"] == "2.000000" and values["anprompt_queue_pictures"] == "0"


def test_page_may_load_nothing_from_elsewhere(service: Running) -> None:
    status, html, headers = service.ask("GET", "/")
    assert status == 200 and "default-src 'none'" in headers["content-security-policy"]
    assert "http://" not in html and "https://" not in html and "{{" not in html and "@import" not in html
    for tag, policy in (("style", "style-src"), ("script", "script-src")):
        inside = html.partition(f"<{tag}>")[2].rpartition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{policy} 'sha256-{digest}'" in headers["content-security-policy"]
    assert json.dumps(html).count("onclick") == 0
