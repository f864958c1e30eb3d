"""A day of a thousand replicas, event by event: what reaches Salesforce, and when a limit of its is met.

Every number that the service or Salesforce goes by is in `Rules`, which `replicas.rules` reads from the running
service, its sandbox and the sources; the scenarios below are ours, and the page says which. Only `random()` of a
seeded generator is drawn from, so that the same rules give the same tables everywhere.

Left out: how long an exchange takes (with Redis the others wait for its lock meanwhile, and none exchanges), that a
rejected token is dropped by the other replicas too, Redis being away (then it is as without), and the circuit breaker
(a limit is no failure of the host).
"""

import collections
import heapq
import math
import random
from dataclasses import dataclass, field

MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True)
class Rules:
    """Times are in seconds."""

    logins_per_hour: int
    """A replica's own budget for one user, and with Redis that of all."""
    requests_per_minute: int
    """The same for the messaging access tokens of one org."""
    access_token_life: int
    messaging_life: int
    renew_from: float
    """A token is renewed from some share of its life on, which lies between these two."""
    renew_to: float
    shortest_wait: int
    """A failure is remembered for as long as it says that it stands, within these bounds."""
    longest_wait: int
    max_age: int
    """Of a JWKS in caches."""
    salesforce_logins: int
    """Of one user, within an hour."""
    salesforce_messaging: int
    """Of one org, within a minute."""


class Window:
    """At most so many in so long, counted as it slides."""

    def __init__(self, most, seconds):
        self.most, self.seconds = most, seconds
        self.taken = collections.deque()
        self.total = self.peak = self.refused = 0

    def take(self, now):
        """Counts one more, or says after how long there may be one."""
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
    """What came of it at Salesforce, for one user."""

    granted: int
    busiest_hour: int
    refused: int
    held_back: int
    """By tokenmint's own budgets, before Salesforce was asked."""


@dataclass(frozen=True)
class Scenario:
    """`replicas` that log in as one user for each of `profiles`, each asked for each every `ask` seconds on average."""

    replicas: int
    profiles: int
    shared: bool
    """Whether `[cache.redis]` is there."""
    seconds: int = DAY
    ask: float = 10.0
    step: float = 3.0
    """Between two replicas that a rolling deployment starts."""
    rollout: float = 10 * HOUR
    """When the day's deployment begins. The day itself begins with one."""
    rejecting: tuple = (14 * HOUR, 0, 0.0)
    """When a caller begins to reject every token that it is given, for how long, and how often a second."""
    seed: int = 1


@dataclass
class Replica:
    budget: Window
    generation: int = 0
    held: dict = field(default_factory=dict)
    """Of each profile: when its token was obtained, and when it is renewed."""
    until: dict = field(default_factory=dict)
    """Of each profile: until when a failure stands."""


def logins(rules, scenario):
    """One day of OAuth access tokens, or less."""
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
        """Another replica's token or one of its own, unless a failure still stands; else this one does."""
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
    """What came of it at Salesforce, for one org."""

    users: int
    granted: int
    busiest_minute: int
    refused: int
    held_back: int


def chats(rules, replicas, shared, users_per_minute=100, asks=5, session=600, seconds=HOUR, seed=1):
    """The day's busiest hour of messaging access tokens: new users come all the time, and each asks some times within
    its session, each time by way of any replica. No session is long enough for a renewal."""
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
    """A day of `parties` that keep a JWKS for its max-age and fetch it when they verify next, once `every` second on
    average; they start within `spread` seconds. Fetches, and the most within a second."""
    chance = random.Random(seed).random
    by_second = collections.Counter()
    for _ in range(parties):
        now = spread * chance()
        while now < seconds:
            by_second[int(now)] += 1
            now += rules.max_age - every * math.log(1 - chance())
    return by_second.total(), max(by_second.values())


def least(meets, most=100_000):
    """The smallest number that `meets`, where every larger one does too, or one up to 2 % larger; nothing beyond
    `most`."""
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
