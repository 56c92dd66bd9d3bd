"""A recorded run folder, from bytes to verdicts: modular addition, p = 29, one run, 1,400 steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import twoclocks as tc

RUN = Path(__file__).parent / "data" / "run"


def test_the_recorded_run_gets_its_diagnosis() -> None:
    diagnosis = tc.diagnose(RUN)
    assert (diagnosis.label, diagnosis.kind, diagnosis.confidence, diagnosis.stop.answer) == (
        "grokking",
        "genuine",
        "high",
        "undetermined",
    )
    assert {clock.name: (clock.value, clock.resolution) for clock in diagnosis.clocks} == {
        "T_fit": (63, 7), "T_gen_0.9": (794, 44), "T_gen_0.99": (1100, 50),
        "T_cls_0.3": (71, 8), "T_cls_0.1": (141, 15), "T_cls_0.03": (282, 31), "T_cls_0.01": (398, 43),
        "T_cls_0.003": (550, 49), "T_cls_0.001": (700, 50), "T_cls_0.0003": (850, 50), "T_cls_0.0001": (1000, 50),
        "T_cls_3e-05": (1150, 28), "T_cls_1e-05": (1300, 41), "T_cls_3e-06": (None, None),
        "T_rep_0.3": (800, 200), "T_rep_0.1": (None, None),
    }  # fmt: skip
    outcomes = {verdict.code: str(verdict.outcome) for verdict in diagnosis.verdicts}
    assert outcomes == {
        "TC101": "REFUTED", "TC102": "SUPPORTED", "TC103": "SUPPORTED", "TC104": "SUPPORTED", "TC105": "REFUTED",
        "TC106": "REFUTED", "TC107": "REFUTED", "TC108": "REFUTED", "TC109": "UNDETERMINED",
        "TC201": "UNDETERMINED", "TC202": "SUPPORTED",
        "TC203": "REFUTED", "TC204": "REFUTED", "TC205": "UNDETERMINED", "TC206": "SUPPORTED", "TC207": "REFUTED",
        "TC208": "UNDETERMINED", "TC209": "SUPPORTED", "TC210": "SUPPORTED", "TC211": "NOT_APPLICABLE",
        "TC212": "NOT_APPLICABLE",
        "TC301": "UNDETERMINED", "TC302": "UNDETERMINED", "TC303": "NOT_APPLICABLE", "TC304": "REFUTED", "TC305": "REFUTED",
        "TC401": "NOT_APPLICABLE", "TC402": "NOT_APPLICABLE", "TC403": "NOT_APPLICABLE", "TC404": "NOT_APPLICABLE",
        "TC405": "SUPPORTED", "TC406": "NOT_APPLICABLE", "TC407": "NOT_APPLICABLE", "TC501": "REFUTED",
        "TC601": "NOT_APPLICABLE", "TC602": "UNDETERMINED", "TC603": "NOT_APPLICABLE", "TC604": "NOT_APPLICABLE",
    }  # fmt: skip
    effects = {verdict.code: verdict.effect for verdict in diagnosis.verdicts}
    assert effects["TC104"] == pytest.approx(794 / 56)  # close to its own best fit at 56, at 0.99 at 63
    assert effects["TC202"] == pytest.approx(
        0.1875, abs=0.02
    )  # held-out-fit probe, fitted on no more than training has
    # 128 scored examples leave the lead of the probes open, and the verdict says how many they are
    lead = next(verdict for verdict in diagnosis.verdicts if verdict.code == "TC201")
    assert (lead.n, lead.unit_of_n) == (128, "held-out examples")


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    assert tc.diagnose(RUN).to_json() == tc.diagnose(RUN).to_json()
    copy = tmp_path / "run"
    shutil.copytree(RUN, copy)
    elsewhere = tc.diagnose(copy).to_json().replace(str(copy), str(RUN))
    assert elsewhere == tc.diagnose(RUN).to_json()


def test_measures_of_the_recorded_run_can_be_taken_again() -> None:
    run = tc.load(RUN)
    rank = tc.measure(run, tc.stable_rank, of="end_to_end")
    assert len(rank.step) == len(run.snapshots) == 17
    assert rank.value[0, -1] == pytest.approx(float(tc.stable_rank(last_logits(run))), rel=1e-9)
    ladder = tc.decompose(run)
    assert ladder.train_probe[0, -1] > 0.8
    assert ladder.scored == 128


def last_logits(run: tc.Trajectory):  # type: ignore[no-untyped-def]
    import torch

    tensors = run.snapshots[-1].tensors
    features = torch.cat([torch.tensor(tensors[f"features/{split}"][0]).double() for split in ("train", "heldout")])
    logits = (
        features @ torch.tensor(tensors["readout/weight"][0]).double().T
        + torch.tensor(tensors["readout/bias"][0]).double()
    )
    return logits - logits.mean(1, keepdim=True)
