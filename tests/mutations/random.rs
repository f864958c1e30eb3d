//! A random number generator with a fixed seed, and random changes of texts.

use serde_json::{Value, json};

/// Numbers that look random, the same in each run (splitmix64), and the time of the run.
pub struct Random {
    state: u64,
    pub now: i64,
}

impl Random {
    pub const fn new(seed: u64, now: i64) -> Self {
        Self { state: seed, now }
    }

    pub const fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(limit.max(1)).expect("small")).expect("small")
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// The text, changed as `changed` does.
    pub fn changed(&mut self, text: &str, alphabet: &[u8]) -> String {
        loop {
            if let Ok(text) = String::from_utf8(changed(text.as_bytes(), alphabet, self)) {
                return text;
            }
        }
    }

    /// PEM text with another letter of base64 in one place. Its line breaks stay, as they mean nothing.
    pub fn changed_in_columns(&mut self, text: &str) -> String {
        const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut octets = text.as_bytes().to_vec();
        loop {
            let at = self.below(octets.len());
            if !octets[at].is_ascii_whitespace() {
                octets[at] = *self.pick(BASE64);
                return String::from_utf8(octets).expect("ASCII");
            }
        }
    }
}

/// Changes one or two octets: others in their place, one more, one less, two swapped, or all behind them gone.
pub fn changed(octets: &[u8], alphabet: &[u8], random: &mut Random) -> Vec<u8> {
    let mut changed = octets.to_vec();
    let at = random.below(changed.len());
    match random.below(10) {
        0..=4 => changed[at] = *random.pick(alphabet),
        5 => changed[at] ^= 1 << random.below(7),
        6 => changed.insert(at, *random.pick(alphabet)),
        7 => _ = changed.remove(at),
        8 => {
            let other = random.below(changed.len());
            changed.swap(at, other);
        }
        _ => changed.truncate(at),
    }
    changed
}

pub fn shuffled<T>(mut items: Vec<T>, random: &mut Random) -> Vec<T> {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last + 1));
    }
    items
}

/// Other ways to write the same JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Space,
    Order,
    Escapes,
}

/// The same JSON in another form.
pub fn rewritten(value: &Value, style: Style, random: &mut Random) -> String {
    let space = |random: &mut Random| match style {
        Style::Space => *random.pick(&["", " ", "\n", "\t", "\r\n  "]),
        Style::Order | Style::Escapes => "",
    };
    let spaced = |text: &str, random: &mut Random| format!("{}{text}{}", space(random), space(random));
    match value {
        Value::Object(members) => {
            let members: Vec<(&String, &Value)> = members.iter().collect();
            let members = if style == Style::Order { shuffled(members, random) } else { members };
            let members = members.into_iter().map(|(name, value)| {
                let [name, value] = [&json!(name), value].map(|part| rewritten(part, style, random));
                format!("{}:{}", spaced(&name, random), spaced(&value, random))
            });
            let members = members.collect::<Vec<_>>().join(",");
            format!("{{{members}}}")
        }
        Value::Array(items) => {
            let items: Vec<String> =
                items.iter().map(|item| spaced(&rewritten(item, style, random), random)).collect();
            format!("[{}]", items.join(","))
        }
        Value::String(text) if style == Style::Escapes => {
            let characters = text.chars().map(|c| match c {
                ' '..='~' if random.below(4) == 0 || ['"', '\\'].contains(&c) => {
                    format!("\\u{:04x}", u32::from(c))
                }
                '/' => "\\/".to_owned(),
                c => c.to_string(),
            });
            format!("\"{}\"", characters.collect::<String>())
        }
        other => other.to_string(),
    }
}
