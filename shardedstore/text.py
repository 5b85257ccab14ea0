"""What the command line says of stores and plans."""

from __future__ import annotations

from typing import Any

from shardedstore.grid import block_name
from shardedstore.kinds import Config
from shardedstore.metadata import ArrayMeta
from shardedstore.plan import Plan


def describe(path: str, meta: Any, config: Config) -> str:
    """Return a line about a group or an array."""
    mount = config.shards.get(path)
    blocks = "" if mount is None else f", {count(1 if mount.blocks is None else mount.blocks.count, 'shard')}"
    if not isinstance(meta, ArrayMeta):
        return f"  /{path}  group, v{meta.zarr_format}{', consolidated' if meta.consolidated else ''}{blocks}"
    chunks = "unknown" if meta.chunks is None else meta.chunks
    return f"  /{path}  array {meta.shape}, chunks {chunks}, {size(meta.nbytes)}{blocks}"


def preview(plan: Plan) -> str:
    """Return what a job would do, by arithmetic: chunks that are missing are counted, and sizes are decoded."""
    files, base = f"at most {plan.files:,} files", plan.loads[0]
    lines = [f"{files} -> {count(plan.shard_count, 'shard')}; {size(plan.nbytes)} decoded; base {size(base.nbytes)}"]
    for run, load in zip(plan.runs[1:], plan.loads[1:], strict=True):
        grid = "" if run.blocks is None or run.stop == 1 else f" ({block_name(run.blocks.grid).replace('/', ' x ')})"
        lines.append(f"  /{run.path}: {load.files:,} files -> {count(run.stop, 'shard')}{grid}; {size(load.nbytes)}")
    return "\n".join(lines)


def count(number: int, what: str) -> str:
    """Return a number of things.

    >>> count(1, "shard"), count(1200, "shard")
    ('1 shard', '1,200 shards')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def size(nbytes: int) -> str:
    """Return a size for people.

    >>> size(512), size(96 * 2**30)
    ('512 bytes', '96.0 GiB')
    """
    value, unit = float(nbytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


def one_line(error: BaseException) -> str:
    r"""Return a message in the words of the command line, without the lines that an object store's client adds.

    >>> one_line(ValueError("say overwrite=True\n\nDebug source: ..."))
    'say --overwrite'
    """
    text = str(error).partition("\n")[0] or type(error).__name__
    return text.replace("overwrite=True", "--overwrite")
