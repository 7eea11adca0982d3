"""Videos to measure with, made from real ones: python benchmarks/material.py FOLDER OUT. Needs nothing but PyAV.

Each is 10 s of real footage with a cut where one source ends and the next begins, encoded as the public data sets are.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from data_prep.limits import VideoError
from data_prep.video import EXTENSIONS, open_video

# codec, options, container, (height, width), frames per second, frames, whether there is sound
KINDS: dict[str, tuple[str, dict[str, str], str, tuple[int, int], int, int, bool]] = {
    "kinetics": ("libx264", {"preset": "medium", "crf": "23", "g": "250", "bf": "3"}, "mp4", (256, 340), 30, 300, True),
    "720p": ("libx264", {"preset": "medium", "crf": "23", "g": "250", "bf": "3"}, "mp4", (720, 1280), 30, 300, True),
    "ucf101": ("mpeg4", {"b": "700000", "g": "12"}, "avi", (240, 320), 25, 180, False),
    "ssv2": (
        "libvpx-vp9",
        {"crf": "33", "b": "0", "deadline": "good", "cpu-used": "4"},
        "webm",
        (240, 427),
        12,
        48,
        False,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="real videos, in any folders")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--clips", type=int, default=12)
    options = parser.parse_args()
    for kind in options.kinds:
        print(kind, *(path.name for path in write_kind(options.folder, options.out / kind, kind, options.clips)))


def write_kind(folder: Path, out: Path, kind: str, num_clips: int) -> list[Path]:
    """`num_clips` videos of a kind in `out`; those that are there are kept."""
    extension = KINDS[kind][2]
    paths = [out / f"{number:02d}.{extension}" for number in range(num_clips)]
    sources = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    step = max(1, len(sources) // num_clips)
    for number, path in enumerate(paths):
        if not path.exists():
            out.mkdir(parents=True, exist_ok=True)
            _write(path, kind, _frames(itertools.cycle(sources[number * step :] + sources[: number * step])))
    return paths


def _frames(sources: Iterator[Path]) -> Iterator[av.VideoFrame]:
    """At most three seconds of each source, one after the other, at its own size."""
    for source in sources:
        try:
            with open_video(source) as video:
                for frame in itertools.islice(video, 110):
                    yield av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.rgb(frame.size)), format="rgb24")
        except VideoError:
            continue


def _write(path: Path, kind: str, frames: Iterator[av.VideoFrame]) -> None:
    codec, options, _, (height, width), rate, num_frames, has_sound = KINDS[kind]
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate, options=options)
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        video.codec_context.thread_count = 1
        sound = container.add_stream("aac", rate=44100) if has_sound else None
        if sound is not None:
            sound.bit_rate = 96_000
        for number, frame in enumerate(itertools.islice(frames, num_frames)):
            frame = frame.reformat(width, height, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            random, num_samples = np.random.default_rng(0), 44100 * num_frames // rate
            for start in range(0, num_samples, 1024):
                noise = av.AudioFrame.from_ndarray(
                    random.normal(0, 0.05, (1, 1024)).astype(np.float32), format="fltp", layout="mono"
                )
                noise.rate, noise.pts = 44100, start
                container.mux(sound.encode(noise))
            container.mux(sound.encode())


if __name__ == "__main__":
    main()
