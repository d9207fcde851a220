"""What each model's authors did to a text before cutting it into tokens; a rule takes one text and returns one.

Every rule is a function of the text alone, so a report's features never depend on the reports beside it.
"""

import html
import re
import string
from collections.abc import Callable

_HEADERS = frozenset(("EXAMINATION:", "EXAM:", "INDICATION:", "HISTORY:", "TECHNIQUE:", "COMPARISON:", "FINDINGS:"))
_ENDS = (("RECOMMENDATION(S):", "RECOMMENDATION:", "RECOMMENDATIONS:"), ("NOTIFICATION:", "NOTIFICATIONS:"))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def unchanged(text: str) -> str:
    """Returns the text itself."""
    return text


def unescaped(text: str) -> str:
    """Returns the text with HTML entities resolved twice and whitespace collapsed (open_clip tokenizer.py, clean 'whitespace').

    open_clip runs ftfy before that. It is never run here, installed or not, so that a text has the same ids on every machine; one that
    ftfy would repair (mojibake, curly quotes, ligatures, full-width letters) keeps its characters.
    """
    return " ".join(html.unescape(html.unescape(text)).split())


def unended(text: str) -> str:
    """Returns the text without the `!`, `?` and `.` at its very end (hi-ml text/data/io.py)."""
    return text.rstrip("!?.")


def impression(text: str) -> str:
    """Returns the impression of a whole report (CheXzero data_process.py `write_report_csv`), a single space where it is empty.

    Words after the last `IMPRESSION:` up to the first recommendation or notification header of the whole report, as upstream has it
    (one that stands before the impression empties it). A report without that word is 'NO IMPRESSION'; but a text that has none of a
    report's other headers either is no whole report but a section or a prompt, and upstream tokenizes those as they are.
    """
    words = text.split()
    if "IMPRESSION:" not in words:
        whole = not _HEADERS.isdisjoint(words) or "FINAL REPORT" in " ".join(words[:2])
        return "NO IMPRESSION" if whole else " ".join(words) or " "
    begin = len(words) - words[::-1].index("IMPRESSION:")
    ends = [next((words.index(word) for word in names if word in words), 0) for names in _ENDS]
    return " ".join(words[begin : min((end for end in ends if end), default=None)]) or " "


def canonical(text: str) -> str:
    """Returns the text in lower case, without ASCII punctuation and with whitespace collapsed (big_vision prompt_engineering.py)."""
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


def sentences(text: str) -> str:
    """Returns the lower-case ASCII words of all sentences of more than one word (gloria models/gloria_model.py `process_text`)."""
    found = []
    for point in re.split(r"[0-9]+\.", text.replace("\n", " ")):
        for sentence in point.split("."):
            words = re.findall(r"\w+", sentence.replace("\ufffd\ufffd", " ").lower())
            if len(words) > 1:
                plain = (word.encode("ascii", "ignore").decode("ascii") for word in words)
                found.append(" ".join(word for word in plain if word))
    return " ".join(found)


CLEANING: dict[str, Callable[[str], str]] = {
    "unchanged": unchanged,
    "unescaped": unescaped,
    "unended": unended,
    "impression": impression,
    "canonical": canonical,
    "sentences": sentences,
}
