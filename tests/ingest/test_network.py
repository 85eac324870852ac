"""Which addresses may be reached: public ones, and those in the settings. No disguise makes an address public."""

import ipaddress

import pytest
from pydantic import ValidationError

from configs.settings import IngestSettings
from ingest.errors import FetchRefused
from ingest.files.network import allowed_addresses, is_public
from tests.ingest.conftest import found_addresses

INNER = (
    "127.0.0.1",
    "10.1.2.3",
    "192.168.0.9",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "192.0.0.9",
    "192.0.0.170",
    "192.88.99.1",
    "198.18.0.1",
    "203.0.113.5",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fd00::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "3fff::1",
    "3fff:fff::1",
    "5f00::1",
)
INNER_IN_DISGUISE = (
    "::10.0.0.1",  # IPv4-compatible
    "::93.184.216.34",
    "::ffff:10.0.0.1",  # IPv4-mapped
    "::ffff:0:10.0.0.1",  # IPv4-translated
    "64:ff9b::10.0.0.1",  # NAT64
    "64:ff9b:1::1",
    "64:ff9b:1::93.184.216.34",
    "2002:a00:1::",  # 6to4
    "2002:5db8:d822::1",
    "2001:0:5db8:d822::1",  # Teredo
    "2606:4700::5efe:10.0.0.1",  # ISATAP
    "2606:4700::200:5efe:192.168.0.9",
)
PUBLIC = (
    "93.184.216.34",
    "192.0.1.1",
    "2606:4700::1111",
    "2a00:1450:4001:80e::200e",
    "64:ff9b::93.184.216.34",
    "::ffff:93.184.216.34",
    "2606:4700::5efe:93.184.216.34",
)


@pytest.mark.parametrize("address", [*INNER, *INNER_IN_DISGUISE])
def test_an_address_that_is_not_public_is_refused_unless_listed(address: str) -> None:
    found = found_addresses([address], 80)
    with pytest.raises(FetchRefused, match="not a public address"):
        allowed_addresses("video.example", 80, found, ())
    assert allowed_addresses("video.example", 80, found, [address]) == [address]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_every_address_of_a_name_is_checked() -> None:
    with pytest.raises(FetchRefused, match=r"10\.0\.0\.1"):
        allowed_addresses("video.example", 80, found_addresses(["93.184.216.34", "10.0.0.1"], 80), ())


@pytest.mark.parametrize(
    ("entry", "host", "address"),
    [
        ("10.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8", "video.example", "10.0.0.1"),
        ("Video.Example", "video.example.", "10.0.0.1"),
        ("nas", "nas", "fd00::9"),
        ("fd00::/8", "nas", "fd00::9"),
        ("::1", "::1", "::1"),
        ("[::1]", "::1", "::1"),
    ],
)
def test_an_entry_without_a_port_means_every_port(entry: str, host: str, address: str) -> None:
    settings = IngestSettings(allowed_private_hosts=(entry,))
    for port in (80, 8080):
        found = found_addresses([address], port)
        assert allowed_addresses(host, port, found, settings.allowed_private_hosts) == [address]


@pytest.mark.parametrize(
    ("entry", "host", "address"),
    [
        ("10.0.0.1:8080", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8:8080", "video.example", "10.0.0.1"),
        ("video.example:8080", "video.example", "10.0.0.1"),
        ("[::1]:8080", "::1", "::1"),
        ("[fd00::/8]:8080", "nas", "fd00::9"),
        ("fd00::/8:8080", "nas", "fd00::9"),
    ],
)
def test_an_entry_with_a_port_means_only_that_port(entry: str, host: str, address: str) -> None:
    settings = IngestSettings(allowed_private_hosts=(entry,))
    allowed_addresses(host, 8080, found_addresses([address], 8080), settings.allowed_private_hosts)
    with pytest.raises(FetchRefused, match="its port 80"):
        allowed_addresses(host, 80, found_addresses([address], 80), settings.allowed_private_hosts)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "10.0.0.256",
        "10.0.0.1/33",
        "10.0.0.1/8",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "nas:http",
        "http://nas",
        "nas/video",
        "a b",
        "*.example",
        "[nas",
        "::1:80:x",
        "ä.example",
    ],
)
def test_an_invalid_entry_stops_the_start(entry: str) -> None:
    with pytest.raises(ValidationError, match="allowed_private_hosts"):
        IngestSettings(allowed_private_hosts=(entry,))
