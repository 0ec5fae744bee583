// Answers to questions. Examples: see write_answers_page in answers_page.py.
const SHORT_DIALOGUE = 6;

begin({
  one: "question",
  many: "questions",
  groups: [
    { key: "short", name: `Up to ${SHORT_DIALOGUE} turns`, tone: "first", holds: (it) => it.turns.length <= SHORT_DIALOGUE },
    { key: "long", name: "Longer", tone: "far", holds: () => true },
  ],
  orders: {
    given: ["as given", (a, b) => a.position - b.position],
    id: ["by id", (a, b) => collator.compare(a.id, b.id)],
    length: ["longest dialogue first", (a, b) => b.turns.length - a.turns.length || a.position - b.position],
  },
  text: ({ turns, references, answers }) =>
    [...turns.map((turn) => turn[1]), ...references, ...answers.map((answer) => answer.text)].join("\n"),
  card: (example) => {
    const parts = [chat(example, null), said(example)];
    return cardOf(example, [], [make("div", { className: "columns" }, parts)], "answers");
  },
});

function said({ references, answers }) {
  const people = references.map((text) => ({ name: "a person", text, notes: [] }));
  const items = [...answers, ...people].map(({ name, text, notes }) =>
    make("section", {}, [
      make("h3", { dir: "auto" }, [[name, ...notes].join(" · ")]),
      make("p", { dir: "auto" }, text.trim() ? marked(text) : ["no text"]),
    ]),
  );
  return make("div", { className: "said" }, items);
}
