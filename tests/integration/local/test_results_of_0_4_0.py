"""Results of version 0.4.0: they open, are verified, and jobs resume them; see data/results_0_4_0.py."""

import itertools
import re
import shutil
import tarfile

import dask
import numpy as np
import pytest
import zarr
from paths import DATA

from shardedstore import DestinationError, ShardedStore
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToShardingCodec, ToZip

ARCHIVE = DATA / "results-0.4.0.tar.gz"
SHARDS = {"temperature": {"time": 4}, "simulation/*": "whole"}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:zarr")

# The result, its source, the division, the chain, and the options of the job.
RESULTS = {
    "zips-v2": ("cube-v2", SHARDS, lambda url: [ToZip(url)], {}),
    "zips-v3": ("cube-v3", SHARDS, lambda url: [ToZip(url)], {}),
    "folders-v2": ("cube-v2", SHARDS, lambda url: [CopyTo(url, layout="shards")], {}),
    "folders-v3": ("cube-v3", SHARDS, lambda url: [CopyTo(url, layout="shards")], {}),
    "copy-v2": ("cube-v2", SHARDS, lambda url: [Recompress("zstd", level=1), CopyTo(url)], {}),
    "copy-v3": ("cube-v3", SHARDS, lambda url: [Recompress("zstd", level=1), CopyTo(url)], {}),
    "sharding-v3": ("cube-v3", SHARDS, lambda url: [ToShardingCodec(url)], {}),
    "migrated-v2": ("cube-v2", SHARDS, lambda url: [MigrateV3(), ToZip(url)], {}),
    "listing-v3": ("cube-v3", SHARDS, lambda url: [ToZip(url)], {"changed": "listing", "digest": True}),
    "odd": ("odd", {"*": (4,)}, lambda url: [ToZip(url)], {}),
    "grown-v2": ("grown-v2", {"temperature": (4, -1)}, lambda url: [ToZip(url)], {}),
}
WRONG = {
    "two-documents": "'y' has a .zarray whose values differ from those of its zarr.json",
    "nested": "'raw/0/0' .* can't be decoded",
    "texts": "'t' shows missing texts as '0', as it lacks the attribute missing_value",
    "fills": "'f' has the attribute _FillValue 'NaN', which xarray refuses or misreads in Zarr v3",
}
UNFINISHED = ("unfinished-v3", SHARDS, lambda url: [Recompress("zstd", level=1), ToZip(url)], {})


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def here(unpacked, tmp_path):
    """All files in a separate folder, whose path is in the configs and manifests."""
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True)
    for path in itertools.chain(tmp_path.glob("**/*.json"), tmp_path.glob("**/.z*")):
        if b"@HERE@" in (data := path.read_bytes()):
            path.write_bytes(data.replace(b"@HERE@", str(tmp_path).encode()))
    with dask.config.set(scheduler="synchronous"):
        yield tmp_path


def result_at(here, name):
    folder = here / "results" / name
    return ShardedStore.load(folder if (folder / "shardedstore.json").exists() else f"{folder}.shardedstore")


def arrays(group, path=""):
    for name, node in group.members():
        if isinstance(node, zarr.Group):
            yield from arrays(node, f"{path}{name}/")
        else:
            yield f"{path}{name}", node[...]


def check_values(result, source):
    expected = dict(arrays(zarr.open_group(source, mode="r", use_consolidated=False)))
    found = dict(arrays(zarr.open_group(result, mode="r", use_consolidated=False)))
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)


def run_again(here, name, source, shards, chain, options):
    store = ShardedStore.partition(here / "sources" / source, shards)
    return store.map_shards(*chain(here / "results" / name), **options)


@pytest.mark.parametrize("name", RESULTS)
def test_it_opens_and_is_proven(here, name):
    source, shards, _, _ = RESULTS[name]
    result, origin = result_at(here, name), here / "sources" / source
    check_values(result, origin)
    assert result.verify().ok
    assert result.verify(ShardedStore.partition(origin, shards)).ok


# Where the source was moved, nothing of a result of the sharding codec, or of one by listing, is known to be right still. MigrateV3
# makes other documents now, and names that URLs can't carry are written in another way.
MADE_ANEW = {"sharding-v3", "listing-v3", "migrated-v2", "odd"}


@pytest.mark.parametrize("name", sorted(RESULTS.keys() - MADE_ANEW))
def test_the_same_call_makes_nothing_again(here, name):
    written = {path: path.stat().st_mtime_ns for path in (here / "results" / name).rglob("*.zip")}
    result = run_again(here, name, *RESULTS[name])
    assert result.summary.done == 0
    assert result.summary.skipped > 0
    check_values(result, here / "sources" / RESULTS[name][0])
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_names_that_urls_cant_carry_are_made_again(here):
    result = run_again(here, "odd", *RESULTS["odd"])
    assert (result.summary.done, result.summary.missing) == (6, 6)
    check_values(result, here / "sources" / "odd")


def test_a_migration_of_other_documents_is_refused(here):
    with pytest.raises(DestinationError, match="holds the result of another source"):
        run_again(here, "migrated-v2", *RESULTS["migrated-v2"])


def test_an_unfinished_job_is_continued(here):
    result = run_again(here, "unfinished-v3", *UNFINISHED)
    assert (result.summary.done, result.summary.skipped) == (1, 5)
    check_values(result, here / "sources" / "unfinished-v3")


def test_a_collection_opens_and_is_made_no_more(here):
    result = result_at(here, "cells")
    for i in range(5):
        expected = zarr.open_array(here / f"sources/cells/c{i}.zarr/x", mode="r")[...]
        np.testing.assert_array_equal(zarr.open_array(result, path=f"c{i}/x", mode="r")[...], expected)
    store = ShardedStore.collect(here / "sources" / "cells" / "*.zarr")
    assert store.map_shards(ToZip(here / "results" / "cells", per_zip=2)).summary.done == 0


def test_prune_removes_what_an_earlier_generation_left(here):
    pruned = ShardedStore.prune(here / "results" / "grown-v2")
    assert "__base__.zarr.zip" in pruned.names, pruned
    check_values(result_at(here, "grown-v2"), here / "sources" / "grown-v2")


@pytest.mark.parametrize("name", WRONG)
def test_a_result_that_is_wrong_is_distinguished_from_its_source(here, name):
    result = ShardedStore.load(here / "wrong" / f"{name}.shardedstore")
    report = result.verify(here / "sources" / name)
    assert not report.ok
    assert re.search(WRONG[name], str(report)), report
