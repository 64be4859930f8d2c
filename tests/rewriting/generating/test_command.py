"""`planner rewrites` lists rules, and `planner rewrites generate` writes proposals."""

import json
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.rewrites import RULES

SMALL = ["rewrites", "generate", "--operators", "2", "--over", "add,matmul,transpose", "--inputs", "x,y,z"]


def test_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewrites", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in listed] == list(RULES)
    assert main(["rewrites"]) == 0
    assert "fuse_matmuls" in capsys.readouterr().out


def test_proposals_are_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "proposals.json"
    assert main([*SMALL, "-o", str(file), "--without", "reassociate_left,reassociate_right"]) == 0
    data = json.loads(file.read_text())
    sides = {(p["left"]["jax"], p["right"]["jax"]) for p in data["proposals"]}
    assert sides & {("(x @ y) @ z", "x @ (y @ z)"), ("x @ (y @ z)", "(x @ y) @ z")}
    assert ["x.T.T", "x"] in [[p["left"], p["right"]] for p in data["by_rules"]]
    assert [f.name for f in tmp_path.iterdir()] == ["proposals.json"]
    assert "all pairs were looked at" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(("flags", "words"), [
    (["--over", "matmull"], "did you mean matmul"), (["--without", "fuse"], "unknown rewrite"),
    (["--budget", "-1"], "seconds above zero"), (["-o", "/no/such/folder/file"], "there is no folder")])
def test_wrong_input_is_refused(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *flags]) == 2
    assert words in capsys.readouterr().err
