"""Jobs that write to an object store, on a real S3 server."""

import json
import logging
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import dask
import numpy as np
import obstore
import pytest
import zarr
from conformance import check_same_contents, contents_of
from distributed import Client, LocalCluster
from faultproxy import FaultProxy, Rule
from helpers_jobs import CUBE, CUBE_SHARDS, Fail, KillOnce, Seen
from paths import TESTS
from servers import ADMIN, READER, upload
from sources import SOURCES, to_folder

from shardedstore import ConfigError, DestinationError, ShardedStore, ShardsFailed, Step, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.ledger import Ledger, Record
from shardedstore.jobs.manifest import JobManifest
from shardedstore.jobs.open_destination import open_destination
from shardedstore.storage import folders
from shardedstore.storage.folders import open_folder
from shardedstore.storage.urls import BESIDE
from shardedstore.transforms import CopyTo, ToZip

pytestmark = pytest.mark.s3
SINKS = {
    "zips": ToZip,
    "one": CopyTo,
    "shards": lambda url, **options: CopyTo(url, layout="shards", **options),
}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def partitioned(name, folder):
    source = SOURCES[name]
    return ShardedStore.partition(to_folder(source.contents(), folder), source.shards)


def config_of(sink):
    return sink.url + BESIDE if sink.layout == "zarr" else sink.url


def keys_of(folder):
    return {found["path"] for batch in obstore.list(folder.client) for found in batch}


@pytest.mark.few(2)
@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("name", ["others-v3", "consolidated-v2", "consolidated-v3", "cube-v2."])
def test_a_result_in_the_cloud_is_that_of_a_local_job(name, kind, bucket, tmp_path):
    store = partitioned(name, tmp_path / "source")
    local = store.map_shards(SINKS[kind](tmp_path / "local"))
    sink = SINKS[kind](f"{bucket.url}/a folder/out.zarr")
    result = store.map_shards(sink)
    contents = contents_of(local)
    assert contents_of(result) == contents
    loaded = ShardedStore.load(config_of(sink))
    assert contents_of(loaded) == contents
    zips = {path.relative_to(tmp_path / "local").as_posix() for path in (tmp_path / "local").rglob("*.zip")}
    for zipped in zips if kind == "zips" else ():
        stored = bytes(obstore.get(bucket.client, f"a folder/out.zarr/{zipped}").bytes())
        assert stored == (tmp_path / "local" / zipped).read_bytes()


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", SINKS)
def test_a_job_in_the_cloud_goes_on_from_where_it_was(kind, bucket, tmp_path):
    store = partitioned("cube-v3/", tmp_path / "source")
    sink = SINKS[kind](f"{bucket.url}/out")
    mended = tmp_path / "mended"
    with pytest.raises(ShardsFailed, match="1 of 24 shards failed"):
        store.map_shards(Fail(some_block(store), str(mended)), sink)
    assert not any(key.endswith(FILE_NAME) for key in keys_of(bucket))
    if kind == "one":
        assert "out/zarr.json" not in keys_of(bucket)
    mended.touch()
    summary = store.map_shards(Fail(some_block(store), str(mended)), sink).summary
    assert (summary.done, summary.skipped) == (1, 23)
    check_same_contents(ShardedStore.load(config_of(sink)), SOURCES["cube-v3/"].contents())


def some_block(store):
    """Return the name of a shard."""
    path, mount = next((path, mount) for path, mount in store.config.shards.items() if mount.blocks is not None)
    return f"{path}[{'/'.join(map(str, mount.blocks.index(1)))}]"


# Uploads in parts


class Endless(Step):
    """Fails one shard after its last entry."""

    def __call__(self, entries, shard):
        yield from entries
        if not shard.is_base:
            raise ValueError("not to the step's taste")


def test_a_shard_of_many_objects_that_lost_one_is_made_again(bucket, tmp_path):
    store, sink = partitioned("others-v3", tmp_path / "source"), CopyTo(f"{bucket.url}/out", layout="shards")
    store.map_shards(sink)
    before = keys_of(bucket)
    lost = max(key for key in before if "/c/" in key and ".zarr/" in key)
    obstore.delete(bucket.client, lost)
    summary = store.map_shards(sink).summary
    assert (summary.done, summary.missing) == (1, 1)
    assert lost in keys_of(bucket)
    assert store.map_shards(sink).summary.done == 0


def large(folder):
    """A source with one array shard of 40 MiB."""
    data = np.random.default_rng(0).integers(0, 255, (40, 1024, 1024), "u1")
    group = zarr.open_group(folder, mode="w")
    group.create_array("a", data=data, chunks=(1, 1024, 1024), compressors=None)
    return ShardedStore.partition(folder, ["a"])


def check_large(result, folder):
    np.testing.assert_array_equal(zarr.open_group(result)["a"][:], zarr.open_group(folder / "source")["a"][:])


def test_a_large_shard_goes_up_in_parts(bucket, s3_server, use_environment, tmp_path):
    store = large(tmp_path / "source")
    with FaultProxy(s3_server.endpoint) as proxy:
        use_environment(replace(s3_server, endpoint=proxy.url).environment())
        result = store.map_shards(ToZip(f"{bucket.url}/out"))
        parts = [request for request in proxy.log if request.method == "PUT" and "partNumber" in request.path]
        check_large(result, tmp_path)
    assert len(parts) == 6  # 8 MiB each, and the last one


def test_an_error_aborts_an_upload_and_leaves_nothing(bucket, s3_server, use_environment, tmp_path):
    store = large(tmp_path / "source")
    with FaultProxy(s3_server.endpoint) as proxy:
        use_environment(replace(s3_server, endpoint=proxy.url).environment())
        with pytest.raises(ShardsFailed, match="1 of 2 shards failed"):
            store.map_shards(Endless(), ToZip(f"{bucket.url}/out"))
        begun = [request for request in proxy.log if request.method == "POST" and "uploads" in request.path]
        aborted = [request for request in proxy.log if request.method == "DELETE" and "uploadId" in request.path]
    assert len(begun) >= 1
    assert len(aborted) == len(begun)
    assert not [key for key in keys_of(bucket) if key.endswith("a.zarr.zip")]


def test_parts_that_fail_are_sent_again(bucket, s3_server, use_environment, tmp_path):
    store = large(tmp_path / "source")
    with FaultProxy(s3_server.endpoint) as proxy:
        use_environment(replace(s3_server, endpoint=proxy.url).environment())
        proxy.rules += [Rule("partNumber=2", "status", 503, count=2), Rule("partNumber=3", "lose", count=1)]
        result = store.map_shards(ToZip(f"{bucket.url}/out"))
        assert [rule.fired for rule in proxy.rules] == [2, 1]
        check_large(result, tmp_path)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import dask
from helpers_jobs import KillOnce
from shardedstore import ShardedStore
from shardedstore.transforms import ToZip

with dask.config.set(scheduler="synchronous"):
    ShardedStore.partition(sys.argv[2], ["a"]).map_shards(KillOnce("a", 30, sys.argv[4]), ToZip(sys.argv[3]))
"""


def test_a_killed_upload_is_reported_with_the_rule_that_removes_it(bucket, tmp_path, caplog):
    store, url, mended = large(tmp_path / "source"), f"{bucket.url}/out", tmp_path / "mended"
    arguments = [TESTS, tmp_path / "source", url, mended]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode == -signal.SIGKILL
    assert not [key for key in keys_of(bucket) if key.endswith("a.zarr.zip")]
    mended.touch()
    with caplog.at_level(logging.WARNING, "shardedstore"):
        result = store.map_shards(KillOnce("a", 30, str(mended)), ToZip(url))
    assert "an earlier run was ended while it wrote to" in caplog.text
    assert '"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}' in caplog.text
    assert f'"Prefix": "{url.removeprefix("s3://tests/")}/"' in caplog.text
    check_large(result, tmp_path)


# Access


def options_of(server, identity=ADMIN):
    return {
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key_id": identity.key,
        "secret_access_key": identity.secret,
        "virtual_hosted_style_request": False,
    }


@pytest.fixture
def folder(s3_server, bucket, use_environment):
    """The URL of an empty folder without credentials in the environment."""
    use_environment({})
    return bucket.url


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", SINKS)
def test_options_are_given_to_the_sink_and_to_load(kind, folder, s3_server, tmp_path):
    store = partitioned("others-v3", tmp_path / "source")
    options = options_of(s3_server)
    sink = SINKS[kind](f"{folder}/out", storage_options=options)
    result = store.map_shards(sink)
    loaded = ShardedStore.load(config_of(sink), storage_options=options)
    for opened in (result, loaded, pickle.loads(pickle.dumps(loaded)), ShardedStore.from_config(loaded.get_config())):
        check_same_contents(opened, SOURCES["others-v3"].contents())
    base = loaded.get_config()["base"]
    assert base.get("source", base)["options"]["endpoint"] == s3_server.endpoint
    again = ShardedStore.partition(
        f"{folder}/out" if kind == "one" else loaded, storage_options=options if kind == "one" else None
    )
    check_same_contents(again, SOURCES["others-v3"].contents())


def test_options_hold_for_one_object(folder, s3_server, tmp_path):
    store, options = partitioned("others-v3", tmp_path / "source"), options_of(s3_server)
    store.map_shards(ToZip(f"{folder}/out", storage_options=options))
    code = """
import json, sys
from shardedstore import ShardedStore
from shardedstore.zips import ZipReadStore

folder, options = sys.argv[1], json.loads(sys.argv[2])
match sys.argv[3]:
    case "zip":
        assert ZipReadStore(f"{folder}/out/__base__.zarr.zip", storage_options=options).names()
    case "partition":
        assert ShardedStore.partition(f"{folder}/out/__base__.zarr.zip", [], storage_options=options).config
    case "load":
        store = ShardedStore.load(f"{folder}/out/shardedstore.json", storage_options=options)
        assert len(store.config.shards) == 6
        ShardedStore.load(f"{folder}/out", storage_options=options).save(f"{folder}/copy.json", storage_options=options)
"""
    for what in ("zip", "partition", "load"):  # each in a new process
        arguments = [folder, json.dumps(options), what]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_config_elsewhere_keeps_endpoints_and_asks_before_it_follows_one(folder, s3_server, tmp_path):
    store = partitioned("others-v3", tmp_path / "source")
    store.map_shards(ToZip(f"{folder}/out", storage_options=options_of(s3_server))).save(tmp_path / "c.json")
    assert ADMIN.secret not in (tmp_path / "c.json").read_text()
    with pytest.raises(ConfigError, match=r"names 's3://.*which is outside its own folder"):
        ShardedStore.load(tmp_path / "c.json")
    with pytest.raises(ConfigError, match=r"sends requests for 's3://.*' to 'http://127.0.0.1"):
        ShardedStore.load(tmp_path / "c.json", allow=[folder])
    loaded = ShardedStore.load(tmp_path / "c.json", allow=[folder, s3_server.endpoint])
    check_same_contents(loaded, SOURCES["others-v3"].contents())


def test_secrets_reach_workers_and_nothing_else(folder, s3_server, tmp_path, workers):
    """Neither the workers' environment nor the files of the job contain them."""
    store = partitioned("others-v3", tmp_path / "source")
    options = options_of(s3_server)
    store.map_shards(CopyTo(f"{folder}/copy.zarr", storage_options=options))
    copied = ShardedStore.partition(f"{folder}/copy.zarr", SOURCES["others-v3"].shards, storage_options=options)
    lazy = copied.map_shards(ToZip(f"{folder}/zips", storage_options=options), compute=False)
    assert ADMIN.secret.encode() not in pickle.dumps(lazy)
    result = lazy.compute()
    check_same_contents(result, SOURCES["others-v3"].contents())
    written = s3_server.folder(*folder.removeprefix("s3://").split("/", 1)).client
    for batch in obstore.list(written):
        for found in batch:
            assert ADMIN.secret.encode() not in bytes(obstore.get(written, found["path"]).bytes()), found["path"]


@pytest.mark.cluster
def test_workers_that_lack_credentials_are_named_before_the_first_shard(bucket, tmp_path, use_environment, s3_server):
    store = partitioned("others-v3", tmp_path / "source")
    environment = s3_server.environment(READER)
    message = r"2 of 2 workers can't do the job: tcp://.*can't be written to"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", env=environment) as cluster,
        Client(cluster),
        pytest.raises(DestinationError, match=message),
    ):
        store.map_shards(Seen(str(tmp_path / "seen")), ToZip(f"{bucket.url}/out"))
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "can't be used: the credentials are not accepted"),
        ("reader", "can't be written to: access is denied"),
    ],
)
def test_who_may_not_write_is_reported(kind, environment, message, bucket, s3_server, use_environment, tmp_path):
    store = partitioned("others-v3", tmp_path / "source")
    found = s3_server.environment(READER if environment == "reader" else ADMIN)
    use_environment({**found, **(environment if isinstance(environment, dict) else {})})
    with pytest.raises(DestinationError, match=message):
        store.map_shards(SINKS[kind](f"{bucket.url}/out"))


@pytest.mark.parametrize("kind", SINKS)
def test_a_bucket_that_is_not_there_is_reported(kind, bucket, tmp_path):
    with pytest.raises(DestinationError, match=r"can't be (used|written to): there is no such bucket"):
        partitioned("others-v3", tmp_path / "source").map_shards(SINKS[kind]("s3://no-such-bucket/out"))


def test_options_of_a_local_path_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"storage_options were given for .* which is a local path"):
        ToZip(tmp_path, storage_options={"region": "x"})
    with pytest.raises(UsageError, match="must be a mapping, or the word 'anonymous'"):
        ToZip("s3://bucket/a", storage_options="nobody")
    with pytest.raises(
        UsageError, match="storage_options for 's3://bucket/a' can't be used: the endpoint holds credentials"
    ):
        ToZip("s3://bucket/a", storage_options={"endpoint": "https://me:word@host"})
    with pytest.raises(UsageError, match="can't be opened with the storage options given"):
        ShardedStore.partition("s3://bucket/a", storage_options={"no_such_option": "x"})


def test_public_data_is_read_by_one_word(s3_server, use_environment):
    use_environment({"AWS_ENDPOINT_URL": s3_server.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"})
    contents = SOURCES["others-v3"].contents()
    public = s3_server.folder("public", "a.zarr")
    for key, data in contents.items():
        obstore.put(public.client, key, data)
    check_same_contents(ShardedStore.partition(public.url, storage_options="anonymous"), contents)


# Records in an object store


def test_a_died_writer_is_distinguished_from_one_that_ended(bucket):
    ledger = Ledger(open_folder(bucket.url), 1)
    with ledger.writer(0) as append:
        append(Record(2, 3, "d", shard=1))
    assert ledger.read() == ledger.read_segment(0) == {1: Record(2, 3, "d", shard=1)}
    assert not ledger.unfinished()
    ledger.folder.write(".shardedstore/ledger/1/0/7-abc-0.jsonl", b"")
    assert ledger.unfinished()


def test_records_are_stored_while_a_long_segment_runs(bucket, monkeypatch):
    monkeypatch.setattr(folders, "FLUSH_SECONDS", 0.0)
    ledger = Ledger(open_folder(bucket.url), 1)
    with ledger.writer(70) as append:
        append(Record(2, 3, "d", shard=1))
        assert ledger.read_segment(70) == {1: Record(2, 3, "d", shard=1)}
    assert ledger.read_segment(7) == {}


def test_two_jobs_that_start_at_once_claim_two_generations(bucket):
    place = open_folder(bucket.url)
    ledgers = [open_destination(place, JobManifest(name, name), overwrite=True) for name in "ab"]
    assert [ledger.generation for ledger in ledgers] == [1, 2]
    with pytest.raises(FileExistsError, match="the object exists already"):
        place.write(".shardedstore/job-2.json", b"", create=True)


def test_an_object_that_is_made_twice_as_an_answer_was_lost_is_there_once(bucket):
    """The server refuses the second request, as the object exists: it is our own."""
    place = open_folder(bucket.url)
    place.write("a.json", b"mine", create=True)
    place.write("a.json", b"mine", create=True)
    with pytest.raises(FileExistsError, match="the object exists already"):
        place.write("a.json", b"more", create=True)


def test_a_listing_that_breaks_off_is_made_again(bucket, s3_server, tmp_path):
    """Obstore resumes the body of an object, but no listing."""
    upload(bucket.client, CUBE.contents())
    with FaultProxy(s3_server.endpoint) as proxy:
        options = {"endpoint": proxy.url, "allow_http": True}
        proxy.rules.append(Rule("list-type=2", "reset", 100, count=2))
        store = ShardedStore.partition(bucket.url, CUBE.shards, storage_options=options)
        assert proxy.rules[0].fired == 2
        proxy.rules[0].count = 4
        made = store.map_shards(CopyTo(f"{bucket.url}-copy", storage_options=options))
        assert proxy.rules[0].fired == 4
    assert made.summary.done == CUBE_SHARDS
