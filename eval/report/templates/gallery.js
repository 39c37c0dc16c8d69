"use strict";
(() => {
  const articles = [...document.querySelectorAll("article.trajectory")];
  if (!articles.length) return;
  const form = document.getElementById("filters");
  const entries = new Map([...document.querySelectorAll("#sheet a")].map((link) => [link.dataset.of, link]));
  const shownCount = document.getElementById("shown-count");
  const position = document.getElementById("position");
  const nothing = document.getElementById("nothing");
  const previous = document.getElementById("previous");
  const next = document.getElementById("next");
  const texts = new Map();
  let shown = articles;
  let current = null;

  const textOf = (article) => {
    if (!texts.has(article)) texts.set(article, article.textContent.toLowerCase().replace(/\s+/g, " "));
    return texts.get(article);
  };

  const fits = (article, wanted, words) => {
    for (const [key, value] of Object.entries(wanted)) {
      if (!value) continue;
      if (key === "tool") {
        const tools = article.dataset.tools.split(" ").filter(Boolean);
        if (value === "none" ? tools.length : !tools.includes(value)) return false;
      } else if (article.dataset[key] !== value) return false;
    }
    return words.every((word) => textOf(article).includes(word));
  };

  const select = (article, scroll) => {
    if (current) current.classList.remove("current");
    for (const link of entries.values()) link.removeAttribute("aria-current");
    current = article;
    nothing.hidden = Boolean(article);
    const place = shown.indexOf(article);
    previous.disabled = place <= 0;
    next.disabled = place < 0 || place >= shown.length - 1;
    position.textContent = article ? `${place + 1} of ${shown.length}` : "";
    if (!article) return;
    article.classList.add("current");
    const link = entries.get(article.id);
    link.setAttribute("aria-current", "true");
    const sheet = document.getElementById("sheet");
    const item = link.parentElement;
    sheet.scrollTo({
      top: item.offsetTop - sheet.clientHeight / 2 + item.offsetHeight / 2,
      left: item.offsetLeft - sheet.clientWidth / 2 + item.offsetWidth / 2,
    });
    if (scroll) document.getElementById("browser").scrollIntoView({ block: "start" });
  };

  const address = () => {
    if (current) history.replaceState(null, "", `#${encodeURIComponent(current.id)}`);
  };

  const go = (article, scroll) => {
    if (!article) return;
    select(article, scroll);
    address();
  };

  const filter = () => {
    const { text, ...wanted } = Object.fromEntries(new FormData(form));
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    shown = articles.filter((article) => fits(article, wanted, words));
    const kept = new Set(shown);
    for (const article of articles) entries.get(article.id).parentElement.hidden = !kept.has(article);
    shownCount.textContent = `${shown.length} of ${articles.length}`;
    select(kept.has(current) ? current : shown[0] || null, false);
  };

  const follow = (scroll) => {
    let id = location.hash.slice(1);
    try {
      id = decodeURIComponent(id);
    } catch {
      return false;
    }
    const article = articles.find((item) => item.id === id);
    if (!article) return false;
    if (!shown.includes(article)) {
      for (const field of form.elements) if (field.name) field.value = "";
      filter();
    }
    select(article, scroll);
    return true;
  };

  const step = (by) => go(shown[shown.indexOf(current) + by], false);

  const refilter = () => {
    filter();
    address();
  };

  form.addEventListener("input", refilter);
  form.addEventListener("reset", () => setTimeout(refilter));
  form.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => step(-1));
  next.addEventListener("click", () => step(1));
  for (const article of articles) {
    entries.get(article.id).addEventListener("click", (event) => {
      event.preventDefault();
      go(article, true);
    });
  }
  window.addEventListener("hashchange", () => follow(true));

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "ArrowRight" || event.key === "j") step(1);
    else if (event.key === "ArrowLeft" || event.key === "k") step(-1);
    else if (event.key === "/") form.elements.text.focus();
    else return;
    event.preventDefault();
  });

  // A toggle applies to all trajectories, so it keeps its state when another one is opened.
  document.addEventListener("change", (event) => {
    const kind = event.target.dataset.toggle;
    if (!kind) return;
    for (const box of document.querySelectorAll(`input[data-toggle="${kind}"]`)) box.checked = event.target.checked;
  });

  const light = (event, on) => {
    const from = event.target.closest && event.target.closest("article [data-step]");
    if (!from) return;
    for (const number of from.dataset.step.split(" "))
      for (const item of from.closest("article").querySelectorAll(`[data-step~="${number}"]`)) item.classList.toggle("lit", on);
  };
  document.addEventListener("mouseover", (event) => light(event, true));
  document.addEventListener("mouseout", (event) => light(event, false));

  filter();
  if (!follow(true)) select(shown[0], false);
})();
