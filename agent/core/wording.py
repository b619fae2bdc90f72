"""Numbers and foreign text in messages and records."""


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 record", "2 records"; `noun` is the singular, of a regular plural."""
    return f"{count} {noun}{'s' * (count != 1)}"


def without_backticks(text: str) -> str:
    """Return a text of the documentation for a place that shows no Markdown."""
    return text.replace("`", "")


def printable(text: str, characters_max: int) -> str:
    """Return a peer's text bounded and printable: without control, bidi and surrogate characters."""
    shown = text[:characters_max]
    if shown.isprintable():
        return shown
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown
    )
