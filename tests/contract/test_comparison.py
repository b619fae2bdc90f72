"""The comparison with other tools has what its script writes: tables between markers, and a picture."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.contract.test_docs import ROOT
from tests.lab.bench_peers import NEEDS_LIBVIRT, PAGE, PICTURE, README, REAL, SHORT, SIMULATED, replaced
from tests.lab.peers import BARE_LOOP, BY_LIBVIRT, BY_QMP, COLLECTD, TELEGRAF, TOOLS

SVG = "{http://www.w3.org/2000/svg}"


def part_of(name: str) -> str:
    """Return what the script has written into the page between the markers of a part."""
    text = (README if name == SHORT else PAGE).read_text()
    begin, end = f"<!-- begin of {name} -->", f"<!-- end of {name} -->"
    assert (text.count(begin), text.count(end)) == (1, 1)
    return text.partition(begin)[2].partition(end)[0]


def table_of(name: str) -> list[list[str]]:
    """Return the cells of the table between the markers, without the line below its head."""
    rows = re.findall(r"^\| (.*?) *\|$", part_of(name).replace("| |", "|  |"), re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows if "---" not in row]


def test_the_real_part_has_a_column_for_each_tool() -> None:
    head, *rows = table_of(REAL)

    assert head[-len(TOOLS) :] == list(TOOLS)
    assert {len(row) for row in rows} == {len(TOOLS) + 1}
    assert {row[0] for row in rows} >= {
        "old values with a new time",
        "mean age of a value",
        "reported for a guest without driver",
        "CPU for each update, tool + libvirtd",
        "memory of the tool (PSS)",
    }


def test_the_simulated_part_says_which_tools_need_a_real_libvirt() -> None:
    _, *rows = table_of(SIMULATED)

    for number in ("50", "500"):
        cells = {row[1]: row[2:] for row in rows if row[0] == number}
        assert list(cells) == list(TOOLS)
        for tool in (COLLECTD, TELEGRAF):
            assert set(cells[tool]) == {NEEDS_LIBVIRT}
        for tool in (BARE_LOOP, BY_LIBVIRT, BY_QMP):
            assert NEEDS_LIBVIRT not in cells[tool]


def test_the_readme_has_a_line_for_each_tool_and_a_link() -> None:
    _, *rows = table_of(SHORT)

    assert [row[0] for row in rows] == list(TOOLS)
    assert "(docs/comparison.md)" in README.read_text().partition(f"<!-- end of {SHORT} -->")[2][:400]


def test_each_measured_part_states_its_load() -> None:
    for name in (REAL, SIMULATED):
        assert re.search(r"load average of \d+\.\d to \d+\.\d", part_of(name).replace("\n", " "))


def test_the_picture_is_in_the_page_and_readable_on_light_and_dark() -> None:
    text = PICTURE.read_text()
    drawn = ElementTree.fromstring(text)

    titles = ["".join(each.itertext()) for each in drawn.iter(f"{SVG}text")]
    assert f"]({PICTURE.relative_to(PAGE.parent)})" in PAGE.read_text()
    assert {"second monitor", *TOOLS} <= set(titles)
    assert drawn.findtext(f"{SVG}title")
    assert drawn.findtext(f"{SVG}desc")
    assert "prefers-color-scheme: dark" in text


def test_the_page_names_each_tool_and_the_command() -> None:
    text = PAGE.read_text()

    assert [tool for tool in (COLLECTD, TELEGRAF, BARE_LOOP) if f"**{tool}**" not in text] == []
    named = set(re.findall(r"python -m (tests[\w.]+)", text))
    assert "tests.lab.bench_peers" in named
    assert [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


def test_a_page_without_markers_is_not_written() -> None:
    with pytest.raises(ValueError, match="no markers"):
        replaced("# A page\n", REAL, "")
