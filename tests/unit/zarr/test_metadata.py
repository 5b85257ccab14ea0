"""Metadata of nodes, from documents of zarr and from damaged documents."""

import json
import math
from contextlib import suppress

import msgspec
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from sources import KEYS, SOURCES, build, consolidated, cube, to_memory

from shardedstore.errors import CorruptError
from shardedstore.stores.consolidate import consolidate
from shardedstore.stores.hierarchy import walk
from shardedstore.zarr.grid import ChunkKeys
from shardedstore.zarr.metadata import (
    NOMINAL_ITEMSIZE,
    ArrayMeta,
    GroupMeta,
    crop_document,
    drop_consolidated,
    parse_node,
)


def node_of(contents, path):
    node = walk(to_memory(contents)).get(path)
    return None if node is None else node.meta


@pytest.mark.parametrize("keys", KEYS)
def test_arrays_that_zarr_wrote(keys):
    meta = node_of(build(cube, keys), "temperature")
    zarr_format, name, separator = KEYS[keys]
    assert meta == ArrayMeta(
        zarr_format, (7, 5, 4), (2, 2, 3), ChunkKeys(name, separator), ("time", "y", "x"), itemsize=4
    )
    assert (meta.chunk_grid, meta.chunk_count, meta.chunk_nbytes, meta.nbytes) == ((4, 3, 2), 24, 48, 560)


@pytest.mark.parametrize("source", SOURCES)
def test_shapes_are_those_that_zarr_reads(source):
    contents = SOURCES[source].contents()
    for path, node in walk(to_memory(contents)).items():
        if isinstance(node.meta, ArrayMeta):
            array = zarr.open_array(to_memory(contents), path=path, mode="r")
            assert (node.meta.shape, node.meta.chunks) == (array.shape, array.shards or array.chunks)


def test_a_scalar_is_one_chunk():
    meta = node_of(build(cube, "v3/"), "crs")
    assert (meta.chunk_grid, meta.chunk_count, meta.nbytes) == ((), 1, 4)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("array", "size"),
    [
        ("flags", 1),
        ("complex", 16),
        ("dates", 8),
        ("records", 12),
        ("fixed", 44),
        ("bytes", 3),
        ("strings", NOMINAL_ITEMSIZE),
    ],
)
def test_sizes_of_elements(zarr_format, array, size):
    contents = SOURCES[f"types-v{zarr_format}"].contents()
    if (zarr_format, array) == (3, "records"):
        size = NOMINAL_ITEMSIZE  # the document of a structured type has no length
    assert node_of(contents, array).itemsize == size


@pytest.mark.parametrize(
    ("data_type", "size"),
    [("bool", 1), ("int64", 8), ("float16", 2), ("complex64", 8), ("r24", 3), ("string", 16), ("from_the_future", 16)],
)
def test_sizes_of_the_core_types(data_type, size):
    document = json.loads(build(cube, "v3/")["temperature/zarr.json"]) | {"data_type": data_type}
    assert parse_node({"zarr.json": json.dumps(document).encode()}, "a").itemsize == size


@pytest.mark.parametrize("source", ["consolidated-v2", "consolidated-v3"])
def test_groups(source):
    contents = SOURCES[source].contents()
    zarr_format = int(source[-1])
    assert node_of(contents, "") == GroupMeta(zarr_format, consolidated=True)
    assert node_of(contents, "simulation/fine") == GroupMeta(zarr_format, consolidated=False)
    assert node_of(contents, "nothing") is None
    assert node_of(contents, "temperature/c") is None


@pytest.mark.parametrize("dims", [["time"], ["time", "y", 3], "time", None, {"a": 1}], ids=str)
def test_dimension_names_that_do_not_fit_are_none(dims):
    contents = build(cube, "v2.")
    documents = {
        ".zarray": contents["temperature/.zarray"],
        ".zattrs": json.dumps({"_ARRAY_DIMENSIONS": dims}).encode(),
    }
    assert parse_node(documents, "temperature").dimension_names is None


def test_version_3_is_read_before_version_2():
    contents = {**build(cube, "v2."), **build(cube, "v3/")}
    assert node_of(contents, "temperature").zarr_format == 3


# Changed documents


@pytest.mark.parametrize(("keys", "name"), [("v2.", ".zarray"), ("v3/", "zarr.json")])
def test_cropping_changes_the_shape_alone(keys, name):
    data = build(cube, keys)[f"temperature/{name}"]
    cropped = json.loads(crop_document(data, (3, 5, 4), "temperature", name))
    assert cropped == {**json.loads(data), "shape": [3, 5, 4]}
    assert list(cropped) == list(json.loads(data))


@pytest.mark.parametrize("value", ["NaN", "-Infinity", 1e300, 2**64, "ü", None])
def test_cropping_keeps_fill_values(value):
    data = json.dumps({"shape": [9], "fill_value": value}).encode()
    assert json.loads(crop_document(data, (3,), "a", ".zarray"))["fill_value"] == value


def test_consolidated_metadata_is_dropped():
    contents = SOURCES["consolidated-v3"].contents()
    dropped = json.loads(drop_consolidated(contents["zarr.json"], ""))
    whole = json.loads(contents["zarr.json"])
    assert whole.pop("consolidated_metadata")
    assert dropped == whole


def test_without_consolidated_metadata_bytes_stay():
    assert drop_consolidated(build(cube, "v3/")["zarr.json"], "") is None
    assert drop_consolidated(b'{"consolidated_metadata": null}', "") is None


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("group", ["", "simulation"])
def test_consolidated_metadata_is_rebuilt_as_zarr_writes_it(zarr_format, group):
    contents = build(consolidated, zarr_format)
    key, data = consolidate(walk(to_memory(contents)), group, {})
    assert key == "/".join([*([group] if group else []), {2: ".zmetadata", 3: "zarr.json"}[zarr_format]])
    rebuilt, expected = json.loads(data), json.loads(contents[key])
    below = expected["metadata"] if zarr_format == 2 else expected["consolidated_metadata"]["metadata"]
    for document in below.values():  # zarr adds to each group that it has no consolidated metadata
        document.pop("consolidated_metadata", None)
    assert rebuilt == expected


# Damaged documents

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["regular", "v2", "/"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def replaced(document, place, value):
    """A copy of a document with another value at a place, given as a path of keys."""
    if not place:
        return value
    return {**document, place[0]: replaced(document[place[0]], place[1:], value)}


def places(document):
    yield ()
    if isinstance(document, dict):
        for key, value in document.items():
            yield from ((key, *rest) for rest in places(value))


@pytest.mark.parametrize("name", [".zarray", "zarr.json", ".zgroup"])
@given(st.data())
def test_damaged_documents_are_refused_or_read(name, data):
    """Any document gives an array, a group, or one clear error."""
    contents = build(cube, "v3/" if name == "zarr.json" else "v2.")
    document = json.loads(contents[name if name == ".zgroup" else f"temperature/{name}"])
    place = data.draw(st.sampled_from(list(places(document))))
    changed = json.dumps(replaced(document, place, data.draw(json_values))).encode()
    with suppress(CorruptError):
        meta = parse_node({name: changed}, "temperature")
        assert isinstance(meta, ArrayMeta | GroupMeta)
        if isinstance(meta, ArrayMeta):
            assert msgspec.convert(meta.shape, tuple[int, ...]) == meta.shape
            assert meta.chunks is None or len(meta.chunk_grid) == len(meta.shape)
            assert meta.nbytes == math.prod([*meta.shape, meta.itemsize])


@given(st.binary(max_size=20))
def test_bytes_that_are_no_document(data):
    with pytest.raises(CorruptError, match=r"'a/zarr\.json' is not"):
        parse_node({"zarr.json": data}, "a")
