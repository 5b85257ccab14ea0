"""The reader of the page about the config agrees with the package on all configs of existing components."""

import itertools
import json
import random
import re
from types import SimpleNamespace

import pytest
from conformance import get, keys_of
from fuzz import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import ROOT
from sources import build, cube, to_folder, to_zip

from shardedstore import ConfigError, ShardedStore, UsageError
from shardedstore.zarr.grid import Blocks, ChunkKeys, block_name
from shardedstore.zarr.metadata import METADATA_NAMES

PAGE = (ROOT / "docs" / "config.md").read_text("utf-8")
GRID = (4, 3, 2)  # for the chunks of the cube's temperature
NAMES = {"v3-slash": "v3/", "v3-dot": "v3.", "v2-slash": "v2/", "v2-dot": "v2."}
KEYS = {
    name: ChunkKeys("default" if name.startswith("v3") else "v2", "/" if name.endswith("slash") else ".")
    for name in NAMES
}
DIVISIONS = [(2,), (1,), (3, 2), (9, 2)]
MEMBERS = [["a", "b c", "ü"], ["q/1", "q/2", "r/1"], ["a"]]
DIVIDED = [Blocks(GRID, chunks, keys) for keys in KEYS.values() for chunks in DIVISIONS]


@pytest.fixture(scope="module")
def read():
    """The function of the page."""
    found = {}
    exec(compile(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0], "page", "exec"), found)
    return SimpleNamespace(**found).read


def folder_of(blocks):
    return f"{blocks.keys.name}{blocks.keys.separator == '/'}-{'x'.join(map(str, blocks.chunks))}"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with a component of each kind, and of each kind of template."""
    out = tmp_path_factory.mktemp("readers")
    for name, keys in NAMES.items():
        contents = build(cube, keys)
        to_folder(contents, out / f"{name}.zarr")
        to_zip(contents, out / f"{name}.zip")
        to_zip({f"in/x y/{key}": data for key, data in contents.items()}, out / f"{name}-in.zip")
    for blocks in DIVIDED:
        for block in map(blocks.index, range(blocks.count)):
            place = out / folder_of(blocks) / block_name(block)
            local = list(itertools.product(*map(range, GRID)))[:: 1 + sum(block)]
            contents = {blocks.keys.encode(coords): f"{place.parent.name}{block}{coords}".encode() for coords in local}
            to_zip({**contents, "zarr.json": b"{}"}, place.with_name(f"{place.name}.zip"))
            to_folder({**contents, "zarr.json": b"{}"}, place.with_name(f"{place.name}.zarr"))
    names = sorted({name for names in MEMBERS for name in names})
    for name in names:
        to_folder({"zarr.json": b"{}", "c/0": name.encode()}, out / "cells" / f"{name}.zarr")
    for i in range(4):
        to_zip({f"{name}/c/{i}": name.encode() for name in names}, out / "cells" / f"{i}.zip")
    return out


def kind(name, **fields):
    return {"kind": name, **fields}


paths = st.sampled_from(["temperature", "wind_u", "simulation", "simulation/coarse", "g/h", "new/t"])
apart = st.lists(paths, max_size=3, unique=True).map(
    lambda found: [path for path in found if not any(other != path and path.startswith(f"{other}/") for other in found)]
)


def document_of(blocks):
    keys = {"name": blocks.keys.name, "separator": blocks.keys.separator}
    return {"chunk_grid": list(GRID), "chunks": list(blocks.chunks), "keys": keys}


@st.composite
def blocks_of(draw, blocks=None):
    name = draw(st.sampled_from(sorted(NAMES)))
    of = blocks or Blocks(GRID, draw(st.sampled_from(DIVISIONS)), KEYS[name])
    block = list(of.index(draw(st.integers(0, of.count - 1))))
    source = kind("directory", url=f"{name}.zarr")
    return kind("block", source=source, path="temperature", blocks=document_of(of), block=block)


@st.composite
def members(draw):
    names, together = draw(st.sampled_from(MEMBERS)), draw(st.integers(1, 3))
    zips = kind("zip", url="cells/{block}.zip" if together > 1 else "cells/1.zip")
    folders = kind("directory", url="cells/{name}.zarr")
    templates = [folders, kind("view", source=zips, path="{name}"), kind("part", source=folders, without=["c"])]
    shards = names if together == 1 else [str(i) for i in range(-(-len(names) // together))]
    elsewhere = kind("view", source=kind("zip", url="cells/3.zip"), path=draw(st.sampled_from(["{name}", "a"])))
    exceptions = draw(st.dictionaries(st.sampled_from(shards), st.just(elsewhere), max_size=1))
    of = {"names": names, "together": together}
    return {"location": draw(st.sampled_from(templates)), "members": of, "exceptions": exceptions}


@st.composite
def divided(draw, inner):
    of = draw(st.sampled_from(DIVIDED))
    zips, folders = (
        kind(name, url=f"{folder_of(of)}/{{block}}.{end}") for name, end in (("zip", "zip"), ("directory", "zarr"))
    )
    other = {"c/0": {"location": kind("view", source=folders, path="c/1")}}
    view = kind("view", source=kind("zip", url=f"{draw(st.sampled_from(sorted(NAMES)))}.zip"), path="temperature")
    templates = [
        zips,
        folders,
        view,
        kind("part", source=zips, without=["c/1"]),
        kind("sharded", base=zips, shards=other),
    ]
    if places := draw(st.sets(st.integers(0, of.count - 1), max_size=of.count)):
        of = of.only(map(of.index, sorted(places)))
    shards = st.integers(0, of.count - 1).map(lambda number: block_name(of.index(number)))
    exceptions = draw(st.dictionaries(shards, blocks_of() | blocks_of(of) | inner, max_size=2))
    return {"location": draw(st.sampled_from(templates)), "blocks": document_of(of), "exceptions": exceptions}


@st.composite
def configs_of(draw, inner):
    whole = st.fixed_dictionaries({"location": inner})
    shards = {path: draw(whole | divided(inner) | members()) for path in draw(apart)}
    if not shards and draw(st.booleans()):
        shards = {"": draw(divided(inner) | members())}
    return {"base": draw(inner), "shards": shards, "consolidated": draw(st.none() | inner)}


leaves = st.sampled_from(
    [
        kind(name, url=url.format(source))
        for source in NAMES
        for name, url in (("directory", "{}.zarr"), ("directory", "./{}.zarr/simulation/"), ("zip", "{}.zip"))
    ]
    + [kind("view", source=kind("zip", url=f"{name}-in.zip"), path="in/x y") for name in NAMES]
    + [kind("group", zarr_format=number, attributes={"a": [1]}, groups=["g"]) for number in (2, 3)]
)
locations = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda source, path: kind("view", source=source, path=path), inner, st.just("") | paths)
        | st.builds(
            lambda source, only, without: kind("part", source=source, only=only, without=without),
            inner,
            st.none() | apart,
            apart,
        )
        | configs_of(inner).map(lambda config: kind("sharded", **config))
    ),
    max_leaves=5,
)
STRANGE = [
    "c",
    "c/0",
    "temperature",
    "temperature/c/03/0/0",
    "temperature/c/4/0/0",
    "temperature/c/1/0",
    "g/h",
    "a",
    "q/1",
]
PARTS = ["c/0", "c/1", "a/c/1", "ü/zarr.json", "q/2/zarr.json", *METADATA_NAMES]
CHUNKS = [
    keys.encode(coords) for keys in KEYS.values() for coords in [(0, 0, 0), (1, 2, 1), (3, 0, 1), (3, 2, 0), (2, 1, 1)]
]


def value(data):
    try:
        return json.loads(data or b"")
    except ValueError:
        return data


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs_of(locations))
def test_both_readers_agree(out, read, config):
    document = {"format": "shardedstore", "version": 1, **config}
    (out / "shardedstore.json").write_text(json.dumps(document))
    try:
        store = ShardedStore.load(out)
        listed = keys_of(store)
    except (ConfigError, UsageError) as error:  # an array that has grown; a template in a template
        assert "is older and does not lead to" in str(error) or "divide only one" in str(error)  # noqa: PT017
        return
    assert len(set(listed)) == len(listed)
    asked = {f"{path}/{part}".lstrip("/") for path in ("", "temperature", *config["shards"]) for part in PARTS + CHUNKS}
    for key in sorted(asked | {*STRANGE, *random.Random(0).sample(sorted(listed), min(len(listed), 30))}):
        try:
            found = get(store, key)
        except ConfigError:
            continue
        assert value(found) == value(read(config, key, out)), key
        assert (key in listed) == (found is not None), key
