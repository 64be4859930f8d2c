"""The command line, run in this process: exit codes, what goes to which stream, and what files are left behind."""

import json
import subprocess
import sys

import jax
import pytest

from planner import api
from planner.check import CheckReport, TensorCheck
from planner.cli import main
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


def test_help_imports_neither_plotting_nor_solvers():
    code = ("import sys\nfrom planner.cli import main\n"
            "try:\n  main(['--help'])\nexcept SystemExit:\n  pass\n"
            "print(sorted({'matplotlib', 'networkx', 'ortools'} & set(sys.modules)), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


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


def test_plot(capsys, plan_file, tmp_path):
    assert outcome(capsys, "plot", plan_file, "-o", str(tmp_path / "m.svg"), "--kind", "memory")[0] == 0
    assert (tmp_path / "m.svg").read_text().startswith("<?xml")
    code, _, err = outcome(capsys, "plot", plan_file, "-o", str(tmp_path / "n.svg"), "--kind", "memmory")
    assert code == 2 and "did you mean memory?" in err
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
        boundaries=(4, 8), mesh_axes=(("data", 4), ("model", 2)), schedule="gpipe", recompute=False, recipe="fsdp",
        params=(("params/**/wq", (None, "model")), ("e", (("data", "model"), None))), activations=(("h", ()),))


def test_run_prints_a_line_a_step(capsys, model_file):
    argv = ["run", f"{model_file}:build", *HERE, "--stages", "2", "--microbatches", "2", "--steps", "2", "--json"]
    code, out, _ = outcome(capsys, *argv)
    steps = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [s["number"] for s in steps] == [0, 1]
    assert all(s["loss"] > 0 and s["time_s"] > 0 for s in steps)


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
    assert "datasheet" in outcome(capsys, "clusters", "dgx-a100")[1]
    assert json.loads(outcome(capsys, "clusters", "dgx-a100", "--json")[1])[0]["device"]["memory_bytes"] == 80 * 10**9


BAD = [
    (["show", "none.json"], "there is no plan file"),
    (["plan", "gpt-2.7b", "--cluster", "dgx-a100"], "did you mean gpt-6.7b or gpt-2.6b"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a10"], "did you mean dgx-a100"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--nodes", "0"], "at least one node"),
    (["plan", "mlp-tiny", "--devices", "0"], "nothing to run on"),
    (["plan", "mlp-tiny", "--devices", "8", "--cluster", "dgx-a100"], "both given"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--batch", "7", "--microbatches", "2"], "divide"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--boundaries", "a"], "not a list of numbers"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--mesh", "data"], "not NAME=SIZE"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--pin", "wq"], "not NAME=SPEC"),
    (["plan", "mlp-tiny", "--cluster", "dgx-a100", "--set", "layers"], "has no value"),
    (["plan", "none.py:build", "--cluster", "dgx-a100"], "there is no file none.py"),
    (["plan", "no.such.module:build", "--cluster", "dgx-a100"], "cannot be imported"),
    (["plan", "{model}:buid", "--cluster", "dgx-a100"], "it has broken, build, loss, nothing"),
    (["plan", "{model}:broken", "--cluster", "dgx-a100"], "fails: ValueError: no data here"),
    (["plan", "{model}:nothing", "--cluster", "dgx-a100"], "returns NoneType, not a planner.Model"),
    (["plan", "{model}:nothing", "--cluster", "dgx-a100", "--batch", "4"], "takes no batch size"),
    (["plan", "{model}:build", "--cluster", "dgx-a100", "--set", "layers=2"], "models of the zoo"),
    (["solve", "none.json"], "none.json"),
]


@pytest.mark.parametrize(("argv", "words"), BAD, ids=lambda x: "_".join(x[1:])[:50] if isinstance(x, list) else "")
def test_bad_input_is_2_with_a_mend_and_nothing_written(capsys, model_file, tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(capsys, *(word.format(model=model_file) for word in argv))
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err and "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir() if p.name != "__pycache__"] == ["my_model.py"]


def test_interrupted_before_a_result_is_130(capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "plan", interrupted)
    code, out, err = outcome(capsys, "plan", "mlp-tiny", "--cluster", "dgx-a100")
    assert (code, out) == (130, "") and "interrupted before there was a result" in err


def test_a_reader_that_stops_is_no_error(plan_file):
    script = f"{sys.executable} -m planner.cli show {plan_file} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("model")


def test_devices_of_this_process_are_counted(capsys, model_file):
    assert len(jax.devices()) == 8
    code, _, err = outcome(capsys, "plan", f"{model_file}:build", "--devices", "9", "--hardware", "dgx-a100")
    assert code == 2 and "has 8 devices already, not 9" in err
