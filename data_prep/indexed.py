"""Reads single frames by an index: only the bytes and pictures that the wanted frames need, without a container.

Whatever does not go as the index says raises `StaleIndex`: then the file is decoded from its start. The decoder runs on
the calling thread.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_prep.frame import Box, Frame
from data_prep.index import Decoder, PacketIndex, Pread, identity_of
from data_prep.limits import TIME_LIMIT_SECONDS, VideoError, check_size


class StaleIndex(Exception):
    """The file is not the one that was indexed, or does not decode as it did."""


def read_indexed(
    source: str | bytes | memoryview, index: PacketIndex, wanted: Sequence[int], size: tuple[int, int], box: Box
) -> np.ndarray:
    """The part `box` of the upright frames `wanted` at `size`: uint8 RGB `(len(wanted), box height, box width, 3)`.

    `wanted` ascends without repeats. Raises `StaleIndex`, and `VideoError` where a frame is too large or decoding takes
    too long.
    """
    frames = np.empty((len(wanted), *box[2:], 3), np.uint8)
    place = {number: at for at, number in enumerate(wanted)}
    converters = VideoReformatter(), VideoReformatter()
    try:
        with opened_bytes(source) as (pread, num_bytes):
            if identity_of(pread, num_bytes) != index.identity:
                raise StaleIndex
            for frame, number in _decode(pread, index, wanted):
                check_size(frame.width, frame.height)
                picture = Frame(frame, number, None, index.picture.turns, index.picture.mirrored, converters)
                picture.write_rgb(frames[place.pop(number)], size, box)
    except (av.FFmpegError, OSError, ValueError, KeyError) as error:
        raise StaleIndex from error
    if place:
        raise StaleIndex
    return frames


@contextmanager
def opened_bytes(source: str | bytes | memoryview) -> Iterator[tuple[Pread, int]]:
    """A function that reads from a place, and the number of bytes. Raises `OSError`."""
    if not isinstance(source, str):
        yield lambda count, start: source[start : start + count], len(source)
        return
    file = os.open(source, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{source} is not a regular file")
        yield lambda count, start: os.pread(file, count, start), status.st_size
    finally:
        os.close(file)


def _decode(pread: Pread, index: PacketIndex, wanted: Sequence[int]) -> Iterator[tuple[Any, int]]:
    """Decoded frames that are wanted, with their numbers."""
    decoder = _open_decoder(index)
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    offsets, sizes = index.offsets, index.sizes
    for packets, numbers in index.plan(wanted):
        for number in packets:
            if time.monotonic() > deadline:
                raise VideoError(f"takes more than {TIME_LIMIT_SECONDS:g} s to decode")
            data = pread(int(sizes[number]), int(offsets[number]))
            # Not av.Packet(data): it would lack the zeros after the data that FFmpeg's decoders read.
            packet: Any = av.Packet(len(data))
            packet.update(data)
            packet.pts = number
            yield from _wanted(decoder.decode(packet), numbers)
        yield from _wanted(decoder.decode(None), numbers)
        decoder.flush_buffers()


def _wanted(frames: list[Any], numbers: dict[int, int]) -> Iterator[tuple[Any, int]]:
    for frame in frames:
        number = numbers.get(frame.pts)
        if number is not None:
            if frame.is_corrupt:
                raise StaleIndex
            yield frame, number


def _open_decoder(index: PacketIndex) -> Any:
    says = index.decoder
    decoder: Any = av.CodecContext.create(says.codec, "r")
    decoder.thread_count, decoder.thread_type = 1, "NONE"
    decoder.extradata = says.extradata or None
    decoder.codec_tag = says.codec_tag
    decoder.width, decoder.height = says.width, says.height
    decoder.bits_per_coded_sample = says.bits_per_coded_sample
    decoder.color_range, decoder.color_primaries, decoder.color_trc, decoder.colorspace = says.colors
    decoder.reorder_depth = says.reorder_depth
    return decoder


def told(context: Any) -> Decoder | None:
    """What the container told the decoder that it opened; None where that cannot be told again."""
    try:
        tag = context.codec_tag
    except UnicodeDecodeError:  # PyAV gives and takes ASCII only
        return None
    colors = context.color_range, context.color_primaries, context.color_trc, context.colorspace
    return Decoder(
        context.name, context.extradata or b"", tag, context.width, context.height, context.reorder_depth,
        context.bits_per_coded_sample, (int(colors[0]), int(colors[1]), int(colors[2]), int(colors[3])),
    )  # fmt: skip
