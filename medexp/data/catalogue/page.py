"""The page of the documentation about named datasets: `python -m medexp.data.catalogue.page > docs/datasets.md`."""

from __future__ import annotations

from collections.abc import Sequence

from medexp.data.catalogue.catalogue import Card, cards

_HEAD = """# Named datasets

A dataset of this page is an option: `medexp train dataset=bccd`. It is looked for in `MEDEXP_DATA` or, unless that is
set, in the user's data folder (`paths.data=FOLDER` names another); `dataset.root=FOLDER` names that of one dataset.
`medexp data fetch NAME` brings it there or says how to get it, and `medexp data list` shows which are here.

Cards with all that is known of each stand in medexp/data/catalogue/; a card of your own is fetched with
`medexp data fetch mine.yaml`. Cases marked ~ come from the source that the card names and were not counted in the
files. (nc): for non-commercial use only, or unclear; fetching asks for consent.

| Name | Dataset | Tasks | Cases | Licence | Files |
|---|---|---|---|---|---|
"""
_BY_HAND = """
## By hand

The owners of these ask for a registration, or their files have to be converted. Each layout is that of the folder in
the heading, below the folder of datasets.
"""


def markdown(known: Sequence[Card]) -> str:
    """The page.

    Args:
        known: All cards.

    Returns:
        Its text.
    """
    rows = "".join(map(_row, known))
    return _HEAD + rows + _BY_HAND + "".join(_layout(card) for card in known if card.manual)


def _row(card: Card) -> str:
    title = f"[{card.title}]({card.homepage})" if card.homepage else card.title
    cases = " / ".join(f"{number:,}" for number in card.counts.cases.values())
    licence = f"{card.licence}{' (nc)' if card.non_commercial else ''}"
    cells = (
        f"`{card.name}`",
        title,
        ", ".join(card.tasks),
        f"{'' if card.counts.verified else '~'}{cases}",
        licence,
        _files(card),
    )
    return f"| {' | '.join(cells)} |\n"


def _files(card: Card) -> str:
    if card.folder is None:
        return f"package {card.package}" if card.package else "drawn"
    return "by hand" if card.manual else "fetched"


def _layout(card: Card) -> str:
    assert card.manual is not None  # only asked of such a card
    lines = "".join(f"- {line}\n" for line in card.manual.layout)
    note = f"\n{card.notes}\n" if card.notes else ""
    return f"\n### {card.folder}\n\n{card.manual.obtain}\n\n{lines}{note}"


if __name__ == "__main__":
    print(markdown(cards()), end="")
