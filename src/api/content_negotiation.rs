//! Content negotiation: chooses JSON or a bare JWT by the `Accept` header (RFC 9110, section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// The format of a response with a minted token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseFormat {
    /// `application/json`: the token and its metadata.
    Json,
    /// `application/jwt`: the bare token.
    Jwt,
}

impl ResponseFormat {
    /// Chooses the format with the higher quality. If both have the same, the more specific media range decides, then JSON.
    /// Returns `None` if neither is acceptable.
    pub(crate) fn negotiate(headers: &HeaderMap) -> Option<Self> {
        if !headers.contains_key(ACCEPT) {
            return Some(Self::Json);
        }
        let (mut json, mut jwt) = (MediaRangeMatch::NONE, MediaRangeMatch::NONE);
        for value in headers.get_all(ACCEPT) {
            for range in value.to_str().unwrap_or_default().split(',') {
                json = json.or_more_specific(range, "json");
                jwt = jwt.or_more_specific(range, "jwt");
            }
        }
        match (json.quality, jwt.quality) {
            (0, 0) => None,
            (json_quality, jwt_quality) if jwt_quality > json_quality => Some(Self::Jwt),
            (json_quality, jwt_quality)
                if jwt_quality == json_quality && jwt.specificity > json.specificity =>
            {
                Some(Self::Jwt)
            }
            _ => Some(Self::Json),
        }
    }
}

/// The most specific media range that matches a type: its specificity, and its quality in thousandths.
#[derive(Clone, Copy)]
struct MediaRangeMatch {
    specificity: u8,
    quality: u16,
}

impl MediaRangeMatch {
    const NONE: Self = Self { specificity: 0, quality: 0 };

    fn or_more_specific(self, range: &str, subtype: &str) -> Self {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let specificity = match media.split_once('/') {
            Some(("*", "*")) => 1,
            Some(("application", "*")) => 2,
            Some(("application", named)) if named == subtype => 3,
            _ => return self,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality = weight.map_or(1000, parse_qvalue);
        if specificity > self.specificity { Self { specificity, quality } } else { self }
    }
}

/// Parses a quality like `0.5` into thousandths. An invalid one counts as 0. Digits after the third are ignored.
fn parse_qvalue(weight: &str) -> u16 {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let thousandths =
        fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match (whole, thousandths) {
        ("0", _) => thousandths,
        ("1", 0) => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An independent implementation of RFC 9110, section 12.5.1: the most specific range sets the quality of a type.
    fn quality(ranges: &[(usize, u16)], subtype: usize) -> (u16, usize) {
        let closest = ranges.iter().filter(|(range, _)| [0, 1, subtype].contains(range)).max();
        closest.map_or((0, 0), |(range, quality)| (*quality, (*range).min(2)))
    }

    proptest! {
        #[test]
        fn the_media_type_with_the_higher_quality_is_chosen(
            ranges in prop::sample::subsequence(vec![0_usize, 1, 2, 3, 4], 1..5).prop_shuffle(),
            qualities in prop::collection::vec(0..=1000_u16, 5),
            capitals in any::<bool>(),
            space in "[ \t]{0,2}",
        ) {
            const NAMES: &[&str] = &["*/*", "application/*", "application/json", "application/jwt", "text/html"];
            let ranges: Vec<(usize, u16)> = ranges.into_iter().zip(qualities).collect();
            let written = |(range, quality): &(usize, u16)| {
                let name = NAMES[*range];
                let name = if capitals { name.to_uppercase() } else { name.to_owned() };
                format!("{space}{name}{space};{space}q={}.{:03}{space}", quality / 1000, quality % 1000)
            };
            let mut headers = HeaderMap::new();
            let text = ranges.iter().map(written).collect::<Vec<_>>().join(",");
            headers.insert(ACCEPT, text.parse().expect("a header value"));
            let (json, jwt) = (quality(&ranges, 2), quality(&ranges, 3));
            let expected = match (json.0, jwt.0) {
                (0, 0) => None,
                _ if jwt > json => Some(ResponseFormat::Jwt),
                _ => Some(ResponseFormat::Json),
            };
            prop_assert_eq!(ResponseFormat::negotiate(&headers), expected, "{}", text);
        }
    }

    #[test]
    fn every_quality_is_read_exactly() {
        for quality in 0..=1000_u16 {
            assert_eq!(parse_qvalue(&format!("{}.{:03}", quality / 1000, quality % 1000)), quality);
        }
        for (text, quality) in [("1", 1000), ("0", 0), ("1.", 1000), ("0.5", 500), ("0.0519", 51)] {
            assert_eq!(parse_qvalue(text), quality, "{text}");
        }
        for invalid in ["", ".5", "1.001", "2", "-0", "+1", "0.x", "01", "1e-1", "NaN"] {
            assert_eq!(parse_qvalue(invalid), 0, "{invalid}");
        }
    }

    #[test]
    fn the_accept_header_chooses_json_or_the_bare_token() {
        let form = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header value"));
            ResponseFormat::negotiate(&headers)
        };
        assert_eq!(ResponseFormat::negotiate(&HeaderMap::new()), Some(ResponseFormat::Json));
        for json in [
            "*/*",
            "application/*",
            "application/json",
            "application/jwt;q=0.5, application/json",
            "a/b, */*;q=0.1",
        ] {
            assert_eq!(form(json), Some(ResponseFormat::Json), "{json}");
        }
        for jwt in [
            "application/jwt",
            "Application/JWT, */*;q=0.1",
            "application/jwt, */*",
            "application/json;q=0, */*",
        ] {
            assert_eq!(form(jwt), Some(ResponseFormat::Jwt), "{jwt}");
        }
        for neither in ["text/html", "application/json;q=0", "", "*/*;q=0", "application/json;q=2"] {
            assert_eq!(form(neither), None, "{neither}");
        }
    }
}
