"""Every task metric against a library or by hand, and what it refuses."""

import contextlib
import io
import math
import sys
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import jaccard_score, top_k_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity

from onnxq.errors import CalibrationError, OnnxqError, RecipeError, UnknownNameError, UsageError
from onnxq.metrics import METRICS, metric
from onnxq.metrics.answers import Answers, Metric
from onnxq.metrics.custom import Custom, load
from onnxq.metrics.judge import Judge, scored
from onnxq.metrics.recognition import ctc_greedy, edit_share
from onnxq.metrics.similarity import similarity
from onnxq.numerics.boxes import corners, suppress

SEED = 7
N = 12
WORDS = ["ab", "b a", "", "ccc", "abc ", "a"]


def answers(outputs: dict[str, Any], **given: Any) -> Answers:
    samples = len(next(iter(outputs.values())))
    return Answers(**{"outputs": outputs, "reference": outputs, "samples": samples, **given})


def spell(texts: list[str], steps: int = 8, table: str = "abc ") -> np.ndarray:
    """Return CTC scores that read as given: each character, then a blank."""
    scores = np.zeros((len(texts), steps, len(table) + 1), np.float32)
    for row, text in zip(scores, texts, strict=True):
        row[:, 0] = 0.5
        for i, c in enumerate(text):
            row[2 * i, 1 + table.index(c)] = 1
    return scores


def classified(seed: int = SEED) -> Answers:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((N, 9)).astype(np.float32)
    return answers({"y": scores}, labels={"label": rng.integers(0, 9, N)})


def segmented(classes: int = 5, seed: int = SEED) -> Answers:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (N, 6, 7)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = 255
    scores = rng.standard_normal((N, classes, 6, 7)).astype(np.float32)
    return answers({"y": scores}, labels={"label": label})


def detected(pictures: int = N, seed: int = SEED) -> Answers:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 10, (pictures, 4, 2))
    corner += np.array([[0, 0], [40, 0], [0, 40], [40, 40]])
    wanted = np.concatenate([corner, corner + rng.uniform(5, 20, corner.shape)], axis=2)
    classes = rng.integers(-1, 3, (pictures, 4))
    boxes = np.repeat(wanted, 3, axis=1) + rng.normal(0, 1.5, (pictures, 12, 4))
    scores = rng.uniform(0, 1, (pictures, 12, 3)) * 0.5
    for n in range(pictures):
        for i, c in enumerate(classes[n]):
            scores[n, 3 * i : 3 * i + 3, c] += 0.4 * (c >= 0)
    return answers(
        {"boxes": boxes, "scores": scores},
        labels={"label_boxes": wanted.astype(np.float32), "label_classes": classes},
    )


def read_lines() -> Answers:
    return answers(
        {"y": spell(WORDS)},
        labels={"label": np.array(["ab", "ba", "a", "cc", "abc", "a"])},
        metadata={"character": "a\nb\nc\n"},
    )


def cases() -> list[tuple[Metric, Answers]]:
    rng = np.random.default_rng(SEED)
    noisy = rng.standard_normal((2, N, 9))
    near = answers({"y": noisy[0]}, reference={"y": noisy[1]})
    return [
        (metric("classification"), classified()),
        (metric("segmentation"), segmented()),
        (metric("detection"), detected()),
        (metric("recognition"), read_lines()),
        (metric("cosine"), near),
        (metric("noise"), near),
        (metric("relative-entropy"), near),
        (metric("fitness", weight=0.5), classified()),
    ]


def value(how: Metric, given: Answers) -> float:
    return how.score(how.evidence(given))


def refused(kind: type[OnnxqError], how: Metric, given: Answers) -> str:
    with pytest.raises(kind, match=r"\A.+\Z") as caught:
        how.evidence(given)
    return str(caught.value)


def test_every_metric_is_asked_here() -> None:
    assert {how.name for how, _ in cases()} == {cls.name for cls in METRICS}


def test_classification_is_the_librarys() -> None:
    given = classified()
    label, scores = given.labels["label"], given.outputs["y"]
    top1, top5, top3 = (
        top_k_accuracy_score(label, scores, k=k, labels=range(9)) for k in (1, 5, 3)
    )
    assert value(metric("classification"), given) == pytest.approx(0.7 * top1 + 0.3 * top5, 1e-9)
    assert value(metric("classification", weight=0.5, k=3), given) == pytest.approx(
        0.5 * top1 + 0.5 * top3, 1e-9
    )


@pytest.mark.parametrize("axis", [1, 3])
def test_segmentation_is_the_librarys(axis: int) -> None:
    given = segmented()
    label, scores = given.labels["label"], given.outputs["y"]
    counts = label != 255
    expected = jaccard_score(label[counts], scores.argmax(1)[counts], average="macro")
    if axis == 3:
        given = answers({"y": np.moveaxis(scores, 1, 3)}, labels=given.labels)
    assert value(metric("segmentation", axis=axis), given) == pytest.approx(expected, abs=1e-9)
    indices = answers({"y": scores.argmax(1)}, labels=given.labels)
    assert value(metric("segmentation", classes=5), indices) == pytest.approx(expected, abs=1e-9)


def test_classes_that_do_not_occur_do_not_count() -> None:
    label = np.zeros((1, 2, 2), np.int64)
    scores = np.zeros((1, 4, 2, 2), np.float32)
    scores[:, 0] = 1
    assert value(metric("segmentation"), answers({"y": scores}, labels={"label": label})) == 1
    all_ignored = answers({"y": scores}, labels={"label": label + 255})
    assert math.isnan(value(metric("segmentation"), all_ignored))


def coco_figures(given: Answers) -> tuple[float, float]:
    """Return AP 0.5:0.95 and AP 0.5 by pycocotools' own way, boxes not suppressed."""
    truth, found = COCO(), COCO()
    boxes, classes = given.labels["label_boxes"], given.labels["label_classes"]
    images = [{"id": n} for n in range(len(boxes))]
    categories = [{"id": c} for c in range(3)]

    def entry(number: int, n: int, c: int, box: Any, **more: Any) -> dict[str, Any]:
        x0, y0, x1, y1 = map(float, box)
        size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        return {"id": number, "image_id": n, "category_id": c, "iscrowd": 0, **size, **more}

    wanted = [(n, i) for n in range(len(boxes)) for i in range(4) if classes[n, i] >= 0]
    truth.dataset = {
        "images": images,
        "categories": categories,
        "annotations": [
            entry(k + 1, n, int(classes[n, i]), boxes[n, i]) for k, (n, i) in enumerate(wanted)
        ],
    }
    got = [(n, i, c) for n in range(len(boxes)) for i in range(12) for c in range(3)]
    answered, scores = given.outputs["boxes"], given.outputs["scores"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes(
            [entry(0, n, c, answered[n, i], score=float(scores[n, i, c])) for n, i, c in got]
        )
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def test_detection_is_pycocotools_also_batch_by_batch() -> None:
    given = detected()
    raw = {"nms": 1, "min_score": 0}
    whole, half = coco_figures(given)
    assert 0.1 < whole < half < 1
    assert value(metric("detection", **raw), given) == pytest.approx(whole, abs=1e-9)
    assert value(metric("detection", iou=0.5, **raw), given) == pytest.approx(half, abs=1e-9)
    how = metric("detection", **raw)
    parts: list[Any] = []
    for n in range(0, N, 5):
        cut = slice(n, n + 5)
        parts += how.evidence(
            answers(
                {k: v[cut] for k, v in given.outputs.items()},
                labels={k: v[cut] for k, v in given.labels.items()},
            )
        )
    assert how.score(parts) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("layout", ["xywh", "cxcywh"])
def test_layouts_and_class_outputs_of_boxes_mean_the_same(layout: str) -> None:
    given = detected()
    boxes, scores = given.outputs["boxes"], given.outputs["scores"]
    size = boxes[..., 2:] - boxes[..., :2]
    first = boxes[..., :2] + (size / 2 if layout == "cxcywh" else 0)
    outputs = {
        "boxes": np.concatenate([first, size], axis=2).repeat(3, axis=1),
        "s": scores.reshape(N, -1),
        "c": np.tile(np.arange(3), (N, 12)).astype(np.float32),
    }
    how = metric("detection", layout=layout, scores="s", classes="c")
    got = value(how, answers(outputs, labels=given.labels))
    assert got == pytest.approx(value(metric("detection"), given), abs=1e-9)


def test_a_lesser_box_that_overlaps_too_much_goes() -> None:
    boxes = corners(np.array([[0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 5, 5.0]]), "xywh")
    scores = np.array([0.5, 0.9, 0.1])
    assert suppress(boxes, scores, 0.5).tolist() == [1, 2]
    assert suppress(boxes, scores, 0.9).tolist() == [1, 0, 2]
    assert suppress(boxes[:0], scores[:0], 0.9).tolist() == []


def test_pictures_without_boxes_count() -> None:
    given = detected(2)
    both = value(metric("detection"), given)
    given.outputs["scores"][0] = 0
    assert 0 < value(metric("detection"), given) < both
    empty = {**given.labels, "label_classes": np.full((2, 4), -1)}
    assert math.isnan(value(metric("detection"), answers(dict(given.outputs), labels=empty)))


def levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_edit_distance_by_hand() -> None:
    words = ["", "kitten", "sitting", "abc", "cab", "abcabc"]
    for a in words:
        for b in words:
            longest = max(len(a), len(b))
            expected = levenshtein(a, b) / longest if longest else 0
            assert edit_share(a, b) == pytest.approx(expected, abs=1e-12)


def test_recognition_by_hand() -> None:
    given = read_lines()
    expected = [1, 0.5 * (1 - 1 / 3), 0, 0.5 * (1 - 1 / 3), 0.5 * 0.75, 1]
    assert metric("recognition").evidence(given) == pytest.approx(expected)
    stripped = metric("recognition", spaces="strip", weight=1).evidence(given)
    assert stripped == [1, 0, 0, 0, 1, 1]
    assert metric("recognition", spaces="ignore", weight=1).evidence(given) == [1, 1, 0, 0, 1, 1]


def test_repetitions_and_blanks_are_dropped() -> None:
    steps = [1, 1, 0, 1, 2, 2, 0, 0]
    scores = np.eye(3)[None, steps]
    assert ctc_greedy(scores, 0) == [[1, 1, 2]]
    assert ctc_greedy(scores, 2) == [[1, 0, 1, 0]]


def test_labels_may_be_class_indices_and_tables_files(tmp_path: Any) -> None:
    given = read_lines()
    label = np.array([[1, 2, -1], [2, 1, -1], [1, -1, -1], [3, 3, -1], [1, 2, 3], [1, -1, -1]])
    indexed = answers(dict(given.outputs), labels={"label": label})
    assert metric("recognition").evidence(indexed) == metric("recognition").evidence(given)
    (tmp_path / "t").write_text("a\nb\nc\n \n", encoding="utf-8")
    outputs = {"y": np.moveaxis(np.roll(given.outputs["y"], -1, axis=2), 0, 1)}
    other = answers(outputs, labels=given.labels)
    how = metric("recognition", characters=str(tmp_path / "t"), blank=-1, steps_first=1)
    assert how.evidence(other) == metric("recognition").evidence(given)


def test_cosine_is_the_librarys() -> None:
    rng = np.random.default_rng(SEED)
    a, b = rng.standard_normal((2, N, 20))
    given = answers({"y": b}, reference={"y": a})
    expected = np.diag(cosine_similarity(a, b)).mean()
    assert value(metric("cosine"), given) == pytest.approx(expected, abs=1e-9)
    both = answers({"y": b, "z": a}, reference={"y": a, "z": a})
    assert value(metric("cosine"), both) == pytest.approx((1 + expected) / 2, abs=1e-9)
    assert value(metric("cosine", output="y"), both) == pytest.approx(expected, abs=1e-9)


def test_relative_entropy_is_the_librarys() -> None:
    rng = np.random.default_rng(SEED)
    from scipy.special import softmax  # noqa: PLC0415
    from scipy.stats import entropy  # noqa: PLC0415

    a, b = 3 * rng.standard_normal((2, N, 20))
    p, q = softmax(a, axis=1), softmax(b, axis=1)
    expected = -entropy(p, q, axis=1).mean()
    how = metric("relative-entropy")
    assert value(how, answers({"y": b}, reference={"y": a})) == pytest.approx(expected, abs=1e-9)
    assert value(how, answers({"y": q}, reference={"y": p})) == pytest.approx(expected, abs=1e-9)
    maps = [np.moveaxis(x.reshape(2, 6, 1, 20), 3, 1) for x in (a, b)]
    given = answers({"y": maps[1]}, reference={"y": maps[0]})
    assert value(how, given) == pytest.approx(expected, abs=1e-9)
    masked = answers({"y": np.array([[0.0, -np.inf]])})
    assert value(how, masked) == 0


@pytest.mark.parametrize(("how", "given"), cases(), ids=lambda x: getattr(x, "name", ""))
def test_the_order_of_samples_does_not_matter(how: Metric, given: Answers) -> None:
    rng = np.random.default_rng(SEED)
    evidence = list(how.evidence(given))
    order = rng.permutation(len(evidence))
    assert how.score([evidence[i] for i in order]) == pytest.approx(how.score(evidence), abs=1e-12)


def perfect(name: str) -> Answers:
    if name == "classification":
        label = classified().labels["label"]
        return answers({"y": np.eye(9)[label]}, labels={"label": label})
    if name == "segmentation":
        label = segmented().labels["label"]
        classes = np.where(label == 255, 0, label)
        return answers({"y": np.moveaxis(np.eye(5)[classes], 3, 1)}, labels={"label": label})
    if name == "detection":
        labels = detected().labels
        scores = (labels["label_classes"][..., None] == np.arange(3)) * 0.9
        return answers({"boxes": labels["label_boxes"], "scores": scores}, labels=labels)
    if name == "recognition":
        given = read_lines()
        return answers(
            dict(given.outputs), labels={"label": np.array(WORDS)}, metadata=given.metadata
        )
    return classified()


@pytest.mark.parametrize("cls", METRICS, ids=lambda cls: cls.name)
def test_a_perfect_answer_has_the_highest_score(cls: type) -> None:
    how = metric(cls.name)
    best = 0.0 if how.name in ("noise", "relative-entropy") else 1.0
    assert value(how, perfect(how.name)) == pytest.approx(best, abs=1e-12)


def test_noise_is_sqnr_as_a_ratio_of_the_worst_output() -> None:
    rng = np.random.default_rng(SEED)
    outputs = {name: rng.standard_normal((N, 7)) for name in ("y", "z")}
    got = {"y": outputs["y"] + 0.01, "z": outputs["z"] + 0.1}
    given = answers(got, reference=outputs)
    worst = similarity(outputs["z"], got["z"])
    assert value(metric("noise"), given) == pytest.approx(-(10 ** (-worst.sqnr / 10)))
    alone = metric("noise", output="y")
    units = alone.units(alone.evidence(given))  # type: ignore[attr-defined]
    assert np.mean(units) == pytest.approx(value(alone, given))


def test_fitness_is_what_was_published() -> None:
    given = classified()
    entropy = value(metric("relative-entropy"), given)
    task = value(metric("classification"), given)
    assert value(metric("fitness"), given) == pytest.approx(np.exp(entropy))
    both = value(metric("fitness", weight=0.25), given)
    assert both == pytest.approx(0.25 * task + 0.75 * np.exp(entropy))
    whole = value(metric("fitness", weight=1, task="classification"), given)
    assert whole == pytest.approx(task)


@pytest.mark.parametrize("cls", METRICS, ids=lambda cls: cls.name)
def test_evidence_is_one_item_a_sample(cls: type) -> None:
    given = perfect(cls.name)
    assert len(metric(cls.name).evidence(given)) == given.samples


def test_numbers_give_a_paired_interval_and_others_a_jackknife() -> None:
    before, after = [0.0, 1, 1, 1], [0.0, 0, 1, 1]
    found = scored(metric("cosine"), before, after)
    assert (found.interval, found.paired.difference) == ("paired", -0.25)
    how = metric("segmentation")
    found = scored(how, how.evidence(segmented(seed=1)), how.evidence(segmented(seed=2)))
    assert found.interval == "jackknife"
    assert 0 < found.paired.half_width < 1
    one = how.evidence(segmented())[:1]
    assert math.isnan(scored(how, one, one).paired.half_width)


def test_the_jackknife_of_a_mean_is_nearly_its_interval() -> None:
    rng = np.random.default_rng(SEED)

    def mean(outputs: Any, labels: Any) -> None:
        del outputs, labels

    how = Custom(name="m:mean", function=mean, options={})
    from onnxq.metrics.custom import Part  # noqa: PLC0415

    values = rng.standard_normal((2, 2000))
    exact = scored(how, *values.tolist()).paired
    parts = [[Part(v, 1) for v in row] for row in values.tolist()]
    near = scored(how, *parts)
    assert near.interval == "jackknife"
    assert near.paired.difference == pytest.approx(exact.difference)
    assert 0.6 < near.paired.half_width / exact.half_width < 1.6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("classification", {"weight": 2}),
        ("classification", {"k": 0}),
        ("classification", {"weight": "much"}),
        ("segmentation", {"axis": 2}),
        ("detection", {"iou": "voc"}),
        ("detection", {"iou": 2}),
        ("detection", {"layout": "yxyx"}),
        ("detection", {"max_detections": 0}),
        ("recognition", {"spaces": "some"}),
        ("recognition", {"blank": -2}),
        ("relative-entropy", {"normalize": "max"}),
        ("relative-entropy", {"axes": 1}),
        ("clasification", {}),
    ],
)
def test_bad_options(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"\A.+\Z"):
        metric(name, **options)


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'classification'"):
        metric("clasification")
    with pytest.raises(UnknownNameError, match="did you mean 'logits'"):
        metric("classification", output="logit").evidence(answers({"logits": np.eye(2)}))


@pytest.mark.parametrize("cls", METRICS[:4], ids=lambda cls: cls.name)
def test_missing_labels(cls: type) -> None:
    given = perfect(cls.name)
    bare = answers(dict(given.outputs), labels={}, metadata=given.metadata)
    assert "needs the labels" in refused(CalibrationError, metric(cls.name), bare)


@pytest.mark.parametrize("cls", METRICS[:4], ids=lambda cls: cls.name)
def test_labels_mismatched_in_number(cls: type) -> None:
    given = perfect(cls.name)
    fewer = {key: label[1:] for key, label in given.labels.items()}
    short = answers(dict(given.outputs), labels=fewer, metadata=given.metadata)
    assert "one a sample" in refused(CalibrationError, metric(cls.name), short)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("classification", np.full(N, 9)),
        ("classification", np.full(N, 0.5)),
        ("segmentation", np.full((N, 6, 7), 77)),
        ("segmentation", np.zeros((N, 3, 3), np.int64)),
        ("recognition", np.zeros(6)),
    ],
)
def test_labels_that_mean_nothing(name: str, label: np.ndarray) -> None:
    given = perfect(name)
    wrong = answers(dict(given.outputs), labels={"label": label}, metadata=given.metadata)
    refused(CalibrationError, metric(name), wrong)


def test_boxes_that_mean_nothing() -> None:
    given = perfect("detection")
    labels = {**given.labels, "label_classes": np.full((N, 4), 7)}
    refused(CalibrationError, metric("detection"), answers(dict(given.outputs), labels=labels))
    labels = {**given.labels, "label_classes": np.zeros((N, 3), int)}
    refused(CalibrationError, metric("detection"), answers(dict(given.outputs), labels=labels))


@pytest.mark.parametrize("cls", METRICS[:4], ids=lambda cls: cls.name)
def test_outputs_that_do_not_fit(cls: type) -> None:
    given = perfect(cls.name)
    outputs = dict.fromkeys(given.outputs, np.zeros((N, 3, 2, 2, 2)))
    assert "wants" in refused(RecipeError, metric(cls.name), answers(outputs, labels=given.labels))
    refused(RecipeError, metric(cls.name), Answers(outputs={}, reference={}, samples=1))


def test_characters_that_do_not_fit(tmp_path: Any) -> None:
    given = read_lines()
    short = answers(dict(given.outputs), labels=given.labels, metadata={"character": "a\n"})
    assert "1 characters" in refused(RecipeError, metric("recognition"), short)
    none = answers(dict(given.outputs), labels=given.labels)
    assert "no metadata entry" in refused(RecipeError, metric("recognition"), none)
    missing = metric("recognition", characters=str(tmp_path / "no"))
    assert "cannot read" in refused(RecipeError, missing, none)


@pytest.mark.parametrize(
    ("name", "package"), [("detection", "pycocotools.coco"), ("recognition", "rapidfuzz.distance")]
)
def test_a_missing_extra_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "onnxq[metrics]" in refused(UsageError, metric(name), perfect(name))


def test_nan_is_named_with_its_sample() -> None:
    reference = {"y": np.eye(3)}
    broken = np.eye(3)
    broken[1] = np.nan
    judge = Judge(metric("relative-entropy"), {})
    judge.add(reference, {"y": broken}, {}, 3)
    with pytest.raises(CalibrationError, match=r"nan on sample 1 of the quantized model"):
        judge.result()


@pytest.mark.parametrize(
    ("said", "message"),
    [(ValueError("a\nb"), "ValueError: a b"), ([1.0], "shape"), (None, "nothing"), ("x", "failed")],
)
def test_a_custom_metric_that_fails(said: Any, message: str) -> None:
    def function(outputs: Any, labels: Any) -> Any:
        del outputs, labels
        if isinstance(said, Exception):
            raise said
        return said

    how = Custom(name="m:f", function=function, options={})
    assert message in refused(CalibrationError, how, classified())


def test_batches_of_a_custom_number_weigh_by_their_samples() -> None:
    def count(outputs: Any, labels: Any, *, power: int) -> Any:
        del labels
        return len(outputs["y"]) ** power

    how = Custom(name="m:f", function=count, options={"power": 1})
    parts = [*how.evidence(answers({"y": np.eye(3)})), *how.evidence(answers({"y": np.eye(1)}))]
    assert how.score(parts) == (3 * 3 + 1) / 4


@pytest.mark.parametrize("spec", ["math:", ":cos", "nosuchmodule:f", "math:coss", "math:pi"])
def test_a_custom_metric_that_is_not_there(spec: str) -> None:
    with pytest.raises(UsageError, match=r"\A.+\Z"):
        load(spec, {})
