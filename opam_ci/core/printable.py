"""Hostile text made fit to print: logs, names and messages of others."""


def printable(text: str) -> str:
    """Returns text with a space for each control character, which are hostile to terminals."""
    return "".join(char if char.isprintable() else " " for char in text)


def readable(text: str) -> str:
    """Returns text whose only control characters are line ends and tabs; others become spaces.

    Controls are those of C0 and C1, which start a terminal's sequences, and marks that change the
    direction of writing: all that `str.isprintable` refuses.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else " " for char in text)


def escaped(text: str) -> str:
    """Returns text with control characters as Python escapes them, to identify each."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def flat(text: str) -> str:
    """Returns text on one line, without control characters."""
    return " ".join(printable(text).split())


def clip(text: str, limit: int) -> str:
    """Returns text of at most `limit` characters, the last one an ellipsis if it was longer."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
