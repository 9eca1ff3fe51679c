"""Pictures as model inputs: decoded once, kept as bytes within a budget, cut into views on demand."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as PILLOW
from torch import Tensor

from anprompt.data.crop import RATIO, centre_view, random_crop
from anprompt.data.types import Item
from anprompt.errors import UserError
from anprompt.utils.byte_cache import ByteCache, anything

log = logging.getLogger("anprompt")

# A training view uint8 [H, W, 3] and its generator -> another one; its repr says which, as kept features tell views
# apart by it.
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_THREADS_FROM = 96  # below this image size a view takes less time than handing it to a thread


class Views:
    """Training and evaluation views of a list of items.

    Every picture is read once at the start. One that fails is dropped with one logged line and listed in
    `skipped`; `items`, `labels` and `len` count what is left. Pictures are kept as bytes, the least
    recently used forgotten first, within `cache_mb`. Large ones are kept at no more than twice the image
    size, which no training crop of the usual scales can tell; evaluation views always come from the full
    picture.

    Attributes:
        items: the usable items; indices below refer to these.
        labels: LongTensor [n].
        skipped: one line per item that could not be read.
        fingerprint: says which pictures these are; whoever makes the views sets it, and a training state
            of other pictures is refused by it.
    """

    fingerprint: str = ""

    def __init__(
        self,
        items: Iterable[Item],
        read: Callable[[Item], Image.Image],
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        crop_scale: tuple[float, float] = (0.5, 1.0),
        flip: bool = True,
        seed: int = 0,
        views: int = 0,
        view_seed: int | None = None,
        change: Change | None = None,
        cache_mb: float = 512,
        probe: str | None = "train",
    ) -> None:
        """Reads every picture once.

        Args:
            items: in the order of the indices.
            read: opens an item as an RGB picture or raises `UserError`.
            mean, std: of the backbone, per channel.
            crop_scale: least and largest share of the area that a training crop covers.
            flip: mirror half of the training views.
            seed: of the training views; not negative.
            views: number of views a picture has; each epoch shows one of them, all of them once before any
                comes again, in an order drawn anew each time round. 0 means a fresh view every epoch. Up to
                `views` epochs the views are distributed as fresh ones are; beyond, a picture repeats its own.
            view_seed: draws the views in place of `seed`, and by what is in a picture instead of by its
                place in the list, so that runs of other seeds and draws see the same views of it.
            change: disturbs training views, see `Change`; None leaves them as they are.
            cache_mb: memory for decoded pictures.
            probe: the kind of view to keep ready while reading ("train" or "eval"). None reads nothing
                at the start; a picture that fails later then raises its `UserError`.

        Raises:
            UserError: a setting is out of range, or no item can be read.
        """
        self.crop_scale, self.seed = _checked_settings(image_size, crop_scale, seed)
        self.image_size, self.flip = image_size, flip
        if views < 0 or (view_seed is not None and view_seed < 0):
            raise UserError(f"views and view_seed must not be negative, not {views} and {view_seed}.")
        self.views, self.view_seed, self.change = views, view_seed, change
        self._digests: dict[int, bytes] = {}
        disturbed = [repr(change)] if change else []
        self._recipe = json.dumps([*self.crop_scale, flip, image_size, *mean, *std, PILLOW, *disturbed]).encode()
        self._read, self._given = read, tuple(items)
        self._mean = torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1)
        self._keep_side = _kept_side(image_size, self.crop_scale[0])
        self._cache: ByteCache[tuple[str, int], np.ndarray] = ByteCache(int(cache_mb * 2**20))
        self._probing = False
        self._pool: ThreadPoolExecutor | None = None
        reasons = self._probe(probe) if probe else {}
        # A view depends on an item's place in the list given, so that dropping another changes nothing.
        self._places = [place for place in range(len(self._given)) if place not in reasons]
        self.items = tuple(self._given[place] for place in self._places)
        self.labels = torch.tensor([item.label for item in self.items], dtype=torch.long)
        self.skipped = tuple(reasons[place] for place in sorted(reasons))
        for line in self.skipped:
            log.warning("left out: %s", line)
        if not self.items:
            first = f" {self.skipped[0]}" if self.skipped else ""
            raise UserError(f"None of the {len(self._given)} pictures can be used.{first}")

    def __len__(self) -> int:
        return len(self.items)

    def train_batch(self, indices: Iterable[int] | Tensor, epoch: int, undisturbed: bool = False) -> Tensor:
        """Augmented views [B, 3, H, W], float32, normalised.

        A random resized crop and a mirroring, then the `change`; each view a pure function of (item, epoch, seed).

        Args:
            undisturbed: the same views without the change.
        """
        return self._batch(indices, lambda place: self._train_view(place, epoch, undisturbed))

    def view_keys(self, indices: Iterable[int] | Tensor, epoch: int) -> list[bytes]:
        """16 bytes per training view that say what it is: the picture, the draw, crop, size and scaling.

        Equal keys mean equal pixels; a changed picture file has other keys.
        """
        return [self._view_key(self._place(int(index)), epoch) for index in indices]

    def view_index(self, epoch: int) -> int:
        """Which of a picture's views an epoch shows."""
        if not self.views:
            return epoch
        seed = self.seed if self.view_seed is None else self.view_seed
        rng = np.random.default_rng([seed, self.views, epoch // self.views])
        return int(rng.permutation(self.views)[epoch % self.views])

    def eval_batch(self, indices: Iterable[int] | Tensor) -> Tensor:
        """Views [B, 3, H, W] as CLIP prepares them: short side resized, centre cut out, normalised."""
        return self._batch(indices, self._eval_view)

    def _batch(self, indices: Iterable[int] | Tensor, view: Callable[[int], np.ndarray]) -> Tensor:
        places = [self._place(int(index)) for index in indices]
        if len(places) > 1 and self.image_size >= _THREADS_FROM:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_threads())
            views = list(self._pool.map(view, places))
        else:
            views = [view(place) for place in places]
        size = self.image_size
        stacked = np.stack(views) if views else np.zeros((0, size, size, 3), np.uint8)
        return normalised(stacked, self._mean, self._std)

    def _place(self, index: int) -> int:
        if not 0 <= index < len(self._places):
            raise IndexError(f"view {index} of {len(self._places)}")
        return self._places[index]

    def _train_view(self, place: int, epoch: int, undisturbed: bool = False) -> np.ndarray:
        picture = self._source(place)  # [h, w, 3] uint8
        rng = np.random.default_rng(self._draw(place, epoch))
        top, left, height, width = random_crop(rng, picture.shape[0], picture.shape[1], self.crop_scale)
        crop = np.ascontiguousarray(picture[top : top + height, left : left + width])
        size = (self.image_size, self.image_size)
        view = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC))
        view = view[:, ::-1] if self.flip and rng.random() < 0.5 else view
        return view if self.change is None or undisturbed else self.change(np.ascontiguousarray(view), rng)

    def _draw(self, place: int, epoch: int) -> list[int]:
        """The entropy a training view is drawn from."""
        view = self.view_index(epoch)
        if self.view_seed is None:
            return [self.seed, view, place]
        return [self.view_seed, view, *np.frombuffer(self._digest(place), np.uint32).tolist()]

    def _digest(self, place: int) -> bytes:
        """16 bytes of what is in a picture."""
        if place not in self._digests:
            source = self._source(place)
            digest = hashlib.blake2b(repr(source.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(source).data)
            self._digests[place] = digest.digest()
        return self._digests[place]

    def _view_key(self, place: int, epoch: int) -> bytes:
        draw = json.dumps(self._draw(place, epoch)).encode()
        return hashlib.blake2b(self._digest(place) + draw + self._recipe, digest_size=16).digest()

    def _eval_view(self, place: int) -> np.ndarray:
        view = self._cache.get(("eval", place))
        if view is None:
            source = self._cache.get(("source", place))
            whole = source is not None and min(source.shape[:2]) < self._keep_side  # never made smaller
            picture = Image.fromarray(source) if source is not None and whole else self._open(place)
            view = self._keep(("eval", place), centre_view(picture, self.image_size))
        return view

    def _source(self, place: int) -> np.ndarray:
        source = self._cache.get(("source", place))
        if source is None:
            picture = _shrunk(self._open(place), self._keep_side)
            source = self._keep(("source", place), np.array(picture))
        return source

    def _keep(self, key: tuple[str, int], array: np.ndarray) -> np.ndarray:
        self._cache.put(key, array, array.nbytes, may_go=None if self._probing else anything)
        return array

    def _open(self, place: int) -> Image.Image:
        return self._read(self._given[place])

    def _probe(self, kind: str) -> dict[int, str]:
        """Reads every item once, filling the cache until it is full. Why each place failed that did."""
        prepare = {"train": self._source, "eval": self._eval_view}[kind]
        log.info("reading %d pictures", len(self._given))

        def attempt(place: int) -> str | None:
            try:
                prepare(place)
            except UserError as error:
                return str(error)
            return None

        # Nothing is forgotten while probing: the first pictures stay, and the first epoch starts with them.
        self._probing = True
        with ThreadPoolExecutor(_threads()) as pool:
            found = enumerate(pool.map(attempt, range(len(self._given))))
            reasons = {place: reason for place, reason in found if reason is not None}
        self._probing = False
        return reasons


def normalised(views: np.ndarray, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """Views as a backbone takes them: uint8 [B, H, W, 3] -> float32 [B, 3, H, W], `(x / 255 - mean) / std`.

    Args:
        mean, std: per channel, [3] or [1, 3, 1, 1].
    """
    mean, std = (torch.as_tensor(value, dtype=torch.float32).view(1, 3, 1, 1) for value in (mean, std))
    pixels = torch.from_numpy(views).permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
    return pixels.sub_(mean).div_(std)


def _kept_side(image_size: int, least_scale: float) -> int:
    """Short side to keep so that the smallest crop still fills a view, but no more than twice a view."""
    return math.ceil(image_size * min(2.0, 1 / math.sqrt(least_scale * RATIO[0])))


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    width, height = picture.size
    factor = side / min(width, height)
    if factor >= 1:
        return picture
    size = max(side, round(width * factor)), max(side, round(height * factor))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _checked_settings(image_size: int, crop_scale: tuple[float, float], seed: int) -> tuple[tuple[float, float], int]:
    low, high = crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"crop_scale must be 0 < least <= largest <= 1, not {tuple(crop_scale)}.")
    if image_size < 1:
        raise UserError(f"image_size must be positive, not {image_size}.")
    if seed < 0:
        raise UserError(f"seed must not be negative, not {seed}.")
    return (low, high), seed


def _threads() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, usable)
