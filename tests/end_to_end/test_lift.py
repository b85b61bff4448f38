"""``quantize --fallback`` and ``inspect --sensitivity`` as a user runs them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

import onnxq
from onnxq import pipeline, table_file
from onnxq.cli.app import app
from onnxq.errors import QualityError
from onnxq.graph.session import Runtime
from onnxq.report.lifting import lifted_dict, lifted_tables

MODEL = Path("sample_models/fashion_mobilenet/model.onnx").resolve()
DATA = MODEL.with_name("eval.npz")
NARROW = ("--range", "percentile", "--range-option", "percentile=98", "--per-tensor")
RECIPE = onnxq.Recipe(
    activations=onnxq.TensorRule(range="percentile", range_options={"percentile": 98}),
    weights=onnxq.TensorRule(granularity="tensor"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lift")
    with np.load(DATA) as data:
        some = {name: data[name][:60] for name in data.files}
        others = data["image"][60:120]
    np.savez(folder / "labelled.npz", **some)
    np.savez(folder / "bare.npz", image=some["image"])
    np.savez(folder / "others.npz", image=others)
    table = onnxq.calibrate(MODEL, onnxq.Source(data=str(folder / "others.npz")))
    table_file.save(table, folder / "m.calib")
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def quantize(folder: Path, *arguments: str | Path, output: str) -> Result:
    calib = ("--calib", folder / "m.calib")
    return run("quantize", MODEL, *calib, *NARROW, *arguments, "-o", folder / output)


@pytest.fixture(scope="module")
def lifted(folder: Path) -> Mapping[str, Any]:
    bounds = ("--min-cosine", "0.93", "--max-drop", "0.05", "--fallback", "float")
    more = ("--data", folder / "labelled.npz", "--json", folder / "l.json")
    done = quantize(folder, *bounds, *more, output="l.onnx")
    assert done.exit_code == 0, done.output
    assert "not chosen" in done.output
    found: Mapping[str, Any] = json.loads((folder / "l.json").read_text())
    return found


def test_the_bounds_hold_and_little_is_lifted(lifted: Mapping[str, Any]) -> None:
    assert lifted["reached"]
    assert lifted["before"]["cosine"] < 0.93 <= lifted["after"]["cosine"]
    assert lifted["after"]["drop"] <= 0.05
    assert (lifted["chosen_on"]["samples"], lifted["not_chosen_on"]["samples"]) == (48, 12)
    macs = lifted["multiply_adds"]
    nodes = {node["name"]: node["quantized"] for node in lifted["model"]["nodes"]}
    assert lifted["layers"]
    assert not any(nodes[layer["name"]] for layer in lifted["layers"])
    assert macs["after"] < macs["before"] == macs["all"]
    assert sum(layer["multiply_adds"] for layer in lifted["layers"]) <= macs["all"] - macs["after"]
    bought = sum(layer["bought"]["cosine"] for layer in lifted["layers"] if layer["bought"])
    assert bought == pytest.approx(lifted["after"]["cosine"] - lifted["before"]["cosine"])
    assert lifted["trials"] <= 40 + 8


def test_what_is_said_of_the_bounds_is_so(folder: Path, lifted: Mapping[str, Any]) -> None:
    kept = onnxq.Cut(batch_size=8, part="kept")
    source = onnxq.Source(data=str(folder / "labelled.npz"), cut=kept)
    measured = onnxq.compare(MODEL, folder / "l.onnx", source).comparison
    assert measured.cosine == pytest.approx(lifted["after"]["cosine"])
    assert measured.top1 is not None
    assert -measured.top1.difference == pytest.approx(lifted["after"]["drop"])


@pytest.mark.usefixtures("lifted")
def test_the_recipe_makes_the_same_bytes(folder: Path) -> None:
    again = folder / "again.onnx"
    calib = ("--calib", folder / "m.calib")
    done = run("quantize", MODEL, *calib, "--recipe", folder / "l.onnx.recipe.yaml", "-o", again)
    assert done.exit_code == 0, done.output
    assert again.read_bytes() == (folder / "l.onnx").read_bytes()
    entries = {each.key: each.value for each in onnx.load(again).metadata_props}
    rules = json.loads(entries["onnxq.recipe"])["rules"]
    assert all(rule["quantize"] is False for rule in rules)


def test_a_layer_kept_float_adds_nothing(folder: Path, lifted: Mapping[str, Any]) -> None:
    source = onnxq.Source(data=str(folder / "bare.npz"), cut=onnxq.Cut(batch_size=8, samples=8))
    found = onnxq.compare(MODEL, folder / "l.onnx", source, measure_layers=True).layers or ()
    names = {layer["name"] for layer in lifted["layers"]}
    assert found
    assert all(layer.effect == 0 for layer in found if layer.name in names)


def test_none_of_the_lifted_layers_can_go_back(folder: Path, lifted: Mapping[str, Any]) -> None:
    cut = onnxq.Cut(batch_size=8, part="kept")
    source = onnxq.Source(data=str(folder / "labelled.npz"), cut=cut)
    table = table_file.load(folder / "m.calib")
    recipe = onnxq.Recipe.from_dict(lifted["model"]["recipe"])
    for number in range(len(recipe.rules)):
        rules = recipe.rules[:number] + recipe.rules[number + 1 :]
        fewer = onnxq.Recipe(rules=rules).over(RECIPE)
        onnxq.quantize(MODEL, table, fewer, folder / "fewer.onnx", explain=False)
        found = onnxq.compare(MODEL, folder / "fewer.onnx", source).comparison
        assert found.top1 is not None
        assert found.cosine < 0.93 or -found.top1.difference > 0.05


def test_what_holds_already_is_written_as_it_is(folder: Path) -> None:
    done = quantize(folder, "--min-cosine", "0.5", "--fallback", "float", output="same.onnx")
    assert done.exit_code == 0, done.output
    assert "the same samples, those the table keeps" in done.output
    assert quantize(folder, output="plain.onnx").exit_code == 0
    assert (folder / "same.onnx").read_bytes() == (folder / "plain.onnx").read_bytes()


def test_a_bound_out_of_reach_says_how_near_it_came(folder: Path) -> None:
    bound = ("--min-cosine", "1", "--fallback", "float")
    done = quantize(folder, *bound, output="none.onnx")
    assert done.exit_code == 7
    assert "asked for 1.0 with" in done.stderr
    assert "nothing written" in done.stderr
    assert not list(folder.glob("none.onnx*"))


def test_best_effort_writes_the_nearest_and_warns(folder: Path) -> None:
    table = table_file.load(folder / "m.calib")
    bounds = onnxq.Bounds(min_cosine=1.0)
    lifting = onnxq.Lifting(bounds=bounds, best_effort=True, trials=4)
    result = onnxq.lift(MODEL, table, RECIPE, None, folder / "best.onnx", lifting=lifting)
    told = [each for each in lifted_tables(result) if isinstance(each, str)]
    found = lifted_dict(result)
    assert any("warning: the bound was not reached" in each for each in told)
    assert not found["reached"]
    assert found["not_chosen_on"] is None
    assert found["before"]["cosine"] < found["after"]["cosine"] < 1
    assert (folder / "best.onnx").exists()


def test_without_a_fallback_a_drop_is_only_checked(folder: Path) -> None:
    labelled = ("--data", folder / "labelled.npz")
    assert quantize(folder, *labelled, "--max-drop", "1", output="d.onnx").exit_code == 0
    done = quantize(folder, *labelled, "--max-drop", "0", output="d0.onnx")
    assert done.exit_code == 7
    assert "classification drops by" in done.stderr
    assert not (folder / "d0.onnx").exists()


def test_16_bits_where_the_target_has_them(folder: Path) -> None:
    recipe = onnxq.Recipe(target="qnn", activations=onnxq.TensorRule(dtype="uint8"))
    table = table_file.load(folder / "m.calib")
    bounds = onnxq.Bounds(min_cosine=0.9999)
    lifting = onnxq.Lifting(bounds=bounds, how="16bit")
    found = onnxq.lift(MODEL, table, recipe, None, folder / "w.onnx", lifting=lifting)
    plan = found.quantized.plan
    names = {layer.name for layer in found.layers}
    types = {each.spec.dtype.name for each in plan.activations.values()}
    assert found.measured[0].cosine < 0.9999 <= found.measured[1].cosine
    assert names
    assert types == {"uint8", "uint16"}
    assert all(node.quantized for node in plan.nodes.values() if node.label in names)
    assert found.macs[1] < found.macs[0]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--fallback", "float"), 2, "--fallback needs a bound"),
        (("--min-cosine", "0.9", "--best-effort"), 2, "give both"),
        (("--min-cosine", "0.9", "--fallback", "int4"), 2, "write float or 16bit"),
        (("--min-cosine", "0.9", "--metric", "cosine"), 2, "what --max-drop counts in"),
        (("--min-cosine", "0.9", "--eval-data", "LABELLED"), 2, "--eval-data measures"),
        (("--min-cosine", "0.9", "--fallback", "16bit"), 6, "no 16-bit activations"),
        (("--max-drop", "0.01"), 4, "needs labelled data"),
        (("--max-drop", "0.01", "--data", "BARE"), 4, "label"),
        (("--max-drop", "0.01", "--data", "LABELLED", "--metric", "top9"), 5, "unknown metric"),
        (("--data", "LABELLED"), 2, "--data beside --calib"),
    ],
)
def test_bad_input(folder: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    files = {"LABELLED": folder / "labelled.npz", "BARE": folder / "bare.npz"}
    done = quantize(folder, *(files.get(each, each) for each in arguments), output="bad.onnx")
    assert done.exit_code == code, done.output
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(folder.glob("bad.onnx*"))


def test_what_a_recipe_names_may_be_lifted(folder: Path) -> None:
    plan = onnxq.quantize(
        MODEL, table_file.load(folder / "m.calib"), RECIPE, folder / "p.onnx", explain=False
    ).plan
    named = {
        name: onnxq.TensorRule(range="minmax")
        for name, each in plan.activations.items()
        if each.shares == name
    }
    recipe = onnxq.Recipe(tensors=named).over(RECIPE)
    table = table_file.load(folder / "m.calib")
    bounds = onnxq.Bounds(min_cosine=0.9998)
    lifting = onnxq.Lifting(bounds=bounds, best_effort=True, trials=3)
    found = onnxq.lift(MODEL, table, recipe, None, folder / "n.onnx", lifting=lifting)
    assert found.layers
    assert set(found.recipe.tensors) < set(named)


def test_sensitivity_is_confirmed_by_quantizing_by_hand(folder: Path) -> None:
    data = ("--calib", folder / "m.calib", "--data", folder / "bare.npz", "--samples", "16")
    done = run("inspect", MODEL, "--sensitivity", *data, *NARROW, "--confirm", "2", "--json", "-")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    layers = found["layers"]
    effects = [float(layer["effect_db"]) for layer in layers]
    assert effects == sorted(effects)
    assert [each["kept_float"] is not None for each in layers[:3]] == [True, True, False]
    total = sum(layer["multiply_adds"] for layer in layers)
    assert total == found["multiply_adds"]["integer"] == found["multiply_adds"]["all"]
    source = onnxq.Source(data=str(folder / "bare.npz"), cut=onnxq.Cut(batch_size=8, samples=16))
    first = layers[0]
    rule = onnxq.NodeRule(name=f"^{first['name']}$", quantize=False)
    levels = []
    for rules in ((), (rule,)):
        recipe = onnxq.Recipe(rules=rules).over(RECIPE)
        table = table_file.load(folder / "m.calib")
        onnxq.quantize(MODEL, table, recipe, folder / "s.onnx", explain=False)
        near = onnxq.compare(MODEL, folder / "s.onnx", source).comparison.outputs[0].similarity
        levels.append(near.sqnr)
    assert found["quantized"]["sqnr_db"] == pytest.approx(levels[0])
    assert first["kept_float"]["bought_db"] == pytest.approx(levels[1] - levels[0])


def test_sensitivity_on_kept_samples_for_people(folder: Path) -> None:
    done = run("inspect", MODEL, "--sensitivity", "--calib", folder / "m.calib", "--confirm", "0")
    assert done.exit_code == 0, done.output
    assert "23 layers on cpu" in done.output
    assert "on 8 samples" in done.output
    assert " dB  Conv" not in done.output
    named = run(
        *("inspect", MODEL, "--sensitivity", "--calib", folder / "m.calib", "--confirm", "1")
    )
    assert named.output.count(" dB  Conv") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--sensitivity",), "needs --data PATH or --calib FILE"),
        (("--confirm", "3"), "go with --sensitivity"),
        (("--sensitivity", "--plan", "--data", "random"), "give one of them"),
    ],
)
def test_bad_inspection(arguments: tuple[str, ...], told: str) -> None:
    done = run("inspect", MODEL, *arguments)
    assert done.exit_code == 2
    assert told in done.stderr


def test_ranking_a_file_that_is_not_quantized_fails() -> None:
    with pytest.raises(onnxq.OnnxqError):
        pipeline.ranked(MODEL, MODEL, [], Runtime())


def test_no_samples_to_check_on(folder: Path) -> None:
    keep = onnxq.Collection(keep_samples=0)
    source = onnxq.Source(data=str(folder / "bare.npz"), cut=onnxq.Cut(samples=8))
    table = onnxq.calibrate(MODEL, source, collection=keep)
    lifting = onnxq.Lifting(bounds=onnxq.Bounds(min_cosine=0.9))
    with pytest.raises(onnxq.OnnxqError, match="keeps no samples"):
        onnxq.lift(MODEL, table, RECIPE, None, folder / "k.onnx", lifting=lifting)
    with pytest.raises(QualityError, match="nothing written"):
        onnxq.lift(
            *(MODEL, table_file.load(folder / "m.calib"), RECIPE, None, folder / "k.onnx"),
            lifting=onnxq.Lifting(bounds=onnxq.Bounds(min_cosine=0.999), how=None),
        )


def test_the_activation_of_a_lifted_layer_goes_with_it(folder: Path) -> None:
    recipe = onnxq.Recipe(target="fixed-point")
    table = table_file.load(folder / "m.calib")
    bounds = onnxq.Bounds(min_cosine=0.9999)
    lifting = onnxq.Lifting(bounds=bounds, best_effort=True, trials=3)
    found = onnxq.lift(MODEL, table, recipe, None, folder / "f.onnx", lifting=lifting)
    plan = found.quantized.plan
    rules = {rule.op for rule in found.recipe.rules}
    assert found.measured[1].cosine > found.measured[0].cosine
    assert rules >= {"Conv", "Clip"}
    assert {
        node.op for node in plan.nodes.values() if node.reason == "kept float by a rule"
    } == rules


def test_a_table_that_lacks_what_lifting_needs_is_no_failure(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxq.search.trials.absorbed_by", lambda *_: ())  # Clip stays, unobserved
    recipe, table = onnxq.Recipe(target="fixed-point"), table_file.load(folder / "m.calib")
    found = onnxq.sensitivity(MODEL, table, recipe, confirm=1)
    assert found.layers[0].alone is None
    assert f"what keeping {found.layers[0].layer.name} float buys is not known" in caplog.text
    lifting = onnxq.Lifting(bounds=onnxq.Bounds(min_cosine=0.9999), trials=2)
    with pytest.raises(QualityError, match="nothing written"):
        onnxq.lift(MODEL, table, recipe, None, folder / "u.onnx", lifting=lifting)
