"""A table of texts, and how it is written for the terminal, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "·": r"$\cdot$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


@dataclass(frozen=True)
class Sheet:
    """A table of texts; the first column names the row.

    Attributes:
        title: What it shows.
        columns: Headings.
        rows: Cells.
        bold: Cells to stand out, as (row, column).
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()


def as_rich(sheet: Sheet) -> Table:
    """The sheet for a terminal."""
    table = Table(title=Text(sheet.title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(sheet.columns):
        table.add_column(Text(name), overflow="fold", justify="left" if at == 0 else "right")
    for row, cells in enumerate(sheet.rows):
        table.add_row(*(Text(cell, style="bold" if (row, at) in sheet.bold else "") for at, cell in enumerate(cells)))
    return table


def as_markdown(sheet: Sheet) -> str:
    """The sheet as a Markdown table, with its title before it."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rows = [
        line([f"**{cell}**" if (row, at) in sheet.bold else cell for at, cell in enumerate(cells)])
        for row, cells in enumerate(sheet.rows)
    ]
    rule = f"|{'---|'}{'--:|' * (len(sheet.columns) - 1)}"
    return "\n".join([f"{sheet.title}", "", line(sheet.columns), rule, *rows]) + "\n"


def as_latex(sheet: Sheet, caption: str, name: str) -> str:
    """The sheet as a LaTeX table for the package booktabs.

    Args:
        sheet: The sheet.
        caption: What stands below the table.
        name: Name of the label.

    Returns:
        A table environment.
    """
    rows = [
        " & ".join(
            rf"\textbf{{{latex(cell)}}}" if (row, at) in sheet.bold else latex(cell) for at, cell in enumerate(cells)
        )
        for row, cells in enumerate(sheet.rows)
    ]
    body = [rf"{row} \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(sheet.columns) - 1)}}}",
            r"\toprule",
            rf"{' & '.join(map(latex, sheet.columns))} \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{latex(caption)}}}",
            rf"\label{{tab:{name}}}",
            r"\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    r"""A text with LaTeX's own characters escaped.

    >>> latex("dice_ce 50 %")
    'dice\\_ce 50 \\%'
    """
    return "".join(_LATEX.get(character, character) for character in text)
