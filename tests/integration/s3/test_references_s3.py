"""References and Icechunk repositories in an object store as sources."""

import re
import sys

import dask
import obstore
import pytest
import zarr
from click.testing import CliRunner
from servers import ADMIN, GUEST
from sources import SOURCES, to_folder

from shardedstore import ShardedStore, ShardsFailed, UsageError
from shardedstore.cli import main
from shardedstore.export.icechunk import create_repository
from shardedstore.transforms import ToZip

pytestmark = [pytest.mark.s3, pytest.mark.slow]
needs_icechunk = pytest.mark.skipif(sys.version_info < (3, 12), reason="icechunk 2 needs Python 3.12")
CUBES = {2: SOURCES["consolidated-v2"], 3: SOURCES["consolidated-v3"]}


@pytest.fixture(autouse=True)
def _threads():
    with dask.config.set(scheduler="threads"):
        yield


@pytest.fixture
def make(bucket, s3_server, tmp_path):
    """Return a function that exports zips to references of one form, and returns the source and the URL of the references."""

    def make(form, data=f"{bucket.url}/zips ä", target=bucket.url):
        cube = CUBES[3 if form == "icechunk" else 2]
        source = ShardedStore.partition(to_folder(cube.contents(), tmp_path / "source.zarr"), cube.shards)
        zips = source.map_shards(ToZip(data))
        if form == "icechunk":
            options = server(s3_server) if target.startswith("s3://") else None
            zips.to_icechunk(create_repository(f"{target}/repo", zips, options))
            return source, f"{target}/repo/|icechunk:@branch.main/"
        url = f"{target}/refs.{'json' if form == 'json' else 'parq'}"
        zips.to_kerchunk(url, parquet=form == "parquet")
        return source, url

    return make


def server(s3_server):
    return {"endpoint": s3_server.endpoint, "region": "us-east-1", "allow_http": True}


def keys(s3_server, identity=ADMIN):
    return {**server(s3_server), "access_key_id": identity.key, "secret_access_key": identity.secret}


def opened(url, options=None):
    return ShardedStore.partition(url, CUBES[3 if "icechunk" in url else 2].shards, storage_options=options)


FORMS = ["json", "parquet", pytest.param("icechunk", marks=needs_icechunk)]


@pytest.mark.few(1)
@pytest.mark.parametrize("form", FORMS)
def test_references_in_an_object_store_are_a_source(form, make, s3_server, tmp_path, use_environment):
    """The credentials come from the environment at first, and then from storage_options alone."""
    source, url = make(form)
    assert opened(url).map_shards(ToZip(tmp_path / "out")).verify(source).ok
    use_environment({})
    store = opened(url, keys(s3_server))
    assert store.plan(ToZip(tmp_path / "again"))
    result = store.map_shards(ToZip(tmp_path / "again"))
    assert result.verify(source).ok
    assert store.verify(result).ok
    assert ADMIN.secret.encode() not in b"".join(
        path.read_bytes() for path in (tmp_path / "again").rglob("*") if path.is_file()
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("form", FORMS)
def test_local_references_lead_to_an_object_store(form, make, s3_server, tmp_path, use_environment):
    source, url = make(form, target=str(tmp_path))
    assert opened(url).map_shards(ToZip(tmp_path / "out")).verify(source).ok
    use_environment({})
    options = {**keys(s3_server), "allow": "s3://tests"}
    assert opened(url, options).map_shards(ToZip(tmp_path / "again")).verify(source).ok


@pytest.mark.few(1)
@pytest.mark.parametrize("form", FORMS)
def test_references_in_an_object_store_to_local_files_need_consent(form, make, s3_server, tmp_path):
    source, url = make(form, data=str(tmp_path / "zips"))
    with pytest.raises(ShardsFailed) as failed:
        opened(url).map_shards(ToZip(tmp_path / "out"))
    assert "if that is right, give the storage option allow=" in str(failed.value.exceptions[0].cause)
    options = {**keys(s3_server), "allow": str(tmp_path / "zips")}
    assert opened(url, options).map_shards(ToZip(tmp_path / "again")).verify(source).ok


@pytest.mark.nightly
@pytest.mark.parametrize("form", FORMS)
def test_the_commands(form, make, tmp_path):
    _, url = make(form)
    out = str(tmp_path / "out")
    for command in (["ls", url], ["convert", url, out, "--to", "zip"], ["verify", out, "--against", url]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, (command, done.output, done.exception)


@needs_icechunk
def test_versions_of_a_repository(bucket, s3_server):
    import icechunk

    place = {"bucket": "tests", "prefix": bucket.url.removeprefix("s3://tests/") + "/repo"}
    client = {"endpoint_url": s3_server.endpoint, "allow_http": True, "region": "us-east-1", "force_path_style": True}
    made = icechunk.Repository.create(icechunk.s3_storage(**place, **client, from_env=True))
    ids = []
    for value in (1, 2):
        session = made.writable_session("main")
        zarr.create_array(session.store, name="x", shape=4, chunks=2, dtype="u1", overwrite=True)[:] = value
        ids.append(session.commit("values"))
    made.create_tag("v1", ids[0])
    for version, value in {"": 2, "@branch.main/": 2, "@tag.v1/": 1, f"@{ids[0]}/": 1, "@tag.v1/|zarr3:": 1}.items():
        store = ShardedStore.partition(f"{bucket.url}/repo/|icechunk:{version}", [])
        assert (zarr.open_array(store, path="x", mode="r")[:] == value).all()
    with pytest.raises(UsageError, match="can't be opened as a version"):
        ShardedStore.partition(f"{bucket.url}/repo/|icechunk:@tag.none/")


def lose(bucket):
    for batch in obstore.list(bucket.client):
        for found in batch:
            if found["path"].endswith(".zip"):
                obstore.delete(bucket.client, found["path"])


def replace(bucket):
    for batch in obstore.list(bucket.client):
        for found in batch:
            if found["path"].endswith(".zip"):
                data = obstore.get(bucket.client, found["path"]).bytes().to_bytes()
                obstore.put(bucket.client, found["path"], bytes(len(data)))


FAULTS = {
    ("json", lose): "which is missing or too short: restore it, or make the references again",
    ("parquet", lose): "which is missing or too short: restore it, or make the references again",
    ("icechunk", lose): "leads to an object that is missing",
    ("icechunk", replace): "leads to an object that was replaced",
}


@pytest.mark.few(2)
@pytest.mark.parametrize(("form", "fault"), FAULTS)
def test_objects_that_changed(form, fault, make, bucket, tmp_path):
    if form == "icechunk":
        pytest.importorskip("icechunk")
    _, url = make(form)
    fault(bucket)
    with pytest.raises(ShardsFailed) as failed:
        opened(url).map_shards(ToZip(tmp_path / "out"))
    causes = [str(error.cause) for error in failed.value.exceptions]
    assert any(FAULTS[form, fault] in cause for cause in causes), causes


@pytest.mark.parametrize("form", FORMS)
def test_a_user_without_permission(form, make, s3_server, tmp_path, use_environment):
    _, url = make(form)
    use_environment({})
    for identity in (GUEST, GUEST._replace(name="nobody")):
        done = CliRunner().invoke(
            main,
            ["convert", url, str(tmp_path / "out"), "--to", "zip"],
            env=s3_server.environment(identity),
        )
        assert done.exit_code not in (0, 1), (done.output, done.exception)
        assert re.search("check the (key|credentials)|permission", done.output), done.output
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "module"), [("parquet", "pyarrow"), pytest.param("icechunk", "icechunk", marks=needs_icechunk)]
)
def test_without_the_package(form, module, make, tmp_path, monkeypatch):
    _, url = make(form)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        UsageError, match=rf"needs? {module}, which is not installed: pip install 'shardedstore\[export\]'"
    ):
        opened(url).map_shards(ToZip(tmp_path / "out"))
