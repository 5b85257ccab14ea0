"""Partitions: the rules, and that the divided view is the same Zarr for every source and kind of store."""

import json
import os
import warnings

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from conformance import check_pickles, check_read_only, check_same_contents, check_values, get
from sources import (
    COMBINATIONS,
    KEYS,
    KINDS,
    SOURCES,
    Recording,
    build,
    cube,
    groups_of,
    to_folder,
    to_memory,
    to_zip,
    tree,
)

from shardedstore import ConfigError, CorruptError, PartitionError, ShardedStore, ShardedStoreError, UsageError
from shardedstore.stores.locations import Directory, ViewOf, Zip
from shardedstore.transforms import CopyTo, ToZip
from shardedstore.zarr.grid import Blocks, ChunkKeys


def divided(source, store):
    return ShardedStore.partition(store, SOURCES[source].shards)


def mounts_of(store):
    """The mounted paths with their numbers of shards."""
    return {path: 1 if m.blocks is None else m.blocks.count for path, m in store.config.shards.items()}


def grids_of(store):
    """The mounted paths with their grids of blocks; None for a whole path."""
    return {path: None if m.blocks is None else m.blocks.grid for path, m in store.config.shards.items()}


@pytest.fixture(scope="module")
def source():
    """A cube of Zarr v3: temperature, wind_u and wind_v of (7, 5, 4) elements, simulation/{coarse,fine}/field ..."""
    return to_memory(build(cube, "v3/"))


def document(**fields):
    """The document of an array of Zarr v3, with some fields changed."""
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [100, 40],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10, 10]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "dimension_names": ["y", None],
    }
    return {"a/zarr.json": json.dumps(array | fields).encode(), **GROUP}


GROUP = {"zarr.json": b'{"zarr_format": 3, "node_type": "group"}'}

# The view is the same Zarr


@pytest.mark.few(8)
@pytest.mark.parametrize(("source", "kind"), COMBINATIONS)
def test_view_is_the_same(source, kind, tmp_path):
    contents = SOURCES[source].contents()
    store = divided(source, KINDS[kind](contents, tmp_path))
    assert mounts_of(store) == SOURCES[source].mounts
    check_same_contents(store, contents)
    check_read_only(store)


@pytest.mark.parametrize("kind", ["path", "zip"])
@pytest.mark.parametrize("source", ["cube-v2.", "others-v3", "root-array-v3"])
def test_view_pickles(source, kind, tmp_path):
    contents = SOURCES[source].contents()
    store = divided(source, KINDS[kind](contents, tmp_path))
    check_values(check_pickles(store), contents)


def test_view_of_memory_pickles():
    contents = SOURCES["cube-v3/"].contents()
    store = divided("cube-v3/", to_memory(contents))
    check_values(check_pickles(store), contents)


@pytest.mark.parametrize("source", SOURCES)
def test_zarr_sees_the_same(source, tmp_path):
    contents = SOURCES[source].contents()
    memory = to_memory(contents)
    view = divided(source, to_folder(contents, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # data types without a specification
        if "" in groups_of(contents):
            expected, seen = (zarr.open_group(store, mode="r") for store in (memory, view))
            assert dict(seen.attrs) == dict(expected.attrs)
            nodes, expected_nodes = (dict(group.members(max_depth=None)) for group in (seen, expected))
        else:
            nodes, expected_nodes = ({"": zarr.open_array(store, mode="r")} for store in (view, memory))
    assert nodes.keys() == expected_nodes.keys()
    for path, node in nodes.items():
        assert str(node.metadata.to_dict()) == str(expected_nodes[path].metadata.to_dict())  # NaN is not NaN
        if isinstance(node, zarr.Array):
            np.testing.assert_array_equal(node[...], expected_nodes[path][...])


def test_a_group_opens_in_the_default_mode_and_refuses_to_write(source):
    """The default mode of `zarr.open_group` is "a"."""
    group = zarr.open_group(ShardedStore.partition(source, 100))
    assert group["temperature"].shape == (7, 5, 4)
    with pytest.raises(ValueError, match="ShardedStore can't be written to: map it with map_shards to change it"):
        group["temperature"][0] = 1


def test_zarr_opens_without_a_mode(source):
    view = ShardedStore.partition(source, 100)
    assert zarr.open(view)["temperature"].shape == (7, 5, 4)
    assert zarr.open(view, path="simulation/fine/field").shape == (6, 4)


@pytest.mark.few(5)
@pytest.mark.parametrize("source", [name for name, source in SOURCES.items() if source.for_xarray])
def test_xarray_sees_the_same(source, tmp_path):
    contents = SOURCES[source].contents()
    view = divided(source, to_folder(contents, tmp_path))
    consolidated = True if source.startswith("consolidated") else None if source.startswith("dataset") else False
    options = {"engine": "zarr", "consolidated": consolidated}
    with xr.open_datatree(to_memory(contents), **options) as expected, xr.open_datatree(view, **options) as seen:
        assert len(expected.variables) + len(expected.children) > 0
        xr.testing.assert_identical(seen.load(), expected.load())
    for group in sorted(groups_of(contents)):
        options = {"group": group or None, "consolidated": False, "chunks": None}
        with xr.open_zarr(to_memory(contents), **options) as expected, xr.open_zarr(view, **options) as seen:
            xr.testing.assert_identical(seen.load(), expected.load())


def test_xarray_sees_what_was_written(tmp_path):
    """Compared with the original data of xarray, not only with the source through the same reader."""
    view = divided("dataset-v3", to_folder(SOURCES["dataset-v3"].contents(), tmp_path))
    with xr.open_datatree(view, engine="zarr") as seen:
        xr.testing.assert_equal(seen.load(), tree())


def test_source_is_seen_as_it_is_now(tmp_path):
    """Nothing is copied: a chunk that is written later is visible."""
    folder = to_folder(build(cube, "v3/"), tmp_path)
    view = ShardedStore.partition(folder, {"temperature": {"time": 2}})
    (folder / "temperature/c/3/2/1").write_bytes(b"new")
    assert get(view, "temperature/c/3/2/1") == b"new"


def test_zip_is_opened_once(tmp_path, monkeypatch):
    """The directory of a zip is read once, for any number of blocks of a view."""
    contents, path = build(cube, "v3/"), tmp_path / "a.zip"
    view = ShardedStore.partition(to_zip(contents, path), 16)
    assert sum(mounts_of(view).values()) > 50
    opened = []
    monkeypatch.setattr(os, "open", lambda *args, real=os.open: opened.append(args[0]) or real(*args))
    check_values(view, contents)
    assert opened == [str(path)]


# Calls on it


def calls_are_of_metadata_only(calls, contents):
    groups = groups_of(contents)
    for call, key in calls:
        if call == "get":
            assert key.rpartition("/")[2] in {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}
        else:
            assert call == "list_dir", f"{call}({key!r})"
            assert key.strip("/") in groups, f"list_dir({key!r}) of a path that is no group"
    return True


OPENERS = {
    "zarr.open_group": lambda store: dict(zarr.open_group(store, mode="r").members(max_depth=None)),
    "xr.open_zarr": lambda store: xr.open_zarr(store, chunks={}, consolidated=False),
    "xr.open_zarr of a group": lambda store: xr.open_zarr(store, group="simulation/fine", consolidated=False),
    "xr.open_datatree": lambda store: xr.open_datatree(store, engine="zarr", chunks={}, consolidated=False),
}


@pytest.mark.parametrize(
    "source", ["cube-v2.", "cube-v2/", "cube-v3/", "cube-v3.", "consolidated-v2", "consolidated-v3"]
)
def test_partitioning_reads_metadata_only(source):
    contents = SOURCES[source].contents()
    recording = Recording(to_memory(contents))
    divided(source, recording)
    assert calls_are_of_metadata_only(recording.calls, contents)
    assert ("list_dir", "simulation") in recording.calls


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    "source", ["cube-v2.", "cube-v2/", "cube-v3/", "cube-v3.", "consolidated-v2", "consolidated-v3"]
)
def test_opening_reads_metadata_only(source, opener):
    """The arrays of these sources have no index coordinates, which xarray would read."""
    contents = SOURCES[source].contents()
    recording = Recording(to_memory(contents))
    view = divided(source, recording)
    recording.calls.clear()
    OPENERS[opener](view)
    assert recording.calls
    assert calls_are_of_metadata_only(recording.calls, contents)


def test_a_chunk_takes_one_get(source):
    recording = Recording(source)
    view = divided("cube-v3/", recording)
    recording.calls.clear()
    assert get(view, "temperature/c/3/2/1") is not None
    assert recording.calls == [("get", "temperature/c/3/2/1")]


# Meaning of `shards`


FIELDS = {"simulation/coarse/field", "simulation/fine/field"}


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ("1 GiB", {}),
        (100, {"temperature": (4, 3), "wind_u": (3, 1, 2), "wind_v": (3, 1, 2)}),
        ("0.1 kB", {"temperature": (4, 3), "wind_u": (3, 1, 2), "wind_v": (3, 1, 2)}),
        ([], {}),
        ({}, {}),
        (["temperature", "simulation/fine"], {"temperature": None, "simulation/fine": None}),
        (("simulation",), {"simulation": None}),
        pytest.param(
            iter(["simulation/*"]), {"simulation/coarse": None, "simulation/fine": None}, id="an iterator of paths"
        ),
        (["wind_[a-z]"], {"wind_u": None, "wind_v": None}),
        (["wind_[!u]"], {"wind_v": None}),
        (["**/field"], dict.fromkeys(sorted(FIELDS))),
        (["simulation/**"], {"simulation/coarse": None, "simulation/fine": None}),
        (["*/*/field"], dict.fromkeys(sorted(FIELDS))),
        ({"temperature": {"time": 2}}, {"temperature": (4,)}),
        ({"temperature": {"x": 3, "time": 4}}, {"temperature": (2, 1, 2)}),
        ({"temperature": {"time": -1, "y": 2}}, {"temperature": (1, 3)}),
        ({"temperature": {"time": 700}}, {"temperature": (1,)}),
        ({"temperature": {"time": 7}}, {"temperature": (1,)}),
        ({"temperature": (2, -1, -1)}, {"temperature": (4,)}),
        ({"temperature": [-1, 4, 3]}, {"temperature": (1, 2, 2)}),
        ({"temperature": (-1, -1, -1)}, {"temperature": (1,)}),
        ({"wind_*": (3, -1, -1)}, {"wind_u": (3,), "wind_v": (3,)}),
        ({"wind_u": 100}, {"wind_u": (3, 1, 2)}),
        ({"crs": "whole"}, {"crs": None}),
        ({"simulation": 32}, {"simulation/coarse/field": (2,), "simulation/fine/field": (3,)}),
        ({"**": {"row": 2, "column": 2}}, {"simulation/coarse/field": (2, 2), "simulation/fine/field": (3, 2)}),
    ],
    ids=str,
)
def test_forms(source, shards, expected):
    assert grids_of(ShardedStore.partition(source, shards)) == expected


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        pytest.param({"*": 10, "temperature": (4, -1, -1)}, (2,), id="path before *"),
        pytest.param({"temp*": (4, -1, -1), "*": 10}, (2,), id="glob before *"),
        pytest.param({"temp*": (2, -1, -1), "temperature": (4, -1, -1)}, (2,), id="path before glob"),
        pytest.param({"temp*": (2, -1, -1), "temperat*": (4, -1, -1)}, (2,), id="longer glob before shorter"),
        pytest.param({"t[a-z]*": (2, -1, -1), "temp*": (4, -1, -1)}, (2,), id="letters of a class do not count"),
        pytest.param({"temp*": (4, -1, -1), "*ture": (2, -1, -1)}, (2,), id="of equals the first"),
        pytest.param({"*ture": (2, -1, -1), "temp*": (4, -1, -1)}, (4,), id="of equals the first, again"),
        pytest.param({"**": 64, "*": 300}, (4, 3, 2), id="** before *"),
        pytest.param({"*": 300, "*e*": {"level": 4}, "*re": (4, 4)}, (4,), id="that has its dimensions"),
    ],
)
def test_most_specific_wins(source, shards, expected):
    assert grids_of(ShardedStore.partition(source, shards))["temperature"] == expected


def test_more_segments_are_more_specific(source):
    view = ShardedStore.partition(source, {"simulation**": (2, -1), "*/*/f*": (-1, 2)})
    assert grids_of(view) == dict.fromkeys(sorted(FIELDS), (1, 2))


def test_star_is_what_is_left(source):
    """In `{..., "*": "whole"}`, each other node at the top is a shard, but not the root."""
    view = ShardedStore.partition(source, {"temperature": {"time": 4}, "*": "whole"})
    assert grids_of(view) == {
        "temperature": (2,),
        **dict.fromkeys(["crs", "height", "simulation", "wind_u", "wind_v"]),
    }
    check_same_contents(view, build(cube, "v3/"))


def test_two_stars_are_what_is_left(source):
    view = ShardedStore.partition(source, {"temperature": {"time": 4}, "**": "whole"})
    assert grids_of(view)["temperature"] == (2,)
    assert grids_of(view)["simulation"] is None


def test_root_is_whole_as_it_is(source):
    assert grids_of(ShardedStore.partition(source, {"": "whole"})) == {}


def test_size_for_the_root_holds_below(source):
    assert grids_of(ShardedStore.partition(source, {"": 32}))["simulation/fine/field"] == (3,)


def test_unnamed_dimensions_and_unknown_encodings_are_carried_whole():
    contents = document(chunk_key_encoding={"name": "fancy"}) | {"a/x:1": b"chunk"}
    view = ShardedStore.partition(to_memory(contents), 10)
    assert grids_of(view) == {}
    check_same_contents(view, contents)


@pytest.mark.parametrize("keys", KEYS)
def test_blocks_know_their_keys(keys):
    view = ShardedStore.partition(to_memory(build(cube, keys)), {"temperature": {"time": 4}})
    assert view.config.shards["temperature"].blocks == Blocks((4, 3, 2), (2,), ChunkKeys(*KEYS[keys][1:]))


def test_locations(tmp_path):
    contents = build(cube, "v3/")
    folder, file = to_folder(contents, tmp_path / "a"), to_zip(contents, tmp_path / "b.ZIP")
    (tmp_path / "c.zip").symlink_to(folder)
    for source, base in (folder, Directory(f"{folder}")), (file, Zip(f"{file}")):
        config = ShardedStore.partition(source, ["simulation"]).config
        assert (config.base, config.shards["simulation"].location) == (base, ViewOf(base, "simulation"))
    assert ShardedStore.partition(tmp_path / "c.zip").config.base == Directory(f"{tmp_path}/c.zip")


# Refused divisions


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        # paths
        (["temperatur"], r"shards names 'temperatur', but the source has no such group or array; it has 'crs'"),
        ({"simulation/fine/c": 10}, "names 'simulation/fine/c', but the source has no such group or array"),
        (["wnd_*"], r"shards names the glob 'wnd_\*', which matches no group or array of the source; it has 'crs'"),
        ({"simulation/*/fild": 32}, "'simulation/.*/fild', which matches no group or array"),
        ({"wnd_*": {"time": 2}, "*": 10}, "which matches no group or array"),
        (["temperature/c/0"], "names 'temperature/c/0', but the source has no such group or array"),
        (["a/../b"], r"shards names the path 'a/\.\./b' has a segment '\.\.'"),
        (["/temperature"], "'/temperature' has an empty segment"),
        (["temperature/"], "'temperature/' has an empty segment"),
        (["simulation//fine"], "'simulation//fine' has an empty segment"),
        (["./temperature"], r"'\./temperature' has a segment '\.'"),
        (["../*"], r"'\.\./\*' has a segment '\.\.'"),
        (["a\0"], "has a segment"),
        ({3: "whole"}, "shards names 3, which is not a path"),
        ([("a", "whole")], r"shards names \('a', 'whole'\), which is not a path"),
        (["temp[z-a]"], r"shards names the glob 'temp\[z-a\]', which is not valid"),
        # overlaps
        (
            ["simulation", "simulation/fine"],
            "shards overlap: 'simulation' is one whole shard by 'simulation', and 'simul",
        ),
        (["simulation*", "*/fine"], r"overlap: 'simulation' is one whole shard by 'simulation\*', and '\*/fine' names"),
        ({"s*": "whole", "*/*/field": {"row": 2}}, r"by 's\*', and '\*/\*/field' names 'simulation/coarse/field'"),
        ({"*": "whole", "simulation/fine": "whole"}, r"'simulation' is one whole shard by '\*', and 'simulation/fine'"),
        # sizes
        (
            {"temperature": {"time": 3}},
            "temperature' have 3 elements along dimension 'time', .* chunk size 2: use 2 or 4",
        ),
        ({"temperature": {"x": 2}}, "2 elements along dimension 'x', .* chunk size 3: use 3"),
        ({"temperature": (4, 1, -1)}, "1 elements along dimension 'y', .* chunk size 2: use 2"),
        ({"temp*": {"time": 5}}, "5 elements along dimension 'time', .* use 4 or 6"),
        (
            {"temperature": {"time": 0}},
            r"shards\['temperature'\] has the size 0: a size must be a whole number of elements",
        ),
        ({"temperature": {"time": -2}}, "has the size -2"),
        ({"temperature": {"time": 2.0}}, r"has the size 2\.0"),
        ({"temperature": {"time": True}}, "has the size True"),
        ({"temperature": {"time": "2"}}, "has the size '2'"),
        ({"temperature": {"time": None}}, "has the size None"),
        ({"temperature": (2, -1, 1.5)}, r"has the size 1\.5"),
        ({"temperature": ()}, "has the size 'nothing'"),
        ({"temperature": {}}, "has the size 'nothing'"),
        ({"temperature": (2, -1)}, r"shards\['temperature'\] has 2 sizes, but the array has 3 dimensions"),
        ({"crs": (2,)}, r"shards\['crs'\] has 1 sizes, but the array has 0 dimensions"),
        # dimensions
        ({"temperature": {"tyme": 2}}, "'temperature' has no dimension 'tyme': it has 'time', 'y', 'x'"),
        ({"crs": {"time": 2}}, "'crs' has no dimension 'time': it has no named dimensions"),
        (
            {"temp*": {"tyme": 2}},
            r"shards\['temp\*'\] names the dimension 'tyme', but no array that it matches has this dimension",
        ),
        ({"simulation": {"y": 2}}, "'simulation' is a group, which can't be divided by a shape: use 'whole'"),
        ({"simulation": (2, -1)}, "'simulation' is a group, which can't be divided by a shape"),
        # sizes in bytes
        ("much", r"shards\['\*'\] is 'much': write 'whole', or a size like '512 MiB'; names of arrays are a list"),
        ("", r"shards\['\*'\] is ''"),
        ("-1 GiB", r"shards\['\*'\] is '-1 GiB'"),
        ("0 GiB", r"shards\['\*'\] is '0 GiB'"),
        ("1 XiB", r"shards\['\*'\] is '1 XiB'"),
        ("1e3", r"shards\['\*'\] is '1e3'"),
        (0, r"shards\['\*'\] is 0"),
        (-5, r"shards\['\*'\] is -5"),
        (True, r"shards\['\*'\] is True"),
        (1.5, r"shards=1\.5 is not a size, a mapping or a list of paths"),
        (None, "shards=None is not a size"),
        ({"temperature": None}, r"shards\['temperature'\] is None: write 'whole', a size"),
        ({"temperature": 1.5}, r"shards\['temperature'\] is 1\.5"),
    ],
    ids=str,
)
def test_refused(source, shards, message):
    with pytest.raises(UsageError, match=message):
        ShardedStore.partition(source, shards)


def test_a_dimension_without_a_name_is_called_by_its_number():
    with pytest.raises(PartitionError, match=r"5 elements along dimension 1, .* chunk size 10: use 10"):
        ShardedStore.partition(to_memory(document()), {"a": (-1, 5)})


@pytest.mark.parametrize(
    "fields",
    [
        {"chunk_key_encoding": {"name": "fancy"}},
        {"chunk_grid": {"name": "rectilinear", "configuration": {"chunk_shapes": [[10], [40]]}}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_grid_that_is_not_known_can_not_be_divided(fields):
    with pytest.raises(PartitionError, match="'a' has a chunk grid or chunk keys that can't be divided: use 'whole'"):
        ShardedStore.partition(to_memory(document(**fields)), {"a": (10, -1)})


@pytest.mark.parametrize("text", ["9" * 400 + " TB", "0.000000001 TB", " 7B ", "2kib"])
def test_any_number_is_a_size(source, text):
    assert isinstance(ShardedStore.partition(source, text), ShardedStore)


# Invalid sources


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "holds no Zarr: there is no zarr.json, .zgroup or .zarray at its root"),
        ({"a/zarr.json": b"{}"}, "holds no Zarr"),
        ({"zarr.json": b""}, "'zarr.json' is not JSON"),
        ({"zarr.json": b'{"zarr_format": 3'}, "'zarr.json' is not JSON"),
        ({"zarr.json": b"\xff"}, "'zarr.json' is not JSON"),
        ({"zarr.json": b"[" * 100_000}, "'zarr.json' is not JSON"),
        ({"zarr.json": b"[]"}, "'zarr.json' is not a JSON object"),
        ({"zarr.json": b"{}"}, r"'zarr.json' is not valid Zarr metadata \('zarr_format' is None, but must be 3 "),
        ({**GROUP, "a/zarr.json": b"?"}, "'a/zarr.json' is not JSON"),
        ({".zgroup": b'{"zarr_format": 2}', "a/.zarray": b'{"shape": [1]}'}, r"'a/.zarray' .*it has no 'chunks'"),
        ({".zgroup": b'{"zarr_format": 2}', ".zattrs": b"[", "a/.zarray": b"["}, "'a/.zarray' is not JSON"),
        (document(shape=None), "'a/zarr.json' is not valid Zarr metadata"),
        (document(shape=[-1, 40]), r"'shape' is \[-1, 40\], but must be a list of sizes"),
        (document(shape=[1.5, 40]), r"'shape' is \[1\.5, 40\], but must be a list of sizes"),
        (document(node_type="thing"), "'node_type' is 'thing', but must be 'array' or 'group'"),
        (document(chunk_grid="regular"), "'a/zarr.json' is not valid Zarr metadata"),
        (document(chunk_grid=None), "'a/zarr.json' is not valid Zarr metadata"),
        (document(chunk_key_encoding={"name": "default", "configuration": [1]}), "not valid Zarr metadata"),
        (document(data_type={"name": "x", "configuration": [1]}), "not valid Zarr metadata"),
        (document(data_type=None), "not valid Zarr metadata"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_sources(contents, message):
    with pytest.raises(ShardedStoreError, match=message):
        ShardedStore.partition(to_memory(contents))


def test_a_result_and_a_zarr_are_not_opened_as_one_another(tmp_path):
    source, out, copy = to_folder(SOURCES["cube-v3/"].contents(), tmp_path / "a"), tmp_path / "out", tmp_path / "copy"
    one_zip = tmp_path / "one.zarr.zip"
    with dask.config.set(scheduler="synchronous"):
        for sink in (ToZip(out), CopyTo(copy), ToZip(one_zip)):
            ShardedStore.partition(source, ["simulation"]).map_shards(sink)
    for result in (out, out / "shardedstore.json", tmp_path / "copy.shardedstore"):
        with pytest.raises(PartitionError, match=f"'{result}' is the result of a job: open it with ShardedStore.load"):
            ShardedStore.partition(result)
    assert len(ShardedStore.load(one_zip).shards) == 1
    for zarr_folder in (source, copy):
        with pytest.raises(ConfigError, match=f"; '{zarr_folder}' is a Zarr: open it with ShardedStore.partition"):
            ShardedStore.load(zarr_folder)
    with pytest.raises(ConfigError, match=r"No such file or directory$"):
        ShardedStore.load(tmp_path)


def test_a_source_that_does_not_exist(tmp_path):
    with pytest.raises(PartitionError, match=r"/no\.zarr' (can't be read: .* does not exist|holds no Zarr)"):
        ShardedStore.partition(tmp_path / "no.zarr")
    with pytest.raises(PartitionError, match=r"/no\.zip' can't be read: .*No such file"):
        ShardedStore.partition(tmp_path / "no.zip")


def test_a_zip_that_is_none(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip" * 100)
    with pytest.raises(CorruptError, match=r"a\.zip"):
        ShardedStore.partition(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/a.zarr", r"unknown URL scheme ftp:// in 'ftp://host/a.zarr': use one of s3"),
        ("memory://a", "unknown URL scheme memory://"),
        (
            "https://me:secret@host/a.zarr",
            "the URL 'https://host/a.zarr' holds credentials: pass them in environment variables",
        ),
        ("s3://key:secret@bucket/a", "the URL 's3://bucket/a' holds credentials"),
        ("ftp://me:secret@host/a", "in 'ftp://host/a'"),
        (
            "https://host/a.zarr?sig=secret",
            "the URL 'https://host/a.zarr' holds .*: pass them in environment variables",
        ),
        ("https://[host/a", "'https://.*' is not a URL"),
        ("s3://bucket/a.zarr#2", "the URL 's3://bucket/a.zarr#2' has '#': write %23 if it is part of a name"),
        ("s3://bucket/a/.\t./b", "write %09"),
        ("https://host/a\\..\\b", "write %5C"),
        ("file:///data/a#2", "write %23"),
        ("", "an empty path was given"),
    ],
)
def test_bad_urls(url, message):
    with pytest.raises(UsageError, match=message) as error:
        ShardedStore.partition(url)
    assert "secret" not in str(error.value)
