"""Holes, which are accepted failures: they are recorded and shown everywhere, and never read as fill values."""

import json

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from helpers_jobs import Fail, files_of

from shardedstore import ConfigError, HoleError, ShardedStore, ShardsFailed, UsageError, cli
from shardedstore.fields import FILE_NAME
from shardedstore.transforms import CopyTo, Recompress, ToShardingCodec, ToZip

SHARDS = {"t": {"time": 4}, "b": {"time": 4}, "fixed": "whole"}
SINKS = {"ToZip": ToZip, "CopyTo-shards": lambda out: CopyTo(out, layout="shards")}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    return make(tmp_path / "source.zarr")


def make(path):
    root = zarr.create_group(path)
    for name in ("t", "b"):
        root.create_array(name, data=np.arange(60.0).reshape(10, 6), chunks=(2, 3), dimension_names=("time", "x"))
    root.create_group("fixed").create_array("a", data=np.ones(8), chunks=(2,))
    return path


def damage(source, key="t/c/3/1"):
    (source / key).write_bytes(b"rubbish")


def convert(source, out, sink=ToZip, *steps, **options):
    return ShardedStore.partition(source, SHARDS).map_shards(
        *steps, Recompress("gzip"), sink(out), retries=0, **options
    )


def command(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


@pytest.mark.parametrize(
    "accepted", [{"accept_failed": ["t[1]"]}, {"max_missing": 1}, {"accept_failed": ["t[1]", "b[0]"]}]
)
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_a_hole_is_recorded_and_never_read_as_fill_values(source, tmp_path, sink, accepted):
    damage(source)
    result = convert(source, tmp_path / "out", sink, **accepted)
    assert (result.summary.done, result.summary.holes) == (7, ("t[1]",))
    assert "t[1]" in str(result.summary.failures[0])
    for store in (result, ShardedStore.load(tmp_path / "out")):
        root = zarr.open_group(store, mode="r")
        assert root["b"][:].tolist() == np.arange(60.0).reshape(10, 6).tolist()
        assert root["t"][:4].tolist() == np.arange(24.0).reshape(4, 6).tolist()
        for read in (
            lambda root=root: root["t"][:],
            lambda root=root: root["t"][6, 0],
            lambda root=root: root["t"].nchunks_initialized,
        ):
            with pytest.raises(HoleError, match=r"'t\[1\]' is a hole: this shard failed .*t/c/3/1|'t\[1\]' is a hole"):
                read()
        with xr.open_zarr(store, consolidated=False) as opened, pytest.raises(HoleError):
            opened.t.load()
        assert "1 hole: t[1]" in repr(store)
        assert "1 hole: t[1]" in store._repr_html_()
        report = store.verify()
        assert (report.ok, report.has_holes_only, report.damaged_shards) == (False, True, ())
        assert [(d.kind, d.shard) for d in report.differences] == [("hole", "t[1]")]
        assert store.verify(level="exists").has_holes_only
        damage_of_source = [d for d in store.verify(source).differences if d.is_of_source]
        assert {d.kind for d in store.verify(source).differences if d not in damage_of_source} == {"hole"}


def test_the_next_run_tries_a_hole_again(source, tmp_path):
    right = (source / "t/c/3/1").read_bytes()
    damage(source)
    convert(source, tmp_path / "out", max_missing=1)
    before = (tmp_path / "out" / FILE_NAME).read_bytes()
    again = convert(source, tmp_path / "out", max_missing=1)
    assert (again.summary.done, again.summary.skipped, again.summary.holes) == (0, 7, ("t[1]",))
    assert (tmp_path / "out" / FILE_NAME).read_bytes() == before
    with pytest.raises(ShardsFailed, match="1 of 8 shards failed"):
        convert(source, tmp_path / "out")
    assert ShardedStore.load(tmp_path / "out").verify().has_holes_only  # published objects stay
    (source / "t/c/3/1").write_bytes(right)
    result = convert(source, tmp_path / "out")
    assert (result.summary.done, result.summary.missing, result.summary.holes) == (1, 0, ())
    assert result.verify(source).ok
    convert(source, tmp_path / "undisturbed")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")


def test_a_hole_of_a_source_that_goes_on_growing(source, tmp_path):
    damage(source)
    convert(source, tmp_path / "out", max_missing=1)
    array = zarr.open_group(source)["t"]
    array.resize((14, 6))
    array[10:] = 5
    result = convert(source, tmp_path / "out", max_missing=1)
    assert result.summary.holes == ("t[1]",)
    assert zarr.open_group(result, mode="r")["t"][8:].tolist() == array[8:].tolist()
    with pytest.raises(HoleError):
        zarr.open_group(result, mode="r")["t"][4:8]
    assert not ShardedStore.load(tmp_path / "out").verify().damaged_shards


@pytest.mark.parametrize("failed", ["t[0]", "fixed", "t[2]"])
def test_whole_shards_and_others(source, tmp_path, failed):
    result = convert(source, tmp_path / "out", ToZip, Fail(failed), accept_failed=[failed])
    assert result.summary.holes == (failed,)
    root = zarr.open_group(result, mode="r")
    names = {name for name, _ in root.members()}
    assert names == ({"t", "b"} if failed == "fixed" else {"t", "b", "fixed"})
    with pytest.raises(HoleError):
        root["fixed/a"] if failed == "fixed" else root["t"][:]
    with xr.open_zarr(result, consolidated=False) as opened:
        assert opened.b.load().shape == (10, 6)


def test_all_blocks_of_an_array(source, tmp_path):
    for key in ("t/c/0/0", "t/c/2/0", "t/c/4/0"):
        damage(source, key)
    result = convert(source, tmp_path / "out", max_missing=3)
    assert result.summary.holes == ("t[0]", "t[1]", "t[2]")
    assert zarr.open_group(ShardedStore.load(tmp_path / "out"), mode="r")["b"][0, 1] == 1


@pytest.mark.parametrize("per_zip", [None, 2])
def test_members_of_a_collection(tmp_path, per_zip):
    for name in "abcd":
        zarr.create_array(tmp_path / f"in/{name}.zarr", data=np.arange(4.0))
    (tmp_path / "in/a.zarr/c/0").write_bytes(b"rubbish")
    store = ShardedStore.collect(tmp_path / "in/*.zarr")
    name, left = ("a", "bcd") if per_zip is None else ("[0]", "cd")
    result = store.map_shards(
        Recompress("gzip"), ToZip(tmp_path / "out", per_zip=per_zip), retries=0, accept_failed=[name]
    )
    assert result.summary.holes == (name,)
    root = zarr.open_group(ShardedStore.load(tmp_path / "out"), mode="r")
    assert {name: array[:].tolist() for name, array in root.members()} == {key: [0, 1, 2, 3] for key in left}
    with pytest.raises(HoleError):
        root["a"]


def test_what_is_not_accepted_fails(source, tmp_path):
    damage(source)
    damage(source, "b/c/0/0")
    for accepted in (
        {"accept_failed": ["t[1]"]},
        {"max_missing": 1},
        {"accept_failed": ["t[0]", "t[2]"], "max_missing": 1},
    ):
        with pytest.raises(ShardsFailed, match="2 of 8 shards failed and no config was written"):
            convert(source, tmp_path / "out", **accepted)
        assert not (tmp_path / "out" / FILE_NAME).exists()
    with pytest.raises(ShardsFailed):
        convert(source, tmp_path / "out", on_error="stop", max_missing=1)
    assert convert(source, tmp_path / "out", accept_failed=["t[1]"], max_missing=1).summary.holes == ("b[0]", "t[1]")
    with pytest.raises(ShardsFailed):
        convert(source, tmp_path / "base", ToZip, Fail("(base)"), max_missing=8)


@pytest.mark.parametrize(
    ("sink", "accepted", "message"),
    [
        (CopyTo, {"max_missing": 1}, "would be read as fill values: CopyTo takes no"),
        (ToShardingCodec, {"accept_failed": ["t[1]"]}, "would be read as fill values: ToShardingCodec takes no"),
        (ToZip, {"accept_failed": ["t[9]"]}, r"'t\[9\]', which is not a shard"),
        (ToZip, {"accept_failed": ["(base)"]}, "the base can't be a hole"),
        (ToZip, {"max_missing": -1}, "is not a number of shards"),
    ],
)
def test_what_can_not_be_accepted(source, tmp_path, sink, accepted, message):
    with pytest.raises(UsageError, match=message):
        convert(source, tmp_path / "out", sink, **accepted)
    assert not (tmp_path / "out").exists()


def test_a_job_over_a_result_with_holes_does_not_take_them_for_data(source, tmp_path):
    damage(source)
    result = convert(source, tmp_path / "out", max_missing=1)
    for sink in (ToZip(tmp_path / "zips"), CopyTo(tmp_path / "copy")):
        with pytest.raises(ShardsFailed) as failed:
            result.map_shards(sink)
        assert "shard 't[1]' failed: HoleError: 't[1]' is a hole" in str(failed.value)
    again = ShardedStore.partition(result, {"t": {"time": 2}})
    with pytest.raises(ShardsFailed) as failed:
        again.map_shards(ToZip(tmp_path / "again"))
    assert "HoleError" in str(failed.value)


def test_readers_of_version_1_refuse_a_hole(source, tmp_path):
    """A reader without this kind must refuse it as an unknown kind, as the page says."""
    damage(source)
    convert(source, tmp_path / "out", max_missing=1)
    document = json.loads((tmp_path / "out" / FILE_NAME).read_text())
    hole = document["shards"]["t"]["exceptions"]["1"]
    assert (document["version"], hole["kind"], hole["shard"]) == (1, "hole", "t[1]")
    hole["kind"] = "unknown"
    with pytest.raises(ConfigError, match="unknown"):
        ShardedStore.from_config(document, root=tmp_path / "out")


def test_the_command_line(source, tmp_path):
    damage(source)
    arguments = [
        "convert",
        source,
        tmp_path / "out",
        "--to",
        "zip",
        "--codec",
        "gzip",
        "--shards",
        "t=time:4",
        "--workers",
        1,
    ]
    failed = command(*arguments)
    assert (failed.exit_code, "1 of" in failed.stderr) == (1, True)
    half = command(*arguments, "--on-error", "partial")
    assert half.exit_code == 1
    assert "shown from" in half.stderr
    assert "no config was written" in half.stderr
    for accepted in (["--accept-failed", "t[1]"], ["--max-missing", "1"]):
        done = command(*arguments, *accepted)
        assert done.exit_code == cli.ExitCode.HOLES == 4
        assert "hole: shard 't[1]' failed" in done.stderr
        assert "run the same command again to try again" in done.stderr
    assert "t[1] is a hole: " in command("info", tmp_path / "out").stdout
    verified = command("verify", tmp_path / "out")
    assert (verified.exit_code, "t[1]: it is an accepted hole" in verified.stdout) == (4, True)
    refused = command("convert", source, tmp_path / "copy", "--to", "zarr", "--max-missing", "1")
    assert (refused.exit_code, "would be read as fill values" in refused.stderr) == (2, True)
    dry = command(*arguments, "--dry-run", "--accept-failed", "t[7]")
    assert (dry.exit_code, "accept_failed has 't[7]', which is not a shard" in dry.stderr) == (2, True)
