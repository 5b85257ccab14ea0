"""Tests use public names only, so that the internals of modules can change."""

import ast
import re
from collections.abc import Iterator

import pytest
from paths import ROOT, TESTS

# Private names that are the public interface of another package.
ALLOWED = {
    "_asdict",  # namedtuple
    "_data",  # xarray: the lazy array of a variable
    "_exit",  # os
    "_render_traceback_",  # IPython
    "_replace",  # namedtuple
    "_repr_html_",  # IPython
    "_store_dict",  # the contents of zarr's MemoryStore, which has no other access without a coroutine
}
PATCHES = {"setattr", "delattr", "getattr", "patch", "object"}


def private(text: str) -> str | None:
    """Return the last part of a dotted name if it is private."""
    name = text.rpartition(".")[2]
    return name if re.fullmatch(r"_[A-Za-z]\w*", name) and name not in ALLOWED else None


def found(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each private name that belongs to another object or module."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name("self" | "cls") | ast.Call(func=ast.Name("super"))):
                continue
            case ast.Attribute(attr=name):
                names = [name]
            case ast.ImportFrom(module=str(module), names=aliases) if module.startswith("shardedstore"):
                names = [alias.name for alias in aliases]
            case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name), args=arguments) if name in PATCHES:
                names = [text.value for text in arguments if isinstance(text, ast.Constant) and type(text.value) is str]
            case _:
                continue
        yield from ((node.lineno, name) for name in names if private(name))


def test_no_test_uses_a_private_name() -> None:
    files = (path for path in sorted(TESTS.rglob("*.py")) if TESTS / "data" not in path.parents)
    told = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in files
        for line, name in found(ast.parse(path.read_text("utf-8")))
    ]
    assert not told, "inject clocks, sizes and stores, or test what the public names do: " + ", ".join(told)


@pytest.mark.parametrize(
    "code",
    [
        "store._components",
        "from shardedstore.jobs.lock import _write",
        'monkeypatch.setattr(lock, "_write", None)',
        'monkeypatch.setattr("shardedstore.jobs.lock._write", None)',
        'with patch.object(lock, "_write"): pass',
    ],
)
def test_private_names_are_found(code: str) -> None:
    assert list(found(ast.parse(code)))


def test_other_names_are_not() -> None:
    code = 'self._own\nstore._repr_html_()\nmonkeypatch.setattr(lock, "LIFE", 1)\nstore.__init__()'
    assert not list(found(ast.parse(code)))
