"""Kinds of stores from other packages: the package of the page about stores, and broken packages."""

import json
import os
import pickle
import re
import sqlite3
import subprocess
import sys
from contextlib import closing

import dask
import pytest
from conformance import contents_of
from helpers_jobs import quietly
from paths import ROOT
from sources import build, cube, to_folder
from zarr.storage import MemoryStore

from shardedstore import ConfigError, ShardedStore, UsageError
from shardedstore.config.document import from_dict, to_dict
from shardedstore.jobs.preflight import find_unreadable, places_of
from shardedstore.storage.options import Options
from shardedstore.stores import custom
from shardedstore.stores.locations import Config, Mount, Opened, Own, ViewOf
from shardedstore.stores.recognise import locate
from shardedstore.transforms import ToZip
from shardedstore.zarr.grid import Blocks, ChunkKeys

PAGE = (ROOT / "docs" / "stores.md").read_text("utf-8")
MODULE, SCRIPT = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(TOML,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BROKEN = """
from shardedstore.stores.custom import StoreKind

print("broken was imported")


class NeedsMore(StoreKind):
    def __init__(self, more):
        self.more = more

    def open(self, url, settings, options):
        return None


class Nothing(StoreKind):
    def open(self, url, settings, options):
        return url

    def locate(self, store):
        return ("ftp://a", {}) if store.odd == "url" else ("/a", {"b": []}) if store.odd == "settings" else None


def function(url, settings, options):
    return None
"""
BROKEN_KINDS = {
    "needy": "brokenkinds:NeedsMore",
    "nothing": "brokenkinds:Nothing",
    "plain": "brokenkinds:function",
    "gone": "brokenkinds:Gone",
    "missing": "no_such_module_at_all:Kind",
    "twice": "brokenkinds:Nothing",
}


def install(folder, name, module, entries):
    """Write an installed package: a module and its metadata."""
    (folder / f"{name}.py").write_text(module)
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{custom.GROUP}]", *entries, ""]))


@pytest.fixture
def site(tmp_path):
    """A site-packages folder with the page's package, a broken package, and one that reuses a name."""
    folder = tmp_path / "site"
    folder.mkdir()
    name, _, value = TOML.splitlines()[1].partition(" = ")
    assert TOML.splitlines()[0] == f'[project.entry-points."{custom.GROUP}"]'
    install(folder, "sqlitezarr", MODULE, [f"{name} = {json.loads(value)}"])
    install(folder, "brokenkinds", BROKEN, [f"{name} = {value}" for name, value in BROKEN_KINDS.items()])
    install(folder, "otherkinds", "", ["twice = brokenkinds:Nothing"])
    return folder


@pytest.fixture
def installed(site, monkeypatch):
    """Install the packages in this process too."""
    monkeypatch.syspath_prepend(site)
    yield
    for name in ("sqlitezarr", "brokenkinds", "otherkinds"):
        sys.modules.pop(name, None)


def to_sqlite(contents, path, table="zarr"):
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(f"CREATE TABLE {table} (key TEXT PRIMARY KEY, value BLOB)")
        file.executemany(f"INSERT INTO {table} VALUES (?, ?)", contents.items())
    return path


def python(code, site, folder, *arguments):
    """Run a script with the packages installed, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=quietly(PYTHONPATH=os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_page(site, tmp_path):
    contents = build(cube, "v3/")
    to_sqlite(contents, tmp_path / "cells.sqlite")
    python(SCRIPT, site, tmp_path)
    assert contents_of(ShardedStore.load(tmp_path / "zips")) == contents


OPEN = """
import json, sys
from shardedstore import ShardedStore
store = ShardedStore.load(sys.argv[1])
print({"sqlitezarr", "brokenkinds", "otherkinds"} & set(sys.modules))
import zarr
print(zarr.open_group(store, mode="r")["temperature"][...].sum())
print({"sqlitezarr", "brokenkinds", "otherkinds"} & set(sys.modules))
"""


def test_another_process_opens_it_and_imports_nothing_else(site, tmp_path, installed):
    from sqlitezarr import SQLiteStore

    to_sqlite(build(cube, "v3/"), tmp_path / "cells.sqlite")
    ShardedStore.partition(SQLiteStore(str(tmp_path / "cells.sqlite")), ["simulation/*"]).save(
        tmp_path / "shardedstore.json"
    )
    document = json.loads((tmp_path / "shardedstore.json").read_bytes())
    base = {"kind": "own", "name": "sqlite", "url": "cells.sqlite", "settings": {"table": "zarr"}}
    assert document["base"] == base
    assert document["shards"]["simulation/fine"]["location"]["source"] == base
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("shardedstore.json", "cells.sqlite"):
        (tmp_path / name).rename(moved / name)
    assert python(OPEN, site, tmp_path, moved).splitlines() == ["set()", "9870.0", "{'sqlitezarr'}"]


def test_a_reader_of_the_package_tells_what_has_changed(installed, tmp_path):
    from sqlitezarr import SQLiteStore

    path = to_sqlite(build(cube, "v3/"), tmp_path / "cells.sqlite")
    store = ShardedStore.partition(SQLiteStore(str(path)), ["simulation/*"])
    with dask.config.set(scheduler="synchronous"):
        made = store.map_shards(ToZip(tmp_path / "zips"), changed="listing")
        with closing(sqlite3.connect(path)) as file, file:
            file.execute("INSERT INTO zarr VALUES ('simulation/fine/notes.txt', x'00')")
        again = store.map_shards(ToZip(tmp_path / "zips"), changed="listing")
    assert (again.summary.skipped, again.summary.changed) == (len(made.shards) - 1, 1)


def test_blocks_of_it(site, tmp_path, installed):
    """A template of this kind, mapped on processes that know only its name."""
    contents = build(cube, "v3/")
    view = ShardedStore.partition(to_folder(contents, tmp_path / "a.zarr"), {"temperature": {"time": 4}})
    (tmp_path / "t").mkdir()
    for i in range(2):
        to_sqlite(contents_of(view.component("temperature", (i,))), tmp_path / "t" / f"{i}.sqlite", "chunks")
    mount = Mount(
        Own("sqlite", f"{tmp_path}/t/{{block}}.sqlite", {"table": "chunks"}), view.config.shards["temperature"].blocks
    )
    store = ShardedStore.from_config(to_dict(Config(view.config.base, {"temperature": mount})))
    assert contents_of(store) == contents
    assert pickle.loads(pickle.dumps(store)) == store


CLUSTER = """
import sys
from distributed import Client, LocalCluster
from shardedstore import ShardedStore
from shardedstore.transforms import ToZip
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as local, Client(local) as client:
        source = ShardedStore.load(sys.argv[1])
        try:
            result = source.map_shards(ToZip(sys.argv[2]))
        except Exception as error:
            print(type(error).__name__, error)
        else:
            print(result.summary.done)
            print(result.verify(source))
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_the_workers_open_it(site, tmp_path, installed):
    from sqlitezarr import SQLiteStore

    contents = build(cube, "v3/")
    to_sqlite(contents, tmp_path / "cells.sqlite")
    store = ShardedStore.partition(
        SQLiteStore(str(tmp_path / "cells.sqlite")), {"simulation/*": "whole", "temperature": {"time": 2}}
    )
    store.save(tmp_path / "shardedstore.json")
    (tmp_path / "run.py").write_text(CLUSTER)
    code = "import runpy, sys; sys.argv[0] = 'run.py'; runpy.run_path('run.py', run_name='__main__')"
    done, *report = python(code, site, tmp_path, tmp_path, tmp_path / "out").splitlines()
    assert int(done) == 7
    assert report == ["ok: 7 arrays in 7 shards, by their decoded data"]
    assert contents_of(ShardedStore.load(tmp_path / "out")) == contents
    without = python(code, tmp_path / "nothing", tmp_path, tmp_path, tmp_path / "none")
    assert "stores of the kind 'sqlite' can't be opened here" in without
    assert "on each worker too" in without


def test_kinds_that_do_not_work_are_reported(installed, tmp_path, capsys):
    messages = {
        "unheard": "stores of the kind 'unheard' can't be opened here, as no package that is installed registers it (there are gone, "
        "missing, needy, nothing, plain, sqlite, twice): install the one that does, and on each worker too",
        "needy": "the kind of store 'needy' is 'brokenkinds:NeedsMore', which can't be made without arguments: TypeError: ",
        "nothing": "the kind of store 'nothing' opened '/data/a' as a str, which is not a zarr store: mend its package",
        "plain": "the kind of store 'plain' of the package brokenkinds 1.5 is 'brokenkinds:function', which is no subclass of StoreKind",
        "gone": "the kind of store 'gone' of the package brokenkinds 1.5 can't be imported from 'brokenkinds:Gone': AttributeError",
        "missing": "the kind of store 'missing' of the package brokenkinds 1.5 can't be imported from 'no_such_module_at_all:Kind'",
        "twice": "'twice' is a kind of store of the package brokenkinds 1.5 and the package otherkinds 1.5: uninstall all but one",
    }
    for name, message in messages.items():
        with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
            Own(name, "/data/a").open()
    with pytest.raises(UsageError, match="'a b' is no name of a table in '/data/a'"):
        Own("sqlite", "/data/a", {"table": "a b"}).open()


def test_a_worker_that_lacks_the_package_says_so():
    missing = find_unreadable(places_of([ViewOf(Config(Own("sqlite", "/data/a")), "g")]))
    assert "stores of the kind 'sqlite' can't be opened here" in missing
    assert f"process {os.getpid()}" in missing


def test_nothing_is_installed():
    with pytest.raises(UsageError, match=r"no package that is installed registers it \(there is none\)"):
        Own("sqlite", "/data/a").open()


def test_what_a_kind_locates(installed, tmp_path, capsys):
    store = MemoryStore()
    assert locate(store) == Opened(store)
    assert "brokenkinds" not in sys.modules
    assert capsys.readouterr().out == ""
    from sqlitezarr import SQLiteStore

    made = SQLiteStore("/data/a.sqlite", "t")
    assert locate(made) == Own("sqlite", "/data/a.sqlite", {"table": "t"})
    assert locate(made).open() == made
    assert "brokenkinds" not in sys.modules


@pytest.mark.parametrize(
    ("odd", "message"),
    [("url", "unknown URL scheme ftp://"), ("settings", "'odd' gave an invalid location for a Odd: .*settings")],
)
def test_what_a_kind_must_not_locate(tmp_path, monkeypatch, odd, message):
    install(tmp_path, "oddkinds", BROKEN, ["odd = oddkinds:Nothing"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "oddkinds", raising=False)
    import oddkinds

    class Odd(MemoryStore):
        pass

    assert oddkinds.__name__ in sys.modules
    store = Odd()
    store.odd = odd
    with pytest.raises(UsageError, match=message):
        locate(store)


@pytest.mark.parametrize("url", ["/etc/passwd", "s3://other/a", "../a", "ftp://a/b"])
def test_its_url_is_as_restricted_as_any(url):
    document = to_dict(Config(Own("sqlite", "/data/out/a")))
    document["base"]["url"] = url
    with pytest.raises(ConfigError, match=r"outside its own folder|has a segment|unknown URL scheme"):
        from_dict(document, "/data/out", ())


@pytest.mark.parametrize("name", ["os:system", "os.path/join", "", "a b", "..", "-a", "sqlitezarr:SQLiteKind", "a\n"])
def test_a_name_is_none_of_a_module(name):
    document = to_dict(Config(Own("sqlite", "/data/a")))
    document["base"]["name"] = name
    with pytest.raises(ConfigError, match=r"matching regex .* - at `\$\.base\.name`"):
        from_dict(document)


@pytest.mark.parametrize("name", ["password", "AWS_SECRET_ACCESS_KEY", "session-token", "apikey", "credentials"])
def test_settings_are_no_place_for_secrets(name):
    with pytest.raises(ValueError, match=rf"the setting '{name}' would be for all to read"):
        Own("sqlite", "/data/a", {name: "x"})
    document = to_dict(Config(Own("sqlite", "/data/a", {"table": "x"})))
    document["base"]["settings"] = {name: "x"}
    with pytest.raises(ConfigError, match="would be for all to read"):
        from_dict(document)


def test_it_is_reached_as_the_config_is():
    options = Options(endpoint="https://objects.example.org")
    document = to_dict(Config(Own("sqlite", "a.sqlite", {"table": "t"})), None)
    assert from_dict(document, "s3://bucket/out", (), options) == Config(
        Own("sqlite", "s3://bucket/out/a.sqlite", {"table": "t"}, options)
    )


def test_a_view_of_it(installed, tmp_path):
    contents = build(cube, "v3/")
    to_sqlite(contents, tmp_path / "cells.sqlite")
    view = ViewOf(Own("sqlite", f"{tmp_path}/cells.sqlite"), "temperature")
    blocks = Blocks((4, 3, 2), (2,), ChunkKeys("default", "/"))
    found = contents_of(ShardedStore.from_config(to_dict(Config(view.source, {"temperature": Mount(view, blocks)}))))
    assert found == contents
