"""A discrete-event simulation of a day of many replicas: the requests that reach Salesforce, and when its limits are met.

The parameters of the service and of Salesforce are in `Rules`, which `replicas.rules` reads from the running service,
its sandbox and the sources. docs/capacity.md describes the scenarios. Only `random()` of a seeded generator is used, so
that the same rules give the same tables everywhere.

The simulation leaves out:
- the duration of an exchange (with Redis, other replicas wait for the lock meanwhile, and none exchanges);
- that other replicas drop a rejected token too;
- an unavailable Redis (the replicas then behave like replicas without Redis);
- the circuit breaker (a limit isn't a failure of the host).
"""

import collections
import heapq
import math
import random
from dataclasses import dataclass, field

MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True)
class Rules:
    """The parameters of the service and of Salesforce. Times are in seconds."""

    logins_per_hour: int
    """The login budget of a replica for one user. With Redis, also the budget of all replicas."""
    requests_per_minute: int
    """The same for the messaging access tokens of one org."""
    access_token_life: int
    messaging_life: int
    renew_from: float
    """The least share of its lifetime after which a token is renewed. The greatest is `renew_to`."""
    renew_to: float
    shortest_wait: int
    """The least time that a failure is cached. The greatest is `longest_wait`."""
    longest_wait: int
    max_age: int
    """The max-age of a JWKS."""
    salesforce_logins: int
    """The limit for one user within an hour."""
    salesforce_messaging: int
    """The limit for one org within a minute."""


class Window:
    """A sliding window: at most `most` events within `seconds`."""

    def __init__(self, most, seconds):
        self.most, self.seconds = most, seconds
        self.taken = collections.deque()
        self.total = self.peak = self.refused = 0

    def take(self, now):
        """Adds an event and returns 0, or refuses it and returns the seconds until one is allowed."""
        while self.taken and self.taken[0] <= now - self.seconds:
            self.taken.popleft()
        if len(self.taken) >= self.most:
            self.refused += 1
            return self.taken[0] + self.seconds - now
        self.taken.append(now)
        self.total += 1
        self.peak = max(self.peak, len(self.taken))
        return 0


@dataclass
class Logins:
    """The results of `logins`: login counts of one user at Salesforce."""

    granted: int
    busiest_hour: int
    refused: int
    held_back: int
    """Logins refused by tokenmint's own budgets, without a request to Salesforce."""


@dataclass(frozen=True)
class Scenario:
    """`replicas` log in as one user for each of `profiles`. Each replica gets a request for each profile every `ask` seconds on
    average."""

    replicas: int
    profiles: int
    shared: bool
    """Whether the replicas share `[cache.redis]`."""
    seconds: int = DAY
    ask: float = 10.0
    step: float = 3.0
    """Seconds between the starts of two replicas in a rolling deployment."""
    rollout: float = 10 * HOUR
    """When a second deployment begins. The day starts with the first."""
    rejecting: tuple = (14 * HOUR, 0, 0.0)
    """When a caller begins to reject every token, for how long, and how often a second."""
    seed: int = 1


@dataclass
class Replica:
    budget: Window
    generation: int = 0
    held: dict = field(default_factory=dict)
    """For each profile: when its token was obtained, and when it is renewed."""
    until: dict = field(default_factory=dict)
    """For each profile: until when a failure is cached."""


def logins(rules, scenario):
    """Simulates `scenario.seconds` of OAuth access tokens."""
    chance = random.Random(scenario.seed).random
    life, shared = rules.access_token_life, scenario.shared
    salesforce = Window(rules.salesforce_logins, HOUR)
    of_all = Window(rules.logins_per_hour, HOUR)
    budget = lambda: Window(rules.logins_per_hour, HOUR)
    fleet = [Replica(budget()) for _ in range(scenario.replicas)]
    in_redis = {}
    held_back = 0
    begin, lasts, rate = scenario.rejecting
    events = [(scenario.step * number, "start", number, 0, 0) for number in range(scenario.replicas)]
    events += [(scenario.rollout + time, *rest) for time, *rest in events]
    events += [(begin, "reject", 0, 0, 0)] if lasts else []
    heapq.heapify(events)

    def asked_after(time):
        return time - scenario.ask * math.log(1 - chance())

    def keep(replica, profile, obtained):
        share = rules.renew_from + (rules.renew_to - rules.renew_from) * chance()
        replica.held[profile] = (obtained, obtained + life * share)

    def obtain(replica, profile, now):
        """Takes the token of another replica from Redis, or logs in. Does nothing while a failure is cached."""
        nonlocal held_back
        if replica.until.get(profile, 0) > now:
            return
        held, theirs = replica.held.get(profile), in_redis.get(profile)
        if theirs is not None and theirs + life > now and (held is None or theirs > held[0]):
            keep(replica, profile, theirs)
            return
        wait = replica.budget.take(now) or (of_all.take(now) if shared else 0)
        if wait:
            held_back += 1
        elif salesforce.take(now):
            wait = rules.longest_wait
        if wait:
            replica.until[profile] = now + min(max(wait, rules.shortest_wait), rules.longest_wait)
            return
        keep(replica, profile, now)
        if shared:
            in_redis[profile] = now

    while events:
        now, what, number, profile, generation = heapq.heappop(events)
        if now > scenario.seconds:
            break
        replica = fleet[number]
        if what == "start":
            # A new pod: its memory is empty, and so is its emptyDir with the budget's file.
            fleet[number] = Replica(budget(), replica.generation + 1)
            for each in range(scenario.profiles):
                heapq.heappush(events, (asked_after(now), "ask", number, each, replica.generation + 1))
        elif what == "reject":
            if now < begin + lasts:
                heapq.heappush(events, (now + 1 / rate, "reject", int(chance() * scenario.replicas), profile, 0))
            rejected = replica.held.pop(profile, None)
            if rejected and in_redis.get(profile) == rejected[0]:
                del in_redis[profile]
            obtain(replica, profile, now)
        elif generation == replica.generation:
            held = replica.held.get(profile)
            if held is None or held[1] <= now:
                obtain(replica, profile, now)
            due = max(now, replica.until.get(profile, 0), replica.held.get(profile, (0, 0))[1])
            heapq.heappush(events, (asked_after(due), "ask", number, profile, generation))
    return Logins(salesforce.total, salesforce.peak, salesforce.refused, held_back)


@dataclass
class Chats:
    """The results of `chats`: counts of messaging access tokens of one org."""

    users: int
    granted: int
    busiest_minute: int
    refused: int
    held_back: int


def chats(rules, replicas, shared, users_per_minute=100, asks=5, session=600, seconds=HOUR, seed=1):
    """Simulates the busiest hour of messaging access tokens. New users arrive at a steady rate. Each sends `asks` requests within
    its session, each to a random replica. No session is long enough for a renewal."""
    assert session < rules.messaging_life * rules.renew_from
    chance = random.Random(seed).random
    users = int(users_per_minute * seconds / MINUTE)
    events = []
    for user in range(users):
        comes = chance() * seconds
        events += [(comes + session * ask / asks, user) for ask in range(asks)]
    events.sort()
    salesforce = Window(rules.salesforce_messaging, MINUTE)
    of_all = Window(rules.requests_per_minute, MINUTE)
    own = [Window(rules.requests_per_minute, MINUTE) for _ in range(replicas)]
    held, held_back = set(), 0
    for now, user in events:
        number = int(chance() * replicas)
        key = user if shared else (number, user)
        if key in held:
            continue
        if own[number].take(now) or (shared and of_all.take(now)):
            held_back += 1
        elif not salesforce.take(now):
            held.add(key)
    return Chats(users, salesforce.total, salesforce.peak, salesforce.refused, held_back)


def fetches(rules, parties, spread, every=1.0, seconds=DAY, seed=1):
    """Simulates a day of `parties` that cache a JWKS for its max-age, and fetch it again at their next verification. They verify
    every `every` seconds on average, and start within `spread` seconds. Returns the fetches, and the most within a second."""
    chance = random.Random(seed).random
    by_second = collections.Counter()
    for _ in range(parties):
        now = spread * chance()
        while now < seconds:
            by_second[int(now)] += 1
            now += rules.max_age - every * math.log(1 - chance())
    return by_second.total(), max(by_second.values())


def least(meets, most=100_000):
    """The smallest number that `meets`, at most 2 % too large, by bisection. `meets` must be monotonic. `None` if none up to about
    `most` does."""
    high = 1
    while not meets(high):
        if high >= most:
            return None
        high *= 2
    low = high // 2
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high
