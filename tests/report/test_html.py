"""The page: one file, complete, well-formed, and honest about what is missing."""

import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest

from pruner_jax.report.html import build, fill

VOID = {"meta", "input", "br", "hr", "link", "img"}


class Outline(html.parser.HTMLParser):
    """Checks nesting; collects headings, text and whatever would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.headings, self.text, self.fetched = [], [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.fetched += [values[k] for k in ("src", "href", "action") if k in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass  # as SVG elements close themselves

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if "style" not in self.open and "script" not in self.open:
            self.text.append(data)


def outline(page):
    found = Outline()
    found.feed(page.read_text())
    assert found.open == []
    return found


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def test_a_finished_run_has_every_section(run):
    page = build(run)
    assert page == run / "report.html"
    found = outline(page)
    assert found.headings[0].endswith("points")
    assert found.headings[1:] == [
        "Lengths and budgets",
        "Where the tokens went",
        "Rounds and training",
        "Read them",
        "How it was made",
    ]
    text = page.read_text()
    assert text.count("<svg") == 2 + 1 + 2 + 2 + 4
    assert 'class="missing"' not in text


def test_nothing_is_fetched(run):
    page = build(run)
    assert outline(page).fetched == []
    text = page.read_text()
    assert not re.search(r"https?://|//cdn|@import|url\(|<link|<img|fetch\(|XMLHttp", text)


def test_the_numbers_on_the_page_are_those_of_the_summary(run):
    text = " ".join(outline(build(run)).text)
    summary = json.loads((run / "summary.json").read_text())
    assert f"{100 * summary['final']['accuracy']:.1f} %" in text
    assert f"×{summary['token_ratio']['value']:.2f}" in text
    assert f"pruner-jax prune {run}/config.yaml" in text
    assert "tolerance: 0.03" in text


def test_the_same_run_gives_the_same_page(run):
    first = build(run).read_bytes()
    assert build(run).read_bytes() == first


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("summary.json", "is not finished|not finished"),
        ("metrics.jsonl", "holds no training steps yet"),
        ("config.yaml", ""),
        ("rollouts/base-test.parquet", "Transcripts need"),
        ("rollouts/final-test.parquet", "length distributions need"),
        ("rollouts/base-monitor.parquet", ""),
    ],
)
def test_each_part_may_be_missing(run, path, words):
    (run / path).unlink()
    page = build(run)
    assert re.search(words, " ".join(outline(page).text))
    assert ('class="missing"' in page.read_text().split("</style>")[1]) == bool(words)


def test_a_run_that_still_trains(run):
    for path in ("summary.json", "rollouts/base-test.parquet", "rollouts/final-test.parquet"):
        (run / path).unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()[:20]
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"kind": "st')  # being written
    found = outline(build(run))
    assert found.headings[0] == "run, thinkprune: not finished"
    assert "18 steps are recorded" in " ".join(found.text)


def test_a_broken_line_inside_the_metrics_is_no_small_matter(run):
    (run / "metrics.jsonl").write_text('{"kind": "st\n{"kind": "step"}\n')
    with pytest.raises(ValueError):
        build(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is nothing to report"):
        build(tmp_path)


def test_a_run_without_rounds_or_difficulty(run):
    summary = json.loads((run / "summary.json").read_text())
    summary.update(rounds=[], by_difficulty=[], by_base_accuracy=[], seconds={})
    (run / "summary.json").write_text(json.dumps(summary))
    assert "states no difficulty" in " ".join(outline(build(run)).text)


def test_parts_are_not_searched_for_names():
    assert fill("{{a}}-{{b}}", {"a": "{{b}}", "b": "2"}) == "{{b}}-2"


def test_the_room_needs_no_accelerator_and_loads_little():
    code = (
        "import sys; import pruner_jax.report.html, pruner_jax.report.progress; "
        "assert not {'jax', 'flax', 'transformers', 'pyarrow', 'rich', 'matplotlib'} "
        "& set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
