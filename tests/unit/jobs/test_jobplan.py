"""`ShardedStore.plan`: plans are checked once, and then run or made lazy."""

import asyncio
import json

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from helpers_jobs import blocks_at, copied, files_of, unchanged
from typing_program import convert

from shardedstore import ChainError, JobPlan, ShardedStore, UsageError, step
from shardedstore.transforms import CopyTo, Recompress, ToZip


@pytest.fixture
def store(tmp_path):
    return blocks_at(tmp_path / "source.zarr", 6)


def test_a_plan_tells_and_writes_nothing(store, tmp_path):
    plan = store.plan(Recompress("zstd", level=5), ToZip(tmp_path / "out"))
    assert isinstance(plan, JobPlan)
    assert (plan.shard_count, plan.destination) == (7, str(tmp_path / "out"))
    assert plan.chain == "Recompress, ToZip"
    assert (plan.nbytes, plan.notices) == (24, ())
    assert not (tmp_path / "out").exists()
    told = plan.to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["mounts"][0]["path"] is None
    assert sum(mount["shard_count"] for mount in told["mounts"]) == 7
    assert sum(mount["files"] for mount in told["mounts"]) == plan.files
    assert (told["left"], told["states"]["new"], told["arrays"][0]["codecs_after"]) == (7, 7, "zstd(5)")
    assert not (tmp_path / "out").exists()


def test_it_runs_to_what_map_shards_gives_and_can_be_run_again(store, tmp_path):
    plan = store.plan(ToZip(tmp_path / "out"))
    assert plan.run().summary.done == 7
    store.map_shards(ToZip(tmp_path / "other"))
    zips = [
        {name: data for name, data in files_of(tmp_path / place).items() if name.endswith(".zip")}
        for place in ("out", "other")
    ]
    assert zips[0] == zips[1] != {}
    assert (plan.run().summary.done, plan.run().summary.skipped) == (0, 7)


def test_it_is_made_lazy(store, tmp_path):
    lazy = store.plan(ToZip(tmp_path / "out")).to_delayed()
    assert not (tmp_path / "out").exists()
    assert lazy.compute(scheduler="synchronous").summary.done == 7


def test_a_source_that_changed_after_it_was_planned_gives_no_config(store, tmp_path):
    plan = store.plan(ToZip(tmp_path / "out"))
    zarr.open_group(tmp_path / "source.zarr", mode="a").attrs["new"] = 1
    with pytest.raises(Exception, match="changed while the job ran"):
        plan.run()
    assert not (tmp_path / "out" / "shardedstore.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "go on"}, "on_error='go on' is not known"),
        ({"retries": -1}, "retries=-1 is not a number of retries"),
        ({"changed": "all"}, "changed='all' is not known"),
        ({"max_failures": 0}, "max_failures=0 is not a number of shards"),
        ({"to": "x"}, "to= is for a function alone"),
    ],
    ids=str,
)
def test_what_can_not_be_run_is_refused_when_it_is_planned(options, message, store, tmp_path):
    with pytest.raises(UsageError, match=message):
        store.plan(ToZip(tmp_path / "out"), **options)


def test_a_chain_without_a_sink_is_refused(store):
    with pytest.raises(ChainError, match="has no sink"):
        store.plan(Recompress("zstd"))


@pytest.mark.parametrize("count", [10, 10_000])
def test_the_repr_is_no_more_than_a_screen(count, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("p")  # a path of less than a line
    group = zarr.create_group(tmp_path / "source.zarr")
    for number in range(min(count, 40)):
        group.create_array(f"a{number:02}", shape=(count,), chunks=(1,), dtype="i4")
    plan = ShardedStore.partition(tmp_path / "source.zarr", {"*": (1,)}).plan(
        ToZip(tmp_path / "out"), consolidated=False
    )
    lines = repr(plan).split("\n")
    assert lines[0].startswith("JobPlan of ToZip to")
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    assert lines[-1] == ("  ... and 5 more" if count == 10 else "  ... and 35 more")
    assert str(plan).count("blosc") + str(plan).count("zstd") == min(count, 40)


@pytest.mark.few(1)
@pytest.mark.parametrize("count", [3, 40, 600])
def test_a_notebook_shows_a_table_that_is_folded_and_escaped(count, tmp_path):
    group = zarr.create_group(tmp_path / "source.zarr")
    group.create_array("<b>", shape=(4,), chunks=(2,), dtype="i4")
    for number in range(count):
        group.create_array(f"a{number}", shape=(4,), chunks=(2,), dtype="i4")
    page = ShardedStore.partition(tmp_path / "source.zarr", {"*": (2,)}).plan(ToZip(tmp_path / "out"))._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<details") == (2 if count > 11 else 1)  # readers, and arrays
    assert len(page) < 160_000
    assert ("... and" in page) == (count > 200)


def test_steps_of_functions_have_their_names(store, tmp_path):
    plan = store.plan(step(unchanged), step(unchanged, name="mine"), ToZip(tmp_path / "out"))
    assert plan.chain == "unchanged, mine, ToZip"
    assert store.plan(copied).chain == "copied"


@pytest.mark.parametrize("progress", ["line", 3, object(), []], ids=["a word", "a number", "an object", "a list"])
def test_a_progress_that_is_not_known_is_refused_before_anything_runs(progress, store, tmp_path):
    with pytest.raises(UsageError, match=r"progress=.* is not valid: use True, False, 'bar', or a function"):
        store.map_shards(ToZip(tmp_path / "out"), progress=progress)
    with pytest.raises(UsageError, match=r"progress=.* is not valid"):
        store.plan(ToZip(tmp_path / "out")).run(progress)
    assert not (tmp_path / "out").exists()


def test_progress_is_shown_as_lines_where_there_is_no_terminal(store, tmp_path, capsys):
    store.map_shards(ToZip(tmp_path / "out"), progress=True)
    assert "7 of 7 shards" in capsys.readouterr().err
    store.map_shards(ToZip(tmp_path / "out"), progress=False)
    assert capsys.readouterr().err == ""
    seen = []
    store.map_shards(CopyTo(tmp_path / "copy.zarr"), progress=lambda *numbers: seen.append(numbers))
    assert (seen[0], seen[-1]) == ((0, 7), (7, 7))


def test_a_bar_is_shown_where_it_is_asked_for(store, tmp_path, capsys):
    store.map_shards(ToZip(tmp_path / "out"), progress="bar")
    assert "7 of 7 shards" in capsys.readouterr().err


@pytest.mark.cluster
async def test_an_asynchronous_client_is_refused_and_both_ways_that_are_named_work(store, tmp_path):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        async with Client(cluster.scheduler_address, asynchronous=True) as client:
            with pytest.raises(UsageError, match=r"asynchronous.*asyncio.to_thread.*compute=False"):
                store.map_shards(ToZip(tmp_path / "out"))
            with pytest.raises(UsageError, match="asynchronous"):
                store.plan(ToZip(tmp_path / "out")).run()
            assert not (tmp_path / "out").exists()
            made = await client.compute(store.map_shards(ToZip(tmp_path / "one"), compute=False))
            assert made.summary.done == 7

            def work():
                with Client(cluster.scheduler_address):
                    return store.map_shards(ToZip(tmp_path / "two"))

            made = await asyncio.to_thread(work)
            assert made.summary.done == 7
            np.testing.assert_array_equal(
                zarr.open_group(made, mode="r")["a"][:], zarr.open_group(store, mode="r")["a"][:]
            )


def test_the_program_that_is_checked_for_its_types_runs(tmp_path):
    zarr.create_group(tmp_path / "source.zarr").create_array("t", data=np.arange(6), chunks=(2,))
    with dask.config.set(scheduler="synchronous"):
        done, lazy = convert(tmp_path / "source.zarr", tmp_path)
        assert done == 4
        assert lazy.compute().summary.done == 1
    assert zarr.open_array(tmp_path / "sharded.zarr" / "t")[:].tolist() == [*range(6)]
