"""Frozen dual encoders behind one protocol."""

from __future__ import annotations

import torch

from anprompt.backbones.base import Backbone, Dims, Hook, Tokens, identity_hook
from anprompt.errors import UserError, choices

__all__ = ["DTYPES", "Backbone", "Dims", "Hook", "Tokens", "identity_hook", "load_backbone", "resolve_device"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str | torch.device) -> torch.device:
    """A usable device; "auto" takes CUDA where there is one.

    Raises:
        UserError: unknown, or not on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise choices("device", device, ["auto", "cpu", "cuda", "cuda:0"]) from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"Device {str(device)!r} asked for, but no CUDA device is visible; use --device cpu.")
    return resolved


def load_backbone(
    spec: str = "embedded", *, device: str | torch.device = "cpu", dtype: str = "float32"
) -> Backbone:
    """Load a frozen backbone.

    Args:
        spec: "embedded" (ships with the package), a folder in hub format, a hub id, or
            "open-clip:MODEL/WEIGHTS" (docs/backbones.md).
        device: "cpu", "cuda", "cuda:1" or "auto".
        dtype: "float32", "bfloat16" or "float16", the precision of the frozen weights.

    Raises:
        UserError: one line saying what is wrong and what to do.
    """
    from anprompt.backbones.hf import HFClip, hub_kind
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
    if str(spec).startswith(PREFIX) or is_open_clip_folder(str(spec)):
        return OpenClip(str(spec), dtype=DTYPES[dtype]).to(where)
    loader = {"clip": HFClip, "siglip": HFSiglip}[hub_kind(str(spec))]
    return loader(str(spec), dtype=DTYPES[dtype]).to(where)
