"""OCR: recognition of lines of text. AI-Rank's first list of models names it, without a data set or a target.

exact_match and one_minus_ned are the metrics of PaddleOCR's recognition (RecMetric's acc and norm_edit_dis).
"""

from airank_fast.tasks import Metric, Task

TASK = Task(
    name="ocr",
    model="OCR",
    title={"zh": "文字识别", "en": "text recognition"},
    unit="images",
    metrics=(Metric("exact_match"), Metric("one_minus_ned", ".4f")),
    names={"airank": "OCR"},
)
