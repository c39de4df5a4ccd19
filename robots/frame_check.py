"""Whether a camera frame is fit to plan on.

It is not when it is older than 250 ms, of another size, blank, the same pixels over and over although the arm moves, or
when red and blue are exchanged. The last is told by D = R − B per pixel against a reference image of the same view,

    cos(D, D_ref) = ⟨D, D_ref⟩ / (|D| |D_ref|)  → −1 when exchanged,

and only if the reference has colour enough: a grey scene looks the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.camera import Frame, Image
from latent_mpc.types import InvalidInputError

COLOUR_RMS = 4.0  # levels of R − B that tell red from blue


@dataclass(frozen=True)
class FrameLimits:
    """What a frame must fulfil.

    Attributes:
        size: (H, W) of the image.
        max_age_s: from capture to use.
        blank_std: levels; an image whose pixels differ less is of a covered, dark or blinded camera.
        repeats: so many frames of the same pixels in a row while the arm moves are one too many.
        reference: an image of the same view, uint8 (H, W, 3), to tell red from blue; None does not look.
    """

    size: tuple[int, int]
    max_age_s: float = 0.25
    blank_std: float = 2.0
    repeats: int = 6
    reference: Image | None = None

    def __post_init__(self) -> None:
        if min(*self.size, self.max_age_s, self.blank_std) <= 0 or self.repeats < 2:
            raise InvalidInputError("size, max_age_s and blank_std must be positive, repeats at least 2")
        if self.reference is not None and self.reference.shape != (*self.size, 3):
            raise InvalidInputError(f"the reference must be {(*self.size, 3)}, got {self.reference.shape}")


class FrameCheck:
    """Judges frames one after another; it remembers the last one, and looks at no clock."""

    def __init__(self, limits: FrameLimits) -> None:
        self.limits = limits
        self._colour = None if limits.reference is None else _red_less_blue(limits.reference)
        self._last: Frame | None = None
        self._same = 0

    @property
    def tells_swapped(self) -> bool:
        """Whether exchanged red and blue would be noticed: there is a reference, and it has colour enough."""
        return self._colour is not None and bool(np.sqrt(np.mean(self._colour**2)) >= COLOUR_RMS)

    def judge(self, frame: Frame | None, now_s: float, moving: bool) -> str | None:
        """What is wrong with a frame, or None.

        Args:
            frame: the camera's newest, the same again or not. now_s: monotonic.
            moving: whether the arm has moved visibly since the last frame.
        """
        limits, last = self.limits, self._last
        if frame is None:
            return "stalled: the camera gave no frame yet"
        if last is None or frame.sequence != last.sequence:
            same = last is not None and np.array_equal(frame.image, last.image)
            self._same = self._same + moving if same else 0  # an arm at rest proves nothing either way
            self._last = frame
        if (age := now_s - frame.captured_s) > limits.max_age_s:
            return f"stalled: frame {frame.sequence} is {1e3 * age:.0f} ms old, more than {1e3 * limits.max_age_s:.0f}"
        if frame.image.dtype != np.uint8 or frame.image.shape != (*limits.size, 3):
            return f"wrong size: {frame.image.dtype} {frame.image.shape}, not uint8 {(*limits.size, 3)}"
        if (spread := float(frame.image.std())) < limits.blank_std:
            return f"blank: all pixels are near {frame.image.mean():.0f} (spread {spread:.1f}); is the lens covered?"
        if self._same + 1 >= limits.repeats:
            return f"repeated: the same pixels {self._same + 1} times while the arm moved"
        if self.tells_swapped and self._colour is not None:
            colour = _red_less_blue(frame.image)
            scale = np.linalg.norm(colour) * np.linalg.norm(self._colour)
            if scale > 0 and float((colour * self._colour).sum() / scale) < -0.5:
                return "swapped: red and blue are exchanged against the reference image"
        return None


def _red_less_blue(image: Image) -> NDArray[np.float32]:
    return image[..., 0].astype(np.float32) - image[..., 2]
