"""Projected gradient steps in pixel space (Madry et al., arXiv 1706.06083), for images of any batch alike.

Random starts are a function of the image and the seed, so an image meets the same attack in whatever company.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anprompt.attacks.losses import PixelLoss, margin
from anprompt.attacks.threat import ThreatModel
from anprompt.noise.seeds import stable_seed

Model = Callable[[Tensor], Tensor]  # pixels in [0, 1], [B, 3, H, W] -> logits [B, C]
Climb = Callable[[Tensor, Tensor], Tensor]  # pixels [b, 3, H, W], their places in the batch [b] -> values [b]


@dataclass(frozen=True)
class Ball:
    """The changes that are allowed: a norm and its size."""

    norm: str
    eps: float

    def project(self, pixels: Tensor, centre: Tensor) -> Tensor:
        """The allowed image nearest to `pixels` around `centre`, both [B, 3, H, W], within [0, 1]."""
        if self.norm == "linf":
            return torch.minimum(torch.maximum(pixels, centre - self.eps), centre + self.eps).clamp_(0, 1)
        change = pixels - centre
        length = _lengths(change).clamp_min(1e-12)
        # [0, 1] last: it only brings the image nearer to its centre, which lies inside
        return (centre + change * (self.eps / length).clamp_max(1.0)).clamp_(0, 1)

    def start(self, centre: Tensor, keys: Sequence[str], seed: int) -> Tensor:
        """Random images in the ball, uniform per pixel (linf) or of uniform direction and radius (l2)."""
        draws = [torch.Generator().manual_seed(stable_seed("attack", seed, key) >> 1) for key in keys]
        noise = torch.stack([torch.rand(centre.shape[1:], generator=g) * 2 - 1 for g in draws]).to(centre.device)
        if self.norm == "linf":
            return (centre + self.eps * noise).clamp_(0, 1)
        radius = torch.stack([torch.rand((), generator=g) for g in draws]).to(centre.device).view(-1, 1, 1, 1)
        noise = torch.erfinv(noise.clamp(-0.999999, 0.999999))  # normal: no direction is preferred
        return (centre + self.eps * radius * noise / _lengths(noise)).clamp_(0, 1)

    def step(self, gradient: Tensor, size: float) -> Tensor:
        """The steepest step of length `size` in this norm, [B, 3, H, W]; none where the gradient is zero."""
        if self.norm == "linf":
            return size * gradient.sign()
        length = _lengths(gradient)
        return torch.where(length > 0, size * gradient / length.clamp_min(1e-30), 0.0)


def _lengths(x: Tensor) -> Tensor:
    """Euclidean lengths of rows, [B, 1, 1, 1]."""
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def climb(
    value: Climb, centre: Tensor, ball: Ball, steps: int, step_size: float, start: Tensor,
    on_gradient: Callable[[int, Tensor], None] | None = None,
) -> Tensor:  # fmt: skip
    """Plain steps up `value`, for training: no image is left out and the last one is returned.

    Args:
        on_gradient: (step, gradient [B, 3, H, W]) at every step.
    """
    places = torch.arange(len(centre), device=centre.device)
    pixels = start
    for number in range(steps):
        pixels = pixels.detach().requires_grad_(True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(value(pixels, places).sum(), pixels)
        if on_gradient:
            on_gradient(number, gradient)
        pixels = ball.project(pixels.detach() + ball.step(gradient, step_size), centre)
    return pixels.detach()


@dataclass
class Attacked:
    """What an attack left of a batch.

    Attributes:
        pixels: [B, 3, H, W]: a wrongly answered image where one was found, else the one nearest to an error.
        predictions: what is answered to these, [B].
        nearness: margin of the best other class over the true one, [B]; above 0 is an error.
        stuck: whether the first gradient was exactly zero, [B]; False where the attack uses none.
        clean: what is answered to the images as they are, [B].
    """

    pixels: Tensor
    predictions: Tensor
    nearness: Tensor
    stuck: Tensor
    clean: Tensor

    @classmethod
    def of(cls, model: Model, pixels: Tensor, labels: Tensor) -> Attacked:
        """The images as they are, before any attack."""
        with torch.no_grad():
            logits = model(pixels)
        stuck = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
        return cls(pixels.clone(), logits.argmax(1), margin(logits, labels), stuck, logits.argmax(1))

    @classmethod
    def joined(cls, parts: Sequence[Attacked]) -> Attacked:
        """Batches one behind the other, on the CPU."""
        names = [entry.name for entry in dataclasses.fields(cls)]
        return cls(*(torch.cat([getattr(part, name).cpu() for part in parts]) for name in names))

    def take(self, places: Tensor, pixels: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Keep what came nearer to an error: attempts [b, 3, H, W] on the images at `places` [b], labels [B]."""
        near = margin(logits, labels[places])
        better = near > self.nearness[places]
        changed = places[better]
        self.nearness[changed], self.pixels[changed] = near[better], pixels[better]
        self.predictions[changed] = logits.argmax(1)[better]


def pgd(
    model: Model, loss: PixelLoss, pixels: Tensor, labels: Tensor, threat: ThreatModel, keys: Sequence[str]
) -> Attacked:
    """Attack images; those that are answered wrongly are left alone from then on, as they are lost.

    Args:
        loss: what is climbed.
        pixels: [B, 3, H, W] in [0, 1].
        labels: [B].
        keys: what each image is known by; decides its random starts.

    Returns:
        Per image the first error found, or the attempt that came nearest to one.
    """
    found = Attacked.of(model, pixels, labels)
    ball = Ball(threat.norm, threat.eps)
    for restart in range(threat.restarts):
        alive = (found.predictions == labels).nonzero()[:, 0]
        if not len(alive):
            break
        own = [keys[int(place)] for place in alive]
        start = ball.start(pixels[alive], own, stable_seed(threat.seed, restart))
        _restart(model, loss, pixels, labels, threat, start, alive, found)
    return found


def _restart(
    model: Model, loss: PixelLoss, pixels: Tensor, labels: Tensor, threat: ThreatModel, start: Tensor, alive: Tensor,
    found: Attacked,
) -> None:  # fmt: skip
    """One random start: steps on the images `alive`, [a] places in the batch; writes into `found`."""
    now, ball = start, Ball(threat.norm, threat.eps)
    for number in range(threat.steps + 1):
        last = number == threat.steps
        now = now.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            logits = model(now)
        found.take(alive, now.detach(), logits.detach(), labels)
        if last:
            return
        (gradient,) = torch.autograd.grad(loss(logits, labels[alive]).sum(), now)
        if number == 0:
            found.stuck[alive] |= gradient.flatten(1).abs().amax(1) == 0
        right = found.predictions[alive] == labels[alive]
        alive, now, gradient = alive[right], now.detach()[right], gradient[right]
        if not len(alive):
            return
        now = ball.project(now + ball.step(gradient, threat.step), pixels[alive])
