"""One upload of a finished run, in a process of its own: finetune/hub.py starts it, and gives it up when it hangs.

python -m finetune.upload FOLDER me/name: prints JSON, the repository's `url` or an `error`.
"""

from __future__ import annotations

import argparse
import fnmatch
import glob
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from data_prep.patience import make_repository, patiently, reason, tire_of_silence

# Everything else in a run's folder stays home: checkpoints, optimizer state, logs, predictions, training_args.bin
# (a pickle). Pictures with frames of videos go only where the card shows them.
PUSHED_FILES = [
    "README.md", "config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
    "video_preprocessor_config.json", "metrics.json", "recipe.yaml",
    "curves.png", "confusion_matrix.png", "per_class.png",
]  # fmt: skip
PICTURE_OF_VIDEOS = "predictions.png"


def pushed_files(folder: Path) -> list[str]:
    """Names of the files of a run that are uploaded, sorted."""
    names = [path.name for path in folder.iterdir() if path.is_file()]
    pushed = {name for name in names for pattern in PUSHED_FILES if fnmatch.fnmatchcase(name, pattern)}
    shown = f"]({PICTURE_OF_VIDEOS})" in (folder / "README.md").read_text(encoding="utf-8")
    return sorted(pushed | ({PICTURE_OF_VIDEOS} & set(names) if shown else set()))


def upload(folder: Path, names: list[str], repo_id: str, private: bool | None, repo_type: str = "model") -> str:
    """Makes the repository hold those files as they are here, and returns its address. Repeating it sends what changed.

    Of the files a run pushes, those that this one does not have are deleted there; others are left alone.
    """
    api = HfApi()
    sdk = "gradio" if repo_type == "space" else None
    repo = make_repository(api, repo_id, repo_type, private, sdk)
    patiently(
        lambda: api.upload_folder(
            repo_id=repo.repo_id,
            repo_type=repo_type,
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in names],
            delete_patterns=[*PUSHED_FILES, PICTURE_OF_VIDEOS] if repo_type == "model" else None,
            commit_message="Upload fine-tuned TimeSformer",
        )
    )
    there = {
        entry.path: entry
        for entry in patiently(lambda: list(api.list_repo_tree(repo.repo_id, repo_type=repo_type, recursive=True)))
        if isinstance(entry, RepoFile)
    }
    wrong = [name for name in names if not _is_same(folder / name, there.get(name))]
    if wrong:
        raise OSError(f"the Hub took the upload, but its {wrong[0]} is not the one here")
    return str(repo)


def _is_same(path: Path, entry: Any) -> bool:
    """Whether the Hub's file is the local one: by the hash that it gives, Git's or of a large file."""
    if entry is None:
        return False
    size = path.stat().st_size
    if entry.lfs is None:
        return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest())
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return bool(entry.lfs.sha256 == digest.hexdigest())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("repo_id")
    parser.add_argument("--repo_type", choices=("model", "space"), default="model")
    parser.add_argument("--private", action="store_true", default=None)
    options = parser.parse_args(argv)
    tire_of_silence()
    folder = options.folder
    if options.repo_type == "model":
        names = pushed_files(folder)
    else:
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    try:
        answer = {"url": upload(folder, names, options.repo_id, options.private, options.repo_type)}
    except Exception as error:  # a Hub, or what stands before it, can answer in every wrong way
        answer = {"error": reason(error)}
    print(json.dumps(answer))
    return 0 if "url" in answer else 1


if __name__ == "__main__":
    sys.exit(main())
