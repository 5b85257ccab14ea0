"""Patterns of paths in all parameters: their meaning, and errors for patterns without effect."""

import re

import dask
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from shardedstore import ChainError, PartitionError, ShardedStore
from shardedstore.cli.main import main
from shardedstore.partition.patterns import Pattern
from shardedstore.transforms import MapBlocks, MapChunks, Recompress, ToZip


def same(data, position):
    return data


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def folder(tmp_path):
    """A cube over time with coordinates of that name, small and large chunks, and names with glob characters."""
    group = zarr.create_group(tmp_path / "source.zarr")

    def add(path, shape, chunks, names):
        group.create_array(path, shape=shape, chunks=chunks, dtype="f4", dimension_names=names)[...] = 1

    add("tp", (96, 4), (8, 4), ("time", "x"))
    add("t2m", (96, 4), (8, 4), ("time", "x"))
    add("time", (96,), (96,), ("time",))
    add("time_bounds", (96, 2), (96, 2), ("time", "side"))
    add("x", (4,), (4,), ("x",))
    add("b[1]", (4,), (4,), ("x",))
    add("b1", (4,), (4,), ("x",))
    return tmp_path / "source.zarr"


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("{tp,t2m}", ["tp", "t2m"], ["tp,t2m", "t"]),
        ("g/{a,b/*}", ["g/a", "g/b/x"], ["g/b"]),
        ("{a,{b,c}d}", ["a", "bd", "cd"], ["b", "ad"]),
        ("{a}", ["{a}"], ["a"]),
        ("a,b", ["a,b"], ["a"]),
        ("{a", ["{a"], ["a"]),
        ("b[[]1]", ["b[1]"], ["b1"]),
        (r"b\[1]", ["b[1]"], ["b1"]),
        ("b[1]", ["b1"], ["b[1]"]),
        ("[]x]", ["]", "x"], ["[]x]"]),
        ("[!]]", ["x"], ["]"]),
        ("[*]", ["*"], ["x"]),
        (r"a\?", ["a?"], ["ab"]),
        ("a[?]", ["a?"], ["ab"]),
        (r"a[\d]", ["ad", "a\\"], ["a5"]),
        ("**/x", ["x", "a/b/x"], ["ax"]),
        ("a**", ["a/b", "ab"], ["b"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("é*", ["éa\nb"], ["e"]),
    ],
)
def test_globs(glob, yes, no):
    pattern = Pattern.of(glob, 1)
    assert [path for path in (*yes, *no) if pattern.matches(path)] == yes


@given(st.text("ab[]{}*?!,\\-^.", min_size=1, max_size=8))
def test_any_name_can_be_escaped(name):
    escaped = "".join(f"[{letter}]" if letter in "*?[{" else f"\\{letter}" for letter in name)
    pattern = Pattern.of(escaped, 1)
    assert pattern.path == name
    assert pattern.matches(name)


UNKNOWN = {
    "a path": ("tme", r"names 'tme', but the source has no such (group or )?array; it has .*Did you mean 'time'\?"),
    "a glob": ("t3*", r"names the glob 't3\*', which matches no (group or )?array of the source"),
    "braces": ("{a,c}", r"names the glob '\{a,c\}', which matches no"),
    "brackets": ("[b]q", "names '\\[b\\]q', but the source has no such"),
    "one that is not escaped": ("b[[]1", r"names 'b\[\[\]1', but the source has no such"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_pattern_without_effect_is_an_error_everywhere(folder, tmp_path, case):
    text, message = UNKNOWN[case]
    for arguments in (
        {"shards": [text]},
        {"shards": {text: "whole", "tp": "whole"}},
        {"shards": {text: {"time": 8}}},
        {"include": [text, "tp"]},
        {"exclude": [text]},
    ):
        with pytest.raises(PartitionError, match=message):
            ShardedStore.partition(folder, **arguments)
    store = ShardedStore.partition(folder)
    for arrays in text, ("tp", text), ("*", f"!{text}"), f"!{text}":
        for step in (
            Recompress("zstd", arrays=arrays),
            MapChunks(same, arrays=arrays),
            MapBlocks(same, arrays=arrays),
        ):
            with pytest.raises(ChainError, match=message):
                store.map_shards(step, ToZip(tmp_path / "out"))
    convert = ["convert", str(folder), str(tmp_path / "out"), "--to", "zip", "--dry-run"]
    options = ("--shards", f"{text}=whole"), ("--include", text), ("--exclude", text)
    for option in (*options, ("--step", f"recompress:codec=zstd,arrays={text}")):
        done = CliRunner().invoke(main, [*convert, *option])
        assert done.exit_code == 2, done.output
        assert re.search("of the source; it has|the source has no such .*; it has", done.output)


def test_a_name_with_brackets_is_escaped(folder, tmp_path):
    with pytest.raises(PartitionError, match=r"'b\[1\]x'"):
        ShardedStore.partition(folder, ["b[1]x"])
    assert [*ShardedStore.partition(folder, ["b[[]1]"]).config.shards] == ["b[1]"]
    assert [*ShardedStore.partition(folder, [r"b\[1]"]).config.shards] == ["b[1]"]
    (folder / "b1").rename(tmp_path / "b1")
    with pytest.raises(
        PartitionError, match=r"'b\[1\]', but the source has no .* To mean 'b\[1\]' itself, write 'b\[\[\]1\]'"
    ):
        ShardedStore.partition(folder, ["b[1]"])


def test_an_optional_pattern_may_match_nothing(folder, tmp_path):
    store = ShardedStore.partition(folder, {"tq?": {"time": 48}, "tp?": {"time": 48}}, exclude=["nothing*?", "b1?"])
    assert store.config.shards["tp"].blocks.grid == (2,)
    assert store.config.base.without == ("b1",)
    step = MapChunks(same, arrays=("tp", "tq?", "!none?"), name="copy")
    result = store.map_shards(step, ToZip(tmp_path / "out"))
    (notice,) = [notice for notice in result.summary.notices if "optional" in notice.text]
    assert set(notice.arrays) == {"tq", "nothing*", "none"}
    done = CliRunner().invoke(
        main, ["convert", str(folder), str(tmp_path / "other"), "--to", "zip", "--dry-run", "--shards", "tq?=time:48"]
    )
    assert done.exit_code == 0
    assert "note: optional patterns" in done.output


def test_an_old_glob_that_ends_with_a_question_mark_is_refused(folder, tmp_path):
    """It would have the same meaning as before, and keep the excluded nodes in the result."""
    for arguments in {"exclude": "b?"}, {"include": "b?"}:
        with pytest.raises(PartitionError, match=r"to match any one letter there, write 'b\[a-z\]'"):
            ShardedStore.partition(folder, **arguments)
    with pytest.raises(ChainError, match="to match any one letter there, write"):
        ShardedStore.partition(folder).map_shards(Recompress("zstd", arrays=("*", "!b?")), ToZip(tmp_path / "out"))


def test_a_rule_passes_over_what_is_too_small_for_it(folder, tmp_path):
    store = ShardedStore.partition(folder, {"*": {"time": 48}})
    assert {path: mount.blocks.grid for path, mount in store.config.shards.items()} == {"t2m": (2,), "tp": (2,)}
    (notice,) = store.notices
    assert notice.text.startswith("the rule *=time:48 passes over arrays without its dimensions, or too small for it")
    assert notice.arrays == ("b1", "b[1]", "time", "time_bounds", "x")
    assert notice in store.map_shards(ToZip(tmp_path / "out")).summary.notices


def test_a_rule_that_fits_none_of_its_arrays_is_refused(folder):
    with pytest.raises(PartitionError, match="is not a multiple of its chunk size 8: use 48 or 56"):
        ShardedStore.partition(folder, {"{tp,t2m}": {"time": 50}})
    with pytest.raises(PartitionError, match="is not a multiple of its chunk size 96"):
        ShardedStore.partition(folder, {"time*": {"time": 48}})
    with pytest.raises(PartitionError, match="is not a multiple of its chunk size 96"):
        ShardedStore.partition(folder, {"*": {"time": 48}, "time": {"time": 48}})
