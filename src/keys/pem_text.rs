//! Finds the PEM blocks (RFC 7468) in text that was copied from a page, sent by mail, or put in an environment variable.
//!
//! Each accepted form is unambiguous. Deviations from openssl's form are collected as [`PemQuirks`], for one warning. Every copy of
//! the text is zeroized when dropped.

use std::collections::BTreeSet;

use base64::engine::general_purpose::STANDARD;
use base64::{Engine as _, decoded_len_estimate};
use zeroize::Zeroizing;

use super::key_formats::{UnreadableKey, identify_text};

/// A harmless deviation of PEM text from the form that openssl writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PemQuirk {
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
    /// The label doesn't match the contents, for example PKCS#1 under the label of PKCS#8.
    Label,
}

impl PemQuirk {
    const fn description(self) -> &'static str {
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

/// All deviations of one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PemQuirks(BTreeSet<PemQuirk>);

impl PemQuirks {
    pub(super) fn add(&mut self, quirk: PemQuirk) {
        self.0.insert(quirk);
    }

    /// Removes the quirks that are usual for the source of the text.
    #[must_use]
    pub(crate) fn without(&self, usual: &[PemQuirk]) -> Self {
        Self(self.0.iter().copied().filter(|quirk| !usual.contains(quirk)).collect())
    }

    /// Describes all of them in one warning; `None` if there are none.
    pub(crate) fn warning(&self) -> Option<String> {
        let descriptions: Vec<&str> = self.0.iter().map(|quirk| quirk.description()).collect();
        let (last, others) = descriptions.split_last()?;
        let listed =
            if others.is_empty() { (*last).to_owned() } else { format!("{} and {last}", others.join(", ")) };
        Some(format!(
            "has {listed}: tokenmint reads it all the same, and other tools may not. They want BEGIN, END and each 64 characters \
             between them in a line of their own, and nothing else"
        ))
    }
}

/// A text without the quotes, the byte order mark and the base64 around it.
pub(super) struct PemText {
    text: Zeroizing<String>,
    /// The decoded data if the text was the base64 of something other than text.
    binary: Option<Zeroizing<Vec<u8>>>,
    pem_quirks: PemQuirks,
}

/// An undecoded block of PEM text.
#[derive(Clone, Copy)]
pub(super) struct PemBlock<'a> {
    pub(crate) label: &'a str,
    /// `None` if the END line is missing.
    body: Option<&'a str>,
}

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
const MAX_LABEL_LENGTH: usize = 40;

impl PemText {
    pub(crate) fn parse(text: &str) -> Self {
        let mut pem_text =
            Self { text: Zeroizing::new(text.to_owned()), binary: None, pem_quirks: PemQuirks::default() };
        for layer in [PemQuirk::Base64, PemQuirk::Base64Twice] {
            pem_text.strip_wrapping();
            if pem_text.text.contains(BEGIN) || !pem_text.decode_layer(layer) {
                break;
            }
        }
        pem_text.strip_wrapping();
        pem_text
    }

    /// Removes a byte order mark and quotes.
    fn strip_wrapping(&mut self) {
        let text = self.text.trim();
        let plain = text.trim_start_matches('\u{feff}').trim_start();
        let inner = ['"', '\''].iter().find_map(|quote| plain.strip_prefix(*quote)?.strip_suffix(*quote));
        let stripped = Zeroizing::new(inner.unwrap_or(plain).trim().to_owned());
        let found =
            [(plain.len() < text.len(), PemQuirk::ByteOrderMark), (inner.is_some(), PemQuirk::Quotes)];
        found.into_iter().filter(|(is, _)| *is).for_each(|(_, quirk)| self.pem_quirks.add(quirk));
        self.text = stripped;
    }

    /// Replaces the text by its base64 decoding if that is UTF-8, and returns whether it did. Keeps other decoded bytes in
    /// `binary`.
    fn decode_layer(&mut self, layer: PemQuirk) -> bool {
        let compact = concat_zeroizing(self.text.split_whitespace(), self.text.len());
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
        self.pem_quirks.0.remove(&PemQuirk::Base64);
        self.pem_quirks.add(layer);
        true
    }

    /// Splits the text into its blocks, and lists the quirks of the text around them.
    ///
    /// # Errors
    /// The text has no block (the error says what it is), or a broken one.
    pub(crate) fn blocks(&self) -> Result<(Vec<PemBlock<'_>>, PemQuirks), UnreadableKey> {
        let mut pem_quirks = self.pem_quirks.clone();
        let mut parts = self.text.split(BEGIN);
        let mut around = vec![parts.next().unwrap_or_default()];
        let mut blocks = Vec::new();
        for part in parts {
            let (label, rest) = part.split_once(DASHES).ok_or(UnreadableKey::CutShort)?;
            // Messages show the label, so it must not be something else, like a secret.
            if label.len() > MAX_LABEL_LENGTH
                || !label.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' ')
            {
                return Err(UnreadableKey::BrokenPem);
            }
            let end = rest.split_once("-----END ");
            let end = end.and_then(|(body, end)| Some((body, end.split_once(DASHES)?)));
            let body = end.map(|(body, _)| body);
            if let Some((_, (named, behind))) = end {
                around.push(behind);
                if named != label {
                    return Err(UnreadableKey::BrokenPem);
                }
            }
            blocks.push(PemBlock { label, body });
        }
        if blocks.is_empty() {
            return Err(identify_text(&self.text, self.binary.as_ref().map(|bytes| bytes.as_slice())));
        }
        let around = around.into_iter().map(unescape);
        if around.into_iter().any(|text| !text.trim().is_empty()) {
            pem_quirks.add(PemQuirk::TextAround);
        }
        Ok((blocks, pem_quirks))
    }
}

impl PemBlock<'_> {
    /// Decodes the body.
    ///
    /// # Errors
    /// The END line is missing, or the body isn't base64.
    pub(crate) fn decode(&self, pem_quirks: &mut PemQuirks) -> Result<Zeroizing<Vec<u8>>, UnreadableKey> {
        let written = self.body.ok_or(UnreadableKey::CutShort)?;
        let body = unescape(written);
        if body.len() < written.len() {
            pem_quirks.add(PemQuirk::EscapedBreaks);
        }
        note_line_quirks(&body, pem_quirks);
        let compact = concat_zeroizing(body.split_whitespace(), body.len());
        let mut bytes = Zeroizing::new(vec![0; decoded_len_estimate(compact.len())]);
        let length = STANDARD.decode_slice(compact.as_bytes(), &mut bytes);
        bytes.truncate(length.map_err(|_| UnreadableKey::BrokenPem)?);
        Ok(bytes)
    }

    /// Whether its RFC 1421 headers say that it is encrypted.
    pub(crate) fn is_encrypted_by_header(&self) -> bool {
        self.body.is_some_and(|body| body.contains("Proc-Type:"))
    }
}

/// Records how the lines between BEGIN and END differ from openssl's.
fn note_line_quirks(body: &str, pem_quirks: &mut PemQuirks) {
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
    for (is, quirk) in [
        (unix.into_iter().any(|line| line.contains('\r')), PemQuirk::CarriageReturns),
        (has_blanks, PemQuirk::BlanksForBreaks),
        (!begins_and_ends && !has_blanks, PemQuirk::NoBreaks),
        (full.is_empty() && shortest > 64, PemQuirk::OneLine),
        (
            !full.is_empty() && (shortest > 64 || full.iter().any(|length| *length != 64)),
            PemQuirk::LineLength,
        ),
        (begins_and_ends && lines[1..].iter().any(|line| line.starts_with(blank)), PemQuirk::Indented),
        (
            begins_and_ends && lines[..lines.len() - 1].iter().any(|line| line.ends_with(blank)),
            PemQuirk::BlanksAtLineEnds,
        ),
        (inside.iter().any(|line| line.trim().is_empty()), PemQuirk::EmptyLines),
    ] {
        if is {
            pem_quirks.add(quirk);
        }
    }
}

/// Undoes the escapes of JSON and shells: `\n` and `\r` become line feed and carriage return, also behind several
/// backslashes. Other backslashes are removed.
fn unescape(text: &str) -> Zeroizing<String> {
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

/// Concatenates `parts` into a buffer of `length` bytes. A buffer that grew would leave copies that aren't zeroized.
fn concat_zeroizing<'a>(parts: impl Iterator<Item = &'a str>, length: usize) -> Zeroizing<String> {
    let mut joined = Zeroizing::new(String::with_capacity(length));
    parts.for_each(|part| joined.push_str(part));
    joined
}
