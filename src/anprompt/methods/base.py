"""What every prompt method is: parameters, features, a loss by named parts, and logits.

A method holds its backbone without owning it: `parameters()` and `state_dict()` are the trained
tensors (and fixed ones such as noise prompts) alone, so an adapter never contains CLIP.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal

import torch
from torch import Tensor, nn

from anprompt.backbones.base import Backbone
from anprompt.data.names import class_key, spoken
from anprompt.errors import UserError
from anprompt.methods.config import MethodConfig as MethodConfig  # also asked for here
from anprompt.methods.visual_head import VisualHead
from anprompt.prompting.prompts import ClassState, ImageState, class_state, see

Head = Literal["trained", "unseen"]
Parts = Literal["both", "trunk", "frozen"]  # of an image state
Descriptions = Mapping[str, Sequence[str]]  # sentences by class name
Gather = Callable[[Tensor], Tensor]  # a slice's rows -> those of the whole batch, with gradients
if TYPE_CHECKING:  # "Method" alone is a method of any settings
    from typing_extensions import TypeVar

    ConfigT = TypeVar("ConfigT", bound=MethodConfig, default=Any)
else:
    from typing import TypeVar

    ConfigT = TypeVar("ConfigT", bound="MethodConfig")
TextState = dict[str, Tensor]
ROWS = "rows"  # in a text state: which trained class each class of the list is, [C]


def itself(rows: Tensor) -> Tensor:
    """What `loss` gathers with in one process: the rows are all there are."""
    return rows


class Method(nn.Module, ABC, Generic[ConfigT]):
    """Base class of all methods: three abstract verbs, and `build` for the trained tensors.

    Attributes:
        first_block: number of the first prompted block in both towers; the trunk ends before it.
        needs: what the method can't do without, of `backbones.base.CAPABILITIES`; `create_method` refuses
            backbones that lack it.
        reads: what `logits` needs of an image state: the trunk's activations, the frozen features, or both.
        reads_template: whether sentences reach it; learned vectors in place of the template read names alone.
        trains: whether there is something to train; without it, seeds and training settings change nothing.
        from_features: trained in one go on frozen image features (`methods.frozen`), not by steps on `loss`.
        by_class: whether it holds something for every trained class besides its words; a class list of trained ones
            then comes with which they are (`ROWS` of the text state).
        opens: whether it can be asked about classes that it was not trained on.
        engine: "shared" (exact sharing) or "plain" (whole sequences, what the parity tests compare with).
        preset: name of the recipe it was built by, recorded in adapters.
        trained_classnames: the class list the method is (or was) trained on.
        labels: what the data called these classes, where they were given other names; else empty.
        temperature: divides the logits of the trained head in a `Classifier`; see `anprompt.evaluation.calibration`.
        splits: whether the loss is a mean over the batch's pictures, or asks `gather` for what it takes of
            all of them; only then may several processes share a batch (`anprompt.training.distributed`).
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[tuple[str, ...]] = ()
    splits: ClassVar[bool] = False
    reads: ClassVar[Parts] = "both"
    reads_template: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    from_features: ClassVar[bool] = False
    opens: ClassVar[bool] = True
    by_class: bool = False

    backbone: Backbone
    first_block: int
    preset: str = ""
    engine: str = "shared"
    temperature: float = 1.0
    labels: tuple[str, ...] = ()
    config: ConfigT

    def __init__(
        self,
        backbone: Backbone,
        classnames: Sequence[str],
        config: ConfigT,
        *,
        template: str,
        descriptions: Mapping[str, Sequence[str]] | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__()
        # Not a submodule on purpose: the frozen encoder must not appear in parameters or adapters.
        object.__setattr__(self, "backbone", backbone)
        self.config = config
        self.template = template
        self.trained_classnames = tuple(classnames)
        self.descriptions = dict(descriptions or {})
        self.seed = seed
        self.first_block = 1
        self.visual_head: VisualHead | None = None
        self.build(torch.Generator().manual_seed(seed))

    def build(self, generator: torch.Generator) -> None:
        """Make the trained tensors, drawn from the generator, and set `first_block` where it is not 1."""

    def start(self) -> None:
        """Compute fixed tensors from the training classes; called once for a fresh method, never on load."""

    def sentences(self, classnames: Sequence[str]) -> list[str]:
        """The clean sentence per class, with the name as it is read out (`names.spoken`)."""
        return [self.template.format(spoken(name)) for name in classnames]

    def described(self, name: str, descriptions: Descriptions | None = None) -> list[str]:
        """The descriptions of the class called `name`, of the method's own or of those given.

        Raises:
            UserError: it has none.
        """
        told = self.descriptions if descriptions is None else descriptions
        about = told.get(name)
        if not about:
            by_key = {class_key(known): lines for known, lines in told.items()}
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

    def prepare(
        self,
        classnames: Sequence[str],
        sentences: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
    ) -> ClassState:
        """Constants of a class list (no gradient); reuse them as long as the list stays.

        Args:
            classnames: C names, trained on or not.
            sentences: one per class in place of the method's template, for methods that read one.
            descriptions: sentences by class name in place of the method's own, likewise.

        Returns:
            The tokens of C sentences, and their activations that enter the first prompted block.
        """
        chosen = self.sentences(classnames) if sentences is None else list(sentences)
        return class_state(self.backbone, classnames, chosen, self.first_block)

    def image_state(self, pixels: Tensor, parts: Parts = "both") -> ImageState:
        """Constants of a batch of images (no gradient).

        Args:
            pixels: normalised images [B, 3, H, W].
            parts: what is needed of them; the other one may come empty. Losses need "both", logits `reads`.

        Returns:
            Activations that enter the first prompted block [B, N, D_v], and unit frozen features [B, E].
        """
        state = see(self.backbone, pixels, self.first_block, frozen=parts != "trunk")
        if parts == "frozen":
            return ImageState(state.trunk.new_zeros(state.trunk.shape[0], 0), state.frozen)
        return state

    @abstractmethod
    def encode_classes(self, bank: ClassState) -> TextState:
        """Text features that depend on trained tensors; {"text": unit [C, E], ...}."""

    def loss(self, vision: ImageState, labels: Tensor, bank: ClassState, step: int = 0) -> dict[str, Tensor]:
        """Named, already weighted parts, scalars; the training loss is their sum.

        A loss that takes something of the whole batch has one more argument, `gather`: a slice's rows -> the batch's.

        Args:
            vision: `image_state` of B images, with both parts.
            labels: [B] in 0..C-1, indices into the class list of `bank`.
            bank: `prepare` of the trained classes.
            step: number of the optimiser step, from 0, for losses that change while training.

        Returns:
            Scalars by name.

        Raises:
            UserError: the method has nothing to train.
        """
        raise UserError(f"Method {self.name!r} has nothing to train; use it with 'eval' or 'predict'.")

    @abstractmethod
    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """Scaled logits in fp32.

        Args:
            vision: `image_state` of B images, with the parts that the class attribute `reads` names.
            text: `encode_classes` of C classes.
            head: "trained" only where every class was trained on, else "unseen".

        Returns:
            [B, C].
        """

    def embedding(self, vision: ImageState) -> Tensor:
        """Unit image features [B, E] that are compared with the class features.

        The frozen ones, unless a method has its own.
        """
        return vision.frozen

    def add_visual_head(self) -> VisualHead:
        """Give the trained classes a visual term, zero until it is fitted (`methods.visual_head`)."""
        head = VisualHead(len(self.trained_classnames), self.backbone.dims.embed)
        self.visual_head, self.by_class = head.to(self.backbone.device), True
        return head

    def logits_and_embedding(self, vision: ImageState, text: TextState) -> tuple[Tensor, Tensor]:
        """Logits [B, C] of the trained head on the images of `vision` and the classes of `text`, and `embedding` [B, E].

        Methods with both at hand make one pass of it.
        """
        return self.logits(vision, text, "trained"), self.embedding(vision)

    def answer(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """What the method says of images: `logits`, and the visual term of trained classes where it has one.

        Args:
            vision, text, head: as in `logits`.

        Returns:
            Scaled logits [B, C].
        """
        if self.visual_head is None or head == "unseen":
            return self.logits(vision, text, head)
        z, features = self.logits_and_embedding(vision, text)
        return z + self.visual_head(features, text.get(ROWS))

    def forward(self, pixels: Tensor, classnames: Sequence[str] | None = None, head: Head = "unseen") -> Tensor:
        """From images to logits, with gradients to the trained tensors.

        `Classifier` encodes a class list once for many batches; this does it at every call.

        Args:
            pixels: normalised images [B, 3, H, W].
            classnames: C names; None for those trained on.
            head: as in `logits`.

        Returns:
            Scaled logits [B, C].
        """
        names = self.trained_classnames if classnames is None else classnames
        text = self.encode_classes(self.prepare(names))
        return self.answer(self.image_state(pixels, self.reads), text, head)

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Called when epoch `epoch` (from 0) of `epochs` is done, e.g. to average prompts."""

    def trained_parameters(self) -> int:
        """Number of trained scalars."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
