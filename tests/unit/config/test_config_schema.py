"""The JSON Schema of the package: it is generated from the code, and agrees with the reader."""

import json

import msgspec
import pytest
from config_strategies import DOCUMENTS, configs, mutated
from fuzz import examples
from golden_configs import OUT
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from sources import SOURCES, to_folder

from shardedstore import ShardedStore, ShardedStoreError, UsageError
from shardedstore.config.document import from_dict, to_dict
from shardedstore.config.schema import FILE, text
from shardedstore.stores.locations import KINDS, Config
from shardedstore.transforms import ToZip

SCHEMA = json.loads(FILE.read_bytes())
validator = Draft202012Validator(SCHEMA)
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def test_the_file_is_made_from_the_code():
    assert FILE.read_text("utf-8") == text(), (
        "the config's structs have changed: run `make schema`, and look at the difference"
    )


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)


def test_it_has_each_kind_and_says_what_it_is():
    kinds = {struct.__struct_config__.tag: struct.__name__ for struct in KINDS}
    mapping = SCHEMA["$defs"]["Location"]["discriminator"]["mapping"]
    assert mapping == {tag: f"#/$defs/{name}" for tag, name in kinds.items()}
    for name in SCHEMA["$defs"].keys() - {"Location"}:
        described = SCHEMA["$defs"][name]
        assert described["description"].endswith("."), name
        assert "``" not in described["description"] + ">>>", name
        assert described["additionalProperties"] is False
        for field in described["properties"].keys() - {"kind"}:
            assert described["properties"][field]["description"].endswith("."), f"{name}.{field}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_accepts_the_golden_files(name):
    validator.validate(DOCUMENTS[name])


@pytest.mark.parametrize("source", SOURCES)
def test_it_accepts_what_a_job_writes(source, tmp_path):
    store = ShardedStore.partition(to_folder(SOURCES[source].contents(), tmp_path / "a.zarr"), SOURCES[source].shards)
    validator.validate(json.loads(json.dumps(store.get_config())))
    if source in ("cube-v2.", "consolidated-v3"):
        store.map_shards(ToZip(tmp_path / "out"))
        validator.validate(json.loads((tmp_path / "out" / "shardedstore.json").read_bytes()))


@settings(slow, max_examples=examples(25))
@given(configs)
def test_it_accepts_any_config(config):
    validator.validate(json.loads(json.dumps(to_dict(config))))


@settings(slow, max_examples=examples(40))
@given(mutated())
def test_what_it_refuses_is_not_read(document):
    if not validator.is_valid(document):
        with pytest.raises(ShardedStoreError):
            from_dict(document, OUT)


REFUSED = {
    "a kind that is not known": {"base": {"kind": "directories", "url": "a"}},
    "no kind": {"base": {"url": "a"}},
    "a field that is not known": {"base": {"kind": "zip", "url": "a", "module": "os"}},
    "an option that is not known": {"base": {"kind": "zip", "url": "s3://a/b", "options": {"secret_access_key": "x"}}},
    "a host that is none": {"base": {"kind": "zip", "url": "s3://a/b", "options": {"region": "evil.com/#"}}},
    "a host with a line end": {"base": {"kind": "zip", "url": "s3://a/b", "options": {"region": "eu\n"}}},
    "a NUL in a URL": {"base": {"kind": "zip", "url": "a\0"}},
    "a number for a URL": {"base": {"kind": "zip", "url": 1}},
    "no base": {},
    "a version to come": {"version": 2, "base": {"kind": "zip", "url": "a"}},
    "a truth for a version": {"version": True, "base": {"kind": "zip", "url": "a"}},
    "another format": {"format": "zarr", "base": {"kind": "zip", "url": "a"}},
    "a path with ..": {"shards": {"a/../b": {"location": {"kind": "zip", "url": "a"}}}},
    "a path that ends in ..": {"shards": {"a/..": {"location": {"kind": "zip", "url": "a"}}}},
    "a path from the root": {"shards": {"/a": {"location": {"kind": "zip", "url": "a"}}}},
    "an empty segment": {"shards": {"a//b": {"location": {"kind": "zip", "url": "a"}}}},
    "a component over the base": {"shards": {"": {"location": {"kind": "zip", "url": "a"}}}},
    "a view that leads out": {"base": {"kind": "view", "path": "../a", "source": {"kind": "zip", "url": "a"}}},
    "a part that leads out": {"base": {"kind": "part", "without": [".."], "source": {"kind": "zip", "url": "a"}}},
    "a part of the root": {"base": {"kind": "part", "only": [""], "source": {"kind": "zip", "url": "a"}}},
    "blocks of no size": {"shards": {"a": {"location": {"kind": "zip", "url": "{block}"}, "blocks": {"chunk_grid": [2], "chunks": [0], "keys": {"name": "v2", "separator": "."}}}}},
    "a grid too large": {"shards": {"a": {"location": {"kind": "zip", "url": "{block}"}, "blocks": {"chunk_grid": [2**63], "chunks": [1], "keys": {"name": "v2", "separator": "."}}}}},
    "no chunks": {"shards": {"a": {"location": {"kind": "zip", "url": "{block}"}, "blocks": {"chunk_grid": [2], "chunks": [], "keys": {"name": "v2", "separator": "."}}}}},
    "keys that are not known": {"shards": {"a": {"location": {"kind": "zip", "url": "{block}"}, "blocks": {"chunk_grid": [2], "chunks": [1], "keys": {"name": "v2", "separator": "-"}}}}},
    "an index that is none": {"shards": {"a": {"location": {"kind": "zip", "url": "{block}"}, "exceptions": {"01": {"kind": "zip", "url": "b"}}, "blocks": {"chunk_grid": [2], "chunks": [1], "keys": {"name": "v2", "separator": "."}}}}},
    "blocks and members": {"shards": {"a": {"location": {"kind": "zip", "url": "{name}{block}"}, "members": {"names": ["a"]}, "blocks": {"chunk_grid": [2], "chunks": [1], "keys": {"name": "v2", "separator": "."}}}}},
    "no members": {"shards": {"a": {"location": {"kind": "zip", "url": "{name}"}, "members": {"names": []}}}},
    "a member that leads out": {"shards": {"a": {"location": {"kind": "zip", "url": "{name}"}, "members": {"names": [".."]}}}},
    "a name of a module": {"base": {"kind": "own", "name": "os:system", "url": "a"}},
    "settings in settings": {"base": {"kind": "own", "name": "tar", "url": "a", "settings": {"a": {}}}},
    "a format of Zarr to come": {"base": {"kind": "group", "zarr_format": 4}},
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_both_refuse(what):
    base = {} if what == "no base" else {"base": {"kind": "zip", "url": "a"}}
    document = {"format": "shardedstore", "version": 1, **base, **REFUSED[what]}
    assert not validator.is_valid(document)
    with pytest.raises(UsageError):
        from_dict(document, OUT)


def test_a_document_is_a_nested_store_but_for_its_name():
    """A change of one must change the other."""
    fields = SCHEMA["properties"].keys() - {"format", "version"}
    assert fields == {field.name for field in msgspec.structs.fields(Config)}
    for name in fields:
        assert SCHEMA["properties"][name] == SCHEMA["$defs"]["Config"]["properties"][name]
