"""Tables in terminals, and aligned lines elsewhere."""

import io

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from rich.console import Console

from shardedstore import ShardedStore
from shardedstore.cli import main
from shardedstore.display.info import info_table
from shardedstore.display.tables import MOST_ROWS, aligned, terminal_table
from shardedstore.transforms import ToZip


def lines_of(shown, width):
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=True)
    console.print(shown)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def store(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, count in (("ten", 10), ("group/many", 2_000)):
        array = group.create_array(name, shape=(count, 2), chunks=(1, 2), dtype="f4")
        array[:] = np.ones((count, 2), "f4")
    return ShardedStore.partition(tmp_path / "a.zarr", {"**": (1, -1)})


@pytest.mark.parametrize("width", [80, 200])
def test_a_plan_is_a_table_in_a_terminal(store, tmp_path, width):
    told = lines_of(store.plan(ToZip(tmp_path / "out")), width)
    assert told[0].startswith("JobPlan of ToZip to")
    assert max(map(len, told)) <= width
    cells = " ".join(word for line in told for word in line.split())
    assert "reads at most 2,014 files; writes 2,011 files; 15.70 kiB decoded" in cells
    assert "<=2,000 -> 2,000 shards 15.62 kiB decoded" in cells or width == 80
    assert cells.index("/group/many") < cells.index("/ten")


def test_groups_and_arrays_are_a_tree_in_a_terminal(store):
    told = lines_of(info_table(store.info()), 100)
    (many,) = (line for line in told if "many" in line)
    assert many.startswith("   many  ")
    assert many.split() == ["many", "float32", "2,000", "x", "2", "15.62", "kiB", "2,000", "views"]
    below = told[told.index(many) + 1]
    assert below.split() == ["zstd(0)", "1", "x", "2", "<=", "2,000", "each", "1", "x", "2"]


def test_long_names_are_folded_and_numbers_are_not():
    told = lines_of(terminal_table(("path", ">files"), [("/" + "x" * 200, "1,234,567")], 1), 60)
    assert max(map(len, told)) <= 60
    assert sum("1,234,567" in line for line in told) == 1
    assert sum(line.count("x") for line in told) == 200


def test_many_rows_are_cut():
    rows = ((f"/a{i}", f"{i:,}") for i in range(10_000))
    told = lines_of(terminal_table(("path", ">files"), rows, 10_000), 80)
    assert len(told) < MOST_ROWS + 6
    assert "... and 9,800 more" in "\n".join(told)


def test_names_are_not_markup():
    assert aligned([("[red]a", ":smile:")]) == ["[red]a  :smile:"]


def test_a_pipe_gets_plain_lines(store, tmp_path):
    store.save(tmp_path / "a.json")
    told = CliRunner().invoke(main, ["info", str(tmp_path / "a.json")]).stdout.splitlines()
    assert "  /ten  array (10, 2), chunks (1, 2), 80 B, 10 views; float32, zstd(0), at most 10 chunks" in told
