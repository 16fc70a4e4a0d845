"""The lab on teacher labels: headlines with exact gold, teachers that err as the page says, and a fair F1."""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import pytest
import torch

from hyperfit_course.labs.teacher_labels import (
    ARMS,
    COMPANIES,
    DATA,
    MEASURED,
    RULE,
    SPLITS,
    TEACHERS,
    Arm,
    Headline,
    Lesson,
    Spans,
    Tagger,
    companies,
    counted,
    encoded,
    f1,
    features,
    headlines,
    resampled,
    run,
    spans_of,
    tags_of,
    tasks,
    taught,
    train,
)


def drawn(seed: int, count: int = 40) -> tuple[list[Spans], list[Spans]]:
    """Gold spans and predictions: any tags, which agree in about two of three words."""
    draw = random.Random(seed)
    gold = [[draw.choice((0, 0, 1, 2)) for _ in range(draw.randint(1, 14))] for _ in range(count)]
    found = [[tag if draw.random() < 0.66 else draw.choice((0, 1, 2)) for tag in row] for row in gold]
    return [spans_of(row) for row in gold], [spans_of(row) for row in found]


# F1


@pytest.mark.skipif(sys.version_info < (3, 11), reason="nervaluate with this way of calling it needs Python 3.11")
def test_f1_is_that_of_a_library() -> None:
    import nervaluate

    for seed in range(500):
        sides = [
            [[{"label": "C", "start": first, "end": end - 1} for first, end in spans] for spans in side]
            for side in drawn(seed, count=5)
        ]
        strict = nervaluate.Evaluator(*sides, tags=["C"], loader="dict").evaluate()["overall"]["strict"]
        assert f1(*drawn(seed, count=5)) == pytest.approx(strict.f1)


def test_f1_of_exact_shifted_and_absent_spans() -> None:
    gold: list[Spans] = [((0, 2), (2, 3)), (), ((4, 6),)]
    shifted = [tuple((first + 1, end + 1) for first, end in spans) for spans in gold]
    assert f1(gold, gold) == 1
    assert f1(gold, shifted) == 0
    assert f1(gold, [(), (), ()]) == 0
    assert f1([()], [()]) == 1
    assert f1(gold, [((0, 2),), ((0, 1),), ()]) == pytest.approx(2 / 5), "1 of 3 found, 1 of 2 right"


def test_the_same_place_in_another_headline_is_another_span() -> None:
    assert f1([((0, 1),), ()], [(), ((0, 1),)]) == 0


def test_tags_and_spans_say_the_same_and_neighbours_stay_two() -> None:
    assert tags_of(((0, 1), (1, 3)), 5) == [1, 1, 2, 0, 0]
    for given in headlines("test", 200, 3):
        assert spans_of(tags_of(given.spans, len(given.words))) == given.spans
    assert spans_of([1, 1, 2, 0, 1]) == ((0, 1), (1, 3), (4, 5))


def test_a_span_begins_with_its_beginning_only() -> None:
    assert spans_of([2, 0, 2, 2, 1]) == ((4, 5),)


def test_intervals_of_resampled_headlines_cover_the_truth() -> None:
    generator = np.random.default_rng(0)
    wanted = generator.integers(0, 3, 20_000)
    right = generator.binomial(wanted, 0.8)
    found = right + generator.binomial(1, 0.1, 20_000)
    everything = np.stack([right, wanted, found], 1)
    truth = 2 * right.sum() / (wanted.sum() + found.sum())
    inside = 0
    for seed in range(300):
        sample = everything[generator.integers(20_000, size=200)]
        low, high = np.quantile(resampled(sample, 200, 400, seed), [0.025, 0.975])
        inside += low <= truth <= high
    assert 0.92 <= inside / 300 <= 0.98


def test_small_sets_spread_more() -> None:
    counts = counted(*drawn(0, count=300))
    assert resampled(counts, 100, 500, 0).std() > 1.5 * resampled(counts, 400, 500, 0).std()
    with pytest.raises(ValueError, match="no headline to draw"):
        resampled(counts[:0], 5, 5, 0)


# Headlines


def test_headlines_are_the_same_for_a_seed_and_more_of_them_begin_alike() -> None:
    assert headlines("train", 20, 5) == headlines("train", 50, 5)[:20]
    assert headlines("train", 20, 5) != headlines("train", 20, 6)


def test_gold_spans_are_the_companies_and_nothing_else() -> None:
    for split in SPLITS:
        known = {name.lower() for name in companies(split, 1)}
        for headline in headlines(split, 200, 1):
            assert {headline.name(span) for span in headline.spans} <= known
            assert len(headline.spans) in (0, 1, 2)


def test_no_company_and_no_first_word_of_one_is_in_two_splits() -> None:
    names = {split: companies(split, 2) for split in SPLITS}
    assert {split: len(found) for split, found in names.items()} == COMPANIES
    roots = [{name.split()[0] for name in found} for found in names.values()]
    assert not roots[0] & roots[1]
    assert not roots[0] & roots[2]
    assert not roots[1] & roots[2]


def test_later_headlines_have_forms_that_training_never_saw() -> None:
    def said(split: str) -> set[str]:
        return {headline.words[0] for headline in headlines(split, 600, 0)}

    new = {"Remote", "Home", "Supply"}
    assert new <= said("test")
    assert not new & (said("train") | said("validation"))


def test_ordinary_words_are_names_too_and_some_headlines_have_no_capitals() -> None:
    train_set = headlines("train", 600, 0)
    roots = {name.split()[0] for split in SPLITS for name in companies(split, 0)}
    assert len(roots & {*DATA["words"]}) > 8
    small = sum(" ".join(headline.words).islower() for headline in train_set)
    assert 12 < small < 54, "5 % of 600"


@pytest.mark.parametrize(
    ("split", "count", "message"), [("dev", 5, "no split 'dev'"), ("train", 0, "a headline at least, and 0")]
)
def test_a_split_that_cannot_be_is_refused(split: str, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        headlines(split, count, 0)


# Teachers


RATE_OF_ERRORS = 0.3
MANY = headlines("train", 3000, 4)
GOLD = [headline.spans for headline in MANY]


def wrong(teacher: str) -> dict[tuple[int, tuple[int, int]], str]:
    """What became of each mention."""
    fates = {}
    for number, (gold, labels) in enumerate(zip(GOLD, taught(MANY, teacher, RATE_OF_ERRORS, 0), strict=True)):
        ends = dict(labels)
        for first, end in gold:
            fates[number, (first, end)] = {end: "kept", None: "lost", end - 1: "cut"}[ends.pop(first, None)]
        assert not ends, "a teacher invents nothing"
    return fates


def test_gold_labels_are_those_of_a_rate_of_0() -> None:
    assert taught(MANY, "chance", 0.0, 0) == GOLD == taught(MANY, "company", 0.0, 0)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_teachers_err_as_often_as_they_say(teacher: str) -> None:
    fates = [*wrong(teacher).values()]
    # One decision a mention, or one a company (about 200), with three standard errors.
    free = len(fates) if teacher == "chance" else COMPANIES["train"]
    assert (
        abs(1 - fates.count("kept") / len(fates) - RATE_OF_ERRORS)
        < 3 * (RATE_OF_ERRORS * (1 - RATE_OF_ERRORS) / free) ** 0.5
    )


def test_only_chance_errs_on_a_company_once_and_not_again() -> None:
    for teacher in TEACHERS:
        fates: dict[str, set[str]] = {}
        for (number, span), fate in wrong(teacher).items():
            fates.setdefault(MANY[number].name(span), set()).add(fate)
        several = sum(len(found) > 1 for found in fates.values())
        assert (several > 100) == (teacher == "chance")
        assert teacher == "chance" or several <= sum(" " not in name for name in fates), "a name of one word is lost"


def test_the_rule_reads_the_last_word() -> None:
    for (number, span), fate in wrong("rule").items():
        last = MANY[number].name(span).split()[-1]
        alone = span[1] - span[0] == 1
        assert fate == ("lost" if alone and last in RULE else RULE.get(last, "kept"))


def test_coins_of_another_seed_fall_otherwise() -> None:
    for teacher in ("chance", "company"):
        assert (
            taught(MANY, teacher, RATE_OF_ERRORS, 0)
            == taught(MANY, teacher, RATE_OF_ERRORS, 0)
            != taught(MANY, teacher, RATE_OF_ERRORS, 1)
        )


@pytest.mark.parametrize(("teacher", "rate", "message"), [("llm", 0.1, "no teacher 'llm'"), ("chance", 1.2, "1.2")])
def test_a_teacher_that_cannot_be_is_refused(teacher: str, rate: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taught(MANY, teacher, rate, 0)


# The student


def test_a_word_is_seen_by_itself_its_ends_and_its_shape() -> None:
    assert len(features("Target")) == 4
    shared = [a == b for a, b in zip(features("Target"), features("target"), strict=True)]
    assert shared == [True, True, True, False]
    assert min(features("")) > 0, "0 is for padding"


def test_padding_changes_nothing() -> None:
    given = sorted(headlines("test", 30, 0), key=lambda headline: len(headline.words))
    student = Tagger(0)
    alone = student(encoded(given[:1]))
    together = student(encoded(given))[:1, : alone.shape[1]]
    assert torch.allclose(alone, together, atol=1e-6)
    assert student.spans(encoded(given[:1])) == student.spans(encoded(given))[:1]


def test_a_tag_depends_on_two_words_on_each_side() -> None:
    words = ("Why", "Belgate", "Energy", "Group", "Is", "Moving", "Today")
    changed = ("Shares", *words[1:])
    one, other = (Tagger(0)(encoded([Headline(each, ())]))[0] for each in (words, changed))
    differs = (one != other).any(-1).tolist()
    assert differs == [True, True, True, False, False, False, False]


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="no headline to read"):
        encoded([])


def lesson() -> Lesson:
    """A short one."""
    sizes = {"train": 40, "validation": 10, "test": 10}
    full = Arm("small", "chance", RATE_OF_ERRORS).lesson(0)
    return Lesson(*({split: part[split][:size] for split, size in sizes.items()} for part in full))


def test_a_student_learns_its_labels_by_heart_and_is_the_same_again() -> None:
    first, second = (list(train(Tagger(1), lesson(), seed=1)) for _ in range(2))
    assert first == second
    assert tuple(row["epoch"] for row in first) == MEASURED
    assert first[-1]["loss"] < 0.1 * first[0]["loss"]
    assert first[-1]["train taught"] > first[-1]["train"], "it agrees with its teacher's errors"


def test_a_teacher_that_loses_all_names_teaches_nothing() -> None:
    small = lesson()
    with pytest.raises(ValueError, match="No headline has a company"):
        next(train(Tagger(0), small._replace(taught=small.taught | {"train": [()] * 40}), seed=0))


# Arms


def test_arms_of_a_seed_differ_in_their_labels_only() -> None:
    lessons = {arm.name: arm.lesson(0) for arm in ARMS}
    assert lessons["gold"].taught == lessons["gold"].gold
    for name, other in lessons.items():
        assert other.given == lessons["gold"].given
        assert (other.taught == other.gold) == (name == "gold")


def test_teachers_are_about_equally_good() -> None:
    """Else it would be no wonder that their students differ."""
    found = {name: f1(GOLD, taught(MANY, name, RATE_OF_ERRORS, 0)) for name in TEACHERS}
    assert all(0.68 < each < 0.8 for each in found.values()), found


def test_what_is_compared_is_recorded_with_five_seeds() -> None:
    seeds: dict[str, list[int]] = {}
    for task in tasks():
        seeds.setdefault(task.configuration["labels"]["name"], []).append(task.configuration["seed"])
    assert seeds == {arm.name: [0, 1, 2, 3, 4] for arm in ARMS}


def test_a_row_holds_its_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperfit_course.labs.teacher_labels.SIZES", {"train": 40, "validation": 10, "test": 10})
    monkeypatch.setattr("hyperfit_course.labs.teacher_labels.MEASURED", (1, 3))
    (row,) = run(Arm("short", "chance", RATE_OF_ERRORS), 0)
    assert json.loads(json.dumps(row)) == row
    assert row["epoch"] == [1, 3]
    assert len(row["test"]) == len(row["loss"]) == len(row["train taught"]) == 2
    assert 0.3 < row["teacher"] <= 1
