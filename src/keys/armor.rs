//! Finds the PEM blocks (RFC 7468) in a text as people have it: copied from a page, mailed, or put in a variable.
//!
//! Each shape that it takes has one meaning. What is odd about a text is kept as [`Oddities`], to be told once. Every copy of
//! the text that it makes is wiped.

use std::collections::BTreeSet;

use base64::engine::general_purpose::STANDARD;
use base64::{Engine as _, decoded_len_estimate};
use zeroize::Zeroizing;

use super::recognise::{Unreadable, without_blocks};

/// How PEM text differs from what openssl writes, and says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    ByteOrderMark,
    Quotes,
    Base64,
    Base64Twice,
    EscapedBreaks,
    TextAround,
    NoBreaks,
    BlanksForBreaks,
    OneLine,
    LineLength,
    Indented,
    BlanksAtLineEnds,
    EmptyLines,
    CarriageReturns,
    /// The body is PKCS#1 under the label of PKCS#8, or the like.
    Label,
}

impl Oddity {
    const fn words(self) -> &'static str {
        match self {
            Self::ByteOrderMark => "a byte order mark before it",
            Self::Quotes => "quotes around it",
            Self::Base64 => "base64 around the whole text",
            Self::Base64Twice => "base64 twice around the whole text",
            Self::EscapedBreaks => "line breaks written out as `\\n`",
            Self::TextAround => "other text around its block",
            Self::NoBreaks => "no line breaks behind BEGIN or before END",
            Self::BlanksForBreaks => "blanks in place of line breaks",
            Self::OneLine => "its body in one line",
            Self::LineLength => "lines of another length than 64",
            Self::Indented => "indented lines",
            Self::BlanksAtLineEnds => "blanks at the ends of lines",
            Self::EmptyLines => "empty lines in its body",
            Self::CarriageReturns => "lines that end with a carriage return alone",
            Self::Label => {
                "another label than its contents have (PKCS#1 is RSA PRIVATE KEY, PKCS#8 is PRIVATE KEY)"
            }
        }
    }
}

/// All that is odd about a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oddities(BTreeSet<Oddity>);

impl Oddities {
    pub(super) fn note(&mut self, oddity: Oddity) {
        self.0.insert(oddity);
    }

    /// Without those that are usual where the text comes from.
    #[must_use]
    pub fn without(&self, usual: &[Oddity]) -> Self {
        Self(self.0.iter().copied().filter(|oddity| !usual.contains(oddity)).collect())
    }

    /// One sentence about all of them; `None` where there are none.
    pub fn warning(&self) -> Option<String> {
        let words: Vec<&str> = self.0.iter().map(|oddity| oddity.words()).collect();
        let (last, others) = words.split_last()?;
        let listed =
            if others.is_empty() { (*last).to_owned() } else { format!("{} and {last}", others.join(", ")) };
        Some(format!(
            "has {listed}: tokenmint reads it all the same, and other tools may not. They want BEGIN, END and each 64 characters \
             between them in a line of their own, and nothing else"
        ))
    }
}

/// A text, taken out of the quotes and the base64 that it was put in.
pub(super) struct Armor {
    text: Zeroizing<String>,
    /// What the base64 of something else than text holds.
    binary: Option<Zeroizing<Vec<u8>>>,
    oddities: Oddities,
}

/// A block of PEM text, not decoded.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub label: &'a str,
    /// `None` where it has no end.
    body: Option<&'a str>,
}

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
const LONGEST_LABEL: usize = 40;

impl Armor {
    pub fn of(text: &str) -> Self {
        let mut armor =
            Self { text: Zeroizing::new(text.to_owned()), binary: None, oddities: Oddities::default() };
        for layer in [Oddity::Base64, Oddity::Base64Twice] {
            armor.strip();
            if armor.text.contains(BEGIN) || !armor.decode(layer) {
                break;
            }
        }
        armor.strip();
        armor
    }

    /// Takes away a byte order mark and quotes.
    fn strip(&mut self) {
        let text = self.text.trim();
        let plain = text.trim_start_matches('\u{feff}').trim_start();
        let inner = ['"', '\''].iter().find_map(|quote| plain.strip_prefix(*quote)?.strip_suffix(*quote));
        let stripped = Zeroizing::new(inner.unwrap_or(plain).trim().to_owned());
        let noted = [(plain.len() < text.len(), Oddity::ByteOrderMark), (inner.is_some(), Oddity::Quotes)];
        noted.into_iter().filter(|(is, _)| *is).for_each(|(_, oddity)| self.oddities.note(oddity));
        self.text = stripped;
    }

    /// Takes away one layer of base64, where that is one. Whether there is text below it.
    fn decode(&mut self, layer: Oddity) -> bool {
        let compact = joined(self.text.split_whitespace(), self.text.len());
        let mut bytes = Zeroizing::new(vec![0; decoded_len_estimate(compact.len())]);
        let Ok(length) = STANDARD.decode_slice(compact.as_bytes(), &mut bytes) else { return false };
        bytes.truncate(length);
        if bytes.is_empty() {
            return false;
        }
        let Ok(text) = std::str::from_utf8(&bytes) else {
            self.binary = Some(bytes);
            return false;
        };
        self.text = Zeroizing::new(text.to_owned());
        self.oddities.0.remove(&Oddity::Base64);
        self.oddities.note(layer);
        true
    }

    /// The blocks, and what is odd about the text around them.
    ///
    /// # Errors
    /// There are none: says what the text is.
    pub fn blocks(&self) -> Result<(Vec<Block<'_>>, Oddities), Unreadable> {
        let mut oddities = self.oddities.clone();
        let mut parts = self.text.split(BEGIN);
        let mut around = vec![parts.next().unwrap_or_default()];
        let mut blocks = Vec::new();
        for part in parts {
            let (label, rest) = part.split_once(DASHES).ok_or(Unreadable::CutShort)?;
            // Messages name it, so it is a label and nothing else.
            if label.len() > LONGEST_LABEL
                || !label.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ')
            {
                return Err(Unreadable::BrokenPem);
            }
            let end = rest.split_once("-----END ");
            let end = end.and_then(|(body, end)| Some((body, end.split_once(DASHES)?)));
            let body = end.map(|(body, _)| body);
            if let Some((_, (named, behind))) = end {
                around.push(behind);
                if named != label {
                    return Err(Unreadable::BrokenPem);
                }
            }
            blocks.push(Block { label, body });
        }
        if blocks.is_empty() {
            return Err(without_blocks(&self.text, self.binary.as_ref().map(|bytes| bytes.as_slice())));
        }
        let around = around.into_iter().map(unescaped);
        if around.into_iter().any(|text| !text.trim().is_empty()) {
            oddities.note(Oddity::TextAround);
        }
        Ok((blocks, oddities))
    }
}

impl Block<'_> {
    /// What it holds.
    ///
    /// # Errors
    /// It has no end, or its body isn't base64.
    pub fn decode(&self, oddities: &mut Oddities) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        let written = self.body.ok_or(Unreadable::CutShort)?;
        let body = unescaped(written);
        if body.len() < written.len() {
            oddities.note(Oddity::EscapedBreaks);
        }
        note_shape(&body, oddities);
        let compact = joined(body.split_whitespace(), body.len());
        let mut bytes = Zeroizing::new(vec![0; decoded_len_estimate(compact.len())]);
        let length = STANDARD.decode_slice(compact.as_bytes(), &mut bytes);
        bytes.truncate(length.map_err(|_| Unreadable::BrokenPem)?);
        Ok(bytes)
    }

    /// Whether the headers of its body (RFC 1421) say that it is encrypted.
    pub fn is_encrypted_by_header(&self) -> bool {
        self.body.is_some_and(|body| body.contains("Proc-Type:"))
    }
}

/// Notes how the lines between BEGIN and END differ from what openssl writes.
fn note_shape(body: &str, oddities: &mut Oddities) {
    let breaks = body.matches('\n').count();
    let unix = body.split('\n').enumerate();
    let unix =
        unix.map(|(at, line)| if at < breaks { line.strip_suffix('\r').unwrap_or(line) } else { line });
    let lines: Vec<&str> = unix.clone().flat_map(|line| line.split('\r')).collect();
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    let inside = lines.get(1..lines.len() - 1).unwrap_or_default();
    let lengths: Vec<usize> =
        inside.iter().map(|line| line.trim().len()).filter(|length| *length > 0).collect();
    let (shortest, full) = lengths.split_last().map_or((0, [].as_slice()), |(last, full)| (*last, full));
    let begins_and_ends = lines.len() > 1 && first.trim().is_empty() && last.trim().is_empty();
    let has_blanks = lines.iter().any(|line| line.trim().contains(char::is_whitespace));
    let blank = char::is_whitespace;
    for (is, oddity) in [
        (unix.into_iter().any(|line| line.contains('\r')), Oddity::CarriageReturns),
        (has_blanks, Oddity::BlanksForBreaks),
        (!begins_and_ends && !has_blanks, Oddity::NoBreaks),
        (full.is_empty() && shortest > 64, Oddity::OneLine),
        (!full.is_empty() && (shortest > 64 || full.iter().any(|length| *length != 64)), Oddity::LineLength),
        (begins_and_ends && lines[1..].iter().any(|line| line.starts_with(blank)), Oddity::Indented),
        (
            begins_and_ends && lines[..lines.len() - 1].iter().any(|line| line.ends_with(blank)),
            Oddity::BlanksAtLineEnds,
        ),
        (inside.iter().any(|line| line.trim().is_empty()), Oddity::EmptyLines),
    ] {
        if is {
            oddities.note(oddity);
        }
    }
}

/// `text` with its escapes of JSON and shells undone: `\n` and `\r` are line breaks, before anything else a backslash goes.
fn unescaped(text: &str) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        while rest.next_if_eq(&'\\').is_some() {}
        if rest.next_if_eq(&'n').is_some() {
            plain.push('\n');
        } else if rest.next_if_eq(&'r').is_some() {
            plain.push('\r');
        }
    }
    plain
}

/// `parts` behind each other, `length` bytes at most: a text that grew would leave copies behind.
fn joined<'a>(parts: impl Iterator<Item = &'a str>, length: usize) -> Zeroizing<String> {
    let mut joined = Zeroizing::new(String::with_capacity(length));
    parts.for_each(|part| joined.push_str(part));
    joined
}
