"""Shows the progress of a stage."""

import sys
import time


def say(text: str, end: str = "\n") -> None:
    print(text, file=sys.stderr, end=end, flush=True)


class TimeLeft:
    """The progress of a stage and its remaining time: one line on a terminal, one per half minute in a log."""

    def __init__(self, stage: str) -> None:
        self.stage, self.began, self.told = stage, time.monotonic(), 0.0

    def tell(self, fraction: float) -> None:
        now = time.monotonic()
        if now - self.told < (0.5 if sys.stderr.isatty() else 30) and fraction < 1:
            return
        self.told, left = now, ""
        if 0 < fraction < 1:
            left = f", about {(now - self.began) * (1 / fraction - 1) / 60:.1f} min left"
        text = f"{self.stage}: {fraction:4.0%}{left}"
        say(f"\r{text:<78}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() and fraction < 1 else "\n")
