"""docs/capacity.md: the simulation behind it goes by the running service's own rules, counts what real replicas do,
and is what the page shows. `UPDATE_DOCS=1` writes it there anew. Nothing here takes a time."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import sys

import pytest
from service import REPO

sys.path.append(str(REPO / "benches" / "harness"))

import capacity  # noqa: E402
import replicas  # noqa: E402
import report  # noqa: E402
import servers  # noqa: E402
from fleet import DAY, HOUR, Scenario, chats, fetches, least, logins  # noqa: E402

# Real ones: so many replicas, profiles of one user, users of a chat, and seconds that a token lives. A renewal falls
# on the third second after the first exchange and the next on the sixth, whatever share of its life each draws.
REPLICAS, PROFILES, USERS, LIFE, WATCHED = 3, 2, 5, 5, 4.2
BUDGET = 8


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("key") / "rsa2048.key"
    servers.make_key(path, 2048)
    return path


@pytest.fixture(scope="module")
def rules(binary, key, tmp_path_factory):
    return replicas.rules(binary, tmp_path_factory.mktemp("rules") / "fleet", key)


@pytest.fixture(scope="module")
def page(rules):
    """What the page must show; made beside the other tests, which wait most of the time."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as elsewhere:
        yield elsewhere.submit(capacity.simulated, rules)


@pytest.fixture(scope="module")
def counted(page, binary, key, tmp_path_factory):
    """By whether they share a Redis: the sandbox's counts of the logins within a while, of those after a storm, and of
    messaging requests and JWKS fetches."""
    folder = tmp_path_factory.mktemp("real")

    def count(shared):
        fleet = replicas.Replicas(
            binary, folder / str(shared), key, REPLICAS, PROFILES, shared, BUDGET, session_life=LIFE, expires_in=True,
        )
        with fleet:
            return fleet.steady(WATCHED), fleet.reject_repeatedly(), *fleet.chat(USERS)

    with concurrent.futures.ThreadPoolExecutor() as both:
        return dict(zip((False, True), both.map(count, (False, True))))


@pytest.mark.parametrize("shared", [False, True])
def test_the_simulation_counts_what_salesforce_counts_of_real_replicas(counted, rules, shared):
    rules = dataclasses.replace(rules, access_token_life=LIFE, logins_per_hour=BUDGET)
    # As the real ones are asked; none is started anew.
    asked = Scenario(REPLICAS, PROFILES, shared, seconds=WATCHED, ask=0.1, step=0, rollout=DAY)
    storm = dataclasses.replace(asked, seconds=2 * WATCHED, rejecting=(WATCHED, WATCHED, 100.0))
    # Each user asks so often that they come by way of every replica.
    of_chats = chats(rules, REPLICAS, shared, users_per_minute=USERS, asks=100, seconds=60)
    # That sandbox keeps no JWKS: a fetch for each verification is the most that a relying party may do.
    expected = logins(rules, asked).granted, logins(rules, storm).granted, of_chats.granted, of_chats.granted
    assert counted[shared] == expected


def test_without_redis_each_replica_logs_in_for_itself_and_with_it_one_does(rules):
    """The storm of starting; and a day, in which a token is renewed after two thirds of its life or a little more."""
    soon = rules.access_token_life * rules.renew_from - 1
    for number in (1, 7, 300):
        for profiles in (1, 4):
            first = lambda shared: logins(rules, Scenario(number, profiles, shared, seconds=soon, step=0.1)).granted
            assert [first(False), first(True)] == [number * profiles, profiles]
    one, many = (logins(rules, Scenario(number, 2, True)) for number in (1, 1000))
    most = 2 * (1 + DAY / (rules.access_token_life * rules.renew_from))
    assert one.granted <= many.granted <= most and not many.held_back
    alone = logins(rules, Scenario(100, 2, False))
    assert alone.granted > 100 * 2 * DAY / (rules.access_token_life * rules.renew_to + 11)


def test_budgets_hold_in_a_storm(rules):
    storm = lambda number, shared: logins(
        rules, Scenario(number, 1, shared, seconds=HOUR + 600, rejecting=(HOUR, 600, capacity.REJECTIONS_PER_SECOND))
    )
    for number in (1, 5, 200):
        assert storm(number, True).busiest_hour == rules.logins_per_hour and not storm(number, True).refused
    for number in (1, 5):
        assert storm(number, False).busiest_hour == number * rules.logins_per_hour
    assert storm(200, False).busiest_hour == rules.salesforce_logins and storm(200, False).refused
    for number in (1, 2, 50):
        shared = chats(rules, number, True, users_per_minute=1000, asks=2, seconds=300)
        assert shared.busiest_minute == rules.requests_per_minute and not shared.refused and shared.held_back


def test_caches_fetch_no_more_often_than_max_age_says(rules):
    total, peak = fetches(rules, parties=50, spread=1)
    assert 0.98 * 50 * DAY / rules.max_age < total <= 50 * (1 + DAY / rules.max_age) and peak == 50


def test_replicas_carry_the_load_also_when_one_is_away():
    # 1,000 page loads of 0.3 ms are 0.3 cores; of 2 cores, 60 % busy, one carries them.
    assert capacity.replicas_for(1000, 0.0003, cores=2, target=0.6) == 2
    assert capacity.replicas_for(10_000, 0.0003, cores=2, target=0.6) == 4
    assert [least(lambda number: number >= limit) for limit in (1, 2, 11, 1000)][:3] == [1, 2, 11]
    assert least(lambda number: False, most=100) is None


def test_a_rule_that_is_no_longer_where_it_was_is_told(rules):
    with pytest.raises(SystemExit, match="0 times and not once"):
        replicas.duration("src/exchange/exchanger.rs", "NO_SUCH_RULE")


def test_the_pages_show_this_simulation(page, rules):
    fresh = page.result()
    if os.environ.get("UPDATE_DOCS") == "1":
        report.write(capacity.PAGE, fresh, "simulation", "capacity")
    shown = report.around(capacity.PAGE, "simulation", "capacity")[1]
    assert shown == fresh, "run UPDATE_DOCS=1 make capacity-short"
    operating = " ".join((REPO / "docs" / "operate" / "access-tokens.md").read_text().split())
    for limits in (
        f"{rules.logins_per_hour} logins an hour, {rules.requests_per_minute} messaging requests a minute",
        f"From {capacity.rejections_met_at(rules)} replicas on they can together exceed a user's",
        f"From {capacity.chats_met_at(rules)} replicas on they can exceed an org's",
    ):
        assert limits in operating, limits
