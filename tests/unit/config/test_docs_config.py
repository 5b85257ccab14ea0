"""The page about the config: its examples are valid, and its reader agrees with the package."""

import json
import re
import sys

import msgspec
import pytest
from conformance import contents_of, get
from golden_configs import OUT
from jsonschema import Draft202012Validator
from paths import ROOT
from sources import SOURCES, build, cube, to_folder, to_zip

from shardedstore import ShardedStore
from shardedstore.config.document import from_dict
from shardedstore.config.schema import FILE
from shardedstore.storage.options import Options
from shardedstore.storage.urls import SCHEMES
from shardedstore.stores.locations import KINDS, Config, Mount
from shardedstore.stores.members import Members
from shardedstore.transforms import ToZip

PAGE = (ROOT / "docs" / "config.md").read_text("utf-8")
JSON = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def names_in(heading):
    """The names in the first column of the tables below a heading."""
    section = re.split(r"(?m)^## ", PAGE)
    (text,) = [part for part in section if part.startswith(heading)]
    return set(re.findall(r"(?m)^\| `(\w+)` \|", text))


@pytest.fixture
def reader(tmp_path, monkeypatch):
    (tmp_path / "reader.py").write_text(PYTHON[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "reader", raising=False)
    import reader

    yield reader
    sys.modules.pop("reader", None)


def fields_of(struct):
    return {field.name for field in msgspec.structs.fields(struct)}


def test_all_is_on_the_page():
    kinds = {kind.__struct_config__.tag: kind for kind in KINDS}
    assert names_in("Locations") == kinds.keys()
    for tag, kind in kinds.items():
        (row,) = re.findall(rf"(?m)^\| `{tag}` \|.*", PAGE)
        named = set(re.findall(r"`(\w+)`", row.split("|")[2]))
        assert named - {"null"} == fields_of(kind), tag
    assert names_in("URLs") == fields_of(Options)
    assert names_in("Mounts") == fields_of(Mount) | {"chunk_grid", "chunks", "keys", "stored"}
    for field in fields_of(Config) | {"format", "version"}:
        assert re.search(rf"(?m)^\| `{field}` \|", PAGE)
    for field in fields_of(Members):
        assert f"`{field}`" in PAGE
    for scheme in SCHEMES:
        assert f"`{scheme}`" in PAGE


def test_the_examples_are_read():
    shapes = []
    for example in JSON:
        if "format" in example:
            document, shape = example, "a config"
        elif "kind" in example:
            document, shape = {"format": "shardedstore", "version": 1, "base": example}, "a location"
        else:
            base = {"kind": "zip", "url": "a.zip"}
            document = {"format": "shardedstore", "version": 1, "base": base, "shards": {"temperature": example}}
            shape = "a mount"
        Draft202012Validator(json.loads(FILE.read_bytes())).validate(document)
        from_dict(document, OUT)
        shapes.append(shape)
    assert sorted(shapes) == ["a config", "a location", "a mount", "a mount"]


def agree(reader, path):
    store = ShardedStore.load(path, allow=["/"])
    config = reader.load(path / "shardedstore.json")
    contents = contents_of(store)
    assert contents
    for key, data in contents.items():
        found = reader.read(config, key, path)
        assert found == data or json.loads(found) == json.loads(data), key
    for key in ("temperature/c/9/9/9", "temperature/c/00/0/0", "no/zarr.json", "temperature/c/0/0/0/x"):
        assert (reader.read(config, key, path) is None) == (key not in contents)


@pytest.mark.few(6)
@pytest.mark.parametrize("source", sorted(SOURCES.keys() - {"sharding-codec"}))
def test_the_reader_agrees(reader, tmp_path, source):
    folder = to_folder(SOURCES[source].contents(), tmp_path / "a.zarr")
    view = ShardedStore.partition(folder, SOURCES[source].shards)
    (tmp_path / "view").mkdir()
    view.save(tmp_path / "view" / "shardedstore.json")
    agree(reader, tmp_path / "view")
    if source in ("cube-v2.", "cube-v3/", "consolidated-v2", "root-array-v3", "others-v2"):
        view.map_shards(ToZip(tmp_path / "out"))
        agree(reader, tmp_path / "out")


def test_the_reader_agrees_on_what_is_rare(reader, tmp_path):
    """Parts, nested stores, groups, blocks elsewhere and members."""
    contents = build(cube, "v3/")
    out = tmp_path / "out"
    to_folder(contents, out / "a.zarr")
    to_zip({f"in/{key}": data for key, data in contents.items()}, out / "a.zip")
    zarr, zipped = {"kind": "directory", "url": "a.zarr"}, {"kind": "zip", "url": "a.zip"}
    inside = {"kind": "view", "source": zipped, "path": "in"}
    view = ShardedStore.partition(out / "a.zarr", {"temperature": {"time": 4}})
    view.map_shards(ToZip(out / "zips"))
    blocks = json.loads(json.dumps(view.get_config()))["shards"]["temperature"]["blocks"]
    exception = {"kind": "block", "source": inside, "path": "temperature", "blocks": blocks, "block": [1]}
    part = {
        "kind": "part",
        "source": zarr,
        "only": ["simulation/fine", "height"],
        "without": ["simulation/fine/field/c/0"],
    }
    to_zip({"a/zarr.json": b"[1]", "b/zarr.json": b"[2]"}, out / "cells" / "0.zip")
    to_zip({"c/zarr.json": b"[3]"}, out / "late.zip")
    document = {
        "format": "shardedstore",
        "version": 1,
        "base": {"kind": "group", "attributes": {"title": "all"}, "groups": ["g", "cells"]},
        "shards": {
            "g/nested": {
                "location": {
                    "kind": "sharded",
                    "base": inside,
                    "shards": {
                        "temperature": {
                            "location": {"kind": "zip", "url": "zips/temperature/{block}.zarr.zip"},
                            "blocks": blocks,
                            "exceptions": {"1": exception},
                        }
                    },
                }
            },
            "g/part": {"location": part},
            "cells": {
                "location": {"kind": "view", "path": "{name}", "source": {"kind": "zip", "url": "cells/{block}.zip"}},
                "exceptions": {"1": {"kind": "view", "path": "{name}", "source": {"kind": "zip", "url": "late.zip"}}},
                "members": {"names": ["a", "b", "c"], "together": 2},
            },
        },
    }
    (out / "shardedstore.json").write_text(json.dumps(document))
    agree(reader, out)
    found = contents_of(ShardedStore.load(out))
    assert found["cells/c/zarr.json"] == b"[3]"
    assert found["g/nested/temperature/c/3/0/0"] == contents["temperature/c/3/0/0"]
    assert "g/part/height/zarr.json" in found
    assert "g/part/temperature/zarr.json" not in found


def test_the_reader_agrees_on_names_with_braces(reader, tmp_path):
    """A member's name that holds a placeholder is not replaced again."""
    names = ["a", "{block}", "{name}", "{name}{block}"]
    for i, name in enumerate(names):
        to_folder({"zarr.json": f'"{name}"'.encode()}, tmp_path / "alone" / name / f"{name}.zarr")
        to_zip({f"{other}/zarr.json": f'"{other}"'.encode() for other in names}, tmp_path / "together" / f"{i}.zip")
    alone = {"kind": "directory", "url": "alone/{block}/{name}.zarr"}
    together = {"kind": "view", "path": "{name}", "source": {"kind": "zip", "url": "together/{block}.zip"}}
    shards = {
        "alone": {"location": alone, "members": {"names": names}},
        "nested": {"location": {"kind": "sharded", "base": alone}, "members": {"names": names[3:]}},
        "together": {"location": together, "members": {"names": names, "together": 2}},
    }
    base = {"kind": "group", "groups": sorted(shards)}
    document = {"format": "shardedstore", "version": 1, "base": base, "shards": shards}
    (tmp_path / "shardedstore.json").write_text(json.dumps(document))
    agree(reader, tmp_path)
    found = contents_of(ShardedStore.load(tmp_path))
    for path, mount in shards.items():
        for name in mount["members"]["names"]:
            assert json.loads(found[f"{path}/{name}/zarr.json"]) == name


def test_the_reader_agrees_on_a_template_of_blocks_elsewhere(reader, tmp_path):
    blocks = {"chunk_grid": [2], "chunks": [1], "keys": {"name": "default", "separator": "/"}}
    for i in range(2):
        to_folder({"t/c/0": b"not this", "t/c/1": f"{i}".encode(), "t/zarr.json": b"{}"}, tmp_path / f"{i}.zarr")
    source = {"kind": "directory", "url": "{block}.zarr"}
    block = {"kind": "block", "source": source, "path": "t", "blocks": blocks, "block": [1]}
    document = {
        "format": "shardedstore",
        "version": 1,
        "base": {"kind": "group"},
        "shards": {"t": {"location": block, "blocks": blocks}},
    }
    (tmp_path / "shardedstore.json").write_text(json.dumps(document))
    config, store = reader.load(tmp_path / "shardedstore.json"), ShardedStore.load(tmp_path)
    for i in range(2):
        assert reader.read(config, f"t/c/{i}", tmp_path) == get(store, f"t/c/{i}") == f"{i}".encode()


def test_scripts_run_as_they_stand(tmp_path, monkeypatch, reader, capsys):
    folder = to_folder(build(cube, "v3/"), tmp_path / "a.zarr")
    ShardedStore.partition(folder, {"temperature": {"time": 4}}).map_shards(ToZip(tmp_path / "out"))
    monkeypatch.chdir(tmp_path)
    for script in PYTHON[1:]:
        exec(compile(script.replace("c/25/1/0", "c/3/1/0"), "page", "exec"), {})
    assert re.fullmatch(r"\d+ bytes\n", capsys.readouterr().out)
    (tmp_path / "b.json").write_text('{"format": "zarr", "version": 1}')
    with pytest.raises(ValueError, match="is no config of version 1"):
        reader.load("b.json")
