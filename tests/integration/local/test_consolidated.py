"""`map_shards(consolidated=...)`: the places of consolidated metadata, and its absence if it is not wanted."""

import json
import warnings

import dask
import numpy as np
import pytest
import zarr
from conformance import contents_of, keys_of
from helpers_jobs import copied, cube_at, files_of
from sources import SOURCES, to_memory

from shardedstore import ChainError, ShardedStore, UsageError, step
from shardedstore.transforms import CopyTo, MapChunks, ToZip

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def mapped(tmp_path, name, **options):
    """A job with one group with consolidated metadata that may be a shard, and one that is not."""
    path = cube_at(tmp_path / "source.zarr", SOURCES[name])
    return ShardedStore.partition(path, ["simulation"]).map_shards(ToZip(tmp_path / "out"), **options)


def names_with_some(store):
    """The groups with consolidated metadata in the stored files."""
    found = {key.removesuffix(".zmetadata").rstrip("/") for key in keys_of(store) if key.endswith(".zmetadata")}
    contents = contents_of(store)
    documents = {key: json.loads(data) for key, data in contents.items() if key.endswith("zarr.json")}
    return found | {key.rpartition("/")[0] for key, node in documents.items() if "consolidated_metadata" in node}


def consolidated_by_zarr(contents):
    """The consolidated metadata of `zarr.consolidate_metadata` for a source without any."""
    store = to_memory(contents)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not part of the specification of v3 yet
        zarr.consolidate_metadata(store)
    return zarr.open_group(store, mode="r", use_consolidated=True).metadata.consolidated_metadata.to_dict()


@FORMATS
def test_true_is_what_zarr_makes(tmp_path, zarr_format):
    name = {2: "cube-v2.", 3: "cube-v3/"}[zarr_format]
    expected = consolidated_by_zarr(SOURCES[name].contents())
    assert expected["metadata"].keys() > {"temperature", "simulation"}
    result = mapped(tmp_path, name, consolidated=True)
    for store in result, ShardedStore.load(tmp_path / "out"):
        assert names_with_some(store) == {""}
        metadata = zarr.open_group(store, mode="r", use_consolidated=True).metadata
        assert str(metadata.consolidated_metadata.to_dict()) == str(expected)  # NaN is not NaN


@FORMATS
def test_true_keeps_that_of_groups(tmp_path, zarr_format):
    store = mapped(tmp_path, f"consolidated-v{zarr_format}", consolidated=True)
    assert names_with_some(store) == {"", "simulation"}


@FORMATS
@pytest.mark.parametrize("shards", [["simulation"], 100])
def test_false_leaves_none_in_any_document(tmp_path, zarr_format, shards):
    path = cube_at(tmp_path / "source.zarr", SOURCES[f"consolidated-v{zarr_format}"])
    source = ShardedStore.partition(path, shards)
    assert names_with_some(source) == {"", "simulation"}
    result = source.map_shards(ToZip(tmp_path / "out"), consolidated=False)
    assert names_with_some(result) == set()
    assert not [name for name in files_of(tmp_path / "out") if "consolidated" in name]
    plain = SOURCES[{2: "cube-v2.", 3: "cube-v3/"}[zarr_format]].contents()
    assert {
        k: json.loads(d) for k, d in contents_of(result).items() if k.endswith((".zgroup", ".zattrs", ".json"))
    } == {k: json.loads(d) for k, d in plain.items() if k.endswith((".zgroup", ".zattrs", ".json"))}


@FORMATS
@pytest.mark.parametrize("name", ["cube", "consolidated"])
def test_none_is_as_the_source(tmp_path, zarr_format, name):
    name = f"consolidated-v{zarr_format}" if name == "consolidated" else {2: "cube-v2.", 3: "cube-v3/"}[zarr_format]
    expected = names_with_some(to_memory(SOURCES[name].contents()))
    assert names_with_some(mapped(tmp_path, name)) == expected


@FORMATS
def test_the_same_call_with_another_choice_goes_on(tmp_path, zarr_format):
    """The shards are equal, except one with consolidated metadata, which is made again under another name."""
    mapped(tmp_path, f"consolidated-v{zarr_format}")
    before = files_of(tmp_path / "out")
    result = mapped(tmp_path, f"consolidated-v{zarr_format}", consolidated=False)
    assert (result.summary.done, result.summary.changed, result.summary.skipped) == (1, 1, 1)
    zips = {name: data for name, data in before.items() if name.endswith(".zip")}
    assert {name: files_of(tmp_path / "out").get(name) for name in zips} == zips
    assert names_with_some(ShardedStore.load(tmp_path / "out")) == set()
    assert names_with_some(mapped(tmp_path, f"consolidated-v{zarr_format}", consolidated=True)) == {"", "simulation"}


@FORMATS
def test_a_result_s_is_dropped_and_rebuilt(tmp_path, zarr_format):
    first = mapped(tmp_path, f"consolidated-v{zarr_format}")
    assert names_with_some(first.map_shards(ToZip(tmp_path / "none"), consolidated=False)) == set()
    assert names_with_some(first.map_shards(ToZip(tmp_path / "some"), consolidated=True)) == {"", "simulation"}


def test_what_can_not_be_is_refused(tmp_path):
    array = ShardedStore.partition(cube_at(tmp_path / "array.zarr", SOURCES["root-array-v3"]))
    with pytest.raises(UsageError, match="consolidated=True is for a Zarr whose root is a group"):
        array.map_shards(ToZip(tmp_path / "out"), consolidated=True)
    source = ShardedStore.partition(cube_at(tmp_path / "cube.zarr"))
    for choice in True, False:
        with pytest.raises(ChainError, match="consolidated= is for a chain that ends in a sink"):
            source.map_shards(copied, consolidated=choice)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_only_consolidated_metadata_leads_to_is_changed_as_the_rest_is(tmp_path, zarr_format):
    """For example, a group in between has lost its document."""
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=zarr_format)
    group.create_array("g/h/a", data=np.arange(6), chunks=(2,))
    group.create_array("b", data=np.arange(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/g" / ("zarr.json" if zarr_format == 3 else ".zgroup")).unlink()
    source = ShardedStore.partition(tmp_path / "a.zarr")
    result = source.map_shards(ToZip(tmp_path / "zips"))
    assert list(zarr.open_group(result, mode="r")["g/h/a"][:]) == list(range(6))
    change = MapChunks(lambda chunk, position: chunk.astype("f4"), dtype="f4", name="floats")
    changed = source.map_shards(change, ToZip(tmp_path / "changed"))
    assert zarr.open_group(changed, mode="r", use_consolidated=True)["g/h/a"].dtype == "f4"
    assert ShardedStore.load(tmp_path / "changed").verify().ok
    made = source.map_shards(change, ToZip(tmp_path / "others"), consolidated=False)
    assert list(zarr.open_array(made, path="g/h/a", mode="r")[:]) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def without_b(entries, shard):
    return (entry for entry in entries if not entry.key.startswith("b/"))


@FORMATS
@pytest.mark.parametrize("sink", [ToZip, CopyTo])
def test_what_a_step_drops_is_not_named(tmp_path, zarr_format, sink):
    group = zarr.create_group(tmp_path / "source.zarr", zarr_format=zarr_format)
    for name in "ab":
        group.create_array(name, data=np.full(10, 7), chunks=(5,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "source.zarr", zarr_format=zarr_format)
    chain = step(without_b, name="no b", version="1"), sink(tmp_path / "out")
    result = ShardedStore.partition(tmp_path / "source.zarr").map_shards(*chain)
    assert sorted(zarr.open_group(result, mode="r").array_keys()) == ["a"]


def test_one_zarr_loses_consolidated_metadata_that_is_not_wanted_any_more(tmp_path):
    def mapped_to_one(**options):
        return ShardedStore.partition(tmp_path / "source.zarr", {"t": (20,)}).map_shards(
            CopyTo(tmp_path / "out.zarr"), **options
        )

    zarr.create_group(tmp_path / "source.zarr", zarr_format=2).create_array("t", data=np.ones(100), chunks=(10,))
    zarr.consolidate_metadata(tmp_path / "source.zarr")
    mapped_to_one()
    assert (tmp_path / "out.zarr/.zmetadata").exists()
    mapped_to_one(consolidated=False)
    assert not (tmp_path / "out.zarr/.zmetadata").exists()
    (tmp_path / "source.zarr/.zmetadata").unlink()
    array = zarr.open_array(tmp_path / "source.zarr/t", mode="r+")
    array.resize((150,))
    array[100:] = 1
    mapped_to_one()
    assert zarr.open_group(tmp_path / "out.zarr", mode="r")["t"].shape == (150,)


def test_files_of_such_names_that_are_no_metadata_are_copied_to_one_zarr(tmp_path):
    zarr.create_group(tmp_path / "source.zarr", zarr_format=2).create_array("t", data=np.ones(10), chunks=(5,))
    (tmp_path / "source.zarr/notes").mkdir()
    (tmp_path / "source.zarr/notes/zarr.json").write_text('{"not": "zarr"}')
    ShardedStore.partition(tmp_path / "source.zarr").map_shards(CopyTo(tmp_path / "out.zarr"))
    assert (tmp_path / "out.zarr/notes/zarr.json").read_text() == '{"not": "zarr"}'


def test_nodes_of_the_format_above_are_named_in_one_zarr(tmp_path):
    zarr.create_group(tmp_path / "source.zarr", zarr_format=2)
    zarr.create_group(tmp_path / "source.zarr/tw", zarr_format=2).create_array("a", data=np.ones(10), chunks=(5,))
    (tmp_path / "source.zarr/tw/zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    result = ShardedStore.partition(tmp_path / "source.zarr").map_shards(
        CopyTo(tmp_path / "out.zarr"), consolidated=True
    )
    assert "tw/a" in zarr.open_group(result, mode="r", zarr_format=2)
