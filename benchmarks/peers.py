"""How others read frames `indices` (ascending) of a video: uint8 RGB `(len(indices), height, width, 3)`, on one thread."""

from __future__ import annotations

from typing import Any

import av
import cv2
import decord
import numpy as np
from torchcodec.decoders import VideoDecoder


def docs_loop(path: str, indices: list[int]) -> np.ndarray:
    """transformers' documented loop for video classification: PyAV from frame 0."""
    frames = []
    with av.open(path) as container:
        container.seek(0)
        for i, frame in enumerate(container.decode(video=0)):
            if i > indices[-1]:
                break
            if i >= indices[0] and i in indices:
                frames.append(frame)
        return np.stack([x.to_ndarray(format="rgb24") for x in frames])


def decode_all(path: str, indices: list[int]) -> np.ndarray:
    """Every frame to RGB, then the wanted ones, as PySlowFast's loader does it."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[i] for i in indices])


def with_decord(path: str, indices: list[int]) -> np.ndarray:
    frames: np.ndarray = decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()
    return frames


def with_torchcodec(path: str, indices: list[int], seek_mode: Any = "exact") -> np.ndarray:
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode=seek_mode, dimension_order="NHWC")
    return decoder.get_frames_at(indices).data.numpy()


def with_opencv(path: str, indices: list[int]) -> np.ndarray:
    """grab() up to each wanted frame, retrieve() only those."""
    video, frames, wanted = cv2.VideoCapture(path), [], set(indices)
    for i in range(indices[-1] + 1):
        video.grab()
        if i in wanted:
            frames.append(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB))
    return np.stack(frames)
