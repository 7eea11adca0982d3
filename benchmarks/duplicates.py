"""How many altered copies of real videos data_prep recognises, and how many distinct videos it takes for copies.

    python benchmarks/duplicates.py VIDEOS [VIDEOS ...] [--sources 60] [--seed 0]

Alters a random sample of the videos with the program ffmpeg in each of the ways below, searches each kind among all
originals, and counts the pairs found. Then searches the originals alone: every pair found there is printed, to look at.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep.duplicates import Duplicate, find_duplicates
from data_prep.labeled import LabeledVideo
from data_prep.scan import Scanned, Storing, scan_video
from data_prep.video import probe

EXTENSIONS = {".avi", ".mov", ".mp4", ".webm", ".mkv"}
EVEN, HALF = "scale=trunc(iw/2)*2:trunc(ih/2)*2", "scale=trunc(iw/4)*2:trunc(ih/4)*2"
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-an"]


def alterations(seconds: float) -> dict[str, tuple[str, list[str], str, list[str]]]:
    """{name: (what must be found, options before the input, file extension, options after it)}."""
    middle = ["-ss", f"{seconds * 0.25 + 0.017:.3f}", "-t", f"{seconds * 0.5:.3f}"]
    head = ["-ss", f"{min(1.37, seconds / 3):.3f}"]
    return {
        "H.264 crf 23": ("copy", [], "mp4", ["-vf", EVEN, *X264, "-crf", "23"]),
        "H.264 crf 38": ("copy", [], "mp4", ["-vf", EVEN, *X264, "-crf", "38"]),
        "MPEG-4": ("copy", [], "avi", ["-vf", EVEN, "-c:v", "mpeg4", "-q:v", "10", "-an"]),
        "VP9": ("copy", [], "webm", ["-vf", EVEN, "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-crf", "40", "-b:v", "0", "-an"]),
        "half size": ("copy", [], "mp4", ["-vf", HALF, *X264, "-crf", "28"]),
        "15 frames per second": ("copy", [], "mp4", ["-vf", f"{EVEN},fps=15", *X264, "-crf", "26"]),
        "brighter, more contrast": ("copy", [], "mp4", ["-vf", f"{EVEN},eq=brightness=0.03:contrast=1.04", *X264]),
        "head cut off": ("copy", head, "mp4", ["-vf", EVEN, *X264, "-crf", "26"]),
        "middle half": ("copy", middle, "mp4", ["-vf", EVEN, *X264, "-crf", "28"]),
        "mirrored": ("mirrored", [], "mp4", ["-vf", f"{EVEN},hflip", *X264, "-crf", "23"]),
        "mirrored, half size, crf 36": ("mirrored", [], "mp4", ["-vf", f"{HALF},hflip", *X264, "-crf", "36"]),
        "mirrored, middle half": ("mirrored", middle, "mp4", ["-vf", f"{EVEN},hflip", *X264, "-crf", "26"]),
        "played backwards (must not be found)": ("", [], "mp4", ["-vf", f"{EVEN},reverse", *X264]),
    }  # fmt: skip


def alter(source: Path, name: str, folder: Path) -> Path | None:
    seconds = probe(source).duration or 1.0
    _, before, extension, after = alterations(seconds)[name]
    target = folder / f"{source.parent.name}_{source.stem}.{extension}"
    command = ["ffmpeg", "-v", "error", "-threads", "1", *before, "-i", str(source), *after, str(target)]
    return target if subprocess.run(command).returncode == 0 else None


def scan(path: Path) -> tuple[Scanned, bytes]:
    scanned, pictures = scan_video(LabeledVideo(path, str(path), ("x",)), "", Storing("files"))
    return scanned, pictures.fingerprint


def search(scans: list[tuple[Scanned, bytes]]) -> list[Duplicate]:
    return find_duplicates([scanned.digest for scanned, _ in scans], [fingerprint for _, fingerprint in scans])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--sources", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    originals = sorted(p for root in options.videos for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS)
    sources = random.Random(options.seed).sample(originals, min(options.sources, len(originals)))
    with ProcessPoolExecutor() as pool, tempfile.TemporaryDirectory() as folder:
        scans = list(pool.map(scan, originals))
        place = {path: index for index, path in enumerate(originals)}
        print("| altered by | found | as another kind |\n|---|---|---|")
        for number, name in enumerate(alterations(1.0)):
            kind = alterations(1.0)[name][0]
            made = Path(folder, str(number))
            made.mkdir()
            copies = list(pool.map(alter, sources, [name] * len(sources), [made] * len(sources)))
            pairs = [(source, copy) for source, copy in zip(sources, copies) if copy is not None]
            found = search([*scans, *pool.map(scan, [copy for _, copy in pairs])])
            kinds = {(one.first, one.second): one.kind for one in found}
            results = [kinds.get((place[source], len(originals) + i)) for i, (source, _) in enumerate(pairs)]
            others = sum(result not in (None, kind) for result in results)
            print(f"| {name} | {sum(result == kind for result in results) if kind else others} of {len(pairs)} | {others if kind else ''} |", flush=True)  # fmt: skip
        found = search(scans)
    print(
        f"\namong the {len(originals)} originals ({len(originals) * (len(originals) - 1) // 2} pairs): {len(found)} found"
    )
    for one in found:
        print(f"  {originals[one.first].name} {originals[one.second].name} {one.kind}")


if __name__ == "__main__":
    sys.exit(main())
