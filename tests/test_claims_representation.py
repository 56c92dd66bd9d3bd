"""Claims about representation and readout: the page of tiny trainings, and every outcome of every rule by drawn inputs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from small_images import small_images
from synthetic import series, snapshot, trajectory
from twoclocks.claims.answers import Answer, Finding
from twoclocks.claims.falling import (
    BASELINES,
    ONSETS,
    VARIANTS,
    Fall,
    fall_of,
    fall_words,
    lies_within,
    onset_step,
    share_between,
    share_of,
    share_up_to,
    which_share_falls_before,
)
from twoclocks.claims.lagging import END, MIDDLE, how_gaps_depend_on_the_probe, on_plateau, spread_parts
from twoclocks.claims.page import write_claims
from twoclocks.claims.repairing import (
    BEST,
    CEILING,
    TUNED,
    artefact_part,
    fall_below_start,
    recovery_part,
    start_part,
    whether_the_features_are_damaged_and_repaired,
)
from twoclocks.claims.representation_studies import answers, representation_page
from twoclocks.claims.reproduce import reproduce
from twoclocks.claims.setbacks import (
    above_part,
    dip_depth,
    half_as_deep,
    late_factor,
    lowest_later,
    restored_part,
    same_in_all,
    shallower_part,
    stalls_part,
)
from twoclocks.claims.showing import Showing
from twoclocks.claims.studies import (
    NOT_TRAINED,
    STUDIES,
    Measured,
    Study,
    moment_of_run,
    named_part,
    recipe_of,
    verdict_part,
)
from twoclocks.decomposition import PATHS, PRESETS, STRIPS, Decomposition, Sensitivity
from twoclocks.errors import InputError
from twoclocks.evidence import Evidence
from twoclocks.representation import representation_of
from twoclocks.runs import run_of
from twoclocks.trajectory import EvalBatch, Series
from twoclocks.verdicts import Outcome, Verdict

HOLDS, FAILS, PARTLY, OPEN = Finding.HOLDS, Finding.FAILS, Finding.PARTLY, Finding.OPEN
SUPPORTED, REFUTED, UNDETERMINED = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.UNDETERMINED
ADDITION = {"p": 13, "train_fraction": 0.5, "width": 8, "hidden": 8, "steps": 60}
IMAGES = {"examples": 100, "heldout": 100, "hidden": 8, "batch": 50, "steps": 60}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "modular-addition": {**ADDITION, "hidden": 48, "lr": 0.02, "steps": 200},
    "modular-addition-transformer": {**ADDITION, "heads": 2},
    "s5": {"letters": 3, "width": 4, "hidden": 8, "batch": 0, "steps": 40},  # too few held out for a ladder
    "sparse-parity": {"bits": 10, "examples": 60, "heldout": 200, "hidden": 8, "batch": 20, "steps": 80},
    "mnist-large-init": IMAGES,
    "label-noise": IMAGES,
    "muon-collapse": {**ADDITION, "heads": 2},
    "softmax-collapse": {"p": 7, "hidden": 8, "steps": 60},
}
TINY = tuple(replace(study, size=SIZES[study.recipe]) for study in STUDIES)


@contextmanager
def noted(into: list[str], title: str) -> Iterator[None]:
    into.append(title)
    yield None


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """Let images be the small ones, every probe a ridge one, and the critical dimension be of few points and draws."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("recipes.label_noise", "recipes.mnist_large_init", "claims.representation_studies"):
            patch.setattr(import_module(f"twoclocks.{module}"), "read_images", lambda chosen: small_images())
        for module in ("representation", "claims.falling"):
            patch.setattr(f"twoclocks.{module}.DRAWS", 3)
        patch.setattr("twoclocks.representation.POINTS", 40)
        patch.setattr("twoclocks.representation.HALVINGS", 1)
        for family in ("logistic", "paper"):
            for of in (PRESETS, PATHS, STRIPS):
                patch.setitem(of, family, of["ridge"])  # type: ignore[index]
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, few_draws: None) -> SimpleNamespace:
    folder, titles, measured = tmp_path_factory.mktemp("studies"), [], []  # type: ignore[var-annotated]
    showing = Showing(lambda title: noted(titles, title), lambda title: noted(measured, title))
    page = representation_page(folder / "runs", 2, {}, False, showing, TINY)
    out = write_claims(folder / "claims.md", page)
    return SimpleNamespace(folder=folder, out=out, titles=titles, measured=measured, page=page)


def test_the_page_answers_seven_questions_of_which_every_part_has_one_of_four_outcomes(tiny: SimpleNamespace) -> None:
    assert [answer.letter for answer in tiny.page.answers] == list("abcdefg")
    parts = [part for answer in tiny.page.answers for part in (*answer.parts, *answer.asides)]
    assert len(parts) > 25
    assert all(part.finding in Finding and part.found != NOT_TRAINED for part in parts)
    rows = [line for line in tiny.out.read_text().splitlines() if line.startswith("| (")]
    assert len(rows) == 7


def test_every_picture_is_named_once_and_is_small_valid_xml(tiny: SimpleNamespace) -> None:
    named = [line.split("](")[1].rstrip(")") for line in tiny.out.read_text().splitlines() if line.startswith("![")]
    assert len(named) == len(set(named)) == 8
    for name in named:
        picture = tiny.out.parent / name
        assert ET.parse(picture).getroot().tag.endswith("svg")
        assert picture.stat().st_size < 60_000
    assert {path.name for path in tiny.out.with_suffix("").iterdir()} == {name.split("/")[1] for name in named}


def test_no_table_is_wider_than_seven_columns_and_all_rows_fit_their_head(tiny: SimpleNamespace) -> None:
    tables = [part.splitlines() for part in tiny.out.read_text().split("\n\n") if part.startswith("|")]
    assert len(tables) >= 18
    for table in tables:
        widths = {line.count("|") for line in table}
        assert len(widths) == 1
        assert widths.pop() - 1 <= 7


def test_no_number_on_the_page_is_nan_or_python(tiny: SimpleNamespace) -> None:
    words = {word.strip("().,;*:") for word in tiny.out.read_text().split()}
    assert len(words) > 300
    assert not {"nan", "inf", "∞", "None", "True", "False"} & words


def test_each_training_is_announced_measured_and_has_its_folder(tiny: SimpleNamespace) -> None:
    assert tiny.titles == [f"training {i + 1} of {len(TINY)}: {one.name}" for i, one in enumerate(TINY)]
    assert tiny.measured == [*(f"measuring {one.name}" for one in TINY), "comparing"]
    assert {path.name for path in (tiny.folder / "runs").iterdir()} == {study.name for study in TINY}


def test_the_costs_name_every_study_with_its_seconds_as_recorded(tiny: SimpleNamespace) -> None:
    (costs,) = tiny.page.tables
    assert [row[0] for row in costs.rows] == [study.name for study in TINY]
    assert all(float(row[-1].replace(",", "")) > 0 for row in costs.rows)


def test_only_the_cheap_studies_are_taken_up_where_cheap_is_wanted_and_the_rest_is_open(
    tiny: SimpleNamespace, few_draws: None
) -> None:
    titles: list[str] = []
    page = representation_page(tiny.folder / "runs", 2, {}, True, Showing(lambda title: noted(titles, title)), TINY)
    cheap = [study.name for study in TINY if study.cheap]
    assert [title.split(": ")[1] for title in titles] == cheap
    assert len(cheap) == 2
    found = {part.found for answer in page.answers if answer.letter in "cdeg" for part in answer.parts}
    assert found == {NOT_TRAINED}
    assert all(study.name in "".join(page.preface) for study in TINY if not study.cheap)
    whole = {answer.letter: answer for answer in tiny.page.answers}
    assert page.answers[5] != whole["f"]
    of_addition = [part for part in page.answers[0].parts if "MLP" in part.claim]
    assert of_addition == [part for part in whole["a"].parts if "MLP" in part.claim]  # taken up, the same numbers


def test_without_any_study_every_part_is_open_because_nothing_was_trained() -> None:
    found = answers({})
    assert len(found) == 7
    parts = [part for answer in found for part in (*answer.parts, *answer.asides)]
    assert len(parts) > 25
    for part in parts:
        assert (part.finding, part.found) == (OPEN, NOT_TRAINED)
    assert not [picture for answer in found for picture in answer.pictures]
    assert {answer.found for answer in found} == {"Not trained here."}


def test_studies_have_names_of_their_own_and_recipes_that_accept_their_settings() -> None:
    assert len({study.name for study in STUDIES}) == len(STUDIES) == 13
    made = [recipe_of(study, {}) for study in STUDIES]
    assert all(recipe.settings[name] == value for recipe, s in zip(made, STUDIES, strict=True)
               for name, value in {**s.size, **s.settings}.items())  # fmt: skip
    pairs = [("label-noise", "label-noise-slow-readout"), ("softmax-collapse", "softmax-collapse-stable")]
    by_name = dict(zip([study.name for study in STUDIES], made, strict=True))
    for one, other in pairs:
        changed = {k for k, v in by_name[one].settings.items() if v != by_name[other].settings[k]}
        assert len(changed) == 1


def test_a_trial_changes_sizes_and_never_what_a_study_is_about() -> None:
    control = next(study for study in STUDIES if study.name == "mnist-large-init-control")
    settings = recipe_of(control, {"steps": 7, "p": 11}).settings
    assert (settings["steps"], settings["init_scale"], "p" in settings) == (7, 1.0, False)
    assert recipe_of(control, {"init_scale": 3}).settings["init_scale"] == 1.0


BAD: list[tuple[Mapping[str, Any], str]] = [
    ({"init_scale": 3}, "leave it out"),
    ({"freeze": "none"}, "leave it out"),
    ({"widht": 3}, "no recipe of these studies has a setting 'widht'"),
]


@pytest.mark.parametrize(("settings", "sentence"), BAD)
def test_settings_that_cannot_be_changed_are_refused_before_anything_is_trained(
    settings: Mapping[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        reproduce("representation", runs=tmp_path / "runs", out=tmp_path / "claims.md", settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_not_there_are_missed_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(chosen: Any) -> None:
        raise InputError("no images")

    monkeypatch.setattr("twoclocks.claims.representation_studies.read_images", absent)
    with pytest.raises(InputError, match="no images"):
        representation_page(tmp_path, 2, {}, False, Showing(), TINY)
    assert list(tmp_path.iterdir()) == []


# Drawn runs: 100 evaluations, 20 snapshots

STEP = np.arange(0, 1000, 10)
SHOTS = np.arange(0, 1000, 50)


def late(at: float = 700, best: float = 1.0) -> list[float]:
    return np.where(at > STEP, 0.1, best).tolist()


def ladder(native: Any, train: Any, heldout: Any) -> Decomposition:
    rows = [np.atleast_2d(np.asarray(values, np.float64)) for values in (native, train, heldout)]
    values = [*rows, rows[1] - rows[0], rows[2] - rows[1]]
    intervals = [np.stack([value, value], axis=-1) for value in values]
    return Decomposition("ridge", SHOTS, *values, *intervals, scored=1000, fitted_on_train=1000, fitted_on_heldout=1000)


def strip(best: Any) -> Sensitivity:
    rows = np.atleast_2d(np.asarray(best, np.float64))
    wide = rows[..., None]
    return Sensitivity(SHOTS, "ridge", np.array([1.0]), rows, wide, wide, 1000, rows, rows, np.ones_like(rows), rows)


def verdict(code: str, outcome: Outcome, effect: float | None = None) -> dict[str, Verdict]:
    return {code: Verdict(code, "", outcome, effect=effect, evidence=("because",))}


def drawn(
    heldout: Sequence[Sequence[float]],
    *,
    rungs: Decomposition | None = None,
    best: Any = None,
    verdicts: Sequence[Mapping[str, Verdict]] | None = None,
    measured: Mapping[str, Series] | None = None,
    name: str = "drawn",
) -> Measured:
    recorded = trajectory(
        series("train_accuracy", STEP, [np.where(STEP < 50, 0.1, 1.0)] * len(heldout)),
        series("heldout_accuracy", STEP, np.array(heldout)),
    )
    evidence = Evidence(
        recorded, ladder=rungs, measured=measured or {}, sensitivity=None if best is None else strip(best)
    )
    runs = tuple(run_of(recorded, r) for r in range(len(heldout)))
    labels = ("grokking",) * len(heldout)
    return Measured(
        Study(name, "sparse-parity"),
        evidence,
        runs,
        tuple(verdicts or [{}] * len(heldout)),
        labels,
        (None,) * len(heldout),
    )


def flat(level: float = 0.8) -> Any:
    return np.full(len(SHOTS), level)


def dented(low: float, level: float = 0.8, upto: int = 12) -> Any:
    values = flat(level)
    values[4:upto] = low
    return values


def test_the_interval_over_seeds_decides_whether_a_share_lies_where_it_was_published() -> None:
    cases = [([0.5, 0.51, 0.49], HOLDS), ([0.01, 0.0, 0.02], FAILS), ([1.0, 1.01, 0.99], FAILS), ([0.1, 0.5, 0.9], OPEN),
             ([0.5, None, 0.5], OPEN), ([0.5], OPEN), ([], OPEN)]  # fmt: skip
    for values, wanted in cases:
        assert lies_within(values, (0.2, 0.8)) is wanted, values
    assert len(cases) == 7


def test_the_share_of_a_drawn_fall_follows_its_baseline_and_its_onset() -> None:
    run = drawn([late(700)]).courses[0]
    step, value = np.array([0, 40, 100, 400, 699, 900]), np.array([20.0, 24.0, 22.0, 18.0, 15.0, 10.0])
    assert run.fit_step == 50
    assert onset_step(run, ONSETS[0]) == 50
    assert [onset_step(run, onset) for onset in ONSETS[1:]] == [700, 700, 700]
    found = {baseline: share_of(step, value, 700, run, baseline) for baseline in BASELINES}
    assert list(found.values()) == pytest.approx([5 / 10, 7 / 12, 9 / 14])
    assert share_of(step, value, 50, run) == pytest.approx(-4 / 10)  # it rose before the fit
    assert share_of(step, value, 50, run, BASELINES[1]) is None  # nothing lies between the fit and itself
    assert share_of(step, value, 40, run) is None  # one snapshot before it: that at the onset is not before it
    assert share_of(step, np.where(step == 699, np.nan, value), 700, run) == pytest.approx(2 / 10)


def test_a_critical_dimension_that_did_not_fall_or_is_infinite_has_no_share() -> None:
    assert share_between(10, 9.9, 9.6) is None
    assert share_between(float("inf"), 9, 5) is None
    assert fall_words([None, None]) == "–"
    assert fall_words([Fall(10, 8, 5), Fall(10, 10, 10), None]) == "0.4; 1 of 3 runs (10 → 7.5)"


def test_an_onset_that_did_not_come_is_none() -> None:
    never = drawn([late(5000)]).courses[0]
    assert [onset_step(never, onset) for onset in ONSETS] == [50, None, None, None]


def test_the_first_variant_counts_the_share_of_the_series_itself(few_draws: None) -> None:
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    means, weight = 4 * rng.normal(size=(3, 20))[labels], rng.normal(size=(1, 3, 20))
    noise = {f"features/{split}": rng.normal(size=(1, 60, 20)) for split in ("train", "heldout")}
    shots = [
        snapshot(step, **{name: of + size * means for name, of in noise.items()}, **{"readout/weight": weight})
        for step, size in ((0, 0.0), (300, 0.05), (600, 0.1), (990, 1.0))
    ]
    batch = EvalBatch("drawn", labels, 60)
    measured = drawn([late()], name="s5")
    recorded = replace(measured.trajectory, snapshots=tuple(shots), batches={"train": batch, "heldout": batch})
    of_series = representation_of(recorded).series
    measured = replace(measured, evidence=Evidence(recorded, measured=of_series))
    found = [fall_of(measured, variant, 0) for variant in VARIANTS]
    shares = [None if fall is None else fall.share for fall in found]
    assert None not in shares
    assert shares[0] == pytest.approx(share_up_to(ONSETS[1], BASELINES[0], measured, 0), abs=1e-12)
    assert 0 < float(shares[0] or 0) < 1
    assert len(set(shares)) == len(VARIANTS)  # every variant counts something else


def test_a_verdict_is_a_part_that_can_be_wanted_either_way() -> None:
    cases = [((SUPPORTED, SUPPORTED), HOLDS, FAILS), ((REFUTED, REFUTED), FAILS, HOLDS),
             ((SUPPORTED, REFUTED), PARTLY, PARTLY), ((UNDETERMINED, Outcome.NOT_APPLICABLE), OPEN, OPEN)]  # fmt: skip
    for outcomes, supported, refuted in cases:
        measured = drawn([late()] * 2, verdicts=[verdict("TC107", one, 0.5) for one in outcomes])
        assert verdict_part("", "TC107", measured).finding is supported
        assert verdict_part("", "TC107", measured, wanted=FAILS).finding is refuted
    assert len(cases) == 4
    assert verdict_part("", "TC107", measured).found == (
        "1 × undetermined, 1 × not applicable; effect 0.5 (0.5 to 0.5); not applicable: because"
    )
    assert verdict_part("", "TC999", measured).finding is OPEN


def test_a_name_is_a_part_that_stays_open_where_a_run_has_none() -> None:
    cases = [
        (["a", "a"], HOLDS),
        (["b", "b"], FAILS),
        (["a", "b"], PARTLY),
        ([None, "undetermined"], OPEN),
        (None, OPEN),
    ]
    for found, wanted in cases:
        assert named_part("", "a", found).finding is wanted, found
    assert len(cases) == 5


def test_gaps_that_change_with_the_probe_are_told_from_those_that_do_not() -> None:
    wide, narrow = {"ridge": [(0.1, 0.2), (1.0, -0.1)]}, {"ridge": [(0.1, 0.2), (1.0, 0.15)]}
    cases = [([wide, wide], (HOLDS, HOLDS)), ([narrow, narrow], (FAILS, FAILS)), ([wide, narrow], (PARTLY, PARTLY)),
             ([None, None], (OPEN, OPEN)), (None, (OPEN, OPEN))]  # fmt: skip
    for gaps, wanted in cases:
        assert tuple(part.finding for part in spread_parts("x", gaps)) == wanted
    assert len(cases) == 5
    assert [part.found for part in spread_parts("", None)] == [NOT_TRAINED] * 2


def test_moments_of_the_plateau_are_shares_of_its_steps() -> None:
    measured = drawn([late(700), late(0)], rungs=ladder([flat()] * 2, [flat()] * 2, [flat()] * 2))
    assert [on_plateau(measured, share, 0) for share in (0.0, MIDDLE, END)] == [50, 350, 650]
    assert on_plateau(measured, MIDDLE, 1) is None


def test_the_gap_of_a_study_without_a_plateau_is_open_and_says_why() -> None:
    measured = drawn([late(0)], name="modular-addition")
    answer = how_gaps_depend_on_the_probe({"modular-addition": measured})
    assert {part.finding for part in answer.parts} == {OPEN}
    assert all("no snapshot lies between" in part.found for part in answer.parts)


def test_one_run_at_one_moment_keeps_its_own_features_and_no_weights() -> None:
    tensors = {"features/train": np.arange(6.0).reshape(2, 3, 1), "weights/x": np.zeros((2, 1))}
    recorded = trajectory(series("heldout_accuracy", STEP, [late()] * 2), snapshots=[snapshot(50, **tensors)])
    measured = replace(drawn([late()] * 2), evidence=Evidence(recorded))
    (only,) = moment_of_run(measured, 50, 1).snapshots
    assert set(only.tensors) == {"features/train"}
    assert only.tensors["features/train"].ravel().tolist() == [3.0, 4.0, 5.0]


def test_a_fall_below_initialisation_counts_only_where_both_honest_probes_show_it_before_the_rise() -> None:
    low, high = dented(0.5), flat()
    after = flat()
    after[15:] = 0.3
    cases = [(low, low, HOLDS), (low, high, FAILS), (high, low, FAILS), (low, None, OPEN), (after, after, FAILS)]
    for heldout, best, wanted in cases:
        part = start_part("", drawn([late()] * 2, rungs=ladder([flat(0.1)] * 2, [low] * 2, [heldout] * 2),
                                    best=None if best is None else [best] * 2))  # fmt: skip
        assert part.finding is wanted
    assert len(cases) == 5


def test_the_fall_is_from_step_zero_to_the_lowest_median_of_three() -> None:
    spiky = flat()
    spiky[[5, 9]] = 0.1  # one low snapshot is none
    measured = drawn([late()], rungs=ladder(flat(0.1), dented(0.2), spiky), best=dented(0.7))
    found = [fall_below_start(measured, probe, 0) for probe in (TUNED, BEST, CEILING)]
    assert found == pytest.approx([0.6, 0.1, 0.0])


def test_the_share_of_a_fall_that_is_the_tunings_is_what_the_best_penalty_saves() -> None:
    cases = [(dented(0.7), HOLDS), (dented(0.3), FAILS), (None, OPEN)]
    for best, wanted in cases:
        measured = drawn([late()], rungs=ladder(flat(0.1), dented(0.2), dented(0.5)), best=best)
        assert artefact_part(measured).finding is wanted
    assert len(cases) == 3
    measured = drawn([late()], rungs=ladder(flat(0.1), dented(0.2), dented(0.5)), best=dented(0.7))
    assert "(share that is the tuning's 0.833)" in artefact_part(measured).found  # 1 − 0.1 / 0.6
    unfallen = drawn([late()], rungs=ladder(flat(0.1), flat(), flat()), best=flat())
    assert artefact_part(unfallen).finding is OPEN


def critical(*values: float) -> dict[str, Series]:
    return {"critical_dimension(heldout)": series("critical_dimension(heldout)", range(len(values)), values)}


def test_a_recovery_takes_both_the_probe_and_the_critical_dimension() -> None:
    cases = [(dented(0.5), (50, 90, 60), HOLDS), (dented(0.5, upto=20), (50, 90, 60), FAILS),
             (dented(0.5), (50, 90, 90), FAILS), (dented(0.5), (), OPEN)]  # fmt: skip
    for probe, levels, wanted in cases:
        measured = drawn([late()], rungs=ladder(flat(), flat(), probe), measured=critical(*levels) if levels else {})
        assert recovery_part(measured).finding is wanted
    assert len(cases) == 4
    assert recovery_part(drawn([late()])).finding is OPEN


def test_the_artefact_counts_for_the_question_and_not_for_the_claim() -> None:
    answer = whether_the_features_are_damaged_and_repaired({})
    assert [part.claim for part in answer.asides] == [
        "the fall of the tuned train-fit probe is mostly an artefact of its penalty"
    ]


def dipped(depth: float) -> list[float]:
    return np.interp(STEP, [0, 100, 300, 450, 600, 999], [0.1, 0.9, 0.9 - depth, 0.9 - depth, 0.9, 0.95]).tolist()


def test_the_depth_of_a_dip_is_in_accuracy_and_a_shallow_one_is_less_than_half() -> None:
    deep, shallow = drawn([dipped(0.3)] * 2), drawn([dipped(0.0)] * 2)
    assert dip_depth(deep, 0) == pytest.approx(0.3, abs=0.02)
    assert dip_depth(shallow, 0) == pytest.approx(0, abs=0.01)
    cases = [(deep, shallow, HOLDS), (deep, deep, FAILS), (drawn([late()] * 2), shallow, OPEN), (None, shallow, OPEN)]
    for noise, slow, wanted in cases:
        assert shallower_part(noise, slow).finding is wanted
    assert len(cases) == 4
    assert [half_as_deep(0.3, of) for of in (0.1, 0.2, None)] == [HOLDS, FAILS, OPEN]


def test_one_mechanism_in_all_runs_is_told_from_two() -> None:
    cases = [
        ([HOLDS, HOLDS], HOLDS),
        ([FAILS, FAILS], HOLDS),
        ([HOLDS, FAILS], FAILS),
        ([HOLDS, OPEN], OPEN),
        ([OPEN], OPEN),
    ]
    for found, wanted in cases:
        assert same_in_all(found) is wanted, found
    assert len(cases) == 5


def risen_then(low: float) -> Any:
    native = np.where(SHOTS < 500, 0.1, 0.95)
    native[14] = low
    return native


def test_what_a_refit_restores_is_read_where_the_native_readout_stands_lowest_after_its_rise() -> None:
    cases = [(0.5, 0.9, HOLDS), (0.5, 0.55, FAILS), (0.94, 0.95, OPEN)]
    for low, probe, wanted in cases:
        measured = drawn([late(500)], rungs=ladder(risen_then(low), flat(probe), flat()))
        assert lowest_later(measured, 0) == 14
        assert restored_part(measured).finding is wanted
    assert len(cases) == 3
    never = drawn([late(5000)], rungs=ladder(risen_then(0.5), flat(), flat()))
    assert lowest_later(never, 0) is None
    assert restored_part(never).finding is OPEN


def test_a_stall_is_a_loss_that_stops_falling_at_low_accuracy() -> None:
    stalled, falling = np.where(STEP < 300, 1.0, 1e-7), np.exp(-STEP / 50)
    cases = [(stalled, 0.2, HOLDS), (stalled, 1.0, FAILS), (falling, 0.2, FAILS), (None, 0.2, OPEN)]
    for loss, best, wanted in cases:
        measured = drawn([late(700, best)])
        scalars = {} if loss is None else {"train_loss": series("train_loss", STEP, loss)}
        recorded = replace(measured.trajectory, scalars={**measured.trajectory.scalars, **scalars})
        assert stalls_part(replace(measured, evidence=Evidence(recorded))).finding is wanted
    assert len(cases) == 4
    assert late_factor(replace(measured, evidence=Evidence(recorded)), 0) is None


def test_a_run_ends_above_another_of_the_same_seed() -> None:
    high, low = drawn([late(500, 0.9)] * 2), drawn([late(500, 0.3)] * 2)
    assert [above_part("x", low, high).finding, above_part("x", high, low).finding] == [HOLDS, FAILS]
    assert above_part("x", high, high).finding is FAILS
    assert above_part("x", None, high).finding is OPEN


def test_the_shares_say_which_choice_moves_them_most() -> None:
    levels = np.interp(SHOTS, [0, 300, 650, 950], [20.0, 20.0, 11.0, 10.0])
    measured = drawn(
        [late()] * 2, measured={"critical_dimension(heldout)": series("x", SHOTS, [levels] * 2)}, name="sparse-parity"
    )
    answer: Answer = which_share_falls_before({"sparse-parity": measured})
    assert "the onset moves it most" in answer.found or "the baseline moves it most" in answer.found
    by_onset = answer.tables[0]
    assert by_onset.rows[1][1].startswith("0.9")
