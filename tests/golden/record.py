"""Writes the files that the golden tests compare with: `python -m tests.golden.record`.

Review the diff before you commit it. Texts for people are in `recorded/texts/` and may change on purpose;
programs and earlier versions rely on everything else.
"""

import shutil
from pathlib import Path

from tests.golden.made import made

RECORDED = Path(__file__).parent / "recorded"


def main() -> None:
    """Write every file, and remove those that are no longer made."""
    shutil.rmtree(RECORDED, ignore_errors=True)
    for name, content in made().items():
        path = RECORDED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
