"""What must stay true of the project as a whole."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
from forks import Forks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ROOMS = ("clips", "model", "settings", "results", "training", "use", "sharing")  # each may import those before it


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_data_flows_one_way() -> None:
    for path in (ROOT / "data_prep").rglob("*.py"):
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & {"finetune", "torch", "transformers"}, path


def test_one_file_opens_videos() -> None:
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("[df]*/**/*.py")
        if "av" in {n.split(".")[0] for n in imports(path)}
    }
    # The door, and behind it what decodes single packets of a file that went through it; those that only write videos;
    # and what names PyAV's version, in a card and for an app.
    assert importing == {
        "data_prep/video.py", "data_prep/indexed.py", "data_prep/encode.py", "data_prep/demo.py", "finetune/sharing/card_facts.py",
        "finetune/space.py",
    }  # fmt: skip


def test_nothing_imports_an_entry_point() -> None:
    entries = {
        "finetune.run", "finetune.predict", "finetune.evaluate", "finetune.compare", "finetune.folds", "finetune.explain", "finetune.export",
        "finetune.space", "data_prep.__main__",
    }  # fmt: skip
    for path in ROOT.glob("[df]*/**/*.py"):
        assert not imports(path) & entries, path


def test_rooms_lean_one_way() -> None:
    assert {path.parent.name for path in ROOT.glob("finetune/*/*.py")} == set(ROOMS)
    for number, room in enumerate(ROOMS):
        allowed = {f"finetune.{before}" for before in ROOMS[: number + 1]}
        for path in (ROOT / "finetune" / room).rglob("*.py"):
            within = {".".join(name.split(".")[:2]) for name in imports(path) if name.split(".")[0] == "finetune"}
            assert within <= allowed, path


def test_rooms_open_at_once() -> None:
    """`--help`, `finetune.compare` and the processes that read videos import some files of a room, not all of it."""
    for path in ROOT.glob("finetune/*/__init__.py"):
        assert len(ast.parse(path.read_text()).body) == 1 and not imports(path), path


def test_every_package_is_installed() -> None:
    """What pyproject.toml lists; a checkout would do without, an installation would lack the folder."""
    listed = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert listed
    found = {".".join(path.relative_to(ROOT).parts[:-1]) for path in ROOT.glob("[df]*/**/__init__.py")}
    assert set(re.findall(r'"([\w.]+)"', listed[1])) == found | {"model_cards"}


def test_all_json_is_strict() -> None:
    """NaN and Infinity are no JSON: other programs refuse a file that holds them."""
    for path in (*ROOT.glob("[df]*/**/*.py"), *ROOT.glob("benchmarks/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dump", "json.dumps"):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("allow_nan") == "False", f"{path} line {node.lineno}"
        names = {name for name in imports(path) if name.split(".")[0] in ("simplejson", "orjson", "ujson")}
        assert not names and "from json import" not in path.read_text(), path


def test_no_metric_is_fetched_and_no_remote_code_is_trusted() -> None:
    for path in ROOT.glob("[df]*/**/*.py"):
        text = path.read_text()
        assert "evaluate.load" not in text and "import pickle" not in text, path
        assert set(re.findall(r"trust_remote_code=(\w+)", text)) <= {"False"}, path


def test_every_loader_declines_remote_code() -> None:
    """Left out, `trust_remote_code` makes transformers ask on standard input whether to run a checkpoint's own code."""
    for path in ROOT.glob("[df]*/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("from_pretrained", "pipeline"):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{path}:{node.lineno}"


def test_no_child_process_reads_our_standard_input() -> None:
    for path in ROOT.glob("[df]*/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("subprocess.run", "subprocess.Popen"):
                assert any(keyword.arg in ("stdin", "input") for keyword in node.keywords), f"{path}:{node.lineno}"


def test_every_program_that_is_started_ends_with_this_one() -> None:
    for path in ROOT.glob("[df]*/**/*.py"):
        text = path.read_text()
        started = re.findall(r"subprocess\.(?:run|Popen|check_output|call)\(\s*(\S{6})", text)
        started = [first for first in started if first != '["git"']  # which ends at once
        assert text.count("ending_with_us(") - text.count("def ending_with_us(") == len(started), path


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_readme_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_readme_holds_the_two_commands_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for command in (
        "pip install -e . && accelerate launch --config_file accelerate_config.yaml finetune/run.py",
        'pip install -e ".[test]" && pytest',
    ):
        assert f"```bash\n{command}\n```" in README
        assert f"\n{command}\n" in ci


def test_readme_names_every_file_where_it_is() -> None:
    rows = {
        line.split("`")[1]: line for line in README.splitlines() if line.startswith(("| `data_prep/", "| `finetune/"))
    }
    held: dict[str, set[str]] = {place: set() for place in rows}
    for path in (path for top in ("data_prep", "finetune") for path in (ROOT / top).rglob("*.py")):
        if path.name != "__init__.py":
            folders = [f"{folder.as_posix()}/" for folder in path.relative_to(ROOT).parents]
            held[next(folder for folder in folders if folder in rows)].add(path.name)
    assert {place: set(re.findall(r"`(\w+\.py)`", row)) for place, row in rows.items()} == held
    assert set(rows) == {"data_prep/", "finetune/", *(f"finetune/{room}/" for room in ROOMS)}


EXPLAIN = """
import runpy, sys
for module in sys.argv[1:]:
    sys.argv = [module, "--help"]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(f"{module} ended with {end.code}")
"""


def test_every_command_explains_every_flag(forks: Forks, tmp_path: Path) -> None:
    names = ("predict", "hub", "explain", "export", "space", "evaluate", "compare", "folds")
    commands = ["data_prep", "data_prep.demo", *(f"finetune.{name}" for name in names)]
    shown = forks.run("-c", EXPLAIN, *commands, cwd=tmp_path)
    assert shown.stdout.count("usage: ") == len(commands), shown.stderr
    for module in commands:
        assert f"\n{module} ended with 0\n" in shown.stdout or f"\n{module} ended with None\n" in shown.stdout


def test_the_top_level_holds_what_it_should() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    tops = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert {name for name in tops if not name.startswith(".")} <= {
        "pyproject.toml", "finetune", "data_prep", "tests", "benchmarks", "model_cards", "accelerate_config.yaml",
        "README.md", "LICENSE", "CONTRIBUTING.md",
    }  # fmt: skip
