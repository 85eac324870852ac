"""Decides which addresses may be reached: public ones, and those that the settings list. Opens no connection."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from configs.private_hosts import Address, parse_private_host
from ingest.errors import FetchRefused
from storage.text import escape_controls

# Networks that `is_global` accepts in some versions of Python; from the IANA special-purpose registries (RFC 6890).
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments
        "192.88.99.0/24",  # relays of 6to4, withdrawn (RFC 7526)
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved
        "2001::/23",  # IETF protocol assignments, with Teredo (2001::/32), benchmarking and ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, withdrawn with its relays
        "3fff::/20",  # documentation (RFC 9637)
    )
)
UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291: all that is assigned as global unicast so far
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
ISATAP = (bytes.fromhex("00005efe"), bytes.fromhex("02005efe"))  # RFC 5214: in front of an IPv4 address


def allowed_addresses(
    host: str, port: int, found: Sequence[Any], listed: Sequence[str], setting: str = "ingest.allowed_private_hosts"
) -> list[str]:
    """The addresses that `socket.getaddrinfo` found for `host`, best first.

    Every one must be public, or listed for this port. `setting` is the name of the list. Raises FetchRefused.
    """
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    private_hosts = [parse_private_host(entry) for entry in listed]
    for text in addresses:
        address = ipaddress.ip_address(text)
        if not (is_public(address) or any(entry.covers(host, address, port) for entry in private_hosts)):
            shown = escape_controls(host if host == text else f"{host} ({text})")
            raise FetchRefused(f"{shown} is not a public address; to allow its port {port}, add it to {setting}")
    return addresses


def is_public(address: Address) -> bool:
    """Whether anyone can reach the address. An IPv6 address that contains an IPv4 one is public only if that one is."""
    if isinstance(address, ipaddress.IPv6Address):
        last_four = ipaddress.IPv4Address(address.packed[-4:])
        if address in NAT64 or address.ipv4_mapped is not None:
            return is_public(last_four)
        if address not in UNICAST or (address.packed[8:12] in ISATAP and not is_public(last_four)):
            return False
    return address.is_global and not any(address in network for network in NOT_PUBLIC)
