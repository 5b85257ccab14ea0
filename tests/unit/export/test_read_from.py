"""The code of docs/read-from.md opens each form, for the readers that are installed here; its table has the rows of the script."""

import contextlib
import os
import re
import sys

import pytest
from read_from import END, FORMS, PAGE, START, VERSIONS, code_of, formats_of, make_forms, reads, served, version_of

HERE = [reader for reader in VERSIONS if reader not in ("zarrita.js", "Julia", "neuroglancer")]
rows = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in PAGE.read_text("utf-8").partition(START)[2].partition(END)[0].split("\n")
    if line
]
CELLS = {
    (re.sub(r" [\d.]+$", "", row[0]), form): cell for row in rows[2:] for form, cell in zip(FORMS, row[1:], strict=True)
}


@pytest.fixture(scope="module", params=[2, 3])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    make_forms(folder, request.param)
    return request.param, folder


@pytest.fixture(scope="module")
def url(made):
    if sys.version_info < (3, 12):
        yield ""
        return
    with served(made[1]) as url:
        yield url


def is_here(reader: str, form: str) -> bool:
    """Tell whether this Python has the versions of the table."""
    is_new = sys.version_info >= (3, 12)
    return version_of(reader) is not None and (is_new or (form not in ("Icechunk", "serve") and reader != "GDAL"))


@pytest.mark.parametrize("reader", HERE)
def test_the_code_reads_what_the_table_says(reader, made, url):
    zarr_format, folder = made
    assert os.path.isdir(folder)
    with contextlib.chdir(folder):
        for form in FORMS:
            if code_of(reader, form) is not None and zarr_format in formats_of(form) and is_here(reader, form):
                assert reads(reader, form, url) == (f"v{zarr_format}" in CELLS[reader, form]), (reader, form)


def test_the_table_has_the_rows_of_the_script():
    assert rows[0] == ["reader", *FORMS]
    assert list(CELLS) == [(reader, form) for reader in VERSIONS for form in FORMS]
    for (reader, form), cell in CELLS.items():
        assert bool(cell) == (code_of(reader, form) is not None), (reader, form)
