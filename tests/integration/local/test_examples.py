"""The demonstration, as `make demo` runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import obstore
import pytest
from helpers_jobs import quietly
from paths import ROOT

from shardedstore import ShardedStore

EXAMPLES = ROOT / "examples"
DEMO, CLOUD = EXAMPLES / "demo.py", EXAMPLES / "to_cloud.py"

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def run_demo(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DEMO, "--folder", folder, "--workers", "2"]
    return subprocess.run(
        command, cwd=folder.parent, env=quietly(), capture_output=True, text=True, timeout=110, check=False
    )


def test_demo_proves_its_result_and_starts_clean(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    (folder / "zips").mkdir(parents=True)
    (folder / "zips" / "of-an-earlier-one.zip").touch()
    (folder / ".made-by-the-demo").touch()
    (folder / "mine.txt").touch()
    done = run_demo(folder)
    assert done.returncode == 0, done.stderr
    before, after, last, command = done.stdout.splitlines()[-4:]
    counts = {
        label: int(re.search(r"([\d,]+) files", line)[1].replace(",", ""))
        for label, line in (("before", before), ("after", after))
    }
    assert counts["before"] > 2000
    assert counts["before"] == sum(len(files) for _, _, files in os.walk(folder / "source.zarr"))
    assert counts["after"] == sum(len(files) for _, _, files in os.walk(folder / "zips")) < 50
    assert last.startswith("All is identical.")
    assert str(folder / "zips") in last
    assert command.endswith(f"info {folder / 'zips'}")
    assert done.stdout.count("variables identical") == 4
    assert not (folder / "zips" / "of-an-earlier-one.zip").exists()
    assert (folder / "mine.txt").exists()
    assert "100%, 15 of 15 shards" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert len(ShardedStore.load(folder / "zips").config.shards) == 4


def test_demo_leaves_a_foreign_folder_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "zips").mkdir(parents=True)
    (folder / "zips" / "mine.zip").touch()
    done = run_demo(folder)
    assert done.returncode == 1
    assert "--folder" in done.stderr
    assert (folder / "zips" / "mine.zip").exists()


@pytest.mark.nightly
def test_climate_data_goes_to_the_cloud_and_is_opened_from_there(bucket, tmp_path: Path) -> None:
    url = f"{bucket.url}/air temperature"
    for times in range(2):
        command = [sys.executable, CLOUD, url, "--folder", tmp_path, "--workers", "2"]
        done = subprocess.run(command, env=quietly(), capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stderr
        assert "identical; 240 months, compressed with ZstdCodec" in done.stdout
        assert ("5 zips done now" if times == 0 else "0 zips done now (0 B), 5 were done before") in done.stdout
        assert "Traceback" not in done.stderr
    names = {found["path"] for batch in obstore.list(bucket.client) for found in batch}
    assert {f"air temperature/air_temperature/{i}.zarr.zip" for i in range(4)} < names


@pytest.mark.few(1)
@pytest.mark.parametrize("zarr_format", ["2", "3"])
def test_the_original_example(zarr_format: str, tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "original.py", "--folder", tmp_path / "new", "--zarr-format", zarr_format]
    for times in range(2):  # files of an earlier run are overwritten
        done = subprocess.run(command, env=quietly(), capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("8 zips: zip_stores/people.zarr.zip, ")
        assert "All is identical" in done.stdout
        assert done.stderr == "", times
    assert len(list((tmp_path / "new/array_shards2").glob("*.zarr"))) == 3
