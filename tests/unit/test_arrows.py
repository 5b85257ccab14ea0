"""Packages import only from the layers below them."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "shardedstore"

# The packages and modules below `shardedstore`, from the lowest layer: each imports only from the lines above it. The packages
# packages of one line do not import one another.
LAYERS = (
    {"errors", "fields", "text"},
    {"notices", "entrypoints"},
    {"storage"},
    {"zarr"},
    {"zips"},
    {"stores"},
    {"config", "codecs"},
    {"partition"},
    {"transforms"},
    {"writing"},
    {"jobs"},
    {"display"},
    {"callbacks"},
    {"verify", "export", "choose"},
    {"store"},
    {"jobfiles", "checks"},
    {"__init__", "abc", "cli", "xarray_engine"},
    {"__main__"},
)
RANKS = {package: rank for rank, packages in enumerate(LAYERS) for package in packages}
LAZY_VIEWS = {
    "errors",
    "jobs.estimates.estimate",
    "jobs.job_plan",
    "jobs.records",
    "jobs.partial_state",
    "jobs.report",
    "jobs.summary",
    "partition.suggest",
    "jobs.store_info",
}  # they show themselves
PARTS = "transforms.base"  # shared parts of transforms; the engine may import these, but no transform
MAY_IMPORT_TRANSFORMS = {"__init__", "abc", "choose", "cli", "jobfiles", "transforms"}
MAY_IMPORT_DASK = ("jobs.executors", "cli")


def module_name(path: Path) -> str:
    """The name of a module inside the package: ``grid``, ``transforms.to_zip``; ``__init__`` is the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


# The link is listed separately, since rglob does not follow it.
FILES = {module_name(path): path for top in (PACKAGE, PACKAGE / "transforms") for path in top.rglob("*.py")}


def package_of(module: str) -> str:
    """The package or module directly below ours that contains a module: ``zips`` for ``zips.index``."""
    return module.partition(".")[0]


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below `node`, including function bodies, but without code for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            for other in child.orelse:
                yield other
                yield from statements(other)
        else:
            yield child
            yield from statements(child)


def imported(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[str, int]]:
    """The absolute dotted names of the imports in the source of `module`, each with its line."""
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
    """The module of ours for a dotted name: ``grid`` for ``shardedstore.zarr.grid.Block``; None for other packages.

    Any other name belongs to the package itself, ``__init__``, which is above all others.
    """
    top, *rest = dotted.split(".")
    if top != "shardedstore":
        return None
    for end in range(len(rest), 0, -1):
        if (name := ".".join(rest[:end])) in FILES:
            return name
    return "__init__"


@cache
def imports(module: str) -> list[tuple[str, int]]:
    path = FILES[module]
    return list(imported(path.read_text("utf-8"), module, is_package=path.name == "__init__.py"))


def own_imports(module: str) -> list[tuple[str, int]]:
    found = ((own(dotted), line) for dotted, line in imports(module))
    return [(name, line) for name, line in found if name is not None]


def is_lazy_view(module: str, name: str) -> bool:
    """Tell whether this is the import of a view in the methods of a plan or a report that show it."""
    return module in LAZY_VIEWS and package_of(name) in ("callbacks", "display")


def every_import() -> Iterator[tuple[str, str, int]]:
    """Yield each module, and each of our modules that it imports, with the line."""
    return ((module, name, line) for module in sorted(FILES) for name, line in own_imports(module))


def test_packages_have_layers() -> None:
    new = {package_of(module) for module in FILES} - RANKS.keys()
    assert not new, f"add these to LAYERS in {__file__}, below all that import them"


def test_imports_lead_downwards() -> None:
    for module, name, line in every_import():
        where = f"{FILES[module]}:{line} imports {name!r}"
        assert name != module, f"{where}: itself"
        if package_of(name) != package_of(module) and not is_lazy_view(module, name):
            assert RANKS[package_of(name)] < RANKS[package_of(module)], f"{where}, which is not below it"


def test_the_engine_knows_no_transform() -> None:
    for module, name, line in every_import():
        if package_of(name) == "transforms" and not name.startswith(PARTS):
            where = f"{FILES[module]}:{line} imports {name!r}"
            assert package_of(module) in MAY_IMPORT_TRANSFORMS, f"{where}: the engine does not know its transforms"


def test_dask_is_imported_where_jobs_run() -> None:
    for module in sorted(name for name in FILES if not name.startswith(MAY_IMPORT_DASK)):
        for name, line in imports(module):
            assert name.split(".")[0] not in {"dask", "distributed"} or name.startswith("dask.utils"), (
                f"{FILES[module]}:{line} imports {name}: only {', '.join(MAY_IMPORT_DASK)} may"
            )


def test_a_public_name_has_one_module() -> None:
    found: dict[str, list[str]] = {}
    for module, path in FILES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
                "_"
            ):
                found.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


def test_no_cycles() -> None:
    graph = {module: {name for name, _ in own_imports(module) if not is_lazy_view(module, name)} for module in FILES}
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
    assert [name for name, _ in imported("from .zarr.grid import Block", "__init__", is_package=True)] == [
        "shardedstore.zarr.grid.Block"
    ]


def test_names_are_traced_to_modules() -> None:
    assert own("shardedstore.errors.ShardedStoreError") == "errors"
    assert own("shardedstore.zips.index.read_index") == "zips.index"
    assert own("shardedstore.transforms") == "transforms"
    assert own("shardedstore.ShardedStore") == "__init__"
    assert own("zarr.errors") is None


def test_the_transforms_are_seen() -> None:
    assert "transforms.to_zip" in FILES
