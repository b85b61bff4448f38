"""Train the sample models on Fashion-MNIST and write them with their data.

Needs torch (2.13.0 was used), onnx, onnxruntime and numpy, and Debian's package
``dataset-fashion-mnist``, which is downloaded unless ``--images`` names a folder.

Example:
    python sample_models/train.py
    python sample_models/train.py --images /usr/share/datasets/fashion-mnist fashion_resnet
    python sample_models/train.py --measure
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fashion
import losses
import nets
import numpy as np
import onnx
import onnxruntime
import scores
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
SEED = 2026
BATCH = 128
COLLAGE_STEPS = 120  # batches of an epoch
CALIBRATION = 256  # samples of the training part
IR_VERSION = 8

Batches = Iterator[tuple[Tensor, ...]]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Say how one model is trained, exported and judged.

    Attributes:
        net: Makes the network.
        outputs: Names of its outputs.
        batches: Split and epoch number to batches: the inputs, then what `loss` needs.
        loss: Network and batch to the number to make small.
        samples: Split, count and seed to the arrays of an npz file.
        judge: Outputs and labels, in the files' order, to a figure between 0 and 1.
        figure: What the figure is called.
        evaluation: Samples of the test part.
        epochs: How long it is trained.
        steps: Batches of an epoch.
        rate: Greatest learning rate.
        keeps_norms: Leave BatchNormalization nodes in the file, unfolded.
    """

    net: Callable[[], nn.Module]
    outputs: list[str]
    batches: Callable[[fashion.Split, int], Batches]
    loss: Callable[..., Tensor]
    samples: Callable[[fashion.Split, int, int], Arrays]
    judge: Callable[..., float]
    figure: str
    evaluation: int
    epochs: int
    steps: int
    rate: float = 4e-3
    keeps_norms: bool = False


def garment_batches(split: fashion.Split, epoch: int) -> Batches:
    """Give every garment once, half of them mirrored, each moved by up to two pixels."""
    rng = np.random.default_rng([SEED, epoch])
    padded = np.pad(split.images, ((0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (28, 28), axis=(1, 2))
    order = rng.permutation(len(split.images))
    for n in range(0, len(order) - BATCH + 1, BATCH):
        pick = order[n : n + BATCH]
        images = windows[pick, rng.integers(5, size=BATCH), rng.integers(5, size=BATCH)]
        mirrored = np.where(rng.integers(2, size=(BATCH, 1, 1)), images, images[:, :, ::-1])
        yield torch.from_numpy(fashion.as_input(mirrored)), torch.from_numpy(split.labels[pick])


def collage_batches(split: fashion.Split, epoch: int, *labels: str) -> Batches:
    """Give batches of new collages with the attributes named, as int64 or float32."""
    for n in range(COLLAGE_STEPS):
        drawn = fashion.draw_collages(split, BATCH, [SEED, epoch, n])
        targets = [torch.from_numpy(getattr(drawn, name)) for name in labels]
        yield (
            torch.from_numpy(fashion.as_input(drawn.images)),
            *(t if t.is_floating_point() else t.long() for t in targets),
        )


def garment_samples(split: fashion.Split, count: int, seed: int) -> Arrays:
    """Draw garments without repeating one."""
    pick = np.random.default_rng(seed).permutation(len(split.images))[:count]
    return {"image": fashion.as_input(split.images[pick]), "label": split.labels[pick]}


def segment_samples(split: fashion.Split, count: int, seed: int) -> Arrays:
    """Draw collages with the class of each pixel."""
    drawn = fashion.draw_collages(split, count, [seed])
    return {"image": fashion.as_input(drawn.images), "label": drawn.masks}


def detect_samples(split: fashion.Split, count: int, seed: int) -> Arrays:
    """Draw collages with the box and the class of each garment."""
    drawn = fashion.draw_collages(split, count, [seed])
    return {
        "image": fashion.as_input(drawn.images),
        "label_boxes": drawn.boxes,
        "label_classes": drawn.classes,
    }


CLASSIFIER: dict[str, Any] = {
    "outputs": ["logits"],
    "batches": garment_batches,
    "loss": losses.smoothed_loss,
    "samples": garment_samples,
    "judge": scores.top1,
    "figure": "top-1",
    "evaluation": 2000,
    "steps": 60000 // BATCH,
}
TASKS = {
    "fashion_resnet": Task(net=nets.FashionResnet, epochs=8, **CLASSIFIER),
    "fashion_mobilenet": Task(net=nets.FashionMobilenet, epochs=7, keeps_norms=True, **CLASSIFIER),
    "fashion_segment": Task(
        net=nets.FashionSegment,
        outputs=["logits"],
        batches=lambda split, epoch: collage_batches(split, epoch, "masks"),
        loss=losses.pixel_loss,
        samples=segment_samples,
        judge=scores.mean_iou,
        figure="mean IoU",
        evaluation=1000,
        epochs=5,
        steps=COLLAGE_STEPS,
    ),
    "fashion_detect": Task(
        net=nets.FashionDetect,
        outputs=["boxes", "scores"],
        batches=lambda split, epoch: collage_batches(split, epoch, "boxes", "classes"),
        loss=losses.detect_loss,
        samples=detect_samples,
        judge=scores.mean_average_precision,
        figure="mAP at IoU 0.5",
        evaluation=1000,
        epochs=10,
        steps=COLLAGE_STEPS,
    ),
}


def fit(task: Task, split: fashion.Split) -> nn.Module:
    """Train one network from its seed.

    Args:
        task: Which one and how.
        split: The training part.

    Returns:
        The network, in inference mode.
    """
    torch.manual_seed(SEED)
    net = task.net().to(memory_format=torch.channels_last)
    steps = task.epochs * task.steps
    optimizer = torch.optim.AdamW(net.parameters(), lr=task.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.rate, total_steps=steps)
    for epoch in range(task.epochs):
        start, total = time.monotonic(), 0.0
        for n, (x, *targets) in enumerate(task.batches(split, epoch), 1):
            with torch.autocast("cpu", torch.bfloat16):
                loss = task.loss(net, x.to(memory_format=torch.channels_last), *targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += (loss.item() - total) / n
        print(
            f"  epoch {epoch + 1}: loss {total:.4f}, {time.monotonic() - start:.0f} s", flush=True
        )
    return net.eval().to(memory_format=torch.contiguous_format)


def fix_shapes(model: onnx.ModelProto, net: nn.Module, example: np.ndarray) -> None:
    """Write the outputs' sizes, all but the batch's, where the exporter left names."""
    with torch.no_grad():
        found = net(torch.from_numpy(example))
    for value, array in zip(
        model.graph.output, [found] if isinstance(found, Tensor) else found, strict=True
    ):
        for dim, size in zip(value.type.tensor_type.shape.dim[1:], array.shape[1:], strict=True):
            dim.dim_value = size


def export(net: nn.Module, task: Task, example: np.ndarray, path: Path) -> None:
    """Write the network as ONNX, opset 13, with a dynamic batch axis.

    Args:
        net: In inference mode.
        task: Whose outputs it has.
        example: A few inputs.
        path: The file to write.

    Raises:
        RuntimeError: BatchNormalization nodes are not as the task wants them.
    """
    mode = torch.onnx.TrainingMode
    torch.onnx.export(
        net,
        (torch.from_numpy(example),),
        str(path),
        input_names=["image"],
        output_names=task.outputs,
        dynamic_axes={name: {0: "batch"} for name in ["image", *task.outputs]},
        opset_version=13,
        training=mode.PRESERVE if task.keeps_norms else mode.EVAL,
        dynamo=False,
    )
    model = onnx.load(path)
    model.ir_version = IR_VERSION
    fix_shapes(model, net, example)
    onnx.checker.check_model(model, full_check=True)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    trains = [a for node in norms for a in node.attribute if a.name == "training_mode" and a.i]
    if bool(norms) != task.keeps_norms or trains or any(len(node.output) > 1 for node in norms):
        message = f"{path}: {len(norms)} BatchNormalization nodes, not as wanted"
        raise RuntimeError(message)
    onnx.save(model, path)


def measure(name: str) -> float:
    """Run a written model on its ``eval.npz`` in onnxruntime and return its figure."""
    task = TASKS[name]
    session = onnxruntime.InferenceSession(
        HERE / name / "model.onnx", providers=["CPUExecutionProvider"]
    )
    with np.load(HERE / name / "eval.npz") as data:
        labels = [data[key] for key in data.files if key.startswith("label")]
        images = data["image"]
    parts = [
        session.run(task.outputs, {"image": images[n : n + 100]})
        for n in range(0, len(images), 100)
    ]
    return task.judge(*(np.concatenate(part) for part in zip(*parts, strict=True)), *labels)


def build(name: str, train: fashion.Split, test: fashion.Split) -> None:
    """Train one model and write its folder."""
    task, folder = TASKS[name], HERE / name
    folder.mkdir(exist_ok=True)
    calibration = task.samples(train, CALIBRATION, SEED + 1)
    np.savez_compressed(folder / "calib.npz", **calibration)
    np.savez_compressed(folder / "eval.npz", **task.samples(test, task.evaluation, SEED + 2))
    net = fit(task, train)
    export(net, task, calibration["image"][:2], folder / "model.onnx")


def main() -> None:
    """Build the models named on the command line, or all, and print their figures."""
    parser = argparse.ArgumentParser(description="Train the sample models on Fashion-MNIST.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TASKS))
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the idx .gz files")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: 2)")
    parser.add_argument("--measure", action="store_true", help="only print the files' figures")
    args = parser.parse_args()
    names = args.names or list(TASKS)
    if unknown := sorted(set(names) - set(TASKS)):
        parser.error(f"no such model: {', '.join(unknown)}")
    torch.set_num_threads(args.threads)
    if not args.measure:
        with ExitStack() as stack:
            images = args.images or stack.enter_context(fashion.package_images())
            train, test = (fashion.read_split(images, part) for part in ("train", "t10k"))
        for name in names:
            print(name, flush=True)
            build(name, train, test)
    for name in names:
        print(f"{name}: {TASKS[name].figure} {measure(name):.4f}")


if __name__ == "__main__":
    main()
