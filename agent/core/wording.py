"""Numbers in messages."""


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 record", "2 records"; `noun` is the singular, of a regular plural."""
    return f"{count} {noun}{'s' * (count != 1)}"
