"""The application: routes, and the way of one request from bytes to answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
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

from anprompt import __version__
from anprompt.conditions import NOISE_SEED
from anprompt.data.images import decode_picture
from anprompt.data.splits import clean_classnames
from anprompt.data.views import centre_view
from anprompt.errors import UserError
from anprompt.methods.base import Method
from anprompt.noise.image import GROUPS, IMAGE_NOISE, SEVERITIES, corrupt, picture_rng
from anprompt.serve import schema
from anprompt.serve.batching import Batcher, Closed, Full
from anprompt.serve.engine import Engine, Scores, Task
from anprompt.serve.forms import Ask, BadType, read_ask
from anprompt.serve.guard import Guard, TooLarge, read_body, refusal, too_large
from anprompt.serve.influence import covered, influence
from anprompt.serve.metrics import Metrics
from anprompt.serve.page import page, page_policy
from anprompt.serve.settings import Settings

log = logging.getLogger("anprompt")

DECODERS = 2  # threads that open pictures; each may hold a few times `Settings.pixels` bytes


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
        self.classes = tuple(clean_classnames(classes)) if classes else method.trained_classnames
        self.engine = Engine(method, settings.lists)
        self.batcher: Batcher[Task, Scores] = Batcher(
            self.engine.run, queue=settings.queue, batch=settings.batch, wait=settings.wait,
            seen=lambda size: self.metrics.batches.add(size),
        )  # fmt: skip
        self.decoders = ThreadPoolExecutor(DECODERS, "anprompt-decode")
        self.running = 0
        self.metrics = Metrics(lambda: len(self.batcher), lambda: self.running)

    def close(self) -> None:
        """Finish what waits and stop the threads."""
        self.batcher.close()
        self.decoders.shutdown()

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
        except UserError as error:
            return refusal(400, str(error))
        except BadType:
            return refusal(415, "The body must be application/json or multipart/form-data.")
        except TooLarge:
            return too_large(self.settings)
        except (Full, Closed):
            return _busy()
        except asyncio.TimeoutError:
            return refusal(
                504, f"No answer within {self.settings.seconds:g} s; try again later.", Retry_After="1"
            )
        except ConnectionError:  # nobody is left to read this
            return refusal(400, "The request was cut off.")
        except Exception:
            log.exception("a request failed")
            return refusal(500, "Unexpected failure; the service's log has the details.")
        finally:
            self.running -= 1
            self.metrics.latency.add(time.monotonic() - started)

    async def _predict(self, request: Request, until: float) -> Response:
        try:
            body = await read_body(request.receive, self.settings.body, until - time.monotonic())
        except asyncio.TimeoutError:
            return refusal(
                408, f"The body did not come within {self.settings.seconds:g} s.", Connection="close"
            )
        answer = self._answer(await read_ask(request.headers, body, self.settings))
        return JSONResponse(await asyncio.wait_for(answer, until - time.monotonic()))

    async def _answer(self, ask: Ask) -> dict[str, Any]:
        if ask.influence and len(ask.pictures) > 1:
            raise UserError(f"influence is for one picture at a time, not {len(ask.pictures)}.")
        names = self.classes if ask.classes is None else ask.classes
        loop = asyncio.get_running_loop()
        seen: list[Seen] = await asyncio.gather(
            *(
                loop.run_in_executor(self.decoders, self.look, data, number, ask)
                for number, data in enumerate(ask.pictures, 1)
            )
        )
        views = [view for one in seen for view in (one.view, *one.parts)]
        both = ask.zeroshot or ask.influence
        futures = self.batcher.submit([Task(view, names, both) for view in views])
        scores: list[Scores] = await asyncio.gather(*map(asyncio.wrap_future, futures))
        step = len(views) // len(seen)
        predictions = [
            _prediction(ask, one, scores[index * step : (index + 1) * step], names)
            for index, one in enumerate(seen)
        ]
        return {"head": scores[0].head, "classes": list(names), "predictions": predictions}

    def look(self, data: bytes, number: int, ask: Ask) -> Seen:
        """Decode, cut to the model's size, disturb; in a decoder thread."""
        size = self.method.backbone.dims.image_size
        picture = decode_picture(data, f"picture {number}", max_pixels=self.settings.pixels)
        view = centre_view(picture, size)
        if ask.noise:
            family, severity = ask.noise
            rng = picture_rng(NOISE_SEED, hashlib.sha256(data).hexdigest(), family, severity)
            view = corrupt(view, family, severity, rng=rng)
        return Seen(view, tuple(covered(view)) if ask.influence else ())


def _prediction(ask: Ask, seen: Seen, scores: Sequence[Scores], names: tuple[str, ...]) -> dict[str, Any]:
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


def _top(logits: torch.Tensor, names: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    values, labels = logits.softmax(dim=0).topk(min(count, len(names)))
    return [
        {"class": names[label], "probability": value} for value, label in zip(values.tolist(), labels.tolist())
    ]


def _png(view: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _busy() -> Response:
    return refusal(503, "The queue is full; try again later.", Retry_After="1")


def _last(name: str) -> str:
    """A hub id as it is; of a folder the last part, since the rest is nobody's business."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith("/") else name


def create_app(method: Method, settings: Settings | None = None, classes: Sequence[str] | None = None) -> FastAPI:
    """The ASGI application; `app.state.service` is the `Service` behind it."""
    settings = settings or Settings()
    service = Service(method, settings, classes)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(
        title="anprompt", version=__version__, summary="Names for pictures, from any list of classes.",
        docs_url=None, redoc_url=None, lifespan=lifespan,  # the usual pages load scripts from elsewhere
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
