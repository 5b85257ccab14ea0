"""Collections: many independent Zarrs under one root are opened, mapped one by one or in groups, and resumed."""

import json
import os
import pickle
import time
from functools import cache

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from conformance import check_pickles, check_read_only, check_same_contents, contents_of, get, names_in
from distributed import Client, LocalCluster
from helpers_jobs import Fail, Slow, files_of, kill_session, ledger_at, python, script_of, wait_until
from hypothesis import given
from hypothesis import strategies as st
from servers import upload
from sources import build, to_folder
from zarr.core.sync import sync

from shardedstore import ChainError, DestinationError, Guards, PartitionError, ShardedStore, ShardsFailed, UsageError
from shardedstore.cli import main
from shardedstore.config.document import dump, from_dict, parse
from shardedstore.errors import ConfigError
from shardedstore.jobs import shards
from shardedstore.jobs.layouts import shard_folder
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.open_shard import open_shard
from shardedstore.jobs.source_comparison import unchanged
from shardedstore.stores.group import group_documents
from shardedstore.stores.locations import Config, Directory, Group, Mount, ViewOf, Zip
from shardedstore.stores.members import Members, MountIndex
from shardedstore.stores.routes import BASE, Routes
from shardedstore.stores.routing import RoutedStore
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToShardingCodec, ToZip
from shardedstore.transforms.to_zip import gather
from shardedstore.zips import ZipReadStore

COUNT = 13


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def cell(store, made):
    """A small Zarr: an array at its root, another in a group, and another file."""
    zarr_format, number = made
    group = zarr.create_group(store, zarr_format=zarr_format, attributes={"number": number})
    group.create_array("image", data=np.arange(10) + number, chunks=(3,))
    group.create_group("meta").create_array("scale", data=np.arange(4.0) * number, chunks=(2,))


@cache
def contents_of_cell(zarr_format, number):
    return {**build(cell, (zarr_format, number)), "notes/readme.txt": b"not for zarr"}


def cells_at(folder, numbers=range(COUNT), zarr_format=3, form="cell {number:03}.zarr"):
    """Write cells to a folder; return their pattern, and the keys and bytes of their collection."""
    expected = group_documents(zarr_format, {})
    for number in numbers:
        contents = contents_of_cell(zarr_format, number)
        to_folder(contents, folder / form.format(number=number))
        expected |= {f"{number:03}/{key}": data for key, data in contents.items()}
    return str(folder / "cell *.zarr"), expected


def documents_of(expected):
    return {key for key in expected if key.rpartition("/")[2] in ("zarr.json", ".zgroup", ".zarray", ".zattrs")}


def zips_of(out):
    return {name: data for name, data in files_of(out).items() if name.endswith((".zip", ".ozx"))}


def is_equal(store, numbers=range(COUNT)):
    root = zarr.open_group(store, mode="r")
    assert sorted(root.group_keys()) == [f"{number:03}" for number in numbers]
    for number in numbers:
        assert root[f"{number:03}"].attrs["number"] == number
        assert (root[f"{number:03}/image"][:] == np.arange(10) + number).all()
        assert (root[f"{number:03}/meta/scale"][:] == np.arange(4.0) * number).all()
    return True


# Names


segments = st.text(st.sampled_from("ab/.~%0 ü"), min_size=1, max_size=3).filter(
    lambda text: "/" not in text and text not in (".", "..")
)
names_of_a_depth = st.integers(1, 3).flatmap(
    lambda depth: st.lists(st.lists(segments, min_size=depth, max_size=depth).map("/".join), min_size=1, unique=True)
)


@given(names_of_a_depth, st.integers(1, 4), st.lists(st.lists(segments, min_size=1, max_size=5).map("/".join)))
def test_keys_are_routed_by_the_names(names, together, keys):
    members = Members(tuple(sorted(names)), together)
    routes = Routes({"at": Mount(Directory("/{name}"), members=members)})
    index = MountIndex({"at": members})
    for key in [*keys, *(f"{name}/{key}" for name in names for key in keys), *names]:
        owner = next((name for name in names if f"{key}/".startswith(f"{name}/")), None)
        number = None if owner is None else members.names.index(owner)
        rest = None if owner is None else key[len(owner) + 1 :]
        assert members.find(key) == (None if owner is None else (number, rest))
        assert routes.find(f"at/{key}") == ((("at", (number,)), rest) if rest else (BASE, f"at/{key}"))
        assert index.find(f"at/{key}") == (None if owner is None else "at")
    for start in {"", *(key[:i] for key in names for i in range(len(key)))}:
        assert [members.names[i] for i in members.below(start)] == sorted(n for n in names if n.startswith(start))
        assert set(members.children(start)) == names_in(dict.fromkeys(names), start)
    assert [name for some in members.shards() for name in some] == list(members.names)
    assert len(list(members.shards())) == len(list(members.shard_names())) == members.count
    for number, some in enumerate(members.shards()):
        assert members.cut(number, number + 1).names == some
        assert {members.shard_of(members.names.index(name)) for name in some} == {number}
        assert members.has_shard(members.shard_name(number))
    assert not members.has_shard("")
    assert not members.has_shard(str(members.count)) or together == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "there must be at least one name"),
        (["b", "a"], "must be sorted"),
        (["a", "a"], "must be sorted and unique"),
        (["..", "a"], r"the name '\.\.' has a segment '\.\.'"),
        (["a", "b/../c"], "has a segment"),
        (["", "a"], "an empty segment"),
        (["/etc/passwd"], "an empty segment"),
        (["a\0b"], "has a segment"),
        (["a", "b/c"], "different numbers of segments"),
    ],
)
def test_names_that_are_no_paths_or_not_sorted_are_refused(names, message):
    fields = {"base": {"kind": "group"}, "shards": {"": {"location": {"kind": "directory", "url": "{name}"}}}}
    fields["shards"][""]["members"] = {"names": names}
    with pytest.raises(ConfigError, match=message):
        from_dict({"format": "shardedstore", "version": 1, **fields}, "/out", [])


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ({"exceptions": {"c": {"kind": "zip", "url": "x"}}}, "no member or shard 'c'"),
        ({"location": {"kind": "zip", "url": "x.zip"}}, r"2 members, all at '/out/x\.zip'|put {name}"),
        (
            {"members": {"names": ["a", "b"], "together": 2}, "location": {"kind": "zip", "url": "{block}.zip"}},
            "put {name}",
        ),
        ({"members": {"names": ["a", "b"], "together": 0}}, "`int` >= 1"),
        ({"members": {"names": ["a", "b"], "other": 0}}, "unknown field"),
        ({"location": {"kind": "zip", "url": "../{name}.zip"}}, "segment '..'"),
        ({"location": {"kind": "zip", "url": "/etc/{name}.zip"}}, "outside its own folder"),
    ],
)
def test_what_a_config_can_not_say_of_members(mount, message):
    given_mount = {"location": {"kind": "zip", "url": "{name}.zip"}, "members": {"names": ["a", "b"]}, **mount}
    with pytest.raises(ConfigError, match=message):
        from_dict(
            {"format": "shardedstore", "version": 1, "base": {"kind": "group"}, "shards": {"": given_mount}}, "/out", []
        )


def test_a_config_of_300_000_names_is_small_and_opens_at_once():
    names = tuple(f"cell-{number:06}" for number in range(300_000))
    config = Config(Group(), {"": Mount(ViewOf(Zip("/out/{block}.zip"), "{name}"), members=Members(names, 1000))})
    data = dump(config, "/out")
    assert len(data) < 5_000_000
    assert data.count(b"\n") < 40
    begun = time.process_time()
    read = from_dict(parse(data), "/out", [])
    RoutedStore(read)  # /out does not exist
    assert time.process_time() - begun < 2  # seconds: 0.1 on an idle machine
    assert read == config
    assert Routes(read.shards).find("cell-123456/image/c/0") == (("", (123_456,)), "image/c/0")
    assert ShardedStore.from_config(json.loads(data), root="/out").shards[124].name == "[123]"


def test_routing_and_listing_open_only_what_is_asked_for(tmp_path):
    cells_at(tmp_path, range(3))
    names = tuple(f"{number:06}" for number in range(100_000))
    to_folder(contents_of_cell(3, 4711), tmp_path / "cell 004711.zarr")
    template = Directory(f"{tmp_path}/cell {{name}}.zarr")
    store = RoutedStore(Config(Group(), {"": Mount(template, members=Members(names))}))
    root = zarr.open_group(store, mode="r")
    assert (root["004711/image"][:] == np.arange(10) + 4711).all()

    async def listed(prefix):
        return [name async for name in store.list_dir(prefix)]

    assert sync(listed("")) == ["zarr.json", *names]
    assert set(sync(listed("004711"))) == {"zarr.json", "image", "meta", "notes"}
    assert get(store, "004711/notes/readme.txt") == b"not for zarr"


def test_the_names_of_a_config_stand_on_one_line_and_others_are_left_alone():
    config = Config(
        Group(attributes={"names": "\0" + "0", "members": {"names": "\0" + "0"}}),
        {"a": Mount(Directory("/in/{name}"), members=Members(('x"\\', "y")))},
    )
    text = dump(config, None)
    assert b'        "names": ["x\\"\\\\","y"]\n' in text
    found = from_dict(parse(text))
    assert found.shards == config.shards


# Collecting


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_collection_is_one_zarr(zarr_format, tmp_path):
    pattern, expected = cells_at(tmp_path, zarr_format=zarr_format)
    store = ShardedStore.collect(pattern)
    check_same_contents(store, expected)
    check_read_only(store)
    assert is_equal(check_pickles(store))
    assert len(store.shards) == COUNT + 1


def test_what_matches_a_pattern(tmp_path, monkeypatch):
    cells_at(tmp_path, [1, 20])
    to_folder(contents_of_cell(3, 9), tmp_path / ".hidden.zarr")
    to_folder(contents_of_cell(3, 9), tmp_path / "other.zarr.bak")
    (tmp_path / "cell 009.zarr").write_bytes(b"a file")
    (tmp_path / "cell 010.zarr").symlink_to(tmp_path / "cell 020.zarr")
    monkeypatch.chdir(tmp_path)
    members = {
        p: ShardedStore.collect(p).config.shards[""].members.names for p in ("cell *.zarr", "*.zarr", "*", "cell 00*")
    }
    assert members["cell *.zarr"] == ("001", "010", "020")
    assert members["*.zarr"] == ("cell 001", "cell 010", "cell 020")
    assert members["*"] == ("cell 001.zarr", "cell 010.zarr", "cell 020.zarr", "other.zarr.bak")
    assert members["cell 00*"] == ("1.zarr",)


def test_patterns_of_several_segments(tmp_path):
    expected = group_documents(3, {})
    for plate in "p1", "p2":
        expected |= {f"{plate}/zarr.json": group_documents(3, {})["zarr.json"]}
        expected |= {f"{plate}/images/zarr.json": group_documents(3, {})["zarr.json"]}
        for well in "a", "b":
            contents = contents_of_cell(3, ord(well))
            to_folder(contents, tmp_path / plate / "images" / f"{well}.zarr")
            expected |= {f"{plate}/images/{well}/{key}": data for key, data in contents.items()}
    (tmp_path / "p3").mkdir()  # has no images
    store = ShardedStore.collect(tmp_path / "*" / "images" / "*.zarr")
    assert store.config.shards[""].members.names == ("p1/images/a", "p1/images/b", "p2/images/a", "p2/images/b")
    check_same_contents(store, expected)
    for number, chain in enumerate(([ToZip], [lambda url: ToZip(url, per_zip=3)], [CopyTo])):
        result = store.map_shards(chain[0](tmp_path / f"out{number}"))
        check_same_contents(result, expected)
        assert result.verify(store).ok
    alone = zarr.open_group(ZipReadStore(tmp_path / "out1" / "0.zarr.zip"), mode="r")
    assert sorted(path for path, _ in alone.members(None)) == sorted(
        {"p1", "p1/images", "p2", "p2/images"}
        | {
            f"{c}{below}"
            for c in ("p1/images/a", "p1/images/b", "p2/images/a")
            for below in ("", "/image", "/meta", "/meta/scale")
        }
    )


def test_zips_are_collected_as_well(tmp_path):
    pattern, expected = cells_at(tmp_path)
    ShardedStore.collect(pattern).map_shards(ToZip(tmp_path / "zips"))
    (tmp_path / "zips" / "__base__.zarr.zip").unlink()
    check_same_contents(ShardedStore.collect(tmp_path / "zips" / "*.zarr.zip"), expected)


def test_names_may_be_given_and_nothing_is_listed_then(tmp_path):
    pattern, _ = cells_at(tmp_path)
    store = ShardedStore.collect(pattern, names=["007", "003"])
    assert is_equal(store, [3, 7])
    with pytest.raises(PartitionError, match=r"'/nowhere/x\.zarr' can't be read: /nowhere/x.zarr does not exist"):
        ShardedStore.collect("/nowhere/*.zarr", names=["x"])
    with pytest.raises(UsageError, match=r"the name '\.\./x' has a segment"):
        ShardedStore.collect(pattern, names=["../x"])
    for names in "007", [7], []:
        with pytest.raises(UsageError, match="must be a list of one or more strings"):
            ShardedStore.collect(pattern, names=names)


def test_a_name_that_is_no_text_is_refused(tmp_path):
    cells_at(tmp_path, [1])
    os.rename(tmp_path / "cell 001.zarr", os.fsencode(tmp_path) + b"/cell \xff.zarr")
    with pytest.raises(UsageError, match=r"are not valid: the name '\\udcff' is not valid UTF-8: rename it"):
        ShardedStore.collect(tmp_path / "cell *.zarr")


def test_keys_that_begin_like_a_name_are_listed(tmp_path):
    for name in "a", "ab", "b":
        to_folder(contents_of_cell(3, 1), tmp_path / "p" / f"{name}.zarr")
    for pattern, above in ("p/*.zarr", ""), ("*/*.zarr", "p/"):
        store = ShardedStore.collect(tmp_path / pattern)
        keys = contents_of(store)
        for prefix in (f"{above}{name}" for name in ("", "a", "ab", "a/", "a/image/", "c")):

            async def listed(prefix=prefix):
                return [key async for key in store.list_prefix(prefix)]  # noqa: B023 (it is called at once)

            assert sorted(sync(listed())) == sorted(key for key in keys if key.startswith(prefix))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("cells", "is not a pattern: put \\*"),
        ("cells/**/x.zarr", "is not a pattern"),
        ("{name}/*.zarr", "braces"),
        ("s3://*/x.zarr", "name of the bucket"),
        ("https://host/data/*.zarr", "can't be listed: give the names"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern, message):
    with pytest.raises(UsageError, match=message):
        ShardedStore.collect(pattern)


def test_a_pattern_that_matches_nothing_says_where_it_looked(tmp_path):
    cells_at(tmp_path, [1])
    with pytest.raises(
        PartitionError, match=rf"nothing matches '{tmp_path}/x\*\.zarr': there are no folders with such names"
    ):
        ShardedStore.collect(tmp_path / "x*.zarr")
    with pytest.raises(PartitionError, match=r"nothing matches .*: there are no files"):
        ShardedStore.collect(tmp_path / "*.zip")
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(PartitionError, match=r"a\.zarr' holds no Zarr"):
        ShardedStore.collect(tmp_path / "*.zarr")


# Mapping

CHAINS = {
    "a zip each": lambda url: [ToZip(url)],
    "one a zip": lambda url: [ToZip(url, per_zip=1)],
    "five a zip": lambda url: [ToZip(url, per_zip=5)],
    "all in a zip": lambda url: [ToZip(url, per_zip=1000)],
    "recompressed": lambda url: [Recompress("zstd"), ToZip(url, per_zip=5)],
    "migrated": lambda url: [MigrateV3(), ToZip(url, per_zip=5)],
    "a folder each": lambda url: [CopyTo(url, layout="shards")],
    "one Zarr": lambda url: [CopyTo(url)],
    "recompressed, one Zarr": lambda url: [Recompress("zstd"), CopyTo(url)],
}


@pytest.mark.few(3)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_collection_is_mapped(zarr_format, chain, tmp_path):
    if chain == "migrated" and zarr_format == 3:
        pytest.skip("it is v3 already")
    pattern, expected = cells_at(tmp_path / "in", zarr_format=zarr_format)
    store, out = ShardedStore.collect(pattern), tmp_path / "out"
    steps = CHAINS[chain](out)
    result = store.map_shards(*steps, digest=True)
    if len(steps) == 1:
        check_same_contents(result, expected)
    assert is_equal(result)
    assert contents_of(result)["007/notes/readme.txt"] == b"not for zarr"
    assert str(result.verify(level="exists")).startswith("ok")
    assert str(result.verify(level="stored")).startswith("ok")
    assert str(result.verify(level="decoded")).startswith("ok: 26 arrays")
    assert str(result.verify(store)).startswith("ok: 26 arrays")
    place = f"{out}.shardedstore" if steps[-1].layout == "zarr" else out
    assert ShardedStore.load(place, allow=[out]) == result
    again = store.map_shards(*steps, digest=True)
    assert (again.summary.done, again.summary.skipped) == (0, result.summary.done)


def test_to_the_sharding_codec(tmp_path):
    pattern, _ = cells_at(tmp_path / "in")
    store = ShardedStore.collect(pattern)
    assert is_equal(store.map_shards(ToShardingCodec(tmp_path / "out.zarr")))
    assert is_equal(zarr.open_group(tmp_path / "out.zarr", mode="r").store)


def test_each_zip_is_a_zarr_alone_and_the_same_whatever_runs_it(tmp_path):
    pattern, expected = cells_at(tmp_path / "in")
    store = ShardedStore.collect(pattern)
    store.map_shards(ToZip(tmp_path / "out", per_zip=5))
    with dask.config.set(scheduler="threads"):
        store.map_shards(ToZip(tmp_path / "again", per_zip=5))
    found = zips_of(tmp_path / "out")
    assert sorted(found) == ["0.zarr.zip", "1.zarr.zip", "2.zarr.zip", "__base__.zarr.zip"]
    assert found == zips_of(tmp_path / "again")
    alone = ZipReadStore(tmp_path / "out" / "1.zarr.zip")
    check_same_contents(
        alone, {key: data for key, data in expected.items() if key == "zarr.json" or "005" <= key[:3] <= "009"}
    )
    assert is_equal(alone, range(5, 10))


def test_a_result_is_mapped_again(tmp_path):
    """Also with several members in one zip: the zip stays the shard, or its members are grouped again if possible."""
    pattern, expected = cells_at(tmp_path / "in")
    first = ShardedStore.collect(pattern).map_shards(ToZip(tmp_path / "a", per_zip=5))
    for sink in (ToZip(tmp_path / "b"), CopyTo(tmp_path / "c", layout="shards"), CopyTo(tmp_path / "d")):
        result = ShardedStore.load(tmp_path / "a").map_shards(sink)
        check_same_contents(result, expected)
        assert result.summary.done == 4
        assert result.verify().ok
        assert result.verify(first).ok
    with pytest.raises(ChainError, match=r"already grouped by 5 in .*: leave out per_zip, or use per_zip=5"):
        first.map_shards(ToZip(tmp_path / "e", per_zip=4))
    each = ShardedStore.collect(pattern).map_shards(ToZip(tmp_path / "f"))
    with pytest.raises(ChainError, match="already grouped by 1"):
        each.map_shards(ToZip(tmp_path / "g", per_zip=5))


def nested(store, _path, _block):
    """A function of stores that returns its argument."""
    target = zarr.storage.LocalStore(f"{os.environ['SHARDEDSTORE_TEST_TARGET']}/{_path or 'base'}-{_block}")

    async def copy():
        async for key in store.list():
            value = await store.get(key, zarr.core.buffer.default_buffer_prototype())
            await target.set(key, value)
        return target

    return sync(copy())


def test_a_function_of_stores_gets_each_member(tmp_path, monkeypatch):
    monkeypatch.setenv("SHARDEDSTORE_TEST_TARGET", str(tmp_path / "made"))
    pattern, expected = cells_at(tmp_path / "in", range(3))
    store = ShardedStore.collect(pattern)
    result = store.map_shards(nested, to=tmp_path / "out")
    check_same_contents(result, expected)
    assert sorted(os.listdir(tmp_path / "made")) == ["000-None", "001-None", "002-None", "base-None"]
    packed = store.map_shards(ToZip(tmp_path / "packed", per_zip=2))
    result = packed.map_shards(nested, to=tmp_path / "out2")
    check_same_contents(result, expected)
    assert sorted(os.listdir(tmp_path / "made"))[3:] == ["base-0", "base-1", "base-None"]


def test_consolidated_metadata_is_carried_unless_it_may_be_stale(tmp_path):
    for zarr_format in 2, 3:
        pattern, _ = cells_at(tmp_path / f"v{zarr_format}", range(3), zarr_format)
        for path in (tmp_path / f"v{zarr_format}").iterdir():
            zarr.consolidate_metadata(str(path), zarr_format=zarr_format)
        store = ShardedStore.collect(pattern)
        key = "001/.zmetadata" if zarr_format == 2 else "001/zarr.json"
        kept = store.map_shards(ToZip(tmp_path / f"kept{zarr_format}", per_zip=2))
        assert get(kept, key) == get(store, key)
        for number, (chain, options) in enumerate([([Recompress("zstd")], {}), ([], {"consolidated": False})]):
            dropped = store.map_shards(*chain, ToZip(tmp_path / f"dropped{zarr_format}{number}"), **options)
            assert b"consolidated" not in (get(dropped, key) or b"")
            assert is_equal(dropped, range(3))
            assert dropped.verify(store).ok
        with pytest.raises(UsageError, match="metadata of all 3 members"):
            store.map_shards(ToZip(tmp_path / "no"), consolidated=True)


def test_steps_are_checked_with_the_first_member(tmp_path):
    pattern, _ = cells_at(tmp_path / "in")
    with pytest.raises(ChainError, match="zstds"):
        ShardedStore.collect(pattern).map_shards(Recompress("zstds"), ToZip(tmp_path / "out"))
    with pytest.raises(ChainError, match="is Zarr v3 already"):
        ShardedStore.collect(pattern).map_shards(MigrateV3(), ToZip(tmp_path / "out"))
    with pytest.raises(ChainError, match=r"all 13 members of '' would be named 'all\.zip': put \{block\}"):
        ShardedStore.collect(pattern).map_shards(ToZip(tmp_path / "out", name="all.zip"))


def test_a_member_that_is_named_as_the_base_is_refused(tmp_path):
    to_folder(contents_of_cell(3, 1), tmp_path / "in" / "__base__")
    with pytest.raises(ChainError, match=r"'\(base\)' and '__base__' would both be named '__base__\.zarr\.zip'"):
        ShardedStore.collect(tmp_path / "in" / "*").map_shards(ToZip(tmp_path / "out"))


def test_where_a_collection_may_be_mapped_to(tmp_path):
    pattern, _ = cells_at(tmp_path, [1, 2])
    store = ShardedStore.collect(pattern)
    for place in ("cell 001.zarr", "cell 001.zarr/x", "cell 003.zarr"):
        with pytest.raises(DestinationError, match="is inside, a folder that the source"):
            store.map_shards(ToZip(tmp_path / place))
    with pytest.raises(DestinationError, match="lies inside the destination"):
        store.map_shards(CopyTo(tmp_path))
    with pytest.raises(DestinationError, match="lies inside the source"):
        store.map_shards(ToZip(tmp_path, name="cell 9.zarr/{path}{block}"), overwrite=True)
    assert is_equal(store.map_shards(ToZip(tmp_path / "out")), [1, 2])


# Problems of members


@pytest.mark.parametrize("per_zip", [None, 5])
def test_a_member_that_fails_is_named_and_the_rest_is_done(per_zip, tmp_path):
    pattern, expected = cells_at(tmp_path / "in")
    broken = tmp_path / "in" / "cell 008.zarr" / "zarr.json"
    document = broken.read_bytes()
    broken.unlink()
    to_folder(contents_of_cell(2, 1), tmp_path / "in" / "cell 101.zarr")
    store, sink = ShardedStore.collect(pattern), ToZip(tmp_path / "out", per_zip=per_zip)
    with pytest.raises(ShardsFailed, match="2 of ") as failed:
        store.map_shards(sink)
    first, second = failed.value.exceptions
    assert "'008'" in str(first) or str(first).startswith("008")
    assert "no metadata" in str(first)
    assert "101" in str(second)
    assert "Zarr format is 2, but the first member of the collection has format 3" in str(second)
    assert not (tmp_path / "out" / "shardedstore.json").exists()
    with pytest.warns(UserWarning, match=r"2 of .* shards failed"):
        shown = store.map_shards(sink, on_error="partial")
    assert get(shown, "000/zarr.json") == expected["000/zarr.json"]
    assert get(shown, "008/image/c/0") == expected["008/image/c/0"]
    half = ShardedStore.load(tmp_path / "out", partial=True, allow=[tmp_path / "in"])
    assert contents_of(half) == contents_of(store)
    assert half.partial.shown == (COUNT if per_zip is None else 2)
    broken.write_bytes(document)
    os.rename(tmp_path / "in" / "cell 101.zarr", tmp_path / "away")
    to_folder(contents_of_cell(3, 101), tmp_path / "in" / "cell 101.zarr")
    result = store.map_shards(sink)
    assert result.summary.done == 2
    assert is_equal(result, [*range(COUNT), 101])


def test_a_half_finished_job_with_a_step_shows_members_of_both(tmp_path):
    pattern, _ = cells_at(tmp_path / "in")
    store = ShardedStore.collect(pattern)
    chain = [Recompress("zstd", level=7), Fail("[1]"), ToZip(tmp_path / "out", per_zip=5)]
    with pytest.raises(ShardsFailed, match="1 of 4") as failed:
        store.map_shards(*chain)
    assert str(failed.value.exceptions[0]).startswith("shard '[1]' failed")
    half = ShardedStore.load(tmp_path / "out", partial=True, allow=[tmp_path / "in"])
    assert is_equal(half)
    assert (half.partial.shown, half.partial.total) == (3, 4)
    assert str(half.partial).endswith("'/' is not done")
    new, old = (zarr.open_array(half, path=f"{name}/image", mode="r").compressors[0] for name in ("000", "005"))
    assert new.level != old.level


# Changes


@pytest.mark.parametrize("per_zip", [None, 5])
def test_of_a_collection_that_grows_what_is_new_is_made(per_zip, tmp_path):
    pattern, _ = cells_at(tmp_path / "in", range(5, 25))
    sink = ToZip(tmp_path / "out", per_zip=per_zip)
    ShardedStore.collect(pattern).map_shards(sink)
    cells_at(tmp_path / "in", range(25, 27))
    grown = ShardedStore.collect(pattern).map_shards(sink)
    assert is_equal(grown, range(5, 27))
    assert grown.summary.done == (2 if per_zip is None else 1)
    assert grown.verify().ok
    assert is_equal(ShardedStore.load(tmp_path / "out"), range(5, 27))
    cells_at(tmp_path / "in", [0])  # before all others
    os.rename(tmp_path / "in" / "cell 026.zarr", tmp_path / "away")
    again = ShardedStore.collect(pattern).map_shards(sink, guards=Guards(disappear=False))
    assert is_equal(again, [0, *range(5, 26)])
    assert again.summary.done == (1 if per_zip is None else 5)
    assert again.verify().ok
    pruned = ShardedStore.prune(tmp_path / "out")
    assert is_equal(ShardedStore.load(tmp_path / "out"), [0, *range(5, 26)])
    if per_zip is None:
        assert pruned.names[0] == "026~2.zarr.zip"
    else:
        assert {"0.zarr.zip", "1.zarr.zip"} <= set(pruned.names)
    assert len(zips_of(tmp_path / "out")) == 1 + (22 if per_zip is None else 5)
    assert ShardedStore.collect(pattern).map_shards(sink).summary.done == 0


def test_one_ordinary_zarr_grows_with_its_collection_and_shrinks_not(tmp_path):
    pattern, _ = cells_at(tmp_path / "in", range(5))
    ShardedStore.collect(pattern).map_shards(CopyTo(tmp_path / "out.zarr"))
    cells_at(tmp_path / "in", range(5, 7))
    grown = ShardedStore.collect(pattern).map_shards(CopyTo(tmp_path / "out.zarr"))
    assert is_equal(grown, range(7))
    assert grown.summary.done == 2
    os.rename(tmp_path / "in" / "cell 003.zarr", tmp_path / "away")
    with pytest.raises(DestinationError, match="another source"):
        ShardedStore.collect(pattern).map_shards(CopyTo(tmp_path / "out.zarr"))


@pytest.mark.parametrize("per_zip", [None, 5])
def test_what_changed_in_a_member_is_seen_by_listing_and_content(per_zip, tmp_path):
    pattern, _ = cells_at(tmp_path / "in")
    sink, store = ToZip(tmp_path / "out", per_zip=per_zip), ShardedStore.collect(pattern)
    store.map_shards(sink, changed="listing")
    array = zarr.open_array(tmp_path / "in" / "cell 008.zarr" / "image", mode="r+")
    array[0] = 4711
    assert store.map_shards(sink).summary.done == 0
    for level, value in ("listing", 4711), ("content", 4712):
        array[0] = value
        result = store.map_shards(sink, changed=level)
        assert result.summary.changed == (1 if level == "listing" else result.summary.done)
        assert zarr.open_array(result, path="008/image", mode="r")[0] == value
    array[0] = 1
    last = store.map_shards(sink, changed="content")
    assert (last.summary.done, last.summary.changed) == (1, 1)


def test_names_in_braces_stand_for_nothing_when_they_are_made_again(tmp_path):
    names = ["a", "a{name}", "b{block}", "{name}", "{path}{block}"]
    for number, name in enumerate(names):
        to_folder(contents_of_cell(3, number), tmp_path / "in" / f"{name}.zarr")
    sink, store = ToZip(tmp_path / "out"), ShardedStore.collect(tmp_path / "in" / "*.zarr")
    store.map_shards(sink, changed="listing")
    for name in names[1:]:
        zarr.open_array(tmp_path / "in" / f"{name}.zarr" / "image", mode="r+")[0] = 4711
    result = store.map_shards(sink, changed="listing")
    assert result.summary.done == 4
    ShardedStore.prune(tmp_path / "out")
    check_same_contents(ShardedStore.load(tmp_path / "out"), contents_of(store))
    assert result.verify(store).ok
    assert result.verify().ok
    again = result.map_shards(ToZip(tmp_path / "again"))
    check_same_contents(again, contents_of(store))


# Verifying


@pytest.mark.parametrize("per_zip", [None, 5])
def test_verify_names_the_shard_and_what_is_wrong_in_it(per_zip, tmp_path):
    pattern, _ = cells_at(tmp_path / "in")
    store, sink = ShardedStore.collect(pattern), ToZip(tmp_path / "out", per_zip=per_zip)
    result = store.map_shards(sink, digest=True)
    name, shard = ("008.zarr.zip", "008") if per_zip is None else ("1.zarr.zip", "[1]")
    place = tmp_path / "out" / name
    good = place.read_bytes()
    where = good.index(b"008/image/c/1" if per_zip else b"image/c/1") + 30
    place.write_bytes(good[:where] + bytes([good[where] ^ 1]) + good[where + 1 :])
    for report in result.verify(level="stored"), result.verify(level="decoded"), result.verify(store):
        assert report.damaged_shards == (shard,)
        assert "image/c/1" in str(report)
    place.unlink()
    (difference,) = result.verify(level="exists").differences
    assert (difference.kind, difference.shard) == ("missing", shard)
    assert result.verify(level="exists", mark=True).marked == (shard,)
    assert store.map_shards(sink, digest=True).summary.done == 1
    assert result.verify(store).ok


def test_verify_against_a_collection_of_other_data_attributes_and_arrays(tmp_path):
    pattern, _ = cells_at(tmp_path / "in")
    result = ShardedStore.collect(pattern).map_shards(Recompress("zstd"), ToZip(tmp_path / "out", per_zip=5))
    zarr.open_array(tmp_path / "in" / "cell 003.zarr" / "image", mode="r+")[4] = 0
    zarr.open_group(tmp_path / "in" / "cell 004.zarr", mode="r+").attrs["new"] = 1
    zarr.open_group(tmp_path / "in" / "cell 005.zarr", mode="r+").create_array("more", data=np.arange(3))
    cells_at(tmp_path / "in", [99])
    report = result.verify(ShardedStore.collect(pattern))
    found = {(difference.kind, difference.array) for difference in report.differences}
    assert found == {
        ("data", "003/image"),
        ("attributes", "004"),
        ("missing", "005/more"),
        *(("missing", f"099{path}") for path in ("", "/image", "/meta", "/meta/scale")),
        ("missing", None),  # the file
    }
    chunk = next(difference for difference in report.differences if difference.kind == "data")
    assert (chunk.shard, chunk.chunk) == ("[0]", (1,))
    assert not result.verify(ShardedStore.collect(pattern)).ok


# Whole shards of one Zarr


def plate(store, zarr_format):
    root = zarr.create_group(store, zarr_format=zarr_format, attributes={"plate": 1})
    cells = root.create_group("cells", attributes={"of": "plate"})
    for number in range(7):
        group = cells.create_group(f"c{number}", attributes={"number": number})
        group.create_array("image", data=np.arange(10) + number, chunks=(3,))
    root.create_array("total", data=np.arange(100), chunks=(10,), dimension_names=("x",) if zarr_format == 3 else None)


@pytest.mark.parametrize("steps", [[], [Recompress("zstd")]], ids=["as it is", "recompressed"])
@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.few(4)
def test_whole_shards_side_by_side_share_a_zip(zarr_format, consolidated, steps, tmp_path):
    path = to_folder(build(plate, zarr_format), tmp_path / "in.zarr")
    if consolidated:
        zarr.consolidate_metadata(str(path), zarr_format=zarr_format)
    store = ShardedStore.partition(path, {"cells/*": "whole", "total": (50,)})
    result = store.map_shards(*steps, ToZip(tmp_path / "out", per_zip=3))
    names = ["__base__.zarr.zip", *(f"cells/{i}.zarr.zip" for i in range(3)), "total/0.zarr.zip", "total/1.zarr.zip"]
    assert sorted(zips_of(tmp_path / "out")) == sorted(names)
    if not steps:
        assert contents_of(result).keys() == contents_of(store).keys()
    assert result.verify(store).ok
    assert result.verify().ok
    root = zarr.open_group(result, mode="r", use_consolidated=consolidated)
    assert (root["cells/c5/image"][:] == np.arange(10) + 5).all()
    assert (root["total"][:] == np.arange(100)).all()
    loaded = ShardedStore.load(tmp_path / "out")
    assert sorted(loaded.config.shards) == ["cells", "total"]
    one = zarr.open_group(loaded.map_shards(CopyTo(tmp_path / "one.zarr")), mode="r")
    assert (one["cells"].attrs["of"], one["cells/c5"].attrs["number"]) == ("plate", 5)
    again = store.map_shards(*steps, ToZip(tmp_path / "out", per_zip=3))
    assert again.summary.done == 0
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    group["cells/c4"].attrs["new"] = True
    changed = ShardedStore.partition(path, {"cells/*": "whole", "total": (50,)}).map_shards(
        *steps, ToZip(tmp_path / "out", per_zip=3)
    )
    assert changed.summary.done == (1 if not consolidated else changed.summary.done)
    assert zarr.open_group(changed, mode="r", use_consolidated=False)["cells/c4"].attrs["new"]


def test_what_does_not_lie_side_by_side_keeps_zips_of_its_own(tmp_path):
    path = to_folder(build(plate, 3), tmp_path / "in.zarr")
    one = ShardedStore.partition(path, ["cells/c1"]).config
    assert gather(one, 3) == one
    mixed = ShardedStore.partition(path, {"cells": "whole", "total": (50,)}).config
    assert gather(mixed, 3) == mixed
    a, b = (Mount(Directory(f"/elsewhere/{name}")) for name in "ab")
    apart = Config(Group(), {"a": a, "b": b})
    assert gather(apart, 3) == apart
    views = Config(Group(), {name: Mount(ViewOf(Zip("/z.zip"), f"g/{name}")) for name in "ab"})
    assert gather(views, 3).shards == {
        "": Mount(ViewOf(Zip("/z.zip"), "g/{name}"), members=Members(("a", "b"), 3, True))
    }
    with pytest.raises(ChainError, match="per_zip is 0"):
        ToZip("out", per_zip=0)


# Other destinations


def test_a_collection_in_an_object_store(bucket, tmp_path):
    expected = group_documents(3, {})
    for number in range(12):
        contents = contents_of_cell(3, number)
        upload(bucket.client, contents, f"in put/{number:03} 100%.zarr")
        expected |= {f"{number:03}/{key}": data for key, data in contents.items()}
    upload(bucket.client, {"a": b"x"}, "in put/other")
    url = f"{bucket.url}/in%20put"
    store = ShardedStore.collect(f"{url}/*%20100%25.zarr")
    check_same_contents(store, expected)
    for number, per_zip in enumerate((None, 5)):
        sink = ToZip(f"{bucket.url}/out{number}", per_zip=per_zip)
        result = store.map_shards(sink)
        check_same_contents(ShardedStore.load(f"{bucket.url}/out{number}"), expected)
        assert result.verify().ok
        assert result.verify(store).ok
        assert store.map_shards(sink).summary.done == 0
    upload(bucket.client, contents_of_cell(3, 12), "in put/012 100%.zarr")
    grown = ShardedStore.collect(f"{url}/*%20100%25.zarr").map_shards(ToZip(f"{bucket.url}/out1", per_zip=5))
    assert is_equal(grown, range(13))
    assert grown.summary.done == 1
    assert ShardedStore.prune(f"{bucket.url}/out1").names[0] == "2.zarr.zip"
    whole = ShardedStore.collect(f"{url}/*.zarr")
    assert whole.config.shards[""].members.names[3] == "003 100%"
    each = whole.map_shards(ToZip(f"{bucket.url}/each"))
    assert each.verify().ok
    assert whole.map_shards(ToZip(f"{bucket.url}/each")).summary.done == 0
    assert get(ShardedStore.load(f"{bucket.url}/each"), "003 100%/notes/readme.txt") == b"not for zarr"
    deep = ShardedStore.collect(f"{bucket.url}/*/*.zarr")
    assert get(deep, "in put/003 100%/notes/readme.txt") == b"not for zarr"
    assert sorted(zarr.open_group(deep, mode="r").group_keys()) == ["in put"]
    zips = ShardedStore.collect(f"{bucket.url}/each/0*.zarr.zip")
    assert zips.config.shards[""].members.names[3] == "03 100%"
    assert zips.map_shards(ToZip(tmp_path / "near", per_zip=7)).verify(zips).ok


def test_on_a_cluster(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1)
    pattern, expected = cells_at(tmp_path / "in", range(40))
    store = ShardedStore.collect(pattern)
    result = store.map_shards(ToZip(tmp_path / "out", per_zip=6))
    assert result.summary.done == 8
    assert result.verify(store).ok
    lazy = store.map_shards(ToZip(tmp_path / "lazy"), compute=False).compute()
    check_same_contents(result, expected)
    assert is_equal(lazy, range(40))


def slow_collection(pattern, out, per_zip):
    """Map a collection slowly on two worker processes, in a separate process."""
    shards.LEAST_WEIGHT = 1
    with (
        dask.config.set(scheduler=None),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0) as cluster,
        Client(cluster),
    ):
        ShardedStore.collect(pattern).map_shards(Slow(0.04), ToZip(out, per_zip=per_zip))


@pytest.mark.cluster
def test_a_job_whose_processes_are_killed_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1)
    pattern, _ = cells_at(tmp_path / "in", range(50))
    out, whole = tmp_path / "out", tmp_path / "whole"
    ShardedStore.collect(pattern).map_shards(Slow(0.04), ToZip(whole, per_zip=5))
    arguments = [pattern, str(out), 5]
    process = python(
        "-c",
        script_of(__file__, f"slow_collection(*{arguments!r})"),
        log=tmp_path / "log",
    )
    try:
        wait_until(lambda: len(ledger_at(out).read()) >= 5, what="some records")
    finally:
        kill_session(process)
    done = zips_of(out)
    assert 0 < len(done) < 11
    result = ShardedStore.collect(pattern).map_shards(Slow(0.04), ToZip(out, per_zip=5))
    assert result.summary.skipped >= 5
    assert result.summary.done + result.summary.skipped == 11
    assert zips_of(out) == zips_of(whole)
    assert is_equal(result, range(50))


def test_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells_at(tmp_path / "cells")
    run = CliRunner().invoke
    shown = run(main, ["convert", "cells/cell *.zarr", "out", "--to", "zip:per_zip=5", "--dry-run"])
    assert "4 new" in shown.output
    assert not (tmp_path / "out").exists()
    done = run(main, ["convert", "cells/cell *.zarr", "out", "--to", "zip:per_zip=5", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert is_equal(ShardedStore.load("out"))
    checked = run(main, ["verify", "out", "--against", "cells/cell *.zarr", "--workers", "1"])
    assert (checked.exit_code, checked.output[:2]) == (0, "ok")
    told = run(main, ["info", "out"]).output
    assert "3 zips of 13 stores" in told
    assert "/000/image  array (10,), chunks (3,), 80 B, for example; int64, zstd(0), " in told
    assert "decoded, if all stores are like the first\n" in told
    refused = run(main, ["convert", "cells/cell *.zarr", "out", "--to", "zip", "--shards", "1 GiB"])
    assert refused.exit_code == 2
    assert "matches many" in refused.output
    nothing = run(main, ["convert", "cells/x*.zarr", "out", "--to", "zip"])
    assert "nothing matches" in nothing.output


def test_a_collection_as_a_component_of_another_store(tmp_path):
    pattern, expected = cells_at(tmp_path / "in", range(3))
    base = zarr.create_group(tmp_path / "base.zarr", attributes={"title": "all"})
    store = ShardedStore(base.store, {"cells": ShardedStore.collect(pattern)})
    assert get(store, "cells/001/zarr.json") == expected["001/zarr.json"]
    result = ShardedStore.partition(store, ["cells/*"]).map_shards(ToZip(tmp_path / "out", per_zip=2))
    found = {key.removeprefix("cells/"): data for key, data in contents_of(result).items() if key.startswith("cells/")}
    assert found == expected
    assert result.verify(store).ok


def test_300_000_members_are_planned_without_reading_them(tmp_path):
    to_folder(contents_of_cell(3, 0), tmp_path / "cell 000000.zarr")
    names = [f"{number:06}" for number in range(300_000)]
    store = ShardedStore.collect(tmp_path / "cell *.zarr", names=names)
    for per_zip, count, most in (None, 300_000, 256), (1000, 300, 256):
        sink = ToZip(tmp_path / "out", per_zip=per_zip)
        planned = make_plan(sink.gathered(store.config))
        assert planned.shard_count == count + 1
        assert planned.nbytes == 300_000 * (80 + 32)
        base, *segments = planned.segments()
        assert sum(segment.count for segment in segments) + base.count == count + 1
        assert max(segment.count for segment in segments) <= most
        assert len(pickle.dumps(segments[-1])) < 20_000 if per_zip is None else True
        assert segments[-1].runs[0].members.names[-1] == "299999"


def test_a_bundle_is_a_store(tmp_path):
    pattern, expected = cells_at(tmp_path, range(5))
    planned = make_plan(gather(ShardedStore.collect(pattern).config, 5))
    (shard,) = planned.runs[1].shards()
    check_same_contents(open_shard(planned.runs[1], shard), expected)


def test_keys_reach_the_members_and_not_the_config(s3_server, use_environment, tmp_path):
    far = s3_server.folder("tests", "secret cells")
    for number in range(3):
        upload(far.client, contents_of_cell(3, number), f"{number:03}.zarr")
    environment = s3_server.environment()
    use_environment({})
    options = {"endpoint": s3_server.endpoint, "region": "us-east-1", "access_key_id": environment["AWS_ACCESS_KEY_ID"]}
    secret = {"secret_access_key": environment["AWS_SECRET_ACCESS_KEY"]}
    store = ShardedStore.collect("s3://tests/secret%20cells/*.zarr", storage_options={**options, **secret})
    result = store.map_shards(ToZip(tmp_path / "out", per_zip=2))
    assert is_equal(result, range(3))
    assert result.verify(store).ok
    assert environment["AWS_SECRET_ACCESS_KEY"] not in json.dumps(store.get_config())


def test_members_may_be_arrays(tmp_path):
    for number in range(5):
        zarr.create_array(tmp_path / "in" / f"{number}.zarr", data=np.arange(10) + number, chunks=(3,))
    store = ShardedStore.collect(tmp_path / "in" / "*.zarr")
    for number, sink in enumerate((ToZip(tmp_path / "a"), ToZip(tmp_path / "b", per_zip=2), CopyTo(tmp_path / "c"))):
        result = store.map_shards(Recompress("zstd"), sink, digest=True)
        assert (zarr.open_array(result, path="3", mode="r")[:] == np.arange(10) + 3).all(), number
        assert str(result.verify(store)).startswith("ok: 5 arrays")
        assert result.verify(level="decoded").ok


def test_folders_of_bundles_that_no_config_names_are_pruned(tmp_path):
    pattern, _ = cells_at(tmp_path / "in")
    packed = ShardedStore.collect(pattern).map_shards(ToZip(tmp_path / "packed", per_zip=5))
    sink = CopyTo(tmp_path / "out", layout="shards")
    packed.map_shards(sink)
    result = packed.map_shards(Recompress("zstd"), sink, overwrite=True)
    pruned = ShardedStore.prune(tmp_path / "out")
    assert {name.partition("/")[0] for name in pruned.names} >= {"0.zarr", "1.zarr", "2.zarr", "__base__.zarr"}
    assert pruned.kept == {}
    assert is_equal(result)


def test_another_number_in_a_zip_is_another_job(tmp_path):
    pattern, _ = cells_at(tmp_path / "in")
    store = ShardedStore.collect(pattern)
    store.map_shards(ToZip(tmp_path / "out", per_zip=5))
    with pytest.raises(DestinationError, match="another division"):
        store.map_shards(ToZip(tmp_path / "out", per_zip=4))
    result = store.map_shards(ToZip(tmp_path / "out", per_zip=4), overwrite=True)
    assert is_equal(result)
    assert result.shards[1].name == "[0]"


def test_a_lost_member_does_not_end_a_job_that_had_not_ended(tmp_path, monkeypatch):
    """The config of the earlier job names the removed member, and is not that of the latest job."""
    pattern, _ = cells_at(tmp_path / "in")
    sink = ToZip(tmp_path / "out")
    ShardedStore.collect(pattern).map_shards(sink)
    os.rename(tmp_path / "in" / "cell 012.zarr", tmp_path / "away")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shard_folder, "check_latest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ShardedStore.collect(pattern).map_shards(sink, guards=Guards(disappear=False))
    assert is_equal(ShardedStore.load(tmp_path / "out"))
    shown = ShardedStore.load(tmp_path / "out", partial=True, allow=[tmp_path / "in"])
    assert is_equal(shown, range(COUNT - 1))
    assert shown.partial.shown == COUNT


def test_bundles_whose_numbers_change_are_made_again(tmp_path):
    pattern, _ = cells_at(tmp_path / "in", range(5, 15))
    sink = ToZip(tmp_path / "out", per_zip=5)
    ShardedStore.collect(pattern).map_shards(sink)
    cells_at(tmp_path / "in", range(5))
    result = ShardedStore.collect(pattern).map_shards(sink)
    assert is_equal(result, range(15))
    assert result.summary.done == 3
    assert result.verify().ok


def test_what_is_taken_over_of_a_collection(tmp_path):
    def config(*names, together=1):
        return Config(Group(), {"": Mount(Directory("/in/{name}"), members=Members(names, together))})

    def taken(before, after):
        return list(unchanged(before, after, {}, {}))

    assert taken(config("b", "c"), config("a", "c", "d")) == [(0, 0), (2, 2)]
    pairs = {"together": 2}
    assert taken(config(*"bcde", **pairs), config(*"abcde", **pairs)) == [(0, 0)]
    assert taken(config(*"bcde", **pairs), config(*"01bcde", **pairs)) == [(0, 0)]  # the same two, with another number
    assert taken(config(*"bcde", **pairs), config(*"bcdef", **pairs)) == [(0, 0), (1, 1), (2, 2)]
    assert taken(config(*"bcdef", **pairs), config(*"bcdefg", **pairs)) == [(0, 0), (1, 1), (2, 2)]
    assert taken(config(*"bc"), config(*"bc", **pairs)) == [(0, 0)]
