"""The page in a headless Chromium: no script, nothing fetched, legible on a desk and on a telephone, light and dark."""

import pytest
from record.inference_run import inference_run, write

from airank_fast.reports import rendering
from airank_fast.reports.page import Report
from airank_fast.reports.reading import read

LAYOUT = {
    "overflow": "document.documentElement.scrollWidth - document.documentElement.clientWidth",
    # Boxes that stick out of the window and do not lie in one that scrolls.
    "outside": """[...document.querySelectorAll("main *, header *")].filter(element => {
        const box = element.getBoundingClientRect();
        return box.width && box.right > innerWidth + 1 && !element.closest(".scroll, details:not([open])");
    }).map(element => element.outerHTML.slice(0, 120))""",
    "smallest": """Math.min(...[...document.querySelectorAll("body *")]
        .filter(element => [...element.childNodes].some(node => node.nodeType == 3 && node.data.trim()))
        .map(element => parseFloat(getComputedStyle(element).fontSize)))""",
    # Contrast of text with the page, as WCAG defines it: the least over all elements with text of their own.
    "contrast": """(() => {
        const light = text => {
            const parts = text.match(/[0-9.]+/g).slice(0, 3).map(value => value / 255)
                .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const paper = element => {
            for (let up = element; up; up = up.parentElement) {
                const colour = getComputedStyle(up).backgroundColor;
                if (!colour.endsWith(", 0)") && colour != "transparent") return colour;
            }
        };
        return Math.min(...[...document.querySelectorAll("body *")]
            .filter(element => [...element.childNodes].some(node => node.nodeType == 3 && node.data.trim()))
            .filter(element => element.getBoundingClientRect().width && !["title", "desc"].includes(element.tagName))
            .map(element => {
                const style = getComputedStyle(element);
                const ink = light(element instanceof SVGElement ? style.fill : style.color);
                const back = light(paper(element));
                return (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
            }));
    })()""",
    "background": "getComputedStyle(document.body).backgroundColor",
    "drawn": "[...document.querySelectorAll('svg.picture')].filter(svg => svg.clientWidth > 250).length",
    # Text of a picture that lies over other text of it.
    "overlaps": """[...document.querySelectorAll("svg.picture")].flatMap(svg => {
        const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
        return boxes.flatMap(([a, one], i) => boxes.slice(i + 1)
            .filter(([, other]) => one.left < other.right - 1 && other.left < one.right - 1
                && one.top < other.bottom - 4 && other.top < one.bottom - 4)
            .map(([b]) => `${a} / ${b}`));
    })""",
}


@pytest.fixture(scope="module")
def inference_runs(tmp_path_factory):
    """An inference run by MLPerf's scenarios, and one in int8 by AI-Rank's clients."""
    folder, small = tmp_path_factory.mktemp("inference"), {"eval_samples": 2000, "division": "open"}
    scenarios = ("singlestream", "multistream", "server", "offline")
    return [
        write(folder / "fp32", inference_run("v6.1", scenarios, **small)),
        write(folder / "int8", inference_run("airank-2021-05", precision="int8", is_rehearsal=True, **small)),
    ]


@pytest.fixture(scope="module", params=["zh", "en"])
def page(request, run_set, refused_run, inference_runs, tmp_path_factory):
    """Pages of one run, of many, of one that the rules refuse, and of inference, by name."""
    folder = tmp_path_factory.mktemp("pages")
    found = {"one": run_set[:1], "many": run_set, "refused": [refused_run], "inference": inference_runs}
    for name, paths in found.items():
        report = Report([read(path) for path in paths], request.param, mark="rehearsal " * 8)
        (folder / f"{name}.html").write_text(rendering.html(report), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in found}


@pytest.mark.parametrize("name", ["one", "many", "refused"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page(browser, page, name, width, scheme):
    look(browser, page[name], width, scheme)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_page_of_inference(browser, page, width, scheme):
    look(browser, page["inference"], width, scheme)


def look(browser, path, width, scheme):
    """The page at a width and in a colour scheme is legible, and all its pictures are drawn."""
    seen = browser.open(path, width, scheme, LAYOUT)
    assert seen.requests == [path.as_uri()]
    assert seen.complaints == []
    assert seen.values["overflow"] <= 0
    assert seen.values["outside"] == []
    assert seen.values["smallest"] >= 11
    assert seen.values["contrast"] >= 4.5
    assert seen.values["drawn"] == path.read_text(encoding="utf-8").count('class="picture"') >= 6
    assert seen.values["overlaps"] == []
    assert seen.values["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 25, 29)"}[scheme]


def test_the_browser_would_tell(browser, tmp_path):
    """What the test above looks for is found where it is."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<html><body style='background: #fff'><main><p style='width: 900px; font-size: 8px; color: #aaa'>x</p></main>"
        "<svg class=picture width=300 height=40><text y=20>one</text><text y=21>two</text></svg>"
        "<script>fetch('http://localhost:9/x'); undefined.x</script></body></html>"
    )
    seen = browser.open(path, 400, expressions=LAYOUT)
    assert "http://localhost:9/x" in seen.requests
    assert any("TypeError" in complaint for complaint in seen.complaints)
    assert seen.values["overflow"] > 0
    assert len(seen.values["outside"]) == 1
    assert seen.values["smallest"] == 8
    assert seen.values["contrast"] < 4.5
    assert seen.values["overlaps"] == ["one / two"]


def test_pictures_by_themselves(browser, run_set, tmp_path):
    report = Report([read(path) for path in run_set], "zh")
    for name, text in rendering.picture_files(report).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        seen = browser.open(
            tmp_path / name,
            700,
            "dark",
            {"root": "document.documentElement.tagName", "error": "document.querySelector('parsererror') !== null"},
        )
        assert seen.values == {"root": "svg", "error": False}
        assert seen.complaints == []
        assert seen.requests == [(tmp_path / name).as_uri()]
