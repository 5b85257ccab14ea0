"""`ToZip`: the names and contents of its zips."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from conformance import contents_of, get
from helpers_jobs import CUBE, blocks_at, cube_at, division, files_of
from sources import SOURCES, build, cube, to_folder
from zarr.storage import ZipStore

from shardedstore import ChainError, DestinationError, ShardedStore, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.storage import outputs
from shardedstore.transforms import ToZip

ROOT_ARRAY = SOURCES["root-array-v3"]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return cube_at(tmp_path_factory.mktemp("cube") / "source.zarr")


@pytest.fixture(scope="module")
def zips(source, tmp_path_factory):
    """The zips of a normal job, by name."""
    out = tmp_path_factory.mktemp("zips") / "out"
    with dask.config.set(scheduler="synchronous"):
        division(source).map_shards(ToZip(out))
    return {str(path.relative_to(out)): path for path in out.rglob("*.zarr.zip")}


# Names


def names(store, tmp_path, name):
    store.map_shards(ToZip(tmp_path / "out", name=name))
    return set(files_of(tmp_path / "out")) - {FILE_NAME}


def test_zips_are_named_by_path_and_block(zips):
    blocks = {
        "temperature": [f"{i}/{j}" for i in range(2) for j in range(3)],
        "wind_u": [f"{i}/0/{j}" for i in range(3) for j in range(2)],
        "wind_v": [f"{i}/0/{j}" for i in range(3) for j in range(2)],
        "height": ["0", "1"],
    }
    assert set(zips) >= {
        "__base__.zarr.zip",
        "simulation/coarse.zarr.zip",
        "simulation/fine.zarr.zip",
        *(f"{path}/{block}.zarr.zip" for path, all_of in blocks.items() for block in all_of if path != "height"),
    }
    assert len(zips) == sum(CUBE.mounts.values()) + 1


def test_a_block_takes_its_separator_with_it_where_there_is_none(source, tmp_path):
    made = names(ShardedStore.partition(source, {"height": 40, "simulation": "whole"}), tmp_path, "{path}-{block}.zip")
    assert made == {"__base__.zip", "height-0.zip", "height-1.zip", "height-2.zip", "simulation.zip"}


def test_a_name_may_have_folders_of_its_own(source, tmp_path):
    made = names(ShardedStore.partition(source, {"simulation": "whole"}), tmp_path, "zips/{path}/{block}.zip")
    assert made == {"zips/__base__.zip", "zips/simulation.zip"}


def test_the_blocks_of_a_root_array_are_named_by_their_index(tmp_path):
    path = cube_at(tmp_path / "source.zarr", ROOT_ARRAY)
    made = names(division(path, ROOT_ARRAY), tmp_path, "{path}/{block}.zarr.zip")
    assert made == {"__base__.zarr.zip", "0.zarr.zip", "1.zarr.zip"}


def test_one_array_needs_no_path_in_its_names(tmp_path):
    made = names(blocks_at(tmp_path / "source.zarr", 3), tmp_path, "part-{block}.zip")
    assert made == {"part.zip", "part-0.zip", "part-1.zip", "part-2.zip"}


@pytest.mark.parametrize("array", ["{block}", "{path}", "a{0}"])
def test_braces_in_a_path_are_no_fields(tmp_path, array):
    root = zarr.create_group(tmp_path / "source.zarr")
    root.create_array(array, data=np.arange(1, 5), chunks=(1,))
    result = ShardedStore.partition(tmp_path / "source.zarr", {array: (2,)}).map_shards(ToZip(tmp_path / "out"))
    loaded = ShardedStore.load(tmp_path / "out")
    assert list(zarr.open_group(loaded, mode="r")[array][:]) == [1, 2, 3, 4]
    assert result.summary.done == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{path}/{index}.zip", "has other braces than {path} and one {block}"),
        ("{path}/{block}/{block}.zip", "has other braces than {path} and one {block}"),
        ("{path}/{}.zip", "has other braces than {path} and one {block}"),
        ("{path!r}/{block}.zip", "has other braces than {path} and one {block}"),
        ("{path:>9}/{block}.zip", "has other braces than {path} and one {block}"),
        ("{{path}}/{block}.zip", "has other braces than {path} and one {block}"),
        ("{path/{block}.zip", "can't be read|has other braces"),
        ("../{path}/{block}.zip", r"'\.\.'"),
        ("/abs/{path}/{block}.zip", "ToZip's name"),
        ("{path}//{block}.zip", "ToZip's name"),
        ("{path}/{block}/", "ToZip's name"),
        ("", "ToZip's name"),
    ],
)
def test_names_that_make_no_sense_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        ToZip("out", name=name)


@pytest.mark.parametrize(
    ("shards", "name", "message"),
    [
        (["simulation/*"], "zips/{block}.zip", r"'\(base\)' and 'simulation/coarse' would both be named 'zips\.zip'"),
        ({"height": 40}, "{path}.zip", "all 3 blocks of 'height' would be named 'height.zip': put {block} into"),
        ({"a": (1,), "a1": (1,)}, "{path}{block}.zip", r"'a' and 'a1' would both be named 'a1\{block\}\.zip'"),
        ({"a": (1,), "a1": "whole"}, "{path}{block}.zip", r"'a' and 'a1' would both be named 'a1\.zip'"),
        ({"a": (1,), "b": (1,)}, "{block}.zip", "would both be named '{block}.zip'"),
        ([], FILE_NAME, r"shard '\(base\)' would be named 'shardedstore\.json', which the job needs itself"),
        ([], ".shardedstore/{path}.zip", "which the job needs itself"),
        ([], "__consolidated__.zarr/{path}.zip", "which the job needs itself"),
        ({"a": (1,)}, "{block}", "would be named ''"),
        ({"a": (1,)}, "zips/{block}", "'zips', which is a folder of"),
    ],
)
def test_two_shards_of_one_name_are_refused(tmp_path, shards, name, message):
    path = to_folder(build(cube, "v3/"), tmp_path / "source.zarr")
    root = zarr.open_group(path)
    for array in "a", "a1", "b":
        root.create_array(array, shape=(20,), chunks=(1,), dtype="i4")
    with pytest.raises(ChainError, match=message):
        ShardedStore.partition(path, shards).map_shards(ToZip(tmp_path / "out", name=name))
    assert not (tmp_path / "out").exists()


def test_names_that_only_look_alike_are_taken(tmp_path):
    root = zarr.create_group(tmp_path / "source.zarr")
    for array in "a", "a_9":
        root.create_array(array, data=np.arange(3), chunks=(1,))
    store = ShardedStore.partition(tmp_path / "source.zarr", {"a": (1,), "a_9": "whole"})
    made = names(store, tmp_path, "{path}_{block}.zip")
    assert made == {"__base__.zip", "a_0.zip", "a_1.zip", "a_2.zip", "a_9.zip"}


def test_a_destination_with_a_field_in_its_name_is_refused(source, tmp_path):
    with pytest.raises(DestinationError, match=r"has \{block\} in its name"):
        division(source).map_shards(ToZip(tmp_path / "{block}"))


def test_a_destination_on_a_web_server_is_refused(source):
    with pytest.raises(DestinationError, match="'https://host/out' is a web server, which can only be read"):
        division(source).map_shards(ToZip("https://host/out"))


# Content


def test_a_block_alone_is_an_array(source, zips):
    array = zarr.open(ZipStore(zips["temperature/1/2.zarr.zip"], mode="r"), mode="r")
    whole = zarr.open_group(source, mode="r")["temperature"][:]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(array[:], whole[4:7, 4:5])
    assert array.metadata.dimension_names == ("time", "y", "x")


@pytest.mark.parametrize("keys", ["v2.", "v2/", "v3.", "v3-v2/"])
def test_a_block_alone_is_an_array_of_any_format(tmp_path, keys):
    path = to_folder(build(cube, keys), tmp_path / "source.zarr")
    ShardedStore.partition(path, {"wind_u": (3, -1, -1)}).map_shards(ToZip(tmp_path / "out"))
    array = zarr.open(ZipStore(tmp_path / "out" / "wind_u" / "2.zarr.zip", mode="r"), mode="r")
    np.testing.assert_array_equal(array[:], zarr.open_group(path, mode="r")["wind_u"][6:])


def test_a_group_alone_is_a_group(source, zips):
    group = zarr.open(ZipStore(zips["simulation/fine.zarr.zip"], mode="r"), mode="r")
    whole = zarr.open_group(source, mode="r")["simulation/fine"]
    assert isinstance(group, zarr.Group)
    np.testing.assert_array_equal(group["field"][:], whole["field"][:])


def test_the_base_alone_has_no_array_whose_chunks_are_elsewhere(zips):
    group = zarr.open(ZipStore(zips["__base__.zarr.zip"], mode="r"), mode="r")
    assert dict(group.attrs) == {"title": "a cube"}
    assert "temperature" not in group
    assert group["crs"][()] == 4326
    assert "simulation/fine" not in group


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_unzip_finds_no_fault(zips):
    for path in zips.values():
        tested = subprocess.run(["unzip", "-tq", path], capture_output=True, text=True, check=False)
        assert tested.stdout.startswith("No errors detected"), path


def test_metadata_comes_first_breadth_first_then_chunks_in_grid_order(zips):
    with zipfile.ZipFile(zips["__base__.zarr.zip"]) as base:
        keys = base.namelist()
    documents = [key for key in keys if "zarr.json" in key]
    assert [key.removesuffix(".shardedstore") for key in documents] == [
        "zarr.json",
        *(f"{name}/zarr.json" for name in ("crs", "height", "simulation", "temperature", "wind_u", "wind_v")),
    ]
    assert "temperature/zarr.json.shardedstore" in documents
    assert keys[: len(documents)] == documents
    with zipfile.ZipFile(zips["simulation/fine.zarr.zip"]) as group:
        grid = [f"field/c/{i}/{j}" for i in range(3) for j in range(2)]
        assert group.namelist() == ["zarr.json", "field/zarr.json", *grid]


def test_chunks_are_ordered_by_number_not_by_name(tmp_path):
    store = ShardedStore.partition(to_folder(blocks_contents(12), tmp_path / "source.zarr"), ["a"])
    store.map_shards(ToZip(tmp_path / "out"))
    with zipfile.ZipFile(tmp_path / "out" / "a.zarr.zip") as group:
        assert group.namelist() == ["zarr.json", *(f"c/{i}" for i in range(12))]


def blocks_contents(count):
    from helpers_jobs import blocks_source

    return build(blocks_source, count)


def test_nothing_in_a_zip_depends_on_when_or_how_it_was_written(zips):
    for path in zips.values():
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                assert info.date_time == (1980, 1, 1, 0, 0, 0)
                assert info.compress_type == zipfile.ZIP_STORED
                assert info.flag_bits == 0  # no data descriptor
                assert info.extra == b""
                assert info.external_attr == 0o100644 << 16
            assert file.testzip() is None


def test_two_jobs_write_the_same_bytes(source, tmp_path, zips):
    division(source).map_shards(ToZip(tmp_path / "out"))
    assert {name: (tmp_path / "out" / name).read_bytes() for name in zips} == {
        name: path.read_bytes() for name, path in zips.items()
    }


def test_zip64_can_be_forced(source, tmp_path, zips):
    result = division(source).map_shards(ToZip(tmp_path / "out", zip64=True))
    path = tmp_path / "out" / "height" / "0.zarr.zip"
    assert b"PK\6\6" in path.read_bytes()
    assert b"PK\6\6" not in zips["height/0.zarr.zip"].read_bytes()
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(zips["height/0.zarr.zip"]) as narrow:
        assert {name: file.read(name) for name in file.namelist()} == {n: narrow.read(n) for n in narrow.namelist()}
    assert contents_of(result) == CUBE.contents()


def test_names_that_are_not_ascii_are_marked_as_utf8(tmp_path):
    root = zarr.create_group(tmp_path / "source.zarr")
    root.create_group("größe").create_array("température", data=np.arange(1, 4), chunks=(1,))
    result = ShardedStore.partition(tmp_path / "source.zarr", ["größe"]).map_shards(ToZip(tmp_path / "out"))
    with zipfile.ZipFile(tmp_path / "out" / "größe.zarr.zip") as file:
        flags = {info.filename: info.flag_bits for info in file.infolist()}
    assert flags["température/c/0"] == 0x800
    assert flags["zarr.json"] == 0
    assert get(result, "größe/température/c/2") is not None


def test_a_block_of_which_no_chunk_is_stored_is_a_zip_of_metadata(tmp_path):
    path = cube_at(tmp_path / "source.zarr", SOURCES["missing-v3"])
    division(path, SOURCES["missing-v3"]).map_shards(ToZip(tmp_path / "out"))
    with zipfile.ZipFile(tmp_path / "out" / "without" / "1" / "1.zarr.zip") as file:
        assert file.namelist() == ["zarr.json"]


def test_a_disk_that_is_full_leaves_no_file(source, tmp_path, monkeypatch):
    """The size of the file reveals a write that was cut short without an error."""
    monkeypatch.setattr(outputs, "writev_all", lambda descriptor: lambda parts: None)
    with pytest.raises(ExceptionGroup, match="24 of 24 shards failed") as caught:
        division(source).map_shards(ToZip(tmp_path / "out"))
    assert "is the disk full?" in str(caught.value.exceptions[0])
    assert files_of(tmp_path / "out") == {}


def test_the_url_may_be_a_path_a_text_or_a_file_url(source, tmp_path):
    folder = tmp_path / "a folder"
    assert ToZip(folder) == ToZip(str(folder))
    division(source).map_shards(ToZip(folder.as_uri()))
    assert (folder / FILE_NAME).exists()
    assert not Path("file:").exists()


# Zips of OME-Zarr


def image_at(folder, version="0.5"):
    """A small image of OME-Zarr, with two scales."""
    root = zarr.open_group(folder, mode="w", zarr_format=3)
    root.attrs["ome"] = {"version": version, "multiscales": []}
    for scale in range(2):
        data = np.arange(64, dtype="u2").reshape(8, 8)[:: scale + 1, :: scale + 1]
        root.create_group(f"labels/{scale}").create_array("mask", data=data, chunks=(4, 4))
        root.create_array(str(scale), data=data, chunks=(4, 4))
    return folder


@pytest.mark.parametrize("version", ["0.5", "0.6.dev2"])
def test_zips_of_ome_zarr_follow_the_rfc(tmp_path, version):
    """Check for stored entries, zip64, the root's zarr.json first, the others breadth first, and the comment."""
    store = ShardedStore.partition(image_at(tmp_path / "image.zarr", version), "1 GiB")
    result = store.map_shards(ToZip(tmp_path / "out", name="{path}.ozx"))
    (path,) = (tmp_path / "out").rglob("*.ozx")
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        documents = [name for name in names if name.endswith("zarr.json")]
        assert names[: len(documents)] == documents
        assert documents[0] == "zarr.json"
        assert documents == sorted(documents, key=lambda name: name.count("/"))
        assert json.loads(file.comment) == {
            "ome": {"version": version, "zipFile": {"centralDirectory": {"jsonFirst": True}}}
        }
        assert all(info.compress_type == zipfile.ZIP_STORED and info.extract_version >= 45 for info in file.infolist())
    assert b"PK\6\7" in path.read_bytes()[-500:]
    np.testing.assert_array_equal(zarr.open_group(result)["0"][:], zarr.open_group(tmp_path / "image.zarr")["0"][:])
    with zarr.storage.ZipStore(path, mode="r") as opened:
        assert sorted(zarr.open_group(opened, mode="r")) == ["0", "1", "labels"]


def test_zips_of_ome_zarr_are_zarr_v3(tmp_path):
    store = division(cube_at(tmp_path / "source.zarr", SOURCES["cube-v2."]), SOURCES["cube-v2."])
    with pytest.raises(
        ChainError,
        match=r"names zips of OME-Zarr, which must be Zarr v3, but the root is Zarr v2: put MigrateV3.. .--v3. and MigrateOME.. before ToZip",
    ):
        store.map_shards(ToZip(tmp_path / "out", name="{path}/{block}.ozx"))
