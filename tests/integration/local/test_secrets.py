"""Secrets must not appear in files, graphs, logs, errors, reprs, pickles or fingerprints."""

import logging
import os
import pickle
import re
import sys
import traceback
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import dask
import msgspec
import obstore
import pytest
from conformance import contents_of
from dask.tokenize import tokenize
from distributed import Client, LocalCluster
from helpers_jobs import CUBE, CUBE_SHARDS, Fail, cube_at, division
from msgspec.structs import replace
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store
from servers import ADMIN
from zarr.storage import ObjectStore

from shardedstore import ChainError, DestinationError, ShardedStore, ShardsFailed, Step, UsageError
from shardedstore.config.document import dump, from_dict, to_dict
from shardedstore.fields import FILE_NAME
from shardedstore.jobs import shards
from shardedstore.jobs.executors.credentials import credentials_on
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.jobs.layouts.registry import choose_layout
from shardedstore.jobs.preflight import source_urls
from shardedstore.storage.client_keywords import keywords
from shardedstore.storage.grants import grant, granted, revoke
from shardedstore.storage.options import Options, take_options
from shardedstore.storage.retry import Backoff
from shardedstore.stores.http import HTTPReadStore
from shardedstore.stores.locations import BlockOf, Config, Directory, Group, Mount, Own, PartOf, ViewOf
from shardedstore.stores.members import Members
from shardedstore.stores.recognise import locate
from shardedstore.transforms import CopyTo, MigrateV3, ToShardingCodec, ToZip
from shardedstore.transforms.base.chain import parse_chain
from shardedstore.zarr.grid import Blocks, ChunkKeys
from shardedstore.zips import ZipReadStore
from tests.integration.local.test_own_transforms import MODULES

VARIABLE = "SHARDEDSTORE_TEST_KEY"
KEY = "c0ffee15600d" + "7e57" * 13  # 64 hexadecimal digits
CANARY = "canary/that+sings"
OPTIONS = {
    "AWS_ACCESS_KEY_ID": f"id-{CANARY}",
    "secret_access_key": CANARY,
    "session_token": f"token-{CANARY}",
    "endpoint": "http://127.0.0.1:9",
    "region": "here",
    "client_options": {"default_headers": {"authorization": CANARY}, "timeout": "1s"},
}


def forms(secret: str) -> list[bytes]:
    """Forms of a secret: plain, in other case, quoted, in base64, and as bytes if it is hexadecimal."""
    plain = [secret.encode(), secret.encode().hex().encode(), repr(secret.encode()).encode()]
    if re.fullmatch("[0-9a-f]{64}", secret):
        plain += [bytes.fromhex(secret), repr(bytes.fromhex(secret))[2:-1].encode(), secret.upper().encode()]
    # base64 depends on the secret's position in groups of three bytes, so its middle is encoded at all three
    shifted = [b64encode(b"\0" * shift + part)[4:-4] for part in plain for shift in range(3)]
    return plain + [part for part in shifted if len(part) > 8]


def leaks(secret: str, things: dict[str, object]) -> list[str]:
    """The names of the objects that hold a secret."""
    wanted = forms(secret)

    def holds(thing: object) -> bool:
        data = thing if isinstance(thing, bytes) else str(thing).encode()
        return any(form in data for form in wanted)

    return [name for name, thing in things.items() if holds(thing)]


def files(folder: Path) -> dict[str, bytes]:
    """The contents and the names of all files."""
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {**found, "the names": "\n".join(found).encode()}


def told(error: BaseException) -> str:
    """The text of an exception with its causes and tracebacks."""
    return "".join(traceback.format_exception(error)) + repr(error)


def of_scheduler(client: Client) -> bytes:
    """The memory of the scheduler: tasks and their functions, events, its log and those of workers."""

    def look(dask_scheduler):
        tasks = {str(key): state.run_spec for key, state in dask_scheduler.tasks.items()}
        told = str((list(tasks), dask_scheduler.get_events(), dask_scheduler.transition_log, dask_scheduler.get_logs()))
        return told.encode() + cloudpickle.dumps(tasks)

    return client.run_on_scheduler(look) + str((client.get_worker_logs(), client.get_scheduler_logs())).encode()


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    """Make tasks small, as the small sources of tests would otherwise be one task."""
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1)
    monkeypatch.setattr("shardedstore.storage.retry.BACKOFF", Backoff(0.001))


def log_all(folder: str) -> None:
    logging.basicConfig(filename=f"{folder}/{os.getpid()}.log", level=logging.DEBUG)


@pytest.fixture
def client(tmp_path):
    """Two worker processes that log to files."""
    logs = tmp_path / "logs"
    logs.mkdir()
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=False,
            local_directory=str(tmp_path / "dask"),
        ) as local,
        Client(local) as made,
    ):
        made.run(log_all, str(logs))
        yield made


@pytest.fixture
def encryption(tmp_path, monkeypatch):
    """The module of the page, which workers can import; the key is in the environment."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "encryption.py").write_text(MODULES["encryption.py"])
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.delitem(sys.modules, "encryption", raising=False)
    import encryption

    yield encryption
    sys.modules.pop("encryption", None)


@pytest.mark.cluster
@pytest.mark.slow
def test_the_key_of_the_page_is_nowhere(encryption, client, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    store = division(cube_at(tmp_path / "source.zarr"))
    chain = encryption.Encrypt(VARIABLE), ToZip(tmp_path / "out")
    lazy = store.map_shards(*chain, compute=False)
    seen = {
        "the graph": cloudpickle.dumps(dict(lazy.__dask_graph__())),
        "the graph's text": str(dict(lazy.__dask_graph__())) + repr(lazy),
        "the chain": pickle.dumps(chain) + repr(chain).encode(),
        "the fingerprint": fingerprint(parse_chain(chain)),
    }
    with pytest.raises(ShardsFailed) as failed:
        store.map_shards(chain[0], Fail("height[1]"), ToZip(tmp_path / "failed"))
    assert failed.value.exceptions[0].shard == "height[1]"
    seen["the failure"] = told(failed.value) + repr(failed.value.exceptions)
    scheduler = []
    result = store.map_shards(*chain, progress=lambda *_: scheduler.append(of_scheduler(client)))
    assert result.summary.done == CUBE_SHARDS
    seen["the scheduler"] = b"".join(scheduler)
    assert b"run_cancellable" in seen["the scheduler"]
    seen["the result"] = pickle.dumps(result) + repr((result, result.summary, result.get_config())).encode()
    decrypted = result.map_shards(encryption.Decrypt(VARIABLE), CopyTo(tmp_path / "clear.zarr"))
    assert contents_of(decrypted).keys() == CUBE.contents().keys()
    seen["the log"] = caplog.text
    written = files(tmp_path)
    assert any(b"is not to the step's taste" in data for name, data in written.items() if name.endswith(".log"))
    assert any(name.endswith(FILE_NAME) for name in written)
    assert any(name.endswith(".zarr.zip") for name in written)
    assert any(name.endswith(".jsonl") for name in written)
    assert leaks(KEY, {**seen, **written}) == []


@pytest.mark.parametrize("key", [KEY[:-1], KEY[:-2], f"{KEY}!"])
def test_a_key_that_is_wrong_is_not_told(encryption, key, tmp_path, monkeypatch, caplog):
    store = division(cube_at(tmp_path / "source.zarr"))
    chain = encryption.Encrypt(VARIABLE), ToZip(tmp_path / "out")
    lazy = store.map_shards(*chain, compute=False)
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(ChainError, match="must hold 64, 96 or 128") as refused:
        store.map_shards(*chain)
    with pytest.raises(ShardsFailed) as failed:
        lazy.compute(scheduler="synchronous")
    assert len(failed.value.exceptions) == CUBE_SHARDS
    assert f"${VARIABLE} must hold" in caplog.text
    seen = {"refused": told(refused.value), "failed": told(failed.value), "the log": caplog.text}
    assert leaks(KEY[:-3], {**seen, **files(tmp_path)}) == []


@dataclass(frozen=True)
class Hidden(Step):
    token: str = field(repr=False, compare=False)

    def __call__(self, entries, shard):
        return entries


def test_a_field_that_is_hidden_is_pickled_all_the_same():
    """The page's advice for such fields, which also proves that the search works."""
    chain = [Hidden(CANARY), ToZip("out")]
    things = {
        "repr": repr(chain),
        "fingerprint": fingerprint(parse_chain(chain)),
        "pickle": pickle.dumps(chain),
        "base64": b64encode(b"before" + CANARY.encode() + b"behind"),
    }
    assert leaks(CANARY, things) == ["pickle", "base64"]
    assert fingerprint(parse_chain(chain)) == fingerprint(parse_chain([Hidden("another"), ToZip("out")]))
    assert leaks(KEY, {"text": KEY, "bytes": bytes.fromhex(KEY), "upper": KEY.upper(), "half": KEY[:32]}) == [
        "text",
        "bytes",
        "upper",
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ToZip("s3://bucket/x", storage_options=OPTIONS),
        lambda: CopyTo("s3://bucket/x.zarr", storage_options=OPTIONS),
        lambda: ToShardingCodec("s3://bucket/x.zarr", storage_options=OPTIONS),
        lambda: ZipReadStore("s3://bucket/x.zip", storage_options=OPTIONS),
        lambda: ShardedStore(ZipReadStore("s3://bucket/x.zip", storage_options=OPTIONS)),
    ],
    ids=["ToZip", "CopyTo", "ToShardingCodec", "ZipReadStore", "ShardedStore"],
)
def test_what_is_secret_in_storage_options_stays_out(make):
    thing = make()
    things = {
        "repr": repr(thing),
        "str": str(thing),
        "pickle": pickle.dumps(thing),
        "cloudpickle": cloudpickle.dumps(thing),
    }
    if isinstance(thing, ShardedStore):
        things["config"] = thing.get_config()
    elif not isinstance(thing, ZipReadStore):
        things["fingerprint"] = fingerprint(parse_chain([MigrateV3(), thing]))
        things["location"] = repr(thing.location("s3://bucket/x/0.zip"))
    assert leaks(CANARY, things) == []
    assert b"127.0.0.1:9" in things["pickle"]  # public options are there


# Every entry point, for every kind of location

CLOUD = {"access_key_id": f"id-{CANARY}", "secret_access_key": CANARY, "session_token": f"t-{CANARY}"}
AZURE = {"account_name": "mine", "account_key": b64encode(CANARY.encode()).decode()}
HEADERS = {"default_headers": {"authorization": f"Bearer {CANARY}"}}


WAYS = {
    "storage_options": lambda: locate("s3://bucket/a", OPTIONS),
    "storage_options, a zip": lambda: locate("s3://bucket/a.zip", OPTIONS),
    "storage_options by their names in the environment": lambda: locate("s3://bucket/a", {f"AWS_{k.upper()}": v for k, v in CLOUD.items()}),
    "storage_options, Azure": lambda: locate("az://container/a", AZURE),
    "storage_options, Azure's signature": lambda: locate("az://container/a", {"account_name": "mine", "sas_token": f"sv=1&sig={CANARY}"}),
    "storage_options, Google": lambda: locate("gs://bucket/a", {"service_account_key": f'{{"private_key": "{CANARY}"}}'}),
    "storage_options, a web server": lambda: locate("https://host/a", {"client_options": HEADERS}),
    "storage_options, a proxy": lambda: locate("s3://bucket/a", {"proxy_url": f"http://me:{CANARY}@host"}),
    "the environment": lambda: locate("s3://bucket/a"),
    "a zip that is open": lambda: locate(ZipReadStore("s3://bucket/a.zip", storage_options=OPTIONS)),
    "S3Store": lambda: locate(ObjectStore(S3Store("bucket", prefix="a", region="here", **CLOUD))),
    "GCSStore": lambda: locate(ObjectStore(GCSStore("bucket", prefix="a", skip_signature=True, client_options=HEADERS))),
    "AzureStore": lambda: locate(ObjectStore(AzureStore("container", prefix="a", **AZURE))),
    "HTTPStore": lambda: locate(ObjectStore(HTTPStore("https://host/a", client_options=HEADERS))),
    "HTTPReadStore": lambda: locate(HTTPReadStore("https://host/a", take_options("https://host/a", {"client_options": HEADERS}))),
}  # fmt: skip
BLOCKS = Blocks((7, 5), (3,), ChunkKeys("default", "/"))
KINDS = {
    "itself": Config,
    "a shard": lambda found: Config(Group(), {"a": Mount(found)}),
    "a template": lambda found: Config(Group(), {"a": Mount(replace(found, url=f"{found.url}/{{block}}"), BLOCKS)}),
    "an exception": lambda found: Config(Group(), {"a": Mount(ViewOf(Directory("/a"), "t"), BLOCKS, {"1": found})}),
    "members": lambda found: Config(Group(), {"a": Mount(replace(found, url=f"{found.url}/{{name}}"), members=Members(("a", "b")))}),
    "a view": lambda found: Config(ViewOf(found, "g")),
    "a part": lambda found: Config(PartOf(found, ("g",))),
    "a block": lambda found: Config(BlockOf(found, "t", BLOCKS, (1,))),
    "a nested store": lambda found: Config(Config(found, {"x": Mount(found)}, found)),
    "a kind of one's own": lambda found: Config(Own("sqlite", found.url, {"table": "a"}, found.options)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("no_credentials")
@pytest.mark.few(60)
def test_no_way_in_leads_out(way, kind, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    for name, value in CLOUD.items():
        monkeypatch.setenv(f"AWS_{name.upper()}", value)
    monkeypatch.setenv("AWS_REGION", "here")
    found = WAYS[way]()
    config = KINDS[kind](found)
    store = ShardedStore.from_config(to_dict(config))
    store.save(tmp_path / "config.json")
    things = {
        "the location": repr(found) + str(found) + found.show(),
        "its pickle": pickle.dumps(found) + cloudpickle.dumps(found) + msgspec.json.encode(found),
        "the config": repr(config) + str(to_dict(config)),
        "what is saved beside it": dump(config, found.url, found.options),
        "the store": repr(store) + str(store) + store._repr_html_() + repr(store.get_config()),
        "its pickle, too": pickle.dumps(store) + cloudpickle.dumps(store),
        "its fingerprint": repr(tokenize(config)),
        "the log": caplog.text,
    }
    secrets = [CANARY, AZURE["account_key"]]
    for secret in secrets:
        assert leaks(secret, {**things, **files(tmp_path)}) == []
    if way != "the environment":  # given options are held for exactly this place
        assert any(leaks(secret, {"held": keywords(f"{found.url}/x", found.options)}) for secret in secrets)


@pytest.mark.parametrize(
    "give",
    [
        lambda: locate(f"s3://me:{CANARY.replace('/', '%2F')}@bucket/a"),
        lambda: locate("s3://bucket/a?X-Amz-Signature=5ec2e7"),
        lambda: locate("https://host/a.zip?sv=2020&sig=5ec2e7"),
        lambda: locate("https://me:5ec2e7@host/a"),
        lambda: locate("https://5ec2e7@host/a"),
        lambda: locate("abfss://container:5ec2e7@account.dfs.core.windows.net/a"),
        lambda: locate("s3://bucket/a", {"endpoint": "https://me:5ec2e7@host"}),
        lambda: locate("s3://bucket/a", {"endpoint": "https://host/?token=5ec2e7"}),
        lambda: locate(ObjectStore(HTTPStore("https://me:5ec2e7@host/a"))),
        lambda: locate(ObjectStore(HTTPStore("https://host/a?token=5ec2e7"))),
        lambda: locate(ObjectStore(S3Store("bucket", region="x", endpoint="https://me:5ec2e7@host"))),
        lambda: ShardedStore("https://me:5ec2e7@host/a"),
        lambda: ShardedStore.partition("https://host/a?sig=5ec2e7"),
        lambda: ShardedStore.load("https://host/shardedstore.json?sig=5ec2e7"),
        lambda: ToZip("s3://me:5ec2e7@bucket/a"),
        lambda: ZipReadStore("https://host/a.zip?sig=5ec2e7"),
        lambda: from_dict(document({"url": "https://me:5ec2e7@host/a"})),
        lambda: from_dict(document({"url": "s3://bucket/a?sig=5ec2e7"})),
        lambda: from_dict(document({"url": "s3://bucket/a", "options": {"endpoint": "https://me:5ec2e7@host"}})),
        lambda: from_dict(document({"url": "s3://bucket/a", "options": {"endpoint": "https://host?sig=5ec2e7"}})),
        lambda: from_dict(document({"url": "s3://bucket/a", "options": {"secret_access_key": "5ec2e7"}})),
        lambda: from_dict(document({"kind": "own", "name": "sqlite", "url": "/a", "settings": {"password": "5ec2e7"}})),
        lambda: Own("sqlite", "/a", {"password": "5ec2e7"}),
    ],
)
def test_what_holds_a_secret_for_all_to_read_is_refused(give, caplog):
    """The error does not contain it either."""
    with pytest.raises(
        ValueError, match=r"holds credentials|unknown field `secret_access_key`|for all to read"
    ) as refused:
        give()
    message = str(refused.value) + repr(refused.value) + caplog.text
    assert leaks("5ec2e7", {"the error": message}) == []
    assert leaks(CANARY, {"the error": message}) == []


def document(base):
    return {"format": "shardedstore", "version": 1, "base": {"kind": "directory", **base}}


@pytest.mark.parametrize(
    "options",
    [
        {"secret_access_key": CANARY, "no_such_option": CANARY},
        {"secret_access_key": [CANARY]},
        {"secret_access_key": {"of": CANARY}},
        {"access_key_id": CANARY, "timeout": CANARY},
        {"client_options": {"no_such_option": CANARY}},
        {"client_options": CANARY},
        {"region": [CANARY]},
        {"proxy_url": f"http://me:{CANARY}@"},
    ],
    ids=str,
)
def test_options_that_are_wrong_are_not_told(options, tmp_path):
    store = division(cube_at(tmp_path / "source.zarr"))
    with pytest.raises((UsageError, TypeError, ValueError)) as refused:
        store.map_shards(ToZip("s3://bucket/x", storage_options=options))
    assert leaks(CANARY, {"the error": told(refused.value)}) == []


def test_what_is_secret_is_for_one_account():
    mine = take_options("az://container/mine", {"account_name": "mine", "account_key": CANARY})
    assert leaks(CANARY, keywords("az://container/mine/a", mine)) != []
    for other in (Options(account_name="other"), Options(account_name="mine", use_emulator=True), Options()):
        assert leaks(CANARY, keywords("az://container/mine/a", other)) == []


@pytest.mark.cluster
@pytest.mark.slow
def test_workers_forget_what_they_were_given_with_the_last_job_that_needs_it(client, tmp_path):
    url = "s3://bucket/lent"
    take_options(url, {"secret_access_key": CANARY})
    layout = choose_layout(parse_chain([ToZip(url)]).sink)
    urls = [*source_urls(division(cube_at(tmp_path / "source.zarr")).config), *layout.written_urls]

    def known():
        return [bool(leaks(CANARY, given)) for given in client.run(keywords, f"{url}/a", Options()).values()]

    assert known() == [False, False]
    with credentials_on(client, urls):
        with credentials_on(client, urls):
            assert known() == [True, True]
        assert known() == [True, True]
    assert known() == [False, False]
    assert leaks(CANARY, keywords(f"{url}/a", Options())) != []  # the user gave them to this process


def test_what_was_given_last_is_used_and_then_what_was_given_before():
    url, key = "s3://bucket/granted", ("s3://bucket/granted", None)
    grant({key: {"token": "first"}}, "one")
    grant({key: {"token": "second"}}, "another")
    assert keywords(url, Options()) == {"token": "second"}
    assert granted([url]) == {key: {"token": "second"}}
    revoke("another")
    assert keywords(url, Options()) == {"token": "first"}
    revoke("one")
    revoke("one")
    assert keywords(url, Options()) == {}


@pytest.mark.cluster
@pytest.mark.slow
def test_the_secrets_of_a_bucket_are_nowhere(s3_server, use_environment, client, tmp_path, caplog):
    use_environment({})
    caplog.set_level(logging.DEBUG)
    place = s3_server.folder("tests", "secrets")
    options = {"endpoint": s3_server.endpoint, "region": "us-east-1"}
    right = {**options, "access_key_id": ADMIN.key, "secret_access_key": ADMIN.secret}
    store = division(cube_at(tmp_path / "source.zarr"))
    with pytest.raises(DestinationError) as refused:
        store.map_shards(ToZip(f"{place.url}/no", storage_options={**right, "secret_access_key": CANARY}))
    seen = {"refused": told(refused.value)}
    store.map_shards(CopyTo(f"{place.url}/copy.zarr", storage_options=right))
    source = ShardedStore.partition(f"{place.url}/copy.zarr", CUBE.shards, storage_options=right)
    sink = ToZip(f"{place.url}/out", storage_options=right)
    with pytest.raises(ShardsFailed) as failed:
        source.map_shards(Fail("height[1]"), ToZip(f"{place.url}/failed", storage_options=right))
    scheduler = []
    result = source.map_shards(sink, progress=lambda *_: scheduler.append(of_scheduler(client)))
    lazy = source.map_shards(sink, compute=False)
    loaded = ShardedStore.load(f"{place.url}/out", storage_options=right)
    with dask.config.set(scheduler="synchronous"):
        copied = loaded.map_shards(CopyTo(tmp_path / "back.zarr"))
    assert contents_of(copied).keys() == CUBE.contents().keys()
    loaded.save(tmp_path / "config.json")
    bucket, _, prefix = place.url.removeprefix("s3://").partition("/")
    client_options = {"client_options": {"allow_http": True}}
    opened = ShardedStore.partition(
        ObjectStore(S3Store(bucket, prefix=f"{prefix}/copy.zarr", **right, **client_options)), CUBE.shards
    )
    assert opened.config.base.url == source.config.base.url
    assert opened.map_shards(ToZip(tmp_path / "from-opened")).summary.done == CUBE_SHARDS
    seen |= {
        "the failure": told(failed.value) + repr(failed.value.exceptions),
        "the graph": cloudpickle.dumps(dict(lazy.__dask_graph__())),
        "the graph's text": str(dict(lazy.__dask_graph__())) + repr(lazy),
        "the fingerprint": fingerprint(parse_chain([sink])),
        "the scheduler": b"".join(scheduler),
        **{
            f"{name} as {kind}": made
            for name, thing in {
                "source": source,
                "opened": opened,
                "result": result,
                "loaded": loaded,
                "sink": sink,
            }.items()
            for kind, made in {
                "a text": repr(thing) + (thing._repr_html_() if isinstance(thing, ShardedStore) else ""),
                "a pickle": pickle.dumps(thing),
            }.items()
        },
        "the config": source.get_config(),
        "the loaded config": loaded.get_config(),
    }
    seen["the log"] = caplog.text
    objects = {found["path"]: bytes(obstore.get(place.client, found["path"]).bytes()) for found in _all(place.client)}
    assert any(name.endswith(FILE_NAME) for name in objects)
    for secret in (ADMIN.secret, ADMIN.key, CANARY):
        assert leaks(secret, {**seen, **objects, **files(tmp_path), "the names": str(list(objects))}) == []


def _all(client):
    return [found for batch in obstore.list(client) for found in batch]
