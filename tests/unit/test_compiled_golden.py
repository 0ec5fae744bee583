"""The golden file of compiled costs: what changes is a table, what passes a budget is named."""

from __future__ import annotations

import pytest

from benchmarks import compiled
from benchmarks.configs import CASES

FOUND = {
    "command": "python -m mmjax.main",
    "slice": "v0:2x2",
    "fits": True,
    "costs": {"bytes": 1000.0, "flops": 5000.0, "bytes_sent": 100.0, "all-reduce bytes": 100.0},
}


def with_costs(**costs):
    return {**FOUND, "costs": {**FOUND["costs"], **costs}}


def test_a_new_budget_leaves_a_little_room_and_stays_until_it_is_raised():
    kept = compiled.entry(FOUND, None, raised=False)
    assert kept["budgets"] == {"bytes": 1050, "flops": 5250, "bytes_sent": 105}
    larger = with_costs(bytes=1040.0)
    assert compiled.entry(larger, kept, raised=False)["budgets"]["bytes"] == 1050
    assert compiled.entry(larger, kept, raised=True)["budgets"]["bytes"] == 1092


def test_what_is_over_budget_or_far_from_golden_is_named_and_the_rest_is_not():
    kept = compiled.entry(FOUND, None, raised=False)
    assert compiled.broken("a", kept, FOUND) == []
    assert compiled.broken("a", kept, with_costs(bytes=1040.0)) == []
    (over, far) = compiled.broken("a", kept, with_costs(bytes=1060.0))
    assert over == "a: bytes 1,060 is over its budget of 1,050."
    assert far.startswith("a: bytes 1,000 -> 1,060")
    assert compiled.broken("a", kept, with_costs(bytes=900.0)) == [
        "a: bytes 1,000 -> 900: accept it with --write."
    ]
    (new,) = compiled.broken("a", kept, with_costs(**{"all-gather bytes": 7.0}))
    assert new.startswith("a: all-gather bytes 0 -> 7")
    assert "not in the golden file" in compiled.broken("a", None, FOUND)[0]


def test_differences_are_a_table_for_a_review():
    kept = compiled.entry(FOUND, None, raised=False)
    assert compiled.changes({"a": kept}, {"a": FOUND}) == ["No cost has changed."]
    lines = compiled.changes({"a": kept}, {"a": with_costs(flops=6000.0)})
    assert lines == [
        "| config | cost | golden | now | change |",
        "| --- | --- | ---: | ---: | ---: |",
        "| a | flops | 5,000 | 6,000 | +20.0 % |",
    ]


def test_a_run_over_budget_ends_with_an_error_and_write_accepts_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compiled, "path", lambda: tmp_path / "compiled.json")
    monkeypatch.setattr(compiled, "measured", lambda case: FOUND)
    assert compiled.main(["--only=rerank"]) == 1
    assert compiled.main(["--only=rerank", "--write"]) == 0
    assert compiled.main(["--only=rerank"]) == 0
    monkeypatch.setattr(compiled, "measured", lambda case: with_costs(flops=6000.0))
    assert compiled.main(["--only=rerank"]) == 1
    out = capsys.readouterr().out
    assert "rerank: flops 6,000 is over its budget of 5,250." in out
    assert compiled.main(["--only=rerank", "--write"]) == 0
    assert "| rerank | flops | 5,000 | 6,000 | +20.0 % |" in capsys.readouterr().out
    assert compiled.read()["rerank"]["costs"]["flops"] == 6000.0


def test_the_page_shows_what_the_golden_file_has_and_no_more():
    golden = compiled.read()
    assert set(golden) <= set(compiled.ALL)
    page = (compiled.GOLDEN.parent / "README.md").read_text()
    for name, lines in (
        ("compiled", compiled.summary(golden)),
        ("effects", compiled.effects(golden)),
    ):
        table = "\n".join(lines)
        assert f"<!-- report:{name} -->\n{table}\n<!--" in page, (
            "python -m benchmarks.compiled --update=benchmarks/README.md"
        )


def test_a_case_that_stands_beside_another_is_shown_with_it_and_with_what_differs():
    costs = dict.fromkeys(("parameters", "optimiser", "temporaries", "bytes_moved"), 2.0**30)
    found = {name: with_costs(**costs) for name in ("respond", "respond-xl", "respond-xl-plain")}
    assert [line.split(" |")[0] for line in compiled.summary(found)[2:]] == [
        "| `respond`",
        "| `respond-xl`",
    ]
    about, _, head, _, base, plain = compiled.effects(found)
    assert about.startswith("On v0:2x2") and head.startswith("| case | what is different |")
    assert base.startswith("| `respond-xl` |  |")
    assert plain.startswith("| `respond-xl-plain` | plain attention, ")


def test_what_stands_beside_a_case_differs_from_it_in_what_it_says_alone():
    for name, case in compiled.ALL.items():
        if case.base is not None:
            base = compiled.ALL[case.base]
            assert name.startswith(f"{case.base}-") and case.change
            assert (case.config, case.slice) == (base.config, base.slice)
            assert base.values() != case.values()


def test_every_config_fits_the_slice_that_it_names():
    golden = compiled.read()
    assert all(golden[name]["fits"] for name in CASES if name in golden)


@pytest.mark.slow
def test_the_golden_file_has_every_case():
    assert set(compiled.read()) == set(compiled.ALL)
