"""Frozen dual encoders behind one protocol."""

from __future__ import annotations

import os

import torch

from anprompt.backbones.base import Backbone, Dims, Hook, Tokens, identity_hook
from anprompt.backbones.devices import resolve_device
from anprompt.errors import UserError, choices

__all__ = ["DTYPES", "Backbone", "Dims", "Hook", "Tokens", "identity_hook", "load_backbone", "resolve_device"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_backbone(
    spec: str | os.PathLike = "embedded", *, device: str | torch.device = "cpu", dtype: str = "float32"
) -> Backbone:
    """Load a frozen backbone.

    Args:
        spec: "embedded" (ships with the package), a folder in hub format by a path ("./clip", "/models/clip",
            "~/clip"), a hub id, or "open-clip:MODEL/WEIGHTS" (docs/backbones.md).
        device: "auto" or a device of this machine ("cpu", "cuda", "cuda:1", "mps"); see `resolve_device`.
        dtype: "float32", "bfloat16" or "float16", the precision of the frozen weights.

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
    if name.startswith(PREFIX) or (is_path(name) and is_open_clip_folder(name)):
        return OpenClip(name, dtype=DTYPES[dtype]).to(where)
    loader = {"clip": HFClip, "siglip": HFSiglip}[hub_kind(name)]
    return loader(name, dtype=DTYPES[dtype]).to(where)
