"""What every detector is: how it looks at an image, what it learns from normal ones, a map and a score.

    sight = method.sight(tiles)          how images are looked at
    method.fit(normals)                  from k normal images; zero-shot methods pass over it
    scored = method.score(look)          map [h, w] and image score, higher for more anomalous

A method sees normal images alone (and what it makes of them itself). The tensors it learns are `state()`, which is all that
a detector's folder holds besides words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import numpy as np
import torch
from torch import Tensor

from anprompt.backbones.base import Backbone
from anprompt.detection.features import Look, Sight
from anprompt.errors import UserError
from anprompt.methods.config import MethodConfig

if TYPE_CHECKING:  # "DetectionMethod" alone is one of any settings
    from typing_extensions import TypeVar

    ConfigT = TypeVar("ConfigT", bound=MethodConfig, default=Any)
else:
    from typing import TypeVar

    ConfigT = TypeVar("ConfigT", bound=MethodConfig)
TOP = 0.003  # share of a map whose mean stands for the image
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, text: str = "") -> None:
    """A progress that nobody watches."""


@dataclass(frozen=True)
class Normals:
    """The normal images that a method learns from.

    Attributes:
        images: uint8 [H, W, 3] each.
        keys: what tells an image from others wherever it lies, for seeds.
        looks: what was seen of each.
        see: looks at another image in the same way.
        progress: `(done, total, text)`.
    """

    images: Sequence[np.ndarray]
    keys: Sequence[str]
    looks: Sequence[Look]
    see: Callable[[np.ndarray], Look]
    progress: Progress = silent


@dataclass(frozen=True)
class Scored:
    """A detector's answer for one image: a map [h, w] and a number, higher for more anomalous."""

    map: Tensor
    score: float


class DetectionMethod(ABC, Generic[ConfigT]):
    """Base of the detection methods.

    Attributes:
        name, paper, doc: for people and records.
        few_shot: whether normal images change anything.
        trains: whether chance does, so that seeds matter beyond the draw of the images.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    doc: ClassVar[str] = ""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    few_shot: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    config: ConfigT

    def __init__(self, backbone: Backbone, config: ConfigT, *, object_name: str = "object", seed: int = 1) -> None:
        self.backbone, self.config, self.object_name, self.seed = backbone, config, object_name, seed
        self.tensors: dict[str, Tensor] = {}

    @abstractmethod
    def sight(self, tiles: int) -> Sight:
        """How images are looked at, with so many windows along the shorter side."""

    def fit(self, normals: Normals) -> None:
        """Learn from normal images; what is learned stands in `tensors`."""

    @abstractmethod
    def score(self, look: Look) -> Scored:
        """The map and the score of an image that was looked at as `sight` says."""

    def state(self) -> dict[str, Tensor]:
        """All that was learned."""
        return dict(self.tensors)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `state` gave."""
        self.tensors = dict(tensors)
        self.ready()

    def ready(self) -> None:
        """Called when `tensors` are there, learned or loaded, for what is computed from them once."""


def top_mean(values: Tensor, share: float = TOP) -> float:
    """The mean of the highest values of a map: an outlier of one patch moves it less than the maximum."""
    count = max(1, round(share * values.numel()))
    return float(values.flatten().topk(count).values.mean())


@dataclass(frozen=True)
class Scale:
    """What a kind of map says of normal patches: their median, and how far their highest hundredth lies above it."""

    middle: float
    spread: float

    @classmethod
    def of(cls, values: Tensor) -> Scale:
        """Of the values of normal patches."""
        flat = values.flatten().float().sort().values
        middle, high = flat[len(flat) // 2], flat[min(len(flat) - 1, int(0.99 * len(flat)))]
        return cls(float(middle), max(float(high - middle), 1e-6))

    def of_map(self, values: Tensor) -> Tensor:
        """A map in units of this scale, so that maps of different kinds can be added."""
        return (values - self.middle) / self.spread

    def tensor(self) -> Tensor:
        """For a detector's folder."""
        return torch.tensor([self.middle, self.spread])

    @classmethod
    def from_tensor(cls, values: Tensor) -> Scale:
        """What `tensor` gave."""
        return cls(float(values[0]), float(values[1]))


def needs_images(method: DetectionMethod, count: int) -> None:
    """Raises `UserError` where a few-shot method got no normal image."""
    if method.few_shot and not count:
        raise UserError(f"Method {method.name!r} learns from normal images; give at least one (--shots 1).")
