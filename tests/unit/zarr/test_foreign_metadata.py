"""Arbitrary metadata documents: the package reads them, or raises its own error with the reason."""

import copy
import functools
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import pytest
from fuzz import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sources import SOURCES, build, cube, to_folder, types

from shardedstore import ShardedStore, ShardedStoreError, ShardsFailed, errors
from shardedstore.jobs.layouts.registry import choose_layout
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.prepare import prepare
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip
from shardedstore.transforms.base.chain import parse_chain


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def same(chunk, position):
    return chunk


STEPS: dict[str, Callable[[], list]] = {
    "none": list,
    "Recompress": lambda: [Recompress("zstd", level=1)],
    "filters": lambda: [Recompress(filters=None)],
    "MapChunks": lambda: [MapChunks(same, name="same")],
    "MapBlocks": lambda: [MapBlocks(same, name="same")],
    "MigrateV3": lambda: [MigrateV3()],
}
SINKS: dict[str, Callable[[Path], object]] = {
    "zip": ToZip,
    "ozx": lambda out: ToZip(out, name="{path}/{block}.ozx"),
    "zarr": CopyTo,
    "shards": lambda out: CopyTo(out, layout="shards"),
    "sharding-codec": lambda out: ToShardingCodec(out, object_size=64),
}


@functools.cache
def documents() -> dict[str, dict[str, bytes]]:
    """Documents of small Zarrs: arrays and groups, both formats, consolidated metadata and the sharding codec."""
    return {
        "cube, v2": build(cube, "v2."),
        "cube, v3": build(cube, "v3/"),
        "types, v2": build(types, 2),
        "types, v3": build(types, 3),
        **{name: SOURCES[name].contents() for name in ("consolidated-v2", "consolidated-v3", "sharding-codec")},
    }


def exercise(folder: Path, out: Path, steps: str, sink: str) -> None:
    """Inspect a Zarr in all ways, run a job over it, and verify its result."""
    store = ShardedStore.partition(folder, "1 KiB")
    repr(store)
    store._repr_html_()
    repr(store.shards)
    chain = [*STEPS[steps](), SINKS[sink](out)]
    parsed = parse_chain(chain)
    prepare(make_plan(store.config), parsed, choose_layout(parsed.sink), False, 0)
    result = store.map_shards(*chain, retries=0)
    report = result.verify(store)
    str(report)


def is_refused(folder: Path, out: Path, steps: str, sink: str) -> str | None:
    """The error of `exercise`, if there is one; it must be one of the package's own."""
    try:
        exercise(folder, out, steps, sink)
    except ShardsFailed as failed:
        for error in failed.exceptions:
            assert error.cause.startswith(OWN), error.cause
        return str(failed)
    except ShardedStoreError as error:
        return str(error)
    return None


OWN = tuple(f"{name}: " for name, kind in vars(errors).items() if isinstance(kind, type))


# Values from real writers and from careless editing

HUGE = 10**30
VALUES = [
    None, True, False, -1, 0, 1, 2, 2.0, 1.5, HUGE, -HUGE, 2**63, float("nan"), float("inf"), "", "x", "NaN", "\ud800", "é",
    [], [0], [-1], [HUGE], [1.0], [True], [None], ["x"], [[]], [{}], {}, {"name": "x"}, {"name": None}, {"id": "zlib"},
    {"id": None}, {"name": "bytes", "configuration": []}, {"name": "bytes", "configuration": None}, "bytes", "zlib",
    {"name": "regular", "configuration": {"chunk_shape": [0]}}, "bfloat16", "|O", "|V0", "<M8", [["a", "<i4"], ["b", "|O"]],
    {"name": "numcodecs.zlib", "configuration": {"level": "x"}}, ["bytes"], [{"name": "bytes"}, {"name": "bytes"}],
]  # fmt: skip


def places(document: object, here: tuple = ()) -> Iterator[tuple]:
    yield here
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield from places(value, (*here, key))


def put(document: object, place: tuple, value: object, is_gone: bool) -> object:
    if not place:
        return value
    document = copy.deepcopy(document)
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    if is_gone:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return document


NAMES = (".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json")


@st.composite
def mutated(draw) -> tuple[str, str, bytes]:
    """The name of a Zarr, the key of a document in it, and its replacement."""
    name = draw(st.sampled_from(sorted(documents())))
    key = draw(st.sampled_from(sorted(k for k in documents()[name] if k.rpartition("/")[2] in NAMES)))
    document = json.loads(documents()[name][key])
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(places(document))))
        document = put(document, place, draw(st.sampled_from(VALUES)), bool(place) and draw(st.integers(0, 5)) == 0)
    return name, key, json.dumps(document).encode()


@settings(deadline=None, max_examples=examples(20), suppress_health_check=list(HealthCheck))
@given(mutated(), st.sampled_from(sorted(STEPS)), st.sampled_from(sorted(SINKS)))
def test_any_value_in_a_document_is_read_or_refused(tmp_path_factory, change, steps, sink):
    name, key, data = change
    place = tmp_path_factory.mktemp("mutated")
    try:
        folder = to_folder({**documents()[name], key: data}, place / "source.zarr")
        is_refused(folder, place / "out", steps, sink)
    finally:
        shutil.rmtree(place)
