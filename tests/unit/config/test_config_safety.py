"""Any config and any key give only our own errors, quickly, without access to other files."""

import asyncio
import copy
import json
import os
import time
import tracemalloc
from contextlib import suppress

import pytest
from config_strategies import DOCUMENTS, configs, mutated, strange
from fuzz import examples
from golden_configs import FOLDER, OUT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import build, cube, to_folder, to_zip
from watching import outside, watched
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync

from shardedstore import ConfigError, ShardedStore, ShardedStoreError
from shardedstore.config.document import dump, from_dict, parse, to_dict
from shardedstore.stores.locations import Config, Directory, Mount, PartOf, ViewOf, Zip
from shardedstore.stores.routes import Routes

many = settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
SECRET = b"for nobody"


def test_what_is_outside_is_seen(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_text("")
    with watched() as found:
        (tmp_path / "in" / ".." / "out").read_text()
        os.listdir(tmp_path / "in")
    assert outside(found, tmp_path / "in") == [str(tmp_path / "out")]


# The reader


@many
@given(mutated(), st.sampled_from([None, (), ("s3://bucket",)]), st.sampled_from([None, OUT, "s3://bucket/out"]))
def test_only_our_own_errors_come_out_of_a_document(document, allow, root):
    given_document = copy.deepcopy(document)
    with watched() as found, suppress(ShardedStoreError):
        store = ShardedStore.from_config(document, root=root, allow=allow)
        assert ShardedStore.from_config(store.get_config()) == store
        repr(store)
    assert outside(found, "/nowhere") == []  # nothing is opened before the first access
    assert repr(document) == repr(given_document)  # NaN is not NaN


@given(strange)
def test_only_our_own_errors_come_out_of_any_json(document):
    with pytest.raises(ConfigError, match=r"this is not a shardedstore config|nested too deeply"):
        ShardedStore.from_config(document)


@given(st.sampled_from(sorted(DOCUMENTS)), st.binary(max_size=30), st.integers(0, 2000))
def test_only_our_own_errors_come_out_of_any_bytes(name, data, at):
    whole = (FOLDER / f"{name}.json").read_bytes()
    with suppress(ShardedStoreError):
        from_dict(parse(whole[:at] + data + whole[at + len(data) :]), OUT)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs)
def test_any_config_comes_back(config):
    document = to_dict(config)
    assert from_dict(document) == config
    assert from_dict(parse(dump(config, None))) == config


def minimal(**fields):
    return {"format": "shardedstore", "version": 1, "base": {"kind": "directory", "url": "/data/a"}, **fields}


def nested(levels, location):
    inner = {"kind": "zip", "url": "/data/a.zip"}
    for _ in range(levels):
        inner = location(inner)
    return inner


def inside_itself():
    location = {"kind": "sharded", "shards": {}}
    location["base"] = location
    location["shards"]["a"] = {"location": location, "exceptions": {"0": location}}
    return minimal(base=location)


def shared(levels):
    """Small in Python's notation, but too large to write out."""
    return minimal(base=nested(levels, lambda inner: {"kind": "sharded", "base": inner, "consolidated": inner}))


def grid_of(*sizes, view=True):
    blocks = {"chunk_grid": list(sizes), "chunks": [1], "keys": {"name": "default", "separator": "/"}}
    a = {"kind": "view", "source": {"kind": "directory", "url": "/data/a"}, "path": "t"}
    return minimal(shards={"t": {"location": a if view else {"kind": "zip", "url": "/data/{block}"}, "blocks": blocks}})


BOMBS = {
    "views": (lambda: minimal(base=nested(10**5, lambda inner: {"kind": "view", "source": inner, "path": "a"})), "too deeply"),
    "stores": (lambda: minimal(base=nested(10**5, lambda inner: {"kind": "sharded", "base": inner})), "too deeply"),
    "a little too deep": (lambda: minimal(base=nested(64, lambda inner: {"kind": "sharded", "base": inner})), "too deeply"),
    "attributes": (lambda: minimal(base={"kind": "group", "attributes": nested(10**5, lambda a: {"a": [a]})}), "too deeply"),
    "inside itself": (inside_itself, "the same objects many times"),
    "shared": (lambda: shared(50), "the same objects many times"),
    "a huge grid": (lambda: grid_of(10**30), "Expected `int` <= 9223372036854775807"),
    "no integer": (lambda: grid_of(1e300), "Expected `int`, got `float`"),
    "no JSON": (lambda: minimal(base={"kind": "group", "attributes": {"a": {1, 2}}}), "holds a set, which is not a type of JSON"),
    "no text": (lambda: minimal(base={"kind": "group", "attributes": {1: 2}}), "has the name 1, which is not a string"),
    "one place for all": (lambda: minimal(shards={"t": {**grid_of(2)["shards"]["t"], "location": {"kind": "zip", "url": "/a"}}}), "put {block} into its URL"),
    "a path without end": (lambda: minimal(shards={"a/" * 100_000 + "a": {"location": {"kind": "zip", "url": "/data/a"}}}), "more than 2,048 bytes"),
    "digits": (lambda: minimal(shards={"t": {**grid_of(2)["shards"]["t"], "exceptions": {"9" * 9999: {"kind": "zip", "url": "/a"}}}}), "has no block"),
}  # fmt: skip


@pytest.mark.few(4)
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(bomb):
    make, message = BOMBS[bomb]
    document = make()
    tracemalloc.start()
    try:
        start = time.process_time()
        with pytest.raises(ConfigError, match=message):
            ShardedStore.from_config(document)
        assert time.process_time() - start < 20
        assert tracemalloc.get_traced_memory()[1] < 1 << 30
    finally:
        tracemalloc.stop()
        while isinstance(document, dict) and bomb in ("views", "stores"):  # its own message would be as deep
            document = document.pop("base", None) or document.pop("source", None)


def test_a_file_that_is_nested_without_end(tmp_path):
    (tmp_path / "shardedstore.json").write_text(
        '{"format":"shardedstore","version":1,"base":'
        + '{"kind":"view","path":"a","source":' * 10**6
        + "0"
        + "}" * 10**6
        + "}"
    )
    with pytest.raises(ConfigError, match=r"it is not JSON|nested too deeply"):
        ShardedStore.load(tmp_path)


def test_as_deep_as_is_allowed(tmp_path):
    to_folder(build(cube, "v3/"), tmp_path / "a.zarr")
    location = nested(61, lambda inner: {"kind": "sharded", "base": inner})
    while location["kind"] == "sharded":
        location, innermost = location["base"], location
    innermost["base"] = {"kind": "directory", "url": "a.zarr"}
    document = minimal(base=nested(61, lambda inner: {"kind": "sharded", "base": inner}))
    at = document
    while at["base"]["kind"] == "sharded":
        at = at["base"]
    at["base"] = {"kind": "directory", "url": "a.zarr"}
    store = ShardedStore.from_config(document, root=tmp_path)
    assert sync(store.exists("zarr.json"))
    assert ShardedStore.from_config(store.get_config()) == store


@pytest.mark.parametrize("view", [True, False])
def test_the_largest_grid_is_routed_by_arithmetic(view):
    store = ShardedStore.from_config(grid_of(2**63 - 1, 2**63 - 1, 7, view=view))
    assert f"and {2**63 - 1:,} shards" in repr(store)
    routes, last = Routes(store.config.shards), 2**63 - 2
    assert routes.find(f"t/c/{last}/{last}/6") == (("t", (last,)), f"c/0/{last}/6")
    assert routes.find(f"t/c/{last + 1}/0/0")[0] == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format":"shardedstore","version":1,"base":{"kind":"group","attributes":{"a":NaN}}}', "NaN is not allowed in JSON"),
        ('{"format":"shardedstore","version":1,"base":{"kind":"group","attributes":{"a":-Infinity}}}', "-Infinity is not allowed in JSON"),
        ('{"format":"shardedstore","version":' + "1" * 5000 + "}", "it is not JSON"),
        ('{"format":"shardedstore","version":1,"base":{"kind":"zip","url":"a","url":"b"}}', "'url' twice in one object"),
        ('{"format":"shardedstore","version":1,"base":{"kind":"zip","url":"a.zip"}}'.encode("utf-16"), "it is not JSON"),
    ],
)  # fmt: skip
def test_what_python_reads_and_others_do_not(tmp_path, text, message):
    (tmp_path / "shardedstore.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message):
        ShardedStore.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), 1j])
def test_what_is_no_json_is_not_saved(tmp_path, value):
    from shardedstore.stores.locations import Group

    with pytest.raises(ConfigError, match="has attributes that JSON can't hold"):
        dump(Config(Group(attributes={"a": {"b": [value]}})), None)


# Keys

HOSTILE = [
    "", "/", "//", ".", "..", "../", "./", "a/..", "../secret.txt", "a/../../secret.txt", "/etc/passwd", "//etc/passwd", "\0", "a\0b",
    "%2e%2e/secret.txt", "..%2fsecret.txt", "..\\secret.txt", "C:\\a", "~", "~/a", "a//b", "a/./b", "./a", "temperature/../secret.txt",
    "simulation/fine/../../../secret.txt", "simulation/coarse/../../../secret.txt", "temperature/c/0/0/0/../../../../../../secret.txt",
    "simulation/fine/", "simulation/fine", "temperature/", "temperature", "temperature/c/0/0/0/", "temperature//c/0/0/0",
    "temperature/c/00/0/0", "temperature/c/٣/0/0", "\ud800", "a" * 300, "ü" * 200, "a/" * 3000, "a" * 10_000, "a/" * 40 + "x",
    "nested/../../secret.txt", "view/../../secret.txt", "cells/a/../../../secret.txt", "cells/../secret.txt", "zarr.json/..", "zarr.json/x",
]  # fmt: skip
keys = st.sampled_from(HOSTILE) | st.text(max_size=20) | st.builds(
    "/".join,
    st.lists(
        st.sampled_from(["..", ".", "", "temperature", "c", "0", "1", "simulation", "fine", "coarse", "nested", "view", "cells", "a"])
        | st.sampled_from(["zarr.json", "secret.txt", "in", "\0", "%2e%2e", "\\", "-1", "1" * 400])
        | st.text(max_size=3),
        max_size=8,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with stores of all kinds of components, and a file beside it that must not be read."""
    top = tmp_path_factory.mktemp("safety")
    (top / "secret.txt").write_bytes(SECRET)
    contents = build(cube, "v3/")
    inside = top / "in"
    to_folder(contents, inside / "a.zarr")
    to_zip(contents, inside / "a.zip")
    for i in range(2):
        to_zip({f"x/{i}": b"", "zarr.json": b"{}"}, inside / "t" / f"{i}.zip")
        to_folder({"c/0": b"", "zarr.json": b"{}"}, inside / "cells" / "ab"[i])
    return inside


@pytest.fixture(scope="module")
def store(folder):
    zarr, zipped = Directory(f"{folder}/a.zarr"), Zip(f"{folder}/a.zip")
    parts = ShardedStore.partition(
        f"{folder}/a.zarr", {"temperature": {"time": 4}, "simulation/coarse": "whole"}
    ).config
    blocks = parts.shards["temperature"].blocks
    from shardedstore.stores.members import Members

    config = Config(
        zarr,
        {
            "simulation/coarse": parts.shards["simulation/coarse"],
            "simulation/fine": Mount(Directory(f"{folder}/a.zarr/simulation/fine")),
            "temperature": Mount(Zip(f"{folder}/t/{{block}}.zip"), blocks),
            "nested": Mount(Config(zarr, {"simulation": Mount(ViewOf(zipped, "simulation"))})),
            "view": Mount(PartOf(ViewOf(zarr, "simulation"), ("fine",))),
            "zip": Mount(zipped),
            "cells": Mount(Directory(f"{folder}/cells/{{name}}"), members=Members(("a", "b"))),
        },
    )
    return ShardedStore.from_config(to_dict(config))


async def ask(store, key):
    """Request a key in every way; return errors that are not our own."""
    prototype = default_buffer_prototype()

    async def listed(names):
        return [name async for name in names]

    for asked in (
        lambda: store.get(key, prototype),
        lambda: store.exists(key),
        lambda: store.getsize(key),
        lambda: store.is_empty(key),
        lambda: store.get_partial_values(prototype, [(key, None)]),
        lambda: listed(store.list_dir(key)),
        lambda: listed(store.list_prefix(key)),
    ):
        try:
            yield await asked()
        except (
            ShardedStoreError,
            FileNotFoundError,
            NotADirectoryError,
        ) as error:  # like zarr, for the size of a missing key
            yield error


@many
@given(found=st.lists(keys, min_size=1, max_size=5))
def test_no_key_leads_out(store, folder, found):
    async def run():
        for key in found:
            async for answer in ask(store, key):
                assert not isinstance(answer, Buffer) or answer.to_bytes() != SECRET

    with watched() as paths:
        asyncio.run(run())
    assert outside(paths, folder) == []


@pytest.mark.parametrize("key", HOSTILE)
def test_no_key_is_written_outside(tmp_path, key):
    """It is not deleted either."""
    (tmp_path / "secret.txt").write_bytes(SECRET)
    to_folder(build(cube, "v3/"), tmp_path / "in" / "a.zarr")
    store = ShardedStore(tmp_path / "in" / "a.zarr", {"simulation/fine": tmp_path / "in" / "fine"})
    value = default_buffer_prototype().buffer.from_bytes(b"written")

    async def run():
        for asked in (
            store.set(key, value),
            store.set_if_not_exists(key, value),
            store.delete(key),
            store.delete_dir(key),
        ):
            with suppress(ShardedStoreError, ValueError, OSError):  # like zarr's stores
                await asked

    with watched() as paths:
        asyncio.run(run())
    assert outside(filter(os.path.isabs, paths), tmp_path / "in") == []  # rmtree uses open folders
    assert (tmp_path / "secret.txt").read_bytes() == SECRET
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "secret.txt"]


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(document=mutated(), found=st.lists(keys, min_size=1, max_size=3))
def test_no_config_leads_out(folder, document, found):
    """Components in the config's folder may be missing, or of another kind."""
    document = json.loads(json.dumps(document).replace("/data/out", str(folder)))

    async def run(store):
        for key in [*found, "zarr.json", "temperature/c/0/0/0"]:
            with suppress(OSError):
                async for _ in ask(store, key):
                    pass

    with watched() as paths, suppress(ShardedStoreError):
        asyncio.run(run(ShardedStore.from_config(document, root=folder, allow=())))
    assert outside(paths, folder) == []
