"""Export all-MiniLM-L6-v2, in an environment with PyTorch: WEIGHTS.safetensors OUTPUT.onnx.

A plain BERT encoder, mean over the tokens, length 1. Names of modules are those of the weights.

Shapes:
    ``N`` texts, ``S`` tokens, `WIDTH` features in `HEADS` heads.
"""

import math
import sys

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

OPSET = 17
WORDS, POSITIONS, TYPES = 30522, 512, 2
WIDTH, HEADS, LAYERS = 384, 12, 6
EPSILON = 1e-12
UNUSED = ("pooler.", "embeddings.position_ids")


class Embeddings(nn.Module):
    """Sum what is known of a token: word, place, text it belongs to."""

    def __init__(self) -> None:
        """Make the parts, without weights."""
        super().__init__()
        self.word_embeddings = nn.Embedding(WORDS, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(TYPES, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        """Return ``(N, S, WIDTH)``."""
        places = self.position_embeddings(torch.arange(ids.shape[1]))
        return self.LayerNorm(
            self.word_embeddings(ids) + places + self.token_type_embeddings(types)
        )


class Output(nn.Module):
    """Project, add what went in before, normalize."""

    def __init__(self, width: int) -> None:
        """Make the parts, without weights."""
        super().__init__()
        self.dense = nn.Linear(width, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Return ``(N, S, WIDTH)``."""
        return self.LayerNorm(self.dense(x) + before)


class Layer(nn.Module):
    """Attention, then two dense layers."""

    def __init__(self) -> None:
        """Make the parts, without weights."""
        super().__init__()
        names = ("query", "key", "value")
        own = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names})
        self.attention = nn.ModuleDict({"self": own, "output": Output(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, 4 * WIDTH)})
        self.output = Output(4 * WIDTH)

    def _heads(self, name: str, x: Tensor) -> Tensor:
        """Return queries, keys or values, ``(N, HEADS, S, WIDTH / HEADS)``."""
        n, s, _ = x.shape
        projected = self.attention["self"][name](x)
        return projected.view(n, s, HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return ``(N, S, WIDTH)``; the mask is added to the attention's logits."""
        query, key, value = (self._heads(name, x) for name in ("query", "key", "value"))
        logits = query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + mask
        mixed = (torch.softmax(logits, -1) @ value).transpose(1, 2).reshape(x.shape)
        x = self.attention["output"](mixed, x)
        return self.output(functional.gelu(self.intermediate["dense"](x)), x)


class Encoder(nn.Module):
    """From tokens to an embedding of the text."""

    def __init__(self) -> None:
        """Make the parts, without weights."""
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """Return ``(N, WIDTH)``."""
        x = self.embeddings(ids, types)
        barred = (1 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
        for layer in self.encoder["layer"]:
            x = layer(x, barred)
        share = mask[..., None].float()
        mean = (x * share).sum(1) / share.sum(1).clamp(min=1e-9)
        return functional.normalize(mean, dim=-1)


def main() -> None:
    """Load the weights and write the model."""
    weights, output = sys.argv[1:]
    net = Encoder()
    state = {k: v for k, v in load_file(weights).items() if not k.startswith(UNUSED)}
    net.load_state_dict(state)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "N", 1: "S"} for name in names}
    torch.onnx.export(
        net.eval(),
        tuple(torch.ones(1, 16, dtype=torch.long) for _ in names),
        output,
        input_names=names,
        output_names=["embedding"],
        dynamic_axes={**axes, "embedding": {0: "N"}},
        opset_version=OPSET,
        dynamo=False,
    )


if __name__ == "__main__":
    main()
