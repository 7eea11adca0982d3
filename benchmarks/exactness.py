"""Whether frames read by index are those of decoding everything: python benchmarks/exactness.py FOLDER

Of every video in FOLDER: all frames at once, and eight at random twice. Also what an index costs.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from data_prep.index import PacketIndex
from data_prep.indexed import read_indexed
from data_prep.limits import VideoError
from data_prep.video import EXTENSIONS, VideoFile, open_video


def decoded(path: Path, indexing: bool) -> tuple[np.ndarray, PacketIndex | None, float]:
    """All frames, the index, and the CPU seconds of decoding alone."""
    spent, frames = 0.0, []
    with open_video(path, indexing=indexing) as video:
        ordered = iter(video)
        while True:
            before = time.process_time()
            frame = next(ordered, None)
            spent += time.process_time() - before
            if frame is None:
                break
            frames.append(frame.rgb(frames[0].shape[:2] if frames else frame.size))
        before = time.process_time()
        index = video.index() if isinstance(video, VideoFile) and indexing else None
        return np.stack(frames), index, spent + time.process_time() - before


def main() -> None:
    counts: Counter[str] = Counter()
    plain = indexed = 0.0
    num_bytes = num_frames = 0
    random = np.random.default_rng(0)
    for path in sorted(path for path in Path(sys.argv[1]).rglob("*") if path.suffix.lower() in EXTENSIONS):
        try:
            truth, _, seconds = decoded(path, indexing=False)
            _, index, more = decoded(path, indexing=True)
        except VideoError:
            counts["refused"] += 1
            continue
        plain, indexed = plain + seconds, indexed + more
        if index is None:
            counts["no index"] += 1
            continue
        packed = index.to_bytes()
        num_bytes, num_frames = num_bytes + len(packed), num_frames + len(truth)
        size = truth.shape[1:3]
        subsets = [range(len(truth)), *(sorted(random.choice(len(truth), 8, False).tolist()) for _ in range(2))]
        same = (
            np.array_equal(read_indexed(str(path), index, list(wanted), size, (0, 0, *size)), truth[list(wanted)])
            for wanted in subsets
        )
        counts["exact" if all(same) else "WRONG"] += 1
    print(dict(counts))
    print(
        f"{num_bytes / num_frames:.1f} bytes a frame; decoding with the index made takes {indexed / plain:.2f} times as long"
    )


if __name__ == "__main__":
    main()
