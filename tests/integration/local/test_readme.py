"""Run the examples of the README and of the guides in docs/."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from documents import blocks, one_process, run_commands
from paths import ROOT
from servers import ADMIN, upload
from zarr.storage import ObjectStore as ZarrObjectStore

from shardedstore import ShardedStore
from shardedstore.abc import Callback
from shardedstore.transforms import ToZip

README = (ROOT / "README.md").read_text("utf-8")
IMPORTS = "from shardedstore import ShardedStore\nfrom shardedstore.transforms import Recompress, ToZip\n"

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def section(heading: str) -> str:
    """Return the text below a heading of the README."""
    return README.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def page(name: str) -> list[str]:
    """Return the Python blocks of a guide."""
    return blocks("python", (ROOT / "docs" / name).read_text("utf-8"))


class Interrupt(Callback):
    """Interrupt a job after its first shards."""

    def on_task_end(self, event):
        if event.progress.done:
            raise KeyboardInterrupt


@pytest.fixture
def era5(tmp_path: Path) -> Path:
    """A year of hours: large enough for the README's sizes, but small on disk, as most chunks are missing."""
    path = tmp_path / "era5.zarr"
    root = zarr.create_group(path)
    for name in ("temperature", "wind_u", "wind_v", "rain"):
        array = root.create_array(
            name,
            shape=(8640, 9, 18),
            chunks=(240, 9, 9),
            dtype="f4",
            fill_value=7,
            dimension_names=("time", "lat", "lon"),
        )
        array[:720] = np.random.default_rng(len(name)).random((720, 9, 18), "f4")
        array[5000:5100] = 1
    for name in ("simulation/coarse", "simulation/fine"):
        root.create_group(name).create_array(
            "t", data=np.arange(60.0).reshape(6, 10), chunks=(2, 5), dimension_names=("y", "x")
        )
    huge = root.create_array(
        "radiation",
        shape=(16, 1 << 19),
        chunks=(1, 1 << 17),
        dtype="u1",
        fill_value=0,
        dimension_names=("step", "cell"),
    )
    huge[3, 5] = 9
    zarr.consolidate_metadata(path)
    return path


def same(source: Path, result: ShardedStore) -> None:
    before, after = zarr.open_group(source, mode="r"), zarr.open_group(result, mode="r")
    names = sorted(name for name, _ in before.members(max_depth=None))
    assert names == sorted(name for name, _ in after.members(max_depth=None))
    for name, node in before.members(max_depth=None):
        if isinstance(node, zarr.Array):
            np.testing.assert_array_equal(node[:], after[name][:])
    xr.testing.assert_identical(
        xr.open_datatree(source, engine="zarr").load(), xr.open_datatree(result, engine="zarr").load()
    )


def test_python_and_picture(era5: Path) -> None:
    (script,) = blocks("python", section("Example"))
    code = f"{script}\nds.load(); print(type(new).__name__, sorted(ds))"
    done = subprocess.run([sys.executable, "-c", code], cwd=era5.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ShardedStore ['radiation', 'rain', 'temperature', 'wind_u', 'wind_v']\n"
    assert done.stderr == ""
    (picture,) = blocks("", (ROOT / "docs" / "read.md").read_text("utf-8"))
    shown = [re.split(r"\s{2,}", line.strip())[0] for line in picture.splitlines()[1:]]
    folder = era5.parent / "era5-zips"
    for name in shown:
        first, dots, last = name.partition(" ... ")
        assert (folder / first).exists(), name
        if dots:
            assert (folder / first).with_name(last).exists(), name
            assert sorted(path.name for path in (folder / first).parent.iterdir()) == sorted(
                f"{i}.zarr.zip" for i in range(int(last.partition(".")[0]) + 1)
            )
    on_top = {name.partition("/")[0] for name in shown}
    assert on_top <= {path.name for path in folder.iterdir()} <= on_top | {"wind_u", "wind_v"}
    same(era5, ShardedStore.load(folder))
    folder.rename(era5.parent / "moved")
    same(era5, ShardedStore.load(era5.parent / "moved"))


def test_commands(era5: Path, bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(era5.parent)
    (script,) = blocks("sh", (ROOT / "docs" / "commands.md").read_text("utf-8"))
    (short,) = blocks("sh", section("Commands"))
    old = zarr.create_group("old.zarr", zarr_format=2)
    old.create_array("a", data=np.arange(60.0).reshape(6, 10), chunks=(2, 5))
    script, short = (text.replace("512 MiB", "6 MiB").replace("s3://bucket", bucket.url) for text in (script, short))
    dry_run, others = script.split("\n", 1)
    with one_process():
        (dry,) = run_commands(dry_run)
        assert not Path("era5-cli").exists()
        converted, info, copied = run_commands(others)
        _, verified = run_commands(short)
    assert "<=64 -> 2 shards" in dry
    assert converted.splitlines()[-1] == str(era5.parent / "era5-cli" / "shardedstore.json")
    assert "/radiation  array (16, 524288), chunks (1, 131072), 8.00 MiB, 2 zips" in info
    same(era5, ShardedStore.load("era5-cli"))
    assert "by their decoded data" in verified
    assert copied.splitlines()[-1] == f"{bucket.url}/new.zarr"
    new = zarr.open_group(ZarrObjectStore(bucket.client, read_only=True), path="new.zarr", mode="r")
    np.testing.assert_array_equal(new["a"][:], old["a"][:])
    assert "Zstd" in str(new["a"].compressors)


def test_clouds(era5: Path, bucket, s3_server, use_environment) -> None:
    """The example of storage options, on a server with public data that accepts the results."""
    script = page("clouds.md")[0]
    use_environment({"AWS_ENDPOINT_URL": s3_server.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"})
    upload(
        s3_server.folder("public", "era5.zarr").client,
        {path.relative_to(era5).as_posix(): path.read_bytes() for path in era5.rglob("*") if path.is_file()},
    )
    shown = {
        "s3://open-data": "s3://public",
        "s3://mine": bucket.url,
        "https://minio.example.org": s3_server.endpoint,
        '"access_key_id": "..."': f'"access_key_id": "{ADMIN.key}"',
        '"secret_access_key": "..."': f'"secret_access_key": "{ADMIN.secret}"',
    }
    code = re.sub("|".join(map(re.escape, shown)), lambda found: shown[found[0]], script)
    names: dict[str, object] = {}
    exec(IMPORTS + code, names)
    same(era5, names["new"])


def test_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (script,) = page("writing.md")
    hours = xr.Dataset(
        {"air": (("time", "x"), np.arange(6000.0).reshape(2000, 3)), "station": ("x", [1, 2, 3])},
        coords={"time": np.arange(2000)},
    ).chunk({"time": 240})
    names = {"ds": hours.isel(time=slice(1200)), "ds_later": hours.isel(time=slice(1200, None))}
    names["ds_later"] = names["ds_later"].drop_vars("station").chunk({"time": 240})
    with pytest.warns(UserWarning, match="Consolidated metadata is currently not part"):
        exec(script, names)
    for result in (ShardedStore.load("cube.json"), ShardedStore.load("cube-zips")):
        xr.testing.assert_identical(xr.open_zarr(result).load(), hours.load())
    assert sorted(path.name for path in (tmp_path / "air-shards").iterdir()) == ["0.zarr", "1.zarr", "2.zarr"]


def test_collecting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(5):
        zarr.create_group(f"cells/a{i:04}.zarr").create_array("x", data=np.arange(i + 1))
    (script,) = (text for text in page("partition.md") if "collect(" in text)
    exec(IMPORTS + script)
    assert len(list((tmp_path / "cells-zips").rglob("*.zip"))) == 2  # the other is the base
    root = zarr.open_group(ShardedStore.load("cells-zips"), mode="r")
    assert sorted(root) == [f"a{i:04}" for i in range(5)]
    np.testing.assert_array_equal(root["a0003/x"][:], np.arange(4))


def test_dividing_and_running(era5: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The rules of the page on partitions, and the plan and the partial store of the page on jobs."""
    monkeypatch.chdir(era5.parent)
    names: dict[str, object] = {}
    exec(page("partition.md")[0], names)
    view = names["store"]
    assert isinstance(view, ShardedStore)
    assert [view.config.shards[path].blocks is None for path in ("simulation/fine", "temperature", "wind_u")] == [
        True,
        False,
        False,
    ]
    plan, guarded, _limits, partial = page("jobs.md")
    exec(IMPORTS + plan, names)
    assert "/temperature" in capsys.readouterr().out
    same(era5, names["new"])  # type: ignore[arg-type]
    exec(guarded, names)
    with pytest.raises(KeyboardInterrupt):
        names["store"].map_shards(ToZip("out"), callbacks=[Interrupt()])  # type: ignore[attr-defined]
    exec(IMPORTS + partial.replace("/data/era5.zarr", str(era5)), names)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # the base has the consolidated metadata
        same(era5, names["store"])  # type: ignore[arg-type]
    (chain,), (reading,) = page("chains.md"), page("read.md")
    exec(reading, names | {"xr": xr, "ShardedStore": ShardedStore})
    zarr.create_group("old.zarr", zarr_format=2).create_array("a", data=np.arange(60.0), chunks=(25,))
    exec(chain.replace("s3://bucket/", ""), names)
    np.testing.assert_array_equal(zarr.open_group("new.zarr", mode="r", zarr_format=3)["a"][:], np.arange(60.0))


def test_links_lead_to_files_and_headings() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        ):
            file, _, heading = link.partition("#")
            if "://" in link:
                continue
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            if heading:
                found = re.findall(r"(?m)^#+ (.*)", target.read_text("utf-8"))
                assert heading in [re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in found], link
