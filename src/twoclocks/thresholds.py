"""This file knows every threshold of a judgement, by name and with its reason.

Shares are of the way from chance (0) to perfection (1), see `courses`; "best" is the best share that this log shows.
"""

from typing import Final

# Clocks
FIT: Final = 0.99  # training accuracy from which a run counts as fitted
GENERALISED_AT: Final = (0.9, 0.99)  # held-out accuracies whose times are reported

# What a log must hold
FEWEST_EVALUATIONS: Final = 5  # with fewer, no trend over three evaluations can be followed by anything

# Did it fit, did it generalise
NEARLY_FITTED: Final = (
    0.9  # a training share that counts as fitted where FIT is never reached (augmentation, label noise)
)
CLOSE_TO_OWN_BEST: Final = 0.97  # ... from the moment it comes so close to its best
WELL_ABOVE_CHANCE: Final = 0.5  # best held-out share of a run that generalised: nearer to perfection than to chance
FOLLOWING: Final = 0.6  # held-out ÷ training share on the way up, from which held-out examples were learned along
FOLLOWING_LOOSELY: Final = 1 / 3  # the same for held-out losses that turned back, to tell learning from memorising
FOLLOWED_AT_LEAST: Final = 0.2  # such a run generalised from this best share on (hard tasks stay far from perfect)
LOSS_FELL: Final = 0.1  # share by which a training loss must fall to count as learned, where losses are all there is
LOSS_WELL_BELOW_START: Final = 0.3  # best held-out share of a loss: its zero cannot be reached on most tasks
LOSS_FOLLOWED_AT_LEAST: Final = 0.03  # ... if held-out examples were learned along with the training examples
CLOSE_TO_BEST: Final = 0.9  # of the best held-out share: "comes close to the best this log shows"

# Was it late
MAIN_RISE_AFTER_FIT: Final = 0.7  # of the best: a held-out share at the fit below it leaves the main rise to come
DELAY: Final = 2.0  # T_gen ÷ T_fit: the delay is longer than the fit itself

# Did it turn back
DIP: Final = 0.02  # of the best: a fall and a rise smaller than this are not told apart from wandering
DIP_EVALUATIONS: Final = 3  # a trend takes three evaluations
DIP_NOISE: Final = 4.0  # ... and stands out from the standard error of the smoothed curve by this factor
TRAINING_FELL: Final = 0.25  # of the fall: a training share that falls so much with it makes it an instability of both
DIP_FIRST: Final = 0.6  # of the best: the first peak of a double descent is a generalising network, not an early wobble
NEARLY_PERFECT: Final = (
    0.95  # share from which a later dip is an instability, where no training curve says when the fit was
)
DIP_RECOVERED: Final = 0.2  # of the fall that is made good again: "clearly better"
WORSE: Final = 0.02  # of the best: a final loss of this much is "gets worse and does not come back"
LOST: Final = 0.6  # of the best: below it, what was generalised counts as lost at that evaluation
LOST_OFTEN: Final = 0.1  # share of the later evaluations at which it is lost
LOST_FOR_GOOD: Final = 0.8  # of the best: a final level below it counts as lost for good

# Did it break
EXPLODED: Final = 3.0  # final training loss ÷ first training loss
EXPLODED_HELDOUT: Final = (
    100.0  # the same where only a held-out loss exists, which over-confidence alone multiplies by tens
)
FIT_LOST: Final = 0.5  # of the best training share: a final level below it is a fit lost

# Is it still moving
STILL_MOVING: Final = 0.005  # gain in share over the last half, and over the last third, of the training
FINISHED: Final = (
    0.99  # held-out accuracy at the end from which a run that stands still may be stopped: nothing is left
)
STANDS_STILL_EVALUATIONS: Final = 10  # evaluations close to the best before it may be stopped

# Kinds (with features)
FEWEST_SNAPSHOTS: Final = 3  # of a trend over snapshots
RISE: Final = 0.05  # accuracy by which a probe must rise, or fall, to count
LEAD: Final = 0.05  # accuracy by which the held-out-fit probe must lead the native readout
DAMAGED: Final = 0.1  # of the best level a probe ever has: a smaller fall leaves the features much as they were

ONSET: Final = 0.1  # of the way from chance to perfection: from here on held-out accuracy is rising
CAPACITY_CHANGED: Final = 0.05  # of the critical dimension at step 0: a smaller change is one of a few examples
FALL_BEFORE: Final = 0.2  # of the whole fall of the critical dimension: less is called "almost none" in the literature
ALIGNMENT_GAP: Final = 0.1  # of the alignment on training examples: a gap below it is no preference for them
LEAN: Final = 0.05  # cosine by which the readout must turn for its lean to have changed
FEATURES_MOVED: Final = (
    0.01  # kernel distance: a cosine of 0.99 between the kernels, which halves of a sample differ by
)
SHARED: Final = (
    0.5  # of what the native readout lost: a probe that shares more failed with it, one that shares less did not
)

# The fast clock
OUT_OF_EVIDENCE: Final = 6.0  # AICc units by which a law must be worse to be ruled out: odds of about 1 to 20
GROWN: Final = 0.9  # of its largest value: a gap past it has stopped growing, and the window of growth ends there
CONSTANT_SHARE: Final = (
    1.5  # factor by which the share of the loss taken a step may change over a window and be constant
)
VELOCITY_MATCHES: Final = 0.1  # measured ÷ predicted velocity of the gap, off 1 by less
SAME_LR: Final = 0.01  # relative range of a learning rate that counts as constant: a tenth of the velocity's own margin
EULER_HOLDS: Final = 0.01  # relative residual of the Euler identity from which a run stands at a stationary point
FLOAT32_FLOOR: Final = 10.0  # times the rounding of a float32 loss, below which that loss measures rounding

# The slow clock
FEWEST_CLOCK: Final = 3  # evaluations of a clock's series: with fewer nothing can be met three times in a row
ENDS_AT: Final = 0.9  # of the last step: what was not seen since says nothing of the end
ROUNDING_SLACK: Final = 1e-12  # relative slack that rounding leaves of 0
BALANCED: Final = 0.01  # relative slack below which the layers share the map as evenly as they can
DECAY_LAW: Final = 0.05  # relative error of the balancedness' decay rate against 2 λ_w
THETA_HALF: Final = 0.05  # θ off ½ by less is an exponential: the power law of θ = .55 is t^−10
AT_REST: Final = 0.1  # ‖Δθ‖ / (lr λ_w ‖θ‖): the part of the decay that the gradient no longer balances
CLEARLY_LATER: Final = DELAY  # T_rep ÷ T_cls: as for T_gen ÷ T_fit; less is within what evaluation and seeds move both
EXPONENT_MATCHES: Final = 0.1  # r against 1 − θ

# Gates
FROZEN: Final = 0.99  # share of gates that must stay the same over the whole window

# Blocks
LEADS_AT: Final = 0.95  # share of the evaluations at which the readout must be ahead of a block, or behind it
MOST_OF_IT: Final = 0.5  # share of the loss decrease from which the readout takes more than all other blocks together
CERTIFIED: Final = 1.001  # a bound of gradients that is 1 but for features rounded to half precision, 2⁻¹¹ of each
