"""Cuts a MIMIC-CXR report into sections, and finds the text that the official labelers read, by the official rule.

A header is a line that starts with exactly one space and goes on in capitals up to a colon. The rule has oddities: a header
right under another one that ends its line is text of the first, a title such as 'PA AND LATERAL CHEST:' heads findings, an
empty section of findings or impression is none. They are kept, because the published labels were read from what they leave.

References: Johnson et al. (2019), MIMIC-CXR-JPG, arXiv 1901.07042; MIT-LCP/mimic-cxr, txt/section_parser.py and txt/create_section_files.py.
"""

import dataclasses
import re

from relink_jax.cohort import sections_fixed

CONCLUSIONS = ("impression", "findings", "last_paragraph", "comparison")  # the first of these that a report has was labelled
HAND_FIXED = "hand-fixed"

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
_PARAGRAPH = "\n \n"
_NAMES = {spelling: name for name, spellings in sections_fixed.SPELLINGS.items() for spelling in spellings}
_UNDER = {str(study): name for name, studies in sections_fixed.UNDER_OTHER_HEADERS.items() for study in studies}
_SPANS = {str(study): span for study, span in sections_fixed.SPANS.items()} | {str(study): (0, 0) for study in sections_fixed.NOTHING_SAID}


@dataclasses.dataclass(frozen=True)
class Conclusions:
    """The last section of each kind that conclusions stand in, '' where a report has none, all stripped.

    Attributes:
        labelled_text: what the labelers read.
        source: the section that it is, one of `CONCLUSIONS`; `HAND_FIXED` for a study listed by number, whose sections are then
            all '' as in the official table of sections; '' when the rule finds nothing to label.
    """

    labelled_text: str
    source: str
    impression: str = ""
    findings: str = ""
    last_paragraph: str = ""
    comparison: str = ""


def parse(text: str) -> list[tuple[str, str]]:
    """Returns the (name, text) of each section of a report in its order, names normalised, texts as they stand.

    What precedes the first header is 'preamble', a report without any is one 'full report'. Where neither impression nor
    findings are left, the last section keeps its first paragraph and the rest of it becomes 'last_paragraph'.

    Example: >>> parse('FINAL REPORT\\n FINDINGS:  Clear.')  ->  [('preamble', 'FINAL REPORT\\n '), ('findings', ' Clear.')]
    """
    found = [(name, body) for name, body in _cut(text) if name not in ("impression", "findings") or body.strip()]
    if not any(name in ("impression", "findings") for name, _ in found):
        name, body = found[-1]
        first, blank, rest = body.partition(_PARAGRAPH)
        if blank:
            found[-1:] = [(name, first), ("last_paragraph", rest)]
    return found


def conclusions(text: str, study_id: str = "") -> Conclusions:
    """Returns what the official tables of sections and of texts to label hold for a report.

    Args:
        text: the report file with '\\n' line ends, not stripped: hand-fixed spans count its characters.
        study_id: the archive's number of the study, without the leading 's'; a hand-fixed one goes another way. A study
            listed with a section that its text does not have is read like any other.
    """
    if study_id in _SPANS:
        start, end = _SPANS[study_id]
        return Conclusions(text[start:end].strip(), HAND_FIXED)
    last = dict(parse(text))
    if _UNDER.get(study_id) in last:
        return Conclusions(last[_UNDER[study_id]].strip(), HAND_FIXED)
    kept = {name: last[name].strip() for name in CONCLUSIONS if name in last}
    source = next(iter(kept), "")
    return Conclusions(kept.get(source, ""), source, **kept)


def _cut(text: str) -> list[tuple[str, str]]:
    headers = list(_HEADER.finditer(text))
    if not headers:
        return [("full report", text)]
    ends = [header.start() for header in headers[1:]] + [len(text)]
    bodies = [(_name(header[1]), text[header.end() : end]) for header, end in zip(headers, ends, strict=True)]
    return [("preamble", text[: headers[0].start(1)]), *bodies]


def _name(header: str) -> str:
    """Returns the section name that a header stands for: by spelling, by what it contains, or itself in lower case."""
    header = header.lower().strip()
    if header in _NAMES:
        return _NAMES[header]
    for name in sections_fixed.CONTAINED:
        if name in header:
            return name
    return "findings" if any(title in header for title in sections_fixed.TITLES) else header
