"""Run the code blocks of the README and of the pages in docs/ in this process."""

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import dask
from click.testing import CliRunner
from distributed import LocalCluster
from paths import ROOT

from shardedstore.cli import main

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(language: str, text: str) -> list[str]:
    """Return the code blocks of one language in a text."""
    return [code for name, code in BLOCK.findall(text) if name == language]


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    """Run the tasks of Python blocks in one thread, and those of commands on a cluster in this process."""
    with (
        LocalCluster(1, processes=False, threads_per_worker=2, dashboard_address=None) as cluster,
        dask.config.set({"scheduler": "synchronous", "scheduler-address": cluster.scheduler_address}),
    ):
        yield


def run_python(code: str, names: dict[str, object]) -> str:
    """Run a block, and return its output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, code, "exec"), names)
    return printed.getvalue()


def run_commands(code: str) -> list[str]:
    """Run the lines of a block that call shardedstore, and return their outputs."""
    outputs = []
    for line in code.splitlines():
        program, *arguments = shlex.split(re.sub(r" --workers \d+", "", line), comments=True) or [""]
        if program == "shardedstore":
            ended = CliRunner().invoke(main, arguments)
            assert ended.exit_code == 0, (line, ended.output, ended.exception)
            outputs.append(ended.stdout)
    return outputs


def run_page(name: str, names: dict[str, object]) -> None:
    """Run the blocks of a page in the current folder: each block of text is the output of the block above it."""
    output = ""
    for language, code in BLOCK.findall((ROOT / "docs" / name).read_text("utf-8")):
        module = re.match(r"# (\w+\.py)\n", code)
        if language == "text":
            assert doctest.OutputChecker().check_output(code, output, FLAGS), f"{name} shows\n{code}\nand not\n{output}"
        elif language == "python" and module:
            Path(module[1]).write_text(code)
        elif language == "python":
            output = run_python(code, names)
        elif language == "sh":
            output = "".join(run_commands(code)[-1:])
