"""What is wrong with a camera right now. The servers ask at each step; normally nothing is."""

from dataclasses import dataclass, field
from random import Random


@dataclass
class Faults:
    """A test sets these from any thread at any time."""

    is_silent: bool = False  # accepts connections and never says a word
    is_stalled: bool = False  # sends no media
    keeps_stalled: bool = False  # what a stall held back is sent when it ends, instead of lost
    joins_anywhere: bool = False  # new clients start at any picture, not at the next key picture
    clock_jump_s: float = 0.0  # added to every timestamp
    has_no_timestamps: bool = False  # of RTP
    corrupt_share: float = 0.0  # of the packets: some bytes behind the header are changed
    lost_share: float = 0.0  # of the packets: not sent
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - damage, not secrets

    def damage(self, packets: list[bytes], header_bytes: int) -> list[bytes]:
        """Returns the packets that are sent, as they are sent."""
        if self.lost_share:
            packets = [packet for packet in packets if self.random.random() >= self.lost_share]
        if not self.corrupt_share:
            return packets
        return [self._corrupt(p, header_bytes) if self.random.random() < self.corrupt_share else p for p in packets]

    def _corrupt(self, packet: bytes, header_bytes: int) -> bytes:
        changed = bytearray(packet)
        for _ in range(1 + len(packet) // 50):
            changed[self.random.randrange(min(header_bytes, len(packet) - 1), len(packet))] ^= self.random.randrange(
                1, 256
            )
        return bytes(changed)
