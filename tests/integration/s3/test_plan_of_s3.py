"""The estimate of a job from and to an object store, and the requests that a proxy counts."""

from collections import Counter
from dataclasses import replace
from urllib.parse import unquote

import dask
import numpy as np
import pytest
import zarr
from faultproxy import FaultProxy
from servers import upload
from sources import build

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, Recompress, ToZip

DOCUMENTS = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")


@pytest.fixture
def proxy(bucket, s3_server, use_environment):
    with FaultProxy(s3_server.endpoint) as proxy:
        use_environment(replace(s3_server, endpoint=proxy.url).environment())
        yield proxy


def two_arrays(store):
    group = zarr.create_group(store)
    for name in ("t2m", "deep/u10"):
        array = group.create_array(name, shape=(120, 8, 8), chunks=(2, 8, 8), dtype="f4")
        array[:] = np.arange(120 * 64, dtype="f4").reshape(120, 8, 8)


def taken(proxy, folder):
    """Return the requests to a folder by kind, and forget them."""
    lines = [(line.method, unquote(line.path)) for line in proxy.log]
    counts = Counter("LIST" if "list-type=" in path else method for method, path in lines if folder in path)
    proxy.log.clear()
    return counts


@pytest.mark.parametrize("sink", [ToZip, CopyTo])
def test_requests_are_estimated_and_metadata_is_walked_twice(sink, bucket, proxy):
    upload(bucket.client, build(two_arrays), "source.zarr")
    store = ShardedStore.partition(f"{bucket.url}/source.zarr", {"*2m": (20, 8, 8), "deep/u10": "whole"})
    assert taken(proxy, "source.zarr") == {"GET": 4, "LIST": 2}  # one for each node, and one for each group
    plan = store.plan(Recompress("zstd", level=5), sink(f"{bucket.url}/result"))
    looks = Counter(line.path.rpartition("/")[2] for line in proxy.log if "source.zarr/" in line.path)
    del looks[".shardedstore-move.json"]  # whether the source is being moved
    assert looks == {"zarr.json": 4, ".zarray": 2}  # whether an array has documents of both formats
    proxy.log.clear()
    estimate = plan.estimate(count=True, test_write=True)
    assert estimate.write_test.error == ""
    assert (estimate.files.value, estimate.files.basis, estimate.states.new, estimate.space) == (124, "exact", 8, None)
    taken(proxy, "")
    with dask.config.set(scheduler="sync"):
        plan.run()
    before_first = [line.path for line in proxy.log][: [line.method for line in proxy.log].index("HEAD")]
    assert not any(path.endswith(DOCUMENTS) for path in before_first if "source.zarr" in path)
    counts = taken_by_side(proxy)
    for side, requests in (("source", estimate.requests_to_source), ("result", estimate.requests_to_destination)):
        for kind in ("GET", "PUT", "LIST"):
            assert counts[side][kind] == pytest.approx(requests.get(kind, 0), rel=0.15, abs=8), (side, kind)
    assert sum(counts["source"].values()) == pytest.approx(sum(estimate.requests_to_source.values()), rel=0.05)
    again = plan.estimate(sample=None)
    assert (again.left, again.headline) == (0, "now: nothing to do, 8 kept")


def taken_by_side(proxy):
    log = list(proxy.log)
    counts = {"source": taken(proxy, "source.zarr")}
    proxy.log.extend(log)
    return {**counts, "result": taken(proxy, "/result")}
