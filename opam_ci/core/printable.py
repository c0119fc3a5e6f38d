"""Hostile text made fit to print: logs, names and messages of others."""


def printable(text: str) -> str:
    """Returns text with a space for each control character, which are hostile to terminals."""
    return "".join(char if char.isprintable() else " " for char in text)


def escaped(text: str) -> str:
    """Returns text with control characters as Python escapes them, to identify each."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def flat(text: str) -> str:
    """Returns text on one line, without control characters."""
    return " ".join(printable(text).split())


def clip(text: str, limit: int) -> str:
    """Returns text of at most `limit` characters, the last one an ellipsis if it was longer."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
