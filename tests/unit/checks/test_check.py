"""`check`: every kind of damage is found and named, and nothing else is."""

import gzip
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import dask
import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from sources import SOURCES, to_folder
from zarr.storage import ZipStore

from shardedstore import PartitionError, ShardedStore, UsageError, check, cli
from shardedstore.jobs.executors.active import use_executor
from shardedstore.jobs.executors.local import SerialExecutor
from shardedstore.transforms import ToZip


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def build(folder: Path, kind: str) -> Path:
    """Write a Zarr of one kind: two arrays and a group, with compression and consolidated metadata."""
    zarr_format = 2 if kind == "v2" else 3
    root = zarr.create_group(folder, zarr_format=zarr_format, attributes={"title": "a cube"})
    data = np.arange(1, 97, dtype="f4").reshape(8, 12)
    for group, name in ((root, "t"), (root.create_group("g"), "u")):
        options = {"data": data, "chunks": (2, 4), "compressors": zarr.codecs.GzipCodec(level=1)}
        if kind == "v2":
            options |= {"compressors": numcodecs.GZip(level=1), "attributes": {"_ARRAY_DIMENSIONS": ["y", "x"]}}
        else:
            options["dimension_names"] = ("y", "x")
        if kind == "sharded":
            options["shards"] = (4, 8)
        group.create_array(name, **options)
    zarr.consolidate_metadata(folder, zarr_format=zarr_format)
    return folder


def edit(path: Path, change: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_all(folder: Path, path: str, change: Callable[[dict], object]) -> None:
    """Change a document and its copies in consolidated metadata."""
    edit(folder / path, change)
    if path.endswith("zarr.json"):
        name = path.removesuffix("/zarr.json")
        edit(folder / "zarr.json", lambda document: change(document["consolidated_metadata"]["metadata"][name]))
    else:
        edit(folder / ".zmetadata", lambda document: change(document["metadata"][path]))


FIRST = {"v2": "t/0.0", "v3": "t/c/0/0", "sharded": "t/c/0/0"}
ARRAY = {"v2": "t/.zarray", "v3": "t/zarr.json", "sharded": "t/zarr.json"}
ROOT = {"v2": ".zmetadata", "v3": "zarr.json", "sharded": "zarr.json"}


def damage_chunk(data: Callable[[bytes], bytes]):
    def change(folder: Path, kind: str) -> None:
        path = folder / FIRST[kind]
        path.write_bytes(data(path.read_bytes()))

    return change


def write(key: str, data: bytes = b"x"):
    def change(folder: Path, kind: str) -> None:
        path = folder / key.format(array=ARRAY[kind], first=FIRST[kind])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return change


def document(change: Callable[[dict], object]):
    return lambda folder, kind: edit_all(folder, ARRAY[kind], change)


def rename_group(folder: Path, kind: str) -> None:
    shutil.rmtree(folder / "g")


def stale_copy(folder: Path, kind: str) -> None:
    name = ".zattrs" if kind == "v2" else "zarr.json"
    edit(folder / "t" / name, lambda d: (d if kind == "v2" else d["attributes"]).update(units="K"))


def new_array(folder: Path, kind: str) -> None:
    zarr.create_array(folder, name="new", data=np.ones(3), zarr_format=2 if kind == "v2" else 3)


def other_keys(folder: Path, kind: str) -> None:
    """Move the first chunk to the key of another encoding."""
    other = folder / ("t/0/0" if kind == "v2" else "t/c.0.0")
    other.parent.mkdir(exist_ok=True)
    (folder / FIRST[kind]).rename(other)


def bomb(data: bytes) -> bytes:
    return gzip.compress(bytes(64 << 20))


EVERY = ("v2", "v3", "sharded")
NO_SHARDS = ("v2", "v3")
V2, V3, SHARDED = ("v2",), ("v3", "sharded"), ("sharded",)
ATTACKS = {
    "a chunk that is cut short": (NO_SHARDS, damage_chunk(lambda data: data[:-9]), {("undecodable-chunk", "t")}),
    "a chunk of other bytes": (NO_SHARDS, damage_chunk(lambda data: b"no gzip"), {("undecodable-chunk", "t")}),
    "a chunk of too few elements": (
        NO_SHARDS,
        damage_chunk(lambda data: gzip.compress(b"few")),
        {("undecodable-chunk", "t")},
    ),
    "a chunk that decodes to 64 MiB": (NO_SHARDS, damage_chunk(bomb), {("undecodable-chunk", "t")}),
    "a chunk without bytes": (EVERY, damage_chunk(lambda data: b""), {("empty-chunk", "t")}),
    "an index that is cut short": (SHARDED, damage_chunk(lambda data: data[-5:]), {("shard-index", "t")}),
    "an index of another checksum": (
        SHARDED,
        damage_chunk(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        {("shard-index", "t")},
    ),
    "a stray file at the root": (EVERY, write("README"), {("stray-key", "")}),
    "a stray file in an array": (EVERY, write("t/notes.txt"), {("stray-key", "t")}),
    "a chunk outside of the grid": (EVERY, lambda f, k: write(FIRST[k].replace("0", "9"))(f, k), {("stray-key", "t")}),
    "a chunk with another key": (EVERY, other_keys, {("chunk-key", "t")}),
    "attributes without a group": (EVERY, write("lost/.zattrs", b"{}"), {("stray-key", "lost")}),
    "a document that is no JSON": (EVERY, write("{array}", b"{"), {("not-json", "t")}),
    "attributes that are no JSON": (V2, write("t/.zattrs", b"{"), {("attributes", "t")}),
    "attributes that are a list": (V2, write("t/.zattrs", b"[]"), {("attributes", "t")}),
    "attributes that are a text": (V3, document(lambda d: d.update(attributes="text")), {("attributes", "t")}),
    "attributes with NaN": (V3, document(lambda d: d.update(attributes={"a": float("nan")})), {("attributes", "t")}),
    "no shape": (EVERY, document(lambda d: d.pop("shape")), {("metadata", "t")}),
    "a negative shape": (EVERY, document(lambda d: d.update(shape=[8, -12])), {("metadata", "t")}),
    "chunks of another number of dimensions": (V2, document(lambda d: d.update(chunks=[2])), {("metadata", "t")}),
    "an unknown chunk grid": (V3, document(lambda d: d.update(chunk_grid={"name": "wild"})), {("unknown-grid", "t")}),
    "inner chunks that do not divide": (
        SHARDED,
        document(lambda d: d["codecs"][0]["configuration"].update(chunk_shape=[3, 3])),
        {("metadata", "t")},
    ),
    "an unknown codec of v2": (V2, document(lambda d: d.update(compressor={"id": "wild"})), {("unknown-codec", "t")}),
    "an unknown codec of v3": (
        ("v3",),
        document(lambda d: d["codecs"].append({"name": "wild"})),
        {("unknown-codec", "t")},
    ),
    "a codec that runs code": (V2, document(lambda d: d.update(filters=[{"id": "pickle"}])), {("unsafe-codec", "t")}),
    "a codec with wrong options": (
        V2,
        document(lambda d: d.update(compressor={"id": "zstd", "wild": 1})),
        {("metadata", "t")},
    ),
    "an unknown type": (V3, document(lambda d: d.update(data_type="wild")), {("unknown-type", "t")}),
    "a fill value of another type": (V3, document(lambda d: d.update(fill_value=[1])), {("fill-value", "t")}),
    "a chunk of petabytes": (
        V2,
        document(lambda d: d.update(shape=[1 << 30, 1 << 30], chunks=[1 << 30, 1 << 30])),
        {("huge-chunk", "t"), ("stray-key", "t")},
    ),
    "other names of dimensions": (V3, document(lambda d: d.update(dimension_names=["y"])), {("dimension-names", "t")}),
    "a dimension of two sizes": (
        ("v3",),
        lambda f, k: (
            zarr.create_array(f, name="z", data=np.ones(5), dimension_names=("y",)),
            zarr.consolidate_metadata(f),
        ),
        {("dimension-size", "z")},
    ),
    "a stale copy": (EVERY, stale_copy, {("stale-consolidated", "")}),
    "a copy of a lost group": (EVERY, rename_group, {("stale-consolidated", "")}),
    "an array without a copy": (EVERY, new_array, {("stale-consolidated", "")}),
}
CASES = [(name, kind) for name, (kinds, _, _) in ATTACKS.items() for kind in kinds]


QUICK = {"undecodable-chunk", "shard-index"}  # kinds that only the full level finds


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> dict[str, Path]:
    return {kind: build(tmp_path_factory.mktemp(kind) / "a.zarr", kind) for kind in EVERY}


def test_undamaged_zarrs(templates):
    for folder in templates.values():
        assert check(folder).ok


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[f"{name} ({kind})" for name, kind in CASES])
def test_each_damage_is_found_and_nothing_else(name, kind, templates, tmp_path):
    folder = shutil.copytree(templates[kind], tmp_path / "a.zarr")
    _, change, expected = ATTACKS[name]
    change(folder, kind)
    report = check(folder)
    assert {(finding.code, finding.array) for finding in report.findings} == expected, str(report)
    for finding in report.findings:
        assert finding.what in str(report)
        assert (finding.array or finding.key or "") in finding.what or finding.array == ""
        assert finding.advice in str(report)

    quick = {(finding.code, finding.array) for finding in check(folder, quick=True).findings}
    assert quick == {one for one in expected if one[0] not in QUICK}


# The index of the sharding codec


def reindex(path: Path, change: Callable[[np.ndarray], object]) -> None:
    """Change an object's index, and write its right checksum."""
    data = path.read_bytes()
    pairs = np.frombuffer(data[-68:-4], "<u8").copy()
    change(pairs)
    index = pairs.tobytes()
    path.write_bytes(data[:-68] + index + google_crc32c.value(index).to_bytes(4, "little"))


def put(at: int, value: int):
    return lambda pairs: pairs.__setitem__(at, value)


def same_bytes(pairs: np.ndarray) -> None:
    pairs[2:4] = pairs[0:2]


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (put(0, 1 << 40), "shard-index", "outside of 0 to"),
        (put(1, 1 << 63), "shard-index", "outside of 0 to"),
        (same_bytes, "shard-index", r"gives the inner chunks \(0, 0\) and \(0, 1\) the same bytes"),
        (put(1, 0), "empty-chunk", "has no bytes"),
        (put(1, 5), "undecodable-chunk", r"inner chunk \(0, 0\) can't be decoded"),
    ],
)
def test_ranges_of_an_index(change, code, text, tmp_path):
    folder = build(tmp_path / "a.zarr", "sharded")
    reindex(folder / "t/c/0/0", change)
    report = check(folder)
    assert {finding.code for finding in report.findings} == {code}
    assert re.search(text, report.findings[0].what)
    assert report.findings[0].key == "t/c/0/0"


def test_large_objects_are_read_by_ranges(tmp_path):
    """An object whose decoded size exceeds the limit is read chunk by chunk."""
    folder = tmp_path / "a.zarr"
    shape = (1 << 14, 1 << 13)  # 512 MiB in one object, with two stored chunks
    array = zarr.create_array(folder, shape=shape, shards=shape, chunks=(64, 64), dtype="f4", fill_value=0)
    array[0, 0] = 1
    assert [(a.objects, a.chunks) for a in check(folder).arrays] == [(1, 1)]
    path = folder / "c/0/0"
    data = bytearray(path.read_bytes())
    data[:4] = b"ruin"
    path.write_bytes(data)
    (found,) = check(folder).findings
    assert (found.code, found.chunk) == ("undecodable-chunk", (0, 0))


# Zips


def zipped(
    folder: Path, change: Callable[[zipfile.ZipFile], object] = lambda file: None, compression=zipfile.ZIP_STORED
) -> Path:
    path = folder.with_suffix(".zarr.zip")
    with zipfile.ZipFile(path, "w", compression) as file:
        for found in sorted(folder.rglob("*")):
            if found.is_file():
                file.write(found, str(found.relative_to(folder)))
        change(file)
    return path


def test_zips_of_other_writers_are_right(tmp_path):
    assert check(zipped(build(tmp_path / "a.zarr", "v3"))).ok


def test_members_that_are_compressed(tmp_path):
    path = zipped(build(tmp_path / "a.zarr", "v3"), compression=zipfile.ZIP_DEFLATED)
    assert check(path).codes.keys() == {"zip-compressed"}


def test_members_of_one_name(tmp_path):
    path = zipped(
        build(tmp_path / "a.zarr", "v3"), lambda file: file.writestr("README", "") or file.writestr("README", "")
    )
    report = check(path, ignore=["stray-key"])
    assert [(f.code, f.count) for f in report.findings] == [("zip-duplicate", 1)]
    assert "'README'" in report.findings[0].what


def test_a_member_of_other_bytes(tmp_path):
    path = zipped(build(tmp_path / "a.zarr", "v3"))
    with zipfile.ZipFile(path) as file:
        at = file.getinfo("t/c/0/0").header_offset + 30 + len("t/c/0/0") + 3
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    (found,) = check(path).findings
    assert (found.code, found.key) == ("zip-member", "t/c/0/0")
    assert "CRC-32" in found.what
    assert check(path, quick=True).ok


@pytest.mark.parametrize("cut", [10, 200])
def test_a_zip_that_is_cut_short(cut, tmp_path):
    path = zipped(build(tmp_path / "a.zarr", "v3"))
    path.write_bytes(path.read_bytes()[:-cut])
    (found,) = check(path).findings
    assert found.code == "zip-directory"
    assert str(path) in found.what


def test_a_zip_of_a_result(tmp_path):
    source = to_folder(SOURCES["cube-v3/"].contents(), tmp_path / "source.zarr")
    result = ShardedStore.partition(source, SOURCES["cube-v3/"].shards).map_shards(ToZip(tmp_path / "out"))
    assert check(tmp_path / "out").ok
    path = next((tmp_path / "out/temperature").rglob("*.zip"))
    path.write_bytes(path.read_bytes()[:-10])
    for what in (result, tmp_path / "out"):
        (found,) = check(what).findings
        assert found.code == "zip-directory"
        assert str(path) in found.what


@pytest.mark.parametrize("level", ["quick", "full"])
@pytest.mark.parametrize("name", ["__base__.zarr.zip", "temperature/**/*.zip"])
def test_a_zip_of_a_result_that_is_lost(name, level, tmp_path):
    source = to_folder(SOURCES["cube-v3/"].contents(), tmp_path / "source.zarr")
    ShardedStore.partition(source, SOURCES["cube-v3/"].shards).map_shards(ToZip(tmp_path / "out"))
    lost = next((tmp_path / "out").glob(name))
    lost.unlink()
    report = check(tmp_path / "out", quick=level == "quick")
    assert [(found.code, found.what) for found in report.findings] == [("zip-directory", f"'{lost}' is not there")]


def test_a_result_whose_config_is_lost(tmp_path):
    source = to_folder(SOURCES["cube-v3/"].contents(), tmp_path / "source.zarr")
    ShardedStore.partition(source, SOURCES["cube-v3/"].shards).map_shards(ToZip(tmp_path / "out"))
    (tmp_path / "out/shardedstore.json").unlink()
    with pytest.raises(
        PartitionError, match=r"is the folder of a result, but has no shardedstore\.json: run the job again"
    ):
        check(tmp_path / "out")


@pytest.mark.parametrize("name", ["b.zarr", "b.zarr.zip", "b.ozx", "none/b.zarr"])
def test_a_path_that_does_not_exist_is_no_damage(name, tmp_path):
    build(tmp_path / "a.zarr", "v3")
    with pytest.raises(PartitionError, match=rf"{name}' does not exist") as raised:
        check(tmp_path / name)
    assert ("did you mean" in str(raised.value)) == name.startswith("b.zarr")


# Limits, levels and resuming


def test_missing_chunks_are_counted_up_to_a_limit(tmp_path):
    folder = build(tmp_path / "a.zarr", "v3")
    for key in ("t/c/0/0", "t/c/1/1"):
        (folder / key).unlink()
    report = check(folder)
    assert report.ok
    assert {array.path: (array.objects, array.missing) for array in report.arrays} == {"t": (10, 2), "g/u": (12, 0)}
    assert check(folder, quick=True, max_missing=2).ok
    assert check(folder, max_missing=0.5).ok
    for limit in (0, 1, 0.1):
        (found,) = check(folder, quick=True, max_missing=limit).findings
        assert (found.code, found.array, found.count) == ("missing-chunks", "t", 2)


def test_many_findings_are_counted(tmp_path):
    folder = build(tmp_path / "a.zarr", "v3")
    for number in range(100):
        (folder / "t" / f"stray-{number}").touch()
    report = check(folder)
    assert report.codes == {"stray-key": 100}
    assert len(report.findings) == 17
    assert "84 more in 't'" in str(report)


def test_a_folder_without_a_zarr(tmp_path):
    (tmp_path / "README").touch()
    with pytest.raises(PartitionError, match="holds no Zarr"):
        check(tmp_path)
    assert CliRunner().invoke(cli.main, ["check", str(tmp_path)]).exit_code == 2


def test_wrong_options(tmp_path):
    with pytest.raises(UsageError, match="ignore names 'wild', which is no kind of damage"):
        check(tmp_path, ignore=["wild"])
    with pytest.raises(UsageError, match="max_chunk='wild' is not a size"):
        check(tmp_path, max_chunk="wild")


@pytest.mark.parametrize("text", ["wild", "-1", "100%"])
def test_wrong_limits(text, tmp_path):
    run = CliRunner().invoke(cli.main, ["check", str(tmp_path), "--max-missing", text])
    assert run.exit_code == 2
    assert "--max-missing" in run.output


class Counting(SerialExecutor):
    """Counts the tasks, and is interrupted after some of them."""

    def __init__(self, most: int = 1000) -> None:
        self.most, self.count = most, 0

    def map_unordered(self, *args, **options):
        for found in super().map_unordered(*args, **options):
            yield found
            self.count += 1
            if self.count == self.most:
                raise KeyboardInterrupt


def test_an_interrupted_check_resumes(tmp_path):
    folder, kept = build(tmp_path / "a.zarr", "v3"), tmp_path / "kept"
    for number in range(3):
        zarr.create_array(folder, name=f"a{number}", data=np.ones(3))
    with use_executor(Counting(2)), pytest.raises(KeyboardInterrupt):
        check(folder, resume=kept, ignore="stale-consolidated")
    (folder / "a0/c/0").write_bytes(b"damage")  # a change of a part that was checked before
    with use_executor(again := Counting()):
        report = check(folder, resume=kept, ignore="stale-consolidated")
    assert again.count == 4
    assert report.codes == {"undecodable-chunk": 1}
    assert {array.path: array.chunks for array in report.arrays} == {"t": 12, "g/u": 12, "a0": 1, "a1": 1, "a2": 1}
    assert any("2 tasks were done by an interrupted call" in note for note in report.notes), report.notes


# The command


def test_the_command(tmp_path):
    folder = build(tmp_path / "a.zarr", "v3")
    run = CliRunner().invoke(cli.main, ["check", str(folder), "--quick"])
    assert (run.exit_code, run.output) == (0, f"ok: {folder}: 2 arrays, 2 groups, documents and listing\n")
    (folder / "README").touch()
    page = tmp_path / "report.html"
    run = CliRunner().invoke(cli.main, ["check", str(folder), "--quick", "--json", "--html", str(page)])
    assert run.exit_code == 1
    assert json.loads(run.output)["codes"] == {"stray-key": 1}
    assert run.output.count("\n") == 1
    assert "&#x27;README&#x27; belongs to no array" in page.read_text()
    run = CliRunner().invoke(cli.main, ["check", str(folder), "--quick", "--ignore", "stray-key"])
    assert run.exit_code == 0


def test_stores_of_zarr(tmp_path):
    folder = build(tmp_path / "a.zarr", "v3")
    store = zarr.storage.MemoryStore()
    zarr.create_array(store, name="t", data=np.arange(4), chunks=(2,))
    assert check(store).ok
    assert check(ZipStore(zipped(folder))).ok
