"""The client of Google Cloud Storage on an S3 server, as its XML API differs in a few header fields only.

This tests our code and obstore's, but not Google's.
"""

import json
import re
from hashlib import sha256

import dask
import numpy as np
import pytest
import zarr
from conformance import check_same_contents
from faultproxy import FaultProxy
from sources import SOURCES, to_folder

from shardedstore import ObjectAttributes, ShardedStore, UsageError
from shardedstore.storage.folders import open_folder
from shardedstore.storage.urls import BESIDE
from shardedstore.transforms import CopyTo, ToZip


class GoogleFront(FaultProxy):
    """Makes an S3 server look like Google's."""

    def asked(self, head):
        raw = re.sub(rb"(?i)\r\nx-goog-if-generation-match: 0\r\n", b"\r\nif-none-match: *\r\n", head.raw)
        raw = re.sub(rb"(?i)\r\nauthorization: [^\r]*", b"", raw)
        first, rest = raw.split(b"\r\n", 1)
        return head._replace(raw=first.replace(b"%2F", b"/") + b"\r\n" + rest)

    def answered(self, head):
        if "etag" not in head.fields:
            return head
        generation = int(sha256(head.fields["etag"].encode()).hexdigest()[:12], 16)
        return head._replace(raw=head.raw[:-2] + b"x-goog-generation: %d\r\n\r\n" % generation)


@pytest.fixture
def front(s3_server, use_environment):
    """A server like Google's, with credentials in the environment."""
    with GoogleFront(s3_server.endpoint) as front:
        key = {
            "gcs_base_url": front.url,
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        use_environment({"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key), "GOOGLE_ALLOW_HTTP": "true"})
        yield front


@pytest.fixture
def google(front, unique):
    """The URL of an empty folder in a Google bucket."""
    return f"gs://open/{unique}"


@pytest.mark.few(1)
@pytest.mark.parametrize("kind", ["zips", "one", "shards"])
def test_results_in_google_cloud_storage(kind, google, tmp_path):
    contents, shards = SOURCES["others-v3"].contents(), SOURCES["others-v3"].shards
    url = f"{google}/a result"
    sink = {"zips": ToZip(url), "one": CopyTo(url), "shards": CopyTo(url, layout="shards")}[kind]
    view = ShardedStore.partition(to_folder(contents, tmp_path / "source"), shards)
    with dask.config.set(scheduler="synchronous"):
        check_same_contents(view.map_shards(sink), contents)
        assert view.map_shards(sink).summary.done == 0
    loaded = ShardedStore.load(url + BESIDE * (kind == "one"))
    check_same_contents(loaded, contents)
    if kind == "one":
        check_same_contents(ShardedStore.partition(url, shards), contents)


def test_a_large_zip_goes_up_in_parts(google, tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (20, 1024, 1024), "u1")
    zarr.open_group(tmp_path / "source", mode="w").create_array(
        "a", data=data, chunks=(1, 1024, 1024), compressors=None
    )
    with dask.config.set(scheduler="synchronous"):
        result = ShardedStore.partition(tmp_path / "source", ["a"]).map_shards(ToZip(f"{google}/large"))
    np.testing.assert_array_equal(zarr.open_group(result)["a"][:], data)


def test_only_one_makes_a_file(google):
    place = open_folder(google)
    place.write("a", b"1", create=True)
    with pytest.raises(FileExistsError, match="the object exists already"):
        place.write("a", b"2", create=True)
    assert place.read("a") == b"1"


def test_shards_have_the_class_and_the_metadata(front, google, tmp_path):
    blocks = zarr.create_array(tmp_path / "source", name="a", data=np.arange(8), chunks=(2,))
    given = ObjectAttributes(storage_class="NEARLINE", metadata={"owner": "me"})
    with dask.config.set(scheduler="synchronous"):
        new = ShardedStore.partition(tmp_path / "source", {"a": (4,)}).map_shards(ToZip(google), objects=given)
        assert new.verify().ok
    np.testing.assert_array_equal(zarr.open_group(new)["a"][:], blocks[:])
    expected = {"x-goog-storage-class": "NEARLINE", "x-goog-meta-owner": "me"}
    writes = list(front.writes())
    for name, fields in writes:
        found = {key: fields[key] for key in expected if key in fields}
        assert found == (expected if name.endswith(".zip") else {}), name
    assert sum(name.endswith(".zip") for name, _ in writes) == 3


def test_tags_are_refused(google, tmp_path):
    zarr.create_array(tmp_path / "source", name="a", data=np.arange(8), chunks=(2,))
    view = ShardedStore.partition(tmp_path / "source", ["a"])
    with pytest.raises(UsageError, match="tags"):
        view.map_shards(ToZip(google), objects=ObjectAttributes(tags={"project": "era5"}))
