"""Changed sources: changed shards are made again under new names, and all others are kept."""

import itertools
import os
import shutil
from contextlib import contextmanager
from math import prod

import dask
import numpy as np
import pytest
import zarr
from conformance import check_same_contents, contents_of
from faultproxy import FaultProxy
from helpers_jobs import Fail, Seen, files_of
from hypothesis import given
from hypothesis import strategies as st
from servers import upload
from sources import to_zip

from shardedstore import (
    ConfigError,
    CorruptError,
    DestinationError,
    Guards,
    ShardedStore,
    ShardsFailed,
    Step,
    UsageError,
)
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.ledger import INHERITED, Ledger
from shardedstore.jobs.manifest import read_manifest
from shardedstore.jobs.source_comparison import Mark, has_only_grown, unchanged
from shardedstore.storage.folders import open_folder
from shardedstore.storage.options import take_options
from shardedstore.stores.block import Block
from shardedstore.stores.locations import Config, Directory, Mount, ViewOf
from shardedstore.stores.reader import listing
from shardedstore.transforms import CopyTo, Recompress, ToShardingCodec, ToZip
from shardedstore.zarr.grid import Blocks, ChunkKeys

KEYS = ChunkKeys("default", "/")
SHARDS = {"t": {"time": 4}, "fixed": "whole"}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(params=[2, 3])
def source(request, tmp_path):
    """Ten time steps in blocks of four, a group that is one shard, and a small array in the base."""
    return make(tmp_path / "source.zarr", request.param)


def make(folder, zarr_format=3):
    root = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    names = {"dimension_names": ["time", "x"]} if zarr_format == 3 else {}
    t = root.create_array("t", shape=(10, 6), chunks=(2, 3), dtype="i4", **names)
    if zarr_format == 2:
        t.attrs["_ARRAY_DIMENSIONS"] = ["time", "x"]
    t[:] = np.arange(60).reshape(10, 6)
    fixed = root.create_group("fixed")
    fixed.create_array("a", shape=(4,), chunks=(2,), dtype="f8")[:] = 1.5
    root.create_array("small", shape=(3,), chunks=(3,), dtype="i1")[:] = 7
    return folder


def append(source, rows):
    t = zarr.open_group(source)["t"]
    at = t.shape[0]
    t.resize((at + rows, 6))
    t[at:] = 100 + np.arange(rows * 6).reshape(rows, 6)


def convert(source, out, *steps, **options):
    return ShardedStore.partition(source, SHARDS).map_shards(*steps, ToZip(out), **options)


def check_is(result, source):
    check_same_contents(
        result, {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    )


def counts(result):
    summary = result.summary
    return summary.done, summary.skipped, summary.changed, summary.missing


@pytest.mark.parametrize("compute", [True, False])
def test_a_grown_array_is_made_again_from_its_last_block_on(source, tmp_path, compute):
    out = tmp_path / "out"
    old = convert(source, out)
    before, old_t = files_of(out), np.asarray(zarr.open_group(old)["t"])
    append(source, 7)
    result = convert(source, out, compute=compute)
    result = result if compute else result.compute()
    assert counts(result) == (4, 3, 2, 0)  # the base, the last block and two new ones; two of these existed before
    after = files_of(out)
    assert {name: after[name] for name in before if name != FILE_NAME} == {
        name: data for name, data in before.items() if name != FILE_NAME
    }
    assert after.keys() - before.keys() == {"__base__~2.zarr.zip", *(f"t/{i}~2.zarr.zip" for i in (2, 3, 4))}
    check_is(result, source)
    check_is(ShardedStore.load(out), source)
    np.testing.assert_array_equal(zarr.open_group(old)["t"][:], old_t)  # readers of the old config are not disturbed
    assert counts(convert(source, out)) == (0, 7, 0, 0)


def test_it_grows_night_by_night(source, tmp_path):
    out = tmp_path / "out"
    convert(source, out)
    for night in range(2, 7):
        append(source, 3)
        result = convert(source, out)
        check_is(result, source)
        assert result.summary.skipped >= night - 1
    assert read_manifest(open_folder(str(out))).generation == 6
    check_is(ShardedStore.load(out), source)
    assert not result.verify().differences
    assert not result.verify(source).differences


def test_one_ordinary_zarr_grows_in_its_place(source, tmp_path):
    out = tmp_path / "out.zarr"
    store = ShardedStore.partition(source, SHARDS)
    store.map_shards(CopyTo(out))
    append(source, 5)
    result = ShardedStore.partition(source, SHARDS).map_shards(CopyTo(out))
    assert counts(result) == (3, 3, 2, 0)
    assert files_of(out) == files_of(source)
    assert counts(ShardedStore.partition(source, SHARDS).map_shards(CopyTo(out))) == (0, 6, 0, 0)


def test_one_ordinary_zarr_can_only_grow(source, tmp_path):
    ShardedStore.partition(source, SHARDS).map_shards(CopyTo(tmp_path / "copy.zarr"))
    zarr.open_group(source)["t"].resize((6, 6))
    with pytest.raises(DestinationError, match=r"of this source before it changed \('t' .*: name another"):
        ShardedStore.partition(source, SHARDS).map_shards(CopyTo(tmp_path / "copy.zarr"))


def test_the_sharding_codec_is_not_grown(tmp_path):
    source = make(tmp_path / "source.zarr")
    ShardedStore.partition(source, SHARDS).map_shards(ToShardingCodec(tmp_path / "s.zarr"))
    append(source, 2)
    with pytest.raises(DestinationError, match="of this source before it changed: name another"):
        ShardedStore.partition(source, SHARDS).map_shards(ToShardingCodec(tmp_path / "s.zarr"))


def retitled(root):
    root.attrs["title"] = "another"


def with_another_array(root):
    root.create_array("more", shape=(3,), chunks=(3,), dtype="i1")[:] = 8


def without_an_array(root):
    del root["small"]


def without_a_shard(root):
    del root["fixed"]


def regrouped(root):
    root["fixed"].attrs["note"] = "new"


def retyped(root):
    names = {"dimension_names": ["time", "x"]} if root.metadata.zarr_format == 3 else {}
    root.create_array("t", shape=(10, 6), chunks=(2, 3), dtype="i8", overwrite=True, **names)[:] = 3
    if root.metadata.zarr_format == 2:
        root["t"].attrs["_ARRAY_DIMENSIONS"] = ["time", "x"]


def rechunked(root):
    names = {"dimension_names": ["time", "x"]} if root.metadata.zarr_format == 3 else {}
    root.create_array("t", shape=(10, 6), chunks=(4, 6), dtype="i4", overwrite=True, **names)[:] = 3
    if root.metadata.zarr_format == 2:
        root["t"].attrs["_ARRAY_DIMENSIONS"] = ["time", "x"]


def narrowed(root):
    root["t"].resize((10, 3))


def shrunk(root):
    root["t"].resize((6, 6))


CHANGES = {  # shards that are made, and shards that are kept
    retitled: (1, 4),
    with_another_array: (1, 4),
    without_an_array: (1, 4),
    without_a_shard: (1, 3),
    regrouped: (1, 4),
    retyped: (4, 1),
    rechunked: (4, 1),
    narrowed: (4, 1),
    shrunk: (2, 2),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.few(8)
def test_what_else_changes_in_the_metadata(source, tmp_path, change):
    convert(source, tmp_path / "out", Recompress("zstd"))
    change(zarr.open_group(source))
    shards = {"t": SHARDS["t"]} if change is without_a_shard else SHARDS
    store = ShardedStore.partition(source, shards)
    result = store.map_shards(Recompress("zstd"), ToZip(tmp_path / "out"), guards=Guards(force=True))
    assert counts(result)[:2] == CHANGES[change]
    assert not result.verify(source).differences
    undisturbed = store.map_shards(Recompress("zstd"), ToZip(tmp_path / "undisturbed"))
    check_same_contents(result, contents_of(undisturbed))


def test_a_source_all_of_which_is_divided_otherwise_is_refused(source, tmp_path):
    convert(source, tmp_path / "out")
    append(source, 2)
    other = ShardedStore.partition(source, {"t": {"time": 6}})
    with pytest.raises(
        DestinationError,
        match=r"of another division of this source.*'t' is in blocks of 2 chunks there, in blocks of 3 chunks now",
    ):
        other.map_shards(ToZip(tmp_path / "out"))


class Died(Exception):
    pass


@contextmanager
def dies_before_it_takes_over():
    def die(*_):
        raise Died

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Ledger, "inherit", die)
        with pytest.raises(Died):
            yield


def test_a_job_that_died_before_it_took_over_does_so_when_it_goes_on(source, tmp_path):
    out = tmp_path / "out"
    convert(source, out)
    append(source, 7)

    with dies_before_it_takes_over():
        convert(source, out)
    assert read_manifest(open_folder(str(out))).after == 1
    result = convert(source, out)
    assert counts(result) == (4, 3, 2, 0)
    assert list(out.glob(f".shardedstore/ledger/2-*/{INHERITED}"))
    check_is(result, source)


# Stronger comparisons


def edit(source):
    """Write other data in place, of the same size."""
    t = zarr.open_group(source)["t"]
    t[5, 4] = -t[5, 4]


def touch(source):
    path = next(path for path in sorted(source.rglob("*")) if path.is_file() and path.parent.name == "small")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("compute", [True, False])
@pytest.mark.parametrize("changed", ["listing", "content"])
def test_what_is_written_in_place_is_seen_by_who_looks(source, tmp_path, changed, compute):
    out, trace = tmp_path / "out", tmp_path / "trace"

    def run():
        made = convert(source, out, Seen(str(trace)), changed=changed, compute=compute)
        return made if compute else made.compute()

    run()
    before = files_of(out)
    assert counts(run()) == (0, 5, 0, 0)
    assert files_of(out) == before
    edit(source)
    shutil.rmtree(trace, ignore_errors=True)
    result = run()
    assert counts(result) == (1, 4, 1, 0)
    check_is(result, source)
    assert "t/1~2.zarr.zip" in files_of(out)
    assert counts(run()) == (0, 5, 0, 0)


def test_metadata_alone_does_not_see_it(source, tmp_path):
    convert(source, tmp_path / "out")
    edit(source)
    assert counts(convert(source, tmp_path / "out")) == (0, 5, 0, 0)


def test_a_listing_sees_times_and_content_does_not(source, tmp_path):
    for changed, again in ("listing", 1), ("content", 0):
        convert(source, tmp_path / changed, changed=changed)
        touch(source)
        assert counts(convert(source, tmp_path / changed, changed=changed)) == (again, 5 - again, again, 0)
        os.utime(next(source.rglob("small")), None)


def test_who_looked_less_closely_before_does_all_again(source, tmp_path):
    convert(source, tmp_path / "out")
    assert counts(convert(source, tmp_path / "out", changed="listing")) == (5, 0, 5, 0)
    assert counts(convert(source, tmp_path / "out", changed="listing")) == (0, 5, 0, 0)
    assert counts(convert(source, tmp_path / "out")) == (0, 5, 0, 0)


def test_growing_and_writing_in_place_together(source, tmp_path):
    convert(source, tmp_path / "out", changed="listing")
    edit(source)
    append(source, 7)
    result = convert(source, tmp_path / "out", changed="listing")
    check_is(result, source)
    assert result.summary.skipped == 2


def test_a_zip_is_known_by_its_directory(tmp_path):
    source = make(tmp_path / "source.zarr")
    files = contents_of(ShardedStore(source))
    archive = to_zip(files, tmp_path / "a.zip")
    convert(archive, tmp_path / "out", changed="listing")
    assert counts(convert(archive, tmp_path / "out", changed="listing")) == (0, 5, 0, 0)
    edit(source)
    os.unlink(archive)
    to_zip(contents_of(ShardedStore(source)), tmp_path / "a.zip")
    assert counts(convert(archive, tmp_path / "out", changed="listing")) == (1, 4, 1, 0)


class Edit(Step):
    """Writes to the source while it is read."""

    def __init__(self, file):
        self.file = file

    def __call__(self, entries, shard):
        for i, entry in enumerate(entries):
            if i == 0 and shard.name == "fixed":
                os.utime(self.file, ns=(5, 5))
            yield entry


def test_a_source_that_changes_while_it_is_read_fails_its_shard(source, tmp_path):
    file = next(path for path in sorted((source / "fixed" / "a").rglob("*")) if path.is_file())
    with pytest.raises(ShardsFailed) as raised:
        convert(source, tmp_path / "out", Edit(file), changed="listing", retries=0)
    (failure,) = raised.value.exceptions
    assert failure.shard == "fixed"
    assert CorruptError.__name__ in failure.cause
    assert "the source of shard 'fixed' changed while it was read" in failure.cause
    assert not (tmp_path / "out" / "fixed.zarr.zip").exists()


def test_another_word_is_refused(source, tmp_path):
    with pytest.raises(UsageError, match="changed='all' is not known: say one of metadata, listing, content"):
        convert(source, tmp_path / "out", changed="all")


# Properties


@st.composite
def growths(draw):
    """Two shapes with the same number of dimensions, their chunks and blocks."""
    ndim = draw(st.integers(1, 3))
    old, new = (tuple(draw(st.integers(1, 12)) for _ in range(ndim)) for _ in range(2))
    new = tuple(draw(st.sampled_from(pair)) for pair in zip(old, new, strict=True))
    chunks = tuple(draw(st.integers(1, 4)) for _ in range(ndim))
    blocks = tuple(draw(st.integers(1, 3)) for _ in range(draw(st.integers(1, ndim))))
    return old, new, chunks, blocks


def divided(shape, chunks, blocks):
    grid = tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    return Blocks(grid, blocks, KEYS)


@given(growths())
def test_blocks_that_are_kept_hold_the_same_elements(growth):
    old, new, chunks, blocks = growth
    before, after = divided(old, chunks, blocks), divided(new, chunks, blocks)
    configs = [Config(Directory("/s"), {"t": Mount(ViewOf(Directory("/s"), "t"), each)}) for each in (before, after)]
    marks = [{"t": Mark("d", shape)} for shape in (old, new)]
    kept = {(then - 1, now - 1) for then, now in unchanged(*configs, *marks) if now}
    assert all(before.index(then) == after.index(now) for then, now in kept)
    kept_at = {after.index(now) for _, now in kept}
    for index in itertools.product(*map(range, after.grid)):
        same = before.within(index) and before.crop(old, chunks, index) == after.crop(new, chunks, index)
        assert same or index not in kept_at
        if old == new:
            assert index in kept_at
    if old != new:  # the last blocks before and after the change are not kept
        lead = len(blocks)
        edges = [(a, n - 1) for a in range(lead) if old[a] != new[a] for n in (before.grid[a], after.grid[a])]
        assert not any(index[a] == last for index in kept_at for a, last in edges)
    assert len(kept) <= prod(after.grid)


@given(growths())
def test_only_growth_is_growth(growth):
    old, new, _, _ = growth
    grown = all(a <= b for a, b in zip(old, new, strict=True))
    assert has_only_grown({"t": Mark("d", old)}, {"t": Mark("d", new), "more": Mark("e")}) == grown
    assert not has_only_grown({"t": Mark("d", old)}, {"t": Mark("e", old)})
    assert not has_only_grown({"t": Mark("d", old)}, {})


# In an object store


def test_an_object_is_known_by_its_tag(bucket, tmp_path):
    source = make(tmp_path / "source.zarr")
    upload(bucket.client, contents_of(ShardedStore(source)))
    convert(bucket.url, tmp_path / "out", changed="listing")
    assert counts(convert(bucket.url, tmp_path / "out", changed="listing")) == (0, 5, 0, 0)
    edit(source)
    upload(bucket.client, contents_of(ShardedStore(source)))
    result = convert(bucket.url, tmp_path / "out", changed="listing")
    assert counts(result) == (1, 4, 1, 0)
    check_is(result, source)


@pytest.mark.few(1)
@pytest.mark.parametrize("separator", ["/", "."])
def test_the_listing_of_a_block_is_that_of_its_keys_alone(separator, bucket, s3_server, tmp_path):
    """One request for each listed page, not for each key, and none for other pages."""
    shape = (40, 60)
    keys = [f"t/{separator.join(['c', str(i), str(j)])}" for i in range(shape[0]) for j in range(shape[1])]
    upload(bucket.client, {key: key.encode() for key in [*keys, "t/zarr.json", "u/c/0"]})
    blocks = Blocks(shape, (3,), ChunkKeys("default", separator))
    with FaultProxy(s3_server.endpoint) as proxy:
        options = take_options(bucket.url, {"endpoint": proxy.url, "allow_http": True})
        store = Directory(bucket.url, options).open()
        before = listings(store, blocks, proxy)
        for key, changed in (
            (keys[0], [0]),
            (keys[9 * 60 - 1], [2]),
            (keys[-1], [13]),
            ("t/zarr.json", []),
            ("u/c/0", []),
        ):
            upload(bucket.client, {key: b"another"})
            now = listings(store, blocks, proxy)
            assert [i for i, (one, other) in enumerate(zip(before, now, strict=True)) if one != other] == changed
            before = now


def listings(store, blocks, proxy):
    """The listing of each block needs a few requests."""
    found = []
    for index in range(14):
        proxy.clear()
        found.append(listing(Block(store, "t", blocks, (index,))))
        assert len(proxy.log) <= 8
    return found


# Other readers of the destination during a job


def half_done(source, out, **options):
    """Convert all blocks but one, which fails."""
    with pytest.raises(ShardsFailed):
        convert(source, out, Fail("t[1]", str(out.parent / "mended")), retries=0, **options)


def go_on(source, out):
    (out.parent / "mended").touch()
    return convert(source, out, Fail("t[1]", str(out.parent / "mended")))


def test_half_of_a_job_is_not_shown_with_a_source_that_has_changed(source, tmp_path):
    """Otherwise, its blocks would have the old shape, and the rest of the array would seem missing."""
    half_done(source, tmp_path / "out")
    assert ShardedStore.load(tmp_path / "out", partial=True, allow=[source]).partial.done == 4
    append(source, 7)
    with pytest.raises(ConfigError, match=r"the source has changed since the job at .* began"):
        ShardedStore.load(tmp_path / "out", partial=True, allow=[source])
    check_is(go_on(source, tmp_path / "out"), source)


def test_a_later_job_that_has_not_ended_keeps_no_result_from_being_verified(source, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "mended").touch()
    result = go_on(source, out)
    (tmp_path / "mended").unlink()
    append(source, 7)
    zarr.open_group(source)["t"].attrs["note"] = "new"
    half_done(source, out)
    assert result.verify(mark=True).ok
    check_is(go_on(source, out), source)


def test_what_is_to_be_taken_over_is_not_pruned(source, tmp_path):
    out = tmp_path / "out"
    half_done(source, out)
    append(source, 7)
    with dies_before_it_takes_over():
        half_done(source, out)
    with pytest.raises(DestinationError, match="died before it had copied"):
        ShardedStore.prune(out)
    assert counts(go_on(source, out))[1] == 2


def test_a_job_that_died_as_it_began_is_passed_over_when_the_source_has_changed_again(source, tmp_path):
    out = tmp_path / "out"
    convert(source, out)
    append(source, 3)
    with dies_before_it_takes_over():
        convert(source, out)
    append(source, 4)
    assert counts(convert(source, out)) == (4, 3, 2, 0)
    check_is(ShardedStore.load(out), source)
