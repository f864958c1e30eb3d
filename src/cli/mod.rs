//! The command line: one file a command.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 fine, 1 it found problems
//! or failed, 2 wrong usage, 64 bad configuration.

mod ask;
mod callers;
mod check;
mod completions;
mod dev;
mod doctor;
mod findings;
mod healthcheck;
mod init;
mod jwk;
mod keys;
mod mint;
mod openapi;
mod salesforce_metadata;
mod sandbox;
mod serve;
mod verify;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _, stderr, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::builder::Styles;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches as _, Parser, Subcommand};
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::app::logging::Log;
use crate::app::reload::Source;
use crate::app::{self, Ambient, Loaded};
use crate::clock::{NoRandomness, Randomness};
use crate::config::section::whole_seconds;
use crate::config::{
    AuditLog, CONFIG_VARIABLE, Config, DEFAULT_FILE, Environment, Invalid, Keyset, Listen, Name, OpsAddress,
    Origin, Problem,
};
use crate::hash::sha256;

/// Mints the tokens that a web backend needs on each page load: Salesforce identity tokens, OAuth assertions and
/// Intercom user JWTs.
#[derive(Parser)]
#[command(name = "tokenmint", version, term_width = width(), arg_required_else_help = true)]
#[command(help_template = grouped_help())]
#[command(after_help = "Try it without any configuration: tokenmint dev\n\
                        What a command does: tokenmint COMMAND --help")]
pub struct Cli {
    /// The `--config` of the command, written before it
    #[arg(long, hide = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Reads<serve::Serve>),
    Dev(dev::Dev),
    Init(init::Init),
    Check(Reads<check::Check>),
    #[command(subcommand)]
    Keys(keys::Keys),
    Jwk(Reads<jwk::Jwk>),
    Jwks(Reads<jwk::Jwks>),
    Mint(Reads<mint::Mint>),
    Verify(Reads<verify::Verify>),
    Doctor(Reads<doctor::Doctor>),
    #[command(subcommand)]
    Callers(callers::Callers),
    SalesforceMetadata(Reads<salesforce_metadata::SalesforceMetadata>),
    Sandbox(Reads<sandbox::SandboxCommand>),
    Healthcheck(Reads<healthcheck::Healthcheck>),
    Openapi(openapi::Openapi),
    Completions(completions::Completions),
}

/// The commands by what somebody wants to do.
const GROUPS: &[(&str, &[&str])] = &[
    ("Try it", &["dev", "sandbox"]),
    ("Set it up", &["init", "callers", "check", "salesforce-metadata"]),
    ("Run it", &["serve", "healthcheck"]),
    ("Keys", &["keys", "jwk", "jwks"]),
    ("Tokens, and why they are refused", &["mint", "verify", "doctor"]),
];

/// The template of `tokenmint --help`: clap knows no groups of commands.
fn grouped_help() -> String {
    let commands = Command::augment_subcommands(clap::Command::new("tokenmint"));
    let about = |name: &str| {
        let command = commands.find_subcommand(name).expect("each group has names of commands");
        command.get_about().map(ToString::to_string).unwrap_or_default()
    };
    let names = || commands.get_subcommands().map(clap::Command::get_name);
    let rest = names().filter(|name| !GROUPS.iter().any(|(_, group)| group.contains(name))).collect();
    let longest = names().map(str::len).max().unwrap_or_default();
    let styles = Styles::styled();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let command = |name: &str| {
        let indent = longest + 4;
        let about =
            textwrap::wrap(&about(name), width().saturating_sub(indent)).join(&format!("\n{:indent$}", ""));
        format!("  {literal}{name:longest$}{literal:#}  {about}\n")
    };
    let group = |(title, names): (&str, Vec<&str>)| {
        let commands: String = names.into_iter().map(command).collect();
        format!("\n{header}{title}:{header:#}\n{commands}")
    };
    let all = GROUPS.iter().map(|(title, names)| (*title, names.to_vec())).chain([("More", rest)]);
    let groups: String = all.map(group).collect();
    format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{groups}\n{header}Options:{header:#}\n{{options}}{{after-help}}\n"
    )
}

/// Lines are broken here on a wider terminal.
const WIDEST: usize = 100;
const NARROWEST: usize = 40;

/// How many columns a line of text may take: those of the terminal, 80 where there is none.
fn width() -> usize {
    textwrap::termwidth().clamp(NARROWEST, WIDEST)
}

// A command that reads the configuration; the others have no `--config`. A doc comment would take the place of the command's own.
#[derive(Args)]
struct Reads<C: Args> {
    #[command(flatten)]
    command: C,
    #[arg(
        long,
        value_name = "FILE",
        help = "The configuration [env: TOKENMINT_CONFIG] [default: tokenmint.toml]"
    )]
    config: Option<PathBuf>,
}

impl<C: Args> Reads<C> {
    fn run(
        self,
        context: &Context<'_>,
        run: impl FnOnce(C, &Context<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let config = self.config.or_else(|| context.config.clone());
        run(self.command, &Context { config, ..*context })
    }
}

/// Why a command did not do what it was asked.
pub(crate) enum Failure {
    /// It ran, and failed: 1.
    Failed(String),
    /// It ran, and said what it found: 1.
    Found,
    /// It can't be asked so: 2.
    Usage(String),
    /// 64.
    Configuration { problems: Vec<Problem>, warnings: Vec<Problem> },
}

impl Failure {
    fn failed(reason: impl Display) -> Self {
        Self::Failed(reason.to_string())
    }

    const fn of_files(problems: Vec<Problem>) -> Self {
        Self::Configuration { problems, warnings: Vec::new() }
    }
}

impl Failure {
    /// The reason in one line.
    fn reason(&self) -> String {
        match self {
            Self::Found => "problems were found".to_owned(),
            Self::Failed(reason) | Self::Usage(reason) => reason.clone(),
            Self::Configuration { problems, .. } => {
                problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

impl From<Invalid> for Failure {
    fn from(Invalid { problems, warnings, .. }: Invalid) -> Self {
        Self::Configuration { problems, warnings }
    }
}

impl From<NoRandomness> for Failure {
    fn from(error: NoRandomness) -> Self {
        Self::failed(error)
    }
}

/// What a command is given of the world.
pub(crate) struct Context<'a> {
    config: Option<PathBuf>,
    environment: &'a Environment,
    ambient: &'a Ambient,
}

impl Context<'_> {
    /// Whether some setting comes from the environment.
    fn is_configured_by_environment(&self) -> bool {
        self.environment.has_overrides()
    }

    /// What the configuration is read from, for people: its file, or the environment alone.
    fn configuration(&self) -> String {
        let default = Path::new(DEFAULT_FILE);
        if self.config.is_none() && !default.exists() && self.is_configured_by_environment() {
            return "the environment".to_owned();
        }
        let file = self.config.as_deref().unwrap_or(default);
        std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf()).display().to_string()
    }

    /// Where the configuration comes from.
    fn source(&self) -> Source {
        Source { file: self.config.clone(), environment: self.environment.clone() }
    }

    /// Where a service that runs with this configuration answers operators, whatever else is wrong with it.
    fn ops_address(&self) -> Result<OpsAddress, Failure> {
        let Source { file, environment } = self.source();
        let address = within(PATIENCE, move || OpsAddress::load(file.as_deref(), &environment));
        address.ok_or_else(hangs)?.map_err(|problem| Failure::of_files(vec![problem]))
    }

    /// The configuration alone; no key is opened.
    fn config(&self) -> Result<Config, Failure> {
        let loaded = Config::load(self.config.as_deref(), self.environment);
        loaded.map_err(Failure::from)
    }

    /// The keysets of the configuration, also where something else in it isn't right yet.
    fn keysets(&self) -> Result<BTreeMap<Name, Keyset>, Failure> {
        let source = self.source();
        match within(PATIENCE, move || source.load()).ok_or_else(hangs)? {
            Ok(config) => Ok(config.keysets),
            Err(invalid) if !invalid.keysets.is_empty() => Ok(invalid.keysets),
            Err(invalid) => Err(invalid.into()),
        }
    }

    /// The configuration and all that it names. Where something is wrong with the one, the other is looked
    /// into as well, so that all is reported at once.
    fn load(&self) -> Result<Loaded, Failure> {
        let _patience = Patience::begin();
        let clock = &*self.ambient.clock;
        match Config::load(self.config.as_deref(), self.environment) {
            Ok(config)
                if config.server.audit == AuditLog::Required
                    && !Log::takes_audit_lines(self.environment.get("RUST_LOG").map(String::as_str)) =>
            {
                let message = "hides audit lines, which server.audit requires: leave it out, or add tokenmint::audit=info";
                Err(Failure::of_files(vec![Problem::new(
                    "",
                    Origin::Variable("RUST_LOG".to_owned()),
                    message,
                )]))
            }
            Ok(config) => Loaded::new(config, clock).map_err(Failure::of_files),
            Err(Invalid { mut problems, warnings, keysets, .. }) => {
                problems.extend(app::key_problems(&keysets, clock));
                Err(Failure::Configuration { problems, warnings })
            }
        }
    }
}

/// How long files may take that a command can do without.
const PATIENCE: Duration = Duration::from_secs(3);

/// After so long a command that waits for files says so.
const LONG_READING: Duration = Duration::from_secs(10);

/// Runs `act` in a thread of its own for at most `patience`: on a mount that hangs only that thread hangs.
fn within<T: Send + 'static>(patience: Duration, act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = tell.send(act());
    });
    told.recv_timeout(patience).ok()
}

/// Says that reading takes long, where it does: a mount that hangs must not keep a command silent. It ends with its drop.
struct Patience(#[expect(dead_code, reason = "its drop ends the thread")] mpsc::Sender<()>);

impl Patience {
    fn begin() -> Self {
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            if ended.recv_timeout(LONG_READING) == Err(mpsc::RecvTimeoutError::Timeout) {
                complain(&format!(
                    "the files are not read after {} s: does a mount hang? `ls` on the folders of the configuration and the keys tells",
                    LONG_READING.as_secs()
                ));
            }
        });
        Self(end)
    }
}

fn hangs() -> Failure {
    let seconds = PATIENCE.as_secs();
    Failure::Failed(format!(
        "a file that the configuration names is not read within {seconds} s: does a mount hang?"
    ))
}

/// Runs the command that `arguments` name.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    ambient: &Ambient,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = Cli::command().color(findings::color_choice());
    let matches = command.try_get_matches_from(&arguments);
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        // Asked for, it goes to standard output.
        Err(help) if help.exit_code() == 0 => {
            wrote(help.print());
            return exit(all_said());
        }
        Err(mut error) => {
            list_known(&mut error, &arguments);
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let code = exit(cli.run(environment, ambient));
    all_said().map_or_else(|failure| exit(Err(failure)), |()| code)
}

impl Cli {
    fn run(self, environment: &Environment, ambient: &Ambient) -> Result<(), Failure> {
        let reads_none = matches!(
            self.command,
            Command::Dev(_) | Command::Init(_) | Command::Openapi(_) | Command::Completions(_)
        );
        if reads_none && self.config.is_some() {
            return Err(Failure::Usage("this command reads no configuration: leave --config out".to_owned()));
        }
        let variable = || environment.get(CONFIG_VARIABLE).filter(|text| !text.is_empty()).map(PathBuf::from);
        let context = &Context { config: self.config.or_else(variable), environment, ambient };
        match self.command {
            Command::Serve(command) => command.run(context, serve::Serve::run),
            Command::Dev(command) => command.run(context),
            Command::Init(command) => command.run(context),
            Command::Check(command) => command.run(context, check::Check::run),
            Command::Keys(command) => command.run(context),
            Command::Jwk(command) => command.run(context, jwk::Jwk::run),
            Command::Jwks(command) => command.run(context, jwk::Jwks::run),
            Command::Mint(command) => command.run(context, mint::Mint::run),
            Command::Verify(command) => command.run(context, verify::Verify::run),
            Command::Doctor(command) => command.run(context, doctor::Doctor::run),
            Command::Callers(command) => command.run(context),
            Command::SalesforceMetadata(command) => {
                command.run(context, salesforce_metadata::SalesforceMetadata::run)
            }
            Command::Sandbox(command) => command.run(context, sandbox::SandboxCommand::run),
            Command::Healthcheck(command) => command.run(context, healthcheck::Healthcheck::run),
            Command::Openapi(command) => command.run(),
            Command::Completions(command) => command.run(&mut Self::command()),
        }
    }
}

/// Adds to a complaint about an unknown command or option those that there are.
fn list_known(error: &mut clap::Error, arguments: &[OsString]) {
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
    let tip = textwrap::fill(&format!("there are: {}", known.join(", ")), width().saturating_sub(7));
    let tip = tip.replace('\n', "\n       ").into();
    let tips = match error.get(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(tips)) => tips.iter().cloned().chain([tip]).collect(),
        _ => vec![tip],
    };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
}

/// The names that could have been meant, for the end of a message.
fn there_are<T: Display>(known: impl IntoIterator<Item = T>) -> String {
    let known: Vec<String> = known.into_iter().map(|name| name.to_string()).collect();
    if known.is_empty() { "there is none".to_owned() } else { format!("there are: {}", known.join(", ")) }
}

/// `1h`, `90s`, or a number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| whole_seconds(text))
}

/// `127.0.0.1:8080`, `localhost:8080`.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    match Listen::parse(text, Path::new(""))? {
        Listen::Tcp(address) => Ok(address),
        Listen::Unix(_) => Err("must be an address and a port, as localhost:8080".to_owned()),
    }
}

fn exit(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Found) => ExitCode::from(1),
        Err(Failure::Failed(reason)) => {
            complain(&format!("tokenmint: {reason}"));
            ExitCode::from(1)
        }
        Err(Failure::Usage(reason)) => {
            complain(&format!("tokenmint: {reason}"));
            ExitCode::from(2)
        }
        Err(Failure::Configuration { problems, warnings }) => {
            for warning in &warnings {
                complain(&format!("warning: {warning}"));
            }
            for problem in &problems {
                complain(&problem.to_string());
            }
            let count = match problems.len() {
                1 => "1 problem".to_owned(),
                more => format!("{more} problems"),
            };
            complain(&format!("tokenmint: bad configuration: {count}"));
            ExitCode::from(64)
        }
    }
}

/// The first error of this process's standard output that nobody was told of.
static UNSAID: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes to standard output. What can't be written makes the command fail: [`run`] looks at it for all of them.
fn say(text: &str) {
    wrote(writeln!(stdout(), "{text}"));
}

/// Remembers what became of a write to standard output. A reader that has gone away is no failure of ours, and no panic.
fn wrote(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        UNSAID.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Whether all that was said could be written.
fn all_said() -> Result<(), Failure> {
    wrote(stdout().flush());
    let unsaid = UNSAID.lock().unwrap_or_else(PoisonError::into_inner).take();
    unsaid.map_or(Ok(()), |error| {
        Err(Failure::Failed(format!(
            "standard output can't be written ({error}), and what it should have shown is lost. Files are written all the same: \
             look at them before you run the command again; for an API key that was lost, `tokenmint callers new` makes another"
        )))
    })
}

fn complain(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

fn say_json(value: &impl Serialize) {
    say(&serde_json::to_string_pretty(value).expect("strings can be written to memory"));
}

/// An API key: 256 random bits behind a prefix that secret scanners can know.
fn new_api_key(randomness: &dyn Randomness) -> Result<SecretString, NoRandomness> {
    let mut bytes = [0; 32];
    randomness.fill(&mut bytes)?;
    Ok(SecretString::from(format!("tm_{}", URL_SAFE_NO_PAD.encode(bytes))))
}

/// What the configuration keeps of an API key.
fn api_key_sha256(api_key: &SecretString) -> String {
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
