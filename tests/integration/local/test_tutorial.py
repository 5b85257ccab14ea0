"""Run the code blocks of the tutorial and of the pages for users, in order, and compare their outputs."""

import contextlib
import os
import sys

import pytest
from documents import one_process, run_page
from paths import ROOT

from shardedstore.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """The folder in which the tutorial has run; later pages use its files."""
    folder = tmp_path_factory.mktemp("tutorial")
    with one_process():
        with contextlib.chdir(folder):
            run_page("tutorial.md", {"__name__": "tutorial"})
        yield folder


def test_tutorial(folder) -> None:
    assert {"weather-zips", "weather-small", "weather.zarr.zip", "weather-again.zarr"} <= set(os.listdir(folder))
    assert len(list((folder / "weather-zips").rglob("*.zip"))) == 9


@pytest.mark.parametrize("name", ["for-scientists.md", "recipes.md", "operate.md", "extend.md"])
def test_pages_for_users(folder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    run_page(name, {"__name__": "page"})
    for file in folder.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_pages_name_every_command() -> None:
    pages = "\n".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert [name for name in main.commands if f"shardedstore {name}" not in pages] == []
