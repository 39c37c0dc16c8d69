"""Tests the report in a browser without a network."""

import json

import numpy as np
import polars as pl
import pytest
from playwright.sync_api import expect

from tests.helpers.report_page import Visit


def test_every_image_loads(opened, rows):
    broken = opened.page.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => 0, () => 1))).then(a => a.reduce((x, y) => x + y))"
    )
    assert broken == 0
    stored = sum(
        bool((turn["observation"] or {}).get("image_sha256"))
        for text in rows["trajectory"]
        for turn in json.loads(text)["turns"]
    )
    assert opened.page.locator(".observation img").count() == stored > 0
    assert opened.page.title() == "Indus-CoT: corpus report"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_window(chromium, workspace, rows, width, scheme):
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    visit = Visit(context, workspace.reports / "index.html")
    wide = visit.page.evaluate(
        """() => {
          for (const item of document.querySelectorAll("details")) item.open = true;
          const widths = [document.documentElement.scrollWidth];
          for (let n = 1; n < document.querySelectorAll("article").length; n++) {
            document.getElementById("next").click();
            widths.push(document.documentElement.scrollWidth);
          }
          return widths;
        }"""
    )
    assert wide == [width] * len(rows)
    assert visit.external_requests() == [] and visit.errors == []
    context.close()


def test_filters_change_list_and_count(opened, rows):
    page, total = opened.page, len(rows)
    assert opened.shown_count() == f"{total} of {total}"
    page.select_option("[name=answer]", "Yes")
    defective = rows.filter(pl.col("answer") == "Yes")
    assert opened.shown_count() == f"{len(defective)} of {total}"
    assert page.locator("#sheet li:visible").count() == len(defective)
    page.select_option("[name=tool]", "prior")
    with_prior = defective.filter(pl.col("tool_calls").list.contains("prior"))
    assert opened.shown_count() == f"{len(with_prior)} of {total}"
    page.select_option("[name=category]", "flange")
    assert opened.shown_count() == f"{len(with_prior.filter(pl.col('category') == 'flange'))} of {total}"
    page.click("button[type=reset]")
    expect(page.locator("#shown-count")).to_have_text(f"{total} of {total}")
    page.select_option("[name=tool]", "none")
    assert opened.shown_count() == f"{sum(len(tools) == 0 for tools in rows['tool_calls'])} of {total}"
    page.select_option("[name=tool]", "")
    for name, column in (("type", "defect_type"), ("view", "view"), ("split", "split")):
        value = rows[column].drop_nulls().sort()[0]
        page.select_option(f"[name={name}]", value)
        assert opened.shown_count() == f"{len(rows.filter(pl.col(column) == value))} of {total}"
        page.select_option(f"[name={name}]", "")
    page.fill("[name=text]", "ONERROR inspection")
    assert opened.shown_count() == f"{sum('onerror' in text for text in rows['trajectory'])} of {total}"
    page.fill("[name=text]", "no such words")
    assert opened.shown_count() == f"0 of {total}" and opened.visible_ids() == []
    assert page.is_visible("#nothing") and page.is_disabled("#next") and page.is_disabled("#previous")


def test_keys_and_buttons_step_through(opened):
    page = opened.page
    page.select_option("[name=answer]", "No")
    page.keyboard.press("Escape")
    order = page.eval_on_selector_all("article[data-answer=No]", "all => all.map(a => a.id)")
    assert opened.visible_ids() == [order[0]] and page.is_disabled("#previous")
    page.click("#next")
    assert opened.visible_ids() == [order[1]]
    assert page.evaluate("location.hash") == f"#{order[1]}"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("j")
    assert opened.visible_ids() == [order[3]] and page.inner_text("#position") == f"4 of {len(order)}"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("k")
    page.click("#previous")
    assert opened.visible_ids() == [order[0]]
    page.keyboard.press("/")
    page.keyboard.type("jjj")
    assert page.input_value("[name=text]") == "jjj"
    page.fill("[name=text]", "")
    page.click(f'#sheet a[data-of="{order[-1]}"]')
    assert opened.visible_ids() == [order[-1]] and page.is_disabled("#next")


def test_deep_link_overrides_filters(chromium, workspace, rows):
    target = rows.filter(pl.col("answer") == "Yes")["id"][-1]
    context = chromium.new_context(reduced_motion="reduce")
    visit = Visit(context, workspace.reports / "index.html", f"#{target}")
    assert visit.visible_ids() == [target]
    assert visit.page.evaluate(f"document.getElementById('{target}').getBoundingClientRect().top") < 400
    visit.page.select_option("[name=answer]", "No")
    assert target not in visit.visible_ids()
    visit.page.evaluate(f"location.hash = '{target}'")
    expect(visit.page.locator(f"[id='{target}']")).to_be_visible()
    assert visit.visible_ids() == [target] and visit.shown_count() == f"{len(rows)} of {len(rows)}"
    context.close()


def test_boxes_and_toggles(opened, rows):
    page = opened.page
    page.select_option("[name=answer]", "Yes")
    [shown] = opened.visible_ids()
    frame = page.locator(f"[id='{shown}'] .frame").bounding_box()
    box = page.locator(f"[id='{shown}'] .mark.verdict").first.bounding_box()
    drawn = [
        (box["x"] - frame["x"]) / frame["width"],
        (box["y"] - frame["y"]) / frame["height"],
        (box["x"] + box["width"] - frame["x"]) / frame["width"],
        (box["y"] + box["height"] - frame["y"]) / frame["height"],
    ]
    [truth] = rows.filter(pl.col("id") == shown)["boxes"].to_list()
    assert np.allclose(drawn, np.array(truth[0]) / 1000, atol=0.005)
    visible = "article.current .mark.{}:visible"
    assert page.locator(visible.format("verdict")).count() and not page.locator(visible.format("patch")).count()
    page.uncheck("article.current [data-toggle=verdict]")
    page.check("article.current [data-toggle=patch]")
    assert not page.locator(visible.format("verdict")).count() and page.locator(visible.format("patch")).count() == 1
    page.click("#next")
    assert not page.locator(visible.format("verdict")).count() and page.locator(visible.format("patch")).count() == 1


def test_step_highlights_tool_region(opened, rows):
    page = opened.page
    target = rows.filter(pl.col("tool_calls").list.len() == 4)["id"][0]
    page.click(f'#sheet a[data-of="{target}"]')
    assert page.locator("article.current .mark.tool:not(.line):visible b").all_inner_texts() == [
        "1",
        "3",
        "4.1",
        "4.2",
        "4.3",
    ]
    page.hover("article.current .step[data-step='3'] .thought")
    assert page.locator("article.current .frame .lit").all_inner_texts() == ["3"]
    page.uncheck("article.current [data-toggle=tool]")
    assert page.locator("article.current .mark.tool:visible").count() == 0


def test_page_works_without_scripts(chromium, workspace, rows):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((workspace.reports / "index.html").as_uri())
    assert page.locator("article.trajectory:visible").count() == len(rows)
    assert page.locator("#filters:visible, .pager:visible").count() == 0
    assert page.locator("#sheet a").count() == len(rows)
    context.close()
