"""Files of a folder -> a repository of the Hub, and proof that they are there. data_prep/apart.py starts this as a process.

python -m data_prep.upload FOLDER me/name --repo_type model: prints JSON, the repository's `url` or an `error`.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import sys
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from data_prep.dataset_card import keep_metadata
from data_prep.errors import UserError
from data_prep.patience import make_repository, patiently, reason, tire_of_silence

_MESSAGES = {"model": "Upload fine-tuned TimeSformer", "dataset": "Upload dataset", "space": "Upload app"}


def upload(
    folder: Path, names: list[str], repo_id: str, repo_type: str, private: bool | None, outdated: list[str]
) -> str:
    """Makes the repository hold those files as they are here, and returns its address. Repeating it sends what changed.

    Of the files there whose names match the patterns `outdated`, those that are not sent are deleted; others are left
    alone. Raises what the client raises, and `OSError` where the Hub's files are not ours afterwards.
    """
    api = HfApi()
    repo = make_repository(api, repo_id, repo_type, private, "gradio" if repo_type == "space" else None)
    if repo_type == "dataset":
        keep_metadata(api, folder / "README.md", repo.repo_id)
    patiently(
        lambda: api.upload_folder(
            repo_id=repo.repo_id,
            repo_type=repo_type,
            folder_path=folder,
            allow_patterns=[glob.escape(name) for name in names],
            delete_patterns=outdated or None,
            commit_message=_MESSAGES[repo_type],
        )
    )
    # Together, since a Hub may for a while list the files as they were before.
    patiently(lambda: _check_all_there(api, folder, names, repo.repo_id, repo_type))
    return str(repo)


def _check_all_there(api: HfApi, folder: Path, names: list[str], repo_id: str, repo_type: str) -> None:
    tree = api.list_repo_tree(repo_id, repo_type=repo_type, recursive=True)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    for name in names:
        if name not in there or not _is_same(folder / name, there[name]):
            raise OSError(f"the Hub took the upload, but its {name} is not the one here")


def _is_same(path: Path, entry: RepoFile) -> bool:
    """Whether the Hub's file is the local one: by the hash that it gives, Git's or of a large file."""
    if entry.size != path.stat().st_size:
        return False
    digest = hashlib.sha256() if entry.lfs else hashlib.sha1(b"blob %d\0" % entry.size)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == (entry.lfs.sha256 if entry.lfs else entry.blob_id)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("repo_id")
    parser.add_argument("--repo_type", choices=tuple(_MESSAGES), required=True)
    parser.add_argument("--private", action="store_true", default=None)
    parser.add_argument("--names", nargs="*", required=True, help="of the files to upload")
    parser.add_argument("--outdated", nargs="*", default=[], help="patterns of files to delete there")
    options = parser.parse_args(argv)
    tire_of_silence()
    try:
        answer = {"url": upload(**vars(options))}
    except UserError as error:
        answer = {"error": str(error)}
    except Exception as error:  # a Hub, or what stands before it, can answer in every wrong way
        answer = {"error": reason(error)}
    print(json.dumps(answer, allow_nan=False))
    return 0 if "url" in answer else 1


if __name__ == "__main__":
    sys.exit(main())
