"""The command line, run in this process: exit codes, what goes to which stream, and what files are left behind."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import jax
import pytest
from rich.console import Console

from planner import api, profiles
from planner.check import CheckReport, TensorCheck
from planner.cli import main
from planner.cli.command import Output, remaining
from planner.cli.main import COMMANDS, parser
from planner.cli.options import pins
from planner.core import plan_io
from planner.core.pins import Pins
from tests.report.records import eight_devices, two_devices

MODEL = '''
import jax
import jax.numpy as jnp
import optax

from planner.model import Model


def loss(params, batch):
    return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) @ params["v"] - batch["y"]) ** 2)


def build(batch_size=16):
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    params = {"w": shape(8, 16), "v": shape(16, 4)}
    batch = {"x": shape(batch_size, 8), "y": shape(batch_size, 4)}
    return Model(loss, params, batch, optimizer=optax.sgd(1e-2), name="mine")


def broken():
    raise ValueError("no data here")


def nothing():
    return None


def wrong_optimizer():
    return Model(loss, build().params, build().batch, optimizer="adam")


def branches():
    def choose(params, batch):
        return jnp.sum(params["w"]) if jnp.sum(batch["x"]) > 0 else jnp.sum(params["v"])

    return Model(choose, build().params, build().batch, optimizer=optax.sgd(1e-2))
'''

HERE = ["--devices", "8", "--hardware", "dgx-a100"]


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "p.json"
    plan_io.save(eight_devices(), path)
    return str(path)


def outcome(capsys, *argv) -> tuple[int, str, str]:
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_of_every_command_has_examples(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([command.name, "--help"])
        assert end.value.code == 0
        assert f"examples:\n  planner {command.name}" in capsys.readouterr().out
        for example in command.examples:  # what is shown can be parsed
            words = example.partition(" | ")[0].replace("'", "").split()[1:]
            assert parser().parse_args(words).command is command


def test_command_lines_of_the_readme_can_be_parsed(request):
    text = (request.path.parent.parent / "README.md").read_text()
    lines = [line.split("#")[0].removeprefix("$ ") for line in text.splitlines()
             if line.startswith(("planner ", "$ planner "))]
    commands = [part.strip() for line in lines for part in re.split(r";|\s{2,}", line) if part.strip()]
    assert len(commands) > 8
    for command in commands:
        parser().parse_args(command.split()[1:])


@pytest.mark.parametrize(("argv", "absent"), [
    (["--help"], {"jax", "matplotlib", "networkx", "numpy", "ortools"}),
    (["plan", "--help"], {"jax", "matplotlib", "networkx", "ortools"}),
    (["show", "{plan}"], {"jax", "matplotlib", "ortools"}),
    (["explain", "{plan}"], {"jax", "matplotlib", "ortools"}),
    (["plot", "{plan}", "-o", "{out}", "--kind", "memory"], {"jax", "ortools"}),
], ids=lambda x: "_".join(x[:2]) if isinstance(x, list) else "")
def test_what_needs_no_jax_does_not_import_it(argv, absent, plan_file, tmp_path):
    words = [word.format(plan=plan_file, out=tmp_path / "m.png") for word in argv]
    code = (f"import sys\nfrom planner.cli import main\ntry:\n  main({words!r})\nexcept SystemExit:\n  pass\n"
            f"print(sorted({absent!r} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_wrong_usage_is_2(capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan"])
    assert end.value.code == 2


def test_show_explain_and_their_json(capsys, plan_file):
    code, out, err = outcome(capsys, "show", plan_file)
    assert (code, err) == (0, "") and "beside standard recipes" in out
    assert outcome(capsys, "show", plan_file, "--json")[1] == plan_io.to_json(eight_devices())
    assert "Where the time goes" in outcome(capsys, "explain", plan_file)[1]
    numbers = json.loads(outcome(capsys, "explain", plan_file, "--json")[1])
    assert numbers["bottleneck_stage"] == 1 and numbers["device_seconds"]["idle"] > 0


def test_explain_searches_again_with_the_model(capsys, model_file, tmp_path):
    place, model = str(tmp_path / "mine.plan.json"), f"{model_file}:build"
    on = ("--cluster", "p3.16xlarge", "--devices-per-node", "2", "--batch", "16", "--stages", "1")
    assert outcome(capsys, "plan", model, *on, "-o", place)[0] == 0
    code, out, _ = outcome(capsys, "explain", place, "--model", model, "--tensor", "w")
    assert code == 0 and "parameter w (8 × 16), stage 0" in out and "chosen anew" in out
    code, out, _ = outcome(capsys, "explain", place, "--model", model, "--what-if", "--json")
    answers = json.loads(out)["what_if"]
    assert code == 0 and {"a batch twice as large", "twice the memory"} <= {a["change"] for a in answers}
    code, _, err = outcome(capsys, "explain", place, "--what-if")
    assert code == 2 and "--model" in err
    code, _, err = outcome(capsys, "explain", place, "--what-if", "--model", model, "--batch", "8")
    assert code == 2 and "batch of 16" in err


def test_sweep(capsys, model_file, tmp_path):
    rows, picture = tmp_path / "rows.csv", tmp_path / "s.png"
    asked = ("sweep", f"{model_file}:build", "--clusters", "p3.16xlarge", "--nodes", "1", "--batch", "16", "32",
             "--microbatches", "1")
    code, out, err = outcome(capsys, *asked, "--steps", "1000", "--price", "p3.16xlarge=2", "--budget-usd", "1000",
                             "-o", str(rows), "--plot", str(picture))
    assert code == 0 and "Rent 1 × p3.16xlarge" in out and "the fastest within 1,000 USD" in " ".join(out.split())
    assert len(rows.read_text().splitlines()) == 3 and picture.stat().st_size > 1000
    data = json.loads(outcome(capsys, *asked, "--json")[1])
    assert [r["batch"] for r in data["rows"]] == [16, 32] and data["run"] == "1,000,000 samples"
    for wrong, says in ((("--price", "p3.16xlarge"), "NAME=USD"), (("-o", "rows.txt"), ".csv or .json"),
                        (("--plot", "s.gif"), "picture format"), (("--plans", "nowhere"), "no folder")):
        code, _, err = outcome(capsys, *asked, *wrong)
        assert code == 2 and says in err


def test_plot(capsys, plan_file, tmp_path):
    assert outcome(capsys, "plot", plan_file, "-o", str(tmp_path / "m.svg"), "--kind", "memory")[0] == 0
    assert (tmp_path / "m.svg").read_text().startswith("<?xml")
    code, _, err = outcome(capsys, "plot", plan_file, "-o", str(tmp_path / "n.svg"), "--kind", "memmory")
    assert code == 2 and "did you mean memory or" in err
    assert not (tmp_path / "n.svg").exists()


def test_plan_for_a_cluster(capsys, tmp_path):
    target = tmp_path / "mlp.json"
    code, out, err = outcome(capsys, "plan", "mlp-tiny", "--cluster", "dgx-a100", "--batch", "64", "--stages", "1",
                             "--microbatches", "2", "-o", str(target))
    assert code == 0 and f"plan saved to {target}" in err
    record = plan_io.load(target)
    assert (record.batch_size, record.microbatches, record.device_count) == (64, 2, 8)
    assert "mlp-tiny" in out and "dgx-a100" in out


def test_plan_of_a_users_model_as_json(capsys, model_file):
    argv = ["plan", f"{model_file}:build", *HERE, "--microbatches", "1", "--batch", "32", "--json"]
    code, out, _ = outcome(capsys, *argv)
    record = plan_io.from_json(out)
    assert code == 0 and (record.model_name, record.batch_size) == ("mine", 32)


def test_pins_are_read():
    args = parser().parse_args([
        "plan", "m", "--boundaries", "4,8", "--mesh", "data=4,model=2", "--schedule", "gpipe", "--no-recompute",
        "--pin", "params/**/wq=None,model", "--pin", "e=data+model,-", "--pin-activation", "h=", "--recipe", "fsdp"])
    assert pins(args) == Pins(
        boundaries=(4, 8), mesh_axes=(("data", 4), ("model", 2)), schedule="gpipe", recompute="none", recipe="fsdp",
        params=(("params/**/wq", (None, "model")), ("e", (("data", "model"), None))), activations=(("h", ()),))


def test_how_layers_are_recomputed_is_a_word_or_none_of_it():
    for given, meant in ((["--recompute"], "all"), (["--recompute", "selected"], "selected"), ([], None),
                         (["--recompute", "auto"], "auto"), (["--no-recompute"], "none")):
        assert pins(parser().parse_args(["plan", "m", *given])).recompute == meant


def test_run_prints_a_line_a_step(capsys, model_file):
    argv = ["run", f"{model_file}:build", *HERE, "--stages", "2", "--microbatches", "2", "--steps", "2", "--json"]
    code, out, _ = outcome(capsys, *argv)
    steps = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [s["number"] for s in steps] == [0, 1]
    assert all(s["loss"] > 0 and s["time_s"] > 0 and s["rates"]["per_s"] > 0 for s in steps)


def test_run_prints_what_steps_cost_in_columns(capsys, model_file):
    argv = ["run", f"{model_file}:build", *HERE, "--recipe", "data", "--steps", "5", "--print-every", "2"]
    code, out, _ = outcome(capsys, *argv)
    assert code == 0
    head, *rows = [line for line in out.splitlines() if line[:7].strip().isdigit() or line.lstrip().startswith("step")]
    assert head.split() == ["step", "loss", "time", "rate", "a", "device", "MFU", "memory"]
    assert [row.split()[0] for row in rows] == ["0", "1", "3", "4"]
    assert "(with compiling)" in rows[0] and all("examples/s" in row for row in rows)
    assert "* predicted by the plan" in out and "starting a step's programs took" in out


def test_a_loss_that_is_not_finite_ends_the_run_with_1(capsys, model_file, tmp_path):
    """sgd on a loss times 1e30: infinite numbers after a step or two, none of which is saved."""
    text = model_file.read_text().replace("return jnp.mean((", "return 1e30 * jnp.mean((", 1)
    wild = tmp_path / "wild.py"
    wild.write_text(text)
    argv = ["run", f"{wild}:build", *HERE, "--recipe", "data", "--steps", "8", "--checkpoint", str(tmp_path / "run"),
            "--every", "1"]
    code, out, err = outcome(capsys, *argv, "--json")
    finite = [json.loads(line)["number"] for line in out.splitlines()]
    kept = sorted(int(p.name) for p in (tmp_path / "run").iterdir())
    assert code == 1 and re.search("error: (the loss of|after) step [1-7]", err) and 0 < len(finite) < 7
    assert kept[-1] <= len(finite)
    code, out, err = outcome(capsys, *argv[:-4], "--nonfinite", "go-on")
    assert code == 0 and "the loss is not finite" in out
    code, out, err = outcome(capsys, *argv[:-4], "--nonfinite", "go-on", "--json")
    steps = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]  # JSON has no NaN
    assert len(steps) == 8 and steps[-1]["loss"] is None and steps[0]["loss"] > 0


def losses(capsys, *argv: str) -> dict[int, float]:
    code, out, err = outcome(capsys, *argv, "--json")
    assert code == 0, err
    return {s["number"]: s["loss"] for s in map(json.loads, out.splitlines())}


def test_a_run_goes_on_from_its_checkpoint(capsys, model_file, tmp_path):
    """Under the plan saved with it: the same numbers, bit for bit."""
    argv = ["run", f"{model_file}:build", *HERE]
    fsdp = ["--recipe", "fsdp", "--microbatches", "1"]
    wanted = losses(capsys, *argv, *fsdp, "--steps", "5")
    save = ["--checkpoint", str(tmp_path / "run"), "--every", "2"]
    assert losses(capsys, *argv, *fsdp, *save, "--steps", "3") == {n: wanted[n] for n in range(3)}
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["2", "3"]
    assert losses(capsys, *argv, *save, "--resume", "--steps", "5") == {n: wanted[n] for n in (3, 4)}
    (tmp_path / "run" / "5" / "state" / "seal.json").unlink()
    code, _, err = outcome(capsys, *argv, *save, "--resume", "--steps", "6")
    assert code == 0 and "5 is damaged: seal.json is missing" in err
    for more, text in ((("--steps", "7"), "has checkpoints, the last of step 6"),
                       (("--steps", "6", "--resume"), "is of step 6: --steps 6 leaves nothing to do")):
        code, _, err = outcome(capsys, *argv, *save, *more)
        assert code == 2 and text in err


def test_check_passes_and_fails(capsys, model_file, monkeypatch):
    argv = ["check", f"{model_file}:build", *HERE, "--recipe", "data", "--microbatches", "1", "--steps", "2"]
    code, out, _ = outcome(capsys, *argv, "--json")
    assert code == 0 and json.loads(out)["passed"]
    monkeypatch.setattr("planner.check.check_plan", lambda *a, **k: CheckReport(
        (TensorCheck("loss", "0", 1.0, 1e-4, 0.0),), 2, ((1.0, 2.0),)))
    code, out, _ = outcome(capsys, *argv)
    assert code == 1 and "FAILED" in out


def test_a_plan_for_other_devices_is_refused(capsys, model_file, tmp_path):
    plan_io.save(two_devices(), tmp_path / "two.json")
    code, _, err = outcome(capsys, "run", f"{model_file}:build", *HERE, "--plan", str(tmp_path / "two.json"))
    assert code == 2 and "is for 2 devices, there are 8" in err


def test_compare(capsys):
    argv = ["compare", "mlp-tiny", "--cluster", "dgx-a100", "--batch", "64", "--microbatches", "1", "--set", "layers=1"]
    code, out, _ = outcome(capsys, *argv, "--json")
    rows = json.loads(out)
    assert code == 0 and rows[0]["name"] == "planner"
    steps = [row["step_time_s"] for row in rows if "step_time_s" in row]
    assert len(steps) >= 3 and min(steps) == steps[0]


def test_solve_prints_the_choice_last(capsys, request):
    file = str(request.path.parent / "data" / "iopddl_example.json")
    code, out, _ = outcome(capsys, "solve", file, "--timeout", "5")
    assert code == 0 and json.loads(out.splitlines()[-1]) == json.loads(
        outcome(capsys, "solve", file, "--timeout", "5", "--json")[1])["choice"]


def test_lists(capsys):
    assert "gpt-39b" in outcome(capsys, "models")[1]
    assert "dgx-a100" in outcome(capsys, "clusters")[1]
    a100 = outcome(capsys, "clusters", "dgx-a100")[1]
    assert "datasheet" in a100 and "6 shapes on 108 units" in a100 and "LL, LL128, Simple" in a100
    here = outcome(capsys, "clusters", "cpu-8")[1]
    assert "128 shapes, 2.62 to 57.3 GFLOP/s" in here and "cache, level 1" in here and "hidden gradients" in here
    assert json.loads(outcome(capsys, "clusters", "dgx-a100", "--json")[1])[0]["device"]["memory_bytes"] == 80 * 10**9


def test_rewrites_are_listed_and_proved(capsys):
    listed = outcome(capsys, "rewrites")[1]
    assert "matmuls: Products that share an operand" in listed and "assumes: no index is negative" in listed
    assert all(len(line) <= 100 for line in listed.splitlines())
    few = outcome(capsys, "rewrites", "--family", "matmuls", "--rule", "merge_casts")[1]
    assert "One product for all that share their left operand." in few and "merge_casts" in few and "order:" not in few
    rows = json.loads(outcome(capsys, "rewrites", "--prove", "2", "--rule", "merge_transposes", "--json")[1])
    assert [(r["name"], r["samples"], r["wrong"]) for r in rows] == [("merge_transposes", 2, "")]
    assert rows[0]["places"] >= 2 and rows[0]["worst"] == 0.0
    assert "2 cases, 0 wrong" in outcome(capsys, "rewrites", "--prove", "2", "--rule", "merge_transposes")[1]


def test_rewrites_are_proved_in_a_model(capsys):
    asked = ("rewrites", "--prove", "2", "--model", "mlp-tiny", "--set", "layers=2", "--batch", "2")
    rows = json.loads(outcome(capsys, *asked, "--rule", "split_contraction", "--json")[1])
    assert [(r["rule"], r["at"], r["places"], r["right"]) for r in rows] == [
        ("split_contraction", "layers/*/weight", 2, True)]
    assert "cases on 2 samples, 0 wrong" in outcome(capsys, *asked)[1]


BAD = [
    (["rewrites", "--prove", "0"], "0 samples prove nothing"),
    (["rewrites", "--model", "mlp-tiny"], "--prove SAMPLES --model MODEL"),
    (["rewrites", "--rule", "merge_transpose"], "merge_transposes"),
    (["rewrites", "--family", "matmul"], "did you mean matmuls"),
    (["show", "none.json"], "there is no plan file"),
    (["plan", "gpt-2.7b", "--cluster", "dgx-a100"], "did you mean gpt-6.7b or gpt-2.6b"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a10"], "did you mean dgx-a100"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--nodes", "0"], "at least one node"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--nodes", "8", "--level", "pod=x"], "pod=32:7"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--nodes", "8", "--level", "rack=4:1", "--level", "pod=6:1"],
     "multiple of the level below"),
    (["plan", "mlp-tiny", "--devices", "0"], "nothing to run on"),
    (["plan", "mlp-tiny", "--devices", "8", "--cluster", "dgx-a100"], "both given"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--batch", "7", "--microbatches", "2"], "divide"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--boundaries", "a"], "not a list of numbers"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--mesh", "data"], "not NAME=SIZE"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--pin", "wq"], "not NAME=SPEC"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--set", "layers"], "has no value"),
    (["plan", "none.py:build", "--cluster", "dgx-a100"], "there is no file none.py"),
    (["plan", "no.such.module:build", "--cluster", "dgx-a100"], "cannot be imported"),
    (["plan", "{model}:buid", "--cluster", "dgx-a100"], "it has branches, broken, build, loss, nothing"),
    (["plan", "{model}:broken", "--cluster", "dgx-a100"], "fails: ValueError: no data here"),
    (["plan", "{model}:nothing", "--cluster", "dgx-a100"], "returns NoneType, not a planner.Model"),
    (["plan", "{model}:nothing", "--cluster", "dgx-a100", "--batch", "4"], "takes no batch size"),
    (["plan", "{model}:build", "--cluster", "dgx-a100", "--set", "layers=2"], "models of the zoo"),
    (["plan", "{model}", "--cluster", "dgx-a100"], "my_model.py:FUNCTION"),
    (["plan", "{model}:wrong_optimizer", "--cluster", "dgx-a100"], "the optimizer of 'model' is str"),
    (["plan", "{model}:branches", "--cluster", "dgx-a100"], "jax.lax.cond"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--set", "layers=two"], "setting 'layers' of model 'mlp-tiny'"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--set", "layers=-1"], "a whole number of at least 1"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--batch", "0"], "give a positive batch size"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--stages", "9"], "9 stages on 8 devices"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--nodes", "8", "--set", "layers=1", "--stages", "64"],
     "64 stages of 'mlp-tiny', which has"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--microbatches", "1", "--boundaries", "2,70"],
     "stage boundary 70 of 'mlp-tiny', whose layers are 0 to"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--mesh", "data=2,data=4"], "not distinct names"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--budget", "nan"], "a budget of nan seconds"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "-o", "no/p.json"], "there is no folder no"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "-o", "p.json", "--plot", "p.bmp"], "use one of .png, .svg, .pdf"),
    (["plan", "gpt-39b", "--cluster", "p3.16xlarge", "--devices-per-node", "1", "--batch", "1", "--set", "layers=1"],
     "GB per device are missing"),
    (["plan", "mlp-tiny", "--cluster", "{tmp}/bad_profile.json"], "bandwidth_bytes_per_s is nan"),
    (["run", "mlp-tiny", *HERE, "--steps", "0"], "--steps 0 leaves nothing to do"),
    (["run", "mlp-tiny", *HERE, "--resume"], "--resume has no folder to resume from"),
    (["run", "mlp-tiny", *HERE, "--resume", "--checkpoint", "{tmp}/no"], "there is no checkpoint in"),
    (["check", "mlp-tiny", *HERE, "--steps", "-1"], "--steps -1 leaves nothing to do"),
    (["measure", "--devices", "2", "-o", "no/m.json"], "there is no folder no"),
    (["measure", "--devices", "2", "--budget", "nan"], "a budget of nan seconds to measure in"),
    (["measure", "--devices", "2", "--budget", "0"], "a budget of 0 seconds to measure in"),
    (["show", "{tmp}/nonsense.json"], "plan.stages[1].devices holds device 8, the plan has 8"),
    (["plot", "{tmp}/cut.json", "-o", "p.png"], "is not JSON, or is truncated"),
    (["solve", "none.json"], "none.json"),
]


def bad_files(folder):
    """A profile with a bandwidth that is not a number, a plan whose stages name no device, and half a plan."""
    profile = profiles.cluster("dgx-a100")
    profiles.write_profile(profile, folder / "bad_profile.json", "a test")
    text = (folder / "bad_profile.json").read_text()
    (folder / "bad_profile.json").write_text(re.sub(r'("bandwidth_bytes_per_s"): [\d.e+]+', r"\1: NaN", text))
    record = eight_devices()
    stages = (record.stages[0], replace(record.stages[1], devices=(4, 5, 6, 8)))
    plan_io.save(replace(record, stages=stages), folder / "nonsense.json")
    text = plan_io.to_json(record)
    (folder / "cut.json").write_text(text[:len(text) // 2])


@pytest.mark.parametrize(("argv", "words"), BAD, ids=lambda x: "_".join(x[1:])[:50] if isinstance(x, list) else "")
def test_bad_input_is_2_with_a_mend_and_nothing_written(capsys, model_file, tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    bad_files(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = outcome(capsys, *(word.format(model=model_file, tmp=tmp_path) for word in argv))
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err and "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == before


def test_interrupted_before_a_result_is_130(capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "plan", interrupted)
    code, out, err = outcome(capsys, "plan", "mlp-tiny", "--cluster", "dgx-a100")
    assert (code, out) == (130, "") and "interrupted before there was a result" in err


def test_measuring_that_is_interrupted_writes_nothing(capsys, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        kwargs["progress"]("matmuls", 0.4)
        raise KeyboardInterrupt

    monkeypatch.setattr("planner.measure.measure", interrupted)
    code, out, err = outcome(capsys, "measure", "--devices", "2", "-o", str(tmp_path / "m.json"))
    assert (code, out) == (130, "") and "interrupted" in err and not list(tmp_path.iterdir())


def test_a_measured_profile_is_written_and_shown(capsys, monkeypatch, tmp_path):
    asked = {}

    def quick(devices, **options):
        asked.update(options, devices=len(devices))
        return profiles.cluster("cpu-8")

    monkeypatch.setattr("planner.measure.measure", quick)
    file = tmp_path / "m.json"
    code, out, err = outcome(capsys, "measure", "--devices", "2", "-o", str(file), "--budget", "7")
    assert code == 0 and asked["budget_s"] == 7 and asked["devices"] == 2 and str(file) in err
    assert profiles.read_profile(file) == profiles.cluster("cpu-8") and "cpu-8" in out


def test_a_bar_says_what_is_done_and_what_is_left():
    text = io.StringIO()
    output = Output(err=Console(file=text, force_terminal=True, width=100))
    with output.bar("measuring") as tell:
        tell("matmuls", 0.25)
    assert "measuring: matmuls" in text.getvalue() and "25 %" in text.getvalue() and "left" in text.getvalue()
    assert remaining(30, 0.25) == "about 1 min 30 s left" and remaining(30, 0.5) == "about 30 s left"
    assert remaining(1, 0) == ""


def test_a_reader_that_stops_is_no_error(plan_file):
    script = f"{sys.executable} -m planner.cli show {plan_file} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("model")


def test_devices_of_this_process_are_counted(capsys, model_file):
    assert len(jax.devices()) == 8
    code, _, err = outcome(capsys, "plan", f"{model_file}:build", "--devices", "9", "--hardware", "dgx-a100")
    assert code == 2 and "has 8 devices already, not 9" in err


def test_simulate_prints_and_writes(capsys, plan_file, tmp_path):
    trace, picture = tmp_path / "t.json", tmp_path / "t.png"
    code, out, err = outcome(capsys, "simulate", plan_file, "--trace", str(trace), "--plot", str(picture))
    assert code == 0 and "bubble" in out and "peak GB" in out and str(trace) in err
    assert json.loads(trace.read_text())["traceEvents"] and picture.stat().st_size > 1000
    code, out, _ = outcome(capsys, "simulate", plan_file, "--json")
    found = json.loads(out)
    assert code == 0 and len(found["stages"]) == 2 and 0 < found["bubble"] < 1
    code, _, err = outcome(capsys, "simulate", plan_file, "--plot", "x.gif")
    assert code == 2 and "picture format" in err
