"""The processes of one run: how they meet, what they exchange, and how they part.

    torchrun --nproc-per-node 2 -m anprompt fit ...

A batch is cut into one slice a process; `Team` says which, sums what they computed, and says who writes and prints.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anprompt.backbones import resolve_device
from anprompt.errors import UserError
from anprompt.utils.files import first_line

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

TIMEOUT = "ANPROMPT_RANK_TIMEOUT"  # environment: seconds that the others may keep one waiting
TIMEOUT_S = 600.0
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class LostProcess(Exception):
    """Another process of the run has ended or does not answer."""


def several_processes() -> bool:
    """Whether this is one of several processes that torchrun started."""
    return all(name in os.environ for name in VARIABLES) and os.environ["WORLD_SIZE"] != "1"


class Team:
    """This process's place among those of a run, and what they exchange.

    Every method that exchanges something is called by all processes in the same order.

    Attributes:
        rank, size: number of this process, from 0, and how many there are.
        device: where this process computes; what is exchanged goes through it.
        store: a few words the processes leave for each other, also when one of them fails.

    Raises:
        LostProcess: from everything that waits for the others.
    """

    def __init__(self, rank: int, size: int, device: torch.device, store: Store, timeout_s: float) -> None:
        self.rank, self.size, self.device, self.store, self.timeout_s = rank, size, device, store, timeout_s

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def bounds(self, count: int) -> tuple[int, int]:
        """Start and end of this process's share of `count` rows; shares differ by one row at most."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    # --- exchange -----------------------------------------------------------------------------------
    def add(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same bits in all of them; a contiguous tensor changes in place."""
        moved = tensor.to(self.device)
        with self._waiting():
            dist.all_reduce(moved)
        return moved.to(tensor.device)

    def whole(self, rows: Tensor, count: int) -> Tensor:
        """The rows of the whole batch, [count, ...], from every process's own; gradients flow back to them."""
        result: Tensor = _Whole.apply(rows, self, count)  # type: ignore[no-untyped-call]
        return result

    def combine(self, method: nn.Module, parts: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """Sum the gradients in place, and give the loss parts of the whole batch, in one message.

        Args:
            parts: of this process's slice, not yet weighted.
            share: this process's share of the batch, 0..1.
        """
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        values = torch.stack([part.detach().float() for part in parts.values()]) * share
        flat = torch.cat([*(gradient.reshape(-1).float() for gradient in gradients), values])
        *summed, values = self.add(flat).split([*(gradient.numel() for gradient in gradients), len(parts)])
        for gradient, total in zip(gradients, summed):
            gradient.copy_(total.view_as(gradient))
        return dict(zip(parts, values.unbind()))

    def copy_first(self, method: nn.Module) -> None:
        """Give every process the first one's tensors: other processors may round otherwise."""
        for tensor in method.state_dict().values():
            moved = tensor.to(self.device).contiguous()
            with self._waiting():
                dist.broadcast(moved, 0)
            tensor.copy_(moved)

    def bytes_of_first(self, data: bytes = b"") -> bytes:
        """What the first process gives here; what the others give does not count."""
        length = torch.tensor([len(data)], device=self.device)
        with self._waiting():
            dist.broadcast(length, 0)
        content = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.first and data:
            content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        if len(content):
            with self._waiting():
                dist.broadcast(content, 0)
        return content.cpu().numpy().tobytes()

    def from_first(self, work: Callable[[], T]) -> T:
        """Done by the first process alone; all get its result (of JSON's kinds), or raise its `UserError`."""
        found: dict[str, Any] = {}
        if self.first:
            try:
                found = {"value": work()}
            except UserError as error:
                found = {"error": str(error)}
        found = json.loads(self.bytes_of_first(json.dumps(found).encode()))
        if "error" in found:
            raise UserError(found["error"])
        return found["value"]

    def agree(self, fact: str, words: str) -> None:
        """`UserError` with these words unless all processes say the same."""
        same = self.bytes_of_first(fact.encode()) == fact.encode()
        if int(self.add(torch.tensor([int(same)]))) != self.size:
            raise UserError(words)

    def speaks(self, line: str, *, cause: bool) -> bool:
        """Whether this process prints its last line: every cause once, and that another one has gone only
        where none said why."""
        try:
            fresh = self.store.add(f"line {line}", 1) == 1
            first = self.store.add("lines", 1) == 1
        except RuntimeError:  # the store went with its process
            return True
        return fresh if cause else first

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # a closed connection, or time is over
            raise LostProcess(
                f"another process of this run ended, or did not answer for {self.timeout_s:g} s; this one stops. "
                "Finished epochs are kept: run the same command again to resume."
            ) from error


class _Whole(torch.autograd.Function):
    """Rows of all processes side by side. Each puts its rows among zeros, and the sum is everyone's: that
    takes slices of unequal length, and is exact."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, team: Team, count: int) -> Tensor:
        ctx.team, (ctx.start, ctx.stop) = team, team.bounds(count)
        kind = torch.promote_types(rows.dtype, torch.float32)
        everyone = torch.zeros(count, *rows.shape[1:], dtype=kind, device=rows.device)
        everyone[ctx.start : ctx.stop] = rows
        return team.add(everyone).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        kind = torch.promote_types(gradients[0].dtype, torch.float32)
        total = ctx.team.add(gradients[0].to(kind, copy=True).contiguous())  # what all processes' losses ask
        return total[ctx.start : ctx.stop].to(gradients[0].dtype), None, None


# --- beginning and end ----------------------------------------------------------------------------
def join(device: str | torch.device = "auto") -> Team:
    """Meet the other processes of torchrun: over gloo on the CPU, over NCCL on GPUs.

    Raises:
        UserError: a device that they can't have, or a bad time limit.
        LostProcess: the others did not come.
    """
    # Its functions take the group as a default argument, read when it is imported. transformers imports it; after
    # the group exists, that would keep the group and its threads beyond `leave`, and Python's end may abort on them.
    import torch.distributed.nn.functional
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    word = "cpu" if device == "auto" and not torch.cuda.is_available() else device  # not one Mac GPU for all
    where, limit = _own_device(resolve_device(word)), _time_limit()
    wait = timedelta(seconds=limit)
    if where.type == "cuda":
        torch.cuda.set_device(where)
        # Waiting raises, instead of the whole process being aborted from a thread.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=wait)))
        dist.init_process_group(
            "nccl" if where.type == "cuda" else "gloo", store=PrefixStore("anprompt", store), rank=rank,
            world_size=size, timeout=wait,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise LostProcess(
            f"the processes of this run did not meet within {limit:g} s ({first_line(error)})."
        ) from error
    return Team(rank, size, where, PrefixStore("anprompt words", store), limit)


def leave() -> None:
    """End what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_device(device: torch.device) -> torch.device:
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"Several processes compute on the CPU or on CUDA, not on {device.type!r}; add --device cpu.")
    if device.index is not None:
        raise UserError(f"--device {device} is one GPU for all processes; leave the number out: each takes its own.")
    wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if wanted > there:
        raise UserError(f"{wanted} processes on this machine, but {there} GPU(s); use --nproc-per-node {there}.")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def _time_limit() -> float:
    text = os.environ.get(TIMEOUT, str(TIMEOUT_S))
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e7:
            return float(text)
    raise UserError(f"{TIMEOUT} must be a number of seconds above 0, not {text!r}.")


def on_first(team: Team | None, work: Callable[[], T]) -> T:
    """`work()` in a process alone; among several, by the first one for all."""
    return work() if team is None else team.from_first(work)
