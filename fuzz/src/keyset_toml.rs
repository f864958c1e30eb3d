//! Fuzzes `keyset.toml`, the schedule of a keyset.
//!
//! Invariants of an accepted schedule:
//! - It names each key once, and at most one key signs at any time.
//! - A key stays published as long as its tokens live.
//! - Parsing after serializing gives the same schedule.

use std::collections::BTreeSet;
use std::time::Duration;

use tokenmint::clock::UnixTime;
use tokenmint::config::KeyId;
use tokenmint::keys::{KeyState, RotationRules, parse_schedule, retirement_marks};

const LEAD: Duration = Duration::from_hours(24);
const LIFE: Duration = Duration::from_hours(1);
const MARGIN: Duration = Duration::from_hours(1);

pub fn test_one_input(text: &str) {
    let schedule = match parse_schedule("keyset.toml", text, LEAD) {
        Ok(schedule) => schedule,
        Err(problems) => {
            assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.message.is_empty()));
            return;
        }
    };
    let kids: Vec<&KeyId> = schedule.entries.iter().map(|entry| &entry.kid).collect();
    assert_eq!(kids.iter().collect::<BTreeSet<_>>().len(), kids.len(), "a key twice");
    assert!(kids.iter().all(|kid| KeyId::parse(kid.as_str()).is_ok()));
    for entry in schedule.entries.iter().filter(|entry| entry.retired.is_none()) {
        let (sign_from, added) = (entry.sign_from.expect("a date"), entry.added);
        assert!(entry.emergency || added.is_none_or(|added| sign_from >= added.plus(LEAD)));
    }
    // `retirement_marks` finds the same retired keys in the text as the parser.
    let marks = retirement_marks(text);
    for entry in &schedule.entries {
        let mark = marks.iter().find(|mark| mark.kid == entry.kid).expect("a mark for each entry");
        assert_eq!(mark.retired.is_some(), entry.retired.is_some());
    }
    let rules = RotationRules { publish_lead: LEAD, longest_life: LIFE, retire_margin: MARGIN };
    let second = |time: UnixTime, by: i64| UnixTime::from_seconds(time.seconds().saturating_add(by));
    let moments = schedule.entries.iter().flat_map(|entry| [entry.sign_from, entry.retired]).flatten();
    let moments: BTreeSet<_> = moments.collect();
    for moment in moments {
        for now in [second(moment, -1), moment, second(moment, 1)] {
            let lives = rules.validities(&schedule.entries, now);
            let signing = lives.iter().filter(|life| life.state(now) == KeyState::Signing).count();
            assert!(signing <= 1, "at {now}");
            let latest =
                schedule.entries.iter().rposition(|entry| entry.sign_from.is_some_and(|from| from <= now));
            if let Some(latest) = latest.filter(|latest| schedule.entries[*latest].retired.is_none()) {
                assert_eq!(lives[latest].state(now), KeyState::Signing, "the latest start at {now}");
            }
            for life in &lives {
                let ended = life
                    .signing_periods
                    .last()
                    .and_then(|turn| turn.until)
                    .filter(|_| life.entry.retired.is_none());
                if let Some(end) = ended {
                    assert_ne!(
                        life.state(second(end, -1).plus(LIFE)),
                        KeyState::Gone,
                        "its tokens outlive it"
                    );
                }
                assert!(life.next_change(now).is_none_or(|change| change > now));
            }
        }
    }
    if let Ok(table) = text.parse::<toml::Table>() {
        let anew = toml::to_string(&table).expect("TOML");
        // Other lines, and so other origins, but the same entries.
        let parsed = parse_schedule("keyset.toml", &anew, LEAD).map(|schedule| schedule.entries);
        assert_eq!(parsed, Ok(schedule.entries), "written anew:\n{anew}");
    }
}
