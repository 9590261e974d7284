"""docs/bad-input.md as the cases say."""

import re
from pathlib import Path

from tests.bad_inputs import CASES

__all__ = ["PAGE", "rendered"]

PAGE = Path(__file__).parents[2] / "docs" / "bad-input.md"


def rendered(text: str) -> str:
    """A page with the table of every area, which stands between two comments."""

    def block(match: re.Match[str]) -> str:
        rows = [f"| {c.wrong} | {_code(c.message)} |" for c in CASES[match[1]]]
        lines = ["| what is wrong | what is said |", "|---|---|", *rows]
        return "\n".join([f"<!-- cases: {match[1]} -->", *lines, "<!-- end -->"])

    # A message may hold the comment too, but not as a line of its own.
    pattern = r"^<!-- cases: ([\w ]+) -->\n.*?^<!-- end -->$"
    return re.sub(pattern, block, text, flags=re.DOTALL | re.MULTILINE)


def _code(message: str) -> str:
    mark, space = ("``", " ") if "`" in message else ("`", "")
    return f"{mark}{space}{message}{space}{mark}".replace("|", r"\|")
