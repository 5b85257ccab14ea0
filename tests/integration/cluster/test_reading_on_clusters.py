"""Reading a store on a cluster: workers hold its credentials in a block, and errors name missing ones outside."""

import pickle

import cloudpickle
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from helpers_jobs import blocks_at
from servers import ADMIN

from shardedstore import ShardedStore, ShardedStoreError, UsageError
from shardedstore.storage.client_keywords import keywords
from shardedstore.storage.options import Options, take_options
from shardedstore.transforms import CopyTo, ToZip
from tests.integration.local.test_secrets import CANARY, leaks

pytestmark = pytest.mark.cluster


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Two worker processes without credentials in their environment; requests to the cloud's address fail at once."""
    environment = {"AWS_METADATA_ENDPOINT": "http://metadata.invalid"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=50,
            env=environment,
            local_directory=str(tmp_path / "dask"),
        ) as local,
        Client(local, set_as_default=False) as made,
    ):
        yield made


def total(store: ShardedStore) -> int:
    return int(np.sum(zarr.open_group(store, mode="r")["a"][:]))


def held(client: Client, url: str) -> list[bool]:
    return [bool(leaks(CANARY, given)) for given in client.run(keywords, url, Options()).values()]


def test_workers_hold_credentials_until_the_block_ends(client, tmp_path):
    store = ShardedStore.from_config(
        {"format": "shardedstore", "version": 1, "base": {"kind": "directory", "url": "s3://bucket/reading"}}
    )
    assert held(client, "s3://bucket/reading/a") == [False, False]
    with store.credentials_on(client):  # no credentials
        assert held(client, "s3://bucket/reading/a") == [False, False]
    take_options("s3://bucket/reading", {"secret_access_key": CANARY})
    with store.credentials_on(client):
        assert held(client, "s3://bucket/reading/a") == [True, True]
        assert held(client, "s3://bucket/other/a") == [False, False]
        assert leaks(CANARY, {"pickle": pickle.dumps(store), "cloudpickle": cloudpickle.dumps((total, store))}) == []
    assert held(client, "s3://bucket/reading/a") == [False, False]
    with pytest.raises(KeyError), store.credentials_on(client):
        raise KeyError
    assert held(client, "s3://bucket/reading/a") == [False, False]


class Asynchronous:
    asynchronous = True


def test_an_asynchronous_client_is_refused(tmp_path):
    store = blocks_at(tmp_path / "source.zarr", 3)
    with pytest.raises(UsageError, match="make one with asynchronous=False"), store.credentials_on(Asynchronous()):
        pass


@pytest.mark.few(1)
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["zips", "zarr"])
def test_workers_read_a_bucket(layout, s3_server, use_environment, client, tmp_path):
    use_environment({})
    place = s3_server.folder("tests", f"reading-{layout}")
    options = {
        "endpoint": s3_server.endpoint,
        "region": "us-east-1",
        "access_key_id": ADMIN.key,
        "secret_access_key": ADMIN.secret,
    }
    source = blocks_at(tmp_path / "source.zarr", 6)
    sink = ToZip if layout == "zips" else CopyTo
    made = source.map_shards(sink(place.url, storage_options=options))
    store = ShardedStore.load(place.url, storage_options=options) if layout == "zips" else made
    with pytest.raises(ShardedStoreError, match=r"has no credentials for .*`with store.credentials_on\(client\):`"):
        client.submit(total, store, pure=False).result()
    with store.credentials_on(client):
        assert client.submit(total, store, pure=False).result() == 21
    for secret in (ADMIN.key, ADMIN.secret):
        assert (
            leaks(secret, {"pickle": pickle.dumps(store), "config": str(store.get_config()), "repr": repr(store)}) == []
        )
