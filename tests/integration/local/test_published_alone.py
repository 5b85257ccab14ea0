"""Published files opened separately by zarr: they give right values or errors, never fill values for data."""

import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, ZipStore

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, MigrateV3, ToShardingCodec, ToZip
from shardedstore.zarr.grid import parse_block

DATA = np.arange(1, 61, dtype="i4").reshape(6, 10)  # without a fill value
ARRAYS = ("t", "group/u", "group/small", "group/deep/v", "whole/x", "whole/inner/y", "lone/a", "lone/b", "small")
DIVISIONS = {
    "blocks": {"t": (2, -1), "group/u": (2, 5), "group/deep/v": (4, -1)},
    "blocks and whole groups": {"t": (2, -1), "whole": "whole", "group/deep/v": (3, 5), "lone/*": "whole"},
    "whole groups and arrays": ["whole", "group/u", "lone/a", "lone/b"],
    "nothing": [],
}
SINKS = {
    "zips": lambda out: [ToZip(out)],
    "zips of two": lambda out: [ToZip(out, per_zip=2)],
    "zips named flat": lambda out: [ToZip(out, name="{path}-{block}.zip", zip64=True)],
    "folders": lambda out: [CopyTo(out, layout="shards")],
    "one Zarr": lambda out: [CopyTo(out)],
    "v3 in zips": lambda out: [MigrateV3(), ToZip(out)],
    "the sharding codec": lambda out: [ToShardingCodec(out)],
}
CASES = [
    *((2, sink, "blocks and whole groups") for sink in SINKS if sink != "the sharding codec"),
    *((3, sink, "blocks and whole groups") for sink in SINKS if sink != "v3 in zips"),
    *((2, "zips", division) for division in DIVISIONS if division != "blocks and whole groups"),
    (3, "folders", "blocks"),
]


def make(folder, zarr_format, consolidated):
    root = zarr.create_group(folder, zarr_format=zarr_format, attributes={"title": "it"})
    for number, path in enumerate(ARRAYS):
        names = (
            {"dimension_names": ("y", "x")} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["y", "x"]}}
        )
        root.create_array(path, data=DATA + number, chunks=(1, 5), **names)
    for path in consolidated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(folder, path=path or None)
    return folder


def arrays_in(store):
    """Every array that zarr opens in a store: from the root, by consolidated metadata, and at any document."""
    documents = {key for key in names_in(store) if key.rpartition("/")[2].startswith(("zarr.json", ".z"))}
    for zarr_format in {3 if "zarr.json" in key else 2 for key in documents}:
        for path in sorted({key.rpartition("/")[0] for key in documents}):
            node = opened(zarr.open_array, store, path=path, zarr_format=zarr_format)
            if node is not None:
                yield path, node
            if not path or any(key.startswith(f"{path}/.zmetadata") for key in documents):
                for consolidated in (None, False):
                    group = opened(
                        zarr.open_group, store, path=path, zarr_format=zarr_format, use_consolidated=consolidated
                    )
                    if group is not None:
                        yield from ((f"{path}/{name}".strip("/"), node) for name, node in members(group))


def opened(function, store, **options):
    try:
        return function(store, mode="r", **options)
    except (FileNotFoundError, KeyError, ValueError, zarr.errors.BaseZarrError):
        return None


def members(group):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for files that are not nodes
        return [(name, node) for name, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]


def names_in(store):
    if isinstance(store, ZipStore):
        with zipfile.ZipFile(store.path) as file:
            return file.namelist()
    return [
        os.path.relpath(os.path.join(folder, file), store.root)
        for folder, _, files in os.walk(store.root)
        for file in files
    ]


def published(out):
    """Every zip and outermost folder of a result, by name, including those beside one ordinary Zarr."""
    for folder, folders, files in os.walk(out):
        if Path(folder).name.endswith(".zarr"):
            yield os.path.relpath(folder, out), LocalStore(folder, read_only=True)
            folders.clear()
        for file in files:
            if file.endswith((".zip", ".ozx")):
                yield os.path.relpath(os.path.join(folder, file), out), ZipStore(os.path.join(folder, file), mode="r")


def expected(name, path, config, source):
    """The expected contents of an array in a published object, by the object's name."""
    stem = name.partition(".zarr")[0].partition(".zip")[0].partition(".ozx")[0].partition("~")[0]
    if stem in ("__base__", "__consolidated__", "."):
        return source[path][...]
    for mounted, mount in config.shards.items():
        if mount.blocks is not None and (stem == mounted or stem.startswith((f"{mounted}/", f"{mounted}-"))):
            block = parse_block(stem[len(mounted) + 1 :].replace("-", "/"))
            assert path == ""
            spans = (
                slice(i * n * c, (i + 1) * n * c) for i, n, c in zip(block, mount.blocks.chunks, (1, 5), strict=False)
            )
            return source[mounted][tuple(spans)]
        if mount.members is not None and (stem == mounted or stem.startswith((f"{mounted}/", f"{mounted}-"))):
            return source[f"{mounted}/{path}"][...]
    return source[f"{stem}/{path}".rstrip("/")][...]


@pytest.mark.few(5)
@pytest.mark.parametrize(("zarr_format", "sink", "division"), CASES)
def test_each_object_is_right_or_refuses(zarr_format, sink, division, tmp_path):
    source = zarr.open_group(
        make(tmp_path / "in.zarr", zarr_format, ("group", "whole", "")), mode="r", use_consolidated=False
    )
    out = tmp_path / ("out.zarr" if "one" in sink or "codec" in sink else "out")
    store = ShardedStore.partition(tmp_path / "in.zarr", DIVISIONS[division])
    result = store.map_shards(*SINKS[sink](out))
    count = 0
    for place in (out, out.with_name("out.zarr.shardedstore")):
        for name, alone in published(place):
            for path, array in arrays_in(alone):
                wanted = expected(name, path, result.config, source)
                np.testing.assert_array_equal(array[...], wanted, err_msg=f"{name}: {path}")
                count += 1
    assert count >= 4
    whole = zarr.open_group(result, mode="r")
    assert whole.attrs["title"] == "it"
    assert sorted(name for name, _ in members(whole)) == sorted(ARRAYS)
    for path in ARRAYS:
        np.testing.assert_array_equal(whole[path][...], source[path][...])
    assert result.verify(level="stored").ok
