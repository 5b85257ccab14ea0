"""Run every example of the page about custom transforms, and read the results with zarr."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from paths import ROOT
from sources import SOURCES, to_folder

from shardedstore import ChainError, CorruptError, DestinationError, ShardedStore, ShardsFailed
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.jobs.ledger import FOLDER
from shardedstore.stores.entries import Entry
from shardedstore.transforms import CopyTo, ToZip
from shardedstore.transforms.base.chain import parse_chain
from shardedstore.transforms.base.shard import Shard

PAGE = (ROOT / "docs" / "transforms.md").read_text("utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
MODULES = {found[1]: text for text in PYTHON if (found := re.match(r"# (\w+\.py)\n", text))}
SCRIPTS = [text for text in PYTHON if text not in MODULES.values()]
KEY = "ARCHIVE_KEY_2026"
JUNK = {".DS_Store", "Thumbs.db"}
TIMES = 72

pytestmark = pytest.mark.slow


def make_source(folder: Path, zarr_format: int) -> None:
    """Temperatures over time, some missing, and a group beside them; both contain files of a desktop system."""
    root = zarr.create_group(folder, zarr_format=zarr_format)
    data = np.random.default_rng(0).normal(280, 9, (TIMES, 6, 8)).astype("f4")
    names = {"dimension_names": ("time", "lat", "lon")} if zarr_format == 3 else {}
    old_names = {"_ARRAY_DIMENSIONS": ["time", "lat", "lon"]} if zarr_format == 2 else {}
    array = root.create_array(
        "temperature",
        shape=data.shape,
        chunks=(12, 3, 4),
        dtype="f4",
        fill_value=np.nan,
        attributes={"units": "K", **old_names},
        **names,
    )
    array[:60] = data[:60]
    root.create_group("stations").create_array("height", data=np.arange(20.0), chunks=(5,), attributes={"units": "m"})
    for name in (".DS_Store", "stations/Thumbs.db", "temperature/.DS_Store"):
        (folder / name).write_bytes(b"\0desktop")
    (folder / "notes.txt").write_text("kept")


def run_scripts(folder: Path, scripts: list[str]) -> None:
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    # In one process, to import only once, but each with a separate namespace.
    program = "import sys, json\nfor script in json.load(sys.stdin): exec(compile(script, script, 'exec'), {})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, KEY: "5a" * 32},
        input=json.dumps(scripts),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module", params=[2, 3], ids=["v2", "v3"])
def folder(request, tmp_path_factory):
    """The folder in which all scripts of the page have run."""
    made = tmp_path_factory.mktemp("page")
    make_source(made / "my.zarr", request.param)
    run_scripts(made, SCRIPTS)
    return made


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The folder of the page's modules, for imports."""
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name.removesuffix(".py"), None)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(one: zarr.Group, two: zarr.Group) -> None:
    """Check that zarr reads the same arrays, attributes and values."""
    before, after = (dict(group.members(max_depth=None)) for group in (one, two))
    assert before.keys() == after.keys()
    for name, node in before.items():
        assert dict(node.attrs) == dict(after[name].attrs)
        if isinstance(node, zarr.Array):
            np.testing.assert_array_equal(node[...], after[name][...])


def opened(folder: Path, name: str) -> zarr.Group:
    return zarr.open_group(ShardedStore.load(folder / name), mode="r")


def source_of(folder: Path) -> zarr.Group:
    return zarr.open_group(folder / "my.zarr", mode="r")


def test_the_page_has_what_is_run():
    assert list(MODULES) == [
        "celsius.py",
        "audit.py",
        "clean.py",
        "encryption.py",
        "checksums.py",
        "copies.py",
        "rounded.py",
    ]
    assert len(SCRIPTS) == 6


def test_array_step(folder):
    source, made = source_of(folder), opened(folder, "celsius")
    kelvin = source["temperature"][...]
    np.testing.assert_array_equal(made["temperature"][...], kelvin - 273.15)
    assert np.isnan(made["temperature"][60:]).all()
    assert made["temperature"].attrs["units"] == "degC"
    np.testing.assert_array_equal(made["stations/height"][...], source["stations/height"][...])
    assert made["stations/height"].attrs["units"] == "m"
    assert xr.open_zarr(ShardedStore.load(folder / "celsius"), consolidated=False).temperature.units == "degC"
    assert len(list((folder / "celsius" / "temperature").glob("*.zarr.zip"))) == 3


def test_function_as_a_step(folder):
    same(source_of(folder), opened(folder, "audited"))


def test_step(folder):
    kept = {name: data for name, data in files_of(folder / "my.zarr").items() if Path(name).name not in JUNK}
    assert files_of(folder / "clean.zarr") == kept
    assert len(files_of(folder / "my.zarr")) == len(kept) + 3


def test_step_with_a_secret(folder):
    assert files_of(folder / "decrypted.zarr") == files_of(folder / "my.zarr")
    store = ShardedStore.load(folder / "encrypted")
    assert opened(folder, "encrypted")["temperature"].attrs["units"] == "K"
    with pytest.raises(Exception, match=r"(?i)blosc|zstd|decompress"):
        zarr.open_array(store, path="temperature", mode="r")[...]
    contents = b"".join(files_of(folder / "encrypted").values())
    clear = files_of(folder / "my.zarr")
    chunks = [name for name in clear if Path(name).name not in {"zarr.json", ".zarray", ".zattrs", ".zgroup"}]
    assert len(chunks) > 20
    assert [name for name in chunks if clear[name] in contents] == []


def test_sink(folder):
    same(source_of(folder), opened(folder, "checked"))
    sums = sorted((folder / "checked").rglob("*.sha256"))
    names = ["__base__.zip", "temperature/0.zip", "temperature/1.zip", "temperature/2.zip"]
    assert [str(path.relative_to(folder / "checked")) for path in sums] == [f"{name}.sha256" for name in names]
    for path in sums:
        done = subprocess.run(
            ["sha256sum", "--check", path.name], cwd=path.parent, capture_output=True, text=True, check=False
        )
        assert done.stdout == f"{path.stem}: OK\n"


def test_functions_of_stores(folder):
    same(source_of(folder), opened(folder, "copies"))
    assert {"base", "temperature"} < {path.name for path in (folder / "copies").iterdir()}
    names = ["zips/my.zarr.zip", *(f"zips/my/temperature/{i}.zarr.zip" for i in range(3))]
    assert sorted(str(path.relative_to(folder)) for path in (folder / "zips").rglob("*.zip")) == names
    array = zarr.open_array(zarr.storage.ZipStore(folder / names[2], mode="r"), mode="r")
    np.testing.assert_array_equal(array[...], source_of(folder)["temperature"][24:48])


def test_another_process_finds_all_done(folder):
    """All chains have fingerprints, so only the function without `to=` writes again."""

    def seen():
        paths = (path for path in folder.rglob("*") if path.is_file() and FOLDER not in path.parts)
        made = (path for path in paths if path.suffix in (".zip", ".sha256") or "copies" in path.parts)
        return {path: path.stat().st_ino for path in made if path.name not in (FILE_NAME, "published.zip")}

    before = {path: inode for path, inode in seen().items() if "zips" not in path.parts}
    assert len(before) > 20
    run_scripts(folder, SCRIPTS)
    after = seen()
    assert {path: after[path] for path in before} == before


def test_a_sum_that_is_gone_is_made_again(modules):
    from checksums import ToCheckedZip

    make_source(modules / "my.zarr", 3)
    store = ShardedStore.partition(modules / "my.zarr", {"temperature": {"time": 24}})
    store.map_shards(ToCheckedZip(modules / "out"))
    before = files_of(modules / "out" / "temperature")
    (modules / "out" / "temperature" / "1.zip.sha256").unlink()
    again = store.map_shards(ToCheckedZip(modules / "out"))
    assert (again.summary.done, again.summary.skipped) == (1, 3)
    assert files_of(modules / "out" / "temperature") == before
    with pytest.raises(ChainError, match="'s3://bucket/out' is far away: name a local folder"):
        store.map_shards(ToCheckedZip("s3://bucket/out"))


def test_what_is_wrong_is_reported_before_it_runs(modules, monkeypatch):
    from celsius import Celsius
    from encryption import Encrypt

    make_source(modules / "my.zarr", 3)
    store = ShardedStore.partition(modules / "my.zarr", "1 MiB")
    with pytest.raises(ChainError, match=r"'stations/height' is not in kelvins: leave it out with arrays="):
        store.map_shards(Celsius(), ToZip(modules / "out"))
    for value in (None, "no digits", "5a"):
        monkeypatch.delenv(KEY, raising=False)
        if value is not None:
            monkeypatch.setenv(KEY, value)
        with pytest.raises(ChainError, match=rf"^\${KEY} must hold 64, 96 or 128 hexadecimal digits"):
            store.map_shards(Encrypt(KEY), ToZip(modules / "out"))
    assert not (modules / "out").exists()


def test_the_audit_finds_an_empty_chunk(modules):
    from audit import without_empty_chunks

    with pytest.raises(CorruptError, match=r"shard 'a': 'c/0' is empty: restore it"):
        list(without_empty_chunks([Entry("c/0", b"", None, (0,))], Shard("a")))


@pytest.mark.parametrize("name", ["cube-v2.", "cube-v3/", "others-v2", "others-v3", "sharding-codec"])
def test_decrypting_gives_the_bytes_that_were_encrypted(modules, monkeypatch, name):
    """For any division of the source and of the result."""
    from encryption import Decrypt, Encrypt

    monkeypatch.setenv(KEY, "0123456789abcdef" * 4)
    source = to_folder(SOURCES[name].contents(), modules / "source")
    store = ShardedStore.partition(source, SOURCES[name].shards)
    zips = store.map_shards(Encrypt(KEY), ToZip(modules / "zips"))
    store.map_shards(Encrypt(KEY), CopyTo(modules / "copy"), consolidated=False)
    zips.map_shards(Decrypt(KEY), CopyTo(modules / "one"), consolidated=False)
    ShardedStore.partition(modules / "copy", []).map_shards(Decrypt(KEY), CopyTo(modules / "two"), consolidated=False)
    store.map_shards(CopyTo(modules / "clear"), consolidated=False)
    expected = files_of(modules / "clear")
    assert files_of(modules / "one") == files_of(modules / "two") == expected
    encrypted = files_of(modules / "copy")
    assert encrypted.keys() == expected.keys()
    documents = {"zarr.json", ".zarray", ".zattrs", ".zgroup"}
    changed = {key for key in expected if encrypted[key] != expected[key]}
    assert changed == {key for key in expected if Path(key).name not in documents} != set()


def test_a_chunk_that_was_moved_or_has_another_key_is_not_decrypted(modules, monkeypatch):
    from encryption import Decrypt, Encrypt

    make_source(modules / "my.zarr", 3)
    monkeypatch.setenv(KEY, "5a" * 32)
    ShardedStore.partition(modules / "my.zarr", []).map_shards(Encrypt(KEY), CopyTo(modules / "out.zarr"))
    chunks = modules / "out.zarr" / "temperature" / "c" / "0" / "0"
    (chunks / "0").rename(chunks / "held")
    (chunks / "1").rename(chunks / "0")
    (chunks / "held").rename(chunks / "1")
    moved = ShardedStore.partition(modules / "out.zarr", {"temperature": {"time": 24}})
    with pytest.raises(ShardsFailed) as failed:
        moved.map_shards(Decrypt(KEY), ToZip(modules / "moved"))
    (error,) = failed.value.exceptions
    assert error.shard == "temperature[0]"
    assert error.cause == f"CorruptError: 'temperature/c/0/0/0' is damaged, or not encrypted with ${KEY}"
    monkeypatch.setenv(KEY, "5b" * 32)
    with pytest.raises(ShardsFailed, match="4 of 4 shards failed"):
        moved.map_shards(Decrypt(KEY), ToZip(modules / "other"))


def test_another_version_is_another_job(modules, monkeypatch):
    from rounded import Rounded

    make_source(modules / "my.zarr", 3)
    store = ShardedStore.partition(modules / "my.zarr", ["temperature"])
    made = store.map_shards(Rounded(arrays="temperature", label="one"), ToZip(modules / "out"))
    expected = source_of(modules)["temperature"][...].round(2)
    np.testing.assert_array_equal(zarr.open_array(made, path="temperature", mode="r")[...], expected)
    again = store.map_shards(Rounded(arrays="temperature", label="two"), ToZip(modules / "out"))
    assert (again.summary.done, again.summary.skipped) == (0, 2)
    monkeypatch.setattr(Rounded, "version", "3")
    with pytest.raises(DestinationError, match="overwrite=True"):
        store.map_shards(Rounded(arrays="temperature", label="two"), ToZip(modules / "out"))


def test_what_has_no_fingerprint(modules):
    from audit import without_empty_chunks
    from rounded import Rounded

    from shardedstore import step

    sink = ToZip("out")
    assert fingerprint(parse_chain([step(without_empty_chunks), sink])) is None
    assert fingerprint(parse_chain([step(without_empty_chunks, name="a", version="1"), sink])) is not None
    assert fingerprint(parse_chain([lambda store, path, index: store])) is None
    assert fingerprint(parse_chain([Rounded(digits=object()), sink])) is None
    ones = [fingerprint(parse_chain([Rounded(label=label), ToZip(label)])) for label in ("a", "b")]
    assert ones[0] == ones[1] is not None


def test_published_names_are_those_of_the_page():
    table = re.search(r'```toml\n\[project.entry-points."shardedstore.transforms"\]\n(.*?)```', PAGE, re.DOTALL)[1]
    for line in table.splitlines():
        module, _, name = json.loads(line.partition(" = ")[2]).partition(":")
        assert re.search(rf"^class {name}\(", MODULES[f"{module}.py"], re.MULTILINE)
