"""Every way to read frames that is measured, by its name in the tables: this project's, the peers', and the limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from av.video.reformatter import VideoReformatter
from peers import decode_all, docs_loop, with_decord, with_opencv, with_torchcodec
from prepared import Prepared
from transformers import TimesformerVideoProcessor, VideoMAEImageProcessor

from data_prep.index import PacketIndex
from data_prep.indexed import _decode, opened_bytes
from data_prep.schema import STORES
from data_prep.video import read_frames
from finetune.clips.batch import ClipTransform, collate
from finetune.clips.clip import ClipMaker, read_clip
from finetune.clips.sampling import Sampling

DOCS, TORCHCODEC = "docs' loop (PyAV from frame 0)", "torchcodec exact"
DOCS_BATCH, TORCHCODEC_BATCH = "docs' loop + image processor", "torchcodec exact + video processor"
SIZE = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
Method = Callable[[str, list[int]], Any]  # (path, ascending frame numbers)


def decoders(stores: Prepared, paths: list[Path]) -> dict[str, Method]:
    """From a path, or a dataset's row that is at hand, to uint8 RGB `(frames, height, width, 3)`."""

    def ours(store: str) -> Method:
        rows = {str(path): stores.row(store, str(path)) for path in paths}
        return lambda path, indices: read_clip(rows[path], indices).permute(0, 2, 3, 1).numpy()

    return {
        DOCS: docs_loop,
        "decode all (PySlowFast)": decode_all,
        "decord": with_decord,
        TORCHCODEC: with_torchcodec,
        "OpenCV": with_opencv,
        **{f"this project, {store}": ours(store) for store in STORES},
        "this project, files, no index": lambda path, indices: read_frames(Path(path).read_bytes(), indices),
        "limit of FFmpeg, files": limit_of_video(stores, "files", paths),
        "limit of FFmpeg, clips": limit_of_video(stores, "clips", paths),
        "limit of libjpeg-turbo, frames": limit_of_jpeg(stores, paths),
        "torchcodec approximate": lambda path, indices: with_torchcodec(path, indices, "approximate"),
    }


def limit_of_video(stores: Prepared, store: str, paths: list[Path]) -> Method:
    """What the decoder and the colour conversion alone take for the pictures that the wanted ones need."""
    indexed: dict[str, tuple[PacketIndex, bytes]] = {}
    for path in paths:
        row = stores.row(store, str(path))
        index = PacketIndex.from_bytes(row["packet_index"])
        if index is not None:
            indexed[str(path)] = index, row["video"]["bytes"] or path.read_bytes()

    def read(path: str, indices: list[int]) -> None:
        converter = VideoReformatter()
        index, data = indexed[path]
        with opened_bytes(data) as (pread, _):
            for frame, _ in _decode(pread, index, indices):
                converter.reformat(frame, format="rgb24", threads=1)

    return read


def limit_of_jpeg(stores: Prepared, paths: list[Path]) -> Method:
    """What the decoder alone takes, always into the same memory."""
    stored: dict[str, list[bytes]] = {}
    for path in paths:
        row = stores.row("frames", str(path))
        stored[str(path)] = [row["frames"][i] for i in range(row["num_frames"])]
    pixels = np.empty((512, 512 * 3), np.uint8)

    def read(path: str, indices: list[int]) -> None:
        for i in indices:
            simplejpeg.decode_jpeg(stored[path][i], buffer=pixels)

    return read


def pipelines(stores: Prepared) -> dict[str, Method]:
    """File or dataset to a batch of one clip: training transforms of this project, the others' documented ones."""
    images, videos = VideoMAEImageProcessor(**SIZE), TimesformerVideoProcessor(**SIZE, do_sample_frames=False)
    transform = ClipTransform(videos)

    def ours(store: str) -> Method:
        def read(path: str, indices: list[int]) -> Any:
            maker = ClipMaker(len(indices), transform, _Fixed(indices))
            return collate([maker.training(stores.row(store, path), torch.Generator().manual_seed(indices[0]))])

        return read

    return {
        DOCS_BATCH: lambda path, indices: images(list(docs_loop(path, indices)), return_tensors="pt"),
        TORCHCODEC_BATCH: lambda path, indices: videos(
            torch.from_numpy(with_torchcodec(path, indices)).permute(0, 3, 1, 2), return_tensors="pt"
        ),
        **{f"this project, {store}": ours(store) for store in STORES},
    }


class _Fixed(Sampling):
    """The indices that every method reads."""

    def __init__(self, indices: list[int]):
        super().__init__()
        object.__setattr__(self, "indices", indices)

    def training(self, *args: Any) -> list[int]:
        return list(self.indices)  # type: ignore[attr-defined]
