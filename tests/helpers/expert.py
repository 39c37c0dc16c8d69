"""An expert who uses the review page in a real browser."""

import json
from typing import Any

from playwright.sync_api import Browser, Dialog, FloatRect, Locator, Page

from tests.servers.label_studio_server import Server

LONGEST_MS = 180_000
"""Timeout of a page; other servers may start at the same time."""
LARGE = (1920, 1080)
SMALL = (1366, 768)
SHOWN = """() => {
  const images = [...document.querySelectorAll('img')].filter(image => image.getAttribute('src'));
  const texts = document.querySelector('.prior-images') ? '.review-left' : '.review-steps';
  return images.some(image => image.src.startsWith('blob:') || image.closest('.prior-images'))
    && images.every(image => image.naturalWidth)
    && document.querySelector('[data-testid=bottombar-submit-button]:not([disabled])')
    && (!document.querySelector('.review') || document.querySelector(`${texts} [data-testid=textarea-region]`));
}"""
"""JavaScript that tells whether a page is ready: all images are loaded (the inspected one from a blob, those of a prior
in its text), the prefilled texts of a review page are shown, and the page can be submitted."""
ANSWERS = "() => JSON.stringify(Htx.annotationStore.selected.serializeAnnotation())"


class Expert:
    """An expert who is logged in, with one window of ``size`` pixels."""

    def __init__(self, browser: Browser, server: Server, size: tuple[int, int] = LARGE) -> None:
        self.server = server
        self.page: Page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        self.page.set_default_timeout(LONGEST_MS)
        self.complaints: list[str] = []
        self.page.on("dialog", self._refuse)
        self._goto("/user/login/")
        self.page.fill("input[name=email]", server.email)
        self.page.fill("input[name=password]", server.password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda url: "login" not in url, wait_until="domcontentloaded")

    def _refuse(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def _goto(self, path: str) -> None:
        # The page also requests resources outside this machine, so `load` may come late or never.
        self.page.goto(self.server.url + path, wait_until="domcontentloaded")

    def begin(self, project: int) -> dict[str, Any]:
        """Open the label stream of the project's first tab; return the data of the first task."""
        self._goto(f"/projects/{project}/data")
        return self._next(self.page.get_by_role("button", name="Label All Tasks"))

    def submit(self) -> dict[str, Any]:
        """Submit the page; return the data of the next task when its page is ready, or nothing after the last task."""
        return self._next(self.page.get_by_test_id("bottombar-submit-button"))

    def _next(self, button: Locator) -> dict[str, Any]:
        with self.page.expect_response(lambda answer: "id=next_task" in answer.url) as waited:
            button.click()
        answer = waited.value
        if answer.status != 200:
            return {}
        task = answer.json()
        self._ready(task["id"])
        return dict(task["data"])

    def _ready(self, task: int) -> None:
        self.page.wait_for_function(f"() => window.Htx && Htx.task && Htx.task.id === {task}")
        self.page.wait_for_function(SHOWN)

    def answers(self) -> list[dict[str, Any]]:
        """Return the results that would be submitted now."""
        return list(json.loads(self.page.evaluate(ANSWERS)))

    def text(self, name: str) -> Locator:
        """Return the box of a text, such as ``think_0`` or ``call_1``."""
        return self.page.get_by_test_id("textarea-region").filter(has=self.page.locator(f'[name^="{name}:"]'))

    def edit(self, name: str) -> Locator:
        """Open the box of a text with a click; return its input."""
        box = self.text(name)
        box.get_by_test_id("htx-textbox-edit-button").click()
        return box.get_by_test_id("htx-textbox-input")

    def write(self, name: str, text: str) -> None:
        """Replace a text."""
        field = self.edit(name)
        field.fill(text)
        field.press("Shift+Enter")
        field.wait_for(state="detached")

    def tick(self, value: str) -> None:
        """Choose Yes, No or a verdict."""
        self.page.locator(f'input[name="{value}"]').check(force=True)

    def choose_type(self, value: str) -> None:
        """Choose a type of defect."""
        self.page.locator(".review-final [data-testid^=select-trigger]").click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def rate(self, number: int, stars: int) -> None:
        """Give stars to rating ``number``: 0 is the evidence, 1 the logic."""
        self.page.locator(".review-final .ant-rate").nth(number).locator(".ant-rate-star").nth(stars - 1).click()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag on the image from one point to another, both 0-1000."""
        (x1, y1), (x2, y2) = self.at(start), self.at(end)
        self.page.mouse.move(x1, y1)
        self.page.mouse.down()
        self.page.mouse.move((x1 + x2) / 2, (y1 + y2) / 2, steps=4)
        self.page.mouse.move(x2, y2, steps=4)
        self.page.mouse.up()

    def at(self, point: tuple[float, float]) -> tuple[float, float]:
        """Convert a point of the image, in 0-1000, to pixels of the window."""
        area = self.area(".review-left img")
        return area["x"] + area["width"] * point[0] / 1000, area["y"] + area["height"] * point[1] / 1000

    def area(self, selector: str) -> FloatRect:
        """Return the bounding box of an element in the window."""
        found = self.page.locator(selector).first.bounding_box()
        assert found is not None, selector
        return found
