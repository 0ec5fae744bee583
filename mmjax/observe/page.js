"use strict";

// Examples, photos, images: see _data in page.py. Text is only ever set as text.
const page = JSON.parse(document.getElementById("data").textContent);

const GROUPS = [
  { key: "1", name: "Rank 1", tone: "first", high: 1 },
  { key: "2-5", name: "2–5", tone: "near", high: 5 },
  { key: "6-10", name: "6–10", tone: "far", high: 10 },
  { key: "worse", name: "Worse", tone: "lost", high: Infinity },
];
const collator = new Intl.Collator(undefined, { numeric: true });
const ORDERS = {
  wrong: (a, b) => b.rank - a.rank || a.position - b.position,
  best: (a, b) => a.rank - b.rank || a.position - b.position,
  dataset: (a, b) => a.position - b.position,
  id: (a, b) => collator.compare(a.id, b.id),
};
const RIGHT = "Right photo";
const CARDS_AT_ONCE = 8;
const TURNS_AT_FIRST = 14, TURNS_MORE = 200;
const LONG_TEXT = 700, LONG_LABEL = 60, CHIPS = 4, WORDS = 8;

const element = (id) => document.getElementById(id);
const list = element("list");
let state = { query: "", rank: "all", order: "wrong" };
let words = [], shown = [], drawn = 0, watcher;

start();

function start() {
  document.body.classList.toggle("labels-only", !page.images.length);
  for (const { key, name } of [{ key: "all", name: "All" }, ...GROUPS]) {
    const button = make("button", { type: "button" }, [name, make("small")]);
    button.dataset.key = key;
    button.addEventListener("click", () => change({ rank: key }));
    element("ranks").append(button);
  }
  let waiting = 0;
  element("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => change({ query: element("search").value }), 120);
  });
  element("order").addEventListener("change", () => change({ order: element("order").value }));
  window.addEventListener("hashchange", readHash);
  document.addEventListener("keydown", onKey);
  element("zoom").addEventListener("click", (event) => {
    if (event.target === element("zoom")) element("zoom").close();
  });
  watcher = new IntersectionObserver(
    (seen) => seen.some((entry) => entry.isIntersecting) && drawMore(),
    { rootMargin: "1500px" },
  );
  readHash();
}

// What is shown

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const rank = hash.get("rank"), order = hash.get("order");
  state = {
    query: hash.get("q") || "",
    rank: GROUPS.some((group) => group.key === rank) ? rank : "all",
    order: Object.hasOwn(ORDERS, order) ? order : "wrong",
  };
  element("search").value = state.query;
  update();
}

function change(part) {
  Object.assign(state, part);
  const hash = new URLSearchParams();
  if (state.query.trim()) hash.set("q", state.query.trim());
  if (state.rank !== "all") hash.set("rank", state.rank);
  if (state.order !== "wrong") hash.set("order", state.order);
  history.replaceState(null, "", "#" + hash);
  update();
  const bar = document.querySelector(".toolbar");
  if (list.getBoundingClientRect().top < bar.offsetHeight) {
    scrollTo({ top: bar.previousElementSibling.offsetHeight + 20 });
  }
}

function update() {
  words = state.query.trim().split(/\s+/u).filter(Boolean).map(pattern);
  const found = page.examples.filter((example) => matches(example));
  shown = found.filter((example) => state.rank === "all" || group(example).key === state.rank);
  shown.sort(ORDERS[state.order]);
  for (const button of element("ranks").children) {
    const key = button.dataset.key;
    const count = found.filter((example) => key === "all" || group(example).key === key).length;
    button.lastChild.textContent = count.toLocaleString("en");
    button.setAttribute("aria-pressed", String(key === state.rank));
  }
  element("order").value = state.order;
  const total = page.examples.length;
  element("count").textContent =
    shown.length === total
      ? `${total.toLocaleString("en")} example${total === 1 ? "" : "s"}`
      : `${shown.length.toLocaleString("en")} of ${total.toLocaleString("en")} examples`;
  list.replaceChildren();
  drawn = 0;
  if (!shown.length) list.append(nothing());
  drawMore();
}

function matches(example) {
  if (!words.length || example.id === state.query.trim()) return true;
  example.text ??= [
    ...example.turns.map((turn) => turn[1]),
    ...[example.photo, ...example.top.map((row) => row[0])].flatMap((i) => page.photos[i].labels),
  ].join("\n");
  return words.every((word) => word.test(example.text));
}

function pattern(word) {
  return new RegExp(word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "iu");
}

function group(example) {
  return GROUPS.find(({ high }) => example.rank <= high);
}

function nothing() {
  if (!page.examples.length) return make("p", { className: "nothing" }, ["There are no examples."]);
  const button = make("button", { type: "button" }, ["Show all"]);
  button.addEventListener("click", () => {
    element("search").value = "";
    change({ query: "", rank: "all" });
  });
  return make("p", { className: "nothing" }, ["Nothing matches. ", button]);
}

// Drawing

function drawMore() {
  list.append(...shown.slice(drawn, drawn + CARDS_AT_ONCE).map(card));
  drawn = Math.min(drawn + CARDS_AT_ONCE, shown.length);
  watcher.disconnect();
  // Observing anew reports at once where the end of the list still is in sight.
  if (drawn < shown.length) watcher.observe(element("more"));
}

function card(example) {
  const rank = make("span", { className: "rank " + group(example).tone }, [
    "rank " + example.rank.toLocaleString("en"),
  ]);
  const link = make("a", { href: "#" + new URLSearchParams({ q: example.id }), dir: "auto" }, [
    cut(example.id, LONG_LABEL * 2),
  ]);
  const article = make("article", { className: "card", tabIndex: -1 }, [
    make("header", {}, [rank, make("h2", {}, [link])]),
    make("div", { className: "columns" }, [chat(example), photos(example)]),
  ]);
  article.setAttribute("aria-label", `${cut(example.id, 80)}, rank ${example.rank}`);
  return article;
}

function chat(example) {
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
      const of = step < from ? ` of ${from.toLocaleString("en")}` : "";
      const match = hits ? ` (${hits.toLocaleString("en")} match)` : "";
      const more = `Show ${step.toLocaleString("en")}${of} earlier turns${match}`;
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
    box.append(make("li", { className: "share " + (example.sharer === null ? "" : "sharer") }, [
      "shares a photo",
    ]));
  };
  fold();
  return box;
}

function bubble(example, i, first, names) {
  const [speaker, text, asked] = example.turns[i];
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
  if (!names || !changes) return [item];
  return [make("li", { className: "who " + side }, [`Speaker ${speaker}`]), item];
}

function photos(example) {
  const best = example.top.findIndex(([photo]) => photo === example.photo);
  const right = new Set(page.photos[example.photo].labels);
  const box = make("ol", { className: "photos" });
  box.append(tile(example.photo, RIGHT, example.score, true, right));
  example.top.forEach(([photo, score], i) => {
    box.append(tile(photo, `${i + 1}${i === best ? " ✓" : ""}`, score, i === best, right));
  });
  return box;
}

function tile(index, name, score, isRight, right) {
  const photo = page.photos[index];
  const labels = photo.labels.join(", ");
  const button = make("button", { type: "button", className: "tile" });
  button.addEventListener("click", () => zoom(photo, name, score));
  const item = make("li", { className: isRight ? "is-right" : "" }, [
    make("div", { className: "caption" }, [
      make("b", {}, name === RIGHT ? ["Right", make("i", {}, [" photo"])] : [name]),
      make("span", { title: "score" }, [number(score)]),
    ]),
    button,
  ]);
  if (photo.image === null) {
    button.setAttribute("aria-label", `Photo with ${cut(labels, 200) || "no labels"}`);
    button.append(chips(photo.labels, "words", WORDS, right, !isRight));
  } else {
    button.append(image(photo));
    item.append(chips(photo.labels, "chips", CHIPS, right, !isRight));
  }
  return item;
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

function image(photo) {
  return make("img", {
    src: "data:image/jpeg;base64," + page.images[photo.image],
    alt: "Photo: " + (cut(photo.labels.join(", "), 200) || "no labels"),
    decoding: "async",
  });
}

function zoom(photo, name, score) {
  const close = make("button", { type: "button", className: "close" }, ["Close"]);
  close.addEventListener("click", () => element("zoom").close());
  element("zoom").replaceChildren(
    make("header", {}, [make("h2", {}, [name === RIGHT ? name : `Candidate ${name}`]), close]),
    ...(photo.image === null ? [] : [image(photo)]),
    make("p", { className: "id", dir: "auto" }, [`${photo.id}, score ${number(score)}`]),
    make("div", { className: "chips" }, photo.labels.map((label) =>
      make("span", { className: "chip", dir: "auto" }, [label]))),
  );
  element("zoom").showModal();
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
  list.children[to].focus({ preventScroll: true });
  list.children[to].scrollIntoView({ block: "start" });
}

// Small things

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
