"""Splits a file of Flink SQL into its statements."""

import re

_SET = re.compile(r"SET\s+'([^']+)'\s*=\s*'([^']*)'", re.IGNORECASE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)


def statements(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the settings of a file, and its other statements in order.

    A statement ends with a semicolon and an empty line, or the end of the file: so those within
    `EXECUTE STATEMENT SET BEGIN ... END` stay together.
    """
    settings: dict[str, str] = {}
    found: list[str] = []
    for part in re.split(r";[ \t]*(?:\n\s*\n|\s*\Z)", _COMMENT.sub("", text)):
        statement = part.strip()
        if setting := _SET.fullmatch(statement):
            settings[setting[1]] = setting[2]
        elif statement.upper().startswith("EXECUTE"):  # Flink's parser wants the semicolon of this one
            found.append(f"{statement};")
        elif statement:
            found.append(statement)
    return settings, found
