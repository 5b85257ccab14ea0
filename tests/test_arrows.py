"""The rooms import one another in one direction only: each from those below it."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "shardedstore"

# The rooms, packages and modules of the package, from the ground up: a room imports from the lines above its own.
STORIES = (
    {"errors", "fields", "notices", "parallel", "readonly", "stopping"},
    {"callbacks", "entrypoints", "grid", "mounts", "storage"},
    {"metadata", "zips"},
    {"attributes", "codecs", "components"},
    {"config"},
    {"reading"},
    {"chain", "dividing", "legacy", "ome", "readers"},
    {"steps", "writing"},
    {"tasks"},
    {"showing", "sinks"},
    {"jobs"},
    {"cluster"},
    {"jobplan", "verifying"},
    {"store"},
    {"__init__", "abc", "cli", "xarrayengine"},
    {"__main__"},
)
RANKS = {room: rank for rank, rooms in enumerate(STORIES) for room in rooms}
TRANSFORMS_IMPORT_UP_TO = RANKS["sinks"]
MAY_IMPORT_TRANSFORMS = {"__init__", "cli"}
MAY_IMPORT_DASK = "cluster"


def module_name(path: Path) -> str:
    """The name of a module inside the package: ``grid``, ``transforms.to_zip``; ``__init__`` is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


# The link is named beside the package, since rglob does not follow it.
FILES = {module_name(path): path for top in (PACKAGE, PACKAGE / "transforms") for path in top.rglob("*.py")}
ENGINE = sorted(name for name in FILES if not name.startswith("transforms"))
TRANSFORMS = sorted(name for name in FILES if name.startswith("transforms"))


def room(module: str) -> str:
    """The package or module right below ours that a module stands in: ``zips`` for ``zips.index``."""
    return module.partition(".")[0]


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


@pytest.mark.parametrize("room", sorted({room(module) for module in ENGINE}))
def test_room_has_a_story(room: str) -> None:
    assert room in RANKS, f"{room!r} is new: add it to STORIES in {__file__}, below all that import it"


@pytest.mark.parametrize("module", ENGINE)
def test_engine_imports_downwards(module: str) -> None:
    for name, line in own_imports(module):
        where = f"{FILES[module]}:{line} imports {name!r}"
        assert name != module, f"{where}: itself"
        if room(name) == "transforms":
            assert room(module) in MAY_IMPORT_TRANSFORMS, f"{where}: the engine does not know its transforms"
        elif room(name) != room(module):
            assert RANKS[room(name)] < RANKS[room(module)], f"{where}, which is not below it"


@pytest.mark.parametrize("module", TRANSFORMS)
def test_transforms_import_the_lower_rooms(module: str) -> None:
    for name, line in own_imports(module):
        if room(name) != "transforms":
            where = f"{FILES[module]}:{line} imports {name!r}"
            assert RANKS[room(name)] <= TRANSFORMS_IMPORT_UP_TO, f"{where}, which is above the transforms"


@pytest.mark.parametrize("module", sorted(name for name in FILES if room(name) != MAY_IMPORT_DASK))
def test_dask_stays_in_its_room(module: str) -> None:
    for name, line in imports(module):
        assert name.split(".")[0] not in {"dask", "distributed"}, (
            f"{FILES[module]}:{line} imports {name}: only {MAY_IMPORT_DASK!r} may"
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
    assert own("shardedstore.zips.index.read_index") == "zips.index"
    assert own("shardedstore.transforms") == "transforms"
    assert own("shardedstore.ShardedStore") == "__init__"
    assert own("zarr.errors") is None


def test_the_transforms_are_seen() -> None:
    assert "transforms" in TRANSFORMS
