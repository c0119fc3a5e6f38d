"""A badge: the state of a head as an image for other sites."""

from typing import Final
from xml.etree import ElementTree as ET

from opam_ci.core.jobs.summary import State

_TEXTS: Final = {
    State.SUCCESS: ("passed", "#00694f"),
    State.FAILURE: ("failed", "#a8300a"),
    State.ERROR: ("CI error", "#7a2f9a"),
    State.PENDING: ("testing", "#0b5f96"),
}
_NAME = "opam-ci"
_CHARACTER = 7
"""Width of a character in units of the image; a text is stretched to fit what it gets."""

_HEIGHT = 20


def badge(state: State) -> bytes:
    """Returns the image, an SVG document of its own."""
    text, colour = _TEXTS[state]
    left, right = (_CHARACTER * len(each) + 12 for each in (_NAME, text))
    width = str(left + right)
    root = ET.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "width": width, "height": str(_HEIGHT)},
        role="img",
    )
    root.set("aria-label", f"{_NAME}: {text}")
    ET.SubElement(root, "title").text = f"{_NAME}: {text}"
    ET.SubElement(root, "rect", width=str(left), height=str(_HEIGHT), fill="#3a4048")
    ET.SubElement(root, "rect", x=str(left), width=str(right), height=str(_HEIGHT), fill=colour)
    for at, length, word in ((6, left - 12, _NAME), (left + 6, right - 12, text)):
        label = ET.SubElement(root, "text", x=str(at), y="14", fill="#fff", textLength=str(length))
        label.set("font-family", "Verdana,DejaVu Sans,sans-serif")
        label.set("font-size", "11")
        label.text = word
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=False)
    return content
