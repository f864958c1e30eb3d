//! Changes to a key directory's `keyset.toml`, which leave what its writer wrote around them as it is. The file is
//! replaced in one step, so that a service that reads it meanwhile sees the old or the new one.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml_edit::{ArrayOfTables, Datetime, DocumentMut, Item, Table, value};

use super::schedule::{self, Entry, FILE, Schedule};
use crate::clock::UnixTime;
use crate::config::{KeyId, Problem};

pub struct ScheduleFile {
    path: PathBuf,
    document: DocumentMut,
}

impl ScheduleFile {
    /// That of `directory`; a new one that names the only key there is, if there is none.
    ///
    /// # Errors
    /// It can't be read, or there are several keys or none and nothing says which of them signs.
    pub fn open(directory: &Path, now: UnixTime) -> Result<Self, String> {
        let path = directory.join(FILE);
        let name = path.display().to_string();
        match fs::read_to_string(&path) {
            Ok(text) => {
                let document = text.parse().map_err(|error| format!("{name}: {error}"))?;
                Ok(Self { path, document })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut file = Self { path, document: DocumentMut::new() };
                let sole = sole_key(directory)?;
                // It has signed all along; only that the moment has passed matters.
                let sign_from = UnixTime::from_seconds(now.seconds() - 86_400);
                file.append(&Entry { sign_from: Some(sign_from), ..Entry::sole(sole) });
                Ok(file)
            }
            Err(error) => Err(format!("{name} can't be read: {error}")),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says now.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn schedule(&self, publish_lead: Duration) -> Result<Schedule, Vec<Problem>> {
        schedule::parse(&self.path.display().to_string(), &self.document.to_string(), publish_lead)
    }

    pub fn append(&mut self, entry: &Entry) {
        let mut table = Table::new();
        table.insert("kid", value(entry.kid.as_str()));
        if let Some(added) = entry.added {
            table.insert("added", moment(added));
        }
        if let Some(sign_from) = entry.sign_from {
            table.insert("sign_from", moment(sign_from));
        }
        if entry.emergency {
            table.insert("emergency", value(true));
        }
        let keys = self.document.entry("key").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
        if let Some(keys) = keys.as_array_of_tables_mut() {
            keys.push(table);
        }
    }

    /// Takes `kid` out of use at once.
    pub fn retire(&mut self, kid: &KeyId) {
        self.change(kid, |key| _ = key.insert("retired", value(true)));
    }

    /// Lets `kid` sign at once.
    pub fn promote(&mut self, kid: &KeyId, now: UnixTime) {
        self.change(kid, |key| {
            key.insert("sign_from", moment(now));
            key.insert("emergency", value(true));
        });
    }

    fn change(&mut self, kid: &KeyId, change: impl Fn(&mut Table)) {
        let keys = self.document.get_mut("key").and_then(Item::as_array_of_tables_mut);
        let entries = keys.into_iter().flat_map(ArrayOfTables::iter_mut);
        let theirs = |key: &&mut Table| key.get("kid").and_then(Item::as_str) == Some(kid.as_str());
        entries.filter(theirs).for_each(change);
    }

    /// # Errors
    /// It can't be written.
    pub fn save(&self) -> io::Result<()> {
        let beside = self.path.with_extension("toml.new");
        let mut file = File::create(&beside)?;
        file.write_all(self.document.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)
    }
}

fn sole_key(directory: &Path) -> Result<KeyId, String> {
    let name = directory.display();
    let listing = fs::read_dir(directory).map_err(|error| format!("{name} can't be listed: {error}"))?;
    let names = listing.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut kids = names.filter_map(|name| KeyId::parse(name.strip_suffix(".key")?).ok());
    match (kids.next(), kids.next()) {
        (Some(kid), None) => Ok(kid),
        (None, _) => Err(format!("{name} holds no key; `tokenmint keys new` makes the first")),
        (Some(_), Some(_)) => {
            Err(format!("{name} holds several keys; write {FILE} to say from when each signs"))
        }
    }
}

fn moment(at: UnixTime) -> Item {
    let moment: Datetime = at.to_string().parse().expect("RFC 3339 is what TOML writes");
    value(moment)
}
