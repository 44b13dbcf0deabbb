"""How a submission tree of MLPerf inference is changed: each function gives an edit(place, round) of its files."""

import json
import shutil

from rules.loadgen_logs import SYSTEM, LoadGenTest, answer_lines, write_test


def results(place, scenario, benchmark="resnet"):
    return place / "results" / SYSTEM / benchmark / scenario


def compliance(place, scenario, round):
    top = "results" if round == "v6.1" else "compliance"
    return place / top / SYSTEM / "resnet" / scenario


def measurements(place, scenario, round):
    return place / ("results" if round == "v6.1" else "measurements") / SYSTEM / "resnet" / scenario


def performance(scenario):
    return f"{scenario}/performance/run_1"


def change(folder, with_summary=False, **values):
    """With other values in the detail log of a folder below results/; `with_summary` in the summary too."""

    def edit(place, round):
        path = results(place, folder) / "mlperf_log_detail.txt"
        edit_log(path, values)
        if with_summary:
            summary = path.with_name("mlperf_log_summary.txt")
            text = summary.read_text()
            for old, new in values.values():
                text = text.replace(str(old), str(new))
            summary.write_text(text)

    return edit


def edit_log(path, values):
    lines = []
    for line in path.read_text().splitlines():
        fields = json.loads(line.partition(" ")[2])
        if fields["key"] in values:
            fields["value"] = values[fields["key"]]
            line = ":::MLLOG " + json.dumps(fields)
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")


def scaled(folder, key, by):
    """With a figure times a factor, in the detail log and the summary: what a submitter would edit."""

    def edit(place, round):
        path = results(place, folder) / "mlperf_log_detail.txt"
        old = value_of(path, key)
        edit_log(path, {key: type(old)(old * by)})
        summary = path.with_name("mlperf_log_summary.txt")
        summary.write_text(summary.read_text().replace(str(old), str(type(old)(old * by))))

    return edit


def value_of(path, key):
    found = (json.loads(line.partition(" ")[2]) for line in path.read_text().splitlines())
    return next(fields["value"] for fields in found if fields["key"] == key)


def append(folder, *lines):
    def edit(place, round):
        path = results(place, folder) / "mlperf_log_detail.txt"
        path.write_text(path.read_text() + "".join(f"{line}\n" for line in lines))

    return edit


def drop(folder, *keys):
    def edit(place, round):
        path = results(place, folder) / "mlperf_log_detail.txt"
        lines = [
            line for line in path.read_text().splitlines() if json.loads(line.partition(" ")[2])["key"] not in keys
        ]
        path.write_text("\n".join(lines) + "\n")

    return edit


def text(name, old, new):
    """With a text replaced in a file below results/."""

    def edit(place, round):
        path = results(place, name)
        content = path.read_text()
        assert old in content, f"no {old!r} in {name}"
        path.write_text(content.replace(old, new))

    return edit


def remove(name):
    def edit(place, round):
        results(place, name).unlink()

    return edit


def rename(name, new):
    def edit(place, round):
        path = results(place, name)
        path.rename(path.with_name(new))

    return edit


def add(name, content="text\n"):
    def edit(place, round):
        results(place, name).write_text(content)

    return edit


def system(**fields):
    """With other fields in the system description; None takes one out."""

    def edit(place, round):
        path = place / "systems" / f"{SYSTEM}.json"
        changed = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))

    return edit


def of_measurements(**fields):
    def edit(place, round):
        path = next(measurements(place, "Offline", round).glob("*.json"))
        changed = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))

    return edit


def compliance_text(scenario, name, old, new):
    def edit(place, round):
        path = compliance(place, scenario, round) / name
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))

    return edit


def slower(scenario, test, factor):
    """A compliance test of another speed, all its files alike."""

    def edit(place, round):
        folder = compliance(place, scenario, round) / test
        measured = LoadGenTest(scenario, test, round, factor=factor)
        write_test(folder / "performance/run_1", measured)
        path = folder / "verify_performance.txt"
        key = {"SingleStream": "early_stopping_latency_ss", "MultiStream": "early_stopping_latency_ms"}.get(scenario)
        key = key or "result_samples_per_second"
        lines = [line for line in path.read_text().splitlines() if not line.startswith("test score")]
        path.write_text("\n".join([*lines, f"test score = {measured.values()[key]}"]) + "\n")

    return edit


def compliance_log(scenario, test, **values):
    def edit(place, round):
        edit_log(compliance(place, scenario, round) / test / "performance/run_1/mlperf_log_detail.txt", values)

    return edit


def remove_folder(part):
    def edit(place, round):
        shutil.rmtree(part(place, round))

    return edit


def other_answers(place, round):
    path = compliance(place, "Offline", round) / "TEST01/accuracy/mlperf_log_accuracy.json"
    path.write_text("[\n" + ",\n".join(answer_lines(range(40), offset=1)) + "\n]\n")


def write(name, content):
    def edit(place, round):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    return edit
