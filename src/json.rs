//! JSON as strictly as a token service needs it: what is accepted is passed on unaltered, and nothing is
//! silently dropped, doubled or rounded.
//!
//! `serde_json::Value` keeps the last of two members of one name, and derived structs take arrays for
//! objects; here order and doubles are kept, so that the reader can refuse them by name.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// The members of an object, in the order of the text, doubles included.
pub type Members = Vec<(String, Json)>;

/// Not `Debug`: a request's may be a token.
#[derive(Clone, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    Array(Vec<Self>),
    Object(Members),
}

impl Json {
    /// Reads one JSON value that fills all of `text`. Depth is bounded (128 levels).
    ///
    /// # Errors
    /// Says what is wrong and where, never with a value.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let json = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        match numbers(text).find(|(_, number)| !comes_back(number)) {
            None => Ok(json),
            Some((at, _)) => {
                let before = String::from_utf8_lossy(&text[..at]);
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or_default().len() + 1;
                Err(format!(
                    "a number would be rounded: write it with at most 15 digits, or as a string, at line {line} column {column}"
                ))
            }
        }
    }

    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// The member of that name; of two, the first.
    pub fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// The member of that name, where it is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.member(name) {
            Some(Self::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The path of the first member that stands twice in its object, as `claims.locale`.
    pub fn doubled(&self) -> Option<String> {
        match self {
            Self::Object(members) => {
                let mut seen = HashSet::with_capacity(members.len());
                members.iter().find_map(|(name, value)| {
                    if !seen.insert(name.as_str()) {
                        return Some(name.clone());
                    }
                    value.doubled().map(|inner| format!("{name}.{inner}"))
                })
            }
            Self::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(at, item)| item.doubled().map(|inner| format!("{at}.{inner}"))),
            _ => None,
        }
    }
}

/// The numbers in valid JSON, each with its place.
fn numbers(text: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(at..)?;
            let of_number = |b: &&u8| b.is_ascii_digit() || b"+-.eE".contains(b);
            match rest.first()? {
                b'"' => at += string_length(rest),
                b'-' | b'0'..=b'9' => {
                    let length = rest.iter().take_while(of_number).count();
                    let begin = at;
                    at += length;
                    return Some((begin, std::str::from_utf8(&rest[..length]).ok()?));
                }
                _ => at += 1,
            }
        }
    })
}

/// Of the string that `text` begins with, quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while text.get(at).is_some_and(|b| *b != b'"') {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Whether the number is written again with the same value: whole ones of 64 bits are kept, all others become a double.
fn comes_back(number: &str) -> bool {
    if number.parse::<u64>().is_ok() || number.parse::<i64>().is_ok() {
        return true;
    }
    let written = number.parse().ok().and_then(serde_json::Number::from_f64);
    written.is_some_and(|written| {
        decimal(number).is_some_and(|value| decimal(&written.to_string()) == Some(value))
    })
}

/// The digits of a number without zeros at the ends, and the power of ten of the last.
fn decimal(number: &str) -> Option<(String, i64)> {
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = [whole.trim_start_matches('-'), fraction].concat();
    let significant = all.trim_end_matches('0');
    let places = i64::try_from(fraction.len()).ok()? - i64::try_from(all.len() - significant.len()).ok()?;
    let exponent = exponent.parse::<i64>().ok()?.checked_sub(places)?;
    let significant = significant.trim_start_matches('0');
    Some((significant.to_owned(), if significant.is_empty() { 0 } else { exponent }))
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(Json::Number).ok_or_else(|| E::custom("a number is too large"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry::<String, Json>()? {
            // Far more than any request has; keeps the search for doubles cheap.
            if object.len() == 1000 {
                return Err(A::Error::custom("an object has more than 1,000 members"));
            }
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any value whose objects have no doubles.
    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            any::<i64>().prop_map(|n| Json::Number(n.into())),
            any::<u64>().prop_map(|n| Json::Number(n.into())),
            (-1e15..1e15).prop_map(|n| serde_json::Number::from_f64(n).map_or(Json::Null, Json::Number)),
            any::<String>().prop_map(Json::String),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
                prop::collection::btree_map("[a-c\"\u{e9}]{0,3}", inner, 0..5)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Puts a member of an object in it a second time, before or behind the first; where that may be done in
    /// several places, in the `nth`. The path of the double.
    fn double(json: &mut Json, nth: &mut usize, value: &Json) -> Option<String> {
        match json {
            Json::Object(members) => {
                for (name, inner) in members.iter_mut() {
                    if let Some(path) = double(inner, nth, value) {
                        return Some(format!("{name}.{path}"));
                    }
                }
                let (name, _) = members.get(*nth % members.len().max(1))?;
                if let Some(fewer) = nth.checked_sub(1) {
                    *nth = fewer;
                    return None;
                }
                let name = name.clone();
                members.push((name.clone(), value.clone()));
                Some(name)
            }
            Json::Array(items) => items
                .iter_mut()
                .enumerate()
                .find_map(|(at, item)| double(item, nth, value).map(|path| format!("{at}.{path}"))),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_unaltered(json in json()) {
            prop_assert_eq!(json.doubled(), None);
            let text = serde_json::to_string(&json).expect("writable");
            prop_assert_eq!(Json::parse(text.as_bytes()), Ok(json));
        }

        /// Compared with what came, by whole numbers: `digits` · 10^`exponent`.
        #[test]
        fn a_number_is_passed_on_with_its_value_or_refused(
            negative: bool, whole in "0|[1-9][0-9]{0,25}", fraction in "[0-9]{0,25}", power in prop::option::of(-420..400_i64),
        ) {
            use num_bigint_dig::BigUint;
            let sign = if negative { "-" } else { "" };
            let point = if fraction.is_empty() { "" } else { "." };
            let exponent = power.map(|power| format!("e{power}")).unwrap_or_default();
            let text = format!("{sign}{whole}{point}{fraction}{exponent}");
            // Both as whole numbers of 10^-600.
            let value = |text: &str| {
                let (digits, power) = text.split_once('e').unwrap_or((text, "0"));
                let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
                let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
                let power = power.parse::<i64>().expect("small") - i64::try_from(fraction.len()).expect("short") + 600;
                let zeros = "0".repeat(usize::try_from(power).expect("above 10^-600"));
                BigUint::parse_bytes(format!("{digits}{zeros}").as_bytes(), 10).expect("digits")
            };
            let array = format!(r#"["1\"2\\",{text},{{"0.{fraction}9":{text}}}]"#);
            let fits = serde_json::from_str::<f64>(&text).is_ok_and(|double| {
                let whole = text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
                whole || value(&format!("{double:e}")) == value(&text)
            });
            match Json::parse(array.as_bytes()) {
                Ok(json) => {
                    prop_assert!(fits, "{text} was taken");
                    let number = if let Json::Array(items) = &json { items.get(1) } else { None };
                    let written = serde_json::to_string(&number).expect("writable");
                    prop_assert_eq!(value(&written), value(&text));
                    prop_assert_eq!(written.starts_with('-'), negative && (value(&text) > BigUint::from(0_u32) || written.contains('.')));
                }
                Err(_) => prop_assert!(!fits, "{text} was refused"),
            }
        }

        #[test]
        fn a_double_is_found_wherever_it_stands(json in json(), nth in 0..8_usize, value in json()) {
            let mut doubled = json;
            if let Some(path) = double(&mut doubled, &mut nth.clone(), &value) {
                let text = serde_json::to_string(&doubled).expect("writable");
                prop_assert_eq!(Json::parse(text.as_bytes()).expect("JSON").doubled(), Some(path));
            }
        }

        /// Whatever the bytes: no panic, and what is taken means the same to a reader of the usual kind.
        #[test]
        fn what_is_taken_means_the_same_to_others(text in "[\\[\\]{}\",:0-9eE.+\\-a\\\\u ]{0,12}") {
            if let Ok(json) = Json::parse(text.as_bytes()) && json.doubled().is_none() {
                let theirs: serde_json::Value = serde_json::from_str(&text).expect("JSON to others too");
                prop_assert_eq!(serde_json::to_value(&json).expect("writable"), theirs);
            }
        }
    }

    #[test]
    fn a_double_is_found_at_any_depth() {
        let doubled = |text: &str| Json::parse(text.as_bytes()).expect("JSON").doubled();
        assert_eq!(doubled(r#"{"a":1,"b":{"a":2}}"#), None);
        assert_eq!(doubled(r#"{"a":1,"a":1}"#).as_deref(), Some("a"));
        assert_eq!(doubled(r#"{"claims":{"x":[{"y":1,"y":2}]}}"#).as_deref(), Some("claims.x.0.y"));
        // Escapes don't hide it.
        assert_eq!(doubled(r#"{"sub":1,"s\u0075b":2}"#).as_deref(), Some("sub"));
    }

    #[test]
    fn what_would_be_altered_is_refused() {
        for text in [
            "18446744073709551616",
            "0.1234567890123456789",
            "1e-400",
            "[1,{\"a\":9007199254740993.0}]",
            "1e400",
            "NaN",
            "{}{}",
            "\u{feff}{}",
            r#""\ud800""#,
            "[1,]",
        ] {
            assert!(Json::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Json::parse("[".repeat(200).as_bytes()).is_err());
        let kept = br#"{"b":[1,-2,1.5,null,true],"a":"\u00e9"}"#;
        let json = Json::parse(kept).expect("JSON");
        let written = serde_json::to_string(&json).expect("writable");
        assert_eq!(written, "{\"b\":[1,-2,1.5,null,true],\"a\":\"\u{e9}\"}");
    }
}
