"""Record the files that are opened, listed or changed, by Python's audit hooks."""

import os
import sys
from contextlib import contextmanager

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
touched: list[str] | None = None


def _remember(event, arguments):
    if touched is not None and event in PATHS:
        touched.extend(
            os.fsdecode(path)
            for path in arguments[: 1 + (event == "os.rename")]
            if isinstance(path, str | bytes | os.PathLike)
        )
    elif touched is not None and event in (
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.system",
    ):
        touched.append(event)


sys.addaudithook(_remember)  # permanent, but fast


@contextmanager
def watched():
    """Record opened, listed and changed paths in the block; `os.stat` has no audit event."""
    global touched  # noqa: PLW0603
    touched = found = []
    try:
        yield found
    finally:
        touched = None


def outside(found, folder):
    """Return the paths outside a folder, without modules that are imported late and files of the system."""
    packages = (os.path.dirname(file) for file in (shardedstore.__file__, shardedstore.transforms.__file__, __file__))
    ignored = (*map(os.path.realpath, (sys.prefix, sys.base_prefix, *packages)), "/proc/", "/sys/")
    paths = [os.path.realpath(path) for path in found]
    return [path for path in paths if not f"{path}/".startswith(f"{folder}/") and not path.startswith(ignored)]
