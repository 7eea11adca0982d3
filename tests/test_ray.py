"""data_prep --engine ray: a cluster that loses a machine loses and doubles nothing; an object store takes the dataset."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from forks import Forks

pytestmark = pytest.mark.slow

# In processes of their own: Ray and moto start threads and servers, and their warnings are not ours.
_CLUSTER = """
import sys, threading, time
import ray
from ray.cluster_utils import Cluster

if __name__ == "__main__":
    videos, out = sys.argv[1:]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    from data_prep.prepare import main
    import data_prep.ray_engine as engine

    started = threading.Event()

    def lose_a_machine():
        started.wait()
        cluster.remove_node(node, allow_graceful=False)
        print("lost a machine", flush=True)

    threading.Thread(target=lose_a_machine, daemon=True).start()
    wait = ray.wait

    def wait_and_tell(*arguments, **options):
        done = wait(*arguments, **options)
        started.set()  # the first chunk is done: the others are at work
        return done

    ray.wait = wait_and_tell
    summary = main([videos, out, "--engine", "ray", "--ray_address", cluster.address, "--store", "frames"])
    print("accepted", summary["accepted"], "rejected", summary["rejected"])
    ray.shutdown()
    cluster.shutdown()
"""

_OBJECT_STORE = """
import os, sys

if __name__ == "__main__":
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    import s3fs
    from data_prep.prepare import main
    from finetune.clips.clip import read_clip
    from finetune.clips.dataset import load_splits

    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    url, engine = "s3://bucket/some/dataset", sys.argv[2]
    options = ["--engine", engine, "--store", "clips"]
    assert main([sys.argv[1], url, *options])["accepted"] == 40
    assert main([sys.argv[1], url, *options])["accepted"] == 40, "up to date"
    main([sys.argv[1], url, *options, "--seed", "1", "--overwrite"])
    splits = load_splits(url, need_validation=True)
    rows = [row for part in (splits.train, splits.validation, splits.test) for row in part]
    assert len({row["video_id"] for row in rows}) == len(rows) == 40
    assert read_clip(rows[0], [0, 9]).shape == (2, 3, 48, 48)
    assert not files.exists("bucket/some/dataset/_work")
    assert files.exists("bucket/some/dataset/report.html")
    server.stop()
    print("all there")
"""


# Ray sends no usage anywhere, and any keys will do for a stand-in.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
    "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip


def run(forks: Forks, code: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(code)
    return forks.run("script.py", *map(str, arguments), cwd=folder, **_ENVIRONMENT)


@pytest.mark.extra("ray")
def test_a_cluster_that_loses_a_machine_loses_no_video(bars: Path, tmp_path: Path, forks: Forks) -> None:
    import datasets

    done = run(forks, _CLUSTER, tmp_path, bars, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost a machine" in done.stdout and "accepted 40 rejected 0" in done.stdout
    splits = datasets.load_from_disk(str(tmp_path / "out"))
    ids = [video_id for rows in splits.values() for video_id in rows["video_id"]]
    assert len(ids) == len(set(ids)) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "script.py"]


@pytest.mark.extra("s3fs", "moto")
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.extra("ray"))])
def test_a_dataset_in_an_object_store_trains_as_one_on_disk(
    engine: str, bars: Path, tmp_path: Path, forks: Forks
) -> None:
    done = run(forks, _OBJECT_STORE, tmp_path, bars, engine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all there" in done.stdout
