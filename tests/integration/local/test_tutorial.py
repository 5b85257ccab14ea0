"""Run the code blocks of the tutorial and of the pages for users, in order, and compare their outputs."""

import contextlib
import doctest
import io
import os
import re
import shlex
import sys

import dask
import pytest
from click.testing import CliRunner
from distributed import LocalCluster
from paths import ROOT

from shardedstore.cli import main

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

pytestmark = pytest.mark.slow


def run_python(code: str, names: dict[str, object]) -> str:
    """Run a block, and return its output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, code, "exec"), names)
    return printed.getvalue()


def run_commands(code: str) -> str:
    """Run the lines of a block that call shardedstore, and return the output of the last one."""
    output = ""
    for line in code.splitlines():
        program, *arguments = shlex.split(line.replace(" --workers 2", ""), comments=True) or [""]
        if program == "shardedstore":
            ended = CliRunner().invoke(main, arguments)
            assert ended.exit_code == 0, (line, ended.output, ended.exception)
            output = ended.stdout
    return output


def run_page(name: str, names: dict[str, object]) -> None:
    """Run the blocks of a page in the current folder: each block of text is the output of the block above it."""
    output = ""
    for language, code in BLOCK.findall((ROOT / "docs" / name).read_text("utf-8")):
        if language == "text":
            assert doctest.OutputChecker().check_output(code, output, FLAGS), f"{name} shows\n{code}\nand not\n{output}"
        elif language == "python" and code.startswith("# ") and (file := re.match(r"# (\w+\.py)\n", code)):
            with open(file[1], "w") as module:
                module.write(code)
        elif language == "python":
            output = run_python(code, names)
        elif language == "sh":
            output = run_commands(code)


@pytest.fixture(scope="module")
def schedulers():
    """Blocks of Python run their tasks in one thread, and commands on a cluster in this process."""
    with (
        LocalCluster(1, processes=False, threads_per_worker=2, dashboard_address=None) as cluster,
        dask.config.set({"scheduler": "synchronous", "scheduler-address": cluster.scheduler_address}),
    ):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, schedulers):
    """The folder in which the tutorial has run; later pages use its files."""
    folder = tmp_path_factory.mktemp("tutorial")
    with contextlib.chdir(folder):
        run_page("tutorial.md", {"__name__": "tutorial"})
    return folder


def test_tutorial(folder) -> None:
    assert {"weather-zips", "weather-small", "weather.zarr.zip", "weather-again.zarr"} <= set(os.listdir(folder))
    assert len(list((folder / "weather-zips").rglob("*.zip"))) == 9


@pytest.mark.parametrize("name", ["for-scientists.md", "operate.md", "extend.md"])
def test_pages_for_users(folder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    run_page(name, {"__name__": "page"})
    for file in folder.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_pages_name_every_command() -> None:
    pages = "\n".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert [name for name in main.commands if f"shardedstore {name}" not in pages] == []
