"""Locations of stores from zarr, obstore and fsspec: they open the same Zarr in any process."""

import json
import pickle

import fsspec
import obstore.store as obs
import pytest
from conformance import check_same_contents, contents_of
from fsspec.asyn import AsyncFileSystem
from sources import build, cube, store_of, to_folder, to_memory, to_objects, to_zip
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, ZipStore

from shardedstore import ConfigError, ShardedStore, UsageError
from shardedstore.storage.client_keywords import keywords
from shardedstore.storage.grants import granted
from shardedstore.storage.options import Options
from shardedstore.stores.locations import Config, Directory, Opened, Zip
from shardedstore.stores.recognise import locate
from shardedstore.transforms import ToZip

SECRET = "SECRET/that+is=told"


pytestmark = pytest.mark.usefixtures("no_credentials")


S3 = {
    "plain": (lambda: obs.S3Store("bucket", region="eu-1"), "s3://bucket", Options(region="eu-1")),
    "anonymous": (lambda: obs.S3Store("bucket", skip_signature=True), "s3://bucket", Options(anonymous=True)),
    "prefix": (lambda: obs.S3Store("b", prefix="a b/100%/c", region="x"), "s3://b/a%20b/100%25/c", Options(region="x")),
    "farm": (
        lambda: obs.S3Store("b", prefix="/p/", endpoint="http://127.0.0.1:9/", region="x", virtual_hosted_style_request=False, client_options={"allow_http": True}),
        "s3://b/p",
        Options(endpoint="http://127.0.0.1:9", region="x", allow_http=True, virtual_hosted_style_request=False),
    ),
    "config": (
        lambda: obs.S3Store("b", config={"AWS_ENDPOINT_URL": "https://q", "aws_default_region": "z", "aws_skip_signature": "true", "request_payer": True}),
        "s3://b",
        Options(endpoint="https://q", region="z", anonymous=True, request_payer=True),
    ),
    "from_url": (lambda: obs.from_url("s3://b/x%20y", skip_signature=True), "s3://b/x%20y", Options(anonymous=True)),
    "gcs": (lambda: obs.GCSStore("b", prefix="p", skip_signature=True), "gs://b/p", Options(anonymous=True)),
    "azure": (lambda: obs.AzureStore("c", prefix="p", account_name="me", skip_signature=True), "az://c/p", Options(account_name="me", anonymous=True)),
    "emulator": (lambda: obs.AzureStore("c", use_emulator=True), "az://c", Options(use_emulator=True)),
    "http": (lambda: obs.HTTPStore("https://host/a%20b/c"), "https://host/a%20b/c", Options()),
    "http, not secure": (lambda: obs.HTTPStore("http://host/a", client_options={"allow_http": True}), "http://host/a", Options(allow_http=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", S3)
def test_obstore(name):
    make, url, options = S3[name]
    found = locate(ObjectStore(make()))
    assert found == Directory(url, options)
    assert not granted([url])
    again = found.open()
    if isinstance(again, ObjectStore):
        assert locate(again) == found
    assert locate(store_of(Config(found))) == Config(found)


def test_obstore_of_local_files(tmp_path):
    contents = build(cube, "v3/")
    to_folder(contents, tmp_path / "a b")
    store = ObjectStore(obs.LocalStore(tmp_path / "a b"))
    assert locate(store) == Directory(f"{tmp_path}/a b")
    view = ShardedStore.partition(store, {"temperature": {"time": 4}, "simulation/*": "whole"})
    check_same_contents(ShardedStore.from_config(view.get_config()), contents)
    check_same_contents(view.map_shards(ToZip(tmp_path / "out")), contents)
    assert locate(ObjectStore(obs.LocalStore())) == Directory("/")


SECRETS = {
    "S3": lambda: obs.S3Store("b", prefix="p", access_key_id=f"id-{SECRET}", secret_access_key=SECRET, session_token=SECRET),
    "S3 with a provider": lambda: obs.S3Store("b", prefix="p", region="x", credential_provider=Provider()),
    "GCS": lambda: obs.GCSStore("b", prefix="p", skip_signature=True, client_options={"default_headers": {"authorization": SECRET}}),
    "Azure": lambda: obs.AzureStore("b", prefix="p", account_name="me", account_key="U0VDUkVUL3RoYXQraXM9dG9sZA=="),
    "Azure with a signature": lambda: obs.AzureStore("b", prefix="p", account_name="me", sas_key=f"sv=2020&sig={SECRET}"),
    "HTTP": lambda: obs.HTTPStore("https://h/p", client_options={"default_headers": {"authorization": SECRET}}),
}  # fmt: skip


class Provider:
    def __init__(self):
        self.secret = SECRET

    def __call__(self):
        return {"access_key_id": "a", "secret_access_key": self.secret, "expires_at": None}

    def __repr__(self):
        return f"Provider({self.secret})"


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_of_obstore_are_held_and_not_told(name):
    store = SECRETS[name]()
    found = locate(ObjectStore(store))
    view = store_of(Config(found))
    told = [
        repr(found),
        str(found),
        pickle.dumps(found),
        json.dumps(view.get_config()),
        repr(view),
        pickle.dumps(view),
        view._repr_html_(),
    ]
    for thing in told:
        data = thing if isinstance(thing, bytes) else thing.encode()
        assert SECRET.encode() not in data
        assert b"U0VDUkVU" not in data
    held = repr(granted([found.url]))
    assert SECRET in held or "U0VDUkVU" in held
    kept = keywords(f"{found.url}/a", found.options)
    assert SECRET in repr(kept) or "U0VDUkVU" in repr(kept)  # the code that opens it again
    if not isinstance(store, obs.HTTPStore):
        again = found.open().store
        assert {**again.config, **store.config} == again.config


@pytest.mark.parametrize(
    "url", [f"https://me:{'x' * 9}@host/a", f"https://host/a?token={'x' * 9}", f"https://{'x' * 9}@host/a"]
)
def test_an_http_store_with_secrets_in_its_url_is_refused(url):
    with pytest.raises(UsageError, match="'https://host/a' holds credentials") as refused:
        locate(ObjectStore(obs.HTTPStore(url)))
    assert "x" * 9 not in str(refused.value)


def test_zarrs_own(tmp_path):
    contents = build(cube, "v3/")
    to_zip(contents, tmp_path / "zarr")
    to_folder(contents, tmp_path / "a")
    assert locate(ZipStore(tmp_path / "zarr", mode="r")) == Zip(f"{tmp_path}/zarr")
    assert locate(LocalStore(tmp_path / "a")) == Directory(f"{tmp_path}/a")
    check_same_contents(
        ShardedStore.from_config(ShardedStore.partition(ZipStore(tmp_path / "zarr", mode="r"), 100).get_config()),
        contents,
    )


MEMORY = {
    "MemoryStore": lambda: to_memory(build(cube, "v3/")),
    "ObjectStore": lambda: to_objects(build(cube, "v3/")),
    "FsspecStore": lambda: in_fsspec(build(cube, "v3/")),
}


def in_fsspec(contents):
    store = FsspecStore.from_url("memory://tests/cube")
    for key, data in contents.items():
        fsspec.filesystem("memory").pipe(f"/tests/cube/{key}", data)
    return store


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_has_no_location(kind, tmp_path):
    store = MEMORY[kind]()
    assert isinstance(locate(store), Opened)
    view = ShardedStore.partition(store, {"temperature": {"time": 4}})
    assert contents_of(view).keys() == build(cube, "v3/").keys()
    refusal = rf"the base is a {kind}, which has no location .* copy the data in memory to a folder first"
    for refused in (
        view.get_config,
        lambda: view.save(tmp_path / "a.json"),
        lambda: view.map_shards(ToZip(tmp_path / "out")),
    ):
        with pytest.raises(ConfigError, match=refusal):
            refused()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_is_refused_inside_of_what_has_a_location(kind, tmp_path):
    to_folder(build(cube, "v3/"), tmp_path / "a")
    inner = ShardedStore(tmp_path / "a", {"simulation/fine": MEMORY[kind]()})
    store = ShardedStore(tmp_path / "a", {"nested": inner})
    with pytest.raises(
        ConfigError, match=rf"shard 'nested': shard 'simulation/fine' is a {kind}, which has no location"
    ):
        store.get_config()


def test_memory_of_a_factory_is_refused(tmp_path):
    import zarr

    stores = {}
    store = ShardedStore(
        tmp_path / "a", array_shard_funcs={"t": (1, lambda index: stores.setdefault(index, MemoryStore()))}
    )
    zarr.create_group(store).create_array("t", shape=(2, 2), chunks=(1, 2), dtype="i4")[...] = 1
    with pytest.raises(
        ConfigError, match=r"shard 't', block '\d' is a MemoryStore, which has no location|shard 't' is a MemoryStore"
    ):
        store.get_config()


# fsspec


class Cloud(AsyncFileSystem):
    """A remote file system, by its name and options."""

    protocol = ("s3", "s3a")
    cachable = False

    @classmethod
    def of(cls, protocol, **options):
        return type("Cloud", (cls,), {"protocol": protocol})(asynchronous=True, **options)


FSSPEC = {
    "anonymous": (("s3", "s3a"), {"anon": True}, "bucket/a b", Directory("s3://bucket/a%20b", Options(anonymous=True))),
    "neutral": ("s3", {"default_block_size": 5, "anon": False}, "/bucket/a/", Directory("s3://bucket/a")),
    "farm": (
        ("s3",),
        {"endpoint_url": "http://127.0.0.1:9", "client_kwargs": {"region_name": "x"}},
        "b/p",
        Directory("s3://b/p", Options(endpoint="http://127.0.0.1:9", region="x")),
    ),
    "farm, the older way": (
        "s3",
        {"client_kwargs": {"endpoint_url": "https://q"}, "key": None},
        "b",
        Directory("s3://b", Options(endpoint="https://q")),
    ),
    "gcs": (("gs", "gcs"), {"token": "anon"}, "b/p", Directory("gs://b/p", Options(anonymous=True))),
    "azure": (("abfs", "az"), {"account_name": "me"}, "c/p", Directory("az://c/p", Options(account_name="me"))),
    "http": (("http", "https"), {}, "https://host/a%20b", Directory("https://host/a%20b")),
}


@pytest.mark.parametrize("name", FSSPEC)
def test_fsspec(name):
    protocol, options, path, expected = FSSPEC[name]
    assert locate(FsspecStore(Cloud.of(protocol, **options), path=path)) == expected
    assert not granted([expected.url])


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("s3", {"config_kwargs": {"a": 1}}),
        ("s3", {"client_kwargs": {"verify": False}}),
        ("s3", {"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}}),
        ("gs", {"token": "/home/me/key.json"}),
        ("az", {"connection_string": SECRET}),
        ("https", {"client_kwargs": {"headers": {"authorization": SECRET}}}),
        ("ftp", {}),
        ("reference", {}),
    ],
    ids=str,
)
def test_fsspec_whose_options_are_not_known(protocol, options):
    store = FsspecStore(Cloud.of(protocol, **options), path="b/p")
    assert locate(store) == Opened(store)
    with pytest.raises(ConfigError, match="give its path or URL instead of the opened store") as refused:
        ShardedStore(store).get_config()
    assert SECRET not in str(refused.value)


def test_secrets_of_fsspec_are_held_and_not_told():
    given = {"key": f"id-{SECRET}", "secret": SECRET, "token": SECRET, "endpoint_url": "https://q"}
    found = locate(FsspecStore(Cloud.of("s3", **given), path="b/p"))
    assert found == Directory("s3://b/p", Options(endpoint="https://q"))
    assert SECRET.encode() not in pickle.dumps(found) + repr(found).encode()
    assert keywords("s3://b/p/x", found.options) == {
        "access_key_id": f"id-{SECRET}",
        "secret_access_key": SECRET,
        "session_token": SECRET,
        "endpoint": "https://q",
    }


def test_fsspec_of_local_files(tmp_path):
    contents = build(cube, "v3/")
    to_folder(contents, tmp_path / "a b")
    for store in (FsspecStore.from_url(f"file://{tmp_path}/a b"), FsspecStore.from_url(f"{tmp_path}/a b")):
        assert locate(store) == Directory(f"{tmp_path}/a b")
    check_same_contents(ShardedStore.from_config(ShardedStore.partition(store, 100).get_config()), contents)


def test_fsspec_at_a_url_with_secrets():
    with pytest.raises(UsageError, match="'https://host/a' holds credentials"):
        locate(FsspecStore(Cloud.of("https"), path="https://me:secret@host/a"))
