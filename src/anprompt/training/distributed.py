"""One run on several processes: each takes its share of every batch, and all keep the same method.

    torchrun --nproc-per-node 2 -m anprompt fit ...

A batch is cut into one slice a process. A loss that is a mean over pictures equals the sum of the slices'
losses, each times its share of the batch; parts without pictures come out once, as the shares sum to 1.
What a loss measures over the whole batch it asks `gather` for. After the backward pass the gradients
are summed, so every process takes the step that one process with the whole batch takes, to rounding.
How the processes meet and what they exchange is `process_group`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import tempfile
from pathlib import Path

import torch

from anprompt.errors import UserError
from anprompt.methods.base import Gather, Method
from anprompt.prompting.process_group import Team
from anprompt.training.state import FILE, TrainLog, load_state


def split_batches(team: Team, method: Method, count: int) -> tuple[float, dict[str, Gather]]:
    """Let a method's loss take this process's slice of batches of `count` pictures.

    Returns:
        The slice's share of the batch, 0..1, and what the method's loss takes besides.

    Raises:
        UserError: the method's loss is not known to allow it, or there are fewer pictures than processes.
    """
    if not method.splits:
        raise UserError(
            f"Method {method.name!r} does not say that its loss is a mean over pictures (`splits`), so a batch of it "
            "can't be split over processes; run it without torchrun."
        )
    if count < team.size:
        raise UserError(
            f"A batch of {count} can't be split over {team.size} processes; use --batch-size {team.size} or more, "
            "or fewer processes."
        )
    start, stop = team.bounds(count)
    gathers = "gather" in inspect.signature(method.loss).parameters
    return (stop - start) / count, {"gather": functools.partial(team.whole, count=count)} if gathers else {}


def load_state_of_first(
    team: Team, folder: Path, method: Method, optimizer: torch.optim.Optimizer, run: str,
    scaler: torch.amp.GradScaler | None = None,
) -> TrainLog:  # fmt: skip
    """`load_state` from the first process's folder, in all processes; the others need not see that folder.

    Raises:
        UserError: of the first process's `load_state`, in all of them.
    """
    read = functools.partial(load_state, method=method, optimizer=optimizer, run=run, scaler=scaler)
    log = team.from_first(lambda: dataclasses.asdict(read(folder)))
    path = folder / FILE
    data = team.bytes_of_first(path.read_bytes() if team.first and path.exists() else b"")
    if data and not team.first:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / FILE).write_bytes(data)
            read(Path(place))
    return TrainLog(**log)
