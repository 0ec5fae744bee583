"use strict";

// What the pages have in common: search, groups, filters, order, drawing as the reader scrolls, keys.
// A page calls `begin` with its view; text is only ever set as text.
//
// view.one, view.many: what an example is called
// view.groups: [{key, name, tone, holds(example)}], of which an example is in one
// view.orders: {key: [name, compare]}, the first of them at the start
// view.filters: [{key, name, choices: [[value, text]], holds(example, value)}], "" being all
// view.text(example): what is searched; view.card(example): its <article>
const page = JSON.parse(document.getElementById("data").textContent);
const CARDS_AT_ONCE = 8;
const TURNS_AT_FIRST = 14, TURNS_MORE = 200;
const LONG_TEXT = 700, LONG_LABEL = 60;

const element = (id) => document.getElementById(id);
const list = element("list");
const collator = new Intl.Collator(undefined, { numeric: true });
const count = (n) => n.toLocaleString("en");
let view, state = {}, words = [], shown = [], drawn = 0, watcher;

function begin(what) {
  view = what;
  for (const { key, name } of [{ key: "all", name: "All" }, ...view.groups]) {
    const button = make("button", { type: "button" }, [name, make("small")]);
    button.dataset.key = key;
    button.addEventListener("click", () => change({ group: key }));
    element("groups").append(button);
  }
  for (const { key, name, choices } of view.filters ?? []) addSelect(key, name, choices);
  addSelect("order", "Order", Object.entries(view.orders).map(([key, [name]]) => [key, name]));
  let waiting = 0;
  element("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ query: element("search").value }), 120);
  });
  window.addEventListener("hashchange", readHash);
  document.addEventListener("keydown", onKey);
  watcher = new IntersectionObserver(
    (seen) => seen.some((entry) => entry.isIntersecting) && drawMore(),
    { rootMargin: "1500px" },
  );
  readHash();
}

function addSelect(key, name, choices) {
  const options = choices.map(([value, text]) => make("option", { value }, [text]));
  const select = make("select", { id: key }, options);
  select.addEventListener("change", () => change({ [key]: select.value }));
  document.querySelector(".toolbar").append(
    make("label", { className: "choice " + key }, [make("span", {}, [name]), select]),
  );
}

// What is shown

function starting() {
  const filters = (view.filters ?? []).map(({ key, choices }) => [key, choices[0][0]]);
  return { query: "", group: "all", order: Object.keys(view.orders)[0], ...Object.fromEntries(filters) };
}

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  state = starting();
  state.query = hash.get("q") || "";
  for (const key of Object.keys(state)) {
    const value = hash.get(key);
    const allowed =
      key === "group"
        ? view.groups.some((group) => group.key === value)
        : key !== "query" && [...element(key).options].some((option) => option.value === value);
    if (allowed) state[key] = value;
  }
  element("search").value = state.query;
  update();
}

function change(part) {
  Object.assign(state, part);
  const hash = new URLSearchParams(), usual = starting();
  if (state.query.trim()) hash.set("q", state.query.trim());
  for (const key of Object.keys(state)) {
    if (key !== "query" && state[key] !== usual[key]) hash.set(key, state[key]);
  }
  history.replaceState(null, "", "#" + hash);
  update();
  const bar = document.querySelector(".toolbar");
  if (list.getBoundingClientRect().top < bar.offsetHeight) {
    scrollTo({ top: bar.previousElementSibling.offsetHeight + 20 });
  }
}

function update() {
  words = state.query.trim().split(/\s+/u).filter(Boolean).map(pattern);
  const filters = view.filters ?? [];
  const found = page.examples.filter(
    (example) =>
      matches(example) && filters.every(({ key, holds }) => !state[key] || holds(example, state[key])),
  );
  const sizes = { all: found.length };
  for (const example of found) {
    const { key } = groupOf(example);
    sizes[key] = (sizes[key] ?? 0) + 1;
  }
  shown = found.filter((example) => state.group === "all" || groupOf(example).key === state.group);
  shown.sort(view.orders[state.order][1]);
  for (const button of element("groups").children) {
    button.lastChild.textContent = count(sizes[button.dataset.key] ?? 0);
    button.setAttribute("aria-pressed", String(button.dataset.key === state.group));
  }
  for (const key of ["order", ...filters.map((filter) => filter.key)]) element(key).value = state[key];
  const total = page.examples.length;
  const name = total === 1 ? view.one : view.many;
  element("count").textContent =
    shown.length === total ? `${count(total)} ${name}` : `${count(shown.length)} of ${count(total)} ${name}`;
  list.replaceChildren();
  drawn = 0;
  if (!shown.length) list.append(nothing());
  drawMore();
}

function matches(example) {
  if (!words.length || example.id === state.query.trim()) return true;
  example.text ??= view.text(example);
  return words.every((word) => word.test(example.text));
}

function pattern(word) {
  return new RegExp(word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu");
}

function groupOf(example) {
  return view.groups.find(({ holds }) => holds(example));
}

function nothing() {
  if (!page.examples.length) return make("p", { className: "nothing" }, [`There are no ${view.many}.`]);
  const button = make("button", { type: "button" }, ["Show all"]);
  button.addEventListener("click", () => {
    element("search").value = "";
    change(starting());
  });
  return make("p", { className: "nothing" }, ["Nothing matches. ", button]);
}

// Drawing

function drawMore() {
  list.append(...shown.slice(drawn, drawn + CARDS_AT_ONCE).map((example) => view.card(example)));
  drawn = Math.min(drawn + CARDS_AT_ONCE, shown.length);
  watcher.disconnect();
  // Observing anew reports at once where the end of the list still is in sight.
  if (drawn < shown.length) watcher.observe(element("more"));
}

// An example's card: its badges, its name as a link to it, and what the page shows of it.
function cardOf(example, badges, parts, told) {
  const link = make("a", { href: "#" + new URLSearchParams({ q: example.id }), dir: "auto" }, [
    cut(example.id, LONG_LABEL * 2),
  ]);
  const article = make("article", { className: "card", tabIndex: -1 }, [
    make("header", {}, [...badges, make("h2", {}, [link])]),
    ...parts,
  ]);
  article.setAttribute("aria-label", `${cut(example.id, 80)}, ${told}`);
  return article;
}

function badge(tone, text) {
  return make("span", { className: "rank " + tone }, [text]);
}

// The turns of a dialogue, [speaker, text, asked, probability or null], the last ones at first.
function chat(example, last) {
  const turns = example.turns;
  const box = make("ol", { className: "chat" });
  let from = turns.length > TURNS_AT_FIRST + 4 ? turns.length - TURNS_AT_FIRST : 0;
  const names = new Set(turns.map((turn) => turn[0])).size > 2 || example.sharer === null;
  const fold = () => {
    box.replaceChildren();
    if (from > 0) {
      const step = Math.min(from, TURNS_MORE);
      const hits = words.length
        ? turns.slice(0, from).filter((turn) => words.some((word) => word.test(turn[1]))).length
        : 0;
      const of = step < from ? ` of ${count(from)}` : "";
      const match = hits ? ` (${count(hits)} match)` : "";
      const more = `Show ${count(step)}${of} earlier turns${match}`;
      const button = make("button", { type: "button", className: "fold" }, [more]);
      button.addEventListener("click", () => {
        from -= step;
        fold();
        const next = box.querySelector(".fold, li");
        next.tabIndex = 0;
        next.focus({ preventScroll: true });
      });
      box.append(make("li", { className: "folded" }, [button]));
    }
    for (let i = from; i < turns.length; i++) box.append(...bubble(example, i, i === from, names));
    if (last) {
      const side = example.sharer === null ? "" : "sharer";
      box.append(make("li", { className: "share " + side }, [last]));
    }
  };
  fold();
  return box;
}

function bubble(example, i, first, names) {
  const [speaker, text, asked, probability] = example.turns[i];
  const changes = first || example.turns[i - 1][0] !== speaker;
  const side = speaker === example.sharer ? "sharer" : "other";
  const item = make("li", { dir: "auto" });
  item.className = [side, asked && "asked", changes && !first && "change", !text.trim() && "empty"]
    .filter(Boolean)
    .join(" ");
  if (text.length > LONG_TEXT) {
    const button = make("button", { type: "button", className: "whole" }, ["show all"]);
    button.addEventListener("click", () => item.replaceChildren(...marked(text)));
    item.append(...marked(cut(text, LONG_TEXT - 100)), " ", button);
  } else {
    item.append(...(text.trim() ? marked(text) : ["no text"]));
  }
  const items = names && changes ? [make("li", { className: "who " + side }, [`Speaker ${speaker}`])] : [];
  items.push(item);
  if (probability !== null && probability !== undefined) {
    items.push(make("li", { className: "chance " + side }, [meter(probability, example.threshold)]));
  }
  return items;
}

// A probability as a bar with the threshold as a line across it.
function meter(probability, threshold) {
  const yes = threshold !== null && probability >= threshold;
  const svg = draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, [
    draw("rect", { class: "ground", width: 100, height: 10 }),
    draw("rect", { class: "filled", width: (100 * probability).toFixed(2), height: 10 }),
    ...(threshold === null
      ? []
      : [draw("rect", { class: "line", x: (100 * threshold - 0.5).toFixed(2), width: 1, height: 10 })]),
  ]);
  const told = make("span", {}, [probability.toFixed(2)]);
  told.append(make("i", { className: "unseen" }, [` probability that a photo follows${yes ? ", yes" : ""}`]));
  return make("span", { className: "meter" + (yes ? " yes" : "") }, [svg, told]);
}

function chips(labels, className, most, right, compare) {
  const box = make("span", { className });
  for (const label of labels.slice(0, most)) {
    const chip = make("span", { className: "chip", dir: "auto" }, marked(cut(label, LONG_LABEL)));
    if (compare && right.has(label)) {
      chip.classList.add("hit");
      chip.title = "also a label of the right photo";
    }
    box.append(chip);
  }
  if (!labels.length) box.append("no labels");
  if (labels.length > most) {
    box.append(make("span", { className: "chip rest" }, [`+${labels.length - most}`]));
  }
  return box;
}

// Keys

function onKey(event) {
  const typing = event.target.closest("input, select, textarea, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === element("search")) return event.target.blur();
  if (typing) return;
  if (event.key === "/") {
    event.preventDefault();
    element("search").focus();
  } else if (event.key === "j") {
    go(1);
  } else if (event.key === "k") {
    go(-1);
  }
}

function go(step) {
  const edge = document.querySelector(".toolbar").offsetHeight + 24;
  let at = [...list.children].indexOf(document.activeElement.closest(".card"));
  const inSight = (box) => box.bottom > edge && box.top < innerHeight;
  if (at < 0 || !inSight(list.children[at].getBoundingClientRect())) {
    // Between two cards: j goes to the one that begins below, k to the one that begins above.
    const below = [...list.children].findIndex((card) => card.getBoundingClientRect().top > edge);
    at = (below < 0 ? drawn : below) - (step > 0 ? 1 : 0);
  }
  const to = Math.max(0, Math.min(at + step, shown.length - 1));
  while (drawn <= to && drawn < shown.length) drawMore();
  if (!shown.length) return;
  const card = list.children[to];
  card.focus({ preventScroll: true });
  scrollBy({ top: card.getBoundingClientRect().top - edge + 8 });
}

// Small things

function draw(tag, attributes, children = []) {
  const made = document.createElementNS(element("drawing").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function make(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Text, with what the search found marked.
function marked(text) {
  if (!words.length) return [text];
  const any = new RegExp(words.map((word) => word.source).join("|"), "giu");
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(any)) {
    parts.push(text.slice(end, found.index), make("mark", {}, [found[0]]));
    end = found.index + found[0].length;
  }
  return [...parts, text.slice(end)];
}

// By characters, not UTF-16 units: an emoji stays whole.
function cut(text, most) {
  if (text.length <= most) return text;
  return Array.from(text.slice(0, 2 * most)).slice(0, most).join("") + "…";
}

function number(score) {
  if (score === null) return "–";
  const size = Math.abs(score);
  if (size >= 1e5) return score.toPrecision(4);
  return score.toFixed(size < 10 ? 3 : size < 100 ? 2 : 1);
}
