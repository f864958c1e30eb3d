//! `tokenmint doctor`: every question of Salesforce's troubleshooting page, and more, answered from what there
//! is.

use std::fmt;
use std::fs::File;
use std::io::{IsTerminal as _, Read, stdin};
use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use super::findings::{self, Form, Page};
use super::{Context, Failure, complain, say_json};
use crate::app::{self, Loaded};
use crate::config::{Config, Problem};
use crate::doctor::{
    self, Answer, CASES, Configured, Given, JwkDocument, Known, Material, Outcome, Purpose, Readers,
    UnverifiedToken,
};
use crate::files::{Opened, Unreadable};
use crate::tokens::Subject;

/// No key, JWK Set or token comes near.
const LARGEST_FILE: u64 = 1 << 20;

/// Find out why chats are a guest's, keys don't upload, or tokens aren't taken
///
/// Answers every question of Salesforce's page "Troubleshooting User Verification", and more, from the configuration
/// and from what else you give: files with a private key, a certificate, a JWK or a JWT, in any order. Works without
/// any configuration. Asks nobody, unless with --online or an address in --jwks.
#[derive(Args)]
#[command(
    after_help = "Example: tokenmint doctor --online\n         tokenmint doctor WebAppKey1.jwk app.key token.txt"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct Doctor {
    /// Files to look at: a private key, a certificate, a JWK, a JWT; `-` is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A JWT; `-` reads it from standard input, which keeps it out of the shell's history
    #[arg(long, value_name = "JWT")]
    token: Option<SecretString>,
    /// A JWK that was, or will be, uploaded to Salesforce
    #[arg(long, value_name = "FILE")]
    jwk: Vec<PathBuf>,
    /// A JWK Set that an endpoint serves: its address, or a file
    #[arg(long, value_name = "URL")]
    jwks: Vec<String>,
    /// The JSON Web Key Issuer that Setup shows
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// What the tokens are for [default: told from what stands in them]
    #[arg(long = "as", value_name = "KIND")]
    purpose: Option<Purpose>,
    /// Ask: the JWKS at the public URL, and Salesforce for one token a profile
    #[arg(long)]
    online: bool,
    /// For whom the identity token of --online speaks [default: tokenmint-doctor]
    #[arg(long, value_name = "SUBJECT", requires = "online")]
    sub: Option<String>,
    /// Print the checks that passed as well
    #[arg(short, long)]
    verbose: bool,
    /// Print the findings as JSON
    #[arg(long, conflicts_with = "sarif")]
    json: bool,
    /// Print the findings as SARIF 2.1.0
    #[arg(long)]
    sarif: bool,
    /// Print every check that there is, and look at nothing
    #[arg(long)]
    list: bool,
}

impl Doctor {
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        if self.list {
            list(self.json);
            return Ok(());
        }
        let given = self.files.iter().chain(&self.jwk);
        given.enumerate().try_for_each(|(at, path)| is_there(at, path))?;
        let world = World::of(context, self.nothing_given())?;
        let mut given = Given { issuer: self.issuer.clone(), purpose: self.purpose, ..Given::default() };
        for path in &self.files {
            given.add(read(path, &world)?);
        }
        for path in &self.jwk {
            given.jwks.push(jwk_file(path, false)?);
        }
        if let Some(token) = &self.token {
            given.tokens.push(token_argument(token)?);
        }
        let runtime = app::runtime().map_err(Failure::failed)?;
        for source in &self.jwks {
            add_jwks(source, &mut given, &runtime, context)?;
        }
        let answers = self.online.then(|| runtime.block_on(self.ask(&world, context))).transpose()?;
        let now = context.ambient.clock.now();
        let report = doctor::examine(&Known { now, configured: world.configured(), given, answers });
        let verdict = report.verdict();
        let form = match (self.json, self.sarif) {
            (true, _) => Form::Json,
            (_, true) => Form::Sarif,
            _ => Form::Text { all: self.verbose },
        };
        findings::print(form, &report, &verdict, world.source.as_deref(), world.file.as_deref());
        if verdict.outcome == Outcome::Fail { Err(Failure::Found) } else { Ok(()) }
    }

    const fn nothing_given(&self) -> bool {
        self.files.is_empty() && self.jwk.is_empty() && self.jwks.is_empty() && self.token.is_none()
    }

    async fn ask(&self, world: &World, context: &Context<'_>) -> Result<Vec<Answer>, Failure> {
        let Some(loaded) = &world.loaded else {
            return Ok(Vec::new());
        };
        let subject = self.sub.clone().map(|sub| Subject::parse("sub", sub)).transpose();
        let subject = subject.map_err(|objection| Failure::Usage(format!("--sub {}", objection.message)))?;
        let ambient = (context.ambient.clock.clone(), context.ambient.randomness.clone());
        let state = app::state_directory(&loaded.config);
        let answers = doctor::ask(&loaded.config, &loaded.ring, ambient, Some(state), subject);
        answers.await.map_err(Failure::failed)
    }
}

/// The configuration as far as there is one.
pub(super) struct World {
    pub loaded: Option<Loaded>,
    /// Where it is sound and its files aren't.
    config: Option<Config>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    pub file: Option<PathBuf>,
    /// What the configuration was read from, if any was.
    pub source: Option<String>,
}

impl World {
    /// Without a configuration there must be something else to look at.
    pub fn of(context: &Context<'_>, needed: bool) -> Result<Self, Failure> {
        let named = context.config.is_some();
        let file = context.config.clone().unwrap_or_else(|| PathBuf::from(crate::config::DEFAULT_FILE));
        let mut world = Self {
            loaded: None,
            config: None,
            problems: Vec::new(),
            warnings: Vec::new(),
            file: None,
            source: None,
        };
        if !named && !file.exists() && !context.is_configured_by_environment() {
            if !needed {
                return Ok(world);
            }
            let reason = "there is no tokenmint.toml here, and nothing else to look at: name a configuration with \
                          --config, or give files, as in `tokenmint doctor app.key WebAppKey1.jwk token.txt`";
            return Err(Failure::Usage(reason.to_owned()));
        }
        world.source = Some(context.configuration());
        world.file = Some(file).filter(|file| file.exists());
        match context.load() {
            Ok(loaded) => world.loaded = Some(loaded),
            Err(Failure::Configuration { problems, warnings }) => {
                (world.problems, world.warnings) = (problems, warnings);
                world.config = context.config().ok();
                let source = context.configuration();
                world.source = Some(format!("{source}, which doesn't load (`tokenmint check` says why)"));
            }
            Err(other) => return Err(other),
        }
        Ok(world)
    }

    /// Those of its keysets: an encrypted key that was given may be one of theirs.
    fn passphrases(&self) -> Vec<&SecretString> {
        let config = self.loaded.as_ref().map(|loaded| &loaded.config).or(self.config.as_ref());
        let keysets = config.into_iter().flat_map(|config| config.keysets.values());
        keysets.filter_map(|keyset| keyset.passphrase.as_ref()).collect()
    }

    /// Why it doesn't load.
    pub fn refused(self) -> Failure {
        Failure::Configuration { problems: self.problems, warnings: self.warnings }
    }

    pub fn configured(&self) -> Configured<'_> {
        Configured {
            config: self.loaded.as_ref().map(|loaded| &loaded.config).or(self.config.as_ref()),
            ring: self.loaded.as_ref().map(|loaded| &loaded.ring),
            problems: &self.problems,
            warnings: self.warnings.iter().chain(self.loaded.iter().flat_map(Loaded::warnings)).collect(),
        }
    }
}

impl ValueEnum for Purpose {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Identity => "An identity token for a Salesforce channel".to_owned(),
            Self::Assertion => "An assertion of the OAuth 2.0 JWT bearer flow".to_owned(),
            Self::Hs256(_) => self.name().replacen('a', "A", 1),
        };
        Some(PossibleValue::new(self.word()).help(help))
    }
}

fn list(json: bool) {
    if json {
        say_json(&CASES.as_slice());
        return;
    }
    let mut page = Page::new();
    let longest = CASES.iter().map(|case| case.id.len()).max().unwrap_or_default();
    for case in &CASES {
        page.line(&format!("{:longest$}  {}", case.id, case.title));
    }
}

/// What `path` holds, and who can read it.
fn bytes_of(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Readers), Failure> {
    let failed = |error: &dyn fmt::Display| Failure::Failed(format!("{}: {error}", name(path)));
    let pipe = |from: &mut dyn Read| {
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(LARGEST_FILE).unwrap_or_default() + 2));
        from.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(failed(&Unreadable::TooLarge(LARGEST_FILE)));
        }
        Ok((bytes, Readers::Unknown))
    };
    if path == Path::new("-") {
        if stdin().is_terminal() {
            complain("waiting for standard input: paste the text here, then press Enter and Ctrl-D");
        }
        return pipe(&mut stdin());
    }
    match Opened::open(path) {
        Ok(file) => {
            let refused = file.only_ours_reads().err();
            let readers = refused.map_or(Readers::Ours, |error| Readers::Others(error.to_string()));
            Ok((file.read(LARGEST_FILE).map_err(|error| failed(&error))?, readers))
        }
        Err(error @ Unreadable::NotRegular("a directory")) => {
            let advice = "name the files in it, or with --config the configuration that names it";
            Err(failed(&format_args!("{error}: {advice}")))
        }
        // A shell's `<(command)`.
        Err(Unreadable::NotRegular("a FIFO")) => pipe(&mut File::open(path).map_err(|error| failed(&error))?),
        Err(error) => Err(failed(&error)),
    }
}

fn text_of(path: &Path) -> Result<SecretString, Failure> {
    let (bytes, _) = bytes_of(path)?;
    let text = crate::keys::text(&bytes);
    text.map(SecretString::from).map_err(|why| Failure::Failed(format!("{}: {why}", name(path))))
}

/// Before any path is shown: people give a token or a key where its file belongs.
///
/// # Errors
/// Says which argument names no file.
pub(super) fn is_there(at: usize, path: &Path) -> Result<(), Failure> {
    if path == Path::new("-") || path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let reason = format!(
        "argument {} names no file that is there. It isn't shown, as it may be a secret; a token goes in by a pipe: \
         `… | tokenmint doctor --token -`",
        at + 1
    );
    Err(Failure::Failed(reason))
}

fn name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

/// A file, recognised by what it holds.
pub(super) fn read(path: &Path, world: &World) -> Result<Material, Failure> {
    let (bytes, readers) = bytes_of(path)?;
    doctor::recognise(&name(path), &bytes, readers, &world.passphrases()).map_err(Failure::Failed)
}

/// A file that holds a key of any kind, to verify with.
pub(super) fn read_key(path: &Path, world: &World) -> Result<Material, Failure> {
    let material = read(path, world)?;
    if matches!(material, Material::Token(_)) {
        return Err(Failure::Failed(format!("{}: it is a JWT, not a key to verify one with", name(path))));
    }
    if let Some(why) = material.refusal() {
        return Err(Failure::Failed(format!("{}: {why}", name(path))));
    }
    if let Some(warning) = material.warning() {
        complain(&format!("warning: {} {warning}", name(path)));
    }
    Ok(material)
}

pub(super) fn jwk_file(path: &Path, served: bool) -> Result<JwkDocument, Failure> {
    let document = JwkDocument::read(&name(path), text_of(path)?.expose_secret());
    Ok(JwkDocument { served, ..document })
}

pub(super) fn token_argument(token: &SecretString) -> Result<UnverifiedToken, Failure> {
    if token.expose_secret() == "-" {
        return Ok(UnverifiedToken::read("the token", text_of(Path::new("-"))?.expose_secret()));
    }
    Ok(UnverifiedToken::read("the token", token.expose_secret()))
}

pub(super) fn add_jwks(
    source: &str,
    given: &mut Given,
    runtime: &tokio::runtime::Runtime,
    context: &Context<'_>,
) -> Result<(), Failure> {
    if source.starts_with("https://") || source.starts_with("http://") {
        let fetched = runtime.block_on(doctor::fetch(source, &*context.ambient.clock));
        given.fetched.push(fetched);
    } else {
        let path = Path::new(source);
        is_there(given.jwks.len(), path)?;
        given.jwks.push(jwk_file(path, true)?);
    }
    Ok(())
}
