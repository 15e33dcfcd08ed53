"""Write docs/results.md, tables in other documents, and the model cards from results/ and the records of the weights.

python -m tools.tables            # write them
python -m tools.tables --check    # fail if they are not what the files say
"""

import csv
import json
import math
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from mrcar_timm.checkpoints.folder import read_config
from mrcar_timm.checkpoints.packaged import PACKAGED, WEIGHTS_DIR, default_name
from mrcar_timm.experiments.report import PAPER, budget, mean_and_spread, paper, read_rows
from mrcar_timm.hub.card import render_card
from mrcar_timm.training.recipe import epochs_for

ROOT = Path(__file__).parent.parent
RESULTS, DOCS = ROOT / "results", ROOT / "docs"
SPLITS = ("validation", "test")
#: Data sets, and the weights that are scored on their test split.
SCORED = {
    "fer2013": ("mrcar_mobilenet.fer2013", "mrcar_resnet.fer2013"),
    "ferplus": ("mrcar_mobilenet.everyday", "mrcar_mobilenet.ferplus", "mrcar_resnet.ferplus"),
}
DATA = {"fer2013": "FER2013", "ferplus": "FER+, majority of the votes"}
TAGS = ("fer2013", "ferplus")  # of mrcar_resnet
PROTOCOLS = {"one": "one crop", "mirror": "mirrored pair", "ten": "ten crops"}
CROSS = {"ckplus": "CK+, all, six classes", "fer2013": "FER2013, validation", "ferplus": "FER+, validation"}
ROBUSTNESS = {"ferplus": "robustness", "fer2013": "robustness_fer2013"}
PHOTOS = {
    "group.jpg": "five faces, composed",
    "five_faces.png": "five faces, composed, textured",
    "insightface_t1.jpg": "six people, a photo",
    "collins.jpg": "one face",
}
FOLDS = {
    "subject": "no subject in two folds",
    "image": "images dealt out at random; **leaky**",
    "paper": "augmented, then dealt out, as the paper does; **leaky**",
}
TURNED_FAR = ("45° to 60°", "60° to 90°", "90° to 135°", "135° to 180°")
VARIANTS = {
    "mrcar": "MrCAR",
    "no-regions": "the face alone (−Mfe)",
    "no-arcface": "linear head (−ALoss)",
    "no-attention": "without attention (−CA)",
    "no-attention-matched": "without attention, as many parameters",
    "se": "squeeze-and-excitation in place of CA",
    "shared": "one branch for all regions",
    "no-margin": "scale alone (normalized softmax)",
    "no-scale": "margin alone",
    "template": "regions at fixed places, no landmarks",
}
Rows = list[dict[str, str]]


def read(name: str) -> Any:
    """What a JSON file in results/ holds."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# Scores of the packaged weights


def scores_of(name: str, split: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of ``mrcar eval`` by protocol and subset."""
    return {(row["protocol"], row["subset"]): row for row in read(f"scores/{name}/{split}")["rows"]}


def accuracy_table(data: str) -> str:
    """Accuracy of all weights on a data set by protocol; on FER2013 beside the paper's."""
    columns = {(name, split): scores_of(name, split) for name in SCORED[data] for split in SPLITS}
    rows = []
    for protocol, subset in columns[SCORED[data][0], "test"]:
        title = PROTOCOLS[protocol] + ("" if subset == "all" else ", without duplicates of the training set")
        found = [column.get((protocol, subset)) for column in columns.values()]
        cells = ["" if row is None else f"{row['accuracy']:.2%}" for row in found]
        if data == "fer2013":
            cells.append(f"{PAPER['fer2013']['mrcar']:.2f}%" if (protocol, subset) == ("ten", "all") else "")
        rows.append([title, *cells])
    header = [f"`{name.removeprefix('mrcar_')}`, {split}" for name, split in columns]
    return table([DATA[data], *header, *(["the paper, test"] if data == "fer2013" else [])], rows)


def recall(name: str) -> str:
    """One sentence on the classes."""
    ten = scores_of(name, "test")["ten", "all"]
    by_class = ", ".join(f"{name} {value:.0%}" for name, value in ten["recall"].items())
    return f"Recall by class with ten crops, test, `{name}`: {by_class}. Macro-F1: {ten['macro_f1']:.1%}."


def made(tag: str) -> str:
    """How many epochs on what are behind weights."""
    epochs, count = Counter[str](), 0
    for run in PACKAGED[f"mrcar_resnet.{tag}"].runs:
        if run["epoch"] is not None:  # a mean has none
            count += 1
            on = "FER+" if run["data"]["name"] == "ferplus" else "FER2013"
            if "program" in run["recipe"]:  # students and the networks that were taught further
                on = "FER2013's images with teachers"
            regions = run["recipe"].get("model_args", {}).get("regions", [])
            epochs[f"{on}, {regions[0]} alone" if len(regions) == 1 else on] += run["epoch"]
    return f"`mrcar_resnet.{tag}`: {count} runs, {'; '.join(f'{n} epochs on {on}' for on, n in epochs.items())}"


def calibration_table() -> str:
    """ECE and NLL with calibration and, where it was measured, without."""
    without = {
        (f"mrcar_resnet.{row['network']}", row["split"], row["protocol"]): row["without"]
        for row in read("calibration")["rows"]
    }
    rows = [
        [
            f"`{name.removeprefix('mrcar_')}`, {split}, {PROTOCOLS[row['protocol']]}",
            *(f"{each['ece']:.1%}" if each else "" for each in (without.get((name, split, row["protocol"])), row)),
            *(f"{each['nll']:.3f}" if each else "" for each in (without.get((name, split, row["protocol"])), row)),
        ]
        for names in SCORED.values()
        for name in names
        for split in SPLITS
        for row in scores_of(name, split).values()
        if row["subset"] == "all" and row["protocol"] != "mirror"
    ]
    return table(["", "ECE before", "after", "NLL before", "after"], rows)


def landmark_table() -> str:
    """Where landmarks of face crops come from."""
    with open(RESULTS / "landmarks.csv", newline="", encoding="utf-8") as file:
        rows = [
            [
                row["data"],
                row["count"],
                *(f"{int(row[s]) / int(row['count']):.1%}" for s in ("onet", "cascade", "template")),
            ]
            for row in csv.DictReader(file)
        ]
    return table(["images", "count", "O-Net", "cascade", "template"], rows)


def scores() -> str:
    names = [name for names in SCORED.values() for name in names]
    machines = sorted({read(f"scores/{name}/{split}")["made_by"]["machine"] for name in names for split in SPLITS})
    sizes = {name.split(".")[0]: record.num_params for name, record in PACKAGED.items()}
    return f"""## Scores of the packaged weights

{accuracy_table("fer2013")}

{accuracy_table("ferplus")}

{chr(10).join(recall(name) for name in names)}

`mrcar_mobilenet` has {sizes["mrcar_mobilenet"] / 1e6:.2f} million parameters, `mrcar_resnet` {sizes["mrcar_resnet"] / 1e6:.2f}.
`mrcar_mobilenet` starts from a network that was trained on VGGFace2: [how it was trained and chosen](../results/everyday/README.md).
Its three sets of weights are one network with three heads. `everyday` is corrected for how often the training images show each
expression, which costs it accuracy on FER+'s own test split.

The paper trains for 200 epochs and removes images without a face; it does not say which and how many. The epochs behind
`mrcar_resnet`'s weights, on the training splits without images that are in another split too, of a run from whose best epoch the
next one started those up to it: {"; ".join(made(tag) for tag in TAGS)}.
The last are those of [students](../results/distil/README.md) and of networks taught on spoiled images, too; the packaged weights
lie [between the two](../results/everyday/README.md).

The validation split chose, also how far between: a little of the lead on that split is luck. The test split was read once for
each set of weights in the table, and once more for the calibration of `mrcar_resnet`. Before, it was read for versions that are not
packaged any more ([history](../results/history.json)): `fer2013_v2`, `fer2013_v3` and a
[mean of three](../results/tried/mean-of-three) once each, `fer2013_v1` three times, `ferplus_v1`, `ferplus_v2` and `ferplus_v3`
twice each.

### Calibration

A temperature is part of the head's scale, fitted on the validation split, one crop; that of `everyday` on FER2013, FER+ and half of
CK+'s subjects alike. Expected calibration error (ECE, 15 bins) and negative log-likelihood with it, and for `mrcar_resnet` without
it ([diagram](../results/scores/mrcar_mobilenet.everyday/reliability_one.png)):

{calibration_table()}

`mrcar_resnet` is surer with it and, in every row, nearer to how often it is right. On CK+'s other half, where that temperature was not
fitted, the ECE of `everyday` is
{read("everyday/weights")["weights"]["mrcar_mobilenet.everyday"]["ece"]["ckplus, odd subjects"]:.1%}.

### Landmarks of tight face crops

They come from the O-Net on the whole image, else from the cascade on the enlarged image, else from the template.

{landmark_table()}

Measured on: {", ".join(machines)}. Commands, digests and confusion matrices: [results/](../results); curves of
runs behind the students on [FER2013](../results/fer2013_curves.png) and [FER+](../results/ferplus_curves.png).
"""


# Which weights, and what they withstand


def cross_table() -> str:
    """Accuracy and macro-F1 of all weights on each data set, by the classes that both know."""
    found = read("cross")
    rows = []
    for name in PACKAGED:
        cells = [found[f"{name}-{data}"]["rows"][0] for data in CROSS]
        rows.append([f"`{name}`", *(f"{cell['accuracy']:.1%} ({cell['macro_f1']:.1%})" for cell in cells)])
    return table(["one crop, accuracy (macro-F1)", *CROSS.values()], rows)


def rare_table() -> str:
    """Recall of each expression on CK+."""
    found = read("cross")
    rows = {name: found[f"{name}-ckplus"]["rows"][0]["recall"] for name in PACKAGED}
    classes = list(next(iter(rows.values())))
    return table(
        ["recall on CK+", *classes],
        [[f"`{name}`", *(f"{row[each]:.0%}" for each in classes)] for name, row in rows.items()],
    )


def difference() -> str:
    """A sentence on CK+ for each other set of weights."""
    record = read("subjects")
    parts = []
    for other, gains in record["over"].items():
        values = []
        for metric, name in {"accuracy": "accuracy", "macro_f1": "macro-F1"}.items():
            gain, low, high = (100 * value for value in (gains[metric]["gain"], *gains[metric]["interval"]))
            values.append(f"{gain:+.1f} points of {name} ({low:+.1f} to {high:+.1f})")
        parts.append(f"over `{other}` {', '.join(values)}")
    return (
        f"`{default_name()}` on CK+, in brackets what 95 % of draws of its {record['subjects']} subjects give:\n"
        f"{';'.join(chr(10) + part for part in parts)}."
    )


def light_table() -> str:
    """Accuracy with exposure normalized and without, by damage."""
    found = {(row["damage"], row["network"], row["normalized"]): row["accuracy"] for row in read("light")["rows"]}
    damages = list(dict.fromkeys(damage for damage, _, _ in found))
    cells = [
        [damage, *(f"{found[damage, tag, normalized]:.1%}" for tag in TAGS for normalized in (True, False))]
        for damage in damages
    ]
    return table(["light", *(f"`{tag}`{without}" for tag in TAGS for without in ("", ", not normalized"))], cells)


def robustness_table() -> str:
    """Accuracy under each damage, of the weights of either data set on its own validation split."""
    found = [read(name)["rows"] for name in ROBUSTNESS.values()]
    models = [f"`{model.removeprefix('mrcar_')}`" for rows in found for model in rows[0]["accuracy"]]
    cells = [
        [each[0]["damage"], *(f"{value:.1%}" for row in each for value in row["accuracy"].values())]
        for each in zip(*found, strict=True)
    ]
    return table(["damage", *models], cells)


def regions_table() -> str:
    record = read("regions")["accuracy"]
    tags = list(next(iter(record.values())))
    rows = [[seen, *(f"{row[tag]:.1%}" if tag in row else "" for tag in tags)] for seen, row in record.items()]
    return table(["seen", *(f"`{tag}`" for tag in tags)], rows)


def network_table() -> str:
    rows = [
        [
            row["network"], row["pixels"], f"{row['parameters'] / 1e6:.2f} M", f"{row['ms']:.1f} ms",
            f"{row['fastest_ms']:.1f} ms", f"×{row['ratio']:.2f}",
        ]
        for row in read("network_speed")["rows"]
    ]  # fmt: skip
    return table(["network", "input", "parameters", "median", "fastest", "resnet18 over it"], rows)


def comparisons() -> str:
    speed = read("network_speed")
    return f"""## Choosing weights

`{default_name()}`, eight classes, is what the recognizer and the command line take: for photos. Those named after a data set are
for images like that one's; `mrcar_resnet` is the paper's network. All of them on images of each data set, by the classes that
both know. Nothing was trained on CK+, but it had a part in choosing how `everyday` is trained and corrected
([what exactly](../results/everyday/README.md)), so its lead there is somewhat flattering:

{cross_table()}

{rare_table()}

{difference()}

Accuracy on the validation split of FER+ (`everyday`, too) and of FER2013, one crop, when images are damaged; landmarks are detected
in the damaged images:

{robustness_table()}

Light, `mrcar_resnet`: accuracy on each one's own validation split, one crop, with landmarks detected in the changed images. Dark and flat
faces, and images of few bits, are stretched to the whole range before they are looked at, in training and in use
(`mrcar_timm.exposure`); beside it, what it would be without. Where the range is long enough nothing is changed, so that
a bright or dark middle (brightness ×1.4, gamma) costs what it costs. Students and the networks taught further were trained on
images as they are; row "none" says what it changes in these.

{light_table()}

What `mrcar_resnet` makes of some of the regions, the others covered; FER+ and FER2013, validation split, one crop. In `ferplus_v2` the
branch of the face had learned nothing, since eyes and mouth, cut out and enlarged, are learned faster; since then it learns
alone first. For `ferplus_v3` whole regions were covered now and then, but not when the student was taught and taught further:
single regions say less to it.

{regions_table()}

One face on one thread, in float32 but for int8, in one run ({speed["repeats"]} times in turn):

{network_table()}

Measured on: {speed["made_by"]["machine"]}.

What was tried and not taken: [runs](../results/tried/report.md), and [one factor at a time](../results/steps.md) in short
trainings, where most is gained if the branch of each region learns alone first. Teachers and students made on a GPU:
[results/distil](../results/distil/README.md); networks that are not packaged:
[results/everyday/first](../results/everyday/first/README.md).
"""


# The paper's experiments


def by_variant(rows: Rows, folder: str) -> dict[str, Rows]:
    """An ablation's runs, by variant."""
    found: dict[str, Rows] = {}
    for row in rows:
        if row["experiment"].startswith(f"{folder}/"):
            found.setdefault(row["variant"], []).append(row)
    return found


def chance(runs: Rows) -> float:
    """Two standard errors, in points, of the difference of two accuracies on as many images."""
    p, n = float(runs[0]["accuracy"]), sum(int(row["test_images"]) for row in runs)
    return 200 * math.sqrt(2 * p * (1 - p) / n)


def mean(runs: Rows) -> float:
    return 100 * sum(float(row["accuracy"]) for row in runs) / len(runs)


def verdict(found: dict[str, Rows], where: str) -> str:
    """Which parts helped, which did not, and which differences are within chance."""
    whole, limit = mean(found["mrcar"]), chance(found["mrcar"])
    differences = {name: mean(runs) - whole for name, runs in found.items() if name != "mrcar"}

    def named(names: list[str]) -> str:
        return ", ".join(f"{VARIANTS[name]} {differences[name]:+.1f}" for name in names) or "none"

    worse = [name for name, d in differences.items() if d < -limit]
    better = [name for name, d in differences.items() if d > limit]
    same = [name for name, d in differences.items() if abs(d) <= limit]
    return (
        f"{where}, differences from MrCAR in points; up to {limit:.1f} are within chance (two standard errors). Clearly "
        f"worse: {named(worse)}. Clearly better: {named(better)}. Within chance, so that the part is not shown to help at "
        f"this budget: {named(same)}."
    )


def ablations(rows: Rows) -> str:
    columns = {"ckplus": by_variant(rows, "ckplus-ablation"), "fer2013": by_variant(rows, "fer2013-ablation")}
    lines = [
        [title, *(cell for data, found in columns.items()
                  for cell in (mean_and_spread(found[name]) if name in found else "not run", paper(data, name)))]
        for name, title in VARIANTS.items()
    ]  # fmt: skip
    header = ["", "CK+, subject folds", "the paper, its protocol", "FER2013, validation", "the paper, test"]
    budgets = [
        f"Budget on {title}: {budget(columns[data]['mrcar'])}, {columns[data]['mrcar'][0]['size']} pixels a side."
        for data, title in (("ckplus", "CK+"), ("fer2013", "FER2013"))
    ]
    verdicts = [verdict(columns["ckplus"], "On CK+"), verdict(columns["fer2013"], "On FER2013")]
    return "\n\n".join([table(header, lines), "\n".join(budgets), *verdicts])


def training_speed() -> str:
    record = read("training_speed")
    rows = [
        [
            row["way"] + (" (used)" if row["used"] else ""), f"{row['ms']:.1f}", f"×{row['ratio']:.2f}",
            *(f"{value / row['ms']:.1%}" for value in row["phases"].values()),
        ]
        for row in record["rows"]
    ]  # fmt: skip
    measured = f"Measured on: {record['made_by']['machine']}, batches of {record['batch_size']}."
    if not any(row["used"] for row in record["rows"] if row["way"] == "bfloat16"):
        measured += " This processor has no instructions for bfloat16, so training does not use it."
    header = ["", "ms an image", "ratio", "data", "forward", "backward", "optimizer"]
    return f"{table(header, rows)}\n\n{measured}"


def experiments() -> str:
    rows = read_rows(RESULTS / "experiments/runs.csv")
    crossed = []
    for protocol, meaning in FOLDS.items():
        runs = [row for row in rows if row["experiment"] == protocol]
        reported = f"{PAPER['ckplus']['mrcar']:.2f}" if protocol == "paper" else ""
        crossed.append([meaning, mean_and_spread(runs), reported, budget(runs)])
    machines = sorted({row["machine"] for row in rows})
    return f"""## The paper's experiments

CK+ in ten folds, scored by the last epoch with ten crops. Two of the three protocols are *leaky*: near copies of the images
that are tested are trained on, and the figure promises too much. The first row is what to expect of a new face. All of this
ran on two processor cores: each row says how little it was trained, against the paper's 100 and 200 epochs, and the
ablations start from random weights.

{table(["CK+, folds", "accuracy, mean ± spread over folds", "the paper", "budget"], crossed)}

What each part is worth: the same recipe with one part changed.

{ablations(rows)}

Where the time of a training step goes, and what each way to train faster gains:

{training_speed()}

Runs on: {", ".join(machines)}. A row for each run, with command, commit, digests and seconds:
[runs.csv](../results/experiments/runs.csv); [all tables](../results/experiments/report.md), curves and confusion matrices
beside them.
"""


# The face path


def faces_table() -> str:
    timing = {(row["image"], row["size"], row["search"]): row for row in read("faces")["rows"]}
    rows = []
    for image, title in PHOTOS.items():
        for size in dict.fromkeys(size for _, size, _ in timing):
            both = [timing[image, size, search] for search in ("all faces", "main face")]
            ours = [f"{row['ours_ms']:.0f} ms (×{row['ratio']:.1f})" for row in both]
            rows.append([title, size, f"{both[0]['facenet_ms']:.0f} ms", *ours])
    return table(["image", "size", "facenet-pytorch", "ours", "ours, main face only"], rows)


def faces() -> str:
    timing, more = read("faces"), read("faces_more")
    only = [sum(row[f"only_{who}"] for row in timing["rows"]) for who in ("facenet", "ours")]
    speeds = more["video_frames_per_second"]
    return f"""## Detecting faces

`MTCNNDetector` uses facenet-pytorch's networks in a driver of its own. Against `facenet_pytorch.MTCNN.detect` with landmarks,
on the same images, faces from 20 pixels up, one thread, our side including the crops of the regions (`mrcar bench faces`):

{faces_table()}

Boxes that only one of the two finds in these images: {only[0]} of facenet-pytorch's, which are no faces, and {only[1]} of
ours.

{detection()}

A video of 640×480 with one face, read, tracked, recognized, drawn and written: {min(speeds)} to {max(speeds)} frames a
second in five runs, on both cores.

Measured on: {timing["made_by"]["machine"]}, PyTorch {timing["made_by"]["torch"].split("+")[0]}; commands and digests of the
images: [faces.json](../results/faces.json), [faces_more.json](../results/faces_more.json),
[detection.json](../results/detection.json).
"""


def detection() -> str:
    record = read("detection")
    rows = record["rows"]
    names = {"ours": "ours", "any_angle": "any angle", "exact": "exact", "facenet-pytorch": "facenet-pytorch"}
    threshold = "0.7"
    cells = []
    for row in rows:
        counts = [row[name]["found_invented"][threshold] for name in names]
        speed = row["facenet-pytorch"]["seconds"] / row["ours"]["seconds"]
        cells.append(
            [
                row["kind"], row["condition"], str(row["faces"]), *(f"{found} / {invented}" for found, invented in counts),
                f"×{speed:.1f}",
            ]
        )  # fmt: skip
    usual = [row for row in rows if not (row["kind"] == "angle" and row["condition"] in TURNED_FAR)]
    sums = {
        name: [sum(row[name]["found_invented"][threshold][k] for row in usual) for k in (0, 1)]
        for name in ("ours", "facenet-pytorch")
    }
    seconds = {name: sum(row[name]["seconds"] for row in rows) for name in names}
    return f"""Faces found and invented in scenes that are composed of two public-domain portraits, random colors and pieces of the
portraits without their faces (images a condition: {record["rows"][0]["images"]}; thresholds as they come; `python -m
tools.detection`). Up to 45°, ours finds {sums["ours"][0]} of {sum(row["faces"] for row in usual)} faces and invents
{sums["ours"][1]}, facenet-pytorch's driver {sums["facenet-pytorch"][0]} and {sums["facenet-pytorch"][1]}, and takes
{seconds["facenet-pytorch"] / seconds["ours"]:.1f} times as long; `any_angle=True` takes {seconds["any_angle"] / seconds["ours"]:.1f} times
as long as ours by default. Two faces tell little of other people, and composed scenes little of photos.

{table(["kind", "condition", "faces", *names.values(), "speed"], cells)}

"speed": facenet-pytorch's time over ours. Faces turned further than 90° are left out by default, as upside down they would be
taken for other expressions; `any_angle=True` or `--any-angle` finds them.

![Faces found against faces invented an image, for thresholds from 0.5 to 0.99](../results/detection.png)"""


# Inserted attention


def insertion_table() -> str:
    found = read("insertion")
    rows = found["rows"]
    wheres = ("residual", "stages", "attention")
    made = [row for row in rows if "residual" in row]
    counts = {where: sum(bool(row[where]) for row in made) for where in wheres}
    some = [row for row in made if any(row[where] for where in wheres)]
    modules = {row["module"] for row in made}
    without = sorted(modules - {row["module"] for row in some})
    smallest = {row["module"]: row for row in reversed(made)}
    lines = [
        [row["module"], row["network"], *(str(row[where] or "") for where in wheres)]
        for _, row in sorted(smallest.items())
        if row in some
    ]
    failed = sum(row[where] is None for row in made for where in wheres)
    return (
        f"Of {len(made)} networks (the smallest of {len(modules)} modules of timm {found['made_by']['timm']}), attention finds "
        f"a place in {len(some)}:\nin {counts['residual']} on residual branches, in {counts['stages']} behind stages, in "
        f"{counts['attention']} on attention or where room is kept for it. In {failed or 'none'} of them did a\ncheck fail: the "
        "output is the same to the bit at insertion and after removal, a copy computes the same, and\ncheckpoints fit. "
        f"Modules in whose networks there is no place, as they compute on tokens:\n{', '.join(without)}.\n\n"
        + table(["module", "its smallest network", *wheres], lines)
    )


def attention_speed_table() -> str:
    found = read("attention_speed")
    rows = [
        [
            row["network"],
            str(row["places"]),
            f"{row['ms']:.1f}",
            *(f"{row[key] - 1:+.0%}" for key in ("coord", "timm_coord", "se")),
            f"{row['added'] / row['parameters']:+.1%}",
        ]
        for row in found["rows"]
    ]
    header = ["network", "places", "ms", "CA", "timm's CA", "SE", "parameters of CA"]
    return f"{table(header, rows)}\n\n{found['made_by']['machine']}, PyTorch {found['made_by']['torch'].split('+')[0]}."


def attention_gain_table() -> str:
    found = read("attention")
    rows: list[list[str]] = []
    names = {"none": "none", "se": "SE", "coord": "CA"}
    runs = {
        (network, name): [row for row in found["rows"] if (row["network"], row["attention"]) == (network, name)]
        for network in dict.fromkeys(row["network"] for row in found["rows"])
        for name in names
    }
    for (network, name), each in runs.items():
        accuracies = [100 * row["accuracy"] for row in each]
        gains = [100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(each, runs[network, "none"], strict=True)]
        rows.append(
            [
                network,
                names[name],
                f"{each[0]['parameters'] / 1e6:.2f} M",
                f"{fmean(accuracies):.2f} ± {stdev(accuracies):.2f}",
                " ".join(f"{value:.2f}" for value in accuracies),
                f"{fmean(row['nll'] for row in each):.3f}",
                "" if name == "none" else f"{fmean(gains):+.2f} ± {stdev(gains):.2f}",
            ]
        )
    ahead = [
        f"{network} with {names[name]}"
        for (network, name), each in runs.items()
        if all(a["accuracy"] > b["accuracy"] for a, b in zip(each, runs[network, "none"], strict=True))
    ]
    header = ["network", "attention", "parameters", "accuracy, %", "by seed", "NLL", "gain over none, paired"]
    verdict = f"Ahead of the network without attention with each of the three seeds: {', '.join(ahead) or 'none'}."
    images, made_by = found["validation"]["count"], found["made_by"]
    return (
        f"{table(header, rows)}\n\n{verdict} On {images:,} images one standard error is about "
        f"{100 * math.sqrt(0.25 / images):.1f} points.\n{made_by['machine']}, PyTorch {made_by['torch'].split('+')[0]}."
    )


# Training


def own_images_table() -> str:
    found = read("own_images")
    with open(RESULTS / "experiments" / "runs.csv", newline="", encoding="utf-8") as file:
        known = next(row for row in csv.DictReader(file) if row["experiment"] == "subject")
    rows = [
        ["`mrcar crossval` on CK+, recipe `ckplus`", f"{float(known['accuracy']):.1%} ± {100 * float(known['spread']):.1f}",
         known["epochs"], ""]
    ]  # fmt: skip
    speed = found["speed"]
    for name, title in (("all layers", "`finetune`"), ("backbone frozen", "`finetune --freeze backbone`")):
        each, ms = found[name], speed["train_ms"][name]
        images = each["images"] * (each["folds"] - 1) // each["folds"]
        epochs = epochs_for(images)
        minutes = images * epochs * ms / 60_000
        rows.append([title, f"{each['accuracy']:.1%} ± {100 * each['spread']:.1f}", str(epochs), f"{minutes:.1f}"])

    def minutes_for(count: int) -> str:
        return f"{count * epochs_for(count) * speed['train_ms']['all layers'] / 60_000:.1f}"

    made_by = speed["made_by"]
    return (
        f"{table(['', 'accuracy', 'epochs', 'minutes a fold, in color'], rows)}\n\n"
        f"± is the standard deviation over folds. On two CPU cores 200 images ({epochs_for(200)} epochs) train for about "
        f"{minutes_for(200)} minutes, 20,000\n({epochs_for(20_000)} epochs) for about {minutes_for(20_000)}: "
        f"{speed['train_ms']['all layers']:.0f} ms an image and epoch, {speed['train_ms']['backbone frozen']:.0f} with a frozen "
        f"backbone. Finding the faces comes once\nbefore, {speed['photo_ms']:.0f} ms for a photo of 12 megapixels. "
        f"Memory grows by {found['memory']['mb_for_1000']:.0f} MB for 1,000 color images, whatever their size.\n"
        f"{made_by['machine']}, PyTorch {made_by['torch'].split('+')[0]}."
    )


def backbones_table() -> str:
    found = read("backbones")
    rows_of = {(row["network"], row["variant"]): row for row in found["rows"]}
    lines = []
    for network in dict.fromkeys(row["network"] for row in found["rows"]):
        whole, face, plain = (rows_of[network, variant] for variant in ("whole", "no regions", "no attention"))
        lines.append([
            f"`{network}`", f"{whole['parameters'] / 1e6:.1f} M",
            *(f"{row['accuracy']:.1%}" for row in (whole, face, plain)),
            *(f"{row['ms']:.1f}" for row in (whole, face, plain)),
        ])  # fmt: skip
    networks = list(dict.fromkeys(row["network"] for row in found["rows"]))

    def gains(without: str) -> str:
        differences = [
            100 * (rows_of[network, "whole"]["accuracy"] - rows_of[network, without]["accuracy"])
            for network in networks
        ]
        ahead = sum(difference > 0 for difference in differences)
        return f"{ahead} of {len(networks)} networks ({min(differences):+.1f} to {max(differences):+.1f} points)"

    recipe, made_by = found["recipe"], found["speed_made_by"]
    images = found["data"]["validation"]["count"]
    header = ["", "parameters", "validation", "face alone", "without CA", "ms", "face alone", "without CA"]
    return (
        f"{table(header, lines)}\n\nFER2013, {recipe['limit']:,} images, {recipe['epochs']} epochs, regions of "
        f"{recipe['size']} pixels, one backbone for all regions (`mrcar_resnet` has one each), one seed;\nscored on "
        f"{images:,} images, where one standard error is {100 * math.sqrt(0.4 * 0.6 / images):.1f} points. ms: the regions of one face on "
        f"one thread, {made_by['machine']}.\nEyes and mouth help {gains('no regions')}, CA {gains('no attention')}: so short a budget from random weights says "
        "little about long training or pretrained backbones."
    )


EVERYDAY_VIEWS = {
    "one": "one crop", "mirror": "mirror images", "ten": "ten crops", "blur": "blurred", "noise": "noisy"
}  # fmt: skip


def everyday_table() -> str:
    """Scores of the run behind ``mrcar_mobilenet``'s weights, and what the rules chose."""
    found, chosen = read("everyday/scores"), read("everyday/weights")
    sources = {"ckplus": "CK+", "fer2013": "FER2013", "ferplus": "FER+"}
    photos = [
        [f"{head.removeprefix('everyday_')} %", *(f"{each[s]['accuracy']:.1%} ({each[s]['recall']:.1%})" for s in sources),
         f"{each['mean']:.4f}"]
        for head, each in found["mirror"].items() if "mean" in each
    ]  # fmt: skip
    strength = f"everyday_{round(100 * chosen['strength'])}"
    heads = [
        [title, *(f"{found[view][head][head]['accuracy']:.1%}" for head in ("fer2013", "ferplus")),
         f"{found[view][strength]['ferplus']['accuracy']:.1%}"]
        for view, title in EVERYDAY_VIEWS.items()
    ]  # fmt: skip
    everyday = chosen["weights"]["mrcar_mobilenet.everyday"]
    first = read("everyday/first/scores")
    before = first["networks"][first["chosen"]]["mirror"]
    errors = "; ".join(f"{name} {value:.1%}" for name, value in everyday["ece"].items())
    made_by = found["made_by"]
    return (
        f"{found['epochs']:.1f} epochs in {found['seconds'] / 60:.0f} minutes on {made_by['machine']}, commit "
        f"{made_by['commit'][:12]}, one run, seed {found['seed']}:\n`{made_by['command']}`.\n\n"
        f"{table(['strength: accuracy (mean recall)', *sources.values(), 'mean'], photos)}\n\n"
        f"{table(['validation', 'FER2013, own head', 'FER+, own head', 'FER+, head for photos'], heads)}\n\n"
        "Blur and noise are those of `mrcar robustness`, one crop, with the landmarks of the clean images.\n\n"
        "With mirror images, the network chosen in [first](first/README.md), which starts from VGGFace2 and not from the "
        f"teacher, has {before['everyday']['ckplus']['accuracy']:.1%} "
        f"({before['everyday']['ckplus']['recall']:.1%}) on CK+ at strength 100 %, and with its own heads "
        f"{before['fer2013']['accuracy']:.1%} and {before['ferplus']['accuracy']:.1%}.\n\n"
        f"Chosen: strength {chosen['strength']}, temperature {everyday['temperature']:.3f}; ECE {errors}."
    )


TAUGHT = {"fer2013": "FER2013", "ferplus": "FER+"}


def taught_table() -> str:
    """Validation scores of ``mrcar_resnet`` as ``tools.everyday`` taught it, beside those of the weights before."""
    runs = {
        "taught": read("everyday/mrcar_resnet/first/scores"),
        "taught further": read("everyday/mrcar_resnet/scores"),
    }
    packaged, students = read("history"), read("distil/scores")["students"]
    rows = []
    for view, title in EVERYDAY_VIEWS.items():
        row = [title]
        for head in TAUGHT:
            before = packaged[f"mrcar_resnet.{head}_v3"]["scores"]["validation"].get(f"{view}, all")
            found = [run[view][head][head]["accuracy"] for run in runs.values()]
            row += [f"{x:.2%}" if x is not None else "" for x in (before, students[head].get(view), *found)]
        rows.append(row)
    titles = [f"{title}, {which}" for title in TAUGHT.values() for which in ("packaged", "student", *runs)]
    about = [
        f"{name}: {run['epochs']:.1f} epochs in {run['seconds'] / 60:.0f} minutes on {run['made_by']['machine']}, commit "
        f"{run['made_by']['commit'][:12]}, batch {run['batch']}, one run, seed {run['seed']}:\n"
        f"`{run['made_by']['command']}`"
        for name, run in runs.items()
    ]
    lines = ";\n".join(about)
    return (
        f"{lines}.\n\n{table(['validation', *titles], rows)}\n\n"
        'Blur and noise are those of `mrcar robustness`, one crop, with the landmarks of the clean images. "Packaged" is '
        "`fer2013_v3` and\n`ferplus_v3` of [history.json](../history.json)."
    )


def shares_table(found: dict[str, dict[str, Any]]) -> str:
    """Scores of ``mrcar_resnet`` by the share of the taught network in its weights, by head; the chosen share in bold."""
    views = {"one": "one crop", "mirror": "mirror images", "ten": "ten crops", "blur": "blurred", "noise": "noisy"}
    views = {view: title for view, title in views.items() if view in next(iter(found.values()))["rows"][0]}
    rows = []
    for head, each in found.items():
        before = read("history")[f"mrcar_resnet.{head}_v3"]["scores"]["validation"]
        cells = [f"{before[f'{view}, all']:.2%}" if f"{view}, all" in before else "" for view in views]
        rows.append([f"{TAUGHT[head]}, packaged before", *cells])
        for row in each["rows"]:
            cells = [f"{TAUGHT[head]}, {row['share']:.1%}", *(f"{row[view]:.2%}" for view in views)]
            rows.append([f"**{cell}**" for cell in cells] if row["share"] == each["share"] else cells)
    return table(["share of the taught network", *views.values()], rows)


def said_by(made_by: dict[str, str]) -> str:
    return f"`{made_by['command']}`, commit {made_by['commit'][:12]}, {made_by['machine']}"


def blend_both_table() -> str:
    """The shares of the network that was taught for both data sets, as they were first scored."""
    found = read("everyday/mrcar_resnet/blend_both")
    return f"{shares_table(found['heads'])}\n\n{said_by(found['made_by'])}. Chosen is what stands in bold."


def blend_table() -> str:
    """The shares from which the packaged weights were chosen."""
    found = {head: read(f"everyday/mrcar_resnet/blend_{head}") for head in TAUGHT}
    commands = ";\n".join(said_by(each["made_by"]) for each in found.values())
    return f"{shares_table(found)}\n\n{commands}. Chosen is what stands in bold."


def alone_table() -> str:
    """Validation scores of ``mrcar_resnet`` as it was taught for each data set alone, beside those before."""
    students, both = read("distil/scores")["students"], read("everyday/mrcar_resnet/scores")
    alone = {head: read(f"everyday/mrcar_resnet/{head}/scores") for head in TAUGHT}
    rows = []
    for view, title in EVERYDAY_VIEWS.items():
        row = [title]
        for head, run in alone.items():
            found = (students[head].get(view), *(each[view][head][head]["accuracy"] for each in (both, run)))
            row += [f"{value:.2%}" if value is not None else "" for value in found]
        rows.append(row)
    about = [
        f"{TAUGHT[head]}: {run['epochs']:.1f} epochs in {run['seconds'] / 60:.0f} minutes, batch {run['batch']}, one run, seed "
        f"{run['seed']}:\n{said_by(run['made_by'])}"
        for head, run in alone.items()
    ]
    titles = [
        f"{title}, {which}" for title in TAUGHT.values() for which in ("student", "taught for both", "taught alone")
    ]
    lines = ";\n".join(about)
    return f"{lines}.\n\n{table(['validation', *titles], rows)}"


def deploy_tables() -> dict[str, str]:
    """What docs/deploy.md says of speed, precision, the runtime and the browser."""
    speed, precision, alone, web = (read(name) for name in ("network_speed", "export", "runtime", "browser"))

    def times(value: float | None) -> str:
        return "" if value is None else f"×{value:.1f}"

    some = [
        [
            row["network"], f"{row['ms']:.1f}", times(row["speedup"]), f"{row['ms_of_some']:.1f}",
            times(row["speedup_of_some"]),
        ]
        for row in speed["rows"]
    ]  # fmt: skip
    both = [
        [
            f"`{row['network']}`",
            *(f"{row['float32'][key]:.2%} / {row['int8'][key]:.2%}" for key in ("accuracy", "macro_f1", "ece")),
            f"{row['same_class']:.1%}",
            f"{row['probabilities_apart']['mean']:.3f}, {row['probabilities_apart']['most']:.2f}",
            f"{row['megabytes']['float32']:.1f} / {row['megabytes']['int8']:.1f}",
        ]
        for row in precision["rows"]
    ]
    rates = alone["video"]["frames_per_second"]
    searches = [f"{row['ratio']:.1f} times on {count(row['threads'], 'thread')}" for row in alone["detection"]]
    browsers = [[row["precision"], f"{row['ms']:.0f} ms", f"{row['apart']:.1e}"] for row in web["rows"]]
    return {
        "runtime": (
            f"- `{alone['network']}`: the first result is there {alone['start']['seconds']:.1f} s after the import began, "
            f"in {alone['start']['megabytes']:.0f} MB.\n"
            f"- Detection, all faces at 640×480, takes {' and '.join(searches)} as long as with PyTorch.\n"
            f"- Video of 640×480 with one face, read, followed, drawn and written, on two cores: {rates['torch']:.0f} frames "
            f"a second\n  with PyTorch, {rates['onnx']:.0f} with `--backend onnx`, {rates['onnx, int8']:.0f} in 8 bits.\n\n"
            f"Measured on: {alone['made_by']['machine']}."
        ),
        "speed": (
            f"{table(['network', 'one face', '× recognizer', 'one of 16', '× recognizer'], some)}\n\n"
            f"Measured on: {speed['made_by']['machine']}, with {speed['repeats']} repetitions."
        ),
        "precision": (
            table(["float32 / int8", "accuracy", "macro-F1", "ECE", "same class", "apart: mean, most", "MB"], both)
        ),
        "browser": (
            f"{table(['precision', 'a face', 'probabilities apart from here'], browsers)}\n\n"
            f"`{default_name()}`, onnxruntime-web {web['onnxruntime_web']} in headless Chromium {web['chromium'].split('.')[0]}, "
            f"one thread; its wasm is {web['wasm_megabytes_compressed']:.1f} MB compressed."
        ),
    }


def demo_speed() -> str:
    """What docs/demo.md says of its start and its camera."""
    found = read("demo")
    seconds, camera = found["seconds"], found["camera"]
    return (
        f"The page is there {seconds['page']:.1f} s after the command, and the faces of a first photo after "
        f"{seconds['first_photo']:.1f} s, where `mrcar predict` takes {seconds['command_line']:.1f} s for that photo and "
        f"`import timm` {seconds['import_timm']:.1f} s.\nThe camera, at 640×480 with one face, runs at {camera['page']:.0f} frames a second "
        f"beside its browser on the same two cores; the tracker alone at {camera['tracker_alone']:.0f}.\n\n"
        f"Measured on: {found['made_by']['machine']}, {found['starts']} starts, headless Chromium "
        f"{camera['chromium'].split('.')[0]}, without a graphics card."
    )


MILLION, FILM_HOURS, GIGABIT = 1_000_000, 10_000, 125_000_000  # photos, hours, bytes a second
_FRAMES_A_SECOND = 25


def scale_tables() -> dict[str, str]:
    """What docs/scale.md works out from results/scale.json."""
    found = read("scale")
    made_by = f"Measured on: {found['made_by']['machine']}."
    return {
        "embeddings": _embeddings(),
        "costs": f"{_costs(found)}\n\n{made_by}",
        "bottlenecks": _bottlenecks(found),
        "simulation": _simulation(found),
        "films": _films(found),
        "training": _epochs(found),
    }


def _embeddings() -> str:
    rows = [
        [row["network"], *(f"{row[key]:.1%}" for key in ("nearest", "ten", "chance", "classified"))]
        for row in read("embeddings")["rows"]
    ]
    header = ["network", "nearest", "ten nearest", "by chance", "network right"]
    count = read("embeddings")["rows"][0]["count"]
    return (
        f"How often the faces next to one, by their cosine, have its expression, among the {count:,} of FER+'s validation split "
        f"(majority of the votes); beside it how often the network is right. `everyday` and `ferplus` differ in the head alone:\n\n{table(header, rows)}"
    )


def _costs(found: dict[str, Any]) -> str:
    commands, memory, size = found["commands"], found["memory"], found["bytes_a_face"]
    one, two, ray = (commands[way]["images_a_second"] for way in ("one", "two", "ray"))
    rows = []
    for name, photo in found["photos"].items():
        width, height = found["sizes"][name]
        parts = [f"{photo[f'{stage}_ms']:.1f}" for stage in ("read", "detect", "network", "all")]
        hours = photo["all_ms"] / 1000 * MILLION / 3600
        rows.append(
            [
                f"{width}×{height}",
                *parts,
                f"{hours:.0f}",
                f"{photo['bytes'] * MILLION / 1e9:.0f} GB",
                f"{memory[name] / 1e6:.0f} MB",
            ]
        )
    header = ["photo", "read, ms", "detect", "network", "all", "a million: core-hours", "read", "memory a process"]
    faces = next(iter(found["photos"].values()))["faces"]
    return (
        f"A photo with {faces:.0f} faces on one core, and a million of them. The photos are this repository's examples, enlarged and with a "
        f"camera's noise; the files were in the system's cache.\n\n{table(header, rows)}\n\n"
        f"- Two processes on two cores score {two / one:.2f} times as many images a second as one ({two:.1f} and {one:.1f}); with the "
        f"start, {commands['one']['seconds_of_many'] / commands['two']['seconds_of_many']:.2f} times for {found['many']} photos. Each has one "
        "thread.\n"
        f"- Two actors of Ray on the same two cores score {ray / two:.2f} times as many as the two processes; Ray itself takes "
        f"{memory['ray'] / 1e9:.1f} GB and {commands['ray']['seconds_of_few'] - commands['two']['seconds_of_few']:.0f} s more to start and end. "
        "It is for more than one machine.\n"
        f"- A million faces are about {size['plain'] * MILLION / 1e6:.0f} MB of results, {size['embeddings'] * MILLION / 1e6:.0f} MB with "
        f"embeddings. The command that writes them takes {memory['command'] / 1e6:.0f} MB."
    )


def _bottlenecks(found: dict[str, Any]) -> str:
    rows = []
    for name, photo in found["photos"].items():
        width, height = found["sizes"][name]
        full = GIGABIT / photo["bytes"] * photo["all_ms"] / 1000
        full_gpu = GIGABIT / photo["bytes"] * photo["read_ms"] / 1000
        rows.append(
            [
                f"{width}×{height}", f"{photo['detect_ms'] / photo['all_ms']:.0%}", f"{full:.0f}",
                f"{1000 / photo['read_ms']:.0f}", f"{full_gpu:.0f}",
            ]
        )  # fmt: skip
    header = [
        "photo",
        "share of detection",
        "cores that a gigabit feeds",
        "photos a second a core can read",
        "reading cores that a gigabit feeds",
    ]
    gpu = found["gpu"]
    milliseconds = 1000 / gpu["images_a_second"]
    return (
        f"{table(header, rows)}\n\n"
        "On cores alone, detection is the bottleneck, at any size, until the third column: with more cores than that, a link of one "
        "gigabit a second to where the photos lie is.\n\n"
        f"On a GPU: an {gpu['machine']} passed {gpu['images_a_second']:,.0f} faces a second through five networks, three of them like the default one, "
        f"forward and backward and with everything else that training does, so that a million faces take it less than "
        f"{MILLION / gpu['images_a_second']:.0f} GPU-seconds ({milliseconds:.2f} ms each). Detection on a GPU was not measured. If it "
        "cost nothing either, reading would be what is left: the last two columns. Small photos then wait for the link, large ones for the "
        "decoder, so that each GPU needs many cores to read for it."
    )


def _simulation(found: dict[str, Any]) -> str:
    simulated = found["simulation"]
    last = simulated["rows"][-1]
    rows = [
        [
            f"{row['workers']:,}", f"{row['hours']:.2f}", f"{row['queue']:.1%}", f"{row['best_slow']:.1%}",
            f"{row['queue_slow']:.1%}", f"{row['shares_slow']:.1%}",
        ]
        for row in simulated["rows"]
    ]  # fmt: skip
    header = [
        "cores",
        "hours, if none ever waits",
        "all alike",
        "a sixteenth is slow: at best",
        "shared queue",
        "equal shares",
    ]
    seconds = sum(found["photos"][size]["all_ms"] for size in ("small", "small", "medium", "large")) / 4 / 1000
    return (
        f"Cores = images × core-seconds an image ÷ (seconds × efficiency). A million photos, half of them small, a quarter medium and a "
        f"quarter large, are {seconds * MILLION / 3600:.0f} core-hours: within an hour {seconds * MILLION / 3600:.0f} cores, and some more for what "
        "the efficiency costs.\n\n"
        f"The efficiency, simulated for these photos in chunks of {simulated['chunk']}, where each core takes the next chunk when it is "
        "free, and no more are begun than {simulated['ahead']} for each core ahead of what is written, as `mrcar score` does; in the last three columns each sixteenth core takes "
        f"three times as long:\n\n{table(header, rows)}\n\n"
        "With a shared queue a slow machine costs little more than it lacks; what is missing to the best is the end, where some still compute "
        "and others have nothing left. It grows with the number of cores, as there is less for each to do. With equal shares, as where each "
        "machine has its own list, all wait for the slowest, and two thirds of the cluster are lost. With four chunks ahead, "
        f"{last['workers']:,} cores would reach {last['queue_slow_of_four']:.1%}: rows stay in order, and wait for those before them."
    )


def _films(found: dict[str, Any]) -> str:
    frames = FILM_HOURS * 3600 * _FRAMES_A_SECOND
    rows = [
        [
            name, f"{film['read_seconds'] * 1000:.1f}", f"{film['all_seconds'] * 1000:.1f}",
            f"{film['all_seconds'] * _FRAMES_A_SECOND:.2f}", f"{film['all_seconds'] * frames / 3600:,.0f}",
        ]
        for name, film in found["films"].items()
    ]  # fmt: skip
    header = [
        "frames",
        "decode, core-ms",
        "decode and follow one face",
        "cores for one film as it plays",
        "core-hours for ten thousand hours",
    ]
    return (
        f"{table(header, rows)}\n\n"
        f"At {_FRAMES_A_SECOND} frames a second, each of which is looked at by `mrcar video`, with new faces looked for in each tenth. Ten "
        f"thousand hours are {frames / 1e6:,.0f} million frames; at one megabit a second of film, "
        f"{FILM_HOURS * 3600 * 1e6 / 8 / 1e12:.1f} TB. Films are independent: a process for each, as `xargs -P` starts them, is all it "
        "takes. Decoding is a small part: on cores the tracker is the bottleneck."
    )


def _epochs(found: dict[str, Any]) -> str:
    one, threads, two = (found["training"][way] for way in ("one", "one_two_threads", "two"))
    return (
        f"On these two cores two processes take {two / one:.2f} times as long for an epoch as one with one thread, and {two / threads:.2f} times as "
        "long as one with two threads (`mrcar_resnet`, 512 images, 128 a step): on one machine without GPUs, threads do as well. Several GPUs "
        "or machines were not at hand."
    )


def count(number: int, noun: str) -> str:
    """Such as "1 thread" and "2 threads"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def with_tables(file: Path, tables: dict[str, str]) -> str:
    """A document whose tables, between comments that name them, are as told."""
    text = file.read_text(encoding="utf-8")
    for name, content in tables.items():
        before, rest = text.split(f"<!-- {name} -->\n", 1)
        _, after = rest.split(f"<!-- /{name} -->", 1)
        text = f"{before}<!-- {name} -->\n{content}\n<!-- /{name} -->{after}"
    return text


def results() -> str:
    """The text of docs/results.md."""
    head = (
        "# Results\n\nWritten by `python -m tools.tables` from the files in [results/](../results), each of which names "
        "the command, commit,\ndata and machine that made it.\n"
    )
    return "\n".join([head, scores(), comparisons(), experiments(), faces()])


def cards() -> dict[str, str]:
    """Model cards by name, as they are published to a repository ORG/NAME."""
    return {
        name: render_card(record, read_config(WEIGHTS_DIR / name), f"ORG/{name}") for name, record in PACKAGED.items()
    }


def documents() -> dict[Path, str]:
    """All that is generated, by file."""
    layers = {"insertion": insertion_table(), "attention_speed": attention_speed_table()}
    return {
        DOCS / "results.md": results(),
        DOCS / "layers.md": with_tables(DOCS / "layers.md", layers),
        DOCS / "deploy.md": with_tables(DOCS / "deploy.md", deploy_tables()),
        DOCS / "demo.md": with_tables(DOCS / "demo.md", {"demo": demo_speed()}),
        DOCS / "scale.md": with_tables(DOCS / "scale.md", scale_tables()),
        DOCS / "training.md": with_tables(
            DOCS / "training.md", {"own_images": own_images_table(), "backbones": backbones_table()}
        ),
        RESULTS / "everyday" / "README.md": with_tables(
            RESULTS / "everyday" / "README.md",
            {
                "everyday": everyday_table(),
                "mrcar_resnet": taught_table(),
                "blend_both": blend_both_table(),
                "alone": alone_table(),
                "blend": blend_table(),
            },
        ),
        DOCS / "experiments.md": with_tables(DOCS / "experiments.md", {"attention": attention_gain_table()}),
        **{DOCS / "cards" / f"{name}.md": text for name, text in cards().items()},
    }


def main(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a file is not current.")] = False,
) -> None:
    """Write docs/results.md, docs/cards and the tables of other documents."""
    stale = []
    for file, text in documents().items():
        if not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(str(file.relative_to(ROOT)))
    if stale:
        print(f"not current, run python -m tools.tables: {', '.join(stale)}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
