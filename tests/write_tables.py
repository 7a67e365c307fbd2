"""Write the tables of the documentation that come from the code: python tests/write_tables.py

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; a test fails when one is stale.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

from attnbench.registry import Registry
from attnbench.reports.catalogue import families
from attnbench.reports.usage import SETTINGS, settings

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def option_table(group: str) -> str:
    """Return a row for each option of `trainer` or `optimizer`."""
    rows = [
        f"| `{group}.{s.name}` | `{s.type.replace('|', chr(92) + '|')}` | `{s.default}` | {s.description} |"
        for s in settings(SETTINGS[group])
    ]
    assert len(rows) == len(fields(SETTINGS[group]))
    return "\n".join(["| option | type | default | what it sets |", "|---|---|---|---|", *rows])


def component_table() -> str:
    """Return a row for each family of components that ships."""
    rows = []
    for heading, components in families(Registry.load()).items():
        names = ", ".join(f"`{component.name}`" for component in components if component.shipped)
        chosen, _, what = heading.partition(",")
        rows.append(f"| `{chosen}`{what and f',{what}'} | {names} |")
    return "\n".join(["| choose by | what ships |", "|---|---|", *rows])


TABLES: Mapping[str, Callable[[], str]] = {
    "trainer": lambda: option_table("trainer"),
    "optimizer": lambda: option_table("optimizer"),
    "components": component_table,
}
PAGES = tuple(ROOT / name for name in ("README.md", "attnbench/README.md"))


def filled(text: str) -> str:
    """Return a page with its tables written anew."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[4]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
