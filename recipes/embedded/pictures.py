"""The rendered drawings, and the pictures that pre-training makes of them, a batch at a time.

Everything is plain tensor arithmetic on the whole batch, so that a batch of 256 costs a tenth of a training step.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from labels import EMOJI_STYLES, ICON_STYLES, UNSEEN_STYLES
from torch import Tensor

RENDERED = 96
STORED = 64
SIZE = 48
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MONO_STYLES = ("emojione-monotone", "fluent-emoji-high-contrast", "mdi", "ph", "game-icons", "icon-park")


def load_rgba(work: Path, size: int = STORED) -> np.ndarray:
    """All drawings as premultiplied RGBA uint8 [N, 4, size, size], memory-mapped."""
    file = work / f"rgba{size}.npy"
    if not file.exists():
        parts = [
            np.memmap(p, np.uint8, "r").reshape(-1, RENDERED, RENDERED, 4) for p in sorted(work.glob("rgba.*.bin"))
        ]
        rows = sum(len(p) for p in parts)
        out = np.lib.format.open_memmap(file, "w+", np.uint8, (rows, 4, size, size))
        for row in range(0, rows, len(parts) * 512):
            for k, part in enumerate(parts):
                block = torch.from_numpy(part[row // len(parts) : row // len(parts) + 512].copy())
                x = block.permute(0, 3, 1, 2).float()
                x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
                out[row + k :: len(parts)][: len(x)] = x.round().clamp(0, 255).byte().numpy()
        out.flush()
    return np.load(file, mmap_mode="r")


class Drawings:
    """Drawings of some styles with their things; empty renderings are left out."""

    def __init__(self, work: Path):
        self.things = json.loads((work / "things.json").read_text())
        rows = json.loads((work / "drawings.json").read_text())
        self.rgba = torch.from_numpy(np.array(load_rgba(work)))
        self.thing = torch.tensor([r["thing"] for r in rows])
        self.style = np.array([r["style"] for r in rows])
        self.icon = [r["icon"] for r in rows]
        self.mono = torch.from_numpy(np.isin(self.style, MONO_STYLES))
        # Mirrored arrows and hands mean something else; animals and objects do not.
        self.may_flip = torch.tensor([3 <= t["group"] <= 7 for t in self.things])[self.thing]
        self.drawn = self.rgba[:, 3].flatten(1).float().mean(1) > 5

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row numbers: training, validation (5 % of the thing-style cells of pre-training styles), unseen styles."""
        seen = torch.from_numpy(np.isin(self.style, EMOJI_STYLES + ICON_STYLES)) & self.drawn
        emoji = np.isin(self.style, EMOJI_STYLES)
        cells = np.array([f"{s}/{t}" for s, t in zip(self.style, self.thing.tolist())])
        unique = np.unique(cells[emoji])
        held = np.random.default_rng(0).permutation(unique)[: len(unique) // 20]
        val = torch.from_numpy(np.isin(cells, held)) & seen
        unseen = torch.from_numpy(np.isin(self.style, UNSEEN_STYLES)) & self.drawn
        return (seen & ~val).nonzero()[:, 0], val.nonzero()[:, 0], unseen.nonzero()[:, 0]


def rand(gen: torch.Generator, n: int, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
    return torch.rand(n, *shape, generator=gen) * (high - low) + low


def poses(n: int, gen: torch.Generator, flip: Tensor, low: float, high: float, hard: float = 1.0) -> Tensor:
    """Affine maps from picture to drawing: scale, stretch, rotation, mirror, shift."""
    scale = rand(gen, n, low, high)
    stretch = (rand(gen, n, -0.15, 0.15) * hard).exp()
    angle = torch.randn(n, generator=gen).clamp(-2, 2) * 0.22 * hard
    mirror = torch.where(flip & (rand(gen, n) < 0.5), -1.0, 1.0)
    cos, sin = angle.cos(), angle.sin()
    room = (1.08 - scale).abs()
    tx, ty = rand(gen, n, -1, 1) * room, rand(gen, n, -1, 1) * room
    a, b = cos / (scale * stretch) * mirror, sin / (scale * stretch) * mirror
    c, d = -sin / (scale / stretch), cos / (scale / stretch)
    return torch.stack([torch.stack([a, b, -(a * tx + b * ty)], 1), torch.stack([c, d, -(c * tx + d * ty)], 1)], 1)


def place(rgba: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, [len(rgba), 4, SIZE, SIZE], align_corners=False)
    return F.grid_sample(rgba, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def restyle(rgba: Tensor, gen: torch.Generator, hard: float) -> None:
    """Redraw a few drawings (in place) with two inks or as outlines, so that shape must be learnt."""
    pick = rand(gen, len(rgba)) / max(hard, 1e-6)
    two = (pick < 0.12).nonzero()[:, 0]
    if len(two):
        x = rgba[two]
        grey, alpha = x[:, :3].mean(1), x[:, 3]
        middle = grey.sum((1, 2)) / alpha.sum((1, 2)).clamp(min=1e-3)
        level = torch.sigmoid((grey - (middle + rand(gen, len(two), -0.15, 0.15))[:, None, None] * alpha) * 25)[:, None]
        inks = rand(gen, len(two), 0, 1, 2, 3, 1, 1)
        rgba[two, :3] = (inks[:, 0] * level + inks[:, 1] * (1 - level)) * alpha[:, None]
    line = ((pick >= 0.12) & (pick < 0.22)).nonzero()[:, 0]
    if len(line):
        x = rgba[line]
        edge = (F.max_pool2d(x, 3, 1, 1) + F.max_pool2d(-x, 3, 1, 1)).amax(1, keepdim=True)
        strength = (edge * rand(gen, len(line), 1.0, 2.5)[:, None, None, None]).clamp(max=1)
        rgba[line] = torch.cat([strength * rand(gen, len(line), 0, 0.6, 3, 1, 1), strength], 1)


def recolour(x: Tensor, mono: Tensor, gen: torch.Generator, hard: float) -> Tensor:
    """Turn hues, mix channels and fade to grey; drawings of one black ink get another ink."""
    n = len(x)
    eye = torch.eye(3).expand(n, 3, 3)
    mix = eye + torch.randn(n, 3, 3, generator=gen) * rand(gen, n, 0, 0.25 * hard)[:, None, None]
    mix = mix / mix.sum(2, keepdim=True).clamp(min=0.4)
    swap = torch.stack([torch.eye(3)[torch.randperm(3, generator=gen)] for _ in range(8)])
    kind = rand(gen, n) / max(hard, 1e-6)
    mix = torch.where((kind < 0.1)[:, None, None], swap[torch.randint(8, (n,), generator=gen)], mix)
    mix = torch.where(((kind > 0.1) & (kind < 0.25))[:, None, None], torch.full((3, 3), 1 / 3), mix)
    ink = rand(gen, n, 0, 1, 3) * torch.where(mono, 1.0, 0.0)[:, None] * (rand(gen, n) < 0.6 * hard).float()[:, None]
    rgb = torch.einsum("nij,njhw->nihw", mix, x[:, :3])
    rgb = rgb * (1 - ink[:, :, None, None]) + ink[:, :, None, None] * x[:, 3:]
    return torch.cat([rgb, x[:, 3:]], 1)


def backgrounds(n: int, gen: torch.Generator, hard: float) -> Tensor:
    """Flat, gradient, soft noise or stripes between two colours each."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    angle, kind = rand(gen, n, 0, 6.2832)[:, None, None], rand(gen, n)[:, None, None]
    ramp = angle.cos() * x + angle.sin() * y
    wave = torch.sin(ramp * rand(gen, n, 3, 25)[:, None, None] + angle)
    cells = rand(gen, n, -2, 2, 1, 6, 6)
    soft = F.interpolate(cells, (SIZE, SIZE), mode="bilinear")[:, 0]
    mix = torch.where(kind < 0.25, ramp * 0, torch.where(kind < 0.5, ramp, torch.where(kind < 0.8, soft, wave)))
    mix = (mix * 0.5 + 0.5).clamp(0, 1)[:, None]
    first = rand(gen, n, 0, 1, 3, 1, 1)
    first = torch.where((rand(gen, n) < 1 - 0.8 * hard)[:, None, None, None], torch.ones(()), first)
    second = (first + torch.randn(n, 3, 1, 1, generator=gen) * 0.35 * hard).clamp(0, 1)
    return first * mix + second * (1 - mix)


def contrast_guard(front: Tensor, back: Tensor) -> Tensor:
    """Invert a background that would swallow the drawing."""
    weight = front[:, 3:].sum((2, 3)).clamp(min=1e-3)
    gap = (front[:, :3].sum((2, 3)) / weight - back.mean((2, 3))).abs().amax(1)
    return torch.where((gap < 0.25)[:, None, None, None], (back + 0.5) % 1.0, back)


def lighting(x: Tensor, gen: torch.Generator, hard: float) -> Tensor:
    n = len(x)
    ramp = torch.linspace(-1, 1, SIZE)
    tilt = rand(gen, n, -0.25, 0.25, 2, 1, 1) * hard
    shade = 1 + tilt[:, 0] * ramp + tilt[:, 1] * ramp[:, None]
    gain = 1 + (rand(gen, n, -0.3, 0.2, 1, 1, 1) + rand(gen, n, -0.1, 0.1, 3, 1, 1)) * hard
    x = x * shade[:, None] * gain + rand(gen, n, -0.1, 0.1, 1, 1, 1) * hard
    blurred = rand(gen, n) < 0.2 * hard
    x[blurred] = F.avg_pool2d(F.pad(x[blurred], (1, 1, 1, 1), mode="replicate"), 3, 1)
    grain = rand(gen, n, -0.09, 0.07, 1, 1, 1).clamp(min=0) * hard
    return (x + torch.randn(x.shape, generator=gen) * grain).clamp(0, 1)


def compose(data: Drawings, rows: Tensor, gen: torch.Generator, hard: float = 1.0) -> Tensor:
    """Pictures [B, 3, 48, 48] in 0..1 of the given drawings, each in a new pose, colour, place and light.

    `hard` fades all of it in: at 0 the drawing fills a white picture."""
    n = len(rows)
    rgba = data.rgba[rows].float() / 255
    restyle(rgba, gen, hard)
    theta = poses(n, gen, data.may_flip[rows], 1 - 0.4 * hard, 1 + 0.1 * hard, hard)
    front = recolour(place(rgba, theta), data.mono[rows], gen, hard)
    back = contrast_guard(front, backgrounds(n, gen, hard))
    clutter = (rand(gen, n) < 0.3 * hard).nonzero()[:, 0]
    if len(clutter):
        other = rows[torch.randint(n, (len(clutter),), generator=gen)]
        theta = poses(len(clutter), gen, data.may_flip[other], 0.3, 1.8)
        away = torch.randn(len(clutter), 2, generator=gen).sign() * 0.9
        theta[:, :, 2] += away * theta[:, :, :2].abs().amax((1, 2))[:, None]
        fade = rand(gen, len(clutter), 0.3, 1.0, 1, 1, 1)
        extra = place(data.rgba[other].float() / 255, theta) * fade
        back[clutter] = extra[:, :3] + (1 - extra[:, 3:]) * back[clutter]
    return lighting(front[:, :3] + (1 - front[:, 3:]) * back, gen, hard)


def normalise(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
