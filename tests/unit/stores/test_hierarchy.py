"""Hidden groups and arrays, which no listing of groups finds: all parts of a job handle the same ones.

They are below groups without a document, inside arrays, or in another format than their parent, or only consolidated metadata
names them.
"""

import itertools
import json
import re
import shutil
import warnings

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from sources import to_memory, to_zip

from shardedstore import PartitionError, ShardedStore, ShardsFailed
from shardedstore.cli.main import main
from shardedstore.stores import hierarchy
from shardedstore.stores.hierarchy import walk
from shardedstore.transforms import CopyTo, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip

DOCUMENTS = {2: (".zgroup", ".zarray", ".zattrs", ".zmetadata"), 3: ("zarr.json",)}
DATA = np.arange(24, dtype="i4").reshape(6, 4)


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def add(root, path, zarr_format):
    """Write an array of a format at a path, without groups above it."""
    zarr.create_array(root / "new", data=DATA, chunks=(2, 4), zarr_format=zarr_format)
    shutil.copytree(root / "new", root / path, dirs_exist_ok=True)
    shutil.rmtree(root / "new")


def hidden(folder, kind, zarr_format):
    """Write a Zarr with a hidden array at A/a, and a visible one at b."""
    root = folder / "source.zarr"
    group = zarr.create_group(root, zarr_format=zarr_format)
    group.create_array("b", data=DATA, chunks=(2, 4))
    inner = zarr_format if kind != "mixed" else 5 - zarr_format
    if kind == "inside":
        add(root, "A", zarr_format)
    elif kind == "named":
        group.create_group("A")
    add(root, "A/a", inner)
    if kind == "named":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(root)
        for name in DOCUMENTS[zarr_format]:
            (root / "A" / name).unlink(missing_ok=True)
    return root


KINDS = ["implicit", "inside", "mixed", "named"]
cases = pytest.mark.parametrize(("kind", "zarr_format"), [*itertools.product(KINDS, (2, 3))])


def opened(kind, root, folder):
    if kind == "folder":
        return root
    contents = {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}
    return to_zip(contents, folder / "source.zip") if kind == "zip" else to_memory(contents)


def values(store, path="A/a"):
    return zarr.open_array(store, path=path, mode="r")[:]


@cases
@pytest.mark.parametrize("store", ["folder", "zip"])
def test_they_are_walked_divided_and_left_out(kind, zarr_format, store, tmp_path):
    source = opened(store, hidden(tmp_path, kind, zarr_format), tmp_path)
    view = ShardedStore.partition(source, {"A/a": (2, -1)})
    assert view.config.shards["A/a"].blocks.count == 3
    assert ShardedStore.partition(source, ["A"]).config.shards.keys() == {"A"}
    without = ShardedStore.partition(source, exclude="A/**")
    assert not [key for key in map(str, without.config.base.without) if not key.startswith("A/")]
    result = without.map_shards(ToZip(tmp_path / "out"))
    with pytest.raises(zarr.errors.ArrayNotFoundError):
        values(result)
    np.testing.assert_array_equal(values(result, "b"), DATA)


@pytest.mark.few(4)
@cases
@pytest.mark.parametrize("shards", [[], ["A"], {"A/a": (2, -1)}, {"A": 1}], ids=str)
def test_steps_change_them_and_results_are_proven(kind, zarr_format, shards, tmp_path):
    source = hidden(tmp_path, kind, zarr_format)
    view = ShardedStore.partition(source, shards)
    result = view.map_shards(Recompress("zstd", level=9), ToZip(tmp_path / "out"))
    np.testing.assert_array_equal(values(result), DATA)
    assert re.search(r"level\W+9", str(zarr.open_array(result, path="A/a", mode="r").compressors))
    assert ShardedStore.load(tmp_path / "out").verify(source).ok
    assert ShardedStore.load(tmp_path / "out").verify().ok
    doubled = view.map_shards(
        MapChunks(lambda chunk, position: chunk * 2, arrays="A/*", name="x2"), CopyTo(tmp_path / "2")
    )
    np.testing.assert_array_equal(values(doubled), DATA * 2)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "2", mode="r")["b"][:], DATA)


@pytest.mark.parametrize("kind", ["implicit", "inside", "named"])
def test_they_are_packed_and_migrated(kind, tmp_path):
    source = hidden(tmp_path, kind, 2)
    ShardedStore.partition(source, {"A/a": (4, -1)}).map_shards(MigrateV3(), ToShardingCodec(tmp_path / "packed"))
    packed = zarr.open_array(tmp_path / "packed", path="A/a", mode="r")
    assert packed.shards == (4, 4)
    np.testing.assert_array_equal(packed[:], DATA)
    assert sorted(p.name for p in (tmp_path / "packed").rglob(".z*")) == []


def test_info_counts_them(tmp_path):
    done = CliRunner().invoke(main, ["info", str(hidden(tmp_path, "implicit", 3))])
    assert "/A  group, v3, without a document" in done.output
    assert "/A/a  array (6, 4)" in done.output
    assert "192 B decoded" in done.output


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_of_the_result_opens(zarr_format, tmp_path):
    """Readers refuse consolidated metadata that names a node without its parent groups."""
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        view = ShardedStore.partition(hidden(tmp_path / kind, kind, zarr_format))
        view.map_shards(CopyTo(tmp_path / kind / "out"), consolidated=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = zarr.open_group(tmp_path / kind / "out", mode="r", use_consolidated=True)
        np.testing.assert_array_equal(group["b"][:], DATA)
        assert ("A/a" in group) is (kind == "named")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_names_without_documents_are_carried_and_told(zarr_format, tmp_path):
    source = hidden(tmp_path, "named", zarr_format)
    for name in DOCUMENTS[zarr_format]:
        (source / "A/a" / name).unlink(missing_ok=True)
    view = ShardedStore.partition(source)
    result = view.map_shards(Recompress("zstd"), ToZip(tmp_path / "out"))
    assert "consolidated metadata names nodes that have no document of their own" in str(result.summary.notices[-1])
    assert result.summary.notices[-1].arrays == ("A", "A/a")
    np.testing.assert_array_equal(zarr.open_group(result, mode="r", use_consolidated=True)["A/a"][:], DATA)
    with pytest.raises(PartitionError, match=r"'A/a' .*is only named by consolidated metadata"):
        ShardedStore.partition(source, ["A/a"])


def test_names_that_are_no_paths_are_passed_over(tmp_path):
    root = tmp_path / "in/source.zarr"
    zarr.create_group(root, zarr_format=2).create_array("b", data=DATA)
    zarr.create_array(tmp_path / "in/outside", data=DATA, zarr_format=2)
    names = ("../outside/.zarray", "/.zarray", "a//.zarray", "./b/.zarray", "b/../../outside/.zarray", "", "\0/.zarray")
    (root / ".zmetadata").write_text(json.dumps({"metadata": {name: {} for name in names}}))
    assert [*ShardedStore.partition(root, ["b"]).config.shards] == ["b"]
    assert [*walk(to_memory({".zgroup": b'{"zarr_format": 2}', ".zmetadata": (root / ".zmetadata").read_bytes()}))] == [
        ""
    ]


def test_folders_that_are_no_groups_are_looked_into_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(hierarchy, "MOST_FOLDERS", 3)
    root = tmp_path / "source.zarr"
    zarr.create_group(root).create_array("b", data=DATA)
    for i in range(5):
        (root / f"images/{i}").mkdir(parents=True)
    (root / "images/0/x.png").write_bytes(b"x")
    view = ShardedStore.partition(root)
    result = view.map_shards(ToZip(tmp_path / "out"))
    (notice,) = result.summary.notices
    assert "3 of them were not looked into" in str(notice)
    assert notice.arrays == ("",)


def test_an_array_inside_another_is_not_changed_unseen(tmp_path):
    """Its name is that of a chunk folder, which is not listed: copies are right, and steps refuse it."""
    source = hidden(tmp_path, "inside", 2)
    (source / "A/a").rename(source / "A/0")
    view = ShardedStore.partition(source)
    result = view.map_shards(ToZip(tmp_path / "out"))
    np.testing.assert_array_equal(values(result, "A/0"), DATA)
    assert result.verify(source).ok
    with pytest.raises(ShardsFailed) as failed:
        view.map_shards(Recompress("zstd"), ToZip(tmp_path / "changed"))
    assert "'A/0' lies inside the array 'A'" in str(failed.value)
