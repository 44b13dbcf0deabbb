"""The texts of the reports, in Chinese and in English."""

from __future__ import annotations

from airank_fast.reports.inference_texts import INFERENCE_TEXTS

LANGUAGES = ("zh", "en")

# key: (Chinese, English)
TEXTS: dict[str, tuple[str, str]] = {
    "html_lang": ("zh-CN", "en"),
    "title": ("测试&复现报告", "Test and Reproduction Report"),
    "runs_count": ("{count} 次运行", "{count} run(s)"),
    "period": ("{first} 至 {last}（UTC）", "{first} to {last} UTC"),
    "model_title": ("模型：{name}", "Model: {name}"),
    "target_title": ("目标精度 {target}", "target {target}"),
    "semicolon": ("；", "; "),
    "unknown_benchmark": ("未标明的模型", "benchmark not named"),
    "cards": ("{count}卡", "{count} card(s)"),
    "cards_unknown": ("卡数未知", "cards unknown"),
    "none": ("-", "-"),
    "unknown": ("日志未记录", "not in the log"),
    # sections
    "summary": ("数据汇总", "Summary"),
    "pictures": ("曲线与图", "Pictures"),
    "examples": ("预测样例", "Predictions"),
    "example": ("预测：{predicted}；真值：{truth}", "predicted: {predicted}; true: {truth}"),
    "examples_note": ("由左至右：输入、预测、真值。", "From left to right: the input, the prediction, the truth."),
    "runs": ("各次运行", "Runs"),
    "performance": ("性能明细", "Performance"),
    "findings": ("规则检查", "Findings of the rules"),
    "flagperf": ("FlagPerf 指标", "FlagPerf figures"),
    "system": ("被测系统信息", "System under test"),
    "recipe": ("训练配方", "Recipe"),
    "reproduce": ("复现步骤", "How to reproduce"),
    "checksums": ("文件校验和", "Checksums"),
    "notes": ("说明与缺项", "Notes, and what is missing"),
    "definitions": ("指标定义", "Definitions"),
    # summary table: the column names are those of AI-Rank in either language
    "model": ("模型", "Model"),
    "time2train": ("Time2train(sec)", "Time2train (sec)"),
    "throughput": ("吞吐(samples/sec)", "Throughput (samples/sec)"),
    "accuracy": ("准确率(%)", "Accuracy (%)"),
    "speedup": ("加速比", "Speed-up"),
    "tile_throughput": ("吞吐", "Throughput"),
    "tile_accuracy": ("准确率", "Accuracy"),
    "row_runs": ("计入运行数", "Runs counted"),
    "of": ("{part}/{whole}", "{part} of {whole}"),
    "missed": ("{count} 次未达标", "{count} missed the target"),
    "summary_note": (
        "每行为计入的各次运行中 Time2train 居中的一次（偶数次时取中间较慢者），下方为各次的最小值至最大值。"
        "只计入完整结束、未中断续跑的运行；未达到目标精度的运行按"
        "“永不结束”计。加速比为单卡 Time2train ÷ 多卡 Time2train。",
        "A row shows, of the runs counted, the one with the median Time2train (of an even number the slower one in the "
        "middle), with the smallest and largest of all below it. Runs that were resumed, aborted or cut off are "
        "not counted; one that missed the target counts as one that never ends. Speed-up is "
        "Time2train on one card over Time2train on several.",
    ),
    "stated_note": (
        "† 日志自报的数值，日志中没有可供重新计算的数据。",
        "† as the log states it; the log has no data to recompute it from.",
    ),
    "amp_ratio": (
        "混合精度对 FP32 的吞吐比（{cards}）：{ratio}（{amp} 对 {fp32} samples/sec）",
        "Throughput of AMP over FP32 ({cards}): {ratio} ({amp} against {fp32} samples/sec)",
    ),
    # pictures
    "picture_accuracy": ("准确率（随时间）", "Accuracy over time"),
    "picture_throughput": ("吞吐（{unit}/s，评估时间除外）", "Throughput ({unit}/s, without evaluations)"),
    "picture_throughput_whole": ("吞吐（{unit}/s，含评估时间）", "Throughput ({unit}/s, evaluations included)"),
    "picture_loss": ("训练损失", "Training loss"),
    "picture_learning_rate": ("学习率", "Learning rate"),
    "picture_seconds": ("每一秒花在哪里", "Where each second went"),
    "picture_memory": ("显存/内存峰值", "Peak memory"),
    "not_drawn": (
        "日志没有记录画以下各图所需的数据：{names}。",
        "The logs lack the data of these pictures: {names}.",
    ),
    "no_flagperf": ("日志没有记录卡数，无法给出 FlagPerf 指标。", "The logs lack the number of cards; no figures."),
    "spread_runs": (
        "粗线为计入的各次运行的中位数，色带为最小值至最大值；细线为单次运行。",
        "Thick line: median of the runs counted; band: smallest to largest; thin lines: single runs.",
    ),
    "spread_bins": (
        "线为各区间均值，色带为区间内最小值至最大值。",
        "Line: mean of each stretch; band: smallest to largest.",
    ),
    "spread_evaluations": (
        "点为各次评估，线为各次运行；色带为计入的各次运行的最小值至最大值。",
        "Dots: evaluations; lines: single runs; band: smallest to largest of the runs counted.",
    ),
    "no_spread": ("", ""),
    "seconds_note": (
        "run_start 至 run_stop。计算与等待数据取各卡中的最大值；与计算同时进行的主机到设备拷贝不占条。",
        "From run_start to run_stop. Computing and waiting are the largest over ranks; copies that ran beside the "
        "computing take no room in the bar.",
    ),
    "memory_note": (
        "峰值用量 / 总量；CPU 上为进程的驻留内存。",
        "Peak used / total; on a CPU the process's resident memory.",
    ),
    "left_out": ("{count} 个非有限数值未画出。", "{count} value(s) that are not finite are left out."),
    "target_line": ("目标 {value}", "target {value}"),
    "time": ("自 run_start 起的时间（{unit}）", "time since run_start ({unit})"),
    "time_log": ("自 run_start 起的时间（{unit}，对数）", "time since run_start ({unit}, logarithmic)"),
    "unit_s": ("秒", "s"),
    "unit_min": ("分", "min"),
    "unit_h": ("小时", "h"),
    "epochs": ("epoch（轮）", "epochs"),
    "samples": ("已训练样本数", "samples trained"),
    "accuracy_summary": (
        "最高 {best}，{runs} 次运行中 {reached} 次达到目标",
        "best {best}; {reached} of {runs} run(s) reached the target",
    ),
    "accuracy_summary_best": ("最高 {best}", "best {best}"),
    "range": ("范围 {low} 至 {high}", "from {low} to {high}"),
    "part_core": ("计算（core）", "computing (core)"),
    "part_steps": ("训练步（未细分）", "steps, not itemised"),
    "part_wait": ("等待数据", "data wait"),
    "part_h2d": ("主机到设备", "host to device"),
    "part_rest": ("步内其余", "rest of the steps"),
    "part_evaluation": ("评估", "evaluation"),
    "part_other": ("其他", "other"),
    # runs table
    "run": ("运行", "Run"),
    "setting": ("配置", "Setting"),
    "status": ("状态", "Status"),
    "seed": ("随机种子", "Seed"),
    "started": ("开始（UTC）", "Started (UTC)"),
    "best_accuracy": ("最高准确率(%)", "Best accuracy (%)"),
    "final_accuracy": ("末次准确率(%)", "Last accuracy (%)"),
    "total_time": ("总时间(s)", "Total time (s)"),
    "e2e_time": ("端到端(s)", "e2e_time (s)"),
    "avg_ips": ("avg_ips", "avg_ips"),
    "p_whole": ("p_whole", "p_whole"),
    "p_train": ("p_train", "p_train"),
    "p_core": ("p_core", "p_core"),
    "step_ms": ("步时 p50/p95/p99(ms)", "Step p50/p95/p99 (ms)"),
    "trained": ("训练样本数", "Samples trained"),
    "epochs_done": ("轮数", "Epochs"),
    "evaluations": ("评估次数", "Evaluations"),
    "memory": ("内存(GiB)", "Memory (GiB)"),
    "data_wait": ("等待数据(s)", "Data wait (s)"),
    "h2d": ("主机到设备(s)", "Host to device (s)"),
    "measure": ("测量开销(s)", "Measuring (s)"),
    "format": ("日志格式", "Log format"),
    # states of a run
    "state_reached": ("达到目标", "target reached"),
    "state_stated": ("达到目标（日志自报）", "target reached, as the log states"),
    "state_success": ("成功结束", "ended with success"),
    "state_ended": ("已结束", "ended"),
    "state_epochs": ("未达到目标", "target missed"),
    "state_aborted": ("中止（{reason}）", "aborted ({reason})"),
    "state_unfinished": ("未完成：日志没有结束记录", "unfinished: the log has no end"),
    "state_resumed": ("中断续跑 {count} 次，成绩不可比", "resumed {count} time(s), not comparable"),
    "not_counted": ("不计入数据汇总", "not counted in the summary"),
    "alerts": ("请注意", "Please note"),
    # findings; those of the rule books themselves are in English
    "findings_note": (
        "airank_fast.verify 按各日志格式的规则检查的结果（原文为英文）；每次运行最多列出 {rows} 条错误与警告。",
        "Findings of airank_fast.verify by the rules of each log's format; at most {rows} errors and warnings of a run "
        "are listed.",
    ),
    "error": ("错误", "error"),
    "finding_warning": ("警告", "warning"),
    "errors": ("{count} 个错误", "{count} error(s)"),
    "finding_warnings": ("{count} 个警告", "{count} warning(s)"),
    "finding_notes": ("{count} 个提示", "{count} note(s)"),
    "more_findings": ("另有 {count} 条错误或警告未列出。", "{count} more error(s) or warning(s) are not listed."),
    "no_rules": ("没有适用于该日志格式的规则。", "No rules apply to this format of log."),
    "place": ("位置", "Place"),
    "severity": ("级别", "Severity"),
    "finding": ("发现；要求", "Finding; what is required"),
    "rule": ("规则", "Rule"),
    # FlagPerf's common figures, as its template has them
    "indicator": ("指标名称", "Indicator"),
    "value": ("指标值", "Value"),
    "remark": ("特殊说明", "Remark"),
    "fp_task": ("任务类别", "Task"),
    "fp_data": ("数据集", "Data set"),
    "fp_precision": ("数据精度", "Precision"),
    "fp_fix_hp": ("超参修改", "Hyper-parameters changed"),
    "fp_device": ("硬件设备简称", "Device"),
    "fp_mem": ("硬件存储使用", "Device memory"),
    "fp_e2e": ("端到端时间", "End-to-end time"),
    "fp_whole": ("总吞吐量", "Throughput, whole"),
    "fp_train": ("训练吞吐量", "Throughput, training"),
    "fp_core": ("计算吞吐量", "Throughput, computing"),
    "fp_acc": ("训练结果", "Training result"),
    "fp_extra": ("额外修改项", "Other changes"),
    "fp_see": ("{name}，见“性能指标”", "{name}, see the table of figures"),
    "fp_e2e_remark": ("总时间 + 初始化等时间，秒", "total time and initialisation, s"),
    "fp_whole_remark": ("实际训练样本数 ÷ 总时间", "samples trained / total time"),
    "fp_train_remark": ("不含评估耗时", "without evaluations"),
    "fp_core_remark": (
        "不含数据 IO 耗时（p_core ≥ p_train ≥ p_whole）",
        "without data I/O (p_core >= p_train >= p_whole)",
    ),
    "fp_mem_remark": ("已用/总量，GiB", "used/total, GiB"),
    "fp_acc_remark": ("末次评估的准确率", "accuracy of the last evaluation"),
    "fp_precision_remark": ("fp32/amp/fp16", "fp32/amp/fp16"),
    "fp_fix_hp_remark": ("单卡批大小与基础学习率", "batch size a card and base learning rate"),
    "fp_figures": ("性能指标", "Figures"),
    "fp_common": ("通用指标", "Common indicators"),
    # system, recipe
    "submitter": ("提交方", "Submitter"),
    "hardware_name": ("硬件名称", "Hardware name"),
    "hardware_type": ("硬件类型", "Hardware type"),
    "number_of_nodes": ("节点数", "Number of nodes"),
    "accelerators_per_node": ("每节点加速卡数", "Accelerators per node"),
    "accelerator_name": ("加速卡", "Accelerator"),
    "accelerator_memory_capacity": ("加速卡内存", "Accelerator memory"),
    "host_processor_name": ("处理器", "Host processor"),
    "host_processors_per_node": ("每节点处理器数", "Host processors per node"),
    "host_processor_core_count": ("处理器核数", "Host processor cores"),
    "host_memory_capacity": ("主机内存", "Host memory"),
    "host_storage_type": ("存储类型", "Storage type"),
    "host_storage_capacity": ("存储容量", "Storage capacity"),
    "operating_system": ("操作系统", "Operating system"),
    "software_stack": ("软件栈", "Software stack"),
    "field": ("项目", "Field"),
    "all_runs": ("全部运行", "All runs"),
    "common_settings": ("相同的设置", "The same in all"),
    "different_settings": ("不同的设置", "Where they differ"),
    "versions": ("软件版本", "Software versions"),
    "kernels": ("算子实现", "Operator implementations"),
    "kernels_note": (
        "kernel：本项目的算子；reference：torch 的参考实现。",
        "kernel: the project's own; reference: plain torch.",
    ),
    "no_system": ("日志没有记录系统信息。", "The logs have no system information."),
    "no_recipe": ("日志没有记录训练配方。", "The logs have no recipe."),
    # reproduce
    "step_environment": ("准备环境：与记录相同的软件版本。", "Environment: the versions that were recorded."),
    "step_data": ("准备数据。", "Data."),
    "step_train": ("训练：各次运行的命令。", "Training: the command of each run."),
    "step_train_note": (
        "命令取自运行记录；多卡启动参数按记录的卡数与节点数还原。--output 须为尚无运行的目录，路径请按本机修改。",
        "Commands as the runs recorded them, with a launcher for the recorded numbers of nodes and ranks. --output "
        "must name a directory that holds no run; change the paths to your own.",
    ),
    "step_check": ("核对：校验日志并重新生成本报告。", "Check: verify the logs, and make this report again."),
    "no_command": ("日志没有记录命令行。", "The log does not have the command line."),
    "data_source": ("来源", "Source"),
    "data_train": ("训练样本数", "Training samples"),
    "data_eval": ("评估样本数", "Evaluation samples"),
    "data_checksum": ("数据校验和", "Checksum of the data"),
    "data_corrupt": ("损坏的文件数", "Corrupt files"),
    # checksums
    "file": ("文件", "File"),
    "size": ("字节", "Bytes"),
    "checksum_note": (
        "保存为文件后可用 sha256sum --check 核对 Markdown 报告中的清单。",
        "The list in the Markdown report can be checked with sha256sum --check.",
    ),
    "more_files": ("另有 {count} 个文件未列出。", "{count} more file(s) are not listed."),
    # notes
    "missing": ("日志未记录", "Not in the log"),
    "missing_run_stop": ("运行的结束", "the end of the run"),
    "missing_benchmark": ("模型名称", "the benchmark's name"),
    "missing_world_size": ("卡数", "the number of cards"),
    "missing_target": ("目标精度", "the target"),
    "missing_samples": ("训练样本数（吞吐无法计算）", "the samples trained (no throughput can be computed)"),
    "missing_evaluations": ("评估", "evaluations"),
    "missing_steps": ("逐步的损失与学习率", "loss and learning rate of the steps"),
    "missing_seconds": ("时间的去向", "where the time went"),
    "missing_memory": ("内存用量", "memory used"),
    "missing_system": ("系统信息", "system information"),
    "missing_recipe": ("配方与超参数", "recipe and hyper-parameters"),
    "missing_command": ("命令行", "the command line"),
    "missing_seed": ("随机种子", "the seed"),
    "warning": ("运行中的警告", "warnings during the run"),
    "quality": ("末次评估", "last evaluation"),
    "detail": ("结束原因", "how it ended"),
    "and": ("、", ", "),
    "no_notes": ("无。", "None."),
    "made_by": (
        "由 airank_fast {version} 根据运行记录生成。",
        "Made from the runs' own records by airank_fast {version}.",
    ),
    "def_time2train": (
        "Time2train：run_start 至首个达到目标精度的评估结束，秒。",
        "Time2train: from run_start to the end of the first evaluation at or above the target, in seconds.",
    ),
    "def_throughput": (
        "吞吐（avg_ips）：预热轮之后训练的样本数 ÷ 预热结束至 run_stop 的时间；总量之比，不是均值之均值。",
        "Throughput (avg_ips): samples trained after the warm-up epochs over the time from their end to run_stop; a "
        "total over a total, never a mean of rates.",
    ),
    "def_p": (
        "p_whole = N ÷ T；p_train 扣除评估时间；p_core 只计“批数据已在设备上”到“优化器完成”的时间，取各卡最大值。N 为"
        "实际训练的样本数，T 为 run_start 至 run_stop。",
        "p_whole = N / T; p_train leaves the evaluations out of T; p_core = N over the time from 'the batch is on the "
        "device' to 'the optimizer is done', the largest over ranks. N: samples really trained; T: run_start to "
        "run_stop.",
    ),
    "def_accuracy": (
        "准确率：各次评估中的最高值；每个评估样本计一次。",
        "Accuracy: the best of all evaluations; each sample once.",
    ),
}

SYSTEM_FIELDS = [*TEXTS][[*TEXTS].index("submitter") : [*TEXTS].index("software_stack") + 1]
TEXTS |= INFERENCE_TEXTS
_UNITS = {"images": ("图片", "images"), "samples": ("样本", "samples"), "sequences": ("序列", "sequences")}


class Texts:
    """The texts of one language: `texts("key", name=value)`."""

    def __init__(self, language: str):
        self.language = language
        self._column = LANGUAGES.index(language)

    def __call__(self, key: str, **values) -> str:
        text = TEXTS[key][self._column].format(**values)
        count = values.get("count", values.get("runs"))
        return text if count is None else text.replace("(s)", "" if count == 1 else "s")

    def field(self, name: str) -> str:
        """The name of a field of system_information.json in words; another name unchanged."""
        return TEXTS[name][self._column] if name in SYSTEM_FIELDS else name

    def unit(self, unit: str | None) -> str:
        """A unit in this language; one without a text here unchanged."""
        return _UNITS.get(unit or "samples", (unit, unit))[self._column]
