"""Writing through a sharded store to a real S3 server, by URLs and by opened stores."""

import pickle

import numpy as np
import obstore
import zarr
from conformance import keys_of
from helpers_writing import DATA, make, values
from obstore.store import from_url
from zarr.core.sync import sync
from zarr.storage import ObjectStore

from shardedstore import ShardedStore, array_shard_store
from shardedstore.transforms import ToZip

TWICE = np.concatenate([DATA, DATA])


def in_bucket(url):
    return ShardedStore(f"{url}/base", {"g": f"{url}/g"}, {"a": ((4, -1), array_shard_store(f"{url}/a"))})


def test_by_url(bucket, tmp_path):
    store = in_bucket(bucket.url)
    zarr.create_group(store).create_group("g").create_array("x", data=DATA)
    make(store)
    assert store.get_config()["shards"]["a"]["location"]["url"] == f"{bucket.url}/a/{{block}}.zarr"
    zarr.open_group(pickle.loads(pickle.dumps(store)))["a"].append(DATA)
    assert np.array_equal(values(store), TWICE)
    assert np.array_equal(values(store, "g/x"), DATA)
    assert zarr.open_array(store.component("a", (3,)), mode="r").shape == (4, 4)
    assert np.array_equal(values(store.map_shards(ToZip(tmp_path / "zips"))), TWICE)


def test_another_process_goes_by_what_is_there(bucket):
    one = in_bucket(bucket.url)
    zarr.create_group(one)
    other, third = in_bucket(bucket.url), pickle.loads(pickle.dumps(one))
    make(one)
    assert sorted(keys_of(third)) == sorted(keys_of(one))
    again = zarr.create_array(other, name="a", shape=(8, 4), chunks=(2, 2), dtype="i4", overwrite=True)
    assert not again[...].any()
    zarr.open_array(third, path="a")[...] = DATA
    assert np.array_equal(again[...], DATA)
    del zarr.open_group(third, mode="a")["a"]
    sync(third.clear())
    assert [entry["path"] for batch in obstore.list(bucket.client) for entry in batch] == []


def test_stores_that_the_user_opened(bucket):
    def opened(name):
        return ObjectStore(from_url(f"{bucket.url}/{name}"))

    store = ShardedStore(opened("base"), {"g": opened("g")}, {"a": (1, lambda block: opened(f"a/{block}"))})
    zarr.create_group(store).create_group("g").create_array("x", data=DATA)
    make(store)
    zarr.open_group(store)["a"].append(DATA)
    assert np.array_equal(values(store), TWICE)
    assert np.array_equal(values(store, "g/x"), DATA)
    del zarr.open_group(store, mode="a")["a"]
    assert keys_of(opened("a")) == []
    store.close()
