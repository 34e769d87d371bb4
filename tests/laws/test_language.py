"""The words: phrases that a reader has to decode stay out of pages, messages, help, comments and
titles of tests; and the pages that a newcomer reads are easy to read. CONTRIBUTING.md, "Words"."""

import re
import subprocess

import pytest

from tests.kit.support import ROOT

# Each with what to write instead. `is no longer`, `is no other` and `there is no` are English.
NOT_NO = (
    "longer|more|later|earlier|less|fewer|other|different|older|newer|better|worse|doubt|matter"
    "|one|good|reason not"
)
PHRASES = {
    rf"(?<!here )\b(?:is|are|was|were) no (?!(?:{NOT_NO})\b)": "is not a …",
    r"\bwho(?:m)?ever\b": "anyone who …, any client that …",
    r"\bin the place of\b|\banew\b|\bt(?:ake|akes|ook|aking) force\b|\bbe it (?:an?|by|TLS)\b":
        "in place of, again, take effect, whether",
    r"\bthe one (?:that|who)\b": "the noun again: the key that …",
    r"\bmanieth\b": "the number of …",
}  # fmt: skip
# What was written then; data; and this file.
LEFT_OUT = re.compile(
    r"^CHANGELOG\.md$|^LICENSE$|^constraints\.txt$|^docs/bench/|^tests/fuzz/vectors/"
    r"|^tests/kit/enterprise_fields\.txt$|^tests/laws/test_language\.py$|\.(?:json|png|svg|ico)$"
)
EASY = ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/howto-*.md")),
        *(f"docs/{name}.md" for name in ("faq", "index", "own-server", "troubleshooting",
                                         "installing", "comparison", "glossary"))]  # fmt: skip


def files() -> list[str]:
    """Those that are tracked, or will be; an archive without git has all of its files."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    named = done.stdout.splitlines() if done.returncode == 0 else []
    return [name for name in named if not LEFT_OUT.search(name) and (ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    found = []
    for name in files():
        content = (ROOT / name).read_bytes()
        if b"\0" not in content:
            found.append((name, content.decode(errors="replace")))
    return found


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_phrase_that_has_to_be_decoded(phrase: str) -> None:
    """The message says where, and what to write instead."""
    hits = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(phrase, line, re.IGNORECASE)
    ]
    assert hits == [], f"write instead: {PHRASES[phrase]}"


def test_the_site_has_every_page() -> None:
    """.ci/mkdocs.yml names each page of docs/ once."""
    pages = sorted(path.name for path in ROOT.glob("docs/*.md"))
    above = {"readme.md", "security.md", "changelog.md", "contributing.md"}
    named = re.findall(r"[\w-]+\.md", (ROOT / ".ci/mkdocs.yml").read_text().split("\nnav:")[1])
    assert sorted(set(named) - above) == pages
    assert len(named) == len(set(named))


# ---- Pages that are easy to read -----------------------------------------------------------------


def prose(text: str) -> list[str]:
    """The sentences outside code, tables and headings. A code span counts as one short word."""
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?:\||#).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "it", text).replace("*", "")
    sentences = []
    for paragraph in re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", text):
        words = re.sub(r"^(?:[-*]|\d+\.) ", "", " ".join(paragraph.split()))
        sentences += [one for one in re.split(r"(?<=[.!?])\s+", words) if one]
    return sentences


def syllables(word: str) -> int:
    """As many as groups of vowels, but for a silent e."""
    word = word.lower()
    groups = len(re.findall("[aeiouy]+", word))
    silent = word.endswith("e") and not word.endswith(("le", "ee"))
    return max(1, groups - silent)


def reading_ease(sentences: list[str]) -> float:
    """Flesch's measure: 50 to 60 is fairly difficult, 60 to 70 plain English."""
    words = re.findall(r"[A-Za-z][\w'-]*", " ".join(sentences))
    sounds = sum(map(syllables, words))
    return 206.835 - 1.015 * len(words) / len(sentences) - 84.6 * sounds / len(words)


@pytest.mark.parametrize("name", EASY)
def test_the_page_is_easy_to_read(name: str) -> None:
    """Flesch reading ease of 50 at least, and no sentence of more than 35 words."""
    sentences = prose((ROOT / name).read_text())
    assert [one for one in sentences if len(one.split()) > 35] == []
    assert reading_ease(sentences) >= 50


def test_the_measure_measures() -> None:
    """Long words and long sentences count against a page."""
    plain = ["The key stays here.", "You can see it."]
    dense = ["Organisational authentication infrastructure necessitates interoperability"]
    assert reading_ease(plain) > 90
    assert reading_ease(dense) < 0
