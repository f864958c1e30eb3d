//! `keyset.toml`, the schedule beside the keys.
//!
//! Holds: a schedule that is taken names each key once, lets at most one sign at any moment, and keeps a key published for as
//! long as its tokens live; it says the same when it is written anew.

use std::collections::BTreeSet;
use std::time::Duration;

use tokenmint::clock::UnixTime;
use tokenmint::config::KeyId;
use tokenmint::keys::{State, lives, parse_schedule};

const LEAD: Duration = Duration::from_hours(24);
const LIFE: Duration = Duration::from_hours(1);
const MARGIN: Duration = Duration::from_hours(1);

pub fn feed(text: &str) {
    let schedule = match parse_schedule("keyset.toml", text, LEAD) {
        Ok(schedule) => schedule,
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.message.is_empty()));
            return;
        }
    };
    let kids = schedule.entries.iter().map(|entry| &entry.kid).chain(&schedule.retired);
    let kids: Vec<&KeyId> = kids.collect();
    assert_eq!(kids.iter().collect::<BTreeSet<_>>().len(), kids.len(), "a key twice");
    assert!(kids.iter().all(|kid| KeyId::parse(kid.as_str()).is_ok()));
    for entry in &schedule.entries {
        let (sign_from, added) = (entry.sign_from.expect("a date"), entry.added);
        assert!(entry.emergency || added.is_none_or(|added| sign_from >= added.plus(LEAD)));
    }
    let lives = lives(&schedule.entries, LIFE, MARGIN);
    let second = |time: UnixTime, by: i64| UnixTime::from_seconds(time.seconds().saturating_add(by));
    for life in &lives {
        let start = life.signs_from.expect("a date");
        for now in [second(start, -1), start, second(start, 1)] {
            let signing = lives.iter().filter(|life| life.state(now) == State::Signing).count();
            let begun = lives.iter().any(|life| life.signs_from.is_some_and(|from| from <= now));
            assert_eq!(signing, usize::from(begun), "at {now}");
        }
        if let Some(end) = life.signs_until {
            let last_token = second(end, -1).plus(LIFE);
            assert_ne!(life.state(last_token), State::Gone, "its tokens outlive it");
        }
        assert!(life.next_change(start).is_none_or(|change| change > start));
    }
    if let Ok(table) = text.parse::<toml::Table>() {
        let anew = toml::to_string(&table).expect("TOML");
        assert_eq!(parse_schedule("keyset.toml", &anew, LEAD), Ok(schedule), "written anew:\n{anew}");
    }
}
