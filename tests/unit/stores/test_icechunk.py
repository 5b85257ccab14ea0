"""Icechunk repositories as sources: versions, virtual chunks, consent, and results converted back."""

import pickle
import sys

import dask
import pytest
import zarr
from click.testing import CliRunner
from sources import SOURCES, to_folder

from shardedstore import ShardedStore, ShardsFailed, UsageError
from shardedstore.cli import main
from shardedstore.export.icechunk import create_repository
from shardedstore.stores.icechunk import split_pipeline
from shardedstore.stores.recognise import locate
from shardedstore.transforms import CopyTo, ToZip

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="icechunk 2 needs Python 3.12")
CUBE = SOURCES["consolidated-v3"]


@pytest.fixture(autouse=True)
def _serial():
    with dask.config.set(scheduler="sync"):
        yield


def exported(folder):
    source = ShardedStore.partition(to_folder(CUBE.contents(), folder / "source.zarr"), CUBE.shards)
    made = source.map_shards(ToZip(folder / "data/zips ä"))
    made.to_icechunk(create_repository(str(folder / "repo"), made))
    return source


def repository(folder):
    """A repository with two commits of real chunks, and a tag of the first one."""
    import icechunk

    made = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    session = made.writable_session("main")
    array = zarr.create_array(session.store, name="g/x", shape=4, chunks=2, dtype="u1")
    array[:] = 1
    first = session.commit("one")
    made.create_tag("v1", first)
    session = made.writable_session("main")
    zarr.open_array(session.store, path="g/x", mode="r+")[:] = 2
    session.commit("two")
    return first


def test_a_result_comes_back_from_a_repository(tmp_path):
    source = exported(tmp_path)
    back = ShardedStore.partition(f"{tmp_path}/repo/|icechunk:", CUBE.shards)
    assert back.verify(source).ok
    assert back.map_shards(CopyTo(tmp_path / "back.zarr")).verify(source).ok


def test_versions(tmp_path):
    first = repository(tmp_path / "repo")
    for version, value in {"": 2, "@branch.main/": 2, "@tag.v1/": 1, f"@{first}/": 1, "@tag.v1/g/": 1}.items():
        store = ShardedStore.partition(f"{tmp_path}/repo|icechunk:{version}", [])
        path = "x" if version.endswith("g/") else "g/x"
        assert (zarr.open_array(store, path=path, mode="r")[:] == value).all()
    store = ShardedStore.partition(f"file://{tmp_path}/repo/|icechunk:@tag.v1/|zarr3:g/x", [])
    assert zarr.open_array(store, mode="r")[0] == 1


@pytest.mark.nightly
def test_the_commands_accept_a_version(tmp_path):
    repository(tmp_path / "repo")
    run, source = CliRunner().invoke, f"{tmp_path}/repo|icechunk:@tag.v1"
    for command in (
        ["info", source],
        ["ls", source],
        ["convert", source, str(tmp_path / "out"), "--to", "zip"],
        ["verify", str(tmp_path / "out"), "--against", source],
        ["check", source],
    ):
        done = run(main, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    listed = run(main, ["ls", source]).output
    assert f"file://{tmp_path}/repo/|icechunk:@tag.v1/" in listed


def test_a_branch_that_moves_on(tmp_path):
    """A job reads one snapshot, and a later job at the same destination reads the next."""
    import icechunk

    repository(tmp_path / "repo")
    source = f"{tmp_path}/repo|icechunk:@branch.main"
    store = ShardedStore.partition(source, {"g/x": (2,)})
    made = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = made.writable_session("main")
    zarr.open_array(session.store, path="g/x", mode="r+")[:] = 3
    session.commit("three")
    result = store.map_shards(ToZip(tmp_path / "out"))
    assert zarr.open_array(result, path="g/x", mode="r")[0] == 2
    later = ShardedStore.partition(source, {"g/x": (2,)}).map_shards(ToZip(tmp_path / "out"), changed="content")
    assert zarr.open_array(later, path="g/x", mode="r")[0] == 3


def test_virtual_chunks_need_consent(tmp_path):
    exported(tmp_path)
    source = f"{tmp_path}/repo|icechunk:"
    refused = ShardedStore.partition(source, CUBE.shards, storage_options={"allow": str(tmp_path / "other")})
    assert refused.config != ShardedStore.partition(source, CUBE.shards).config
    with pytest.raises(ShardsFailed) as failed:
        refused.map_shards(ToZip(tmp_path / "out"))
    assert any(
        "if that is right, give the storage option allow='file:///" in error.cause for error in failed.value.exceptions
    ), [error.cause for error in failed.value.exceptions]


def test_a_store_is_opened_anew_where_it_is_unpickled(tmp_path):
    repository(tmp_path / "repo")
    location = locate(f"{tmp_path}/repo|icechunk:@tag.v1")
    store = location.open()
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert locate(copy) == location
    assert zarr.open_array(copy, path="g/x", mode="r")[0] == 1


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("@branch.none", "can't be opened as a version"),
        ("@tag.none", "can't be opened as a version"),
        ("@VY76P925PRY57WFEK410", "can't be opened as a version"),
        ("a/../b", "has a segment '..'"),
        ("a|b:", "is not a version of an Icechunk repository"),
    ],
)
def test_refused_versions(version, message, tmp_path):
    repository(tmp_path / "repo")
    with pytest.raises(UsageError, match=message):
        ShardedStore.partition(f"{tmp_path}/repo|icechunk:{version}")


def test_refused_repositories(tmp_path):
    with pytest.raises(UsageError, match="can't be opened as a version of an Icechunk repository"):
        ShardedStore.partition(f"{tmp_path}/none|icechunk:")
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="no Icechunk repository can be opened at 'az://a/b'"):
        ShardedStore.partition("az://a/b|icechunk:")


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "icechunk", None)
    with pytest.raises(
        UsageError, match=r"needs icechunk, which is not installed: pip install 'shardedstore\[export\]'"
    ):
        ShardedStore.partition(f"{tmp_path}/repo|icechunk:")


def test_the_listing_is_refused_in_the_plan(tmp_path):
    repository(tmp_path / "repo")
    store = ShardedStore.partition(f"{tmp_path}/repo|icechunk:", [])
    with pytest.raises(UsageError, match="lists none: say changed='metadata'"):
        store.plan(ToZip(tmp_path / "out"), changed="listing")


def test_pipelines():
    assert split_pipeline("s3://b/r|icechunk:")[1:] == ("branch.main", "")
    assert split_pipeline("s3://b/r/|icechunk:@ABC/a%20b/|zarr3:c") == ("s3://b/r", "ABC", "a b/c")
