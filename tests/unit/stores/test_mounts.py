"""The component of a path, compared with a model that tries every mount."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shardedstore.errors import UsageError
from shardedstore.zarr.paths import Mounts, check_path, is_below

segment = st.sampled_from(["a", "b", "ab", "c", "0", "aa"])
paths = st.lists(segment, min_size=1, max_size=4).map("/".join)


def overlap(mounted):
    return any(parts(a)[: len(parts(b))] == parts(b) for a in mounted for b in mounted if a != b)


def parts(path):
    return path.split("/") if path else []


def naive_resolve(mounted, key):
    for path in mounted:
        n = len(parts(path))
        if parts(key)[:n] == parts(path):
            return path, "/".join(parts(key)[n:])
    return None


def naive_children(mounted, path):
    n = len(parts(path))
    return {parts(m)[n] for m in mounted if len(parts(m)) > n and parts(m)[:n] == parts(path)}


@given(st.sets(paths, max_size=6), st.lists(paths, min_size=1, max_size=8))
def test_mounts_are_as_the_model(mounted, keys):
    assume(not overlap(mounted))
    mounts = Mounts(mounted)
    for key in [*keys, "", *mounted, *(f"{path}/zarr.json" for path in mounted), *(f"{path}b" for path in mounted)]:
        assert mounts.resolve(key) == naive_resolve(mounted, key)
        children = list(mounts.children(key))
        assert set(children) == naive_children(mounted, key)
        assert len(children) == len(set(children))
        assert mounts.any_below(key) == bool(children)


@given(st.sets(paths | st.just(""), min_size=2, max_size=4))
def test_overlaps_are_refused(mounted):
    if overlap(mounted):
        with pytest.raises(UsageError, match=r"shards overlap: '.*' lies inside '.*', which is one shard"):
            Mounts(mounted)
    else:
        assert Mounts(mounted)


@pytest.mark.parametrize(("inner", "outer"), [("a/b", "a"), ("a/b/c/d", "a/b"), ("a", "")])
@pytest.mark.parametrize("turned", [False, True])
def test_an_overlap_is_named(inner, outer, turned):
    with pytest.raises(UsageError, match=f"'{inner}' lies inside '{outer}'"):
        Mounts([inner, outer] if turned else [outer, inner])


@pytest.mark.parametrize("key", ["", "c/0", "zarr.json", "a/b/c"])
def test_a_mount_at_the_root_has_every_key(key):
    mounts = Mounts([""])
    assert mounts.resolve(key) == ("", key)
    assert list(mounts.children("")) == []
    assert not mounts.any_below("")


def test_no_mounts():
    mounts = Mounts([])
    assert (mounts.resolve(""), mounts.resolve("a/b"), list(mounts.children("")), mounts.any_below("")) == (
        None, None, [], False,
    )  # fmt: skip


@given(paths, paths | st.just(""))
def test_is_below(path, parent):
    n = len(parts(parent))
    assert is_below(path, parent) == (path != parent and parts(path)[:n] == parts(parent))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("..", r"a segment '\.\.'"),
        ("a/../b", r"a segment '\.\.'"),
        ("a/./b", r"a segment '\.'"),
        ("/a", "an empty segment"),
        ("a/", "an empty segment"),
        ("a//b", "an empty segment"),
        ("", "an empty segment"),
        ("a\0b", "a segment"),
        (3, "3 is not a string"),
        (None, "None is not a string"),
    ],
)
def test_bad_paths(path, message):
    with pytest.raises(UsageError, match=f"path .*{message}.*: write it as zarr does, like 'group/array'"):
        check_path(path)


@pytest.mark.parametrize("path", ["/a", "a/", "a/../b", 3])
def test_bad_mounts(path):
    with pytest.raises(UsageError, match=r"shard .*write it as zarr does"):
        Mounts([path])


@pytest.mark.parametrize("path", ["a", "a/b", "...", "a b", "c:", "température", "~", "*", "{block}"])
def test_good_paths(path):
    assert check_path(path) == path
