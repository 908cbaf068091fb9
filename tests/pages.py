"""What is wrong with a folder of pages: links that lead nowhere, and what is fetched from elsewhere."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """A page's ids, and its links: each with its tag and address."""

    def __init__(self, file: Path):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id"))
        self.links += [(tag, given[name]) for name in ("href", "src") if given.get(name)]


def read(folder: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in sorted(folder.rglob("*.html"))}


def dead(pages: dict[Path, Page]) -> list[str]:
    """Links to a file, or to a place in a page, that is not there."""
    found = []
    for file, page in pages.items():
        for _, link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (file.parent / unquote(address.path)).resolve() if address.path else file
            there = target.exists()
            if there and address.fragment and target in pages:
                # A browser looks for it as it is written first.
                there = bool({address.fragment, unquote(address.fragment)} & pages[target].ids)
            if not there:
                found.append(f"{file.name}: {link}")
    return found


def from_elsewhere(pages: dict[Path, Page]) -> list[str]:
    """What a browser would fetch from another host to show a page."""
    return [
        f"{file.name}: {tag} {link}"
        for file, page in pages.items()
        for tag, link in page.links
        if tag != "a" and (urlsplit(link).scheme in ("http", "https") or link.startswith("//"))
    ]
