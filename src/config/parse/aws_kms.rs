//! Parses `[stores.NAME]` with `kind = "aws-kms"`, and the environment variables that say where AWS credentials come from.
//!
//! The variables and their order are those of AWS's own clients, so that roles of EKS, ECS and EC2 work without a setting:
//! <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>. Profiles in `~/.aws`, SSO and `credential_process`
//! are missing, because services don't use them.

use std::net::IpAddr;
use std::path::PathBuf;

use secrecy::SecretString;
use url::{Host, Url};

use super::super::HttpsOrLoopbackUrl;
use super::super::aws_kms::{AwsCredentialSource, AwsCredentials, AwsKmsConfig, ContainerAuthorization};
use super::super::section::Section;
use super::super::source::{Environment, ValueOrigin};
use super::super::values::parse_string;

/// The addresses to which AWS's clients send requests for container credentials by plain HTTP, besides loopback: those of the agents
/// of ECS and of EKS Pod Identity.
const CONTAINER_AGENTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
const ECS_AGENT: &str = "http://169.254.170.2";
const INSTANCE_METADATA: &str = "http://169.254.169.254";

pub(super) fn parse_aws_kms(section: &Section<'_>, environment: &Environment) -> Option<AwsKmsConfig> {
    let region = section.required(
        "region",
        |node| parse_region(&parse_string(node)?),
        "the AWS region of the keys, for example \"eu-central-1\"",
    );
    let has_endpoint = section.has("endpoint");
    let endpoint = section.optional("endpoint", |node| {
        let url = HttpsOrLoopbackUrl::parse(&parse_string(node)?)?;
        if url.is_origin() { Ok(url) } else { Err("must have no path".to_owned()) }
    });
    let ca_file = section.path("ca_file");
    let region = region?;
    let credentials = credential_source(&region, environment);
    let credentials = credentials.map_err(|(variable, message)| {
        let origin = ValueOrigin::Variable(variable.to_owned());
        section.diagnostics().problem(section.field("kind"), &origin, message);
    });
    let endpoint = if has_endpoint { endpoint? } else { regional_endpoint("kms", &region) };
    Some(AwsKmsConfig { region, endpoint, ca_file, credentials: credentials.ok()? })
}

/// Validates the name of a region, which becomes part of host names.
fn parse_region(text: &str) -> Result<String, String> {
    let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_region = (5..=32).contains(&text.len())
        && text.bytes().all(is_valid)
        && text.starts_with(|char: char| char.is_ascii_lowercase())
        && text.ends_with(|char: char| char.is_ascii_digit())
        && text.contains('-');
    if is_region {
        Ok(text.to_owned())
    } else {
        Err("must be an AWS region, for example \"eu-central-1\"".to_owned())
    }
}

/// Validates what KMS accepts as `KeyId`: the id of a key, the name of an alias, or the ARN of either.
pub(super) fn parse_kms_key(text: &str) -> Result<String, String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/:".contains(&byte);
    if (1..=256).contains(&text.len()) && text.bytes().all(is_valid) {
        return Ok(text.to_owned());
    }
    Err("must be the id or the ARN of a KMS key, or \"alias/NAME\"".to_owned())
}

/// The address of a service in a region. The isolated partitions have other domains, and need `endpoint`.
fn regional_endpoint(service: &str, region: &str) -> HttpsOrLoopbackUrl {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    HttpsOrLoopbackUrl::parse(&format!("https://{service}.{region}.{domain}"))
        .expect("the name of a region is part of a host name")
}

/// Decides where the credentials come from.
///
/// # Errors
/// A variable, and what is wrong with it. Its value isn't quoted.
fn credential_source(
    region: &str,
    environment: &Environment,
) -> Result<AwsCredentialSource, (&'static str, String)> {
    // Like AWS's clients, it ignores variables without a text.
    let variable = |name: &str| environment.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let needed = |name: &'static str, other: &'static str| {
        variable(name).ok_or_else(|| (other, format!("is set without {name}: set both or none")))
    };
    let address = |name: &'static str| {
        let parse = |text| {
            let url = HttpsOrLoopbackUrl::parse(text)?;
            if url.is_origin() { Ok(url) } else { Err("must have no path".to_owned()) }
        };
        variable(name).map(parse).transpose().map_err(|message| (name, message))
    };
    let visible = |name: &'static str| match variable(name) {
        Some(text) if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err((name, "holds a character that no credentials have: set it anew".to_owned()))
        }
        text => Ok(text),
    };
    if let Some(access_key_id) = visible("AWS_ACCESS_KEY_ID")? {
        needed("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")?;
        return Ok(AwsCredentialSource::Static(AwsCredentials {
            access_key_id: access_key_id.to_owned(),
            secret_access_key: SecretString::from(visible("AWS_SECRET_ACCESS_KEY")?.unwrap_or_default()),
            session_token: visible("AWS_SESSION_TOKEN")?.map(SecretString::from),
        }));
    }
    if let Some(token_file) = variable("AWS_WEB_IDENTITY_TOKEN_FILE") {
        let sts = address("AWS_ENDPOINT_URL_STS")?;
        return Ok(AwsCredentialSource::WebIdentity {
            sts: sts.unwrap_or_else(|| regional_endpoint("sts", region)),
            role_arn: needed("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")?.to_owned(),
            session_name: variable("AWS_ROLE_SESSION_NAME").unwrap_or("tokenmint").to_owned(),
            token_file: PathBuf::from(token_file),
        });
    }
    let relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let relative =
        relative.map(|path| ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", format!("{ECS_AGENT}{path}")));
    let full = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let full = full.map(|url| ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.to_owned()));
    if let Some((name, url)) = relative.or(full) {
        if !is_container_agent(&url) {
            let message = "must be an https URL, or one of loopback or of the agent of ECS or EKS".to_owned();
            return Err((name, message));
        }
        let file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from);
        let token = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(SecretString::from);
        let authorization = match (file, token) {
            (Some(file), _) => ContainerAuthorization::File(file),
            (None, Some(token)) => ContainerAuthorization::Token(token),
            (None, None) => ContainerAuthorization::None,
        };
        return Ok(AwsCredentialSource::Container { url, authorization });
    }
    if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        let message = "is true, and no other variable gives AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned();
        return Err(("AWS_EC2_METADATA_DISABLED", message));
    }
    let metadata = address("AWS_EC2_METADATA_SERVICE_ENDPOINT")?;
    let metadata = metadata.as_ref().map_or(INSTANCE_METADATA, HttpsOrLoopbackUrl::as_str);
    Ok(AwsCredentialSource::InstanceMetadata { address: metadata.trim_end_matches('/').to_owned() })
}

/// Whether AWS's clients would ask this address for credentials.
fn is_container_agent(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let is_agent = |address: IpAddr| CONTAINER_AGENTS.iter().any(|agent| agent.parse() == Ok(address));
    HttpsOrLoopbackUrl::parse(text).is_ok()
        || url.scheme() == "http"
            && url.username().is_empty()
            && match url.host() {
                Some(Host::Ipv4(address)) => is_agent(address.into()),
                Some(Host::Ipv6(address)) => is_agent(address.into()),
                _ => false,
            }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(variables: &[(&str, &str)]) -> Result<AwsCredentialSource, String> {
        let all = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        credential_source("eu-central-1", &all.collect())
            .map_err(|(name, message)| format!("{name} {message}"))
    }

    #[test]
    fn the_environment_decides_in_the_order_of_aws() {
        let instance: &[_] = &[("AWS_PROFILE", "x"), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", " ")];
        let container: &[_] =
            &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://[fd00:ec2::23]/v1/credentials")];
        let web: &[_] =
            &[("AWS_ROLE_ARN", "arn:aws:iam::1:role/x"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")];
        let keys: &[_] = &[("AWS_ACCESS_KEY_ID", "AKID\n"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let kind = |source: AwsCredentialSource| match source {
            AwsCredentialSource::InstanceMetadata { address } => address,
            AwsCredentialSource::Container { url, .. } => url,
            AwsCredentialSource::WebIdentity { sts, .. } => sts.as_str().to_owned(),
            AwsCredentialSource::Static(credentials) => credentials.access_key_id,
        };
        for (variables, expected) in [
            (instance.to_vec(), "http://169.254.169.254"),
            ([instance, container].concat(), "http://[fd00:ec2::23]/v1/credentials"),
            ([container, web].concat(), "https://sts.eu-central-1.amazonaws.com"),
            ([container, web, keys].concat(), "AKID"),
            (vec![("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")], "http://169.254.170.2/v2/x"),
        ] {
            assert_eq!(source(&variables).map(kind).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn half_set_variables_and_other_hosts_are_refused() {
        for (variables, expected) in [
            (vec![("AWS_ACCESS_KEY_ID", "A")], "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY"),
            (
                vec![("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "a b")],
                "AWS_SECRET_ACCESS_KEY holds a character",
            ),
            (
                vec![("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")],
                "AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN",
            ),
            (vec![("AWS_EC2_METADATA_DISABLED", "True")], "AWS_EC2_METADATA_DISABLED is true, and no other"),
            (
                vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://evil")],
                "AWS_EC2_METADATA_SERVICE_ENDPOINT must begin",
            ),
        ] {
            let refused = source(&variables).err().expect("refused");
            assert!(refused.starts_with(expected), "{refused}");
        }
        for url in [
            "http://example.com/x",
            "http://169.254.170.2.example/",
            "http://u@169.254.170.2/",
            "ftp://x",
            "/x",
        ] {
            let refused = source(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)]).err().expect(url);
            assert!(refused.contains("must be an https URL") && !refused.contains(url), "{refused}");
        }
        // It would be another host.
        let refused = source(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", ".evil.example/x")]);
        assert!(refused.is_err());
    }

    #[test]
    fn a_region_is_part_of_a_host_name() {
        for good in ["eu-central-1", "us-gov-east-1", "cn-north-1", "ap-southeast-10"] {
            assert!(parse_region(good).is_ok(), "{good}");
        }
        for wrong in
            ["", "eu", "EU-CENTRAL-1", "eu-central-1.evil.example", "eu-central-1/", "-eu-1", "eu-central"]
        {
            assert!(parse_region(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            regional_endpoint("kms", "cn-north-1").as_str(),
            "https://kms.cn-north-1.amazonaws.com.cn"
        );
    }
}
