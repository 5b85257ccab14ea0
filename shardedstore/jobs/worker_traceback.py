"""The traceback of a failed shard as text: in users' functions without the frames of this package."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from itertools import groupby
from traceback import FrameSummary, StackSummary, format_exception_only, walk_tb

from shardedstore.storage.errors import chain_of
from shardedstore.text import count

MOST_FRAMES, MOST_TEXT = 30, 8000  # the last frames and characters that are sent with an error
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OWN = (PACKAGE, os.path.realpath(os.path.join(PACKAGE, "transforms")))
INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")
OTHERS = tuple({path(sysconfig.get_path(name)) for name in INSTALLED for path in (os.path.abspath, os.path.realpath)})


def worker_traceback(error: BaseException) -> str:
    """Return the traceback of an error and of its causes, without the position markers, which are slow to compute."""
    parts = [
        "".join(["Traceback (most recent call last):\n", *_frames(one), *format_exception_only(one)])
        for one in reversed(list(chain_of(error)))
    ]
    return "\n".join(parts)[-MOST_TEXT:]


def _frames(error: BaseException) -> Iterator[str]:
    """Yield the frames; if a user's code is among them, a line stands for successive frames of this package."""
    frames = StackSummary.extract(walk_tb(error.__traceback__), limit=-MOST_FRAMES)
    if not any(_is_users(frame) for frame in frames):
        yield from frames.format()
        return
    for is_own, some in groupby(frames, _is_own):
        found = list(some)
        if is_own:
            yield f"  [{count(len(found), 'frame')} of shardedstore]\n"
        else:
            yield from StackSummary.from_list(found).format()


def _is_own(frame: FrameSummary) -> bool:
    return _is_below(frame.filename, OWN)


def _is_users(frame: FrameSummary) -> bool:
    """Tell whether a frame belongs neither to this package, nor to Python, nor to an installed package."""
    return not _is_below(frame.filename, (*OWN, *OTHERS)) and not frame.filename.startswith("<frozen")


def _is_below(name: str, folders: tuple[str, ...]) -> bool:
    return any(name.startswith(folder + os.sep) for folder in folders)
