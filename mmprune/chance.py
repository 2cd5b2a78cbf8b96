"""Whether an accuracy is hardly better than guessing."""

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
