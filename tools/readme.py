"""The README's generated sections, which stand between comments that name them."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def section(name: str, module: str, body: str) -> str:
    """A section as it stands in the README."""
    return f"<!-- {name}: written by results/{module}.py -->\n{body}\n<!-- /{name} -->"


def write_section(name: str, text: str) -> None:
    """Put a section in the place of the old one."""
    old = README.read_text(encoding="utf-8")
    README.write_text(re.sub(rf"<!-- {name}: .*?<!-- /{name} -->", lambda _: text, old, flags=re.S), encoding="utf-8")
