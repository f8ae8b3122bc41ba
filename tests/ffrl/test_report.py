"""ffrl report: the page is whole by itself, drops nothing, escapes everything and names what is missing."""

import base64
import hashlib
import io
import json
import math
import os
import re
import statistics
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ffrl.cli import main
from ffrl.report import write_report
from ffrl.report.axis import Axis
from ffrl.report.chart import Point, thinned
from ffrl.report.contents import LARGEST_FILE
from ffrl.report.tables import nested

CONFIG: dict[str, Any] = {
    "preset": {"latent_dim": 4, "hidden": [16, 8], "learning_rate": 0.002, "collocation_points": 0},
    "budget": {"iterations": 300, "minutes": None},
    "seed": 0,
    "data": "digits",
    "root": None,
    "data_checksum": "63ce2f39",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
}
EVALUATION: dict[str, Any] = {
    "equivariance_error": {
        "scale": {"flow": 389.125, "standing_still": 1294.0625, "ratio": 0.300700312},
        "colour": {"flow": 411.75, "standing_still": 1334.5, "ratio": 0.308542525},
    },
    "mean_ratio": 0.3046214185,
    "volume_change": {"scale": {"exact": -4.703125, "folding": 0.0}, "colour": {"exact": -9.3, "folding": 0.00012}},
    "potentials": [1, 0],
    "inferred_k": {
        "accuracy": 0.975, "collapsed": 0.5, "used": 2, "label_of": [0, 1], "confusion": [[19, 0], [1, 20]],
    },
    "a later measure": {"by part": [{"x": 17.25, "deeper": {"y": [[31, 32], [33, 34.5]]}}, 71], "none": None},
    "held_out_digits": 4711,
    "seed": 0,
}  # fmt: skip
LOG = "iteration,loss,hj,level\n100,900.5,1,0\n200,850.25,0.01,0\n300,800.125,0.0001,0\n"


def run(*arguments: object) -> int:
    """Run a command in this process; the exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def make_run(folder: Path, **changes: Any) -> Path:
    """A run with a log, an evaluation, a traversal and an experiment; changes: of its configuration."""
    (folder / "traversal").mkdir(parents=True)
    (folder / "experiments" / "spread").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "log.csv").write_text(LOG)
    (folder / "evaluation.json").write_text(json.dumps({**EVALUATION, "seed": changes.get("seed", 0)}))
    Image.new("RGB", (30, 20)).save(folder / "traversal" / "scale.png")
    Image.new("RGB", (31, 21)).save(folder / "traversal" / "scale.gif")
    (folder / "experiments" / "spread" / "result.json").write_text('{"angles": [0, 40.5]}')
    return folder


class Page(HTMLParser):
    """The elements of a page, its text, and the values that its numbers carry. Fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.values: set[str] = set()
        self.text = ""
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "data":
            self.values.add(str(dict(attrs)["value"]))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open and self._open[-1] != "style":
            self.text += data

    def has(self, number: float) -> bool:
        """Whether the page carries the number with all its digits."""
        return (
            repr(number) in self.values
            or re.search(rf"(?<![\d.]){re.escape(repr(number))}(?![\d.])", self.text) is not None
        )


def page_of(*runs: Path) -> Page:
    """The report of the runs."""
    out = runs[0].parent / "report.html"
    size = write_report(runs, out)
    assert size == len(out.read_bytes())
    return Page(out.read_text())


def numbers(value: Any) -> Iterator[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from numbers(child)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_a_trained_run_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    tiny = ("hidden=16,8", "latent_dim=4", "potential_width=5", "batch_size=6", "supervision=weak")
    assert (
        run("train", "--out", out, "--iterations", 4, "--threads", 1, *(part for s in tiny for part in ("--set", s)))
        == 0
    )
    assert run("evaluate", out, "--sequences", 20, "--samples", "1,4", "--bound-sequences", 1) == 0
    assert run("traverse", out, "--sequences", 1) == 0
    assert run("report", out, "--out", tmp_path / "page" / "report.html") == 0
    assert re.search(r"wrote .*report\.html \(0\.\d MB\)\n$", capsys.readouterr().out)
    page = Page((tmp_path / "page" / "report.html").read_text())
    missing = [number for number in numbers(json.loads((out / "evaluation.json").read_text())) if not page.has(number)]
    assert missing == []
    assert sum(tag == "img" for tag, _ in page.elements) == 6
    assert "run: experiments is missing" in page.text


def test_nothing_is_loaded(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1))
    text = (tmp_path / "report.html").read_text()
    assert "://" not in text
    assert "@import" not in text and "url(" not in text
    loading = [(name, value) for _, found in page.elements for name, value in found.items() if name in ("src", "href")]
    assert len([name for name, _ in loading if name == "src"]) == 4
    for name, value in loading:
        assert value is not None and value.startswith("data:image/" if name == "src" else "#"), (name, value)
    assert {tag for tag, _ in page.elements} & {"link", "iframe", "object", "embed", "base", "form"} == set()


def test_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a"))
    policy = next(found["content"] for _, found in page.elements if found.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_every_number_of_an_evaluation_is_there(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a"))
    assert [number for number in numbers(EVALUATION) if not page.has(number)] == []
    assert "a later measure" in page.text and "deeper" in page.text
    assert "1, matched to scale" in page.text


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=25,
    )
)
def test_any_json_value_is_shown_whole(value: Any) -> None:
    page = Page(nested(value))
    assert {repr(number) for number in numbers(value)} == page.values


HOSTILE = """<img src=x onerror="alert(1)">'&</script><script>alert(2)</script>"""


def test_hostile_names_are_text(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "∕")
    folder = make_run(
        tmp_path / name, **{HOSTILE: HOSTILE, "preset": {HOSTILE: [HOSTILE]}, "versions": {"\ud800": "\x00"}}
    )
    (folder / "evaluation.json").write_text(json.dumps({HOSTILE: {HOSTILE: {HOSTILE: HOSTILE}}, "b": [[HOSTILE]]}))
    quoted = '"' + HOSTILE.replace('"', '""') + '"'
    (folder / "log.csv").write_text(f"iteration,{quoted}\n1,2\n2,3\n")
    (folder / "experiments" / name).mkdir()
    (folder / "experiments" / name / f"{name}.json").write_text(json.dumps([HOSTILE, {HOSTILE: 1}]))
    (folder / "experiments" / name / f"{name}.txt").touch()
    Image.new("RGB", (3, 3)).save(folder / "experiments" / name / "a.png")
    (folder / "experiments" / name / "a.png").rename(folder / "experiments" / name / f"{name}.png")
    page = page_of(folder, make_run(tmp_path / "plain"))
    scripts = [found for tag, found in page.elements if tag == "script"]
    assert [found for found in scripts if found.get("type") != "application/json"] == [{}]
    assert all(not name.startswith("on") for _, found in page.elements for name in found)
    assert all(str(found["src"]).startswith("data:image/") for tag, found in page.elements if tag == "img")
    assert page.text.count(HOSTILE) >= 10
    drawn = [json.loads(text) for text in page.scripts[:-1]]
    assert any(line["name"] == name for lines in drawn for line in lines)


def test_a_path_cannot_end_the_numbers_of_a_chart(tmp_path: Path) -> None:
    # Runs of one name are called by their paths, which have slashes.
    hostile = tmp_path / "<" / "script><img src=x>" / "run"
    page = page_of(make_run(hostile), make_run(tmp_path / "run"))
    assert len(page.scripts) == 3
    assert all("<" not in text and ">" not in text for text in page.scripts[:-1])
    assert json.loads(page.scripts[0])[0]["name"] == str(hostile)
    assert all(str(found["src"]).startswith("data:image/") for tag, found in page.elements if tag == "img")


def test_a_folder_name_that_is_not_text(tmp_path: Path) -> None:
    folder = make_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/run-\xff")))
    assert "run-\\udcff" in page_of(folder).text


def test_differences_between_runs_are_marked(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one")
    other = make_run(tmp_path / "other", preset={**CONFIG["preset"], "latent_dim": 4.0, "later": 1}, seed=5)
    page_of(one, other)
    text = (tmp_path / "report.html").read_text()
    marked = re.findall(r'<div class="differences">.*?</table>', text, re.DOTALL)
    assert len(marked) == 2
    names = [re.findall(r'<th scope="row">(.*?)</th>', part) for part in marked]
    # 4 and 4.0 are different settings, and an absent one differs from any.
    assert names == [["preset.latent_dim", "seed", "preset.later"], ["seed"]]
    assert '<span class="missing">missing</span>' in marked[0]


def test_means_over_runs_that_differ_only_by_seed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"seed-{seed}", seed=seed) for seed in (0, 1, 2)]
    ratios = [0.25, 0.5, 0.625]
    for seed, (folder, ratio) in enumerate(zip(runs, ratios, strict=True)):
        (folder / "evaluation.json").write_text(json.dumps({**EVALUATION, "seed": seed, "mean_ratio": ratio}))
    page = page_of(*runs, make_run(tmp_path / "other", accumulate=2))
    assert "Mean ± sd over 3 runs that differ only by their seed (0, 1, 2)" in page.text
    mean, sd = statistics.fmean(ratios), statistics.stdev(ratios)
    assert repr(mean) in page.values
    assert f"{mean:.4f} ± {sd:.4f}" in page.text


def test_no_mean_over_a_seed_that_is_there_twice(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b"))
    assert "No mean: results: expected each seed once, found seed 0 2 times." in page.text


def evaluated(folder: Path, parts: list[dict[str, Any]], **changes: Any) -> list[Path]:
    """Runs of seeds 0, 1, …, each with one of the parts as its evaluation; changes: of their configuration."""
    runs = [make_run(folder / f"seed-{seed}", seed=seed, **changes) for seed in range(len(parts))]
    for seed, (run, part) in enumerate(zip(runs, parts, strict=True)):
        (run / "evaluation.json").write_text(json.dumps({"mean_ratio": 0.5, **part, "seed": seed}))
    return runs


@pytest.mark.parametrize(
    ("part", "expected", "found"),
    [
        (
            lambda size: {"equivariance_error": {"scale": {"flow": 1.5, "sequences": size}}},
            "on as many sequences",
            "equivariance_error.scale.sequences",
        ),
        (lambda size: {"log_likelihood": [{"mean": -1.5, "samples": size}]}, "on as many samples", "0.samples"),
        (lambda size: {"iteration": size}, "at the same iteration", "iteration"),
    ],
)
def test_no_mean_over_measures_of_different_sizes(
    tmp_path: Path, part: Callable[[int], dict[str, Any]], expected: str, found: str
) -> None:
    text = page_of(*evaluated(tmp_path, [part(1000), part(20)])).text
    assert f"No mean: results: expected measures {expected} of every seed, found" in text
    assert f"{found} = 1000 of seed 0 and 20 of seed 1." in text


def test_a_mean_over_equal_minutes_whatever_their_iterations(tmp_path: Path) -> None:
    budget = {"iterations": None, "minutes": 2.0}
    text = page_of(*evaluated(tmp_path, [{"iteration": 1000}, {"iteration": 990}], budget=budget)).text
    assert "Mean ± sd over 2 runs" in text and "No mean" not in text


def test_a_budget_is_said_in_words(tmp_path: Path) -> None:
    budget = {"iterations": None, "minutes": 2.0, "processor_time": True}
    text = page_of(make_run(tmp_path / "a", budget=budget), make_run(tmp_path / "b")).text
    assert "2 minutes, processor time" in text and "False" not in text
    budget["processor_time"] = False
    assert "processor" not in page_of(make_run(tmp_path / "c", budget=budget)).text.split("Configuration")[0]


def test_missing_parts_are_named(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    (bare / "experiments" / "empty").mkdir(parents=True)
    page = page_of(bare, make_run(tmp_path / "whole"))
    for said in (
        "bare: log.csv is missing (ffrl train writes it).",
        "bare: evaluation.json is missing (ffrl evaluate writes it).",
        "bare: traversal is missing (ffrl traverse draws it).",
        "No JSON, PNG or GIF in this folder.",
        "log.csv, evaluation.json, traversal",
    ):
        assert said in page.text
    assert "whole: log.csv is missing" not in page.text
    alone = page_of(bare)
    for name in ("seed", "data", "data_checksum", "versions"):
        assert f"{name}missing" in alone.text


def test_every_column_is_drawn_or_said_to_be_level(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a"))
    charts = [str(found["aria-label"]) for tag, found in page.elements if tag == "svg" and "aria-label" in found]
    assert [label.split(",")[0] for label in charts] == ["loss", "hj"]
    assert charts[0] == "loss, nats and penalties, by iteration. a: from 900.5 to 800.1"
    assert page.text.count("log scale") == 1
    assert "Not drawn, one value throughout: level = 0." in page.text


def test_a_half_written_row_and_values_that_are_not_finite(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "log.csv").write_text("iteration,loss\n1,3\n2,nan\n3,5\n4,inf\n5,6\n6,1")
    page = page_of(folder)
    assert "the last row of log.csv, half written, is left out" in page.text
    assert "2 values that are not finite are left out" in page.text
    [[line]] = [json.loads(text) for text in page.scripts[:-1]]
    assert [point[:2] for point in line["points"]] == [[1, 3], [3, 5], [5, 6]]
    paths = [
        str(found["d"]) for _, found in page.elements if "line" in str(found.get("class")).split() and "d" in found
    ]
    assert [path.count("h0") for path in paths] == [3]


def test_a_log_without_rows(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "log.csv").write_text("iteration,loss\n")
    assert "a: log.csv has no row yet." in page_of(folder).text


def test_a_thinned_line_keeps_its_peaks_and_ends() -> None:
    points = [Point(float(i), math.sin(i / 700)) for i in range(30_000)]
    points[12_345] = Point(12_345.0, 9.0)
    points[20_001] = Point(20_001.0, -9.0)
    points[25_000] = Point(25_000.0, None)
    kept = thinned(points)
    assert len(kept) <= 2_100
    assert [kept[0], kept[-1]] == [points[0], points[-1]]
    assert {points[12_345], points[20_001], points[25_000]} <= set(kept)
    assert [point.x for point in kept] == sorted({point.x for point in kept})


@settings(deadline=None)
@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=5), st.integers(2, 8))
def test_axes_show_their_values_between_few_ticks(values: list[float], about: int) -> None:
    axis = Axis.over(values)
    assert all(-1e-9 <= axis.position(value) <= 1 + 1e-9 for value in values)
    ticks = axis.ticks(about)
    assert 1 <= len(ticks) <= 4 * about
    assert len({label for _, label in ticks}) == len(ticks)
    assert all(-1e-6 <= axis.position(value) <= 1 + 1e-6 for value, _ in ticks)


def test_an_axis_is_logarithmic_where_values_span_decades() -> None:
    decades = [label for _, label in Axis.over([1e-4, 1e3]).ticks(8)]
    assert " ".join(decades) == "10⁻⁴ 10⁻³ 10⁻² 10⁻¹ 10⁰ 10¹ 10² 10³"
    assert [label for _, label in Axis.over([0.02, 0.8]).ticks(5)] == ["0.02", "0.05", "0.1", "0.2", "0.5"]
    assert not Axis.over([0.0, 1e6]).logarithmic
    assert not Axis.over([100.0, 300.0]).logarithmic


def _noise(kind: str) -> bytes:
    frames, file = [Image.effect_noise((40, 40), 50) for _ in range(3)], io.BytesIO()
    frames[0].save(file, kind, **({"save_all": True, "append_images": frames[1:]} if kind == "GIF" else {}))
    return file.getvalue()


PNG, GIF = _noise("PNG"), _noise("GIF")


def _damage(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "expected JSON, found something else"),
        ("config.json", b"[]", "expected a JSON object, found list"),
        ("evaluation.json", b"\xff", "expected UTF-8 text, found something else"),
        ("evaluation.json", b"1" * 5000, "expected JSON, found something else"),
        ("experiments/e/deep.json", b"[" * 60 + b"]" * 60, "expected JSON nested at most 40 deep, found more"),
        ("experiments/e/deeper.json", b"[" * 100_000, "expected JSON, found something else"),
        ("experiments/e/p.gif", b"<svg>", "expected a PNG or GIF picture, found something else"),
        ("traversal/p.png", b"\x89PNG", "expected a PNG or GIF picture, found something else"),
        ("traversal/p.png", PNG[: len(PNG) // 2], "expected a whole picture, found a damaged one"),
        ("traversal/p.png", PNG[:60] + b"abcdef" + PNG[66:], "expected a whole picture, found a damaged one"),
        ("experiments/e/p.gif", GIF[: len(GIF) // 2], "expected a whole picture, found a damaged one"),
        ("traversal/p.gif", GIF[:20], "expected a PNG or GIF picture, found something else"),
        *(("traversal/p.gif", GIF[:cut], "expected a whole picture, found a damaged") for cut in (-1500, -900, -9)),
        ("log.csv", b"", "expected a header and rows, found no whole line"),
        ("log.csv", b"a,a\n1,2\n", "expected each column once, found ['a', 'a']"),
        ("log.csv", b"a,b\n1\n", "row 1: expected 2 values, found 1"),
        ("log.csv", b"a,b\n1,2\n1,x\n", "row 2, b: expected a number, found 'x'"),
    ],
)  # fmt: skip
def test_damaged_files_are_named_and_the_old_page_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    folder = make_run(tmp_path / "a")
    _damage(folder, name, content)
    out = tmp_path / "report.html"
    out.write_text("old")
    assert run("report", folder, "--out", out) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ffrl: {folder / name}: ") and message in error
    assert len(error.splitlines()) == 1
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "report.html"]


@pytest.mark.parametrize("name", ["log.csv", "evaluation.json", "traversal/a.png", "experiments/e/a.json"])
def test_large_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = make_run(tmp_path / "a")
    _damage(folder, name, b"")
    os.truncate(folder / name, LARGEST_FILE + 1_500_000)
    assert run("report", folder, "--out", tmp_path / "report.html") == 2
    assert capsys.readouterr().err == f"ffrl: {folder / name}: expected at most 20 MB, found 21.5 MB\n"


def test_arguments_that_are_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a")
    for arguments, message in (
        ((tmp_path / "nowhere",), "nowhere: expected a run with a config.json, found none"),
        ((folder, folder / ".." / "a"), "expected each run once, found it 2 times"),
        ((folder, "--out", tmp_path), f"--out {tmp_path}: expected a file, found a folder"),
        ((folder, "--out", folder / "log.csv"), "log.csv: expected a file of its own, found one of a run"),
        (
            (folder, "--out", folder / "evaluation.json"),
            "evaluation.json: expected a file of its own, found one of a run",
        ),
    ):
        assert run("report", *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", seed=1))
    assert f"2 runs: {tmp_path / 'a' / 'run'}, {tmp_path / 'b' / 'run'}" in page.text
