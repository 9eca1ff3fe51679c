"""Step 4: the vision tower, against one learnt direction per thing (softmax over all things).

Half of the patches are left out until the last fifth of the time. Progress is wall time, because the budget is; an
interrupted run continues from WORK/vision.pt.

    python train_vision.py WORK MINUTES [PROCESSES]
"""

from __future__ import annotations

import copy
import math
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from model import Proxies, image_features, new_model, update_ema
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from pictures import Drawings, compose, load_rgba, normalise

BATCH, KEEP, UNMASKED_FROM = 256, 18, 0.82
PEAK, FLOOR, WARM_UP, DECAY = 1.5e-3, 1e-5, 100, 0.05
EASY_UNTIL = 0.35  # share of the time over which the pictures go from plain to hard
PROXY_RATE = 10.0  # a thing's direction gets a gradient only when the thing is seen, so it takes larger steps


def sampling_weights(data: Drawings, rows: Tensor) -> Tensor:
    """Things with many drawings are seen more often, but less than in proportion; people and signs, which the
    data sets leave out, are seen a quarter as often."""
    side = torch.tensor([t["group"] in (1, 8, 9) for t in data.things])[data.thing[rows]]
    count = torch.bincount(data.thing[rows], minlength=len(data.things)).clamp(min=1).float()
    return count[data.thing[rows]].pow(-0.5) * torch.where(side, 0.25, 1.0)


def cosine_rate(peak: float, floor: float, progress: float) -> float:
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def optimisers(named: list[tuple[str, nn.Parameter]]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks (orthogonal updates: fewer steps needed), AdamW for the rest."""
    proxies = [p for n, p in named if n.startswith("proxies")]
    blocks = [p for n, p in named if ".layers." in n and p.ndim == 2]
    rest = [p for n, p in named if not n.startswith("proxies") and not (".layers." in n and p.ndim == 2)]
    muon = torch.optim.Muon([{"params": blocks, "times": 1.0}], weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(
        [{"params": rest, "times": 1.0}, {"params": proxies, "times": PROXY_RATE}],
        weight_decay=0.0,
        betas=(0.9, 0.98),
        fused=True,
    )
    return [muon, adam]


def optimiser_step(optims: list[torch.optim.Optimizer], rate: float) -> None:
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = group["times"] * rate
        optim.step()


def average_gradients(params: list[nn.Parameter], number: float) -> float:
    """Mean over the processes, of the gradients and of one number (the time used, so that all agree on it)."""
    if not dist.is_initialized():
        return number
    flat = torch.cat([p.grad.flatten() for p in params] + [torch.tensor([number])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, mean in zip(params, flat[:-1].split([p.numel() for p in params])):
        p.grad.copy_(mean.view_as(p))
    return flat[-1].item()


@torch.no_grad()
def accuracy(net: nn.ModuleDict, data: Drawings, rows: Tensor, seed: int = 7) -> float:
    """Top-1 over all things on whole pictures composed from a fixed seed."""
    gen, hits = torch.Generator().manual_seed(seed), 0
    for part in rows.split(256):
        pixels = normalise(compose(data, part, gen))
        with torch.autocast("cpu", torch.bfloat16):
            features = image_features(net["model"], pixels)
        hits += (net["proxies"].logits(features).argmax(1) == data.thing[part]).sum().item()
    return hits / len(rows)


class Run:
    """Everything that a continued run needs."""

    def __init__(self, work: Path, data: Drawings):
        torch.manual_seed(0)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
        self.net = nn.ModuleDict({"model": new_model(tokenizer), "proxies": Proxies(data.things)})
        model = self.net["model"]
        for part in (model.text_model, model.text_projection):
            part.requires_grad_(False)
        model.logit_scale.requires_grad_(False)
        named = [(n, p) for n, p in self.net.named_parameters() if p.requires_grad]
        self.optims, self.params = optimisers(named), [p for _, p in named]
        self.average = copy.deepcopy(self.net.state_dict())
        self.file, self.step, self.elapsed = work / "vision.pt", 0, 0.0
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.net.load_state_dict(state["net"])
            for optim, old in zip(self.optims, state["optims"]):
                optim.load_state_dict(old)
            self.average, self.step, self.elapsed = state["average"], state["step"], state["elapsed"]

    def save(self) -> None:
        state = {
            "net": self.net.state_dict(),
            "optims": [o.state_dict() for o in self.optims],
            "average": self.average,
            "step": self.step,
            "elapsed": self.elapsed,
        }
        torch.save(state, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").rename(self.file)

    def train_step(self, data: Drawings, rows: Tensor, progress: float, gen: torch.Generator) -> float:
        pixels = normalise(compose(data, rows, gen, min(1.0, 0.2 + 0.8 * progress / EASY_UNTIL)))
        with torch.autocast("cpu", torch.bfloat16):
            features = image_features(self.net["model"], pixels, KEEP if progress < UNMASKED_FROM else None)
        loss = F.cross_entropy(self.net["proxies"].logits(features), data.thing[rows], label_smoothing=0.1)
        self.net.zero_grad()
        loss.backward()
        self.elapsed = average_gradients(self.params, self.elapsed)
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        rate = cosine_rate(PEAK, FLOOR, progress) * min(1.0, (self.step + 1) / WARM_UP)
        optimiser_step(self.optims, rate)
        self.step += 1
        update_ema(self.average, self.net, min(0.997, self.step / (self.step + 20)))
        return loss.item()


def report(run: Run, data: Drawings, val: Tensor, loss: float, log: Path) -> None:
    judged = copy.deepcopy(run.net)
    judged.load_state_dict(run.average)
    line = (
        f"{time.strftime('%H:%M:%S')} step {run.step} elapsed {run.elapsed:.0f}s loss {loss:.3f} "
        f"val top-1 {accuracy(judged.eval(), data, val):.3f}"
    )
    print(line, flush=True)
    with log.open("a") as file:
        file.write(line + "\n")


def main(work: Path, minutes: float, rank: int, processes: int) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{work.absolute()}/rendezvous", rank=rank, world_size=processes
        )
    data = Drawings(work)
    train, val, _ = data.split()
    weights = sampling_weights(data, train)
    run = Run(work, data)
    gen = torch.Generator().manual_seed(1000 + 2 * run.step + rank)
    torch.manual_seed(gen.initial_seed())
    mean, clock, said = 0.0, time.time(), time.time()
    while run.elapsed < minutes * 60:
        rows = train[torch.multinomial(weights, BATCH // processes, generator=gen)]
        loss = run.train_step(data, rows, run.elapsed / (minutes * 60), gen)
        mean = loss if mean == 0 else 0.95 * mean + 0.05 * loss
        run.elapsed, clock = run.elapsed + time.time() - clock, time.time()
        if rank == 0 and run.step % 20 == 0:
            print(f"step {run.step} loss {mean:.3f} {run.elapsed / run.step:.3f} s/step", flush=True)
        if rank == 0 and time.time() - said > 180:
            report(run, data, val, mean, work / "vision.log")
            run.save()
            said = time.time()
    if rank == 0:
        report(run, data, val, mean, work / "vision.log")
        run.save()


def crew(work_of, work: Path, minutes, processes: int) -> None:
    """One single-threaded process per core: no thread barriers, so a busy machine slows it down only in proportion."""
    (work / "rendezvous").unlink(missing_ok=True)
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=work_of, args=(work, minutes, rank, processes)) for rank in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a training process failed; run again to continue")


if __name__ == "__main__":
    load_rgba(Path(sys.argv[1]))
    crew(main, Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
