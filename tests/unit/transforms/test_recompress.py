"""`Recompress`: every chunk has the bytes that zarr writes with this codec."""

import inspect
import json
import pickle
import re
import warnings

import numcodecs
import numpy as np
import pytest
import sources
import xarray as xr
import zarr
from conformance import contents_of
from numcodecs import BZ2, LZ4, LZMA, Blosc, Delta, FixedScaleOffset, GZip, PackBits, Quantize, Shuffle, Zlib, Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.codecs import numcodecs as zarr_numcodecs
from zarr.storage import LocalStore, MemoryStore

from shardedstore import ArrayStep, ChainError, CorruptError, ShardedStore, ShardsFailed
from shardedstore.codecs.array_document import parse_array_document
from shardedstore.codecs.codec_config import check_options
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.stores.entries import read_entries
from shardedstore.stores.hierarchy import walk
from shardedstore.transforms import Recompress, ToZip
from shardedstore.transforms.base.chain import parse_chain
from shardedstore.transforms.base.shard import Shard
from shardedstore.zarr.metadata import crop_document

numbers = np.arange(7 * 10).reshape(7, 10)
texts = np.array([f"text {i}" * (i % 4) for i in range(70)]).reshape(7, 10)
records = np.array([(i, i / 3) for i in range(70)], dtype=[("a", "i4"), ("b", "f8")]).reshape(7, 10)
NUMBERS = {
    "f4": numbers.astype("f4"),
    "i2": numbers.astype("i2"),
    "bool": numbers % 3 == 0,
    "complex": numbers + 1j,
    "datetime": numbers.astype("M8[s]"),
    "timedelta": numbers.astype("m8[ms]"),
    "fixed": texts,
    "bytes": texts.astype("S"),
}
V2 = {name: (data, {}) for name, data in NUMBERS.items()} | {
    "structured": (records, {}),
    "big-endian": (numbers.astype(">i4"), {}),
    "fortran": (numbers.astype("f8"), {"order": "F"}),
    "texts": (texts.astype("T"), {}),
    "delta": (numbers.astype("i8"), {"filters": [Delta("i8", astype="i2")]}),
    "offset": (numbers / 10, {"filters": [FixedScaleOffset(offset=0, scale=10, dtype="f8", astype="u1")]}),
    "bits": (numbers % 3 == 0, {"filters": [PackBits()]}),
    "quantized": (numbers / 7, {"filters": [Quantize(digits=2, dtype="f8", astype="f4")]}),
    "shuffled": (numbers.astype("i4"), {"filters": [Shuffle(4)]}),
    "two filters": (
        numbers / 10,
        {"filters": [FixedScaleOffset(offset=0, scale=10, dtype="f8", astype="i4"), Delta("i4")], "order": "F"},
    ),
}
BIG, SWAP = BytesCodec(endian="big"), TransposeCodec(order=(1, 0))
V3 = {name: (data, {}) for name, data in NUMBERS.items()} | {
    "texts": (texts.astype("T"), {}),
    "structured": (records, {}),
    "big-endian": (numbers.astype("f8"), {"serializer": BIG}),
    "transposed": (numbers.astype("f4"), {"filters": [SWAP]}),
    "both": (numbers.astype("i2"), {"filters": [SWAP], "serializer": BIG}),
    "sharded": (numbers.astype("f4"), {"shards": (4, 6)}),
    "sharded, index first": (numbers.astype("f4"), {"shards": {"shape": (4, 6), "index_location": "start"}}),
    "sharded and transposed": (numbers.astype("i8"), {"shards": (8, 12), "filters": [SWAP]}),
    "numcodecs": (numbers.astype("i8"), {"filters": [zarr_numcodecs.Delta(dtype="i8")]}),
}
BLOSC = [
    (
        Recompress("blosc", cname=cname, clevel=clevel, shuffle=shuffle),
        {"cname": cname, "clevel": clevel, "shuffle": shuffle},
    )
    for cname, clevel, shuffle in [
        ("lz4", 5, "shuffle"),
        ("zstd", 3, "bitshuffle"),
        ("lz4hc", 9, "noshuffle"),
        ("blosclz", 1, "shuffle"),
        ("zlib", 4, "bitshuffle"),
    ]
]
FILTERS_V2 = {
    "delta": (["f4", "i2", "datetime", "fortran", "big-endian"], "delta", None),
    "delta of a type": (["shuffled"], {"id": "delta", "dtype": "i4"}, [Delta("i4")]),
    "narrower": (["delta"], Delta("i8", astype="i1"), [Delta("i8", astype="i1")]),
    "shuffle": (["i2", "complex", "structured"], "shuffle", None),
    "bits": (["bool", "bits"], [PackBits()], [PackBits()]),
    "fits": (["i2"], FixedScaleOffset(-1, 1, "i2", "u1"), [FixedScaleOffset(-1, 1, "i2", "u1")]),
    "two": (["i2"], ["delta", "shuffle"], [Delta("i2"), Shuffle(2)]),
    "none": ([*NUMBERS, "texts", "structured", "delta", "offset", "bits", "two filters"], None, []),
}
SHUFFLES = ["noshuffle", "shuffle", "bitshuffle"]
TO_V2 = [
    *((step, Blosc(**{**options, "shuffle": SHUFFLES.index(options["shuffle"])})) for step, options in BLOSC),
    (Recompress("zstd", level=5), Zstd(5)),
    (Recompress("zstd", level=5, checksum=True), Zstd(5, checksum=True)),
    (Recompress("gzip", level=9), GZip(9)),
    (Recompress("zlib", level=2), Zlib(2)),
    (Recompress("lz4"), LZ4()),
    (Recompress("bz2", level=3), BZ2(3)),
    (Recompress("lzma", preset=1), LZMA(preset=1)),
    (Recompress(None), None),
]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    TO_V3 = [
        *((step, BloscCodec(**options)) for step, options in BLOSC),
        (Recompress("blosc"), BloscCodec()),
        (Recompress("zstd", level=5), ZstdCodec(level=5)),
        (Recompress(ZstdCodec(level=5, checksum=True)), ZstdCodec(level=5, checksum=True)),
        (Recompress("gzip", level=9), GzipCodec(level=9)),
        (Recompress("zlib", level=2), zarr_numcodecs.Zlib(level=2)),
        (Recompress("lz4", acceleration=1), zarr_numcodecs.LZ4(acceleration=1)),
        (Recompress("bz2", level=3), zarr_numcodecs.BZ2(level=3)),
        (Recompress("none"), None),
    ]


def shown(value):
    """A test id that is equal in every process, as reprs of zarr's codecs contain sets."""
    return repr(value) if isinstance(value, Recompress) else type(value).__name__


def write(data, compressors, zarr_format, **options):
    """Write an array with one missing chunk with zarr, and return its store."""
    store = MemoryStore()
    options = {"chunks": (2, 3), "zarr_format": zarr_format, "config": {"write_empty_chunks": False}, **options}
    if "order" in options and zarr_format == 2:
        options["config"] = {**options["config"], "order": options["order"]}
    if data.dtype.kind == "T":
        array = zarr.create_array(store, shape=data.shape, dtype=str, compressors=compressors, fill_value="", **options)
    else:
        array = zarr.create_array(store, shape=data.shape, dtype=data.dtype, compressors=compressors, **options)
    array[:4] = data[:4]
    array[6:, 6:] = data[6:, 6:]
    return store


def run(step, store, shard=None):
    """Return the keys and bytes of a step's result for a store."""
    return {entry.key: bytes(entry.data) for entry in step(read_entries(store), shard or Shard("", is_base=True))}


def checked(step, store):
    step.check(walk(store))
    return run(step, store)


def comparable(contents):
    """Comparable contents: documents as JSON, inner chunks by their place, and gzip without its time."""
    doc = json.loads(contents.get("zarr.json") or contents[".zarray"])
    parsed = parse_array_document(doc, "")
    found = {}
    for key, data in contents.items():
        if key.rpartition("/")[2] in {"zarr.json", ".zarray", ".zattrs"}:
            found[key] = json.loads(data)
            continue
        inner = [data] if parsed.index is None else parsed.index.split(data)
        found[key] = [None if chunk is None else without_time(bytes(chunk)) for chunk in inner]
    return found


def without_time(data):
    return data[:4] + bytes(4) + data[8:] if data[:3] == b"\x1f\x8b\x08" else data


def numbers_of(table, targets):
    return [pytest.param(*table[name], *target, id=f"{name}, {target[0]!r}") for name in table for target in targets]


@pytest.mark.parametrize(("data", "options", "step", "codec"), numbers_of(V2, TO_V2))
@pytest.mark.few(60)
def test_v2_chunks_are_those_of_zarr(data, options, step, codec):
    source = write(data, Blosc(cname="lz4", clevel=1), 2, **options)
    made = checked(step, source)
    assert comparable(made) == comparable(contents_of(write(data, codec, 2, **options)))
    assert len(made) < 2 + 4 * 4  # missing chunks stay missing


@pytest.mark.parametrize(("data", "options", "step", "codec"), numbers_of(V3, TO_V3))
@pytest.mark.few(60)
def test_v3_chunks_are_those_of_zarr(data, options, step, codec):
    source = write(data, [BloscCodec(cname="lz4", clevel=1)], 3, **options)
    made = checked(step, source)
    assert comparable(made) == comparable(contents_of(write(data, codec, 3, **options)))


@pytest.mark.parametrize(("step", "codec"), TO_V3, ids=shown)
@pytest.mark.parametrize("options", [{}, {"shards": (4, 6)}], ids=["plain", "sharded"])
def test_a_checksum_at_the_end_is_kept(step, codec, options):
    wanted = [*([] if codec is None else [codec]), Crc32cCodec()]
    source = write(NUMBERS["f4"], [GzipCodec(), Crc32cCodec()], 3, **options)
    made = checked(step, source)
    if step.codec == "gzip":  # its time is part of the checksum
        assert without_checksums(made) == without_checksums(contents_of(write(NUMBERS["f4"], wanted, 3, **options)))
    else:
        assert comparable(made) == comparable(contents_of(write(NUMBERS["f4"], wanted, 3, **options)))
    np.testing.assert_array_equal(
        zarr.open_array(sources.to_memory(made), mode="r")[...], zarr.open_array(source, mode="r")[...]
    )


def without_checksums(contents):
    return {
        key: [chunk and chunk[:-4] for chunk in value] if isinstance(value, list) else value
        for key, value in comparable(contents).items()
    }


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_every_source_codec_is_read(zarr_format):
    for _, codec in TO_V2 if zarr_format == 2 else TO_V3:
        made = checked(Recompress("zstd", level=1), write(NUMBERS["i2"], codec, zarr_format))
        want = write(NUMBERS["i2"], Zstd(1) if zarr_format == 2 else ZstdCodec(level=1), zarr_format)
        assert comparable(made) == comparable(contents_of(want))


def test_gzip_has_no_time():
    made = checked(Recompress("gzip"), write(NUMBERS["f4"], None, 3))
    assert {data[4:8] for key, data in made.items() if key != "zarr.json"} == {bytes(4)}


@pytest.mark.parametrize(
    ("step", "codec", "zarr_format"),
    [
        (Recompress("zstd", level=5), Zstd(5), 2),
        (Recompress("blosc", cname="lz4", shuffle="shuffle"), Blosc(cname="lz4"), 2),
        (Recompress("blosc", cname="lz4"), Blosc(cname="lz4", shuffle=-1), 2),
        (Recompress("zlib", level=1), Zlib(), 2),
        (Recompress(None), None, 2),
        (Recompress("blosc"), BloscCodec(), 3),
        (Recompress("gzip", level=4), [GzipCodec(level=4), Crc32cCodec()], 3),
        (Recompress(None), [Crc32cCodec()], 3),
    ],
    ids=shown,
)
def test_what_has_the_codec_passes_on_untouched(step, codec, zarr_format):
    contents = contents_of(write(NUMBERS["f4"], codec, zarr_format))
    name = ".zarray" if zarr_format == 2 else "zarr.json"
    contents[name] = json.dumps(json.loads(contents[name])).encode()  # neither zarr nor this package writes it
    contents = {key: data if key.startswith((".z", "zarr")) else b"not to be decoded" for key, data in contents.items()}
    assert checked(step, sources.to_memory(contents)) == contents


def test_arrays_are_selected_and_all_else_passes_on():
    contents = sources.SOURCES["others-v3"].contents()
    made = checked(
        Recompress("zstd", level=9, arrays=("wind_*", "simulation/**", "!simulation/coarse/*")),
        sources.to_memory(contents),
    )
    changed = {key for key in contents if made[key] != contents[key]}
    assert {key.partition("/c/")[0].removesuffix("/zarr.json") for key in changed} == {
        "wind_u",
        "wind_v",
        "simulation/fine/field",
    }
    assert list(made) == [entry.key for entry in read_entries(sources.to_memory(contents))]


@pytest.mark.few(4)
@pytest.mark.parametrize("name", sources.SOURCES)
@pytest.mark.parametrize("step", [Recompress("blosc", cname="zstd"), Recompress("gzip", threads=2)], ids=repr)
def test_end_to_end(name, step, tmp_path):
    source = sources.SOURCES[name]
    folder = sources.to_folder(source.contents(), tmp_path / "source.zarr")
    new = ShardedStore.partition(folder, source.shards).map_shards(step, ToZip(tmp_path / "out"))
    assert_equal(zarr.open(folder, mode="r"), zarr.open(new, mode="r"), step.codec)
    again = ShardedStore.load(tmp_path / "out" / "shardedstore.json")
    if source.for_xarray:
        consolidated = "consolidated" in name or "dataset" in name
        for group in ("simulation", "simulation/coarse") if "missing" not in name else ("",):
            if f"{group}/zarr.json" in source.contents() or f"{group}/.zgroup" in source.contents() or not group:
                options = {"group": group, "consolidated": consolidated if group != "simulation/coarse" else False}
                xr.testing.assert_identical(
                    xr.open_zarr(folder, **options).load(), xr.open_zarr(again, **options).load()
                )


def assert_equal(one, other, codec):
    if isinstance(one, zarr.Array):
        np.testing.assert_array_equal(one[...], other[...])
        assert codec in json.dumps(other.metadata.to_dict(), default=repr)
        return
    for name, member in one.members():
        assert_equal(member, other[name], codec)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_has_the_new_codec(zarr_format, tmp_path):
    source = sources.SOURCES[f"dataset-v{zarr_format}"]
    folder = sources.to_folder(source.contents(), tmp_path / "source.zarr")
    new = ShardedStore.partition(folder, source.shards).map_shards(Recompress("zstd", level=7), ToZip(tmp_path / "out"))
    group = zarr.open_group(new, mode="r", use_consolidated=True)
    arrays = [member for _, member in group.members(max_depth=None) if isinstance(member, zarr.Array)]
    assert len(arrays) > 5
    assert all("level=7" in repr(array.compressors) for array in arrays)


@pytest.mark.parametrize("step", [Recompress("blosc"), Recompress("zlib"), Recompress(None)], ids=repr)
@pytest.mark.parametrize(("zarr_format", "shards"), [(2, None), (3, None), (3, (4, 6))])
def test_metadata_commutes_with_cropping(step, zarr_format, shards):
    contents = contents_of(write(NUMBERS["f4"], "auto", zarr_format, **({"shards": shards} if shards else {})))
    name = ".zarray" if zarr_format == 2 else "zarr.json"
    documents = {key: data for key, data in contents.items() if key == name}
    cropped = {name: crop_document(documents[name], (3, 10), "", name)}
    then = crop_document(run(step, sources.to_memory(documents))[name], (3, 10), "", name)
    assert run(step, sources.to_memory(cropped))[name] == then


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_keep_the_order(threads):
    contents = sources.SOURCES["cube-v3/"].contents()
    expected = run(Recompress("bz2", threads=1), sources.to_memory(contents))
    made = run(Recompress("bz2", threads=threads), sources.to_memory(contents))
    assert list(made.items()) == list(expected.items())


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Recompress("nothing"), "Recompress('nothing') names an unknown codec: install the package that has it"),
        (Recompress("zstd", level=23), "less than or equal to 22"),
        (Recompress("blosc", cname="zip"), "is a codec that '' can't have, or has an invalid option"),
        (Recompress("blosc", clevel=10), "can't encode '' (float32) with blosc"),
        (Recompress("blosc", shuffle="twice"), "or has an invalid option"),
        (Recompress("gzip", level=10), "or has an invalid option"),
        (Recompress("zlib", level="x"), "can't encode '' (float32) with zlib"),
        (Recompress("bz2", level=10), "can't encode '' (float32) with bz2"),
        (Recompress("zstd", arrays="wind"), "Recompress names 'wind', but the source has no such array; it has ''"),
        (Recompress("zstd", arrays="[b-a]"), "Recompress names the glob '[b-a]', which is not valid"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_encoded_is_refused_before_it_runs(step, message, zarr_format):
    with pytest.raises(ChainError, match=re.escape(message)):
        step.check(walk(write(NUMBERS["f4"], None, zarr_format)))


@pytest.mark.parametrize(
    ("step", "zarr_format", "message"),
    [
        (Recompress("packbits"), 2, "can't encode '' (float32) with packbits: it changes the values"),
        (Recompress("packbits"), 3, "numcodecs.packbits is not a bytes-to-bytes codec"),
        (Recompress("delta", dtype="i2"), 3, "numcodecs.delta is not a bytes-to-bytes codec"),
        (Recompress("pickle"), 3, "is a codec that"),
        (Recompress("quantize", digits=1, dtype="f4"), 2, "can't encode '' (float32) with quantize: "),
        (Recompress("vlen-utf8"), 2, "can't encode '' (float32) with vlen-utf8: "),
    ],
)
def test_codecs_that_are_no_compressors_are_refused(step, zarr_format, message):
    with pytest.raises(ChainError, match=re.escape(message)):
        step.check(walk(write(NUMBERS["f4"], None, zarr_format)))


def test_chunks_that_are_too_large_for_a_codec_are_refused():
    store = MemoryStore()
    zarr.create_array(store, shape=(2**32,), chunks=(2**31,), dtype="u1", compressors=None)
    Recompress("zstd").check(walk(store))
    with pytest.raises(ChainError, match="chunks have 2147483648 bytes, and blosc accepts at most 2147483631"):
        Recompress("blosc").check(walk(store))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codec": "zstd", "levle": 3}, "zstd has no option 'levle'; its options are: level, checksum"),
        ({"codec": "zlib", "depth": 3}, "zlib has no option 'depth'; its options are: level"),
        (
            {"codec": {"id": "blosc", "level": 3}},
            "blosc has no option 'level'; its options are: cname, clevel, shuffle",
        ),
        ({"filters": {"id": "delta", "type": "i2"}}, "delta has no option 'type'; its options are: dtype, astype"),
        ({"codec": "packbits", "level": 1}, "packbits has no option 'level'; its options are: none"),
    ],
)
def test_an_option_that_a_codec_does_not_have_is_named(arguments, message):
    with pytest.raises(ChainError, match=re.escape(message)):
        Recompress(**arguments)


@pytest.mark.parametrize("name", sorted(numcodecs.registry.codec_registry))
def test_the_options_that_a_codec_shows_are_known(name):
    codec = numcodecs.registry.codec_registry[name]
    arguments = {"dtype": "f8", "astype": "f4", "encode_dtype": "f8", "decode_dtype": "f4", "digits": 1, "keepbits": 3}
    arguments |= {"offset": 0, "scale": 1, "labels": ["a"], "prefix": None}
    arguments |= {"dtype": "U3", "astype": "u1"} if name == "categorize" else {}
    wanted = inspect.signature(codec).parameters
    check_options(codec(**{key: value for key, value in arguments.items() if key in wanted}).get_config())


def test_what_is_no_codec_is_refused():
    with pytest.raises(ChainError, match="5 is not a codec: give an id"):
        Recompress(5)
    with pytest.raises(ChainError, match=re.escape("Recompress(None) takes no options, but was given level")):
        Recompress(None, level=5)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shards", [None, (4, 6)], ids=["plain", "sharded"])
def test_a_corrupt_chunk_fails_its_shard_alone(zarr_format, shards, tmp_path):
    if zarr_format == 2 and shards:
        pytest.skip("Zarr v2 has no sharding codec")
    store = LocalStore(tmp_path / "source.zarr")
    group = zarr.create_group(store, zarr_format=zarr_format)
    codec, codec_object = ("blosc", Blosc()) if zarr_format == 2 else ("zstd", ZstdCodec())
    options = {"compressors": codec_object, **({"shards": shards} if shards else {})}
    group.create_array("a", data=NUMBERS["f4"] + 1, chunks=(2, 3), **options)
    key = "1.0" if zarr_format == 2 else "c/1/0"
    path = tmp_path / "source.zarr" / "a" / key
    damaged = bytearray(path.read_bytes())
    damaged[:12] = b"damaged data"
    path.write_bytes(damaged)
    partition = ShardedStore.partition(tmp_path / "source.zarr", {"a": (4, -1)})
    with pytest.raises(ShardsFailed) as failed:
        partition.map_shards(Recompress("gzip"), ToZip(tmp_path / "out"))
    (error,) = failed.value.exceptions
    shard = "a[1]" if shards else "a[0]"
    assert error.shard == shard
    assert error.cause.startswith(f"CorruptError: shard {shard!r}: 'a/{key}' can't be decoded with {codec}: ")
    assert len(list((tmp_path / "out" / "a").iterdir())) == 1


def test_a_damaged_index_of_the_sharding_codec_is_reported():
    contents = contents_of(write(NUMBERS["f4"], "auto", 3, shards=(4, 6)))
    contents["c/0/0"] = contents["c/0/0"][:-1] + b"x"
    with pytest.raises(CorruptError, match=r"'c/0/0' can't be decoded with sharding_indexed: ValueError: the checksum"):
        run(Recompress("gzip"), sources.to_memory(contents))


def test_a_chunk_of_another_size_is_reported():
    contents = contents_of(write(NUMBERS["f4"], None, 2))
    contents["0.0"] = contents["0.0"][:-4]
    with pytest.raises(
        CorruptError, match="decoded with no compressor: ValueError: it holds 20 bytes, but a chunk has 24"
    ):
        run(Recompress("gzip"), sources.to_memory(contents))


@pytest.mark.parametrize("order", ["first", "last"])
def test_documents_of_which_the_codecs_are_not_known_are_refused_by_name(order):
    contents = contents_of(write(NUMBERS["f4"], "auto", 3))
    document = json.loads(contents["zarr.json"])
    document["codecs"][0 if order == "first" else 1] = {"name": "secret"}
    contents["zarr.json"] = json.dumps(document).encode()
    with pytest.raises(ChainError, match="secret"):
        Recompress("gzip").check(walk(sources.to_memory(contents)))


def test_an_unknown_array_codec_does_not_matter():
    contents = contents_of(write(NUMBERS["f4"], ZstdCodec(level=1), 3))
    document = json.loads(contents["zarr.json"])
    document["codecs"].insert(0, {"name": "secret"})
    contents["zarr.json"] = json.dumps(document).encode()
    made = checked(Recompress("gzip", level=1), sources.to_memory(contents))
    assert [codec["name"] for codec in json.loads(made["zarr.json"])["codecs"]] == ["secret", "bytes", "gzip"]
    assert numcodecs.GZip().decode(made["c/0/0"]) == Zstd().decode(contents["c/0/0"])


@pytest.mark.parametrize("field", ["chunk_key_encoding", "chunk_grid"])
def test_chunks_that_are_not_known_as_such_are_refused(field):
    contents = contents_of(write(NUMBERS["f4"], "auto", 3))
    document = json.loads(contents["zarr.json"])
    document[field]["name"] = "fanout"
    contents["zarr.json"] = json.dumps(document).encode()
    with pytest.raises(ChainError, match=r"known.*: leave the step out, because there is no other array"):
        Recompress("gzip").check(walk(sources.to_memory(contents)))
    assert run(Recompress("gzip", arrays="!"), sources.to_memory(contents)) == contents


def test_options_that_json_can_not_hold_are_refused():
    with pytest.raises(ChainError, match="options that metadata can't hold: Object of type int64"):
        Recompress("zstd", level=np.int64(5))


def test_the_size_of_the_elements_is_no_option_in_v2():
    made = checked(Recompress("blosc", typesize=2), write(NUMBERS["f4"], None, 2))
    assert comparable(made) == comparable(contents_of(write(NUMBERS["f4"], Blosc("zstd"), 2)))


def v2_filters(data, asked, filters):
    if filters is not None:
        return filters
    dtype = data.dtype
    if dtype.kind == "M":
        return [Delta("<i8")]
    return [Delta(dtype.str)] if asked == "delta" else [Shuffle(dtype.itemsize)]


@pytest.mark.parametrize(
    ("name", "asked", "filters"),
    [pytest.param(n, a, f, id=f"{kind} of {n}") for kind, (names, a, f) in FILTERS_V2.items() for n in names],
)
@pytest.mark.parametrize(
    ("codec", "options", "expected"),
    [(..., {}, Blosc(cname="lz4", clevel=1)), ("blosc", {"cname": "zstd"}, Blosc("zstd")), ("zlib", {}, Zlib())],
    ids=["kept", "blosc", "zlib"],
)
@pytest.mark.few(30)
def test_v2_filters_are_those_of_zarr(name, asked, filters, codec, options, expected):
    data, old = V2[name]
    source = write(data, Blosc(cname="lz4", clevel=1, shuffle=1), 2, **old)
    if name == "offset":
        data = zarr.open_array(source, mode="r")[...]  # the filter's output
    filters = v2_filters(data, asked, filters)
    made = checked(Recompress(codec, filters=asked, **options), source)
    new = write(
        data,
        Blosc("zstd", shuffle=-1) if codec == "blosc" else expected,
        2,
        **{**old, "filters": "auto" if name == "texts" else filters},
    )
    expected = comparable(contents_of(new))
    if name == "texts":
        assert expected[".zarray"]["filters"] == [{"id": "vlen-utf8"}]
    got = comparable(made)
    for document in got[".zarray"], expected[".zarray"]:
        document["compressor"].pop("shuffle", None)
    assert got == expected
    np.testing.assert_array_equal(*(zarr.open_array(s, mode="r")[...] for s in (sources.to_memory(made), new)))


DELTA = zarr_numcodecs.Delta
V3_FILTERS = [
    ("f4", {"id": "transpose", "order": (1, 0)}, [SWAP], {}),
    ("transposed", None, [], {}),
    ("both", TransposeCodec(order=(1, 0)), [SWAP], {"serializer": BIG}),
    ("both", (), [], {"serializer": BIG}),
    ("i2", "delta", [DELTA(dtype="<i2", astype="<i2")], {}),
    ("i2", [SWAP, Delta("i2", astype="i4")], [SWAP, DELTA(dtype="<i2", astype="<i4")], {}),
    ("sharded and transposed", "delta", [DELTA(dtype="<i8", astype="<i8")], {"shards": (8, 12)}),
    ("sharded", SWAP, [SWAP], {"shards": (4, 6)}),
    ("numcodecs", SWAP, [SWAP], {}),
    ("texts", SWAP, [SWAP], {}),
    ("texts", None, [], {}),
    ("structured", SWAP, [SWAP], {}),
    ("bool", zarr_numcodecs.PackBits(), None, {}),
]


def is_kept_by_zarr(data, filters):
    """Tell whether zarr can read it: zarr 3.1 can't if a filter or serializer flattens the output of transpose."""
    got = zarr.open_array(write(data, None, 3, filters=filters), mode="r")[:4]
    return np.array_equal(got, data[:4])


@pytest.mark.few(12)
@pytest.mark.parametrize(("name", "asked", "filters", "options"), V3_FILTERS)
@pytest.mark.parametrize("codec", [..., "gzip", "blosc"], ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_v3_filters_are_those_of_zarr(name, asked, filters, options, codec):
    data, old = V3[name]
    source = write(data, ZstdCodec(level=1), 3, **old)
    made = checked(Recompress(codec, filters=asked), source)
    np.testing.assert_array_equal(
        zarr.open_array(sources.to_memory(made), mode="r")[...], zarr.open_array(source, mode="r")[...]
    )
    if filters is None or not is_kept_by_zarr(
        data, filters
    ):  # zarr's own packbits does not work before its bytes codec
        return
    types = [np.dtype(codec.codec_config["astype"]) for codec in filters if isinstance(codec, DELTA)]
    size = (types[-1] if types else data.dtype).itemsize
    size = 1 if data.dtype.kind == "T" else size
    shuffle = "bitshuffle" if size == 1 else "shuffle"
    codec = {"gzip": GzipCodec(), "blosc": BloscCodec(typesize=size, shuffle=shuffle)}.get(codec, ZstdCodec(level=1))
    new = write(data, codec, 3, filters=filters, **options)
    assert comparable(made) == comparable(contents_of(new))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_zarr_could_not_read_is_refused():
    store = write(numbers.astype("u1"), None, 3)
    step = Recompress(filters=Delta("u1", astype="i2"))  # zarr 3.1 loses the byte order of the filter's output
    if zarr.__version__ < "3.2":
        with pytest.raises(ChainError, match=r"can't encode '' \(uint8\) with delta: ValueError: .*endian"):
            step.check(walk(store))
    else:
        made = checked(step, store)
        np.testing.assert_array_equal(zarr.open_array(sources.to_memory(made), mode="r")[:4], numbers[:4])


@pytest.mark.parametrize(
    ("data", "zarr_format", "old", "filters"),
    [
        (NUMBERS["i2"], 2, {"filters": [Delta("i2")]}, "delta"),
        (NUMBERS["i2"], 2, {"filters": [Delta("i2")]}, {"id": "delta", "dtype": "<i2"}),
        (NUMBERS["i2"], 2, {}, None),
        (texts.astype("T"), 2, {}, None),
        (NUMBERS["f4"], 2, {"filters": [Quantize(2, "f4")]}, Quantize(2, "f4")),
        (NUMBERS["f4"], 3, {"filters": [SWAP]}, {"name": "transpose", "configuration": {"order": [1, 0]}}),
        (NUMBERS["i2"], 3, {"filters": [DELTA(dtype="i2")], "shards": (4, 6)}, "delta"),
        (NUMBERS["i2"], 3, {"shards": (4, 6)}, []),
    ],
)
def test_what_has_the_filters_passes_on_untouched(data, zarr_format, old, filters):
    contents = contents_of(write(data, GzipCodec() if zarr_format == 3 else GZip(), zarr_format, **old))
    contents = {key: data if key.startswith((".z", "zarr")) else b"not to be decoded" for key, data in contents.items()}
    for step in Recompress(filters=filters), Recompress("gzip", filters=filters, level=5 if zarr_format == 3 else 1):
        assert checked(step, sources.to_memory(contents)) == contents


@pytest.mark.parametrize(
    ("zarr_format", "filters", "message"),
    [
        (
            2,
            {"id": "bitround", "keepbits": 3},
            "would change the values of '', as bitround is lossy: use MapChunks",
        ),
        (
            3,
            {"id": "bitround", "keepbits": 3},
            "would change the values of '', as bitround is lossy: use MapChunks",
        ),
        (2, ["shuffle", Quantize(1, "f4")], "as quantize is lossy: use MapChunks"),
        (2, "transpose", "names a filter that '' (float32) can't have"),
        (2, {"id": "transpose", "order": [1, 0]}, "names a filter that '' (float32) can't have"),
        (3, "shuffle", "numcodecs.shuffle is not an array-to-array codec, as filters of Zarr v3 must be"),
        (
            3,
            {"id": "transpose", "order": [2, 0, 1]},
            "transpose has the order [2, 0, 1], but the array has 2 dimensions",
        ),
        (3, {"id": "transpose", "order": [0]}, "transpose has the order [0], but the array has 2 dimensions"),
        (3, "secret", "names a filter that '' (float32) can't have"),
        (2, "secret", "names a filter that '' (float32) can't have"),
        (2, {"id": "delta", "dtype": "nothing"}, "names a filter that '' (float32) can't have"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_filters_that_make_no_sense_are_refused_before_it_runs(zarr_format, filters, message):
    with pytest.raises(ChainError, match=re.escape(message)):
        Recompress(filters=filters).check(walk(write(NUMBERS["f4"], None, zarr_format)))


@pytest.mark.parametrize(
    ("data", "zarr_format", "filters"),
    [
        (numbers / 7, 2, FixedScaleOffset(0, 10, "f8", "i4")),
        (numbers / 7, 3, zarr_numcodecs.FixedScaleOffset(offset=0, scale=10, dtype="f8", astype="i4")),
        (np.where(numbers == 21, np.nan, numbers), 2, FixedScaleOffset(0, 1, "f8", "i4")),
        (np.where(numbers == 21, -0.0, numbers), 2, FixedScaleOffset(0, 1, "f8", "i4")),
        (np.where(numbers == 21, 0.1, 1e15), 2, "delta"),
        (numbers.astype("f4"), 2, "packbits"),
        (np.where(numbers == 21, 300, numbers), 2, {"id": "astype", "encode_dtype": "u1", "decode_dtype": "i8"}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_chunk_that_filters_would_change_fails_its_shard(data, zarr_format, filters, tmp_path):
    folder = tmp_path / "source.zarr"
    zarr.create_group(folder, zarr_format=zarr_format).create_array("a", data=data[:6], chunks=(2, 10))
    with pytest.raises(ShardsFailed) as failed:
        ShardedStore.partition(folder, {"a": (2, -1)}).map_shards(Recompress(filters=filters), ToZip(tmp_path / "out"))
    error = next(error for error in failed.value.exceptions if error.shard == "a[1]")
    assert "its filters do not keep the values of this chunk: to change values, use MapChunks" in error.cause
    assert "Recompress fails on" in error.cause
    assert "at (2, 0)" in error.cause


def test_filters_end_to_end(tmp_path):
    folder = sources.to_folder(sources.SOURCES["dataset-v2"].contents(), tmp_path / "source.zarr")
    step = Recompress("zstd", filters="shuffle", level=3, arrays=("fine/*", "!**/label", "!**/crs"))
    new = ShardedStore.partition(folder, sources.SOURCES["dataset-v2"].shards).map_shards(step, ToZip(tmp_path / "out"))
    xr.testing.assert_identical(
        xr.open_zarr(folder, group="fine").load(), xr.open_zarr(new, group="fine", consolidated=True).load()
    )
    assert zarr.open_array(new, path="fine/temperature", mode="r").filters == (Shuffle(4),)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_metadata_of_filters_commutes_with_cropping(zarr_format):
    step = Recompress("blosc", filters="delta")
    contents = contents_of(write(NUMBERS["i2"], "auto", zarr_format))
    name = ".zarray" if zarr_format == 2 else "zarr.json"
    cropped = {name: crop_document(contents[name], (3, 10), "", name)}
    then = crop_document(run(step, sources.to_memory({name: contents[name]}))[name], (3, 10), "", name)
    assert run(step, sources.to_memory(cropped))[name] == then


def test_nothing_to_do_is_refused():
    with pytest.raises(ChainError, match="neither a codec nor filters="):
        Recompress()
    with pytest.raises(ChainError, match="Recompress without a codec takes no options, but was given level"):
        Recompress(filters="delta", level=5)


def test_blosc_gives_equal_bytes_in_the_main_thread():
    data = np.random.default_rng(0).integers(0, 9, (4, 1 << 20)).astype("i4")
    store = write(data, None, 3, chunks=(1, 1 << 20))
    one, two = (run(Recompress("blosc", threads=1), store) for _ in range(2))
    assert one == two
    assert comparable(one) == comparable(contents_of(write(data, BloscCodec(), 3, chunks=(1, 1 << 20))))


FILTERED = [
    Recompress("zstd", level=5, filters=["delta", {"id": "shuffle", "elementsize": 4}]),
    Recompress(filters={"id": "transpose", "order": [1, 0]}, arrays="a"),
    Recompress(LZMA(preset=1), filters=None),
    Recompress({"id": "lzma", "filters": [{"id": 33}]}),
]
CODECS = [
    Recompress("zstd", level=5),
    Recompress({"id": "zstd", "level": 5}),
    Recompress({"name": "zstd", "configuration": {"level": 5}}),
]


@pytest.mark.parametrize(
    "step", [*(step for step, _ in TO_V2), *CODECS, *FILTERED[:3], Recompress(Zlib(3), arrays=["a", "b"])], ids=repr
)
def test_it_is_a_value(step):
    assert pickle.loads(pickle.dumps(step)) == step
    assert eval(repr(step)) == step
    assert hash(eval(repr(step))) == hash(step)
    assert isinstance(step, ArrayStep)
    again = parse_chain([pickle.loads(pickle.dumps(step)), ToZip("x")])
    assert fingerprint(again) == fingerprint(parse_chain([step, ToZip("y")])) is not None


def test_ways_to_name_a_codec_are_equal():
    assert len(set(CODECS)) == 1
    assert Recompress(Zstd(5)) == Recompress("zstd", level=5, checksum=False)
    assert Recompress(BloscCodec(cname="lz4")) == Recompress("blosc", cname="lz4", clevel=5, blocksize=0)


def test_threads_are_no_part_of_the_fingerprint():
    one, two = (parse_chain([Recompress("zstd", threads=n), ToZip("x")]) for n in (1, 2))
    assert fingerprint(one) == fingerprint(two)
    assert Recompress("zstd", threads=1) == Recompress("zstd", threads=2)
