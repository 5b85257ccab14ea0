"""Hypothesis strategies for configs: valid ones of every kind, and almost valid documents."""

import copy
import json

from golden_configs import FOLDER, GOLDEN
from hypothesis import strategies as st

from shardedstore.fields import MOST
from shardedstore.storage.options import Options
from shardedstore.stores.locations import (
    BlockOf,
    Config,
    Directory,
    Group,
    Mount,
    Own,
    PartOf,
    Squeezed,
    VeiledOf,
    ViewOf,
    Zip,
)
from shardedstore.stores.members import Members
from shardedstore.zarr.grid import Blocks, ChunkKeys, block_name

DOCUMENTS = {name: json.loads((FOLDER / f"{name}.json").read_bytes()) for name in GOLDEN}

segments = st.sampled_from(["a", "b c", "temperature", "ü", "100%", "0", "c", "...", ".zarray", "a\nb"]) | st.text(
    st.characters(codec="utf-8", exclude_characters="/\0{}"), min_size=1, max_size=8
).filter(lambda text: text not in (".", ".."))
paths = st.lists(segments, min_size=1, max_size=3).map("/".join)
hosts = st.text("abcXYZ019._-", min_size=1, max_size=8)
options = st.builds(
    Options,
    endpoint=st.none() | hosts.map("https://{}".format),
    region=st.none() | hosts,
    account_name=st.none() | hosts,
    anonymous=st.booleans(),
    allow_http=st.booleans(),
    virtual_hosted_style_request=st.none() | st.booleans(),
    request_payer=st.none() | st.booleans(),
    use_emulator=st.none() | st.booleans(),
)
local = paths.map(lambda path: f"/data/{path}")
remote = st.builds("{}://bucket/{}".format, st.sampled_from(["s3", "gs", "az", "https"]), hosts.map(lambda h: f"x{h}"))
urls = local | remote
json_leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
json_trees = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def blocks(draw, most=1 << 40):
    grid = draw(st.lists(st.integers(1, most), min_size=1, max_size=4).map(tuple))
    lead = draw(st.integers(1, len(grid)))
    chunks = tuple(draw(st.integers(1, most)) for _ in range(lead))
    made = Blocks(grid, chunks, draw(st.builds(ChunkKeys, st.sampled_from(["default", "v2"]), st.sampled_from("./"))))
    places = draw(st.none() | st.lists(st.integers(0, made.count - 1), min_size=1, max_size=5, unique=True))
    return made if places is None or max(places) >= MOST else made.only(map(made.index, sorted(places)))


@st.composite
def indices(draw, blocks):
    return tuple(draw(st.integers(0, n - 1)) for n in blocks.grid)


def own_kinds(urls):
    names = st.sampled_from(["tar", "example.kv-2", "A", "0_x"])
    settings = st.dictionaries(st.sampled_from(["", "a", "prefix", "ü"]), json_leaves, max_size=3)
    return st.builds(Own, names, urls, settings, options)


def places(urls):
    return st.builds(Directory, urls, options) | st.builds(Zip, urls, options) | own_kinds(urls)


@st.composite
def not_overlapping(draw, min_size=0):
    found = draw(st.lists(segments, unique=True, min_size=min_size, max_size=3))
    return tuple(draw(st.just(name) | paths.map(lambda path, name=name: f"{name}/{path}")) for name in found)


@st.composite
def blocks_of(draw, sources):
    of = draw(blocks())
    return BlockOf(draw(sources), draw(st.just("") | paths), of, draw(indices(of)))


@st.composite
def squeezed(draw, sources):
    grid = draw(st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple))
    of = Blocks(grid, (draw(st.integers(1, 9)),), ChunkKeys("v2", draw(st.sampled_from("./"))))
    return Squeezed(draw(sources), BlockOf(draw(sources), draw(paths), of, draw(indices(of))))


@st.composite
def mounts(draw, path, inner):
    kind = draw(st.sampled_from(["blocks", "members"] if not path else ["one", "blocks", "members"]))
    if kind == "one":
        return Mount(draw(inner))
    if kind == "blocks":
        of = draw(blocks())
        template = draw(places(urls.map("{}/{{block}}.zip".format)) | st.builds(ViewOf, inner, paths))
        held = st.integers(0, of.count - 1).map(of.index).map(block_name)
        found = draw(st.dictionaries(held, inner, max_size=2))
        return Mount(template, of, found)
    names = tuple(sorted(draw(st.sets(segments, min_size=1, max_size=5))))
    return Mount(
        draw(places(urls.map("{}/{{name}}.zarr".format))),
        members=Members(names, draw(st.integers(1, 3)), draw(st.booleans())),
    )


@st.composite
def configs_of(draw, inner):
    shards = {path: draw(mounts(path, inner)) for path in draw(not_overlapping())}
    if not shards and draw(st.booleans()):
        shards = {"": draw(mounts("", inner))}
    return Config(draw(inner), shards, draw(st.none() | inner))


locations = st.recursive(
    places(urls)
    | st.builds(
        Group, st.sampled_from([2, 3]), st.dictionaries(st.text(max_size=4), json_trees, max_size=2), not_overlapping()
    ),
    lambda inner: (
        st.builds(ViewOf, inner, st.just("") | paths)
        | st.builds(PartOf, inner, st.none() | not_overlapping(), not_overlapping())
        | st.builds(VeiledOf, inner, not_overlapping())
        | blocks_of(inner)
        | squeezed(inner)
        | configs_of(inner)
    ),
    max_leaves=6,
)
configs = configs_of(locations)

# Values that replace valid ones in a document
strange = st.recursive(
    json_leaves
    | st.floats()
    | st.sampled_from(
        ["", "..", "/", "../..", "/etc/passwd", "zip", "view", "sharded", "own", "http://[", "s3://", "ftp://a/b", "{block}",
         "a\0", "0" * 5000, "9" * 5000, "٣/1", "\ud800", "a/../b", "%2e%2e/a", "C:\\a", "~/a", "//host/a", "a" * 70_000,
         0, -1, 2**63, 2**70, 10**30, -(10**30), 10**4000, True, 1e308]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["kind", "url", "path", "source", "blocks", "base", "names", ""]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)  # fmt: skip
NAMES = [
    "",
    "a/b",
    "temperature/c",
    "9/1",
    "url",
    "kind",
    "members",
    "blocks",
    "exceptions",
    "..",
    "/",
    "a\0b",
    "\ud800",
    "base",
]


def places_of(document, place=()):
    yield place
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inside:
        yield from places_of(value, (*place, key))


@st.composite
def mutated(draw):
    """A golden document with some values replaced, removed, renamed, or taken from another document."""
    document = copy.deepcopy(DOCUMENTS[draw(st.sampled_from(sorted(DOCUMENTS)))])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([place for place in places_of(document) if place]))
        at = document
        for part in place[:-1]:
            at = at[part]
        value = at.pop(place[-1])
        match draw(st.sampled_from(["replace", "graft", "remove", "rename"])):
            case "replace":
                _put(at, place[-1], draw(strange))
            case "graft":
                other = DOCUMENTS[draw(st.sampled_from(sorted(DOCUMENTS)))]
                for part in draw(st.sampled_from(list(places_of(other)))):
                    other = other[part]
                _put(at, place[-1], copy.deepcopy(other))
            case "rename" if isinstance(at, dict):
                at[draw(st.text(max_size=4) | st.sampled_from(NAMES))] = value
    return document


def _put(at, key, value):
    if isinstance(at, list):
        at.insert(key, value)
    else:
        at[key] = value
