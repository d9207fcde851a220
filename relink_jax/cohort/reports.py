"""How the sections of a report become the one text that is embedded.

Design note: the sections are joined without headers, since a header is the same word in every report and says nothing
about the patient; whitespace is the only thing normalised, so that 'identical text' stays close to 'identical bytes'.
"""

TEXT_FIELDS = ("findings+impression", "findings", "impression", "report_text")


def normalise(text: str) -> str:
    """Returns `text` with runs of whitespace made single spaces and the ends stripped."""
    return " ".join(text.split())


def join_sections(findings: str, impression: str) -> str:
    """Returns findings and impression as one normalised text; an empty section leaves the other one alone.

    Example: >>> join_sections('Lungs are clear.', 'No acute process.')  ->  'Lungs are clear. No acute process.'
    """
    return normalise(f"{findings} {impression}")
