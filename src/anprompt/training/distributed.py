"""One run on several processes: each takes its share of every batch, and all keep the same method.

    torchrun --nproc-per-node 2 -m anprompt fit ...

A batch is cut into one slice a process. A loss that is a mean over pictures equals the sum of the slices'
losses, each times its share of the batch; parts without pictures come out once, as the shares sum to 1.
What a loss measures over the whole batch it asks `gather` for. After the backward pass the gradients
are summed, so every process takes the step that one process with the whole batch takes, to rounding.
How the processes meet and what they exchange is `process_group`.
"""

from __future__ import annotations

import functools
import inspect

from anprompt.errors import UserError
from anprompt.methods.base import Gather, Method
from anprompt.prompting.process_group import Team


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
