"""What a run is calibrated on: how much text, which images, and where gradients are taken."""

from dataclasses import dataclass

from quantize.calibration.experts import Share
from quantize.calibration.image_text import NONE, ImageText, open_images
from quantize.checkpoint import Checkpoint
from quantize.methods import METHODS
from quantize.plan import LEAST_WINDOWS, Effort, Plan


@dataclass(frozen=True)
class Calibration:
    """Which text the model reads before it is rounded, and what is taken from it."""

    spec: str
    rows: int
    """Windows of `length` tokens, those of images among them."""
    length: int
    seed: int
    windows: int
    """First windows whose gradients are taken: none, a few, or all when they weigh tokens."""
    weigh: bool
    """Whether gradients weigh the tokens in every Hessian."""
    share: Share = "few"
    """Which experts learn from tokens that were not given to them."""
    images: ImageText | None = None
    image_notes: tuple[str, ...] = ()
    """What is said of them aloud."""

    @property
    def image_rows(self) -> int:
        """Windows of images with captions."""
        return self.images.rows if self.images else 0

    @property
    def text_rows(self) -> int:
        return self.rows - self.image_rows

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def calibration_of(plan: Plan, effort: Effort, length: int, checkpoint: Checkpoint) -> Calibration:
    """The text, the images, and of how many of the windows gradients are taken.

    Raises EdgequantError as `open_images` does.
    """
    automatic = any(target.automatic for target in plan.targets)
    calibrated = METHODS[plan.method].calibrated
    spec = plan.calib_images if calibrated else NONE
    images, notes = open_images(checkpoint, spec, plan.rows, length, plan.seed)
    rows = plan.rows + (images.rows if images else 0)
    windows = max(effort.windows, LEAST_WINDOWS if automatic else 0)
    windows = rows if effort.weigh else min(rows, windows)
    return Calibration(
        spec=plan.calibration,
        rows=rows,
        length=length,
        seed=plan.seed,
        windows=windows if calibrated else 0,
        weigh=effort.weigh and calibrated,
        share="all" if plan.calibrate_all_experts else "few",
        images=images,
        image_notes=notes,
    )
