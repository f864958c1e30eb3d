//! Which form of an answer a request accepts (RFC 9110, section 12.5.1).

use ::http::HeaderMap;
use ::http::header::ACCEPT;

/// How a minted token is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `application/json`: the token with its times.
    Json,
    /// `application/jwt`: the bare token.
    Jwt,
}

impl Form {
    /// JSON, unless `application/jwt` is preferred or named where JSON isn't; `None` where neither will do.
    pub fn accepted(headers: &HeaderMap) -> Option<Self> {
        if !headers.contains_key(ACCEPT) {
            return Some(Self::Json);
        }
        let (mut json, mut jwt) = (Match::NONE, Match::NONE);
        for value in headers.get_all(ACCEPT) {
            for range in value.to_str().unwrap_or_default().split(',') {
                json = json.or_closer(range, "json");
                jwt = jwt.or_closer(range, "jwt");
            }
        }
        match (json.quality, jwt.quality) {
            (0, 0) => None,
            (json_quality, jwt_quality) if jwt_quality > json_quality => Some(Self::Jwt),
            (json_quality, jwt_quality) if jwt_quality == json_quality && jwt.closeness > json.closeness => {
                Some(Self::Jwt)
            }
            _ => Some(Self::Json),
        }
    }
}

/// How a media range fits a type: the closest range counts, with its quality in thousandths.
#[derive(Clone, Copy)]
struct Match {
    closeness: u8,
    quality: u16,
}

impl Match {
    const NONE: Self = Self { closeness: 0, quality: 0 };

    fn or_closer(self, range: &str, subtype: &str) -> Self {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let closeness = match media.split_once('/') {
            Some(("*", "*")) => 1,
            Some(("application", "*")) => 2,
            Some(("application", named)) if named == subtype => 3,
            _ => return self,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let quality = weight.map_or(1000, thousandths);
        if closeness > self.closeness { Self { closeness, quality } } else { self }
    }
}

fn thousandths(weight: &str) -> u16 {
    match weight.parse::<f32>() {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u16,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 9110, section 12.5.1, in another way: the quality of a type is that of the closest range.
    fn quality(ranges: &[(usize, u16)], subtype: usize) -> (u16, usize) {
        let closest = ranges.iter().filter(|(range, _)| [0, 1, subtype].contains(range)).max();
        closest.map_or((0, 0), |(range, quality)| (*quality, (*range).min(2)))
    }

    proptest! {
        #[test]
        fn the_better_of_the_two_is_answered(
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
                _ if jwt > json => Some(Form::Jwt),
                _ => Some(Form::Json),
            };
            prop_assert_eq!(Form::accepted(&headers), expected, "{}", text);
        }
    }

    #[test]
    fn the_bare_token_is_had_by_asking_for_it() {
        let form = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().expect("a header value"));
            Form::accepted(&headers)
        };
        assert_eq!(Form::accepted(&HeaderMap::new()), Some(Form::Json));
        for json in [
            "*/*",
            "application/*",
            "application/json",
            "application/jwt;q=0.5, application/json",
            "a/b, */*;q=0.1",
        ] {
            assert_eq!(form(json), Some(Form::Json), "{json}");
        }
        for jwt in [
            "application/jwt",
            "Application/JWT, */*;q=0.1",
            "application/jwt, */*",
            "application/json;q=0, */*",
        ] {
            assert_eq!(form(jwt), Some(Form::Jwt), "{jwt}");
        }
        for neither in ["text/html", "application/json;q=0", "", "*/*;q=0", "application/json;q=2"] {
            assert_eq!(form(neither), None, "{neither}");
        }
    }
}
