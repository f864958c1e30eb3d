//! A strict JSON reader and writer: accepted values are passed on unaltered. It keeps the order of members, duplicate
//! keys, and the text of numbers.
//!
//! `serde_json::Value` drops the first of two members with the same key and rounds large numbers. Derived structs also accept
//! arrays in place of objects. Here a caller can find a duplicate key with [`Json::duplicate_key`] and reject it by name.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap as _, Serializer};
use serde_json::value::RawValue;

/// The members of an object, in the order of the text, duplicate keys included.
pub(crate) type Members = Vec<(String, Json)>;

/// A JSON value. It isn't `Debug` outside tests, because a value from a request may be a token.
#[derive(Clone, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub enum Json {
    Null,
    Bool(bool),
    Number(JsonNumber),
    String(String),
    Array(Vec<Self>),
    Object(Members),
}

/// A number, kept as the text it was written as: `1.50` stays `1.50`, and no digit is lost.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct JsonNumber(Box<str>);

impl JsonNumber {
    /// Parses a number. `None` if `text` isn't one in JSON, or is larger than every double.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match Json::parse(text.as_bytes()) {
            Ok(Json::Number(number)) => Some(number),
            _ => None,
        }
    }

    pub(crate) const fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of a number that is written as an integer, in digits with an optional minus sign. Saturates at the bounds of `u64`.
    /// `None` if it is written in another way.
    pub(crate) fn as_saturated_u64(&self) -> Option<u64> {
        let (digits, is_negative) =
            self.0.strip_prefix('-').map_or((&*self.0, false), |digits| (digits, true));
        let is_integer = digits.bytes().all(|byte| byte.is_ascii_digit());
        is_integer.then(|| if is_negative { 0 } else { digits.parse().unwrap_or(u64::MAX) })
    }

    /// The number rounded down to an integer. Saturates at the bounds of `i64`.
    pub(crate) fn floor(&self) -> i64 {
        let double = || self.0.parse().map_or(0.0, f64::floor);
        #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
        self.0.parse().unwrap_or_else(|_| double() as i64)
    }
}

impl Json {
    /// Parses `text` as exactly one JSON value: nested at most 127 levels deep (`serde_json`'s recursion limit), and with at
    /// most 1,000 members in each object.
    ///
    /// # Errors
    /// Says what is wrong and at which line and column, without quoting a value.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let json = JsonVisitor(&mut number_tokens(text)).deserialize(&mut deserializer);
        let json = json.and_then(|json| deserializer.end().map(|()| json));
        json.map_err(|error| error.to_string())
    }

    pub(crate) const fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// The member with the key `name`; the first one if the key is duplicate.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// The member with the key `name`, if it is a string.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.member(name) {
            Some(Self::String(text)) => Some(text),
            _ => None,
        }
    }

    /// The path of the first duplicate key, for example `claims.locale`.
    pub(crate) fn duplicate_key(&self) -> Option<String> {
        match self {
            Self::Object(members) => {
                let mut seen = HashSet::with_capacity(members.len());
                members.iter().find_map(|(name, value)| {
                    if !seen.insert(name.as_str()) {
                        return Some(name.clone());
                    }
                    value.duplicate_key().map(|inner| format!("{name}.{inner}"))
                })
            }
            Self::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(at, item)| item.duplicate_key().map(|inner| format!("{at}.{inner}"))),
            _ => None,
        }
    }
}

/// Iterates over the text of each number in `text`, which must be valid JSON.
fn number_tokens(text: &[u8]) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(at..)?;
            let is_number_byte = |b: &&u8| b.is_ascii_digit() || b"+-.eE".contains(b);
            match rest.first()? {
                b'"' => at += string_length(rest),
                b'-' | b'0'..=b'9' => {
                    let length = rest.iter().take_while(is_number_byte).count();
                    at += length;
                    return std::str::from_utf8(&rest[..length]).ok();
                }
                _ => at += 1,
            }
        }
    })
}

/// The length of the JSON string that `text` begins with, including its quotes.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while text.get(at).is_some_and(|b| *b != b'"') {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => {
                let text: &RawValue = serde_json::from_str(number.as_str()).map_err(S::Error::custom)?;
                text.serialize(serializer)
            }
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

/// Deserializes a value. It takes the text of each number from the iterator, because serde passes on a number's value only.
struct JsonVisitor<'a, N>(&'a mut N);

impl<'a, N: Iterator<Item = &'a str>> JsonVisitor<'_, N> {
    fn number<E: serde::de::Error>(self) -> Result<Json, E> {
        let text = self.0.next().ok_or_else(|| E::custom("a number has no text"))?;
        Ok(Json::Number(JsonNumber(text.into())))
    }
}

impl<'de, N: Iterator<Item = &'de str>> DeserializeSeed<'de> for JsonVisitor<'_, N> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, N: Iterator<Item = &'de str>> Visitor<'de> for JsonVisitor<'_, N> {
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

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Json, E> {
        self.number()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Json, E> {
        self.number()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Json, E> {
        self.number()
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(JsonVisitor(&mut *self.0))? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            // No valid request has an object with more members. The limit bounds the search for duplicate keys.
            if object.len() == 1000 {
                return Err(A::Error::custom("an object has more than 1,000 members"));
            }
            object.push((name, members.next_value_seed(JsonVisitor(&mut *self.0))?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Generates values without duplicate keys.
    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?"
                .prop_map(|text| Json::Number(JsonNumber(text.into()))),
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

    /// Duplicates a key of the `nth` object in `json` by appending a member. Returns the path of the duplicate key.
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
        fn parsed_json_is_written_back_unchanged(json in json()) {
            prop_assert_eq!(json.duplicate_key(), None);
            let text = serde_json::to_string(&json).expect("writable");
            prop_assert_eq!(Json::parse(text.as_bytes()), Ok(json));
        }

        #[test]
        fn a_duplicate_key_is_found_anywhere_in_random_json(json in json(), nth in 0..8_usize, value in json()) {
            let mut doubled = json;
            if let Some(path) = double(&mut doubled, &mut nth.clone(), &value) {
                let text = serde_json::to_string(&doubled).expect("writable");
                prop_assert_eq!(Json::parse(text.as_bytes()).expect("JSON").duplicate_key(), Some(path));
            }
        }

        /// Random text of JSON's characters never causes a panic, and accepted JSON has the same meaning for `serde_json`.
        #[test]
        fn accepted_json_means_the_same_to_serde_json(text in "[\\[\\]{}\",:0-9eE.+\\-a\\\\u ]{0,12}") {
            if let Ok(json) = Json::parse(text.as_bytes()) && json.duplicate_key().is_none() {
                let theirs: serde_json::Value = serde_json::from_str(&text).expect("JSON to others too");
                prop_assert_eq!(serde_json::to_value(&json).expect("writable"), theirs);
            }
        }
    }

    #[test]
    fn a_duplicate_key_is_found_at_any_depth() {
        let duplicate_key = |text: &str| Json::parse(text.as_bytes()).expect("JSON").duplicate_key();
        assert_eq!(duplicate_key(r#"{"a":1,"b":{"a":2}}"#), None);
        assert_eq!(duplicate_key(r#"{"a":1,"a":1}"#).as_deref(), Some("a"));
        assert_eq!(duplicate_key(r#"{"claims":{"x":[{"y":1,"y":2}]}}"#).as_deref(), Some("claims.x.0.y"));
        // Escapes don't hide a duplicate.
        assert_eq!(duplicate_key(r#"{"sub":1,"s\u0075b":2}"#).as_deref(), Some("sub"));
    }

    #[test]
    fn json_that_would_be_altered_is_rejected() {
        for text in ["1e400", "-1e400", "NaN", "{}{}", "\u{feff}{}", r#""\ud800""#, "[1,]", "[01]", "+1"] {
            assert!(Json::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Json::parse("[".repeat(200).as_bytes()).is_err());
        let kept = br#"{"b":[1,-2,1.50,null,true],"a":"\u00e9"}"#;
        let json = Json::parse(kept).expect("JSON");
        let written = serde_json::to_string(&json).expect("writable");
        assert_eq!(written, "{\"b\":[1,-2,1.50,null,true],\"a\":\"\u{e9}\"}");
    }
}
