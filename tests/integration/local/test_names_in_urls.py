"""Unusual names of arrays: results are equal on disks, web servers and in buckets, also after a move between them."""

import numpy as np
import pytest
import servers
import zarr

from shardedstore import ChainError, ShardedStore
from shardedstore.storage.folders import open_folder
from shardedstore.storage.options import NONE
from shardedstore.storage.urls import carried_name
from shardedstore.transforms import CopyTo, ToZip

NAMES = [
    "perc%20x", "%41", "100%", "%zz", "num#ber", "ask?x", "tab\tx", "new\nline", "back\\slash", "sp ace", "ünï", "日本",
    "plus+x", "amp&x", "semi;x", "eq=x", 'quo"te', "apo'x", "br{ace}", "[x]", "<x>", "pipe|x", "caret^x", "tick`x", "til~x",
    "at@x", "col:on", "star*x", "!25", "!", "comma,x", "$x", "(x)", "a!2541", " lead", "trail ", "dot.", "{block}", "{name}",
]  # fmt: skip
CARRIED = [name for name in NAMES if name.isprintable()]  # in folders, where a client must name each file
SINKS = {
    "zips": ToZip,
    "flat zips": lambda url, **options: ToZip(url, name="{path}-{block}.zip", **options),
    "folders": lambda url, **options: CopyTo(url, layout="shards", **options),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Arrays of each name: divided, whole and in the base."""
    folder = tmp_path_factory.mktemp("names") / "in.zarr"
    root = zarr.create_group(folder)
    for number, name in enumerate(NAMES):
        for place in ("divided", "whole", "base"):
            root.create_array(f"{place}/{name}", data=np.arange(4, dtype="i2") + number + 1, chunks=(2,))
    return folder


def partitioned(source, names=NAMES):
    left_out = [f"{place}/{name}" for name in NAMES if name not in names for place in ("divided", "whole", "base")]
    return ShardedStore.partition(source, {"divided/*": (2,), "whole/*": "whole"}, exclude=left_out or None)


def check_values(store, names=NAMES):
    root = zarr.open_group(store, mode="r", use_consolidated=False)
    for number, name in enumerate(NAMES):
        for place in ("divided", "whole", "base") if name in names else ():
            found = root[f"{place}/{name}"][...]
            np.testing.assert_array_equal(found, np.arange(4) + number + 1, err_msg=f"{place}/{name}")


@pytest.mark.few(1)
@pytest.mark.parametrize("sink", SINKS)
def test_a_local_result_is_served_by_a_web_server(sink, source, tmp_path):
    result = partitioned(source).map_shards(SINKS[sink](tmp_path / "out"))
    check_values(result)
    with servers.web(tmp_path) as url:
        there = ShardedStore.load(f"{url}/out", storage_options={"allow_http": True})
        check_values(there, CARRIED if sink == "folders" else NAMES)


@pytest.mark.few(1)
@pytest.mark.parametrize("sink", SINKS)
def test_a_result_is_moved_into_a_bucket_and_back(sink, source, bucket, tmp_path):
    names = CARRIED if sink == "folders" else NAMES
    store = partitioned(source, names)
    store.map_shards(SINKS[sink](tmp_path / "out"))
    copy(tmp_path / "out", f"{bucket.url}/up")
    there = ShardedStore.load(f"{bucket.url}/up")
    check_values(there, names)
    assert there.verify(level="exists").ok
    store.map_shards(SINKS[sink](f"{bucket.url}/made"))
    check_values(ShardedStore.load(f"{bucket.url}/made"), names)
    copy(f"{bucket.url}/made", tmp_path / "down")
    back = ShardedStore.load(tmp_path / "down")
    check_values(back, names)
    assert back.verify(level="exists").ok


def test_names_that_no_client_of_an_object_store_writes_are_refused(source):
    with pytest.raises(ChainError, match=r"'base/new.nline' has control characters.*use ToZip"):
        partitioned(source).map_shards(CopyTo("s3://bucket/out", layout="shards"))


def copy(before, after):
    """Copy objects by their names, like copying tools."""
    source, target = open_folder(str(before), NONE), open_folder(str(after), NONE)
    for name, _ in source.sizes():
        target.write(name, source.read(name))


def test_no_two_names_become_one():
    assert len(set(map(carried_name, NAMES))) == len(NAMES)


@pytest.mark.parametrize("name", ["{path}%.zip", "{path}#{block}.zip", "a?/{path}/{block}.zip"])
def test_a_template_with_what_urls_cant_carry_is_refused(name, tmp_path):
    with pytest.raises(ChainError, match="has characters that URLs can't hold"):
        ToZip(tmp_path, name=name)


def test_names_that_windows_cant_hold_are_reported(tmp_path):
    root = zarr.create_group(tmp_path / "in.zarr")
    for name in ("con", "aux.x", "a:b", "q?", "dot.", "T", "t", "fine", ".hidden", "confer"):
        root.create_array(name, data=np.arange(2), chunks=(1,))
    for sink in (ToZip(tmp_path / "a"), CopyTo(tmp_path / "b"), CopyTo(tmp_path / "c", layout="shards")):
        notices = ShardedStore.partition(tmp_path / "in.zarr", []).map_shards(sink).summary.notices
        assert {(notice.text, notice.arrays) for notice in notices} == {
            ("Windows and SMB can't hold these names", ("a:b", "aux.x", "con", "dot.", "q?")),
            ("Windows and macOS treat these names as equal", ("T", "t")),
        }
