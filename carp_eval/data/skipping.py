"""Images that could not be read and were left out on request."""

from dataclasses import dataclass, field
from typing import NamedTuple


class SkippedImage(NamedTuple):
    """One image that was left out.

    Attributes:
        number: Its number in the split.
        key: Its key.
        reason: Why it could not be read.
    """

    number: int
    key: str
    reason: str


@dataclass
class SkippedImages:
    """Collects what was left out, each image once however often it came up.

    Attributes:
        by_number: The images, by their number in the split.
    """

    by_number: dict[int, SkippedImage] = field(default_factory=dict[int, SkippedImage])

    def add(self, skipped: SkippedImage) -> None:
        """Note one image."""
        self.by_number[skipped.number] = skipped

    def __len__(self) -> int:
        return len(self.by_number)

    def describe(self, *, at_most: int = 10) -> str:
        """Count and list them, a line each."""
        count = f"{len(self)} image{'' if len(self) == 1 else 's'} skipped"
        shown = [self.by_number[number] for number in sorted(self.by_number)[:at_most]]
        more = [f"  ... and {len(self) - at_most} more"] if len(self) > at_most else []
        return "\n".join([count, *(f"  {image.key}: {image.reason}" for image in shown), *more])
