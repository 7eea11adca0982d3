"""One file under several names, which links give it, is one video."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from data_prep.labeled import Found, LabeledVideo
from data_prep.layouts.source import shown


def reject_same_files(found: Found) -> None:
    """One file under two names (links) is one video; under two labels, splits or groups it is none.

    A dataset's texts are UTF-8; a file's name need not be: such a video is refused too.
    """
    same: dict[tuple[str, object], list[LabeledVideo]] = defaultdict(list)
    folders: dict[str, str] = {}
    for video in found.videos:
        path = _real(video.path, folders)
        try:
            f"{path}{video.video_id}{video.labels}{video.group}".encode()
            "".join(video.labels).encode()  # repr would escape what cannot be encoded
        except UnicodeEncodeError:
            found.rejected.append((video.video_id, "its name or its label is not UTF-8: rename it"))
        else:
            same[path, video.span].append(video)
    found.videos = []
    for videos in same.values():
        first = videos[0]
        if len({(video.labels, video.split, video.group) for video in videos}) == 1 or _only_ids_differ(videos):
            found.videos.append(first)
            found.rejected += [(video.video_id, f"is the same file as {first.video_id}") for video in videos[1:]]
        else:
            names = shown([video.video_id for video in videos])
            found.rejected += [(v.video_id, f"is one file with different labels or splits: {names}") for v in videos]


def _only_ids_differ(videos: list[LabeledVideo]) -> bool:
    """Clips of one file that differ in nothing but the name of the file, which is their group by default."""
    own = all(video.span is not None and video.video_id.startswith(f"{video.group}#") for video in videos)
    return own and len({(video.labels, video.split) for video in videos}) == 1


def _real(path: Path, folders: dict[str, str]) -> str:
    """`os.path.realpath`, with each folder resolved once: one look at the file system per video."""
    folder, _, name = str(path).rpartition("/")
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return os.path.realpath(path) if os.path.islink(path) else f"{folders[folder]}/{name}"
