"""Tables of ratings: means per system with intervals, shares of errors, and agreement."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mmjax.metrics.agreement import fleiss_kappa, krippendorff_alpha
from mmjax.metrics.bootstrap import bootstrap_interval, paired_bootstrap
from mmjax.metrics.head_to_head import win_tie_lose
from mmjax.rating.questions import Question
from mmjax.rating.ratings import Ratings

UNDECIDED = "no majority"


def summarise(ratings: Ratings) -> dict[str, Any]:
    """JSON values: agreement, and per system what each question says.

    Of a scale: "mean" over items of the mean over raters, "interval" (95 %, dialogues drawn anew)
    and "of", the means by question's id. Else: "shares" of the items in percent by what most raters
    chose, "no majority" where two choices lead, and "of". "dialogues": of each question's id.
    "pairs", of a scale: how often each system's mean is above another's, see `win_tie_lose`.
    """
    dialogues = {item["id"]: item["dialogue"] for item in ratings.items.values()}
    found: dict[str, Any] = {"items": len(ratings.items), "dialogues": dialogues, "questions": {}}
    for question in ratings.questions:
        given = ratings.given[question.name]
        told = [_told_of(question, chosen) for chosen in given.values()]
        by_system: dict[str, dict[str, Any]] = {}
        for (_, item), value in zip(ratings.items.items(), told, strict=True):
            for system in item["systems"]:
                by_system.setdefault(system, {})[item["id"]] = value
        judge = _scale if question.is_scale else _shares
        systems = {s: judge(question, of, dialogues) for s, of in sorted(by_system.items())}
        found["questions"][question.name] = {
            "raters": len(next(iter(given.values()))),
            "kappa": _kappa(question, given),
            "alpha": _alpha(question, given),
            "systems": systems,
            "pairs": _pairs(systems, dialogues) if question.is_scale else [],
        }
    return found


def as_markdown(found: Mapping[str, Any]) -> str:
    """The tables, with what may and may not be concluded."""
    lines = []
    for name, of in found["questions"].items():
        counts = (
            f"{of['raters']} raters, {found['items']} answers, "
            f"{len(set(found['dialogues'].values()))} dialogues"
        )
        lines += [f"**{name}** ({counts}; {_agreed(of)})", ""]
        systems = of["systems"]
        if all("mean" in figures for figures in systems.values()):
            lines += ["| system | questions | mean [95 %] |", "|---|---|---|"]
            lines += [
                f"| {_cell(s)} | {len(x['of'])} | {x['mean']:.2f} "
                f"[{x['interval'][0]:.2f}, {x['interval'][1]:.2f}] |"
                for s, x in sorted(systems.items(), key=lambda pair: -pair[1]["mean"])
            ]
            lines += ["", *_winner(systems, found["dialogues"]), *_pair_rows(of["pairs"])]
        else:
            names = list(next(iter(systems.values()))["shares"])
            lines += ["| system | questions | " + " | ".join(f"{n} (%)" for n in names) + " |"]
            lines += ["|---|---|" + "---|" * len(names)]
            lines += [
                f"| {_cell(s)} | {len(x['of'])} | "
                + " | ".join(f"{x['shares'][n]:.0f}" for n in names)
                + " |"
                for s, x in systems.items()
            ]
        lines.append("")
    return "\n".join(lines)


def _told_of(question: Question, chosen: tuple[str, ...]) -> Any:
    """The mean, or what most raters chose."""
    if question.is_scale:
        return float(np.mean([float(choice) for choice in chosen]))
    (first, most), *others = Counter(chosen).most_common(2)
    return UNDECIDED if others and others[0][1] == most else first


def _kappa(question: Question, given: Mapping[str, tuple[str, ...]]) -> float | None:
    counts = np.array([[chosen.count(c) for c in question.choices] for chosen in given.values()])
    if counts.sum(1)[0] < 2:
        return None
    kappa = fleiss_kappa(counts)
    return None if math.isnan(kappa) else kappa


def _alpha(question: Question, given: Mapping[str, tuple[str, ...]]) -> dict[str, float | None]:
    """Level -> the figure. Points of a scale are in an order, and evenly spaced at best."""
    order = list(question.choices)
    of = float if question.is_scale else order.index
    ratings = np.array([[of(choice) for choice in chosen] for chosen in given.values()])
    levels = ("ordinal", "interval") if question.is_scale else ("nominal",)
    alphas = {level: krippendorff_alpha(ratings, level) for level in levels}
    return {level: None if math.isnan(x) else x for level, x in alphas.items()}


def _scale(
    question: Question, of: Mapping[str, float], dialogues: Mapping[str, str]
) -> dict[str, Any]:
    values = np.array(list(of.values()))
    return {
        "mean": float(values.mean()),
        "interval": list(bootstrap_interval(values, groups=_groups(of, dialogues))),
        "of": dict(of),
    }


def _groups(ids: Iterable[str], dialogues: Mapping[str, str]) -> Int[np.ndarray, " Q"]:
    """A number of each question's dialogue: its questions are not independent."""
    return np.unique([dialogues[name] for name in ids], return_inverse=True)[1].reshape(-1)


def _shares(question: Question, of: Mapping[str, str], _: Mapping[str, str]) -> dict[str, Any]:
    counts = Counter(of.values())
    names = (*question.choices, UNDECIDED)
    return {"shares": {n: 100 * counts[n] / len(of) for n in names}, "of": dict(of)}


def _pairs(systems: Mapping[str, Any], dialogues: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every two systems, the one with the higher mean first, on what both answered."""
    ordered = sorted(systems, key=lambda s: -systems[s]["mean"])
    pairs = []
    for first, second in itertools.combinations(ordered, 2):
        one, other, groups = _answered_by_both(systems[first], systems[second], dialogues)
        if len(groups):
            counts = win_tie_lose(one, other, groups=groups)
            pairs.append({"first": first, "second": second, **counts._asdict()})
    return pairs


def _answered_by_both(
    first: Mapping[str, Any], second: Mapping[str, Any], dialogues: Mapping[str, str]
) -> tuple[Float[np.ndarray, " Q"], Float[np.ndarray, " Q"], Int[np.ndarray, " Q"]]:
    """The means of each on the questions that both answered, and those questions' dialogues."""
    both = sorted(first["of"].keys() & second["of"].keys())
    one, other = (np.array([system["of"][k] for k in both]) for system in (first, second))
    return one, other, _groups(both, dialogues)


def _agreed(of: Mapping[str, Any]) -> str:
    if of["raters"] < 2:
        return "one rater, so no agreement"
    if of["kappa"] is None:
        return "agreement is undefined: all ratings are the same"
    alphas = ", ".join(f"{x:.3f} ({level})" for level, x in of["alpha"].items())
    return f"Fleiss' kappa {of['kappa']:.3f}; Krippendorff's alpha {alphas}"


def _pair_rows(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    if not pairs:
        return []
    lines = ["", "| against | wins (%) | ties (%) | losses (%) | sign test, p |"]
    lines.append("|---|---|---|---|---|")
    for pair in pairs:
        counts = [pair[name] for name in ("wins", "ties", "losses")]
        shares = " | ".join(f"{100 * count / sum(counts):.0f}" for count in counts)
        names = f"{_cell(pair['first'])} against {_cell(pair['second'])}"
        lines.append(f"| {names} | {shares} | {pair['p']:.3f} |")
    return lines


def _winner(systems: Mapping[str, Any], dialogues: Mapping[str, str]) -> list[str]:
    """The first against the second on the questions that both answered."""
    if len(systems) < 2:
        return []
    first, second = sorted(systems, key=lambda s: -systems[s]["mean"])[:2]
    one, other, groups = _answered_by_both(systems[first], systems[second], dialogues)
    if not len(groups):
        return [f"No winner: no question was answered for both {_cell(first)} and {_cell(second)}."]
    difference, low, high = paired_bootstrap(one, other, groups=groups)
    shown = f"{difference:+.2f} [{low:+.2f}, {high:+.2f}] (paired bootstrap, 95 %)"
    if low > 0:
        return [f"{_cell(first)} is better than {_cell(second)}: {shown}."]
    return [f"No winner: {_cell(first)} against {_cell(second)}: {shown} includes 0."]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
