"""The flags that say how to quantize, spelled once for all commands that take them."""

from dataclasses import dataclass
from typing import Annotated

import typer

from onnxq.cli import options

OUTLIERS = "Outlier-variance ranges"
FIXED_POINT = "Fixed point"
CROSSBAR = "Crossbar arrays"
REPAIR = "Repair passes"
TILES = "Order of the channels on tiles and blocks"


@dataclass(frozen=True, kw_only=True)
class RecipeFlags:
    """What the flags ask for; each field is a flag, and what it means is its help."""

    target: options.TargetName = None
    per_channel: Annotated[
        bool | None,
        typer.Option(
            "--per-channel/--per-tensor", help="One weight scale a channel, or one a tensor."
        ),
    ] = None
    weight_granularity: Annotated[
        str | None,
        typer.Option(
            metavar="tensor|channel|block:N",
            help="One weight scale a tensor, a channel, or N inputs of an output where the "
            "target allows it, e.g. block:32.",
        ),
    ] = None
    activation_granularity: Annotated[
        str | None,
        typer.Option(
            metavar="tensor|channel[:AXIS]",
            help="One activation scale a tensor, or one a channel where the target allows it.",
        ),
    ] = None
    range_name: Annotated[
        str | None, typer.Option("--range", help="Range algorithm of activations, see onnxq list.")
    ] = None
    range_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of --range; repeatable."),
    ] = None
    weight_range: Annotated[str | None, typer.Option(help="Range algorithm of weights.")] = None
    weight_range_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of --weight-range; repeatable."),
    ] = None
    outlier_var: Annotated[
        bool,
        typer.Option(
            "--outlier-var",
            help="Clip activations and weights as far as the variance of their extreme values "
            "says; instead of --range and --weight-range.",
            rich_help_panel=OUTLIERS,
        ),
    ] = False
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How sharply the upper end is clipped; 0 is min–max, default 1.",
            rich_help_panel=OUTLIERS,
        ),
    ] = None
    beta: Annotated[
        float | None,
        typer.Option(min=0, help="The same for the lower end.", rich_help_panel=OUTLIERS),
    ] = None
    k1: Annotated[
        float | None,
        typer.Option(
            help="How many of the largest positive values to look at: a count, or a share "
            "between 0 and 1; default 0.001.",
            rich_help_panel=OUTLIERS,
        ),
    ] = None
    k2: Annotated[
        float | None,
        typer.Option(help="The same for the smallest negative values.", rich_help_panel=OUTLIERS),
    ] = None
    variance: Annotated[
        str | None,
        typer.Option(
            help="stray (default): relative to the median's square, as far as few values make "
            "it up; relative; or raw.",
            rich_help_panel=OUTLIERS,
        ),
    ] = None
    extremes: Annotated[
        str | None,
        typer.Option(
            help="signed (default): positive values above, negative ones below; or all, zeros "
            "included.",
            rich_help_panel=OUTLIERS,
        ),
    ] = None
    weights: Annotated[str | None, typer.Option(help="Element type of weights, e.g. int8.")] = None
    reduce_range: Annotated[
        bool,
        typer.Option(
            "--reduce-range", help="7-bit weights, for x86 CPUs without VNNI instructions."
        ),
    ] = False
    activations: Annotated[
        str | None,
        typer.Option(help="Element type of activations, e.g. uint8; float on some targets."),
    ] = None
    symmetric: Annotated[
        bool | None,
        typer.Option("--symmetric/--affine", help="Zero point of activations fixed, or free."),
    ] = None
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="REGEX", help="Keep the nodes of this name float; repeatable."),
    ] = None
    exclude_op: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="Keep the nodes of this type float; repeatable."),
    ] = None
    correct_bias: Annotated[
        bool | None,
        typer.Option(
            "--correct-bias/--no-correct-bias",
            help="Let biases take up the mean error of their layer; the target decides.",
        ),
    ] = None
    bias_correction: Annotated[
        str | None,
        typer.Option(
            metavar="analytic|empirical",
            help="That error from what the layer reads in the float model (default), or measured "
            "at its output in the quantized model, layer after layer.",
            rich_help_panel=REPAIR,
        ),
    ] = None
    fit_ranges: Annotated[
        bool | None,
        typer.Option(
            "--fit-ranges/--no-fit-ranges",
            help="Move activation ranges to the least error at the output of the layers that "
            "read them, on the kept samples.",
            rich_help_panel=REPAIR,
        ),
    ] = None
    reconstruct: Annotated[
        bool | None,
        typer.Option(
            "--reconstruct/--no-reconstruct",
            help="Round weights for the least error of what their layer writes on the kept "
            "samples, instead of to the nearest codes; best with --keep-samples 64.",
            rich_help_panel=REPAIR,
        ),
    ] = None
    fuse_blocks: Annotated[
        bool | None,
        typer.Option(
            "--fuse-blocks/--no-fuse-blocks",
            help="Write 4-bit blocks of MatMul weights so that onnxruntime computes with them as "
            "they are (MatMulNBits): fast, but what they are multiplied with is rounded to 8 "
            "bits a row, unless the session says otherwise.",
        ),
    ] = None
    equalize: Annotated[
        bool | None,
        typer.Option(
            "--equalize/--no-equalize",
            help="Scale channels between layers so that one scale a weight serves them all; the "
            "float function stays.",
            rich_help_panel=REPAIR,
        ),
    ] = None
    equalize_clips: Annotated[
        bool | None,
        typer.Option(
            "--equalize-clips/--no-equalize-clips",
            help="With --equalize: also channels that a Clip cuts, by a Min with an end a channel, "
            "which runs in float.",
            rich_help_panel=REPAIR,
        ),
    ] = None
    smooth: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="ALPHA",
            help="Move outlier channels of what MatMul and Gemm read into their weights: 0 not at "
            "all … 1 entirely.",
            rich_help_panel=REPAIR,
        ),
    ] = None
    smooth_insert: Annotated[
        bool | None,
        typer.Option(
            "--smooth-insert/--no-smooth-insert",
            help="With --smooth: put in a Mul where nothing else can divide what they read.",
            rich_help_panel=REPAIR,
        ),
    ] = None
    positions: Annotated[
        str | None,
        typer.Option(
            metavar="any|chip",
            help="Which powers of two there are: any, or 0 … bits − 1 (chip).",
            rich_help_panel=FIXED_POINT,
        ),
    ] = None
    rounding: Annotated[
        str | None,
        typer.Option(
            metavar="half-even|half-up|floor",
            help="How the chip rounds what it shifts.",
            rich_help_panel=FIXED_POINT,
        ),
    ] = None
    qdq: Annotated[
        bool | None,
        typer.Option(
            "--qdq/--no-qdq",
            help="Pairs of Q and DQ in the graph, or only weights on their grid.",
            rich_help_panel=FIXED_POINT,
        ),
    ] = None
    crossbar: Annotated[
        str | None,
        typer.Option(
            metavar="RxC",
            help="Size of the arrays, inputs × outputs, e.g. 128x64; one weight scale each.",
            rich_help_panel=CROSSBAR,
        ),
    ] = None
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="channel|kernel",
            help="How the weights of a convolution go along an array's rows: by input channel "
            "first (default), or by place in the kernel.",
            rich_help_panel=CROSSBAR,
        ),
    ] = None
    tile_scales: Annotated[
        str | None,
        typer.Option(
            metavar="range|cosine",
            help="The scale --weight-range chooses for a tile (default), or moved from there to "
            "the best cosine of the layer's output on the kept samples.",
            rich_help_panel=CROSSBAR,
        ),
    ] = None
    reorder: Annotated[
        str | None,
        typer.Option(
            metavar="none|sort|cluster|random:SEED|FILE",
            help="Order of the channels, so that those of one tile or block are alike; FILE is "
            "what onnxq anneal wrote.",
            rich_help_panel=TILES,
        ),
    ] = None
    reorder_mode: Annotated[
        str | None,
        typer.Option(
            metavar="joint|independent",
            help="Move the channels of the model, at no cost (default); or rows and columns of "
            "each layer, gathered back when it runs.",
            rich_help_panel=TILES,
        ),
    ] = None
    recipe: options.RecipeFile = None
