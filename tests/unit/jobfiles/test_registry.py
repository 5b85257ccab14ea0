"""Transforms by name, of this package and of installed packages, in real Python processes."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sources import SOURCES, to_folder

from shardedstore import ShardedStore, Sink, Step, UsageError
from shardedstore.jobfiles import registry
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToShardingCodec, ToZip

TINY = '''
from dataclasses import dataclass

from shardedstore import Step


@dataclass(frozen=True)
class Count(Step):
    """Counts a shard's entries, and lets all pass."""

    label: str
    times: int = 1

    def __call__(self, entries, shard):
        n = 0
        for n, entry in enumerate(entries, 1):
            yield entry
        print(self.label, shard.name, n * self.times)


def function(entries, shard):
    return entries
'''


def install(folder: Path, name: str, module: str, entries: dict[str, str]) -> None:
    """Write an installed package: a module and its metadata."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    lines = [f"{key} = {value}" for key, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines, ""]))


@pytest.fixture
def site(tmp_path):
    """A site-packages folder: a working package, one that can't be imported, and two that share a name."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(
        folder,
        "tiny",
        TINY,
        {
            "count": "tiny:Count",
            "zip": "tiny:Count",
            "plain": "tiny:function",
            "gone": "tiny:Gone",
            "shared": "tiny:Count",
        },
    )
    install(folder, "broken", "print('broken was imported'); import no_such_module", {"broken": "broken:Step"})
    install(folder, "other", TINY, {"shared": "other:Count"})
    return folder


class Needy(Step):
    def __init__(self, level, other=0):
        self.level = level

    def __call__(self, entries, shard):
        return entries


class Picky(Step):
    def __init__(self, number=1):
        self.number = 1 / number

    def __call__(self, entries, shard):
        return entries


def python(code: str, site: Path, *arguments: object) -> str:
    """Run a script with some packages installed, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])},
        cwd=site.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_package_that_is_installed_is_found_by_name(site, tmp_path):
    code = """
import sys
from shardedstore import ShardedStore
from shardedstore.jobfiles.registry import make_sink, make_step
source, out = sys.argv[1:]
import dask
dask.config.set(scheduler="synchronous")
store = ShardedStore.partition(source, ["simulation"])
store.map_shards(make_step("count:label=entries of,times=2"), make_sink("zip", out))
again = store.map_shards(make_step("count:label=entries of,times=2"), make_sink("zip", out))
print(again.summary.done, again.summary.skipped)
"""
    contents = SOURCES["cube-v3/"].contents()
    source = to_folder(contents, tmp_path / "source.zarr")
    inside = sum(key.startswith("simulation/") for key in contents)
    assert python(code, site, source, tmp_path / "out").splitlines() == [
        f"entries of (base) {2 * (len(contents) - inside)}",
        f"entries of simulation {2 * inside}",
        "0 2",
    ]
    assert len(ShardedStore.load(tmp_path / "out").config.shards) == 1


def test_what_is_installed_is_not_imported_before_it_is_named(site, tmp_path):
    code = """
import sys
from shardedstore import ShardedStore, cli
from shardedstore.jobfiles import registry
print(registry.transform_names())
registry.find_transform("zip")
ShardedStore.load(sys.argv[1])
print({"tiny", "broken", "other"} & set(sys.modules))
registry.find_transform("count")
print({"tiny", "broken", "other"} & set(sys.modules))
"""
    source = to_folder(SOURCES["cube-v3/"].contents(), tmp_path / "source.zarr")
    ShardedStore.partition(source, ["simulation"]).save(tmp_path / "shardedstore.json")
    before, own, after = python(code, site, tmp_path / "shardedstore.json").splitlines()
    others = ["broken", "count", "gone", "plain", "shared"]
    assert json.loads(before.replace("'", '"')) == [*registry.BUILT_IN, *others]
    assert (own, after) == ("set()", "{'tiny'}")


def test_packages_that_do_not_work_are_named(site):
    code = """
import json
from shardedstore import UsageError
from shardedstore.jobfiles import registry
errors = {}
for name in ("broken", "gone", "plain", "shared", "nothing"):
    try:
        registry.find_transform(name)
    except UsageError as error:
        errors[name] = str(error)
print(json.dumps([errors, registry.find_transform("zip").__module__, registry.find_transform("count").__name__]))
"""
    errors, built_in, tiny = json.loads(python(code, site).splitlines()[-1])
    assert (built_in, tiny) == ("shardedstore.transforms.to_zip", "Count")
    assert errors == {
        "broken": "the transform 'broken' of the package broken 1.5 can't be imported from 'broken:Step': "
        "ModuleNotFoundError: No module named 'no_such_module'; fix that package, or uninstall it",
        "gone": "the transform 'gone' of the package tiny 1.5 can't be imported from 'tiny:Gone': "
        "AttributeError: module 'tiny' has no attribute 'Gone'; fix that package, or uninstall it",
        "plain": "the transform 'plain' of the package tiny 1.5 is 'tiny:function', which is neither a subclass of Step "
        "nor of Sink: fix that package, or uninstall it",
        "shared": "'shared' is a transform of the package other 1.5 and the package tiny 1.5: uninstall all but one of "
        "them",
        "nothing": "'nothing' is not an installed transform: use one of zip, zarr, sharding-codec, recompress, "
        "migrate-v3, migrate-ome, broken, count, gone, plain, shared",
    }


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_the_names_of_the_package(name):
    found = registry.find_transform(name)
    assert found.__module__.startswith("shardedstore.transforms.")
    assert issubclass(found, Step) != issubclass(found, Sink)
    assert name in registry.transform_names()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("recompress:codec=zstd", Recompress("zstd")),
        ("recompress:codec=blosc,cname=lz4,clevel=9", Recompress("blosc", cname="lz4", clevel=9)),
        ("recompress:codec=null,threads=1", Recompress(None, threads=1)),
        ('recompress:codec={"id": "zlib", "level": 3}, arrays=["a", "b,c=*"]', Recompress("zlib", level=3, arrays=("a", "b,c=*"))),
        ("recompress:arrays=wind_{u,v},codec=gzip", Recompress("gzip", arrays="wind_{u,v}")),
        ("migrate-v3", MigrateV3()),
        ("migrate-v3:", MigrateV3()),
    ],
)  # fmt: skip
def test_steps_of_text(text, made):
    step = registry.make_step(text)
    assert step == made
    assert repr(step) == repr(made)


@pytest.mark.parametrize(
    ("text", "given", "made"),
    [
        ("zip", {}, ToZip("out")),
        ("zip:name={path}.{block}.zip,zip64=true", {}, ToZip("out", "{path}.{block}.zip", True)),
        ("zip:zip64=true", {"name": "{block}/{path}.zip"}, ToZip("out", "{block}/{path}.zip", True)),
        ("zarr:layout=shards", {}, CopyTo("out", "shards")),
        ("sharding-codec:object_size=64 MiB", {}, ToShardingCodec("out", "64 MiB")),
        ("sharding-codec:object_size=1000000", {}, ToShardingCodec("out", 1000000)),
    ],
)
def test_sinks_of_text(text, given, made):
    assert registry.make_sink(text, "out", **given) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not an installed transform: use one of zip, zarr, "),
        ("rezip", "'rezip' is not an installed transform: use one of zip, zarr, "),
        ("zip", "'zip' is a sink, not a step: give it as --to zip"),
        ("migrate-v3:level=5", "'migrate-v3' has no option 'level'; its options are: threads"),
        ("migrate-v3:threads=1,threads=2", "'migrate-v3' is given the option 'threads' twice: leave one of them out"),
        ("needy:other=1", "'needy' needs the option 'level': write needy:level=..."),
        ("recompress:zstd", "'zstd' is not an option of 'recompress': write recompress:option=value,option=value"),
        ("recompress:=zstd", "'' is not an option of 'recompress'"),
        ("recompress:codec=[1]", "Recompress: "),
    ],
)
def test_steps_that_are_refused(text, message, monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "needy", Needy)
    with pytest.raises(UsageError, match=re.escape(message)):
        registry.make_step(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "recompress:codec=zstd",
            "'recompress' is a step, not a sink: give it as --step recompress, and a sink",
        ),
        ("zip:url=elsewhere", "'zip' has no option 'url'; its options are: name, zip64, per_zip, storage_options"),
        ("zip:name={path}", "'zip' is given the option 'name' twice"),
        ("zarr:layout=other", "CopyTo's layout is 'other': use 'zarr' or 'shards'"),
    ],
)
def test_sinks_that_are_refused(text, message):
    given = {"name": "{path}.zip"} if text == "zip:name={path}" else {}
    with pytest.raises(UsageError, match=re.escape(message)):
        registry.make_sink(text, "out", **given)


def test_what_a_class_refuses_is_no_traceback(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN, "picky", Picky)
    assert registry.make_step("picky:number=0.5").number == 2
    for value, error in (("0", "ZeroDivisionError"), ("word", "TypeError"), ("[" * 100_000, "TypeError")):
        with pytest.raises(UsageError, match=f"'picky' can't be made with these options: {error}: "):
            registry.make_step(f"picky:number={value}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-0.5", -0.5),
        ("NaN", math.nan),
        ("true", True),
        ("True", "True"),
        ("null", None),
        ('"5"', "5"),
        ("5 MiB", "5 MiB"),
        ("1,2", "1,2"),
        ("[1, 2]", [1, 2]),
        ('{"a": "b,c=d"}', {"a": "b,c=d"}),
        ("[1, 2", "[1, 2"),
        ('"a"b', '"a"b'),
        ("a=b", "a=b"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("", ""),
        (" a ", " a "),
    ],
)  # fmt: skip
def test_values(text, value):
    options = registry.parse_options(f"first={text},second=x, third=1", "name")
    assert repr(options) == repr({"first": value, "second": "x", "third": 1})
    assert repr(registry.parse_options(f"last={text}", "name")) == repr({"last": value})
