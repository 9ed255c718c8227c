"""The command line: verbs, help without JAX, exit codes, JSON alone on stdout."""

import json
import resource
import subprocess
import sys

import pytest

from pruner_jax import cli


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "pruner_jax", *words], capture_output=True, text=True
    )


@pytest.mark.parametrize("verb", [verb.name for verb in cli.VERBS])
def test_help_of_every_verb_shows_its_settings_and_needs_no_jax(verb, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)  # importing it would fail
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"pruner-jax {verb}" in shown
    assert "usage" in shown.lower()


def test_help_imports_nothing_slow():
    """In a process of its own; jsonargparse looks into modules by itself."""
    code = (
        "import sys\n"
        "from pruner_jax import cli\n"
        "assert all(cli.main([verb.name, '--help']) == 0 for verb in cli.VERBS)\n"
        "assert cli.main(['--help']) == 0\n"
        "heavy = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'transformers', 'torch', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["-c", "import pruner_jax"], ["-m", "pruner_jax", "--help"]])
def test_import_and_help_take_under_a_second(words):
    """Of the processor, which others may share; the best of three."""

    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1


def test_the_overview_names_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb.name} " in shown for verb in cli.VERBS)


def test_errors_of_the_command_line_exit_with_2_and_say_what_is_allowed(capsys):
    assert cli.main(["prunne"]) == 2
    assert "the verbs are prune, warmup" in capsys.readouterr().err
    assert cli.main(["prune", "no/such/file.yaml"]) == 2
    assert "no/such/file.yaml" in capsys.readouterr().err
    assert cli.main([]) == 2


def test_print_config_is_a_config(tmp_path, capsys):
    words = ["--model=m", "--out=o", "--method.options.samples=4"]
    assert cli.main(["prune", *words, "--print_config"]) == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert cli.main(["prune", str(path), "--print_config"]) == 0
    assert "samples: 4" in capsys.readouterr().out


def test_a_failure_is_one_message_and_exit_code_1(tmp_path, capsys):
    code = cli.main(["report", str(tmp_path)])
    assert code == 1
    said = capsys.readouterr().err
    assert said.startswith("pruner-jax: error: ") and "Traceback" not in said


def out_of_memory():
    from jax.errors import JaxRuntimeError

    return JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBuffers: ...")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: KeyError("added_tokens"), "KeyError: 'added_tokens' (--traceback shows where)"),
        (
            lambda: RuntimeError("no worker starts\nmore"),
            "RuntimeError: no worker starts (",
        ),
        (lambda: OSError(28, "No space left", "x/y"), "the disk is full (x/y)"),
        (lambda: MemoryError(), "out of memory (MemoryError); less is needed with smaller sample"),
        (out_of_memory, "learn.micro_tokens"),
    ],
)
def test_whatever_goes_wrong_is_one_line(monkeypatch, capsys, error, said):
    def fails(_):
        raise error()

    monkeypatch.setattr("pruner_jax.report.html.build", fails)
    assert cli.main(["report", "somewhere"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("pruner-jax: error: ") and said in err and err.count("\n") == 1
    with pytest.raises(type(error())):
        cli.main(["report", "somewhere", "--traceback"])


def test_broken_settings_on_the_command_line_exit_with_2(capsys):
    words = ["--model=m", "--out=o", "--method.options={a:"]
    assert cli.main(["prune", *words, "--print_config"]) == 2
    assert "method.options" in capsys.readouterr().err


def test_json_stands_alone_on_stdout(monkeypatch, capsys, tmp_path):
    def build(_):
        print("chatter of a library")
        return tmp_path / "report.html"

    monkeypatch.setattr("pruner_jax.report.html.build", build)
    assert cli.main(["report", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"report": str(tmp_path / "report.html")}
    assert "chatter" in err


def test_module_and_version():
    done = run("--version")
    assert done.returncode == 0 and done.stdout.startswith("pruner-jax ")


def test_a_comparison_that_is_wrong_exits_with_2_and_leaves_nothing(tmp_path, capsys):
    path = tmp_path / "compare.yaml"
    path.write_text(
        f"out: {tmp_path / 'out'}\nsettings: {{model: m, test.limit: 9}}\n"
        "entries: [{label: a, settings: {rounds.stepz: 3}}]\n"
    )
    assert cli.main(["compare", str(path)]) == 2
    said = capsys.readouterr().err
    assert "entry 'a' on set 'all': rounds.stepz is unknown; allowed: limits" in said
    assert not (tmp_path / "out").exists()
