"""What came of training a model in both frameworks, step by step."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping

import torch

QUANTITIES = (
    "outputs",
    "loss",
    "gradient",
    "update",
    "parameters",
    "zeros",
    "running mean",
)
"""What is compared at each step, in the order in which one leads to the next."""

_HINTS = {
    "outputs": "The parameters agreed so far: rounding adds up, or statistics differ.",
    "loss": "The outputs agree: the two losses are not the same function.",
    "gradient": (
        "The losses agree: look for frozen or shared parameters, stop_gradient and "
        "detach."
    ),
    "update": (
        "The gradients agree, so that the optimizers differ: compare every setting, "
        "defaults too (epsilon, decay rates, weight decay, strength, mask)."
    ),
    "parameters": "Every update agrees: rounding errors have added up.",
    "zeros": (
        "The weights agree: some are so near the threshold that rounding decides. "
        "support_tolerance= allows for that."
    ),
    "running mean": (
        "Flax's BatchNorm counts momentum for the old value, torch's for the new one: "
        "0.9 in Flax is 0.1 in torch."
    ),
}
_IN_DOUBLE = (
    "Compare in float64 as well: rounding vanishes there, and a setting that differs "
    "by so little that it is taken for rounding here"
)
_SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far the frameworks are apart in one quantity.

    Attributes:
      size: the largest difference, relative to the largest number of its array, but
        absolute where that is below 1; NaN if a number is not finite. Of zeros, the
        fraction of weights that are zero on one side only, but for those whose updates
        are rounding beside the largest.
      most: the array that differs most, by torch's name; empty for outputs and loss.
      first: the first array in the forward pass that exceeds the tolerance.
    """

    size: float
    most: str = ""
    first: str = ""


@dataclasses.dataclass(frozen=True)
class Step:
    """One batch: forward, backward and update.

    Attributes:
      number: of the step, from 1.
      losses: in Flax and in torch.
      differences: one of each of the `QUANTITIES`.
      zeros: how many weights are zero on one side only.
      variance: the size of the difference of running variances.
      gradients: the largest absolute entry of each array's gradient.
    """

    number: int
    losses: tuple[float, float]
    differences: Mapping[str, Difference]
    zeros: int
    variance: float
    gradients: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Parting:
    """Where the frameworks part.

    Attributes:
      step: its number.
      what: one of `QUANTITIES`.
      layer: the first layer in the forward pass that parts, by torch's name; empty for
        outputs and loss.
      array: the array, by torch's name.
      difference: how large.
      tolerance: what it may be.
    """

    step: int
    what: str
    layer: str
    array: str
    difference: float
    tolerance: float

    def __str__(self) -> str:
        where = f", layer {self.layer or '(the model itself)'}" if self.array else ""
        array = f" of {self.array}" if self.array else ""
        return (
            f"First part at step {self.step}{where}: {self.what}{array} "
            f"(largest difference {self.difference:.1e}, tolerance "
            f"{self.tolerance:.0e})."
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two trainings from the same weights on the same batches. `str()` is a report.

    Attributes:
      steps: what was measured, step by step.
      layers: the layers' names in torch and in Flax, in the order of the forward pass.
      arrays: the arrays' names in torch, with those of their layers.
      size: the number of parameters.
      dtype: the parameters' dtype.
      tolerance: what every difference but that of zeros may be.
      support_tolerance: the fraction of weights that may be zero on one side only.
      flattened: dense layers, by Flax's name, that may follow a flattened image, with
        its channels.
    """

    steps: tuple[Step, ...]
    layers: Mapping[str, str]
    arrays: Mapping[str, str]
    size: int
    dtype: str
    tolerance: float
    support_tolerance: float
    flattened: Mapping[str, int]

    @property
    def agree(self) -> bool:
        """Whether every difference is within its tolerance at every step."""
        return self.first_parting is None

    @property
    def first_parting(self) -> Parting | None:
        """The first step that exceeds a tolerance, and what exceeds it first in it."""
        for step in self.steps:
            for what in QUANTITIES:
                found = step.differences[what]
                tolerance = self.tolerance
                if what == "zeros":
                    tolerance = self.support_tolerance
                if not found.size <= tolerance:  # NaN parts too
                    layer = self.arrays.get(found.first, "")
                    return Parting(
                        step.number, what, layer, found.first, found.size, tolerance
                    )
        return None

    def largest(self, what: str) -> float:
        """The largest difference of one of the `QUANTITIES` at any step."""
        sizes = [step.differences[what].size for step in self.steps]
        return math.nan if any(map(math.isnan, sizes)) else max(sizes)

    def __str__(self) -> str:
        initial = self.steps[0].differences["outputs"].size
        head = (
            f"{len(self.layers)} layers, {self.size:,} parameters in {self.dtype}, "
            f"{len(self.steps)} steps; before training, the outputs differ by "
            f"{initial:.1e}. How far the two are apart at most:"
        )
        verdict: list[str] = []
        parting = self.first_parting
        if parting is None:
            most = max(step.zeros for step in self.steps)
            zeros = f"at most {most} weights are zero on one side only"
            verdict.append(
                f"They agree at every step, to {self.tolerance:.0e}: the parameters to "
                f"{self.largest('parameters'):.1e}, and "
                f"{zeros if most else 'the same weights are zero'}."
            )
            if self.dtype != "float64":
                verdict.append(f"{_IN_DOUBLE} remains.")
        else:
            verdict += [str(parting), self.hint]
        if (variance := max(step.variance for step in self.steps)) > 0:
            verdict.append(
                f"Running variances differ by {variance:.1e}, which does not count: "
                "torch's are unbiased, Flax's are not."
            )
        wrapped = [textwrap.fill(text, 88) for text in verdict]
        return "\n".join([textwrap.fill(head, 88), "", *self._table(), "", *wrapped])

    @property
    def hint(self) -> str:
        """What to look at where the frameworks part; empty if they do not."""
        parting = self.first_parting
        if parting is None:
            return ""
        if math.isnan(parting.difference):
            return "A number is not finite."
        if parting.step == 1 and parting.what == "outputs":
            return self._hint_of_models()
        hint = _HINTS[parting.what]
        if parting.layer in self.layers:
            hint = f"In Flax it is {self.layers[parting.layer] or 'the model'}. {hint}"
        if parting.what != "update":
            return hint if self.dtype == "float64" else f"{hint} {_IN_DOUBLE} remains."
        gradients = self.steps[parting.step - 1].gradients
        own, noise = gradients[parting.array], 100 * max(gradients.values())
        if own <= noise * torch.finfo(getattr(torch, self.dtype)).eps:
            return (
                f"The gradient of {parting.array} is nothing but rounding, {own:.0e}, "
                "as that of a bias before a normalisation layer is, and the optimizer "
                "divides by it: leave the bias out of both models, or pass tolerance=."
            )
        if self.dtype != "float64":
            hint += (
                f" Or it is rounding: in {self.dtype} Adam makes steps of what is "
                "rounding in small gradients. Compare in float64."
            )
        return hint

    def _hint_of_models(self) -> str:
        hints = [
            f"If the inputs of {name} are a flattened image, pass "
            f"pairs={{{name!r}: Layer(flattened=(height, width, {channels}))}}."
            for name, channels in self.flattened.items()
        ]
        return " ".join(
            [
                "The models differ before any training.",
                *hints,
                "Look for a padding, an epsilon, an activation, or layers of one shape "
                "that were swapped: print match(flax_model, torch_model).",
            ]
        )

    def _table(self) -> list[str]:
        shown = self._shown()
        columns = list(QUANTITIES)
        if not any(name.endswith("running_mean") for name in self.arrays):
            columns.remove("running mean")
        cells = [["step", "loss in Flax", *columns, "", "most in"]]
        parting = self.first_parting
        for step in shown:
            sizes = [
                str(step.zeros) if what == "zeros" else f"{found.size:.0e}"
                for what, found in step.differences.items()
                if what in columns
            ]
            part = "part" if parting and parting.step == step.number else ""
            most = step.differences["parameters"].most
            value = f"{step.losses[0]:.4g}"
            cells.append([str(step.number), value, *sizes, part, most])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            "  ".join(
                [*map(str.rjust, row[:-1], widths), row[-1]]  # the last to the left
            ).rstrip()
            for row in cells
        ]

    def _shown(self) -> list[Step]:
        """Choose a screenful: few steps, more of the first, and around the parting."""
        numbers = {len(self.steps), *_SHOWN}
        if (parting := self.first_parting) is not None:
            numbers |= {parting.step - 1, parting.step, parting.step + 1}
        return [step for step in self.steps if step.number in numbers]
