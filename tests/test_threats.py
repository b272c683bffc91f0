"""docs/operate/threats.md says which test attacks which row; here it is held to that."""

import re

from harness import ROOT

PAGE = ROOT / "docs" / "operate" / "threats.md"


def rows():
    lines = re.findall(r"^\| (A\d+) \| (.+?) \| (.+?) \|$", PAGE.read_text(), flags=re.M)
    return {row: attacked for row, _, attacked in lines}


def attacks():
    """Row → names of the tests that are called after it."""
    found = {}
    for path in (ROOT / "tests").glob("test_*.py"):
        for number, name in re.findall(r"^def test_a(\d+)_(\w+)", path.read_text(), flags=re.M):
            found.setdefault(f"A{number}", []).append(name)
    return found


def test_every_row_is_attacked_or_said_not_to_be():
    said, found = rows(), attacks()
    assert sorted(said, key=lambda row: int(row[1:])) == [f"A{n}" for n in range(1, 19)]
    for row, text in said.items():
        claims = f"`test_a{row[1:]}_*`" in text
        assert claims == (row in found), f"{row}: the page and the tests differ"
        assert claims or "not yet: " in text or "crates/" in text, f"{row} says neither a test nor why there is none"


def test_what_the_page_names_exists():
    text = PAGE.read_text()
    for name in re.findall(r"`(?:tests/)?(test_\w+\.py)`", text):
        assert (ROOT / "tests" / name).is_file(), name
    for name in re.findall(r"`((?:crates|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    assert re.search(r"fn a5_\w+", (ROOT / "crates/vault/src/issuer/tests.rs").read_text()), "the ninety days"
