"""The Chinese releases: their numbers on the real files, and what is said of bad ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mmjax.data.annotations import AGENT, CUSTOMER, UNMARKED, Product
from mmjax.data.schema import SPLITS, Dialogue, Turn
from mmjax.errors import UserError
from tfds_builders.chat_statistics import ChatStatistics, chat_statistics
from tfds_builders.checks import BadRecordError
from tfds_builders.jddc_pairs.jddc_pairs_dataset_builder import Builder as Pairs
from tfds_builders.jddc_sessions.jddc_sessions_dataset_builder import Builder as Sessions
from tfds_builders.lccc.lccc_dataset_builder import Builder as Lccc
from tfds_builders.lccc.lccc_dataset_builder import unspaced
from tfds_builders.utterance_rewrite.utterance_rewrite_dataset_builder import Builder as Rewrites

BUILDERS = {
    "jddc_baseline": Pairs,
    "jddc_raw_sample": Sessions,
    "utterance_rewrite": Rewrites,
    "lccc_toy": Lccc,
}
FILES = {
    Pairs: ("train.enc", "train.dec", "test.enc", "test.dec"),
    Sessions: ("chat_0.1per.txt", "dev_question.txt", "dev_answer.txt"),
    Rewrites: ("train.txt", "dev.txt"),
    Lccc: ("toy_data.json",),
}
# train, dev, test.
COUNTS = {
    "jddc_baseline": {
        "dialogues": (9_319, 951, 1_141),
        "turns": (85_524, 8_644, 10_463),
        "targets": (9_319, 951, 1_141),
        "characters": (1_177_780, 123_275, 144_117),
        "masked": (41_734, 4_359, 5_066),
    },
    "jddc_raw_sample": {
        "dialogues": (903, 91, 52),
        "turns": (11_023, 1_113, 952),
        "targets": (5_476, 553, 292),
        "references": (5_476, 553, 817),
        "products": (191, 22, 0),
    },
    "utterance_rewrite": {
        "dialogues": (16_239, 1_761, 2_000),
        "rewritable": (16_239, 1_761, 2_000),
        "longest": (123, 62, 64),
    },
    "lccc_toy": {
        "dialogues": (1_000, 200, 200),
        "turns": (3_887, 817, 400),
        "longest": (137, 135, 32),
    },
}


def read(builder: Any, folder: Path, split: str) -> list[Dialogue | BadRecordError]:
    """What a builder reads of a split, without the writing."""
    origin = builder.find("", folder)
    return [found for _, found in origin.read(origin.fetch(None), split)]


def written(folder: Path, builder: Any, **texts: str) -> Path:
    """The release's files, empty where no text is given ("train_enc" for train.enc)."""
    folder.mkdir(exist_ok=True)
    for name in FILES[builder]:
        text = texts.get(name.replace(".", "_"), "")
        (folder / name).write_text(text, "utf-8", newline="\n")
    return folder


@pytest.fixture(scope="module")
def real(shared_data):
    found: dict[str, dict[str, list[Dialogue]]] = {}

    def of(folder: str) -> dict[str, list[Dialogue]]:
        if folder not in found:
            path = shared_data(folder)
            found[folder] = {s: read(BUILDERS[folder], path, s) for s in SPLITS}
        return found[folder]

    return of


@pytest.mark.parametrize("folder", COUNTS)
def test_the_release_has_these_numbers(real, shared_data, folder):
    assert BUILDERS[folder].find("", shared_data(folder)).config == "release"
    found = [asdict(chat_statistics(real(folder)[split])) for split in SPLITS]
    for name, numbers in COUNTS[folder].items():
        assert tuple(counts[name] for counts in found) == numbers, name


@pytest.mark.parametrize("folder", ["jddc_baseline", "jddc_raw_sample", "utterance_rewrite"])
def test_what_stands_before_a_target_is_in_one_split_of_train_and_dev(real, folder):
    before = {
        split: {tuple(turn.text for turn in talk.turns[:2]) for talk in real(folder)[split]}
        for split in ("train", "dev")
    }
    if folder == "jddc_raw_sample":  # by the session: people begin alike
        before = {split: {talk.id for talk in real(folder)[split]} for split in before}
    assert not before["train"] & before["dev"]


def test_a_pair_has_a_context_without_roles_and_the_agents_answer(real):
    first = real("jddc_baseline")["test"][0]
    assert first.roles == (UNMARKED, AGENT)
    assert {turn.speaker for turn in first.turns[:-1]} == {0}
    assert first.targets == (len(first.turns) - 1,)
    assert first.turns[-1].speaker == 1


def test_three_people_answered_nearly_every_question(real):
    talks = real("jddc_raw_sample")["test"]
    answers = [talk.turns[k] for talk in talks for k in talk.targets]
    assert all(turn.speaker == 1 for turn in answers)
    said = [(turn.text, *turn.references) for turn in answers]
    assert max(map(len, said)) == 3
    assert not any("<sep>" in text or "!@@@!" in text or text == "NULL" for s in said for text in s)
    assert any("\n" in text for s in said for text in s)  # several messages


def test_a_rewrite_belongs_to_the_last_turn(real):
    for talk in real("utterance_rewrite")["test"]:
        assert [turn.rewrites is None for turn in talk.turns] == [True, True, False]


def test_no_space_is_left_between_chinese_characters(real):
    talk = real("lccc_toy")["train"][0]
    assert not any(" " in turn.text for turn in talk.turns)
    assert unspaced("i love u 我 爱 你 . . 2 1 万") == "i love u我爱你..21万"


def test_pairs_of_made_up_files(tmp_path):
    folder = written(
        tmp_path,
        Pairs,
        test_enc="你好,有货吗,\n,,在吗\u2028？,,嗯,\n",
        test_dec="有的,亲,\n,\n\n",
    )
    one, other = read(Pairs, folder, "test")
    assert one.turns == (Turn(0, "你好"), Turn(0, "有货吗"), Turn(1, "有的,亲"))
    # Line ends are "\n" alone; an answer that says nothing is kept, as the release's 1,141 need it.
    assert other.turns == (Turn(0, "在吗\u2028？"), Turn(0, "嗯"), Turn(1, ""))


def test_sessions_of_made_up_files(tmp_path):
    rows = [
        ("a", "u1", 1, 0, 0, "nan", "您好"),
        ("a", "u1", 0, 0, 0, "7", "有货吗\t？"),
        ("a", "u1", 1, 0, 0, "7", "有的[数字x]"),
        ("a", "u1", 0, 0, 0, "8", "NULL"),
    ]
    chat = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    folder = written(tmp_path, Sessions, chat_0_1per_txt=chat)
    (talk,) = read(Sessions, folder, "train") + read(Sessions, folder, "dev")
    assert talk == Dialogue(
        "a",
        (Turn(1, "您好"), Turn(0, "有货吗\t？"), Turn(1, "有的[数字x]")),
        roles=(CUSTOMER, AGENT),
        targets=(2,),  # the first turn answers nothing
        products=(Product("7"), Product("8")),
    )


QUESTIONS = (
    "<session s>\n<context>\nQ:\t在吗\nA:\t在<sep>在的<sep>NULL\n</context>\n"
    "<Q1>能退吗!@@@!急</Q1>\n<Q2>好</Q2>\n</session s>\n"
)
ANSWERS = "<session s>\n可以!@@@!稍等<sep>能<sep>NULL\nNULL<sep>NULL<sep>NULL\n</session s>\n"


def test_questions_with_several_answers(tmp_path):
    folder = written(tmp_path, Sessions, dev_question_txt=QUESTIONS, dev_answer_txt=ANSWERS)
    (talk,) = read(Sessions, folder, "test")
    assert talk.turns == (
        Turn(0, "在吗"),
        Turn(1, "在"),
        Turn(0, "能退吗\n急"),
        Turn(1, "可以\n稍等", references=("能",)),
        Turn(0, "好"),
    )
    assert talk.targets == (3,)


LONG = "长" * 10_000


@pytest.mark.parametrize(
    ("builder", "texts", "message"),
    [
        (
            Pairs,
            {"test_enc": ",\n", "test_dec": "好,\n"},
            r"line 1: nothing .* the answer '好,'",
        ),
        (Rewrites, {"dev_txt": "a\tb\tc\n"}, r"line 1: 3 columns .* there should be 4"),
        (Rewrites, {"dev_txt": "a\tb\t\td"}, r"the query is empty"),
        (Rewrites, {"dev_txt": "a\tb\tc\t "}, r"the rewrite is empty"),
        (Rewrites, {"dev_txt": "\t\tc\td"}, r"nothing is said before the query"),
        (
            Rewrites,
            {"dev_txt": "a\tb\tc\t" + 11 * LONG},
            r"110,006 characters, the limit",
        ),
        (Lccc, {"toy_data_json": {"test": [["好"]]}}, r"test, dialogue 0: nobody answers"),
        (Lccc, {"toy_data_json": {"test": [["好", " "]]}}, r"field \[1\]: it is empty"),
        (Lccc, {"toy_data_json": {"test": [["好", 3]]}}, r"it should be text and is 3"),
        (
            Sessions,
            {"dev_question_txt": QUESTIONS, "dev_answer_txt": "<session s>\n好\n</session s>"},
            r"'s' has 2 questions and 1 answers",
        ),
        (Sessions, {"dev_question_txt": QUESTIONS[:-14]}, r"session 's' does not end"),
        (Sessions, {"dev_answer_txt": ANSWERS}, r"nothing asks for these answers"),
        (Sessions, {"dev_question_txt": "Q:\t在吗\n"}, r"it is in no session"),
        (
            Sessions,
            {"dev_question_txt": QUESTIONS.replace("Q:", "X:"), "dev_answer_txt": ANSWERS},
            r"line 3: it is no part of a session",
        ),
    ],
)
def test_a_bad_record_of_test_is_named(tmp_path, builder, texts, message):
    texts = {k: t if isinstance(t, str) else json.dumps(t) for k, t in texts.items()}
    (bad,) = read(builder, written(tmp_path, builder, **texts), "test")
    with pytest.raises(BadRecordError, match=message):
        raise bad


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ("a\tu\t0\t0\n", r"4 columns separated by tabs, there should be 7"),
        ("a\tu\t2\t0\t0\tnan\t好\n", r"who speaks should be 0 or 1 and is '2'"),
        ("a\tu\t0\t0\t0\tnan\tNULL\n", r"nothing is said in session 'a'"),
        ("a\tu\t0\t0\t0\tnan\t好\nbad\n", r"1 columns"),  # and the session is not used in part
    ],
)
def test_a_bad_session_is_named(tmp_path, chat, message):
    folder = written(tmp_path, Sessions, chat_0_1per_txt=chat)
    (bad,) = read(Sessions, folder, "train") + read(Sessions, folder, "dev")
    with pytest.raises(BadRecordError, match=message):
        raise bad


def test_a_text_that_is_no_utf_8_is_named_by_line(tmp_path):
    folder = written(tmp_path, Rewrites)
    (folder / "dev.txt").write_bytes("好\t好\t好\t好\n".encode() + b"\xff\t\n")
    talk, bad = read(Rewrites, folder, "test")
    assert isinstance(talk, Dialogue)
    assert "line 2 is not UTF-8 text at byte 0" in str(bad)


def test_ten_thousand_characters_are_kept(tmp_path):
    folder = written(tmp_path, Pairs, test_enc=LONG + ",\n", test_dec="好,\n")
    assert read(Pairs, folder, "test")[0].turns[0].text == LONG
    assert chat_statistics(read(Pairs, folder, "test")).longest == 10_000


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    folder = written(tmp_path, Pairs, test_enc="a,\nb,\n", test_dec="c,\n")
    with pytest.raises(UserError, match=r"test\.enc has a line 2 and .*test\.dec has not"):
        read(Pairs, folder, "test")


@pytest.mark.parametrize("builder", FILES)
def test_what_is_missing_is_said_and_where_it_is_from(tmp_path, builder):
    with pytest.raises(UserError, match=rf"{FILES[builder][0]} is not there.*https://.*manual_dir"):
        builder.find("", tmp_path)


def test_other_content_has_another_name(tmp_path):
    folder = written(tmp_path, Rewrites, dev_txt="a\tb\tc\td\n")
    assert Rewrites.find("", folder).config.startswith("release-")


def test_a_file_without_a_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"field test: it is missing; get the file again"):
        read(Lccc, written(tmp_path, Lccc, toy_data_json="{}"), "test")


def test_statistics_count_what_is_annotated():
    turns = (
        Turn(0, "退[数字x]元", rewrites=("x",)),
        Turn(1, "好", references=("行", "嗯")),
        Turn(0, "", rewrites=()),
    )
    talk = Dialogue("a", turns, targets=(1,), products=(Product("p", "", (("a", "b"),)),))
    found = chat_statistics([talk, talk])
    assert found == ChatStatistics(
        dialogues=2, turns=6, characters=8, longest=3, masked=2, targets=2, target_characters=2,
        references=6, rewritable=2, not_rewritable=2, products=1, attributes=1,
    )  # fmt: skip
