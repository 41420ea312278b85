"""A page in headless Chromium, in a frame of a given width: its console, how wide it gets, a picture."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--hide-scrollbars",
    # Time in the page passes at once where it waits for nothing.
    "--virtual-time-budget=5000",
)
# Runs in the page: unfolds everything, walks through it so that every figure is drawn, sorts by every column.
_WALK = """<script>addEventListener("load", async () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (let top = 0; top < document.documentElement.scrollHeight; top += 500) {
    scrollTo(0, top);
    await new Promise((done) => setTimeout(done, 20));
  }
  for (const button of document.querySelectorAll("th button")) { button.click(); }
  const root = document.documentElement, drawn = document.querySelectorAll(".plot svg.main-svg").length;
  scrollTo(0, 0);
  setTimeout(() => console.log(`MEASURED ${root.scrollWidth} ${root.clientWidth} ${root.scrollHeight} ${drawn}`), 300);
});</script>"""
_CONSOLE = re.compile(r'CONSOLE[:(]\d+\)?\] "(.*?)", source:', re.DOTALL)


@dataclass(frozen=True)
class Seen:
    """What a page did: its width and that of its frame, its height, its number of drawings, its console's lines."""

    width: int
    frame: int
    height: int
    drawings: int
    console: tuple[str, ...]


def look(page: Path, width: int, folder: Path, picture: Path | None = None, height: int = 3000) -> Seen:
    """Open a copy of the page in a frame of so many pixels, as MLflow shows artifacts, and walk through it.

    folder: new and empty, for the copy and the browser's profile.
    """
    assert CHROMIUM is not None
    text = page.read_text()
    (folder / "page.html").write_text(text.replace("</body>", _WALK + "</body>"))
    frame = f'<iframe src="page.html" style="border:0;width:{width}px;height:{height}px"></iframe>'
    (folder / "frame.html").write_text(f'<body style="margin:0">{frame}</body>')
    command = [
        CHROMIUM,
        *_OPTIONS,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 500)},{height}",
        f"--screenshot={picture or folder / 'page.png'}",
        (folder / "frame.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = _CONSOLE.findall(done.stderr)
    measured = [line.split()[1:] for line in lines if line.startswith("MEASURED ")]
    assert measured, done.stderr[-3000:]
    others = tuple(line for line in lines if not line.startswith("MEASURED "))
    return Seen(*map(int, measured[0]), others)
