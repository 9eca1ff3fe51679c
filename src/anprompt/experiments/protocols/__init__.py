"""The protocols by name. Other packages add theirs through the entry-point group `anprompt.experiments`
(name -> `Protocol` class), or within a process with `register_protocol`."""

from __future__ import annotations

from importlib.metadata import entry_points

from anprompt.errors import UserError, choices
from anprompt.experiments.protocols.adversarial import Adversarial
from anprompt.experiments.protocols.base import Part, Protocol
from anprompt.experiments.protocols.base_to_new import BaseToNew
from anprompt.experiments.protocols.cross_dataset import CrossDataset
from anprompt.experiments.protocols.domains import Domains
from anprompt.experiments.protocols.few_shot import FewShot
from anprompt.experiments.protocols.noise import Noise

__all__ = ["PROTOCOLS", "Part", "Protocol", "protocol", "register_protocol"]

_BUILT_IN: tuple[Protocol, ...] = (BaseToNew(), FewShot(), CrossDataset(), Domains(), Noise(), Adversarial())
PROTOCOLS: dict[str, Protocol] = {
    **{one.name: one for one in _BUILT_IN},
    **{point.name: point.load()() for point in entry_points(group="anprompt.experiments")},
}


def protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        UserError: there is none; the nearest is named.
    """
    if name not in PROTOCOLS:
        raise choices("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def register_protocol(one: Protocol) -> None:
    """Make a protocol known to this process under its name.

    Raises:
        UserError: another one has the name.
    """
    if type(PROTOCOLS.setdefault(one.name, one)) is not type(one):
        raise UserError(f"There is a protocol {one.name!r} already; choose another name.")
