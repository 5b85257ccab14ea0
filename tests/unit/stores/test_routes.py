"""Routing by tables equals routing by arithmetic, for any grid and key."""

import pickle

import hypothesis.strategies as st
import pytest
from fuzz import examples
from hypothesis import given, settings

from shardedstore.stores import routes
from shardedstore.stores.locations import Directory, Group, Mount
from shardedstore.stores.routes import BASE, Routes
from shardedstore.zarr.grid import Blocks, ChunkKeys

KEYS = st.builds(ChunkKeys, st.sampled_from(["default", "v2"]), st.sampled_from("./"))


@st.composite
def divided(draw):
    grid = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple))
    lead = draw(st.integers(1, len(grid)))
    chunks = tuple(draw(st.integers(1, 12)) for _ in range(lead))
    return Blocks(grid, chunks, draw(KEYS))


def rests():
    """Keys inside an array: chunk keys, similar keys and others."""
    numbers = st.lists(
        st.one_of(st.integers(-1, 13).map(str), st.sampled_from(["01", "+1", "1_0", "", "c", "²"])), max_size=5
    )
    return st.builds(
        lambda start, parts, separator: start + separator.join(parts),
        st.sampled_from(["", "c", "c/", "c.", "/"]),
        numbers,
        st.sampled_from("./"),
    ) | st.sampled_from(["zarr.json", ".zarray", ".zattrs", "c", "0"])


@given(divided(), st.lists(rests(), max_size=30))
def test_blocks(blocks, keys):
    table = Routes({"g/t": Mount(Directory("/{block}"), blocks), "g/u": Mount(Group())})
    for rest in keys:
        coords = blocks.keys.decode(rest, blocks.chunk_grid)
        if coords is None:
            expected = BASE, f"g/t/{rest}"
        else:
            block, local = blocks.split(coords)
            expected = ("g/t", block), blocks.keys.encode(local)
        assert table.find(f"g/t/{rest}") == expected
        assert table.find(f"g/u/{rest}") == ((("g/u", None), rest) if rest else (BASE, "g/u/"))


NAMES = st.text("ab", min_size=1, max_size=2)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@given(st.sets(PATHS, max_size=6), st.lists(PATHS, max_size=20))
@settings(max_examples=examples(60))
def test_whole_mounts(paths, keys):
    mounts = {path: Mount(Group()) for path in paths if not any(path.startswith(f"{other}/") for other in paths)}
    table = Routes(mounts)
    for key in keys:
        above = [path for path in mounts if key.startswith(f"{path}/")]
        expected = ((above[0], None), key[len(above[0]) + 1 :]) if above else (BASE, key)
        assert table.find(key) == expected
    for path in list(mounts):
        table.change(path, None)
        assert table.find(f"{path}/x") == (BASE, f"{path}/x")


@pytest.mark.parametrize("most", [1, 3])
def test_tables_stay_small(most, monkeypatch):
    monkeypatch.setattr(routes, "MOST_NUMBERS", most)
    blocks = Blocks((10, 10), (2,), ChunkKeys("default", "/"))
    table = Routes({"t": Mount(Directory("/{block}"), blocks)})
    table.find("t/c/0/0")
    nbytes = len(pickle.dumps(table))
    for i in range(10):
        for j in range(10):
            assert table.find(f"t/c/{i}/{j}") == (("t", (i // 2,)), f"c/{i % 2}/{j}")
    assert len(pickle.dumps(table)) < nbytes + 100 * most
