"""From the items of a data set to views that a backbone takes."""

from __future__ import annotations

from typing import Any, Protocol

from anprompt.backbones import Backbone
from anprompt.data.types import Dataset, Item
from anprompt.data.views import Views
from anprompt.errors import UserError, choices
from anprompt.noise.weak_image import weak_image_noise

PARTS = ("train", "val", "test")


class ViewRecipe(Protocol):
    """How training views are cut (`anprompt.training.loop.TrainConfig` says it)."""

    @property
    def crop_scale(self) -> tuple[float, ...]: ...
    @property
    def flip(self) -> bool: ...
    @property
    def seed(self) -> int: ...
    @property
    def views(self) -> int: ...
    @property
    def view_seed(self) -> int: ...
    @property
    def image_noise(self) -> float: ...
    @property
    def image_noise_families(self) -> tuple[str, ...]: ...
    @property
    def image_noise_severity(self) -> int: ...


def make_views(
    backbone: Backbone,
    dataset: Dataset,
    items: tuple[Item, ...],
    *,
    config: ViewRecipe | None = None,
    probe: str = "train",
) -> Views:
    """Views of some items as a backbone wants them; crops and flips as the recipe says."""
    extra: dict[str, Any] = {}
    if config is not None:
        extra = {
            "crop_scale": tuple(config.crop_scale), "flip": config.flip, "seed": config.seed, "views": config.views,
            "view_seed": config.view_seed if config.view_seed >= 0 else None,
            "change": weak_image_noise(config.image_noise, config.image_noise_families, config.image_noise_severity),
        }  # fmt: skip
    return Views(
        items, dataset.read, image_size=backbone.dims.image_size, mean=backbone.mean, std=backbone.std,
        probe=probe, **extra,
    )  # fmt: skip


def part_items(dataset: Dataset, part: str = "test", domain: str | None = None) -> tuple[Item, ...]:
    """The items of one part ("all": of every part), and of one domain if given.

    Raises:
        UserError: unknown part or domain, or nothing in it.
    """
    if part not in (*PARTS, "all"):
        raise choices("split", part, (*PARTS, "all"))
    every = (*dataset.train, *dataset.val, *dataset.test)  # val may serve as test: each item once
    items: tuple[Item, ...] = getattr(dataset, part) if part != "all" else tuple(dict.fromkeys(every))
    if domain is not None:
        domains = sorted({item.domain for item in items} - {""})
        if not domains:
            raise UserError(f"{dataset.name} has no domains; leave out --domain.")
        if domain not in domains:
            raise choices("domain", domain, domains)
        items = tuple(item for item in items if item.domain == domain)
    if not items:
        held = ", ".join(f"{len(getattr(dataset, name))} {name}" for name in PARTS if getattr(dataset, name))
        others = f" It has {held}; choose with --split (all: every picture)." if held else ""
        raise UserError(f"{dataset.name} has no {part} pictures.{others}")
    return items
