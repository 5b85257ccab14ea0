"""Format and parse text for people: numbers, sizes, durations and error messages of the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from dask.utils import parse_bytes, parse_timedelta

_QUANTITY = re.compile(r"\s*\d+(\.\d*)?\s*[A-Za-z]*\s*")  # Dask reads a unit alone as 1, and exponents
WIDEST = 72  # the most characters of a name or place that are shown


def count(number: int, what: str) -> str:
    """Return a number with its noun, in the singular or plural.

    >>> count(1, "shard"), count(1200, "shard")
    ('1 shard', '1,200 shards')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def significant(number: float) -> str:
    """Return a number with three digits or more, without an exponent.

    >>> significant(1.2345), significant(0.000012), significant(144_000.4)
    ('1.23', '0.000012', '144,000')
    """
    digits = f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"
    return f"{number:.10f}".rstrip("0") if "e" in digits else digits


def duration(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> duration(0.2), duration(75), duration(3725), duration(200_000)
    ('0 s', '1 min 15 s', '1 h 2 min', '2 d 7 h')
    """
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    whole = int(seconds)
    first = next((i for i, (_, size) in enumerate(units) if whole >= size), len(units) - 1)
    parts = []
    for name, size in units[first : first + 2]:
        number, whole = divmod(whole, size)
        parts.append(f"{number} {name}")
    return " ".join(part for i, part in enumerate(parts) if not i or not part.startswith("0 "))


def shown(text: str, most: int = WIDEST) -> str:
    r"""Return external text as one line, shortened in the middle.

    >>> shown("a\nb"), shown("s3://bucket/" + "x" * 80 + "/0.zip", 24)
    ('a\\nb', 's3://bucket...xxxx/0.zip')
    """
    line = text if text.isprintable() else repr(text)[1:-1]
    half = (most - 3) // 2
    return line if len(line) <= most else f"{line[: most - 3 - half]}...{line[-half:]}"


def parse_size(text: str | int) -> int | None:
    """Return a size in bytes, in Dask's units; None if the text is not a size.

    >>> parse_size("1 GiB"), parse_size("1.5 MB"), parse_size(4096), parse_size("GiB"), parse_size("-1 GiB")
    (1073741824, 1500000, 4096, None, None)
    """
    if isinstance(text, int):
        return text
    try:
        return parse_bytes(text.strip()) if _QUANTITY.fullmatch(text) else None
    except OverflowError:
        return sys.maxsize
    except ValueError:
        return None


def parse_seconds(text: str) -> float | None:
    """Return a duration in seconds, in Dask's units; None if the text is not a duration.

    Units must be in lower case. Several parts are added.

    >>> parse_seconds("36h"), parse_seconds("1.5 days"), parse_seconds("36"), parse_seconds("h"), parse_seconds("7M")
    (129600.0, 129600.0, None, None, None)
    >>> parse_seconds("5h50m"), parse_seconds("1 day 12h"), parse_seconds("5h50")
    (21000.0, 129600.0, None)
    """
    parts = re.findall(r"\d+(?:\.\d*)?\s*[a-z]+", text)  # Dask reads the M of 7M as minutes, not months
    if not parts or re.sub(r"\s", "", "".join(parts)) != re.sub(r"\s", "", text):
        return None
    try:
        return float(sum(parse_timedelta(part, default=False) for part in parts))
    except (KeyError, ValueError, OverflowError):
        return None


_WORDS: tuple[
    tuple[str, str | Callable[[re.Match[str]], str]], ...
] = (  # patterns of text about the Python API, and the words of the command line
    (
        r"run the same job again on another cluster",
        "run the same command on another cluster",
    ),
    (
        r"(?:call map_shards|run the (?:same )?(?:job|call)) (?:again )?with the same arguments(?: again)?",
        "run the same command again",
    ),
    (r"run the (?:same )?(?:job|call) again", "run the same command again"),
    (r"verify it with mark=True, or on the command line with --mark,", "verify it with --mark,"),
    (r"resume=False \(--no-resume\)", "--no-resume"),
    (r"MigrateV3\(\) \(--v3\) before \w+", "--v3"),
    (r"the storage option (\w+)", r"--storage \1=..."),
    (r"as storage_options|storage_options", "--storage"),
    (r"map_shards\(\.\.\., digest=True\)", "--digest"),
    (
        r"partition (?:it|the source) again(?:, and map it to another destination)?",
        "run the same command again",
    ),
    (r"open it with ShardedStore\.load", "name its shardedstore.json"),
    (r"open it with ShardedStore\.partition", "name that folder"),
    (r"give (?:the|its) source as against=", "give its source with --against"),
    (r"against=source", "--against SOURCE"),
    (r"consolidated=False", "--no-consolidated"),
    (r"\b(overwrite|consolidated|mark|digest)=True", r"--\1"),
    (r"\b(changed|level|on_error)='(\w+)'", lambda found: f"--{found[1].replace('_', '-')} {found[2]}"),
    (
        r"\b(accept_failed|max_missing|max_failures|include|exclude|shards|resume|retries|against)=(?=[\s,;:.)]|and|$)",
        lambda found: f"--{found[1].replace('_', '-')}",
    ),
)


def one_line(error: BaseException) -> str:
    r"""Return an error message as one line in the words of the command line.

    The further lines of an object store's client are left out.

    >>> one_line(ValueError("say overwrite=True\n\nDebug source: ..."))
    'say --overwrite'
    >>> one_line(ValueError("2 failed: run the same job again, and it goes on from there"))
    '2 failed: run the same command again, and it goes on from there'
    """
    return command_words(str(error).partition("\n")[0] or type(error).__name__)


def command_words(text: str) -> str:
    """Return a text about the Python API in the words of the command line.

    >>> command_words("verify it with mark=True, or on the command line with --mark, and run the same job again")
    'verify it with --mark, and run the same command again'
    """
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return text
