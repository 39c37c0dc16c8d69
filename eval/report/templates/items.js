"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const ROW = 62;
  const SPARE = 6;
  const fields = ["id", "set", "category", "view", "type", "outcome", "tools"];
  const items = data.items.map((line, number) => {
    const item = Object.fromEntries(fields.map((name, place) => [name, line[place]]));
    item.number = number;
    item.text = line.join(" ").toLowerCase().replaceAll("_", " ");
    return item;
  });
  const byId = new Map(items.map((item) => [item.id, item]));
  const sheet = document.getElementById("sheet");
  const list = sheet.querySelector("ol");
  const form = document.getElementById("filters");
  const article = document.getElementById("item");
  const find = (selector) => article.querySelector(selector);
  let shown = items;
  let current = null;

  // Content of the scripts next to the page, by kind and number; a script is loaded when it is first needed.
  const held = new Map();
  const load = (kind, number) => {
    const name = `${kind}-${String(number).padStart(4, "0")}`;
    if (!held.has(name)) {
      let ready;
      const promise = new Promise((resolve, reject) => {
        ready = resolve;
        const script = document.createElement("script");
        script.src = `${name}.js`;
        script.onerror = () => reject(new Error(`${name}.js is missing next to this page; run indus-cot report again`));
        document.head.append(script);
      });
      held.set(name, { promise, ready });
    }
    return held.get(name).promise;
  };
  window.receive = (kind, number, values) => held.get(`${kind}-${String(number).padStart(4, "0")}`).ready(values);
  const of = async (kind, size, item) => (await load(kind, Math.floor(item.number / size)))[item.number % size];

  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const words = (name) => name.replaceAll("_", " ");

  // Only the visible part of the list is in the document.
  const rows = new Map();
  const draw = () => {
    const sideways = getComputedStyle(list).getPropertyValue("--sideways").trim() === "1";
    const size = sideways ? 104 : ROW;
    const offset = sideways ? sheet.scrollLeft : sheet.scrollTop;
    const room = sideways ? sheet.clientWidth : sheet.clientHeight;
    list.style[sideways ? "width" : "height"] = `${shown.length * size}px`;
    list.style[sideways ? "height" : "width"] = "";
    const first = Math.max(0, Math.floor(offset / size) - SPARE);
    const last = Math.min(shown.length, Math.ceil((offset + room) / size) + SPARE);
    const wanted = new Set(shown.slice(first, last));
    for (const [item, row] of rows)
      if (!wanted.has(item)) {
        row.remove();
        rows.delete(item);
      }
    for (let place = first; place < last; place++) {
      const item = shown[place];
      let row = rows.get(item);
      if (!row) {
        row = entry(item);
        rows.set(item, row);
        list.append(row);
      }
      row.style.transform = sideways ? `translateX(${place * size}px)` : `translateY(${place * size}px)`;
      const link = row.firstChild;
      if (item === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };

  const entry = (item) => {
    const row = element("li");
    const link = element("a");
    link.href = `#${encodeURIComponent(item.id)}`;
    link.dataset.id = item.id;
    const image = element("img");
    image.alt = "";
    image.width = image.height = 48;
    const said = element("span");
    said.append(element("span", words(item.category), "name"), element("span", data.outcomes[item.outcome], `what ${item.outcome}`));
    link.append(image, said);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      select(item);
      address();
    });
    row.append(link);
    of("thumbnails", data.thumbnails, item).then((uri) => {
      if (uri) image.src = uri;
    }, fail);
    return row;
  };

  const fail = (error) => {
    const place = document.getElementById("nothing");
    place.textContent = error.message;
    place.hidden = false;
  };

  const box = ([x1, y1, x2, y2], kind, badge) => {
    const mark = element("span", undefined, `mark ${kind}${y1 < 70 ? " at-top" : ""}${y2 > 900 ? " low" : ""}`);
    Object.assign(mark.style, { left: `${x1 / 10}%`, top: `${y1 / 10}%`, width: `${(x2 - x1) / 10}%`, height: `${(y2 - y1) / 10}%` });
    mark.title = `${kind === "truth" ? "truth" : "prediction"} [${x1}, ${y1}, ${x2}, ${y2}]`;
    if (badge) mark.append(element("b", words(badge)));
    return mark;
  };

  const number = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  const boxes = (found) => found.map((one) => `[${one.join(", ")}]`).join(" ") || "–";

  const show = (item, detail) => {
    find("h3").textContent = `${words(item.category)}${item.view === "default" ? "" : `, view ${item.view}`}`;
    const outcome = find(".outcome");
    outcome.textContent = data.outcomes[item.outcome];
    outcome.className = `outcome ${item.outcome}`;
    find(".facts").textContent = `${item.id} · ${words(item.set)} · part ${detail.part_id}`;
    const frame = find(".frame");
    frame.replaceChildren();
    frame.style.aspectRatio = `${detail.width}/${detail.height}`;
    frame.style.setProperty("--ratio", (detail.width / detail.height).toFixed(4));
    if (detail.image) {
      const image = element("img");
      image.src = detail.image;
      image.alt = `Inspected image: ${words(item.category)}`;
      frame.append(image);
    }
    for (const one of detail.true_boxes) frame.append(box(one, "truth", detail.true_type));
    for (const one of detail.boxes) frame.append(box(one, "verdict answered", detail.defect_type));
    find("figcaption").textContent = detail.image
      ? `${detail.width} × ${detail.height} px${detail.area_fraction === null ? "" : `, the defect covers ${number(100 * detail.area_fraction, 2)} % of it`}.`
      : "The image cannot be decoded.";
    const cells = [
      ["defect", detail.true_answer, detail.answer ?? "not parsed"],
      ["type", words(detail.true_type ?? "–"), words(detail.defect_type ?? "–")],
      ["where", detail.true_answer === "Yes" && !detail.true_boxes.length ? "not published" : boxes(detail.true_boxes), boxes(detail.boxes)],
    ];
    find(".verdicts tbody").replaceChildren(
      ...cells.map(([name, ...values]) => {
        const row = element("tr");
        const head = element("th", name);
        head.scope = "row";
        row.append(head, ...values.map((value) => element("td", value)));
        return row;
      }),
    );
    const fault = find(".fault");
    fault.hidden = !detail.fault;
    fault.textContent = detail.fault;
    find(".steps").replaceChildren(...detail.turns.map(step));
    const facts = {
      "parsed by": { strict: "the grammar", tolerant: "the grammar, with deviations in form", rules: "the rules for free text", unparsed: "nothing: no verdict", failed: "nothing: no answer" }[detail.parse],
      "margin of Yes over No": `${number(detail.margin, 2)} nats`,
      "answer before any observation": detail.answer_before ?? "–",
      calls: `${detail.calls}, ${detail.observed} with a result`,
      tokens: `${detail.input_tokens} read, ${detail.output_tokens} written`,
      seconds: number(detail.seconds, 2),
      cost: `${number(detail.cost_usd, 4)} US$`,
    };
    find(".provenance dl").replaceChildren(
      ...Object.entries(facts).flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
    );
    article.hidden = false;
  };

  const step = (turn) => {
    const made = element("li", undefined, `step${turn.images.length ? " pictured" : ""}`);
    const said = element("div", undefined, "said");
    said.append(element("p", turn.text || "(nothing)", "written"));
    if (turn.observation !== null && !turn.images.length) said.append(element("p", turn.observation, "returned"));
    if (turn.lost) said.append(element("p", "The image that the tool returned then cannot be shown: the tool returns a different image now.", "warn"));
    made.append(said);
    if (turn.images.length) {
      const figure = element("figure", undefined, "observation");
      for (const source of turn.images) {
        const image = element("img");
        image.src = source;
        image.alt = "What the tool returned";
        figure.append(image);
      }
      figure.append(element("figcaption", turn.observation ?? "", "returned"));
      made.append(figure);
    }
    return made;
  };

  const select = (item) => {
    current = item;
    const place = shown.indexOf(item);
    document.getElementById("previous").disabled = place <= 0;
    document.getElementById("next").disabled = place < 0 || place >= shown.length - 1;
    document.getElementById("position").textContent = item ? `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "";
    const nothing = document.getElementById("nothing");
    nothing.hidden = Boolean(item);
    if (!item) article.hidden = true;
    else {
      const sideways = getComputedStyle(list).getPropertyValue("--sideways").trim() === "1";
      const size = sideways ? 104 : ROW;
      const [offset, room] = sideways ? [sheet.scrollLeft, sheet.clientWidth] : [sheet.scrollTop, sheet.clientHeight];
      if (place * size < offset || (place + 1) * size > offset + room) {
        const to = place * size - room / 2 + size / 2;
        sheet.scrollTo(sideways ? { left: to } : { top: to });
      }
      of("items", data.details, item).then((detail) => {
        if (item === current) show(item, detail);
      }, fail);
    }
    draw();
  };

  const address = () => {
    if (current) history.replaceState(null, "", `#${encodeURIComponent(current.id)}`);
  };

  const fits = (item, wanted, texts) => {
    for (const [name, value] of Object.entries(wanted)) {
      if (!value) continue;
      if (name === "tool") {
        if (value === "none" ? item.tools.length : !item.tools.includes(value)) return false;
      } else if (item[name] !== value) return false;
    }
    return texts.every((text) => item.text.includes(text));
  };

  const filter = () => {
    const { text, ...wanted } = Object.fromEntries(new FormData(form));
    const texts = text.toLowerCase().replaceAll("_", " ").split(/\s+/).filter(Boolean);
    shown = items.filter((item) => fits(item, wanted, texts));
    document.getElementById("shown-count").textContent = `${shown.length.toLocaleString("en")} of ${items.length.toLocaleString("en")}`;
    sheet.scrollTo(0, 0);
    select(shown.includes(current) ? current : shown[0] ?? null);
  };

  const follow = () => {
    let id = location.hash.slice(1);
    try {
      id = decodeURIComponent(id);
    } catch {
      return;
    }
    const item = byId.get(id);
    if (!item) return;
    if (!shown.includes(item)) {
      for (const field of form.elements) if (field.name) field.value = "";
      filter();
    }
    select(item);
  };

  const move = (by) => {
    const item = shown[shown.indexOf(current) + by];
    if (!item) return;
    select(item);
    address();
  };
  const refilter = () => {
    filter();
    address();
  };

  form.addEventListener("input", refilter);
  form.addEventListener("reset", () => setTimeout(refilter));
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("previous").addEventListener("click", () => move(-1));
  document.getElementById("next").addEventListener("click", () => move(1));
  sheet.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  window.addEventListener("resize", draw);
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "ArrowRight" || event.key === "j") move(1);
    else if (event.key === "ArrowLeft" || event.key === "k") move(-1);
    else if (event.key === "/") form.elements.text.focus();
    else return;
    event.preventDefault();
  });

  filter();
  follow();
})();
