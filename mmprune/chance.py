"""What chance does to an accuracy: whether it is hardly better than guessing, and whether two differ."""

import math

NEAR = 0.15  # fraction of the way from guessing to all correct; a model trained for its data is far above it
FEWEST = 30  # images; with fewer the standard error of the accuracy means little


def is_near_chance(accuracy: float, chance: float, images: int) -> bool:
    """Whether the accuracy on so many images is hardly better than `chance`, what guessing would give.

    Near chance means: (accuracy - chance) / (1 - chance) < NEAR (Cohen's kappa) and accuracy < 3 chance, since with a
    hundred classes 10 % is far from guessing; or, with at least FEWEST images, within two standard errors of chance.
    """
    unsure = 2 * math.sqrt(chance * (1 - chance) / images) if images >= FEWEST else 0.0
    return accuracy - chance < max(unsure, min(NEAR * (1 - chance), 2 * chance))


def differ(a: float, b: float, images: int) -> bool:
    """Whether two accuracies on so many images are more than two standard errors of their difference apart."""
    return abs(a - b) > 2 * math.sqrt((a * (1 - a) + b * (1 - b)) / images)
