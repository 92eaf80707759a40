"""What the sample world's people say, and when: tags by a power law, one of them rising now.

All of it follows from the `Random` that is handed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from domain import sample_graph

RISING = "eclipse"
RISING_FOR_S = 45 * 60  # it began so long ago, and is said more and more often since
RISING_SHARE = 0.4  # of what is said at the end
TAG_SHARE = 0.5  # of tweets that bear one of the others
REPLY_SHARE = 0.15
MENTION_SHARE = 0.08
REPLY_WITHIN = 400  # tweets back that may still be answered
RECENCY = 1.4  # above 1: more is said towards the end

# Tag -> what it is about, the most frequent first.
TOPICS = {
    "coffee": ("the espresso", "my third cup", "this flat white", "the new roast"),
    "running": ("today's ten kilometres", "the hill loop", "my old shoes", "the park run"),
    "football": ("the second half", "that free kick", "our keeper", "the derby"),
    "python": ("this traceback", "the type checker", "asyncio", "my old script"),
    "music": ("the new record", "that bass line", "last night's gig", "the b-side"),
    "books": ("the last chapter", "this translation", "the library", "my reading pile"),
    "baking": ("the sourdough", "my starter", "a rye loaf", "the oven"),
    "weather": ("the rain", "this wind", "the first frost", "all this sun"),
    "cats": ("the cat", "a box that came today", "the window sill", "our small tiger"),
    "gardening": ("the tomatoes", "the compost", "the late roses", "a hedgehog"),
    "photography": ("the blue hour", "this lens", "a roll of film", "the contact sheet"),
    "cycling": ("the headwind", "a flat tyre", "the coast road", "the new chain"),
    "space": ("the launch", "the rover", "tonight's pass of the station", "a new crater"),
    "chess": ("the endgame", "that sacrifice", "round seven", "the Sicilian"),
    "trains": ("the night train", "platform nine", "the delay", "the dining car"),
    "maths": ("this proof", "a lemma", "the counterexample", "a nice identity"),
}
_RISING_ABOUT = ("the eclipse", "the moon's edge", "the corona", "the sky right now")
_SAYINGS = (
    "{about} was worth it",
    "{about} again. No regrets",
    "who else is thinking about {about}?",
    "nobody warned me about {about}",
    "small report on {about}: better than yesterday",
    "I have changed my mind about {about}",
    "five minutes with {about} and the day looks {mood}",
    "{about}, {mood} as ever",
    "today in {place}: {about}",
    "{about} makes everyone in {place} {mood}",
    "unpopular view: {about} is {mood}",
    "note to self: {about} first, everything else later",
)
_PLAIN = (
    "good morning from {place}",
    "it is a {mood} kind of day",
    "long walk through {place}. Feeling {mood}",
    "lunch, then silence",
    "somebody in {place} is whistling and it is {mood}",
    "I said one thing in the meeting and it was {mood}",
)
_ENDINGS = (
    ". That is all",
    ". Back to work",
    ". More tomorrow",
    ". Ask me later",
    ". Pictures follow",
    ". And it is only {day}",
    ". Who knew?",
    ". Tell {place}",
    "! At last",
)
_ENDING_SHARE = 0.6
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_REPLIES = (
    "same here!",
    "this made me {mood}",
    "tell me more?",
    "I was in {place} and can confirm",
    "not so sure, but {mood} to hear",
    "saving this for later",
)
_MOODS = (
    *("calm", "curious", "cheerful", "golden", "gloomy", "hopeful"),
    *("odd", "peaceful", "quiet", "restless", "silly", "sharp"),
)
_PLACES = ("the office", "the kitchen", "the harbour", "the old town", "the market", "the valley")


@dataclass(frozen=True, slots=True)
class Said:
    """A tweet to be. `author` is a rank; `reply_to` a position in the list that it stands in."""

    author: int
    age_s: float
    content: str
    reply_to: int | None


def tweets(random: Random, usernames: Sequence[str], *, count: int, span_s: float) -> list[Said]:
    """Returns tweets by the people of these ranks over the last `span_s` seconds, oldest first."""
    fame = sample_graph.fame(len(usernames))
    ages = sorted((span_s * random.random() ** RECENCY for _ in range(count)), reverse=True)
    topics = list(accumulate(1 / place for place in range(1, len(TOPICS) + 1)))
    said: list[Said] = []
    for position, age_s in enumerate(ages):
        author = random.choices(range(len(usernames)), cum_weights=fame)[0]
        reply_to = None
        if position and random.random() < REPLY_SHARE:
            reply_to = random.randrange(max(0, position - REPLY_WITHIN), position)
            content = _fill(random, random.choice(_REPLIES), "")
        else:
            content = _statement(random, topics, age_s)
        if random.random() < MENTION_SHARE:
            other = random.choices(usernames, cum_weights=fame)[0]
            content = f"@{other} {content}"
        said.append(Said(author, age_s, content, reply_to))
    return said


def _statement(random: Random, topics: Sequence[float], age_s: float) -> str:
    rising = max(0.0, 1.0 - age_s / RISING_FOR_S) * RISING_SHARE
    if random.random() < rising:
        saying = _fill(random, random.choice(_SAYINGS), random.choice(_RISING_ABOUT))
        return f"{saying} #{RISING}"
    if random.random() < TAG_SHARE:
        tag = random.choices(list(TOPICS), cum_weights=topics)[0]
        return f"{_fill(random, random.choice(_SAYINGS), random.choice(TOPICS[tag]))} #{tag}"
    return _fill(random, random.choice(_PLAIN), "")


def _fill(random: Random, text: str, about: str) -> str:
    if text[-1] not in "?!" and random.random() < _ENDING_SHARE:
        text += random.choice(_ENDINGS)
    mood, place, day = random.choice(_MOODS), random.choice(_PLACES), random.choice(_DAYS)
    filled = text.format(about=about, mood=mood, place=place, day=day)
    return filled[0].upper() + filled[1:]
