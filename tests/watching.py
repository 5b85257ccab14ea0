"""Record the files that are opened, listed or changed, by Python's audit hooks; not the files of the system."""

import os
import sys
from contextlib import contextmanager
from functools import cache

import shardedstore
import shardedstore.transforms

PATHS = {
    "open",
    "os.listdir",
    "os.scandir",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "os.chmod",
}
SYSTEM = "/proc/", "/sys/"  # Dask's scheduler measures its process
touched: list[str] | None = None
imported: list[str] = []  # in the last block


@cache
def _install():
    """Install the hook for the first test that needs it, as it is permanent and makes all tests after it slower."""
    sys.addaudithook(_remember)


def _remember(event, arguments):
    if touched is None:
        return
    if event in PATHS:
        paths = [
            path for path in arguments[: 1 + (event == "os.rename")] if isinstance(path, str | bytes | os.PathLike)
        ]
        touched.extend(path for path in map(os.fsdecode, paths) if not path.startswith(SYSTEM))
    elif event == "import":
        imported.append(arguments[0])
    elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"):
        touched.append(event)


@contextmanager
def watched():
    """Record opened, listed and changed paths in the block, and imports in `imported`; `os.stat` has no audit event."""
    global touched  # noqa: PLW0603
    _install()
    imported.clear()
    touched = found = []
    try:
        yield found
    finally:
        touched = None


def outside(found, folder):
    """Return the paths outside a folder, without modules that are imported late."""
    packages = (os.path.dirname(file) for file in (shardedstore.__file__, shardedstore.transforms.__file__, __file__))
    ignored = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, *packages)))
    paths = [os.path.realpath(path) for path in found]
    return [path for path in paths if not f"{path}/".startswith(f"{folder}/") and not path.startswith(ignored)]
