"""Where each frame of a file lies in its bytes, and what must be decoded to get at it.

An index is made while the whole file (or its beginning) is decoded once from the start, so it holds what really came
out: `packet_of[k]` is the packet of the k-th frame that was delivered. Frames that an edit list hides, and packets that
give none, are in it as what they are. Where anything contradicts the plain picture of one packet, one frame, there is no
index, and the file is decoded from the start each time.

For a wanted frame decoding starts at the last entry point (`data_prep.bitstream` says what is one) that is shown no
later, and leaves out pictures that no other one refers to. The pixels are those of decoding everything.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from data_prep.bitstream import Coded, reader_for

# Demuxers whose packets are contiguous in the file. In MPEG-TS and PS they are not.
_FORMATS = ("mov", "matroska", "avi", "flv")
_HEADER_BYTES = 64  # at most, between where a container says that a packet lies and its payload (Matroska, AVI, FLV)
_SAMPLE_BYTES = 4096  # of a file's beginning and end, to know it again
_VERSION = 1

Pread = Callable[[int, int], bytes | memoryview]  # (how many bytes, from where)


@dataclass(frozen=True, slots=True)
class Decoder:
    """What a decoder has to be told before the first packet, as the container said it; colours are FFmpeg's numbers."""

    codec: str
    extradata: bytes
    codec_tag: str
    width: int
    height: int
    reorder_depth: int
    bits_per_coded_sample: int
    colors: tuple[int, int, int, int]  # range, primaries, transfer, matrix


@dataclass(frozen=True, slots=True)
class Picture0:
    """How frame 0 stands: (height, width) in px upright, quarter turns, mirrored. It holds for all frames."""

    size: tuple[int, int]
    turns: int
    mirrored: bool


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """Packets in decoding order: int64 `(packets,)` offsets and sizes, bool disposable; int32 `(frames,)` packet_of.

    `entries` int32 `(entries, 2)`: packet, and the first frame that may be decoded from it. `identity` names the file's
    bytes.
    """

    decoder: Decoder
    picture: Picture0
    identity: str
    offsets: np.ndarray
    sizes: np.ndarray
    disposable: np.ndarray
    packet_of: np.ndarray
    entries: np.ndarray

    @property
    def num_frames(self) -> int:
        return len(self.packet_of)

    def plan(self, wanted: Sequence[int]) -> list[tuple[list[int], dict[int, int]]]:
        """Runs of packets to decode, each from an entry point, with {packet: frame} of those that give a wanted frame.

        `wanted` ascends without repeats.
        """
        numbers = np.searchsorted(self.entries[:, 1], wanted, side="right") - 1
        runs: dict[int, dict[int, int]] = {}
        for number, frame in zip(numbers.tolist(), wanted):
            packet = int(self.packet_of[frame])
            while self.entries[number, 0] > packet:  # a picture shown after the entry, and stored before it
                number -= 1
            runs.setdefault(number, {})[packet] = frame
        return [(self._packets(int(self.entries[number, 0]), run), run) for number, run in sorted(runs.items())]

    def _packets(self, first: int, run: dict[int, int]) -> list[int]:
        disposable = self.disposable[first : max(run) + 1].tolist()
        return [packet for packet, left_out in enumerate(disposable, first) if packet in run or not left_out]

    def to_bytes(self) -> bytes:
        """For a dataset's cell: about 3 bytes a frame."""
        facts = asdict(self.decoder) | asdict(self.picture) | {"identity": self.identity, "entries": len(self.entries)}
        facts["extradata"] = self.decoder.extradata.hex()
        counts = {"version": _VERSION, "packets": len(self.sizes), "frames": self.num_frames}
        gaps = np.diff(self.offsets, prepend=0) - np.concatenate(([0], self.sizes[:-1]))
        orders = self.packet_of - np.arange(self.num_frames)
        arrays = (gaps.astype("<i8"), self.sizes.astype("<u4"), self.disposable.astype("u1"),
                  orders.astype("<i4"), self.entries.astype("<i4"))  # fmt: skip
        head = json.dumps(facts | counts, allow_nan=False).encode()
        return zlib.compress(b"\n".join([head, b"".join(map(_planes, arrays))]), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> PacketIndex | None:
        """None where `data` is no index of this version. It is untrusted: what it says is checked for sense."""
        try:
            inflate = zlib.decompressobj()
            head, _, body = inflate.decompress(data, 64 << 20).partition(b"\n")
            facts = json.loads(head)
            if facts["version"] != _VERSION:
                return None
            packets, frames, entries = facts["packets"], facts["frames"], facts["entries"]
            take = _Planes(body)
            gaps, sizes = take(packets, "<i8"), take(packets, "<u4").astype(np.int64)
            disposable = take(packets, "u1").astype(bool)
            packet_of = take(frames, "<i4") + np.arange(frames)
            index = cls(
                Decoder(
                    facts["codec"], bytes.fromhex(facts["extradata"]), facts["codec_tag"], facts["width"], facts["height"],
                    facts["reorder_depth"], facts["bits_per_coded_sample"], tuple(facts["colors"]),
                ),
                Picture0((int(facts["size"][0]), int(facts["size"][1])), int(facts["turns"]), bool(facts["mirrored"])),
                facts["identity"], np.cumsum(gaps + np.concatenate(([0], sizes[:-1]))), sizes, disposable, packet_of,
                take(2 * entries, "<i4").reshape(entries, 2),
            )  # fmt: skip
            return index if index._makes_sense() else None
        except (zlib.error, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
            return None

    def _makes_sense(self) -> bool:
        packets = len(self.sizes)
        return (
            reader_for(self.decoder.codec, self.decoder.extradata) is not None
            and len(self.entries) > 0
            and self.entries[0].tolist() == [0, 0]
            and bool((np.diff(self.entries, axis=0) > 0).all() and self.entries[-1, 0] < packets)
            and bool((self.offsets >= 0).all() and (self.packet_of >= 0).all() and (self.packet_of < packets).all())
            # Else a claim could make a reader set aside more memory than there is.
            and bool((self.offsets + self.sizes).max() <= int(self.identity.split()[0]))
        )


def _planes(array: np.ndarray) -> bytes:
    """Byte by byte of all values, not value by value: equal high bytes lie together, and compress."""
    return array.reshape(-1).view(np.uint8).reshape(array.size, -1).T.tobytes()


class _Planes:
    def __init__(self, body: bytes):
        self.body, self.at = body, 0

    def __call__(self, count: int, dtype: str) -> np.ndarray:
        width = np.dtype(dtype).itemsize
        part = self.body[self.at : self.at + count * width]
        self.at += count * width
        return np.frombuffer(part, np.uint8).reshape(width, count).T.copy().view(dtype).reshape(count)


def identity_of(pread: Pread, num_bytes: int) -> str:
    """Names a file's bytes by their number and a digest of the first and the last of them."""
    digest = hashlib.blake2b(pread(_SAMPLE_BYTES, 0), digest_size=12)
    digest.update(pread(_SAMPLE_BYTES, max(0, num_bytes - _SAMPLE_BYTES)))
    return f"{num_bytes} {digest.hexdigest()}"


@dataclass(slots=True)
class Packet:
    """One packet met on the way: `data_prep.video` has the decoder hand it on with the frame it becomes."""

    offset: int
    size: int
    coded: Coded
    number: int = field(default=-1)


class IndexMaker:
    """Follows one pass over a file. `add` each packet in decoding order, `deliver` each frame's `Packet`, then `index`."""

    def __init__(self, demuxer: str, codec: str, extradata: bytes, pread: Pread, num_bytes: int):
        self.pread, self.num_bytes = pread, num_bytes
        self.read = reader_for(codec, extradata) if demuxer.startswith(_FORMATS) else None
        self.packets: list[Packet] = []
        self.delivered: list[Packet] = []

    def give_up(self) -> None:
        """Something contradicts the plain picture: there will be no index."""
        self.read = None
        self.packets, self.delivered = [], []

    def add(self, data: bytes, position: int | None) -> Packet | None:
        """A packet's payload and where the container says that it lies."""
        coded = self.read(data) if self.read is not None and position is not None and data else None
        offset = _locate(self.pread, data, position) if coded is not None and position is not None else None
        if coded is None or offset is None:
            self.give_up()
            return None
        packet = Packet(offset, len(data), coded, len(self.packets))
        self.packets.append(packet)
        return packet

    def deliver(self, packet: Any) -> None:
        """The packet that the next frame came from, as the decoder says."""
        if isinstance(packet, Packet) and packet.number >= 0 and self.read is not None:
            self.delivered.append(packet)
        else:
            self.give_up()

    def index(self, decoder: Decoder, picture: Picture0) -> PacketIndex | None:
        """None where frames and packets do not fit together, or where a reader could not start within the file."""
        packets = self.packets
        if self.read is None or not self.delivered or not packets[0].coded.entry:
            return None
        if len({packet.number for packet in self.delivered}) < len(self.delivered):
            return None
        entries = [packet for packet in packets if packet.coded.entry]
        with_parameters = [packet for packet in packets if packet.coded.parameters]
        if with_parameters and with_parameters not in (packets[:1], entries):
            return None  # parameters that change on the way would be missed by whoever starts later
        highest = max(packet.coded.layer for packet in packets)
        frame_of = {packet.number: frame for frame, packet in enumerate(self.delivered)}
        starts = [(0, 0)]
        for packet in entries[1:] if len(with_parameters) != 1 else []:
            frame = frame_of.get(packet.number)
            if frame is not None and frame > starts[-1][1]:
                starts.append((packet.number, frame))
        return PacketIndex(
            decoder,
            picture,
            identity_of(self.pread, self.num_bytes),
            np.array([packet.offset for packet in packets], np.int64),
            np.array([packet.size for packet in packets], np.int64),
            np.array([packet.coded.disposable and packet.coded.layer == highest for packet in packets], bool),
            np.array([packet.number for packet in self.delivered], np.int32),
            np.array(starts, np.int32),
        )


def _locate(pread: Pread, data: bytes, position: int) -> int | None:
    """Where in the file `data` lies, at `position` or a few bytes later; None where it does not."""
    window = bytes(pread(len(data) + _HEADER_BYTES, position))
    at = window.find(data, 0, len(data) + _HEADER_BYTES)
    return None if at < 0 else position + at
