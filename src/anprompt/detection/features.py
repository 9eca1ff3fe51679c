"""What the frozen image encoder says of an image, patch by patch, at several of its blocks.

    windows [T, 3, S, S] -> blocks 1..first-1 as they are -> blocks from `first` with the chosen attention
                                                          -> tokens after each of `blocks`, joined over windows

Three kinds of attention between patches, through the model's own modules:

- `plain`: the stock forward.
- `local`: locality-aware attention (APT, arXiv 2508.16157): a patch attends to the patches within `radius` of it, so that a
  small anomaly is not averaged away by the rest. Which blocks, and how near, can't be read; both are settings here.
- `value`: value-value attention (AnomalyCLIP's DPAM, arXiv 2310.18961; CLIP Surgery): values stand in for queries and keys.

The class token attends to everything in all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anprompt.backbones.base import Backbone, BlockParts
from anprompt.data.crop import centre_view
from anprompt.data.views import normalised
from anprompt.detection.tiles import Grid, Joining, grid_of, windows
from anprompt.errors import UserError, choices
from anprompt.prompting.memory import in_halves
from anprompt.prompting.prompts import unit
from anprompt.prompting.shared_text import Heads

ATTENTIONS = ("plain", "local", "value")
BATCH = 64  # windows at a time
KEPT = torch.float16  # what is kept of images, in caches and banks; figures are computed in fp32


@dataclass(frozen=True)
class Sight:
    """How an image is looked at; images looked at in the same way can be compared.

    Attributes:
        tiles: windows along the shorter side.
        blocks: after which vision blocks patches are read, from 1.
        attention: one of `ATTENTIONS`.
        first: the first block with that attention.
        radius: patches that `local` reaches.
        scales: sides in patches of the small windows that are encoded by themselves (WinCLIP), with `image`.
    """

    tiles: int = 1
    blocks: tuple[int, ...] = (1,)
    attention: str = "plain"
    first: int = 1
    radius: int = 1
    scales: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise choices("attention", self.attention, ATTENTIONS)


@dataclass(frozen=True)
class Look:
    """What was seen of one image.

    Attributes:
        tokens: patch tokens at each block, [h, w, blocks, D_v].
        image: unit feature of the image as a whole, [E].
        windows: unit features of the class token of every window, [T, E].
        small: by scale, the mean unit feature of the small windows that cover a patch, [h, w, E], and all of them, [n, E].
    """

    tokens: Tensor
    image: Tensor
    windows: Tensor
    small: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """For a file."""
        small = {
            f"small.{scale}.{part}": x for scale, pair in self.small.items() for part, x in zip(("map", "all"), pair)
        }
        return {"tokens": self.tokens, "image": self.image, "windows": self.windows, **small}

    @classmethod
    def from_tensors(cls, kept: Mapping[str, Tensor]) -> Look:
        """What `tensors` gave."""
        scales = sorted({int(name.split(".")[1]) for name in kept if name.startswith("small.")})
        small = {scale: (kept[f"small.{scale}.map"], kept[f"small.{scale}.all"]) for scale in scales}
        return cls(kept["tokens"], kept["image"], kept["windows"], small)

    def kept(self) -> Look:
        """The same in half the bytes, for a cache."""
        small = {scale: (a.to(KEPT), b.to(KEPT)) for scale, (a, b) in self.small.items()}
        return dataclasses.replace(self, tokens=self.tokens.to(KEPT), windows=self.windows.to(KEPT), small=small)


def default_blocks(depth: int, share: Sequence[float] = (0.25, 0.5, 0.75, 1.0)) -> tuple[int, ...]:
    """Blocks at these shares of the tower's depth.

    >>> default_blocks(12), default_blocks(8, (0.5, 0.75))
    ((3, 6, 9, 12), (4, 6))
    """
    return tuple(sorted({max(1, round(part * depth)) for part in share}))


def check_blocks(backbone: Backbone, blocks: Sequence[int]) -> None:
    """Raises `UserError` where a block is not one of the vision tower's."""
    for block in blocks:
        if not 1 <= block <= backbone.dims.vision_depth:
            raise UserError(
                f"Block {block} does not exist: {backbone.id} has vision blocks 1 to {backbone.dims.vision_depth}."
            )


@torch.no_grad()
def look(backbone: Backbone, image: Image.Image, sight: Sight) -> Look:
    """See an RGB image.

    Memory grows with the joined map alone: windows are looked at `BATCH` at a time, fewer where memory is short.
    """
    dims = backbone.dims
    grid = grid_of(image.width, image.height, sight.tiles, dims.image_size, dims.patch_size)
    views = windows(image, grid)
    tokens = Joining(grid, torch.Size((len(sight.blocks), dims.vision_width)))
    small = {scale: Joining(grid, torch.Size((dims.embed,))) for scale in sight.scales}
    classes, every = [], {scale: [] for scale in sight.scales}  # type: ignore[var-annotated]
    for indices in torch.arange(len(views)).split(BATCH):
        seen, own = _batch(backbone, views[indices.numpy()], sight)
        tokens.add(seen, indices.tolist())
        classes.append(own)
    for scale in sight.scales:  # what lies in several windows is encoded once
        for some in torch.tensor(grid.apart).split(BATCH):
            per_patch, found = _small_windows(backbone, views[some.numpy()], scale)
            small[scale].add(per_patch, some.tolist())
            every[scale].append(found)
    whole = normalised(centre_view(image, dims.image_size)[None], backbone.mean, backbone.std)
    feature = unit(backbone.encode_image(whole.to(backbone.device, backbone.dtype)))[0].cpu()
    return Look(
        tokens.mean(), feature, torch.cat(classes),
        {scale: (small[scale].mean(), torch.cat(every[scale])) for scale in sight.scales},
    )  # fmt: skip


def _batch(backbone: Backbone, views, sight: Sight) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """Patch tokens [t, side, side, blocks, D_v] and unit class features [t, E] of some windows."""
    pixels = normalised(views, backbone.mean, backbone.std)

    def of(indices: Tensor) -> tuple[Tensor, Tensor]:
        x = pixels[indices].to(backbone.device, backbone.dtype)
        tokens, last = block_tokens(backbone, backbone.pre_norm(backbone.embed_image(x)), sight)
        return tokens.float().cpu(), unit(backbone.read_image(last)).cpu()

    found, classes = in_halves(of, torch.arange(len(pixels)), lambda parts: tuple(map(torch.cat, zip(*parts))))
    side = backbone.dims.image_size // backbone.dims.patch_size
    return found.unflatten(1, (side, side)), classes


def block_tokens(backbone: Backbone, x: Tensor, sight: Sight) -> tuple[Tensor, Tensor]:
    """Patch tokens after each of the sight's blocks, [B, P, blocks, D_v], and all tokens after the last block.

    Args:
        x: activations that enter block 1, [B, 1 + P, D_v].
    """
    check_blocks(backbone, sight.blocks)
    depth, found = backbone.dims.vision_depth, {}
    mask = locality_mask(backbone, sight.radius).to(x.device) if sight.attention == "local" else None
    for block in range(1, depth + 1):
        if sight.attention == "plain" or block < sight.first:
            x = backbone.run_image(x, block, block)
        else:
            x = _block(backbone.vision_parts(block), x, mask, by_value=sight.attention == "value")
        if block in sight.blocks:
            found[block] = x[:, -(backbone.dims.image_size**2) // backbone.dims.patch_size**2 :]
    return torch.stack([found[block] for block in sight.blocks], dim=2), x


def locality_mask(backbone: Backbone, radius: int) -> Tensor:
    """Locality-aware attention's mask [1 + P, 1 + P]: who may attend to whom.

    A patch attends to the patches at most `radius` rows and columns away, and to the class token; the class token to all.
    """
    side = backbone.dims.image_size // backbone.dims.patch_size
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    near = (place[:, None] - place[None]).abs().amax(dim=-1) <= radius
    mask = torch.ones(side * side + 1, side * side + 1, dtype=torch.bool)
    mask[1:, 1:] = near
    mask[1:, 0] = backbone.class_token  # an empty place is nothing to attend to
    return mask


def _block(parts: BlockParts, x: Tensor, mask: Tensor | None, *, by_value: bool) -> Tensor:
    """One block with a mask, or with values for queries and keys of the patches; the class token as ever."""
    heads, normed = Heads(parts.heads), parts.norm1(x)
    query, keys, values = (heads.split(y) for y in (parts.q(normed), parts.k(normed), parts.v(normed)))
    attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    if by_value:
        own = F.scaled_dot_product_attention(values, values, values)
        attended = torch.cat([attended[:, :, :1], own[:, :, 1:]], dim=2)
    x = x + parts.out(heads.join(attended))
    return x + parts.mlp(parts.norm2(x))


def projected(backbone: Backbone, tokens: Tensor) -> Tensor:
    """Patch tokens in the joint space, projected as the class token is: [..., D_v] -> unit [..., E], fp32."""
    x = tokens.to(backbone.device, backbone.dtype)
    return unit(F.linear(backbone.post_norm(x), backbone.image_projection.T)).cpu()


# --- small windows ----------------------------------------------------------------------------------
def _small_windows(backbone: Backbone, views, scale: int) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
    """Each scale x scale group of patches encoded by itself with the class token (WinCLIP, arXiv 2303.14814, section 4.2).

    Returns:
        For every patch the mean over the groups that hold it, [t, side, side, E], and all unit features, [t * n, E].
    """
    side = backbone.dims.image_size // backbone.dims.patch_size
    groups = _groups(side, min(scale, side)).to(backbone.device)
    pixels = normalised(views, backbone.mean, backbone.std).to(backbone.device, backbone.dtype)
    embedded = backbone.pre_norm(backbone.embed_image(pixels))
    patches = torch.cat([torch.zeros_like(groups[:, :1]), groups + 1], dim=1)  # the class token and the group
    rows = embedded[:, patches].flatten(0, 1)
    found = torch.cat([unit(backbone.read_image(backbone.run_image(part))) for part in rows.split(1024)])
    found = found.unflatten(0, (len(views), len(groups)))
    member = F.one_hot(groups, side * side).sum(dim=1).float()  # [groups, patches]
    mean = torch.einsum("gp,tge->tpe", member / member.sum(dim=0), found)
    return mean.unflatten(1, (side, side)).cpu(), found.flatten(0, 1).cpu()


def _groups(side: int, scale: int) -> Tensor:
    """Indices of the patches of every scale x scale group, [n, scale * scale]."""
    place = torch.arange(side * side).view(side, side)
    return place.unfold(0, scale, 1).unfold(1, scale, 1).reshape(-1, scale * scale)


def grid_for(backbone: Backbone, size: tuple[int, int], sight: Sight) -> Grid:
    """The windows that an image of (width, height) px is looked at with."""
    return grid_of(*size, sight.tiles, backbone.dims.image_size, backbone.dims.patch_size)
