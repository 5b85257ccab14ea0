"""Sources on a web server, which can't be listed: their keys follow from metadata."""

import json
import re
import warnings
from functools import cache

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from conformance import check_pickles, check_same_contents, contents_of, get
from faultproxy import FaultProxy, Rule
from helpers_jobs import files_of
from servers import web
from sources import SOURCES, to_folder, to_memory, to_zip

from shardedstore import CorruptError, PartitionError, ShardedStore, ShardsFailed, UsageError
from shardedstore.stores.http import NOWHERE, HTTPReadStore
from shardedstore.stores.http_index import named_by
from shardedstore.stores.locations import Directory
from shardedstore.stores.reader import reader_of
from shardedstore.stores.recognise import locate
from shardedstore.transforms import CopyTo, ToZip
from shardedstore.zips import ZipReadStore

HASTY = {"retry_config": {"max_retries": 0}}
NAMES = [name for name in SOURCES if not name.startswith("others")]  # with files outside metadata


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@cache
def served(name):
    """A source with consolidated metadata at the root only, as its owner would publish it."""
    store = to_memory(SOURCES[name].contents())
    if not name.startswith("root-array"):
        with warnings.catch_warnings(action="ignore"):
            zarr.consolidate_metadata(store)
    return {key: data for key, data in contents_of(store).items() if key != "simulation/.zmetadata"}


@pytest.fixture
def site(tmp_path):
    """A served folder behind a proxy with rules."""
    folder = tmp_path / "site"
    folder.mkdir()
    with web(folder) as url, FaultProxy(url) as proxy:
        yield folder, proxy


def publish(name, folder):
    to_folder(served(name), folder / "a b.zarr")
    return "a%20b.zarr"


@pytest.mark.parametrize("name", ["cube-v2.", "cube-v3/", "sharding-codec", "root-array-v3"])
def test_results_are_those_of_a_local_source(name, site, tmp_path):
    folder, proxy = site
    url = f"{proxy.url}/{publish(name, folder)}"
    for source, out in ((folder / "a b.zarr", tmp_path / "local"), (url, tmp_path / "remote")):
        store = ShardedStore.partition(source, SOURCES[name].shards)
        store.map_shards(ToZip(out / "zips"))
        store.map_shards(CopyTo(out / "copy"))
    for result in ("zips", "copy"):
        assert files_of(tmp_path / "remote" / result) == files_of(tmp_path / "local" / result)
    assert {request.method for request in proxy.log} == {"GET", "HEAD"}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", NAMES)
def test_the_store_and_its_views_hold_what_is_there(name, site):
    folder, proxy = site
    url = f"{proxy.url}/{publish(name, folder)}"
    check_same_contents(Directory(url).open(), served(name))
    check_same_contents(ShardedStore.partition(url, SOURCES[name].shards), served(name))


def test_the_store_is_read_only_and_has_a_location(site):
    folder, proxy = site
    store = HTTPReadStore(f"{proxy.url}/{publish('cube-v3/', folder)}")
    assert not store.supports_writes
    with pytest.raises(ValueError, match="HTTPReadStore can't be written to: map it with map_shards"):
        store.with_read_only(False)
    assert locate(check_pickles(store)).open() == store
    assert repr(store) == f"HTTPReadStore('{proxy.url}/a%20b.zarr')"


def test_xarray_reads_through_the_view(site):
    folder, proxy = site
    view = ShardedStore.partition(f"{proxy.url}/{publish('cube-v2.', folder)}", SOURCES["cube-v2."].shards)
    with xr.open_zarr(view) as opened, xr.open_zarr(folder / "a b.zarr") as expected:
        xr.testing.assert_identical(opened.load(), expected.load())


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["cube-v2.", "cube-v3/"])
@pytest.mark.parametrize("status", [404, 403])
def test_documents_that_only_the_consolidated_metadata_has(name, status, site, tmp_path):
    folder, proxy = site
    url = f"{proxy.url}/{publish(name, folder)}"
    ShardedStore.partition(url, SOURCES[name].shards).map_shards(ToZip(tmp_path / "whole"))
    at_root = r"(.+/)?" if name == "cube-v2." else ".+/"
    proxy.rules.append(Rule(rf"GET /a%20b\.zarr/{at_root}(zarr\.json|\.z(array|attrs|group))$", "status", status))
    ShardedStore.partition(url, SOURCES[name].shards).map_shards(ToZip(tmp_path / "out"))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_that_grew_after_its_metadata_was_consolidated_is_read_whole(zarr_format, site, tmp_path):
    folder, proxy = site
    root = zarr.create_group(folder / "a.zarr", zarr_format=zarr_format)
    root.create_array("x", data=np.arange(1, 7), chunks=(2,))
    with warnings.catch_warnings(action="ignore"):
        zarr.consolidate_metadata(folder / "a.zarr")
    zarr.open_array(folder / "a.zarr", path="x").append(np.arange(7, 11))
    for shards in (None, {"x": (4,)}):
        result = ShardedStore.partition(f"{proxy.url}/a.zarr", shards or {}).map_shards(ToZip(tmp_path / f"{shards}"))
        assert zarr.open_array(result, path="x", mode="r")[:].tolist() == [*range(1, 11)]


def test_a_group_without_consolidated_metadata_is_refused(site, tmp_path):
    folder, proxy = site
    for name in ("cube-v2.", "cube-v3/"):
        contents = SOURCES[name].contents()
        to_folder(contents, folder / name[5:7])
        url = f"{proxy.url}/{name[5:7]}"
        with pytest.raises(
            PartitionError, match=r"is a group without consolidated metadata.*run zarr\.consolidate_meta"
        ):
            ShardedStore.partition(url)
        ShardedStore.partition(f"{url}/height", {"": 40}).map_shards(CopyTo(tmp_path / name[5:7]))
        assert files_of(tmp_path / name[5:7]) == {
            key.removeprefix("height/"): data for key, data in contents.items() if key.startswith("height/")
        }
    with pytest.raises(PartitionError, match="holds no Zarr"):
        ShardedStore.partition(f"{proxy.url}/nothing")


def test_components_without_consolidated_metadata_are_read_all_the_same(site):
    folder, proxy = site
    contents = SOURCES["cube-v3/"].contents()
    source = ShardedStore.partition(to_folder(contents, folder / "source"), SOURCES["cube-v3/"].shards)
    source.map_shards(CopyTo(folder / "out", layout="shards"))
    loaded = ShardedStore.load(f"{proxy.url}/out/shardedstore.json")
    assert {key: get(loaded, key) for key in contents} == contents


def test_what_is_left_out_is_not_asked_for(site, tmp_path):
    folder, proxy = site
    url = f"{proxy.url}/{publish('cube-v3/', folder)}"
    document = json.loads((folder / "a b.zarr/zarr.json").read_text())
    odd = document["consolidated_metadata"]["metadata"]["wind_u"]
    odd["chunk_grid"] = {"name": "rectilinear", "configuration": {}}
    for path, node in (("zarr.json", document), ("wind_u/zarr.json", odd)):
        (folder / "a b.zarr" / path).write_text(json.dumps(node))
    store = ShardedStore.partition(url, exclude="wind_u")
    proxy.clear()
    result = store.map_shards(ToZip(tmp_path / "out"))
    expected = {key for key in served("cube-v3/") if not key.startswith("wind_u/")}
    assert contents_of(result).keys() == expected
    assert not any("/wind_u/c" in request.path for request in proxy.log)
    with pytest.raises(ShardsFailed, match="1 of 1 shards failed") as raised:
        ShardedStore.partition(url, {}).map_shards(ToZip(tmp_path / "all"))
    assert "'wind_u' has a chunk grid or chunk keys that are not known here" in str(raised.value.exceptions[0])


CHUNK = r"GET /.*/temperature/c/2/0/0$"
HURT = "temperature[1/0]"  # its shard


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(CHUNK, "status", 500), "500 InternalError"),
        (Rule(CHUNK, "status", 403), "access is denied, or it is missing.*temperature/c/2/0/0"),
        (Rule(CHUNK, "status", 401), "the credentials are not accepted"),
        (Rule(CHUNK, "status", 405), "405"),
        (Rule(CHUNK, "status", 410), "410"),
        (Rule(CHUNK, "reset", 20), "the connection was lost|HTTP error"),
        (Rule(CHUNK, "truncate", 20), "the connection was lost|HTTP error"),
        (Rule(CHUNK, "gone"), "the connection was lost|can't be reached"),
    ],
    ids=lambda value: f"{value.action} {value.value}" if isinstance(value, Rule) else "",
)
@pytest.mark.parametrize("whole", [False, True])
def test_an_error_is_never_taken_for_a_missing_chunk(rule, message, whole, site, tmp_path):
    folder, proxy = site
    publish("cube-v3/", folder)
    shards = {"temperature": "whole"} if whole else SOURCES["cube-v3/"].shards
    store = ShardedStore.partition(f"{proxy.url}/a%20b.zarr", shards, storage_options=HASTY)
    proxy.rules.append(rule)
    with pytest.raises(ShardsFailed, match=r"^1 of \d+ shards failed") as raised:
        store.map_shards(ToZip(tmp_path / "out"), retries=0)
    (failure,) = raised.value.exceptions
    assert failure.shard == ("temperature" if whole else HURT)
    assert re.search(message, failure.cause), failure.cause
    assert "\n" not in failure.cause
    proxy.clear()
    store.map_shards(ToZip(tmp_path / "out"))
    ShardedStore.partition(folder / "a b.zarr", shards).map_shards(ToZip(tmp_path / "local"))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "local")


def test_an_error_that_passes_is_retried(site, tmp_path):
    folder, proxy = site
    publish("cube-v3/", folder)
    store = ShardedStore.partition(f"{proxy.url}/a%20b.zarr", SOURCES["cube-v3/"].shards, storage_options=HASTY)
    proxy.rules.append(Rule(CHUNK, "status", 503, count=1))
    store.map_shards(ToZip(tmp_path / "out"))
    assert proxy.rules[0].fired == 1


@pytest.mark.parametrize("shards", [{}, {"sparse": (4, 4)}])
@pytest.mark.parametrize("documents", [True, False])
def test_chunks_of_a_source_that_vanishes_are_not_missing(shards, documents, site, tmp_path):
    folder, proxy = site
    publish("missing-v2", folder)
    if not documents:  # they come from the consolidated metadata
        for key in ("sparse/.zarray", "sparse/.zattrs"):
            (folder / "a b.zarr" / key).unlink()
    store = ShardedStore.partition(f"{proxy.url}/a%20b.zarr", shards, storage_options=HASTY)
    proxy.clear()
    proxy.rules.append(Rule("", "status", 404, after=r"/sparse/\d"))
    with pytest.raises(ShardsFailed, match="shards failed") as raised:
        store.map_shards(ToZip(tmp_path / "out"), retries=0)
    assert any(
        "is no longer an array: is the source still there" in failure.cause for failure in raised.value.exceptions
    )
    assert not list((tmp_path / "out").rglob("[!_]*.zip"))
    assert shards or not list((tmp_path / "out").rglob("*.zip"))


def test_a_server_that_is_gone(tmp_path):
    folder = tmp_path / "site"
    to_folder(served("cube-v3/"), folder / "a.zarr")
    with web(folder) as url:
        store = ShardedStore.partition(f"{url}/a.zarr", storage_options=HASTY)
        job = store.map_shards(ToZip(tmp_path / "out"), retries=0, compute=False)
    with pytest.raises(ShardsFailed, match="1 of 1 shards failed") as raised:
        job.compute()
    assert "can't be read: the server can't be reached" in str(raised.value.exceptions[0])
    with pytest.raises(PartitionError, match=r"'http.*a\.zarr' can't be read: the server can't be reached"):
        ShardedStore.partition(f"{url}/a.zarr", storage_options=HASTY)


@pytest.mark.parametrize("name", ["cube-v2.", "cube-v3/", "root-array-v3"])
def test_a_server_that_denies_what_is_missing(name, tmp_path):
    to_folder(served(name), tmp_path / "site")
    with web(tmp_path / "site", missing=403) as url:
        ShardedStore.partition(url, SOURCES[name].shards).map_shards(CopyTo(tmp_path / "out"))
        ShardedStore.partition(tmp_path / "site", SOURCES[name].shards).map_shards(CopyTo(tmp_path / "local"))
        assert files_of(tmp_path / "out") == files_of(tmp_path / "local")
        with pytest.raises(PartitionError, match=r"can't be read: .*access is denied, or it is missing"):
            ShardedStore.partition(f"{url}/nothing")
        next(path for path in (tmp_path / "site").rglob("*0") if path.is_file()).unlink()
        with pytest.raises(ShardsFailed, match=r"1 of .* shards failed") as raised:
            ShardedStore.partition(url, SOURCES[name].shards).map_shards(CopyTo(tmp_path / "again"))
        assert "access is denied, or it is missing, which this server may not tell apart" in str(
            raised.value.exceptions
        )


def test_a_server_that_has_an_answer_for_everything_is_refused(tmp_path):
    to_folder(served("cube-v3/"), tmp_path / "site")
    with (
        web(tmp_path / "site", missing=200) as url,
        pytest.raises(
            PartitionError, match=f"has an answer for '{NOWHERE}' too, so that a missing chunk can't be distinguished"
        ),
    ):
        ShardedStore.partition(url)


def test_a_server_that_encodes_what_it_sends_is_refused(tmp_path):
    to_folder(served("cube-v3/"), tmp_path / "site")
    with (
        web(tmp_path / "site", fields={"Content-Encoding": "gzip"}) as url,
        pytest.raises(CorruptError, match=r"has encoded 'http.*' as gzip, so that its bytes are not those of the file"),
    ):
        ShardedStore.partition(url)


def test_a_source_that_moved(tmp_path):
    to_folder(served("cube-v3/"), tmp_path / "site/a.zarr")
    to_zip(served("cube-v3/"), tmp_path / "site/a.zip")
    with web(tmp_path / "site") as new, web(tmp_path / "site", moved_to=new) as old:
        check_same_contents(ShardedStore.partition(f"{old}/a.zarr", ["simulation"]), served("cube-v3/"))
        check_same_contents(ShardedStore.partition(f"{old}/a.zip", ["simulation"]), served("cube-v3/"))


def test_a_server_without_ranges_and_heads(tmp_path):
    contents = served("sharding-codec")
    to_folder(contents, tmp_path / "site/a.zarr")
    to_zip(contents, tmp_path / "site/a.zip")
    with web(tmp_path / "site", ranges=False, methods=("GET",)) as url:
        view = ShardedStore.partition(f"{url}/a.zarr", {"inner": {"y": 8}})
        check_same_contents(view, contents)
        expected = zarr.open_group(tmp_path / "site/a.zarr", mode="r")
        assert np.array_equal(zarr.open_group(view, mode="r")["inner"][3:5, 2], expected["inner"][3:5, 2])
        assert contents_of(view.map_shards(ToZip(tmp_path / "out"))).keys() == contents.keys()
        with pytest.raises(PartitionError, match=r"a\.zip' can't be read: the server does not send parts of a file"):
            ShardedStore.partition(f"{url}/a.zip")


@pytest.mark.parametrize("methods", [("GET",), ("GET", "HEAD")])
def test_a_zip(methods, tmp_path):
    contents = SOURCES["others-v3"].contents()
    to_zip(contents, tmp_path / "site/a b.zip")
    with web(tmp_path / "site", methods=methods) as server, FaultProxy(server) as proxy:
        url = proxy.url
        check_same_contents(ZipReadStore(f"{url}/a%20b.zip"), contents)
        result = ShardedStore.partition(f"{url}/a%20b.zip", ["simulation"]).map_shards(ToZip(tmp_path / "out"))
        assert contents_of(result) == contents
        with pytest.raises(PartitionError, match="can't be read: "):
            ShardedStore.partition(f"{url}/nothing.zip")
    assert {request.method for request in proxy.log} <= {"GET", "HEAD"}  # a web server is never listed


@pytest.mark.parametrize("ask", [ShardedStore.records, ShardedStore.report, ShardedStore.verify])
def test_a_result_is_never_listed(ask, site, tmp_path):
    folder, proxy = site
    source = to_folder(SOURCES["cube-v3/"].contents(), tmp_path / "source.zarr")
    ShardedStore.partition(source, ["simulation"]).map_shards(ToZip(folder / "out"))
    with pytest.raises(UsageError, match=r"ledger of .* found beside"):
        ask(ShardedStore.load(f"{proxy.url}/out"))
    assert {request.method for request in proxy.log} <= {"GET", "HEAD"}


# Named nodes


@pytest.mark.parametrize("name", [name for name in NAMES if name != "consolidated-v3"])
def test_documents_are_named_as_zarr_writes_them(name):
    contents = served(name)
    root = next(key for key in ("zarr.json", ".zmetadata", ".zarray") if key in contents)
    named = named_by(root, contents[root], contents.get(".zattrs"))
    documents = {key for key in contents if key.rpartition("/")[2].startswith((".z", "zarr.json"))}
    assert named.is_whole
    assert named.documents == {key: contents[key] for key in documents}


@pytest.mark.parametrize(
    "key", ["../a/zarr.json", "/a/zarr.json", "a//b/zarr.json", "a/./b/zarr.json", "a\0/zarr.json"]
)
@pytest.mark.parametrize("name", ["zarr.json", ".zmetadata"])
def test_names_that_lead_elsewhere_are_refused(key, name):
    if name == "zarr.json":
        document = {"consolidated_metadata": {"metadata": {key.removesuffix("/zarr.json"): {}}}}
    else:
        document = {"metadata": {key.replace("zarr.json", ".zgroup"): {}}}
    with pytest.raises(CorruptError, match="which is not a key of a Zarr"):
        named_by(name, json.dumps(document).encode())


@pytest.mark.parametrize("metadata", [None, [], {"a": 1}])
def test_consolidated_metadata_that_is_none(metadata):
    with pytest.raises(CorruptError, match="has no consolidated metadata that can be read"):
        named_by("zarr.json", json.dumps({"consolidated_metadata": {"metadata": metadata}}).encode())


def test_all_is_asked_for_at_once_and_in_order(site):
    folder, proxy = site
    store = HTTPReadStore(f"{proxy.url}/{publish('cube-v2/', folder)}")
    keys = sorted(reader_of(store).keys("", None))
    assert keys == sorted(served("cube-v2/"))
    proxy.rules.append(Rule("", "delay", 0.02))
    assert list(reader_of(store).fetch(keys)) == [served("cube-v2/")[key] for key in keys]
    assert proxy.most_at_once() > 8
