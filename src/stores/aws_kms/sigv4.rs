//! AWS Signature Version 4, for the only form of request that KMS needs: a POST of `/` without a query.
//!
//! It is written here, with the HMAC of aws-lc, because it is short. The crate `aws-sigv4` adds 20 crates with 76,000 lines, and AWS's SDK
//! for KMS 3.5 minutes of CPU time to a first build. The tests have the vectors that AWS publishes.
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hmac::{HMAC_SHA256, Key, Tag, sign};
use data_encoding::HEXLOWER;
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use crate::clock::UnixTime;
use crate::config::AwsCredentials;
use crate::hash::sha256;

/// A time as `X-Amz-Date` has it, for example `20261130T120000Z`.
pub(super) fn date_time(time: UnixTime) -> String {
    let time = time.date_time();
    let (hour, minute, second) = time.to_hms();
    format!(
        "{:04}{:02}{:02}T{hour:02}{minute:02}{second:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day()
    )
}

/// The part of AWS that accepts a signature.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// Returns the value of `Authorization`. `headers` are all that is signed: their names are in lower case and sorted, and `x-amz-date` has
/// the value `date_time`.
pub(super) fn authorization(
    credentials: &AwsCredentials,
    scope: Scope<'_>,
    date_time: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> String {
    let Scope { region, service } = scope;
    let date = date_time.split('T').next().unwrap_or_default();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let body = HEXLOWER.encode(&sha256(body));
    // Hashed in parts, because a text of all would be a copy of the session token in memory.
    let mut canonical = Context::new(&SHA256);
    let lines = headers.iter().flat_map(|(name, value)| [name, ":", value, "\n"]);
    for part in std::iter::once("POST\n/\n\n").chain(lines).chain(["\n", &names, "\n", &body]) {
        canonical.update(part.as_bytes());
    }
    let hash = HEXLOWER.encode(canonical.finish().as_ref());
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{date_time}\n{scope}\n{hash}");

    let secret = Zeroizing::new(format!("AWS4{}", credentials.secret_access_key.expose_secret()));
    let key = [date, region, service, "aws4_request"]
        .iter()
        .fold(Zeroizing::new(secret.as_bytes().to_vec()), |key, part| {
            Zeroizing::new(hmac(&key, part).as_ref().to_vec())
        });
    let signature = HEXLOWER.encode(hmac(&key, &to_sign).as_ref());
    let id = &credentials.access_key_id;
    format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}")
}

fn hmac(key: &[u8], text: &str) -> Tag {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;

    fn credentials() -> AwsCredentials {
        AwsCredentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: SecretString::from("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: None,
        }
    }

    /// `post-vanilla`, `post-x-www-form-urlencoded` and `post-sts-header-before` of the test suite that AWS publishes.
    #[test]
    fn the_signatures_are_those_of_the_test_suite_of_aws() {
        let (host, date) = (("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z"));
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwt\
                     hAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXA\
                     kiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        for (headers, body, names, signature) in [
            (
                vec![host, date],
                "",
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                vec![("content-type", "application/x-www-form-urlencoded"), host, date],
                "Param1=value1",
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                vec![host, date, ("x-amz-security-token", token)],
                "",
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ] {
            let scope = Scope { region: "us-east-1", service: "service" };
            let signed = authorization(&credentials(), scope, date.1, &headers, body.as_bytes());
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, \
                 Signature={signature}"
            );
            assert_eq!(signed, expected);
        }
    }

    /// botocore 1.43 makes the same authorization for a request for a signature.
    #[test]
    fn a_request_to_kms_is_signed_like_by_botocore() {
        let body = br#"{"KeyId":"alias/tokenmint","Message":"4/68V/O9SLSN8UsnH5kFqyV0IithWudmqptgbzg6SpM=","MessageType":"DIGEST","SigningAlgorithm":"RSASSA_PKCS1_V1_5_SHA_256"}"#;
        let time = date_time(UnixTime::from_seconds(1_796_040_000));
        assert_eq!(time, "20261130T120000Z");
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("host", "kms.eu-central-1.amazonaws.com"),
            ("x-amz-date", &time),
            ("x-amz-security-token", "SESSIONTOKENEXAMPLE=="),
            ("x-amz-target", "TrentService.Sign"),
        ];
        let scope = Scope { region: "eu-central-1", service: "kms" };
        let signed = authorization(&credentials(), scope, &time, &headers, body);
        assert!(
            signed.ends_with("Signature=2208d842b41146efbfefc640eaae331a087645b0dfa862ddf242349c2abf58c3"),
            "{signed}"
        );
    }
}
