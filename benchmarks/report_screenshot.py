"""A picture of a family's report.html as a desktop browser shows it, with a budget in it; for README.md and by eye.

    pip install playwright; apt-get install chromium-headless-shell
    python benchmarks/report_screenshot.py FAMILY --out docs/report.png [--width 375] [--dark] [--latency-ms 0.1]
"""

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from mmprune.results.report import report_points

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1340)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--latency-ms", type=float, help="a limit to show")
    words = parser.parse_args()
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"no browser: install one of {', '.join(BROWSERS)}")
    page_file, _ = report_points(words.family)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found)
        page = browser.new_page(viewport={"width": words.width, "height": words.height},
                                color_scheme="dark" if words.dark else "light")
        page.goto(page_file.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        if words.latency_ms is not None:
            page.fill("input[name=latency]", repr(words.latency_ms))
            page.locator("h1").click()  # so that no cursor is in it
        page.locator("#fronts").scroll_into_view_if_needed()  # only then are they drawn
        page.locator("#fronts svg.main-svg").first.wait_for()
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        page.screenshot(path=words.out)
        browser.close()


if __name__ == "__main__":
    main()
