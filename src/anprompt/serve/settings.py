"""The bounds of the service, and who may ask."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What one running service allows; every queue, cache and body has an end.

    Attributes:
        token: what `Authorization: Bearer ...` must carry; None asks for none.
        names: host names, besides IP addresses and localhost, under which the service may be addressed.
        body: largest request in bytes.
        pictures: most pictures in one request.
        pixels: most pixels in one picture; also bounds the memory of decoding.
        classes: most class names in one request.
        requests: most requests that are read, decoded or waiting at the same time.
        queue: most pictures waiting for the model.
        batch: most pictures in one pass of the model.
        wait: seconds a picture waits for company before a pass starts.
        seconds: time for one request, from its first byte to its answer.
        lists: class lists whose text features are kept.
    """

    token: str | None = None
    names: tuple[str, ...] = ()
    body: int = 10_000_000
    pictures: int = 16
    pixels: int = 25_000_000
    classes: int = 500
    requests: int = 64
    queue: int = 512
    batch: int = 32
    wait: float = 0.0
    seconds: float = 30.0
    lists: int = 64


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def known_host(header: str, names: tuple[str, ...]) -> bool:
    """Whether a Host header names this service.

    A page on the web can make its own name point to 127.0.0.1 (DNS rebinding) and would then be asking
    under that name; it can't do so under an IP address or localhost.
    """
    name = header.strip().lower()
    if name.startswith("["):  # [::1]:8000
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name == "localhost" or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
