"""Text detection, the other half of OCR. No text of AI-Rank states a data set, a metric or a target for it.

h_mean, precision and recall are those of ICDAR 2015's incidental scene text (task 4.1), as PaddleOCR's detection has.
"""

from airank_fast.tasks import Metric, Task

TASK = Task(
    name="ocr_detection",
    model="DBNet",
    title={"zh": "文字检测", "en": "text detection"},
    unit="images",
    metrics=(Metric("h_mean"), Metric("precision"), Metric("recall")),
    data_set="ICDAR 2015, incidental scene text",
)
