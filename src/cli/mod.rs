//! The command line, with one file for each command.
//!
//! Results and the log of `serve` go to standard output, everything else to standard error. Exit codes: 0 success,
//! 1 problems found or failure, 2 wrong usage, 64 invalid configuration.

mod admin_client;
mod callers;
mod check;
mod completions;
mod dev;
mod doctor;
mod exit_codes;
mod findings;
mod healthcheck;
mod init;
mod jwk;
mod keys;
mod mint;
mod openapi;
mod salesforce_metadata;
mod sandbox;
mod schema;
mod serve;
mod verify;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _, stderr, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::builder::Styles;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches as _, Parser, Subcommand};
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;

use crate::app::logging::Log;
use crate::app::reload::ConfigSource;
use crate::app::{self, ClockAndRng, LoadedConfig};
use crate::clock::{NoRandomness, Randomness};
use crate::config::values::parse_whole_seconds;
use crate::config::{
    AuditLogMode, CONFIG_VARIABLE, Config, DEFAULT_CONFIG_FILE, Environment, InvalidConfig, KeysetConfig,
    KeysetSource, ListenAddress, Name, OpsAddress, Problem, ValueOrigin,
};
use crate::files::is_same_file;
use crate::hash::sha256;
use crate::stores::finalize_modules;

pub use exit_codes::{COMMON_EXIT_CODES, EXIT_CODES};

/// Mints the tokens that a web backend needs on each page load: Salesforce identity tokens, OAuth assertions,
/// Intercom user JWTs, and HS256 tokens for other products.
#[derive(Parser)]
#[command(name = "tokenmint", version, term_width = line_width(), arg_required_else_help = true)]
#[command(help_template = help_template())]
#[command(after_help = "Try it without any configuration: tokenmint dev\n\
                        What a command does: tokenmint COMMAND --help")]
pub struct Cli {
    /// The `--config` of the command, written before the command
    #[arg(long, hide = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(WithConfig<serve::ServeCommand>),
    Dev(dev::DevCommand),
    Init(init::InitCommand),
    Check(WithConfig<check::CheckCommand>),
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    Jwk(WithConfig<jwk::JwkCommand>),
    Jwks(WithConfig<jwk::JwksCommand>),
    Mint(WithConfig<mint::MintCommand>),
    Verify(WithConfig<verify::VerifyCommand>),
    Doctor(WithConfig<doctor::DoctorCommand>),
    #[command(subcommand)]
    Callers(callers::CallersCommand),
    SalesforceMetadata(WithConfig<salesforce_metadata::SalesforceMetadataCommand>),
    Sandbox(WithConfig<sandbox::SandboxCommand>),
    Healthcheck(WithConfig<healthcheck::HealthcheckCommand>),
    Openapi(openapi::OpenapiCommand),
    Schema(schema::SchemaCommand),
    Completions(completions::CompletionsCommand),
}

/// The commands, grouped by purpose.
const COMMAND_GROUPS: &[(&str, &[&str])] = &[
    ("Try it", &["dev", "sandbox"]),
    ("Set it up", &["init", "callers", "check", "salesforce-metadata"]),
    ("Run it", &["serve", "healthcheck"]),
    ("Keys", &["keys", "jwk", "jwks"]),
    ("Tokens, and why they are rejected", &["mint", "verify", "doctor"]),
];

/// Builds the template of `tokenmint --help`, because clap can't group commands.
fn help_template() -> String {
    let commands = Command::augment_subcommands(clap::Command::new("tokenmint"));
    let about = |name: &str| {
        let command = commands.find_subcommand(name).expect("each group has names of commands");
        command.get_about().map(ToString::to_string).unwrap_or_default()
    };
    let names = || commands.get_subcommands().map(clap::Command::get_name);
    let rest = names().filter(|name| !COMMAND_GROUPS.iter().any(|(_, group)| group.contains(name))).collect();
    let longest = names().map(str::len).max().unwrap_or_default();
    let styles = Styles::styled();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let command = |name: &str| {
        let indent = longest + 4;
        let about = textwrap::wrap(&about(name), line_width().saturating_sub(indent))
            .join(&format!("\n{:indent$}", ""));
        format!("  {literal}{name:longest$}{literal:#}  {about}\n")
    };
    let group = |(title, names): (&str, Vec<&str>)| {
        let commands: String = names.into_iter().map(command).collect();
        format!("\n{header}{title}:{header:#}\n{commands}")
    };
    let all = COMMAND_GROUPS.iter().map(|(title, names)| (*title, names.to_vec())).chain([("More", rest)]);
    let groups: String = all.map(group).collect();
    format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{groups}\n{header}Options:{header:#}\n{{options}}{{after-help}}\n"
    )
}

/// The longest line of text, even on a wider terminal.
const MAX_LINE_WIDTH: usize = 100;
const MIN_LINE_WIDTH: usize = 40;

/// Returns the width of the terminal, or 80 without one, clamped to [`MIN_LINE_WIDTH`] and [`MAX_LINE_WIDTH`].
fn line_width() -> usize {
    textwrap::termwidth().clamp(MIN_LINE_WIDTH, MAX_LINE_WIDTH)
}

// A command that reads the configuration; only these commands have `--config`. A doc comment here would replace the
// command's help.
#[derive(Args)]
struct WithConfig<C: Args> {
    #[command(flatten)]
    command: C,
    #[arg(
        long,
        value_name = "FILE",
        help = "The configuration [env: TOKENMINT_CONFIG] [default: tokenmint.toml]"
    )]
    config: Option<PathBuf>,
}

impl<C: Args> WithConfig<C> {
    fn run(
        self,
        context: &CliContext<'_>,
        run: impl FnOnce(C, &CliContext<'_>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let config = self.config.or_else(|| context.config.clone());
        run(self.command, &CliContext { config, ..*context })
    }
}

/// The reason why a command failed, which decides its exit code.
pub(crate) enum CliError {
    /// The command failed: exit code 1.
    Failed(String),
    /// The command ran and printed the problems that it found: exit code 1.
    ProblemsFound,
    /// The arguments are wrong: exit code 2.
    Usage(String),
    /// The configuration is invalid: exit code 64.
    Configuration { problems: Vec<Problem>, warnings: Vec<Problem> },
}

impl CliError {
    fn failed(reason: impl Display) -> Self {
        Self::Failed(reason.to_string())
    }

    const fn invalid_config(problems: Vec<Problem>) -> Self {
        Self::Configuration { problems, warnings: Vec::new() }
    }
}

impl CliError {
    /// Returns the reason in one line.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::ProblemsFound => "problems were found".to_owned(),
            Self::Failed(reason) | Self::Usage(reason) => reason.clone(),
            Self::Configuration { problems, .. } => {
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

impl From<InvalidConfig> for CliError {
    fn from(InvalidConfig { problems, warnings, .. }: InvalidConfig) -> Self {
        Self::Configuration { problems, warnings }
    }
}

impl From<NoRandomness> for CliError {
    fn from(error: NoRandomness) -> Self {
        Self::failed(error)
    }
}

/// The inputs of a command: configuration file, environment, clock and randomness.
pub(crate) struct CliContext<'a> {
    config: Option<PathBuf>,
    environment: &'a Environment,
    clock_and_rng: &'a ClockAndRng,
}

impl CliContext<'_> {
    /// Whether any setting comes from the environment.
    fn is_configured_by_environment(&self) -> bool {
        self.environment.has_overrides()
    }

    /// Describes the source of the configuration for people: its file, or the environment.
    fn config_description(&self) -> String {
        let default = Path::new(DEFAULT_CONFIG_FILE);
        if self.config.is_none() && !default.exists() && self.is_configured_by_environment() {
            return "the environment".to_owned();
        }
        let file = self.config.as_deref().unwrap_or(default);
        std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf()).display().to_string()
    }

    /// Returns the source of the configuration.
    fn source(&self) -> ConfigSource {
        ConfigSource { file: self.config.clone(), environment: self.environment.clone() }
    }

    /// Returns the ops address of a service that runs with this configuration, whatever else is wrong in it.
    fn ops_address(&self) -> Result<OpsAddress, CliError> {
        let ConfigSource { file, environment } = self.source();
        let address = run_with_timeout(FILE_TIMEOUT, move || OpsAddress::load(file.as_deref(), &environment));
        address.ok_or_else(file_timeout_error)?.map_err(|problem| CliError::invalid_config(vec![problem]))
    }

    /// Loads the configuration without opening any key.
    fn config(&self) -> Result<Config, CliError> {
        let loaded = Config::load(self.config.as_deref(), self.environment);
        loaded.map_err(CliError::from)
    }

    /// Returns the keysets of the configuration, even if other sections are invalid.
    fn keysets(&self) -> Result<BTreeMap<Name, KeysetConfig>, CliError> {
        let source = self.source();
        match run_with_timeout(FILE_TIMEOUT, move || source.load()).ok_or_else(file_timeout_error)? {
            Ok(config) => Ok(config.keysets),
            Err(invalid) if !invalid.keysets.is_empty() => Ok(invalid.keysets),
            Err(invalid) => Err(invalid.into()),
        }
    }

    /// Like [`load`](Self::load), for a command that needs all keys.
    fn load_with_all_keys(&self) -> Result<LoadedConfig, CliError> {
        let loaded = self.load()?;
        match loaded.ring.closed_reason() {
            Some(reason) => Err(CliError::Failed(reason)),
            None => Ok(loaded),
        }
    }

    /// Loads the configuration and its key files. If the configuration is invalid, the keys are checked all the
    /// same, so that all problems are reported at once.
    fn load(&self) -> Result<LoadedConfig, CliError> {
        let _notice = SlowReadNotice::start();
        let clock = &*self.clock_and_rng.clock;
        match Config::load(self.config.as_deref(), self.environment) {
            Ok(config)
                if config.server.audit == AuditLogMode::Required
                    && !Log::enables_audit(self.environment.get("RUST_LOG").map(String::as_str)) =>
            {
                let message = "hides audit lines, which server.audit requires: leave it out, or add \
                tokenmint::audit=info";
                Err(CliError::invalid_config(vec![Problem::new(
                    "",
                    ValueOrigin::Variable("RUST_LOG".to_owned()),
                    message,
                )]))
            }
            Ok(config) => LoadedConfig::new(config, clock).map_err(CliError::invalid_config),
            Err(InvalidConfig { mut problems, warnings, keysets, .. }) => {
                problems.extend(app::key_problems(&keysets, clock));
                Err(CliError::Configuration { problems, warnings })
            }
        }
    }
}

/// The longest wait of a command that needs only some of the files, or none. It then fails, or goes on without them.
const FILE_TIMEOUT: Duration = Duration::from_secs(3);

/// The time after which a command that waits for files says so.
const SLOW_READ_NOTICE_AFTER: Duration = Duration::from_secs(10);

/// Runs `act` in a thread and waits for at most `timeout`. On a hanging mount, only that thread hangs.
fn run_with_timeout<T: Send + 'static>(
    timeout: Duration,
    act: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(act());
    });
    receiver.recv_timeout(timeout).ok()
}

/// Returns the keysets that have a directory.
fn keyset_directories(
    keysets: &BTreeMap<Name, KeysetConfig>,
) -> impl Iterator<Item = (&KeysetConfig, &Path)> {
    keysets.values().filter_map(|keyset| match &keyset.keys {
        KeysetSource::Directory(directory) => Some((keyset, directory.as_path())),
        KeysetSource::File { .. } | KeysetSource::Text { .. } => None,
    })
}

/// Whether both paths lead to the same folder. A folder that doesn't answer counts as another one.
fn is_same_folder(other: &Path, directory: &Path) -> bool {
    let (one, two) = (other.to_path_buf(), directory.to_path_buf());
    one == two || run_with_timeout(FILE_TIMEOUT, move || is_same_file(&one, &two)).unwrap_or(false)
}

/// Prints a notice if reading takes longer than [`SLOW_READ_NOTICE_AFTER`], so that a hanging mount isn't silent.
/// Dropping it cancels the notice.
struct SlowReadNotice(#[expect(dead_code, reason = "its drop ends the thread")] mpsc::Sender<()>);

impl SlowReadNotice {
    fn start() -> Self {
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(SLOW_READ_NOTICE_AFTER) == Err(mpsc::RecvTimeoutError::Timeout) {
                print_stderr(&format!(
                    "the files are not read after {} s: does a mount or a store of keys hang? Try `ls` on the folders of the \
                    configuration and the keys",
                    SLOW_READ_NOTICE_AFTER.as_secs()
                ));
            }
        });
        Self(end)
    }
}

fn file_timeout_error() -> CliError {
    let seconds = FILE_TIMEOUT.as_secs();
    CliError::Failed(format!(
        "the files of the configuration are not read within {seconds} s: does a mount hang?"
    ))
}

/// Runs the command that `arguments` name, and returns its exit code.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    clock_and_rng: &ClockAndRng,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = Cli::command().color(findings::color_choice());
    let matches = command.try_get_matches_from(&arguments);
    let parsed =
        matches.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, MachineFormat::of(&matches))));
    let (cli, format) = match parsed {
        Ok(parsed) => parsed,
        // Requested help goes to standard output.
        Err(help) if help.exit_code() == 0 => {
            record_stdout_result(help.print());
            return exit_code(flush_stdout(OutputLoss::Text));
        }
        Err(mut error) => {
            suggest_known(&mut error, &arguments);
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let loss = cli.command.output_loss();
    let done = cli.run(environment, clock_and_rng);
    finalize_modules();
    let loss = if done.is_ok() { loss } else { OutputLoss::Text };
    if let (Err(error), Some(format)) = (&done, format)
        && !STDOUT_USED.load(Ordering::Relaxed)
    {
        format.print_error(error);
    }
    let code = exit_code(done);
    flush_stdout(loss).map_or_else(|failure| exit_code(Err(failure)), |()| code)
}

/// The document that `--json` or `--sarif` requests.
#[derive(Clone, Copy)]
enum MachineFormat {
    Json,
    Sarif,
}

impl MachineFormat {
    fn of(matches: &ArgMatches) -> Option<Self> {
        let has = |name: &str| matches!(matches.try_get_one::<bool>(name), Ok(Some(true)));
        match matches.subcommand() {
            Some((_, inner)) => Self::of(inner),
            None if has("json") => Some(Self::Json),
            None if has("sarif") => Some(Self::Sarif),
            None => None,
        }
    }

    /// Prints the document of a command that failed before it printed a result.
    fn print_error(self, error: &CliError) {
        let reason = error.summary();
        let none = (Vec::new(), Vec::new());
        let (problems, warnings) = match error {
            CliError::Configuration { problems, warnings } => (problems, warnings),
            _ => (&none.0, &none.1),
        };
        match self {
            Self::Json => {
                print_json(
                    &json!({"ok": false, "error": reason, "problems": problems, "warnings": warnings}),
                );
            }
            Self::Sarif => print_json(&findings::sarif_failure(&reason)),
        }
    }
}

/// Names the loss if standard output can't be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputLoss {
    /// Text that another run prints again.
    Text,
    /// The command wrote files, which still exist.
    TextAboutFiles,
    /// An API key, which exists nowhere else.
    ApiKey,
    ApiKeyAndFiles,
}

impl OutputLoss {
    const fn holds_api_key(self) -> bool {
        matches!(self, Self::ApiKey | Self::ApiKeyAndFiles)
    }

    /// Describes what to do about it, for the end of a message.
    const fn advice(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::TextAboutFiles => {
                ". Files that the command wrote are there all the same: check them before you run it again"
            }
            Self::ApiKey => ". `tokenmint callers new` creates another API key",
            Self::ApiKeyAndFiles => {
                ". The files were written all the same. `tokenmint callers new` creates another API key"
            }
        }
    }
}

impl Command {
    const fn output_loss(&self) -> OutputLoss {
        match self {
            Self::Init(_) => OutputLoss::ApiKeyAndFiles,
            Self::Callers(_) => OutputLoss::ApiKey,
            Self::SalesforceMetadata(command) if command.command.writes_files() => OutputLoss::TextAboutFiles,
            Self::Keys(command) if command.writes_files() => OutputLoss::TextAboutFiles,
            _ => OutputLoss::Text,
        }
    }
}

impl Cli {
    fn run(self, environment: &Environment, clock_and_rng: &ClockAndRng) -> Result<(), CliError> {
        let reads_none = matches!(
            self.command,
            Command::Dev(_)
                | Command::Init(_)
                | Command::Openapi(_)
                | Command::Schema(_)
                | Command::Completions(_)
        );
        if reads_none && self.config.is_some() {
            return Err(CliError::Usage(
                "this command reads no configuration: leave --config out".to_owned(),
            ));
        }
        let variable = || environment.get(CONFIG_VARIABLE).filter(|text| !text.is_empty()).map(PathBuf::from);
        let context = &CliContext { config: self.config.or_else(variable), environment, clock_and_rng };
        match self.command {
            Command::Serve(command) => command.run(context, serve::ServeCommand::run),
            Command::Dev(command) => command.run(context),
            Command::Init(command) => command.run(context),
            Command::Check(command) => command.run(context, check::CheckCommand::run),
            Command::Keys(command) => command.run(context),
            Command::Jwk(command) => command.run(context, jwk::JwkCommand::run),
            Command::Jwks(command) => command.run(context, jwk::JwksCommand::run),
            Command::Mint(command) => command.run(context, mint::MintCommand::run),
            Command::Verify(command) => command.run(context, verify::VerifyCommand::run),
            Command::Doctor(command) => command.run(context, doctor::DoctorCommand::run),
            Command::Callers(command) => command.run(context),
            Command::SalesforceMetadata(command) => {
                command.run(context, salesforce_metadata::SalesforceMetadataCommand::run)
            }
            Command::Sandbox(command) => command.run(context, sandbox::SandboxCommand::run),
            Command::Healthcheck(command) => command.run(context, healthcheck::HealthcheckCommand::run),
            Command::Openapi(command) => command.run(),
            Command::Schema(command) => command.run(),
            Command::Completions(command) => command.run(&mut Self::command()),
        }
    }
}

/// Adds the known commands or options to an error about an unknown one.
fn suggest_known(error: &mut clap::Error, arguments: &[OsString]) {
    let root = Cli::command();
    let named = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    let command = named.fold(&root, |command, name| command.find_subcommand(name).unwrap_or(command));
    let known: Vec<String> = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect()
        }
        ErrorKind::UnknownArgument => {
            let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
            shown.filter_map(clap::Arg::get_long).map(|name| format!("--{name}")).collect()
        }
        _ => return,
    };
    if known.is_empty() {
        return;
    }
    let tip = textwrap::fill(&format!("there are: {}", known.join(", ")), line_width().saturating_sub(7));
    let tip = tip.replace('\n', "\n       ").into();
    let tips = match error.get(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(tips)) => tips.iter().cloned().chain([tip]).collect(),
        _ => vec![tip],
    };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
}

/// Lists the known names, for the end of a message.
fn list_known_names<T: Display>(known: impl IntoIterator<Item = T>) -> String {
    let known: Vec<String> = known.into_iter().map(|name| name.to_string()).collect();
    if known.is_empty() { "there is none".to_owned() } else { format!("there are: {}", known.join(", ")) }
}

/// Parses `1h`, `90s`, or a number of seconds.
fn parse_duration_arg(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| parse_whole_seconds(text))
}

/// Parses `127.0.0.1:8080` or `localhost:8080`.
fn parse_tcp_address(text: &str) -> Result<SocketAddr, String> {
    match ListenAddress::parse(text, Path::new(""))? {
        ListenAddress::Tcp(address) => Ok(address),
        ListenAddress::Unix(_) => Err("must be an address and a port, for example localhost:8080".to_owned()),
    }
}

fn exit_code(done: Result<(), CliError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::ProblemsFound) => ExitCode::from(1),
        Err(CliError::Failed(reason)) => {
            print_stderr(&format!("tokenmint: {reason}"));
            ExitCode::from(1)
        }
        Err(CliError::Usage(reason)) => {
            print_stderr(&format!("tokenmint: {reason}"));
            ExitCode::from(2)
        }
        Err(CliError::Configuration { problems, warnings }) => {
            for warning in &warnings {
                print_stderr(&format!("warning: {warning}"));
            }
            for problem in &problems {
                print_stderr(&problem.to_string());
            }
            let count = match problems.len() {
                1 => "1 problem".to_owned(),
                more => format!("{more} problems"),
            };
            print_stderr(&format!("tokenmint: bad configuration: {count}"));
            ExitCode::from(64)
        }
    }
}

/// The first unreported write error of this process's standard output.
static STDOUT_ERROR: Mutex<Option<io::Error>> = Mutex::new(None);

/// Whether anything was printed to standard output.
static STDOUT_USED: AtomicBool = AtomicBool::new(false);

/// Prints a line to standard output. A write error makes the command fail: [`run`] checks for it at the end.
fn print_line(text: &str) {
    record_stdout_result(writeln!(stdout(), "{text}"));
}

/// Records a write error of standard output.
fn record_stdout_result(written: io::Result<()>) {
    STDOUT_USED.store(true, Ordering::Relaxed);
    if let Err(error) = written {
        STDOUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Flushes standard output, and fails if anything could not be written. A reader that closes its pipe, for example `head`, has read
/// enough, unless an API key is lost.
fn flush_stdout(loss: OutputLoss) -> Result<(), CliError> {
    record_stdout_result(stdout().flush());
    let error = STDOUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner).take();
    let is_failure = |error: &io::Error| error.kind() != io::ErrorKind::BrokenPipe || loss.holds_api_key();
    error.filter(is_failure).map_or(Ok(()), |error| {
        Err(CliError::Failed(format!(
            "standard output can't be written ({error}), and the output is lost{}",
            loss.advice()
        )))
    })
}

fn print_stderr(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

fn print_json(value: &impl Serialize) {
    print_line(&serde_json::to_string_pretty(value).expect("strings can be written to memory"));
}

/// Generates an API key: 256 random bits after a prefix for secret scanners.
fn new_api_key(randomness: &dyn Randomness) -> Result<SecretString, NoRandomness> {
    let mut bytes = [0; 32];
    randomness.fill(&mut bytes)?;
    Ok(SecretString::from(format!("tm_{}", URL_SAFE_NO_PAD.encode(bytes))))
}

/// Returns the hash of an API key, as the configuration stores it.
fn hash_api_key(api_key: &SecretString) -> String {
    HEXLOWER.encode(&sha256(api_key.expose_secret().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn examples(command: &clap::Command, without: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            if !help.contains("tokenmint ") {
                without.push(command.get_name().to_owned());
            }
            command.get_subcommands().for_each(|inner| examples(inner, without));
        }
        let mut without = Vec::new();
        examples(&Cli::command(), &mut without);
        assert!(without.is_empty(), "no example in the help of {without:?}");
    }
}
