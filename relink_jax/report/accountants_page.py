"""Renders a comparison of privacy ledgers as one self-contained HTML page for readers who have never seen an accountant.

It takes the JSON-ready document of `relink accountants compare` and computes nothing: every number on the page is in the document.
Nothing is loaded from anywhere: one style sheet allowed by its hash, figures as data: images, no script. Equal documents give equal bytes.
"""

import base64
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relink_jax import errors
from relink_jax.report import accountants_figures
from relink_jax.report import accountants_words as words
from relink_jax.report.page import environment
from relink_jax.store import files

KIND = "relink accountants compare"
_FIGURES = (
    (
        "trade-off",
        "How well any test could do",
        accountants_figures.trade_off,
        "Whoever tries to tell whether one unit was used makes two kinds of mistakes: false alarms and misses. The solid line is the fewest misses that the "
        "promise allows at each rate of false alarms; no test can get below it. The nearer to the dashed line of guessing, the stronger the promise.",
    ),
    (
        "delta",
        "Epsilon at every delta",
        accountants_figures.epsilon_of_delta,
        "A run has a whole curve, not one epsilon: a smaller delta, the chance that the bound fails, costs a larger epsilon. Compare runs at one delta only.",
    ),
    (
        "steps",
        "Epsilon over training",
        accountants_figures.over_steps,
        "Every noisy step spends some more. Both lines bound the same run; the lower one is the tighter bound, not a more private run.",
    ),
    (
        "noise",
        "Noise that each accountant asks for",
        accountants_figures.noise_needed,
        "Read from the epsilon you want up to the lines: how much noise each accountant needs to state it for this batch and this number of steps.",
    ),
)


def write(document: Mapping[str, Any], path: pathlib.Path, title: str = "Privacy accounts side by side") -> pathlib.Path:
    """Writes the page of a comparison and returns its path; see `render`."""
    path = pathlib.Path(path)
    files.write_text(path, render(document, title))
    return path


def render(document: Mapping[str, Any], title: str = "Privacy accounts side by side") -> str:
    """Returns the page as HTML.

    Args:
        document: of `relink accountants compare --json`; figures only where its runs hold curves.

    Raises: StoreError: a document of another kind, or without runs.
    """
    if document.get("kind") != KIND or not document.get("runs"):
        raise errors.StoreError(errors.describe("document", "accountants page", f"a {KIND!r} document with runs", repr(document.get("kind"))))
    templates = environment()
    style = templates.get_template("style.css").render()
    return str(
        templates.get_template("accountants.html.j2").render(
            title=title,
            style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
            document=document,
            lead=words.lead(document),
            runs=[(run, words.reading(run), words.tables(run)) for run in document["runs"]],
            overview=words.overview(document),
            ranking=words.ranking(document),
            flags=words.flags(document),
            facts=words.facts,
            number=words.number,
            totals=document["compositions"],
            figures=_figures(document["runs"]),
        )
    )


def _figures(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Returns the figures that the runs' curves allow: id, title, caption, alt text, and the desktop and phone images."""
    panels = [(str(run["name"]), run["curves"]) for run in runs if run.get("curves")]
    if not panels:
        return []
    named = ", ".join(name for name, _ in panels)
    return [
        {
            "id": name,
            "title": title,
            "caption": caption,
            "alt": f"{title}: one line chart per run ({named}). {caption}",
            "desktop": _data_uri(draw(panels, False)),
            "phone": _data_uri(draw(panels, True)),
        }
        for name, title, draw, caption in _FIGURES
    ]


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
