"""A quiz cell: its question, its options, and the fold-outs that hide which one is right until someone clicks."""

from __future__ import annotations

import re

_OPTION = re.compile(r"^- \[( |x)\] (.+?) -> (.+)$")
_FOLDED = re.compile(r"^<details><summary>(.+?)</summary>(✓|✗) (.+?)</details>$")
_OPTION_LINE = re.compile(r"^- \[[ x]\] ")
_INLINE = (  # Markdown is not rendered inside <details>, so the little that options need is written as HTML
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>", re.compile(r"<code>(.+?)</code>"), r"`\1`"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>", re.compile(r"<strong>(.+?)</strong>"), r"**\1**"),
    (re.compile(r"\*([^*]+)\*"), r"<em>\1</em>", re.compile(r"<em>(.+?)</em>"), r"*\1*"),
)
_ESCAPES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


def quiz_options(source: str) -> list[tuple[bool, str, str]]:
    """The options of a quiz cell: (right, text, feedback)."""
    found = [_OPTION.match(line) for line in source.splitlines()]
    return [(match[1] == "x", match[2], match[3]) for match in found if match]


def asked(source: str) -> str:
    """The question of a quiz cell, without its options."""
    return "\n".join(line for line in source.split("\n") if not _OPTION_LINE.match(line)).strip()


def fold_quiz(source: str) -> str:
    """Each option ``- [x] text -> feedback`` as a fold-out that hides whether it is right; other lines stay."""
    lines = []
    for line in source.split("\n"):
        match = _OPTION.match(line)
        if not match:
            lines.append(line)
            continue
        mark = "✓" if match[1] == "x" else "✗"
        lines.append(f"<details><summary>{to_html(match[2])}</summary>{mark} {to_html(match[3])}</details>")
    return "\n".join(lines)


def unfold_quiz(source: str) -> str:
    """The inverse of ``fold_quiz``."""
    lines = []
    for line in source.split("\n"):
        match = _FOLDED.match(line)
        if not match:
            lines.append(line)
            continue
        lines.append(f"- [{'x' if match[2] == '✓' else ' '}] {_from_html(match[1])} -> {_from_html(match[3])}")
    return "\n".join(lines)


def to_html(text: str) -> str:
    """One line of Markdown as HTML: `code`, *em* and **strong**; all else as it stands."""
    for plain, escaped in _ESCAPES:
        text = text.replace(plain, escaped)
    for pattern, put, _, _ in _INLINE:
        text = pattern.sub(put, text)
    return text


def _from_html(text: str) -> str:
    for _, _, pattern, put in reversed(_INLINE):
        text = pattern.sub(put, text)
    for plain, escaped in reversed(_ESCAPES):
        text = text.replace(escaped, plain)
    return text
