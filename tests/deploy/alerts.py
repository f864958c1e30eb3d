"""What every alert is held against: series under which it fires, and series close by under which it doesn't.

Series are written as promtool's unit tests have them, one value a minute. An alert is asked for at `at` minutes.
"""

import dataclasses

DAY = 86400
WEB = 'keyset="web",kid="WebAppKey2",instance="a"'


@dataclasses.dataclass
class Case:
    alert: str
    # The labels with which it fires; None: it doesn't.
    fires: dict | None
    at: int
    series: dict


def fires(alert, at, series, **labels):
    return Case(alert, labels, at, series)


def quiet(alert, at, series):
    return Case(alert, None, at, series)


def requests(ok, failed, route="/identity-token"):
    return {
        f'tokenmint_requests_total{{route="{route}",status="200"}}': f"0+{ok}x30",
        f'tokenmint_requests_total{{route="{route}",status="503"}}': f"0+{failed}x30",
    }


def certificate(days):
    return {f"tokenmint_certificate_remaining_seconds{{{WEB}}}": f"{int(days * DAY)}-60x90"}


def pending(hours, **fetched_by):
    """A key that starts to sign in `hours`, and when each class of client has fetched it."""
    series = {f"tokenmint_key_starts_signing_seconds{{{WEB}}}": f"{hours * 3600}-60x30"}
    for client, when in fetched_by.items():
        series[f'tokenmint_key_fetched_timestamp_seconds{{{WEB},client="{client}"}}'] = f"{when}x30"
    return series


def of_the_other_replica(series):
    return {name.replace('instance="a"', 'instance="b"'): values for name, values in series.items()}


def published(kid, values):
    return {f'tokenmint_certificate_remaining_seconds{{keyset="web",kid="{kid}",instance="a"}}': values}


def live(kid, values):
    return {f'tokenmint_live_tokens{{keyset="web",kid="{kid}",instance="a"}}': values}


def starts(kid, values):
    return {f'tokenmint_key_starts_signing_seconds{{keyset="web",kid="{kid}",instance="a"}}': values}


def refused_jwts(rule, values):
    return {f'tokenmint_issuer_refusals_total{{issuer="cluster",rule="{rule}",instance="a"}}': values}


def unverified(values):
    return {'tokenmint_exchanges_total{profile="identity.web",outcome="unverified"}': values}


UP = 'up{job="tokenmint",instance="a"}'
KEY = {"keyset": "web", "kid": "WebAppKey2"}
PAGE = 'tokenmint_remints_refused_total{profile="identity.web",caller="rails-web"}'
BUDGET = 'tokenmint_login_budget_used_ratio{profile="oauth.crm",instance="a"}'
QUEUE = 'tokenmint_signing_queue_depth{job="tokenmint",instance="a"}'
SHED = 'tokenmint_signing_shed_total{job="tokenmint",instance="a",reason="late"}'
SUBJECTS = 'tokenmint_subjects_refused_total{caller="rails-web"}'
SKEW = 'tokenmint_salesforce_clock_skew_seconds{instance="a"}'
CURRENT = 'tokenmint_config_last_reload_successful{instance="a"}'
LOOKED = 'tokenmint_config_last_look_timestamp_seconds{instance="a"}'
DROPPED = 'tokenmint_log_lines_dropped_total{instance="a"}'
PANICS = 'tokenmint_panics_total{instance="a"}'
ISSUER = {"issuer": "cluster", "instance": "a"}
KEYS_AGE = 'tokenmint_issuer_keys_age_seconds{issuer="cluster",instance="a"}'
STORE_FAILED = (
    'tokenmint_store_requests_total{store="vault",operation="unseal",outcome="unavailable",instance="a"}'
)
FETCHES_FAILED = 'tokenmint_issuer_fetches_total{issuer="cluster",instance="a",outcome="failure"}'

CASES = [
    fires("TokenmintDown", 5, {UP: "1 0x10"}, job="tokenmint", instance="a"),
    quiet("TokenmintDown", 5, {UP: "1x3 0 1x10"}),
    quiet("TokenmintDown", 5, {'up{job="node",instance="a"}': "0x10"}),
    fires("TokenmintAbsent", 6, {'up{job="node"}': "1x10"}, job="tokenmint"),
    # Away is the other alert's.
    quiet("TokenmintAbsent", 6, {UP: "0x10"}),
    fires("TokenmintErrorRatio", 15, requests(ok=60, failed=3), route="/identity-token"),
    quiet("TokenmintErrorRatio", 15, requests(ok=600, failed=3)),
    # A replica that drains says 503 to its probe, and that is no error.
    quiet("TokenmintErrorRatio", 15, requests(ok=0, failed=6, route="/readyz")),
    fires("TokenmintSigningQueue", 10, {QUEUE: "40x20"}, job="tokenmint", instance="a"),
    fires("TokenmintSigningQueue", 10, {QUEUE: "0x20", SHED: "0+5x20"}, job="tokenmint", instance="a"),
    # A burst that is gone by the next look.
    quiet("TokenmintSigningQueue", 10, {QUEUE: "0 0 0 90 0x16", SHED: "7x20"}),
    fires("TokenmintPanic", 30, {PANICS: "0x9 1x30"}, instance="a"),
    quiet("TokenmintPanic", 30, {PANICS: "1x40"}),
    fires("TokenmintCertificateExpiresIn30Days", 70, certificate(29), **KEY),
    quiet("TokenmintCertificateExpiresIn30Days", 70, certificate(31)),
    # From then on the other.
    quiet("TokenmintCertificateExpiresIn30Days", 70, certificate(9)),
    fires("TokenmintCertificateExpiresIn10Days", 10, certificate(9), **KEY),
    quiet("TokenmintCertificateExpiresIn10Days", 10, certificate(11)),
    fires("TokenmintPendingKeyNeverFetched", 15, pending(11), **KEY),
    # Neither a person's curl nor a monitor is Salesforce.
    fires("TokenmintPendingKeyNeverFetched", 15, pending(11, tool=1000, probe=1000, browser=1000), **KEY),
    quiet("TokenmintPendingKeyNeverFetched", 15, pending(11, java=1000)),
    quiet("TokenmintPendingKeyNeverFetched", 15, pending(20)),
    # One fetch reaches one replica.
    quiet("TokenmintPendingKeyNeverFetched", 15, pending(11, none=1000) | of_the_other_replica(pending(11))),
    # It was fetched, and then the replica that knew of it was restarted.
    quiet("TokenmintPendingKeyNeverFetched", 25, pending(11) | {
        f'tokenmint_key_fetched_timestamp_seconds{{{WEB},client="other"}}': "1000x5 _x30",
    }),
    fires("TokenmintNoKeySigns", 5, published("K1", "9e6x9") | starts("K1", "60x9"), keyset="web", instance="a"),
    quiet("TokenmintNoKeySigns", 5, published("K1", "9e6x9") | published("K2", "9e6x9") | starts("K2", "60x9")),
    fires(
        "TokenmintKeyRetiredEarly",
        15,
        live("K1", "7x9 _x20") | published("K1", "9e6x9 _x20") | published("K2", "9e6x30"),
        keyset="web",
        kid="K1",
    ),
    # Its time was over, as always in a rotation.
    quiet(
        "TokenmintKeyRetiredEarly",
        15,
        live("K1", "0x30") | published("K1", "9e6x9 _x20") | published("K2", "9e6x30"),
    ),
    # The service is away, not the key.
    quiet("TokenmintKeyRetiredEarly", 15, live("K1", "7x9 _x20") | published("K1", "9e6x9 _x20")),
    fires("TokenmintUnverifiedExchanges", 20, unverified("0x10 1x20"), profile="identity.web"),
    # The very first, whose counter begins at 1.
    fires("TokenmintUnverifiedExchanges", 20, unverified("_x10 1x20"), profile="identity.web"),
    quiet("TokenmintUnverifiedExchanges", 60, unverified("1x90")),
    quiet("TokenmintUnverifiedExchanges", 20, {
        'tokenmint_exchanges_total{profile="identity.web",outcome="success"}': "0+9x30",
    }),
    fires("TokenmintRemintStorm", 10, {PAGE: "0+30x20"}, profile="identity.web", caller="rails-web"),
    quiet("TokenmintRemintStorm", 10, {PAGE: "0+3x20"}),
    fires("TokenmintSubjectsRefused", 20, {SUBJECTS: "_x10 1x20"}, caller="rails-web"),
    quiet("TokenmintSubjectsRefused", 60, {SUBJECTS: "1x90"}),
    fires("TokenmintLoginBudgetHalfUsed", 10, {BUDGET: "0.6x20"}, profile="oauth.crm"),
    quiet("TokenmintLoginBudgetHalfUsed", 10, {BUDGET: "0.4x20"}),
    fires("TokenmintClockSkew", 15, {SKEW: "-45x30"}, instance="a"),
    quiet("TokenmintClockSkew", 15, {SKEW: "2x30"}),
    fires("TokenmintIssuerKeysStale", 80, {KEYS_AGE: "0+60x90"}, **ISSUER),
    # Renewed after an hour, as late as it gets.
    quiet("TokenmintIssuerKeysStale", 110, {KEYS_AGE: "0+60x60 0+60x60"}),
    # Keys that were never there.
    fires("TokenmintIssuerKeysStale", 15, {FETCHES_FAILED: "0+30x30"}, outcome="failure", **ISSUER),
    # One fetch fails, and the keys are there.
    quiet("TokenmintIssuerKeysStale", 15, {KEYS_AGE: "0+60x30", FETCHES_FAILED: "0 0 0 1x30"}),
    fires("TokenmintJwtsRefused", 15, refused_jwts("aud", "0+30x30"), issuer="cluster", rule="aud"),
    # A token that ended on its way, now and then.
    quiet("TokenmintJwtsRefused", 15, refused_jwts("exp", "0+2x30")),
    quiet("TokenmintJwtsRefused", 15, refused_jwts("keys_unavailable", "0+30x30")),
    fires("TokenmintStoreUnavailable", 10, {STORE_FAILED: "0+4x30"}, instance="a", store="vault"),
    # One request failed, and the next one didn't.
    quiet("TokenmintStoreUnavailable", 10, {STORE_FAILED: "0 0 0 0 1x30"}),
    quiet("TokenmintStoreUnavailable", 10, {STORE_FAILED.replace("unavailable", "success"): "0+4x30"}),
    fires("TokenmintReloadFailing", 10, {CURRENT: "1 0x20"}, instance="a"),
    # Two files that were changed one after the other.
    quiet("TokenmintReloadFailing", 10, {CURRENT: "1 1 1 1 1 1 1 0 1x20"}),
    # promtool's clock begins at 0: the last look was at 60 s.
    fires("TokenmintFilesNotLookedAt", 10, {LOOKED: "0 60x20"}, instance="a"),
    quiet("TokenmintFilesNotLookedAt", 10, {LOOKED: "0+60x20"}),
    # It has just started.
    quiet("TokenmintFilesNotLookedAt", 10, {LOOKED: "0x20"}),
    fires("TokenmintLogLinesDropped", 10, {DROPPED: "0 0 0 4x20"}, instance="a"),
    quiet("TokenmintLogLinesDropped", 30, {DROPPED: "4x40"}),
]
