"""Files -> the frames of their clips, in processes of their own, which start quickly: nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.errors import printable
from data_prep.limits import TIME_LIMIT_SECONDS, VideoError
from data_prep.single_pass import probe_and_read
from data_prep.workers import Lost, run_chunks
from finetune.clips.sampling import Sampling
from finetune.use.inputs import Input


@dataclass(frozen=True)
class ReadVideo:
    """uint8 RGB `(views, num_frames, height, width, 3)` of one input; None where `error` says why there are none."""

    source: Input
    frames: np.ndarray | None
    error: str = ""


@dataclass(frozen=True)
class ClipReader:
    """Reads the clips that a model is to see of a video, as its checkpoint says."""

    sampling: Sampling
    num_frames: int
    num_views: int = 1

    def read(self, source: Input) -> ReadVideo:
        try:
            frames = probe_and_read(source.path, self._choose)[1]
        except (VideoError, ValueError) as error:
            return ReadVideo(source, None, printable(str(error)))
        except MemoryError:
            return ReadVideo(source, None, "does not fit into memory")
        except OSError as error:  # a file that goes while it is read
            return ReadVideo(source, None, printable(f"cannot be read: {error.strerror or type(error).__name__}"))
        return ReadVideo(source, frames.reshape(-1, self.num_frames, *frames.shape[1:]))

    def _choose(self, num_frames: int, fps: float | None, times: Sequence[float] | None) -> list[int]:
        frames = self.sampling.frames(num_frames, fps, times)
        clips = self.sampling.evaluation(frames, self.num_frames, self.num_views)
        return [number for clip in clips for number in clip]

    def __call__(self, chunk: list[Input], at: Callable[[int], None]) -> ReadVideo:
        """The task of `run_chunks`, for chunks of one."""
        at(0)
        return self.read(chunk[0])


def read_all(sources: Sequence[Input], reader: ClipReader, num_workers: int) -> Iterator[ReadVideo]:
    """Each input's frames, as they come. A video that kills or holds up its process costs itself alone.

    With 0 workers in this process and in order, for which scripts need no `if __name__ == "__main__"`.
    """
    if num_workers == 0:
        yield from map(reader.read, sources)
        return
    for result in run_chunks(([source] for source in sources), reader, num_workers, TIME_LIMIT_SECONDS):
        yield ReadVideo(result.item, None, result.reason) if isinstance(result, Lost) else result
