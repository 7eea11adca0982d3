"""What a person should do about their collection, in plain words and with the numbers. Pure: facts in, sentences out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from data_prep.report.facts import PageFacts, kind_of_reason, plural, quoted, show_bytes, show_seconds, visible

_IMBALANCE = 3  # largest over smallest class
_NAMED = 5  # classes or reasons named in one sentence
_SHARE = 0.05  # what fewer than 5 % of the videos do is not worth a sentence
_LONG_SECONDS = 60.0
_DARK = 40.0  # mean luma: night scenes and black lead-ins
_MANY_REJECTED = 0.05

# CPU seconds on one core for a clip of 8 frames, short side 256 px, from row to pixels (benchmarks/data_path.py). From a
# copy with short groups of pictures or from JPEGs, a clip costs the same however long or large its source was. From a
# source file it costs up to one decode of the whole file, which the scan measures; half of it where the encoder makes
# pictures that no other one needs, as those of H.264 and HEVC do.
_CLIP_SECONDS = {"clips": 0.0075, "frames": 0.0037}
_INDEXED_SHARE = {"h264": 0.5, "hevc": 0.5}
# CPU seconds per frame to make the copy (H.264 preset veryfast; JPEG), after the decoding; and its size in bytes.
_MAKING_SECONDS = {"clips": 0.0022, "frames": 0.0012}
_FRAME_BYTES = {"clips": 2_000, "frames": 14_000}
_CHEAP_SECONDS = 0.03  # a core then reads over 30 clips a second: eight cores keep most GPUs busy
_EPOCHS = 15  # a usual fine-tuning run; a copy that pays back later is not worth its disk for one run


def advice(facts: PageFacts) -> list[str]:
    """Sentences for people, the most urgent first, each as "lead: rest" with no user text in the lead.

    Empty only when there is no video and nothing was refused.
    """
    rules = (_related, _rejected, _imbalance, _small_classes, _groups, _short, _long, _rates, _shapes, _dark, _stores)
    return [sentence for rule in rules for sentence in rule(facts)]


def _related(facts: PageFacts) -> Iterator[str]:
    problems = Counter(pair.problem for pair in facts.related)
    if problems["conflict"]:
        yield (
            f"Same content under two labels: {plural(problems['conflict'], 'pair')}. One of the two labels is wrong, or the "
            "content needs both. Look at the pairs below, and correct or delete one of each; where they do not show the same, "
            "pass --no_duplicates."
        )
    if problems["leak"]:
        yield (
            f"Same content in two of the given splits: {plural(problems['leak'], 'pair')}. A model is then tested on what it "
            "was trained on, and its score comes out too high. Move both of a pair into one split; where they do not show the "
            "same, pass --no_duplicates."
        )


def _rejected(facts: PageFacts) -> Iterator[str]:
    seen = len(facts.rejected) + len(facts.videos)
    if len(facts.rejected) > _MANY_REJECTED * seen:
        reason, count = Counter(kind_of_reason(reason) for _, reason in facts.rejected).most_common(1)[0]
        yield (
            f"Many refused: {_part(len(facts.rejected), seen, 'files and lines')}. Most often ({count:,} times): "
            f"{quoted(reason, 120)}. If that was not intended, it is the first thing to repair."
        )


def _imbalance(facts: PageFacts) -> Iterator[str]:
    totals = {label: facts.total(label) for label in facts.labels if facts.total(label)}
    if len(totals) < 2:
        return
    large, small = max(totals, key=lambda label: totals[label]), min(totals, key=lambda label: totals[label])
    share = totals[large] / len(facts.videos)
    lazy = f" A model that always answers {quoted(large)} would be right for {share:.0%}." if share >= _SHARE else ""
    if totals[large] >= _IMBALANCE * totals[small]:
        yield (
            f"Uneven classes: {quoted(large)} has {plural(totals[large], 'video')}, {quoted(small)} has "
            f"{totals[small]:,}.{lazy} Compare models by macro-F1, which counts every class the same, rather than by "
            "accuracy; collect more of the small classes, or leave out videos of the large ones."
        )


def _small_classes(facts: PageFacts) -> Iterator[str]:
    empty = [label for label in facts.labels if not facts.total(label)]
    if empty:
        yield f"Without any video: {plural(len(empty), 'class')}, {_names(empty)}. Delete the name, or find videos."
    for split in facts.splits:
        absent = [label for label in facts.labels if facts.total(label) and not facts.counts[label, split]]
        if not absent:
            continue
        effect = "a model cannot learn them" if split == "train" else "its scores say nothing about them"
        need = plural(len(facts.splits), "video")
        yield (
            f"Without a video in {visible(split, 20)}: {plural(len(absent), 'class')}, {_names(absent)}. So {effect}. A "
            f"class needs at least {need} that do not belong to one group, to have one in every split."
        )


def _groups(facts: PageFacts) -> Iterator[str]:
    leaking = sum(len({video.split for video in videos}) > 1 for videos in facts.groups.values())
    if leaking:
        yield (
            f"Groups in more than one split: {leaking:,}, because the splits were given so. Scores on their videos come "
            "out too high."
        )
    if not facts.groups and len(facts.videos) >= 2 * max(1, len(facts.labels)):
        yield (
            "No groups: every video stands on its own. If several were cut from one recording or show "
            "the same person or place, the test videos will look like the training videos and the score will come out "
            "too high. --group_by REGEX takes the group from the path: with --group_by '_g(\\d+)_', all files of "
            "_g07_ fall into the same split."
        )


def _short(facts: PageFacts) -> Iterator[str]:
    under8, under16 = (sum(video.num_frames < num for video in facts.videos) for num in (8, 16))
    if under16:
        yield (
            f"Very short videos: {_part(under16, len(facts.videos))} have fewer than 16 frames, {under8:,} of them "
            "fewer than 8. A clip longer than its video repeats frames, so the model sees a still picture there. Check "
            "that these are whole actions, or leave them out."
        )


def _long(facts: PageFacts) -> Iterator[str]:
    durations = [video.duration for video in facts.videos if video.duration and video.duration > _LONG_SECONDS]
    if durations:
        longest = max(durations)
        yield (
            f"Long videos: {_part(len(durations), len(facts.videos))} last over {_LONG_SECONDS:.0f} s, the longest "
            f"{show_seconds(longest)}. 8 frames over it lie {show_seconds(longest / 8)} apart, and the action may fall "
            "between them. Cut such videos to the action, or list its start and end."
        )


def _rates(facts: PageFacts) -> Iterator[str]:
    rates = Counter(round(video.fps) for video in facts.videos if video.fps and video.fps >= 0.5)
    usual = sorted(rate for rate, count in rates.items() if count >= _SHARE * len(facts.videos))
    if usual and usual[-1] >= 1.5 * usual[0]:
        yield (
            f"Mixed frame rates: {usual[0]} to {usual[-1]} frames per second. Frames a fixed number apart then "
            f"span {usual[-1] / usual[0]:.1f} times as long in one video as in another, and motion looks that much "
            "faster. Spread the frames over the whole video, or bring the videos to one rate first."
        )


def _shapes(facts: PageFacts) -> Iterator[str]:
    portrait = sum(video.height > video.width for video in facts.videos)
    landscape = sum(video.width > video.height for video in facts.videos)
    if min(portrait, landscape) > _SHARE * len(facts.videos):
        yield (
            f"Mixed shapes: {portrait:,} videos are upright, {landscape:,} are wide. The model sees a square of each: of wide "
            "ones the sides are cut, of upright ones top and bottom. Check in the contact sheets that the action is "
            "inside the bright square."
        )


def _dark(facts: PageFacts) -> Iterator[str]:
    dark = [video for video in facts.videos if video.brightness is not None and video.brightness < _DARK]
    if dark:
        yield (
            f"Dark videos: {_part(len(dark), len(facts.videos))} have a mean brightness under {_DARK:.0f} of 255, as "
            f"{quoted(dark[0].video_id)}. Check that a person can tell what happens in them."
        )


def _stores(facts: PageFacts) -> Iterator[str]:
    videos = [video for video in facts.videos if video.split == "train"] or facts.videos
    files = sum(video.decode_seconds * _INDEXED_SHARE.get(video.codec, 1.0) for video in videos)
    if not files:
        return
    cost = {store: min(files, len(videos) * seconds) for store, seconds in _CLIP_SECONDS.items()}
    frames = sum(video.num_frames for video in facts.videos)
    saved, making = files - cost["clips"], frames * _MAKING_SECONDS["clips"]
    if files / len(videos) <= _CHEAP_SECONDS:
        choice, why = "files", f"A clip costs only {1000 * files / len(videos):.0f} ms of one core: copies save little"
    elif making > _EPOCHS * saved:
        choice, why = (
            "files",
            f"Making clips would pay back only after about {making / saved:.0f} epochs, unless training waits for its clips",
        )
    else:
        epochs = plural(max(1, round(making / saved)), "epoch")
        choice, why = "clips", f"Making them ({show_seconds(making)} of one core) pays back after about {epochs}"
    yield (
        f"Best store: {choice} (used here: {visible(facts.store, 20)}). {why}. Reading one clip of every training video, "
        f"once an epoch, takes one core up to {show_seconds(files)} with --store files, about "
        f"{show_seconds(cost['clips'])} with clips and {show_seconds(cost['frames'])} with frames. Copies of all videos "
        f"at a short side of 256 px take about {show_bytes(frames * _FRAME_BYTES['clips'])} as clips, "
        f"{show_bytes(frames * _FRAME_BYTES['frames'])} as frames. These are estimates: the decoding was measured here, "
        "the copies on other videos."
    )


def _part(count: int, total: int, noun: str = "videos") -> str:
    share = "under 1%" if 0 < count < 0.005 * total else f"{count / total:.0%}"
    return f"{count:,} of {total:,} {noun} ({share})"


def _names(labels: list[str]) -> str:
    more = f" and {len(labels) - _NAMED:,} more" if len(labels) > _NAMED else ""
    return ", ".join(quoted(label) for label in labels[:_NAMED]) + more
