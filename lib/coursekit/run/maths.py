"""Formulas of a text as MathML, which every browser draws by itself: no script, no font, no network."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_FORMULA = re.compile(
    r"^ {0,3}(?P<fence>`{3,}|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)"  # code comes first: its dollars are its own
    r"|(?<![`\\])(?P<ticks>`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)(?P=ticks)(?!`)"
    r"|\$\$(?P<block>.+?)\$\$|(?<![\\$\w])\$(?!\s)(?P<inline>[^$`\n]+)(?<!\s)\$(?!\d)",
    re.S | re.M,
)
_PLACE = re.compile(r"⟦(\d+)⟧")  # what no Markdown renderer changes


def with_formulas(text: str, render: Callable[[str], str]) -> str:
    """``render(text)``, with the ``$formulas$`` and ``$$formulas$$`` of the text kept apart from it and set as MathML.

    Dollars in code stay; a formula that is none (a learner's, half written) is shown as it was written.
    """
    formulas: list[str] = []

    def keep(match: re.Match[str]) -> str:
        latex = match["block"] or match["inline"]
        if latex is None:
            return match[0]
        try:
            made = mathml(latex, "block" if match["block"] else "inline")
        except Exception:  # whatever the converter trips over: its own errors, IndexError, ...
            made = f"<code>{html.escape(match[0])}</code>"
        formulas.append(made)
        return f"⟦{len(formulas) - 1}⟧"

    def put(match: re.Match[str]) -> str:
        number = int(match[1])
        return formulas[number] if number < len(formulas) else match[0]

    return _PLACE.sub(put, render(_FORMULA.sub(keep, text)))


def mathml(latex: str, display: str = "inline") -> str:
    """One formula as MathML; ``display`` is "inline" or "block". Raises whatever its converter raises for a broken one."""
    from latex2mathml.converter import convert

    return str(convert(latex, display=display))
