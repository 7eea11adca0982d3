"""What the bytes of a coded packet tell: whether decoding may start there, and whether anything else needs it.

Containers claim it too, and are sometimes wrong: no sync table in an mp4 says that every picture is one. So the claim is
checked in the bitstream, and a codec that is not known here is always decoded from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coded:
    """One packet. `entry`: a decoder may start here, for frames shown no earlier than this one.

    `disposable`: no other packet of its layer or a lower one refers to it. `parameters`: it carries sequence or picture
    parameters.
    """

    entry: bool = False
    disposable: bool = False
    parameters: bool = False
    layer: int = 0  # temporal


Reader = Callable[[bytes], Coded | None]  # None: a packet that is not understood


def reader_for(codec: str, extradata: bytes) -> Reader | None:
    """The function that understands packets of `codec` (FFmpeg's name); None where there is none."""
    if codec == "h264":
        length = (extradata[4] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > 6 else 0
        if _h264_profile(extradata, length) in (None, 44, 244):
            # 4:4:4. Old x264 coded it wrongly, and FFmpeg knows it by a message in the file's first packet alone.
            return None
        return lambda data: _h264(_nal_units(data, length))
    if codec == "hevc":
        length = (extradata[21] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > 22 else 0
        return lambda data: _hevc(_nal_units(data, length))
    return {"mpeg4": _mpeg4, "mjpeg": _mjpeg, "vp8": _vp8, "vp9": _vp9, "av1": _av1, "libdav1d": _av1}.get(codec)


def _nal_units(data: bytes, length: int) -> Iterator[bytes]:
    """The first two bytes of each unit; they follow `length` bytes that say their size, or a start code (length 0)."""
    if length:
        at = 0
        while at + length + 2 <= len(data):
            yield data[at + length : at + length + 2]
            at += length + int.from_bytes(data[at : at + length], "big")
        return
    at = data.find(b"\0\0\1")
    while 0 <= at <= len(data) - 5:
        yield data[at + 3 : at + 5]
        at = data.find(b"\0\0\1", at + 3)


def _h264_profile(extradata: bytes, length: int) -> int | None:
    """profile_idc: of an avcC box (ISO/IEC 14496-15), else of the first sequence parameters; None where there are none."""
    if length:
        return extradata[1]
    at = extradata.find(b"\0\0\1")
    while 0 <= at <= len(extradata) - 5:
        if extradata[at + 3] & 31 == 7:
            return extradata[at + 4]
        at = extradata.find(b"\0\0\1", at + 3)
    return None


def _h264(units: Iterator[bytes]) -> Coded | None:
    """ITU-T H.264, table 7-1 and 7.4.1: IDR slices are type 5; nal_ref_idc 0 means that nothing refers to it."""
    heads = [unit[0] for unit in units]
    kinds = {head & 31 for head in heads}
    slices = [head for head in heads if head & 31 in (1, 5)]
    # 2 to 4 are parts of slices, 14, 15, 20 and 21 layers and views: not for this file.
    if not slices or kinds & {2, 3, 4, 14, 15, 20, 21}:
        return None
    return Coded(
        entry=5 in kinds and 1 not in kinds,
        disposable=not any(head & 0x60 for head in slices) and kinds <= {1, 6, 9, 12},
        parameters=bool(kinds & {7, 8, 13}),
    )


def _hevc(units: Iterator[bytes]) -> Coded | None:
    """ITU-T H.265, table 7-1: 16 to 21 are random access; even types under 16 are not referred to in their layer."""
    heads = list(units)
    kinds = [head[0] >> 1 & 63 for head in heads]
    slices = [(kind, (head[1] & 7) - 1) for kind, head in zip(kinds, heads) if kind < 32]
    if not slices or any(head[0] & 1 or head[1] >> 3 for head in heads):  # other layers: stereo, scalable
        return None
    return Coded(
        entry=all(16 <= kind <= 21 for kind, _ in slices),
        disposable=all(kind < 16 and kind % 2 == 0 for kind, _ in slices) and not {32, 33, 34} & set(kinds),
        parameters=bool({32, 33, 34} & set(kinds)),
        layer=slices[0][1],
    )


def _mpeg4(data: bytes) -> Coded | None:
    """ISO/IEC 14496-2, 6.2: a VOP starts with 00 00 01 B6 and two bits for I, P, B or S.

    Two of them in one packet are a packed B-frame: its frames are shown one packet later than they are stored.
    """
    at = data.find(b"\0\0\1\xb6")
    if at < 0 or at + 4 >= len(data) or data.find(b"\0\0\1\xb6", at + 4) >= 0:
        return None
    kind = data[at + 4] >> 6
    layer = data.find(b"\0\0\1", 0, at)
    parameters = False
    while layer >= 0:
        # Layers, and what the encoder says of itself, by which FFmpeg makes up for its faults.
        parameters |= data[layer + 3] in (*range(0x20, 0x30), 0xB0, 0xB2)
        layer = data.find(b"\0\0\1", layer + 3, at)
    return Coded(entry=kind == 0, disposable=kind == 2 and not parameters, parameters=parameters)


def _mjpeg(data: bytes) -> Coded | None:
    return Coded(entry=True, disposable=True)


def _vp8(data: bytes) -> Coded | None:
    """RFC 6386, 9.1: the first bit is 0 for key frames, which renew every reference."""
    return Coded(entry=not data[0] & 1) if data else None


def _vp9(data: bytes) -> Coded | None:
    """VP9 bitstream specification, 6.2: marker 2, profile, show_existing_frame, frame_type (0: key)."""
    if not data or data[0] >> 6 != 2:
        return None
    high_profile = data[0] & 0x30 == 0x30  # 3 has a reserved bit more
    flags = data[0] >> (1 if high_profile else 2) & 3
    return Coded(entry=flags == 0)


def _av1(data: bytes) -> Coded | None:
    """AV1 bitstream specification, 5.3 to 5.9: the first frame header says show_existing_frame, type, show_frame."""
    at = 0
    parameters = False
    while at < len(data):
        kind, extended, sized = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + extended
        size, at = _leb128(data, at) if sized else (len(data) - at, at)
        parameters |= kind == 1
        if kind in (3, 6) and at < len(data):
            return Coded(entry=data[at] >> 4 == 0b0001, parameters=parameters)
        at += size
    return None


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends): seven bits a byte, the lowest first; the eighth says that more follow."""
    value = 0
    for shift in range(0, 56, 7):
        if at >= len(data):
            break
        value |= (data[at] & 127) << shift
        at += 1
        if not data[at - 1] & 128:
            break
    return value, at
