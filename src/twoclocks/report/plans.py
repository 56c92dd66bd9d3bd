"""This file knows which series belong together in a panel, by name, and what to record where a panel has none."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

# Indices into the figure's colours and dashes: the same split looks the same in every panel.
HELDOUT, TRAIN, OTHER = 0, 1, 2
SPLITS = {
    "train_accuracy": ("train", TRAIN),
    "heldout_accuracy": ("held-out", HELDOUT),
    "train_loss": ("train", TRAIN),
    "heldout_loss": ("held-out", HELDOUT),
}
# How the names of derived series begin, panel by panel, so that "ratio" and "norm" in them do not crowd other panels.
BEGINNINGS = {
    "speeds": ("update_size.",),
    "leads": ("gradient_ratio.", "relative_speed_ratio.", "readout_lead_certificate"),
    "decreases": ("loss_decrease_share.",),
    "gates": ("gate_agreement(", "gate_jaccard(", "gate_flips", "whole_pattern_share"),
    "structure": ("structural gap",),
    "balance": ("relative_slack", "balancedness_defect"),
    "objective": ("objective gap", "schatten objective gap", "slack"),
    "dimension": ("critical_dimension(", "manifold_dimension("),
    "capacity": ("manifold_capacity(",),
    "manifolds": ("manifold_radius(", "centre_alignment(", "axis_alignment("),
    "alignment": ("alignment(", "alignment_gap"),
    "similarity": ("cka(", "kernel_distance("),
    "change": ("kernel_change(",),
    "velocity": ("kernel_velocity(",),
    "scatter": ("nc1(", "ildr("),
    "simplex": ("nc2_equinorm(", "nc2_equiangular(", "nc3(", "nc4("),
    "direction": ("readout_cosine(",),
}
INGREDIENTS = (
    "gradient_norm.",
    "squared_gradient_norm",
    "gate_agreement_error",
    "gate_jaccard_error",
)  # what other series are made of
ERRORS = "_error"  # in the name of a series that holds the standard errors of the one without it
# The same split looks the same here too; what is called train and held-out elsewhere is told by its panel's title.
SPLIT_LOOKS = {
    "critical_dimension(heldout)": ("held-out, N_crit", HELDOUT),
    "critical_dimension(train)": ("train, N_crit", TRAIN),
    "alignment(train)": ("train", TRAIN),
    "alignment(heldout)": ("held-out", HELDOUT),
    "alignment_gap": ("gap ΔA: train − held-out", OTHER),
    "readout_cosine(train fit)": ("with the readout fitted on train", TRAIN),
    "readout_cosine(held-out fit)": ("with the readout fitted on held-out", HELDOUT),
}
# What the beginning of a name becomes in a panel whose title says it already.
SAID = {
    "update_size.": "",
    "gradient_ratio.": "gradient: ",
    "relative_speed_ratio.": "update: ",
    "loss_decrease_share.": "",
    "gate_agreement": "gates agreeing ",
    "gate_jaccard": "open gates shared ",
    "whole_pattern_share": "whole patterns kept ",
    "structural gap": "",
    "balancedness_defect.": "balancedness defect ",
    "relative_slack": "relative slack ",
    "readout_lead_certificate": "certificate ",
    "critical_dimension": "N_crit ",
    "manifold_dimension": "manifold dimension ",
    "manifold_capacity": "capacity ",
    "manifold_radius": "radius ",
    "centre_alignment": "alignment of centres ",
    "axis_alignment": "alignment of axes ",
    "kernel_distance": "kernel distance ",
    "kernel_change": "",
    "kernel_velocity": "",
    "cka": "CKA ",
    "nc1": "NC1: scatter within ÷ between classes ",
    "ildr": "ILDR: distance between ÷ within classes ",
    "nc2_equinorm": "NC2, equal norms ",
    "nc2_equiangular": "NC2, equal angles ",
    "nc3": "NC3, readout off the centres ",
    "nc4": "NC4, share not of the nearest centre ",
    "readout_cosine": "with ",
}


@dataclass(frozen=True)
class Plan:
    """Which series a panel shows, on which scale, and what to say where there are none.

    `scale`: "share" and "near share" (a quotient that may leave 0 to 1), "cosine", "linear", "log", or "auto". `group`: the
    heading under which the panel stands; `reading`: what a reader must know to read it.
    """

    group: str
    key: str
    title: str
    unit: str
    belongs: Callable[[str], bool]
    scale: str
    absent: str
    reading: str = ""


def words(name: str) -> set[str]:
    """Return the words of a series' name, so that "ratio" is not found in "iteration"."""
    return {*re.split(r"[^a-z]+", name.lower())}


def is_rank(name: str) -> bool:
    """Return whether a series counts directions: a rank or a participation ratio."""
    return bool(words(name) & {"rank", "ratio"}) and not begins_otherwise(name)


def is_norm(name: str) -> bool:
    """Return whether a series is a norm of weights, or the scale of the logits."""
    return ("norm" in words(name) or name == "logit_scale") and not begins_otherwise(name)


def begins_otherwise(name: str) -> bool:
    """Return whether the beginning of a name, not a word in it, says where the series belongs."""
    return name.startswith((*chain(*BEGINNINGS.values()), *INGREDIENTS))


def begins(key: str) -> Callable[[str], bool]:
    """Return the test for names that begin as those of one panel do; counts and errors do not stand among them."""
    return lambda name: name.startswith(BEGINNINGS[key]) and "flips" not in name and ERRORS not in name


# Why something is not drawn, where that is one reason for several.
NO_MARGINS = (
    "No margins were recorded. A Recorder writes their minimum, 1 % quantile and median; "
    "in a log, add a column train_margin_min."
)
NO_BLOCKS = (
    "The steps of several blocks were not compared. A Recorder writes update_size.<block>, gradient_norm.<block> and "
    "loss_decrease.<block> where it sees the gradients; a log can have such columns."
)
NO_STRUCTURE = (
    "How far the structure of the learned map is from its end needs features or weights at several snapshots. Record "
    "the run with twoclocks.Recorder, or replay a folder of its checkpoints."
)
NO_OBJECTIVE = (
    "F, the loss with its weight decay, and ‖∇F‖² are recorded where the decay is coupled to the gradient (optimizer=flow "
    "or sgd), and the limit F_∞ where the run was polished to it. AdamW has no such F."
)
RECORD_FEATURES = (
    "Record the run with twoclocks.Recorder and the labels of its examples, or replay a folder of its checkpoints."
)
NO_MANIFOLDS = (
    "The manifolds of the classes need the features of at least ten examples in each of two or more classes, at several "
    f"snapshots. {RECORD_FEATURES}"
)
NO_FEATURES = (
    "This is measured of the features in front of the readout, of training and of held-out examples, at several snapshots. "
    f"{RECORD_FEATURES}"
)

CURVES, LADDER, GEOMETRY = "Curves", "Representation and readout", "Geometry of the representation"
MOTION, STRUCTURE = "Norms, updates and gates", "Structure and objective"


PLANS = (
    Plan(
        CURVES,
        "accuracy",
        "Accuracy",
        "share of examples",
        lambda name: name in SPLITS and name.endswith("accuracy"),
        "share",
        "No accuracy was recorded. Log train_accuracy and heldout_accuracy at every evaluation: "
        "they tell when the run fits and when it generalises.",
    ),
    Plan(
        CURVES,
        "loss",
        "Loss",
        "nats per example",
        lambda name: name in SPLITS and name.endswith("loss"),
        "log",
        "No loss was recorded. Log train_loss and heldout_loss at every evaluation.",
    ),
    Plan(
        CURVES,
        "margins",
        "Training margins",
        "logits",
        lambda name: name.startswith("train_margin_"),
        "linear",
        NO_MARGINS,
    ),
    Plan(
        LADDER,
        "ladder",
        "The ladder: native readout and probes on the same features",
        "share of held-out examples",
        lambda name: False,
        "share",
        "The ladder needs the features in front of the readout, and this source has none. Record the run with "
        "twoclocks.Recorder(folder, model, readout=…, train=…, heldout=…), or replay a folder of its checkpoints.",
    ),
    Plan(
        LADDER,
        "direction",
        "Direction of the readout",
        "cosine between class-centred readouts",
        begins("direction"),
        "cosine",
        NO_FEATURES,
        "Each line compares the network’s own readout with a ridge readout of the same features; where the two lines meet, "
        "the readout no longer points to one split more than to the other.",
    ),
    Plan(
        LADDER,
        "alignment",
        "Alignment of the kernel with the labels",
        "0 to 1",
        begins("alignment"),
        "linear",
        NO_FEATURES,
        "Of the features’ kernel ΦΦᵀ, each split centred on its own mean, at equal class counts in both.",
    ),
    Plan(
        GEOMETRY,
        "dimension",
        "Critical dimension and manifold dimension",
        "directions",
        begins("dimension"),
        "auto",
        NO_MANIFOLDS,
        "How many random directions must be kept for the classes to be separable; fewer is better. "
        "Standard errors are over the draws.",
    ),
    Plan(
        GEOMETRY,
        "capacity",
        "Manifold capacity",
        "P / N_crit",
        begins("capacity"),
        "auto",
        NO_MANIFOLDS,
    ),
    Plan(
        GEOMETRY,
        "manifolds",
        "Radius and alignments of the class manifolds",
        "radius: in distances of the centre; alignments: |cosine|",
        begins("manifolds"),
        "linear",
        NO_MANIFOLDS,
    ),
    Plan(
        GEOMETRY,
        "similarity",
        "Likeness of the kernel to its start and to its end",
        "0 to 1",
        begins("similarity"),
        "near share",
        NO_FEATURES,
        "CKA is 1 and the kernel distance 0 where the kernels are equal up to a factor.",
    ),
    Plan(
        GEOMETRY,
        "change",
        "Change of the kernel from its start",
        "norms of the first kernel",
        begins("change"),
        "log",
        NO_FEATURES,
        "‖K − K₀‖ / ‖K₀‖: unlike the distance, it also grows where features only grow in size.",
    ),
    Plan(
        GEOMETRY,
        "velocity",
        "Velocity of the kernel",
        "kernel distance per step",
        begins("velocity"),
        "log",
        NO_FEATURES,
    ),
    Plan(
        GEOMETRY,
        "scatter",
        "Classes drawn together and apart",
        "quotients",
        begins("scatter"),
        "log",
        NO_FEATURES,
        "NC1 falls and ILDR rises as the classes part.",
    ),
    Plan(
        GEOMETRY,
        "simplex",
        "Neural collapse: class means and readout",
        "no unit; 0: collapsed",
        begins("simplex"),
        "linear",
        NO_FEATURES,
    ),
    Plan(
        GEOMETRY,
        "ranks",
        "Ranks",
        "directions",
        is_rank,
        "auto",
        "No rank was recorded or measured. Keep features and weights (a Recorder does), "
        "or log one in a column with “rank” in its name.",
    ),
    Plan(
        MOTION,
        "norms",
        "Norms and logit scale",
        "Frobenius norm; logits",
        is_norm,
        "auto",
        "No norm was recorded. Log weight_norm and logit_scale: either can delay generalisation by itself.",
    ),
    Plan(
        MOTION,
        "speeds",
        "Block speeds",
        "‖Δθ‖ / ‖θ‖ of one step",
        begins("speeds"),
        "log",
        "No update sizes were recorded. A Recorder writes update_size.<block> for every block of parameters; "
        "they tell which part lags.",
    ),
    Plan(
        MOTION,
        "leads",
        "Lead of the readout over each block",
        "readout ÷ block",
        begins("leads"),
        "log",
        NO_BLOCKS,
    ),
    Plan(
        MOTION,
        "decreases",
        "Shares of the loss decrease",
        "share of the decrease, to first order",
        begins("decreases"),
        "near share",
        NO_BLOCKS,
    ),
    Plan(
        MOTION,
        "gates",
        "Gates of the last hidden layer",
        "share",
        begins("gates"),
        "share",
        "Gates need the outputs of a ReLU in front of the readout, kept at three or more snapshots. Record the run with "
        "twoclocks.Recorder, or replay a folder of its checkpoints.",
    ),
    Plan(
        STRUCTURE,
        "structure",
        "Structural gap",
        "distance from the final structure",
        begins("structure"),
        "log",
        NO_STRUCTURE,
    ),
    Plan(
        STRUCTURE,
        "balance",
        "Balance of the layers",
        "relative slack: share; defect: squared weights",
        begins("balance"),
        "log",
        "Balance is defined for a chain of linear layers without biases, whose weights are kept at several snapshots.",
    ),
    Plan(
        STRUCTURE,
        "objective",
        "Objective above its limit",
        "nats per example; slack: squared weights",
        begins("objective"),
        "log",
        NO_OBJECTIVE,
    ),
)
