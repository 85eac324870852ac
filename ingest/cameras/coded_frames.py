"""Reads what a coded packet says of itself without decoding it: references, parameters, and lost packets before it."""

from collections.abc import Iterator
from dataclasses import dataclass

from ingest.files.packets import IDR, LAST_PICTURE_NAL

START_CODE = b"\0\0\1"
H264_SPS, H264_PARAMETERS = 7, (7, 8, 13)  # ITU-T H.264, table 7-1: sequence and picture parameter sets
HEVC_PARAMETERS = (32, 33, 34)  # ITU-T H.265, table 7-1: video, sequence and picture parameter sets
HEVC_LAST_PICTURE_NAL = 31
WITH_CHROMA_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # profiles; H.264, 7.3.2.1.1
INTRA_SLICES = (2, 4)  # slice_type modulo 5: I and SI
HEAD_BYTES = 32  # of a slice header, enough for what is read of it


@dataclass(frozen=True)
class CodedFrame:
    """What is known of a packet's frame before it is decoded."""

    has_picture: bool = True  # False: parameters only
    reference: bool = True  # whether other frames may be predicted from it
    intra: bool = True  # False: a keyframe that begins a gradual refresh, so that it is whole only frames later
    after_loss: bool = False  # a reference frame before it never arrived
    parameters: bytes = b""  # the parameter sets in it, with start codes


class FrameReader:
    """Reads the packets of one video stream in decoding order. They have start codes (Annex B), as live streams have.

    A decoder does not say that a frame is missing, if the packet of a reference frame never arrived: it predicts from
    the wrong one. H.264 numbers its reference frames, so that such a loss shows.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec = codec
        self._numbering: tuple[int, bool] | None = None  # (bits of a frame number, whether gaps are allowed)
        self._last_number: int | None = None
        if codec == "h264" and extradata:
            for header, start in _find_units(extradata):
                if header & 31 == H264_SPS:
                    self._numbering = _read_numbering(_cut_unit(extradata, start))

    def read_frame(self, data: bytes) -> CodedFrame:
        """What is known of the packet with this content."""
        if self._codec == "h264":
            return self._read_h264(data)
        if self._codec == "hevc":
            return _read_hevc(data)
        return CodedFrame()

    def _read_h264(self, data: bytes) -> CodedFrame:
        parameters = b""
        for header, start in _find_units(data):
            kind = header & 31
            if kind in H264_PARAMETERS:
                unit = _cut_unit(data, start)
                parameters += START_CODE + unit
                if kind == H264_SPS:
                    self._numbering = _read_numbering(unit)
            elif 1 <= kind <= LAST_PICTURE_NAL:
                reference = bool(header >> 5 & 3)
                intra, lost = self._count_frame(data[start : start + HEAD_BYTES], kind == IDR, reference)
                return CodedFrame(True, reference, intra, lost, parameters)
        return CodedFrame(False, parameters=parameters)

    def _count_frame(self, unit: bytes, is_idr: bool, reference: bool) -> tuple[bool, bool]:
        """(whether the first slice is intra coded, whether a reference frame before this one is missing).

        H.264, 7.3.3 and 7.4.3 (slice_type, frame_num).
        """
        if self._numbering is None:
            return True, False
        bits, gaps_allowed = self._numbering
        reader = _BitReader(_without_emulation(unit))
        try:
            reader.read_unsigned()  # first_mb_in_slice
            intra = reader.read_unsigned() % 5 in INTRA_SLICES
            reader.read_unsigned()  # pic_parameter_set_id
            number = reader.read_bits(bits)
        except IndexError:
            return True, True
        last, modulus = self._last_number, 1 << bits
        if reference or last is None:
            self._last_number = number
        follows = last is None or is_idr or number in (last, (last + 1) % modulus)
        if not follows:
            self._last_number = number if reference else (number - 1) % modulus
        return intra, not follows and not gaps_allowed


def _read_hevc(data: bytes) -> CodedFrame:
    parameters = b""
    for header, start in _find_units(data):
        kind = header >> 1 & 63
        if kind in HEVC_PARAMETERS:
            parameters += START_CODE + _cut_unit(data, start)
        elif kind <= HEVC_LAST_PICTURE_NAL:
            return CodedFrame(parameters=parameters)
    return CodedFrame(False, parameters=parameters)


def _find_units(data: bytes) -> Iterator[tuple[int, int]]:
    """(first byte, offset) of each NAL unit."""
    at = data.find(START_CODE)
    while 0 <= at < len(data) - 4:
        yield data[at + 3], at + 3
        at = data.find(START_CODE, at + 3)


def _cut_unit(data: bytes, start: int) -> bytes:
    """The NAL unit that begins at `start`, without the zeros behind it."""
    end = data.find(START_CODE, start)
    return data[start : end if end >= 0 else len(data)].rstrip(b"\0")


def _read_numbering(unit: bytes) -> tuple[int, bool] | None:
    """(log2_max_frame_num, gaps_in_frame_num_allowed) of a sequence parameter set (H.264, 7.3.2.1.1); None if damaged.

    None, too, if colour planes are coded apart: slice headers look different then.
    """
    reader = _BitReader(_without_emulation(unit))
    try:
        profile = reader.read_bits(8)
        reader.read_bits(16)
        reader.read_unsigned()
        if profile in WITH_CHROMA_FORMAT and not _skip_chroma_format(reader):
            return None
        bits = reader.read_unsigned() + 4
        order_kind = reader.read_unsigned()
        if order_kind == 0:
            reader.read_unsigned()
        elif order_kind == 1:
            reader.read_bits(1)
            reader.read_unsigned()
            reader.read_unsigned()
            for _ in range(reader.read_unsigned()):
                reader.read_unsigned()
        reader.read_unsigned()
        return (bits, bool(reader.read_bits(1))) if bits <= 16 else None
    except IndexError:
        return None


def _without_emulation(unit: bytes) -> bytes:
    """The unit behind its first byte, without the bytes that keep start codes out of it (H.264, 7.4.1)."""
    return unit[1:].replace(b"\0\0\3", b"\0\0")


def _skip_chroma_format(reader: "_BitReader") -> bool:
    chroma = reader.read_unsigned()
    if chroma == 3 and reader.read_bits(1):
        return False
    reader.read_unsigned()
    reader.read_unsigned()
    reader.read_bits(1)
    if reader.read_bits(1):
        for index in range(12 if chroma == 3 else 8):
            if reader.read_bits(1):
                _skip_scaling_list(reader, 16 if index < 6 else 64)
    return True


def _skip_scaling_list(reader: "_BitReader", size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + reader.read_signed()) % 256
        last = following or last


class _BitReader:
    """Bits and Exp-Golomb numbers (H.264, 9.1). Raises IndexError at the end."""

    def __init__(self, data: bytes) -> None:
        self._bits = f"{int.from_bytes(data, 'big'):0{len(data) * 8}b}" if data else ""
        self._at = 0

    def read_bits(self, count: int) -> int:
        if self._at + count > len(self._bits):
            raise IndexError
        self._at += count
        return int(self._bits[self._at - count : self._at] or "0", 2)

    def read_unsigned(self) -> int:
        zeros = 0
        while self.read_bits(1) == 0:
            zeros += 1
        return (1 << zeros) - 1 + self.read_bits(zeros)

    def read_signed(self) -> int:
        number = self.read_unsigned()
        return (number + 1) // 2 if number % 2 else -(number // 2)
