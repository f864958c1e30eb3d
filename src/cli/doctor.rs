//! `tokenmint doctor`: checks the configuration and given files for the problems of Salesforce's troubleshooting
//! page, and more.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{IsTerminal as _, Read, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::findings::{self, OutputFormat, TextReport};
use super::{CliContext, CliError, print_json, print_stderr};
use crate::app::{self, LoadedConfig};
use crate::config::{Config, KeysetConfig, Name, Problem, StoreConfig};
use crate::doctor::{
    self, Artifact, CHECKS, CheckInput, CheckOutcome, ConfigView, FileAccess, GivenArtifacts, JwkDocument,
    ProbeResult, Purpose, ReportSummary, StoreLogin, UnverifiedToken,
};
use crate::files::{FileError, OpenedFile};
use crate::metrics::Metrics;
use crate::stores::StoreSessions;
use crate::tokens::Subject;

/// The largest input file. Keys, JWK Sets and tokens are much smaller.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Find out why chats are anonymous, keys don't upload, or tokens are rejected
///
/// Has a check for each question of Salesforce's page "Troubleshooting User Verification" but one, and more: only Setup
/// shows whether the JWK is uploaded there. The doctor uses the configuration and the files that you give, in any order:
/// a private key, a certificate, a JWK or a JWT. It works without a configuration. It sends no requests, except to the
/// stores of keys, with --online, and for an address in --jwks.
#[derive(Args)]
#[command(
    after_help = "Example: tokenmint doctor --online\n         tokenmint doctor WebAppKey1.jwk app.key token.txt"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct DoctorCommand {
    /// Files to check: a private key, a certificate, a JWK or a JWT; `-` is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A JWT; `-` reads it from standard input, which keeps it out of the shell's history
    #[arg(long, value_name = "JWT")]
    token: Option<SecretString>,
    /// A JWK that was or will be uploaded to Salesforce
    #[arg(long, value_name = "FILE")]
    jwk: Vec<PathBuf>,
    /// A JWK Set that an endpoint serves: its address, or a file
    #[arg(long, value_name = "URL")]
    jwks: Vec<String>,
    /// The JSON Web Key Issuer that Setup shows
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// The purpose of the tokens [default: derived from their content]
    #[arg(long = "as", value_name = "KIND")]
    purpose: Option<Purpose>,
    /// Fetch the public JWKS and the keys of issuers, and request one Salesforce token for each profile that exchanges tokens
    #[arg(long)]
    online: bool,
    /// The subject of the identity token of --online [default: tokenmint-doctor]
    #[arg(long, value_name = "SUBJECT", requires = "online")]
    sub: Option<String>,
    /// Print passed checks too
    #[arg(short, long)]
    verbose: bool,
    /// Print the findings as JSON
    #[arg(long, conflicts_with = "sarif")]
    json: bool,
    /// Print the findings as SARIF 2.1.0
    #[arg(long)]
    sarif: bool,
    /// List all checks, and run none
    #[arg(long)]
    list: bool,
}

impl DoctorCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        if self.list {
            print_checks(self.json);
            return Ok(());
        }
        let status = ConfigStatus::load(context, self.has_no_input())?;
        let mut given = GivenArtifacts {
            issuer: self.issuer.clone(),
            purpose: self.purpose,
            ..GivenArtifacts::default()
        };
        // A file that can't be examined hides no fault of the others.
        let mut unread = Vec::new();
        for (at, path) in self.files.iter().enumerate() {
            match check_file_exists(at, path).and_then(|()| read_artifact(path, &status)) {
                Ok(artifact) => given.add(artifact),
                Err(error) => unread.push(error.summary()),
            }
        }
        for (at, path) in self.jwk.iter().enumerate() {
            match check_file_exists(self.files.len() + at, path).and_then(|()| read_jwk_file(path, false)) {
                Ok(document) => given.jwks.push(document),
                Err(error) => unread.push(error.summary()),
            }
        }
        if let Some(token) = &self.token {
            given.tokens.push(parse_token_arg(token)?);
        }
        let runtime = app::runtime().map_err(CliError::failed)?;
        for source in &self.jwks {
            add_jwks(source, &mut given, &runtime, context)?;
        }
        let probe_results =
            self.online.then(|| runtime.block_on(self.probe_online(&status, context))).transpose()?;
        let store_logins = log_in_to_stores(&status);
        let configured = ConfigView { store_logins: &store_logins, ..status.configured() };
        let now = context.clock_and_rng.clock.now();
        let report = doctor::run_checks(&CheckInput { now, configured, given, probe_results });
        if status.source.is_none() && report.findings.is_empty() && !unread.is_empty() {
            return Err(CliError::Failed(unread.join("; ")));
        }
        let mut verdict = report.summary();
        if !unread.is_empty() {
            let files =
                if unread.len() == 1 { "1 file".to_owned() } else { format!("{} files", unread.len()) };
            let text = format!("{files} can't be examined; {}", verdict.text);
            verdict = ReportSummary { outcome: CheckOutcome::Fail, text };
        }
        let format = match (self.json, self.sarif) {
            (true, _) => OutputFormat::Json,
            (_, true) => OutputFormat::Sarif,
            _ => OutputFormat::Text { all: self.verbose },
        };
        findings::print_report(
            format,
            &report,
            &verdict,
            &unread,
            status.source.as_deref(),
            status.file.as_deref(),
        );
        if verdict.outcome == CheckOutcome::Fail { Err(CliError::ProblemsFound) } else { Ok(()) }
    }

    const fn has_no_input(&self) -> bool {
        self.files.is_empty() && self.jwk.is_empty() && self.jwks.is_empty() && self.token.is_none()
    }

    async fn probe_online(
        &self,
        status: &ConfigStatus,
        context: &CliContext<'_>,
    ) -> Result<Vec<ProbeResult>, CliError> {
        let Some(loaded) = &status.loaded else {
            return Ok(Vec::new());
        };
        let subject = self.sub.clone().map(|sub| Subject::parse("sub", sub)).transpose();
        let subject =
            subject.map_err(|invalid_field| CliError::Usage(format!("--sub {}", invalid_field.message)))?;
        let clock_and_rng = (context.clock_and_rng.clock.clone(), context.clock_and_rng.randomness.clone());
        let state = app::state_directory(&loaded.config);
        let answers = doctor::run_probes(&loaded.config, &loaded.ring, clock_and_rng, Some(state), subject);
        let mut answers = answers.await.map_err(CliError::failed)?;
        answers.extend(doctor::fetch_issuer_keys(&loaded.issuer_keys).await);
        Ok(answers)
    }
}

/// The configuration as far as it could be loaded.
pub(super) struct ConfigStatus {
    pub(crate) loaded: Option<LoadedConfig>,
    /// The configuration, if it is valid but its files aren't.
    config: Option<Config>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    pub(crate) file: Option<PathBuf>,
    /// The source of the configuration, if one was read.
    pub(crate) source: Option<String>,
}

impl ConfigStatus {
    /// Loads the configuration. If none is named and none exists, that is an error only if one is `needed`, because nothing
    /// else is given.
    pub(crate) fn load(context: &CliContext<'_>, needed: bool) -> Result<Self, CliError> {
        let named = context.config.is_some();
        let file =
            context.config.clone().unwrap_or_else(|| PathBuf::from(crate::config::DEFAULT_CONFIG_FILE));
        let mut status = Self {
            loaded: None,
            config: None,
            problems: Vec::new(),
            warnings: Vec::new(),
            file: None,
            source: None,
        };
        if !named && !file.exists() && !context.is_configured_by_environment() {
            if !needed {
                return Ok(status);
            }
            let reason = "there is no tokenmint.toml here, and nothing else to check: name a configuration with \
            --config, or give files, as in `tokenmint doctor app.key WebAppKey1.jwk token.txt`";
            return Err(CliError::Usage(reason.to_owned()));
        }
        status.source = Some(context.config_description());
        status.file = Some(file).filter(|file| file.exists());
        match context.load() {
            Ok(loaded) => status.loaded = Some(loaded),
            Err(CliError::Configuration { problems, warnings }) => {
                (status.problems, status.warnings) = (problems, warnings);
                status.config = context.config().ok();
                let source = context.config_description();
                status.source = Some(format!("{source}, which doesn't load (`tokenmint check` says why)"));
            }
            Err(other) => return Err(other),
        }
        Ok(status)
    }

    /// Returns the keysets' passphrases: a given encrypted key may be one of the keysets'.
    fn passphrases(&self) -> Vec<&SecretString> {
        let config = self.loaded.as_ref().map(|loaded| &loaded.config).or(self.config.as_ref());
        let keysets = config.into_iter().flat_map(|config| config.keysets.values());
        keysets.filter_map(|keyset| keyset.passphrase.as_ref()).collect()
    }

    /// Returns the reason why the configuration doesn't load.
    pub(crate) fn into_error(self) -> CliError {
        CliError::Configuration { problems: self.problems, warnings: self.warnings }
    }

    pub(crate) fn configured(&self) -> ConfigView<'_> {
        ConfigView {
            config: self.loaded.as_ref().map(|loaded| &loaded.config).or(self.config.as_ref()),
            ring: self.loaded.as_ref().map(|loaded| &loaded.ring),
            issuer_keys: self.loaded.as_ref().map(|loaded| &loaded.issuer_keys),
            store_logins: &[],
            problems: &self.problems,
            warnings: self
                .warnings
                .iter()
                .chain(self.loaded.iter().flat_map(LoadedConfig::warnings))
                .collect(),
        }
    }
}

/// Logs in to each store of keys that a keyset uses.
fn log_in_to_stores(status: &ConfigStatus) -> Vec<StoreLogin> {
    let Some(config) = status.configured().config else { return Vec::new() };
    let stores: BTreeMap<&Name, &Arc<StoreConfig>> =
        config.keysets.values().flat_map(KeysetConfig::stores).map(|store| (&store.name, store)).collect();
    let metrics = Metrics::new();
    let mut sessions = StoreSessions::new(&metrics);
    let login = |(name, store): (&Name, &Arc<StoreConfig>)| StoreLogin {
        store: name.clone(),
        remaining: sessions.remaining(store),
    };
    stores.into_iter().map(login).collect()
}

impl ValueEnum for Purpose {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Identity => "An identity token for a Salesforce channel".to_owned(),
            Self::Assertion => "An assertion of the OAuth 2.0 JWT bearer flow".to_owned(),
            Self::Incoming => "A JWT of another issuer: of a caller, or a subject token".to_owned(),
            Self::Hs256(_) => self.description().replacen('a', "A", 1),
        };
        Some(PossibleValue::new(self.as_str()).help(help))
    }
}

fn print_checks(json: bool) {
    if json {
        print_json(&CHECKS.as_slice());
        return;
    }
    let mut page = TextReport::new();
    let longest = CHECKS.iter().map(|case| case.id.len()).max().unwrap_or_default();
    for case in &CHECKS {
        page.line(&format!("{:longest$}  {}", case.id, case.title));
    }
}

/// Reads `path`, and determines who else may read it.
fn read_bytes(path: &Path) -> Result<(Zeroizing<Vec<u8>>, FileAccess), CliError> {
    let failed = |error: &dyn fmt::Display| CliError::Failed(format!("{}: {error}", display_name(path)));
    let pipe = |from: &mut dyn Read| {
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE_BYTES).unwrap_or_default() + 2));
        from.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(failed(&FileError::TooLarge(MAX_FILE_BYTES)));
        }
        Ok((bytes, FileAccess::Unknown))
    };
    if path == Path::new("-") {
        if stdin().is_terminal() {
            print_stderr("waiting for standard input: paste the text here, then press Enter and Ctrl-D");
        }
        return pipe(&mut stdin());
    }
    match OpenedFile::open(path) {
        Ok(file) => {
            let refused = file.reject_accessible_by_others().err();
            let readers =
                refused.map_or(FileAccess::OwnerOnly, |error| FileAccess::Others(error.to_string()));
            Ok((file.read(MAX_FILE_BYTES).map_err(|error| failed(&error))?, readers))
        }
        Err(error @ FileError::NotRegular("a directory")) => {
            let advice = "name the files in it, or with --config the configuration that names it";
            Err(failed(&format_args!("{error}: {advice}")))
        }
        // A shell passes the output of `<(command)` as a FIFO.
        Err(FileError::NotRegular("a FIFO")) => pipe(&mut File::open(path).map_err(|error| failed(&error))?),
        Err(error) => Err(failed(&error)),
    }
}

fn read_text(path: &Path) -> Result<SecretString, CliError> {
    let (bytes, _) = read_bytes(path)?;
    let text = crate::keys::decode_key_text(&bytes);
    text.map(SecretString::from).map_err(|why| CliError::Failed(format!("{}: {why}", display_name(path))))
}

/// Checks that an argument names a file before its path is shown: people paste a token or a key instead of a file
/// name.
///
/// # Errors
/// The file doesn't exist; the message names the argument's position only.
pub(super) fn check_file_exists(at: usize, path: &Path) -> Result<(), CliError> {
    if path == Path::new("-") || path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let reason = format!(
        "argument {} names no existing file. It isn't shown, because it may be a secret. Pass a token through a pipe: \
         `… | tokenmint doctor --token -`",
        at + 1
    );
    Err(CliError::Failed(reason))
}

fn display_name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// Reads a file and detects its type.
pub(super) fn read_artifact(path: &Path, status: &ConfigStatus) -> Result<Artifact, CliError> {
    let (bytes, readers) = read_bytes(path)?;
    doctor::detect_artifact(&display_name(path), &bytes, readers, &status.passphrases())
        .map_err(CliError::Failed)
}

/// Reads a file with a key of any kind, for verification.
pub(super) fn read_verification_key(path: &Path, status: &ConfigStatus) -> Result<Artifact, CliError> {
    let material = read_artifact(path, status)?;
    if matches!(material, Artifact::Token(_)) {
        return Err(CliError::Failed(format!(
            "{}: it is a JWT, not a key to verify one with",
            display_name(path)
        )));
    }
    if let Some(why) = material.refusal() {
        return Err(CliError::Failed(format!("{}: {why}", display_name(path))));
    }
    if let Some(warning) = material.warning() {
        print_stderr(&format!("warning: {} {warning}", display_name(path)));
    }
    Ok(material)
}

pub(super) fn read_jwk_file(path: &Path, served: bool) -> Result<JwkDocument, CliError> {
    let document = JwkDocument::parse(&display_name(path), read_text(path)?.expose_secret());
    Ok(JwkDocument { served, ..document })
}

pub(super) fn parse_token_arg(token: &SecretString) -> Result<UnverifiedToken, CliError> {
    if token.expose_secret() == "-" {
        return Ok(UnverifiedToken::parse("the token", read_text(Path::new("-"))?.expose_secret()));
    }
    Ok(UnverifiedToken::parse("the token", token.expose_secret()))
}

pub(super) fn add_jwks(
    source: &str,
    given: &mut GivenArtifacts,
    runtime: &tokio::runtime::Runtime,
    context: &CliContext<'_>,
) -> Result<(), CliError> {
    if source.starts_with("https://") || source.starts_with("http://") {
        let fetched = runtime.block_on(doctor::fetch_jwks(source, &*context.clock_and_rng.clock));
        given.fetched.push(fetched);
    } else {
        let path = Path::new(source);
        check_file_exists(given.jwks.len(), path)?;
        given.jwks.push(read_jwk_file(path, true)?);
    }
    Ok(())
}
