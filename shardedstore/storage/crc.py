"""The CRC-32 of zip archives, from the fastest library there is: ISA-L takes a tenth of zlib's time."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # there is no wheel for this machine
    from zlib import crc32

__all__ = ["crc32"]
