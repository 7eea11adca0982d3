"""finetune.hub against a real server: a stand-in for the Hub, where one is to be had."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, when_asked

from data_prep.errors import UserError
from finetune.hub import push

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


# Without the check, which the run has made of the same files.
PUSH_AGAIN = "import sys; from finetune import hub; hub.check = lambda *_: 'checked'; sys.exit(hub.main())"


def train(python: Run, dataset: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return python(
        str(ROOT / "finetune" / "run.py"), "--dataset_name", str(dataset), "--output_dir", "out",
        "--model_name_or_path", "timesformer-tiny", "--max_steps", "1", "--per_device_train_batch_size", "4",
        "--dataloader_num_workers", "0", "--push_to_hub", "--hub_model_id", "me/bars", **env,
    )  # fmt: skip


def test_a_pushed_run_loads_by_name_and_predicts_as_ours(
    hub: Any, python: Run, tmp_path: Path, bars: Path, bars_dataset: Path
) -> None:
    """Faults that pass are waited out."""
    hub.add_fault(match="^POST /api/repos/create", status=503, count=1)
    hub.add_fault(match="/commit/", status=502, count=1)
    trained = train(python, bars_dataset)
    assert trained.returncode == 0, trained.stderr
    files = hub.files("me/bars")
    assert set(files) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "video_preprocessor_config.json", "recipe.yaml",
        "metrics.json", "curves.png", "confusion_matrix.png",
    }  # fmt: skip
    for name, content in files.items():
        assert b"hf_secret_token" not in content and str(tmp_path).encode() not in content, name
    code = (
        "import sys; from transformers import pipeline, TimesformerForVideoClassification as T;"
        "from data_prep.video import probe, read_frames; from finetune.predict import main;"
        "T.from_pretrained('me/bars'); path = sys.argv[1];"
        "theirs = pipeline('video-classification', model='me/bars')(read_frames(path, range(probe(path).num_frames)));"
        "ours = main(['me/bars', path])[0]['predictions'];"
        "assert max(abs(a['score'] - b['score']) for a, b in zip(ours, theirs)) < 1e-3, (ours, theirs);"
        "assert [a['label'] for a in ours] == [b['label'] for b in theirs]; print('same')"
    )
    used = python("-c", code, str(bars / "left" / "0.mp4"))
    assert used.stdout.splitlines()[-1:] == ["same"], used.stderr
    commits = len(hub.history("me/bars"))
    again = python("-c", PUSH_AGAIN, "push", "out", "me/bars")
    assert again.returncode == 0, again.stderr
    assert len(hub.history("me/bars")) == commits, "an unchanged run makes no commit"


def test_a_dataset_on_the_hub_trains_as_the_local_one_does(python: Run, tmp_path: Path, bars_dataset: Path) -> None:
    """Pushed as Parquet with the videos inside; the paths of this machine are gone, the clips are the same."""
    code = (
        "import sys, datasets; from finetune.clips.clip import Rows, read_clip; from finetune.clips.dataset import load_splits;"
        "datasets.load_from_disk(sys.argv[1]).push_to_hub('me/bars-data');"
        "ours, theirs = load_splits(sys.argv[1], True), load_splits('me/bars-data', True);"
        "pairs = [pair for split in ('train', 'validation', 'test')"
        " for pair in zip(Rows(getattr(ours, split)), Rows(getattr(theirs, split)), strict=True)];"
        "assert len(pairs) == 40 and all(a['label'] == b['label'] and a['video_id'] == b['video_id'] for a, b in pairs);"
        "assert all((read_clip(a, [0, 9]) == read_clip(b, [0, 9])).all() for a, b in pairs);"
        "assert not any(b['video']['path'] and '/' in b['video']['path'] for a, b in pairs); print('same')"
    )
    pushed = python("-c", code, str(bars_dataset))
    assert pushed.stdout.splitlines()[-1:] == ["same"], pushed.stderr
    trained = python(
        str(ROOT / "finetune" / "run.py"), "--model_name_or_path", "timesformer-tiny", "--max_steps", "2",
        "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0", "--report_to", "none",
        "--dataset_name", "me/bars-data", "--output_dir", "me_bars-data",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "- me/bars-data" in (tmp_path / "me_bars-data" / "README.md").read_text()


def test_a_published_dataset_comes_back_whole_also_streamed(hub: Any, python: Run, tmp_path: Path, bars: Path) -> None:
    hub.add_fault(match="^POST /api/repos/create", status=503, count=1)
    for store in ("files", "clips", "frames"):
        options = ["--store", store, "--push_to_hub", f"me/{store}", "--num_proc", "1"]
        pushed = python("-m", "data_prep", str(bars), store, *options)
        assert pushed.returncode == 0, pushed.stderr
        for name, content in hub.files(f"me/{store}", "dataset").items():
            assert b"hf_secret_token" not in content and str(tmp_path).encode() not in content, name
        card = hub.files(f"me/{store}", "dataset")["README.md"].decode()
        assert "video-classification" in card and "| left |" in card and f'load_dataset("me/{store}")' in card
        code = (
            "import sys, datasets, numpy; from finetune.clips.clip import read_clip; name = sys.argv[1];"
            "ours = datasets.load_from_disk(name)['train']; theirs = datasets.load_dataset('me/' + name)['train'];"
            "stream = datasets.load_dataset('me/' + name, split='train', streaming=True);"
            "mine, yours, streamed = ({row['video_id']: row for row in rows} for rows in (ours, theirs, stream));"
            "assert sorted(mine) == sorted(yours) == sorted(streamed) and len(ours) == len(theirs) == len(mine);"
            "one = next(iter(streamed));"
            "clips = [read_clip(rows[one], [0, 9]).numpy() for rows in (mine, yours, streamed)];"
            "assert all((clip == clips[0]).all() for clip in clips); print('same')"
        )
        loaded = python("-c", code, store)
        assert loaded.stdout.splitlines()[-1:] == ["same"], loaded.stderr
    refused = python("-m", "data_prep", str(bars), "files", "--push_to_hub", "you/files", "--num_proc", "1")
    assert (
        refused.returncode == 2
        and "Nothing is lost: everything is in files. When it is mended: python -m data_prep" in refused.stderr
    )


def test_a_wrong_token_is_found_out_before_training(python: Run, tmp_path: Path, bars_dataset: Path) -> None:
    process = train(python, bars_dataset, HF_TOKEN="hf_wrong")
    assert process.returncode == 2
    assert "the Hub does not accept the token" in process.stderr
    assert "hf_wrong" not in process.stdout + process.stderr
    assert not (tmp_path / "out").exists()


def test_a_hub_that_fails_costs_nothing_and_the_push_can_be_repeated(
    hub: Any, python: Run, tmp_path: Path, bars_dataset: Path
) -> None:
    hub.add_fault(match="whoami", status=503, count=50)
    hub.add_fault(match="^POST /api/repos/create", status=403, count=1)
    process = train(python, bars_dataset)
    assert process.returncode == 2
    assert "python -m finetune.hub push out me/bars" in process.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file() and (tmp_path / "out" / "README.md").is_file()
    processor = tmp_path / "out" / "video_preprocessor_config.json"
    whole = processor.read_text()
    processor.write_text("[]")  # over which the check stumbles where nobody had thought of it
    asked = len(hub.requests())
    broken = python("-m", "finetune.hub", "push", "out", "me/bars")
    assert broken.returncode == 2 and "Traceback" not in broken.stderr, broken.stderr
    said = broken.stderr.splitlines()[-1]
    assert said.startswith("error: the check of out broke (") and "AttributeError" in said
    assert said.endswith("When that is mended: python -m finetune.hub push out me/bars")
    assert len(hub.requests()) == asked, "nothing is asked of the Hub before the check"
    processor.write_text(whole)
    again = python("-c", PUSH_AGAIN, "push", "out", "me/bars")
    assert again.returncode == 0, again.stderr
    assert "model.safetensors" in hub.files("me/bars")


# The training command without the check, which costs a process of plain transformers each time.
TRAIN_UNCHECKED = (
    "import sys; from finetune import hub, run; from data_prep.errors import exit_cleanly;"
    "hub.check = lambda *_: 'checked'; sys.exit(exit_cleanly(run.main)())"
)


def test_a_push_that_failed_or_was_stopped_or_killed_is_all_that_the_same_command_does(
    hub: Any, python: Run, tmp_path: Path, bars_dataset: Path
) -> None:
    command = [
        "-c", TRAIN_UNCHECKED, "--dataset_name", str(bars_dataset), "--output_dir", "out", "--model_name_or_path",
        "timesformer-tiny", "--max_steps", "1", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0",
        "--report_to", "none", "--overwrite_output_dir", "--push_to_hub", "--hub_model_id", "me/bars",
    ]  # fmt: skip
    hub.add_fault(match="^POST /api/repos/create", status=403, count=1)
    failed = python(*command)
    assert failed.returncode == 2 and "python -m finetune.hub push out me/bars" in failed.stderr, failed.stderr
    unfinished, weights = tmp_path / "out" / "unfinished.json", (tmp_path / "out" / "model.safetensors").read_bytes()
    assert not json.loads(unfinished.read_text())["stopped"]
    hub.add_fault(match="/preupload/", action="delay", seconds=3, count=2)
    for end, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)):
        hub.log.clear()
        ended = when_asked(hub, "/preupload/", tmp_path / "out", end)
        stopped = python(*command)
        ended.join()
        assert stopped.returncode == code, stopped.stderr
        assert "out was trained before, only its push is left (to train anew, delete out)" in stopped.stdout
    assert "the same command goes on with the push" in stopped.stderr and "Traceback" not in stopped.stderr
    assert json.loads(unfinished.read_text())["stopped"] and not hub.requests("/commit/")
    done = python(*command)
    assert done.returncode == 0 and "pushed to " in done.stdout, done.stderr
    assert hub.files("me/bars")["model.safetensors"] == weights and not unfinished.exists()


def test_an_unfinished_run_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished run"):
        push(tmp_path, "me/x")
