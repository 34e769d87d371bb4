"""The pages of docs/, read as a person would: sections and blocks."""

import re
from functools import cache

from tests.kit.support import ROOT

# ---- Reading the paper ---------------------------------------------------------------------------


@cache
def page(name: str) -> str:
    return (ROOT / name).read_text()


def section(name: str, title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    text = page(name)
    start = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert start, f"{name} has no heading '{title}'"
    end = re.search(rf"^#{{1,{len(start[1])}}} ", text[start.end() :], re.MULTILINE)
    return text[start.end() :][: end.start() if end else None]


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a language, without the indent that they have in lists."""
    fence = rf"^( *)```{language}\n(.*?)^\1```$"
    found = re.findall(fence, page(name), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]
