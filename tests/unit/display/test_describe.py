"""The tree of a store in the terminal and in a notebook, made from the config only."""

import re
import time
from html.parser import HTMLParser

import pytest
import zarr
from sources import SOURCES, store_of, to_folder
from zarr.storage import MemoryStore

from shardedstore import ShardedStore
from shardedstore.display import describe
from shardedstore.display.describe import Row, to_html, to_text
from shardedstore.storage.options import Options, take_options
from shardedstore.stores.locations import BlockOf, Config, Directory, Group, Mount, Opened, Squeezed, ViewOf, Zip
from shardedstore.stores.members import Members
from shardedstore.transforms import ToZip
from shardedstore.zarr.grid import Blocks, ChunkKeys

CUBE = SOURCES["cube-v3/"]
BAD = "<script>alert('1')</script>&\n\x1b[31m"


class Page(HTMLParser):
    """The tags, attributes and texts of a page; tags must nest, and nothing may be loaded or run."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts, self.details = [], set(), [], 0
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        self.details += tag == "details"
        assert {name for name, _ in attrs} <= {"style", "open"}
        assert not any("url(" in (value or "") for _, value in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def million(n=1_000_000):
    return Blocks((n,), (1,), ChunkKeys("default", "/"))


@pytest.fixture
def views(tmp_path):
    source = to_folder(CUBE.contents(), tmp_path / "cube.zarr")
    return ShardedStore.partition(source, {"simulation/*": "whole", "temperature": {"time": 4}, "wind_u": (3, 5, 2)})


def lines(store):
    return repr(store).splitlines()


def test_views(views, tmp_path):
    assert lines(ShardedStore.from_config(views.get_config())) == [
        f"<ShardedStore of '{tmp_path}/cube.zarr' and 10 shards at 4 paths>",
        "  (base)       directory            'cube.zarr'",
        "  simulation/",
        "    coarse     view                 'simulation/coarse' in 'cube.zarr'",
        "    fine       view                 'simulation/fine' in 'cube.zarr'",
        "  temperature  2 views              'temperature' in 'cube.zarr'",
        "  wind_u       6 views (3 x 1 x 2)  'wind_u' in 'cube.zarr'",
        f"  in '{tmp_path}'",
    ]


def test_a_result(views, tmp_path):
    result = views.map_shards(ToZip(tmp_path / "out"))
    told = lines(result)
    assert told[1:-1] == [
        "  (base)       zip                 '__base__.zarr.zip'",
        "  simulation/",
        "    coarse     zip                 'simulation/coarse.zarr.zip'",
        "    fine       zip                 'simulation/fine.zarr.zip'",
        "  temperature  2 zips              'temperature/{block}.zarr.zip'",
        "  wind_u       6 zips (3 x 1 x 2)  'wind_u/{block}.zarr.zip'",
        f"  in '{tmp_path}/out'",
    ]
    assert re.fullmatch(r"  11 shards done by the job; [\d.]+ kiB written", told[-1])
    loaded = ShardedStore.load(tmp_path / "out")
    assert lines(loaded) == told[:-1]
    page = Page(result._repr_html_())
    assert {"simulation", "coarse", "6 zips (3 x 1 x 2)", "'temperature/{block}.zarr.zip'", "10 shards"} <= {
        text.removesuffix(" at 4 paths").strip() for text in page.texts
    }
    assert page.details == 1


def test_in_the_midst_of_another_message_it_is_one_line(views, tmp_path):
    assert str(views) == lines(views)[0]
    assert repr(zarr.open_group(views, mode="r")) == f"<Group {views}>"
    assert "\n" not in repr(zarr.open_array(views, path="temperature", mode="r"))


def test_a_job_that_has_not_ended(views, tmp_path):
    views.map_shards(ToZip(tmp_path / "out"))
    (tmp_path / "out/shardedstore.json").unlink()
    (tmp_path / "out/temperature/1.zarr.zip").unlink()
    store = ShardedStore.load(tmp_path / "out", partial=True, allow=[tmp_path])
    told = repr(store)
    assert re.search(r"temperature +1 zip and 1 block +'temperature/\{block\}", told)
    assert "10 of 11 shards are shown from their new place, and the rest from the source" in told
    assert "10 of 11 shards" in store._repr_html_()


def test_nested(views, tmp_path):
    store = ShardedStore(MemoryStore(), {"a/inner": views, "other": tmp_path / "other"})
    told = lines(store)
    assert re.fullmatch(r"  \(base\) +MemoryStore +MemoryStore\('memory://\d+'\)", told[1])
    assert told[2].strip() == "a/"
    assert told[3].split() == ["inner", "sharded", "store"]
    assert [line.split()[0] for line in told[4:9]] == ["(base)", "simulation/", "coarse", "fine", "temperature"]
    assert told[4].startswith("      (base)")
    assert Page(store._repr_html_()).details == 3


def test_deeply_nested():
    config = Config(Directory("/b"))
    for _ in range(300):
        config = Config(Directory("/b"), {"inner": Mount(config)})
    told = to_text("", config)
    assert "more" in told
    assert len(told.splitlines()) < 40
    Page(to_html("", config))
    path = "/".join(["x"] * 300)
    assert "... and 1 more" in to_text("", Config(Directory("/b"), {path: Mount(Directory("/x"))}))


def test_collections():
    names = tuple(f"{i:04}" for i in range(2500))
    one, many = (Mount(Zip("/z/{block}.zip"), members=Members(names, together=n)) for n in (1, 1000))
    told = to_text("", Config(Group(attributes={"title": 1}), {"one": one, "many": many}))
    assert re.search(r"\(base\) +group +title\n", told)
    assert re.search(r"one +2,500 zips +'/z", told)
    assert re.search(r"many +3 zips of 2,500 stores +'/z", told)
    again = Mount(many.location, members=many.members, exceptions={"1": Zip("/z/1~2.zip")})
    assert describe.kinds_of(again) == "3 zips of 2,500 stores"


def test_more_than_one():
    blocks = Blocks((3, 9), (1,), ChunkKeys("v2", "."))
    squeezed = {f"{i}": Squeezed(Directory(f"/{i}"), BlockOf(Directory("/b"), "t", blocks, (i,))) for i in range(3)}
    assert describe.kinds_of(Mount(squeezed["0"], blocks, squeezed)) == "3 squeezed blocks"
    nested = {"0": Config(Directory("/0")), "1": Config(Directory("/1"))}
    assert describe.kinds_of(Mount(nested["0"], million(2), nested)) == "2 sharded stores"


def test_no_place_is_shown_for_a_base_without_one():
    for base in (Directory("s3://bucket"), Group(), Directory("/base")):
        config = Config(base, {"a": Mount(Directory("s3://bucket/a"))})
        assert describe.base_folder(config) == ""
        assert re.search("a +directory +'s3://bucket/a'", to_text("", config))


def test_what_is_not_ours_is_shown_as_foreign():
    config = Config(Directory("/b"), {"a": Mount(Directory("/a/{block}"), million(3), {"1": Zip("/x.zip")})})
    assert "2 directories and 1 zip" in to_text("", config)
    elsewhere = {str(i): ViewOf(Directory("/x"), "t") for i in range(2000)}
    config = Config(Directory("/b"), {"a": Mount(Directory("/a/{block}"), million(), elsewhere)})
    assert "998,000 directories and 2,000 others" in to_text("", config)
    elsewhere = {str(i): Zip(f"/{i}.zip") for i in range(3)}
    config = Config(Directory("/b"), {"a": Mount(Directory("/a/{block}"), million(3), elsewhere)})
    assert re.search("a +3 zips +'/0.zip'", to_text("", config))


def test_what_comes_from_data_is_escaped():
    class Strange(MemoryStore):
        def __repr__(self):
            return BAD

    inner = Config(Group(attributes={BAD: BAD}), {BAD: Mount(Zip(f"/{BAD}.zip"))})
    mounts = {
        BAD: Mount(Directory(f"s3://bucket/{BAD}")),
        f"a/{BAD}/c": Mount(ViewOf(Directory(f"/{BAD}"), BAD)),
        "inner": Mount(inner),
        "opened": Mount(Opened(Strange())),
    }
    config = Config(Directory(f"/{BAD}/base"), mounts)
    page = to_html(f"ShardedStore {BAD}", config)
    assert "<script" not in page
    assert Page(page).tags == {"div", "span", "strong", "details", "summary"}
    told = to_text("", config)
    assert all(map(str.isprintable, told.split("\n")))


def test_no_secrets(tmp_path):
    options = {"aws_access_key_id": "AKIA-not-shown", "aws_secret_access_key": "hidden", "region": "us-east-1"}
    config = Config(Directory("s3://bucket/base", Options(region="us-east-1")))
    take_options("s3://bucket/base", options)
    shown = to_text("", config) + to_html("", config)
    assert "AKIA" not in shown
    assert "hidden" not in shown


def most_below(row: Row) -> int:
    return max([len(row.below), *map(most_below, row.below)])


def size_of(row: Row) -> int:
    return 1 + sum(map(size_of, row.below))


def test_long_lists_are_cut():
    flat = Config(Zip("/z/base.zip"), {f"a{i}": Mount(Zip(f"/z/{i}.zip")) for i in range(1258)})
    assert to_text("", flat).splitlines()[-2] == "  ... and 1,234 more"
    assert "... and 1,138 more" in to_html("", flat)
    grouped = Config(Zip("/z/base.zip"), {f"g{i % 40}/h{i % 7}/a{i}": Mount(Zip("/z.zip")) for i in range(10_000)})
    tree = describe.describe(grouped)
    assert most_below(tree) == 25  # the base too
    assert size_of(tree) < 100
    assert [(row.name, row.more) for row in tree.below[1:3]] == [("g0", 6), ("g1", 6)]
    assert tree.more == 16


def test_nothing_is_read_and_it_takes_no_time():
    """The places do not exist, and the time depends on the config, not on the shards."""
    mounts = {f"g{i % 50}/a{i}": Mount(Zip(f"s3://none.invalid/{i}/{{block}}.zip"), million()) for i in range(10_000)}
    store = store_of(Config(Zip("s3://none.invalid/base.zip"), mounts))
    start = time.process_time()
    shown = repr(store) + store._repr_html_() + repr(store.shards)
    assert time.process_time() - start < 2  # about 50 ms
    assert "1,000,000 zips" in shown
    assert "10,000,000,001 shards" in shown
    assert len(shown) < 100_000
