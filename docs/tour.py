"""A tour of twoclocks in one file, top to bottom. It runs in the tests; read it as the tutorial.

python docs/tour.py
"""

import math
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import twoclocks as tc

FOLDER = Path(tempfile.mkdtemp()) / "digits"

# 1. A log is enough for a first answer. Here is one in memory; a CSV, TSV or JSONL file works the same way.
#    Training accuracy is perfect at step 100, held-out accuracy follows only at step 1,600.
steps = [0, 25, 50, 75, 100, 150, 200, 400, 800, 1200, 1600, 2000, 2500, 3000, 4000, 5000, 6000, 7000, 8000]
fitted = [0.01, 0.3, 0.7, 0.95] + [1.0] * 15
late = [0.01] * 8 + [0.03, 0.3, 0.95] + [1.0] * 8
diagnosis = tc.diagnose({"step": steps, "train_acc": fitted, "val_acc": late})
print(diagnosis)
assert diagnosis.label == "grokking"
assert diagnosis.kind == "undetermined"  # curves alone cannot tell genuine from spurious: that takes features

# The same log, cut where a tired person would give up: it fitted long ago and nothing moves. Nothing rules out that it
# generalises later, so the answer to "should I stop" is not "yes".
cut = tc.diagnose({"step": steps[:9], "train_acc": fitted[:9], "val_acc": late[:9]})
print(f"\ncut at step {steps[8]}: {cut.label}; stop? {cut.stop.answer}: {cut.stop.why}\n")
assert cut.label == "memorisation"
assert cut.stop.answer != "yes"

# 2. Three lines record any PyTorch loop: make a recorder, tell it the step, close it. Training is untouched, to the bit.
digits = load_digits()
x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
y = torch.tensor(digits.target)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, heldout = order[:900], order[900:]

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)

# A recorder stretches its schedule to cost at most 3 % of the training time. This network trains in half a second, so its
# budget is lifted.
data = {"train": (x[train], y[train]), "heldout": (x[heldout], y[heldout])}
recorder = tc.Recorder(FOLDER, model, **data, optimizer=optimizer, budget=math.inf)
for step in range(1, 401):
    loss = nn.functional.cross_entropy(model(x[train]), y[train])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    recorder.step(step)
recorder.close()

# 3. A recorded run says more, because its features were kept.
diagnosis = tc.diagnose(FOLDER)
print(diagnosis)
assert diagnosis.label == "ordinary learning"

# 4. Everything in a diagnosis can be had by itself. The ladder: the network's own readout, a probe fitted on the training
#    split, and one fitted on half of the held-out examples, all scored on the other half.
run = tc.load(FOLDER)
ladder = tc.decompose(run)
print(f"\nstep {ladder.step[-1]}: native {ladder.native[0, -1]:.3f}, train-fit {ladder.train_probe[0, -1]:.3f}, "
      f"held-out-fit {ladder.heldout_probe[0, -1]:.3f}, on {ladder.scored} examples")  # fmt: skip

# 5. A measure is a plain function of tensors; `measure` maps it over runs and moments. Yours works the same way.
rank = tc.measure(run, tc.stable_rank, of="end_to_end")
print(f"{rank.name}: {rank.value[0, 0]:.2f} at step {rank.step[0]}, {rank.value[0, -1]:.2f} at step {rank.step[-1]}")


def largest_share(features: torch.Tensor) -> torch.Tensor:
    """Return the share of the features' energy in their strongest unit."""
    energy = features.square().sum(0)
    return energy.max() / energy.sum()


share = tc.measure(run, largest_share, of="features")
print(f"{share.name}: {share.value[0, -1]:.3f}")

# 6. Times are hitting times: the first evaluation from which a series stays past a threshold, or censored, never a NaN.
time = tc.hitting_time(run.scalars["train_loss"], below=0.1)
print(f"training loss ≤ 0.1 from step {time.value} (resolution {time.resolution})")
assert not time.censored
assert tc.hitting_time(run.scalars["train_loss"], below=1e-12).censored

# 7. The phenomena themselves are recipes: `twoclocks run modular-addition` is this sentence with a page at the end.
#    A small one, two runs at once, a few steps only:
recipe = tc.recipes.modular_addition(p=23, width=16, hidden=32, steps=60)
pair = tc.train(recipe, seeds=range(2))
print(f"{pair.runs} runs to step {pair.last_step}: training accuracy {pair.scalars['train_accuracy'].value[:, -1]}")
assert pair.runs == 2
