"""What every prompt method is: parameters, features, a loss by named parts, and logits.

A method holds its backbone without owning it: `parameters()` and `state_dict()` are the trained
tensors (and fixed ones such as noise prompts) alone, so an adapter never contains CLIP.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from anprompt.backbones.base import Backbone
from anprompt.data.names import class_key, spoken
from anprompt.errors import NotFinite, UserError, choices
from anprompt.prompting import ClassBank, Vision, class_bank, see

Head = Literal["trained", "unseen"]
TextState = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """Base of the methods' typed configs; each checks its own values in `__post_init__`."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MethodConfig:
        """A config from plain values, as read from TOML, JSON or `--set`.

        Raises:
            UserError: unknown key (nearest named) or a value of the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise choices(f"setting of {cls.__name__}", key, fields)
        defaults = cls()
        return cls(**{key: _typed(key, value, getattr(defaults, key)) for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for config.json."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


# Counts (epochs, tokens, widths) beyond this only fill memory or never end; seeds and batches may be any number.
LARGEST_COUNT = 1_000_000
LARGEST = {"draws": 10_000, "seed": 2**63, "view_seed": 2**63, "batch_size": 2**31}


def _typed(key: str, value: Any, default: Any) -> Any:
    if isinstance(value, np.generic):  # what a grid search over numpy's ranges gives
        value = value.item()
    if isinstance(default, bool) != isinstance(value, bool):
        raise UserError(
            f"Setting {key!r} must be {'true or false' if isinstance(default, bool) else 'no boolean'}."
        )
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(_typed(key, entry, default[0] if default else "") for entry in value)
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    if type(value) is not type(default):
        raise UserError(f"Setting {key!r} must be of type {type(default).__name__}, not {value!r}.")
    if isinstance(value, int) and value > LARGEST.get(key, LARGEST_COUNT):
        raise UserError(f"Setting {key!r} must be at most {LARGEST.get(key, LARGEST_COUNT):,}, not {value}.")
    return value


def itself(rows: Tensor) -> Tensor:
    """`Method.whole` in one process."""
    return rows


class Method(nn.Module):
    """Base class of all methods.

    Attributes:
        first_block: number of the first prompted block in both towers; the trunk ends before it.
        needs: what the method can't do without, of `backbones.base.CAPABILITIES`; `build_method` refuses
            backbones that lack it.
        engine: "shared" (exact sharing) or "plain" (whole sequences, what the parity tests compare with).
        preset: name of the recipe it was built by, recorded in adapters.
        trained_classnames: the class list the method is (or was) trained on.
        labels: what the data called these classes, where they were given other names; else empty.
        temperature: divides the logits of the trained head in a `Classifier`; see `anprompt.calibrate`.
        splits: whether the loss is a mean over the batch's pictures, or asks `whole` for what it takes of
            all of them; only then may several processes share a batch (`anprompt.distributed`).
        whole: a slice's rows -> those of the whole batch, with gradients; the rows themselves where the
            slice is all there is.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[tuple[str, ...]] = ()
    splits: ClassVar[bool] = False

    backbone: Backbone
    first_block: int
    preset: str = ""
    engine: str = "shared"
    temperature: float = 1.0
    labels: tuple[str, ...] = ()
    whole: Callable[[Tensor], Tensor]

    def __init__(
        self,
        backbone: Backbone,
        classnames: Sequence[str],
        config: MethodConfig,
        *,
        template: str,
        descriptions: Mapping[str, Sequence[str]] | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__()
        # Not a submodule on purpose: the frozen encoder must not appear in parameters or adapters.
        object.__setattr__(self, "backbone", backbone)
        self.config: Any = config
        self.template = template
        self.trained_classnames = tuple(classnames)
        self.descriptions = dict(descriptions or {})
        self.seed = seed
        self.whole = itself

    def start(self) -> None:
        """Compute fixed tensors from the training classes; called once for a fresh method, never on load."""

    def sentences(self, classnames: Sequence[str]) -> list[str]:
        """The clean sentence per class, with the name as it is read out (`names.spoken`)."""
        return [self.template.format(spoken(name)) for name in classnames]

    def described(self, name: str) -> list[str]:
        """The descriptions of a class.

        Raises:
            UserError: it has none.
        """
        about = self.descriptions.get(name)
        if not about:
            by_key = {class_key(known): lines for known, lines in self.descriptions.items()}
            about = by_key.get(class_key(name))
        if not about:
            raise UserError(
                f"No description for class {name!r}; give a JSON file {{class: [sentences]}} with --descriptions."
            )
        return list(about)

    def names_by_key(self) -> dict[str, str]:
        """The trained names by `class_key` of their labels and of themselves."""
        called = zip((*self.labels, *self.trained_classnames), self.trained_classnames * (2 if self.labels else 1))
        return {class_key(label): name for label, name in called}

    @property
    def logit_scale(self) -> float:
        """tau: the config's `logit_scale` where the recipe fixes one, else the backbone's own."""
        return getattr(self.config, "logit_scale", 0.0) or self.backbone.logit_scale

    def prepare(self, classnames: Sequence[str]) -> ClassBank:
        """Constants of a class list (no gradient); reuse them as long as the list stays."""
        return class_bank(self.backbone, classnames, self.sentences(classnames), self.first_block)

    def see(self, pixels: Tensor) -> Vision:
        """Constants of a batch of normalised pictures [B, 3, H, W] (no gradient)."""
        return see(self.backbone, pixels, self.first_block)

    def look(self, pixels: Tensor) -> Vision:
        """What `logits` needs of a batch; less than `see` where logits do not read all of it (`trunk_alone`,
        `frozen_alone`)."""
        return self.see(pixels)

    def encode_classes(self, bank: ClassBank) -> TextState:
        """Text features that depend on trained tensors; {"text": unit [C, E], ...}."""
        raise UserError(f"Method {self.name!r} does not encode classes.")

    def loss(self, vision: Vision, labels: Tensor, bank: ClassBank, step: int = 0) -> dict[str, Tensor]:
        """Named, already weighted parts; the training loss is their sum. `labels` are [B] in 0..C-1."""
        raise UserError(f"Method {self.name!r} has nothing to train; use it with 'eval' or 'predict'.")

    def logits(self, vision: Vision, text: TextState, head: Head = "unseen") -> Tensor:
        """Scaled logits [B, C] in fp32."""
        raise UserError(f"Method {self.name!r} gives no logits.")

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Called when epoch `epoch` (from 0) of `epochs` is done, e.g. to average prompts."""

    def trained_parameters(self) -> int:
        """Number of trained scalars."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def trunk_alone(method: Method, pixels: Tensor) -> Vision:
    """A `look` for methods whose logits do not read the frozen features."""
    return see(method.backbone, pixels, method.first_block, frozen=False)


def frozen_alone(method: Method, pixels: Tensor) -> Vision:
    """A `look` for methods whose logits read the frozen features and nothing else."""
    seen = method.see(pixels)
    return Vision(seen.trunk.new_zeros(seen.trunk.shape[0], 0), seen.frozen)


def finite(values: Tensor, method: Method) -> Tensor:
    """The values themselves, logits or features of a method.

    Raises:
        NotFinite: NaN or Inf among them, which would turn into an answer without a word.
    """
    if not bool(torch.isfinite(values).all()):
        kept = str(method.backbone.dtype).removeprefix("torch.")
        remedy = "train again, or use another adapter" if kept == "float32" else "use --precision fp32"
        raise NotFinite(
            f"The answers of {method.preset or method.name!r} on {method.backbone.id!r} ({kept}) are not finite numbers; "
            f"its tensors, its temperature or the backbone's weights can't be right: {remedy}."
        )
    return values


class Classifier:
    """A method at one moment with one class list: text features are computed once, at construction.

    Holding them here, and not in the method, is what keeps them from going stale when training goes on.

    Args:
        head: "trained", "unseen", or "auto": the trained head if and only if every class of the list
            was trained on. What was chosen stands in `.head`.
        words: what stands for the classes in sentences; None: their names, and for classes that were
            trained on the names they were trained under, so that "Apple" answers as "apple" does.

    Attributes:
        classnames: the class list as it was given.
    """

    def __init__(
        self, method: Method, classnames: Sequence[str] | None = None, head: str = "auto",
        words: Sequence[str] | None = None,
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
        self.method, self.classnames = method, names
        self.head: Head = head  # type: ignore[assignment]
        self.temperature = method.temperature if head == "trained" else 1.0  # fitted on that head alone
        with torch.no_grad():
            self.text = method.encode_classes(method.prepare(words))

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] normalised pixels -> scaled logits [B, C] in fp32."""
        method = self.method
        pixels = pixels.to(method.backbone.device, method.backbone.dtype)
        logits = method.logits(method.look(pixels), self.text, self.head).float() / self.temperature
        return finite(logits, method)
