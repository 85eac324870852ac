"""Reads the entries of settings that name hosts, addresses or networks, each with a port or without."""

import ipaddress
import re
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
HOST_NAME = re.compile(rf"(?:{LABEL}\.)*(?=[^.]*[a-z_-]){LABEL}")  # the last label is no number: 10.0.0.256 is no name
FORMS = "a host name, an address or a network, with a port or without: nas:8080, 10.0.0.0/8, [::1]:80"


@dataclass(frozen=True)
class PrivateHost:
    """A name or a network that may be reached although not public; on one port, or on any."""

    name: str | None
    network: Network | None
    port: int | None

    def covers(self, host: str, address: Address, port: int) -> bool:
        """Whether `host`, which resolves to `address`, may be reached at `port`."""
        if self.port not in (None, port):
            return False
        if self.network is not None:
            return address in self.network
        return self.name == _plain(host)


def parse_private_host(entry: str) -> PrivateHost:
    """What `entry` names; raises ValueError if it names nothing."""
    where, port = _split_port(entry)
    try:
        return PrivateHost(None, ipaddress.ip_network(where), port)
    except ValueError as error:
        if "/" in where or ":" in where or not HOST_NAME.fullmatch(_plain(where)):
            raise ValueError(f"{entry!r} ({error}) is not {FORMS}") from error
    return PrivateHost(_plain(where), None, port)


def check_private_host(entry: str) -> str:
    """`entry` as it is; raises ValueError if it names nothing."""
    parse_private_host(entry)
    return entry


def _split_port(entry: str) -> tuple[str, int | None]:
    """IPv6 addresses hold colons themselves: they need brackets, or a network's length, in front of a port."""
    where, colon, port = entry.rpartition(":")
    bracketed = where.startswith("[") and where.endswith("]")
    if colon and (bracketed or "/" in where or ":" not in where):
        if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
            raise ValueError(f"{entry!r}: the port must be 1 to 65535")
        return (where[1:-1] if bracketed else where), int(port)
    if entry.startswith("[") and entry.endswith("]"):
        return entry[1:-1], None
    return entry, None


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")
