"""OCR: text recognition. AI-Rank's first list of models names it, without a data set or a target."""

from airank_fast.tasks import Metric, Task

TASK = Task(
    name="ocr",
    model="OCR",
    title={"zh": "文字识别", "en": "text recognition"},
    unit="images",
    metrics=(Metric("exact_match"),),
    names={"airank": "OCR"},
)
