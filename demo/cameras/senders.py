"""Carries RTP and RTCP packets to a client: inside the RTSP connection, or by UDP."""

import asyncio
import struct
from typing import Protocol

BACKLOG_BYTES = 4 << 20  # a client that reads slower than this much behind loses pictures


class Sender(Protocol):
    """The way of one track's packets."""

    transport: str  # the value of the Transport header that agrees on it

    def send_media(self, packets: list[bytes]) -> None:
        """Sends RTP packets."""

    def send_report(self, packet: bytes) -> None:
        """Sends an RTCP packet."""

    def close(self) -> None:
        """Frees what was bound for it."""


class InterleavedSender:
    """RFC 2326, 10.12: packets between the responses on the connection, each behind `$`, a channel and its length."""

    def __init__(self, writer: asyncio.StreamWriter, channels: tuple[int, int]) -> None:
        self.transport = f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}"
        self._writer, self._channels = writer, channels

    def send_media(self, packets: list[bytes]) -> None:
        """Sends all packets in one write."""
        channel = self._channels[0]
        self._writer.write(b"".join(struct.pack(">BBH", 36, channel, len(packet)) + packet for packet in packets))

    def send_report(self, packet: bytes) -> None:
        """Sends an RTCP packet."""
        self._writer.write(struct.pack(">BBH", 36, self._channels[1], len(packet)) + packet)

    def close(self) -> None:
        """Does nothing: the connection belongs to others."""


class UdpSender:
    """Two UDP sockets with neighbouring ports, connected to the client's two."""

    def __init__(self, sockets: tuple[asyncio.DatagramTransport, asyncio.DatagramTransport], transport: str) -> None:
        self.transport = transport
        self._media, self._reports = sockets

    @classmethod
    async def open(cls, host: str, client: str, client_ports: tuple[int, int]) -> "UdpSender":
        """Binds an even port and the next one (RFC 3550, 11)."""
        for _ in range(100):
            media = await _bind(host, 0, client, client_ports[0])
            port: int = media.get_extra_info("sockname")[1]
            try:
                if port % 2 == 0:
                    reports = await _bind(host, port + 1, client, client_ports[1])
                    ports = f"client_port={client_ports[0]}-{client_ports[1]};server_port={port}-{port + 1}"
                    return cls((media, reports), f"RTP/AVP;unicast;{ports}")
            except OSError:
                pass
            media.abort()
        raise OSError("no two neighbouring UDP ports are free; end some programs")

    def send_media(self, packets: list[bytes]) -> None:
        """Sends each packet as a datagram."""
        for packet in packets:
            self._media.sendto(packet)

    def send_report(self, packet: bytes) -> None:
        """Sends an RTCP packet."""
        self._reports.sendto(packet)

    def close(self) -> None:
        """Closes both sockets."""
        self._media.close()
        self._reports.close()


async def _bind(host: str, port: int, client: str, client_port: int) -> asyncio.DatagramTransport:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=(host, port), remote_addr=(client, client_port)
    )
    return transport
