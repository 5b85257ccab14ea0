"""The kind of progress that a job shows."""

import io
import sys

import pytest

from shardedstore.callbacks.bar import ProgressBar
from shardedstore.callbacks.lines import ProgressLines
from shardedstore.callbacks.progress import progress_callback


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("variables", "kind"),
    [({}, ProgressBar), ({"TERM": "dumb"}, ProgressLines), ({"JPY_PARENT_PID": "7"}, ProgressLines)],
)
def test_a_bar_needs_a_terminal_that_can_update_lines(variables, kind, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for name, value in ({"TERM": "xterm-color"} | variables).items():
        monkeypatch.setenv(name, value)
    assert type(progress_callback(True)) is kind
