"""The table of readers: checked with installed readers, and used for notices by array before a job runs."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from numcodecs import Shuffle, Zlib

from shardedstore import ShardedStore
from shardedstore.codecs.readers import READERS
from shardedstore.stores.hierarchy import walk
from shardedstore.transforms import CopyTo, MigrateV3, ToShardingCodec
from shardedstore.transforms.base.portable import reader_notices
from tests.unit.transforms.test_padding import write

ZARR, TENSORSTORE = READERS[:2]
IS_3_1 = zarr.__version__.startswith("3.1.")
TYPES: dict[str, Any] = {
    "numbers": "i4",
    "halves": "f2",
    "complex": "c8",
    "truths": "?",
    "texts": "U3",
    "bytes": "S3",
    "raw": "V3",
    "dates": "M8[ns]",
    "spans": "m8[s]",
    "records": [("a", "i4"), ("b", "f8")],
    "any texts": str,
}


def told(folder: Any, reader: Any, *kinds: str) -> bool:
    notices = reader_notices(walk(zarr.storage.LocalStore(folder)), kinds)
    return any(notice.text.startswith(reader.name) for notice in notices)


def is_read(folder: Any) -> bool:
    """Tell whether zarr writes and reads these elements."""
    try:
        array = zarr.open_array(folder)
        array[:4] = array[4:]
        return np.asarray(array[...]).shape == (8,)
    except TypeError:
        return False


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("name", TYPES)
def test_types(name, sharded, tmp_path):
    dtype = TYPES[name] if TYPES[name] is str else np.dtype(TYPES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"shape": (8,), "chunks": (2,), "shards": (4,) if sharded else None, "zarr_format": 3}
        zarr.create_array(tmp_path, dtype=dtype, config={"write_empty_chunks": True}, **options)
        if IS_3_1 and sharded:
            assert is_read(tmp_path) != told(tmp_path, ZARR, "sharded")
        elif not sharded:
            assert is_read(tmp_path)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path)}}
    try:
        tensorstore.open(spec).result()
    except ValueError:
        assert told(tmp_path, TENSORSTORE, "types")
    else:
        assert not told(tmp_path, TENSORSTORE, "types")


def migrated(tmp_path, **options: Any) -> tuple[Any, Any]:
    write(tmp_path / "in", np.arange(8.0), (2,), 0, [Shuffle(8)], Zlib(1))
    return ShardedStore.partition(tmp_path / "in").map_shards(MigrateV3(**options), CopyTo(tmp_path / "out"))


def test_migrate_v3_says_its_options(tmp_path):
    made = migrated(tmp_path)
    texts = {notice.text: notice.arrays for notice in made.summary.notices}
    for start, option in (
        ("tensorstore 0.1.86 can't read the codecs 'numcodecs.", "portable=True"),
        ("GDAL 3.12 can't read the codecs 'numcodecs.", "portable=True"),
        ("VirtualiZarr 2.8 reads fill values, without an error, for chunks", 'chunk_keys="default"'),
    ):
        (text,) = (text for text in texts if text.startswith(start))
        assert option in text
        assert texts[text] == ("a",)


def test_nothing_is_said_with_these_options(tmp_path):
    assert migrated(tmp_path, chunk_keys="default", portable=True).summary.notices == ()


def test_records_in_the_sharding_codec_are_reported(tmp_path):
    root = zarr.create_group(tmp_path / "in", zarr_format=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root.create_array("records", shape=(8,), chunks=(2,), dtype=np.dtype([("a", "i4")]))
        root.create_array("raw", shape=(8,), chunks=(2,), dtype="V3")
        root.create_array("numbers", shape=(8,), chunks=(2,), dtype="i4")
    document = json.loads((tmp_path / "in" / "raw" / "zarr.json").read_text())
    (tmp_path / "in" / "raw" / "zarr.json").write_text(json.dumps({**document, "data_type": "r24"}))
    notices = list(ToShardingCodec(tmp_path / "out").notices(walk(zarr.storage.LocalStore(tmp_path / "in"))))
    assert [set(notice.arrays) for notice in notices] == [{"records", "raw"}]
    assert "zarr-python 3.1 can't read inside the sharding codec" in notices[0].text
