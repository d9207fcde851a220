"""How the sections of a report become the one text that is embedded.

Design note: the sections are joined without headers, since a header is the same word in every report and says nothing
about the patient; whitespace is the only thing normalised, so that 'identical text' stays close to 'identical bytes'.
"""

import re

TEXT_FIELDS = ("findings+impression", "findings", "impression", "report_text", "labelled_text")

_MONTH = r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[ \t]*[ap]\.?m\b\.?)?|\b\d{1,2}[ \t]*[ap]\.?m\b\.?"
_MASKED = re.compile(
    "|".join(
        (
            rf"\bwet read\b[^\n]{{0,80}}?(?:{_TIME})",  # 'WET READ: ___ ___ 10:32 AM'
            r"^[ \t]*(?:accession|acc)\b[^\n:#]{0,20}[:#][^\n]*$",  # the whole line
            r"_{3,}",  # MIMIC-CXR, always three
            r"\bX{4,}\b",  # Open-I
            r"\b\d{4}-\d{1,2}-\d{1,2}\b|\b\d{1,2}[/.-]\d{1,2}[/.-](?:\d{4}|\d{2})\b",
            rf"\b{_MONTH}[ \t]+\d{{1,2}}(?:st|nd|rd|th)?,?[ \t]+\d{{4}}\b|\b\d{{1,2}}[ \t]+{_MONTH},?[ \t]+\d{{4}}\b",
        )
    ),
    re.IGNORECASE | re.MULTILINE,
)


def normalise(text: str) -> str:
    """Returns `text` with runs of whitespace made single spaces and the ends stripped."""
    return " ".join(text.split())


def mask_placeholders(text: str) -> str:
    """Returns `text` without what links a report to its archive but is in no image.

    Taken out: de-identification placeholders (`___` of MIMIC-CXR, `XXXX` of Open-I), dates written with a day, accession lines, and
    'WET READ ...' up to its time. Ages, times elsewhere and dates without a year stay; so does the punctuation around what went. Give it
    the text before `normalise`, since an accession line ends where its line ends.
    """
    return _MASKED.sub("", text)


def join_sections(findings: str, impression: str) -> str:
    """Returns findings and impression as one normalised text; an empty section leaves the other one alone.

    Example: >>> join_sections('Lungs are clear.', 'No acute process.')  ->  'Lungs are clear. No acute process.'
    """
    return normalise(f"{findings} {impression}")
