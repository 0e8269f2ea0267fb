"""Compare recorded values with what they should be, within a stated tolerance, and say the difference in words.

Tolerances: a number is absolute, "5%" relative, "any" never compares; None means exact for integers, strings and
booleans, and for floats 1e-6 relative on the same machine and 1e-3 on another (the order of a parallel sum differs).
A tolerance on a dict or list holds for every number inside. NaN equals only NaN.
"""

from __future__ import annotations

import math
from typing import Any

from coursekit.lesson.recording import in_words, number, parse_tolerance

SAME_MACHINE, OTHER_MACHINE = 1e-6, 1e-3
TINY = 1e-9  # absolute; so that a zero that became 1e-17 is still zero


def differences(
    was: Any, now: Any, tolerance: float | str | None, default: float = SAME_MACHINE, at: str = ""
) -> list[str]:
    """Every place where ``now`` is not ``was`` within the tolerance, one line each; empty where they agree."""
    kind, size = parse_tolerance(tolerance)
    if kind == "any":
        return []
    place = f"{at}: " if at else ""
    if isinstance(was, dict) and isinstance(now, dict):
        found = [f"{place}{key!r} is missing" for key in was if key not in now]
        found += [f"{place}{key!r} is new" for key in now if key not in was]
        for key in was:
            if key in now:
                found += differences(was[key], now[key], tolerance, default, f"{at}[{key!r}]")
        return found
    if isinstance(was, list) and isinstance(now, list):
        if len(was) != len(now):
            return [f"{place}{len(was)} values were expected, {len(now)} came"]
        return [
            line
            for i, (a, b) in enumerate(zip(was, now, strict=True))
            for line in differences(a, b, tolerance, default, f"{at}[{i}]")
        ]
    a, b = number(was), number(now)
    if a is not None and b is not None:
        exact = kind == "default" and isinstance(was, int) and isinstance(now, int)
        allowed = _allowed(kind, size, a, 0.0 if exact else default)
        if _close(a, b, 0.0 if exact else allowed):
            return []
        gap = "" if math.isnan(a - b) else f", {abs(a - b):.3g} apart, allowed {allowed:.3g}"
        return [f"{place}expected {in_words(was)}, came {in_words(now)}{gap}"]
    return [] if was == now and type(was) is type(now) else [f"{place}expected {in_words(was)}, came {in_words(now)}"]


def _allowed(kind: str, size: float, value: float, default: float) -> float:
    if kind == "absolute":
        return size
    share = size if kind == "relative" else default
    return share * abs(value) + TINY if math.isfinite(value) else 0.0


def _close(a: float, b: float, allowed: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    if math.isinf(a) or math.isinf(b):
        return a == b
    return abs(a - b) <= allowed
