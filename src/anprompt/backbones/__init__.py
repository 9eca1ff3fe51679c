"""Frozen dual encoders behind one protocol.

Other packages add theirs through the entry-point group `anprompt.backbones`: a prefix, and what opens "PREFIX:NAME".
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points

import torch

from anprompt.backbones.base import Backbone, Dims, Hook, Tokens, identity_hook
from anprompt.backbones.devices import resolve_device
from anprompt.errors import UserError, choices

__all__ = ["DTYPES", "Backbone", "Dims", "Hook", "Tokens", "identity_hook", "load_backbone", "resolve_device"]

GROUP = "anprompt.backbones"  # entry points of other packages
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prefixes() -> set[str]:
    """Prefixes of the backbones that installed packages add; "open-clip" and drive letters can't be taken."""
    names = {point.name for point in entry_points(group=GROUP)}
    return {name for name in names if len(name) > 1 and name != "open-clip"}


def load_backbone(
    spec: str | os.PathLike[str] = "embedded", *, device: str | torch.device = "cpu", dtype: str = "float32"
) -> Backbone:
    """Load a frozen backbone.

    Args:
        spec: "embedded" (ships with the package), a folder in hub format by a path ("./clip", "/models/clip",
            "~/clip"), a hub id, "open-clip:MODEL/WEIGHTS" (docs/backbones.md), or "PREFIX:NAME" of another package
            (docs/add-a-backbone.md).
        device: "auto" or a device of this machine ("cpu", "cuda", "cuda:1", "mps"); see `resolve_device`.
        dtype: "float32", "bfloat16" or "float16", the precision of the frozen weights.

    Returns:
        The backbone, frozen, on the device.

    Raises:
        UserError: one line saying what is wrong and what to do.
    """
    from anprompt.backbones.hf import HFClip, hub_kind
    from anprompt.backbones.names import is_path, resolve
    from anprompt.backbones.open_clip import PREFIX, OpenClip, is_open_clip_folder
    from anprompt.backbones.siglip import HFSiglip

    if dtype not in DTYPES:
        raise choices("dtype", dtype, DTYPES)
    where = resolve_device(device)
    if not str(spec).strip():
        raise UserError("Backbone name is empty; give a hub id, a folder, or 'embedded'.")
    if spec == "embedded":
        from anprompt.data.embedded import embedded_model_folder

        return HFClip(str(embedded_model_folder()), dtype=DTYPES[dtype], name="embedded").to(where)
    name = resolve(spec)
    prefix, colon, rest = name.partition(":")
    if colon and prefix in prefixes():
        [point, *_] = entry_points(group=GROUP, name=prefix)
        return point.load()(rest, dtype=DTYPES[dtype]).to(where)
    if name.startswith(PREFIX) or (is_path(name) and is_open_clip_folder(name)):
        return OpenClip(name, dtype=DTYPES[dtype]).to(where)
    loader = {"clip": HFClip, "siglip": HFSiglip}[hub_kind(name)]
    return loader(name, dtype=DTYPES[dtype]).to(where)
