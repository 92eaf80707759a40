"""The names of tags and places as small numbers, given out and taken back as uses come and go."""

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from domain import text
from domain.trend import WORLD

U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]

WORLD_NUMBER = 0
NOWHERE = 0xFFFF  # stands where a place has no parent, or is itself the world
PLACES_MAX = 0xFFFE


class Spellings:
    """Every spelling in use has a number, and leads to the number of its tag.

    A spelling's number lives while uses bear it, a tag's while spellings of it do; both are then
    given to others. Not more are kept than there are uses in the window.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._spelled: list[str] = []
        self._uses = np.zeros(1024, np.int64)
        self._tag_of = np.zeros(1024, np.uint32)
        self._free: list[int] = []
        self._unused: list[int] = []
        self._tags: dict[str, int] = {}
        self._names: list[str] = []
        self._first_spelling = array("I")
        self._spellings: dict[int, list[int]] = {}  # of tags that have several
        self._free_tags: list[int] = []

    @property
    def tag_of(self) -> U32:
        """The tag's number of each spelling."""
        return self._tag_of[: len(self._spelled)]

    @property
    def uses(self) -> I64:
        """How many uses bear each spelling."""
        return self._uses[: len(self._spelled)]

    @property
    def tag_count(self) -> int:
        """How many tags are in use."""
        return len(self._tags)

    @property
    def tag_numbers(self) -> int:
        """Every tag's number is below this."""
        return len(self._names)

    def number(self, name: str, spelled: str) -> int:
        """Returns the number of a spelling of the tag with this folded name."""
        number = self._numbers.get(spelled)
        return self._add(name, spelled) if number is None else number

    def tag(self, name: str) -> int | None:
        """Returns the number of a tag."""
        return self._tags.get(name)

    def name(self, tag: int) -> str:
        """Returns the folded name of a tag."""
        return self._names[tag]

    def most_used(self, tag: int) -> str:
        """Returns the spelling that most uses bear; of equals, the first by code points."""
        several = self._spellings.get(tag)
        if several is None:
            return self._spelled[self._first_spelling[tag]]
        return min((-int(self._uses[number]), self._spelled[number]) for number in several)[1]

    def count(self, numbers: U32, change: int) -> None:
        """Counts uses in (+1) or out (-1). No number is taken back before `release_unused`."""
        if len(numbers):
            counted = np.bincount(numbers, minlength=len(self._spelled))
            self._uses[: len(counted)] += change * counted
            if change < 0:
                self._unused += np.flatnonzero((counted > 0) & (self.uses == 0)).tolist()

    def release_unused(self) -> None:
        """Takes back the numbers that no use bears. Nothing that is still to be counted may bear a
        number that was given out before."""
        unused, self._unused = self._unused, []
        for number in unused:
            if not self._uses[number] and self._spelled[number]:
                self._release(number)

    def _add(self, name: str, spelled: str) -> int:
        if name == spelled:
            spelled = name  # one string less in memory
        if self._free:
            number = self._free.pop()
            self._spelled[number] = spelled
        else:
            number = len(self._spelled)
            self._spelled.append(spelled)
            if number == len(self._uses):
                self._uses = np.concatenate([self._uses, np.zeros(number, np.int64)])
                self._tag_of = np.concatenate([self._tag_of, np.zeros(number, np.uint32)])
        self._numbers[spelled] = number
        tag = self._tags.get(name)
        if tag is None:
            tag = self._add_tag(name, number)
        else:
            self._spellings.setdefault(tag, [self._first_spelling[tag]]).append(number)
        self._tag_of[number] = tag
        self._unused.append(number)  # until a use bears it
        return number

    def _add_tag(self, name: str, spelling: int) -> int:
        if self._free_tags:
            tag = self._free_tags.pop()
            self._names[tag], self._first_spelling[tag] = name, spelling
        else:
            tag = len(self._names)
            self._names.append(name)
            self._first_spelling.append(spelling)
        self._tags[name] = tag
        return tag

    def _release(self, number: int) -> None:
        del self._numbers[self._spelled[number]]
        self._spelled[number] = ""
        self._free.append(number)
        tag = int(self._tag_of[number])
        several = self._spellings.get(tag)
        if several is None:
            del self._tags[self._names[tag]]
            self._free_tags.append(tag)
            return
        several.remove(number)
        if len(several) == 1:
            (self._first_spelling[tag],) = self._spellings.pop(tag)


class Places:
    """Places by number, with their parents. The world is number 0.

    At most `maximum` are kept, since anybody can name new ones: a use at one too many counts for
    its parent, or for the world alone, and `refused` counts it.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = min(maximum, PLACES_MAX)
        self._numbers = {WORLD: WORLD_NUMBER}
        self._slugs = [WORLD]
        self._parents = [NOWHERE]
        self.refused = 0

    @property
    def slugs(self) -> Sequence[str]:
        """The places, each at its number."""
        return self._slugs

    def find(self, slug: str) -> int | None:
        """Returns the number of a place."""
        return self._numbers.get(slug)

    def number(self, slug: str) -> int:
        """Returns the number of a place by its slug; the world's for the empty one."""
        number = self._numbers.get(slug or WORLD)
        return self._add(slug) if number is None else number

    def parents(self) -> U16:
        """Returns the number of each place's parent; NOWHERE where that is the world."""
        return np.array(self._parents, np.uint16)

    def _add(self, slug: str) -> int:
        country = text.parent_location(slug)
        parent = NOWHERE if country is None else self.number(country)
        if len(self._slugs) >= self._maximum:
            self.refused += 1
            return WORLD_NUMBER if parent == NOWHERE else parent
        self._parents.append(NOWHERE if parent == WORLD_NUMBER else parent)
        self._numbers[slug] = len(self._slugs)
        self._slugs.append(slug)
        return self._numbers[slug]
