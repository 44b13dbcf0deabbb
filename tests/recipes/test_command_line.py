"""One table makes recipe, options, help and recipe.json. A command line chooses a recipe, a run keeps its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, fields, replace

import pytest
from commands.runs import environment

from airank_fast.errors import UserError
from airank_fast.models import bert as bert_network
from airank_fast.recipes import bert_options, bert_squad_options, resnet50_options
from airank_fast.recipes.command_line import commands, given, parse, resolve, resumed, to_plain
from airank_fast.recipes.options import RunOptions, check_target, read_target, target_values
from airank_fast.tasks import Metric, Task, find

DETECTION = Task(
    name="boxes",
    model="Boxes",
    title={},
    metrics=(Metric("box_ap", ".3f"), Metric("mask_ap", ".3f"), Metric("error", ".2f", "down", float("inf"))),
)


def requested(line: str, world_size: int = 1):
    return parse(line.split(), world_size=world_size)


def recipe_of(line: str, world_size: int = 1, precision: str = "fp32"):
    return resolve(requested(line, world_size), precision, world_size)


def help_of(line: str, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        parse([*line.split(), "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("command", ["", *commands()])
def test_help_imports_no_network_and_no_torch(command):
    code = (
        "import sys\nfrom airank_fast import train\n"
        f"try:\n    train.parse({[*command.split(), '--help']})\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy') or '.models' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", commands())
def test_every_line_of_a_recipe_is_an_option_with_its_help_and_its_default(name, capsys):
    text = help_of(name, capsys)
    recipe = recipe_of(f"{name} --data x" if name in bert_squad_options.COMMANDS else name)
    shown = 0
    for field in fields(recipe):
        if "Fixed" in str(field.type):
            assert f"--{field.name.replace('_', '-')} " not in text
            continue
        assert f"--{field.name.replace('_', '-')}" in text
        default = getattr(commands()[name].recipes[recipe.name], field.name)
        if isinstance(default, dict):  # a target of other metrics than the first
            default = ",".join(f"{metric}={value}" for metric, value in default.items())
        elif isinstance(default, tuple):
            default = "".join(map(str, default))
        assert f"(default:{default})" in text.replace(" ", "")  # help breaks lines behind a comma too
        shown += 1
    assert shown >= 15
    for field in fields(RunOptions):
        assert field.name == "submission" or f"--{field.name.replace('_', '-')}" in text


def test_help_shows_the_defaults_of_the_recipe_that_the_options_choose(capsys):
    assert "--epochs INT Train for at most N epochs. (default: 12)" in help_of("resnet50", capsys)
    text = help_of("resnet50 --data somewhere --optimizer lars", capsys)
    assert "--epochs INT Train for at most N epochs. (default: 40)" in text
    assert f"(default: {7.4 * (256 / 1632) ** 0.5})" in text
    assert "the recipe imagenet-1gpu." in text


def test_the_recipe_by_data_and_ranks():
    names = [
        parse(["resnet50", *more], world_size=size).recipe.name
        for size, more in ((1, []), (1, ["--data", "x"]), (8, ["--data", "x"]), (32, ["--data", "x"]), (32, []))
    ]
    assert names == ["digits", "imagenet-1gpu", "imagenet-8gpu", "imagenet-32gpu", "digits"]
    assert requested("resnet50 --reader synthetic").recipe.name == "imagenet-1gpu"
    assert requested("resnet50 --reader synthetic").recipe.target is None
    assert requested("resnet50 --reader synthetic --target 0.5").recipe.target == 0.5
    assert requested("bert-tiny --data x --phase 2").recipe.name == "phase2"


def test_what_follows_from_a_given_value():
    assert recipe_of("resnet50 --image-size 64 --reader torch").eval_resize == 80
    assert recipe_of("resnet50 --data x --batch-size 512 --reader torch").learning_rate == 0.512
    assert recipe_of("resnet50 --data x --batch-size 512 --learning-rate 0.1 --reader torch").learning_rate == 0.1
    assert recipe_of("bert-mini --sequence-length 128").max_position_embeddings == 128
    given_steps = recipe_of("bert-large --data x --batch-size 256 --steps 7")
    assert (given_steps.steps, given_steps.learning_rate) == (7, 3.5e-4)
    assert recipe_of("bert-large --data x --rules airank").target == 0.712
    assert recipe_of("resnet50 --target None --reader torch").target is None


def test_commands_are_found_by_their_files_and_sizes_are_the_networks():
    pictures = {"deeplabv3plus", "hrnet", "mask_rcnn", "ocr", "ocr_detection", "resnet50", "tsm", "yolov3"}
    made = {"cyclegan", "pix2pix"}
    tasks = pictures | made | {"dssm", "word2vec", "deepfm", "wide_deep", "transformer"}
    assert set(commands()) == tasks | {*bert_options.COMMANDS, *bert_squad_options.COMMANDS}
    assert bert_options.SIZES == bert_network.SIZES
    assert resnet50_options.RECIPES["digits"].target == 0.97


def test_given_options():
    names = given(["--data", "x", "--batch_size=3", "--no-fused", "--submission.org", "-y", "--amp"])
    assert names == {"data", "batch_size", "no_fused", "fused", "submission", "amp"}


@pytest.mark.parametrize(
    ("text", "target", "values"),
    [
        ("0.377", 0.377, {"box_ap": 0.377}),
        ("box_ap=0.377,mask_ap=0.339", {"box_ap": 0.377, "mask_ap": 0.339}, {"box_ap": 0.377, "mask_ap": 0.339}),
        ("None", None, {}),
    ],
)
def test_targets(text, target, values):
    assert read_target(text) == target
    assert target_values(target, DETECTION) == values
    check_target(target, DETECTION)
    recipe = parse(["resnet50", "--target", text]).recipe
    assert recipe.target == target


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (75.9, r"--target: must be a fraction in \(0, 1\], got 75.9"),
        (0.0, "--target: must be a fraction"),
        (float("nan"), "--target: must be a fraction"),
        ({"top1": 0.5}, "--target: must be of box_ap, mask_ap, error, got top1"),
        ({"box_ap": 0.3, "error": -1.0}, "--target: must be at least 0, got -1.0"),
    ],
)
def test_targets_that_cannot_be(target, message):
    with pytest.raises(UserError, match=message):
        check_target(target, DETECTION)


def test_no_task_has_a_target_out_of_its_metrics_bounds():
    for name in ("resnet50", "bert"):
        task = find(name)
        for target in task.targets.values():
            check_target(dict(target.values), task)


# -- a run that is resumed --------------------------------------------------------------------------------------------

STARTED = "bert-tiny --data shards --steps 7 --checkpoint-steps 3 --seed 5 --submission.org Us --no-fused"


def saved(line: str = STARTED) -> tuple[dict, dict]:
    request = requested(line)
    recipe = asdict(request.recipe)
    return recipe, to_plain(request.options, recipe)


@pytest.mark.parametrize(
    "line", ["bert-tiny", STARTED, "bert-tiny --steps 7", "bert-tiny --no-fused --submission.org Us"]
)
def test_a_run_goes_on_with_what_it_has_saved(line):
    request = resumed(requested(f"{line} --resume --output out"), *saved())
    started = requested(STARTED)
    assert request.recipe == started.recipe
    assert (request.options.resume, str(request.options.output)) == (True, "out")
    assert replace(request.options, resume=False, output=None) == started.options


def test_options_of_this_process_may_differ():
    request = resumed(requested("bert-tiny --resume --data elsewhere --checkpoint-steps 9 --workers 2"), *saved())
    assert (str(request.options.data), request.options.checkpoint_steps, request.options.workers) == ("elsewhere", 9, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bert-tiny --steps 8 --seed 1", "differ from the run's, seed = 5, steps = 7, got --seed 1, --steps 8"),
        ("bert-tiny --fused", "fused = False, got --fused True"),
        ("bert-tiny --data shards --phase 1", "phase = name mlperf, got --phase 1"),
        ("bert-tiny --data shards --rules airank", "rules = target 0.72, got --rules airank"),
        ("bert-tiny --submission.org You", "submission = .*Us.*, got --submission .*You"),
        ("bert-mini", "a run of this command, with size mini, got tiny"),
        ("resnet50", "a run of this command and version, got a recipe with balance_tokens, beta1"),
    ],
)
def test_options_that_contradict_the_run_are_named(line, message):
    with pytest.raises(UserError, match=f"^--resume: must be .*{message}"):
        resumed(parse([*line.split(), "--resume"]), *saved())


def test_a_recipe_of_an_earlier_version_has_the_defaults_of_what_it_lacks():
    recipe, options = saved()
    del recipe["balance_tokens"], recipe["beta1"], recipe["precision"]
    request = resumed(parse(["bert-tiny"]), recipe, options)
    assert request.recipe == requested(STARTED).recipe
    del recipe["name"]
    with pytest.raises(UserError, match=r"a run with a whole recipe.json, got one without name"):
        resumed(parse(["bert-tiny"]), recipe, options)


@pytest.mark.parametrize(("name", "value"), [("batch_size", "16"), ("batch_size", None), ("fused", 3), ("size", [])])
def test_a_damaged_recipe_is_refused(name, value):
    recipe, options = saved()
    with pytest.raises(UserError, match=name):
        resumed(parse(["bert-tiny"]), recipe | {name: value}, options)
