"""Which classes the answers are chosen from when an adapter meets a labelled folder."""

from __future__ import annotations

from collections.abc import Sequence

from anprompt.data.names import class_key
from anprompt.data.reading import nearest
from anprompt.data.splits import with_classes
from anprompt.data.types import Dataset
from anprompt.errors import UserError


def candidates(dataset: Dataset, trained: Sequence[str], which: str = "auto") -> tuple[Dataset, list[str]]:
    """The data set with the classes that answers are chosen from, and what to tell of it, one line each.

    Args:
        trained: classes that the method was trained on; none for zero-shot CLIP.
        which: "data" takes the data's classes, "trained" the trained ones (images of others go); "auto" the
            trained ones where a user's folder or table holds no others: to tell two of four classes apart is
            easier than to find them among the four.

    Raises:
        UserError: "trained", and no image is of a trained class.
    """
    if not trained or which == "data" or (which == "auto" and dataset.reading is None):
        return dataset, []
    keys = {class_key(name) for name in trained}
    others = [name for name in dataset.classnames if class_key(name) not in keys]
    held = len(dataset.classnames) - len(others)
    if others and which == "auto":
        if not held:
            return dataset, []
        near = nearest(
            others[0], [n for n in trained if class_key(n) not in {class_key(c) for c in dataset.classnames}]
        )
        return dataset, [
            f"{len(others)} of {len(dataset.classnames)} classes were not trained on, the first: {others[0]!r}"
            + (f" (did you mean {near!r}?)" if near else "")
            + "; answers are chosen from the data's classes, with the head for unseen ones"
        ]
    made = with_classes(dataset, trained)
    if not held:
        raise UserError(f"{dataset.name} has no pictures of the trained classes ({', '.join(trained[:5])}).")
    told = []
    if held < len(trained):
        told.append(
            f"{dataset.name} holds {held} of the {len(trained)} trained classes; answers are chosen from all "
            f"{len(trained)} (--candidates data: from these {held})"
        )
    if others:
        told.append(f"pictures of {len(others)} classes that were not trained on are left out ({others[0]!r}, ...)")
    return made, told
