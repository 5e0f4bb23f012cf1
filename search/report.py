"""Write a report on a study: `python -m search.report --study cifar`.

The report is a self-contained HTML page, Markdown or JSON, made from the database alone.
"""
# PYTHON_ARGCOMPLETE_OK: `search.cli.completion` answers the Tab key.

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from search import output
from search.cli.options import add_study, check_storage, commands, given, named
from search.cli.parser import Parser, command
from search.files import encoded, write_out

if TYPE_CHECKING:
    from search.reporting.report_data import ReportData

FORMATS = {"html": "html", "markdown": "md", "json": "json"}
"""The file name extension of each format."""

EPILOG = """\
examples:
  python -m search.report --study cifar                        writes report-cifar.html
  python -m search.report --study cifar --format markdown      writes report-cifar.md
  python -m search.report --study cifar --format json --out -  to standard output

exit status: 0 done, 1 the database or standard output failed, 2 invalid request
"""


def parser() -> Parser:
    made = Parser(
        "search.report",
        "Write a report on a study: the best trials, the variants beside their published figures, "
        "what was searched, and what pruning saved. Reads only the database.",
    )
    made.epilog = EPILOG
    add_study(made)
    made.add_argument(
        "--format",
        choices=FORMATS,
        default="html",
        help="html, a page with charts; markdown; or json, with everything; `python -m search "
        "export` writes the trials alone (default: html)",
    )
    made.add_argument(
        "--out",
        metavar="FILE",
        help="file to write, or - for standard output (default: report-NAME.html, .md or "
        ".json, with the study's name)",
    )
    return made


def run(options: argparse.Namespace) -> int:
    """Read the study, then write the report atomically."""
    from search.study.study_file import load

    study = load(options.study).changed(given(options, "name"))
    check_storage(options.storage, study.name)

    from rich.filesize import decimal

    from search.database.database import Database
    from search.reporting.report_data import ReportData

    with closing(Database(options.storage, may_create=False)) as database:
        data = ReportData.of(database, study, options=named(options), commands=commands(options))
        text = _written(data, options.format)
    out = options.out or f"report-{study.name}.{FORMATS[options.format]}"
    content = encoded(text)
    if out == "-":
        output.deliver(content)
    elif not write_out(Path(out), content):
        print(f"{out}: {decimal(len(content))}")
    return 0


def _written(findings: "ReportData", form: str) -> str:
    if form == "html":
        from search.reporting.html import html

        return html(findings)
    from search.reporting.export import as_json, markdown

    return {"markdown": markdown, "json": as_json}[form](findings)


main = command(parser(), run)

if __name__ == "__main__":
    sys.exit(main())
