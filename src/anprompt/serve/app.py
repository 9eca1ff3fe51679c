"""The application: routes, and the way of one request from bytes to answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI, Request, Response
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.types import Receive

from anprompt._version import __version__
from anprompt.data.names import check_classnames
from anprompt.errors import NotFinite, UserError
from anprompt.evaluation.conditions import NOISE_SEED
from anprompt.methods.base import Method
from anprompt.noise.image import GROUPS, IMAGE_NOISE, SEVERITIES, corrupt, picture_rng
from anprompt.serve import schema
from anprompt.serve.batching import Batcher, Closed, Full
from anprompt.serve.engine import Engine, Names, Scores, Task
from anprompt.serve.forms import Ask
from anprompt.serve.guard import BODY_RATE, Guard, Room, TooLarge, TooSlowly, failure, read_body, refusal, too_large
from anprompt.serve.influence import covered, influence
from anprompt.serve.metrics import Metrics
from anprompt.serve.page import page, page_policy
from anprompt.serve.readers import Ended, NotStarted, Readers, Reading, Refused, TooSlow
from anprompt.serve.settings import Settings

log = logging.getLogger("anprompt")

THREADS = 2  # that disturb and cover views, and write answers
CLOSE_SECONDS = 5.0  # for what is in the model when the service stops
CLASS_SECONDS, IMAGE_SECONDS = 0.02, 0.02  # what a class name and an image cost, as the queues reckon it


@dataclass(frozen=True)
class Seen:
    """A decoded picture: what the model gets, and the same with parts covered where influence was asked."""

    view: np.ndarray
    parts: tuple[np.ndarray, ...]


class Service:
    """One adapter being served.

    Args:
        method: the opened adapter (or zero-shot CLIP).
        classes: the class list of requests that bring none; None for the trained one.
    """

    def __init__(self, method: Method, settings: Settings, classes: Sequence[str] | None = None) -> None:
        self.method, self.settings = method, settings
        self.classes = tuple(check_classnames(classes)) if classes else method.trained_classnames
        self.engine = Engine(method, settings.lists, pinned=self.classes)
        self.batcher: Batcher[Task, Scores] = Batcher(
            self.engine.run, queue=settings.queue, batch=settings.batch, wait=settings.wait,
            seen=lambda size: self.metrics.batches.add(size),
        )  # fmt: skip
        self.lists: Batcher[tuple[Names, bool], bool] = Batcher(
            self.engine.encode, queue=settings.requests, batch=1, name="anprompt-lists"
        )
        self.readers = Readers(settings, method.backbone.dims.image_size)
        self.threads = ThreadPoolExecutor(THREADS, "anprompt-answers")
        self.room = Room(max(settings.held, settings.body))
        self.running = 0
        self.metrics = Metrics(lambda: len(self.batcher), lambda: self.running)

    async def close(self) -> None:
        """Finish what waits, within a few seconds, and end the threads and processes."""
        await self.readers.close()
        for queue in (self.lists, self.batcher):
            await asyncio.get_running_loop().run_in_executor(self.threads, queue.close, CLOSE_SECONDS)
        self.threads.shutdown(wait=False, cancel_futures=True)

    def info(self) -> dict[str, Any]:
        """What is served, and within which bounds."""
        return {
            "version": __version__,
            "method": self.method.preset or self.method.name,
            "backbone": "embedded" if self.method.backbone.id == "embedded" else _last(self.method.backbone.id),
            "template": self.method.template,
            "classes": list(self.classes),
            "picture_size": self.method.backbone.dims.image_size,
            "noise": {group: list(names) for group, names in GROUPS.items()},
            "noise_about": {name: noise.doc for name, noise in IMAGE_NOISE.items()},
            "severities": list(SEVERITIES),
            "limits": {
                key: getattr(self.settings, key)
                for key in ("body", "pictures", "pixels", "classes", "queue", "seconds")
            },
        }

    # --- one request ------------------------------------------------------------------------------
    async def predict(self, request: Request) -> Response:
        """Answer, or say in one line why not."""
        if self.running >= self.settings.requests:
            return _busy()
        self.running += 1
        started = time.monotonic()
        try:
            return await self._predict(request, started + self.settings.seconds)
        except asyncio.TimeoutError:
            return _late(f"No answer within {self.settings.seconds:g} s; try again later.")
        except Exception as error:
            return self._refused(error)
        finally:
            self.running -= 1
            self.metrics.latency.add(time.monotonic() - started)

    def _refused(self, error: Exception) -> Response:
        """The answer to a request that failed."""
        match error:
            case NotFinite():
                return failure(500, str(error).rstrip("."), error)
            case UserError():
                return refusal(400, str(error))
            case Refused():
                return refusal(error.status, error.line)
            case TooLarge():
                return too_large(self.settings)
            case Full() | Closed():
                return _busy()
            case TooSlow():
                return _late(f"Reading the request took {error}; send fewer or smaller images.")
            case Ended():
                return failure(400, "The request can't be read: an image in it ends its decoder", error)
            case NotStarted() | MemoryError():
                return failure(503, "The service is short of memory or processes; try again later", error)
            case ConnectionError():  # nobody is left to read this
                return refusal(400, "The request was cut off.")
        return failure(500, "Unexpected failure", error)

    async def _predict(self, request: Request, until: float) -> Response:
        with self.room.part() as take:
            try:
                limit = self.settings.body
                body = await read_body(request.receive, limit, until - time.monotonic(), take)
            except TooSlowly:
                return refusal(
                    408, f"The body comes too slowly, at less than {BODY_RATE // 1024} KB a second.", Connection="close"
                )
            except asyncio.TimeoutError:
                return refusal(408, f"The body did not come within {self.settings.seconds:g} s.", Connection="close")
            kind, client = request.headers.get("content-type", ""), request.client.host if request.client else ""
            answer = asyncio.ensure_future(self._answer(kind, body, client))
            del body
            gone = asyncio.ensure_future(_gone(request.receive))
            try:
                await asyncio.wait(
                    {answer, gone}, timeout=max(until - time.monotonic(), 0), return_when=asyncio.FIRST_COMPLETED
                )
                if answer.done():
                    return Response(await answer, media_type="application/json")
                raise ConnectionError if gone.done() else asyncio.TimeoutError
            finally:
                answer.cancel()
                gone.cancel()

    async def _answer(self, kind: str, body: bytes, client: str) -> bytes:
        reading = await self.readers.read(kind, body, client)
        del body
        ask, loop = reading.ask, asyncio.get_running_loop()
        names = self.classes if ask.classes is None else ask.classes
        both = ask.zeroshot or ask.influence
        if not self.engine.known(names, both):
            (known,) = self.lists.submit([(names, both)], cost=len(names) * CLASS_SECONDS)
            await asyncio.wrap_future(known)
        seen = await loop.run_in_executor(self.threads, see, reading)
        views = [view for one in seen for view in (one.view, *one.parts)]
        futures = self.batcher.submit([Task(view, names, both) for view in views], cost=IMAGE_SECONDS)
        scores: list[Scores] = await asyncio.gather(*map(asyncio.wrap_future, futures))
        return await loop.run_in_executor(self.threads, render, ask, seen, scores, names)


async def _gone(receive: Receive) -> None:
    """Comes back when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def see(reading: Reading) -> list[Seen]:
    """The views, disturbed and covered as was asked."""
    seen = []
    for view, digest in zip(reading.views, reading.digests):
        if reading.ask.noise:
            family, severity = reading.ask.noise
            view = corrupt(view, family, severity, rng=picture_rng(NOISE_SEED, digest, family, severity))
        seen.append(Seen(view, tuple(covered(view)) if reading.ask.influence else ()))
    return seen


def render(ask: Ask, seen: Sequence[Seen], scores: Sequence[Scores], names: Names) -> bytes:
    """The answer as JSON."""
    step = len(scores) // len(seen)
    predictions = [
        _prediction(ask, one, scores[index * step : (index + 1) * step], names) for index, one in enumerate(seen)
    ]
    made = {"head": scores[0].head, "classes": list(names), "predictions": predictions}
    return json.dumps(made, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _prediction(ask: Ask, seen: Seen, scores: Sequence[Scores], names: Names) -> dict[str, Any]:
    whole, parts = scores[0], scores[1:]
    made: dict[str, Any] = {"top": _top(whole.adapter, names, ask.top)}
    if ask.zeroshot and whole.zeroshot is not None:
        made["zeroshot"] = _top(whole.zeroshot, names, ask.top)
    if ask.view:
        made["view"] = _png(seen.view)
    if ask.influence and whole.zeroshot is not None:
        made["influence"] = {
            "adapter": influence(whole.adapter, torch.stack([p.adapter for p in parts]), names),
            "zeroshot": influence(
                whole.zeroshot, torch.stack([p.zeroshot for p in parts if p.zeroshot is not None]), names
            ),
        }
    return made


def _top(logits: torch.Tensor, names: Names, count: int) -> list[dict[str, Any]]:
    values, labels = logits.softmax(dim=0).topk(min(count, len(names)))
    return [{"class": names[label], "probability": value} for value, label in zip(values.tolist(), labels.tolist())]


def _png(view: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _busy() -> Response:
    return refusal(503, "The queue is full; try again later.", Retry_After="1")


def _late(line: str) -> Response:
    return refusal(504, line, Retry_After="1")


def _last(name: str) -> str:
    """A hub id as it is; of a folder the last part, since the rest is nobody's business."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith("/") else name


def create_app(method: Method, settings: Settings | None = None, classes: Sequence[str] | None = None) -> FastAPI:
    """The ASGI application; `app.state.service` is the `Service` behind it."""
    settings = settings or Settings()
    service = Service(method, settings, classes)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.readers.start()
        service.engine.encode([(service.classes, False)])
        yield
        await service.close()

    app = FastAPI(
        title="anprompt", version=__version__, summary="Names for pictures, from any list of classes.",
        docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan,  # the usual pages load scripts from elsewhere
    )  # fmt: skip
    app.state.service = service
    _routes(app, service)
    paths = ("/", "/healthz", "/metrics", "/openapi.json", "/v1/info", "/v1/predict")

    async def no_route(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if status == 405:
            return refusal(405, f"{request.method} is not possible here.", **_allowed(error))
        return refusal(status, f"Unknown path {request.url.path[:80]!r}. Available: {', '.join(paths)}.")

    app.add_exception_handler(HTTPException, no_route)
    app.add_middleware(Guard, settings=settings, counted=service.metrics.count, paths=paths)
    return app


def _allowed(error: Exception) -> dict[str, str]:
    headers = getattr(error, "headers", None) or {}
    return {"Allow": headers["Allow"]} if "Allow" in headers else {}


def _routes(app: FastAPI, service: Service) -> None:
    html, policy = page(service.settings.token is not None), page_policy()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    @app.get("/healthz", response_model=schema.Health, summary="Whether the service is up")
    async def health() -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    @app.get("/metrics", response_class=PlainTextResponse, summary="Counters in Prometheus' text format")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/info", response_model=schema.Info, summary="What is served, and within which bounds")
    async def info() -> Response:
        return JSONResponse(service.info())

    @app.post(
        "/v1/predict", response_model=schema.Answer, responses=schema.ERRORS,
        openapi_extra=schema.request_body(), summary="Names for one or more pictures",
    )  # fmt: skip
    async def predict(request: Request) -> Response:
        return await service.predict(request)
