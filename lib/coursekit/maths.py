"""Formulas of a text as MathML, which every browser draws by itself: no script, no font, no network."""

from __future__ import annotations

import re
from collections.abc import Callable

_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?!\s)([^$\n]+)(?<!\s)\$(?!\d)", re.S)
_PLACE = re.compile(r"⟦(\d+)⟧")  # what no Markdown renderer changes


def with_formulas(text: str, render: Callable[[str], str]) -> str:
    """``render(text)``, with the ``$formulas$`` and ``$$formulas$$`` of the text kept apart from it and set as MathML."""
    formulas: list[tuple[str, str]] = []

    def keep(match: re.Match[str]) -> str:
        formulas.append((match[1], "block") if match[1] else (match[2], "inline"))
        return f"⟦{len(formulas) - 1}⟧"

    made = render(_FORMULA.sub(keep, text))
    return _PLACE.sub(lambda match: mathml(*formulas[int(match[1])]), made)


def mathml(latex: str, display: str = "inline") -> str:
    """One formula as MathML; ``display`` is "inline" or "block"."""
    from latex2mathml.converter import convert

    return str(convert(latex, display=display))
