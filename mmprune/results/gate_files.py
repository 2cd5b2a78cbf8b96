"""What a gate found, for people, for CI systems (JUnit's XML) and for their summaries (Markdown)."""

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree

from mmprune.results.gate import FAILED, PASSED, UNDECIDED, Outcome

NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MARKS = {PASSED: "ok", FAILED: "FAILED", UNDECIDED: "undecided"}


def lines(outcomes: Sequence[Outcome]) -> str:
    """One line for each limit, and a last one that counts."""
    rows = [f"{MARKS[o.result]:<9}  {o.check}: {o.file}: {o.words}" for o in outcomes]
    return "\n".join([*rows, _count(outcomes)])


def _count(outcomes: Sequence[Outcome]) -> str:
    count = Counter(o.result for o in outcomes)
    return ", ".join(f"{count[name]} {name}" for name in (FAILED, UNDECIDED, PASSED) if count[name])


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A table with one row for each limit."""
    rows = [[MARKS[o.result], o.check, o.file, o.limit, o.words] for o in outcomes]
    text = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    head = ["| result | check | file | limit | measured |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([f"### mmprune gate: {_count(outcomes)}", "", *head, *text]) + "\n"


def _cell(text: str) -> str:
    """The text as a cell: names from a file may hold what would end the cell, the row or the text."""
    shown = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", shown)


def junit(outcomes: Sequence[Outcome], strict: bool = False) -> str:
    """A test suite with a test case for each limit; what is undecided is skipped, and with `strict` a failure."""
    count = Counter(FAILED if strict and o.result == UNDECIDED else o.result for o in outcomes)
    suite = ElementTree.Element("testsuite", name="mmprune gate", tests=str(len(outcomes)),
                                failures=str(count[FAILED]), skipped=str(count[UNDECIDED]), errors="0")
    for o in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(f"{o.check}.{o.file}"), name=o.limit)
        if o.result == FAILED or (strict and o.result == UNDECIDED):
            ElementTree.SubElement(case, "failure", message=_xml(o.words)).text = _xml(o.words)
        elif o.result == UNDECIDED:
            ElementTree.SubElement(case, "skipped", message=_xml(o.words))
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(o.words)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=False) + "\n"


def _xml(text: str) -> str:
    return NOT_IN_XML.sub("\ufffd", text)
