"""Chunk keys and blocks: every key belongs to exactly one block, and can be computed back."""

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardedstore.zarr.grid import Blocks, ChunkKeys, block_name, parse_block

ENCODINGS = [ChunkKeys(name, separator) for name in ("default", "v2") for separator in "/."]
encodings = st.sampled_from(ENCODINGS)
grids = st.lists(st.integers(1, 5), max_size=4).map(tuple)


def named(keys):
    return f"{keys.name}{keys.separator}"


def coords_of(grid):
    """All coordinates of a grid, in C order."""
    return list(itertools.product(*map(range, grid)))


@st.composite
def blocks_strategy(draw):
    grid = draw(grids.filter(bool))
    chunks = tuple(draw(st.integers(1, n + 1)) for n in grid[: draw(st.integers(1, len(grid)))])
    return Blocks(grid, chunks, draw(encodings))


@st.composite
def arrays(draw):
    """Blocks, with the shapes of their array and of its chunks: the last chunk may be cut by the edge."""
    blocks = draw(blocks_strategy())
    chunk = tuple(draw(st.integers(1, 9)) for _ in blocks.chunk_grid)
    shape = tuple(draw(st.integers((n - 1) * c + 1, n * c)) for n, c in zip(blocks.chunk_grid, chunk, strict=True))
    return blocks, shape, chunk


# Keys


@pytest.mark.parametrize(
    ("keys", "expected"),
    list(
        zip(
            ENCODINGS,
            [("c", "c/3", "c/1/20"), ("c", "c.3", "c.1.20"), ("0", "3", "1/20"), ("0", "3", "1.20")],
            strict=True,
        )
    ),
    ids=lambda value: named(value) if isinstance(value, ChunkKeys) else "",
)
def test_keys_are_written_as_zarr_does(keys, expected):
    assert tuple(map(keys.encode, [(), (3,), (1, 20)])) == expected


@given(grids, encodings)
def test_keys_come_back(grid, keys):
    encoded = [keys.encode(coords) for coords in coords_of(grid)]
    assert len(set(encoded)) == math.prod(grid)
    assert [keys.decode(key, grid) for key in encoded] == coords_of(grid)


@given(grids, encodings, st.data())
def test_a_box_has_its_keys_in_c_order(grid, keys, data):
    ranges = [range(first := data.draw(st.integers(0, n)), data.draw(st.integers(first, n))) for n in grid]
    assert list(keys.encode_box(ranges)) == [keys.encode(coords) for coords in itertools.product(*ranges)]


NOT_NUMBERS = [
    "00",
    "01",
    "-1",
    "-0",
    "+1",
    "1_0",
    " 1",
    "1 ",
    "1\n",
    "",
    "1.0",
    "1e0",
    "0x1",
    "a",
    "٣",
    "²",
    "1" * 5000,
    "4",
]


@pytest.mark.parametrize("text", NOT_NUMBERS, ids=ascii)
@pytest.mark.parametrize("keys", ENCODINGS, ids=named)
@pytest.mark.parametrize("axis", [0, 1])
def test_what_zarr_does_not_write_is_no_chunk(keys, text, axis):
    """For a grid of (4, 4): also numbers that Python's int accepts, and keys outside the grid."""
    numbers = ["3", "3"]
    assert keys.decode(keys.encode((3, 3)), (4, 4)) == (3, 3)
    numbers[axis] = text
    start = f"c{keys.separator}" if keys.name == "default" else ""
    assert keys.decode(start + keys.separator.join(numbers), (4, 4)) is None


@pytest.mark.parametrize("keys", ENCODINGS, ids=named)
@pytest.mark.parametrize("grid", [(), (4,), (4, 4)], ids=str)
def test_other_keys_are_no_chunks(keys, grid):
    chunks = {keys.encode(coords) for coords in coords_of(grid)}
    other = {other.encode((1,) * n) for other in ENCODINGS for n in range(4)}
    other |= {
        "zarr.json",
        ".zarray",
        ".zattrs",
        "c",
        "c/",
        "c.",
        "",
        "/",
        ".",
        "C/1",
        "d/1",
        "c/c/1",
        "c1",
        "1c",
        "0/",
        "/0",
    }
    assert {key for key in other - chunks if keys.decode(key, grid) is not None} == set()


@given(st.text(st.sampled_from("0123c./-+_ ")), grids, encodings)
def test_decoding_is_the_inverse_of_encoding(key, grid, keys):
    coords = keys.decode(key, grid)
    assert (coords is not None) == (key in {keys.encode(c) for c in coords_of(grid)})


# Blocks


@given(blocks_strategy())
def test_every_chunk_is_in_exactly_one_block(blocks):
    indices = [blocks.index(number) for number in range(blocks.count)]
    assert indices == coords_of(blocks.grid)
    inside = [
        (block, local, blocks.join(block, local)) for block in indices for local in coords_of(blocks.local_grid(block))
    ]
    assert sorted(whole for _, _, whole in inside) == coords_of(blocks.chunk_grid)
    assert [blocks.split(whole) for _, _, whole in inside] == [(block, local) for block, local, _ in inside]


@given(blocks_strategy())
def test_every_key_maps_to_one_block_and_local_key_and_back(blocks):
    places = set()
    for key in map(blocks.keys.encode, coords_of(blocks.chunk_grid)):
        block, local = blocks.split(blocks.keys.decode(key, blocks.chunk_grid))
        local_key = blocks.keys.encode(local)
        places.add((block, local_key))
        assert blocks.within(block)
        decoded = blocks.keys.decode(local_key, blocks.local_grid(block))
        assert blocks.keys.encode(blocks.join(block, decoded)) == key
    assert len(places) == math.prod(blocks.chunk_grid)


@given(blocks_strategy())
def test_boxes_hold_the_chunks_of_their_blocks(blocks):
    for block in coords_of(blocks.grid):
        box = list(itertools.product(*blocks.box(block)))
        assert box == [blocks.join(block, local) for local in coords_of(blocks.local_grid(block))]


@given(arrays())
@example((Blocks((4,), (3,), ENCODINGS[0]), (31,), (10,)))
def test_cropped_shapes_sum_up_to_the_whole(array):
    blocks, shape, chunk = array
    lead = len(blocks.chunks)
    cropped = {block: blocks.crop(shape, chunk, block) for block in coords_of(blocks.grid)}
    assert all(min(sizes) > 0 for sizes in cropped.values())
    assert sum(map(math.prod, cropped.values())) == math.prod(shape)
    for axis in range(len(shape)):
        along = [
            sizes[axis] for block, sizes in cropped.items() if not any(b for i, b in enumerate(block) if i != axis)
        ]
        assert sum(along) == shape[axis] if axis < lead else along == [shape[axis]]


@given(arrays())
def test_a_cropped_array_has_the_chunks_of_its_block(array):
    blocks, shape, chunk = array
    for block in coords_of(blocks.grid):
        cropped = blocks.crop(shape, chunk, block)
        assert tuple(-(-n // c) for n, c in zip(cropped, chunk, strict=True)) == blocks.local_grid(block)


def test_edge_blocks():
    blocks = Blocks((7, 5, 2), (3, 4), ChunkKeys("default", "/"))
    assert (blocks.grid, blocks.count) == ((3, 2), 6)
    assert [blocks.local_grid(blocks.index(n)) for n in range(6)] == [
        (3, 4, 2), (3, 1, 2), (3, 4, 2), (3, 1, 2), (1, 4, 2), (1, 1, 2),
    ]  # fmt: skip
    assert blocks.crop((65, 41, 20), (10, 10, 10), (2, 1)) == (5, 1, 20)


@pytest.mark.parametrize("block", [(3, 0), (0, 2), (-1, 0), (0,), (0, 0, 0), ()], ids=str)
def test_blocks_outside_the_grid(block):
    blocks = Blocks((7, 5, 2), (3, 4), ChunkKeys("default", "/"))
    assert blocks.within((2, 1))
    assert not blocks.within(block)


@pytest.mark.parametrize(
    ("grid", "chunks", "message"),
    [
        ((), (), "must name one to 0 dimensions"),
        ((), (1,), "must name one to 0 dimensions"),
        ((3,), (), "must name one to 1 dimensions"),
        ((3,), (1, 1), "must name one to 1 dimensions"),
        ((3,), (0,), "must be positive"),
        ((3,), (-1,), "must be positive"),
        ((0,), (1,), "must be positive"),
        ((3, -2), (1,), "must be positive"),
    ],
)
def test_impossible_blocks(grid, chunks, message):
    with pytest.raises(ValueError, match=message):
        Blocks(grid, chunks, ChunkKeys("default", "/"))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4).map(tuple))
def test_names_of_blocks_come_back(block):
    assert parse_block(block_name(block)) == block
