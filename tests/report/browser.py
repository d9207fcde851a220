"""Opens the written pages in a headless browser: screenshots in light, dark and at phone width, a PDF of the print, and what the console says.

As a script: `python tests/report/browser.py REPORT_DIR OUT_DIR` writes the pictures for looking at and ends with 1 if the console has a complaint or
the summary is longer than one printed page.
"""

import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

VIEWS = {"light": (1280, 2400, "1"), "dark": (1280, 2400, "0"), "phone": (500, 2400, "1"), "phone-dark": (500, 2400, "0")}  # width, height, colour scheme
PAGES = ("index.html", "summary.html")
_SECONDS = 240


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a browser made of one page: pictures by view, pages of its print, complaints of the console."""

    pictures: dict[str, pathlib.Path]
    printed_pages: int
    complaints: list[str]


def browser():
    """Returns the path of an installed browser, None without one."""
    return next((found for found in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if found), None)


def look(page, out_dir):
    """Returns what the browser makes of `page`; pictures and the PDF are left in `out_dir`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    pictures, complaints = {}, []
    for view, (width, height, scheme) in VIEWS.items():
        pictures[view] = out_dir / f"{page.stem}-{view}.png"
        complaints += _run(page, f"--screenshot={pictures[view]}", f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={scheme}")
    printed = out_dir / f"{page.stem}.pdf"
    complaints += _run(page, f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    return Seen(pictures, len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())), sorted(set(complaints)))


def _run(page, *flags):
    with tempfile.TemporaryDirectory() as profile:
        command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}", "--enable-logging=stderr"]
        done = subprocess.run([*command, *flags, page.resolve().as_uri()], capture_output=True, text=True, timeout=_SECONDS, check=False)
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line or "Content Security Policy" in line]
    return lines if done.returncode == 0 else [*lines, f"the browser ended with {done.returncode}"]


if __name__ == "__main__":
    seen = {name: look(pathlib.Path(sys.argv[1]) / name, pathlib.Path(sys.argv[2])) for name in PAGES}
    for name, one in seen.items():
        print(f"{name}: {one.printed_pages} printed pages, {len(one.complaints)} complaints of the console", *one.complaints, sep="\n  ")
    sys.exit(any(one.complaints for one in seen.values()) or seen["summary.html"].printed_pages != 1)
