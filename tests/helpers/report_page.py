"""Reads the report's page as text, and visits it with a browser."""

from html.parser import HTMLParser
from pathlib import Path

from playwright.sync_api import BrowserContext, Page


class Tables(HTMLParser):
    """Parser that collects the cells of each table by caption, without header rows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows_by_caption: dict[str, list[list[str]]] = {}
        self._caption = self._cell = ""
        self._rows: list[list[str]] = []
        self._inside: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside.add(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag: str) -> None:
        self._inside.discard(tag)
        if tag in ("td", "th"):
            self._rows[-1].append(" ".join(self._cell.split()))
        elif tag == "thead":
            self._rows = []
        elif tag == "table":
            self.rows_by_caption[self._caption.strip()] = self._rows

    def handle_data(self, data: str) -> None:
        if "caption" in self._inside:
            self._caption += data
        elif self._inside & {"td", "th"}:
            self._cell += data


class Visit:
    """An open report, with the browser's requests and errors."""

    def __init__(self, context: BrowserContext, path: Path, fragment: str = "") -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.url = path.as_uri()
        self.page.goto(self.url + fragment)

    def external_requests(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("data:", self.url))]

    def visible_ids(self) -> list[str]:
        return self.page.eval_on_selector_all(
            "article.trajectory", "all => all.filter(a => a.checkVisibility()).map(a => a.id)"
        )

    def shown_count(self) -> str:
        return self.page.inner_text("#shown-count")
