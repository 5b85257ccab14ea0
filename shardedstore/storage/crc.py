"""The CRC-32 of zip archives, computed by ISA-L if it is installed: ten times as fast as zlib."""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:  # isal has no wheel for some platforms
    from zlib import crc32

__all__ = ["crc32"]
