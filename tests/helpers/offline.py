"""What an HTML page would fetch from the network when it is opened."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(
    r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)\s*=\s*[\"'](?:https?:)?//[^\"']+[\"'][^>]*>", re.I
)
_IMPORT = re.compile(r"(?:@import\s+(?:url\()?|url\(|import\()\s*[\"']?https?://[^\"')]+", re.I)
_LOADED = re.compile(r"[\"'](?:https?:)?//[^\"'\s<>]+\.(?:m?js|css|woff2?)[\"']")


def outside_references(text: str) -> list[str]:
    """What the page would fetch (links to click on are not among them)."""
    return [found for pattern in (_OUTSIDE, _IMPORT, _LOADED) for found in pattern.findall(text)]
