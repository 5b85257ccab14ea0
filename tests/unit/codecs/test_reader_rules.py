"""Each rule of the table of readers is true for the readers that are installed here.

The other readers of the table were run on the same arrays: rasterio (GDAL) and virtualizarr from PyPI, zarrita from npm.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tensorstore
import zarr
import zarr.codecs.numcodecs as named
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

from shardedstore.codecs.readers import READERS, find_obstacles

numbers = np.linspace(0, 1, 35, dtype="f4").reshape(5, 7)
texts = np.array([f"t{i}" for i in range(35)]).reshape(5, 7)
times = np.arange(35).reshape(5, 7)
TYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]
Case = tuple[int, np.ndarray, dict[str, Any]]  # the Zarr format, the elements, and options of zarr
CASES: dict[str, Case] = {
    **{f"v3 {name}": (3, (numbers * 30).astype(name), {}) for name in TYPES},
    "v3 gzip": (3, numbers, {"compressors": GzipCodec()}),
    "v3 no compressor": (3, numbers, {"compressors": None}),
    "v3 zstd with a checksum": (3, numbers, {"compressors": ZstdCodec(checksum=True)}),
    "v3 crc32c": (3, numbers, {"compressors": [ZstdCodec(), Crc32cCodec()]}),
    "v3 transpose": (3, numbers, {"filters": [TransposeCodec(order=(1, 0))]}),
    "v3 big-endian": (3, numbers, {"serializer": BytesCodec(endian="big")}),
    "v3 keys of v2": (3, numbers, {"chunk_key_encoding": {"name": "v2", "separator": "."}}),
    "v3 keys with dots": (3, numbers, {"chunk_key_encoding": {"name": "default", "separator": "."}}),
    "v3 sharding": (3, numbers, {"shards": (4, 6)}),
    "v3 sharding, index at the start": (
        3,
        numbers,
        {
            "chunks": (4, 6),
            "serializer": ShardingCodec(chunk_shape=(2, 3), index_location="start"),
            "compressors": None,
        },
    ),
    **{
        f"v3 blosc {name}": (3, numbers, {"compressors": BloscCodec(cname=name, typesize=4, shuffle="bitshuffle")})
        for name in ("lz4", "lz4hc", "zstd", "zlib", "blosclz")
    },
    **{
        f"v3 numcodecs.{name}": (3, numbers, {"compressors": [getattr(named, kind)(**options)]})
        for name, kind, options in (
            ("zlib", "Zlib", {}),
            ("lz4", "LZ4", {}),
            ("bz2", "BZ2", {}),
            ("lzma", "LZMA", {}),
            ("zstd", "Zstd", {}),
            ("shuffle", "Shuffle", {"elementsize": 4}),
            ("crc32", "CRC32", {}),
            ("adler32", "Adler32", {}),
            ("fletcher32", "Fletcher32", {}),
        )
    },
    "v3 numcodecs.delta": (3, numbers, {"filters": [named.Delta(dtype="<f4")]}),
    "v3 numcodecs.bitround": (3, numbers, {"filters": [named.BitRound(keepbits=20)]}),
    "v3 numcodecs.packbits": (3, numbers > 0.5, {"filters": [named.PackBits()]}),
    "v3 texts": (3, texts.astype(object), {"dtype": str}),
    "v3 fixed texts": (3, texts, {}),
    "v3 fixed bytes": (3, texts.astype("S3"), {}),
    "v3 dates": (3, times.astype("M8[s]"), {}),
    "v3 durations": (3, times.astype("m8[s]"), {}),
    "v3 records": (3, np.zeros((5, 7), [("a", "i4"), ("b", "f4")]), {}),
    "v3 fill value NaN": (3, numbers, {"fill_value": np.nan}),
    **{f"v2 {name}": (2, (numbers * 30).astype(name), {}) for name in ("bool", "int64", "float16", "complex64")},
    **{
        f"v2 {codec.codec_id}": (2, numbers, {"compressors": codec})
        for codec in (
            numcodecs.Blosc("zstd", 5, 2),
            numcodecs.GZip(),
            numcodecs.Zlib(),
            numcodecs.LZ4(),
            numcodecs.BZ2(),
            numcodecs.LZMA(),
        )
    },
    **{
        f"v2 filter {codec.codec_id}": (2, numbers, {"filters": [codec], "compressors": numcodecs.Zlib()})
        for codec in (
            numcodecs.Delta("<f4"),
            numcodecs.Shuffle(4),
            numcodecs.FixedScaleOffset(0, 1, "<f4"),
            numcodecs.Quantize(3, "<f4"),
            numcodecs.Fletcher32(),
            numcodecs.BitRound(20),
        )
    },
    "v2 keys with slashes": (2, numbers, {"chunk_key_encoding": {"name": "v2", "separator": "/"}}),
    "v2 Fortran order": (2, numbers, {"order": "F"}),
    "v2 big-endian": (2, numbers.astype(">f4"), {}),
    "v2 no fill value": (2, numbers, {"fill_value": None}),
    "v2 fixed texts": (2, texts, {}),
    "v2 dates": (2, times.astype("M8[s]"), {}),
    "v2 records": (2, np.zeros((5, 7), [("a", "i4"), ("b", "f4")]), {}),
    "v2 texts": (2, texts.astype(object), {"dtype": str}),
}


def by_zarr(folder: Path) -> Any:
    return zarr.open_group(folder, mode="r")["a"][...]


def by_zarrs(folder: Path) -> Any:
    pytest.importorskip("zarrs", reason="zarrs has no wheel for this Python")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        return by_zarr(folder)


def by_tensorstore(folder: Path) -> Any:
    driver = "zarr3" if (folder / "a" / "zarr.json").exists() else "zarr"
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(folder / "a")}}
    return tensorstore.open(spec, read=True).result().read().result()


def by_netcdf(folder: Path) -> Any:
    netcdf4 = pytest.importorskip("netCDF4")
    with netcdf4.Dataset(f"file://{folder}#mode=zarr,file") as dataset:
        dataset.set_auto_maskandscale(False)
        return dataset["a"][...]


def by_gdal(folder: Path) -> Any:
    rasterio = pytest.importorskip("rasterio")
    if not rasterio.__gdal_version__.startswith("3.12."):
        pytest.skip("the table has GDAL 3.12")
    with rasterio.open(f'ZARR:"{folder}":/a') as dataset:
        found = dataset.read(1)
        return found.astype(bool) if dataset.dtypes[0] == "uint8" and found.max() <= 1 else found  # GDAL has no bool


RUNS = {
    f"zarr-python {zarr.__version__.rpartition('.')[0]}": by_zarr,
    "zarrs 0.2": by_zarrs,
    "tensorstore 0.1.86": by_tensorstore,
    "netCDF-C 4.10": by_netcdf,
    "GDAL 3.12": by_gdal,
}


@cache
def read(folder: Path, reader: str, expected: str) -> bool:
    """Tell whether a reader returns the elements."""
    try:
        found = RUNS[reader](folder)
    except Exception:  # noqa: BLE001 (each reader raises its own errors)
        return False
    return json.dumps([str(one) for one in np.asarray(found, dtype=None).ravel().tolist()]) == expected


@pytest.mark.few(30)
@pytest.mark.parametrize("reader", [reader.name for reader in READERS if reader.name in RUNS])
@pytest.mark.parametrize("case", CASES)
def test_a_reader_reads_what_the_table_says(case, reader, tmp_path):
    version, data, options = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=version)
        names = {"dimension_names": ("y", "x")} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["y", "x"]}}
        wanted = {"dtype": data.dtype, "chunks": (2, 3), **names, **options}
        if version == 2:
            wanted.setdefault("compressors", numcodecs.Zstd())
        group.create_array("a", shape=data.shape, **wanted)[...] = data
        elements = by_zarr(tmp_path / "in.zarr")
        expected = json.dumps([str(one) for one in np.asarray(elements).ravel().tolist()])
        is_read = read(tmp_path / "in.zarr", reader, expected)
    documents = {file.name: file.read_bytes() for file in (tmp_path / "in.zarr" / "a").iterdir() if file.is_file()}
    obstacles = [str(one) for one in find_obstacles(documents) if one.reader.name == reader]
    assert is_read == (not obstacles), obstacles
