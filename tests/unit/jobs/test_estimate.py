"""`JobPlan.estimate`: each number with its basis, beside what the job then does."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from helpers_jobs import files_of, unchanged
from paths import ROOT

from shardedstore import DestinationError, Guards, ShardedStore, UsageError, cli, step
from shardedstore.jobs.estimates.prices import cost_of, read_prices
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, Recompress, ToShardingCodec, ToZip


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture
def source(tmp_path):
    group = zarr.create_group(tmp_path / "source.zarr")
    data = np.cumsum(np.random.default_rng(0).integers(-2, 3, (40, 16, 16)), 0).astype("f4")
    group.create_array("t2m", data=data, chunks=(2, 16, 16), compressors=None)
    group.create_array("deep/u10", data=data, chunks=(4, 8, 8), compressors=None)
    group.create_array("time", data=np.arange(40), chunks=(40,))
    return tmp_path / "source.zarr"


def divided(source, **options):
    return ShardedStore.partition(source, {"t2m": (10, -1, -1), "deep": "whole"}, **options)


def stored(folder):
    files = {name: data for name, data in files_of(Path(folder)).items() if not name.startswith(".shardedstore")}
    return len(files), sum(map(len, files.values()))


def doubled(block, position):
    return block * 2


CHAINS = {  # the chain, and the basis of the size of its result
    "copy to zips": ((), ToZip, "sampled"),
    "recompress": ((Recompress("zstd", level=5),), ToZip, "sampled"),
    "one ordinary Zarr": ((Recompress("zstd", level=5),), CopyTo, "sampled"),
    "the sharding codec": ((Recompress("zstd", level=5),), ToShardingCodec, "sampled"),
    "a function of chunks": ((MapChunks(doubled, name="doubled"),), ToZip, "sampled"),
    "a step of entries": ((step(unchanged, name="u"),), ToZip, "assumed"),
    "a function of blocks": ((MapBlocks(doubled, arrays="t2m", name="doubled"),), CopyTo, "assumed"),
}


@pytest.mark.parametrize(("steps", "sink", "basis"), CHAINS.values(), ids=CHAINS)
def test_files_and_bytes_are_those_of_the_result(steps, sink, basis, source, tmp_path):
    plan = divided(source).plan(*steps, sink(tmp_path / "out"))
    estimate = plan.estimate(count=True)
    assert not (tmp_path / "out").exists()
    files, nbytes = stored(source)
    assert (estimate.files, estimate.stored) == ((files, "exact"), (nbytes, "exact"))
    assert estimate.stored_after.basis == basis
    plan.run()
    files, nbytes = stored(tmp_path / "out")
    assert estimate.objects.value == pytest.approx(files, abs=3)  # the config, and consolidated metadata
    if basis == "sampled":
        assert estimate.stored_after.value == pytest.approx(nbytes, rel=0.2)


def test_without_a_count_files_are_an_upper_limit(source, tmp_path):
    shutil.rmtree(source / "t2m" / "c" / "3")
    plan = divided(source).plan(ToZip(tmp_path / "out"))
    files, nbytes = stored(source)
    estimate = plan.estimate()
    assert (estimate.files, estimate.stored.basis) == ((files + 1, "most"), "sampled")
    assert plan.estimate(count=True, sample=None).stored == (nbytes, "exact")
    nothing = plan.estimate(sample=None)
    assert (nothing.stored, nothing.stored_after, nothing.written, nothing.rate) == (None, None, None, None)


def test_arrays_have_their_codecs_before_and_after(source, tmp_path):
    plan = divided(source).plan(Recompress("zstd", level=5, arrays="t2m"), ToShardingCodec(tmp_path / "out"))
    arrays = {array.path: array for array in plan.estimate().arrays}
    t2m = arrays["t2m"]
    assert (t2m.dtype, t2m.codecs) == ("float32", "none")
    assert t2m.codecs_after.startswith("sharding(zstd(5)")
    assert (t2m.shard_count, t2m.grid, t2m.mount) == (4, (4,), "t2m")
    assert (arrays["deep/u10"].mount, arrays["time"].mount, arrays["time"].grid) == ("deep", None, None)
    frame = plan.to_dataframe()
    assert list(frame.index) == list(arrays)
    assert frame.loc["t2m", "files"] == 20


def change_nothing(source):
    """Leave the source as it is."""


def append(source):
    zarr.open_array(source / "t2m", mode="a").resize((60, 16, 16))


def edit_attributes(source):
    zarr.open_array(source / "deep" / "u10", mode="a").attrs["units"] = "m/s"


def overwrite_in_place(source):
    zarr.open_array(source / "t2m", mode="a")[0:2] = 7


def remove_an_array(source):
    shutil.rmtree(source / "deep" / "u10")
    zarr.open_group(source / "deep", mode="a").create_array("v10", shape=(8,), chunks=(4,), dtype="i4")


def shrink(source):
    zarr.open_array(source / "t2m", mode="a").resize((20, 16, 16))


NIGHTS = {  # the change, the level, and the shards that are new, changed, kept and gone
    "nothing": (change_nothing, "metadata", (0, 0, 6, 0)),
    "appended": (append, "metadata", (2, 2, 4, 0)),
    "attributes": (edit_attributes, "metadata", (0, 1, 5, 0)),
    "in place, by metadata": (overwrite_in_place, "metadata", (0, 0, 6, 0)),
    "in place, by listing": (overwrite_in_place, "listing", (0, 1, 5, 0)),
    "another array": (remove_an_array, "metadata", (0, 1, 5, 0)),
    "shrunk": (shrink, "metadata", (0, 2, 2, 2)),
}


@pytest.mark.parametrize(("change", "level", "wanted"), NIGHTS.values(), ids=NIGHTS)
def test_the_states_of_shards_are_those_of_the_next_run(change, level, wanted, source, tmp_path):
    divided(source).map_shards(ToZip(tmp_path / "out"), changed=level)
    change(source)
    before = files_of(tmp_path / "out")
    plan = divided(source).plan(ToZip(tmp_path / "out"), changed=level, guards=Guards(force=True))
    states = plan.estimate().states
    assert (states.new, states.changed, len(states.kept), states.gone) == wanted
    assert files_of(tmp_path / "out") == before
    if level == "metadata":
        assert plan.to_dict()["states"]["kept"] == wanted[2]
    summary = plan.run().summary
    assert (summary.done, summary.skipped) == (wanted[0] + wanted[1], wanted[2])
    assert plan.estimate().left == 0


def test_lost_shards_are_made_again(source, tmp_path):
    divided(source).map_shards(ToZip(tmp_path / "out"))
    (tmp_path / "out" / "deep.zarr.zip").unlink()
    estimate = divided(source).plan(ToZip(tmp_path / "out")).estimate()
    assert (estimate.states.lost, estimate.left, estimate.states.is_first) == (1, 1, False)
    assert estimate.headline.startswith("now: 1 lost, 5 kept; reads at most ")


def test_content_is_compared_on_request(source, tmp_path):
    divided(source).map_shards(ToZip(tmp_path / "out"), changed="content")
    overwrite_in_place(source)
    plan = divided(source).plan(ToZip(tmp_path / "out"), changed="content")
    assert (plan.estimate().states.changed, plan.estimate().states.compared) == (0, "metadata")
    assert (plan.estimate(count=True).states.changed, plan.estimate(count=True).states.compared) == (1, "content")


def test_a_new_job_over_one_ordinary_zarr_tells_that_it_writes_over_it(source, tmp_path):
    divided(source).map_shards(CopyTo(tmp_path / "out.zarr"))
    append(source)
    estimate = divided(source).plan(CopyTo(tmp_path / "out.zarr")).estimate()
    assert (estimate.states.changed, estimate.overwritten) == (2, 2)
    assert any("2 shards will be written over" in warning for warning in estimate.warnings)


def to_zip_of(source, folder):
    ShardedStore.partition(source, []).map_shards(ToZip(folder / "one"))
    return ShardedStore.partition(folder / "one" / "__base__.zarr.zip", {"t2m": (10, -1, -1)})


SOURCES = {
    "a zip": to_zip_of,
    "a folder of zips": lambda source, folder: divided(source).map_shards(ToZip(folder / "zips")),
    "a folder of Zarrs": lambda source, folder: divided(source).map_shards(CopyTo(folder / "zarrs", layout="shards")),
    "a part": lambda source, folder: divided(source, exclude=["time"]),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_every_kind_of_source_is_counted(make, source, tmp_path):
    store = make(source, tmp_path)
    plan = store.plan(Recompress("zstd", level=5), ToZip(tmp_path / "out"))
    estimate = plan.estimate(count=True)
    assert estimate.files.basis == estimate.stored.basis == "exact"
    written = plan.run().summary.nbytes
    assert estimate.stored_after.value == pytest.approx(written, rel=0.25)


def test_a_collection_counts_all_members(tmp_path):
    for name in "abcd":
        zarr.create_array(tmp_path / "cells" / f"{name}.zarr", data=np.arange(30), chunks=(10,), compressors=None)
    plan = ShardedStore.collect(tmp_path / "cells" / "*.zarr").plan(ToZip(tmp_path / "out"))
    estimate = plan.estimate(count=True)
    assert (estimate.files, estimate.arrays[0].count) == ((16, "exact"), 4)
    assert estimate.stored.value == stored(tmp_path / "cells")[1]


def test_a_damaged_chunk_is_a_warning(source, tmp_path):
    array = zarr.create_array(source, name="bad", data=np.arange(8), chunks=(8,))
    assert array.nchunks == 1
    (source / "bad" / "c" / "0").write_bytes(b"rubbish")
    estimate = divided(source).plan(Recompress("gzip"), ToZip(tmp_path / "out")).estimate()
    assert any("a sample of 'bad' fails" in warning for warning in estimate.warnings)


def test_arrays_that_become_larger_are_named(source, tmp_path):
    zarr.create_array(source, name="saw", data=np.arange(1 << 16) % 251, chunks=(1 << 14,))
    estimate = divided(source).plan(Recompress(None, arrays="saw"), ToZip(tmp_path / "out")).estimate()
    assert any("larger than before: 'saw' by" in warning for warning in estimate.warnings)


def test_the_free_space_is_compared(source, tmp_path):
    estimate = divided(source).plan(ToZip(tmp_path / "deep" / "out")).estimate()
    assert estimate.is_enough
    assert "; free " in estimate.headline
    full = replace(estimate, space=estimate.space._replace(nbytes=1000))
    assert (full.is_enough, ": NOT ENOUGH" in full.headline) == (False, True)
    few = replace(estimate, space=estimate.space._replace(files=3))
    assert few.is_enough is False


def test_a_test_write_leaves_nothing(source, tmp_path):
    for sink in (ToZip(tmp_path / "new" / "out"), CopyTo(tmp_path / "new" / "out.zarr")):
        estimate = divided(source).plan(sink).estimate(test_write=True)
        assert estimate.write_test.error == ""
        assert not (tmp_path / "new").exists()


def test_the_time_follows_from_a_rate(source, tmp_path):
    plan = divided(source).plan(ToZip(tmp_path / "out"))
    given = plan.estimate(rate="1 kiB/s", threads=3)
    assert (given.rate, given.rate_basis, given.threads) == (1024, "given", 3)
    assert given.seconds == pytest.approx(given.written.value / 1024)
    assert plan.estimate().rate_basis == "sampled"
    plan.run()
    append(source)
    assert divided(source).plan(ToZip(tmp_path / "out")).estimate().rate_basis == "recorded"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": "much"}, "sample='much' is not a size"),
        ({"rate": "fast"}, "rate='fast' is not a rate"),
        ({"rate": 0}, "rate=0 is not a rate"),
        ({"prices": {"curency": "EUR"}}, "unknown field `curency`; its fields are currency, source"),
        ({"prices": {"source": {"per_1000": {"GET": "dear"}}}}, "prices is not a price table"),
        ({"prices": "/nowhere.toml"}, "'/nowhere.toml' can't be read"),
    ],
    ids=str,
)
def test_options_that_are_not_valid_are_refused(options, message, source, tmp_path):
    with pytest.raises(UsageError, match=message):
        divided(source).plan(ToZip(tmp_path / "out")).estimate(**options)


def test_prices():
    table = read_prices({"destination": {"per_1000": {"PUT": 5.0, "GET": 0.4}}})
    assert table.destination.of_requests({"PUT": 1000, "LIST": 1000, "POST": 1000, "HEAD": 1000, "DELETE": 9}) == 15.4
    full = read_prices(
        {
            "currency": "EUR",
            "source": {"read_per_gb": 0.02},
            "destination": {"month_per_gb": 0.01, "write_per_gb": 0.005},
            "hour_per_thread": 0.5,
        }
    )
    cost = cost_of(full, {}, {}, 10**9, 2 * 10**9, 3 * 10**9, 7200)
    assert (cost.transfer, cost.month, cost.workers, cost.once) == pytest.approx((0.03, 0.03, 1.0, 1.03))


def test_the_price_table_of_the_documentation():
    text = (ROOT / "docs" / "plan.md").read_text("utf-8").partition("```toml\n")[2].partition("```")[0]
    assert read_prices(tomllib.loads(text)).destination.of_requests({"LIST": 1000, "HEAD": 1000}) == pytest.approx(
        0.0054
    )


def test_a_view_of_a_plan_never_fails(source, tmp_path):
    plan = divided(source).plan(ToZip(tmp_path / "out"))
    (tmp_path / "out" / ".shardedstore").mkdir(parents=True)
    (tmp_path / "out" / ".shardedstore" / "job-1.json").write_text("{")
    assert "6 new" in repr(plan)
    with pytest.raises(DestinationError):
        plan.estimate()


def test_the_command_line(source, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(cli.main, [*map(str, arguments)])

    where = source, tmp_path / "out", "--to", "zip", "--codec", "zstd:level=5", "--shards", "t2m=10,-1,-1"
    (tmp_path / "prices.toml").write_text('currency = "EUR"\n[destination]\nper_1000 = {PUT = 0.005}\n')
    page = tmp_path / "plan.html"
    done = run("plan", *where, "--count", "--test-write", "--prices", tmp_path / "prices.toml", "--html", page)
    assert done.exit_code == 0, done.output
    shown = " ".join(done.stdout.split())
    assert "now: 5 new; reads 66 files; writes 5 files" in shown
    assert "EUR 0.00" in done.stdout
    assert max(map(len, done.stdout.splitlines()[2:])) <= 80
    assert page.read_text().startswith("<!DOCTYPE html>")
    told = json.loads(run("plan", *where, "--json").stdout)
    assert (told["left"], told["states"]["new"], told["stored"]["basis"]) == (5, 5, "sampled")
    dry = run("convert", *where, "--dry-run")
    assert "now: 5 new; reads at most" in dry.stdout
    assert not (tmp_path / "out").exists()
