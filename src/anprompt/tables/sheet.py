"""A table before it has a form: titled lines of figures, in groups, with a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from anprompt.evaluation.statistics import TIE_DECIMALS, Interval, Paired, Spread

HIGH, LOW, NEITHER = "high", "low", ""


def signed(value: float) -> str:
    """`+1.2`, `-0.3`, and `0.0` for what rounds to nothing."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text


@dataclass(frozen=True)
class Cell:
    """One figure: the text that is shown, and what it was made of.

    Attributes:
        mean: the unrounded figure, for sorting, for marking the best and for the CSV; None for plain text.
        std, half: standard deviation, and half of the 95 % interval of the mean.
        low, high: an interval that is not symmetric, e.g. from a bootstrap.
        n: values behind the mean.
    """

    text: str = ""
    mean: float | None = None
    std: float | None = None
    half: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @classmethod
    def of(cls, spread: Spread | None, decimals: int = 1) -> Cell:
        """Mean ± standard deviation; an empty cell for None."""
        if spread is None:
            return cls()
        return cls(spread.text(decimals), spread.mean, spread.std, spread.half, n=spread.n)

    @classmethod
    def number(cls, value: float | None, text: str = "{:.1f}") -> Cell:
        """One figure without a spread; an empty cell for None."""
        return cls() if value is None else cls(text.format(value), float(value))

    @classmethod
    def difference(cls, paired: Paired) -> Cell:
        """`+1.2`, with its sign."""
        return cls(signed(paired.mean), paired.mean, n=paired.n)

    @classmethod
    def interval(cls, found: Interval | None) -> Cell:
        """`+0.3 to +1.9`; an empty cell for None."""
        if found is None:
            return cls()
        return cls(f"{signed(found[0])} to {signed(found[1])}", low=found[0], high=found[1])

    @classmethod
    def p_value(cls, p: float | None) -> Cell:
        """Three decimals, `<0.001` below; an empty cell for None."""
        return cls() if p is None else cls("<0.001" if p < 0.001 else f"{p:.3f}", p)


@dataclass(frozen=True)
class Column:
    """A column's head, and which end of it is good: `HIGH`, `LOW` or `NEITHER` (nothing is marked)."""

    name: str
    better: str = HIGH


@dataclass(frozen=True)
class Line:
    """A row: the group it stands in (e.g. a data set), its own name (e.g. a method), its figures."""

    group: str
    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Sheet:
    """A table that knows what its figures are.

    Attributes:
        stub: what groups and names are. An empty first one: the table has no groups.
        across: the best figure is marked along each line, not down each column of a group.
    """

    title: str
    note: str
    stub: tuple[str, str]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...] = field(default=())
    across: bool = False

    def __post_init__(self) -> None:
        for line in self.lines:
            if len(line.cells) != len(self.columns):
                raise ValueError(f"{self.title}: {line.name} has {len(line.cells)} of {len(self.columns)} cells")

    def best(self) -> set[tuple[int, int]]:
        """(line, column) of the best figures; all that are level with the best. A figure that stands alone is not marked."""
        found: set[tuple[int, int]] = set()
        for places in self._compared():
            figures = {}
            for row, column in places:
                mean, better = self.lines[row].cells[column].mean, self.columns[column].better
                if mean is not None and better:
                    figures[row, column] = round(mean if better == HIGH else -mean, TIE_DECIMALS)
            if len(figures) > 1:
                top = max(figures.values())
                found |= {place for place, value in figures.items() if value == top}
        return found

    def _compared(self) -> list[list[tuple[int, int]]]:
        """The places that are compared with each other."""
        columns = range(len(self.columns))
        if self.across:
            return [[(row, column) for column in columns] for row in range(len(self.lines))]
        groups: dict[str, list[int]] = {}
        for row, line in enumerate(self.lines):
            groups.setdefault(line.group, []).append(row)
        return [[(row, column) for row in rows] for rows in groups.values() for column in columns]


def columns(names: Sequence[str], better: str = HIGH) -> tuple[Column, ...]:
    """Columns that are all of one kind."""
    return tuple(Column(name, better) for name in names)
