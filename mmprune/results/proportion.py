"""How exactly a share is known that was counted on so many images."""

from math import sqrt
from statistics import NormalDist

CONFIDENCE = 0.99


def interval(share: float, images: int) -> tuple[float, float] | None:
    """Wilson's score interval of a proportion, at 99 %; None without images.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not images:
        return None
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)
