"""Guards: a changed source replaces a published result only if nothing in it looks like a mistake."""

import pickle
import shutil

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from shardedstore import DestinationError, Guards, GuardsFailed, ShardedStore, UsageError
from shardedstore.cli.main import main
from shardedstore.errors import GUARD_CODES
from shardedstore.fields import FILE_NAME
from shardedstore.transforms import CopyTo, MapChunks, Recompress, ToZip

SHARDS = {"t": (4, -1), "g": "whole"}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    """Ten steps in blocks of four, a group that is one shard, and a small array in the base."""
    return make(tmp_path / "source.zarr")


def make(folder, zarr_format=3):
    root = zarr.create_group(folder, zarr_format=zarr_format)
    add(root, "t", (10, 6), (2, 3), "i4")
    add(root.create_group("g"), "a", (8,), (2,), "f8")
    add(root, "small", (3,), (3,), "i1")
    return folder


def add(group, name, shape, chunks, dtype, **options):
    array = group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, **options)
    array[:] = 1 + np.arange(np.prod(shape)).reshape(shape)
    return array


def again(root, name, *args, **options):
    del root[name]
    return add(root, name, *args, **options)


def shrink(root):
    root["t"].resize((6, 6))


def disappear(root):
    del root["small"]


def rename(root):
    del root["small"]
    add(root, "little", (3,), (3,), "i1")


def retype(root):
    again(root, "g/a", (8,), (2,), "f4")


def recode(root):
    again(root, "g/a", (8,), (2,), "f8", compressors=None)


def lose_chunks(root):
    """Half of the chunks of the whole shard are missing."""
    again(root, "g/a", (8,), (2,), "f8").attrs["made"] = "again"
    folder = root.store.root / "g" / "a"
    for key in ("c/0", "c/1") if root.metadata.zarr_format == 3 else ("0", "1"):
        (folder / key).unlink()


CASES = {
    shrink: (["source-shrank"], "'t' shrank along dimension 0 from 10 to 6", {"shrink": False}),
    disappear: (["array-disappeared"], "'small' disappeared from the source", {"disappear": False}),
    rename: (
        ["array-disappeared"],
        "'small' disappeared from the source; 'little', which is new, equals it in all but the name",
        {"disappear": False},
    ),
    retype: (["dtype-changed"], "the data type of 'g/a' changed from .* to .*f", {"dtype": False}),
    recode: (["codec-changed"], "the codecs of 'g/a' changed from .* to ", {"codec": False}),
    lose_chunks: (
        ["chunks-missing"],
        r"50% of the chunks of 'g' are missing \(2 of 4\), and 0% in the published result \(0 of 4\): the limit is a rise of 10%",
        {"missing": 0.5},
    ),
}


def convert(source, out, **options):
    return ShardedStore.partition(source, SHARDS).map_shards(ToZip(out), **options)


@pytest.mark.parametrize("change", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize(("zarr_format", "way"), [(2, "own"), (3, "force")])
@pytest.mark.few(6)
def test_a_guard_refuses_and_the_result_stays(change, zarr_format, way, tmp_path):
    codes, text, own = CASES[change]
    source, out = make(tmp_path / "source.zarr", zarr_format), tmp_path / "out"
    convert(source, out)
    config, old = (out / FILE_NAME).read_bytes(), dict(arrays_of(ShardedStore.load(out)))
    change(zarr.open_group(source))
    for _ in range(2):  # a refused job is refused again
        with pytest.raises(GuardsFailed, match=text) as failed:
            convert(source, out)
        assert [violation.code for violation in failed.value.violations] == codes
        assert set(codes) <= set(GUARD_CODES)
        assert (out / FILE_NAME).read_bytes() == config
        for path, values in arrays_of(ShardedStore.load(out)):
            np.testing.assert_array_equal(values, old[path])
    guards = Guards(force=True) if way == "force" else Guards(**own)
    result = convert(source, out, guards=guards)
    assert dict(arrays_of(result)).keys() == dict(arrays_of(ShardedStore.partition(source, SHARDS))).keys()
    for path, values in arrays_of(result):
        np.testing.assert_array_equal(values, zarr.open_group(source, mode="r")[path][:])
    convert(source, out)  # it is the published result now


def arrays_of(store):
    return [
        (path, node[:])
        for path, node in zarr.open_group(store, mode="r").members(max_depth=None)
        if hasattr(node, "shape")
    ]


@pytest.mark.parametrize("change", [shrink, disappear, retype, recode])
def test_a_refusal_of_the_plan_writes_nothing(change, source, tmp_path):
    out = tmp_path / "out"
    convert(source, out)
    before = sorted(out.rglob("*"))
    change(zarr.open_group(source))
    with pytest.raises(GuardsFailed):
        ShardedStore.partition(source, SHARDS).plan(ToZip(out))
    assert sorted(out.rglob("*")) == before


def test_lost_chunks_are_read_again_when_they_are_back(source, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole.zarr"
    convert(source, out)
    root = zarr.open_group(source)
    lose_chunks(root)
    with pytest.raises(GuardsFailed, match="guards=Guards"):
        convert(source, out)
    shutil.copytree(make(whole, root.metadata.zarr_format) / "g", source / "g", dirs_exist_ok=True)
    zarr.open_group(source)["g/a"].attrs["made"] = "again"  # the metadata of the refused run
    np.testing.assert_array_equal(zarr.open_group(convert(source, out))["g/a"][:], 1 + np.arange(8))


def test_appended_steps_without_chunks(source, tmp_path):
    out = tmp_path / "out"
    convert(source, out)
    zarr.open_group(source)["t"].resize((11, 6))
    with pytest.raises(
        GuardsFailed, match=r"50% of the chunks of 't' are missing in the shards of this run \(2 of 4\)"
    ):
        convert(source, out, guards=Guards(missing_now=0.4))
    convert(source, out, guards=Guards(missing=0.2))
    zarr.open_group(source)["t"].resize((2000, 6))
    with pytest.raises(GuardsFailed, match=r"99.5% of the chunks of 't' are missing"):
        convert(source, out)


def test_a_source_that_grows_is_not_refused(source, tmp_path):
    out = tmp_path / "out"
    convert(source, out)
    root = zarr.open_group(source)
    root["t"].append(np.ones((4, 6), "i4"))
    add(root, "new", (4,), (2,), "i2")
    root["g"].attrs["title"] = "changed"
    assert convert(source, out).notices == ()


def test_the_result_counts_and_not_the_codecs_of_the_source(source, tmp_path):
    store = ShardedStore.partition(source, SHARDS)
    store.map_shards(Recompress("zstd"), ToZip(tmp_path / "out"))
    recode(zarr.open_group(source))
    ShardedStore.partition(source, SHARDS).map_shards(Recompress("zstd"), ToZip(tmp_path / "out"))


def test_another_chain_may_write_other_codecs_and_the_guards_of_the_source_stay(source, tmp_path):
    store = ShardedStore.partition(source, SHARDS)
    store.map_shards(Recompress("zstd"), ToZip(tmp_path / "out"))
    with pytest.raises(DestinationError, match=r"another chain of transforms .Recompress and ToZip there, ToZip now"):
        store.plan(ToZip(tmp_path / "out"))
    with pytest.raises(DestinationError, match="and of another chain of transforms") as refused:
        ShardedStore.partition(source).plan(ToZip(tmp_path / "out"))
    assert "(Recompress and ToZip there, ToZip now; '" in str(refused.value)
    assert "'t' is in blocks of " in str(refused.value)
    assert "codecs" not in str(refused.value)
    assert ShardedStore.partition(source).plan(ToZip(tmp_path / "out"), overwrite=True).notices == ()
    shrink(zarr.open_group(source))
    with pytest.raises(GuardsFailed, match="'t' shrank") as failed:
        ShardedStore.partition(source).plan(ToZip(tmp_path / "out"), overwrite=True)
    assert [violation.code for violation in failed.value.violations] == ["source-shrank"]


def test_a_rechunked_array_is_reported_and_not_refused(source, tmp_path):
    convert(source, tmp_path / "out")
    again(zarr.open_group(source), "t", (10, 6), (4, 6), "i4")
    plan = ShardedStore.partition(source, SHARDS).plan(ToZip(tmp_path / "out"))
    (notice,) = plan.notices
    assert str(notice).startswith("the chunks of 't' changed from 2 x 3 to 4 x 6, so all of its shards are made again;")


def test_a_renamed_array_is_reported_where_it_is_allowed(source, tmp_path):
    convert(source, tmp_path / "out")
    rename(zarr.open_group(source))
    plan = ShardedStore.partition(source, SHARDS).plan(ToZip(tmp_path / "out"), guards=Guards(disappear=False))
    assert [str(notice).partition(":")[0] for notice in plan.notices] == ["'small' was probably renamed to 'little'"]
    plan = ShardedStore.partition(source, SHARDS).plan(ToZip(tmp_path / "out"), guards=Guards(force=True))
    assert "the published result is replaced, as requested" in str(plan.notices[0])


def test_a_result_that_was_never_published_guards_nothing(source, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Exception, match="failed"):
        ShardedStore.partition(source, SHARDS).map_shards(MapChunks(stop, name="stop"), ToZip(out))
    disappear(zarr.open_group(source))
    with pytest.raises(Exception, match="failed"):
        ShardedStore.partition(source, SHARDS).map_shards(MapChunks(stop, name="stop"), ToZip(out))


def stop(chunk, place):
    raise ValueError("no")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (shrink, r"'t' has the shape \(10, 6\) there, \(6, 6\) now"),
        (rename, "'small' is gone; 'little' is new and equals it in all but the name"),
        (retype, "'g/a' has the data type float64 there, float32 now"),
        (recode, "'g/a' has other codecs now"),
        (lambda root: again(root, "t", (10, 6), (4, 6), "i4"), "'t' has chunks of 2 x 3 there, 4 x 6 now"),
    ],
)
def test_one_ordinary_zarr_can_only_grow(change, text, source, tmp_path):
    store = ShardedStore.partition(source, {"t": (4, -1), "g": "whole"})
    store.map_shards(CopyTo(tmp_path / "out.zarr"))
    change(zarr.open_group(source))
    with pytest.raises(DestinationError, match=text):
        ShardedStore.partition(source, {"t": (4, -1), "g": "whole"}).plan(CopyTo(tmp_path / "out.zarr"))


def test_members_of_a_collection_that_disappeared(tmp_path):
    for name in "abc":
        make(tmp_path / "cells" / f"{name}.zarr")
    ShardedStore.collect(tmp_path / "cells" / "*.zarr").map_shards(ToZip(tmp_path / "out"))
    shutil.rmtree(tmp_path / "cells" / "b.zarr")
    store = ShardedStore.collect(tmp_path / "cells" / "*.zarr")
    with pytest.raises(GuardsFailed, match="the member 'b' of the root disappeared"):
        store.map_shards(ToZip(tmp_path / "out"))
    store.map_shards(ToZip(tmp_path / "out"), guards=Guards(force=True))


def test_another_source_is_refused_as_before(source, tmp_path):
    convert(source, tmp_path / "out")
    with pytest.raises(DestinationError, match="another source"):
        convert(make(tmp_path / "other.zarr"), tmp_path / "out")
    convert(make(tmp_path / "third.zarr"), tmp_path / "out", overwrite=True)


def test_a_lazy_job_is_guarded_at_its_end(source, tmp_path):
    convert(source, tmp_path / "out")
    lose_chunks(zarr.open_group(source))
    lazy = convert(source, tmp_path / "out", compute=False)
    with pytest.raises(GuardsFailed, match="chunks of 'g'"):
        lazy.compute()


def test_an_error_pickles_and_is_json(source, tmp_path):
    convert(source, tmp_path / "out")
    disappear(zarr.open_group(source))
    with pytest.raises(GuardsFailed) as failed:
        convert(source, tmp_path / "out")
    copy = pickle.loads(pickle.dumps(failed.value))
    assert (str(copy), copy.to_dict()) == (str(failed.value), failed.value.to_dict())


@pytest.mark.parametrize("wrong", [lambda: Guards(missing=2), lambda: Guards(missing_now=-1)])
def test_a_limit_is_a_share(wrong):
    with pytest.raises(UsageError, match="write a number from 0 to 1"):
        wrong()


def test_guards_are_guards(source, tmp_path):
    with pytest.raises(UsageError, match="guards='force' is not an instance of Guards"):
        convert(source, tmp_path / "out", guards="force")


def test_the_command_line_goes_on_with_force(source, tmp_path):
    command = ["convert", str(source), str(tmp_path / "out"), "--to", "zip", "--shards", "t=4,-1"]
    convert(source, tmp_path / "out")
    rename(zarr.open_group(source))
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    assert refused.stderr.splitlines() == [
        "error: 'small' disappeared from the source; 'little', which is new, equals it in all but the name [array-disappeared]",
        f"error: the result at '{tmp_path / 'out'}' stays as it is: if the changes are right, run the command with --force",
    ]
    forced = CliRunner().invoke(main, [*command, "--force", "--dry-run"])
    assert forced.exit_code == 0
    assert "note: 'small' disappeared" in forced.stderr
