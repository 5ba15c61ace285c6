"""Contract: docs/compatibility.md names every call there is, and what it calls the same or safer is there."""

import re

from python_support import ROOT

PAGE = (ROOT / "docs" / "compatibility.md").read_text()
ROWS = re.findall(r"^\| (`.+?) \| (same|safer|no) \|", PAGE, re.MULTILINE)
OURS = {"counters"}


def names(state):
    return {name for row, row_state in ROWS if row_state == state for name in re.findall(r"`(\w+)`", row)}


def test_every_method_and_type_is_on_the_page(real):
    methods = {name for name in dir(real.MooncakeDistributedStore) if not name.startswith("_")}
    assert methods - OURS - names("same") - names("safer") - names("no") == set()
    types = {name for name, value in vars(real).items() if isinstance(value, type) and not name.startswith("_")}
    assert types - {"MooncakeDistributedStore"} - names("same") - names("safer") == set()


def test_what_the_page_says_is_here_is_here(real):
    for name in names("same") | names("safer"):
        assert hasattr(real, name) or hasattr(real.MooncakeDistributedStore, name), name


def test_what_is_not_in_the_module_is_not(real):
    missing = {name for row, state in ROWS for name in re.findall(r"`(\w+)`", row) if state == "no"}
    there = {name for name in missing if hasattr(real, name) or hasattr(real.MooncakeDistributedStore, name)}
    refused = {"init_all"}
    assert there == refused, "those that answer with a code; the others are AttributeError"
