"""Parses settings that name a host, an address or a network, with or without a port."""

import ipaddress
import re
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
HOST_NAME = re.compile(
    rf"(?:{LABEL}\.)*(?=[^.]*[a-z_-]){LABEL}"
)  # not a name: 10.0.0.256, whose last label is a number
FORMS = "a host name, an address or a network, with or without a port: nas:8080, 10.0.0.0/8, [::1]:80"


@dataclass(frozen=True)
class PrivateHost:
    """A name or network that may be reached although it is not public, on one port or on any."""

    name: str | None
    network: Network | None
    port: int | None

    def covers(self, host: str, address: Address, port: int) -> bool:
        """Whether `host`, which resolves to `address`, may be reached at `port`."""
        if self.port not in (None, port):
            return False
        if self.network is not None:
            return address in self.network
        return self.name == _normalise(host)


def parse_private_host(entry: str) -> PrivateHost:
    """Parses `entry`; raises ValueError if it is not a host, address or network."""
    where, port = _split_port(entry)
    try:
        return PrivateHost(None, ipaddress.ip_network(where), port)
    except ValueError as error:
        if "/" in where or ":" in where or not HOST_NAME.fullmatch(_normalise(where)):
            raise ValueError(f"{entry!r} ({error}) is not {FORMS}") from error
    return PrivateHost(_normalise(where), None, port)


def check_private_host(entry: str) -> str:
    """Returns `entry` unchanged; raises ValueError if it is not a host, address or network."""
    parse_private_host(entry)
    return entry


def _split_port(entry: str) -> tuple[str, int | None]:
    """Splits off the port. IPv6 addresses contain colons, so a port needs brackets or a network length before it."""
    where, colon, port = entry.rpartition(":")
    bracketed = where.startswith("[") and where.endswith("]")
    if colon and (bracketed or "/" in where or ":" not in where):
        if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
            raise ValueError(f"{entry!r}: the port must be 1 to 65535")
        return (where[1:-1] if bracketed else where), int(port)
    if entry.startswith("[") and entry.endswith("]"):
        return entry[1:-1], None
    return entry, None


def _normalise(host: str) -> str:
    return host.lower().removesuffix(".")
