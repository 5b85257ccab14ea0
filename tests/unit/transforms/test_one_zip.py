"""`ToZip` of one zip: one file with all keys, written in parts, replaced whole, resumed, and read by all readers of zips."""

import json
import os
import shutil
import zipfile

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from conformance import check_same_contents, contents_of
from helpers_jobs import CUBE, Fail, cube_at, division, files_of
from sources import SOURCES, to_folder

from shardedstore import (
    ChainError,
    CorruptError,
    DestinationError,
    Guards,
    PartitionError,
    ShardedStore,
    ShardsFailed,
    UsageError,
    check,
)
from shardedstore.cli import main
from shardedstore.storage.publish import TEMPORARY
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToZip
from shardedstore.zips import ZipReadStore


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    return cube_at(tmp_path / "source.zarr")


def zipped(source, url, *steps, **options):
    return division(source).map_shards(*steps, ToZip(url), **options)


def parts_of(url):
    return {path.name for path in (url.parent / f"{url.name}.shardedstore" / "parts").rglob("*.zip")}


def consolidated_of(name):
    return name.startswith(("consolidated", "dataset"))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.few(8)
def test_one_zip_has_the_keys_of_the_source(name, tmp_path):
    source, url = to_folder(SOURCES[name].contents(), tmp_path / "source"), tmp_path / "out.zarr.zip"
    result = ShardedStore.partition(source, SOURCES[name].shards).map_shards(ToZip(url))
    expected = contents_of(result)
    assert expected.keys() == SOURCES[name].contents().keys()
    assert consolidated_of(name) or expected == files_of(source)
    with zipfile.ZipFile(url) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == expected
        documents = [name.rpartition("/")[2] in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata") for name in file.namelist()]  # fmt: skip
        assert documents == sorted(documents, reverse=True)
        depths = [name.count("/") for name in file.namelist()[: sum(documents)]]
        assert depths == sorted(depths)
    assert parts_of(url) == set()
    assert result.verify(level="stored").ok
    assert result.verify(ShardedStore.partition(source, SOURCES[name].shards)).ok


def test_zarr_opens_it_with_its_consolidated_metadata(tmp_path):
    source = to_folder(SOURCES["consolidated-v3"].contents(), tmp_path / "source")
    ShardedStore.partition(source, SOURCES["consolidated-v3"].shards).map_shards(ToZip(tmp_path / "out.zarr.zip"))
    for store in zarr.storage.ZipStore(tmp_path / "out.zarr.zip", mode="r"), ZipReadStore(tmp_path / "out.zarr.zip"):
        root = zarr.open_group(store, mode="r", use_consolidated=True)
        assert root.metadata.consolidated_metadata.metadata.keys() >= {"temperature", "simulation"}
        np.testing.assert_array_equal(root["temperature"], zarr.open_array(source / "temperature"))


def test_load_opens_the_zip_as_a_store_of_one_shard(source, tmp_path):
    url = tmp_path / "out.zarr.zip"
    fails = Fail("wind_u[1/0/0]", str(tmp_path / "mended"))
    with pytest.raises(PartitionError, match=r"out.zarr.zip' can't be read: .*No such file"):
        ShardedStore.load(url)
    with pytest.raises(ShardsFailed):
        zipped(source, url, fails)
    with pytest.raises(
        PartitionError, match=r"the result of a job that has not ended: .* shards are done, 1 failed; run the same call"
    ):
        ShardedStore.load(url)
    assert ShardedStore.load(url, partial=True, allow=[source]).partial is not None
    (tmp_path / "mended").touch()
    made = zipped(source, url, fails)
    for loaded in (
        ShardedStore.load(url),
        ShardedStore.load(url, partial=True),
        ShardedStore.load(f"{url}.shardedstore"),
    ):
        assert (loaded.config, loaded.partial) == (made.config, None)
        check_same_contents(loaded, files_of(source))
        assert loaded.verify(level="stored").ok


def test_load_opens_zips_of_others(tmp_path):
    for name in "ab":
        with zarr.storage.ZipStore(tmp_path / f"{name}.zip", mode="w") as store:
            zarr.create_array(store, name="t", data=np.arange(6))
    assert zarr.open_group(ShardedStore.load(tmp_path / "a.zip"), mode="r")["t"][5] == 5
    (tmp_path / "c.zip").write_bytes(b"no zip")
    with pytest.raises(CorruptError, match=r"c.zip: not a zip, or truncated"):
        ShardedStore.load(tmp_path / "c.zip")


def test_equal_sources_give_equal_bytes_however_the_job_ran(source, tmp_path):
    zipped(source, tmp_path / "one.zarr.zip")
    fails = Fail("wind_u[1/0/0]", str(tmp_path / "mended"))
    with pytest.raises(ShardsFailed, match=r"1 of .* shards failed and no config was written"):
        zipped(source, tmp_path / "two.zarr.zip", fails)
    assert not (tmp_path / "two.zarr.zip").exists()
    (tmp_path / "mended").touch()
    result = zipped(source, tmp_path / "two.zarr.zip", fails)
    assert result.summary.done == 1
    assert (tmp_path / "one.zarr.zip").read_bytes() == (tmp_path / "two.zarr.zip").read_bytes()


def test_a_job_with_nothing_to_do_leaves_the_zip_alone(source, tmp_path):
    url = tmp_path / "out.zarr.zip"
    zipped(source, url)
    before = url.stat()
    again = zipped(source, url)
    assert (again.summary.done, again.summary.unchanged) == (0, True)
    assert (url.stat().st_ino, url.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize(
    ("change", "done"),
    [
        (lambda root: root["wind_u"].__setitem__((slice(0, 3), ...), 7), 2),
        (lambda root: root["temperature"].append(np.ones((2, 5, 4), "f4")), 6),
        (lambda root: root["wind_v"].resize((3, 5, 4)), 3),
        (lambda root: root.create_array("new", data=np.arange(4)), 1),
    ],
    ids=["changed", "appended", "shrunk", "added"],
)
def test_only_changed_shards_are_written_again(change, done, source, tmp_path):
    url = tmp_path / "out.zarr.zip"
    zipped(source, url, changed="content")
    change(zarr.open_group(source))
    result = zipped(source, url, changed="content", guards=Guards(force=True))
    assert 0 < result.summary.done <= done + 1  # and the base
    check_same_contents(result, files_of(source))
    zipped(source, tmp_path / "fresh.zarr.zip")
    assert url.read_bytes() == (tmp_path / "fresh.zarr.zip").read_bytes()
    assert result.verify(division(source)).ok


def test_the_earlier_zip_stays_until_the_new_one_is_complete(source, tmp_path):
    url, before = tmp_path / "out.zarr.zip", files_of(source)
    zipped(source, url, Recompress("zstd", level=1))
    kept = contents_of(ZipReadStore(url))
    fails = Fail("wind_u[1/0/0]", str(tmp_path / "mended"))
    with pytest.raises(DestinationError, match=r"out.zarr.zip' holds the result of another chain.*overwrite=True, which replaces the zip"):  # fmt: skip
        zipped(source, url, fails)
    with pytest.raises(ShardsFailed):
        zipped(source, url, fails, overwrite=True)
    assert contents_of(ZipReadStore(url)) == kept
    (tmp_path / "mended").touch()
    zipped(source, url, fails)
    assert contents_of(ZipReadStore(url)) == before


def damage(path):
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"PK\1\3", 1))


@pytest.mark.parametrize("spoil", [os.unlink, damage, lambda path: os.truncate(path, 100)])
def test_a_part_that_is_lost_is_made_again(spoil, source, tmp_path):
    url = tmp_path / "out.zarr.zip"
    fails = Fail("wind_u[1/0/0]", str(tmp_path / "mended"))
    with pytest.raises(ShardsFailed):
        zipped(source, url, fails)
    spoil(tmp_path / "out.zarr.zip.shardedstore" / "parts" / "blocks" / "temperature" / "0" / "0.zip")
    (tmp_path / "mended").touch()
    if spoil is not os.unlink:
        with pytest.raises(CorruptError, match=r"the parts of 1 shards in .* and it makes these shards again"):
            zipped(source, url, fails)
        assert not url.exists()
    result = zipped(source, url, fails)
    check_same_contents(result, files_of(source))


@pytest.mark.parametrize("spoil", [os.unlink, lambda path: os.truncate(path, 1000), damage])
def test_a_zip_that_is_lost_is_found_and_made_again(spoil, source, tmp_path):
    url = tmp_path / "out.zarr.zip"
    result = zipped(source, url)
    spoil(url)
    assert not result.verify(level="exists").ok
    check_same_contents(zipped(source, url), files_of(source))


def test_verify_marks_a_damaged_shard_and_the_same_call_mends_it(source, tmp_path):
    url = tmp_path / "out.zarr.zip"
    result = zipped(source, url)
    data = bytearray(url.read_bytes())
    chunk = (source / "wind_u" / "c" / "0" / "0" / "0").read_bytes()
    data[data.index(chunk) + 20] ^= 1
    url.write_bytes(data)
    report = result.verify(level="stored", mark=True)
    assert [difference.shard for difference in report.differences] == ["wind_u[0/0/0]"]
    assert zipped(source, url).summary.done == 1
    assert result.verify(level="stored").ok


def test_prune_and_status_find_the_job_beside_the_zip(source, tmp_path):
    url = tmp_path / "out.zarr.zip"
    zipped(source, url)
    (tmp_path / "out.zarr.zip.shardedstore" / f"{TEMPORARY}{os.uname().nodename}-1-00000000.tmp").touch()
    zipped(source, url, overwrite=True)
    assert not list(tmp_path.rglob("*.tmp"))
    assert any("job-1.json" in name for name in ShardedStore.prune(url).names)
    assert CliRunner().invoke(main, ["status", str(url)]).exit_code == 0
    assert CliRunner().invoke(main, ["verify", str(url), "--level", "exists"]).exit_code == 0


def test_a_plan_with_a_test_write_leaves_nothing(source, tmp_path):
    before = {*tmp_path.rglob("*")}
    estimate = division(source).plan(ToZip(tmp_path / "out.zarr.zip")).estimate(test_write=True)
    assert estimate.needed == estimate.written.value + estimate.stored_after.value
    assert (estimate.write_test.error, {*tmp_path.rglob("*")} - before) == ("", set())


def folder_at(url):
    url.mkdir()


@pytest.mark.parametrize(
    ("prepare", "sink", "options", "error", "match"),
    [
        (lambda url: url.touch(), {}, {}, DestinationError, "is a file already, which no job of shardedstore wrote"),
        (folder_at, {}, {}, DestinationError, "is a folder, but a name that ends in .zip or .ozx is one zip"),
        (None, {}, {"accept_failed": ["height[0]"]}, UsageError, "a shard that is missing from one zip would be read as fill values"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused(prepare, sink, options, error, match, source, tmp_path):
    url = tmp_path / "out.zip"
    if prepare is not None:
        prepare(url)
    with pytest.raises(error, match=match):
        division(source).plan(ToZip(url, **sink), **options)
    assert not (tmp_path / "out.zip.shardedstore").exists()


def test_names_of_zips_in_a_folder_are_refused():
    with pytest.raises(ChainError, match=r"is for the zips in a folder, but 'out.ozx' is one zip: leave out name"):
        ToZip("out.ozx", name="{path}.zip")


def test_a_zip_is_not_written_over_itself(source, tmp_path):
    result = zipped(source, tmp_path / "out.zarr.zip")
    with pytest.raises(DestinationError, match="is the source: name another file"):
        result.plan(ToZip(tmp_path / "out.zarr.zip"))


def test_small_members_are_packed_in_parts(source, tmp_path):
    for i in range(5):
        shutil.copytree(source, tmp_path / "many" / f"m{i}.zarr")
    store = ShardedStore.collect(tmp_path / "many" / "*.zarr")
    result = store.map_shards(ToZip(tmp_path / "out.zarr.zip", per_zip=2))
    assert result.summary.done == 4
    check_same_contents(result, contents_of(store))


AXES = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
SCALE = [{"type": "scale", "scale": [1.0, 1.0]}]
MULTISCALES = [{"axes": AXES, "datasets": [{"path": "0", "coordinateTransformations": SCALE}]}]


def image(folder, version="0.5", zarr_format=3):
    ome = {"version": version, "multiscales": MULTISCALES}
    root = zarr.open_group(folder, mode="w", zarr_format=zarr_format, attributes={"ome": ome})
    root.create_array(
        "0",
        data=np.arange(64, dtype="u2").reshape(8, 8),
        chunks=(2, 8),
        dimension_names=("y", "x") if zarr_format == 3 else None,
    )
    labels = root.create_group("labels", attributes={"ome": {"version": version, "labels": []}})
    labels.create_group("deep").create_group("deeper")
    return folder


def problems_of(path):
    """Check a file by the cases of RFC-9's compatibility kit, and return the problems."""
    with zipfile.ZipFile(path) as file:
        members, names, comment = file.infolist(), file.namelist(), file.comment
        root = json.loads(file.read("zarr.json")) if "zarr.json" in names else {}
    data = path.read_bytes()
    documents = [name for name in names if name.rpartition("/")[2] == "zarr.json"]
    offsets = [member.header_offset for member in members]
    told = json.loads(comment) if comment else {}
    checks = {
        "no zarr.json at the root": "zarr.json" in names,
        "a zip in the zip": not any(name.lower().endswith((".ozx", ".zip")) for name in names),
        "several parts": int.from_bytes(data[-len(comment) - 18 : -len(comment) - 16], "little") in (0, 0xFFFF),
        "no comment": told.get("ome", {}).get("version") == root.get("attributes", {}).get("ome", {}).get("version"),
        "no zip64": b"PK\6\6" in data[-len(comment) - 98 :] and b"PK\6\7" in data[-len(comment) - 42 :],
        "not sorted": names[: len(documents)] == sorted(documents, key=lambda name: (name.count("/"), name)),
        "not sorted in the file": offsets == sorted(offsets),
        "no jsonFirst": told.get("ome", {}).get("zipFile", {}).get("centralDirectory", {}).get("jsonFirst") is True,
        "compressed": all(member.compress_type == zipfile.ZIP_STORED for member in members),
        "another ending": path.suffix == ".ozx",
    }
    return [problem for problem, is_right in checks.items() if not is_right]


@pytest.mark.parametrize(("version", "division"), [("0.5", []), ("0.5", {"0": (4, -1)}), ("0.6", ["labels"])])
def test_an_image_of_ome_zarr_is_one_zip_by_rfc_9(version, division, tmp_path):
    source = image(tmp_path / "in.zarr", version)
    result = ShardedStore.partition(source, division).map_shards(ToZip(tmp_path / "out.ozx"))
    assert problems_of(tmp_path / "out.ozx") == []
    check_same_contents(result, files_of(source))
    assert problems_of_zip_with_changes(tmp_path / "out.ozx")


def problems_of_zip_with_changes(path):
    """Check that the checks find the kit's bad cases."""
    cases = {
        "no comment": {"comment": b""},
        "not sorted": {"reverse": True},
        "compressed": {"method": zipfile.ZIP_DEFLATED},
    }
    with zipfile.ZipFile(path) as file:
        members, comment = [(name, file.read(name)) for name in file.namelist()], file.comment
    for problem, case in cases.items():
        changed = path.with_name("changed.ozx")
        with zipfile.ZipFile(changed, "w", case.get("method", zipfile.ZIP_STORED)) as file:
            for name, data in reversed(members) if case.get("reverse") else members:
                file.writestr(name, data)
            file.comment = case.get("comment", comment)
        assert problem in problems_of(changed)
    return True


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda folder: image(folder, zarr_format=2), "must be Zarr v3, but the root is Zarr v2: put MigrateV3"),
        (lambda folder: image(folder, "0.4"), "must be valid OME-Zarr 0.5, but the source is not"),
        (lambda folder: image(image(folder).joinpath("other"), "0.6") and folder, "must be of one version of OME-Zarr, but .* has 0.5 and 'other.*' has 0.6"),
        (lambda folder: cube_at(folder, CUBE), "must be valid OME-Zarr 0.5, but the source is not"),
    ],
)  # fmt: skip
def test_what_is_no_ome_zarr_is_refused(make, match, tmp_path):
    source = make(tmp_path / "in.zarr")
    with pytest.raises(ChainError, match=f"'{tmp_path}/out.ozx' names one zip of OME-Zarr, which {match}"):
        ShardedStore.partition(source, []).plan(ToZip(tmp_path / "out.ozx"))


def test_a_chain_of_steps_ends_in_one_zip(tmp_path):
    source = cube_at(tmp_path / "source.zarr", SOURCES["cube-v2/"])
    store = ShardedStore.partition(source, SOURCES["cube-v2/"].shards)
    chain = MigrateV3(), Recompress("zstd", level=3)
    result = store.map_shards(*chain, ToZip(tmp_path / "out.zarr.zip"))
    copy = store.map_shards(*chain, CopyTo(tmp_path / "copy"))
    check_same_contents(result, contents_of(copy))


def test_check_ends_if_a_document_of_the_zip_can_not_be_read(source, tmp_path):
    url = tmp_path / "out.zarr.zip"
    zipped(source, url)
    with zipfile.ZipFile(url) as file:
        document = file.read("wind_u/zarr.json")
    url.write_bytes(url.read_bytes().replace(document, document.replace(b"{", b"[", 1), 1))
    report = check(url)
    assert not report.ok
    assert any("wind_u/zarr.json" in finding.what for finding in report.findings)
