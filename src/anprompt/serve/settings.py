"""The bounds of the service, and who may ask."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What one running service allows; every queue, cache and body has an end.

    Attributes:
        token: what `Authorization: Bearer ...` must carry; None asks for none.
        names: host names, besides IP addresses and localhost, under which the service may be addressed.
        body: largest request in bytes.
        pictures: most pictures in one request.
        pixels: most pixels in one picture (four times as many in a JPEG, which is decoded small); also bounds
            the memory of decoding.
        classes: most class names in one request.
        requests: most requests that are read, decoded or waiting at the same time.
        queue: most pictures waiting for the model.
        batch: most pictures in one pass of the model.
        wait: seconds a picture waits for company before a pass starts.
        seconds: time for one request, from its first byte to its answer.
        memory: bytes that a process may take to read one request, beside four times `body`.
        held: bytes of all requests that are being read.
        lists: class lists whose text features are kept.
    """

    token: str | None = None
    names: tuple[str, ...] = ()
    body: int = 10_000_000
    pictures: int = 16
    pixels: int = 80_000_000
    classes: int = 500
    requests: int = 64
    queue: int = 512
    batch: int = 32
    wait: float = 0.0
    seconds: float = 30.0
    lists: int = 64
    memory: int = 1_000_000_000
    held: int = 300_000_000


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([0-9a-z_.-]{1,253}))(?::([0-9]{1,5}))?", re.ASCII)


def authority(text: str) -> tuple[str, int | None] | None:
    """Host and port of a `Host` header or of an origin, in the one way that both may be written; else None.

    No user, no zone of an IPv6 address, nothing after its bracket, no port beyond 65535.
    """
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None or int(found[3] or 0) > 65535:
        return None
    return (f"[{found[1]}]" if found[1] else found[2]), int(found[3]) if found[3] else None


def known_host(header: str, names: tuple[str, ...]) -> bool:
    """Whether a Host header names this service.

    A page on the web can make its own name point to 127.0.0.1 (DNS rebinding) and would then be asking
    under that name; it can't do so under an IP address or localhost.
    """
    found = authority(header)
    if found is None:
        return False
    name = found[0]
    if name == "localhost" or name in names:
        return True
    try:
        version = ipaddress.ip_address(name.strip("[]")).version
    except ValueError:
        return False
    return (version == 6) == name.startswith("[")


def same_origin(origin: str, host: str) -> bool:
    """Whether a page of that origin was loaded from this host and port."""
    scheme, _, rest = origin.partition("://")
    default = {"http": 80, "https": 443}.get(scheme.lower())
    one, two = authority(rest), authority(host)
    if default is None or one is None or two is None:
        return False
    return (one[0], one[1] or default) == (two[0], two[1] or default)
