"""References for readers without this package: Kerchunk and Icechunk."""

import json
import shutil
import signal
import subprocess
import sys
import zipfile

import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

from shardedstore import Guards, ShardedStore, UsageError
from shardedstore.cli import main
from shardedstore.transforms import CopyTo, ToZip

pytestmark = pytest.mark.filterwarnings("ignore:The 'fastparquet' engine is deprecated")  # fsspec reads with it


@pytest.fixture(autouse=True)
def _serial():
    with dask.config.set(scheduler="sync"):
        yield


def dataset():
    values = np.random.default_rng(3).random((64, 40), "f4")
    values[16:32] = np.nan
    return xr.Dataset(
        {"t2m": (("time", "y"), values), "d ä%2p": (("y",), np.arange(40.0)), "one": ((), 5)},
        coords={"time": np.arange(64)},
        attrs={"title": "Température"},
    )


def source(folder, zarr_format):
    path = folder / "source ä%.zarr"
    encoding = {"t2m": {"chunks": (4, 10)}}
    dataset().to_zarr(path, zarr_format=zarr_format, encoding=encoding, consolidated=zarr_format == 2)
    return path


def results(folder, zarr_format):
    """A store of each structure: views, zips with blocks, a folder of Zarrs, several members in a zip, a nested store."""
    store = ShardedStore.partition(source(folder, zarr_format), {"t2m": (16, -1)})
    zips = store.map_shards(ToZip(folder / "zips ä%"))
    return {
        "views": store,
        "zips": zips,
        "directories": store.map_shards(CopyTo(folder / "folders", layout="shards")),
        "one zarr": ShardedStore.partition(store.map_shards(CopyTo(folder / "one.zarr")), []),
        "nested": ShardedStore.partition(zips, {"t2m": (32, -1)}),
    }


STRUCTURES = ("views", "zips", "directories", "one zarr", "nested")


def read(references, **options):
    storage = {"fo": str(references), "remote_protocol": "file", **options}
    return xr.open_dataset(
        "reference://", engine="zarr", backend_kwargs={"consolidated": False, "storage_options": storage}
    ).load()


@pytest.mark.few(4)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_kerchunk_shows_the_same_dataset(zarr_format, structure, tmp_path):
    store = results(tmp_path, zarr_format)[structure]
    count = store.to_kerchunk(tmp_path / "references.json")
    references = json.loads((tmp_path / "references.json").read_bytes())
    assert references["version"] == 1
    assert len(references["refs"]) == count
    xr.testing.assert_identical(read(tmp_path / "references.json"), dataset())


@pytest.mark.few(2)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_parquet_shows_the_same_dataset(structure, tmp_path):
    store = results(tmp_path, 2)[structure]
    store.to_kerchunk(tmp_path / "references", parquet=True)
    xr.testing.assert_identical(read(tmp_path / "references"), dataset())


def test_references_are_the_bytes_of_the_source(tmp_path):
    zips = results(tmp_path, 3)["zips"]
    zips.to_kerchunk(tmp_path / "references.json")
    system = fsspec.filesystem("reference", fo=str(tmp_path / "references.json"), remote_protocol="file")
    folder = tmp_path / "source ä%.zarr"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(json.loads((tmp_path / "references.json").read_bytes())["refs"])
    for path in files:
        assert system.cat(path.relative_to(folder).as_posix()) == path.read_bytes()


def test_parquet_holds_many_records_of_an_array(tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr",
        name="t",
        shape=(200_001,),
        chunks=(1,),
        dtype="i1",
        zarr_format=2,
        compressors=None,
        fill_value=0,
    )
    array[0] = array[99_999] = array[100_000] = array[200_000] = 7
    ShardedStore.partition(tmp_path / "a.zarr", []).to_kerchunk(tmp_path / "references", parquet=True)
    assert sorted(path.name for path in (tmp_path / "references/t").glob("*.parq")) == [
        f"refs.{i}.parq" for i in range(3)
    ]
    system = fsspec.filesystem("reference", fo=str(tmp_path / "references"), remote_protocol="file", asynchronous=True)
    found = zarr.open_array(zarr.storage.FsspecStore(system, path="t"), mode="r", zarr_format=2)
    assert [found[i] for i in (0, 1, 99_999, 100_000, 200_000)] == [7, 0, 7, 7, 7]


def deflated(folder):
    path = source(folder, 3)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for file in path.rglob("*"):
            if file.is_file():
                made.write(file, file.relative_to(path).as_posix())
    return ShardedStore.partition(folder / "a.zip", [])


def in_memory(folder):
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i4")[:] = 1
    return ShardedStore.partition(store, [])


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda f: results(f, 3)["zips"], {"parquet": True}, UsageError, "Zarr v2 only, but the store is of Zarr v3"),
        (deflated, {}, UsageError, "is compressed in .*a.zip.* with ToZip"),
        (in_memory, {}, UsageError, "not byte ranges of files or objects.*convert the store"),
    ],
)
def test_a_store_without_references_is_refused(make, options, error, message, tmp_path):
    store = make(tmp_path)
    with pytest.raises(error, match=message):
        store.to_kerchunk(tmp_path / "references.json", **options)
    assert not (tmp_path / "references.json").exists()


def test_the_commands(tmp_path):
    zips = results(tmp_path, 2)["zips"]
    folder = str(tmp_path / "zips ä%")
    run = CliRunner().invoke
    done = run(main, ["export", folder, str(tmp_path / "r.json"), "--to", "kerchunk"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == str(tmp_path / "r.json")
    xr.testing.assert_identical(read(tmp_path / "r.json"), dataset())
    assert run(main, ["export", folder, str(tmp_path / "r"), "--to", "kerchunk-parquet"]).exit_code == 0
    xr.testing.assert_identical(read(tmp_path / "r"), dataset())
    listed = run(main, ["ls", folder]).output.splitlines()
    assert len(listed) == len(zips.shards)
    assert listed[1].split()[:2] == ["t2m[0]", "zip"]
    assert listed[1].endswith("/zips%20%C3%A4%25/t2m/0.zarr.zip|zip:|zarr2:")
    assert all(
        line.split()[0].startswith("t2m[") for line in run(main, ["ls", folder, "--under", "t2m"]).output.splitlines()
    )
    assert [json.loads(line)["shard"] for line in run(main, ["ls", folder, "--json"]).output.splitlines()] == [
        shard.name for shard in zips.shards
    ]
    keys = run(main, ["ls", folder, "--keys"]).output.splitlines()
    assert {".zgroup", "t2m/.zarray", "t2m/3.1"} <= set(keys)
    assert (
        run(main, ["cat", folder, "t2m/.zarray"]).stdout_bytes == (tmp_path / "source ä%.zarr/t2m/.zarray").read_bytes()
    )
    missing = run(main, ["cat", folder, "t2m/99.1"])
    assert missing.exit_code == 2
    assert "there is no key 't2m/99.1': list the keys" in missing.output


def test_a_listed_url_is_a_source(tmp_path):
    """The URL pipelines that `ls` prints are accepted as sources."""
    folders = results(tmp_path, 3)["directories"]
    for folder in ("zips ä%", "folders"):
        lines = CliRunner().invoke(main, ["ls", str(tmp_path / folder), "--json"]).output.splitlines()
        urls = [json.loads(line)["url"] for line in lines]
        assert all(url.startswith("file:///") and url.endswith("|zarr3:") for url in urls)
        found = zarr.open_array(ShardedStore.partition(urls[1], []), mode="r")
        np.testing.assert_array_equal(found[:], zarr.open_array(folders, path="t2m", mode="r")[:16])
        inner = zarr.open_array(ShardedStore.partition(f"{urls[0]}time", []), mode="r")
        np.testing.assert_array_equal(inner[:], np.arange(64))


icechunk = pytest.mark.skipif(sys.version_info < (3, 12), reason="icechunk 2 needs Python 3.12")


def read_icechunk(folder):
    """Open the repository in a folder, and return its dataset and the number of its commits."""
    from icechunk import Repository, local_filesystem_storage
    from icechunk.credentials import LocalFileSystemAccess

    storage = local_filesystem_storage(str(folder))
    prefixes = Repository.fetch_config(storage).virtual_chunk_containers
    repository = Repository.open(storage, authorize_virtual_chunk_access=dict.fromkeys(prefixes, LocalFileSystemAccess))
    found = xr.open_zarr(repository.readonly_session("main").store, consolidated=False).load()
    return found, len(list(repository.ancestry(branch="main")))


@pytest.mark.few(2)
@icechunk
@pytest.mark.parametrize("structure", STRUCTURES)
def test_icechunk_shows_the_same_dataset(structure, tmp_path):
    from shardedstore.export.icechunk import create_repository

    store = results(tmp_path, 3)[structure]
    count = store.to_icechunk(create_repository(str(tmp_path / "repository"), store))
    assert count == store.to_icechunk(
        create_repository(str(tmp_path / "repository"), store)
    )  # nothing is written again
    found, commits = read_icechunk(tmp_path / "repository")
    assert commits == 2
    xr.testing.assert_identical(found, dataset())


def changed_values(folder):
    array = zarr.open_array(folder, path="t2m", mode="r+")
    array[0] = 7


def changed_attributes(folder):
    zarr.open_group(folder, mode="r+").attrs["title"] = "another"


def a_lost_chunk(folder):
    (folder / "t2m/c/15/3").unlink()


def a_lost_variable(folder):
    shutil.rmtree(folder / "one")


@icechunk
@pytest.mark.parametrize("change", [changed_values, changed_attributes, a_lost_chunk, a_lost_variable])
def test_icechunk_shows_a_later_result(change, tmp_path):
    """A later export replaces the references of an earlier one, also if the keys are the same."""
    from shardedstore.export.icechunk import create_repository

    for _ in range(2):
        source_folder = tmp_path / "source ä%.zarr"
        if source_folder.exists():
            change(source_folder)
        else:
            source(tmp_path, 3)
        store = ShardedStore.partition(source_folder, {"t2m": (16, -1)}).map_shards(
            ToZip(tmp_path / "zips"), changed="content", guards=Guards(force=True)
        )
        store.to_icechunk(create_repository(str(tmp_path / "repository"), store))
    found, commits = read_icechunk(tmp_path / "repository")
    assert commits == 3
    xr.testing.assert_identical(found, xr.open_zarr(source_folder, consolidated=False).load())


KILLED = """
import os, signal, sys
from icechunk import IcechunkStore
from shardedstore import ShardedStore
from shardedstore.export import icechunk as exporter

exporter.PER_COMMIT = 20
calls, write = iter(range(99)), IcechunkStore.set_virtual_refs

def killed(*arguments, **options):
    if next(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments, **options)

IcechunkStore.set_virtual_refs = killed
store = ShardedStore.load(sys.argv[1])
store.to_icechunk(exporter.create_repository(sys.argv[2], store))
"""


@icechunk
@pytest.mark.parametrize(("calls", "made"), [(0, 1), (5, 3)])
def test_icechunk_goes_on_after_a_kill(calls, made, tmp_path, monkeypatch):
    """A process that is killed before its first commit, or after two of three, leaves a repository that a later export completes."""
    from shardedstore.export import icechunk as exporter

    monkeypatch.setattr(exporter, "PER_COMMIT", 20)
    store, folder = results(tmp_path, 3)["zips"], tmp_path / "repository"
    program = [sys.executable, "-c", KILLED, str(tmp_path / "zips ä%"), str(folder), str(calls)]
    assert subprocess.run(program, check=False, timeout=60).returncode == -signal.SIGKILL
    before = commits_of(folder)
    assert len(before) == made
    store.to_icechunk(exporter.create_repository(str(folder), store))
    found, commits = read_icechunk(folder)
    assert commits == 4  # the first snapshot, and 51 references in three commits, of which none is made twice
    assert commits_of(folder)[-len(before) :] == before
    xr.testing.assert_identical(found, dataset())


def commits_of(folder):
    """The identifiers of the commits of a repository, the newest first."""
    from icechunk import Repository, local_filesystem_storage

    return [commit.id for commit in Repository.open(local_filesystem_storage(str(folder))).ancestry(branch="main")]


@icechunk
def test_icechunk_keeps_the_commits_of_others(tmp_path):
    from shardedstore.export.icechunk import create_repository

    store = results(tmp_path, 3)["zips"]
    repository = create_repository(str(tmp_path / "repository"), store)
    session = repository.writable_session("main")
    zarr.create_group(session.store, attributes={"of": "others"})
    session.commit("a group")
    with pytest.raises(
        UsageError, match=r"the branch 'main' has commits that are not exports .* export to another branch"
    ):
        store.to_icechunk(repository)
    repository.create_branch("zips", list(repository.ancestry(branch="main"))[-1].id)
    assert store.to_icechunk(repository, branch="zips") == 51
    assert zarr.open_group(repository.readonly_session("main").store, mode="r").attrs["of"] == "others"
