"""twoclocks: what a training run is really doing.

The public names are resolved when they are first used: importing the package does no work, and reading a log never
imports torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["recipes"],
    submod_attrs={
        "trajectory": ["EvalBatch", "SaveAt", "Series", "Snapshot", "Trajectory"],
        "store": ["load"],
        "sources.checkpoints": ["replay"],
        "sources.huggingface": ["HuggingFaceRecorder"],
        "sources.lightning": ["LightningRecorder"],
        "sources.logs": ["read_log"],
        "sources.recorder": ["Recorder"],
        "training.loop": ["train"],
        "clocks": ["Clocks", "HittingTime", "decades", "hitting_time", "read_clocks"],
        "series": ["measure"],
        "decomposition": ["Decomposition", "Sensitivity", "decompose", "probe_sensitivity"],
        "diagnosis": ["Diagnosis", "diagnose"],
        "verdicts": ["Outcome", "Verdict"],
        "errors": ["InputError"],
        "fits": ["lojasiewicz_exponent"],
        "structure": ["structural_gap"],
        "measures.margins": ["cross_entropy_from_gaps", "logit_gaps", "margin"],
        "measures.spectrum": ["effective_rank", "participation_ratio", "schatten_norm", "stable_rank"],
        "measures.balance": ["balancedness_defect"],
        "measures.similarity": ["debiased_linear_cka", "linear_cka"],
        "measures.kernels": ["alignment_gap", "kernel_distance", "kernel_target_alignment"],
        "measures.tangent": ["entk"],
        "measures.capacity": ["chosen_points", "critical_dimension", "manifold_capacity", "manifold_geometry"],
        "measures.probes": ["Probe", "fit_logistic_probe", "fit_paper_probe", "fit_ridge_probe"],
    },
)
