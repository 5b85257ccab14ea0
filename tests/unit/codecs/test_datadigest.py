"""The digest of decoded data: its properties, an independent implementation, and digests from streams."""

import hashlib
import itertools
import json
import re
import struct
import warnings
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from fuzz import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from paths import ROOT
from sources import SOURCES, to_memory
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from shardedstore import CorruptError, ShardedStore
from shardedstore.codecs.digest import MODULUS, DataDigest, Digester, canonical_bytes
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.open_shard import open_shard
from shardedstore.stores.entries import Entry, read_entries
from shardedstore.transforms.base.datasums import Sums, tap
from shardedstore.transforms.base.shard import Shard


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's, of data types that v3 does not specify
        yield


def digests_of(store: Any, shards: Any = ()) -> dict[str, DataDigest]:
    """The digests of all arrays of a Zarr, from the streams of its shards."""
    plan = make_plan(ShardedStore.partition(store, list(shards) if isinstance(shards, tuple) else shards).config)
    sums = Sums({run.path: plan.nodes[run.path].meta.shape for run in plan.runs if run.blocks is not None})
    for run in reversed(plan.runs):
        for shard in run.shards():
            entries = read_entries(open_shard(run, shard), shard.blocks, shard.block, run.consolidated)
            for _ in tap(entries, shard, sums):
                pass
    return sums.digests


def digest_of(values: np.ndarray, chunks: tuple[int, ...], *, zarr_format: int = 3, **options: Any) -> str:
    """The digest of an array that zarr writes."""
    store = MemoryStore()
    array = zarr.create_array(
        store, shape=values.shape, dtype=values.dtype, chunks=chunks, zarr_format=zarr_format, **options
    )
    array[...] = values
    (digest,) = digests_of(store).values()
    return str(digest)


# An independent implementation of docs/data-digest.md, with NumPy and zarr's reader only.


def by_the_book(array: zarr.Array) -> int:
    value = 0
    chunks = array.chunks
    filled = np.zeros(1, array.dtype) if array.dtype.kind not in "Mm" else np.full(1, "NaT", array.dtype)
    if array.fill_value is not None:
        filled[0] = array.fill_value
    fill = canonical(filled, array)
    grid = [range(-(-n // c)) for n, c in zip(array.shape, chunks, strict=True)]
    header = json.dumps([1, array.shape, chunks, dtype_of(array)], ensure_ascii=False, separators=(",", ":")) + "\n"
    for index in itertools.product(*grid):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))
        part = np.asarray(array[box])
        data = canonical(part, array)
        if data != fill * part.size:
            place = b"".join(i.to_bytes(8, "little") for i in index)
            digest = hashlib.blake2b(header.encode() + place + data, digest_size=32).digest()
            value = (value + int.from_bytes(digest, "little")) % 2**256
    return value


def dtype_of(array: zarr.Array) -> Any:
    if array.dtype.kind in "OT":
        return "string"
    if array.dtype.names:
        return [[name, array.dtype[name].str[1:]] for name in array.dtype.names]
    return array.dtype.str[1:]


def canonical(part: np.ndarray, array: zarr.Array) -> bytes:
    if array.dtype.kind in "OT":
        texts = [str(item).encode() for item in part.reshape(-1)]
        return b"".join(struct.pack("<Q", len(text)) + text for text in texts)
    if array.dtype.names:
        return b"".join(little(item[name]) for item in part.reshape(-1) for name in array.dtype.names)
    return little(part)


def little(values: Any) -> bytes:
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("name", SOURCES)
def test_another_program_gets_the_same(name):
    store = to_memory(SOURCES[name].contents())
    digests = digests_of(store)
    assert digests
    for path, digest in digests.items():
        array = zarr.open_array(store, path=path, mode="r")
        assert digest.value == by_the_book(array), path
        assert digest.layout.shape == array.shape


def test_values_that_stand_for_ever():
    """A change of any of these needs a new version of the digest."""
    numbers = digest_of(np.arange(1, 36, dtype="f4").reshape(7, 5), (2, 2))
    texts = np.array(["ä", "", "b"], dtype=object)
    store = MemoryStore()
    zarr.create_array(store, shape=(3,), chunks=(2,), dtype=str)[:] = texts
    assert (numbers, str(digests_of(store)[""])) == (
        "1:43ab447b0217953bc757acdbf12daeb2bf15c870577b8e2e9f1c1b69479cbe75",
        "1:b7d14ae32b4bb4a54202562f39309a751a6d9b37a1a5316ddcfa6d12e9c9cc83",
    )


def test_the_example_of_the_page(capsys):
    page = (ROOT / "docs" / "data-digest.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    digest = digest_of(np.array([1, 2, 3], "i2"), (2,))
    assert capsys.readouterr().out == f"{digest}\n"
    assert f"Its digest is `{digest}`" in page


# Properties


def same_everywhere(values: np.ndarray, chunks: tuple[int, ...], ways: list[dict[str, Any]]) -> None:
    found = {str(way): digest_of(values, chunks, **way) for way in ways}
    assert len(set(found.values())) == 1, found
    assert set(found.values()) != {f"1:{0:064x}"}


V2 = {"zarr_format": 2}
WAYS = [
    {"compressors": None},
    {"compressors": GzipCodec(level=1)},
    {"compressors": ZstdCodec(level=3)},
    {"compressors": BloscCodec(cname="lz4", shuffle="shuffle")},
    {"serializer": BytesCodec(endian="big")},
    {"filters": TransposeCodec(order=(1, 0))},
    {"shards": (8, 8)},
    {"shards": (4, 16), "compressors": None},
    {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    {"config": {"write_empty_chunks": True}},
    V2,
    {**V2, "order": "F"},
    {**V2, "compressors": numcodecs.Blosc("zstd", shuffle=2)},
    {**V2, "filters": [numcodecs.Delta("<i4")], "compressors": numcodecs.Zlib(1)},
]


def test_every_format_and_codec_gives_the_same():
    values = np.arange(9 * 10, dtype="<i4").reshape(9, 10)
    values[:4, :4] = 0
    same_everywhere(values, (4, 4), WAYS)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["2000-01-01", "NaT", "1969-12-31"], dtype="M8[ms]"),
        np.array([1, -5, 7], dtype="m8[10s]"),
        np.array([True, False, True]),
        np.array([1j, 2, complex(np.nan, 3)]),
        np.array([b"a", b"bcd", b""]),
        np.array(["ä", "bcd", ""]),
        np.array([(1, np.nan), (3, 4.5), (5, 6)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array([b"\1\2\3", b"\0\0\0", b"abc"], dtype="V3"),
    ],
    ids=lambda values: values.dtype.str,
)
def test_every_kind_of_element_gives_the_same_in_v2_and_v3(values):
    same_everywhere(values, (2,), [V2, {}, {**V2, "compressors": None}, {"compressors": None}])


@pytest.mark.parametrize("kind", "iufcMmU")
def test_byte_order_is_no_part_of_it(kind):
    values = np.arange(1, 6).astype({"M": "<M8[s]", "m": "<m8[s]", "U": "<U3"}.get(kind, f"<{kind}8"))
    same_everywhere(values, (2,), [V2])
    assert digest_of(values, (2,), **V2) == digest_of(values.astype(values.dtype.newbyteorder(">")), (2,), **V2)


def test_the_codec_of_objects_gives_what_strings_give():
    old, new = (digests_of(to_memory(SOURCES[f"types-v{n}"].contents())) for n in (2, 3))
    assert old["strings"] == new["strings"]
    assert old == new


def test_bytes_of_variable_length():
    values = np.array([b"a", b"", b"\xff\0"], dtype=object)
    store = MemoryStore()
    zarr.create_array(store, shape=(3,), chunks=(2,), dtype="variable_length_bytes", fill_value=b"")[:] = values
    (digest,) = digests_of(store).values()
    assert digest.layout.dtype == '"bytes"'
    expected = Digester((3,), (2,), "bytes", b"")
    assert digest == expected.of((0,), values[:2]) + expected.of((1,), values[2:])


@given(st.data())
def test_parts_are_added_up_in_any_order(data):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=6))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    values = data.draw(hnp.arrays("<i2", shape, elements=st.integers(-1, 1)))
    digester = Digester(shape, chunks, values.dtype, 0)
    grid = list(itertools.product(*map(range, digester.layout.grid)))

    def part(index):
        return digester.of(index, values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunks, strict=True))])

    whole = reduce(add, map(part, grid))
    order = data.draw(st.permutations(grid))
    cut = data.draw(st.integers(0, len(grid)))
    halves = [reduce(add, map(part, half), DataDigest(digester.layout)) for half in (order[:cut], order[cut:])]
    assert halves[0] + halves[1] == whole
    assert whole.stored == len(grid)


@given(st.sampled_from(["f2", "f4", "f8", "c8", "c16"]), st.data())
def test_every_nan_is_one(kind, data):
    real = np.dtype(kind.replace("c8", "f4").replace("c16", "f8"))
    bits = np.dtype(f"u{real.itemsize}")
    raw = data.draw(hnp.arrays(bits, 8))
    numbers = raw.view(real)
    quiet = numbers.copy()
    quiet[np.isnan(numbers)] = np.nan
    one, other = (Digester((8,), (8,), real, 0).of((0,), each) for each in (numbers, quiet))
    assert one == other
    found = bytes(canonical_bytes(numbers.view(kind), np.dtype(kind)))
    assert found == quiet.tobytes()


def test_nans_in_records_are_one():
    dtype = np.dtype([("a", "<f4", (2,)), ("b", [("c", ">c8"), ("d", "?")])], align=True)
    raw = np.zeros(3, dtype)
    other = raw.copy()
    raw["a"].view("u4")[0, 1] = 0x7F800001
    other["a"].view("u4")[0, 1] = 0xFFFFFFFF
    raw["b"]["c"][1], other["b"]["c"][1] = complex(np.nan, 1), complex(-np.nan, 1)
    raw["b"]["d"].view("u1")[2], other["b"]["d"].view("u1")[2] = 1, 255
    assert bytes(canonical_bytes(raw, dtype)) == bytes(canonical_bytes(other, dtype))
    assert len(canonical_bytes(raw, dtype)) == 3 * (8 + 8 + 1)


@settings(max_examples=examples(15))
@given(st.data())
def test_one_changed_element_changes_it(data):
    values = data.draw(hnp.arrays("<i4", (5, 6), elements=st.integers(-1, 1)))
    place = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 5)))
    changed = values.copy()
    changed[place] += 1
    assert digest_of(values, (2, 4)) != digest_of(changed, (2, 4))


@settings(max_examples=examples(15))
@given(hnp.arrays("<f4", (6, 6), elements=st.sampled_from([0.0, -0.0, 1.0, np.nan])), st.sampled_from([0.0, np.nan]))
def test_a_missing_chunk_is_one_of_the_fill_value(values, fill_value):
    ways = [
        {**way, "fill_value": fill_value, "config": {"write_empty_chunks": stored}}
        for way in ({}, V2, {"shards": (4, 4)})
        for stored in (True, False)
    ]
    assert len({digest_of(values, (2, 2), **way) for way in ways}) == 1


def test_what_is_stored_is_told_apart():
    values = np.zeros((4, 4), "i4")
    values[0, 0] = 1
    found = []
    for stored in (True, False):
        store = MemoryStore()
        zarr.create_array(store, data=values, chunks=(2, 2), config={"write_empty_chunks": stored})
        (digest,) = digests_of(store).values()
        found.append(digest)
    assert found[0].value == found[1].value != 0
    assert [digest.stored for digest in found] == [4, 1]
    assert found[0].presence != found[1].presence


def test_chunks_that_change_places_change_it():
    digester = Digester((4,), (2,), np.dtype("i4"), 0)
    one, other = np.array([1, 2], "i4"), np.array([3, 4], "i4")
    assert digester.of((0,), one) + digester.of((1,), other) != digester.of((1,), one) + digester.of((0,), other)


def test_sums_stay_below_the_modulus():
    digester = Digester((4096,), (1,), np.dtype("u2"), 0)
    values = np.arange(1, 4097, dtype="u2")
    digest = reduce(add, (digester.of((i,), values[i : i + 1]) for i in range(4096)))
    assert digest.value < MODULUS
    assert len(str(digest)) == 2 + 64


def test_digests_of_two_arrays_are_not_added():
    one, other = (DataDigest(Digester((n,), (2,), np.dtype("i4"), 0).layout) for n in (4, 5))
    with pytest.raises(ValueError, match=r"shape=\(4,\).*shape=\(5,\).*different arrays"):
        one + other


def test_elements_that_it_is_not_defined_for():
    with pytest.raises(TypeError, match="not defined for elements of float128"):
        Digester((1,), (1,), np.dtype("longdouble"), 0)
    with pytest.raises(TypeError, match="the element 7 is not of type 'string'"):
        Digester((1,), (1,), "string", 7)


# From a stream


@pytest.mark.parametrize("name", SOURCES)
def test_division_into_shards_is_no_part_of_it(name):
    source = SOURCES[name]
    store = to_memory(source.contents())
    assert digests_of(store, source.shards) == digests_of(store)


def streamed(change: Callable[[bytes], bytes]) -> tuple[list[Entry], list[Entry], Sums]:
    """The entries of an array before and after the tap, with one changed chunk."""
    store = MemoryStore()
    root = zarr.create_group(store)
    root.create_array("a", data=np.arange(1, 9), chunks=(2,))
    store._store_dict["a/c/2"] = cpu.Buffer.from_bytes(change(store._store_dict["a/c/2"].to_bytes()))
    sums, before, after = Sums(), list(read_entries(store)), []
    for entry in tap(iter(before), Shard(""), sums):
        after.append(entry)  # noqa: PERF402 (entries before an error are checked)
    return before, after, sums


def test_the_tap_passes_entries_on_as_they_are():
    before, after, sums = streamed(bytes)
    assert after == before
    assert sums.digests["a"].stored == 4


def test_the_tap_names_a_chunk_that_can_not_be_decoded():
    with pytest.raises(CorruptError, match=r"shard '': 'a/c/2' .chunk .2,. of 'a'. can't be decoded"):
        streamed(lambda data: data[:-3])


def test_an_array_of_an_unknown_codec_is_digested_as_it_is_stored():
    store = MemoryStore()
    zarr.create_array(store, data=np.arange(1, 9), chunks=(2,))
    document = json.loads(store._store_dict["zarr.json"].to_bytes())
    document["codecs"].append({"name": "of-the-future", "configuration": {}})
    store._store_dict["zarr.json"] = cpu.Buffer.from_bytes(json.dumps(document).encode())
    (digest,) = digests_of(store).values()
    assert digest.stored == 4
    assert digest.layout.dtype.startswith('["stored",1,')
    store._store_dict["c/1"] = cpu.Buffer.from_bytes(b"other bytes")
    (other,) = digests_of(store).values()
    assert other.value != digest.value
