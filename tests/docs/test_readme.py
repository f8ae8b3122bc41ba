"""The README says what the code does."""

from __future__ import annotations

import re

from readme import README, updated


def test_the_example_prints_its_numbers_and_the_table_is_the_codes() -> None:
    text = README.read_text()
    assert updated(text) == text


def test_links_lead_somewhere() -> None:
    for page in [README, *(README.parent / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_each_set_up_command_is_one_line() -> None:
    for name in ("main", "tests"):
        block = re.search(rf"<!-- fresh-machine: {name} -->\n```\n(.*?)```", README.read_text(), re.DOTALL)
        assert block is not None and block[1].count("\n") == 1
