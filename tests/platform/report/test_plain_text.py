"""Names of other people, shown: nothing in them is run, moves the cursor, starts a column or hides."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from rich.console import Console

from bsp_platform.cli.main import main
from bsp_platform.plain_text import csv_cell, markdown_text, plain_table, printable
from bsp_platform.report.report import write_report
from bsp_platform.report.tables import SweepResult, print_table, table_content, write_tables
from bsp_platform.sweep.live import LiveView

ANSI = "\x1b[31mred\x1b]0;title\x07"
EVIL = f"[red]x[/] {ANSI} | <script>alert(1)</script> \u202egpj\u202c\n# head =1+1 **b** `c` [a](javascript:x) \udcff"


def test_control_characters_are_spelt_out():
    assert printable("a\x1b[31m\x07\x9b\u202e\u2066\ufeff\udcff\r\n\t") == (
        r"a\x1b[31m\x07\x9b\u202e\u2066\ufeff\udcff\r\n\t"
    )
    assert printable("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"
    kept = "Ünï ćode 日本 ± \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 👩\u200d🚀 [red] <b> é e\u0301"
    assert printable(kept) == kept  # joiners are part of words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mAP_avg of {dc, ss} cls 26.5 ± 1.0", "mAP_avg of {dc, ss} cls 26.5 ± 1.0"),
        ("+1.20 ± 0.10", "+1.20 ± 0.10"),
        ("a|b\nc", "a\\|b c"),
        ("<img src=x onerror=y>", "&lt;img src=x onerror=y&gt;"),
        ("&lt; & AT&T", "&amp;lt; & AT&T"),
        ("[a](http://b) *c* _d_ `e` ~~f~~ $g$", r"\[a\](http://b) \*c\* \_d\_ \`e\` \~\~f\~\~ \$g\$"),
        ("back\\slash", "back\\\\slash"),
        ("\x1b[1m", r"\\x1b\[1m"),
    ],
)
def test_markdown(text, expected):
    assert markdown_text(text) == expected


def test_markdown_at_the_start_of_a_line():
    assert markdown_text("# no heading", starts_line=True) == "\\# no heading"
    assert markdown_text("- no list", starts_line=True) == "\\- no list"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", " =1", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text):
    cell = csv_cell(text)
    assert cell.lstrip()[:1] not in "=+-@"


@pytest.mark.parametrize("value", [-0.5, "-0.5", "+1e-3", "12", "", "random", "{dc}", None, "a=b"])
def test_numbers_and_words_stay(value):
    assert csv_cell(value) == value


def test_rich_shows_markup_as_it_is(capsys):
    console = Console(width=200, force_terminal=True, color_system="truecolor")
    console.print(plain_table(["[bold]a", "b"], [[EVIL, 3]], title="[blink]t"))
    out = capsys.readouterr().out
    for text in ("[red]x[/]", "[bold]a", "[blink]t", r"\x1b[31mred\x1b]0;title\x07", r"\u202egpj"):
        assert text in out
    assert ANSI not in out
    assert "\u202e" not in out


def evil_table(folder: Path) -> dict:
    row = SimpleNamespace(
        name="=evil", label=EVIL, streams=("=cmd",), heads=("gtad",), blind="", paper={"mAP_avg": -1.0}, other={}
    )
    experiment = SimpleNamespace(
        name="evil", title="Evil", paper_data="none", columns=("mAP_avg",), claims=(), references=(), note="",
        other_paper="", other_data="",
    )  # fmt: skip
    result = SweepResult(
        experiment=experiment, profile=SimpleNamespace(name="smoke", about=EVIL), rows=[row],
        seeds=2, scores={("=evil", 0): {"mAP_avg": -0.5}}, failures={("=evil", 1): EVIL},
        notes=[f"class scores of thumos: {EVIL}"], duration_s=1.0,
    )  # fmt: skip
    content = table_content(result)
    write_tables(folder / "evil" / "smoke", content)
    return content


def test_tables_and_report(tmp_path, capsys):
    content = evil_table(tmp_path)
    write_report(tmp_path, "smoke", ["evil"], {"evil": EVIL})
    for path in (tmp_path / "evil" / "smoke" / "table.md", tmp_path / "REPORT.md"):
        text = path.read_text("utf-8")
        for bad in ("<script", "[a](javascript", "\x1b", "\u202e", "**b**", "\n# head"):
            assert bad not in text, (path, bad)
        assert "&lt;script&gt;" in text
        (line,) = (line for line in text.splitlines() if line.startswith("| ") and "script" in line)
        assert line.replace("\\|", "").count("|") == 4  # row, ours, paper
    with open(tmp_path / "evil" / "smoke" / "table.csv", newline="", encoding="utf-8") as file:
        header, cells = csv.reader(file)
    assert cells[header.index("row")] == "'=evil"
    assert cells[header.index("streams")] == "'=cmd"
    assert cells[header.index("mAP_avg")] == "-0.5"
    assert "\x1b" not in "".join(cells)
    print_table(content)
    assert "[red]x[/]" in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(terminal):
    file = io.StringIO()
    view = LiveView([(EVIL, 0)], 1, file)
    view.console = Console(file=file, width=400, force_terminal=terminal)
    view.update((EVIL, 0), {"stage": ANSI})
    view.warn((EVIL, 0), EVIL)
    view.console.print(view._table())
    assert ANSI not in file.getvalue()
    assert "[red]x[/]" in file.getvalue()


def test_error_messages_of_the_command(tmp_path):
    evil = tmp_path / "\x1b]0;title\x07[red].json"
    evil.write_text("{", "utf-8")
    result = CliRunner().invoke(
        main, ["evaluate", "detection", "--ground-truth", str(evil), "--predictions", str(evil)]
    )
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert r"\x1b]0;title\x07[red].json" in result.output


ASCII = {
    **os.environ,
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


@pytest.mark.long
def test_ascii_locale_and_a_pipe(tmp_path):
    """Tables are written in UTF-8 and read again; what a pipe in ASCII cannot take is spelt out."""
    code = (
        "import sys; from pathlib import Path; from types import SimpleNamespace as N\n"
        "from bsp_platform.plain_text import escape_unencodable, say\n"
        "from bsp_platform.report.tables import SweepResult, print_table, table_content, write_tables\n"
        "from bsp_platform.report.report import write_report\n"
        "assert sys.stdout.encoding.lower() in ('ascii', 'ansi_x3.4-1968', 'us-ascii'), sys.stdout.encoding\n"
        "escape_unencodable(); out = Path(sys.argv[1])\n"
        "row = N(name='a', label='Zürich 日', streams=('x',), heads=('gtad',), blind='', paper={'mAP_avg': 1.0},\n"
        "    other={})\n"
        "of = N(name='t', title='T', paper_data='n', columns=('mAP_avg',), claims=(), references=(), note='',\n"
        "    other_paper='', other_data='')\n"
        "scores = {('a', 0): {'mAP_avg': 1.0}, ('a', 1): {'mAP_avg': 3.0}}\n"
        "content = table_content(SweepResult(experiment=of, profile=N(name='smoke', about='Ä'), rows=[row],\n"
        "    seeds=2, scores=scores, failures={}, notes=['né'], duration_s=1.0))\n"
        "write_tables(out / 't' / 'smoke', content); print_table(content)\n"
        "print('± é'); say('say é'); write_report(out, 'smoke', ['t'], {})\n"
    )
    (tmp_path / "script.py").write_text(code, "utf-8")
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    done = subprocess.run(command, env=ASCII, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert b"2.00 +- 1.41" in done.stdout
    assert rb"Z\xfcrich \u65e5" in done.stdout
    assert rb"+- \xe9" in done.stdout
    for path in (tmp_path / "t" / "smoke" / "table.md", tmp_path / "REPORT.md"):
        assert "Zürich 日" in path.read_text("utf-8")
        assert "2.00 ± 1.41" in path.read_text("utf-8")


def test_commands_in_an_ascii_locale(tmp_path):
    name = tmp_path / "größe.json"
    name.write_text('{"database": {"ä": {"subset": "validation"}}}', "utf-8")
    command = [sys.executable, "-c", "from bsp_platform.cli.main import main; main()", "evaluate", "detection"]
    command += ["--ground-truth", str(name), "--predictions", str(name)]
    done = subprocess.run(command, env=ASCII, capture_output=True, timeout=120)
    assert done.returncode == 1, done.stderr.decode()
    assert done.stderr.startswith(b"Error: ")
    assert b"Traceback" not in done.stderr
