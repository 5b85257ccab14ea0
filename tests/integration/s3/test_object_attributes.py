"""Storage class, tags, encryption and checksums are set on the objects of shards, and on nothing else."""

import re
from dataclasses import replace

import dask
import numpy as np
import obstore
import pytest
import zarr
from faultproxy import FaultProxy
from helpers_jobs import blocks_at
from servers import ADMIN, ANONYMOUS

from shardedstore import ObjectAttributes, ShardedStore, UsageError
from shardedstore.transforms import CopyTo, ToShardingCodec, ToZip

ATTRIBUTES = ObjectAttributes(
    storage_class="STANDARD_IA", tags={"project": "era 5"}, metadata={"owner": "me"}, checksum="sha256"
)


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def sdk(s3_server):
    """The client of AWS, which reads the attributes."""
    botocore = pytest.importorskip("botocore.session")
    return botocore.Session().create_client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")


def attributes(sdk, url):
    """The class, tags and metadata of each object below a URL, by name."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    found = {}
    for listed in sdk.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]:
        key = listed["Key"]
        head = sdk.head_object(Bucket=bucket, Key=key)
        tags = {tag["Key"]: tag["Value"] for tag in sdk.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]}
        found[key.removeprefix(f"{prefix}/")] = head.get("StorageClass"), tags, head["Metadata"]
    return found


class Recorder(FaultProxy):
    """The server, which has no keys, does not see the wish for encryption."""

    def asked(self, head):
        return head._replace(raw=re.sub(rb"(?i)\r\nx-amz-server-side[^\r]*", b"", head.raw))


SINKS = {"zips": (ToZip, "out"), "one zip": (ToZip, "out.zarr.zip"), "one Zarr": (CopyTo, "out"), "sharding": (ToShardingCodec, "out")}  # fmt: skip


def large_at(folder):
    data = np.random.default_rng(0).integers(0, 255, 12 << 20, "u1")  # more than a part of an upload
    zarr.create_array(folder, name="a", data=data, chunks=(6 << 20,), compressors=None)
    return ShardedStore.partition(folder, {"a": (12 << 20,)})


@pytest.mark.parametrize("kind", SINKS)
def test_all_writes_ask_for_the_encryption_of_storage_options(s3_server, use_environment, tmp_path, unique, kind):
    use_environment(s3_server.environment(ANONYMOUS))
    make, name = SINKS[kind]
    folder = s3_server.folder("open", f"{unique}/{name}")
    with Recorder(s3_server.endpoint) as recorder:
        options = {"endpoint": recorder.url, "server_side_encryption": "aws:kms", "sse_kms_key_id": "very-secret"}
        large_at(tmp_path / "source.zarr").map_shards(make(folder.url, storage_options=options))
    written = {name: fields.get("x-amz-server-side-encryption-aws-kms-key-id") for name, fields in recorder.writes()}
    assert set(written.values()) == {"very-secret"}
    assert {"ledger", "job-1.json", "report-1.html", "shardedstore.json", "lock-1.json"} <= {
        part for name in written for part in name.split("/")
    }
    for found in (one for batch in obstore.list(s3_server.folder("open", unique).client) for one in batch):
        data = obstore.get(s3_server.folder("open", unique).client, found["path"]).bytes()
        assert b"very-secret" not in bytes(data), found["path"]


@pytest.mark.parametrize("kind", SINKS)
def test_all_requests_of_a_job_and_a_reader_are_paid_by_the_requester(
    s3_server, use_environment, tmp_path, unique, kind
):
    use_environment({})
    make, name = SINKS[kind]
    folder = s3_server.folder("tests", f"{unique}/{name}")
    with Recorder(s3_server.endpoint) as recorder:
        options = {"key": ADMIN.key, "secret": ADMIN.secret, "endpoint": recorder.url, "request_payer": True}
        options |= {"region": "us-east-1", "virtual_hosted_style_request": False}
        result = large_at(tmp_path / "source.zarr").map_shards(make(folder.url, storage_options=options))
        assert result.verify(level="stored").ok
    assert {request.fields.get("x-amz-request-payer") for request in recorder.log} == {"requester"}


@pytest.mark.parametrize("kind", SINKS)
def test_uploads_of_shards_begin_with_all_attributes(s3_server, use_environment, tmp_path, unique, kind):
    use_environment(s3_server.environment(ANONYMOUS))
    make, name = SINKS[kind]
    folder = s3_server.folder("open", f"{unique}/{name}")
    given = ObjectAttributes(storage_class="GLACIER", tags={"project": "era5"}, encryption="aws:kms", kms_key="key-1")
    with Recorder(s3_server.endpoint) as recorder:
        use_environment(replace(s3_server, endpoint=recorder.url).environment(ANONYMOUS))
        large_at(tmp_path / "source.zarr").map_shards(make(folder.url), objects=given)
    expected = {"storage-class": "GLACIER", "tagging": "project=era5", "server-side-encryption-aws-kms-key-id": "key-1"}
    for path, fields in recorder.writes():
        found = {key: fields[f"x-amz-{key}"] for key in expected if f"x-amz-{key}" in fields}
        if "/parts/" in path:  # a part of one zip is read again soon
            assert found == {key: value for key, value in expected.items() if key != "storage-class"}
        else:
            assert found in ({}, expected), path
            assert bool(found) == ("/c/" in path or path.endswith(".zarr.zip")), path


@pytest.mark.parametrize("kind", ["zips", "one Zarr", "one zip"])
def test_shards_have_the_attributes_and_the_ledger_has_not(bucket, tmp_path, sdk, kind):
    make, name = SINKS[kind]
    source = blocks_at(tmp_path / "source.zarr", 2)
    new = source.map_shards(make(f"{bucket[0]}/{name}"), objects=ATTRIBUTES)
    found = attributes(sdk, bucket[0])
    shards = {
        "zips": {"out/__base__.zarr.zip", "out/a/0.zarr.zip", "out/a/1.zarr.zip"},
        "one Zarr": {"out/a/c/0", "out/a/c/1"},
        "one zip": {"out.zarr.zip"},
    }[kind]
    assert {
        name for name, given in found.items() if given == ("STANDARD_IA", {"project": "era 5"}, {"owner": "me"})
    } == shards
    others = {name: given for name, given in found.items() if name not in shards}
    assert any(name.endswith("shardedstore.json") for name in others)
    assert not [name for name, given in others.items() if given[0] not in (None, "STANDARD") or given[1] or given[2]]
    assert new.verify(source).ok


def test_a_plan_warns_of_archives(bucket, tmp_path):
    source = blocks_at(tmp_path / "source.zarr", 2)
    plan = source.plan(ToZip(f"{bucket[0]}/out"), objects=ObjectAttributes(storage_class="GLACIER"))
    assert any("must be restored before they can be read" in str(notice) for notice in plan.notices)
    assert ShardedStore.partition(tmp_path / "source.zarr").plan(ToZip(f"{bucket[0]}/out")).notices == ()


@pytest.mark.parametrize(
    ("url", "given", "message"),
    [
        ("s3://b/o", {"acl": "public-read"}, r"an ACL can't be set on objects of S3 .*use a policy of the bucket"),
        ("gs://b/o", {"tags": {"a": "b"}}, "tags can't be set on objects of Google Cloud Storage .*: use metadata"),
        ("gs://b/o", {"encryption": "aws:kms"}, "encryption can't be set .*: set the default key"),
        ("az://b/o", {"checksum": "sha256"}, "a checksum can't be set on objects of Azure .*: leave it out"),
        ("/data/o", {"storage_class": "COLD"}, "is a local path, whose files have no a? ?storage class: leave it out"),
        ("s3://b/o", {"kms_key": "k"}, "a kms_key or bucket_key needs encryption='aws:kms'"),
        ("s3://b/o", {"tags": dict.fromkeys("abcdefghijk", "x")}, "can have 10 tags, but 11 were given"),
    ],
    ids=str,
)
def test_attributes_that_can_not_be_set_are_refused(url, given, message):
    with pytest.raises(UsageError, match=message):
        ObjectAttributes(**given).check(url)


def test_encryption_is_asked_for_by_obstores_names():
    given = ObjectAttributes(encryption="aws:kms", kms_key="arn:aws:kms:x", bucket_key=True, checksum="crc64nvme")
    given.check("s3://bucket/out")
    assert given.client_options() == {
        "server_side_encryption": "aws:kms",
        "sse_kms_key_id": "arn:aws:kms:x",
        "sse_bucket_key_enabled": True,
        "checksum_algorithm": "crc64nvme",
    }
