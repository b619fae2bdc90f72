"""Each link in a package's docs leads to a page of the package, and each image is in the package."""

import re
from pathlib import Path

from release.documents import copy_docs

ROOT = Path(__file__).parents[2]


def test_links_stay_within_the_package_and_others_become_text(tmp_path: Path) -> None:
    folder = tmp_path / "doc"
    copy_docs(ROOT, folder)
    pages = {page: page.read_text() for page in folder.rglob("*.md")}
    links = [
        (page, target)
        for page, text in pages.items()
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    ]

    assert not [(page.name, each) for page, each in links if not (page.parent / each).resolve().exists()]
    assert all((page.parent / each).resolve().is_relative_to(folder) for page, each in links)
    assert (folder / "images/page.webp").is_file()
    assert any(each == "configuration.md" for _, each in links)
    assert "[configuration.md](configuration.md)" in pages[folder / "kubernetes.md"]
    assert "helm/barograph" in pages[folder / "kubernetes.md"]
    assert len(pages) == len([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/decisions/*.md")])
