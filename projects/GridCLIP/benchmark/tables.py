"""Tables of the measurements in Markdown, for docs/."""

from tabulate import tabulate

from . import report


def origin(record: dict) -> str:
    """One line with the commit and the versions that repeat a measurement."""
    versions, commit = record["versions"], record["commit"]
    changed = " with changes" if commit.endswith("-dirty") else ""
    return (
        f"Commit {commit[:10]}{changed}, torch {versions['torch']}, "
        f"detectron2 {versions['detectron2']}, Python {versions['python']}."
    )


def overfit_table(record: dict, name: str, config: str) -> str:
    """The results.json of a run that overfits 16 photographs."""
    metrics = record["metrics"]["bbox"]
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    minutes = record["seconds"] / 60
    return "\n".join(
        [
            f"**Overfitting, {name}.** `configs/mini/{config}`: trained on "
            f"{record['protocol']['images']} photographs and tested on the same, "
            f"{record['iterations']} steps, {minutes:.0f} minutes on {record['device']}, seed "
            f"{record['seed']}. It shows only that learning works; it is not an LVIS AP.",
            "",
            "| " + " | ".join(columns) + " |",
            "|" + "---|" * len(columns),
            "| " + " | ".join(f"{metrics[column]:.1f}" for column in columns) + " |",
            "",
            origin(record),
        ]
    )


def speed_table(record: dict, name: str = "speed_cpu") -> str:
    """The record of scripts/compare_speed.py, from results/NAME.json."""
    setup = record["setup"]
    return "\n\n".join(
        [
            f"**Speed, {setup['processor']}, {setup['dtype']}.** *Official* post-processing is "
            "each detector's own; *matched* gives ViLD a score threshold of 0.01, so that it "
            "suppresses about as many pairs as GridCLIP.",
            report.tables(record, tablefmt="github"),
            f"![Seconds of the stages](results/{name}.png)",
            origin(setup),
        ]
    )


def teacher_passes_table(record: dict) -> str:
    """The record of benchmark.teacher_passes."""
    names = {
        "whole": "GridCLIP: the picture and its mirror image",
        "tiles9": "GridCLIP: 9 tiles of both",
        "regions": "ViLD: 300 regions, two crops each",
    }
    height, width = record["picture"]
    return "\n".join(
        [
            f"**What the teacher costs before training**, {record['clip']} (D = {record['dim']}), "
            f"a picture of {height} x {width}, {record['device']}, {record['threads']} threads, "
            f"random weights, runs in turn: {record['runs']}, medians; LVIS train is extrapolated:",
            "",
            "| pass | vectors an image | s an image | LVIS train, hours | LVIS train, GB |",
            "|---|---|---|---|---|",
            *(
                f"| {names[name]} | {p['vectors']} | {p['seconds']:.2f} | "
                f"{p['lvis_train_hours']:.0f} | {p['lvis_train_gb']:.1f} |"
                for name, p in record["per_image"].items()
            ),
            "",
            "At the official D = 512, ViLD's 300 vectors are half of that, 31 GB and the boxes.",
            "",
            origin(record),
        ]
    )


def predictor_table(record: dict) -> str:
    """The record of ``benchmark.prediction``."""
    batches = record["speed"]["batch"]
    memory = record["resident_mib"]
    height, width = record["size"]
    alone, padded = (record[k]["8"]["0.3"] for k in ("batches", "padded_batches"))
    return "\n".join(
        [
            f"**The predictor**, the laptop world's detector, pictures of {height} x {width} read "
            f"from files, {record['names']} names, {record['threads']} threads of "
            f"{record['processor']}, medians of runs in turn:",
            "",
            "| batch | pictures a second |",
            "|---|---|",
            *(f"| {size} | {b['pictures_per_second']:.1f} |" for size, b in batches.items()),
            "",
            "Resident memory after "
            + ", ".join(f"{count} pictures {mib:.0f} MiB" for count, mib in memory.items())
            + ". Batches of 8 are of pictures of one size: their detections with a score from 0.3 "
            f"({alone['detections']}) differ from those of one picture at a time by at most "
            f"{alone['largest_score_difference']:.0e} in score and "
            f"{alone['largest_box_difference']:.0e} px. If smaller pictures were padded to the "
            "largest of a batch, scores would differ by up to "
            f"{padded['largest_score_difference']:.2f} (median "
            f"{padded['median_score_difference']:.3f}) and boxes by up to "
            f"{padded['largest_box_difference']:.0f} px.",
            "",
            origin(record),
        ]
    )


def int8_table(record: dict) -> str:
    """The record of ``benchmark.int8_accuracy``."""
    names = list(record["fp32"])
    forms = {"fp32": "float32", "int8": "int8"}
    detectors = record["detectors"].values()
    seeds, engines = ", ".join(map(str, record["seeds"])), record["engines"]
    shared = min(found["shared"] for found in detectors)
    rows = [[form, *(f"{record[key][n]:.2f}" for n in names)] for key, form in forms.items()]
    lost = [record["fp32"][name] - record["int8"][name] for name in names]
    most = [max(found["fp32"][name] - found["int8"][name] for found in detectors) for name in names]
    rows.append(["lost", *(f"{x:.2f}" for x in lost)])
    rows.append(["lost at most by one", *(f"{x:.2f}" for x in most)])
    return "\n\n".join(
        [
            f"**int8**, `python -m benchmark.int8_accuracy`: the laptop world's detectors "
            f"(`{record['config_file']}`), means of the seeds {seeds}, on the {record['world']} "
            f"split, OpenVINO {engines['openvino']} and NNCF {engines['nncf']} on "
            f"{record['processor']}:",
            tabulate(rows, ("", *names), "github", disable_numparse=True),
            f"At least {shared:.1%} of the best detections in the "
            f"{record['detectors'][str(record['seeds'][0])]['calibration_pictures']} training "
            "pictures of the calibration are found again.",
            origin(record),
        ]
    )


def own_data_table(record: dict) -> str:
    """GridCLIP beside FCOS, of what ``benchmark.own_data`` wrote."""
    rows = [
        [name, *(f"{part['metrics'][k]:.1f}" for k in ("AP", "AP50", "AP75")), _minutes(part)]
        for name, part in (("GridCLIP", record), ("detectron2's FCOS", record["fcos"]))
    ]
    table = tabulate(rows, ("", "AP", "AP50", "AP75", "minutes"), "github", disable_numparse=True)
    protocol, machine = record["protocol"], record["environment"]
    return (
        f"{table}\n\n{protocol['images']} test pictures, {record['iterations']:,} steps, seed "
        f"{record['seed']}, one run each, training and evaluation together, {machine['threads']} "
        f"threads of {machine['processor']}. {protocol['evaluator']}; {protocol['ap']}."
    )


def _minutes(part: dict) -> str:
    return f"{part['seconds'] / 60:.0f}"


def first_steps_table(record: dict) -> str:
    """The record of benchmark.first_steps, of a GPU."""
    rows = [
        f"| {run['precision']} | {run['batch_size']} | {run['seconds_a_step']:.3f} "
        f"| {run['peak_mib'] / 1024:.1f} | {run['positives'][0]:.0f} "
        f"| {run['losses']['total_loss'][0]:.2f} | {run['losses']['total_loss'][-1]:.2f} |"
        for run in record["runs"]
    ]
    height, width = record["size"]
    return "\n".join(
        [
            f"{record['environment']['processor']}, {height} x {width}, "
            f"{record['categories']:,} names, random weights and pictures, the first steps of the "
            "warm-up:",
            "",
            "| precision | batch | seconds a step | peak GiB | positive locations an image "
            "| first loss | last loss |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            origin(record["environment"]),
        ]
    )


def model_zoo_table(record: dict) -> str:
    """The record of benchmark.model_zoo."""
    (height, width), speed = record["picture"], record["speed"]
    size = speed["size"]
    rows = [
        f"| [{name.removesuffix('.py')}](../projects/GridCLIP/configs/{name}) "
        f"| {m['parameters'] / 1e6:.1f}M | {m['gmac']:.0f} at {m['size'][0]} x {m['size'][1]} "
        f"| {_number(m['images_per_second'], '.2f')} | {m['images_seen'] / 1e6:.2f}M "
        f"| {m['gpu_hours']:,.0f} | {_box_ap(m['results'])} |"
        for name, m in record["models"].items()
    ]
    return "\n".join(
        [
            "| config | parameters | multiply-adds, 1e9 | images/s, CPU | images in training "
            "| GPU-hours, estimated | box AP |",
            "|" + "---|" * 7,
            *rows,
            f"| all | | | | | {record['gpu_hours']:,.0f} | |",
            "",
            f"*Multiply-adds* are those of one picture of {height} x {width}, resized as the "
            f"config does at test. *Images a second* were measured at {' x '.join(map(str, size))} "
            f"in {speed['dtype']} on {speed['threads']} threads of an {speed['processor']} "
            "([speed.md](speed.md)). *GPU-hours* are an estimate "
            f"for one {record['gpu']}: images x multiply-adds x "
            f"{record['operations_per_multiply_add']} operations (two a multiply-add, and three "
            "times the forward pass for a step), at "
            f"{record['operations_per_second'] / 1e12:.0f}e12 operations a second.",
            "",
            origin(record),
        ]
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _box_ap(results: dict | None) -> str:
    if results is None:
        return "not trained yet"
    metrics = results["metrics"]["bbox"]
    novel = metrics.get("AP_novel")
    return f"{metrics['AP']:.1f}" + ("" if novel is None else f", novel {novel:.1f}")
