"""Run the notebooks of this folder from the start, and keep their outputs.

Run it with ``make notebooks``, or by hand after ``pip install '.[test]'``::

    python examples/notebooks/run.py [climate_archive.ipynb ...]
"""

import functools
import os
import platform
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
ROOT = HERE.parents[1]  # the package, if it is not installed
SHORT = "/tmp"  # views cut long paths
SECONDS = 120  # for one cell
MOST_BYTES = 300_000  # of one notebook


def main() -> None:
    """Run the named notebooks, or all of them."""
    paths = [Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb"))
    for path in paths:
        with tempfile.TemporaryDirectory(dir=SHORT) as folder:
            notebook = run(path, Path(folder))
        text = nbformat.writes(notebook) + "\n"
        if len(text) > MOST_BYTES:
            sys.exit(f"{path} has {len(text):,} bytes, and at most {MOST_BYTES:,} are allowed: show less")
        path.write_text(text)
        print(f"{path}: {len(text):,} bytes")


def run(path: Path, folder: Path) -> NotebookNode:
    """Run a notebook in an empty folder, and return it with outputs that name nothing of this machine."""
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=SECONDS, coalesce_streams=True, resources=resources)
    client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    patterns = replacements(folder)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        replace(output, patterns)
    return notebook


def replace(output: NotebookNode, patterns: list[tuple[str, str]]) -> None:
    """Replace patterns in all texts of an output, and leave its pictures alone."""
    for part in (output, output.get("data", {})):
        for key, text in part.items():
            if isinstance(text, str) and not key.startswith("image/"):
                part[key] = replaced(text, patterns)
            elif key == "traceback":
                part[key] = [replaced(line, patterns) for line in text]


def replaced(text: str, patterns: list[tuple[str, str]]) -> str:
    """Return a text with all patterns replaced."""
    return functools.reduce(lambda text, pattern: re.sub(*pattern, text), patterns, text)


def replacements(folder: Path) -> list[tuple[str, str]]:
    """Return patterns of names of this machine, and what stands for them."""
    paths = sorted({str(folder), str(folder.resolve())}, key=len, reverse=True)
    return [
        *((re.escape(path), "/data") for path in paths),
        (rf"\b{re.escape(platform.node())}:\d+\b", "workstation:1234"),  # a worker in this process
        (rf"\b{re.escape(platform.node())}\b", "workstation"),
        (r"[\w./-]*/ipykernel_\d+/\d+\.py", "cell.py"),
        (r"\.\.\.[\w/]*/", ".../"),  # a path that a view has cut
        (r"tcp://127\.0\.0\.1:\d+", "tcp://127.0.0.1:40000"),
        (r"<Figure size [^>]*>", "<Figure>"),
    ]


if __name__ == "__main__":
    main()
