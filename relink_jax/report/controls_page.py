"""Writes report/controls.html and report/controls.png from results/controls.json: one self-contained page in the look of the audit's."""

import base64
import hashlib
import pathlib
from typing import Any

from relink_jax.report import controls_figure, controls_table
from relink_jax.report.page import environment
from relink_jax.store import files

PAGE, FIGURE = "controls.html", "controls.png"


def render(document: dict[str, Any], out_dir: pathlib.Path) -> pathlib.Path:
    """Writes figure and page into `out_dir`, made when absent, and returns the page's path.

    Raises: StoreError: a place that is not writable.
    """
    image = controls_figure.png(document)
    templates = environment()
    style = templates.get_template("style.css").render()
    html = templates.get_template("controls.html.j2").render(
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        synthetic=document["synthetic"],
        heading=controls_table.heading(document),
        image="data:image/png;base64," + base64.b64encode(image).decode(),
        alt=controls_table.alt_text(document, controls_figure.panels(document)),
        columns=controls_table.COLUMNS,
        rows=controls_table.rows(document),
        statements=controls_table.statements(document),
        not_released=controls_table.NOT_RELEASED,
        mechanism=[(name.replace("_", " "), str(value)) for name, value in document["mechanism"].items()],
        run=document["run"],
        digest=document["content_sha256"],
    )
    out_dir = pathlib.Path(out_dir)
    files.write_bytes(out_dir / FIGURE, image)
    files.write_text(out_dir / PAGE, html)
    return out_dir / PAGE
