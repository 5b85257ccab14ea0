"""Configs of shardedstore 0.3.1: equal data or a clear error, without importing the modules that they name.

data/legacy-0.3.1.tar.gz and data/legacy-stores.tar.gz hold its stores, and the values that it read back from them; see
data/legacy_stores.py. ``<name>.json`` is the config of a store, and ``<name>.npz`` has its arrays.
"""

import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import chdir, suppress

import dask
import numpy as np
import pytest
import watching
import zarr
from conformance import check_pickles, check_read_only, check_same_contents, contents_of, get, keys_of
from fuzz import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import DATA
from servers import upload

from shardedstore import (
    ConfigError,
    CorruptError,
    ShardedStore,
    ShardedStoreError,
    ShardsFailed,
    to_zip_store_with_prefix,
)
from shardedstore.config.document import to_dict
from shardedstore.stores.entries import read_entries
from shardedstore.stores.locations import BlockOf, Config, Directory, Mount, Squeezed
from shardedstore.transforms import Recompress, ToZip
from shardedstore.zarr.grid import Blocks, ChunkKeys

RELATIVE = ["dot", "none", "slash"]  # stores with relative paths in their configs
ABSOLUTE = ["eleven", "fs", "fs-slash", "fs-url", "inner", "loose", "nested", "part", "shrunk", "ten", "twelve-first"]
ABSOLUTE += ["twelve-whole", "zips"]
READABLE = [*RELATIVE, *ABSOLUTE]


@pytest.fixture(scope="session")
def old(tmp_path_factory):
    """A folder with all stores of 0.3.1, which tests must not change."""
    return unpack(tmp_path_factory.mktemp("old"))


def unpack(folder):
    for name in ("legacy-0.3.1", "legacy-stores"):
        with tarfile.open(DATA / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace("@HERE@", str(folder)))
    return folder


@pytest.fixture
def copied(old, tmp_path):
    """Stores of 0.3.1 in a separate folder for this test."""
    return unpack(tmp_path / "old")


def values_of(folder, name):
    with np.load(folder / f"{name}.npz") as kept:
        return {path.replace("__", "/"): kept[path] for path in kept.files}


def check_values(store, expected):
    root = zarr.open_group(store, mode="r")
    for path, values in expected.items():
        np.testing.assert_array_equal(root[path][...], values, err_msg=path)


def document_of(folder, name):
    return json.loads((folder / f"{name}.json").read_bytes())


def refused(document, match, **options):
    with pytest.raises(ConfigError, match=match):
        ShardedStore.from_config(document, **options)


# Data that it reads


@pytest.mark.parametrize("name", READABLE)
def test_the_values_are_those_that_0_3_1_read_back(old, name):
    store = ShardedStore.load(old / f"{name}.json")
    check_values(store, values_of(old, name))


@pytest.mark.parametrize("name", ["dot", "eleven", "inner", "none", "part", "slash", "zips"])
@pytest.mark.few(3)
def test_listings_agree_with_what_is_read(old, name):
    store = ShardedStore.load(old / f"{name}.json")
    check_same_contents(store, contents_of(store))
    for path, values in values_of(old, name).items():  # no chunk holds only the fill value
        array = zarr.open_group(store, mode="r")[path]
        chunks = [key for key in keys_of(store) if key.startswith(f"{path}/") and "/." not in key]
        assert len(chunks) == np.prod(
            [-(-size // chunk) for size, chunk in zip(values.shape, array.chunks, strict=True)]
        )


def test_groups_attributes_and_arrays_in_the_base_are_there(old):
    root = zarr.open_group(ShardedStore.load(old / "dot.json"), mode="r")
    assert sorted(root.group_keys()) == ["image", "people", "plate"]
    assert sorted(root["image"].array_keys()) == ["s0", "s1"]
    assert dict(root["image/s0"].attrs) == json.loads((old / "dot/base.zarr/image/s0/.zattrs").read_bytes())


def test_names_are_in_lower_case_where_its_stores_wrote_them_so(old):
    store = ShardedStore.load(old / "lower.json")
    expected = values_of(old, "lower")
    mended = {
        "image/s1": expected["Image/S1"],
        "plain": expected["Plain"],
        "People/heights": expected["People/Heights"],
    }
    check_values(store, mended)


def test_each_block_is_an_array_alone(old):
    store, values = ShardedStore.load(old / "dot.json"), values_of(old, "dot")["image/s0"]
    block = store.component("image/s0", (1, 3))
    array = zarr.open_array(block, mode="r")
    assert array.shape == (1, 1, 40, 30)
    np.testing.assert_array_equal(array[...], values[1:2, 3:4])
    check_same_contents(block, contents_of(block))
    assert block.read_only
    check_pickles(block)
    assert "image/s0" in repr(block)
    assert block != store.component("image/s0", (1, 2))


def test_what_no_shard_has_is_read_from_the_base(old):
    """Without a separator, its shards had names like 0/0 and its chunks like 0.0, so all chunks went to the base."""
    store = ShardedStore.load(old / "none.json")
    assert "image/s0" not in store.config.shards
    assert get(store, "image/s0/1.2.0.0") == (old / "none/base.zarr/image/s0/1.2.0.0").read_bytes()
    part = ShardedStore.load(old / "part.json").config.shards["t"]
    assert (list(part.exceptions), part.blocks.count) == (["1"], 4)


def test_an_index_of_two_digits_is_in_the_base_or_in_the_shard_of_its_first(old):
    first = ShardedStore.load(old / "twelve-first.json").config.shards["t"]
    assert (first.blocks.grid, len(first.exceptions)) == ((12, 3), 30)
    eleven = ShardedStore.load(old / "eleven.json")
    assert eleven.config.shards["t"].exceptions["10"].source.url == str(old / "eleven" / "t" / "1.zarr")
    assert get(eleven.component("t", (10,)), "0.1") == (old / "eleven" / "t" / "1.zarr" / ".1").read_bytes()


def test_its_shards_metadata_is_never_used(copied):
    for path in copied.glob("dot/s?/*.zarr/.zarray"):
        path.write_bytes(b"nonsense")
    check_values(ShardedStore.load(copied / "dot.json"), values_of(copied, "dot"))


def test_a_store_without_shards_opens(old):
    document = document_of(old, "dot")
    document["config"]["kwargs"] = {"dimension_separator": "."}
    store = ShardedStore.from_config(document, root=old)
    assert len(store.config.shards) == 0
    check_values(store, {"plain": values_of(old, "dot")["plain"]})


def test_a_neighbour_whose_name_begins_like_a_mounts_is_the_bases(copied):
    """0.3.1 compared the first characters of the path."""
    base = zarr.open_group(copied / "dot/base.zarr", zarr_format=2)
    base.create_array("people2", data=np.arange(3))
    base["image"].create_array("s00", data=np.arange(4))
    store = ShardedStore.load(copied / "dot.json")
    check_values(store, {"people2": np.arange(3), "image/s00": np.arange(4), **values_of(copied, "dot")})


def test_arrays_that_were_not_written_have_no_shards(old):
    document = document_of(old, "dot")
    document["config"]["kwargs"]["array_shards"]["later/on"] = {}
    document["config"]["kwargs"]["array_shard_dims"]["later/on"] = 3
    check_values(ShardedStore.from_config(document, root=old), values_of(old, "dot"))


def test_a_zip_that_0_3_1_would_have_overwritten_is_only_read(copied):
    """It wrote the zip's mode to the config, and opened the zip in this mode again."""
    document = document_of(copied, "zips")
    document["config"]["args"][0]["config"]["kwargs"]["mode"] = "w"
    before = (copied / "zips.zarr.zip").read_bytes()
    check_values(ShardedStore.from_config(document), values_of(copied, "zips"))
    assert (copied / "zips.zarr.zip").read_bytes() == before


def test_nothing_is_made_by_looking(copied):
    """Looking for a key made arrays."""
    before = sorted(map(str, copied.rglob("*")))
    store = ShardedStore.load(copied / "dot.json")
    for key in (".zarray", "image/s0/9.9.9.9", "image/s0/3.0.0.0", "image/s0", "nothing/.zgroup", "image/s0/0.0"):
        assert get(store, key) is None
    assert sorted(map(str, copied.rglob("*"))) == before
    check_read_only(store)


# Refusals


@pytest.mark.parametrize(("name", "dimension"), [("twelve", 0), ("twelve-slash", 1)])
def test_arrays_whose_chunks_have_overwritten_one_another_are_refused(old, name, dimension):
    match = f"array 't' has 12 chunks along dimension {dimension}.*first digit.*overwrote others.*Write 't' again"
    with pytest.raises(ConfigError, match=match):
        ShardedStore.load(old / f"{name}.json")


def test_shards_that_tell_of_lost_chunks_are_enough(old):
    document = document_of(old, "ten")
    shards = document["config"]["kwargs"]["array_shards"]["t"]
    shards["11"] = shards["9"]
    refused(document, "array 't' has 12 chunks along dimension 0.*overwrote others")


@pytest.mark.parametrize("other", ["image/s0, another block", "image/s1", "people", "the base"])
def test_shards_that_were_written_to_one_place_are_refused(old, other):
    document = document_of(old, "dot")
    kwargs = document["config"]["kwargs"]
    place = {
        "image/s0, another block": kwargs["array_shards"]["image/s0"]["0.1"],
        "image/s1": kwargs["array_shards"]["image/s1"]["3"],
        "people": kwargs["shards"]["people"],
        "the base": at(document, BASE),
    }[other]
    kwargs["array_shards"]["image/s0"]["0.0"] = place
    refused(document, r"'image/s0', block .* are both in '.*overwrote chunks of one with chunks of the other", root=old)


def test_all_else_of_a_damaged_store_opens_as_the_message_says(copied):
    document = document_of(copied, "twelve")
    del document["config"]["kwargs"]["array_shards"]["t"], document["config"]["kwargs"]["array_shard_dims"]["t"]
    shutil.rmtree(copied / "twelve/base.zarr/t")
    store = ShardedStore.from_config(document)
    assert list(zarr.open_group(store, mode="r").group_keys()) == ["beside"]


@pytest.mark.parametrize("name", ["cut", "unsaid"])
def test_chunks_that_are_not_where_the_metadata_says_are_not_missing(copied, name):
    with pytest.raises(ConfigError, match=r"'people/map'.*keys like 0/0.*\"dimension_separator\": \"/\""):
        ShardedStore.load(copied / f"{name}.json")
    path = copied / name / "people.zarr/map/.zarray"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "dimension_separator": "/"}))
    check_values(ShardedStore.load(copied / f"{name}.json"), values_of(copied, name))


def at(document, place):
    for part in place:
        document = document[part]
    return document


BASE = ("config", "args", 0)
KWARGS = ("config", "kwargs")
SHARD = (*KWARGS, "array_shards", "image/s0", "0.0")


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (("version",), 3, r"the config can't be read: Expected `str \| null`, got `int` - at `\$.version`"),
        (("name",), "SharedStore", "the config is for a shardedstore.SharedStore, not for a shardedstore.ShardedStore"),
        (("module",), "sharded", "the config is for a sharded.ShardedStore"),
        (("config",), [], r"the config can't be read: .*\$.config"),
        (("config", "args"), [], "the sharded store has 0 args"),
        ((*KWARGS, "dimension_separator"), "-", r"the sharded store can't be read: .*\$.dimension_separator"),
        ((*KWARGS, "shards"), {"people": None}, "shard 'people' can't be read"),
        ((*KWARGS, "shards"), {"a/../b": None}, "the sharded store: shard 'a/../b' has a segment '..'"),
        (
            (*KWARGS, "array_shard_dims"),
            {"image/s0": 1},
            "'image/s0' has array_shard_dims 1, but shards named like '0.0'",
        ),
        ((*KWARGS, "array_shard_dims"), {"other": 1}, "'other' in array_shard_dims, but not in array_shards"),
        ((*KWARGS, "array_shards", "image/s0", "x"), {}, "array 'image/s0' has a shard 'x'"),
        ((*KWARGS, "array_shards", "image/s0", "01.2"), {}, "array 'image/s0' has a shard '01.2'"),
        ((*KWARGS, "array_shards", "image/s0", "1/2"), {}, "array 'image/s0' has shards named with '.' and with '/'"),
        ((*KWARGS, "array_shards", "image"), {}, "shards overlap: 'image/s0' lies inside 'image'"),
        ((*KWARGS, "array_shards", "people"), {}, "'people' both in shards and in array_shards"),
        ((*BASE, "config", "args"), [7], "the base has the args"),
        ((*BASE, "config", "args"), ["a\0b"], "the base has the args"),
        ((*BASE, "config", "args"), ["\ud800"], "the base has the args"),
        ((*BASE, "config", "kwargs", "normalize_keys"), "no", r"the base can't be read: .*\$.normalize_keys"),
        ((*SHARD, "module"), "os", "array 'image/s0', shard '0.0' is a os.DirectoryStore, which is not supported"),
        ((*SHARD, "config", "kwargs"), None, "array 'image/s0', shard '0.0' can't be read"),
    ],
)
def test_what_is_not_as_0_3_1_wrote_it_is_refused_by_its_name(old, place, value, match):
    document = document_of(old, "dot")
    at(document, place[:-1])[place[-1]] = value
    refused(document, match, root=old)


def test_a_name_of_shards_must_fit_the_array(old):
    document = document_of(old, "dot")
    arrays = document["config"]["kwargs"]["array_shards"]
    arrays["plain"] = {"0.0.0.0": arrays["image/s0"]["0.0"]}
    refused(document, "array 'plain' has . dimensions, but the names of its shards have 4", root=old)
    del arrays["plain"]
    arrays["gone"] = arrays["image/s1"]
    refused(document, "shards of the array 'gone' in .*base.zarr', but there is no such array", root=old)


def test_a_base_that_is_damaged_is_reported(copied):
    (copied / "dot/base.zarr/image/s0/.zarray").write_bytes(b"[")
    with pytest.raises(ConfigError, match=r"array 'image/s0' in .*base.zarr' can't be read: .*is not JSON"):
        ShardedStore.load(copied / "dot.json")


@pytest.mark.parametrize("name", ["MemoryStore", "N5Store", "RedisStore"])
def test_other_stores_of_zarr_are_not_known(old, name):
    document = document_of(old, "dot")
    document["config"]["args"][0]["name"] = name
    refused(
        document,
        rf"the base is a zarr.storage.{name}, .*which is not supported: use .*DirectoryStore, FSStore, .*, ZipStore",
        root=old,
    )


def test_no_module_is_imported_that_it_names(old, tmp_path, monkeypatch):
    (tmp_path / "evil_store.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for place in ((), BASE, SHARD):
        document = document_of(old, "dot")
        at(document, place)["module"] = "evil_store"
        refused(document, "evil_store", root=old)
    assert "evil_store" not in sys.modules


def test_deep_nesting_is_refused(old):
    document = document_of(old, "dot")
    for _ in range(5000):
        document = {**document, "config": {"args": [document], "kwargs": {}}}
    refused(document, "nested too deeply", root=old)


# Search for relative paths


def test_relative_paths_are_tried_in_three_places(old, tmp_path, monkeypatch):
    expected, config = values_of(old, "dot"), tmp_path / "elsewhere" / "dot.json"
    config.parent.mkdir()
    shutil.copy(old / "dot.json", config)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="none of three folders contains all stores") as error:
        ShardedStore.load(config)
    assert "root= is not known" in str(error.value)
    for folder in (config.parent, tmp_path):
        assert f"{str(folder)!r}: {str(folder / 'dot/base.zarr')!r}, which does not exist" in str(error.value)
    with pytest.raises(
        ConfigError, match=rf"root= '{tmp_path}/no': '{tmp_path}/no/dot/base.zarr', which does not exist"
    ):
        ShardedStore.load(config, root="no")
    check_values(ShardedStore.load(config, root=old), expected)
    check_values(ShardedStore.from_config(document_of(old, "dot"), root=str(old)), expected)
    monkeypatch.chdir(old)
    check_values(ShardedStore.load(config), expected)
    check_values(ShardedStore.from_config(document_of(old, "dot")), expected)


def test_a_copy_that_lacks_something_is_not_mixed_with_another(copied, old, monkeypatch):
    shutil.rmtree(copied / "dot/s0/1.1.zarr")
    monkeypatch.chdir(old)
    store = ShardedStore.load(copied / "dot.json")
    assert str(old) in str(store)  # all of it
    monkeypatch.chdir(copied)
    with pytest.raises(ConfigError, match=r"dot/s0/1.1.zarr', which does not exist"):
        ShardedStore.load(copied / "dot.json")


def test_a_working_directory_that_is_gone_is_no_place(old, tmp_path):
    """In a separate process, as other tests may use it in this one."""
    (tmp_path / "gone").mkdir()
    load = "os.rmdir(os.getcwd()); print(len(ShardedStore.load(sys.argv[1]).config.shards))"
    script = f"import os, sys; from shardedstore import ShardedStore; {load}"
    done = subprocess.run(
        [sys.executable, "-c", script, old / "dot.json"],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "4\n", done.stderr


def test_other_places_must_be_allowed(old, tmp_path):
    shutil.copy(old / "loose.json", tmp_path / "loose.json")
    with pytest.raises(ConfigError, match=rf"names '{old}/loose/.*allow=\['{old}/loose/"):
        ShardedStore.load(tmp_path / "loose.json")
    check_values(ShardedStore.load(tmp_path / "loose.json", allow=[old]), values_of(old, "loose"))
    check_values(ShardedStore.from_config(document_of(old, "loose")), values_of(old, "loose"))


def test_dots_lead_only_where_it_is_allowed(old, tmp_path):
    text = (old / "dot.json").read_text().replace('"dot/', '"../old/dot/')
    (tmp_path / "configs").mkdir()
    (tmp_path / "old").symlink_to(old)
    (tmp_path / "configs/dot.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"'{tmp_path}/old/dot/base.zarr' is outside what the config may name"):
        ShardedStore.load(tmp_path / "configs/dot.json")
    check_values(ShardedStore.load(tmp_path / "configs/dot.json", allow=[tmp_path / "old"]), values_of(old, "dot"))


def test_what_was_moved_is_reported(old):
    text = (old / "loose.json").read_text().replace(str(old), "/nonexistent")
    refused(json.loads(text), "'/nonexistent/loose/.*, which does not exist: .* wrote absolute paths")


def test_the_scheme_that_0_3_1_left_out_is_asked_for(old):
    text = (old / "fs.json").read_text().replace(str(old), "bucket")
    refused(json.loads(text), "left out the scheme, such as s3://")


@pytest.mark.s3
def test_a_store_in_a_bucket(old, bucket, tmp_path, monkeypatch):
    for name in ("dot", "fs", "zips"):
        contents = {
            key: data for key, data in files_below(old).items() if key.startswith((f"{name}/", f"{name}.zarr.zip"))
        }
        text = (old / f"{name}.json").read_text()
        contents[f"{name}.json"] = text.replace(f'"{old}/', '"').encode()
        upload(bucket.client, contents)
        check_values(ShardedStore.load(f"{bucket.url}/{name}.json"), values_of(old, name))
    (tmp_path / "fs.json").write_text((old / "fs.json").read_text().replace(str(old), bucket.url))
    with pytest.raises(ConfigError, match=r"allow=\['s3://"):
        ShardedStore.load(tmp_path / "fs.json")
    check_values(ShardedStore.load(tmp_path / "fs.json", allow=[bucket.url]), values_of(old, "fs"))
    monkeypatch.chdir(old)  # a config from the network must not lead there
    upload(bucket.client, {"alone/slash.json": (old / "slash.json").read_bytes()})
    with pytest.raises(ConfigError, match=r"slash/base.zarr' is outside what the config may name"):
        ShardedStore.load(f"{bucket.url}/alone/slash.json")
    check_values(ShardedStore.load(f"{bucket.url}/alone/slash.json", allow=[old]), values_of(old, "slash"))
    text = (old / "dot.json").read_text().replace('"dot/', '"../dot/')
    upload(bucket.client, {"alone/dot.json": text.encode()})
    with pytest.raises(ConfigError, match=r"the config's folder '.*/alone': '.*/alone/../dot/base.zarr' is outside"):
        ShardedStore.load(f"{bucket.url}/alone/dot.json")


@pytest.mark.s3
def test_options_of_the_config_are_those_of_what_is_beside_it(old, bucket, use_environment):
    upload(bucket.client, {key: data for key, data in files_below(old).items() if key.startswith("dot")})
    names = ("endpoint_url", "access_key_id", "secret_access_key", "region")
    options = {name: os.environ[f"AWS_{name.upper()}"] for name in names} | {"allow_http": True}
    use_environment({})
    store = ShardedStore.load(f"{bucket.url}/dot.json", storage_options=options)
    check_values(store, values_of(old, "dot"))
    assert options["secret_access_key"] not in json.dumps(store.get_config())


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Operations on it


@pytest.mark.parametrize("name", ["dot", "eleven", "inner", "none", "part", "slash", "zips"])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.few(5)
def test_it_is_mapped_as_any_other(old, tmp_path, name, scheduler):
    store = ShardedStore.load(old / f"{name}.json")
    with dask.config.set(scheduler=scheduler):
        new = store.map_shards(ToZip(tmp_path / "out"))
    check_values(new, values_of(old, name))
    check_same_contents(ShardedStore.load(tmp_path / "out"), contents_of(store))
    for level in ("exists", "stored", "decoded"):
        report = new.verify(store, level=level) if level == "decoded" else new.verify(level=level)
        assert report.ok, str(report)


def test_it_is_recompressed(old, tmp_path):
    store = ShardedStore.load(old / "dot.json")
    new = store.map_shards(Recompress("zstd"), ToZip(tmp_path / "out"))
    check_values(new, values_of(old, "dot"))


def test_it_is_mapped_by_processes(old, tmp_path, workers):
    store = ShardedStore.load(old / "dot.json")
    new = store.map_shards(ToZip(tmp_path / "out"))
    assert new.verify(store).ok
    assert new.summary.done == 25
    check_values(new, values_of(old, "dot"))


def test_the_zips_that_it_is_made_of_are_never_written_over(copied):
    before = files_below(copied)
    store = ShardedStore.load(copied / "zips.json")
    with pytest.raises(
        ShardsFailed, match="6 of 12 shards failed"
    ) as failed:  # the base, people, and those of image/s1
        store.map_shards(to_zip_store_with_prefix(copied / "zips"), max_failures=100)
    assert "zips/image/s1/3.zarr.zip' would be, or be inside, the source" in str(failed.value.exceptions[-1])
    assert {key: data for key, data in files_below(copied).items() if key in before} == before


def test_it_is_divided_anew(old, tmp_path):
    store = ShardedStore.load(old / "dot.json")
    view = ShardedStore.partition(store, {"image/s0": (2, -1, -1, -1)})
    assert view.config.shards["image/s0"].blocks.grid == (2,)
    new = view.map_shards(ToZip(tmp_path / "out"))
    check_values(new, values_of(old, "dot"))


@pytest.mark.parametrize("name", ["dot", "zips"])
def test_changes_are_seen_by_listing(copied, tmp_path, name):
    def run():
        store = ShardedStore.load(copied / f"{name}.json")
        summary = store.map_shards(ToZip(tmp_path / "out"), changed="listing").summary
        return summary.done, summary.skipped

    total, _ = run()
    assert run() == (0, total)
    if name == "dot":
        os.utime(copied / "dot/s0/1.2.zarr/0.1", ns=(1, 1))
    else:
        with (
            zipfile.ZipFile(copied / "zips/image/s1/2.zarr.zip", "a") as archive,
            pytest.warns(UserWarning, match="Duplicate"),
        ):
            archive.writestr("0.0", archive.read("0.1"))
    assert run() == (1, total - 1)


def test_half_of_a_job_shows_the_rest_from_it(copied, tmp_path):
    store = ShardedStore.load(copied / "dot.json")
    damaged = copied / "dot/s0/1.2.zarr"
    damaged.rename(copied / "away")
    with pytest.raises(ShardsFailed) as failed:
        store.map_shards(ToZip(tmp_path / "out"))
    assert re.search(r"image/s0\[1/2\].*lacks chunks of its block '1/2'.*mounted\?", str(failed.value))
    (copied / "away").rename(damaged)
    shown = ShardedStore.load(tmp_path / "out", partial=True, allow=[copied])
    assert (shown.partial.shown, shown.partial.total) == (24, 25)
    check_values(shown, values_of(copied, "dot"))
    assert store.map_shards(ToZip(tmp_path / "out")).summary.done == 1


def test_a_shard_that_is_gone_is_not_read_as_fill_values(copied):
    store = ShardedStore.load(copied / "dot.json")
    shutil.rmtree(copied / "dot/s0/0.1.zarr")
    with pytest.raises(
        CorruptError, match=r"'image/s0' lacks chunks of its block '0/1', and .*0.1.zarr.* is no longer a shard"
    ):
        list(read_entries(store.component("image/s0", (0, 1))))
    for path in (copied / "dot/s0/0.2.zarr").glob("[0-9]*"):
        path.unlink()
    assert (
        len(list(read_entries(store.component("image/s0", (0, 2))))) == 2
    )  # existing arrays without chunks: fill values


def test_it_is_pickled(old):
    for name in READABLE:
        store = ShardedStore.load(old / f"{name}.json")
        again = pickle.loads(pickle.dumps(store))
        assert again == store
        assert contents_of(again) == contents_of(store)


def test_it_is_not_saved(old, tmp_path):
    store = ShardedStore.load(old / "dot.json")
    with pytest.raises(
        ConfigError, match=r"shard 'image/s0', block '0/0' has the form of shardedstore 0.3.1.*map it first"
    ):
        store.save(tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


def test_its_document_is_that_of_an_ordinary_config(old):
    """A job keeps it, to show the source of unfinished shards."""
    store = ShardedStore.load(old / "dot.json")
    again = ShardedStore.from_config(json.loads(json.dumps(store.get_config())))
    assert again.config == store.config


def test_a_squeezed_block_makes_sense():
    blocks = Blocks((3, 2), (1,), ChunkKeys("v2", "."))
    squeezed = Squeezed(Directory("/b"), BlockOf(Directory("/a"), "t", blocks, (1,)))
    mount = Mount(Directory("/b/{block}"), blocks, exceptions={"1": squeezed})
    document = to_dict(Config(Directory("/a"), {"t": mount}))
    for change, match in (
        ({"chunks": [1, 1]}, "only blocks of Zarr v2 arrays that have a dimension that is not sharded can be squeezed"),
        ({"keys": {"name": "default", "separator": "/"}}, "only blocks of Zarr v2 arrays"),
        ({"chunk_grid": [1, 2]}, "whose grid of blocks is"),
    ):
        wrong = copy.deepcopy(document)
        wrong["shards"]["t"]["exceptions"]["1"]["array"]["blocks"] |= change
        refused(wrong, match)
    document["shards"]["t"]["exceptions"]["1"]["array"]["source"]["url"] = "/etc"
    refused(document, r"names '/etc', which is outside", allow=["/a", "/b"])


# Arbitrary documents


EVIL = [
    "/",
    "/etc",
    "../../../../etc",
    "..",
    ".",
    "~",
    "~root",
    "",
    "file:///etc",
    "s3://b/k",
    "http://127.0.0.1:9/x",
    "a\0b",
]
EVIL += [
    "ShardedStore",
    "ZipStore",
    "FSStore",
    "subprocess",
    "evil_module",
    "\ud800",
    "{block}",
    "0.0",
    "10",
    "/etc/passwd",
    "\\",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 20)
    | st.floats(allow_nan=False)
    | st.sampled_from(EVIL)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(EVIL) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def places_in(value, at=()):
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places_in(inner, (*at, key))


@st.composite
def mutated(draw, documents):
    """A document with some values replaced, removed, swapped or copied to other places."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([place for place in places_in(document) if place] or [("name",)]))
        holder = at(document, above)
        change = draw(st.sampled_from(["replace", "remove", "rename", "copy"]))
        if change == "remove":
            del holder[last]
        elif change == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(EVIL) | st.text(max_size=3))] = holder.pop(last)
        elif change == "copy":
            holder[last] = copy.deepcopy(at(document, draw(st.sampled_from(list(places_in(document))))))
        else:
            holder[last] = draw(JSON)
        if not isinstance(document, dict) or not document:
            break
    return document


@pytest.fixture(scope="session")
def small(old):
    """Documents with all features in few shards, each with the path of its folder."""
    documents = [
        json.loads(json.dumps(document_of(old, name))) for name in ("dot", "none", "inner", "zips", "fs-slash", "lower")
    ]
    for document in documents:
        for shards in document["config"]["kwargs"]["array_shards"].values():
            for name in list(shards)[2:]:
                del shards[name]
    return documents


@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_it_says_only_own_errors_come_out_and_nothing_else_is_touched(old, small, data):
    document = data.draw(mutated(small))
    text = json.dumps(document)
    config = old / "fuzzed.json"
    config.write_text(text)
    with chdir(old), watching.watched() as touched, suppress(ShardedStoreError):
        keys_of(ShardedStore.load(config))
    ignored = (str(old), *watching.SYSTEM)
    outside = [name for name in touched if name.startswith(os.sep) and not name.startswith(ignored)]
    assert outside == []
    assert not {"socket.connect", "subprocess.Popen", "os.system"} & set(touched)
    assert not {"evil_module", "subprocess.ShardedStore"} & set(watching.imported)
