"""References by Kerchunk as sources: reading, consent to other places, damage, and results converted back."""

import base64
import json
import pickle
import shutil

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from servers import web
from sources import SOURCES, to_folder

from shardedstore import ConfigError, CorruptError, ShardedStore, ShardsFailed, UsageError
from shardedstore.cli import main
from shardedstore.stores.reader import reader_of
from shardedstore.stores.recognise import locate
from shardedstore.transforms import CopyTo, ToZip

FORMATS = {2: "consolidated-v2", 3: "consolidated-v3"}


@pytest.fixture(autouse=True)
def _serial():
    with dask.config.set(scheduler="sync"):
        yield


def exported(folder, zarr_format=3):
    """A result of ToZip and the references to it, in one folder."""
    cube = SOURCES[FORMATS[zarr_format]]
    source = ShardedStore.partition(to_folder(cube.contents(), folder / "source.zarr"), cube.shards)
    made = source.map_shards(ToZip(folder / "zips ä%"))
    made.to_kerchunk(folder / "refs.json")
    return source


def files(folder):
    """The files of a folder, without consolidated metadata, which CopyTo writes anew."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".zmetadata", "zarr.json"))
    return {path.relative_to(folder): path.read_bytes() for path in found}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_result_comes_back_from_its_references(zarr_format, tmp_path):
    source = exported(tmp_path, zarr_format)
    back = ShardedStore.partition(tmp_path / "refs.json", SOURCES[FORMATS[zarr_format]].shards)
    assert back.verify(source).ok
    back.map_shards(CopyTo(tmp_path / "back.zarr"))
    assert files(tmp_path / "back.zarr") == files(tmp_path / "source.zarr")


def test_the_commands_accept_references(tmp_path):
    exported(tmp_path)
    run, refs = CliRunner().invoke, str(tmp_path / "refs.json")
    for command in (
        ["info", refs],
        ["ls", refs],
        ["ls", "--keys", refs],
        ["convert", refs, str(tmp_path / "out"), "--to", "zip", "--dry-run"],
        ["convert", refs, str(tmp_path / "out"), "--to", "zip"],
        ["verify", str(tmp_path / "out"), "--against", refs],
        ["check", refs],
    ):
        done = run(main, command)
        assert done.exit_code == 0, (command, done.output, done.exception)


def write(folder, document, name="refs.json"):
    (folder / name).write_text(json.dumps(document))
    return folder / name


ARRAY = {
    "zarr_format": 2, "shape": [4], "chunks": [1], "dtype": "|u1", "compressor": None, "fill_value": 9, "filters": None,
    "order": "C",
}  # fmt: skip


def references(**chunks):
    return {".zarray": json.dumps(ARRAY), **{key.removeprefix("k"): value for key, value in chunks.items()}}


VALUES = {
    "version 0": references(k0=["data.bin", 1, 1], k1=["data.bin", 2, 1], k2=["data.bin", 3, 1]),
    "version 1": {"version": 1, "refs": references(k0=["data.bin", 1, 1], k1="\x02", k2="base64:" + base64.b64encode(b"\x03").decode())},
    "templates": {
        "version": 1,
        "templates": {"u": "data", "f": "{{ u }}"},
        "refs": references(k0=["{{u}}.bin", 1, 1], k1=["{{ u }}.bin", 2, 1], k2="\x03"),
    },
    "a whole file": {"version": 1, "refs": references(k0=["one.bin"], k1="\x02", k2="\x03")},
    "metadata as an object": {"version": 1, "refs": {**references(k0=["one.bin"], k1="\x02", k2="\x03"), ".zarray": ARRAY}},
}  # fmt: skip


@pytest.mark.parametrize("form", VALUES)
def test_forms_of_references(form, tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(range(8)))
    (tmp_path / "one.bin").write_bytes(b"\x01")
    store = ShardedStore.partition(write(tmp_path, VALUES[form]), [])
    assert zarr.open_array(store, mode="r")[:].tolist() == [1, 2, 3, 9]
    assert sorted(reader_of(store).keys("", None)) == [".zarray", "0", "1", "2"]
    assert store.plan(ToZip(tmp_path / "out"), changed="listing")


def test_absolute_targets_outside_the_folder_of_a_local_document(tmp_path):
    """A user who names a local document consents; a config that leads there needs `allow` as for any other place."""
    other, here = tmp_path / "other", tmp_path / "here"
    other.mkdir(), here.mkdir()
    (other / "data.bin").write_bytes(b"\x05")
    path = write(here, references(k0=[f"file://{other}/data.bin", 0, 1], k1=[f"{other}/data.bin", 0, 1]))
    store = ShardedStore.partition(path, [])
    assert zarr.open_array(store, mode="r")[:].tolist() == [5, 5, 9, 9]
    store.save(here / "shardedstore.json")
    with pytest.raises(ConfigError, match=r"the config lets references in .*refs.json' lead to '/'"):
        ShardedStore.load(here)
    assert zarr.open_array(ShardedStore.load(here, allow=["/"]), mode="r")[1] == 5
    refused = ShardedStore.partition(path, [], storage_options={"allow": [str(tmp_path / "elsewhere")]})
    with pytest.raises(UsageError, match=r"has references to .*other/data.bin', which is at another place"):
        zarr.open_array(refused, mode="r")[0]


def test_a_remote_document_reads_no_local_file(tmp_path):
    public, secret = tmp_path / "public", tmp_path / "secret.bin"
    public.mkdir()
    secret.write_bytes(b"\x07")
    write(
        public, references(k0=[f"file://{secret}", 0, 1], k1=[str(secret), 0, 1], k2=["http://169.254.169.254/a", 0, 1])
    )
    with web(public) as url:
        store = ShardedStore.partition(f"{url}/refs.json", [])
        for index in range(3):
            with pytest.raises(
                UsageError, match="which is at another place: if that is right, give the storage option allow="
            ):
                zarr.open_array(store, mode="r")[index]
        done = CliRunner().invoke(main, ["convert", f"{url}/refs.json", str(tmp_path / "out.zarr"), "--to", "zarr"])
        assert done.exit_code != 0
        assert not list((tmp_path / "out.zarr").glob("[01]"))
        allowed = ShardedStore.partition(f"{url}/refs.json", [], storage_options={"allow": str(tmp_path)})
        assert zarr.open_array(allowed, mode="r")[1] == 7


def test_a_job_that_lacked_consent_continues_with_it(tmp_path):
    public, private = tmp_path / "public", tmp_path / "private.bin"
    public.mkdir()
    private.write_bytes(b"\x07")
    write(public, references(k0=[str(private), 0, 1]))
    with web(public) as url:
        with pytest.raises(ShardsFailed, match="1 of 1 shards failed"):
            ShardedStore.partition(f"{url}/refs.json", []).map_shards(ToZip(tmp_path / "out"))
        for place in (tmp_path, tmp_path.parent):
            allowed = ShardedStore.partition(f"{url}/refs.json", [], storage_options={"allow": str(place)})
            assert allowed.map_shards(ToZip(tmp_path / "out")).verify(allowed).ok


def test_targets_on_a_server(tmp_path):
    (tmp_path / "a b%.bin").write_bytes(b"\x01\x02")
    with web(tmp_path) as url:
        write(tmp_path, references(k0=["a b%.bin", 0, 1], k1=[f"{url}/a%20b%25.bin", 1, 1]))
        store = ShardedStore.partition(f"{url}/refs.json", [])
        assert zarr.open_array(store, mode="r")[:].tolist() == [1, 2, 9, 9]
        assert store.map_shards(ToZip(tmp_path / "out")).verify(store).ok
        local = ShardedStore.partition(tmp_path / "refs.json", [])
        assert local.config.base.options.allow == (url,)
        assert zarr.open_array(local, mode="r")[:].tolist() == [1, 2, 9, 9]


DAMAGED = {
    "a missing target": (["lost.bin", 0, 1], CorruptError, "leads to .*lost.bin', which is missing"),
    "a whole missing target": (["lost.bin"], CorruptError, "leads to .*lost.bin', which is missing"),
    "a short target": (["data.bin", 7, 9], CorruptError, "bytes 7 to 16 of .*data.bin', which ends earlier"),
    "no base64": ("base64:!", CorruptError, "'0' is not valid base64"),
    "a number": (7, CorruptError, "'0' is neither text nor"),
    "a negative offset": (["data.bin", -1, 1], CorruptError, "'0' is neither text nor"),
    "an expression": (["{{u(1)}}.bin", 0, 1], CorruptError, "'0' has the template '{{u\\(1\\)}}.bin'"),
    "a step to the parent": (["../data.bin", 0, 1], UsageError, "at another place"),
    "a scheme that is not known": (["ftp://host/a", 0, 1], UsageError, "can't be followed: unknown URL scheme ftp://"),
    "a query": (["https://host/a?key=1", 0, 1], UsageError, "can't be followed: .* holds credentials"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_references(kind, tmp_path):
    """A reference that can't be followed is an error, and never a fill value."""
    reference, error, message = DAMAGED[kind]
    (tmp_path / "data.bin").write_bytes(bytes(8))
    path = write(tmp_path, references(k0=reference))
    store = ShardedStore.partition(path, [], storage_options={"allow": str(tmp_path)})
    with pytest.raises(error, match=message):
        zarr.open_array(store, mode="r")[0]
    with pytest.raises(ShardsFailed):
        store.map_shards(ToZip(tmp_path / "out"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"version": 1, "gen": [{"key": "{{i}}"}], "refs": references()}, "has generated references"),
        ({"version": 1, "refs": references(**{"k../0": "a"})}, "has an invalid reference: .*'..'"),
    ],
)
def test_refused_documents(document, message, tmp_path):
    with pytest.raises(CorruptError, match=message):
        ShardedStore.partition(write(tmp_path, document))


def test_changed_references_are_seen_by_the_listing(tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(range(8)))
    path = write(tmp_path, references(k0=["data.bin", 1, 1]))
    convert = {"changed": "listing"}
    ShardedStore.partition(path, []).map_shards(ToZip(tmp_path / "out"), **convert)
    again = ShardedStore.partition(path, []).map_shards(ToZip(tmp_path / "out"), **convert)
    assert again.summary.skipped == len(again.shards)
    write(tmp_path, references(k0=["data.bin", 2, 1]))
    made = ShardedStore.partition(path, []).map_shards(ToZip(tmp_path / "out"), **convert)
    assert made.summary.skipped == 0
    assert zarr.open_array(made, mode="r")[0] == 2


def test_a_store_is_opened_anew_where_it_is_unpickled(tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(range(8)))
    location = locate(write(tmp_path, references(k0=["data.bin", 1, 1])))
    store = location.open()
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert locate(copy) == location
    assert copy.read("0") == b"\x01"
    assert copy.read("3") is None
    assert ShardedStore.partition(copy, []).config == ShardedStore.partition(tmp_path / "refs.json", []).config


def test_references_are_exported_again(tmp_path):
    """References to references lead to the files themselves."""
    exported(tmp_path)
    ShardedStore.partition(tmp_path / "refs.json").to_kerchunk(tmp_path / "again.json")
    first, again = (json.loads((tmp_path / name).read_bytes())["refs"] for name in ("refs.json", "again.json"))
    assert first == again


def test_references_move_with_their_folder(tmp_path):
    """Relative targets start from the folder of the document."""
    here = tmp_path / "here"
    here.mkdir()
    np.arange(4, dtype="u1").tofile(here / "data.bin")
    ShardedStore.partition(write(here, references(k0=["data.bin", 1, 1])), []).save(here / "shardedstore.json")
    shutil.move(here, tmp_path / "there")
    assert zarr.open_array(ShardedStore.load(tmp_path / "there"), mode="r")[0] == 1


# Folders of Parquet files


def test_a_result_comes_back_from_parquet(tmp_path):
    source = exported(tmp_path, 2)
    ShardedStore.load(tmp_path / "zips ä%").to_kerchunk(tmp_path / "refs.parq", parquet=True)
    back = ShardedStore.partition(tmp_path / "refs.parq", SOURCES[FORMATS[2]].shards)
    assert back.config.base.kind == "kerchunk_parquet"
    assert back.verify(source).ok
    assert back.map_shards(CopyTo(tmp_path / "back.zarr")).verify(source).ok
    again = back.plan(ToZip(tmp_path / "out"), changed="listing").run()
    assert again.verify(source).ok
    chunks = {key for key in reader_of(source).keys("", None) if ".z" not in key}
    assert {key for key in reader_of(back).keys("", None) if ".z" not in key} == chunks
    done = CliRunner().invoke(main, ["info", str(tmp_path / "refs.parq")])
    assert done.exit_code == 0, done.output


def test_rows_of_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "data.bin").write_bytes(bytes(range(8)))
    (tmp_path / "one.bin").write_bytes(b"\x07")
    folder = tmp_path / "references/refs.parq"
    (folder / "a").mkdir(parents=True)
    metadata = {".zgroup": {"zarr_format": 2}, "a/.zarray": {**ARRAY, "shape": [5]}}
    (folder / ".zmetadata").write_text(json.dumps({"metadata": metadata, "record_size": 2}))
    rows = [
        {
            "path": [f"{tmp_path}/data.bin", f"{tmp_path}/one.bin"],
            "offset": [3, 0],
            "size": [1, 0],
            "raw": [None, None],
        },
        {"path": [None, None], "offset": [0, 0], "size": [0, 0], "raw": [b"\x05", None]},
    ]
    for number, columns in enumerate(rows):
        parquet.write_table(pa.table(columns), folder / f"a/refs.{number}.parq")
    store = ShardedStore.partition(folder, [])
    assert zarr.open_array(store, path="a", mode="r")[:].tolist() == [3, 7, 5, 9, 9]
    assert sorted(reader_of(store).keys("", None)) == [".zgroup", "a/.zarray", "a/0", "a/1", "a/2"]
    refused = ShardedStore.partition(folder, [], storage_options={"allow": str(tmp_path / "other")})
    with pytest.raises(UsageError, match="which is at another place"):
        zarr.open_array(refused, path="a", mode="r")[0]
    (folder / "a/refs.0.parq").write_bytes(b"no parquet")
    with pytest.raises(CorruptError, match=r"refs\.0\.parq' is no readable file of references"):
        ShardedStore.partition(folder, [], storage_options={"allow": str(tmp_path)}).config.base.open().read("a/0")
