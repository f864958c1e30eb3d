"""Every case of reference/reliability.md, section B, by its number, and what shows the right behaviour.

A row is `number, fault, what is right, *shown by`. What shows it is one or several of

- `rust(…)`: tests of tests/service, by `module::test`;
- `play("module:function")`: a scenario of this folder;
- `other("…", "file")`: another suite, and where it lives: a file, or `src/….rs::test`;
- `open_(…)`: what nothing shows, and why.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rust:
    tests: tuple


@dataclass(frozen=True)
class Play:
    scenario: str


@dataclass(frozen=True)
class Other:
    what: str
    where: str


@dataclass(frozen=True)
class Open:
    reason: str


@dataclass(frozen=True)
class Case:
    number: int
    fault: str
    right: str
    shown_by: tuple


def rust(*tests):
    return Rust(tests)


play, open_ = Play, Open


def other(what, where):
    return Other(what, where)


DRILL = other("make drill", "tests/drill/run")
IMAGE = other("make image", "tests/image")
LEAKS = play("leaks:leak_scan")
MALFORMED = play("malformed:malformed_requests")
SLOW = play("clients:slow_clients")
STRANGE = play("clients:strange_protocols")
CLOCK = play("host:clock_steps")

ROWS = [
    # B-1 Callers and authorization
    (1, "no, wrong, malformed, two API keys", "the same 401; two headers 400; never logged",
     rust("callers::no_key_a_wrong_key_and_a_malformed_header_get_the_same_401", "callers::a_key_is_taken_from_one_header_and_nowhere_else"), LEAKS),
    (2, "guessing a key by timing", "no difference: |t| < 4.5 over a million samples, by FULL=1, else < 10 over fewer",
     play("timing:timing")),
    (3, "a caller asks for another's profile or subject", "403 by policy, counted",
     rust("callers::a_caller_gets_what_it_is_allowed_and_nothing_else", "callers::a_subject_must_match_the_patterns_of_profile_and_caller",
          "properties::a_caller_gets_what_allow_names_and_nothing_else", "properties::a_caller_names_the_subjects_of_its_pattern_and_no_others")),
    (4, "a caller uses other endpoints", "403 or 404; ops on a listener of its own",
     rust("callers::a_caller_gets_what_it_is_allowed_and_nothing_else", "exchange::a_cache_hit_never_skips_authorization",
          "bundle::a_bundle_is_atomic_and_needs_a_grant_for_each_entry",
          "listeners::the_public_listener_serves_keys_alone_and_ops_moves_to_its_own")),
    (5, "a stolen key mints for all customers", "budget of subjects, audit line each, counted",
     rust("policy::the_distinct_subjects_of_a_caller_are_limited_per_minute",
          "policy::a_reload_does_not_reset_rate_limits", "secrecy::each_mint_leaves_one_audit_line_without_the_token_or_the_subject")),
    (6, "policy skipped on a cache hit", "policy first, always", rust("exchange::a_cache_hit_never_skips_authorization")),
    (7, "claims that set iss, aud, exp …", "400, in any letter case; none can be listed",
     rust("refusals::no_caller_sets_a_registered_claim", "configuration::no_registered_claim_can_be_listed_in_any_case",
          "minting::a_caller_sets_the_ttl_and_the_listed_claims_and_nothing_is_altered"), MALFORMED),
    (8, "strange ttl", "400; exp at most iat + max", rust("refusals::a_bad_body_is_a_400_that_names_the_field"),
     other("make unit", "src/tokens/lifetime.rs::a_lifetime_is_the_requested_one_within_the_bounds"), MALFORMED),
    (9, "strange subjects", "400, never normalised",
     rust("refusals::a_bad_body_is_a_400_that_names_the_field", "minting::a_caller_sets_the_ttl_and_the_listed_claims_and_nothing_is_altered"),
     other("make unit", "src/tokens/subject.rs::an_invisible_character_anywhere_is_rejected"),
     other("make unit", "src/tokens/subject.rs::a_subject_is_never_altered"), MALFORMED),
    (10, "duplicate JSON keys", "400 at each depth",
     rust("refusals::a_bad_body_is_a_400_that_names_the_field", "refusals::the_other_endpoints_are_as_strict"), MALFORMED),
    (11, "array, trailing data, BOM, nesting, wrong type, gzip", "400 or 415, no panic",
     rust("refusals::a_bad_body_is_a_400_that_names_the_field", "refusals::a_wrong_content_type_or_encoding_is_415"), MALFORMED),
    (12, "unknown fields", "400", rust("refusals::a_bad_body_is_a_400_that_names_the_field", "refusals::the_other_endpoints_are_as_strict",
     "bundle::the_claims_of_each_entry_are_its_profile_s")),
    (13, "identity token as assertion, and the reverse", "refused, also where one key signs both, of which `check` warns",
     rust("exchange_faults::an_identity_token_is_no_assertion_and_an_assertion_is_no_identity_token", "key_files::one_key_for_both_identity_tokens_and_assertions_is_a_warning")),
    (14, "replay of an assertion", "short life, fresh jti",
     rust("minting::an_assertion_has_the_claims_of_rfc_7523_and_a_jti_of_its_own", "sandbox::login::an_assertion_with_a_jti_works_once_and_one_without_repeatedly"), DRILL),
    (15, "X-Forwarded-For, Host spoofed", "never read; no URL is built from Host",
     rust("callers::forwarded_and_host_headers_are_never_read")),
    (16, "a browser calls", "no CORS header; OPTIONS 405", rust("callers::a_browser_gets_no_cors_headers")),
    # B-2 Keys and JWKS
    (17, "RSA of 512, 1024, 2047, 16384 bits", "refused by name", rust("key_files::each_bad_key_is_refused_by_name_and_never_shown")),
    (18, "e = 1, 3, even, huge", "refused", rust("key_files::each_bad_key_is_refused_by_name_and_never_shown")),
    (19, "ROCA, small factors, close primes", "refused", rust("key_files::each_bad_key_is_refused_by_name_and_never_shown"),
     open_("nothing looks for a prime that two configured keys have in common")),
    (20, "CRT numbers corrupted", "refused at load; no bad signature leaves, but of a library that lies in both operations of one place, until its turn",
     rust("key_files::each_bad_key_is_refused_by_name_and_never_shown",
          "batch::every_returned_signature_verifies_and_the_first_fault_disables_the_library",
          "batch::a_library_that_is_wrong_in_both_operations_of_one_lane_is_detected_when_that_lane_is_checked"),
     open_("no bit is flipped in aws-lc's own numbers at run time: it checks each RSA signature itself before it returns it")),
    (21, "something else in the key file", "refused, and the message says what it is", rust("key_files::each_bad_key_is_refused_by_name_and_never_shown",
     "key_files::an_encrypted_key_opens_with_a_passphrase_from_a_file_or_the_environment")),
    (22, "certificate of another key, expired, soon expired", "refused, replaced, warned of",
     rust("key_files::a_certificate_that_is_not_the_key_s_is_refused", "publishing::an_expiring_certificate_is_replaced_by_a_derived_one",
          "publishing::an_expired_or_not_yet_valid_certificate_is_replaced_by_a_derived_one",
          "publishing::a_certificate_with_less_than_thirty_days_is_warned_of"),
     open_("a certificate that was signed with SHA-1 is published as it is")),
    (23, "one kid for two keys, or for a new key", "refused",
     rust("rotation::a_replaced_lone_key_is_refused_and_so_is_another_key_of_the_same_id", "key_files::an_inconsistent_key_directory_is_explained")),
    (24, "private members in the JWKS", "none, nor a factor of a key",
     rust("secrecy::no_private_number_is_published", "publishing::a_set_holds_each_key_with_its_certificate_and_nothing_private"), LEAKS),
    (25, "n and e in another form than RFC 7518's", "canonical", rust("publishing::a_set_holds_each_key_with_its_certificate_and_nothing_private"),
     other("make interop", "tests/interop/test_jwks.py")),
    (26, "a new key signs before it is known", "published a lead before",
     rust("rotation::a_schedule_without_enough_lead_is_refused_with_dates_that_work",
          "rotation::a_key_that_a_reload_brings_in_may_not_sign_at_once", "retirement::a_reload_never_signs_with_a_key_that_verifiers_may_not_have"), DRILL),
    (27, "an old key goes while its tokens live", "stays until they are over", rust("rotation::a_key_is_published_then_signs_then_is_only_published_then_removed"), DRILL),
    (28, "replicas out of step", "JWKS from files and clock alone", rust("rotation::replicas_publish_the_same_bytes_whenever_they_started"), DRILL),
    (29, "a leaked key", "gone from JWKS and signing in five seconds, its tokens dropped",
     rust("rotation::a_retired_key_leaves_signing_and_the_jwks_of_a_running_service", "exchange::access_tokens_obtained_with_a_retired_key_are_dropped"),
     play("retire:in_each_state"), play("retire:beside_a_mount_that_hangs"), play("retire:with_its_copies")),
    (30, "caching of the JWKS in the window", "max-age a quarter of the lead, ETag, 304",
     rust("rotation::a_set_may_be_cached_for_at_most_a_quarter_of_the_lead", "rotation::a_verifier_gets_304_until_the_set_changes")),
    (31, "1,000 verifiers fetch at once", "all answered, one body; p99 below a second", play("clients:concurrent_jwks_fetches"),
     open_("a p99 of 5 ms: the thousand clients are one Python process on the cores of the service")),
    (32, "all keys bad", "no port opens; once running, the last good stay",
     rust("key_files::the_service_does_not_open_a_port_with_a_bad_key", "reload::a_key_file_truncated_at_any_byte_changes_nothing")),
    # B-3 Key files, configuration, reload
    (33, "key files that others can read or change", "refused, on the opened descriptor",
     rust("key_files::a_key_that_others_can_read_is_refused_as_openssh_does", "key_files::a_key_of_root_that_only_the_service_s_group_can_read_is_accepted",
          "retirement::a_folder_or_schedule_that_others_can_change_is_refused", "retirement::a_key_file_in_a_folder_where_others_can_replace_it_is_refused"),
     open_("no test changes a file between its opening and the look at it: by its type, src/files.rs has nothing but the opened file to look at"),
     play("retire:in_each_state"), other("make deploy-check", "tests/deploy/test_owners.py")),
    (34, "a half-written key", "the old one stays", rust("reload::a_key_file_truncated_at_any_byte_changes_nothing")),
    (35, "new key, old certificate", "refused until they fit", rust("reload::a_new_key_beside_an_old_certificate_is_refused_until_they_fit")),
    (36, "Kubernetes turns `..data`", "taken over in five seconds, never mixed", rust("reload::an_update_of_a_kubernetes_volume_is_applied_within_five_seconds",
     "reload::a_thousand_updates_of_a_kubernetes_volume_never_mix_key_and_certificate")),
    (37, "no change notices from the file system", "it looks for itself", rust("reload::a_change_is_applied_within_five_seconds_without_a_signal")),
    (38, "SIGHUP with a broken configuration", "the old one stays whole; told once", rust("reload::two_hundred_broken_configurations_change_nothing",
     "reload::a_change_that_needs_a_restart_is_refused_with_that_reason", "retirement::a_key_that_expires_beside_a_broken_file_is_logged_once")),
    (39, "floods of SIGHUP, before the start is over, while it ends", "never kills",
     rust("reload::a_thousand_sighups_a_second_never_kill_and_cost_no_token", "reload::a_sighup_during_the_start_is_not_lost", "listeners::sighup_never_kills")),
    (40, "a leak by reloads", "memory, descriptors, threads flat", rust("reload::a_retired_key_leaves_memory"), other("make soak", "tests/soak/main.rs")),
    (41, "secrets in environment, arguments, dumps", "none", rust("secrecy::no_output_shows_a_secret"), LEAKS),
    # B-4 Memory and host
    (42, "core dump", "none", rust("host::no_process_of_its_user_reads_its_memory_and_it_leaves_no_core_dump", "host::no_program_is_started_and_no_key_is_read_where_memory_cannot_be_protected")),
    (43, "a debugger of the same user", "refused", rust("host::no_process_of_its_user_reads_its_memory_and_it_leaves_no_core_dump")),
    (44, "copies of a key in memory", "no PEM, no DER", rust("host::no_copy_of_a_key_is_left_in_memory_as_text_or_der")),
    (45, "a retired key in memory", "gone", rust("reload::a_retired_key_leaves_memory", "reload::an_expired_key_leaves_memory_without_a_reload")),
    (46, "swap", "warned of", play("scarce:swapping")),
    (47, "secrets in a panic, in Debug, in errors", "none",
     rust("panics::a_panic_is_one_500_without_details_and_is_counted", "secrecy::a_request_has_no_debug_output"),
     other("make unit", "src/app/logging.rs::a_panic_is_logged_with_its_location_but_not_its_message"), LEAKS),
    (48, "secrets in metrics, errors, traces", "none",
     rust("refusals::no_refusal_repeats_what_was_sent", "secrecy::no_log_line_and_no_metric_shows_the_value_of_a_secret_setting"),
     other("make otel-check", "tests/otel/test_traces.py"), LEAKS),
    (49, "root, umask, read-only root", "warned; 0077; runs", rust("host::running_as_root_is_warned_of", "host::no_process_of_its_user_reads_its_memory_and_it_leaves_no_core_dump"), IMAGE),
    (50, "fork, exec", "never", rust("host::no_program_is_started_and_no_key_is_read_where_memory_cannot_be_protected")),
    # B-5 HTTP surface
    (51, "slowloris", "closed in five seconds and one", rust("connections::a_connection_without_a_whole_request_in_five_seconds_is_closed"), SLOW),
    (52, "slow body, slow reading", "closed in five seconds and one", SLOW),
    (53, "idle and fat connections by the thousand", "closed, descriptors back, memory bounded", SLOW),
    (54, "long headers, many headers, long URL", "431, closed", rust("refusals::too_large_requests_are_refused_before_they_are_read",
     "request_smuggling::an_ambiguous_request_is_refused_and_nothing_behind_it_is_answered"), MALFORMED),
    (55, "large, endless, oversized chunked bodies", "413 or 400 at once, closed", rust("refusals::too_large_requests_are_refused_before_they_are_read",
     "request_smuggling::an_ambiguous_request_is_refused_and_nothing_behind_it_is_answered",
     "request_smuggling::a_chunked_body_is_limited_and_its_connection_is_closed"), MALFORMED),
    (56, "CL+TE, two CL, bare LF, two Host …", "400, and nothing behind it is answered",
     rust("request_smuggling::an_ambiguous_request_is_refused_and_nothing_behind_it_is_answered", "request_smuggling::no_body_is_taken_for_a_request",
     "connections::a_request_in_two_pieces_is_read_like_a_whole_one_and_so_is_the_next")),
    (57, "HTTP/2 preface, resets, pings", "closed: HTTP/1.1 only", STRANGE),
    (58, "TLS on the plain port, TRACE, CONNECT, OPTIONS *, HTTP/0.9, whole URL", "400 or 405, and closed but for TRACE", STRANGE,
     rust("request_smuggling::an_ambiguous_request_is_refused_and_nothing_behind_it_is_answered")),
    (59, "Expect: 100-continue without a credential", "401 before 100", rust("connections::an_unauthenticated_caller_gets_no_100_continue")),
    (60, "100 pipelined requests, half-closed client", "in order; done with",
     rust("connections::pipelined_requests_are_answered_in_order", "request_smuggling::a_half_closed_connection_is_answered_or_closed")),
    (61, "CRLF, ESC, JSON in what is logged", "one line an event, escaped", LEAKS),
    (62, "response splitting", "no input in headers; a harmful request id is replaced", rust("minting::a_harmless_request_id_is_kept_and_any_other_replaced"), LEAKS),
    (63, "no descriptors left", "no busy loop, ops answers, recovers in two seconds",
     rust("connections::without_descriptors_accepting_pauses_and_resumes_when_some_are_free", "connections::each_listener_has_descriptors_of_its_own"),
     play("clients:no_descriptors_left")),
    (64, "one connection too many", "answered; the one that idled longest is closed and counted; ops answers",
     rust("connections::at_the_limit_a_new_connection_closes_the_longest_idle_one"), play("clients:connection_cap")),
    (65, "panic in a handler", "one 500 that says nothing, counted", rust("panics::a_panic_is_one_500_without_details_and_is_counted",
     "panics::a_panic_in_an_exchange_is_counted_and_the_next_request_begins_anew")),
    (66, "malformed requests", "0 panics, 0 unexpected 5xx, no connection open for 15 s, no wrong token, memory within 8 MiB", MALFORMED),
    # B-6 Upstream
    (67, "Salesforce down, black-holed, bad TLS, no such name", "kept tokens serve, else 503 or 504 within six seconds; minting unaffected",
     rust("exchange::an_outage_costs_few_requests_and_ends_within_thirty_seconds", "exchange::what_is_never_sent_costs_no_login", "exchange::a_connection_that_is_never_made_costs_no_login",
          "exchange::a_salesforce_that_hangs_is_a_504_and_slows_down_nothing_else", "outages::a_host_with_an_invalid_certificate_gets_no_assertion")),
    (68, "latency, a byte a second, stalls", "5 s in all, no hit waits",
     rust("exchange::a_salesforce_that_hangs_is_a_504_and_slows_down_nothing_else", "outages::an_answer_that_drips_or_stalls_times_out_after_five_seconds",
          "exchange::a_token_is_renewed_in_the_background_and_the_old_one_serves_if_that_fails")),
    (69, "an outage of half an hour", "unexpired tokens served, one try a minute", rust("exchange::an_outage_costs_few_requests_and_ends_within_thirty_seconds")),
    (70, "429 with any Retry-After", "honoured within 1 s and 15 min", rust("exchange::retry_after_is_honoured_between_one_second_and_fifteen_minutes"),
     other("make unit", "src/exchange/upstream.rs::retry_after_is_seconds_or_a_date")),
    (71, "400 invalid_grant", "remembered for a minute, explained", rust("exchange::a_rejection_by_salesforce_is_explained_and_cached_for_a_minute")),
    (72, "LOGIN_RATE_EXCEEDED", "that user stops", rust("exchange::a_user_over_the_login_rate_is_not_retried_for_fifteen_minutes", "exchange::logins_are_budgeted_far_below_salesforce_s_limit")),
    (73, "200 with nonsense", "502, nothing kept, repeated or logged",
     rust("exchange::an_invalid_response_is_neither_cached_nor_returned", "exchange_faults::five_thousand_exchanges_with_every_fault_cache_nothing_wrong"), LEAKS),
    (74, "endless or huge answer", "given up at 64 KiB",
     rust("outages::an_answer_of_64_kib_is_read_and_a_longer_one_is_aborted", "exchange::an_answer_with_too_large_headers_is_refused")),
    (75, "redirects", "not followed", rust("outages::no_redirect_is_followed", "exchange::an_invalid_response_is_neither_cached_nor_returned")),
    (76, "instance_url of somebody else", "refused", rust("exchange::an_invalid_response_is_neither_cached_nor_returned", "exchange::urls_are_returned_as_they_were_validated")),
    (77, "token_url to the inside", "https, but for loopback; refused at load", rust("configuration::each_bad_configuration_is_refused_by_field_and_line"),
     other("make unit", "src/config/names.rs::plain_http_is_for_loopback_only"),
     open_("an https address inside is taken, and a name that leads there: whoever writes the configuration decides, and TLS shows who answers")),
    (78, "one user's token for another", "never", rust("exchange::no_token_ever_reaches_another_user",
     "exchange::a_profile_that_changes_under_its_name_gets_a_token_of_its_own"), other("make unit", "src/hash.rs::different_lists_have_different_hashes")),
    (79, "1,000 callers at once, cold and at expiry", "one exchange", rust("exchange::a_thousand_concurrent_callers_cause_one_exchange_cold_and_at_expiry")),
    (80, "callers hang up", "one exchange, kept", rust("exchange::a_caller_that_disconnects_neither_cancels_nor_repeats_the_exchange")),
    (81, "no expires_in; a session ends early", "conservative life; rejected_token", rust("exchange::an_oauth_access_token_is_exchanged_once_and_then_cached",
     "exchange::the_lifetime_is_the_one_that_salesforce_returns_if_any",
     "exchange::a_rejected_token_is_dropped_once_however_many_callers_report_it", "exchange_faults::a_session_that_salesforce_ends_is_renewed_when_a_caller_says_so")),
    (82, "a cache full of one-off users", "bounded; the budget holds", rust("exchange::a_thousand_users_stay_within_cache_and_login_limit", "exchange::a_full_cache_stores_a_new_token")),
    (83, "a crash loop", "budget across restarts", other("make unit", "src/exchange/login_rate_limit.rs::a_crash_loop_and_a_second_replica_share_one_budget"),
     rust("outages::a_restart_does_not_reset_the_login_budget", "exchange::with_a_full_disk_the_login_limit_counts_in_memory")),
    (84, "clock skew to Salesforce", "shown, never followed", play("scarce:another_clock")),
    (85, "Salesforce closes an idle connection", "one retry, with an assertion of its own, where no whole head of an answer came; else 503",
     rust("exchange::an_exchange_is_retried_once_if_the_connection_closes_before_the_head", "exchange::a_connection_that_salesforce_has_closed_costs_no_exchange")),
    # B-7 Time
    (86, "the clock jumps: -1 h, +1 h, +1 d, 1970, 2100", "tokens by the wall clock, right life, no failure", CLOCK,
     open_("a clock that is far off is neither refused nor told: tokens say what the host says, and only Salesforce's clock shows it (case 84)")),
    (87, "a backward jump lengthens a kept token", "whichever clock says so first", rust("exchange::a_token_expires_by_whichever_clock_says_so_first")),
    (88, "suspended for two hours", "no expired token is served", play("host:stopped_for_two_hours")),
    (89, "a forward jump expires everything", "one exchange each, within the budget",
     rust("exchange::a_forward_jump_of_the_clock_costs_one_exchange_per_token", "exchange::a_thousand_concurrent_callers_cause_one_exchange_cold_and_at_expiry")),
    (90, "leap second, 2038", "64-bit seconds; a second that comes twice is a step of one back", CLOCK,
     rust("rotation::the_right_key_signs_after_the_clock_was_set")),
    (91, "a key's time comes while it is stopped", "right at the first request", rust("rotation::a_process_suspended_during_a_rotation_signs_with_the_new_key")),
    # B-8 Process, resources, operations
    (92, "SIGTERM with slow and idle clients", "requests finish; gone in ten seconds", rust("listeners::sigterm_finishes_requests_and_ends_in_time_whatever_clients_do",
     "listeners::after_sigterm_responses_close_connections_and_begun_requests_are_answered")),
    (93, "rolling restart of two replicas behind deploy/haproxy, which tries again what got no answer", "0 lost, 0 5xx", play("proxies:rolling_restart")),
    (94, "kill -9 of one of two", "at most what was in flight; ready in half a second by FULL=1, else in one", play("proxies:killed")),
    (95, "port taken, IPv6 off", "plain failure, 1", rust("listeners::a_port_in_use_is_a_clear_error"),
     open_("no test runs on a host without IPv6: what bind says there takes the way of a taken port")),
    (96, "three times too many signatures (RSA-4096)", "goodput, health and JWKS fast, 503 with Retry-After",
     rust("connections::a_full_signing_queue_is_503_with_retry_after_and_health_goes_on", "connections::a_signature_that_waited_too_long_is_503_and_counted",
          "host::long_signatures_run_on_threads_of_lower_priority"), play("overload:overloaded"), play("overload:overloaded_on_one_core"),
     open_("90 % of the peak and a p99 of 20 ms: the generator has the same cores, so 40 % (80 % by FULL=1) of the tokens for each CPU second and five times the idle p99 are asserted")),
    (97, "CPU throttled", "sheds, no timeouts inside", play("scarce:throttled")),
    (98, "64 MB of memory", "never killed at the caps", play("scarce:in_64_mb")),
    (99, "log disk full, pipe blocked, reader dead", "minting goes on, drops counted; `audit = \"required\"` refuses",
     rust("logs::minting_goes_on_with_a_full_disk_a_closed_log_pipe_and_no_output", "logs::a_stuck_log_reader_blocks_no_request_and_minting_recovers_with_it",
          "logs::with_a_required_audit_no_token_leaves_without_a_log_line", "logs::shutdown_waits_for_a_slow_log_reader",
          "logs::log_lines_that_nobody_reads_before_the_end_are_counted_and_reported")),
    (100, "1,000 scrapes at once; invented names", "all answered; no new series", play("clients:concurrent_scrapes")),
    (101, "the kernel gives no random bytes", "no port, no key", play("host:no_random_bytes")),
    (102, "deadlock, lock across await", "none", other("clippy: await_holding_lock is an error", "Cargo.toml"),
     other("make unit: orders of threads in the single flight and the signing queue", "tests/schedules/main.rs"),
     open_("no such model of what a reload swaps: it is swapped whole (arc-swap), and the drill and the tests of many reloads run through it")),
    (103, "upgrade with mixed replicas", "the same JWKS bytes", rust("publishing::the_same_files_make_the_same_bytes_after_a_restart_and_on_every_replica"),
     open_("there is no release yet to upgrade from")),
    (104, "malicious or yanked dependency", "--locked, checked, listed", other("make deny, make sbom", "deny.toml"),
     rust("supply::every_build_uses_the_locked_versions", "supply::the_fuzzer_locks_the_versions_of_the_service"),
     open_("no binary is built twice and compared")),
    (105, "image with shell, root, setuid", "none of them", IMAGE),
    (106, "a key that became unusable", "found at load", rust("key_files::each_bad_key_is_refused_by_name_and_never_shown"),
     open_("no check once a minute: a key in memory that was good at load fails each signature by itself, with 500 and a log line")),
    (107, "desync behind nginx on errors", "0 crossed answers", play("proxies:behind_nginx")),
    (108, "time to recover after a fault", "a hundred good answers within five seconds, after each scenario", other("the last column of this table", "tests/chaos/deployment.py"),
     open_("not behind a test of tests/service, which ends with its service")),
    # JWTs of other issuers: the rules of reference/issuers.md, each of which is somebody's bug
    (109, "no audience, an empty one, another one", "refused in the configuration and in the token",
     rust("issuers::configuration::invalid_issuers_are_refused_by_field", "issuers::bad_tokens::each_bad_token_is_refused_for_its_reason_and_no_value_is_repeated")),
    (110, "`none`, HMAC with a public key, another algorithm than the key's", "the key and the configuration decide",
     rust("issuers::bad_tokens::each_bad_token_is_refused_for_its_reason_and_no_value_is_repeated", "issuers::bad_tokens::every_configured_algorithm_verifies",
          "issuers::bad_tokens::a_secret_verifies_hs256_alone")),
    (111, "`exp` now, times of a wrong type, `crit`", "refused; a wrong type isn't absence",
     rust("issuers::bad_tokens::each_bad_token_is_refused_for_its_reason_and_no_value_is_repeated", "issuers::bad_tokens::max_age_needs_a_recent_iat_and_bounds_the_minted_token"),
     other("make unit: any bytes as a token", "fuzz/src/jwts.rs")),
    (112, "unknown key ids, however many; a token without one", "one fetch, then a cooldown; none",
     rust("issuers::keys::a_rotated_key_is_fetched_at_once_and_strangers_cause_one_fetch_per_cooldown",
          "issuers::keys::a_fetch_from_before_a_rotation_refuses_no_token_of_the_new_key",
          "issuers::keys::a_token_without_kid_is_tried_with_the_keys_and_never_causes_a_fetch"),
     other("make unit: random rotations, outages and requests", "src/issuers/key_cache.rs::requests_get_the_keys_that_the_rules_promise")),
    (113, "an issuer is down", "kept keys for two hours, then 503 with Retry-After and never 401",
     rust("issuers::keys::an_issuer_that_is_down_is_a_503_after_two_hours_and_never_a_401", "issuers::subjects::without_the_issuer_s_keys_a_subject_token_is_a_503",
          "issuers::callers::an_issuer_that_is_down_harms_no_token_of_its_namesake")),
    (114, "a JWKS that is huge, slow, redirected, ambiguous, or of other keys", "bounded; unusable keys are skipped, duplicate ids refuse the set",
     rust("issuers::keys::a_key_set_is_used_without_its_unusable_keys_and_refused_if_it_is_ambiguous", "issuers::keys::a_renewal_delays_no_request",
          "issuers::keys::discovery_finds_the_keys_and_must_name_the_issuer", "issuers::callers::the_token_of_the_pod_goes_with_each_fetch_and_to_no_other_host")),
    (115, "a claim that is like a required one", "compared whole", rust("issuers::callers::api_keys_and_jwts_authenticate_side_by_side")),
    (116, "an error that tells a claim", "names the rule only",
     rust("issuers::bad_tokens::each_bad_token_is_refused_for_its_reason_and_no_value_is_repeated", "issuers::callers::a_workload_mints_with_its_own_jwt_and_the_audit_line_says_so")),
    (117, "a token that outlives the user's", "ends with it; the audit line says who vouched",
     rust("issuers::subjects::no_minted_token_outlives_the_subject_token", "issuers::subjects::a_proven_subject_obeys_the_policy_and_the_audit_line_names_its_issuer")),
    (118, "a stolen API key of a caller that must prove its users", "0 tokens for a thousand subjects",
     rust("issuers::subjects::a_stolen_api_key_names_none_of_a_thousand_subjects", "issuers::subjects::the_subject_is_the_one_of_the_token_at_every_endpoint")),
    (119, "an issuer rotates under load", "0 refused good tokens", other("make interop: OpenBao rotates its key", "tests/interop/test_issuers.py")),
    (120, "the store of sealed keys is away at the start", "not ready, with the reason; no incomplete JWKS; ready by itself in 30 s",
     rust("sealed_keys::a_store_that_is_away_at_the_start_is_asked_again_until_it_answers", "sealed_keys::another_keyset_is_rotated_while_one_is_closed")),
    (121, "it is away at a reload", "the keys in memory stay; the new key is taken over later",
     rust("sealed_keys::a_store_that_is_away_at_a_reload_costs_no_key_in_memory", "sealed_keys::other_changes_are_taken_over_while_the_store_is_away")),
    (122, "it is sealed, slow, throttled, broken, or redirects; the token is revoked; the answer is garbage", "named; ends without a restart",
     rust("sealed_keys::each_trouble_of_a_store_at_the_start_is_named_and_ends_without_a_restart", "sealed_keys::a_store_that_does_not_answer_is_asked_once_in_a_load")),
    (123, "a sealed key that was moved, changed, or mixed with another", "refused by name",
     rust("sealed_keys::a_sealed_key_opens_under_its_own_name_and_unchanged_only", "sealed_keys::a_sealed_key_of_another_keyset_is_refused_by_name")),
    (124, "a key that can't be sealed", "nothing is written, nothing is removed",
     rust("sealed_keys::a_key_that_can_not_be_sealed_is_not_written", "sealed_keys::a_running_service_takes_over_the_sealed_key_before_the_plain_one_is_removed")),
    (125, "a store that signs is away, sealed, slow, throttled, or broken, in the middle", "503 with Retry-After for its tokens; all else works; recovers in 30 s without a restart",
     rust("remote_keys::each_trouble_of_the_store_costs_its_own_tokens_alone_and_ends_by_itself", "remote_keys::an_outage_of_the_store_is_no_storm_of_requests_and_no_flood_of_errors")),
    (126, "it answers with another key's signature, another version's, a cut one, or garbage", "no bad signature leaves",
     rust("remote_keys::each_trouble_of_the_store_costs_its_own_tokens_alone_and_ends_by_itself", "remote_keys::each_mistake_in_a_remote_key_is_named")),
    (127, "it is away at the start, or at a reload", "the keyset is closed until it answers; the keys in memory stay",
     rust("remote_keys::a_store_that_is_away_at_the_start_closes_the_keyset_until_it_answers", "remote_keys::a_store_that_is_away_at_a_reload_costs_no_key_in_memory")),
    (128, "its login is revoked, or ends", "logs in again, without a failed request",
     rust("remote_keys::a_revoked_or_ageing_login_is_replaced_without_a_failed_request")),
    (129, "more signatures are wanted than its quota allows", "the limits hold; 503 with Retry-After beyond them",
     rust("remote_keys::more_signatures_than_the_limits_allow_wait_and_are_then_refused")),
    (130, "its key is rotated, or deleted", "a rotation changes nothing; a deleted key is named, and costs the others nothing",
     rust("remote_keys::a_rotation_in_the_store_changes_nothing_by_itself", "remote_keys::a_key_that_is_deleted_in_the_store_is_named")),
]

CASES = [Case(number, fault, right, shown_by) for number, fault, right, *shown_by in ROWS]
