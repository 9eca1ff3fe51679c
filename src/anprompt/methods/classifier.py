"""A method with one class list, ready to answer: what every evaluation, prediction and service holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anprompt.data.names import class_key
from anprompt.errors import NotFinite, UserError, choices
from anprompt.methods.base import ROWS, Descriptions, Head, Method


def finite(values: Tensor, method: Method) -> Tensor:
    """The values themselves, logits or features of a method.

    Raises:
        NotFinite: NaN or Inf among them, which would silently turn into an answer.
    """
    if not bool(torch.isfinite(values).all()):
        kept = str(method.backbone.dtype).removeprefix("torch.")
        remedy = "train again, or use another adapter" if kept == "float32" else "use --dtype fp32"
        raise NotFinite(
            f"The answers of {method.preset or method.name!r} on {method.backbone.id!r} ({kept}) are not finite numbers; "
            f"its tensors, its temperature or the backbone's weights can't be right: {remedy}."
        )
    return values


def class_rows(method: Method, names: Sequence[str], head: str) -> list[int]:
    """Which trained class each of the names is, -1 where it is none; names match as `class_key` says.

    Raises:
        UserError: the method has learned something for its trained classes alone, and a name is none of them.
    """
    if tuple(names) == method.trained_classnames:
        return list(range(len(names)))
    places = {name: index for index, name in reversed(list(enumerate(method.trained_classnames)))}
    known = {key: places[name] for key, name in method.names_by_key().items()}
    rows = [known.get(class_key(name), -1) for name in names]
    own = method.by_class and (head == "trained" or not method.opens)
    if own and (-1 in rows or (not method.opens and head == "unseen")):
        foreign = next((name for name, row in zip(names, rows) if row < 0), names[0])
        why = "" if method.opens else ": it has no text side"
        raise UserError(
            f"{method.preset or method.name} has learned weights for its {len(method.trained_classnames)} trained "
            f"classes, which say nothing of {foreign!r}{why}. Ask for trained classes, or take an adapter of another "
            "method, or 'zeroshot'."
        )
    return rows


class Classifier:
    """A method at one moment with one class list: text features are computed once, at construction.

    Holding them here, and not in the method, is what keeps them from going stale when training goes on.

    Args:
        head: "trained", "unseen", or "auto": the trained head if and only if every class of the list
            was trained on. What was chosen stands in `.head`.
        words: what stands for the classes in sentences; None: their names, and for classes that were
            trained on the names they were trained under, so that "Apple" answers as "apple" does.
        sentences, descriptions: in place of the method's own, see `Method.prepare`.
        meant: the true names of the classes, where `classnames` are disturbed ones.

    Attributes:
        classnames: the class list as it was given.
    """

    def __init__(
        self, method: Method, classnames: Sequence[str] | None = None, head: str = "auto",
        words: Sequence[str] | None = None, sentences: Sequence[str] | None = None,
        descriptions: Descriptions | None = None, meant: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        if head not in ("auto", "trained", "unseen"):
            raise choices("head", head, ["auto", "trained", "unseen"])
        names = tuple(classnames) if classnames is not None else method.trained_classnames
        if not names:
            raise UserError("The class list is empty; give at least one class name.")
        trained = method.names_by_key()
        keys = [class_key(name) for name in names]
        if head == "auto":
            head = "trained" if all(key in trained for key in keys) else "unseen"
        if words is None:
            exact = set(method.trained_classnames)
            words = [name if name in exact else trained.get(key, name) for name, key in zip(names, keys)]
        rows = class_rows(method, names if meant is None else meant, head)
        self.method, self.classnames = method, names
        self.head: Head = head  # type: ignore[assignment]
        self.temperature = method.temperature if head == "trained" else 1.0  # fitted on that head alone
        with torch.no_grad():
            self.text = method.encode_classes(method.prepare(words, sentences, descriptions))
        if method.by_class and head == "trained":
            self.text = {**self.text, ROWS: torch.tensor(rows, device=method.backbone.device)}

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] normalised pixels -> scaled logits [B, C] in fp32."""
        method = self.method
        pixels = pixels.to(method.backbone.device, method.backbone.dtype)
        logits = (
            method.answer(method.image_state(pixels, method.reads), self.text, self.head).float() / self.temperature
        )
        return finite(logits, method)
