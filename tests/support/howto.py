"""What a page of the documentation tells to type or to write into a file, for tests that do just that."""

import re
from pathlib import Path

PAGES = Path(__file__).resolve().parents[2] / "docs" / "howto"


def load_block(page: str, heading: str, number: int = 0) -> str:
    """Give a block of code below a heading of a how-to, the first unless told."""
    text = (PAGES / page).read_text()
    (section,) = re.findall(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", text, re.MULTILINE | re.DOTALL)
    blocks: list[str] = re.findall(r"^```\w*\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return blocks[number]
