//! Edits the text of a `keyset.toml` in place: comments and formatting around an edit stay.

use std::time::Duration;

use toml_edit::{Array, ArrayOfTables, Datetime, DocumentMut, InlineTable, Item, TableLike, Value, value};

use super::schedule::{self, Schedule, ScheduleChange, ScheduleEntry};
use crate::clock::UnixTime;
use crate::config::source::parse_toml;
use crate::config::{KeyId, Problem};

/// The text of a `keyset.toml`.
#[derive(Clone)]
pub struct ScheduleDocument {
    /// The name of the file in messages.
    name: String,
    document: DocumentMut,
}

impl ScheduleDocument {
    /// Parses the text.
    ///
    /// # Errors
    /// The text isn't TOML. The editor's own message isn't shown, as it quotes the line, which may hold a key.
    pub fn parse(name: &str, text: &str) -> Result<Self, Vec<Problem>> {
        parse_toml(name, text)?;
        let document = text.parse().map_err(|_| vec![Problem::new("", name, "isn't TOML")])?;
        Ok(Self { name: name.to_owned(), document })
    }

    /// A document without keys.
    pub(crate) fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), document: DocumentMut::new() }
    }

    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Parses the schedule that the text states now.
    ///
    /// # Errors
    /// Lists every problem.
    pub fn schedule(&self, publish_lead: Duration) -> Result<Schedule, Vec<Problem>> {
        schedule::parse_schedule(&self.name, &self.text(), publish_lead)
    }

    pub fn apply(&mut self, change: &ScheduleChange) {
        match change {
            ScheduleChange::Add(entry) => self.append(entry),
            ScheduleChange::Retire { kid, at } => {
                self.edit_entries(kid, |key| {
                    key.insert("retired", datetime_item(*at));
                });
                self.merge_appended_entry(kid);
            }
            ScheduleChange::Promote { kid, at } => self.edit_entries(kid, |key| {
                key.insert("sign_from", datetime_item(*at));
                key.insert("emergency", value(true));
            }),
        }
    }

    fn append(&mut self, entry: &ScheduleEntry) {
        let fields = [
            ("added", entry.added.map(datetime_item)),
            ("sign_from", entry.sign_from.map(datetime_item)),
            ("emergency", entry.emergency.then(|| value(true))),
            ("retired", entry.retired.map(datetime_item)),
            ("remote", entry.remote.as_ref().map(|remote| value(remote.to_string()))),
        ];
        let mut fields: Vec<(&str, Item)> =
            fields.into_iter().filter_map(|(name, field)| Some((name, field?))).collect();
        fields.insert(0, ("kid", value(entry.kid.as_str())));
        let keys = self.document.entry("key").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        if let Some(keys) = keys.as_array_of_tables_mut() {
            keys.push(fields.into_iter().collect());
        } else if let Some(keys) = keys.as_array_mut() {
            let fields =
                fields.into_iter().filter_map(|(name, field)| Some((name, field.into_value().ok()?)));
            keys.push(fields.collect::<InlineTable>());
        }
    }

    /// Removes an entry that only retires `kid`, if another entry of `kid` stays: a retirement that couldn't edit the file
    /// appended it.
    fn merge_appended_entry(&mut self, kid: &KeyId) {
        let Some(keys) = self.document.get_mut("key").and_then(Item::as_array_of_tables_mut) else { return };
        let is_of_kid = |key: &toml_edit::Table| key.get("kid").and_then(Item::as_str) == Some(kid.as_str());
        let is_appended = |key: &toml_edit::Table| {
            is_of_kid(key) && key.iter().all(|(field, _)| ["kid", "retired"].contains(&field))
        };
        if keys.iter().any(|key| is_of_kid(key) && !is_appended(key)) {
            keys.retain(|key| !is_appended(key));
        }
    }

    /// Edits each entry of `kid`, whether it is written as `[[key]]` or inline.
    fn edit_entries(&mut self, kid: &KeyId, change: impl Fn(&mut dyn TableLike)) {
        let Some(keys) = self.document.get_mut("key") else { return };
        let is_of_kid = |key: &dyn TableLike| key.get("kid").and_then(Item::as_str) == Some(kid.as_str());
        let edit = |key: &mut dyn TableLike| {
            if is_of_kid(key) {
                change(key);
            }
        };
        if let Some(keys) = keys.as_array_of_tables_mut() {
            keys.iter_mut().for_each(|key| edit(key));
        } else if let Some(keys) = keys.as_array_mut() {
            Array::iter_mut(keys).filter_map(Value::as_inline_table_mut).for_each(|key| edit(key));
        }
    }
}

fn datetime_item(at: UnixTime) -> Item {
    let moment: Datetime = at.to_string().parse().expect("RFC 3339 is what TOML writes");
    value(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_hours(24);

    /// The second run of a retirement that appended an entry makes one entry of the two.
    #[test]
    fn an_appended_retirement_is_merged_into_the_entry_of_its_key() {
        let text = "[[key]]\nkid = \"a\"\nsign_from = 2026-01-01T00:00:00Z\n[[key]]\nkid = \"b\"\nretired = true\n\
                    [[key]]\nkid = \"a\"\nretired = 2026-11-30T00:00:00Z\n";
        let mut document = ScheduleDocument::parse("keyset.toml", text).expect("TOML");
        assert!(document.schedule(LEAD).is_err(), "listed twice");
        let kid = KeyId::parse("a").expect("an id");
        let at = UnixTime::from_seconds(1_796_083_200);
        document.apply(&ScheduleChange::Retire { kid: kid.clone(), at });
        let schedule = document.schedule(LEAD).expect("valid");
        assert_eq!(schedule.entries.len(), 2, "{}", document.text());
        let entry = schedule.entry(&kid).expect("listed");
        assert!(entry.sign_from.is_some() && entry.retired == Some(at), "{entry:?}");
    }

    /// For each way to write the entries and each edit: the text then states the change, and the comments stay.
    #[test]
    fn an_edit_changes_the_schedule_however_the_entries_are_written() {
        let kid = |text: &str| KeyId::parse(text).expect("an id");
        let at = UnixTime::from_seconds(1_796_083_200);
        let changes = [
            ScheduleChange::Retire { kid: kid("a"), at },
            ScheduleChange::Promote { kid: kid("b"), at },
            ScheduleChange::Add(ScheduleEntry {
                sign_from: Some(at),
                added: Some(at),
                emergency: true,
                ..ScheduleEntry::without_dates(kid("c"))
            }),
        ];
        for written in [
            "# ours\n[[key]]\nkid = \"a\" # first\nsign_from = 2026-01-01T00:00:00Z\n[[key]]\nkid = \"b\"\nsign_from = 2027-01-01T00:00:00Z\n",
            "# ours\nkey = [{ kid = \"a\", sign_from = 2026-01-01T00:00:00Z }, { kid = \"b\", sign_from = 2027-01-01T00:00:00Z }] # first\n",
            "# ours\nkey = [\n  { kid = 'a', sign_from = \"2026-01-01T00:00:00Z\" }, # first\n  { \"kid\" = \"b\", sign_from = 2027-01-01T00:00:00Z },\n]\n",
        ] {
            for change in &changes {
                let mut document = ScheduleDocument::parse("keyset.toml", written).expect("TOML");
                let before = document.schedule(LEAD).expect("valid");
                document.apply(change);
                assert_eq!(
                    document.schedule(LEAD).expect("valid").entries,
                    before.with_change(change).entries,
                    "{}",
                    document.text()
                );
                assert!(document.text().contains("# ours") && document.text().contains("# first"));
            }
        }
    }
}
