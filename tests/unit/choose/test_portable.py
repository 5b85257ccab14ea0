"""`portable=True` and `--portable`: results that all readers of the table read, and the table in the plan."""

import json
import re
import warnings

import dask
import numcodecs
import numpy as np
import pytest
import tensorstore
import zarr
import zarr.codecs.numcodecs as named
from click.testing import CliRunner

from shardedstore import ChainError, ShardedStore
from shardedstore.cli import main
from shardedstore.codecs.readers import READERS
from shardedstore.transforms import CopyTo, MakePortable, MigrateV3, Recompress, ToShardingCodec, ToZip

numbers = np.linspace(0, 1, 35, dtype="f4").reshape(5, 7)


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="sync"):
        yield


def write(folder, data=numbers, version=3, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(folder, mode="w", zarr_format=version)
        names = {"dimension_names": ("y", "x")} if version == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["y", "x"]}}
        group.create_array("a", shape=data.shape, dtype=data.dtype, chunks=(2, 3), **names, **options)[...] = data
    return ShardedStore.partition(folder)


V3 = {
    "zlib": ({"compressors": [named.Zlib(level=7)]}, "gzip(7)"),
    "lz4": ({"compressors": [named.LZ4()]}, "zstd(5)"),
    "bz2": ({"compressors": [named.BZ2()]}, "zstd(5)"),
    "shuffle, zlib": (
        {"compressors": [named.Shuffle(elementsize=4), named.Zlib(level=2)]},
        "blosc(zlib, 2, shuffle)",
    ),
    "checksum": ({"compressors": [named.CRC32()]}, "none"),
    "delta": ({"filters": [named.Delta(dtype="<f4")]}, "zstd(0)"),
    "lossy": ({"filters": [named.BitRound(keepbits=9)]}, "zstd(0)"),
    "sharded": ({"compressors": [named.Zlib()], "shards": (4, 6)}, "sharding(gzip(1))"),
    "portable": ({"compressors": zarr.codecs.GzipCodec(level=3)}, "gzip(3)"),
}
V2 = {
    "gzip": ({"compressors": numcodecs.GZip(4)}, "zlib(4)"),
    "lz4": ({"compressors": numcodecs.LZ4()}, "zstd(5)"),
    "shuffle": ({"filters": [numcodecs.Shuffle(4)], "compressors": numcodecs.Zlib(6)}, "blosc(zlib, 6, shuffle)"),
    "packed": ({"filters": [numcodecs.Delta("<f4")], "compressors": numcodecs.Zstd(3)}, "zstd(3)"),
}
CASES = [(3, name) for name in V3] + [(2, name) for name in V2]


@pytest.mark.parametrize(("version", "name"), CASES)
def test_codecs_are_replaced_and_values_stay(version, name, tmp_path):
    options, codecs = (V3 if version == 3 else V2)[name]
    source = write(tmp_path / "in.zarr", version=version, **options)
    plan = source.plan(CopyTo(tmp_path / "out.zarr"), portable=True)
    assert plan.estimate().arrays[0].codecs_after == codecs
    assert plan.run().verify(source).ok
    spec = {
        "driver": f"zarr{3 if version == 3 else ''}",
        "kvstore": {"driver": "file", "path": f"{tmp_path}/out.zarr/a"},
    }
    found = tensorstore.open(spec, read=True).result().read().result()
    assert np.array_equal(found, zarr.open_group(tmp_path / "in.zarr", mode="r")["a"][...])


def test_a_portable_array_keeps_its_bytes(tmp_path):
    source = write(tmp_path / "in.zarr")
    source.map_shards(CopyTo(tmp_path / "out.zarr"), portable=True)
    for name in ("zarr.json", "c/0/0", "c/2/2"):
        assert (tmp_path / "out.zarr" / "a" / name).read_bytes() == (tmp_path / "in.zarr" / "a" / name).read_bytes()


def test_a_migration_gets_portable_options(tmp_path):
    source = write(tmp_path / "in.zarr", version=2, filters=[numcodecs.Shuffle(4)], compressors=numcodecs.Zlib())
    plan = source.plan(MigrateV3(), CopyTo(tmp_path / "out.zarr"), portable=True)
    plan.run()
    document = json.loads((tmp_path / "out.zarr" / "a" / "zarr.json").read_text())
    assert document["chunk_key_encoding"]["name"] == "default"
    assert [codec["name"] for codec in document["codecs"]] == ["bytes", "blosc"]
    assert plan.notices == ()


def test_a_codec_of_the_chain_is_replaced_too(tmp_path):
    source = write(tmp_path / "in.zarr")
    plan = source.plan(Recompress("lz4"), ToShardingCodec(tmp_path / "out.zarr"), portable=True)
    assert plan.chain == "Recompress, MakePortable, ToShardingCodec"
    assert "zstd" in plan.estimate().arrays[0].codecs_after


REFUSED = {
    "dates": (
        {"data": np.arange(35).reshape(5, 7).astype("M8[s]")},
        (),
        "types numpy.datetime64, which tensorstore 0.1.86, zarrs 0.2, zarrita.js 0.7, GDAL 3.12 can't read: convert it to numbers",
    ),
    "keys": (
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        (),
        "named by the encoding v2, which VirtualiZarr 2.8 can't read: make it again from Zarr v2 with MigrateV3(chunk_keys",
    ),
    "order": ({"version": 2, "order": "F"}, (), "the order F, which netCDF-C 4.10 can't read: convert it to Zarr v3"),
    "records": ({"data": np.zeros((5, 7), [("b", "i4")]), "version": 2}, (), "elements of the types struct"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_features_are_refused(name, tmp_path):
    options, chain, says = REFUSED[name]
    source = write(tmp_path / "in.zarr", **options)
    with pytest.raises(ChainError, match=re.escape(says)):
        source.plan(*chain, CopyTo(tmp_path / "out.zarr"), portable=True)
    assert not (tmp_path / "out.zarr").exists()


def test_functions_of_stores_are_refused(tmp_path):
    with pytest.raises(ChainError, match="portable=True needs a chain of steps and a sink"):
        write(tmp_path / "in.zarr").plan(lambda store, path, dims: store, portable=True)


def test_fortran_order_becomes_portable_in_v3(tmp_path):
    source = write(tmp_path / "in.zarr", version=2, order="F")
    assert source.map_shards(MigrateV3(), CopyTo(tmp_path / "out.zarr"), portable=True).verify(source).ok


def test_the_plan_shows_the_readers(tmp_path):
    source = write(tmp_path / "in.zarr", compressors=[named.Zlib()])
    estimate = source.plan(ToZip(tmp_path / "zips")).estimate()
    text = " ".join(str(estimate).split())
    assert "readers references (export), or zip by zip: zarr-python 3.1," in text
    assert "tensorstore 0.1.86: 0 of 1 array; not the codecs numcodecs.zlib (/a)" in text
    html = estimate._repr_html_()
    assert html.count("numcodecs.zlib") >= 3
    told = json.loads(json.dumps(estimate.to_dict()))["portability"]
    assert told["arrays"]["a"]["GDAL 3.12"] == ["the codecs numcodecs.zlib"]
    assert told["arrays"]["a"]["zarr-python 3.4"] == []
    assert told["readers"].keys() == {reader.name for reader in READERS}
    assert told["by_references"] is True


def test_misread_arrays_are_marked(tmp_path):
    source = write(tmp_path / "in.zarr", chunk_key_encoding={"name": "v2", "separator": "/"})
    estimate = source.plan(CopyTo(tmp_path / "out.zarr")).estimate()
    assert "not (misread) chunks that are named by the encoding v2 (/a)" in " ".join(str(estimate).split())
    assert "misreads" in estimate._repr_html_()


def test_many_arrays_are_reported_in_few_lines(tmp_path):
    group = zarr.open_group(tmp_path / "in.zarr", mode="w")
    for number in range(30):
        group.create_array(f"a{number:02}", shape=(4,), chunks=(2,), dtype="M8[s]" if number else "i4")
    text = str(ShardedStore.partition(tmp_path / "in.zarr").plan(CopyTo(tmp_path / "out.zarr")).estimate(sample=None))
    assert (
        "tensorstore 0.1.86: 1 of 30 arrays; not elements of the types numpy.datetime64 (/a01 and 28 more)"
        in " ".join(text.split())
    )


def test_command_line(tmp_path):
    write(tmp_path / "in.zarr", compressors=[named.Zlib()])
    arguments = [str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), "--to", "zarr", "--portable"]
    shown = CliRunner().invoke(main, ["plan", *arguments, "--json"])
    assert json.loads(shown.stdout)["arrays"][0]["codecs_after"] == "gzip(1)"
    printed = CliRunner().invoke(main, ["convert", *arguments, "--print-job"])
    assert "portable = true" in printed.stdout
    write(tmp_path / "in.zarr", data=np.arange(35).reshape(5, 7).astype("M8[s]"))
    refused = CliRunner().invoke(main, ["plan", *arguments])
    assert refused.exit_code == 2
    assert "which tensorstore 0.1.86" in refused.stderr


def test_some_arrays_only(tmp_path):
    source = write(tmp_path / "in.zarr", compressors=[named.Zlib()])
    plan = source.plan(MakePortable(arrays="a"), CopyTo(tmp_path / "out.zarr"))
    assert plan.estimate().arrays[0].codecs_after == "gzip(1)"
    with pytest.raises(ChainError, match="'b'"):
        source.plan(MakePortable(arrays="b"), CopyTo(tmp_path / "out.zarr"))
