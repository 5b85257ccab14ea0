"""The docstrings of public names are complete by numpydoc. The suite runs their examples as doctests."""

import importlib
import inspect
from collections.abc import Iterator
from pkgutil import resolve_name

import pytest
from numpydoc.validate import Validator, get_doc_object, validate

MODULES = ("shardedstore", "shardedstore.abc", "shardedstore.transforms", "shardedstore.zips")
NOT_REQUIRED = {
    "ES01",  # an extended summary
    "SA01",  # See Also
    "YD01",  # Yields: `missing_result` accepts Returns too, and a context manager may yield nothing
}
EXAMPLES = {"EX01"}  # required of classes and functions, but not of methods
NO_RESULT = (None, "None", "Iterator[None]", inspect.Signature.empty)  # return annotations


def public_items() -> Iterator[str]:
    """Yield the classes and functions of the public modules, by the names under which users import them."""
    for module in MODULES:
        found = importlib.import_module(module)
        for name in found.__all__:
            if inspect.isclass(item := getattr(found, name)) or inspect.isfunction(item):
                yield f"{module}.{name}"


def public_members(item: type) -> Iterator[tuple[str, str | None]]:
    """Yield the public methods and properties of a class, and the full names under which their docstrings stand.

    A method without a docstring has that of the first base class with one. The full name is None if there is none.
    """
    for member in dir(item):
        owners = [base for base in item.__mro__ if is_method(vars(base).get(member))]
        if not member.startswith("_") and owners and is_ours(owners[0].__module__):
            owner = next((base for base in owners if vars(base)[member].__doc__), None)
            yield member, None if owner is None else f"{owner.__module__}.{owner.__qualname__}.{member}"


def is_method(value: object) -> bool:
    return inspect.isfunction(value) or isinstance(value, classmethod | staticmethod | property)


def is_ours(name: str) -> bool:
    return name.partition(".")[0] == "shardedstore"


ITEMS = sorted(set(public_items()))
MEMBERS = {name: list(public_members(item)) for name in ITEMS if inspect.isclass(item := resolve_name(name))}
METHODS = sorted({owner for members in MEMBERS.values() for _, owner in members if owner and is_ours(owner)})


def errors_of(name: str, ignored: set[str]) -> list[str]:
    doc = Validator(get_doc_object(resolve_name(name)))
    own_rule = "PR01" if inspect.isclass(doc.obj) else "RT01"
    errors = [f"{code}: {text}" for code, text in validate(name)["errors"] if code not in {*ignored, own_rule}]
    return [*errors, *(undocumented_fields(doc) if inspect.isclass(doc.obj) else missing_result(doc))]


def undocumented_fields(doc: Validator) -> Iterator[str]:
    """Yield PR01 for a class. The Attributes section may hold the fields of a record; private fields need no text."""
    attributes = {name for names, _, _ in doc.doc["Attributes"] for name in names.split(", ")}
    for field in doc.signature_parameters:
        if field not in {*attributes, *doc.doc_all_parameters} and not field.startswith("_"):
            yield f"PR01: {field} is neither in Parameters nor in Attributes"


def missing_result(doc: Validator) -> Iterator[str]:
    """Yield RT01 for a function or method that has a result by its annotation, and neither Returns nor Yields.

    An abstract method has an annotation only, so numpydoc's own rule, which looks for return statements, misses it.
    """
    if not isinstance(doc.obj, property) and not doc.returns and not doc.yields:
        annotation = inspect.signature(doc.obj).return_annotation
        if annotation not in NO_RESULT:
            yield f"RT01: neither Returns nor Yields for a result of {annotation}"


@pytest.mark.parametrize("name", ITEMS)
def test_public_class_or_function_is_documented_with_examples(name):
    assert errors_of(name, NOT_REQUIRED) == []


@pytest.mark.parametrize("name", METHODS)
def test_public_method_or_property_is_documented(name):
    assert errors_of(name, NOT_REQUIRED | EXAMPLES) == []


@pytest.mark.parametrize("name", MEMBERS)
def test_each_public_method_or_property_has_or_inherits_a_docstring(name):
    assert [member for member, owner in MEMBERS[name] if owner is None] == []


@pytest.mark.parametrize("name", [*ITEMS, *METHODS])
def test_public_examples_run(name):
    assert "doctest: +SKIP" not in inspect.getdoc(resolve_name(name))
