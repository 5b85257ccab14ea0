"""The built archives of this checkout, and the modules that importing them loads."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = pytest.mark.slow

# Run before each script, so that it imports the wheel and not an editable installation of this checkout.
WITHOUT_CHECKOUT = (
    f"import os, sys; sys.path = [p for p in sys.path if os.path.realpath(p) != {os.path.realpath(ROOT)!r}]"
)


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def check(*command: str | Path, cwd: Path, **env: str) -> str:
    done = run(*command, cwd=cwd, **env)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(folder: Path, *options: str) -> Path:
    """Build a wheel with ``python -m build`` in `folder`; without options, build an sdist and the wheel from it."""
    check(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, *options, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel; its dependencies come from the running Python."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    check(*pip, "--no-index", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


def python(script: str, installed: Path, tmp_path: Path) -> str:
    """Run `script` in a new Python with the installed wheel and without this checkout."""
    return check(sys.executable, "-c", f"{WITHOUT_CHECKOUT}\n{script}", cwd=tmp_path, PYTHONPATH=str(installed))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert {name.split("/")[0] for name in names} == {"shardedstore", info}
    assert "shardedstore/__init__.py" in names
    assert "shardedstore/py.typed" in names
    assert "shardedstore/config.schema.json" in names
    assert f"{info}/licenses/LICENSE" in names
    assert f"{info}/entry_points.txt" in names
    assert [name for name in names if "test" in name or name.endswith(".pyc")] == []
    # Hidden files are not listed by glob, and are not modules.
    transforms = {f"shardedstore/{path.relative_to(ROOT)}" for path in (ROOT / "transforms").rglob("*.py")}
    assert "shardedstore/transforms/__init__.py" in transforms
    assert {name for name in names if name.startswith("shardedstore/transforms/")} == transforms


def test_sdist_holds_real_files_for_the_link(wheel: Path) -> None:
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert members["shardedstore/transforms/__init__.py"].isreg()
    assert not [name for name in members if name.startswith("transforms")]
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/integration/local/test_packaging.py"} <= set(members)
    assert not [name for name, member in members.items() if member.issym() or member.islnk()]


def test_wheel_from_the_sdist_is_the_wheel_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(build(tmp_path, "--wheel")) as other:
        assert {i.filename: i.CRC for i in one.infolist()} == {i.filename: i.CRC for i in other.infolist()}


def test_wheel_imports_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    script = """
import importlib.metadata, shardedstore, shardedstore.transforms
print(shardedstore.__file__)
print(shardedstore.transforms.__file__)
print(shardedstore.__version__)
print(importlib.metadata.version("shardedstore"))
"""
    package, transforms, version, metadata = python(script, installed, tmp_path).splitlines()
    assert Path(package) == installed / "shardedstore/__init__.py"
    assert Path(transforms) == installed / "shardedstore/transforms/__init__.py"
    assert version == metadata


def test_command_line_is_installed(installed: Path, tmp_path: Path) -> None:
    script = """
from importlib.metadata import distribution
(entry,) = distribution("shardedstore").entry_points.select(group="console_scripts")
entry.load()(["--help"])
"""
    assert "Usage" in python(script, installed, tmp_path)


def test_transforms_have_one_import_name(tmp_path: Path) -> None:
    done = run(sys.executable, "-c", "import transforms", cwd=ROOT)
    assert done.returncode == 1
    assert "ImportError: 'transforms' is not the import name of this folder" in done.stderr
    assert "import shardedstore.transforms instead" in done.stderr


def test_importing_leaves_distributed_out(installed: Path, tmp_path: Path) -> None:
    script = "import sys, shardedstore, shardedstore.transforms; print('distributed' in sys.modules)"
    assert python(script, installed, tmp_path).strip() == "False"


def test_opening_a_result_leaves_distributed_out(installed: Path, tmp_path: Path) -> None:
    """One process makes a result and another reads it."""
    make = """
import dask, numpy, zarr
from shardedstore import ShardedStore
from shardedstore.transforms import ToZip
if __name__ == "__main__":
    group = zarr.create_group("source.zarr")
    group.create_array("a", shape=(8,), chunks=(2,), dtype="i4")[:] = numpy.arange(8)
    with dask.config.set(scheduler="synchronous"):
        ShardedStore.partition("source.zarr", shards={"a": (4,)}).map_shards(ToZip("result"))
"""
    python(make, installed, tmp_path)
    read = """
import sys, zarr
from shardedstore import ShardedStore
store = ShardedStore.load("result/shardedstore.json")
print(int(zarr.open_group(store, mode="r")["a"][:].sum()), "distributed" in sys.modules)
"""
    assert python(read, installed, tmp_path).split() == ["28", "False"]
