"""Separates texts for people from the recorded files, since nothing but these texts may change."""

import re

_IN_JSON = re.compile(r'("(?:detail|why)": ?)("(?:[^"\\]|\\.)*")')


class Texts:
    """The texts of one recorded file, in order. The file itself contains `<text>` instead."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def out_of(self, json_text: str) -> str:
        """Return JSON with `<text>` in the place of every text for people."""
        return _IN_JSON.sub(self._take, json_text)

    def put(self, text: str) -> None:
        """Add a text."""
        self._found.append(text)

    def file(self) -> str:
        """Return the content of the file of texts."""
        return "".join(f"{each}\n" for each in self._found)

    def _take(self, match: re.Match[str]) -> str:
        self._found.append(match[2])
        return f'{match[1]}"<text>"'
