"""Run the code of docs/read-from.md, and write its table of what reads what: ``make matrix``.

The code of a reader is below a heading of level 2, and the form that it opens is a heading of level 3. The readers in `OF_STORE`
have one block, which reads the `store` of each form.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import numpy as np
import zarr

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, ToShardingCodec, ToZip

PAGE = Path(__file__).parents[1] / "docs" / "read-from.md"
START, END = "<!-- matrix -->\n", "<!-- end of matrix -->"
STORES = "A store for zarr-python"
FORMS = ("zips", "one zip", "one Zarr", "sharding", "Kerchunk", "Parquet", "Icechunk", "TensorStore", "serve")
ALSO = {"sharding": ("one Zarr", "era5.zarr", "packed.zarr"), "Parquet": ("Kerchunk", "era5.json", "era5-parquet")}
ONLY = {"sharding": 3, "Parquet": 2, "Icechunk": 3}  # the forms that exist in one format
OF_STORE = ("zarr-python", "xarray", "Dask", "zarrs")


def _version(name: str) -> Callable[[], str]:
    return lambda: importlib.metadata.version(name)


def _attribute(module: str, name: str) -> Callable[[], str]:
    return lambda: str(getattr(importlib.import_module(module), name))


def _zarrita() -> str:
    found = Path(os.environ["NODE_MODULES"]) / "zarrita" / "package.json"
    return str(json.loads(found.read_bytes())["version"])


def _absent() -> str:
    raise ImportError


VERSIONS = {
    "zarr-python": _version("zarr"),
    "xarray": _version("xarray"),
    "Dask": _version("dask"),
    "zarrs": _version("zarrs"),
    "TensorStore": _version("tensorstore"),
    "GDAL": _attribute("rasterio", "__gdal_version__"),
    "netCDF-C": _attribute("netCDF4", "__netcdf4libversion__"),
    "zarrita.js": _zarrita,
    "Julia": _absent,
    "neuroglancer": _absent,
}


def version_of(reader: str) -> str | None:
    """Return the version of an installed reader; None for a missing one."""
    try:
        return VERSIONS[reader]()
    except (ImportError, KeyError, OSError):
        return None


def blocks() -> dict[tuple[str, str], tuple[str, str]]:
    """Return the language and the code of each block of the page, by the headings above it."""
    found = dict[tuple[str, str], tuple[str, str]]()
    pattern = r"^## ([^\n]+)$|^### ([^\n]+)$|^```(python|js|julia|text)\n(.*?)^```$"
    reader = form = ""
    for match in re.finditer(pattern, PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        if match[1]:
            reader, form = match[1], ""
        elif match[2]:
            form = match[2]
        else:
            found[reader, form] = match[3], match[4]
    return found


def code_of(reader: str, form: str) -> tuple[str, str] | None:
    """Return the language and the code by which a reader opens a form; None if the page has none."""
    found, below = blocks(), STORES if reader in OF_STORE else reader
    name, old, new = ALSO.get(form, (form, "", "")) if (below, form) not in found else (form, "", "")
    some = found.get((below, name))
    if some is None:
        return None
    language, code = some
    code = code.replace(old, new) if old else code
    return language, code + found[reader, ""][1] if reader in OF_STORE else code


DATA = np.random.default_rng(3).random((12, 10), "f4")


def make_forms(folder: Path, zarr_format: int) -> None:
    """Write each form of a small Zarr into a folder."""
    group = zarr.open_group(folder / "source.zarr", mode="w", zarr_format=2 if zarr_format == 2 else 3)
    names = {3: {"dimension_names": ("time", "x")}, 2: {"attributes": {"_ARRAY_DIMENSIONS": ["time", "x"]}}}
    options = {} if zarr_format == 3 else {"compressors": _zlib()}
    array = group.create_array("t2m", shape=DATA.shape, chunks=(2, 5), dtype="f4", **names[zarr_format], **options)
    array[:] = DATA
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(folder / "source.zarr")
    with dask.config.set(scheduler="sync"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = ShardedStore.partition(folder / "source.zarr", {"t2m": (4, -1)})
        zips = store.map_shards(ToZip(folder / "era5-zips"))
        store.map_shards(ToZip(folder / "era5.zarr.zip"))
        store.map_shards(CopyTo(folder / "era5.zarr"))
        zips.to_kerchunk(folder / "era5.json")
        zips.to_tensorstore(folder / "era5-specs")
        if zarr_format == 2:
            zips.to_kerchunk(folder / "era5-parquet", parquet=True)
            return
        store.map_shards(ToShardingCodec(folder / "packed.zarr"))
        with contextlib.suppress(ImportError):
            import icechunk  # noqa: F401

            from shardedstore.export.icechunk import create_repository

            zips.to_icechunk(create_repository(str(folder / "era5-icechunk"), zips))


def _zlib() -> object:
    import numcodecs

    return numcodecs.Zlib()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the result in a folder from another process, and yield the URL.

    GDAL would block a server of this process. It also remembers the files of a URL, so each server has a port of its own.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "-u", "-m", "shardedstore", "serve", str(folder / "era5-zips"), f"--port={port}"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip().rstrip("/")
        finally:
            server.terminate()


def run(language: str, code: str, url: str) -> np.ndarray:
    """Run a block in the current folder, and return its values."""
    code = code.replace("http://127.0.0.1:8000", url)
    if language == "js":
        Path("run.mjs").write_text(code + "\nconsole.log(JSON.stringify(Array.from(values)));\n")
        with contextlib.suppress(FileExistsError):
            Path("node_modules").symlink_to(os.environ["NODE_MODULES"])
        done = subprocess.run(["node", "run.mjs"], capture_output=True, check=True, timeout=60)
        return np.array(json.loads(done.stdout), "f4").reshape(DATA.shape)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "read-from.md", "exec"), names)
    return np.asarray(names["values"])


def reads(reader: str, form: str, url: str) -> bool:
    """Tell whether a reader returns the values of the form in the current folder."""
    found = code_of(reader, form)
    assert found is not None
    try:
        return np.array_equal(run(*found, url), DATA)
    except Exception as error:  # noqa: BLE001 (each reader raises its own errors)
        sys.stderr.write(f"{reader}, {form}: {type(error).__name__}: {str(error)[:200]}\n")
        return False


def formats_of(form: str) -> tuple[int, ...]:
    """Return the formats in which a form exists."""
    return (ONLY[form],) if form in ONLY else (2, 3)


def cells() -> Iterator[tuple[str, str, str]]:
    """Run all blocks, and yield the reader, the form, and the text of the cell."""
    with tempfile.TemporaryDirectory() as top, contextlib.ExitStack() as stack:
        folders = {number: Path(top, str(number)) for number in (2, 3)}
        urls = dict[int, str]()
        for number, folder in folders.items():
            make_forms(folder, number)
            urls[number] = stack.enter_context(served(folder))
        for reader in VERSIONS:
            for form in FORMS:
                cell = _cell(reader, form, folders, urls)
                sys.stderr.write(f"{time.monotonic():.0f} {reader}, {form}: {cell}\n")
                yield reader, form, cell


def _cell(reader: str, form: str, folders: dict[int, Path], urls: dict[int, str]) -> str:
    if code_of(reader, form) is None:
        return ""
    if version_of(reader) is None:
        return "not run"
    found = []
    for number in formats_of(form):
        with contextlib.chdir(folders[number]):
            found += [f"v{number}"] * reads(reader, form, urls[number])
    return ", ".join(found) or "no"


def table(found: dict[tuple[str, str], str]) -> str:
    """Return the lines of the table."""
    rows = [["reader", *FORMS], ["---"] * (len(FORMS) + 1)]
    rows += [
        [f"{reader} {version_of(reader) or ''}".strip(), *(found[reader, form] for form in FORMS)]
        for reader in VERSIONS
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Run all blocks, and write the table into the page."""
    lines = table({(reader, form): cell for reader, form, cell in cells()})
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    PAGE.write_text(f"{before}{START}\n{lines}\n{END}{rest.partition(END)[2]}", "utf-8")
    sys.stdout.write(lines)


if __name__ == "__main__":
    main()
