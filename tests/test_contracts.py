import pytest
import torch

from contracts import Case, check_contract
from twoclocks.measures import balance, floors, kernels, margins, similarity, spectrum

GENERATOR = torch.Generator().manual_seed(3)
FEATURES = torch.randn(40, 6, dtype=torch.float64, generator=GENERATOR)
OTHER = torch.randn(40, 9, dtype=torch.float64, generator=GENERATOR)
LOGITS = torch.randn(40, 5, dtype=torch.float64, generator=GENERATOR)
LABELS = torch.randint(0, 5, (40,), generator=GENERATOR)
CHAIN = [torch.randn(4, 6, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)]

CASES = [
    Case(margins.margin, {"logits": LOGITS, "labels": LABELS}, by_example=True, least=0, passes_nan=True),
    Case(margins.logit_gaps, {"logits": LOGITS, "labels": LABELS}, by_example=True, least=0, passes_nan=True),
    Case(
        margins.cross_entropy_from_gaps, {"logits": LOGITS, "labels": LABELS}, by_example=True, least=0, passes_nan=True
    ),
    Case(spectrum.singular_values, {"matrix": FEATURES}),
    Case(spectrum.stable_rank, {"matrix": FEATURES}),
    Case(spectrum.effective_rank, {"matrix": FEATURES}),
    Case(spectrum.entropy_rank, {"matrix": FEATURES}),
    Case(spectrum.schatten_norm, {"matrix": FEATURES}, others={"p": 1.0}),
    Case(spectrum.participation_ratio, {"features": FEATURES}, least=2),
    Case(similarity.linear_cka, {"x": FEATURES, "y": OTHER}, least=2),
    Case(similarity.debiased_linear_cka, {"x": FEATURES, "y": OTHER}, least=4),
    Case(kernels.kernel_target_alignment, {"features": FEATURES, "labels": LABELS}, least=2),
    Case(balance.balancedness_defect, {"weights": CHAIN}),
    Case(floors.expected_gap, {"logits": LOGITS, "labels": LABELS}, least=1, passes_nan=True),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.measure.__name__)
def test_every_measure_keeps_its_contract(case: Case) -> None:
    check_contract(case)


def test_the_contract_sees_every_measure_of_a_matrix_or_of_features() -> None:
    assert len({case.measure for case in CASES}) == 14
