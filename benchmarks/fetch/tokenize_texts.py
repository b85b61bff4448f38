"""Turn lines of text into what MiniLM takes: TOKENIZER.json TEXTS.txt OUTPUT.npz."""

import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

LENGTH = 64  # tokens; longer texts are cut, shorter ones padded


def main() -> None:
    """Tokenize and write one array a model input."""
    file, texts, output = sys.argv[1:]
    tokenizer = Tokenizer.from_file(file)
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    encoded = tokenizer.encode_batch(Path(texts).read_text(encoding="utf-8").split("\n"))
    np.savez(
        output,
        input_ids=np.array([one.ids for one in encoded], np.int64),
        attention_mask=np.array([one.attention_mask for one in encoded], np.int64),
        token_type_ids=np.array([one.type_ids for one in encoded], np.int64),
    )


if __name__ == "__main__":
    main()
