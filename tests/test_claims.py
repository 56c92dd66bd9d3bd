"""Published claims measured again: the page of a tiny sweep, readings of drawn series, and every outcome of every rule."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from twoclocks.claims.answers import Answer, Curve, Finding, Part, Picture, agreed, finding_of, held, joined
from twoclocks.claims.clocks_sweep import SWEEP
from twoclocks.claims.closing import is_slow, scaled_time, varies
from twoclocks.claims.drawing import POINTS, drawn, thinned
from twoclocks.claims.fitting import below_zero, lies
from twoclocks.claims.gates import extreme, frozen_at_last
from twoclocks.claims.page import TITLE, Page, joined_parts, parts_of, write_claims
from twoclocks.claims.ranks import (
    ANSWERS,
    CENTRED,
    LOGITS,
    MATRICES,
    READOUT,
    WITH_PAIRS,
    counting,
    matrices_of,
    pairs_of,
)
from twoclocks.claims.reproduce import reproduce
from twoclocks.claims.setting import DecaySlope, fall, frozen_since, saturation, slope_on_decay, value_at
from twoclocks.claims.showing import Showing
from twoclocks.claims.words import between_words, mean_words, time_words
from twoclocks.cli import main
from twoclocks.clocks import Between, HittingTime, OrderCell
from twoclocks.errors import InputError
from twoclocks.measures.fourier import fourier_logits
from twoclocks.measures.spectrum import stable_rank
from twoclocks.trajectory import Series
from twoclocks.verdicts import Outcome, Verdict

HOLDS, FAILS, PARTLY, OPEN = Finding.HOLDS, Finding.FAILS, Finding.PARTLY, Finding.OPEN
TINY = {"p": 13, "hidden": 48, "width": 12, "steps": 300, "train_fraction": 0.6, "lr": 0.02}


@contextmanager
def noted(into: list[str], title: str) -> Iterator[None]:
    into.append(title)
    yield None


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder, titles = tmp_path_factory.mktemp("sweep"), []  # type: ignore[var-annotated]
    out = folder / "docs" / "claims.md"
    out.parent.mkdir()
    showing = Showing(training=lambda title: noted(titles, title))
    reproduce("clocks", runs=folder / "runs", out=out, seeds=2, settings=TINY, showing=showing)
    return SimpleNamespace(folder=folder, out=out, titles=titles)


def answered(page: str) -> list[tuple[str, str]]:
    """Return letter and outcome of every claim in the short answer."""
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| (")]
    return [(row[0].strip("| ()"), row[2].strip("*")) for row in rows]


def test_the_page_answers_all_seven_questions_with_one_of_four_outcomes(tiny: SimpleNamespace) -> None:
    found = answered(tiny.out.read_text())
    assert [letter for letter, _ in found] == list("abcdefg")
    assert {outcome for _, outcome in found} <= {str(finding) for finding in Finding}


def test_every_picture_of_the_page_is_there_and_is_small_valid_xml(tiny: SimpleNamespace) -> None:
    page = tiny.out.read_text()
    named = [line.split("](")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert len(named) == len(set(named)) == 13
    for name in named:
        picture = tiny.out.parent / name
        assert ET.parse(picture).getroot().tag.endswith("svg")
        assert picture.stat().st_size < 100_000
    assert {path.name for path in tiny.out.with_suffix("").iterdir()} == {name.split("/")[1] for name in named}


def test_no_table_is_wider_than_seven_columns_and_all_rows_fit_their_head(tiny: SimpleNamespace) -> None:
    tables = [part.splitlines() for part in tiny.out.read_text().split("\n\n") if part.startswith("|")]
    assert len(tables) >= 20
    for table in tables:
        widths = {line.count("|") for line in table}
        assert len(widths) == 1
        assert widths.pop() - 1 <= 7


def test_no_number_on_the_page_is_nan_or_python(tiny: SimpleNamespace) -> None:
    words = {word.strip("().,;*") for word in tiny.out.read_text().split()}
    assert len(words) > 300
    assert not {"nan", "inf", "None", "True", "False"} & words


def test_each_training_is_announced_and_has_its_folder(tiny: SimpleNamespace) -> None:
    assert [title.split(":")[0] for title in tiny.titles] == [f"training {i} of 4" for i in (1, 2, 3, 4)]
    assert tiny.titles[-1].endswith("λ_w = 1, no mirrors")
    assert {path.name for path in (tiny.folder / "runs").iterdir()} == {training.folder for training in SWEEP}


def test_the_same_folders_give_the_same_bytes(tiny: SimpleNamespace) -> None:
    before = {path.name: path.read_bytes() for path in [tiny.out, *tiny.out.with_suffix("").iterdir()]}
    again = tiny.folder / "again" / "claims.md"
    again.parent.mkdir()
    reproduce("clocks", runs=tiny.folder / "runs", out=again, seeds=2, settings=TINY)
    assert {path.name: path.read_bytes() for path in [again, *again.with_suffix("").iterdir()]} == before


def test_the_part_of_another_set_of_claims_stays_as_it_is(tmp_path: Path) -> None:
    path, other = tmp_path / "claims.md", Page("zebra", "Another set", ("said before",), ())
    write_claims(path, other)
    first = path.read_text()
    answer = Answer("a", "?", "!", (Part("x", "y", HOLDS, "z"),), "found")
    write_claims(path, Page("clocks", "Two clocks", (), (answer,)))
    both = path.read_text()
    assert both.startswith(f"# {TITLE}\n")
    assert list(parts_of(both)) == ["clocks", "zebra"]
    assert parts_of(both)["zebra"] == parts_of(first)["zebra"]
    assert joined_parts(parts_of(both)) == both
    write_claims(path, Page("clocks", "Two clocks", (), (replace(answer, found="measured again"),)))
    again = path.read_text()
    assert again == both.replace("found\n", "measured again\n", 1)


def test_a_part_without_a_section_has_no_column_for_other_runs(tmp_path: Path) -> None:
    answer = Answer("a", "?", "!", (Part("x", "y", HOLDS, "z"),), "found", asides=(Part("v", "w", FAILS, "u"),))
    text = write_claims(tmp_path / "claims.md", Page("clocks", "Two clocks", (), (answer,))).read_text()
    assert "| (a) | ! | **holds** |\n|  | · x | holds |\n|  | asked besides: v | does not hold |\n" in text


def test_an_interrupted_sweep_goes_on_and_leaves_no_page_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twoclocks.claims.page.drawn", lambda picture: b"<svg/>")  # drawing is seen to elsewhere
    stopped, out = {**TINY, "steps": 40}, tmp_path / "claims.md"

    @contextmanager
    def stopping(title: str) -> Iterator[Any]:
        def stop(step: int, steps: int) -> None:
            if title.startswith("training 2") and step > 10:
                raise KeyboardInterrupt

        yield stop

    with pytest.raises(KeyboardInterrupt):
        reproduce("clocks", runs=tmp_path / "runs", out=out, seeds=2, settings=stopped, showing=Showing(stopping))
    assert not out.exists()
    reproduce("clocks", runs=tmp_path / "runs", out=out, seeds=2, settings=stopped)
    assert len(answered(out.read_text())) == 7


BAD: list[tuple[list[str], str]] = [
    (["clock"], "Did you mean 'clocks'"),
    (["clocks", "clocks"], "a set of claims is named twice"),
    (["representation", "clock"], "Did you mean 'clocks'"),
    (["clocks", "--cheap"], "no cheap part"),
    (["clocks", "representation", "--cheap"], "no cheap part"),
    (["--set", "seed=3"], "name one of clocks, representation"),
    (["clocks", "--seeds", "1"], "at least 2 of them"),
    (["clocks", "--set", "weight_decay=0.5"], "leave it out"),
    (["clocks", "--set", "unordered=true"], "leave it out"),
    (["clocks", "--set", "widht=4"], "Did you mean 'width'"),
    (["clocks", "--set", "steps"], "KEY=VALUE"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_gives_one_sentence_and_exit_code_2(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["twoclocks", "reproduce", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    assert (end.value.code, captured.out) == (2, "")
    assert sentence in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_fewer_than_two_seeds_are_refused_in_python_too(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2"):
        reproduce("clocks", runs=tmp_path, out=tmp_path / "x.md", seeds=1)


def series(*rows: Any, step: Any = None) -> Series:
    value = np.array(rows, np.float64)
    return Series("drawn", "", np.arange(value.shape[1]) * 10 if step is None else np.array(step), value)


def time_of(*values: float | None, last: float = 15_000) -> HittingTime:
    n = len(values)
    afters = tuple(last if value is None else value - 1 for value in values)
    return HittingTime(values, (1,) * n, (None,) * n, 5, last, (False,) * n, afters)


def test_a_loss_saturates_where_it_comes_within_a_factor_two_of_its_final_level() -> None:
    step = np.arange(100)
    exponential = 1e-6 + np.exp(-0.5 * step)  # twice the level where e^(−t/2) = 1e-6: t = 27.6
    assert saturation(series(exponential)).values == (280,)
    assert saturation(series(exponential, np.full(100, 3.0))).values == (280, 0)


def test_a_loss_that_is_never_steady_does_not_saturate() -> None:
    rough = np.tile([1.0, 9.0], 50)
    assert saturation(series(rough)).values == (0,)  # twice the median of 1 and 9 is 10, above all of it
    spiky = np.tile([1.0, 1.0, 9.0], 40)
    assert saturation(series(spiky)).values == (None,)
    assert saturation(series(np.full(20, np.nan))).values == (None,)


def test_the_fall_is_read_past_the_peak_and_a_fall_that_did_not_come_is_censored() -> None:
    step = np.arange(400)
    hump = np.where(step < 50, 1 + step / 50, 2 * np.exp(-(step - 50) / 20.0))  # peak 2 at place 50
    begins, ends = fall(series(hump, np.minimum(hump, 2.0), 1 + step / 400))
    assert begins.values == (530, 530, None)  # −20 ln 0.9 = 2.1
    assert ends.values == (1430, 1430, None)  # −20 ln 0.01 = 92.1
    half = fall(series(np.maximum(hump, 0.5)))
    assert (half[0].values, half[1].values) == ((530,), (None,))


def test_the_slope_on_decay_is_that_of_a_power_and_leaves_censored_seeds_out() -> None:
    decays = [1.0, 0.8, 0.6]
    exact = [time_of(*(100 * seed / decay for seed in (1, 2, 3))) for decay in decays]
    slope = slope_on_decay(decays, exact)
    assert slope.value == pytest.approx(-1, abs=1e-12)
    assert (slope.seeds, slope.of, slope.is_of_all) == (3, 3, True)
    cut = [*exact[:2], time_of(166.7, None, 500.0)]
    partial = slope_on_decay(decays, cut)
    assert (partial.seeds, partial.of, partial.is_of_all) == (2, 3, False)
    assert "2 of 3 seeds" in str(partial)
    assert (varies(partial), below_zero(partial)) == (OPEN, OPEN)
    assert slope_on_decay(decays, [time_of(None, None)] * 3) == DecaySlope(None, None, 0, 2)
    assert slope_on_decay([1.0], [time_of(5.0, 6.0)]).value is None


def test_gates_are_frozen_from_where_all_later_snapshots_agree_but_never_by_the_last_alone() -> None:
    thaws = [0.5, 0.995, 0.6, 0.992, 0.999, 1.0]
    never = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    time = frozen_since(series(thaws, never, [1.0] * 6, [np.nan] * 5 + [1.0]))
    assert time.values == (30, None, 0, None)
    assert time.last == 40


def test_a_value_is_read_at_the_first_moment_after_a_time_and_not_where_there_is_none() -> None:
    one = series([1.0, 2.0, 3.0])
    assert [value_at(one, time_of(t), 0) for t in (0, 5, 20, 21, None)] == [1.0, 2.0, 3.0, None, None]
    assert value_at(one, None, 0) is None


def test_the_least_since_a_step_leaves_the_last_snapshot_out() -> None:
    one = series([0.1, 0.5, 0.4, 1.0])
    assert [extreme(one, 0, since, min) for since in (0, 10, 20, 30, None)] == [0.1, 0.4, 0.4, None, None]


def verdict(outcome: Outcome) -> Verdict:
    return Verdict("TC000", "", outcome)


def test_every_outcome_is_reached_by_the_rules_that_join() -> None:
    assert [finding_of(verdict(one)) for one in Outcome] == [HOLDS, FAILS, OPEN, OPEN]
    cases: list[tuple[Callable[[Any], Finding], list[Finding], Finding]] = [
        (agreed, [HOLDS, HOLDS], HOLDS), (agreed, [HOLDS, FAILS], PARTLY), (agreed, [HOLDS, OPEN], PARTLY),
        (agreed, [FAILS, OPEN], FAILS), (agreed, [FAILS, OPEN, OPEN], OPEN), (agreed, [OPEN], OPEN), (agreed, [], OPEN),
        (joined, [HOLDS, HOLDS], HOLDS), (joined, [HOLDS, OPEN], PARTLY), (joined, [PARTLY, FAILS], PARTLY),
        (joined, [FAILS, OPEN, OPEN], FAILS), (joined, [OPEN, OPEN], OPEN), (joined, [FAILS], FAILS),
    ]  # fmt: skip
    for rule, given, wanted in cases:
        assert rule(given) is wanted, (rule, given)
    assert len(cases) == 13


def test_asides_do_not_count_for_a_claim() -> None:
    part, aside = Part("x", "", HOLDS, ""), Part("y", "", FAILS, "")
    assert Answer("a", "?", "!", (part,), "", asides=(aside,)).finding is HOLDS


def slope(low: float, high: float, seeds: int = 5) -> DecaySlope:
    return DecaySlope((low + high) / 2, (low, high), seeds, 5)


def cell(low: float | None, high: float | None) -> OrderCell:
    return OrderCell(0.1, 0.1, Between(low, high), None, 0.95, 0, 0, 5, 1.0)


def test_every_rule_can_come_out_both_ways_and_stay_open() -> None:
    cases: list[tuple[Finding, Finding]] = [
        (lies(time_of(1500), 0, 1000, 2250), HOLDS), (lies(time_of(900), 0, 1000, 2250), FAILS),
        (lies(time_of(None), 0, 1000, 2250), FAILS), (lies(time_of(None, last=2000), 0, 1000, 2250), OPEN),
        (below_zero(slope(-1.2, -0.8)), HOLDS), (below_zero(slope(0.1, 0.3)), FAILS), (below_zero(slope(-1, 1)), OPEN),
        (below_zero(slope(-1.2, -0.8, seeds=4)), OPEN),
        (varies(slope(-0.8, -0.7)), HOLDS), (varies(slope(-1.05, -0.95)), FAILS), (varies(slope(-1.05, -0.8)), OPEN),
        (is_slow(cell(60.0, None)), HOLDS), (is_slow(cell(1.1, 1.2)), FAILS), (is_slow(cell(1.0, 3.0)), OPEN),
        (is_slow(cell(None, None)), OPEN),
        (counting(np.array([0.98, 1.0, 1.02])), HOLDS), (counting(np.array([0.5, 0.5, 0.51])), FAILS),
        (counting(np.array([0.5, 1.0, 1.5])), OPEN), (counting(np.array([np.nan, 1.0])), OPEN),
        (held(None), OPEN), (held(True), HOLDS), (held(False), FAILS),
    ]  # fmt: skip
    for i, (found, wanted) in enumerate(cases):
        assert found is wanted, i
    assert len(cases) == 22


def test_gates_frozen_only_in_the_last_tenth_are_told_from_those_that_never_freeze() -> None:
    late, never = np.linspace(0.5, 0.98, 21), np.linspace(0.5, 0.98, 21)
    late[-4:] = 0.999
    setting: Any = SimpleNamespace(
        last=200, evidence=SimpleNamespace(measured={"gate_jaccard(last)": series(late, never)})
    )
    assert [frozen_at_last(setting, r) for r in (0, 1)] == [HOLDS, FAILS]
    unrecorded: Any = SimpleNamespace(last=200, evidence=SimpleNamespace(measured={}))
    assert frozen_at_last(unrecorded, 0) is OPEN


def test_pairs_of_equal_energy_are_counted_by_the_stable_rank_and_unequal_ones_weighed() -> None:
    assert pairs_of(np.array([2.0, 2.0, 2.0])) == (3.0, 6.0)
    assert pairs_of(np.array([4.0, 2.0, 0.0])) == (2.0, 3.0)
    assert pairs_of(np.zeros(3)) == (0.0, 0.0)


def test_the_maps_of_perfect_fourier_logits_have_twice_as_many_directions_as_frequencies() -> None:
    p, frequencies = 11, [1, 3]
    labels = (torch.arange(p)[:, None] + torch.arange(p)).flatten() % p
    generator = torch.Generator().manual_seed(0)
    shapes = ((p, 4), (6, 4), (p, 6))
    weights = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    features = torch.randn(p * p, 6, generator=generator, dtype=torch.float64).relu()
    found = matrices_of(5.0 + fourier_logits(p, frequencies), features, weights, labels)
    assert tuple(found) == MATRICES
    assert set(WITH_PAIRS) <= set(MATRICES)
    ranks = {name: float(stable_rank(found[name])) for name in (LOGITS, LOGITS + CENTRED, ANSWERS)}
    assert ranks[LOGITS] < 2  # a mean of 5 is one direction that hides all others
    assert ranks[LOGITS + CENTRED] == pytest.approx(4)
    assert ranks[ANSWERS] == pytest.approx(4)
    assert float(found[READOUT + CENTRED].mean(0).abs().max()) < 1e-12


def test_words_never_make_a_number_of_a_censored_time() -> None:
    assert time_words(time_of(None, None, 7.0)) == "> 15,000; 1 of 3 runs"
    assert time_words(time_of(5.0, 5.0, 5.0, 5.0, 5.0)) == "5 (5)"
    assert mean_words([None, None]) == "–"
    assert mean_words([2.0, float("nan")]) == "2; 1 of 2 runs"
    assert between_words(Between(None, 0.1), None) == "< 0.1"
    scaled = scaled_time(time_of(100.0, None), 0.01)
    assert (scaled.values, scaled.last) == ((1.0, None), 150.0)


def test_a_long_curve_is_thinned_to_its_ends_and_a_picture_without_curves_is_drawn() -> None:
    x = np.arange(1, 5001)
    thin_x, thin_y = thinned(Curve("x", x, np.sqrt(x)))
    assert len(thin_x) <= POINTS
    assert (thin_x[0], thin_x[-1]) == (1, 5000)
    np.testing.assert_array_equal(thin_y, np.sqrt(thin_x))
    nothing = Curve("never reached", np.array([1.0, 2.0]), np.full(2, np.nan))
    empty = Picture("none", "nothing", "x", "y", (), "no runs")
    assert ET.fromstring(drawn(empty)).tag.endswith("svg")
    assert ET.fromstring(drawn(replace(empty, curves=(nothing,), log_x=True, log_y=True))).tag.endswith("svg")
    assert drawn(empty) == drawn(empty)


def test_the_sweep_trains_every_decay_and_one_split_without_mirrors() -> None:
    assert [(training.weight_decay, training.unordered) for training in SWEEP] == [
        (1.0, False), (0.8, False), (0.6, False), (1.0, True)
    ]  # fmt: skip
    assert SWEEP[-1].folder == "modular-addition-published-wd1-unordered"
