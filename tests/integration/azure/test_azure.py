"""Sources in Azure's object store, on its emulator Azurite: `pytest --azure`."""

from base64 import b64encode
from dataclasses import replace

import dask
import numpy as np
import obstore
import pytest
import zarr
from conformance import check_same_contents, contents_of
from faultproxy import FaultProxy
from helpers_jobs import check_zips_as_of_a_folder
from sources import SOURCES, to_folder, to_zip

from shardedstore import ObjectAttributes, PartitionError, ShardedStore
from shardedstore.storage.urls import BESIDE
from shardedstore.transforms import CopyTo, ToZip
from shardedstore.zips import ZipReadStore


@pytest.mark.few(1)
@pytest.mark.parametrize("source", ["others-v3", "consolidated-v2"])
def test_a_source_in_azure_gives_the_bytes_of_a_local_one(source, container, tmp_path):
    check_zips_as_of_a_folder(container, SOURCES[source], tmp_path)


def test_a_zip_takes_one_request_more_to_open(container, azure_server, use_environment, tmp_path):
    contents = SOURCES["others-v3"].contents()
    obstore.put(container.client, "a b.zip", to_zip(contents, tmp_path / "a.zip"))
    with FaultProxy(azure_server.endpoint) as proxy:
        use_environment(replace(azure_server, endpoint=proxy.url).environment())
        store = ZipReadStore(f"{container.url}/a b.zip")
        assert store.names() == sorted(contents)
        assert [line.method for line in proxy.log] == ["HEAD", "GET"]
        check_same_contents(store, contents)
    use_environment(azure_server.environment())
    view = ShardedStore.partition(f"{container.url}/a b.zip", ["simulation"])
    with dask.config.set(scheduler="synchronous"):
        assert contents_of(view.map_shards(ToZip(tmp_path / "out"))) == contents


# Azure's answer to a HEAD, which opens a zip, has no reason.
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.zarr", "the credentials are not accepted: check the key"),
        ("a.zip", "access is denied: check the credentials"),
    ],
)
def test_a_wrong_key(name, words, container, monkeypatch):
    wrong = b64encode(b"a wrong key").decode()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", wrong)
    with pytest.raises(PartitionError, match=rf"^'{container.url}/{name}' can't be read: {words}") as raised:
        ShardedStore.partition(f"{container.url}/{name}")
    assert wrong not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.zarr", "there is no such bucket or container: .*ContainerNotFound"),
        ("a.zip", "no object has this name: check the name and the bucket"),
    ],
)
def test_a_container_that_is_not_there(name, words, container):
    with pytest.raises(PartitionError, match=rf"^'az://nowhere/{name}' can't be read: {words}"):
        ShardedStore.partition(f"az://nowhere/{name}")


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["zips", "one", "shards"])
def test_results_in_azure(kind, container, azure_server, use_environment, tmp_path):
    """By options only: this process holds the key, and the config has the account and the endpoint."""
    contents, shards = SOURCES["others-v3"].contents(), SOURCES["others-v3"].shards
    use_environment({})
    options = {
        "account_name": azure_server.account,
        "account_key": azure_server.key,
        "endpoint": f"{azure_server.endpoint}/{azure_server.account}",
    }
    url = f"{container.url}/a result"
    sink = {
        "zips": ToZip(url, storage_options=options),
        "one": CopyTo(url, storage_options=options),
        "shards": CopyTo(url, layout="shards", storage_options=options),
    }[kind]
    view = ShardedStore.partition(to_folder(contents, tmp_path / "source"), shards)
    with dask.config.set(scheduler="synchronous"):
        check_same_contents(view.map_shards(sink), contents)
        assert view.map_shards(sink).summary.done == 0
    loaded = ShardedStore.load(url + BESIDE * (kind == "one"), storage_options=options)
    check_same_contents(loaded, contents)
    assert azure_server.key not in str(loaded.get_config())


def test_a_large_zip_in_azure_goes_up_in_blocks(container, azure_server, use_environment, tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (20, 1024, 1024), "u1")
    zarr.open_group(tmp_path / "source", mode="w").create_array(
        "a", data=data, chunks=(1, 1024, 1024), compressors=None
    )
    with FaultProxy(azure_server.endpoint) as proxy, dask.config.set(scheduler="synchronous"):
        use_environment(replace(azure_server, endpoint=proxy.url).environment())
        result = ShardedStore.partition(tmp_path / "source", ["a"]).map_shards(ToZip(f"{container.url}/large"))
        np.testing.assert_array_equal(zarr.open_group(result)["a"][:], data)
        assert len([request for request in proxy.log if "comp=block&" in request.path]) == 3


@pytest.mark.parametrize("large", [False, True], ids=["one request", "blocks"])
def test_shards_have_the_tier_the_tags_and_the_metadata(large, container, azure_server, use_environment, tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (12 << 20) if large else 100, "u1")
    zarr.create_array(tmp_path / "a.zarr", name="a", data=data, chunks=(len(data) // 2,), compressors=None)
    store = ShardedStore.partition(tmp_path / "a.zarr", ["a"])
    given = ObjectAttributes(storage_class="Cool", tags={"project": "era 5"}, metadata={"owner": "me"})
    with FaultProxy(azure_server.endpoint) as proxy, dask.config.set(scheduler="synchronous"):
        use_environment(replace(azure_server, endpoint=proxy.url).environment())
        new = store.map_shards(ToZip(f"{container.url}/zips"), objects=given)
        assert new.verify(store).ok
    expected = {"x-ms-access-tier": "Cool", "x-ms-tags": "project=era+5", "x-ms-meta-owner": "me"}
    writes = list(proxy.writes())
    for name, fields in writes:
        found = {key: fields[key] for key in expected if key in fields}
        assert found == (expected if name.endswith(".zip") else {}), name
    assert sum(name.endswith(".zip") for name, _ in writes) == 2
