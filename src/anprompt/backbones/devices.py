"""Which devices this machine has, and the one that a word asks for."""

from __future__ import annotations

import re

import torch

from anprompt.errors import UserError, choices

KINDS = ("cuda", "mps", "xpu")  # accelerators that torch may have been built for
_FORM = re.compile(r"([a-z]+)(?::(\d{1,4}))?")
_ALIASES = {"gpu": KINDS}  # what people write for whatever accelerator there is


def devices() -> list[str]:
    """The devices that exist here, by the words `--device` takes: "cpu", "cuda:0", "cuda:1", "mps", ..."""
    found = ["cpu"]
    for kind in KINDS:
        count = _count(kind)
        found += [kind] if kind == "mps" and count else [f"{kind}:{index}" for index in range(count)]
    return found


def _count(kind: str) -> int:
    """Devices of one kind; 0 where torch was not built for it or its driver does not answer."""
    module = getattr(torch, kind, None)
    try:
        if module is None or not (torch.backends.mps if kind == "mps" else module).is_available():
            return 0
        return int(module.device_count())
    except (RuntimeError, AssertionError, AttributeError, OSError):
        return 0


def _works(device: torch.device) -> bool:
    """Whether a product in fp32 comes back from the device as it should."""
    try:
        ones = torch.ones(2, 2, device=device)
        return bool(((ones @ ones).cpu() == 2).all())
    except (RuntimeError, AssertionError, NotImplementedError):
        return False


def resolve_device(device: str | torch.device) -> torch.device:
    """A device that exists here.

    Args:
        device: "auto" takes CUDA where there is one, else a Mac's GPU ("mps") that works, else the CPU; or
            one of `devices()`, without a number for the first of its kind.

    Returns:
        The device, with its number where it has one.

    Raises:
        UserError: an unknown word, or a device that this machine does not have; its devices are named.
    """
    word = str(device).strip().lower()
    here = devices()
    if word == "auto":
        if _count("cuda"):
            return torch.device("cuda")
        return torch.device("mps" if "mps" in here and _works(torch.device("mps")) else "cpu")
    form = _FORM.fullmatch(word)
    kind, number = (form[1], form[2]) if form else ("", None)
    if kind in here and number in (None, "0"):  # these have no second one
        return torch.device(kind)
    if f"{kind}:{int(number or 0)}" in here:
        return torch.device(word)
    if form and (kind in KINDS or kind in _ALIASES or _known(kind)):
        raise UserError(
            f"Device {str(device)!r} is not on this machine, or this torch ({torch.__version__}) can't use it. "
            f"Available: {', '.join(here)}; use --device {here[1] if len(here) > 1 else 'cpu'}."
        )
    raise choices("device", device, ["auto", *here])


def _known(kind: str) -> bool:
    """Whether torch has a device of that name anywhere."""
    try:
        return torch.device(kind).type == kind
    except RuntimeError:
        return False
