"""What a viewer liked and retweeted shows at once, wherever a tweet is answered."""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace

import grpc
import pytest
import pytest_asyncio
from chirp.v1 import timeline_pb2, timeline_pb2_grpc, tweet_pb2, tweet_pb2_grpc

from mesh import clients
from mesh.settings import Settings
from mesh.tokens import ServiceIdentity
from servers import timeline_server, tweet_record_service, tweet_server
from servers.viewer_marks import ViewerMarks
from storage.timelines import Keys, TimelineStore
from tests.integration.accounts import Account
from tests.integration.conftest import serving_process
from tests.valkeys import OwnValkey, own_valkey
from tests.world import World, open_world

RECORDS = "chirp.v1.TweetRecordService"

pytestmark = pytest.mark.asyncio(loop_scope="module")

Marks = dict[int, tuple[bool, bool]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cache() -> AsyncGenerator[OwnValkey]:
    async with own_valkey() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_settings: Settings, cache: OwnValkey) -> AsyncGenerator[World]:
    settings = module_settings.model_copy(
        update={"valkey_url": cache.url, "timeline_length": 8, "influencer_followers": 3}
    )
    async with open_world(settings) as opened:
        yield opened


@dataclass
class Scene:
    """A viewer, and tweets that reach the viewer in every way."""

    world: World
    viewer: Account
    author: Account
    tweets: list[int]
    quote: int
    repeater: Account
    retweet: int

    async def everywhere(self) -> dict[str, Marks]:
        """The viewer's marks on everything, by who answers."""
        metadata = self.viewer.metadata
        world, ids = self.world, [*self.tweets, self.quote, self.retweet]
        home = await world.timelines.GetHomeTimeline(
            timeline_pb2.GetHomeTimelineRequest(limit=100), metadata=metadata
        )
        of_users = [
            await world.timelines.GetUserTimeline(
                timeline_pb2.GetUserTimelineRequest(id=who.id, limit=100), metadata=metadata
            )
            for who in (self.author, self.repeater)
        ]
        batch = await world.tweets.BatchGetTweets(
            tweet_pb2.BatchGetTweetsRequest(ids=ids), metadata=metadata
        )
        single = [
            await world.tweets.GetTweet(tweet_pb2.GetTweetRequest(id=i), metadata=metadata)
            for i in ids
        ]
        threads = [
            await world.tweets.GetThread(tweet_pb2.GetThreadRequest(id=i), metadata=metadata)
            for i in (self.tweets[0], self.tweets[-1])
        ]
        in_threads = [t for each in threads for t in (*each.ancestors, each.tweet, *each.replies)]
        return {
            "home": _marks(home.tweets),
            "user": _marks([t for page in of_users for t in page.tweets]),
            "batch": _marks(batch.tweets),
            "single": _marks(single),
            "thread": _marks(in_threads),
        }

    async def assert_marked(self, *, liked: set[int], retweeted: set[int]) -> None:
        for where, marks in (await self.everywhere()).items():
            assert len(marks) >= len(self.tweets), where
            for tweet_id, seen in marks.items():
                assert seen == (tweet_id in liked, tweet_id in retweeted), (where, tweet_id)


def _marks(tweets: Iterable[tweet_pb2.Tweet]) -> Marks:
    """The marks of tweets and of all that they show; what stands in several places has the same."""
    marks: Marks = {}
    waiting = list(tweets)
    while waiting:
        tweet = waiting.pop()
        assert tweet.HasField("liked")
        assert tweet.HasField("retweeted")
        seen = (tweet.liked, tweet.retweeted)
        assert marks.setdefault(tweet.id, seen) == seen
        for field in ("retweeted_tweet", "quoted_tweet"):
            if tweet.HasField(field):
                waiting.append(getattr(tweet, field))
    return marks


async def scene(world: World) -> Scene:
    """A root and replies (more than a window holds), a quote, and another's retweet."""
    viewer, author, repeater = await world.accounts.insert(3)
    for other in (author, repeater):
        await world.follow(viewer, other)
    tweets = [(await world.post(author)).id]
    for _ in range(9):
        tweets.append((await world.post(author, reply_to=tweets[-1])).id)
    quote = (await world.post(repeater, quote_of=tweets[2])).id
    await world.retweet(repeater, tweets[0])
    ((retweet,),) = await world.accounts.rows(
        "SELECT id FROM tweets WHERE author_id = %s AND retweet_of = %s", repeater.id, tweets[0]
    )
    await world.drain()
    return Scene(world, viewer, author, tweets, quote, repeater, retweet)


async def test_marks_show_at_once_in_every_answer_and_go_at_once(world: World):
    scene_ = await scene(world)
    first, second, third = scene_.tweets[0], scene_.tweets[2], scene_.tweets[9]
    await scene_.assert_marked(liked=set(), retweeted=set())

    # Nothing is drained in between: the events do not help.
    await world.like(scene_.viewer, first)
    await scene_.assert_marked(liked={first}, retweeted=set())
    await world.like(scene_.viewer, second)
    await world.like(scene_.viewer, third)
    await world.retweet(scene_.viewer, second)
    await scene_.assert_marked(liked={first, second, third}, retweeted={second})
    await world.like(scene_.viewer, second, undo=True)
    await scene_.assert_marked(liked={first, third}, retweeted={second})
    await world.retweet(scene_.viewer, second, undo=True)
    await world.like(scene_.viewer, scene_.retweet, undo=True)
    await scene_.assert_marked(liked={third}, retweeted=set())


async def test_marks_are_the_viewers_own_and_absent_without_a_token(world: World):
    scene_ = await scene(world)
    await world.like(scene_.author, scene_.tweets[0])
    await world.retweet(scene_.author, scene_.tweets[0])

    await scene_.assert_marked(liked=set(), retweeted=set())
    batch = await world.tweets.BatchGetTweets(
        tweet_pb2.BatchGetTweetsRequest(ids=[*scene_.tweets, scene_.quote])
    )
    page = await world.timelines.GetUserTimeline(
        timeline_pb2.GetUserTimelineRequest(id=scene_.author.id)
    )
    thread = await world.tweets.GetThread(tweet_pb2.GetThreadRequest(id=scene_.tweets[5]))
    for tweet in (*batch.tweets, *page.tweets, *thread.ancestors, thread.tweet, *thread.replies):
        assert not tweet.HasField("liked")
        assert not tweet.HasField("retweeted")


async def test_lost_token_costs_a_question_and_no_mark(world: World):
    scene_ = await scene(world)
    tweet = scene_.tweets[1]
    await world.like(scene_.viewer, tweet)
    await scene_.assert_marked(liked={tweet}, retweeted=set())

    await world.cache.delete(Keys(world.settings.timeline_shards).marks(scene_.viewer.id))
    await scene_.assert_marked(liked={tweet}, retweeted=set())
    await world.cache.flushall()
    await world.like(scene_.viewer, tweet, undo=True)
    await scene_.assert_marked(liked=set(), retweeted=set())
    await world.like(scene_.viewer, tweet)
    await world.cache.flushall()
    await scene_.assert_marked(liked={tweet}, retweeted=set())


async def test_marks_are_right_while_the_cache_is_away_and_when_it_is_back(
    world: World, cache: OwnValkey
):
    scene_ = await scene(world)
    one, other = scene_.tweets[1], scene_.tweets[8]
    await world.like(scene_.viewer, one)
    await scene_.assert_marked(liked={one}, retweeted=set())

    cache.stop()
    await scene_.assert_marked(liked={one}, retweeted=set())
    await world.like(scene_.viewer, one, undo=True)
    await world.like(scene_.viewer, other)
    await world.retweet(scene_.viewer, other)
    await scene_.assert_marked(liked={other}, retweeted={other})

    await cache.start()
    await scene_.assert_marked(liked={other}, retweeted={other})
    await world.like(scene_.viewer, other, undo=True)
    await scene_.assert_marked(liked=set(), retweeted={other})


async def test_call_sent_again_shows_what_the_first_one_did_not_get_to_show(world: World):
    scene_ = await scene(world)
    viewer, (stranger,) = scene_.viewer, await world.accounts.insert(1)
    tweet, unseen = scene_.tweets[3], (await world.post(stranger)).id
    before = await world.home(viewer)
    # A tweet server that dies between its commit and the cache, as this one, which has no cache.
    without_cache = world.settings.model_copy(
        update={"listen": "127.0.0.1:0", "valkey_url": "redis://127.0.0.1:1/0"}
    )
    async with (
        serving_process(without_cache, tweet_server.open_process) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        dying = replace(world, tweets=tweet_pb2_grpc.TweetServiceStub(channel))

        for server in (dying, world):
            await server.like(viewer, tweet)
        await scene_.assert_marked(liked={tweet}, retweeted=set())
        for server in (dying, world):
            await server.retweet(viewer, tweet)
        await scene_.assert_marked(liked={tweet}, retweeted={tweet})
        for server in (dying, world):
            await server.retweet(viewer, unseen)
        home = await world.home(viewer)
        assert home == await world.oracle(viewer)
        assert (len(home), home[1:]) == (len(before) + 1, before)

        for server in (dying, world):
            await server.like(viewer, tweet, undo=True)
        await scene_.assert_marked(liked=set(), retweeted={tweet, unseen})
        for server in (dying, world):
            await server.retweet(viewer, tweet, undo=True)
        await scene_.assert_marked(liked=set(), retweeted={unseen})


async def test_mark_that_another_timeline_server_saw_first_shows_on_all(world: World):
    scene_ = await scene(world)
    tweet = scene_.tweets[-1]
    elsewhere = world.settings.model_copy(update={"listen": "127.0.0.1:0"})
    async with (
        serving_process(elsewhere, timeline_server.open_process) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        timelines = timeline_pb2_grpc.TimelineServiceStub(channel)
        other = replace(scene_, world=replace(world, timelines=timelines))
        for seen_first, seen_then in ((scene_, other), (other, scene_)):
            for undo in (False, True):
                await scene_.assert_marked(liked={tweet} if undo else set(), retweeted=set())
                await other.assert_marked(liked={tweet} if undo else set(), retweeted=set())

                await world.like(scene_.viewer, tweet, undo=undo)

                await seen_first.assert_marked(liked=set() if undo else {tweet}, retweeted=set())
                await seen_then.assert_marked(liked=set() if undo else {tweet}, retweeted=set())


async def test_marks_beyond_those_kept_are_asked_for(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tweet_record_service, "MARKS_EACH", 2)
    scene_ = await scene(world)
    liked, retweeted = set(scene_.tweets[1:8:2]), set(scene_.tweets[3:7])
    for tweet in liked:
        await world.like(scene_.viewer, tweet)
    for tweet in retweeted:
        await world.retweet(scene_.viewer, tweet)

    for _ in range(3):
        await scene_.assert_marked(liked=liked, retweeted=retweeted)


async def test_kept_marks_are_bounded_by_their_number_and_by_viewers(world: World):
    author, *viewers = await world.accounts.insert(4)
    tweets = [(await world.post(author)).id for _ in range(8)]
    bounded = world.settings.model_copy(update={"viewer_cache_max": 2})
    identity = ServiceIdentity(world.settings, "timeline_server")
    async with clients.channel(
        world.settings, world.settings.tweet_target, RECORDS, identity=identity
    ) as channel:
        marks = ViewerMarks(
            tweet_pb2_grpc.TweetRecordServiceStub(channel),
            TimelineStore(world.cache, bounded),
            bounded,
        )
        for number, viewer in enumerate(viewers):
            for tweet in tweets[number:]:
                await world.like(viewer, tweet)
            for _ in range(2):
                assert (await marks.of(viewer.id, tweets, None)).liked == {*tweets[number:]}
            assert marks.size == f"{(8, 15, 13)[number]} of at most 40 marks"
        many = [*tweets, *[(await world.post(author)).id for _ in range(33)]]
        for tweet in many:
            await world.like(viewers[0], tweet)

        assert (await marks.of(viewers[0].id, many, None)).liked == {*many}
        assert marks.size == "0 of at most 40 marks"
