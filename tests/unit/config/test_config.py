"""The config: round trips, moves, and one clear error for documents that are not valid."""

import json
import os
import shutil
import sys

import pytest
from conformance import check_same_contents, check_values, contents_of
from golden_configs import FOLDER, OUT
from sources import SOURCES, build, cube, to_folder, to_memory, to_objects, to_zip

from shardedstore import ConfigError, PartitionError, ShardedStore
from shardedstore.config.document import from_dict, relative_url, to_dict
from shardedstore.partition.partition import divide
from shardedstore.storage.options import Options
from shardedstore.stores.locations import Config, Directory, Mount, Zip

GOLDEN = FOLDER / "v1-result.json"


def golden():
    return json.loads(GOLDEN.read_bytes())


def changed(place, value):
    """The golden document with another value at a place like "shards.temperature.location"; `...` removes it."""
    document = golden()
    at, parts = document, place.split(".")
    for part in parts[:-1]:
        at = at[part]
    if value is ...:
        del at[parts[-1]]
    else:
        at[parts[-1]] = value
    return document


@pytest.fixture
def folder(tmp_path):
    """A folder like a job's result: zips of the base, a group and an array's blocks, with the second block elsewhere."""
    contents = build(cube, "v3/")
    view = ShardedStore.partition(to_memory(contents), {"simulation/fine": "whole", "temperature": {"time": 4}})
    blocks = view.config.shards["temperature"].blocks
    moved = {"simulation/fine", *(f"temperature/{key}" for key in blocks.keys.encode_box(list(map(range, (4, 3, 2)))))}
    out = tmp_path / "out"
    base = {k: d for k, d in contents.items() if k not in moved and not k.startswith("simulation/fine/")}
    to_zip(base, out / "__base__.zarr.zip")
    fine = {k.removeprefix("simulation/fine/"): d for k, d in contents.items() if k.startswith("simulation/fine/")}
    to_zip(fine, out / "simulation" / "fine.zarr.zip")
    component = view.component
    to_zip(contents_of(component("temperature", (0,))), out / "temperature" / "0.zarr.zip")
    to_folder(contents_of(component("temperature", (1,))), out / "temperature" / "edge.zarr")
    document = {
        "format": "shardedstore",
        "version": 1,
        "base": {"kind": "zip", "url": "__base__.zarr.zip"},
        "shards": {
            "simulation/fine": {"location": {"kind": "zip", "url": "simulation/fine.zarr.zip"}},
            "temperature": {
                "location": {"kind": "zip", "url": "temperature/{block}.zarr.zip"},
                "blocks": {"chunk_grid": [4, 3, 2], "chunks": [2], "keys": {"name": "default", "separator": "/"}},
                "exceptions": {"1": {"kind": "directory", "url": "temperature/edge.zarr"}},
            },
        },
    }
    (out / "shardedstore.json").write_text(json.dumps(document))
    return out


# Round trips


@pytest.mark.parametrize("kind", [to_folder, to_zip])
@pytest.mark.parametrize("source", SOURCES)
def test_config_of_a_view_comes_back(source, kind, tmp_path):
    contents = SOURCES[source].contents()
    store = ShardedStore.partition(kind(contents, tmp_path / "a.zarr.zip"), SOURCES[source].shards)
    again = ShardedStore.from_config(json.loads(json.dumps(store.get_config())))
    assert again == store
    check_values(again, contents)


def test_config_of_the_constructor_comes_back(tmp_path):
    contents = build(cube, "v3/")
    fine = {k.removeprefix("simulation/fine/"): d for k, d in contents.items() if k.startswith("simulation/fine/")}
    store = ShardedStore(to_zip(contents, tmp_path / "a.zip"), {"simulation/fine": to_folder(fine, tmp_path / "b")})
    again = ShardedStore.from_config(store.get_config())
    assert again == store
    check_same_contents(again, contents)


def test_a_folder_of_shards_opens(folder):
    check_same_contents(ShardedStore.load(folder), build(cube, "v3/"))


@pytest.mark.parametrize("name", ["", "shardedstore.json"])
def test_a_folder_that_was_moved_opens(folder, tmp_path, name):
    before = ShardedStore.load(folder)
    shutil.move(folder, tmp_path / "a new place")
    after = ShardedStore.load(tmp_path / "a new place" / name)
    assert after != before
    check_values(after, build(cube, "v3/"))


def test_saving_what_was_loaded_gives_the_same(folder):
    before = json.loads((folder / "shardedstore.json").read_bytes())
    ShardedStore.load(folder).save(folder / "again.json")
    assert json.loads((folder / "again.json").read_bytes()) == before
    assert ShardedStore.load(folder / "again.json") == ShardedStore.load(folder)


def test_what_is_on_another_server_is_not_relative():
    """Although its URL begins with the same text; only relative URLs use the config's options."""
    here, there = Options(endpoint="https://here"), Options(endpoint="https://there", region="x")
    config = Config(Zip("s3://bucket/out/a.zip", here), {"b": Mount(Zip("s3://bucket/out/b.zip", there))})
    document = to_dict(config, "s3://bucket/out", here)
    assert document["base"] == {"kind": "zip", "url": "a.zip"}
    assert document["shards"]["b"]["location"]["url"] == "s3://bucket/out/b.zip"
    assert from_dict(document, "s3://bucket/out", ["https://there"], here) == config
    with pytest.raises(ConfigError, match=r"sends requests for 's3://bucket/out/b\.zip' to 'https://there'"):
        from_dict(document, "s3://bucket/out", (), here)


@pytest.mark.parametrize(
    ("url", "folder", "relative"),
    [
        ("s3://bucket//a", "s3://bucket", "s3://bucket//a"),
        ("s3://bucket/https://x/a", "s3://bucket", "s3://bucket/https://x/a"),
        ("/data/out", "/data/out", ""),
        ("/a", "/", "a"),
    ],
)
def test_what_is_relative_leads_back(url, folder, relative):
    assert relative_url(url, folder) == relative


def test_saved_elsewhere_it_needs_allow(folder, tmp_path):
    ShardedStore.load(folder).save(tmp_path / "elsewhere.json")
    assert json.loads((tmp_path / "elsewhere.json").read_bytes())["base"]["url"] == "out/__base__.zarr.zip"
    (tmp_path / "b").mkdir()
    ShardedStore.load(folder).save(tmp_path / "b" / "elsewhere.json")
    with pytest.raises(ConfigError, match=r"names '.*/out/__base__\.zarr\.zip', which is outside its own folder"):
        ShardedStore.load(tmp_path / "b" / "elsewhere.json")
    check_values(ShardedStore.load(tmp_path / "b" / "elsewhere.json", allow=[folder]), build(cube, "v3/"))


def test_a_config_inside_its_source(tmp_path):
    """The folder itself, and absolute places in it, are not outside."""
    folder = to_folder(build(cube, "v3/"), tmp_path / "a.zarr")
    store = ShardedStore.partition(folder, ["simulation"])
    store.save(folder / "shardedstore.json")
    assert ShardedStore.load(folder) == store
    shutil.move(folder, tmp_path / "b.zarr")
    assert ShardedStore.load(tmp_path / "b.zarr").config.base == Directory(f"{tmp_path}/b.zarr")


def test_an_absolute_place_inside_the_folder_is_not_outside(folder):
    document = json.loads((folder / "shardedstore.json").read_bytes())
    document["base"]["url"] = f"{folder}/__base__.zarr.zip"
    (folder / "shardedstore.json").write_text(json.dumps(document))
    check_values(ShardedStore.load(folder), build(cube, "v3/"))


@pytest.mark.parametrize("url", ["./a.zarr", "a.zarr/", "a.zarr/.", ".//a.zarr//"])
def test_one_place_has_one_url(url):
    document = {"format": "shardedstore", "version": 1, "base": {"kind": "directory", "url": url}}
    store = ShardedStore.from_config(document, root=OUT)
    assert store.config.base == Directory(f"{OUT}/a.zarr")
    assert ShardedStore.from_config(store.get_config()) == store


def test_relative_paths_of_the_process_do_not_matter(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    store = ShardedStore.load("shardedstore.json")
    monkeypatch.chdir(tmp_path)
    check_values(store, build(cube, "v3/"))


@pytest.mark.parametrize("kind", [to_memory, to_objects])
def test_a_store_in_memory_has_no_config(kind, tmp_path):
    store = ShardedStore.partition(kind(build(cube, "v3/")), ["simulation"])
    with pytest.raises(ConfigError, match=r"the base is a .*Store, which has no location that a config could name"):
        store.get_config()
    with pytest.raises(ConfigError, match="has no location"):
        store.save(tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_a_component_in_memory_is_named(tmp_path):
    store = ShardedStore(to_folder(build(cube, "v3/"), tmp_path), {"simulation/fine": to_memory({})})
    with pytest.raises(ConfigError, match="shard 'simulation/fine' is a MemoryStore, which has no location"):
        store.get_config()


# Documents that are not configs


@pytest.mark.parametrize(
    "document", [None, [], "text", 3, [golden()], b"{}"], ids=lambda document: type(document).__name__
)
def test_not_an_object(document):
    with pytest.raises(ConfigError, match="this is not a shardedstore config: it is not a JSON object"):
        ShardedStore.from_config(document)


URL = "shards.simulation/coarse.location.url"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("format", ..., 'this is not a shardedstore config: it lacks "format": "shardedstore"'),
        ("format", "zarr", "this is not a shardedstore config"),
        ("version", ..., "the config's version is None, which is not a version"),
        ("version", 0, "version is 0, which is not"),
        ("version", "1", "version is '1', which is not"),
        ("version", True, "version is True, which is not"),
        ("version", 2, "the config's version is 2, but this shardedstore reads version 1: install a newer one"),
        ("base", ..., "missing required field `base`"),
        ("base", None, r"Expected .*`\$\.base`"),
        ("base.kind", ..., r"missing required field `kind` - at `\$\.base`"),
        ("base.kind", "os.system", r"Invalid value 'os.system' - at `\$\.base\.kind`"),
        ("base.kind", "Opened", r"Invalid value 'Opened' - at `\$\.base\.kind`"),
        ("base.url", 3, r"Expected `str`, got `int` - at `\$\.base\.url`"),
        ("base.module", "os", r"unknown field `module` - at `\$\.base`"),
        ("module", "os", "unknown field `module`"),
        ("shards", [], r"Expected `object`, got `array` - at `\$\.shards`"),
        ("shards.temperature.chunks", [1], r"unknown field `chunks` - at `\$\.shards\[\.\.\.\]`"),
        ("shards.temperature.location", "a.zip", r"Expected `object`, got `str` - at `\$\.shards\[\.\.\.\]\.location`"),
        ("shards.temperature.blocks.chunks", [0], r"Expected `int` >= 1 - at `\$\.shards\[\.\.\.\]\.blocks\.chunks\[0\]`"),
        ("shards.temperature.blocks.chunks", [], "must name one to 3 dimensions"),
        ("shards.temperature.blocks.chunks", [1.5], r"Expected `int`, got `float`"),
        ("shards.temperature.blocks.chunk_grid", [0, 1, 1], r"Expected `int` >= 1 - at .*chunk_grid"),
        ("shards.temperature.blocks.chunk_grid", "40", r"Expected `array`, got `str`"),
        ("shards.temperature.blocks.keys.separator", "-", r"Invalid enum value '-'"),
        ("shards.temperature.blocks.keys.more", 1, "unknown field `more`"),
        ("shards.temperature.blocks", ..., "shard 'temperature' has exceptions, but no blocks"),
        ("shards.temperature.exceptions.10/0", {"kind": "zip", "url": "a"}, r"no block '10/0': its grid of blocks is \(10, 2\)"),
        ("shards.temperature.exceptions.0", {"kind": "zip", "url": "a"}, "shard 'temperature' has no block '0'"),
        ("shards.temperature.exceptions.-1/0", {"kind": "zip", "url": "a"}, "no block '-1/0'"),
        ("shards.temperature.exceptions.x", {"kind": "zip", "url": "a"}, "no block 'x'"),
        ("shards.temperature.exceptions.01/0", {"kind": "zip", "url": "a"}, "no block '01/0'"),
        ("shards.temperature.exceptions.+1/0", {"kind": "zip", "url": "a"}, r"no block '\+1/0'"),
        ("shards.temperature/c", {"location": {"kind": "zip", "url": "a"}}, "overlap: 'temperature/c' lies inside 'temperature'"),
        ("shards.simulation", {"location": {"kind": "zip", "url": "a"}}, "overlap: 'simulation/coarse' lies inside 'simulation'"),
        ("shards.a//b", {"location": {"kind": "zip", "url": "a"}}, "'a//b' has an empty segment"),
        ("shards./a", {"location": {"kind": "zip", "url": "a"}}, "'/a' has an empty segment"),
        (URL, "../other/a.zip", r"the config's URL '\.\./other/a\.zip' has a segment '\.\.': it must stay inside"),
        (URL, "a/../../b.zip", r"has a segment '\.\.'"),
        (URL, "/etc/passwd", r"names '/etc/passwd', which is outside its own folder: .* allow=\['/etc/passwd'\]"),
        (URL, f"{OUT}/../passwd", "names '/data/passwd', which is outside its own folder"),
        (URL, f"{OUT}side/a.zip", f"names '{OUT}side/a.zip', which is outside its own folder"),
        (URL, "file:///etc/passwd", "names '/etc/passwd', which is outside its own folder"),
        (URL, "FILE:///etc/passwd", "names '/etc/passwd', which is outside its own folder"),
        (URL, f"file://host{OUT}/a.zip", "the config's URL can't be used: .* names a file on another machine"),
        (URL, f"file://{OUT}/a?b.zip", "has '\\?': write %3F"),
        ("shards." + "a" * 300, {"location": {"kind": "zip", "url": "a"}}, "or a segment of more than 255: file systems do not allow such names"),
        (URL, "s3://other/a.zip", "names 's3://other/a.zip', which is outside its own folder"),
        (URL, "ftp://host/a.zip", "the config's URL can't be used: unknown URL scheme ftp://"),
        (URL, "s3://key:secret@bucket/a", "the config's URL can't be used: the URL 's3://bucket/a' holds credentials"),
        (URL, "http://[", "the config's URL can't be used: .* is not a URL"),
        (URL, "a\0b", r"the config's URL 'a\\x00b' has '\\x00', which is not valid in file names"),
        (URL, "/data/out/\ud800", r"has '\\ud800', which is not valid in file names"),
        ("shards.temperature.location.url", "t.zip", r"shard 'temperature' has 20 blocks, all at 't\.zip': put \{block\} into its URL"),
        ("shards.temperature.blocks.chunk_grid", [2**63, 1, 1], "Expected `int` <= 9223372036854775807"),
        ("base.url", "..", r"'\.\.' has a segment '\.\.'"),
        ("shards.temperature.exceptions.9/1.url", "/etc", "names '/etc', which is outside its own folder"),
        ("shards.simulation/fine.location.source.url", "/etc", "names '/etc', which is outside its own folder"),
        ("consolidated.url", "/etc", "names '/etc', which is outside its own folder"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_configs(place, value, message):
    with pytest.raises(ConfigError, match=message):
        ShardedStore.from_config(changed(place, value), root=OUT, allow=["s3://bucket/era5.zarr"])


def test_views_stay_below_their_path():
    document = changed("shards.simulation/fine.location.path", "../other")
    with pytest.raises(ConfigError, match=r"'\.\./other' has a segment '\.\.'"):
        ShardedStore.from_config(document, root=OUT)


def test_a_folder_whose_name_would_be_replaced():
    with pytest.raises(
        ConfigError, match=r"the config's folder '/data/\{block\}' has a part in braces, which is a placeholder"
    ):
        ShardedStore.from_config(golden(), root="/data/{block}")


@pytest.mark.parametrize("view", ["", "of it"])
def test_a_template_in_a_template_is_refused(view):
    """In both, {block} stands for a name."""
    base, blocks = {"kind": "zip", "url": "/data/{block}/a.zip"}, golden()["shards"]["temperature"]["blocks"]
    inner = {"kind": "sharded", "base": base, "shards": {"t": {"location": base, "blocks": blocks}}}
    location = {"kind": "sharded", "base": {"kind": "view", "path": "t", "source": inner}} if view else inner
    document = {
        "format": "shardedstore",
        "version": 1,
        "base": base,
        "shards": {"t": {"location": location, "blocks": blocks}},
    }
    with pytest.raises(ConfigError, match=r"shard 't' has a template with the sharded store .* divide only one"):
        ShardedStore.from_config(document)
    document["shards"]["t"]["location"] = {"kind": "view", "path": "t", "source": inner}  # this is not a template
    ShardedStore.from_config(document)
    document["shards"]["t"] = {"location": inner, "members": {"names": ["a"]}}
    with pytest.raises(ConfigError, match="shard 't' has a template with"):
        ShardedStore.from_config(document)


def test_names_stand_in_a_sharded_store_of_a_template():
    inner = {"kind": "sharded", "base": {"kind": "zip", "url": "{name}.zip"}}
    mount = {"location": inner, "members": {"names": ["a"]}}
    document = {"format": "shardedstore", "version": 1, "base": {"kind": "group"}, "shards": {"t": mount}}
    store = ShardedStore.from_config(document, root=OUT)
    assert store.component("t", (0,)).config.base == Zip(f"{OUT}/a.zip")


def test_a_component_over_the_whole_base_is_refused():
    """Only blocks of an array can be mounted at the root, as a whole component would hide the base."""
    document = {
        "format": "shardedstore",
        "version": 1,
        "base": {"kind": "zip", "url": "/data/a.zip"},
        "shards": {"": {"location": {"kind": "zip", "url": "/data/b.zip"}}},
    }
    with pytest.raises(ConfigError, match="shard '' would hide the base"):
        ShardedStore.from_config(document)


@pytest.mark.parametrize("place", [URL, "base.url", "consolidated.url"])
def test_relative_urls_need_a_root(place):
    with pytest.raises(
        ConfigError, match=r"has the relative URL '__base__.zarr.zip': give the folder that it starts from as root="
    ):
        ShardedStore.from_config(golden())


@pytest.mark.parametrize("allowed", ["/etc", "/etc/passwd", "/", "file:///etc"])
def test_places_can_be_allowed(allowed):
    store = ShardedStore.from_config(changed(URL, "/etc/passwd"), root=OUT, allow=["s3://bucket", allowed])
    assert store.config.shards["simulation/coarse"].location == Zip("/etc/passwd")


@pytest.mark.parametrize("url", ["%2e%2e/other/a.zip", "a/.%2E/../b.zip", ".\t./a.zip", "a#b", "a\\..\\b", "a?b"])
def test_a_client_of_an_object_store_is_not_led_elsewhere(url):
    """It would resolve quoted dots, and drop tabs and everything after a number sign."""
    with pytest.raises(ConfigError, match=r"has a segment '\.\.?'|write %|holds credentials"):
        from_dict(changed(URL, url), "s3://bucket/out", ["s3://bucket/era5.zarr"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"account_name": "evil"}, "sends requests for 'az://c/out/a' to 'https://evil.blob.core.windows.net'"),
        ({"use_emulator": True}, "to 'http://127.0.0.1:10000'"),
        ({"endpoint": "https://evil"}, "to 'https://evil'"),
        ({"endpoint": "https://evil/"}, "to 'https://evil'"),
        ({"endpoint": "https://evil#mine"}, "can't be read: the endpoint is not the URL of a server"),
        ({"endpoint": "https://evil\\.mine"}, "can't be read: the endpoint is not the URL of a server"),
        ({"endpoint": "file:///etc"}, "can't be read: the endpoint is not the URL of a server"),
        ({"endpoint": "evil"}, "can't be read: the endpoint is not the URL of a server"),
        ({"account_name": "evil.com/"}, "can't be read: Expected `str` matching regex"),
        ({"region": "evil.com/#"}, "can't be read: Expected `str` matching regex"),
    ],
    ids=str,
)
def test_requests_go_nowhere_else_unless_it_is_allowed(options, message):
    document = {"format": "shardedstore", "version": 1}
    document["base"] = {"kind": "directory", "url": "az://c/out/a", "options": options}
    mine = Options(account_name="mine")
    with pytest.raises(ConfigError, match=message) as refused:
        from_dict(document, "az://c/out", [], mine)
    if "sends" in str(refused.value):
        from_dict(document, "az://c/out", [Options(**options).server], mine)


def test_a_place_that_begins_alike_is_not_allowed():
    with pytest.raises(ConfigError, match="'/etc2/passwd', which is outside its own folder"):
        ShardedStore.from_config(changed(URL, "/etc2/passwd"), root=OUT, allow=["s3://bucket", "/etc"])


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"zarr"], ids=lambda data: repr(data[:4]))
def test_a_file_that_is_not_json(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ConfigError, match=r"a\.json': this is not a shardedstore config: it is not JSON"):
        ShardedStore.load(tmp_path / "a.json")


@pytest.mark.parametrize("data", [b"[]", b"null", b"{}", b'"text"'])
def test_a_json_file_that_is_no_config(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ConfigError, match="this is not a shardedstore config"):
        ShardedStore.load(tmp_path / "a.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"no config can be read at '.*/no\.json': No such file or directory"):
        ShardedStore.load(tmp_path / "no.json")
    with pytest.raises(ConfigError, match=r"no config can be read at '.*/shardedstore\.json': No such file"):
        ShardedStore.load(tmp_path)


def test_a_similar_name_is_proposed_for_a_path_that_is_not_there(tmp_path):
    (tmp_path / "climate.zarr").mkdir()
    near = f"did you mean '{tmp_path}/climate.zarr'"
    with pytest.raises(ConfigError, match=near):
        ShardedStore.load(tmp_path / "climat.zarr")
    with pytest.raises(PartitionError, match=near):
        ShardedStore.partition(tmp_path / "climat.zarr")
    with pytest.raises(PartitionError, match=r"does not exist$"):
        ShardedStore.partition(tmp_path / "none" / "climat.zarr")


def test_locations_that_are_nested_too_deeply():
    document = golden()
    location = document["base"]
    for _ in range(sys.getrecursionlimit() * 50):
        location = {"kind": "view", "source": location, "path": "a"}
    document["base"] = location
    with pytest.raises(ConfigError, match="nested too deeply"):
        ShardedStore.from_config(document, root=OUT)


def test_divide_gives_locations_and_nothing_open(tmp_path):
    config = divide(Directory(os.fspath(to_folder(build(cube, "v3/"), tmp_path))), ["simulation"])
    assert from_dict(to_dict(config)) == config
