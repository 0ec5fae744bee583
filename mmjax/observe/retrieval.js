// What a retrieval model answered. Examples, photos, images, labels, categories: see _data in page.py.
const RIGHT = "Right photo";
const CHIPS = 4, WORDS = 8;

for (const example of page.examples) example.labels = page.photos[example.photo].labels;
document.body.classList.toggle("labels-only", !page.images.length);
element("zoom").addEventListener("click", (event) => {
  if (event.target === element("zoom")) element("zoom").close();
});
const kinds = [
  { key: "category", name: "Category", rows: page.categories, of: "categories" },
  { key: "label", name: "Label", rows: page.labels, of: "labels" },
].filter(({ rows }) => rows.length);
kinds.forEach(listRecalls);
begin({
  one: "example",
  many: "examples",
  groups: [
    { key: "1", name: "Rank 1", tone: "first", holds: ({ rank }) => rank === 1 },
    { key: "2-5", name: "2–5", tone: "near", holds: ({ rank }) => rank <= 5 },
    { key: "6-10", name: "6–10", tone: "far", holds: ({ rank }) => rank <= 10 },
    { key: "worse", name: "Worse", tone: "lost", holds: () => true },
  ],
  filters: kinds.map(({ key, name, rows, of }) => ({
    key,
    name,
    choices: [["", `any ${key}`], ...rows.map(([value]) => [value, cut(value, LONG_LABEL)])],
    holds: (example, value) => example[of].includes(value),
  })),
  orders: {
    wrong: ["most wrong first", (a, b) => b.rank - a.rank || a.position - b.position],
    best: ["best first", (a, b) => a.rank - b.rank || a.position - b.position],
    dataset: ["as in the dataset", (a, b) => a.position - b.position],
    id: ["by id", (a, b) => collator.compare(a.id, b.id)],
  },
  text: ({ turns, photo, top }) =>
    [
      ...turns.map((turn) => turn[1]),
      ...[photo, ...top.map((row) => row[0])].flatMap((i) => page.photos[i].labels),
    ].join("\n"),
  card: (example) =>
    cardOf(
      example,
      [badge(groupOf(example).tone, "rank " + count(example.rank))],
      [make("div", { className: "columns" }, [chat(example, "shares a photo"), photos(example)])],
      `rank ${example.rank}`,
    ),
});

// A table of mean recalls; a click on a label or a category shows its examples.
function listRecalls({ key, rows, of }) {
  element(of).append(...rows.map(([value, examples, ...recalls]) => {
    const button = make("button", { type: "button", dir: "auto" }, [cut(value, LONG_LABEL)]);
    button.addEventListener("click", () => change({ [key]: value }));
    return make("tr", {}, [
      make("th", { scope: "row" }, [button]),
      ...[count(examples), ...recalls.map((recall) => recall.toFixed(1))].map((x) => make("td", {}, [x])),
    ]);
  }));
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
