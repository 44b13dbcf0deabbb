"""The two files: what they say, that logs cannot speak through them, and that the same runs give the same bytes."""

import html.parser
import json
import re
from collections import Counter

import pytest
from reports.made_up import MadeUpRun

from airank_fast import tasks
from airank_fast.record.events import to_line
from airank_fast.record.formats import flagperf
from airank_fast.reports import rendering, texts
from airank_fast.reports.groups import amp_ratios, grouped, summary_rows
from airank_fast.reports.page import Report
from airank_fast.reports.reading import read
from airank_fast.rules import verifying

EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title></svg><h1>evil</h1>",
    "{{ 7 * 7 }}{% raw %}",
    "a | b | c",
    "[click](javascript:alert(1)) ![x](http://example.com/x.png) <http://example.com> https://example.com",
    "```\n# evil\n",
    "# evil\n- evil\n| evil |\n",
    "`evil` **evil** ~~evil~~ &lt;b&gt;",
    "\u202eevil\ud800\x00\x1b[31m",
)
PNG = "iVBORw0KGgo="  # the first bytes of a PNG file
VOID = {"meta", "br", "img", "wbr"}


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def made(runs, language="zh", **kwargs):
    report = Report([read(path) for path in runs], language, **kwargs)
    return rendering.html(report), rendering.markdown(report, "pictures"), rendering.picture_files(report)


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_both_files_say_everything(run_set, language):
    page, markdown, pictures = made(run_set, language)
    t = texts.Texts(language)
    parsed = Page(page)
    assert parsed.open == []
    text = "".join(parsed.text)
    for name in set(rendering._SECTIONS) - {"examples"}:
        assert ("a", "href", f"#{name}") in parsed.attributes
        assert ("h2", "id", name) in parsed.attributes
        assert f"\n## {t(name)}\n" in markdown
    for column in ("time2train", "throughput", "accuracy", "speedup"):
        assert t(column) in text
        assert f" {t(column)} |" in markdown
    ((_, _, ratio),) = amp_ratios(summary_rows(grouped(map(read, run_set))[0]))
    for shown in (
        "gpux8-aborted",
        t("state_resumed", count=1),
        t("state_aborted", reason="exception"),
        "23.42",
        f"{ratio:.2f}",
        "torchrun --nproc-per-node 8 --nnodes 4",
        "--output 'runs/a b'",
        "Made-up GPU",
    ):
        assert shown in text
        assert shown in markdown
    assert len(pictures) == parsed.tags.count("figure") == 6
    assert sorted(pictures) == sorted(re.findall(r"\]\(pictures/(.*?)\)", markdown))


def test_the_tables_are_laid_out_as_the_requirements_have_them(run_set):
    _, markdown, _ = made(run_set)
    table = "|  | Time2train(sec) | 吞吐(samples/sec) | 准确率(%) | 加速比 | 计入运行数 |\n"
    assert table in markdown
    rows = markdown.partition(table)[2].splitlines()[1:5]
    assert [row.split(" | ")[0] for row in rows] == ["| 1卡 · bf16", "| 1卡 · fp32", "| 8卡 · bf16", "| 32卡 · bf16"]
    assert flagperf.HEADER.splitlines()[0] in markdown
    for run in map(read, run_set):
        assert flagperf.row(run.flagperf) in markdown
    for table_rows in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table_rows.splitlines()}) == 1


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_what_the_rules_find_is_counted_and_listed(refused_run, language):
    page, markdown, _ = made([refused_run], language)
    t = texts.Texts(language)
    findings = list(verifying.verify(refused_run))
    number = Counter(finding.severity for finding in findings)
    assert number["error"] > 20
    counts = [("errors", "error"), ("finding_warnings", "warning"), ("finding_notes", "note")]
    counted = t("and").join(t(key, count=number[name]) for key, name in counts)
    more = t("more_findings", count=number["error"] + number["warning"] - 20)
    parsed = Page(page)
    text = "".join(parsed.text)
    for shown in (counted, more, "<b>xxx", "airank.line", "airank.log:1"):
        assert shown in text
    assert page.count("<b>x") == 0
    section = markdown.partition(f"## {t('findings')}\n")[2].partition("\n## ")[0]
    assert counted in section
    assert more in section
    rows = [line for line in section.splitlines() if line.startswith("| airank.log")]
    assert len(rows) == 20
    assert all(f" | {t('error')} | " in row and "<b" not in row for row in rows)
    assert str(refused_run) not in section


def test_how_a_metric_is_computed_is_said_and_verified(tmp_path):
    signature = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    run = MadeUpRun().begin()
    run.events[-1]["signatures"] = {"bleu": signature}
    path = run.train(epochs=5).stop().write(tmp_path / "run")
    page, markdown, _ = made([path], "en")
    shown = f"bleu: {signature}"
    assert shown in "".join(Page(page).text)
    assert shown in markdown.replace("\\", "")
    assert not [each for each in verifying.verify(path) if "signatures" in each.found]


def test_a_format_without_rules_says_so(tmp_path):
    line = '{"timestamp": "1570716921.84", "elapsedtime": "1", "datetime": "x", "type": "LOG", "step": [0, 5]'
    (tmp_path / "log.json").write_text("DLLL " + line + ', "data": {"train.loss": 8.5}}\n')
    page, markdown, _ = made([tmp_path / "log.json"], "en")
    assert "No rules apply to this format of log." in page
    assert "No rules apply to this format of log." in markdown


def test_checksums_can_be_checked(run_set, tmp_path):
    import subprocess

    _, markdown, _ = made(run_set[:1])
    (tmp_path / "sums").write_text(re.search(r"```\n((?:[0-9a-f]{64}  .*\n)+)```", markdown)[1])
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", str(tmp_path / "sums")],
        cwd=run_set[0],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "events.jsonl: OK" in done.stdout


def test_a_task_that_nobody_knows_is_shown_with_the_facts_of_its_log(tmp_path):
    points = tasks.Metric("points", ".1f", maximum=50.0)
    facts = tasks.Task(
        name="points", model="Points", title={"zh": "点", "en": "making points"}, metrics=(points,)
    ).facts()
    story = MadeUpRun(8, benchmark="points_large", task=facts, target=24.0).begin().train(4).stop("aborted", "epochs")
    for event in story.events:
        if event["kind"] == "eval_stop":
            event["accuracy"] *= 40
    story.write(tmp_path / "run")
    best = max(event["accuracy"] for event in story.events if event["kind"] == "eval_stop")
    _, markdown, pictures = made([tmp_path / "run"], "en")
    assert "- Points-large (target 24)" in markdown
    assert "| Accuracy (points) |" in markdown
    assert f" | {best:.1f} | " in markdown
    assert "| Task | making points |" in markdown
    (accuracy,) = (svg for name, svg in pictures.items() if name.endswith("accuracy.svg"))
    assert "%<" not in accuracy
    assert f"best {best:.1f}" in accuracy


def test_the_same_runs_give_the_same_bytes(run_set):
    first = made(run_set, "en", mark="x")
    assert first == made(run_set, "en", mark="x")


@pytest.mark.parametrize("text", EVIL)
def test_logs_cannot_speak_through_the_report(tmp_path, text):
    story = MadeUpRun(8).begin()
    for event in story.events:
        if event["kind"] == "run_config":
            event |= {
                "benchmark": text,
                "task": {"name": text, "model": text, "title": {"zh": text, "en": text}, "metrics": [{"name": text}]},
                "precision": text,
                "unit": text,
                "devices": [text],
                "seed": text,
                "recipe": {text: text, "nested": {text: [text]}},
                "reported": {text: text},
                "command": ["x/airank_fast/train.py", text],
            }
        if event["kind"] in ("system", "data"):
            event |= {
                "accelerator_name": text,
                "source": text,
                "checksum": text,
                text: text,
                "versions": {text: text},
                "kernels": {text: {text: text}},
            }
    story.emit("warning", message=text)
    story.train(4).stop("aborted", text, text)
    story.emit("examples", files=["examples/01.png"], predicted=[text], truth=[text])
    name = re.sub("[/\x00\ud800]", "_", text)
    (tmp_path / name / "examples").mkdir(parents=True)
    (tmp_path / name / "examples" / "01.png").write_bytes(png := b"\x89PNG\r\n\x1a\n")
    (tmp_path / name / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in story.events))
    (tmp_path / name / f"{name}.txt").write_text("")
    plain = tmp_path / "plain"
    MadeUpRun(8).begin().train(4).stop("aborted", "exception").write(plain)
    page, markdown, pictures = made([tmp_path / name, plain], mark=text)
    assert pictures.pop("examples-1-01.png") == png
    for content in (page, markdown, *pictures.values()):
        content.encode("utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", content)
    parsed = Page(page)
    assert parsed.open == []
    assert set(parsed.tags).isdisjoint({"script", "iframe", "object", "link", "base", "form"})
    assert "evil" not in [value for tag, value in zip(parsed.tags, parsed.text, strict=False) if tag == "h1"]
    assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
    addresses = [value for _, name, value in parsed.attributes if name in ("href", "src")]
    assert [value for value in addresses if not value.startswith("#")] == [f"data:image/png;base64,{PNG}"]
    for content in pictures.values():
        Page(content)
        assert "<script" not in content
        assert "<img" not in content
    outside = re.sub(r"(?ms)^(`{3,})(?:sh)?\n.*?\n\1$", "", markdown)
    assert "<" not in outside.replace("&lt;", "")
    assert not re.search(r"(?<!\\)\]\((?!pictures/)", outside)
    assert "https://" not in outside
    assert not re.search(r"(?m)^(#+ |- )evil", outside)
    assert outside.count("\n## ") == len(rendering._SECTIONS)


def test_code_cannot_close_its_fence():
    assert rendering.fenced("a\n```\nb", "sh") == "````sh\na\n```\nb\n````"


def test_escape_markdown():
    escape = rendering.escape_markdown
    assert escape("a_b*c|d`e[f]<g>&") == r"a\_b\*c\|d\`e\[f\]&lt;g&gt;&amp;"
    assert escape("# x") == r"\# x"
    assert escape("1. x") == r"1\. x"
    assert escape("76.5%") == "76.5%"
    assert "\n" not in escape("a\nb")


def test_the_mark_stands_on_top(run_set):
    page, markdown, pictures = made(run_set[:1], mark="演练")
    assert all(">[演练]</tspan>" in picture for picture in pictures.values())
    assert '<div class="mark" role="note">演练</div>' in page
    assert "<title>[演练]" in page
    assert markdown.startswith("**演练**\n\n# [演练] ")


def test_a_long_run_makes_a_small_report(tmp_path):
    num_events, steps_per_event = 400, 500  # 200,000 steps
    story = MadeUpRun(1).begin()
    story.emit("block_start", first_epoch=1, epoch_count=1, step=0, samples=0)
    column = [0.123456] * steps_per_event
    path = tmp_path / "events.jsonl"
    with open(path, "w") as file:
        file.writelines(to_line(event) + "\n" for event in story.events)
        for number in range(num_events):
            story.t += 60
            event = {
                "t": story.t,
                "kind": "steps",
                "first_step": number * steps_per_event + 1,
                "num_steps": steps_per_event,
                "samples": 256 * steps_per_event,
                "loss": column,
                "lr": column,
                "core_s": column,
                "wait_s": column,
                "h2d_s": column,
            }
            file.write(json.dumps(event) + "\n")
            for kind in ("eval_start", "eval_stop"):
                event = {"t": story.t, "kind": kind, "epoch": number, "step": number, "samples": 0, "accuracy": 0.5}
                file.write(json.dumps(event) + "\n")
    page, markdown, _ = made([tmp_path])
    assert len(page) < 200_000
    assert len(markdown) < 20_000


def test_texts_exist_in_both_languages_with_the_same_names():
    for key, (chinese, english) in texts.TEXTS.items():
        names = [set(re.findall(r"\{(\w+)\}", text)) for text in (chinese, english)]
        assert names[0] == names[1], key
        assert bool(chinese) == bool(english), key


def test_every_text_is_used():
    from pathlib import Path

    folder = Path(texts.__file__).parent
    sources = [
        path.read_text(encoding="utf-8")
        for path in [*folder.glob("*.py"), *folder.glob("templates/*.j2")]
        if path.name not in ("texts.py", "inference_texts.py")
    ]
    made_keys = (
        "part_",
        "picture_",
        "missing_",
        "unit_",
        "data_",
        "fp_",
        "scenario_",
        "figure_",
        "step_",
    )  # beginnings that code completes
    unused = [
        key
        for key in texts.TEXTS
        if key not in texts.SYSTEM_FIELDS
        and not key.startswith(made_keys)
        and not any(f'"{key}"' in source or f"'{key}'" in source for source in sources)
    ]
    assert unused == []


@pytest.mark.parametrize(("count", "expected"), [(1, "1 card"), (8, "8 cards")])
def test_plural(count, expected):
    assert texts.Texts("en")("cards", count=count) == expected
