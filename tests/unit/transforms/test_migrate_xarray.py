"""xarray reads equal names, values and missing values before and after `MigrateV3`.

Documents are written by hand, by zarr 2 and by netCDF-C: a table of data types, fill values and attributes.
"""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import sources
import xarray as xr
from numcodecs import JSON, MsgPack, VLenBytes, VLenUTF8

from shardedstore import ShardedStore
from shardedstore.codecs.migrate_document import MISSING_BYTES, MISSING_NUMBERS, NAMES_LOST
from shardedstore.stores.entries import read_entries
from shardedstore.stores.hierarchy import walk
from shardedstore.transforms import CopyTo, MigrateV3
from shardedstore.transforms.base.shard import Shard

NUMBERS = ("|b1", "|i1", "<i2", ">i4", "<i8", "|u1", "<u8", "<f2", "<f4", ">f8", "<c8", "<c16")
TIMES = ("<M8[ns]", "<M8[D]", "<m8[s]")
FIXED = ("<U2", ">U3", "|S2")
FILLS: dict[str, list[Any]] = {
    "b": [False, True],
    "i": [0, 1, -9],
    "u": [0, 1, 200],
    "f": [0, 1, -9.5, "NaN", "Infinity", 0.1],
    "c": [[0.0, 0.0], [1.0, 0.0], ["NaN", 0.0]],
    "M": [0, 1, "NaT", -9223372036854775808],
    "m": [0, 1, "NaT"],
    "U": ["", "1"],
    "S": ["", "MQ=="],
}
# Attributes `_FillValue` as in real files, of any type beside any data.
ATTRIBUTES = [
    "",
    "NaN",
    "NaT",
    [0],
    [1],
    [1, 2],
    [],
    0,
    1,
    1.5,
    3.0,
    -9999,
    9.969209968386869e36,
    1e20,
    True,
    None,
    math.nan,
    2**63,
]
OBJECTS = {"vlen-utf8": VLenUTF8(), "vlen-bytes": VLenBytes(), "json2": JSON(), "msgpack2": MsgPack()}


def document(dtype: str, fill: Any, filters: list[Any] | None = None) -> dict[str, Any]:
    shape: dict[str, Any] = {"zarr_format": 2, "shape": [6], "chunks": [2], "dtype": dtype, "fill_value": fill}
    return {**shape, "order": "C", "filters": filters, "compressor": None}


Variables = list[tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]]


def contents(variables: Variables) -> dict[str, bytes]:
    """Return a group with some arrays: their documents, attributes and chunks."""
    made = {".zgroup": b'{"zarr_format": 2}'}
    for i, (doc, attributes, chunks) in enumerate(variables):
        made |= {f"v{i}/.zarray": json.dumps(doc).encode(), f"v{i}/.zattrs": json.dumps(attributes).encode()}
        made |= {f"v{i}/{key}": chunk for key, chunk in chunks.items()}
    return made


def plain(dtype: str, fill: Any, attributes: dict[str, Any]) -> Any:
    """Return an array whose middle chunk is missing."""
    numbers = np.array([0, 1, 3, 0])
    data = numbers.astype(dtype) if dtype[1] not in "Mm" else numbers.astype("i8").view(f"<{dtype[1:]}")
    chunks = {"0": data[:2].tobytes(), "2": data[2:].tobytes()}
    return document(dtype, fill), {"_ARRAY_DIMENSIONS": ["x"], **attributes}, chunks


def migrated(before: dict[str, bytes]) -> dict[str, bytes]:
    entries = read_entries(sources.to_memory(before))
    return {entry.key: bytes(entry.data) for entry in MigrateV3()(entries, Shard("", is_base=True))}


def opened(some: dict[str, bytes], zarr_format: int, **options: Any) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = sources.to_memory(some)
        return xr.open_dataset(store, engine="zarr", consolidated=False, zarr_format=zarr_format, **options).load()


def check(variables: Variables, told: str = "", **options: Any) -> None:
    """Check that xarray reads equal values after the step, except for arrays in a notice with this text."""
    before = contents(variables)
    was, now = opened(before, 2, **options), opened(migrated(before), 3, **options)
    notices = dict(iter(MigrateV3().notices(walk(sources.to_memory(before)))))
    unlike = {}
    assert len(was.variables) == len(now.variables) == len(variables)
    for name in was.variables:
        one, other = was[name], now[name]
        if one.dims != other.dims or not one.equals(other):
            unlike[name] = variables[int(name[1:])][:2], one.values.tolist(), other.values.tolist()
    assert unlike.keys() == set(notices.get(told, ())), unlike


@pytest.mark.few(3)
@pytest.mark.parametrize("dtype", ["|b1", "<i2", "|u1", "<f4", "<c8", "<M8[ns]", "<U2", "|S2"])
def test_attributes_beside_a_null_fill_value(dtype):
    given = [{}, *({"_FillValue": value} for value in ATTRIBUTES)]
    others = ({}, {"missing_value": 3}, {"missing_value": "1"})
    check([plain(dtype, None, one | other) for one in given for other in others])


@pytest.mark.few(6)
@pytest.mark.parametrize("dtype", [*NUMBERS, *TIMES, *FIXED])
def test_fill_values(dtype):
    given: list[dict[str, Any]] = [
        {},
        {"_FillValue": ""},
        {"_FillValue": 1},
        {"missing_value": 3},
        {"scale_factor": 2.0},
    ]
    given = given[:4] if dtype[1] in "MmUSb" else given
    check([plain(dtype, fill, one) for fill in FILLS[dtype[1]] for one in given], told=MISSING_BYTES)


PADDED: dict[str, Any] = {
    "vlen-utf8": ["", "1", "0", "ü"],
    "vlen-bytes": [b"", b"1", b"0", b"3"],
}
TEXT_FILLS = [0, "", None, "0", "1", "MA==", math.nan, "NaN", 1.5, False]


def objects(codec: str, fill: Any, attributes: dict[str, Any], missing: bool = True) -> Any:
    data = np.array(PADDED[codec], object)
    chunks = {key: bytes(OBJECTS[codec].encode(part)) for key, part in (("0", data[:2]), ("2", data[2:]))}
    chunks |= {} if missing else {"1": chunks["0"]}
    attributes = {"_ARRAY_DIMENSIONS": ["x"], **attributes}
    return document("|O", fill, [OBJECTS[codec].get_config()]), attributes, chunks


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("codec", PADDED)
def test_objects(codec, missing):
    given = [{}, *({"_FillValue": value} for value in ATTRIBUTES)]
    fills = TEXT_FILLS if codec == "vlen-utf8" else ["", None, "MA=="]  # zarr reads no other bytes
    check(
        [objects(codec, fill, one, missing) for fill in fills for one in given[: 99 if fill is None else 2]],
        told=MISSING_BYTES,
    )


@pytest.mark.parametrize("codec", ["json2", "msgpack2"])
def test_texts_in_codecs_that_zarr_no_longer_reads(codec):
    texts = np.array(["", "1", "0", "ü"], object)
    chunks = {key: bytes(OBJECTS[codec].encode(part)) for key, part in (("0", texts[:2]), ("2", texts[2:]))}
    other, attributes, _ = objects("vlen-utf8", 0, {})
    other["filters"] = [OBJECTS[codec].get_config()]
    now = opened(migrated(contents([(other, attributes, chunks)])), 3)
    was = opened(contents([objects("vlen-utf8", 0, {})]), 2)
    xr.testing.assert_equal(was, now)


def test_numbers_that_stand_for_missing_texts_are_reported():
    before = contents([objects("vlen-utf8", 0, {}), objects("vlen-utf8", "", {}), objects("vlen-utf8", None, {})])
    notices = list(MigrateV3().notices(walk(sources.to_memory(before))))
    assert [arrays for text, arrays in notices if text == MISSING_NUMBERS] == [("v0",)]


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(
    ("more", "attributes"),
    [
        ({"_NCZARR_ARRAY": {"dimrefs": ["/x"], "storage": "chunked"}}, {}),
        ({"_NCZARR_ARRAY": {"dimrefs": ["/group/x"]}}, {"_NCZARR_ATTR": {"types": {"a": "<f4"}}, "a": 1}),
        ({"_NCZARR_ARRAY": {"dimrefs": ["/y"]}}, {"_ARRAY_DIMENSIONS": ["x"], "_nczarr_attrs": {"types": {}}}),
        ({"other": 1}, {"_ARRAY_DIMENSIONS": ["x"]}),
        ({}, {"_ARRAY_DIMENSIONS": [None]}),
        ({}, {"_ARRAY_DIMENSIONS": ["ü/x y"]}),
    ],
)
def test_names_of_dimensions(more, attributes, mask, tmp_path):
    doc, _, chunks = plain("<i2", None, {})
    before = contents([(doc | more, attributes, chunks)])
    before[".zgroup"] = json.dumps({"zarr_format": 2, "_NCZARR_GROUP": {"dims": {"x": 6}}}).encode()
    source = ShardedStore.partition(sources.to_folder(before, tmp_path / "in"))
    made = source.map_shards(MigrateV3(), CopyTo(tmp_path / "out"))
    was = opened(before, 2, mask_and_scale=mask)
    now = xr.open_dataset(tmp_path / "out", engine="zarr", consolidated=False, zarr_format=3, mask_and_scale=mask)
    xr.testing.assert_identical(was, now.load())
    assert made.verify(source).ok
    written = json.loads((tmp_path / "out" / "v0" / "zarr.json").read_text())
    carried = more | {name: value for name, value in attributes.items() if name.lower().startswith("_nc")}
    for name, value in carried.items():
        assert written[name] == {"must_understand": False, **(value if isinstance(value, dict) else {"value": value})}
    assert json.loads((tmp_path / "out" / "zarr.json").read_text())["attributes"]["_NCZARR_GROUP"] == {"dims": {"x": 6}}


def test_names_in_an_attribute_of_netcdf_are_found():
    doc, _, chunks = plain("<i2", None, {})
    before = contents([(doc, {"_nczarr_array": {"dimrefs": ["/x"]}}, chunks)])
    assert opened(migrated(before), 3).v0.dims == ("x",)


def test_names_that_v3_can_not_hold_are_reported():
    doc, _, chunks = plain("<i2", None, {})
    nodes = walk(sources.to_memory(contents([(doc, {"_ARRAY_DIMENSIONS": [1]}, chunks)])))
    assert [arrays for text, arrays in MigrateV3().notices(nodes) if text == NAMES_LOST] == [("v0",)]
