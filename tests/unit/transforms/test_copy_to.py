"""`CopyTo`: one ordinary Zarr that any reader opens, or a Zarr for each shard; data first, metadata last."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from conformance import check_same_contents, contents_of
from helpers_jobs import CUBE, Fail, KillOnce, cube_at, division, files_of
from paths import TESTS
from sources import SOURCES, to_folder

from shardedstore import ChainError, CorruptError, DestinationError, ShardedStore, ShardsFailed
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import check_apart
from shardedstore.storage.publish import TEMPORARY
from shardedstore.storage.urls import BESIDE
from shardedstore.stores.locations import Config, Directory
from shardedstore.transforms import CopyTo, MapChunks, Recompress, ToZip


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    return cube_at(tmp_path / "source.zarr")


def partitioned(name, folder):
    return ShardedStore.partition(to_folder(SOURCES[name].contents(), folder), SOURCES[name].shards)


PLAIN = [name for name in SOURCES if not name.startswith(("consolidated", "dataset"))]


@pytest.mark.parametrize("name", PLAIN)
def test_a_copy_has_the_same_files(name, tmp_path):
    partitioned(name, tmp_path / "source").map_shards(CopyTo(tmp_path / "copy"))
    assert files_of(tmp_path / "copy") == files_of(tmp_path / "source")


@pytest.mark.few(3)
@pytest.mark.parametrize("name", PLAIN)
def test_shards_that_are_copied_apart_open_as_one(name, tmp_path):
    store = partitioned(name, tmp_path / "source")
    store.map_shards(CopyTo(tmp_path / "copy", layout="shards"))
    check_same_contents(ShardedStore.load(tmp_path / "copy"), SOURCES[name].contents())
    for folder in (tmp_path / "copy").rglob("*.zarr"):
        is_root_array = "root-array" in name and folder.name == "__base__.zarr"
        with pytest.raises(FileNotFoundError) if is_root_array else nullcontext():
            zarr.open(folder, mode="r")


@pytest.mark.parametrize("name", ["consolidated-v2", "consolidated-v3"])
def test_consolidated_metadata_is_in_the_copy(name, tmp_path):
    partitioned(name, tmp_path / "source").map_shards(Recompress("zstd"), CopyTo(tmp_path / "copy"))
    copied = zarr.open_group(tmp_path / "copy", mode="r", use_consolidated=True)
    plain = zarr.open_group(tmp_path / "copy", mode="r", use_consolidated=False)
    members = {path: node.metadata.to_dict() for path, node in plain.members(max_depth=None)}
    for document in members.values():
        document.pop("consolidated_metadata", None)
    assert members.keys() == {path for path, _ in copied.members(max_depth=None)}
    for path, node in copied.members(max_depth=None):
        assert {**node.metadata.to_dict(), "consolidated_metadata": 0} == {**members[path], "consolidated_metadata": 0}
    with xr.open_zarr(tmp_path / "copy", consolidated=True) as opened, xr.open_zarr(tmp_path / "source") as expected:
        xr.testing.assert_identical(opened.load(), expected.load())


def test_nothing_opens_before_all_shards_are_there(source, tmp_path):
    store, mended = division(source), tmp_path / "mended"
    chain = Fail(blocks(store)[1], str(mended)), CopyTo(tmp_path / "copy")
    with pytest.raises(ShardsFailed, match="1 of 24 shards failed"):
        store.map_shards(*chain)
    documents = [path for path in files_of(tmp_path / "copy") if Path(path).name in ("zarr.json", ".zarray", ".zgroup")]
    assert documents == []
    assert not (tmp_path / f"copy{BESIDE}" / FILE_NAME).exists()
    mended.touch()
    assert store.map_shards(*chain).summary.done == 1
    assert files_of(tmp_path / "copy") == files_of(source)
    assert store.map_shards(*chain).summary.done == 0


def blocks(store):
    path, mount = next((path, mount) for path, mount in store.config.shards.items() if mount.blocks is not None)
    return [f"{path}[{'/'.join(map(str, mount.blocks.index(i)))}]" for i in range(mount.blocks.count)]


def test_a_copy_with_more_files_than_were_written_is_reported(source, tmp_path):
    store = division(source)
    store.map_shards(CopyTo(tmp_path / "copy"))
    (tmp_path / "copy/notes.txt").touch()
    with pytest.raises(
        CorruptError, match=r"holds \d+ files of [\d,]+ bytes without its metadata, where \d+ of [\d,]+ were"
    ):
        store.map_shards(CopyTo(tmp_path / "copy"))
    (tmp_path / "copy/notes.txt").unlink()
    assert store.map_shards(CopyTo(tmp_path / "copy")).summary.done == 0


@pytest.mark.parametrize("harm", ["remove", "cut", "remove the root"])
def test_a_shard_that_lost_something_is_made_again(harm, source, tmp_path):
    store, chain = division(source), CopyTo(tmp_path / "copy", layout="shards")
    store.map_shards(chain)
    expected = shards_in(tmp_path / "copy")
    shard = next(path for path in sorted((tmp_path / "copy").rglob("*.zarr")) if path.name != "__base__.zarr")
    chunk = next(path for path in sorted(shard.rglob("*")) if path.is_file() and path.name.isdecimal())
    if harm == "cut":
        os.truncate(chunk, 1)
    else:
        (shard / "zarr.json" if harm == "remove the root" else chunk).unlink()
    summary = store.map_shards(chain).summary
    assert (summary.done, summary.missing) == (1, 1)
    assert shards_in(tmp_path / "copy") == expected
    assert store.map_shards(chain).summary.done == 0


def shards_in(folder):
    return {path: data for path, data in files_of(folder).items() if not path.startswith(BESIDE) and ".zarr" in path}


@pytest.mark.parametrize("chain", [[CopyTo], [Recompress("zstd"), CopyTo], [ToZip]], ids=["copy", "recompress", "zip"])
def test_what_a_killed_process_left_half_written_in_a_source_is_not_carried(chain, source, tmp_path):
    *steps, sink = chain
    expected = contents_of(division(source).map_shards(*steps, sink(tmp_path / "expected")))
    parts = {Path(path).parent for path in files_of(source)}
    for number, folder in enumerate(sorted(parts)):
        (Path(source) / folder / f"{TEMPORARY}host-{number}-0123abcd.tmp").write_bytes(b"half of a chu")
    (Path(source) / f"{TEMPORARY}notes.tmp").write_bytes(b"of a user, by its name")
    result = division(source).map_shards(*steps, sink(tmp_path / "result"))
    assert contents_of(result) == {**expected, f"{TEMPORARY}notes.tmp": b"of a user, by its name"}
    assert result.verify(source, level="decoded").ok


def test_files_of_other_names_are_reported_though_count_and_bytes_are_the_same(source, tmp_path):
    store = division(source)
    store.map_shards(CopyTo(tmp_path / "copy"))
    chunk = next(path for path in sorted((tmp_path / "copy").rglob("*")) if path.is_file() and path.name.isdecimal())
    chunk.rename(chunk.with_name("99"))
    report = ShardedStore.load(tmp_path / f"copy{BESIDE}").verify(level="exists")
    assert any(
        "without its metadata, of other names or sizes, where" in d.what or d.kind == "extra"
        for d in report.differences
    )
    with pytest.raises(CorruptError, match=r"holds 61 files of [\d,]+ bytes without its metadata, where 60 of"):
        store.map_shards(CopyTo(tmp_path / "copy"))
    assert chunk.exists()


def test_a_shard_is_not_mixed_with_what_an_earlier_run_left(tmp_path):
    """Otherwise, a chunk that the source has lost would be read instead of the fill value."""
    array = zarr.create_array(tmp_path / "source", shape=(4,), chunks=(1,), dtype="i4")
    array[:] = 1
    chain = Fail("[1]", str(tmp_path / "mended")), CopyTo(tmp_path / "out", layout="shards")
    store = ShardedStore.partition(tmp_path / "source", {"": (2,)})
    with pytest.raises(ShardsFailed):
        store.map_shards(*chain)
    (tmp_path / "mended").touch()
    left = tmp_path / "out" / "1.zarr" / "c" / "1"
    left.parent.mkdir(parents=True)
    left.write_bytes((tmp_path / "source" / "c" / "3").read_bytes())
    (tmp_path / "source" / "c" / "3").unlink()
    with pytest.raises(ShardsFailed) as failed:
        store.map_shards(*chain)
    assert "an earlier run left files that are no longer in the source" in str(failed.value.exceptions[0])
    shutil.rmtree(tmp_path / "out" / "1.zarr")
    assert zarr.open_array(store.map_shards(*chain), mode="r")[:].tolist() == [1, 1, 1, 0]


def test_a_lazy_job_looks_again_before_it_writes(source, tmp_path):
    lazy = division(source).map_shards(CopyTo(tmp_path / "a"), compute=False, overwrite=True)
    other = division(source).map_shards(Recompress("gzip"), CopyTo(tmp_path / "a"), compute=False, overwrite=True)
    beside = division(source).map_shards(CopyTo(tmp_path / "b"), compute=False, overwrite=True)
    lazy.compute()
    with pytest.raises(DestinationError, match="holds the result of another chain"):
        other.compute()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(DestinationError, match="holds files already"):
        beside.compute()
    assert files_of(tmp_path / "a") == files_of(source)
    assert os.listdir(tmp_path / "b") == ["mine.txt"]


@pytest.mark.parametrize("url", ["s3://bucket/a b.zarr/out", "s3a://bucket/a%20b.zarr/out"])
def test_a_source_is_known_by_its_other_urls(url):
    with pytest.raises(DestinationError, match="is, or is inside, the source"):
        check_apart(url, Config(Directory("s3://bucket/a%20b.zarr")))


def test_nothing_opens_a_copy_that_is_being_made_again(source, tmp_path):
    """Otherwise, a reader would see chunks of both runs with the metadata of the first one."""
    store, mended = division(source), tmp_path / "mended"
    mended.touch()
    chain = Fail(blocks(store)[1], str(mended)), CopyTo(tmp_path / "copy")
    store.map_shards(*chain)
    mended.unlink()
    with pytest.raises(ShardsFailed, match="1 of 24 shards failed"):
        store.map_shards(*chain, overwrite=True)
    assert not (tmp_path / "copy" / "zarr.json").exists()
    assert not (tmp_path / f"copy{BESIDE}" / FILE_NAME).exists()
    mended.touch()
    assert store.map_shards(*chain).summary.done == 1
    assert files_of(tmp_path / "copy") == files_of(source)


def test_other_files_are_not_written_among(source, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine.txt").touch()
    for overwrite in (False, True):
        with pytest.raises(
            DestinationError, match="holds files already, and one ordinary Zarr can't stand beside them"
        ):
            division(source).map_shards(CopyTo(tmp_path / "copy"), overwrite=overwrite)
    assert os.listdir(tmp_path / "copy") == ["mine.txt"]


def test_another_chain_is_not_mixed_in(source, tmp_path):
    division(source).map_shards(CopyTo(tmp_path / "copy"))
    for overwrite in (False, True):
        with pytest.raises(DestinationError, match="holds the result of another chain"):
            division(source).map_shards(Recompress("gzip"), CopyTo(tmp_path / "copy"), overwrite=overwrite)
    assert files_of(tmp_path / "copy") == files_of(source)


def test_places_in_and_around_the_source_are_refused(source, tmp_path):
    with pytest.raises(DestinationError, match="is, or is inside, the source"):
        division(source).map_shards(CopyTo(Path(source) / "copy"))
    with pytest.raises(DestinationError, match=r"the source '.*source\.zarr' lies inside the destination"):
        division(source).map_shards(CopyTo(Path(source).parent))


def test_a_new_data_type_and_codec_are_read_by_zarr(source, tmp_path):
    chain = MapChunks(halved, dtype="f8", fill_value=-1.0), Recompress("zstd"), CopyTo(tmp_path / "copy")
    store = division(source)
    store.map_shards(*chain)
    old, new = zarr.open_group(source, mode="r"), zarr.open_group(tmp_path / "copy", mode="r")
    arrays = [path for path, node in old.members(max_depth=None) if isinstance(node, zarr.Array)]
    assert arrays
    for path in arrays:
        np.testing.assert_array_equal(new[path][...], old[path][...] / 2)


def halved(chunk, position):
    return chunk.astype("f8") / 2


def test_the_config_beside_a_copy_opens_it(source, tmp_path):
    division(source).map_shards(CopyTo(tmp_path / "copy"))
    loaded = ShardedStore.load(tmp_path / f"copy{BESIDE}")
    check_same_contents(loaded, CUBE.contents())


def test_the_layout_is_one_of_two():
    with pytest.raises(ChainError, match="CopyTo's layout is 'zips': use 'zarr' or 'shards'"):
        CopyTo("out", layout="zips")


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import dask
from helpers_jobs import KillOnce, division
from shardedstore.transforms import CopyTo

source, copy, shard, mended = sys.argv[2:]
with dask.config.set(scheduler="synchronous"):
    division(source).map_shards(KillOnce(shard, 2, mended), CopyTo(copy))
"""


def test_a_killed_copy_is_continued(source, tmp_path):
    store, mended = division(source), tmp_path / "mended"
    shard = blocks(store)[2]
    arguments = [TESTS, source, tmp_path / "copy", shard, mended]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode == -signal.SIGKILL
    assert not zarr.storage.LocalStore(tmp_path / "copy").root.joinpath("zarr.json").exists()
    mended.touch()
    summary = store.map_shards(KillOnce(shard, 2, str(mended)), CopyTo(tmp_path / "copy")).summary
    assert summary.skipped > 0
    assert files_of(tmp_path / "copy") == files_of(source)


@pytest.mark.parametrize(
    "name", ["._.zmetadata", "old.zmetadata", "zmetadata", "x.zarr.json", "._zarr.json", "_.zattrs"]
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_files_whose_names_end_like_those_of_metadata_are_files(tmp_path, zarr_format, name):
    """AppleDouble writes such names, and users who keep an old document."""
    source = tmp_path / "s.zarr"
    zarr.create_group(source, zarr_format=zarr_format).create_array("a", data=np.arange(4))
    zarr.consolidate_metadata(source)
    for folder in ("", "a"):
        (source / folder / name).write_bytes(b"Mac OS X")
    store = ShardedStore.partition(source)
    for steps in ((), (Recompress("gzip"),)):
        new = store.map_shards(*steps, CopyTo(tmp_path / f"out{len(steps)}"))
        assert (tmp_path / f"out{len(steps)}/a/{name}").read_bytes() == b"Mac OS X"
        assert new.verify().ok
        assert new.verify(store).ok
