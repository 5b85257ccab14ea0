"""`include` and `exclude`: excluded nodes are in no view, listing or result, and are neither listed nor read."""

import json
import os
import tempfile
from fnmatch import fnmatchcase

import dask
import pytest
import xarray as xr
import zarr
from conformance import check_listings, check_pickles, check_same_contents, contents_of, get
from helpers_jobs import TARGET, copied, files_of
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import LocalStore as ObstoreLocal
from sources import KINDS, SOURCES, Recording, groups_of, to_folder, to_memory, to_zip
from zarr.core.sync import sync
from zarr.storage import ObjectStore

from shardedstore import DestinationError, PartitionError, ShardedStore, UsageError
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.open_shard import open_shard
from shardedstore.partition.partition import divide
from shardedstore.stores.entries import read_entries
from shardedstore.stores.locations import Opened
from shardedstore.transforms import ToZip

NAMES = ["cube-v2.", "cube-v3/", "consolidated-v2", "consolidated-v3", "others-v2", "others-v3", "dataset-v3"]
SIZES, GLOBS = [100, "1 GiB"], [["simul*"], ["simulation/*", "temp*"]]
PROBES = ["temperature", "simulation/fine", "simulation/fine/field/0", "simulation/fine/c/0", "wind_u"]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def cube(tmp_path):
    return to_folder(SOURCES["cube-v3/"].contents(), tmp_path / "cube.zarr")


# The model, which uses only the keys of the hierarchy and the paths of its nodes


def nodes_of(contents):
    """The paths of the groups, and of the arrays in them."""
    groups = groups_of(contents)
    named = {
        key.rpartition("/")[0] for key in contents if key.rpartition("/")[2] in ("zarr.json", ".zarray", ".zgroup")
    }
    return {path for path in named if not path or path.rpartition("/")[0] in groups}


def is_meant_itself(path, pattern):
    """Tell whether a path or a glob without ``**`` matches a node."""
    is_as_deep = path.count("/") == pattern.count("/")
    return is_as_deep and all(map(fnmatchcase, path.split("/"), pattern.split("/")))


def is_meant(path, patterns):
    """Tell whether paths or globs without ``**`` match a node or one of its parents."""
    parts = path.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(is_meant_itself(place, pattern) for place in above for pattern in patterns)


def kept(nodes, include, exclude):
    wanted = {path for path in nodes if include is None or is_meant(path, include)}
    wanted |= {path for path in nodes if any(f"{other}/".startswith(f"{path}/") or not path for other in wanted)}
    return {path for path in wanted if not is_meant(path, exclude or [])}


def filtered(contents, include, exclude):
    """The expected keys and values: a key belongs to the innermost node that contains it."""
    nodes = nodes_of(contents)
    left = kept(nodes, include, exclude)

    def home(key):
        path = key.rpartition("/")[0]
        while path not in nodes:
            path = path.rpartition("/")[0]
        return path

    def trimmed(key, data):
        document = json.loads(data)
        holder = document if key.endswith(".zmetadata") else document["consolidated_metadata"]
        start = f"{key.rpartition('/')[0]}/".lstrip("/")
        of = home if key.endswith(".zmetadata") else str
        holder["metadata"] = {name: node for name, node in holder["metadata"].items() if of(start + name) in left}
        return document

    return {
        key: trimmed(key, data) if is_consolidated(key, data) else data
        for key, data in contents.items()
        if home(key) in left
    }


def is_consolidated(key, data):
    return key.endswith(".zmetadata") or (key.endswith("zarr.json") and b'"consolidated_metadata"' in data)


def parsed(contents):
    """Comparable contents: the text of consolidated metadata may differ, also for nested groups."""
    return {
        key: json.loads(data) if isinstance(data, bytes) and is_consolidated(key, data) else data
        for key, data in contents.items()
    }


def without_nested(contents):
    """The same without the empty consolidated metadata that zarr writes of groups in groups."""
    for key, document in contents.items():
        if isinstance(document, dict):
            holder = document if key.endswith(".zmetadata") else document["consolidated_metadata"]
            for node in holder["metadata"].values():
                node.pop("consolidated_metadata", None)
    return contents


@st.composite
def choices(draw):
    """A source with its includes and excludes."""
    name = draw(st.sampled_from(NAMES))
    nodes = sorted(nodes_of(SOURCES[name].contents()) - {""})
    globs = ["*/*", "s*", "simulation/*", "*/fine", "*_[a-z]", "[!s]*", "*/*/field", "nothing*"]
    some = st.lists(st.sampled_from([*nodes, *globs]), min_size=1, max_size=4)
    shards = [*SIZES, *([["f*"], ["*/x", "*/temp*"]] if name == "dataset-v3" else GLOBS)]
    return name, draw(st.none() | some), draw(st.none() | some), draw(st.sampled_from(shards))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {name: to_folder(SOURCES[name].contents(), root / name.strip("./") / "source.zarr") for name in NAMES}


@given(choice=choices())
def test_the_view_and_the_result_are_the_filtered_source(folders, choice):
    name, include, exclude, shards = choice
    contents = SOURCES[name].contents()
    arrays = nodes_of(contents) - groups_of(contents)
    if not all(
        any(is_meant_itself(path, asked) for path in nodes_of(contents))
        for asked in [*(include or ()), *(exclude or ())]
    ):
        with pytest.raises(PartitionError, match="which matches no group or array of the source"):
            ShardedStore.partition(folders[name], shards, include=include, exclude=exclude)
        return
    if not kept(nodes_of(contents), include, exclude) & arrays:
        with pytest.raises(PartitionError, match="leave no array of the source"):
            ShardedStore.partition(folders[name], shards, include=include, exclude=exclude)
        return
    expected = filtered(contents, include, exclude)
    view = ShardedStore.partition(folders[name], shards, include=include, exclude=exclude)
    assert parsed(contents_of(view)) == expected
    check_listings(view, expected)
    with tempfile.TemporaryDirectory() as out:
        result = view.map_shards(ToZip(out))
        assert without_nested(parsed(contents_of(result))) == without_nested(expected)
        with dask.config.set(scheduler="synchronous"):
            assert contents_of(ShardedStore.load(out)) == contents_of(result)


@pytest.mark.few(8)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["others-v2", "others-v3"])
@pytest.mark.parametrize(
    ("include", "exclude", "modelled"),
    [
        (None, "simulation/fine", (None, ["simulation/fine"])),
        ("simulation/fine", None, (["simulation/fine"], None)),
        (
            ["temperature", "simu*"],
            ["simulation/coarse/field"],
            (["temperature", "simu*"], ["simulation/coarse/field"]),
        ),
        ("**/field", "simulation/c*/*", (["simulation/*/field"], ["simulation/c*/*"])),
        ("*", ["wind_[a-z]", "temperature"], (None, ["wind_[a-z]", "temperature"])),
    ],
)
def test_every_kind_of_source(name, kind, include, exclude, modelled, tmp_path):
    contents = SOURCES[name].contents()
    view = ShardedStore.partition(KINDS[kind](contents, tmp_path), ["simul*"], include=include, exclude=exclude)
    expected = filtered(contents, *modelled)
    check_same_contents(view, expected)
    if kind != "ObjectStore":  # obstore's own store in memory has no pickle
        check_same_contents(check_pickles(view), expected)
    read = {}
    for run in make_plan(view.config).runs:
        for shard in run.shards():
            read |= {f"{shard.path}/{e.key}".lstrip("/"): bytes(e.data) for e in read_entries(open_shard(run, shard))}
    assert read == expected
    for key in {*PROBES, *contents} - expected.keys():
        assert get(view, key) is None
        assert not sync(view.exists(key))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_readers_see_what_is_left_with_consolidated_metadata(tmp_path, zarr_format):
    contents = SOURCES[f"consolidated-v{zarr_format}"].contents()
    path = to_folder(contents, tmp_path / "source.zarr")
    view = ShardedStore.partition(path, ["simulation"], exclude=["simulation/fine", "wind_u"])
    result = view.map_shards(ToZip(tmp_path / "out"))
    for store in view, result:
        for options in {}, {"use_consolidated": False}, {"use_consolidated": True}:
            members = dict(zarr.open_group(store, mode="r", **options).members(max_depth=None))
            assert sorted(members) == [
                "crs", "height", "simulation", "simulation/coarse", "simulation/coarse/field", "temperature", "wind_v"
            ]  # fmt: skip
        assert sorted(zarr.open_group(store, path="simulation", use_consolidated=True)) == ["coarse"]
        with xr.open_zarr(store, consolidated=True) as seen, xr.open_zarr(path, consolidated=False) as whole:
            xr.testing.assert_identical(seen.load(), whole.drop_vars("wind_u").load())


def test_nothing_is_changed_where_nothing_is_left_out(cube):
    plain = ShardedStore.partition(cube, 100)
    for choice in {"include": "*"}, {"include": ""}, {"exclude": []}, {"include": ["*"], "exclude": "nothing*?"}:
        assert ShardedStore.partition(cube, 100, **choice).config == plain.config


# Excluded nodes are neither listed nor read


def unlistable(cube):
    """Add unreadable chunks to an array, and a link to a parent folder, which no reader may follow."""
    array = cube / "simulation" / "fine" / "field"
    (array / "c" / "0" / "cycle").symlink_to(array)
    (array / "c" / "1").rename(array / "c" / "9")
    (array / "c" / "1").symlink_to("nothing")
    return cube


@pytest.mark.parametrize("choice", [{"exclude": "simulation/fine"}, {"include": ["temperature", "simulation/coarse"]}])
@pytest.mark.parametrize("shards", [["simulation"], 100, "1 GiB"])
def test_a_job_does_not_walk_into_what_is_left_out(cube, tmp_path, choice, shards):
    contents = SOURCES["cube-v3/"].contents()
    view = ShardedStore.partition(unlistable(cube), shards, **choice)
    result = view.map_shards(ToZip(tmp_path / "out"))
    include, exclude = choice.get("include"), ["simulation/fine"] if "exclude" in choice else None
    assert contents_of(result) == filtered(contents, include, exclude)


def test_without_it_the_job_would_have_failed(cube, tmp_path):
    with pytest.raises(ExceptionGroup, match="shards failed"):
        ShardedStore.partition(unlistable(cube), "1 GiB").map_shards(ToZip(tmp_path / "out"))


@pytest.mark.parametrize("choice", [{"exclude": "simulation/fine"}, {"include": ["temperature", "simulation/coarse"]}])
def test_an_object_store_is_not_listed_where_it_is_left_out(cube, choice):
    """It is not listed by obstore either, which refuses folders with names that are not UTF-8."""
    source = Opened(ObjectStore(ObstoreLocal(cube)))
    config = divide(source, "1 GiB", choice.get("include"), choice.get("exclude"))
    (cube / "simulation" / "fine" / "field" / os.fsdecode(b"\xff")).write_bytes(b"")
    (run,) = make_plan(config).runs
    (shard,) = run.shards()
    keys = {entry.key for entry in read_entries(open_shard(run, shard))}
    include, exclude = choice.get("include"), ["simulation/fine"] if "exclude" in choice else None
    assert keys == filtered(SOURCES["cube-v3/"].contents(), include, exclude).keys()
    with pytest.raises(Exception, match="utf-8"):
        list(read_entries(source.store))


def test_opening_a_view_asks_for_nothing_that_is_left_out():
    source = Recording(to_memory(SOURCES["cube-v3/"].contents()))
    view = ShardedStore.partition(source, exclude=["simulation", "wind_*"])
    source.calls.clear()
    zarr.open_group(view, mode="r")["temperature"][...]
    xr.open_zarr(view, consolidated=False).load()
    assert source.calls
    assert [key for _, key in source.calls if key.startswith(("simulation", "wind_"))] == []


# Later additions


def add_array(cube, name):
    zarr.open_group(cube, mode="a").create_array(name, shape=(2,), dtype="i4")


def test_an_array_that_is_new_is_excluded_by_include_alone(cube, tmp_path):
    included = ShardedStore.partition(cube, include="temperature")
    excluded = ShardedStore.partition(cube, exclude=["wind_*", "simulation"])
    add_array(cube, "new")
    (cube / "notes.txt").write_text("new")
    for view, names in (included, ["temperature"]), (excluded, ["crs", "height", "new", "temperature"]):
        result = view.map_shards(ToZip(tmp_path / str(len(names))))
        assert contents_of(result) == contents_of(view)
        assert sorted(zarr.open_group(result)) == names


def test_a_zip_is_opened_once(tmp_path):
    path = to_zip(SOURCES["cube-v3/"].contents(), tmp_path / "cube.zip")
    view = ShardedStore.partition(path, ["simulation", "temperature"], exclude=["simulation/fine", "wind_u"])
    opened = view.component(None).store
    assert view.component("temperature").store is opened
    assert view.component("simulation").store.store is opened


# The config


def test_it_is_saved_and_moved_and_mapped(cube, tmp_path):
    view = ShardedStore.partition(cube, ["simulation"], include=["temperature", "simulation"], exclude="*/fine")
    view.save(tmp_path / "config.json")
    moved = tmp_path / "moved"
    moved.mkdir()
    cube.rename(moved / "cube.zarr")
    (tmp_path / "config.json").rename(moved / "config.json")
    loaded = ShardedStore.load(moved / "config.json")
    expected = filtered(SOURCES["cube-v3/"].contents(), ["temperature", "simulation"], ["*/fine"])
    check_same_contents(loaded, expected)
    assert ShardedStore.from_config(loaded.get_config()) == loaded
    with dask.config.set(scheduler="processes"):
        assert contents_of(loaded.map_shards(ToZip(tmp_path / "out"))) == expected


def test_the_config_says_what_is_left_out(cube):
    config = ShardedStore.partition(
        cube, ["simulation", "temperature"], include=["temperature", "simulation"], exclude="*/fine"
    ).get_config()
    source = {"kind": "directory", "url": str(cube)}
    assert config["base"] == {
        "kind": "part", "source": source, "only": ("simulation", "temperature"), "without": ("simulation/fine",)
    }  # fmt: skip
    below = {"kind": "part", "source": source, "without": ("simulation/fine",)}
    assert config["shards"]["simulation"]["location"] == {"kind": "view", "source": below, "path": "simulation"}
    assert config["shards"]["temperature"]["location"]["source"] == source


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"without": ["a/../b"]}, "the config's part of 'a/../b' has a segment '..'"),
        ({"only": ["/a"]}, "the config's part of '/a' has an empty segment"),
        ({"only": "a"}, "Expected `array | null`, got `str`"),
        ({"without": [1]}, "Expected `str`, got `int`"),
        ({"exclude": []}, "unknown field `exclude`"),
    ],
)
def test_a_config_that_is_wrong_is_refused(cube, fields, message):
    config = ShardedStore.partition(cube, exclude="simulation").get_config()
    config["base"] = {**config["base"], **fields}
    with pytest.raises(UsageError, match=message):
        ShardedStore.from_config(config)


def test_another_choice_is_another_source(cube, tmp_path):
    ShardedStore.partition(cube, exclude="simulation").map_shards(ToZip(tmp_path / "out"))
    before = files_of(tmp_path / "out")
    with pytest.raises(DestinationError, match=r"overwrite=True"):
        ShardedStore.partition(cube, exclude="wind_*").map_shards(ToZip(tmp_path / "out"))
    assert files_of(tmp_path / "out") == before


def test_a_few_of_many_arrays_are_a_small_config(tmp_path):
    """The config names included nodes, not excluded ones, with 100 arrays or 100,000."""
    contents = {"zarr.json": b'{"zarr_format": 3, "node_type": "group"}'}
    array = SOURCES["cube-v3/"].contents()["crs/zarr.json"]
    contents |= {f"array_{i}/zarr.json": array for i in range(500)}
    path = to_zip(contents, tmp_path / "many.zarr.zip")
    few = ShardedStore.partition(path, include=["array_7", "array_8", "array_499"])
    assert len(json.dumps(few.get_config())) < 300 + len(str(path))
    assert sorted(zarr.open_group(few)) == ["array_499", "array_7", "array_8"]
    assert len(make_plan(few.config).nodes) == 4


# Functions, and the errors


def test_a_function_gets_what_is_left(cube, tmp_path, monkeypatch):
    monkeypatch.setenv(TARGET, str(tmp_path / "target"))
    view = ShardedStore.partition(cube, ["simulation"], exclude=["simulation/fine", "wind_*"])
    expected = filtered(SOURCES["cube-v3/"].contents(), None, ["simulation/fine", "wind_*"])
    assert contents_of(view.map_shards(copied)) == expected


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"exclude": "temprature"},
            "exclude names 'temprature', but the source has no such group or array; it has 'crs'",
        ),
        ({"include": ["temperature", "fine"]}, "include names 'fine', but the source has no such group or array"),
        ({"exclude": "temperature/c"}, "exclude names 'temperature/c', but the source has no such group or array"),
        ({"exclude": ""}, r"include=None and exclude='' leave no array of the source; it has 'crs'"),
        ({"exclude": "*"}, r"exclude='\*' leave no array"),
        ({"exclude": "**"}, "leave no array"),
        ({"include": []}, r"include=\[\] and exclude=None leave no array"),
        ({"include": "nothing*"}, r"include names the glob 'nothing\*', which matches no group or array"),
        ({"exclude": ["wind_u", "nothing*"]}, r"exclude names the glob 'nothing\*', which matches no group or array"),
        ({"exclude": "tempratur*"}, "Did you mean 'temperature'"),
        ({"exclude": "wind_?"}, r"a '\?' at the end means that .* may be missing, .* write 'wind_\[a-z\]'"),
        ({"include": "nothing?"}, "leave no array"),
        ({"include": "temp*", "exclude": "temperature"}, "leave no array"),
        ({"include": "simulation/fine/field", "exclude": ["*/fine"]}, "leave no array"),
        ({"exclude": 3}, "exclude=3 is not a path or a list of paths: write it like"),
        ({"include": [3]}, "include names 3, which is not a path"),
        ({"include": "/temperature"}, "include names the path '/temperature' has an empty segment"),
        ({"exclude": "temp[z-a]"}, r"exclude names the glob 'temp\[z-a\]', which is not valid"),
        (
            {"shards": ["simulation/fine"], "exclude": "simulation"},
            "shards names 'simulation/fine', which include and exclude leave out",
        ),
        (
            {"shards": ["wnd_*"], "exclude": "simulation"},
            r"shards names the glob 'wnd_\*', which matches no group or array",
        ),
    ],
)
def test_what_can_not_be_chosen_is_refused(cube, choice, message):
    with pytest.raises(PartitionError if "an empty segment" not in message else UsageError, match=message):
        ShardedStore.partition(cube, **choice)
