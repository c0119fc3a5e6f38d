"""The page of incidents, and the same as an Atom feed."""

from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from starlette.requests import Request
from starlette.responses import Response

from opam_ci.clients.index import IncidentFilter, Index, Place
from opam_ci.core.incidents.model import Incident
from opam_ci.core.printable import printable
from opam_ci.core.text.status import incident_title
from opam_ci.web.formats import evidence_line
from opam_ci.web.rendering import answer
from opam_ci.web.site import Site

_OPEN = IncidentFilter(is_open=True)
_OVER = IncidentFilter(is_open=False)
_SHOWN = 30
_OPEN_SHOWN = 200
_CURSOR_LENGTH = 200
_ATOM = "http://www.w3.org/2005/Atom"


class IncidentPages:
    """The pages about incidents."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def page(self, request: Request) -> Response:
        """Answers with open incidents, and a page of those that are over."""
        ask = self._site.sources.ask
        after = request.query_params.get("after")
        place = Place(limit=_SHOWN, after=after and after[:_CURSOR_LENGTH])
        over = await ask(Index.incidents, _OVER, place=place)
        opened = await ask(Index.incidents, _OPEN, place=Place(limit=_OPEN_SHOWN))
        return self._site.page(
            request, "incidents.html", open=opened.items, over=over.items, following=over.following
        )

    async def atom(self, request: Request) -> Response:
        """Answers with the incidents seen last, as a feed."""
        found = await self._site.sources.ask(Index.incidents, place=Place(limit=_SHOWN))
        here = f"{request.url.scheme}://{request.url.netloc}"
        content = feed(found.items, self._site.sources.public_url or here)
        return answer(request, content, media_type="application/atom+xml")


def feed(incidents: tuple[Incident, ...], base: str) -> bytes:
    """Returns incidents as an Atom feed (RFC 4287).

    Args:
        incidents: The last seen first.
        base: Address of this site, without a slash at its end.
    """
    root = ET.Element("feed", xmlns=_ATOM)
    updated = max(map(_updated, incidents), default=datetime(1970, 1, 1, tzinfo=UTC))
    _put(root, "id", f"{base}/incidents")
    _put(root, "title", "Incidents of opam-ci")
    _put(root, "updated", updated.isoformat())
    ET.SubElement(root, "link", rel="self", href=f"{base}/incidents.atom")
    ET.SubElement(root, "link", rel="alternate", href=f"{base}/incidents")
    for each in incidents:
        entry = ET.SubElement(root, "entry")
        address = f"{base}/incidents#incident-{each.id}"
        state = "open" if each.is_open else "over"
        _put(entry, "id", address)
        _put(entry, "title", f"{state}: {incident_title(each)}")
        _put(entry, "published", each.first_seen_at.isoformat())
        _put(entry, "updated", _updated(each).isoformat())
        ET.SubElement(entry, "link", rel="alternate", href=address)
        author = ET.SubElement(entry, "author")
        _put(author, "name", "opam-ci")
        _put(entry, "summary", evidence_line(each.evidence))
    content: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return content


def _updated(incident: Incident) -> datetime:
    return incident.resolved_at or incident.last_seen_at


def _put(parent: ET.Element, name: str, text: str) -> None:
    # XML has no control characters, not even escaped; nor is a lone surrogate a character.
    legal = printable(text).encode("utf-8", "replace").decode()
    ET.SubElement(parent, name).text = legal
