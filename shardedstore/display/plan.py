"""Show the estimate of a job: its headline, its facts, and a row for each array; for a terminal and for a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from dask.utils import format_bytes, format_time

from shardedstore.display.html import (
    RED,
    Html,
    html_code,
    html_frame,
    html_list,
    html_muted,
    html_page,
    html_table,
    html_text,
)
from shardedstore.display.portability import portability_facts, portability_table
from shardedstore.display.tables import aligned, terminal_table
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardedstore.jobs.estimates.amounts import Amount
    from shardedstore.jobs.estimates.arrays import ArrayEstimate
    from shardedstore.jobs.estimates.estimate import Estimate
    from shardedstore.jobs.estimates.prices import Cost
    from shardedstore.zarr.grid import Coords

FEW = 5  # arrays in a repr, of two lines each, so that it fits a screen
MOST_FACTS = 20
MOST_PATH = 38  # characters of a path in a repr, so that a line fits
NOT_ENOUGH = "NOT ENOUGH"
OPEN = 12  # arrays that are visible at first in a notebook
WIDTH = 80  # columns of text
LABEL = 15  # columns of the labels of facts
HEADS = ("array", "type", "codec", ">files", ">stored")
RATES = {"given": "", "recorded": " (an earlier run)", "sampled": " (sampled)"}


def plan_headline(estimate: Estimate) -> str:
    """Return the estimate in one line."""
    parts = (
        f"now: {_states(estimate)}",
        _reads(estimate),
        _writes(estimate),
        _bytes(estimate.stored, "stored") if estimate.stored else f"{format_bytes(estimate.nbytes)} decoded",
        f"{format_bytes(estimate.memory)} x threads",
        _free(estimate),
        _time(estimate),
    )
    return "; ".join(part for part in (parts if estimate.left else parts[:1]) if part)


def _states(estimate: Estimate) -> str:
    states = estimate.states
    numbers = {
        "new": states.new,
        "changed": states.changed,
        "lost": states.lost,
        "kept": len(states.kept),
        "gone": states.gone,
    }
    found = ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number)
    return found if estimate.left else f"nothing to do, {found}"


def _reads(estimate: Estimate) -> str:
    requests = estimate.requests_to_source
    if requests:
        return f"reads {_first(requests)}"
    return f"reads {'' if estimate.files.basis == 'exact' else 'at most '}{_files(round(estimate.files.value * estimate.share))}"


def _writes(estimate: Estimate) -> str:
    requests = estimate.requests_to_destination
    if requests:
        return f"writes {_first(requests)}"
    share = sum(mount.objects * mount.left / mount.shard_count for mount in estimate.mounts)
    return f"writes {'' if estimate.objects.basis == 'exact' else 'at most '}{_files(round(share))}"


def _first(requests: Mapping[str, int]) -> str:
    """Return the most frequent kind of request."""
    kind, number = max(requests.items(), key=lambda item: item[1])
    return f"{number:,} {kind}"


def _files(number: int) -> str:
    return count(number, "file")


def _bytes(amount: Amount, what: str = "") -> str:
    """Return a number of bytes with its basis."""
    size, what = format_bytes(amount.value), f" {what}" if what else ""
    if amount.basis == "most":
        return f"at most {size}{what}"
    return f"{size}{what}" if amount.basis == "exact" else f"about {size}{what} ({amount.basis})"


def _number(amount: Amount) -> str:
    if amount.basis == "most":
        return f"at most {amount.value:,}"
    return f"{amount.value:,}" if amount.basis == "exact" else f"about {amount.value:,}"


def _free(estimate: Estimate) -> str:
    if estimate.space is None:
        return ""
    return f"free {format_bytes(estimate.space.nbytes)}{f': {NOT_ENOUGH}' if estimate.is_enough is False else ''}"


def _time(estimate: Estimate) -> str:
    if estimate.rate is None or estimate.seconds is None or not estimate.left:
        return ""
    return f"about {_duration(estimate.seconds)} at {format_bytes(round(estimate.rate))}/s"


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit or two.

    >>> _duration(32400), _duration(5400), _duration(0.3), _duration(200000)
    ('9 h', '1 h 30 m', '1 s', '2 d 7 h')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    rest, parts = round(seconds / 60), []
    for unit, size in (("d", 1440), ("h", 60), ("m", 1)):
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def plan_facts(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """Yield the facts of an estimate, each with its label."""
    yield "shards", f"{estimate.shard_count:,}: {_states(estimate)}{_compared(estimate)}"
    yield "files", f"{_number(estimate.files)} -> {_number(estimate.objects)}{_saved(estimate)}"
    yield "bytes", f"{_sizes(estimate)}; base {format_bytes(estimate.mounts[0].nbytes)}"
    if estimate.requests_to_source:
        yield "source", f"about {_requests(estimate.requests_to_source)}"
    if estimate.requests_to_destination:
        yield "destination", f"about {_requests(estimate.requests_to_destination)}"
    if estimate.cost is not None:
        yield "cost", _cost(estimate.cost)
    if estimate.is_move:
        yield "move", "each shard is deleted in the source after its result was verified"
    yield (
        "memory",
        f"{format_bytes(estimate.memory)} x threads of a worker, for a shard of {_path(estimate.memory_path)}",
    )
    yield "tasks", f"at least {estimate.tasks:,}, on {count(estimate.threads, 'thread')}"
    if estimate.space is not None:
        yield "free space", _space(estimate)
    if estimate.write_test is not None:
        yield (
            "test write",
            estimate.write_test.error or f"done and removed in {format_time(estimate.write_test.seconds)}",
        )
    for number, fact in enumerate(portability_facts(estimate.portability)):
        yield "" if number else "readers", fact
    if time := _time(estimate):
        yield "time", time + RATES[estimate.rate_basis or "given"]


def _compared(estimate: Estimate) -> str:
    return "" if estimate.states.is_first else f" (compared by {estimate.states.compared})"


def _saved(estimate: Estimate) -> str:
    """Return how many files are saved, if the files of the source are counted."""
    saved = estimate.files.value - estimate.objects.value
    return f"; {saved:,} inodes saved" if estimate.files.basis == "exact" and saved > 0 else ""


def _sizes(estimate: Estimate) -> str:
    decoded = f"{format_bytes(estimate.nbytes)} decoded"
    if estimate.stored is None:
        return decoded
    made = "?" if estimate.stored_after is None else _bytes(estimate.stored_after)
    return f"{_bytes(estimate.stored)} -> {made}; {decoded}"


def _requests(requests: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {kind}" for kind, number in requests.items() if number)


def _cost(cost: Cost) -> str:
    parts = {"requests": cost.requests, "transfer": cost.transfer, "workers": cost.workers}
    shares = ", ".join(f"{name} {value:,.2f}" for name, value in parts.items() if value)
    month = "" if cost.month is None else f"; {cost.currency} {cost.month:,.2f} a month for the stored bytes"
    return f"{cost.currency} {cost.once:,.2f}{f' ({shares})' if shares else ''}{month}"


def _space(estimate: Estimate) -> str:
    assert estimate.space is not None
    inodes = "" if estimate.space.files is None else f", {estimate.space.files:,} inodes"
    verdict = {None: "", True: ": enough", False: f": {NOT_ENOUGH}"}[estimate.is_enough]
    return f"{format_bytes(estimate.space.nbytes)}{inodes}{verdict}"


def _path(path: str | None) -> str:
    return "the base" if path is None else f"/{shown(path, 40)}"


def plan_notes(estimate: Estimate, *, notices: bool = True) -> list[str]:
    """Return the warnings of an estimate, and the notices of its plan."""
    found = estimate.notices if notices else ()
    return [*(f"warning: {text}" for text in estimate.warnings), *(f"note: {notice}" for notice in found)]


def _changed(before: str, after: str) -> str:
    return before if before == after else f"{before} -> {after}"


def _cells(array: ArrayEstimate) -> tuple[str, ...]:
    """Return the cells of an array, in the order of `HEADS`."""
    return (
        f"/{array.path}",
        _changed(array.dtype, array.dtype_after),
        _changed(array.codecs, array.codecs_after),
        f"{_short(array.files)} -> {_shards(array)}",
        _stored(array),
    )


def _grid(grid: Coords | None) -> str:
    return "" if grid is None or len(grid) < 2 else f" ({' x '.join(map(str, grid))})"


def _shards(array: ArrayEstimate) -> str:
    """Return the shards that hold an array."""
    if array.grid is not None:
        return count(array.shard_count, "shard") + _grid(array.grid)
    if array.mount == array.path:
        return "1 shard"
    return "in the base" if array.mount is None else f"in shards of /{shown(array.mount, 30)}"


def _short(amount: Amount) -> str:
    return (
        f"{amount.value:,}" if amount.basis == "exact" else f"{'<=' if amount.basis == 'most' else '~'}{amount.value:,}"
    )


def _stored(array: ArrayEstimate) -> str:
    if array.stored is None:
        return f"{format_bytes(array.nbytes)} decoded"
    made = "?" if array.stored_after is None else _approximate(array.stored_after)
    return f"{_approximate(array.stored)} -> {made}"


def _approximate(amount: Amount) -> str:
    return f"{'' if amount.basis == 'exact' else '~'}{format_bytes(amount.value)}"


def _largest(estimate: Estimate) -> list[ArrayEstimate]:
    """Return the arrays, the largest first."""
    return sorted(estimate.arrays, key=lambda one: one.nbytes, reverse=True)


def plan_to_text(estimate: Estimate, most: int | None = None, *, notices: bool = True) -> str:
    """Return an estimate as lines of at most 80 columns, as far as names allow it; `most` limits the arrays."""
    arrays = _largest(estimate)
    lines = [
        *_wrapped(estimate.title, ""),
        *_wrapped(plan_headline(estimate), "  "),
        "",
        *(
            line
            for label, fact in plan_facts(estimate)
            for line in _wrapped(fact, " " * LABEL, f"  {label:<{LABEL - 2}}")
        ),
        "",
        *_rows(arrays[:most], None if most is None else MOST_PATH),
    ]
    if most is not None and len(arrays) > most:
        lines.append(f"  ... and {len(arrays) - most:,} more")
    return "\n".join(
        [*lines, *(line for note in plan_notes(estimate, notices=notices) for line in _wrapped(note, "  ", ""))]
    )


def _rows(arrays: Sequence[ArrayEstimate], longest: int | None) -> Iterator[str]:
    """Yield two lines for each array: its files and bytes, and its data type and codecs."""
    cells = [_cells(array) for array in arrays]
    heads = aligned(
        (path if longest is None else shown(path, longest), files, stored) for path, _, _, files, stored in cells
    )
    for head, (_, dtype, codecs, *_) in zip(heads, cells, strict=True):
        yield f"  {head}"
        yield f"      {dtype}; {codecs}"


def _wrapped(text: str, indent: str, first: str | None = None) -> list[str]:
    start = indent if first is None else first
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def plan_to_rich(estimate: Estimate, *, notices: bool = True) -> RenderableType:
    """Return an estimate for a terminal: the headline, the facts, and a table of the arrays."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for label, fact in plan_facts(estimate):
        table.add_row(Text(label, style="dim"), Text(fact))
    arrays = _largest(estimate)
    rows = terminal_table(HEADS, map(_cells, arrays), len(arrays))
    texts = [Text(note, style="yellow") for note in plan_notes(estimate, notices=notices)]
    return Group(Text(estimate.title, style="bold"), Text(plan_headline(estimate)), Text(""), table, rows, *texts)


def plan_to_html(estimate: Estimate) -> Html:
    """Return an estimate for a notebook; of many arrays the largest are shown and the others are folded."""
    arrays = _largest(estimate)
    known = html_table(
        ("", ""), ((html_muted(label), _marked(fact)) for label, fact in plan_facts(estimate)), 0, MOST_FACTS
    )
    warnings = html_list(html_text(_mark("warning"), f": {text}") for text in estimate.warnings)
    table = html_table(HEADS, (_html_cells(array) for array in islice(arrays, 200)), len(arrays), OPEN)
    return html_frame(
        estimate.title,
        [_marked(plan_headline(estimate))],
        known,
        warnings,
        table,
        portability_table(estimate.portability),
        html_list(f"note: {one}" for one in estimate.notices),
        width="75em",
    )


def _marked(text: str) -> Html:
    """Return a text in which the verdict about the free space stands out."""
    before, found, after = text.partition(NOT_ENOUGH)
    return html_text(before, _mark(found) if found else "", after)


def _mark(text: str) -> Html:
    return Html(f'<strong style="color:{RED}">{html_text(text)}</strong>')


def _html_cells(array: ArrayEstimate) -> tuple[str, ...]:
    path, *others = _cells(array)
    return (html_code(path), *others)


def plan_to_page(estimate: Estimate) -> Html:
    """Return an estimate as an HTML file of its own."""
    return html_page(estimate.title, html_text(plan_to_html(estimate)))
