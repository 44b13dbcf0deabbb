"""Made-up runs: a story writes the events of a run by a clock of its own."""

import random

import pytest

SGD = {
    "opt_name": "sgd",
    "sgd_opt_base_learning_rate": 6.4,
    "sgd_opt_end_learning_rate": 1e-4,
    "sgd_opt_learning_rate_decay_poly_power": 2,
    "sgd_opt_learning_rate_decay_steps": 27000,
    "sgd_opt_weight_decay": 1e-4,
    "sgd_opt_momentum": 0.9,
    "model_bn_span": 102,
    "opt_learning_rate_warmup_epochs": 2,
}
LARS = {
    "opt_name": "lars",
    "lars_opt_base_learning_rate": 7.4,
    "lars_opt_end_learning_rate": 1e-4,
    "lars_opt_learning_rate_decay_poly_power": 2,
    "lars_opt_learning_rate_decay_steps": 27000,
    "lars_epsilon": 0.0,
    "lars_opt_learning_rate_warmup_epochs": 2,
    "lars_opt_momentum": 0.9,
    "lars_opt_weight_decay": 2e-4,
}
SUBMISSION = {"org": "Example", "platform": "example-8", "division": "closed", "status": "onprem"}


class Story:
    """Events of a plausible run in `events`; every rank's step fits into the time that passes for it."""

    samples_in_epoch, batch_size = 1000, 64

    def __init__(self, seed=0, world_size=1, steps_per_event=7, **config):
        self.random = random.Random(seed)
        self.t = 1_700_000_000 + self.random.random() * 1000
        self.world_size, self.steps_per_event = world_size, steps_per_event
        self.config = config
        self.events = []
        self.step = 0
        self.epochs = {}  # the last step of each that is done

    @property
    def samples(self):
        return self.step * self.batch_size

    def last_step(self, epoch):
        return -(-epoch * self.samples_in_epoch // self.batch_size)

    def emit(self, kind, **fields):
        self.events.append({"t": round(self.t, 6), "kind": kind, **fields})

    def pause(self, seconds):
        self.t += seconds * self.random.uniform(0.5, 1.5)

    def begin(self):
        self._process()
        self.emit("run_config", **self._run_config())
        self.emit("system", accelerator_name="A100", number_of_nodes=1)
        self.emit("cache_clear", value=True)
        self.emit("init_start")
        self.pause(5)
        self.emit("init_stop")
        self.emit("run_start")
        self.pause(0.3)
        self.emit("data", train_samples=1000, eval_samples=10000, classes=10, source="made up", corrupt_files=[])
        return self

    def resume(self, step):
        """A new process that goes on from `step`; what came after it is done again."""
        self.pause(60)
        self._process()
        self.step = step
        self.epochs = {epoch: end for epoch, end in self.epochs.items() if end <= step}
        self.emit("resume", step=step, samples=self.samples)
        return self

    def _process(self):
        self.emit("process_start", pid=self.random.randrange(1, 1 << 15))
        self.pause(3)
        self.clocks = {name: [0.0] * self.world_size for name in ("core_s", "wait_s", "h2d_s", "measure_s")}
        self.unreported = []

    def _run_config(self):
        return {
            "benchmark": "resnet50",
            "seed": 7,
            "precision": "bf16",
            "world_size": self.world_size,
            "devices": ["cpu"] * self.world_size,
            "global_batch_size": self.batch_size,
            "gradient_accumulation_steps": 1,
            "unit": "images",
            "target": 0.759,
            "warmup_epochs_excluded": 0,
            "submission": SUBMISSION,
            "reported": SGD,
            **self.config,
        }

    def train(self, until):
        """Steps up to `until`, reported every few steps; epochs that end are logged."""
        while self.step < until:
            begin = self.t
            wait = self.random.uniform(0, 0.004)
            self.t += wait
            self.pause(0.02)
            passed = self.t - begin
            for rank in range(self.world_size):
                core = passed - wait if rank == 0 else passed * self.random.uniform(0.3, 0.999)
                spent = {"core_s": core, "wait_s": (passed - core) / 5, "h2d_s": 0.0005, "measure_s": 1e-5}
                for name, seconds in spent.items():
                    self.clocks[name][rank] += seconds
            self.step += 1
            self.unreported.append((passed - wait, wait))
            if len(self.unreported) == self.steps_per_event:
                self.report()
            while self.step == self.last_step(epoch := self.next_epoch()):
                self.report()
                self.epochs[epoch] = self.step
                self.emit("epoch_stop", epoch=epoch, step=self.step, samples=self.samples)
        return self

    def next_epoch(self):
        return 1 + max((epoch for epoch, step in self.epochs.items() if step <= self.step), default=0)

    def report(self):
        if self.unreported:
            count = len(self.unreported)
            self.emit(
                "steps",
                first_step=self.step - count + 1,
                num_steps=count,
                samples=count * self.batch_size,
                loss=[self.random.uniform(0, 7) for _ in range(count)],
                lr=[0.1] * count,
                core_s=[core for core, _ in self.unreported],
                wait_s=[wait for _, wait in self.unreported],
                h2d_s=[0.0005] * count,
            )
            self.unreported.clear()

    def block(self, first_epoch, epoch_count=1, until=None):
        """Train these epochs; with `until` only up to that step, the block stays open."""
        fields = {"first_epoch": first_epoch, "epoch_count": epoch_count}
        self.emit("block_start", **fields, step=self.step, samples=self.samples)
        end = self.last_step(first_epoch + epoch_count - 1)
        self.train(end if until is None else until)
        self.report()
        if until is None:
            clocks = {name: list(seconds) for name, seconds in self.clocks.items()}
            self.emit("block_stop", step=self.step, samples=self.samples, **clocks)
        return self

    def evaluate(self, epoch, accuracy):
        where = {"epoch": epoch, "step": self.step, "samples": self.samples}
        self.emit("eval_start", **where)
        self.pause(0.4)
        correct = round(accuracy * 10000)
        self.emit("eval_stop", **where, correct=correct, counted=10000, accuracy=correct / 10000)
        return self

    def stop(self, status="success", reason="target", detail=""):
        self.emit("memory", used_bytes=3 << 30, total_bytes=40 << 30, per_rank=[3 << 30] * self.world_size)
        self.emit("run_stop", status=status, reason=reason, detail=detail)
        self.pause(1)
        self.emit("process_stop")
        return self


def tell(ending, **options):
    """A run of three evaluations that ends in one of the ways a run can end."""
    story = Story(**options).begin()
    story.block(1).evaluate(1, 0.31)
    story.block(2, 2).evaluate(3, 0.62)
    if ending in ("target", "epochs"):
        story.block(4).evaluate(4, 0.7612 if ending == "target" else 0.70)
        if ending == "target":
            story.block(5).evaluate(5, 0.7712)  # it goes on to its best accuracy
        return story.stop("success" if ending == "target" else "aborted", ending)
    story.block(4, until=story.step + 10)
    if ending == "cut_off":
        return story
    if ending == "rank_lost":  # found out in the middle of an evaluation
        story.emit("eval_start", epoch=4, step=story.step, samples=story.samples)
        story.pause(2)
    return story.stop("aborted", ending, "made up")


def random_run(seed):
    """Some blocks, evaluations and resumes; ended, or cut off anywhere."""
    dice = random.Random(seed)
    story = Story(seed, world_size=dice.choice([1, 2, 4]), steps_per_event=dice.choice([1, 5, 40]))
    story.config["warmup_epochs_excluded"] = dice.choice([0, 1, 2])
    story.begin()
    for _ in range(dice.randint(1, 4)):
        epoch = story.next_epoch()
        if dice.random() < 0.3:
            story.block(epoch, until=story.step + dice.randint(0, 12))
            if dice.random() < 0.3:
                story.emit("eval_start", epoch=epoch, step=story.step, samples=story.samples)
            if dice.random() < 0.5:
                story.stop("aborted", "sigterm")
            story.resume(dice.randint(0, story.step))
        else:
            story.block(epoch, dice.choice([1, 2])).evaluate(epoch, dice.random())
    if dice.random() < 0.5:
        story.stop()
    return story.events[: dice.randint(1, len(story.events))] if dice.random() < 0.7 else story.events


@pytest.fixture(name="random_run")
def random_run_fixture():
    return random_run


@pytest.fixture(name="story")
def story_fixture():
    return Story


@pytest.fixture(name="tell")
def tell_fixture():
    return tell


@pytest.fixture(params=["sgd", "lars"])
def hyper_parameters(request):
    return {"sgd": SGD, "lars": LARS}[request.param]
