"""Show the failures of a job as a table in IPython, which prints groups of exceptions without asking them."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from shardedstore.errors import ShardsFailed


def use_table_in_ipython() -> None:
    """Make IPython show `ShardsFailed` as a table, unless the user has a handler for exceptions."""
    if "IPython" not in sys.modules:
        return
    from IPython import get_ipython

    shell = get_ipython()
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((ShardsFailed,), _show)


def _show(shell: Any, kind: type[ShardsFailed], error: ShardsFailed, traceback: TracebackType, **_: object) -> None:
    """Show an error as IPython shows others, and keep it for debuggers."""
    sys.last_type, sys.last_value, sys.last_traceback = kind, error, traceback
    shell._showtraceback(kind, error, error._render_traceback_())
