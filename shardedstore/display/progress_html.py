"""The numbers of a running job as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dask.utils import format_bytes

from shardedstore.display.html import (
    BLUE,
    GREEN,
    GREY,
    LINE,
    ORANGE,
    RED,
    Html,
    html_code,
    html_frame,
    html_muted,
    html_text,
)
from shardedstore.display.progress_text import part_of, percent
from shardedstore.jobs.progress import Progress
from shardedstore.text import duration, shown

COLORS = {"running": BLUE, "done": GREEN, "holes": ORANGE, "stopped": GREY, "failed": RED, "error": RED}
WORDS = {"holes": "done with accepted failures", "error": "ended by an error"}
MOST_NOTE = 300  # characters
LIST = "display:flex;flex-wrap:wrap;gap:.3em 1.6em;margin:.3em 0;font-variant-numeric:tabular-nums"


def progress_html(title: str, progress: Progress, state: str = "running", notes: Iterable[str] = ()) -> Html:
    """Return the numbers of a job at one moment.

    Parameters
    ----------
    title : str
        The job: its chain and its destination.
    progress : Progress
        The numbers.
    state : str
        ``"running"``, or a state of `shardedstore.callbacks.outcome.state_of`.
    notes : iterable of str
        The latest warnings and failures, or the error that the job ended with.

    Examples
    --------
    >>> view = progress_html("ToZip", Progress(total=8, done=6, failed=1))
    >>> "7 of 8" in view, "width:87.5%" in view, "failed" in view
    (True, True, True)
    """
    color = COLORS.get(state, BLUE)
    numbers = "".join(_number(label, value, mark) for label, value, mark in _numbers(progress, state))
    return html_frame(
        shown(title),
        [],
        _head(progress, state, color),
        Html(f'<div style="{LIST}">{numbers}</div>'),
        *_notes(progress, notes),
    )


def _head(progress: Progress, state: str, color: str) -> Html:
    """Return the bar with the percentage, the state, and the time."""
    times = duration(progress.seconds)
    if state == "running" and progress.seconds_left:
        times = f"{times}, {duration(progress.seconds_left)} left"
    words = WORDS.get(state, state)
    bar = (
        f'<div role="progressbar" aria-valuenow="{100 * progress.fraction:.0f}" style="height:.8em;background:{LINE};'
        f'border-radius:3px;overflow:hidden;margin:.3em 0"><div style="width:{100 * progress.fraction:.1f}%;height:100%;'
        f'background:{color}"></div></div>'
    )
    line = html_text(percent(progress), ", ", words, " ", html_muted(times))
    return Html(f'{bar}<div style="font-variant-numeric:tabular-nums">{line}</div>')


def _numbers(progress: Progress, state: str) -> Iterator[tuple[str, str, str]]:
    """Yield the label, the value and the colour of each number; numbers of troubles only if there are any."""
    yield "shards", f"{progress.ended:,} of {progress.total:,}", ""
    if progress.skipped:
        yield "done before", f"{progress.skipped:,}", ""
    if progress.total_decoded_nbytes:
        yield "decoded", part_of(progress.decoded_nbytes, progress.total_decoded_nbytes), ""
    yield "written", format_bytes(progress.nbytes), ""
    if state == "running":
        yield "rate", f"{format_bytes(int(progress.rate))}/s" if progress.rate else "-", ""
        yield "workers", f"{progress.workers:,}", ""
    if progress.failed:
        yield "failed", f"{progress.failed:,}", RED
    if progress.retries:
        yield "repeated", f"{progress.retries:,}", ORANGE
    if progress.throttled:
        yield "refused requests", f"{progress.throttled:,}", ORANGE


def _number(label: str, value: str, mark: str) -> str:
    dot = f'<span style="color:{mark}">&#9679;</span> ' if mark else ""
    return f"<div>{html_muted(label)}<br>{dot}{html_text(value)}</div>"


def _notes(progress: Progress, notes: Iterable[str]) -> Iterator[Html]:
    if progress.stalled:
        yield _line(f"nothing has ended for {duration(progress.idle_seconds)}")
    if progress.oldest is not None:
        yield _line(
            "the oldest running shard: ",
            html_code(shown(progress.oldest.shard)),
            f", {duration(progress.oldest.seconds)}",
        )
    for note in notes:
        yield _line(html_code(shown(note, MOST_NOTE)))


def _line(*parts: str) -> Html:
    return Html(f'<div style="opacity:.85;overflow-wrap:anywhere">{html_text(*parts)}</div>')
