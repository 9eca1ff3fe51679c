"""Step 5: the text tower learns where the vision tower has put the things; then both are tuned together.

Text alone: random captions, softmax over the things' directions plus the cosine to the right one. Together: whole
pictures and their captions, contrastive both ways (things that meet twice in a batch count as right twice), with the
first two losses kept. Typing errors are never trained on.

    python train_joint.py WORK TEXT_MINUTES JOINT_MINUTES [PROCESSES]
"""

from __future__ import annotations

import copy
import random
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from captions import caption
from model import Proxies, image_features, new_model, text_features, update_ema
from torch import Tensor, nn
from train_vision import (
    BATCH,
    accuracy,
    average_gradients,
    cosine_rate,
    crew,
    optimiser_step,
    optimisers,
    sampling_weights,
)
from transformers import PreTrainedTokenizerFast

from pictures import Drawings, compose, load_rgba, normalise

TEXT_PEAK, JOINT_PEAK, FLOOR = 1.5e-3, 3e-4, 1e-6


class Pair:
    """The whole model with its tokenizer, the things' directions, one optimiser and averaged weights."""

    def __init__(self, work: Path, things: list[dict], state: dict[str, Tensor]):
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
        self.net = nn.ModuleDict({"model": new_model(self.tokenizer), "proxies": Proxies(things)})
        self.net.load_state_dict(state)
        self.things, self.rng = things, random.Random(torch.initial_seed())

    def begin(self, *prefixes: str) -> None:
        """Start a stage that trains the parameters under these prefixes."""
        named = [(n, p) for n, p in self.net.named_parameters() if n.startswith(prefixes)]
        self.params, self.optims = [p for _, p in named], optimisers(named)
        self.average, self.step, self.elapsed = copy.deepcopy(self.net.state_dict()), 0, 0.0

    def texts(self, rows: Tensor) -> Tensor:
        words = [caption(self.things[t], self.rng) for t in rows.tolist()]
        with torch.autocast("cpu", torch.bfloat16):
            return text_features(self.net["model"], self.tokenizer, words)

    def text_loss(self, features: Tensor, rows: Tensor, proxies: Tensor) -> Tensor:
        return F.cross_entropy(25 * features @ proxies.T, rows) + 4 * (1 - (features * proxies[rows]).sum(1)).mean()

    def update(self, loss: Tensor, rate: float) -> None:
        self.net.zero_grad()
        loss.backward()
        self.elapsed = average_gradients(self.params, self.elapsed)
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        optimiser_step(self.optims, rate * min(1.0, (self.step + 1) / 30))
        self.step += 1
        update_ema(self.average, self.net, min(0.99, self.step / (self.step + 20)))


def text_step(pair: Pair, size: int, rate: float) -> float:
    rows = torch.randint(len(pair.things), (size,))
    loss = pair.text_loss(pair.texts(rows), rows, pair.net["proxies"]().detach())
    pair.update(loss, rate)
    return loss.item()


def joint_step(pair: Pair, data: Drawings, rows: Tensor, gen: torch.Generator, rate: float) -> float:
    pixels, thing = normalise(compose(data, rows, gen)), data.thing[rows]
    with torch.autocast("cpu", torch.bfloat16):
        image = image_features(pair.net["model"], pixels)
    text = pair.texts(thing)
    same = (thing[:, None] == thing[None]).float()
    same = same / same.sum(1, keepdim=True)
    logits = pair.net["model"].logit_scale.clamp(max=4.6).exp() * image @ text.T
    both = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
    named = F.cross_entropy(pair.net["proxies"].logits(image), thing, label_smoothing=0.1)
    loss = both + named + pair.text_loss(text, thing, pair.net["proxies"]().detach())
    pair.update(loss, rate)
    return loss.item()


def finish(pair: Pair, data: Drawings, val: Tensor, work: Path, stage: str) -> None:
    """Save, and measure on the held-out drawings of the pre-training styles."""
    torch.save(pair.net.state_dict(), work / f"{stage}.pt")
    line = (
        f"{time.strftime('%H:%M:%S')} after {stage}: held-out drawings among all {len(data.things)} things, "
        f"by directions {accuracy(pair.net, data, val):.3f}, by texts {named_accuracy(pair.net, pair, data, val):.3f}"
    )
    print(line, flush=True)
    with (work / "joint.log").open("a") as log:
        log.write(line + "\n")


@torch.no_grad()
def named_accuracy(net: nn.ModuleDict, pair: Pair, data: Drawings, rows: Tensor) -> float:
    """Top-1 over all things with their texts, on pictures of the held-out drawings."""
    texts = torch.cat(
        [
            text_features(net["model"], pair.tokenizer, [f"a picture of a {t['name']}." for t in part])
            for part in [pair.things[i : i + 200] for i in range(0, len(pair.things), 200)]
        ]
    )
    gen, hits = torch.Generator().manual_seed(7), 0
    for part in rows.split(256):
        image = image_features(net["model"], normalise(compose(data, part, gen)))
        hits += ((image @ texts.T).argmax(1) == data.thing[part]).sum().item()
    return hits / len(rows)


def run_stage(pair: Pair, minutes: float, peak: float, step, rank: int, stage: str, work: Path) -> None:
    clock, mean = time.time(), 0.0
    while pair.elapsed < minutes * 60:
        loss = step(cosine_rate(peak, FLOOR, pair.elapsed / (minutes * 60)))
        mean = loss if pair.step == 1 else 0.95 * mean + 0.05 * loss
        pair.elapsed, clock = pair.elapsed + time.time() - clock, time.time()
        if rank == 0 and pair.step % 20 == 0:
            line = f"{time.strftime('%H:%M:%S')} {stage} step {pair.step} elapsed {pair.elapsed:.0f}s loss {mean:.3f}"
            print(line, flush=True)
            with (work / "joint.log").open("a") as log:
                log.write(line + "\n")
    pair.net.load_state_dict(pair.average)


def main(work: Path, minutes: tuple[float, float], rank: int, processes: int) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{work.absolute()}/rendezvous", rank=rank, world_size=processes
        )
    torch.manual_seed(100 + rank)
    data = Drawings(work)
    train, val, _ = data.split()
    weights, size = sampling_weights(data, train), BATCH // processes
    gen = torch.Generator().manual_seed(rank)
    pair = Pair(work, data.things, torch.load(work / "vision.pt", weights_only=True)["average"])
    pair.begin("model.text_model", "model.text_projection")
    run_stage(pair, minutes[0], TEXT_PEAK, lambda rate: text_step(pair, size, rate), rank, "text", work)
    if rank == 0:
        finish(pair, data, val, work, "text")
    if minutes[1]:
        pair.begin("model", "proxies")
        run_stage(
            pair,
            minutes[1],
            JOINT_PEAK,
            lambda rate: joint_step(pair, data, train[torch.multinomial(weights, size, generator=gen)], gen, rate),
            rank,
            "joint",
            work,
        )
        if rank == 0:
            finish(pair, data, val, work, "joint")


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    load_rgba(folder)
    crew(main, folder, (float(sys.argv[2]), float(sys.argv[3])), int(sys.argv[4]) if len(sys.argv) > 4 else 1)
