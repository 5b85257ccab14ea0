"""The docstrings of public names follow numpydoc."""

import importlib
import inspect
from collections.abc import Iterator

import pytest
from numpydoc import validate

MODULES = ("shardedstore", "shardedstore.abc", "shardedstore.transforms", "shardedstore.zips")
CODES = {
    "PR02",  # a documented parameter that does not exist
    "PR04",  # a parameter without a type
    "PR06",
    "PR07",  # a parameter without a description
    "PR08",
    "PR09",
    "PR10",
    "RT03",  # a returned value without a description
    "SS01",  # no summary
    "SS02",
    "SS03",
    "SS04",
    "SS05",
    "SS06",
}

SECTIONS = {"PR01", "RT01"}  # all parameters and returned values have their sections
WITH_SECTIONS = ("shardedstore.ShardedStore", "shardedstore.array_", "shardedstore.step", "shardedstore.to_")


def public_names() -> Iterator[str]:
    """Yield the classes and functions of the public modules, with the public methods of the classes."""
    for module in MODULES:
        found = importlib.import_module(module)
        for name in found.__all__:
            item = getattr(found, name)
            if inspect.isclass(item) or inspect.isfunction(item):
                yield f"{module}.{name}"
            for method, value in vars(item).items() if inspect.isclass(item) else ():
                is_method = inspect.isfunction(value) or isinstance(value, classmethod | staticmethod | property)
                if is_method and not method.startswith("_") and inspect.getdoc(value):
                    yield f"{module}.{name}.{method}"


@pytest.mark.parametrize("name", sorted(set(public_names())))
def test_public_docstring(name):
    codes = CODES | SECTIONS if name.startswith(WITH_SECTIONS) else CODES
    wrong = [f"{code}: {text}" for code, text in validate.validate(name)["errors"] if code in codes]
    assert wrong == []


@pytest.mark.parametrize("module", MODULES)
def test_public_classes_and_functions_have_docstrings(module):
    found = importlib.import_module(module)
    items = {name: getattr(found, name) for name in found.__all__}
    documented = {name: item for name, item in items.items() if inspect.isclass(item) or inspect.isfunction(item)}
    assert [name for name, item in documented.items() if not item.__doc__] == []
