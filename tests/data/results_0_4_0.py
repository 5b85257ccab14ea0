"""Generator of results-0.4.0.tar.gz for test_results_of_0_4_0.py, by shardedstore 0.4.0.

In an environment of shardedstore 0.4.0 and zarr 3.1, run in an empty folder::

    python results_0_4_0.py && tar czf results-0.4.0.tar.gz --exclude='*.tar.gz' --exclude='*.py' *

`sources` holds the sources, `results` the correct results, and `wrong` results that 0.4.0 wrote wrongly. Configs and
manifests hold absolute paths, which the archive has as ``@HERE@``. The chains are those of CHAINS in the test.
"""

import json
import socket
from pathlib import Path

import dask
import numcodecs
import numpy as np
import zarr

from shardedstore import ShardedStore, ShardsFailed
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToShardingCodec, ToZip

HERE = Path.cwd()
socket.gethostname = lambda: "host"  # records name the worker
SHARDS = {"temperature": {"time": 4}, "simulation/*": "whole"}
GROWS = {"temperature": (4, -1)}


def numbers(shape, dtype="<i4"):
    return (np.arange(np.prod(shape)) % 1009 + 1).reshape(shape).astype(dtype)


def dimensions(zarr_format, *names):
    if zarr_format == 2:
        return {"attributes": {"_ARRAY_DIMENSIONS": list(names)}}
    return {"dimension_names": names}


def cube(name, zarr_format, *, consolidated=True, length=10):
    """A hierarchy with a divided array, a group that is one shard, and missing chunks."""
    root = zarr.create_group(f"sources/{name}", zarr_format=zarr_format, attributes={"title": "a cube"})
    options = {"shape": (length, 6), "chunks": (2, 3), "dtype": "<f4", "fill_value": -1}
    root.create_array("temperature", **options, **dimensions(zarr_format, "time", "x"))[...] = numbers((length, 6))
    root.create_array("time", data=numbers((length,)), chunks=(5,), **dimensions(zarr_format, "time"))
    root.create_array("simulation/coarse/a", data=numbers((3, 4)), chunks=(2, 2))
    root.create_array("simulation/fine", shape=(4,), chunks=(2,), dtype="<i2", fill_value=7)[:2] = 5
    Path(f"sources/{name}/notes.txt").write_text("carried as it is")
    if consolidated:
        zarr.consolidate_metadata(f"sources/{name}")


def convert(source, *chain, shards=SHARDS, **options):
    return ShardedStore.partition(f"sources/{source}", shards).map_shards(*chain, **options)


def right():
    for zarr_format in (2, 3):
        cube(f"cube-v{zarr_format}", zarr_format)
        source = f"cube-v{zarr_format}"
        convert(source, ToZip(f"results/zips-v{zarr_format}"))
        convert(source, CopyTo(f"results/folders-v{zarr_format}", layout="shards"))
        convert(source, Recompress("zstd", level=1), CopyTo(f"results/copy-v{zarr_format}"))
    convert("cube-v3", ToShardingCodec("results/sharding-v3"), shards=SHARDS)
    convert("cube-v2", MigrateV3(), ToZip("results/migrated-v2"))
    convert("cube-v3", ToZip("results/listing-v3"), changed="listing", digest=True)

    for i in range(5):
        group = zarr.create_group(f"sources/cells/c{i}.zarr", zarr_format=3)
        group.create_array("x", data=numbers((4,)) + i, chunks=(2,))
    ShardedStore.collect("sources/cells/*.zarr").map_shards(ToZip("results/cells", per_zip=2))

    odd = zarr.create_group("sources/odd", zarr_format=3)
    for name in ("perc%20x", "a b", "q?x", "h#x", "plus+", "é"):
        odd.create_array(name, data=numbers((8,)), chunks=(2,))
    convert("odd", ToZip("results/odd"), shards={"*": (4,)})

    cube("grown-v2", 2, consolidated=False)
    convert("grown-v2", ToZip("results/grown-v2"), shards=GROWS)
    array = zarr.open_array("sources/grown-v2/temperature", mode="r+")
    array.resize((14, 6))
    array[10:] = numbers((4, 6))
    convert("grown-v2", ToZip("results/grown-v2"), shards=GROWS)

    cube("unfinished-v3", 3, consolidated=False)
    damaged = Path("sources/unfinished-v3/temperature/c/3/1")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:5])
    try:
        convert("unfinished-v3", Recompress("zstd", level=1), ToZip("results/unfinished-v3"))
    except ShardsFailed:
        damaged.write_bytes(whole)
    else:
        raise AssertionError("the damaged chunk was not found")


def wrong():
    from zarr.metadata.migrate_v3 import migrate_v2_to_v3

    root = zarr.create_group("sources/two-documents", zarr_format=2)
    root.create_array("y", data=numbers((8,)), chunks=(2,))
    migrate_v2_to_v3(input_store=zarr.storage.LocalStore("sources/two-documents"))
    store = ShardedStore.partition("sources/two-documents", {"y": (4,)})
    store.map_shards(ToShardingCodec("wrong/two-documents"))

    root = zarr.create_group("sources/nested", zarr_format=2)
    blosc = numcodecs.Blosc()
    options = {"dtype": "<i4", "compressors": blosc, "chunk_key_encoding": {"name": "v2", "separator": "/"}}
    root.create_array("raw", shape=(8, 8), chunks=(2, 2), **options)[...] = numbers((8, 8))
    document = Path("sources/nested/raw/.zarray")
    fields = json.loads(document.read_text())
    del fields["dimension_separator"]
    document.write_text(json.dumps(fields))
    ShardedStore.partition("sources/nested").map_shards(Recompress("zstd"), CopyTo("wrong/nested"))

    root = zarr.create_group("sources/texts", zarr_format=2)
    folder = Path("sources/texts/t")
    folder.mkdir()
    filters = [{"id": "vlen-utf8"}]
    fields = {"zarr_format": 2, "shape": [6], "chunks": [2], "dtype": "|O", "fill_value": 0, "order": "C"}
    (folder / ".zarray").write_text(json.dumps({**fields, "compressor": None, "filters": filters}))
    (folder / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["x"]}))
    (folder / "0").write_bytes(bytes(numcodecs.VLenUTF8().encode(np.array(["a", "b"], object))))
    ShardedStore.partition("sources/texts").map_shards(MigrateV3(), CopyTo("wrong/texts"))

    root = zarr.create_group("sources/fills", zarr_format=2)
    for name, dtype, fill in (("f", "<f4", "NaN"), ("t", "<M8[ns]", "NaT"), ("i", "<i2", [0])):
        attributes = {"_ARRAY_DIMENSIONS": ["x"], "_FillValue": fill}
        root.create_array(name, shape=(4,), chunks=(2,), dtype=dtype, attributes=attributes)
        document = Path(f"sources/fills/{name}/.zarray")
        fields = json.loads(document.read_text())
        fields["fill_value"] = None
        document.write_text(json.dumps(fields))
    ShardedStore.partition("sources/fills").map_shards(MigrateV3(), CopyTo("wrong/fills"))


def keep():
    """Write this folder's path as ``@HERE@``, and leave out the locks, which name the machine."""
    for path in HERE.rglob("*"):
        if path.name.startswith("lock-"):
            path.unlink()
        elif path.is_file() and path.suffix != ".py" and str(HERE).encode() in (data := path.read_bytes()):
            path.write_bytes(data.replace(str(HERE).encode(), b"@HERE@"))


with dask.config.set(scheduler="synchronous"):
    right()
    wrong()
keep()
