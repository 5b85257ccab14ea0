"""Consolidated metadata of a group in one object: it is in the object, which opens separately."""

import itertools
import warnings

import dask
import numpy as np
import pytest
import zarr
from helpers_jobs import files_of
from zarr.storage import LocalStore, ZipStore

from shardedstore import ShardedStore, step
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToZip

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning"),
]
FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])
SINKS = {"zips": ToZip, "folders": lambda url: CopyTo(url, layout="shards")}
DIVISIONS = {"one object": {}, "beside divided arrays": {"t": (2, -1), "g": "whole"}, "in the base": {"t": (2, -1)}}
STEPS = {"none": [], "recompress": [Recompress("zstd", level=1)], "migrate": [MigrateV3()]}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def make(path, zarr_format, groups=("", "g", "g/h")):
    """An array at the root, and nested groups, some with consolidated metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.create_group(path, zarr_format=zarr_format, attributes={"title": "x"})
        for name in ("t", "g/u", "g/h/v", "other/w"):
            array = root.create_array(name, shape=(4, 6), chunks=(1, 3), dtype="i4", attributes={"units": "m"})
            array[...] = np.arange(24).reshape(4, 6)
        (path / "g/README").write_text("a file")
        for group in sorted(groups, reverse=True):
            zarr.consolidate_metadata(str(path), path=group)
    return path


def opened(result, mount=None):
    """The contents of the base or of a mount, opened by zarr alone."""
    location = result.config.base if mount is None else result.config.shards[mount].location
    location = getattr(location, "source", location)
    return ZipStore(location.url, mode="r") if ".zip" in location.url else LocalStore(location.url, read_only=True)


def members(store, group, **options):
    found = zarr.open_group(store, mode="r", path=group, **options)
    return found, sorted(name for name, _ in found.members(max_depth=None))


def is_consolidated(store, group):
    return zarr.open_group(store, mode="r", path=group).metadata.consolidated_metadata is not None


def described(store, group):
    """The nodes in consolidated metadata, as zarr reads it."""
    found = zarr.open_group(store, mode="r", path=group, use_consolidated=True)
    return sorted(
        (path, str(node.metadata.attributes), getattr(node, "shape", ()))
        for path, node in found.members(max_depth=None)
    )


# Each division with each choice; the formats, sinks and steps take turns.
CASES = [
    (division, consolidated, *case)
    for i, (division, consolidated) in enumerate(itertools.product(DIVISIONS, [None, True, False]))
    for j, case in enumerate(itertools.product([2, 3], SINKS, STEPS))
    if (i + j) % 3 == 0 and case[0::2] != (3, "migrate")
]


@pytest.mark.few(4)
@pytest.mark.parametrize(("division", "consolidated", "zarr_format", "sink", "steps"), CASES)
def test_it_stands_in_the_object(tmp_path, zarr_format, sink, division, steps, consolidated):
    source, out = make(tmp_path / "in.zarr", zarr_format), tmp_path / "out"
    store = ShardedStore.partition(source, DIVISIONS[division])
    result = store.map_shards(*STEPS[steps], SINKS[sink](out), consolidated=consolidated)
    is_whole, wanted = division == "one object", consolidated is not False
    groups = {"": "", "g": "g", "g/h": "g/h"} if is_whole else {"g": "g", "g/h": "g/h"}
    start = "g" if division == "beside divided arrays" else ""
    alone = opened(result, start or None)
    for group in groups:
        inside = group.removeprefix(start).lstrip("/")
        assert is_consolidated(alone, inside) is wanted
        assert is_consolidated(result, group) is wanted
        if wanted:
            found, names = members(alone, inside, use_consolidated=True)
            assert names == members(source, group, use_consolidated=False)[1]
            assert found.metadata.consolidated_metadata == members(result, group)[0].metadata.consolidated_metadata
            if steps == "none":
                assert str(described(alone, inside)) == str(described(LocalStore(source), group))
    assert is_consolidated(result, "") is wanted
    assert (result.config.consolidated is not None) is (wanted and not is_whole)
    overlay = {name for name in files_of(out) if name.startswith("__consolidated__")}
    assert len(overlay) == (1 if wanted and not is_whole else 0)
    assert result.verify().ok
    assert result.verify(store).ok
    again = store.map_shards(*STEPS[steps], SINKS[sink](out), consolidated=consolidated)
    assert again.summary.done == 0
    assert result.config == again.config == ShardedStore.load(out).config


@FORMATS
def test_equal_input_gives_equal_bytes(tmp_path, zarr_format):
    store = ShardedStore.partition(make(tmp_path / "in.zarr", zarr_format), {})
    found = []
    for out in (tmp_path / "a", tmp_path / "b"):
        store.map_shards(Recompress("zstd", level=1), ToZip(out))
        found.append({name: data for name, data in files_of(out).items() if name.endswith(".zip")})
    assert found[0] == found[1] != {}


@FORMATS
@pytest.mark.parametrize("shards", [{"g/*": 1}, {"g/h": "whole"}])
def test_a_group_above_what_is_mounted_has_none_in_its_object(tmp_path, zarr_format, shards):
    """Otherwise, it would name missing nodes."""
    store = ShardedStore.partition(make(tmp_path / "in.zarr", zarr_format, ("", "g")), shards)
    result = store.map_shards(ToZip(tmp_path / "out"))
    base = opened(result)
    assert not is_consolidated(base, "")
    assert not is_consolidated(base, "g")
    assert is_consolidated(result, "")
    assert is_consolidated(result, "g")


@FORMATS
def test_true_for_a_source_without(tmp_path, zarr_format):
    source = make(tmp_path / "in.zarr", zarr_format, ())
    result = ShardedStore.partition(source, {}).map_shards(ToZip(tmp_path / "out"), consolidated=True)
    zarr.consolidate_metadata(str(source))
    assert described(opened(result), "") == described(LocalStore(source), "")


@FORMATS
@pytest.mark.parametrize("path", ["g/u", "other/w", "t"])
def test_a_change_below_makes_it_again(tmp_path, zarr_format, path):
    source, out = make(tmp_path / "in.zarr", zarr_format), tmp_path / "out"
    division = DIVISIONS["beside divided arrays"]
    ShardedStore.partition(source, division).map_shards(ToZip(out), digest=True)
    array = zarr.open_array(source, path=path, mode="r+")
    array.resize((6, 6))
    array[4:] = 7
    for group in ("g/h", "g", ""):
        zarr.consolidate_metadata(str(source), path=group)
    store = ShardedStore.partition(source, division)
    result = store.map_shards(ToZip(out), digest=True)
    assert result.verify(store).ok
    for group in ("", "g", "g/h"):
        found = zarr.open_group(result, mode="r", path=group, use_consolidated=True)
        assert (
            dict(found.members(max_depth=None)).keys()
            == dict(zarr.open_group(source, path=group).members(max_depth=None)).keys()
        )
    assert zarr.open_group(result, mode="r", use_consolidated=True)[path].shape == (6, 6)
    if path == "g/u":
        assert zarr.open_group(opened(result, "g"), mode="r", use_consolidated=True)["u"].shape == (6, 6)


def late(entries, shard):
    """Yield a document last."""
    kept = []
    for entry in entries:
        if entry.key.endswith(("u/.zarray", "u/zarr.json")):
            kept.append(entry)
        else:
            yield entry
    yield from kept


@FORMATS
def test_a_document_that_comes_late_is_refused(tmp_path, zarr_format):
    store = ShardedStore.partition(make(tmp_path / "in.zarr", zarr_format), {})
    with pytest.raises(ExceptionGroup) as failed:
        store.map_shards(step(late, name="late", version="1"), ToZip(tmp_path / "out"))
    assert failed.group_contains(Exception, match="comes after chunks or other files")
    result = store.map_shards(step(late, name="late", version="1"), ToZip(tmp_path / "out"), consolidated=False)
    assert zarr.open_group(result, mode="r")["g/u"][0, 1] == 1
