// What an intent model said after every turn. Examples: see _example in intent_page.py.
begin({
  one: "dialogue",
  many: "dialogues",
  groups: [
    { key: "right", name: "All right", tone: "first", holds: (it) => !it.early && !it.missed },
    { key: "early", name: "Too early", tone: "far", holds: (it) => it.early && !it.missed },
    { key: "missed", name: "Missed", tone: "lost", holds: () => true },
  ],
  orders: {
    wrong: ["most wrong first", (a, b) => b.wrong - a.wrong || a.position - b.position],
    best: ["best first", (a, b) => a.wrong - b.wrong || a.position - b.position],
    dataset: ["as in the dataset", (a, b) => a.position - b.position],
    id: ["by id", (a, b) => collator.compare(a.id, b.id)],
  },
  text: ({ turns }) => turns.map((turn) => turn[1]).join("\n"),
  card: (example) => {
    const badges = [];
    if (example.missed) badges.push(badge("lost", "missed"));
    if (example.early) {
      badges.push(badge("far", example.early === 1 ? "1 too early" : `${count(example.early)} too early`));
    }
    if (!badges.length) badges.push(badge("first", "all right"));
    const last = example.shares ? "a photo is shared" : null;
    const made = cardOf(example, badges, [chat(example, last)], badges.map((b) => b.textContent).join(", "));
    made.classList.add("turnwise");
    made.classList.toggle("found", example.shares && !example.missed);
    return made;
  },
});
