"""Storage class, tags, encryption and checksums are set on the objects of shards, and on nothing else."""

import dask
import pytest
from helpers_jobs import blocks_at

from shardedstore import ObjectAttributes, ShardedStore, UsageError
from shardedstore.transforms import CopyTo, ToZip

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


@pytest.mark.parametrize("kind", ["zips", "one Zarr"])
def test_shards_have_the_attributes_and_the_ledger_has_not(bucket, tmp_path, sdk, kind):
    url = f"{bucket[0]}/out"
    source = blocks_at(tmp_path / "source.zarr", 2)
    new = source.map_shards(ToZip(url) if kind == "zips" else CopyTo(url), objects=ATTRIBUTES)
    shards = {"__base__.zarr.zip", "a/0.zarr.zip", "a/1.zarr.zip"} if kind == "zips" else {"a/c/0", "a/c/1"}
    found = attributes(sdk, url)
    assert {
        name for name, given in found.items() if given == ("STANDARD_IA", {"project": "era 5"}, {"owner": "me"})
    } == shards
    others = {name: given for name, given in found.items() if name not in shards}
    others |= attributes(sdk, f"{url}.shardedstore") if kind == "one Zarr" else {}
    assert "shardedstore.json" in others
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
