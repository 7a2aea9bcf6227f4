"""What was found in a data set's annotations: counted, named, and what is done about it."""

from dataclasses import dataclass, field


class DatasetError(ValueError):
    """A data set can't be used as it is. The message has one line for each kind of fault."""


@dataclass(frozen=True)
class Finding:
    """A kind of thing that was found ``count`` times, ``first`` of all in this entry."""

    what: str
    count: int
    first: str
    action: str
    is_fault: bool

    def __str__(self) -> str:
        others = f", and {self.count - 1:,} more" if self.count > 1 else ""
        return f"{self.what}: {self.first}{others}: {self.action}"


@dataclass
class Findings:
    """The report on one data set.

    Attributes:
        source: its file or registered name.
        items: a finding a kind, faults too.
    """

    source: str
    items: list[Finding] = field(default_factory=list)

    def note(self, what: str, entries: list[str], action: str) -> None:
        """Something that is put right, or that one should know. Nothing without entries."""
        if entries:
            self.items.append(Finding(what, len(entries), entries[0], action, is_fault=False))

    def fault(self, what: str, entries: list[str], fix: str) -> None:
        """Something that can't be put right without a guess. Nothing without entries."""
        if entries:
            self.items.append(Finding(what, len(entries), entries[0], fix, is_fault=True))

    def raise_faults(self) -> None:
        """Raise DatasetError if there are faults: all of them, and nothing else."""
        if faults := [f"  {item}" for item in self.items if item.is_fault]:
            raise DatasetError("\n".join([f"{self.source} can't be used as it is:", *faults]))

    def __str__(self) -> str:
        lines = [f"  {item}" for item in self.items]
        return "\n".join([f"{self.source}:", *(lines or ["  nothing to note"])])
