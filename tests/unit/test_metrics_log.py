"""The record of metrics after kills: no line missing, none told twice."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.errors import UserError
from mmjax.observe.metrics_log import MetricsLog, read_metrics


def steps(folder) -> list[int]:
    return [line["step"] for line in read_metrics(folder)]


def test_lines_are_read_as_written(tmp_path):
    log = MetricsLog(tmp_path / "metrics", 0)
    log.write(1, {"train/loss": 0.1 + 0.2}, {"steps_per_second": 3.0})
    log.close_part()
    log.write(2, {"dev/recall": float("inf")}, {})
    assert log.lines == 2
    assert read_metrics(tmp_path / "metrics") == [
        {"step": 1, "values": {"train/loss": 0.1 + 0.2}, "timing": {"steps_per_second": 3.0}},
        {"step": 2, "values": {"dev/recall": float("inf")}, "timing": {}},
    ]


def test_a_start_takes_over_where_its_checkpoint_was(tmp_path):
    first = MetricsLog(tmp_path, 0)
    for step in (1, 2):
        first.write(step, {}, {})
    first.close_part()
    kept = first.lines
    for step in (3, 4):
        first.write(step, {}, {})
    second = MetricsLog(tmp_path, kept)
    assert steps(tmp_path) == [1, 2]
    second.write(3, {}, {})
    # Killed again, before a checkpoint; then one that is older is all that can be used.
    MetricsLog(tmp_path, kept).write(3, {}, {})
    assert steps(tmp_path) == [1, 2, 3]
    MetricsLog(tmp_path, 0)
    assert steps(tmp_path) == []


def test_lines_of_one_step_before_and_after_its_checkpoint_are_told_apart(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(4, {"train/loss": 1.0}, {})
    log.close_part()
    kept = log.lines
    log.write(4, {"dev/recall": 1.0}, {})
    MetricsLog(tmp_path, kept).write(4, {"dev/recall": 2.0}, {})
    assert [line["values"] for line in read_metrics(tmp_path)] == [
        {"train/loss": 1.0},
        {"dev/recall": 2.0},
    ]


def test_other_files_are_no_metrics(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {}, {})
    (tmp_path / "notes.txt").write_text("7")
    (tmp_path / "a-b.jsonl").write_text('{"step": 7}')
    assert steps(tmp_path) == [1]


@given(
    starts=st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), max_size=4),  # lines in each closed part
            st.integers(0, 3),  # lines after the last checkpoint
            st.floats(0, 1),  # share of the last file that survives the kill
        ),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_is_cut_off_the_lines_before_the_checkpoint_stay(tmp_path_factory, starts):
    folder = tmp_path_factory.mktemp("metrics")
    kept: list[int] = []
    number = 0
    for parts, after, share in starts:
        log = MetricsLog(folder, len(kept))
        for lines in parts:
            for _ in range(lines):
                log.write(number, {}, {})
                kept.append(number)
                number += 1
            log.close_part()
        for _ in range(after):
            log.write(number, {}, {})
            number += 1
        # Killed while the newest file is written again: any beginning of it may be there.
        newest = max(folder.iterdir())
        if after or not any(parts):
            text = newest.read_text()
            newest.write_text(text[: int(share * len(text))])
    last = MetricsLog(folder, len(kept))
    assert steps(folder) == kept
    last.write(-1, {}, {})
    assert steps(folder) == [*kept, -1]


def test_a_full_disk_is_said_in_a_sentence(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, 0)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(type(log._folder), "write_text", full)
    with pytest.raises(UserError, match=r"cannot write metrics .*No space left"):
        log.write(1, {}, {})


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write metrics"):
        MetricsLog(tmp_path / "file" / "metrics", 0)
