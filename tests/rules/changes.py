"""How the lines of an MLPerf log are changed, for logs that break one rule: each function gives a change of lines."""

from collections.abc import Callable

from rules.mlperf_logs import TOKEN, decode, encode

Lines = list[str]


def key_of(line: str) -> str:
    return decode(line)["key"]


def drop(*keys: str) -> Callable[[Lines], Lines]:
    """Without the lines of these keys."""
    return lambda lines: [line for line in lines if key_of(line) not in keys]


def edit(key: str, change: Callable[[dict], object], nth: int | None = None) -> Callable[[Lines], Lines]:
    """With `change` done to the records of a key; `nth` counts them, from the end if negative."""

    def mutate(lines: Lines) -> Lines:
        at = [number for number, line in enumerate(lines) if key_of(line) == key]
        assert at, f"no line {key} to change"
        changed = list(lines)
        for number in at if nth is None else [at[nth]]:
            record = decode(lines[number])
            change(record)
            changed[number] = encode(record)
        return changed

    return mutate


def value(key: str, new: object, nth: int | None = None) -> Callable[[Lines], Lines]:
    """With another value."""
    return edit(key, lambda record: record.update(value=new), nth)


def metadata(key: str, nth: int | None = None, **new: object) -> Callable[[Lines], Lines]:
    """With other metadata."""
    return edit(key, lambda record: record["metadata"].update(new), nth)


def without_metadata(key: str, name: str) -> Callable[[Lines], Lines]:
    """Without one field of the metadata."""
    return edit(key, lambda record: record["metadata"].pop(name))


def later(key: str, by_ms: int, nth: int | None = None) -> Callable[[Lines], Lines]:
    """With another time on these lines alone."""
    return edit(key, lambda record: record.update(time_ms=record["time_ms"] + by_ms), nth)


def move(key: str, other: str, nth: int = 0) -> Callable[[Lines], Lines]:
    """With a line after the (first) line of another key, at that line's time."""

    def mutate(lines: Lines) -> Lines:
        at = [number for number, line in enumerate(lines) if key_of(line) == key][nth]
        rest = lines[:at] + lines[at + 1 :]
        to = next(number for number, line in enumerate(rest) if key_of(line) == other)
        moved = decode(lines[at]) | {"time_ms": decode(rest[to])["time_ms"]}
        return [*rest[: to + 1], encode(moved), *rest[to + 1 :]]

    return mutate


def written_late(key: str, other: str) -> Callable[[Lines], Lines]:
    """With a line after the first of another key, at its own time, as another process's buffer leaves it."""

    def mutate(lines: Lines) -> Lines:
        late = [line for line in lines if key_of(line) == key]
        rest = [line for line in lines if key_of(line) != key]
        at = next(number for number, line in enumerate(rest) if key_of(line) == other)
        return [*rest[: at + 1], *late, *rest[at + 1 :]]

    return mutate


def again(key: str, by_ms: int = 0, **new: object) -> Callable[[Lines], Lines]:
    """With a line a second time at the end of the log, changed."""

    def mutate(lines: Lines) -> Lines:
        record = decode(next(line for line in lines if key_of(line) == key))
        time_ms = decode(lines[-1])["time_ms"] + by_ms
        return [*lines, encode(record | {"time_ms": time_ms} | new)]

    return mutate


def repeat(*keys: str) -> Callable[[Lines], Lines]:
    """With lines written twice, as two ranks do."""
    return lambda lines: [line for line in lines for _ in range(1 + (key_of(line) in keys))]


def insert_after(key: str, *new: str | dict) -> Callable[[Lines], Lines]:
    """With other lines, or records of the same time, after the first of a key."""

    def mutate(lines: Lines) -> Lines:
        at = next(number for number, line in enumerate(lines) if key_of(line) == key)
        time = {"time_ms": decode(lines[at])["time_ms"]}
        texts = [encode({**_RECORD, **time, **text}) if isinstance(text, dict) else text for text in new]
        return [*lines[: at + 1], *texts, *lines[at + 1 :]]

    return mutate


_RECORD = {"namespace": "", "event_type": "POINT_IN_TIME", "value": 1, "metadata": {"file": "x", "lineno": 1}}


def records(change: Callable[[dict], object]) -> Callable[[Lines], Lines]:
    """With `change` done to every record."""

    def mutate(lines: Lines) -> Lines:
        changed = [decode(line) for line in lines]
        for record in changed:
            change(record)
        return [encode(record) for record in changed]

    return mutate


def renumber(number: Callable[[float], float]) -> Callable[[Lines], Lines]:
    """With other numbers of the epochs (BERT: samples) of evaluations and blocks."""

    def change(record: dict) -> None:
        for name in ("epoch_num", "first_epoch_num"):
            if name in record["metadata"]:
                record["metadata"][name] = number(record["metadata"][name])

    return records(change)


def evaluations_at(*points: float) -> Callable[[Lines], Lines]:
    """With evaluations at these points, the last above the target, and one block around each."""

    def mutate(lines: Lines) -> Lines:
        of_run = [
            line for line in lines if key_of(line).startswith(("block", "eval_")) and key_of(line) != "eval_samples"
        ]
        start = next(number for number, line in enumerate(lines) if line is of_run[0])
        num = next(number for number, line in enumerate(of_run[1:], 1) if key_of(line) == "block_start")
        pattern, body, before = of_run[:num], [], 0
        for point in points:
            for line in pattern:
                record = decode(line) | {"time_ms": decode(of_run[0])["time_ms"] + 1000 * len(body)}
                for name, new in (
                    ("epoch_num", point),
                    ("first_epoch_num", before + 1),
                    ("epoch_count", point - before),
                ):
                    record["metadata"] |= {name: new} if name in record["metadata"] else {}
                if record["key"] == "eval_accuracy":
                    record["value"] = 0.77 if point == points[-1] else 0.5
                body.append(encode(record))
            before = point
        return [*lines[:start], *body, *(line for line in lines[start:] if line not in of_run)]

    return mutate


def pause_after(key: str, minutes: float) -> Callable[[Lines], Lines]:
    """With all that comes after the line of a key so much later."""

    def mutate(lines: Lines) -> Lines:
        at = next(number for number, line in enumerate(lines) if key_of(line) == key) + 1
        late = [decode(line) for line in lines[at:]]
        return lines[:at] + [encode(record | {"time_ms": record["time_ms"] + minutes * 60_000}) for record in late]

    return mutate


def seconds(record: dict) -> None:
    record["time_ms"] //= 1000


def then(*mutations: Callable[[Lines], Lines]) -> Callable[[Lines], Lines]:
    """One mutation after the other."""

    def mutate(lines: Lines) -> Lines:
        for mutation in mutations:
            lines = mutation(lines)
        return lines

    return mutate


def cut_record(lines: Lines) -> Lines:
    """The log of a machine that lost power while it wrote a line."""
    return [*lines[: len(lines) // 2], lines[len(lines) // 2][:60]]


def join_records(lines: Lines) -> Lines:
    """init_start and init_stop on one line, as two processes write without a newline."""
    at = next(number for number, line in enumerate(lines) if key_of(line) == "init_start")
    return [*lines[:at], lines[at] + lines[at + 1], *lines[at + 2 :]]


def blocks_to_epochs(lines: Lines) -> Lines:
    """epoch_start and epoch_stop where blocks were."""
    changed, epoch = [], 0
    for record in map(decode, lines):
        if record["key"].startswith("block"):
            epoch += record["key"] == "block_start"
            record["key"] = record["key"].replace("block", "epoch")
            record["metadata"] = {"file": "x", "lineno": 1, "epoch_num": epoch}
        changed.append(encode(record))
    return changed


def glue_token(lines: Lines) -> Lines:
    """:::MLLOG{ where a space should be."""
    return [line.replace(TOKEN, TOKEN.strip()) if key_of(line) == "init_start" else line for line in lines]


def second_accuracy(lines: Lines) -> Lines:
    """A second, lower accuracy of the last evaluation."""
    at = max(number for number, line in enumerate(lines) if key_of(line) == "eval_accuracy")
    return [*lines[: at + 1], encode(decode(lines[at]) | {"value": 0.4}), *lines[at + 1 :]]


def evaluations_last(lines: Lines) -> Lines:
    """Evaluations after all blocks, with the times of the checkpoints."""
    evaluated = [line for line in lines if key_of(line) in ("eval_start", "eval_accuracy", "eval_stop")]
    return [*(line for line in lines[:-1] if line not in evaluated), *evaluated, lines[-1]]


def swap_accuracy(lines: Lines) -> Lines:
    """eval_stop before eval_accuracy, at its time."""
    changed = list(lines)
    for number, line in enumerate(lines[:-1]):
        if key_of(line) == "eval_accuracy":
            changed[number], changed[number + 1] = changed[number + 1], changed[number]
    return changed


def drop_last_block_stop(lines: Lines) -> Lines:
    """A run that ended inside a block."""
    at = max(number for number, line in enumerate(lines) if key_of(line) == "block_stop")
    return lines[:at] + lines[at + 1 :]
