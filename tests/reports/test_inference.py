"""The report of inference runs: every figure is one of the events, in both languages, and what failed stands on top."""

import copy
import html.parser
import math
import re

import pytest
from record.inference_run import inference_run, write
from reports.made_up import MadeUpRun

from airank_fast.errors import UserError
from airank_fast.record.events import to_line
from airank_fast.reports import inference_reading, rendering, texts
from airank_fast.reports.inference_texts import INFERENCE_TEXTS
from airank_fast.reports.page import Report
from airank_fast.reports.reading import ReportedRun, read
from airank_fast.reports.texts import Texts

SECTIONS = ("inference", "inference_pictures", "inference_details")
SMALL = {"eval_samples": 2000, "division": "open"}
EVIL = "<script>alert(1)</script> | [click](javascript:alert(1)) \u202e\x1b[31m {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def events():
    return inference_run("v6.1", scenarios=("singlestream", "multistream", "server", "offline"), **SMALL)


@pytest.fixture(scope="module")
def run(events, tmp_path_factory):
    return write(tmp_path_factory.mktemp("inference") / "fp32", events)


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    events = inference_run("v6.1", ("offline",), seed=1, precision="int8", accuracy=0.758, **SMALL)
    return write(tmp_path_factory.mktemp("inference") / "int8", events)


class Page(html.parser.HTMLParser):
    """The tags and the visible text of a page, with the text before <main> apart."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.texts, self.head, self._hidden = [], [], [], 0
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("style", "title", "desc")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("style", "title", "desc")

    def handle_data(self, data):
        if not self._hidden:
            self.texts.append(data)
            if not any(tag == "main" for tag, _ in self.tags):
                self.head.append(data)

    @property
    def text(self):
        return "".join(self.texts)


def made(paths, language="en"):
    """(page, Markdown without its escapes, pictures)."""
    report = Report([read(path) for path in paths], language)
    markdown = rendering.markdown(report, "pictures").replace("\\", "")
    return Page(rendering.html(report)), markdown, rendering.picture_files(report)


def queries_of(events, scenario):
    """(test_start, latencies in ascending order, test_stop) of the performance test of a scenario."""
    wanted = "test_start", scenario, "performance"
    start = next(e for e in events if (e["kind"], e.get("scenario"), e.get("mode")) == wanted)
    after = events[events.index(start) :]
    stop = next(e for e in after if e["kind"] == "test_stop")
    queries = [e for e in after[: after.index(stop)] if e["kind"] == "queries"]
    return start, sorted(value for event in queries for value in event["latency_s"]), stop


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_every_figure_is_one_of_the_events(run, events, language):
    page, markdown, pictures = made([run], language)
    t = Texts(language)
    for name in SECTIONS:
        assert ("h2", {"id": name}) in page.tags
        assert f"\n## {t(name)}\n" in markdown
    _, single, single_stop = queries_of(events, "singlestream")
    _, server, server_stop = queries_of(events, "server")
    _, _, offline_stop = queries_of(events, "offline")
    accuracy = next(e for e in events if e["kind"] == "accuracy")
    shown = [
        f"{1000 * single[len(single) // 2]:.4g} / {1000 * single[int(len(single) * 0.9)]:.4g} / ",
        t("estimate_of", percent="90", value=f"{1000 * single_stop['early_stopping']['estimate_s']:.4g}"),
        t("figure_samples_per_s", value=f"{offline_stop['metric']['samples_per_s']:.4g}", unit=t.unit("images")),
        t("figure_scheduled_qps", value=f"{server_stop['metric']['scheduled_qps']:.4g}"),
        t("bound_line", value="15"),
        f"{100 * accuracy['correct'] / accuracy['counted']:.2f}%",
        f"{accuracy['correct']} / {accuracy['counted']}",
        f"{100 * accuracy['required']:.2f}%",
        f"{1000 * math.fsum(server) / len(server):.4g}",
        f"{offline_stop['duration_s']:.1f}",
        f"{offline_stop['memory']['total_bytes'] / 2**20:.0f}",
        "onnxruntime 1.32.0",
        "Example CPU 6148",
        "resnet50.pth",
        "python -m airank_fast.infer resnet50",
        t("search_found", valid="4", refused="8", count=2),
        t("step_infer"),
        t("def_early_stopping"),
    ]
    for text in shown:
        assert text in page.text, text
        assert text in markdown, text
    drawn = [picture for picture in Report([read(run)], language).inference[0].pictures if picture.height]
    assert sum(tag == "figure" for tag, _ in page.tags) == len(pictures) == len(drawn)
    assert sorted(pictures) == sorted(re.findall(r"\]\(pictures/(.*?)\)", markdown))
    kinds = {name.partition("resnet50-")[2].removesuffix(".svg") for name in pictures}
    assert kinds == {
        *(f"{kind}-{name}" for kind in ("distribution", "time") for name in ("singlestream", "multistream", "server")),
        "time-offline",
        "search",
        "batch",
        "memory",
    }


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_no_word_of_the_other_language_is_left(run, int8, language):
    page, markdown, pictures = made([run, int8], language)
    column = texts.LANGUAGES.index(language)
    for key, both in INFERENCE_TEXTS.items():
        other = re.split(r"\{\w+\}", both[1 - column])
        strange = [part.strip() for part in other if len(part.strip()) > 5 and part.strip() not in both[column]]
        for part in strange if column == 1 else [part for part in strange if " " in part]:
            assert part not in page.text, key
            assert part not in markdown, key
            assert not any(part in svg for svg in pictures.values()), key
    if language == "en":
        assert not re.search("[\u4e00-\u9fff]", page.text)


def test_several_precisions_are_drawn_as_a_tradeoff(run, int8):
    page, markdown, pictures = made([run, int8])
    (name,) = (name for name in pictures if name.endswith("tradeoff.svg"))
    assert "onnxruntime · int8: 75.80%" in pictures[name]
    assert "onnxruntime · fp32: 76.10%" in pictures[name]
    assert "75.70% required" in pictures[name]  # 0.99 x 76.46 % = 75.6954 %
    assert "calibrated on 8 training samples" in page.text
    assert "calibrated on 8 training samples" in markdown


def changed(events, change):
    """A copy of the events, each of them passed to `change`, which may return None to leave it out."""
    found = (change(event) for event in copy.deepcopy(events))
    return [event for event in found if event is not None]


def not_valid(event):
    if event["kind"] == "test_stop" and (event["scenario"], event["mode"]) == ("server", "performance"):
        event |= {"valid": False, "reasons": ["37 queries took more than 15 ms"]}
    if event["kind"] == "run_stop":
        event |= {"status": "aborted", "reason": "not_valid", "detail": "server"}
    return event


def inaccurate(event):
    if event["kind"] == "accuracy":
        return event | {"passed": False, "correct": 100}
    if event["kind"] == "run_stop":
        return event | {"status": "aborted", "reason": "accuracy"}
    return event


def lost(event):
    if event["kind"] == "run_stop":
        return event | {"status": "aborted", "reason": "worker_lost", "detail": "offline: sample 7 was never answered"}
    return event


def cut(event):
    return None if event["kind"] in ("run_stop", "process_stop") else event


def rehearsed(event):
    return event | {"is_rehearsal": True} if event["kind"] == "infer_config" else event


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize(
    ("change", "key", "values"),
    [
        (not_valid, "state_test", {"scenario": "scenario_server", "reason": "37 queries took more than 15 ms"}),
        (inaccurate, "state_inaccurate", {}),
        (lost, "state_aborted", {"reason": "worker_lost"}),
        (cut, "state_unfinished", {}),
        (rehearsed, "state_rehearsal", {}),
    ],
)
def test_what_failed_stands_in_the_first_lines(events, tmp_path, language, change, key, values):
    path = tmp_path / "run"
    path.mkdir()
    (path / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in changed(events, change)))
    page, markdown, _ = made([path], language)
    t = Texts(language)
    values = {name: t(value) if value.startswith("scenario_") else value for name, value in values.items()}
    text = t(key, **values)
    assert text in "".join(page.head)
    assert text in markdown.partition("\n## ")[0]


def test_a_sound_run_has_nothing_on_top(run):
    page, markdown, _ = made([run])
    assert Texts("en")("alerts") not in "".join(page.head)
    assert Texts("en")("state_valid") in page.text
    assert Texts("en")("alerts") not in markdown


def test_a_scenario_that_is_not_valid_has_no_result(events, tmp_path):
    path = write(tmp_path / "run", changed(events, not_valid))
    _, markdown, _ = made([path])
    _, _, stop = queries_of(events, "server")
    assert f"{stop['metric']['scheduled_qps']:.4g} queries/s scheduled" not in markdown
    (row,) = (line for line in markdown.splitlines() if "| Server | not valid |" in line)
    assert row.split(" | ")[3] == "-"


def test_training_and_inference_stand_in_one_report(run, tmp_path):
    trained = MadeUpRun(8).begin().train().stop().write(tmp_path / "trained")
    report = Report([read(trained), read(run)], "en")
    page = Page(rendering.html(report))
    wanted = [name for name in rendering._SECTIONS if name != "examples"]
    at = wanted.index("findings")
    assert [attrs["id"] for tag, attrs in page.tags if tag == "h2"] == [*wanted[:at], *SECTIONS, *wanted[at:]]
    assert report.subtitle == "ResNet-50 · 2 runs"
    for text in ("airank_fast.train resnet50", "airank_fast.infer resnet50", Texts("en")("step_train_and_infer")):
        assert text in page.text


def test_a_report_of_inference_alone_has_no_part_of_training(run):
    page, markdown, _ = made([run])
    assert [attrs["id"] for tag, attrs in page.tags if tag == "h2"] == [
        *SECTIONS,
        *("findings", "system", "reproduce", "checksums", "notes"),
    ]
    assert "Time2train" not in page.text + markdown
    for rows in re.findall(r"(?:^\|.*\n)+", rendering.markdown(Report([read(run)], "en"), "x"), flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1


def test_the_kind_of_a_run_is_decided_in_one_place(run, tmp_path):
    assert isinstance(read(run), inference_reading.InferenceRun)
    assert isinstance(read(run / "events.jsonl"), inference_reading.InferenceRun)
    trained = MadeUpRun(1).begin().train(4).stop("aborted", "epochs").write(tmp_path / "trained")
    assert isinstance(read(trained), ReportedRun)


def test_clients_of_airank_are_shown(tmp_path):
    events = inference_run("airank-2021-05", eval_samples=2000)
    page, _, pictures = made([write(tmp_path / "run", events)])
    _, _, stop = queries_of(events, "online")
    assert "4 clients" in page.text
    assert f"greatest latency {1000 * stop['metric']['max_latency_s']:.4g} ms" in page.text
    assert "batch of 2" in page.text
    assert any(name.endswith("distribution-online.svg") for name in pictures)


def test_logs_cannot_speak_through_the_report(events, tmp_path):
    def evil(event):
        if event["kind"] == "infer_config":
            event |= {"benchmark": EVIL, "backend": EVIL, "profile": EVIL, "unit": EVIL, "devices": [EVIL]}
            event |= {"task": {"name": EVIL, "model": EVIL, "metrics": [{"name": EVIL}]}, "command": [EVIL]}
            event["checkpoint"] = {"file": EVIL}
        if event["kind"] == "model":
            event["engine"] = {"name": EVIL, "version": EVIL, "precision": EVIL}
        if event["kind"] == "test_stop":
            event |= {"reasons": [EVIL], "metric": {EVIL: 1.0}}
        if event["kind"] in ("test_start", "queries", "test_stop") and event["scenario"] == "server":
            event["scenario"] = EVIL
        return event

    path = tmp_path / "run"
    path.mkdir()
    (path / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in changed(events, evil)))
    report = Report([read(path)], "zh")
    content, markdown = rendering.html(report), rendering.markdown(report, "pictures")
    page = Page(content)
    assert not {"script", "img", "iframe"} & {tag for tag, _ in page.tags}
    outside = re.sub(r"(?ms)^(`{3,})(?:sh)?\n.*?\n\1$", "", markdown)
    assert "<" not in outside.replace("&lt;", "")
    assert not re.search(r"(?<!\\)\]\((?!pictures/)", outside)
    for text in (content, markdown, *rendering.picture_files(report).values()):
        assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    assert not any("<script" in text for text in (content, outside, *rendering.picture_files(report).values()))


@pytest.mark.parametrize("field", ["latency_s", "times"])
def test_malformed_events_are_one_line(events, tmp_path, field):
    path = tmp_path / "run"
    path.mkdir()
    broken = changed(events, lambda event: event | ({field: [[{}]]} if field in event else {}))
    (path / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in broken))
    with pytest.raises(UserError, match="must have events with the fields of their kinds, got ") as error:
        made([path])
    assert "\n" not in str(error.value)


def test_the_tail_of_a_distribution_ends_with_what_the_queries_resolve():
    curve = inference_reading._distribution([n / 1000 for n in range(1, 1001)])
    assert curve.x[-1] == pytest.approx(3)  # 99.9 %: one query of 1000 lies above
    assert curve.y[-1] == 1000
    at_90 = min(range(len(curve)), key=lambda index: abs(curve.x[index] - 1))
    assert curve.y[at_90] == 901  # LoadGen's: index 900 of 0 ... 999
    assert len(inference_reading._distribution([])) == 0


def test_a_stall_is_seen(events, tmp_path):
    def stall(event):
        if (event["kind"], event.get("scenario"), event.get("mode")) == ("queries", "singlestream", "performance"):
            event["latency_s"][10] = 30.0 if event["first"] == 0 else event["latency_s"][10]
        return event

    path = tmp_path / "run"
    path.mkdir()
    (path / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in changed(events, stall)))
    (test,) = (test for test in read(path).measured if test.scenario == "singlestream")
    assert max(test.over_time.high) == 30_000
    page, _, pictures = made([path])
    (picture,) = (svg for name, svg in pictures.items() if name.endswith("time-singlestream.svg"))
    assert "to 30k" in picture
    _, _, stop = queries_of(events, "singlestream")
    assert f"{100 * 30 / stop['duration_s']:.2f}" in page.text  # the share of stalls


def test_of_several_warm_ups_that_of_most_sizes_is_drawn(events, tmp_path):
    warm_ups = iter([[[1, 0.5]], [[1, 0.5], [2, 0.8], [4, 1.0]], [[1, 0.5]], [[1, 0.5]]])
    some = changed(events, lambda event: event | ({"times": next(warm_ups)} if event["kind"] == "warm_up" else {}))
    path = tmp_path / "run"
    path.mkdir()
    (path / "events.jsonl").write_text("".join(to_line(event) + "\n" for event in some))
    assert read(path).warm_up == [(1, 0.5), (2, 0.8), (4, 1.0)]
    assert "from 2 to 4" in made([path])[0].text  # 2.5 samples/s with two, 4 with four


def test_an_attempt_that_another_one_made_good_is_no_fault_of_the_run(events, tmp_path):
    start = next(
        e for e in events if e["kind"] == "test_start" and (e["scenario"], e["mode"]) == ("offline", "performance")
    )
    at = events.index(start)
    end = next(index for index in range(at, len(events)) if events[index]["kind"] == "test_stop")
    early = copy.deepcopy(events[at : end + 1])
    early[-1] |= {"valid": False, "reasons": ["the test must last 600 s, lasted 512 s"]}
    page, _, _ = made([write(tmp_path / "run", [*events[:at], *early, *events[at:]])])
    assert Texts("en")("earlier_attempt") in page.text
    assert Texts("en")("state_valid") in page.text
    assert "lasted 512 s" not in page.text


def test_batches_of_a_whole_set_are_drawn_where_they_begin(events, tmp_path):
    """LoadGen issues all samples at once: a batch begins when those before it are done."""
    changed, begun_s = copy.deepcopy(events), 0.0
    for event in changed:
        if event["kind"] == "queries" and event["scenario"] == "offline":
            event |= {"issued_s": [], "latency_s": [], "queue_s": []}
            for number in range(len(event["batch"])):
                took_s = 0.1 + 0.01 * (number % 3)
                event["issued_s"].append(0.0)
                event["queue_s"].append(begun_s)
                begun_s += took_s
                event["latency_s"].append(begun_s)
    run = read(write(tmp_path / "run", changed))
    (offline,) = (test for test in run.measured if test.scenario == "offline")
    assert (offline.over_time.x[0], offline.over_time.x[-1]) == (0.0, pytest.approx(begun_s, rel=0.02))
    assert min(offline.over_time.low) == pytest.approx(100)
    assert max(offline.over_time.high) == pytest.approx(120)
    (picture,) = (text for name, text in made([run.path])[2].items() if name.endswith("time-offline.svg"))
    assert "Time of each batch" in picture
