"""`make docs` builds the site without a warning, and its pages load nothing from other sites."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_site_builds_strictly_and_loads_nothing_from_other_sites(tmp_path: Path) -> None:
    site = tmp_path / "site"
    words = ["--quiet", "--fail-on-warning", "--fresh-env", "--builder", "html"]
    folders = ["--conf-dir", ROOT / "docs/site", "--doctree-dir", tmp_path / "doctrees", ROOT, site]

    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, *folders],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()
    assert "contract" in (site / "searchindex.js").read_text()
    loaded = {
        address
        for page in site.rglob("*.html")
        for tag in re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", page.read_text())
        for address in re.findall(r'(?:src|href)="([^"]+)"', tag)
    }
    assert len(loaded) > 10
    assert {address for address in loaded if re.match(r"(?:https?:)?//", address)} == set()
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", styles) == []
