"""What the OpenAPI description says of bodies and answers. Requests are checked by `forms`, not by these."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from anprompt.noise.image import IMAGE_NOISE
from anprompt.serve.forms import TOP


class Health(BaseModel):
    """The service is up."""

    status: str
    version: str


class Info(BaseModel):
    """The adapter being served."""

    version: str
    method: str
    backbone: str
    template: str
    classes: list[str] = Field(description="the class list of requests that bring none")
    picture_size: int = Field(description="pixels per side of what the model gets")
    noise: dict[str, list[str]] = Field(description="corruption families by group")
    noise_about: dict[str, str]
    severities: list[int]
    limits: dict[str, float]


class Named(BaseModel):
    """A class and its share."""

    class_: str = Field(alias="class")
    probability: float


class Influence(BaseModel):
    """What covering each square of a grid does to the most probable class."""

    class_: str = Field(alias="class")
    grid: int
    probability: float
    change: list[list[float]] = Field(description="log-odds lost by covering a square; rows from the top")
    covered: list[list[float]] = Field(description="probability with that square covered")


class Prediction(BaseModel):
    """The answer for one picture, in the order sent."""

    top: list[Named]
    zeroshot: list[Named] | None = Field(None, description="plain CLIP's answer, where asked")
    view: str | None = Field(None, description="PNG as a data URL, where asked")
    influence: dict[str, Influence] | None = Field(None, description="'adapter' and 'zeroshot', where asked")


class Answer(BaseModel):
    """Answers for all pictures of a request."""

    head: str = Field(description="'trained' if every class was trained on, else 'unseen'")
    classes: list[str]
    predictions: list[Prediction]


class Error(BaseModel):
    """What was wrong, in one line."""

    error: str


_REASONS = {
    400: "wrong input", 401: "token missing or wrong", 403: "asked by a page of another origin",
    408: "the body came too slowly", 413: "the body is too large", 415: "neither JSON nor a form",
    421: "unknown host name", 503: "busy; see Retry-After", 504: "no answer in time",
}  # fmt: skip
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": reason} for status, reason in _REASONS.items()
}


def request_body() -> dict[str, Any]:
    """The request body in both forms."""
    options: dict[str, Any] = {
        "classes": {"type": "array", "items": {"type": "string"}, "minItems": 2,
                    "description": "any class names; left out: those of /v1/info"},
        "top": {"type": "integer", "minimum": 1, "default": TOP, "description": "answers per picture"},
        "noise": {"type": "string", "pattern": "^[a-z_]+:[0-5]$", "example": "fog:3",
                  "description": "corrupt the picture first: FAMILY:SEVERITY, of " + ", ".join(IMAGE_NOISE)},
        "zeroshot": {"type": "boolean", "default": False, "description": "answer with plain CLIP too"},
        "view": {"type": "boolean", "default": False, "description": "send back what the model got"},
        "influence": {"type": "boolean", "default": False,
                      "description": "which squares the answer rests on; for one picture"},
    }  # fmt: skip

    def body(item: dict[str, str]) -> dict[str, Any]:
        pictures = {"type": "array", "items": {"type": "string", **item}, "minItems": 1}
        properties = {"pictures": pictures, **options}
        return {"schema": {"type": "object", "required": ["pictures"], "properties": properties}}

    content = {
        "multipart/form-data": body({"format": "binary"}),
        "application/json": body({"format": "byte", "description": "base64, or a data URL"}),
    }
    return {"requestBody": {"required": True, "content": content}}
