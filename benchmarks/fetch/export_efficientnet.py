"""Export EfficientNet-Lite0, in an environment with PyTorch: NETWORK_FOLDER WEIGHTS OUTPUT."""

import sys
from importlib import import_module

import torch

OPSET = 17


def main() -> None:
    """Load the weights and write the model."""
    folder, weights, output = sys.argv[1:]
    sys.path.insert(0, folder)
    network = import_module("efficientnet_lite_pytorch").EfficientNet
    net = network.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    torch.onnx.export(
        net.eval(),
        torch.zeros(1, 3, 224, 224),
        output,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=OPSET,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
