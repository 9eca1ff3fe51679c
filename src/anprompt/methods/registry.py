"""Which methods there are: those of this package, and those that other packages add.

Other packages add methods through the entry-point group `anprompt.methods` (name -> Method class).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from anprompt.errors import choices
from anprompt.methods.anprompt import ANPrompt
from anprompt.methods.base import Method
from anprompt.methods.clap import CLAP
from anprompt.methods.clip_adapter import CLIPAdapter
from anprompt.methods.cocoop import CoCoOp
from anprompt.methods.coop import CoOp
from anprompt.methods.ivlp import IVLP
from anprompt.methods.linear_probe import LinearProbe
from anprompt.methods.lp_plus_plus import LPPlusPlus
from anprompt.methods.maple import MaPLe
from anprompt.methods.mmrl import MMRL
from anprompt.methods.mmrlpp import MMRLpp
from anprompt.methods.nap import NAP
from anprompt.methods.ncm import NCM
from anprompt.methods.promptsrc import PromptSRC
from anprompt.methods.tip_adapter import TipAdapter
from anprompt.methods.tip_adapter_f import TipAdapterF
from anprompt.methods.zeroshot import ZeroShot

GROUP = "anprompt.methods"  # entry points of other packages
_BUILT_IN: tuple[type[Method[Any]], ...] = (
    ZeroShot, LinearProbe, NCM, TipAdapter, TipAdapterF, CLIPAdapter, LPPlusPlus, CLAP,
    CoOp, CoCoOp, MaPLe, PromptSRC, MMRL, MMRLpp, ANPrompt, IVLP, NAP,
)  # fmt: skip


@lru_cache(maxsize=1)
def registered() -> dict[str, type[Method[Any]]]:
    """All known methods by name; the built-in ones can't be replaced by a plug-in."""
    plugins = {point.name: point.load() for point in entry_points(group=GROUP)}
    return {**plugins, **{cls.name: cls for cls in _BUILT_IN}}


def list_methods() -> list[str]:
    """Names of the methods, of this package and of installed ones.

    Returns:
        Names in alphabetical order; each is the name of a preset as well.

    Examples:
        >>> "coop" in list_methods()
        True
    """
    return sorted(registered())


def get_method(name: str) -> type[Method[Any]]:
    """The class of a method.

    Args:
        name: a method's, not that of a preset with another name.

    Returns:
        The class, whose `Config` has the method's settings with their defaults.

    Raises:
        UserError: there is none; the nearest name is in the line.

    Examples:
        >>> get_method("coop").paper
        'arXiv 2109.01134'
    """
    if name not in registered():
        raise choices("method", name, list_methods())
    return registered()[name]
