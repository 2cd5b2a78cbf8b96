"""report.html in a browser: it opens without a network, draws every front, and chooses as `mmprune choose` does."""

import json
import random
import shlex
from dataclasses import replace

import pytest
from browser import chromium, opened
from click.testing import CliRunner
from families import DEVICE, made_family, made_measurement
from many_boards import BOARDS, many_boards

from mmprune import folder
from mmprune.cli.commands import cli
from mmprune.results.boards import read_boards
from mmprune.results.goals import GOALS
from mmprune.results.page import write_page
from mmprune.results.page_data import COSTS
from mmprune.results.points import pareto

pytestmark = pytest.mark.slow  # a browser starts for it
MIB = 2**20
EVERY_PLOT = """PLOTS.map(({place, board, axis}) => ({board: FAMILY.boards.indexOf(board), cost: axis.cost,
  fronts: place.data.filter(t => t.mode === "lines").map(t => [t.x, t.y]),
  points: place.data.filter(t => t.customdata).map(t => t.customdata).flat().length}))"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    root = tmp_path_factory.mktemp("page") / "my family"
    root.mkdir()
    many_boards(root, 40)
    write_page(root, "toy, pruned")
    return root


@pytest.fixture
def report(browser, family):
    found = opened(browser, family / "report.html")
    yield found
    found.page.context.close()
    assert found.said == [], "the console stays empty"
    assert found.asked == [(family / "report.html").as_uri()], "and nothing is asked for"


def see_fronts(page):
    """Scroll to the first plot, which draws it."""
    page.locator("#fronts .plot").first.evaluate("plot => plot.scrollIntoView({block: 'center'})")
    page.locator("#fronts .plot svg.main-svg").first.wait_for()


def chosen_by_command(family, monkeypatch, words):
    """What the command that the page printed says: {"winner", "runner-up", "nearest miss": "file with runtime"}."""
    monkeypatch.chdir(family.parent)
    done = CliRunner().invoke(cli, [*shlex.split(words)[1:], "--json"])
    assert done.exit_code in (0, 1) and done.stdout, done.output
    said = json.loads(done.stdout)
    first = {"winner": [said["winner"]], "runner-up": said["others"][:1], "nearest miss": said["misses"][:1]}
    return {name: next((f"{p['artifact']} with {p['runtime']}" for p in found if p), None)
            for name, found in first.items()}


GATES = {"latency": "max_latency_ms", "size": "max_size_mb", "memory": "max_memory_mb", "energy": "max_energy_mj",
         "accuracy": "min_accuracy", "drop": "max_drop"}


def gate_of(family, typed, selected, command) -> bool:
    """Whether `mmprune gate` passes the same limits, of a check without a file."""
    words = shlex.split(command)
    lines = ["[[check]]", 'name = "c"', *(f"{GATES[name]} = {value!r}" for name, value in typed.items())]
    lines += [f"percentile = {selected['percentile']}"] * bool(selected["percentile"])
    lines += [f"runtime = {json.dumps(selected['runtime'])}"] * bool(selected["runtime"])
    if "--device" in words:
        lines.append(f"device = {json.dumps(words[words.index('--device') + 1])}")
    file = family.parent / "gate.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    done = CliRunner().invoke(cli, ["gate", str(file), str(family)])
    assert done.exit_code in (0, 1), done.output
    return done.exit_code == 0


def chosen_by_page(report, number=0):
    """The same of the page, for the board of that number, and the command that it prints."""
    return report.page.evaluate("""number => {
      const board = FAMILY.boards[number], choice = VIEW.choices.get(board);
      const shown = document.querySelectorAll("#chosen > div")[number];
      const named = i => i === null ? null : `${board.points[i].file} with ${board.points[i].runtime}`;
      return {winner: named(choice.winner), "runner-up": named(choice.runnerUp),
              "nearest miss": choice.miss && named(choice.miss.index),
              command: shown.querySelector("code").textContent,
              row: [...document.querySelectorAll(`tr.winner[data-board='${number}']`)].map(
                r => `${r.dataset.file} with ${r.dataset.runtime}`)[0] ?? null,
              star: shown.querySelector(".won")?.textContent ?? null}
    }""", number)


def random_budgets(boards, count):
    """A board, limits as a user types them, and what is selected; some limits are a file's cost, some none keeps."""
    drawn = random.Random(7)
    for _ in range(count):
        number = drawn.randrange(len(boards))
        p, near = drawn.choice(boards[number].points), drawn.choice([1.0, drawn.uniform(0.3, 1.6)])
        q = drawn.choice(["", 50, 90, 99])
        every = {"latency": (p.latency_s(q or 90) or p.p50_s) * 1e3 * near, "size": p.download_bytes / MIB * near,
                 "memory": p.peak_bytes / MIB * near, "accuracy": round(p.accuracy * 100 * drawn.choice([1, 0.99]), 3),
                 "drop": drawn.choice([0, 1, round(drawn.uniform(0, 15), 1)])}
        if p.energy_j is not None:
            every["energy"] = p.energy_j * 1e3 * near
        typed = {name: every[name] for name in drawn.sample(sorted(every), drawn.randrange(4))}
        yield number, typed, {"percentile": str(q), "runtime": drawn.choice(["", "", "onnxruntime", "openvino"]),
                              "prefer": drawn.choice(["", "", *GOALS])}


def test_the_page_and_the_printed_command_choose_alike_and_a_gate_agrees(report, family, monkeypatch):
    winners, boards = set(), read_boards(family)
    for number, typed, selected in random_budgets(boards, 40):
        report.page.click("button[type=reset]")
        for name, value in typed.items():
            report.page.fill(f"input[name={name}]", repr(value))
        for name, value in selected.items():
            report.page.select_option(f"#limits select[name={name}]", value)
        report.frame()
        page = chosen_by_page(report, number)
        command = page.pop("command")
        assert all((f"--{name}" in command) == bool(value) for name, value in selected.items())
        assert ("--device" in command) == bool(number)
        assert all(repr(value) in command or f"{value:g}" in command for value in typed.values()), command
        assert page.pop("row") == page["winner"], "the table marks the winner"
        named = next((f"★ {p.strategy}, {p.format} {p.precision} with {p.runtime}" for p in boards[number].points
                      if f"{p.artifact} with {p.runtime}" == page["winner"]), None)
        assert page.pop("star") == named
        assert page == chosen_by_command(family, monkeypatch, command), command
        if typed:
            assert gate_of(family, typed, selected, command) == (page["winner"] is not None), command
        winners.add(page["winner"])
    assert len(winners) > 5 and None in winners, "the budgets differ in what they choose"


def test_ties_are_broken_alike_also_where_a_size_falls_between_two_bytes(browser, tmp_path, monkeypatch):
    rows = [("dense", 0.90, 0.0, 0.010), ("a", 0.884, 0.5, 0.009), ("b", 0.88, 0.5, 0.008), ("c", 0.88, 0.5, 0.008)]
    for artifact in made_family(tmp_path, rows):
        size = {"a": 8 * MIB, "b": 3 * MIB, "c": 2 * MIB + 1}.get(artifact.variant[0], 4 * MIB)
        folder.write_artifact(tmp_path, replace(artifact, download_bytes=size))
    report = opened(browser, write_page(tmp_path, "toy"))
    for name, value in (("latency", 11), ("latency", 9.6), ("size", 2 - 0.5 / MIB), ("size", 2 + 0.5 / MIB),
                        ("size", 3 - 0.5 / MIB), ("memory", 200), ("accuracy", 0), ("accuracy", 88)):
        report.page.click("button[type=reset]")
        report.page.fill(f"input[name={name}]", repr(value))
        report.frame()
        page = chosen_by_page(report)
        said = chosen_by_command(tmp_path, monkeypatch, page["command"])
        assert {key: page[key] for key in said} == said, page["command"]


def test_a_limit_that_is_none_is_said_and_nothing_is_chosen(report):
    for value, words in (("0", "a number above zero"), ("-3", "a number above zero")):
        report.page.fill("input[name=latency]", value)
        report.frame()
        assert words in report.page.inner_text("#chosen") and "mmprune choose" not in report.page.inner_text("#chosen")
        assert report.page.locator("tr.winner").count() == 0
    report.page.fill("input[name=latency]", "")
    report.page.fill("input[name=accuracy]", "101")
    report.frame()
    assert "between 0 and 100" in report.page.inner_text("#chosen")


def test_every_front_is_drawn_and_emulated_files_have_no_times(browser, tmp_path):
    many_boards(tmp_path, 12)
    for i, artifact in enumerate(folder.read_artifacts(tmp_path)):
        m = made_measurement(artifact, 0.5, session="e.1", provenance="emulated", peak_bytes=(60 + i) * MIB)
        folder.append_measurement(tmp_path, replace(m, device=replace(DEVICE, board="Emulated Pi")))
    boards = read_boards(tmp_path)
    assert [b.emulated for b in boards] == [False, False, False, True]
    report = opened(browser, write_page(tmp_path, "toy", boards))
    for plot in report.page.locator("#fronts .plot").all():  # they are drawn as they come into view
        plot.scroll_into_view_if_needed()
        plot.locator("svg.main-svg").first.wait_for()
    plots = report.page.evaluate(EVERY_PLOT)
    drawn = {(plot["board"], plot["cost"]) for plot in plots}
    # the newest board has no power sensor, the Jetson's modes have one
    assert drawn == {*((b, c) for b in range(3) for c in ("latency", "memory", "size")), (1, "energy"), (2, "energy"),
                     (3, "memory"), (3, "size")}
    for plot in plots:
        points, unit = boards[plot["board"]].points, 1 / MIB if plot["cost"] in ("memory", "size") else 1e3
        cost = COSTS["p90" if plot["cost"] == "latency" else plot["cost"]]
        for (xs, ys), runtime in zip(plot["fronts"], dict.fromkeys(p.runtime for p in points), strict=True):
            front = pareto([p for p in points if p.runtime == runtime], cost)
            assert xs == pytest.approx([cost(p) * unit for p in front])
            assert ys == pytest.approx([p.accuracy * 100 for p in front])
        assert plot["points"] == sum(cost(p) is not None for p in points)
    said = report.page.inner_text("#fronts")
    assert "Emulated Pi" in said and "emulated, so without times" in said
    heads = report.page.eval_on_selector_all("#table th", "heads => heads.map(h => h.textContent)")
    k = heads.index("p50 ms")
    cells = report.page.eval_on_selector_all("tr[data-board='3']",
                                             "rows => rows.map(r => [...r.cells].map(c => c.textContent))")
    assert len(cells) == 12 and {text for row in cells for text in row[k:k + 3]} == {"-"}
    assert report.said == []


def test_rows_are_sorted_and_filtered(report, family):
    def column(k):
        return report.page.eval_on_selector_all(
            "#table tbody tr:not([hidden])", f"rows => rows.map(r => r.cells[{k}].textContent)")

    heads = report.page.eval_on_selector_all("#table th", "heads => heads.map(h => h.textContent)")
    k, n = heads.index("accuracy %"), len(column(0))
    assert n == 40 * len(BOARDS)
    button = report.page.locator("#table th button").nth(k)
    for order, reverse in (("ascending", False), ("descending", True)):
        button.click()
        values = [float(text) for text in column(k)]
        assert values == sorted(values, reverse=reverse) and len(set(values)) > 5
        assert report.page.locator("#table th").nth(k).get_attribute("aria-sort") == order
    report.page.locator("#table th button").nth(heads.index("p99 ms")).click()
    assert column(heads.index("p99 ms"))[-1] == "-", "what is not known comes last"
    report.page.fill("input[name=words]", "s01")
    assert {text[:3] for text in column(0)} == {"s01"} and report.page.inner_text("#shown") == f"30 of {n} shown"
    report.page.select_option("#filters select[name=runtime]", "openvino")
    assert set(column(heads.index("runtime"))) == {"openvino"} and 0 < len(column(0)) < 30
    report.page.fill("input[name=words]", "")
    report.page.fill("input[name=latency]", "8")
    report.frame()
    report.page.check("input[name=fitting]")
    assert set(column(heads.index("budget"))) <= {"fits", "★ chosen"} and 0 < len(column(0)) < 20 * len(BOARDS)


def test_a_file_opens_from_the_keyboard_and_the_command_deploys_it(report, family, monkeypatch):
    checked = 0
    for row in report.page.locator("#table tbody tr").all()[:80:5]:  # of two boards
        button = row.locator("button")
        button.focus()
        report.page.keyboard.press("Enter")
        dialog = report.page.locator("dialog")
        text = dialog.inner_text()
        for words in ("accuracy of this file", "sha256", "Zeros in each layer", "all 6 layers have the zeros"):
            assert words in text
        assert dialog.locator(".plot svg.main-svg").count() >= 3
        if "prefers" not in text:
            command = dialog.locator("code").first.inner_text().removesuffix(" --out deploy")
            wanted = f"{row.get_attribute('data-file')} with {row.get_attribute('data-runtime')}"
            assert chosen_by_command(family, monkeypatch, command)["winner"] == wanted
            checked += 1
        report.page.keyboard.press("Escape")
        assert not dialog.is_visible() and button.evaluate("b => b === document.activeElement")
    assert checked >= 2


def test_a_click_on_a_mark_opens_its_file_and_hovering_names_it(report):
    see_fronts(report.page)
    trace = "PLOTS[0].place.data.findIndex(t => t.customdata)"
    report.page.evaluate(f"Plotly.Fx.hover(PLOTS[0].place, [{{curveNumber: {trace}, pointNumber: 0}}])")
    assert "dense, onnx f32 with onnxruntime" in report.page.locator("#fronts .hoverlayer").first.text_content()
    mark = report.page.locator("#fronts .plot").first.locator(".points path.point").first
    box = mark.bounding_box()
    report.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    report.page.wait_for_timeout(200)  # plotly.js looks at the pointer a few times a second
    report.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    report.page.locator("dialog[open]").wait_for()
    assert "with onnxruntime" in report.page.inner_text("dialog h2")


HOSTILE = "</script><script>window.hacked=1</script><b>bold</b><img src=x onerror=window.hacked=1>"


def test_hostile_names_stay_text(browser, tmp_path):
    root = tmp_path / "-f $(touch hacked) '<b>"
    root.mkdir()
    made_family(root, [("dense", 0.90, 0.0, 0.010), ("uniform", 0.88, 0.5, 0.008)])
    _, variant = folder.read_variants(root)
    folder.write_variant(root, replace(variant, strategy=HOSTILE, layer_sparsity={HOSTILE: 0.5}, pattern=HOSTILE))
    artifact = folder.read_artifacts(root)[1]
    folder.write_artifact(root, replace(artifact, layer_sparsity={HOSTILE: 0.5}, notes=(HOSTILE,)))
    device = replace(DEVICE, board=HOSTILE, cpu="<i>cpu</i>", os=HOSTILE, versions={HOSTILE: HOSTILE})
    measured = folder.read_measurements(root)
    (root / folder.MEASUREMENTS).unlink()
    for m in measured:
        folder.append_measurement(root, replace(m, device=device, runtime=f"run {HOSTILE}", notes=(HOSTILE,)))
    report = opened(browser, write_page(root, f"{HOSTILE}, pruned"))
    page = report.page
    assert page.inner_text("h1") == page.title() == f"{HOSTILE}, pruned"
    page.fill("input[name=latency]", "10")  # the hostile one is chosen and named in the plots
    page.select_option("#limits select[name=runtime]", f"run {HOSTILE}")
    report.frame()
    page.evaluate("drawAll(VIEW, true)")
    page.locator("#table tbody tr.winner button").click()
    assert HOSTILE in page.inner_text("dialog h2") and HOSTILE in page.inner_text("dialog ul")
    assert HOSTILE in page.locator("#fronts .annotation").first.text_content()
    page.evaluate("Plotly.Fx.hover(PLOTS[0].place, [{curveNumber: 1, pointNumber: 1}])")
    assert HOSTILE in page.locator("#fronts .hoverlayer").first.text_content()
    page.evaluate("Plotly.Fx.hover(document.getElementById('layers'), [{curveNumber: 0, pointNumber: 0}])")
    assert HOSTILE in page.locator("#layers .hoverlayer").first.text_content()
    assert page.evaluate("window.hacked") is None
    assert page.locator("b, img, i, body script:not(#family)").count() == 2, "the library and the program alone"
    words = shlex.split(page.locator("#chosen code").text_content())
    assert words[:3] == ["mmprune", "choose", f"./{root.name}"] and words[-2:] == ["--runtime", f"run {HOSTILE}"]
    assert report.said == [] and len(report.asked) == 1


def test_phone_dark_and_print(browser, family):
    phone = opened(browser, family / "report.html", width=375, has_touch=True, is_mobile=True)
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 375, "nothing but the table scrolls sideways"
    assert phone.page.locator("#fronts .plot").first.bounding_box()["width"] <= 375
    light = phone.page.evaluate("PLOTS[0].place.layout?.paper_bgcolor ?? theme().paper")
    report = opened(browser, family / "report.html", color_scheme="dark")
    dark = report.page
    see_fronts(dark)
    colour = "PLOTS[0].place.layout.paper_bgcolor"
    assert dark.evaluate(colour) != light
    dark.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert dark.evaluate(colour) == light and not dark.evaluate("PLOTS.some(p => p.stale)")
    assert dark.evaluate("[...document.querySelectorAll('main details')].every(d => d.open)")
    dark.evaluate("dispatchEvent(new Event('afterprint'))")
    assert dark.evaluate(colour) != light
    dark.emulate_media(color_scheme="light")
    report.frame()
    assert dark.evaluate(colour) == light


def test_a_hundred_files_on_three_boards_load_in_under_a_second(browser, tmp_path):
    many_boards(tmp_path, 100)
    path = write_page(tmp_path, "toy, pruned")
    assert path.stat().st_size < 2.5 * MIB
    page = browser.new_page()
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})  # CPU time, whatever else runs here
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    page.evaluate("drawAll(VIEW, true)")  # with every plot, also those that are not in view yet
    seconds = {m["name"]: m["value"] for m in devtools.send("Performance.getMetrics")["metrics"]}["TaskDuration"]
    assert page.locator("#table tbody tr").count() == 300 and page.locator("#fronts svg.main-svg").count() > 10
    assert 0.05 < seconds < 1, seconds
