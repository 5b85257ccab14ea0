"""Sources in an object store, on a real S3 server: SeaweedFS, on loopback."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from urllib.parse import urlsplit

import dask
import obstore
import pytest
import servers
from conformance import check_same_contents, contents_of
from faultproxy import FaultProxy, Rule
from helpers_jobs import blocks_source, check_zips_as_of_a_folder
from obstore.store import HTTPStore, S3Store
from servers import GUEST, READER, upload
from sources import SOURCES, build, to_zip

from shardedstore import PartitionError, ShardedStore, check
from shardedstore.storage.errors import explain
from shardedstore.transforms import ToZip
from shardedstore.zips import ZipReadStore


@pytest.mark.parametrize("source", ["others-v3", "consolidated-v2"])
def test_a_source_in_the_cloud_gives_the_bytes_of_a_local_one(source, bucket, tmp_path):
    check_zips_as_of_a_folder(bucket, SOURCES[source], tmp_path)


def test_a_zip_in_the_cloud(bucket, tmp_path):
    contents = SOURCES["others-v3"].contents()
    obstore.put(bucket.client, "a b.zip", Path(to_zip(contents, tmp_path / "a.zip")))
    check_same_contents(ZipReadStore(f"{bucket.url}/a b.zip"), contents)
    view = ShardedStore.partition(f"{bucket.url}/a b.zip", ["simulation"])
    with dask.config.set(scheduler="synchronous"):
        assert contents_of(view.map_shards(ToZip(tmp_path / "out"))) == contents


def test_a_bucket_itself_is_a_zarr(s3_server, use_environment):
    use_environment(s3_server.environment())
    s3_server.make_bucket("whole")
    contents = SOURCES["cube-v3/"].contents()
    upload(s3_server.folder("whole").client, contents)
    check_same_contents(ShardedStore.partition("s3://whole", ["simulation"]), contents)


def test_listings_of_many_pages(bucket, s3_server, tmp_path):
    contents = build(blocks_source, 2500)
    upload(bucket.client, contents)
    with FaultProxy(s3_server.endpoint) as proxy:
        _, client = replace(s3_server, endpoint=proxy.url).folder("tests", urlsplit(bucket.url).path.strip("/"))
        assert sum(map(len, obstore.list(client))) == len(contents)
        assert len(proxy.log) == 3
    view = ShardedStore.partition(bucket.url, {"a": "whole"})
    with dask.config.set(scheduler="threads"):
        result = view.map_shards(ToZip(tmp_path / "out"))
    assert contents_of(result) == contents


def test_a_source_that_may_only_be_read(bucket, s3_server, use_environment, tmp_path):
    contents = SOURCES["cube-v3/"].contents()
    upload(bucket.client, contents)
    use_environment(s3_server.environment(READER))
    with dask.config.set(scheduler="synchronous"):
        result = ShardedStore.partition(bucket.url, ["simulation"]).map_shards(ToZip(tmp_path / "out"))
    assert contents_of(result) == contents


def test_a_source_that_anyone_may_read(bucket, s3_server, use_environment, tmp_path):
    contents = SOURCES["cube-v3/"].contents()
    prefix = urlsplit(bucket.url).path.strip("/")
    url, client = s3_server.folder("public", prefix)
    upload(client, contents)
    public = s3_server.environment(servers.ANONYMOUS)
    use_environment(public)
    with dask.config.set(scheduler="synchronous"):
        result = ShardedStore.partition(url, ["simulation"]).map_shards(ToZip(tmp_path / "out"))
    assert contents_of(result) == contents
    del public["AWS_SKIP_SIGNATURE"]
    use_environment(public)
    view = ShardedStore.partition(url, ["simulation"], storage_options="anonymous")
    check_same_contents(view, contents)
    assert "is denied" in refusal(bucket.url, storage_options="anonymous")


def refusal(url, **options):
    """The message for an unreadable source: one line with its name, without debug output or secrets."""
    with pytest.raises(PartitionError, match=r"can't be read: ") as raised:
        ShardedStore.partition(url, **options)
    message = str(raised.value)
    assert message.startswith(repr(url))
    assert len(message) < 400
    assert not any(word in message for word in ("\n", "Debug", "RetryError", "<Code>", "secret"))
    return message


@pytest.mark.parametrize("name", ["a.zarr", "a.zip"])
def test_a_source_without_the_right_to_it(name, bucket, s3_server, use_environment):
    upload(bucket.client, {"a.zarr/zarr.json": b"{}", "a.zip": b""})
    use_environment(s3_server.environment(GUEST))
    message = refusal(f"{bucket.url}/{name}")
    assert "access is denied: check the credentials and their permissions" in message
    assert f"/{name}" in message
    assert "403 AccessDenied" in message


@pytest.mark.parametrize("name", ["a.zarr", "a.zip"])
@pytest.mark.parametrize(
    ("variable", "code"),
    [("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch"), ("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId")],
)
def test_wrong_credentials(name, variable, code, bucket, monkeypatch):
    monkeypatch.setenv(variable, "wrong-secret")
    message = refusal(f"{bucket.url}/{name}")
    assert "the credentials are not accepted: check the key" in message
    assert f"403 {code}" in message


@pytest.mark.parametrize("name", ["a.zarr", "a.zip"])
def test_a_bucket_that_is_not_there(name, bucket):
    message = refusal(f"s3://nowhere/{name}")
    assert "there is no such bucket or container: check its name" in message
    assert "404 NoSuchBucket" in message


def test_what_is_not_there(bucket):
    with pytest.raises(PartitionError, match=r"/none\.zarr' holds no Zarr"):
        ShardedStore.partition(f"{bucket.url}/none.zarr")
    message = refusal(f"{bucket.url}/none.zip")
    assert "no object has this name: check the name and the bucket (GET http://" in message
    assert "/none.zip, 404 NoSuchKey)" in message


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("", "status", 503), "too busy or out of order: try again later (GET {url}/tests/key, 503 SlowDown)"),
        (Rule("", "status", 401), "the credentials are not accepted: check the key, and whether it has expired"),
        (Rule("", "status", 301), "the bucket is in another region: set AWS_REGION"),
        (Rule("", "status", 507), "the server is full: make room there"),
        (Rule("", "status", 418), "by rule (GET {url}/tests/key, 418 Refused)"),
        (Rule("", "hang"), "the server did not answer in time: check the network"),
        (Rule("", "gone"), "the connection was lost: try again (GET {url}/tests/key, Connection reset by peer)"),
    ],
    ids=lambda value: f"{value.action} {value.value}" if isinstance(value, Rule) else "",
)
def test_what_a_server_in_trouble_is_said_to_be(rule, words, s3_server):
    with FaultProxy(s3_server.endpoint, replace(rule)) as proxy:
        message = what_is_said(lambda: obstore.get(client_of(proxy.url), "key"))
        assert words.format(url=proxy.url) in message
        assert words.format(url=proxy.url).replace("/key", "") in what_is_said(
            lambda: list(obstore.list(client_of(proxy.url)))
        )


def test_what_a_client_that_can_not_ask_is_reported():
    nobody = "http://127.0.0.1:9"
    assert what_is_said(lambda: obstore.get(client_of(nobody), "key")) == (
        "the server can't be reached: check the endpoint and the network (GET http://127.0.0.1:9/tests/key, Connection refused)"
    )
    assert "http:// is not allowed" in what_is_said(lambda: obstore.get(client_of(nobody, allow_http=False), "key"))
    signed = HTTPStore.from_url(
        f"{nobody}/?token=a-secret", client_options={"allow_http": True}, retry_config=NO_RETRIES
    )
    assert what_is_said(lambda: obstore.get(signed, "key")).endswith("(GET http://127.0.0.1:9/key, Connection refused)")


NO_RETRIES = {"max_retries": 0}


def client_of(endpoint, allow_http=True):
    keys = {"access_key_id": "admin-key", "secret_access_key": "admin-secret", "region": "us-east-1"}
    options = {"allow_http": allow_http, "timeout": "0.5s"}
    return S3Store("tests", endpoint=endpoint, **keys, client_options=options, retry_config=NO_RETRIES)


def what_is_said(call):
    with pytest.raises(obstore.exceptions.BaseError, match="Debug source") as raised:
        call()
    message = explain(raised.value)
    assert len(message.splitlines()) == 1
    assert not any(word in message for word in ("Debug", "secret"))
    return message


@pytest.mark.s3
def test_servers_that_start_at_once_have_ports_of_their_own(tmp_path):
    def endpoint(name):
        with servers.seaweedfs(tmp_path / name) as server:
            obstore.put(server.folder("tests").client, "name", name.encode())
            both.wait(60)
            return server.endpoint, obstore.get(server.folder("tests").client, "name").bytes().to_bytes().decode()

    both = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        (one, name), (other, other_name) = pool.map(endpoint, ["one", "other"])
    assert one != other
    assert (name, other_name) == ("one", "other")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://nowhere/a.zarr", "can't be read: there is no such bucket or container"),
        ("s3://nowhere/a.zip", "does not exist"),
        ("s3://tests/nowhere/a.zarr", "holds no Zarr"),
        ("s3://tests/nowhere/a.zarr.zip", "does not exist"),
    ],
)
def test_a_check_of_a_place_that_does_not_exist(url, why, bucket):
    with pytest.raises(PartitionError, match=f"^'{url}' .*{why}"):
        check(url)


def test_a_check_without_permission_reports_what_can_not_be_read(s3_server, use_environment):
    use_environment(s3_server.environment(GUEST))
    (found,) = check("s3://tests/denied.zarr.zip").findings
    assert found.code == "unread"
    assert "access is denied" in found.what
