"""Parts below `ArrayStep`: codec configurations, objects of the sharding codec, and ordered threads."""

import json
import threading
import time

import numcodecs
import numpy as np
import pytest
import zarr
from conformance import contents_of
from numcodecs.abc import Codec
from sources import to_memory
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec
from zarr.registry import register_codec
from zarr.storage import MemoryStore

from shardedstore.codecs.array_codecs import array_part, raw_nbytes
from shardedstore.codecs.array_document import parse_array_document
from shardedstore.codecs.array_info import read_info
from shardedstore.codecs.bytes_codecs import Compression, make
from shardedstore.codecs.codec_config import CRC32C, complete, config_of, from_json, to_json
from shardedstore.codecs.sharding import ShardIndex
from shardedstore.errors import ChainError
from shardedstore.transforms.base.parallel import map_in_order

RAW = np.arange(1000, dtype="f4").tobytes()
DESCRIPTIONS = [
    {"id": "blosc", "cname": "lz4", "clevel": 3, "shuffle": "bitshuffle", "blocksize": 0},
    {"id": "zstd", "level": 5, "checksum": False},
    {"id": "zstd", "level": 5, "checksum": True},
    {"id": "gzip", "level": 5},
    {"id": "zlib", "level": 5},
    {"id": "lz4", "acceleration": 1},
    {"id": "bz2", "level": 5},
    {"id": "shuffle", "elementsize": 4},
    {"id": "fletcher32"},
]


@pytest.mark.parametrize("config", DESCRIPTIONS, ids=lambda config: config["id"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_description_is_written_and_read_again(config, zarr_format):
    full = complete(config, zarr_format, 4)
    assert from_json(to_json(full, zarr_format), zarr_format, 4) == full == complete(full, zarr_format, 4)
    assert {**full, **config} == full
    coder = make(full)
    assert bytes(coder.decode(coder.encode(RAW))) == RAW


@pytest.mark.parametrize(
    "codec",
    [BloscCodec(), ZstdCodec(level=2), GzipCodec(level=1), Crc32cCodec()],
    ids=lambda codec: type(codec).__name__,
)
def test_v3_codecs_are_those_of_zarr(codec):
    config = from_json(codec.to_dict(), 3, 1)
    assert to_json(config, 3) == codec.to_dict() or config == CRC32C
    assert to_json(from_json({"name": "crc32c"}, 3, 1), 3) == {"name": "crc32c"}
    assert from_json("crc32c", 3, 1) == CRC32C


def test_what_is_not_known_stands_as_it_is():
    assert from_json({"id": "secret", "key": 5}, 2, 4) == {"id": "secret", "key": 5}
    assert to_json(from_json({"name": "secret", "configuration": {"key": 5}}, 3, 4), 3) == {
        "name": "secret",
        "configuration": {"key": 5},
    }


def test_numcodecs_own_blosc_is_another_codec_than_blosc():
    document = {"name": "numcodecs.blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}}
    config = from_json(document, 3, 4)
    assert config["id"] == "numcodecs.blosc"
    assert make(config).encode(RAW) == numcodecs.Blosc("lz4", 5, 1).encode(RAW)
    assert make(from_json({"name": "numcodecs.gzip", "configuration": {"level": 2}}, 3, 4)).encode(RAW)[4:8] == bytes(4)


def test_a_checksum_that_does_not_agree_is_reported():
    coder = Compression([CRC32C])
    stored = coder.encode(RAW)
    assert stored == RAW + contents_of(written(Crc32cCodec()))["c/0"][-4:]
    with pytest.raises(ValueError, match="the checksum does not match"):
        coder.decode(stored[:-1] + b"x")
    with pytest.raises(ValueError, match="the checksum does not match"):
        coder.decode(b"ab")


def written(*compressors, **options):
    store = MemoryStore()
    data = np.frombuffer(RAW, "f4")
    zarr.create_array(store, data=data, chunks=(1000,), compressors=compressors, **options)
    return store


@pytest.mark.parametrize("codec", [5, {"level": 3}, ShardingCodec(chunk_shape=(2,)), BytesCodec()])
def test_what_is_no_codec_is_reported(codec):
    with pytest.raises(TypeError, match="is not a codec: give an id"):
        config_of(codec)


class Flip(BytesBytesCodec):
    """A codec that only zarr knows."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data):
        return cls()

    def to_dict(self):
        return {"name": "flip"}

    async def _encode_single(self, chunk_bytes, chunk_spec):
        return type(chunk_bytes).from_bytes(chunk_bytes.to_bytes()[::-1])

    _decode_single = _encode_single

    def compute_encoded_size(self, input_byte_length, chunk_spec):
        return input_byte_length


class Numbered(Codec):
    """A codec that only numcodecs knows."""

    codec_id = "numbered"

    def __init__(self, number):
        self.number = number

    def encode(self, buf):
        return bytes([self.number]) + bytes(buf)

    def decode(self, buf, out=None):
        return bytes(buf)[1:]


def test_codecs_of_others_are_used():
    register_codec("flip", Flip)
    numcodecs.register_codec(Numbered)
    assert Compression([complete({"id": "flip"}, 3, 1)]).encode(b"abc") == b"cba"
    assert to_json(complete({"id": "flip"}, 3, 1), 3) == {"name": "flip"}
    numbered = complete({"id": "numbered", "number": 7}, 2, 1)
    assert to_json(numbered, 2) == {"id": "numbered", "number": 7}
    coder = Compression([numbered])
    assert coder.encode(b"a") == b"\7a"
    assert coder.decode(b"\7a") == b"a"


@pytest.mark.parametrize("location", ["start", "end"])
def test_the_index_is_that_of_zarr(location):
    options = {"shards": {"shape": (6, 6), "index_location": location}, "chunks": (2, 3), "compressors": None}
    store = MemoryStore()
    data = np.arange(36, dtype="u1").reshape(6, 6)
    zarr.create_array(store, shape=(6, 6), dtype="u1", config={"write_empty_chunks": False}, **options)[...] = data * (
        data > 11
    )
    contents = contents_of(store)
    doc = parse_array_document(json.loads(contents["zarr.json"]), "")
    index = doc.index
    assert index == ShardIndex(6, location == "end")
    chunks = index.split(contents["c/0/0"])
    assert [chunk and bytes(chunk) for chunk in chunks] == [
        data[i : i + 2, j : j + 3].tobytes() if i else None for i in (0, 2, 4) for j in (0, 3)
    ]
    contents["c/0/0"] = index.join(chunks)
    np.testing.assert_array_equal(zarr.open_array(to_memory(contents), mode="r")[...], data * (data > 11))
    assert index.split(index.join([None] * 6)) == [None] * 6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:20], "the object has 20 bytes, fewer than its index of 36"),
        (lambda data: data[:-6] + b"xxxxxx", "the checksum of the object's index does not match"),
        (lambda data: data[3:], "an inner chunk is at bytes 0 to 5, outside of 0 to 2"),
    ],
)
def test_a_damaged_object_is_reported(damage, message):
    index = ShardIndex(2, at_end=True)
    with pytest.raises(ValueError, match=message):
        index.split(damage(index.join([b"abcde", None])))


SHARDED = {
    "index codecs": (
        lambda c: c.update(index_codecs=[{"name": "bytes"}, {"name": "gzip"}]),
        "with an index of bytes, gzip",
    ),
    "index of an unknown order": (
        lambda c: c.update(index_codecs=[{"name": "bytes", "configuration": {"endian": "middle"}}, "crc32c"]),
        r"an index of bytes, crc32c \('middle'\)",
    ),
    "index elsewhere": (lambda c: c.update(index_location="middle"), "at the middle"),
    "sharding in sharding without chunks": (
        lambda c: c.update(codecs=[{"name": "sharding_indexed", "configuration": {}}]),
        "has no 'chunk_shape'",
    ),
    "codecs around sharding in sharding": (
        lambda c: c.update(
            codecs=[{"name": "sharding_indexed", "configuration": {"chunk_shape": [50], "codecs": ["bytes"]}}, "crc32c"]
        ),
        r"codecs around the sharding codec \(crc32c\)",
    ),
    "inner chunks of another rank": (lambda c: c.update(chunk_shape=[500, 1]), "chunk_shape"),
    "inner chunks": (
        lambda c: c.update(chunk_shape=[3]),
        r"inner chunks of shape \(3,\), which do not divide its chunks of shape \(1000,\)",
    ),
}


@pytest.mark.parametrize("name", SHARDED)
def test_sharding_of_other_kinds_is_refused(name):
    change, message = SHARDED[name]
    document = json.loads(contents_of(written(shards=(1000,)))["zarr.json"])
    document["codecs"][0]["configuration"]["chunk_shape"] = [500]
    change(document["codecs"][0]["configuration"])
    with pytest.raises(ChainError, match=message):
        parse_array_document(document, "a/b")


def test_codecs_around_sharding_and_other_chunk_grids_are_refused():
    document = json.loads(contents_of(written(shards=(1000,)))["zarr.json"])
    document["codecs"].append({"name": "gzip"})
    with pytest.raises(
        ChainError, match=r"codecs around the sharding codec \(gzip\): leave it out with arrays=\('\*', '!a'\)"
    ):
        parse_array_document(document, "a")
    document["chunk_grid"]["name"] = "rectilinear"
    with pytest.raises(ChainError, match="'a' has an unknown chunk grid 'rectilinear'"):
        parse_array_document(document, "a")


def test_an_array_of_an_unknown_type_is_known_as_far_as_it_can_be():
    document = json.loads(contents_of(written(GzipCodec()))["zarr.json"])
    document["data_type"] = "bfloat16"
    doc = parse_array_document(document, "a")
    info = read_info(doc, "a", {})
    assert (info.dtype, info.itemsize, raw_nbytes(doc)) == (None, 1, None)
    assert info.compressors == ({"id": "gzip", "level": 5},)
    with pytest.raises((ValueError, TypeError), match="bfloat16"):
        array_part(doc)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_results_come_in_order(threads):
    names = set()

    def work(item):
        names.add(threading.get_ident())
        time.sleep(item % 3 / 1000)
        return -item

    items = [300_000 + i for i in range(40)]
    assert list(map_in_order(work, iter(items), lambda item: item, threads)) == [-item for item in items]
    assert (names == {threading.get_ident()}) == (threads == 1)


def test_what_weighs_nothing_is_done_in_the_calling_thread():
    here, elsewhere = threading.get_ident(), set()

    def work(item):
        if threading.get_ident() != here:
            elsewhere.add(item)
        time.sleep(0.001)
        return str(item)

    items = list(range(100))
    assert list(map_in_order(work, items, lambda item: 0 if item % 3 else 1 << 20, 3)) == [*map(str, items)]
    assert elsewhere
    assert not any(item % 3 for item in elsewhere)
    assert list(map_in_order(work, items, lambda item: 100, 2)) == [*map(str, items)]
    assert list(map_in_order(work, [], lambda item: 1, 2)) == []
    elsewhere.clear()
    assert list(map_in_order(work, items, lambda item: 100, 2)) == [*map(str, items)]
    assert not elsewhere, "no thread for a few small items"


def test_the_calling_thread_works_instead_of_waiting():
    threads = []

    def work(item):
        threads.append(threading.current_thread())
        time.sleep(0.01)
        return item

    assert list(map_in_order(work, range(40), lambda item: 1 << 20, threads=2)) == list(range(40))
    assert len(set(threads)) == 2
    assert threads.count(threading.current_thread()) > 5


def test_only_a_window_is_read_ahead():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = map_in_order(lambda item: item, items(), lambda item: 10 << 20, threads=2)
    assert next(results) == 0
    assert len(taken) < 10
    results.close()


def test_an_error_comes_in_its_place_and_ends_all():
    def work(item):
        if item == 5:
            raise ValueError("five")
        return item

    results = map_in_order(work, range(1000), lambda item: 1 << 20, threads=2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shardedstore-codec")]
