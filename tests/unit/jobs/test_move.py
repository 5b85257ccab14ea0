"""Moves: what is refused, every crash point, and sources that change while they are moved."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from conformance import contents_of
from zarr.storage import LocalStore

from shardedstore import Move, ShardedStore, ShardsFailed, UsageError, step
from shardedstore.abc import Callback
from shardedstore.cli.main import main
from shardedstore.fields import MOVING
from shardedstore.jobs.ledger import FOLDER
from shardedstore.storage.folders import open_folder
from shardedstore.transforms import CopyTo, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip

SHARDS = {"t": (4, 8), "g": "whole"}
YES = Move(yes_delete_source=True)
WIND = np.arange(30.0)
EVENTS = {"open", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.scandir", "os.listdir", "os.link"}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def build(folder, zarr_format=3):
    """A source with an array in four blocks, one of which has no chunks, a group, an array in the base, and a file."""
    root = zarr.create_group(folder, zarr_format=zarr_format, attributes={"title": "a source"}, overwrite=True)
    array = root.create_array("t", shape=(16, 8), chunks=(2, 4), dtype="i4", fill_value=-1)
    array[:] = data()
    root.create_array("x", data=np.arange(8), chunks=(3,))
    root.create_group("g").create_array("w", data=WIND, chunks=(7,))
    (folder / "notes.txt").write_text("an ordinary file")
    return folder


def data():
    values = np.arange(128, dtype="i4").reshape(16, 8)
    values[8:12] = -1
    return values


def plan(folder, target, move=YES, shards=SHARDS, sink=ToZip, steps=(), **options):
    return ShardedStore.partition(folder, shards).plan(*steps, sink(target), move=move, **options)


def check(store):
    """Compare all values of a store with those of the source."""
    root = zarr.open_group(store, mode="r")
    assert np.array_equal(root["t"][:], data())
    assert np.array_equal(root["x"][:], np.arange(8))
    assert np.array_equal(root["g/w"][:], WIND)
    assert root.attrs["title"] == "a source"


def check_pair(folder, target):
    if not (target / FOLDER).exists():
        check(ShardedStore.partition(folder, SHARDS))
        return
    check(ShardedStore.load(target, partial=True, allow=[folder]))


def files(folder):
    return sorted(
        os.path.relpath(os.path.join(parent, name), folder) for parent, _, names in os.walk(folder) for name in names
    )


# The whole of it


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("sink", [ToZip, lambda url: CopyTo(url, layout="shards")])
def test_a_source_is_moved(sink, zarr_format, tmp_path):
    source, target = build(tmp_path / "s.zarr", zarr_format), tmp_path / "out"
    zarr.consolidate_metadata(source)
    new = plan(source, target, sink=sink).run()
    assert (new.summary.moved, new.summary.done, new.summary.notices) == (6, 6, ())
    assert new.summary.freed > 0
    assert not source.exists()
    check(ShardedStore.load(target))
    assert ShardedStore.load(target).verify(level="decoded").ok
    with pytest.raises(UsageError, match="does not exist"):
        plan(source, target)


def test_a_result_that_exists_is_verified_and_its_source_deleted(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    ShardedStore.partition(source, SHARDS).map_shards(ToZip(target))
    new = plan(source, target).run()
    assert (new.summary.done, new.summary.skipped, new.summary.moved) == (0, 6, 6)
    assert not source.exists()
    check(ShardedStore.load(target))


# Crash points


class Killed(BaseException):
    """Raised by every operation on files after the death of a process."""


class Death:
    """Ends all operations on files below a folder from one of them on, as ``kill -9`` does."""

    def __init__(self):
        self.calls, self.folder, self.orders = None, "", {}
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if event in EVENTS and self.orders and (order := self.orders.pop((event, str(arguments[0])), None)):
            order()
        if self.calls is None or event not in EVENTS or not str(arguments[0]).startswith(self.folder):
            return
        self.calls -= 1
        if self.calls < 0:
            raise Killed

    @contextmanager
    def at(self, event, path, function):
        """Call a function once at an event of a file."""
        self.orders[event, str(path)] = function
        yield

    @contextmanager
    def after(self, calls, folder) -> Iterator[None]:
        self.folder, self.calls = str(folder), calls
        try:
            yield
        finally:
            self.calls = None


@cache
def death() -> Death:
    """Return the one `Death` of the process: its hook is permanent, and makes all tests after it slower."""
    return Death()


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("sink", "steps", "step_of"),
    [(ToZip, [], 29), (lambda url: CopyTo(url, layout="shards"), [], 89), (ToZip, [Recompress("gzip", level=1)], 53)],
    ids=["zips", "folders", "recompressed"],
)
def test_no_crash_loses_a_value(sink, steps, step_of, tmp_path):
    whole = build(tmp_path / "whole.zarr")
    for number in count():
        source, target = tmp_path / f"{number}.zarr", tmp_path / f"out-{number}"
        shutil.copytree(whole, source)
        prepared = plan(source, target, sink=sink, steps=steps)
        ended = False
        with death().after(number * step_of, tmp_path):
            try:
                prepared.run()
                ended = True
            except BaseException:  # noqa: BLE001 (of any class, by the place of the death)
                pass
        if ended:
            break
        check_pair(source, target)
        if ShardedStore.finish_move(target) is None:
            plan(source, target, sink=sink, steps=steps).run()
        check(ShardedStore.load(target))
        assert not source.exists(), number
        shutil.rmtree(target)
    assert number > 6


# Parts


SELECTIONS = {"include": {"include": ["t", "g"]}, "exclude": {"exclude": ["x"]}}


def plan_part(folder, target, selection, steps=()):
    store = ShardedStore.partition(folder, SHARDS, **SELECTIONS[selection])
    return store.plan(*steps, ToZip(target), move=YES)


def check_part(store):
    """Compare the values of a part with those of the source."""
    root = zarr.open_group(store, mode="r")
    assert np.array_equal(root["t"][:], data())
    assert np.array_equal(root["g/w"][:], WIND)
    assert "x" not in root


def check_others(source):
    """Check that the other members of a source are there, and nothing else."""
    root = zarr.open_group(source, mode="r")
    assert list(root) == ["x"]
    assert np.array_equal(root["x"][:], np.arange(8))
    assert not (source / MOVING).exists()
    assert not (source / "t").exists()
    assert not (source / "g").exists()


@pytest.mark.parametrize(("selection", "steps"), [("include", []), ("exclude", [Recompress("gzip", level=1)])])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_part_is_moved(selection, steps, zarr_format, tmp_path):
    source, target = build(tmp_path / "s.zarr", zarr_format), tmp_path / "out"
    new = plan_part(source, target, selection, steps).run()
    assert (new.summary.moved, new.summary.notices) == (6, ())
    check_part(new)
    check_others(source)
    assert ShardedStore.finish_move(target) == repr(str(source))
    rest = plan(source, tmp_path / "rest", shards=[]).run()  # the other members can be moved then
    assert rest.summary.moved == 1
    assert not source.exists()


@pytest.mark.few(1)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_no_crash_loses_a_value_of_a_part(selection, tmp_path):
    whole = build(tmp_path / "whole.zarr")
    for number in count():
        source, target = tmp_path / f"{number}.zarr", tmp_path / f"out-{number}"
        shutil.copytree(whole, source)
        prepared, ended = plan_part(source, target, selection), False
        with death().after(number * 37, tmp_path):
            try:
                prepared.run()
                ended = True
            except BaseException:  # noqa: BLE001 (of any class, by the place of the death)
                pass
        if ended:
            break
        if (target / FOLDER).exists():
            check_part(ShardedStore.load(target, partial=True, allow=[source]))
        else:
            check_part(ShardedStore.partition(source, SHARDS, **SELECTIONS[selection]))
        assert np.array_equal(zarr.open_array(source / "x", mode="r")[:], np.arange(8))
        if ShardedStore.finish_move(target) is None:
            plan_part(source, target, selection).run()
        check_part(ShardedStore.load(target))
        check_others(source)
        shutil.rmtree(target)
    assert number > 6


def test_a_part_is_moved_in_an_object_store(tmp_path, bucket):
    url = f"{bucket[0]}/s.zarr"
    ShardedStore.partition(build(tmp_path / "s.zarr"), []).map_shards(CopyTo(url))
    new = ShardedStore.partition(url, SHARDS, include=["t", "g"]).map_shards(ToZip(f"{bucket[0]}/out"), move=YES)
    assert new.summary.moved == 6
    check_part(new)
    left = {name for name, _ in open_folder(url).sizes()}
    assert left == {"zarr.json", "notes.txt", "x/zarr.json", "x/c/0", "x/c/1", "x/c/2"}
    assert ShardedStore.finish_move(f"{bucket[0]}/out") == repr(url)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_part_below_consolidated_metadata_is_refused(zarr_format, tmp_path):
    source = build(tmp_path / "s.zarr", zarr_format)
    zarr.consolidate_metadata(source)
    before = files(tmp_path)
    with pytest.raises(
        UsageError, match=r"the group '/' of .* stays in the source, and its consolidated metadata names"
    ):
        plan_part(source, tmp_path / "out", "include")
    assert files(tmp_path) == before


# Refusals


REFUSED = {
    "no confirmation": ({"move": lambda: Move(scratch="1 GiB")}, "confirm this with yes_delete_source=True"),
    "no size": ({"move": lambda: Move(scratch="much", yes_delete_source=True)}, "is not a size"),
    "no number": ({"move": lambda: Move(scratch_files=0, yes_delete_source=True)}, "not a number of files"),
    "another object": ({"move": lambda: True}, "move is True: write Move"),
    "too little scratch": (
        {"move": lambda: Move(scratch=99, yes_delete_source=True)},
        "more than scratch=99: divide it",
    ),
    "too few files": (
        {
            "move": lambda: Move(scratch_files=2, yes_delete_source=True),
            "sink": lambda url: CopyTo(url, layout="shards"),
        },
        "files in the result, more than scratch_files=2",
    ),
    "overwrite": ({"overwrite": True}, "overwrite can't be combined with a move"),
    "holes": ({"accept_failed": ["t[0/0]"]}, "accept_failed can't be combined with a move"),
    "other holes": ({"max_missing": 1}, "max_missing can't be combined with a move"),
    "partial": ({"on_error": "partial"}, "on_error='partial' can't be combined with a move"),
    "listing": ({"changed": "listing"}, "changed='listing' can't be combined with a move"),
    "one Zarr": ({"sink": CopyTo}, "the chain CopyTo can't be moved"),
    "sharding codec": ({"sink": ToShardingCodec}, "the chain ToShardingCodec can't be moved"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_are_refused(case, tmp_path):
    options, message = REFUSED[case]
    source = build(tmp_path / "s.zarr")
    before = files(tmp_path)
    with pytest.raises(UsageError, match=re.escape(message)):
        plan(source, tmp_path / "out", **{**options, "move": options.get("move", lambda: YES)()})
    assert files(tmp_path) == before


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("steps", [[Recompress("gzip", level=1)], [MigrateV3()], [MigrateV3(), Recompress("gzip")]])
def test_a_source_is_moved_and_recompressed(steps, zarr_format, tmp_path):
    if zarr_format == 3:
        steps = steps[-1:] if isinstance(steps[-1], Recompress) else []
    source, target = build(tmp_path / "s.zarr", zarr_format), tmp_path / "out"
    before = contents_of(LocalStore(source)).keys()
    unfinished(source, target, shards_moved=3, steps=steps)
    pair = ShardedStore.load(target, partial=True, allow=[source])
    assert zarr.open_array(pair, path="t").compressors == zarr.open_array(source / "t").compressors
    assert contents_of(pair).keys() - {MOVING} == before
    new = plan(source, target, steps=steps).run()
    assert not source.exists()
    check(new)


@pytest.mark.parametrize(
    "steps", [[MapChunks(np.negative)], [step(lambda entries, shard: entries, name="own", version="1")]]
)
def test_chains_with_steps_are_refused(steps, tmp_path):
    store = ShardedStore.partition(build(tmp_path / "s.zarr", 2), SHARDS)
    with pytest.raises(UsageError, match="can't be moved, as its values can't be compared"):
        store.plan(*steps, ToZip(tmp_path / "out"), move=YES)
    with pytest.raises(UsageError, match="can't be moved"):
        store.plan(lambda store, path, block: store, to=tmp_path / "out", move=YES)


def zip_of(folder):
    ShardedStore.partition(folder, []).map_shards(ToZip(folder.parent / "one"))
    return ShardedStore.partition(folder.parent / "one" / "__base__.zarr.zip", [])


SOURCES = {
    "a zip": (zip_of, "is a zip, not a folder"),
    "a part of a shard": (
        lambda folder: ShardedStore.partition(folder, {"g": "whole"}, exclude=["g/w"]),
        "shard 'g' is .* which is not a division of",
    ),
    "a shared array": (
        lambda folder: ShardedStore(folder, {"y": folder / "x"}, read_only=True),
        "shard 'y' is .* which is not a division of",
    ),
    "a result": (
        lambda folder: ShardedStore.partition(folder, SHARDS).map_shards(ToZip(folder.parent / "zips")),
        "is a zip, not a folder",
    ),
    "an anonymous bucket": (
        lambda folder: ShardedStore.from_config(
            {
                "format": "shardedstore",
                "version": 1,
                "shards": {},
                "base": {"kind": "directory", "url": "s3://public/a.zarr", "options": {"anonymous": True}},
            }
        ),
        "is read without credentials, as public data",
    ),
    "a web server": (
        lambda folder: ShardedStore.from_config(
            {
                "format": "shardedstore",
                "version": 1,
                "shards": {},
                "base": {"kind": "directory", "url": "https://127.0.0.1:9/a.zarr"},
            }
        ),
        "is on a web server, which can only be read",
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_that_are_refused(kind, tmp_path):
    make, message = SOURCES[kind]
    store = make(build(tmp_path / "s.zarr"))
    before = files(tmp_path)
    with pytest.raises(UsageError, match=message):
        store.plan(ToZip(tmp_path / "out"), move=YES)
    assert files(tmp_path) == before


def test_a_lazy_move_is_refused(tmp_path):
    with pytest.raises(UsageError, match="to_delayed can't be combined with a move"):
        plan(build(tmp_path / "s.zarr"), tmp_path / "out").to_delayed()


def test_a_link_to_shared_chunks_is_kept(tmp_path):
    source, shared = build(tmp_path / "s.zarr"), tmp_path / "shared"
    (source / "g/w/c").rename(shared)
    (source / "g/w/c").symlink_to(shared)
    with pytest.raises(ShardsFailed, match="1 of 6 shards failed"):
        plan(source, tmp_path / "out").run()
    assert len(files(shared)) == 5
    check_pair(source, tmp_path / "out")


# Unfinished moves


class Stop(Callback):
    """Ends a job after a number of shards."""

    def __init__(self, shards):
        self.shards = shards

    def on_task_end(self, event):
        if event.progress.ended >= self.shards:
            raise KeyboardInterrupt


def unfinished(source, target, shards_moved=3, **options):
    with pytest.raises(KeyboardInterrupt):
        plan(source, target, **options).run(callbacks=[Stop(shards_moved)])
    check_pair(source, target)


def test_other_jobs_do_not_read_what_is_left(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    unfinished(source, target)
    store = ShardedStore.partition(source, SHARDS)
    with pytest.raises(UsageError, match=r"is being moved to .*out', and its moved chunks"):
        store.plan(ToZip(tmp_path / "other"))
    with pytest.raises(UsageError, match="continue with move="):
        store.plan(ToZip(target))
    with pytest.raises(UsageError, match="this is another job, or the source's metadata"):
        store.plan(ToZip(target, zip64=True), overwrite=True)
    with pytest.raises(UsageError, match="this is another job"):
        plan(source, target, shards={"t": (8, 8), "g": "whole"})
    plan(source, target).run()
    check(ShardedStore.load(target))


def test_changed_metadata_end_a_move_until_they_are_restored(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    unfinished(source, target)
    zarr.open_array(source / "t").resize((20, 8))
    with pytest.raises(UsageError, match=r"'t' has the shape \(16, 8\) there, \(20, 8\) now"):
        plan(source, target)
    zarr.open_array(source / "t").resize((16, 8))
    plan(source, target).run()
    check(ShardedStore.load(target))


def test_sparse_arrays_keep_the_blocks_of_the_first_listing(tmp_path):
    array = zarr.create_array(tmp_path / "s.zarr", name="t", shape=(2000,), chunks=(1,), dtype="i4")
    array[5], array[700], array[1500] = 1, 2, 3
    source, target, shards = tmp_path / "s.zarr", tmp_path / "out", {"t": (100,)}
    assert ShardedStore.partition(source, shards).plan(ToZip(target)).shard_count == 4
    with pytest.raises(KeyboardInterrupt):
        plan(source, target, shards=shards).run(callbacks=[Stop(2)])
    again = plan(source, target, shards=shards)
    assert again.shard_count == 4
    again.run()
    new = zarr.open_array(ShardedStore.load(target), path="t")
    assert [new[5], new[700], new[1500], new[:].sum()] == [1, 2, 3, 6]


def codes(failed):
    return {error.shard: error.code for error in failed.value.exceptions}


def test_a_chunk_that_appears_after_the_move_of_its_shard_is_kept(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    unfinished(source, target, shards_moved=6)
    assert not files(source / "t/c")
    zarr.open_array(source / "t")[0:2, 0:4] = 99
    new = plan(source, target).run()
    (notice,) = new.summary.notices
    assert notice.arrays == ("t/c/0/0",)
    assert (source / "t/zarr.json").exists()
    check(new)
    shutil.rmtree(source / "t/c")
    assert plan(source, target).run().summary.notices == ()
    assert not source.exists()


def test_a_chunk_that_is_edited_before_its_deletion_is_kept(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"

    def edit():
        (source / "g/w/c/1").write_bytes((source / "g/w/c/0").read_bytes())

    with (
        death().at("os.remove", source / "g/w/c/0", edit),
        pytest.raises(ShardsFailed, match="1 of 6 shards failed") as failed,
    ):
        plan(source, target).run()
    assert codes(failed) == {"g": "source-changed"}
    assert files(source / "g/w/c") == ["1"]
    check_pair(source, target)
    with pytest.raises(ShardsFailed, match="1 of 6 shards failed") as failed:
        plan(source, target).run()
    assert codes(failed) == {"g": "source-changed"}
    (source / "g/w/c/1").unlink()
    check(plan(source, target).run())
    assert not source.exists()


def test_a_shard_that_is_damaged_before_it_is_verified_is_made_again(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    ShardedStore.partition(source, SHARDS).map_shards(ToZip(target))
    damage(target / "g.zarr.zip")
    new = plan(source, target).run()
    assert (new.summary.done, new.summary.skipped) == (1, 5)
    check(new)


def damage(file):
    """Change a byte of a chunk in a zip."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def test_a_moved_shard_that_is_lost_is_not_made_of_fill_values(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    unfinished(source, target, shards_moved=6)
    whole = (target / "g.zarr.zip").read_bytes()
    (target / "g.zarr.zip").unlink()
    with pytest.raises(UsageError, match="is missing or marked as damaged, and its source was deleted"):
        ShardedStore.load(target, partial=True, allow=[source])
    with pytest.raises(ShardsFailed, match="1 of 6 shards failed") as failed:
        plan(source, target).run()
    assert codes(failed) == {"g": "lost-after-move"}
    (target / "g.zarr.zip").write_bytes(whole)
    check(plan(source, target).run())
    assert not source.exists()


def test_an_undecodable_chunk_is_never_deleted(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    (source / "t/c/0/0").write_bytes(b"no chunk")
    with pytest.raises(ShardsFailed, match="1 of 6 shards failed") as failed:
        plan(source, target).run()
    assert codes(failed) == {"t[0/0]": "corrupt"}
    assert (source / "t/c/0/0").exists()


def test_a_source_that_was_left_at_the_very_end_names_its_place(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    with death().at("os.remove", source / "t/zarr.json", die), pytest.raises(BaseException):  # noqa: B017
        plan(source, target).run()
    assert not (source / "zarr.json").exists()
    with pytest.raises(
        UsageError, match=r"was moved to .*out', which ShardedStore.load opens: ShardedStore.finish_move"
    ):
        plan(source, target)
    assert ShardedStore.finish_move(target) == repr(str(source))
    assert not source.exists()
    build(source)
    assert ShardedStore.finish_move(target) is None
    with pytest.raises(UsageError, match="the location of the source now holds another source"):
        plan(source, target)


def die():
    raise Killed


# Scratch space


@pytest.mark.parametrize(("move", "expected"), [(Move(scratch_files=2, yes_delete_source=True), 2), (YES, 40)])
def test_scratch_space_bounds_the_shards_in_flight(move, expected, tmp_path):
    zarr.create_array(tmp_path / "s.zarr", name="t", data=np.arange(40), chunks=(1,))
    store = ShardedStore.partition(tmp_path / "s.zarr", {"t": (1,)})
    seen = list[int]()

    class Flying(Callback):
        def on_task_end(self, event):
            seen.append(event.progress.running)

    with dask.config.set(scheduler="threads", num_workers=8):
        store.map_shards(ToZip(tmp_path / "out"), move=move, callbacks=[Flying()])
    assert max(seen) <= expected


def test_shards_that_can_not_be_deleted_keep_their_scratch_space(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    (source / "t/c").rename(tmp_path / "elsewhere")
    (source / "t/c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ShardsFailed, match="2 were not tried"):
        plan(source, target, move=Move(scratch_files=2, yes_delete_source=True)).run()
    check_pair(source, target)


# The command line


def test_the_command_line_moves(tmp_path):
    source, target = build(tmp_path / "s.zarr"), tmp_path / "out"
    arguments = ["convert", str(source), str(target), "--to", "zip", "--shards", "t=4,8", "--move", "--scratch", "1GiB"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "--yes-delete-source" in refused.output
    with death().at("os.remove", source / "t/zarr.json", die), pytest.raises(BaseException):  # noqa: B017
        plan(source, target, shards={"t": (4, 8)}).run()
    for _ in range(2):
        done = CliRunner().invoke(main, [*arguments, "--yes-delete-source"])
        assert (done.exit_code, done.output) == (0, f"'{source}' was moved before: nothing is left to do\n")
    assert not source.exists()
    check(ShardedStore.load(target))
