// Two runs on the same queries. Examples and photos: see _data in compare_page.py.
const KS = ["1", "5", "10"];
const within = (rank) => rank <= Number(state.within);
const shownRank = (rank) => (Number.isInteger(rank) ? count(rank) : rank.toFixed(1));
const lead = (it) => it.ranks[1] - it.ranks[0];

begin({
  one: "query",
  many: "queries",
  groups: [
    { key: "a", name: "Only A right", tone: "near", holds: ({ ranks: [a, b] }) => within(a) && !within(b) },
    { key: "b", name: "Only B right", tone: "far", holds: ({ ranks: [a, b] }) => !within(a) && within(b) },
    { key: "both", name: "Both", tone: "first", holds: ({ ranks: [a] }) => within(a) },
    { key: "neither", name: "Neither", tone: "lost", holds: () => true },
  ],
  filters: [
    {
      key: "within",
      name: "Right in",
      choices: KS.map((k) => [k, k === "1" ? "first" : `first ${k}`]),
      holds: () => true,
    },
  ],
  orders: {
    differ: ["most different first", (a, b) => Math.abs(lead(b)) - Math.abs(lead(a)) || a.position - b.position],
    a: ["A most ahead", (a, b) => lead(b) - lead(a) || a.position - b.position],
    b: ["B most ahead", (a, b) => lead(a) - lead(b) || a.position - b.position],
    dataset: ["as in the dataset", (a, b) => a.position - b.position],
    id: ["by id", (a, b) => collator.compare(a.id, b.id)],
  },
  text: ({ turns, photo, top }) =>
    [
      ...turns.map((turn) => turn[1]),
      ...[photo, ...top.flat()].flatMap((i) => page.photos[i].labels),
    ].join("\n"),
  card: (example) => {
    const [a, b] = example.ranks;
    const ahead = a === b ? "alike" : `${a < b ? "A" : "B"} ahead by ${shownRank(Math.abs(b - a))}`;
    return cardOf(
      example,
      [badge(groupOf(example).tone, `A ${shownRank(a)}, B ${shownRank(b)}`)],
      [make("div", { className: "columns" }, [chat(example, "shares a photo"), found(example)])],
      ahead,
    );
  },
});

function found(example) {
  const right = new Set(page.photos[example.photo].labels);
  const sought = make("p", { className: "sought" }, ["Right photo: ", named(example.photo, right, false)]);
  const sides = example.top.map((top, side) => {
    const items = top.map((photo, i) =>
      make("li", { className: photo === example.photo ? "is-right" : "" }, [
        make("span", {}, [String(i + 1)]),
        named(photo, right, photo !== example.photo),
        make("span", {}, [photo === example.photo ? "✓" : ""]),
      ]),
    );
    const rank = `${"AB"[side]}: rank ${shownRank(example.ranks[side])}`;
    return make("section", {}, [make("h3", {}, [rank]), make("ol", {}, items)]);
  });
  return make("div", {}, [sought, make("div", { className: "pair" }, sides)]);
}

// A photo by its labels, or by its id where it has none.
function named(index, right, compare) {
  const { id, labels } = page.photos[index];
  if (labels.length) return chips(labels, "chips", 6, right, compare);
  return make("span", { dir: "auto" }, [cut(id, LONG_LABEL)]);
}
