"""The modules import one another in one direction only, by the ranks of this table."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "shardedstore"

# A module imports modules of a lower rank, or of its own rank where that makes no cycle.
RANKS = {
    "errors": 0,
    "entrypoints": 1,
    "fields": 0,
    "ownkinds": 2,
    "crc": 1,
    "access": 1,
    "blobs": 2,
    "buffers": 1,
    "grid": 1,
    "metadata": 1,
    "mounts": 1,
    "named": 2,
    "progress": 1,
    "patterns": 2,
    "automatic": 2,
    "blockshape": 2,
    "publish": 1,
    "remote_errors": 1,
    "readonly": 1,
    "unlisted": 2,
    "urls": 1,
    "views": 2,
    "parts": 2,
    "zipindex": 2,
    "zips": 2,
    "zipwriter": 2,
    "localbulk": 3,
    "limiter": 1,
    "stopping": 1,
    "attendance": 1,
    "wanted": 7,
    "inflight": 1,
    "bulk": 3,
    "folders": 3,
    "outputs": 3,
    "groups": 2,
    "members": 2,
    "bundle": 3,
    "collect": 8,
    "gather": 5,
    "squeezed": 3,
    "kinds": 2,
    "routes": 3,
    "grown": 3,
    "components": 3,
    "routing": 3,
    "foreign": 3,
    "locations": 4,
    "opening": 4,
    "arrayshards": 5,
    "blockdocuments": 5,
    "divided": 6,
    "spread": 7,
    "following": 7,
    "writing": 7,
    "compacted": 3,
    "configcheck": 3,
    "config": 4,
    "schema": 5,
    "planned": 6,
    "mixing": 7,
    "partial": 7,
    "prune": 8,
    "filelist": 4,
    "entries": 4,
    "listing": 4,
    "succession": 6,
    "sources": 6,
    "takeover": 6,
    "present": 4,
    "witness": 6,
    "hierarchy": 4,
    "legacydocument": 3,
    "legacyplaces": 4,
    "legacykeys": 5,
    "legacy": 6,
    "objects": 5,
    "chain": 5,
    "parallel": 1,
    "shardindex": 1,
    "shardwriter": 2,
    "codecs": 1,
    "coders": 2,
    "filters": 2,
    "arraydoc": 2,
    "arrayinfo": 3,
    "arraycodecs": 3,
    "selection": 3,
    "reencode": 4,
    "v3codecs": 4,
    "v3doc": 4,
    "recode": 5,
    "recodecheck": 5,
    "datadigest": 2,
    "datasums": 6,
    "differences": 2,
    "verifycompare": 7,
    "verifydata": 7,
    "verifyexists": 7,
    "verifyjournal": 7,
    "verifyledger": 7,
    "verifystored": 7,
    "verify": 8,
    "arraystep": 6,
    "arrayfunction": 6,
    "blockarray": 6,
    "regrid": 2,
    "fingerprint": 6,
    "zipshard": 6,
    "ledger": 6,
    "generations": 6,
    "outcome": 6,
    "transient": 2,
    "unfinished": 1,
    "lending": 7,
    "window": 7,
    "result": 7,
    "destination": 6,
    "onezarr": 6,
    "packing": 3,
    "packer": 6,
    "preflight": 6,
    "lock": 6,
    "plugin": 6,
    "plan": 6,
    "names": 6,
    "task": 6,
    "graph": 7,
    "job": 7,
    "text": 7,
    "near": 1,
    "shards": 7,
    "storedshard": 7,
    "describe": 7,
    "html": 7,
    "xarrayengine": 9,
    "choose": 8,
    "partition": 8,
    "registry": 8,
    "store": 8,
    "arguments": 9,
    "running": 9,
    "cli": 9,
    "clicommon": 9,
    "cliconvert": 9,
    "cliinfo": 9,
    "cliprune": 9,
    "cliverify": 9,
    "__main__": 10,
    "__init__": 10,
}
TRANSFORMS_IMPORT_UP_TO = RANKS["task"]
MAY_IMPORT_TRANSFORMS = {"__init__", "cli", "registry"}
MAY_IMPORT_DASK = {"graph", "window", "running", "plugin", "wanted", "attendance"}


def module_name(path: Path) -> str:
    """The name of a module inside the package: ``grid``, ``transforms.to_zip``; ``__init__`` is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


# The link is named beside the package, since rglob does not follow it.
FILES = {module_name(path): path for top in (PACKAGE, PACKAGE / "transforms") for path in top.rglob("*.py")}
ENGINE = sorted(name for name in FILES if not name.startswith("transforms"))
TRANSFORMS = sorted(name for name in FILES if name.startswith("transforms"))


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below `node`, function bodies too, without what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield other
                yield from statements(other)
        else:
            yield child
            yield from statements(child)


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[str, int]]:
    """The absolute dotted names that the source of `module` imports, each with its line."""
    above = ["shardedstore", *([] if module == "__init__" else module.split("."))]
    package = above if is_package else above[:-1]
    for node in statements(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield alias.name, node.lineno
            case ast.ImportFrom(module=origin, names=names, level=level):
                parents = package[: len(package) - level + 1] if level else []
                for alias in names:
                    yield ".".join([*parents, *([origin] if origin else []), alias.name]), node.lineno
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if ast.unparse(func) in {
                "__import__",
                "import_module",
                "importlib.import_module",
            }:
                yield name, node.lineno


def own(dotted: str) -> str | None:
    """Which of our modules a dotted name stands for: ``shardedstore.grid.Block`` is ``grid``; None for another's.

    What is no module is a name in the package itself, ``__init__``, which stands above all others.
    """
    top, *rest = dotted.split(".")
    if top != "shardedstore":
        return None
    for end in range(len(rest), 0, -1):
        if (name := ".".join(rest[:end])) in FILES:
            return name
    return "__init__"


def imports(module: str) -> list[tuple[str, int]]:
    path = FILES[module]
    return list(imported(path.read_text("utf-8"), module, is_package=path.name == "__init__.py"))


def own_imports(module: str) -> list[tuple[str, int]]:
    found = ((own(dotted), line) for dotted, line in imports(module))
    return [(name, line) for name, line in found if name is not None]


@pytest.mark.parametrize("module", ENGINE)
def test_module_has_a_rank(module: str) -> None:
    assert module in RANKS, f"{FILES[module]} is new: add {module!r} to RANKS in {__file__}, above all that it imports"


@pytest.mark.parametrize("module", sorted(RANKS.keys() & set(ENGINE)))
def test_engine_imports_downwards(module: str) -> None:
    for name, line in own_imports(module):
        where = f"{FILES[module]}:{line} imports {name!r}"
        assert name != module, f"{where}: itself"
        if name.startswith("transforms"):
            assert module in MAY_IMPORT_TRANSFORMS, f"{where}: the engine does not know its transforms"
        elif name in RANKS:  # one without a rank fails in test_module_has_a_rank
            assert RANKS[name] <= RANKS[module], f"{where}, which is above it"


@pytest.mark.parametrize("module", TRANSFORMS)
def test_transforms_import_the_lower_rooms(module: str) -> None:
    for name, line in own_imports(module):
        if name in RANKS:
            where = f"{FILES[module]}:{line} imports {name!r}"
            assert RANKS[name] <= TRANSFORMS_IMPORT_UP_TO, f"{where}, which is above the transforms"


@pytest.mark.parametrize("module", sorted(set(FILES) - MAY_IMPORT_DASK))
def test_dask_stays_in_its_room(module: str) -> None:
    for name, line in imports(module):
        assert name.split(".")[0] not in {"dask", "distributed"}, (
            f"{FILES[module]}:{line} imports {name}: only {sorted(MAY_IMPORT_DASK)} may"
        )


def test_no_cycles() -> None:
    graph = {module: {name for name, _ in own_imports(module)} for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("a cycle of imports: " + " -> ".join(reversed(error.args[1])))


def test_imports_are_found_in_every_form() -> None:
    source = """
import zarr.abc.store as abc
from typing import TYPE_CHECKING
from . import grid
from .errors import ShardError
from ..views import View
if TYPE_CHECKING:
    from shardedstore.store import ShardedStore
else:
    import dask
def later():
    from shardedstore import cli
    import_module("distributed")
"""
    assert [name for name, _ in imported(source, "transforms.to_zip")] == [
        "zarr.abc.store",
        "typing.TYPE_CHECKING",
        "shardedstore.transforms.grid",
        "shardedstore.transforms.errors.ShardError",
        "shardedstore.views.View",
        "dask",
        "shardedstore.cli",
        "distributed",
    ]
    assert [name for name, _ in imported("from .grid import Block", "__init__", is_package=True)] == [
        "shardedstore.grid.Block"
    ]


def test_names_are_traced_to_modules() -> None:
    assert own("shardedstore.errors.ShardedStoreError") == "errors"
    assert own("shardedstore.transforms") == "transforms"
    assert own("shardedstore.ShardedStore") == "__init__"
    assert own("zarr.errors") is None


def test_the_transforms_are_seen() -> None:
    assert "transforms" in TRANSFORMS
