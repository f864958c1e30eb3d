//! `tokenmint init`: writes a configuration, a key with its certificate, and an API key for a first caller.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::keys::{KeyFiles, KeyPair, KeysetUsage, check_kid_unused, create_directory, write_new};
use super::{CliContext, CliError, hash_api_key, new_api_key, print_json, print_line, print_stderr};
use crate::app::{self, LoadedConfig};
use crate::config::{Config, DEFAULT_CONFIG_FILE, Environment, Issuer, KeyId, Problem};
use crate::keys::KeyDirectory;
use crate::shell;

/// Write a configuration, a key with its certificate, and an API key for a first caller
///
/// Nothing is overwritten. The result is checked like `tokenmint check` does. Values that only you know are left
/// empty and listed.
#[derive(Args)]
#[command(
    after_help = "Example: tokenmint init /etc/tokenmint --issuer intercom.com --kid WebAppKey1\n         \
                  tokenmint init etc --key WebAppKey1.key --with fin,messaging"
)]
pub(super) struct InitCommand {
    /// Where to write
    #[arg(default_value = ".")]
    directory: PathBuf,
    /// The JSON Web Key Issuer of the keyset in Salesforce Setup, byte for byte [default: `tokenmint`]
    #[arg(long)]
    issuer: Option<String>,
    /// The key id of the first key [default: the stem of a --key file named `KID.key`, else `WebAppKey1`]
    #[arg(long, value_parser = parse_kid)]
    kid: Option<KeyId>,
    /// A private key (PEM) to copy, instead of a new one
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Optional features to write sections for
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    with: Vec<InitFeature>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InitFeature {
    /// Intercom's user JWT, and a bundle of both tokens for each page load
    Fin,
    /// The exchange of identity tokens for messaging access tokens
    Messaging,
    /// The OAuth 2.0 JWT bearer flow, with a key of its own
    Oauth,
}

fn parse_kid(text: &str) -> Result<KeyId, String> {
    KeyId::parse(text)
}

/// The key id of the OAuth flow's key.
const OAUTH_KID: &str = "CrmKey1";

impl InitCommand {
    pub(crate) fn run(self, context: &CliContext<'_>) -> Result<(), CliError> {
        let issuer = Issuer::parse(self.issuer.as_deref().unwrap_or("tokenmint"))
            .map_err(|message| CliError::Usage(format!("--issuer {message}")))?;
        let file = self.directory.join(DEFAULT_CONFIG_FILE);
        if fs::symlink_metadata(&file).is_ok() {
            return Err(CliError::Failed(format!("{} exists already; nothing was written", file.display())));
        }
        let keys = self.keys(context)?;
        let api_key = new_api_key(&*context.clock_and_rng.randomness)?;
        let mut written = CreatedFiles::default();
        let made = self.write(&keys, &issuer, &api_key, &file, context, &mut written)?;
        let to_do = check_written(&file, context).inspect_err(|_| {
            print_stderr("tokenmint: the written files are invalid, and were removed:");
        })?;
        written.0.clear();

        let (web, api_key) = (&made[0], api_key.expose_secret());
        if self.json {
            print_json(&json!({
                "config": file, "private_key": web.private_key, "caller": "web-backend", "api_key": api_key, "keys": made,
                "to_do": to_do,
            }));
            return Ok(());
        }
        print_line(&format!("{}  the configuration", file.display()));
        web.announce(KeysetUsage::Identity);
        made[1..].iter().for_each(|crm| crm.announce(KeysetUsage::Oauth));
        print_line(&format!("\nAPI key of the caller `web-backend`, shown only once:\n\n    {api_key}\n"));
        if to_do.is_empty() {
            print_line("The written files are checked: they are valid.");
        } else {
            print_line(
                "The written files are checked. These values are missing, because only you know them:\n",
            );
            for problem in &to_do {
                print_line(&format!("    {problem}"));
            }
            print_line("");
        }
        let look = if self.issuer.is_none() { "Set `issuer` of [identity.web], look" } else { "Look" };
        let file = shell::quote(file.display());
        print_line(&format!(
            "{look} with `tokenmint check --config {file}`, run it:\n\n    tokenmint serve --config {file}\n\nand \
            ask for a token:\n"
        ));
        print_line(&format!(
            "    curl -s http://127.0.0.1:8080/identity-token -H 'Authorization: Bearer {api_key}' \
             -H 'Content-Type: application/json' -d '{{\"sub\": \"user-1\"}}'"
        ));
        Ok(())
    }

    /// Generates or reads the keys, each with its folder and key id. Errors are reported before anything is
    /// written.
    fn keys(&self, context: &CliContext<'_>) -> Result<Vec<(PathBuf, KeyId, KeyPair)>, CliError> {
        let named = self.key.as_deref().and_then(|path| path.file_name()?.to_str()?.strip_suffix(".key"));
        let kid = self.kid.clone().or_else(|| KeyId::parse(named?).ok());
        let kid = kid.map_or_else(|| KeyId::parse("WebAppKey1"), Ok).map_err(CliError::failed)?;
        let folder = |name: &str| self.directory.join("keys").join(name);
        let oauth_kid = KeyId::parse(OAUTH_KID).map_err(CliError::failed)?;
        let with_oauth = self.with.contains(&InitFeature::Oauth);
        if with_oauth && kid == oauth_kid {
            return Err(CliError::Usage(format!(
                "`{kid}` is the id of the key that --with oauth creates, and ids are unique: give the key of \
                identity tokens another with --kid; nothing was written"
            )));
        }
        check_kid_unused(&folder("web"), &kid)?;
        let pair = match &self.key {
            Some(path) => KeyPair::read(path)?,
            None => KeyPair::generate(2048, context)?,
        };
        let mut keys = vec![(folder("web"), kid, pair)];
        if with_oauth {
            check_kid_unused(&folder("crm"), &oauth_kid)?;
            keys.push((folder("crm"), oauth_kid, KeyPair::generate(2048, context)?));
        }
        Ok(keys)
    }

    fn write(
        &self,
        keys: &[(PathBuf, KeyId, KeyPair)],
        issuer: &Issuer,
        api_key: &SecretString,
        file: &Path,
        context: &CliContext<'_>,
        written: &mut CreatedFiles,
    ) -> Result<Vec<KeyFiles>, CliError> {
        let mut all_made = Vec::new();
        written.directory(&self.directory, |path| {
            fs::create_dir_all(path).map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))
        })?;
        for (folder, kid, pair) in keys {
            written.directory(folder, create_directory)?;
            let made = pair.write(&KeyDirectory::lock(folder)?, kid, None, context)?;
            written.0.extend(made.paths().cloned());
            all_made.push(made);
        }
        let mut files = vec![(file.to_path_buf(), 0o644, self.configuration(issuer, &hash_api_key(api_key)))];
        let mut ignored = vec![("keys/.gitignore", "*.key")];
        if self.with.contains(&InitFeature::Fin) {
            ignored.push((".gitignore", INTERCOM_SECRET));
            if !self.directory.join(INTERCOM_SECRET).exists() {
                files.push((self.directory.join(INTERCOM_SECRET), 0o600, String::new()));
            }
        }
        for (name, secret) in ignored {
            let path = self.directory.join(name);
            match fs::read_to_string(&path) {
                Ok(text) if text.lines().any(|line| line.trim_start_matches('/') == secret) => {}
                Ok(_) => print_stderr(&format!(
                    "warning: {} exists already and doesn't list {secret}: add it, so that no secret is committed",
                    path.display()
                )),
                Err(_) => files.push((path, 0o644, format!("{secret}\n"))),
            }
        }
        for (path, mode, content) in files {
            write_new(&path, mode, &SecretString::from(content))?;
            written.0.push(path);
        }
        Ok(all_made)
    }

    fn configuration(&self, issuer: &Issuer, digest: &str) -> String {
        // TOML basic strings are escaped like JSON strings.
        let issuer = serde_json::Value::from(issuer.as_str());
        let has = |what: InitFeature| self.with.contains(&what);
        let section = |what: InitFeature, text: &'static str| if has(what) { text } else { "" };
        let (fin, oauth) = (has(InitFeature::Fin), has(InitFeature::Oauth));
        let allow =
            [("identity.web", true), ("oauth.crm", oauth), ("intercom.fin", fin), ("bundles.fin", fin)];
        let allow: Vec<&str> =
            allow.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect();
        format!(
            r#"# The tokens that tokenmint mints, and for whom. `tokenmint check` reports errors in it.

[server]
listen = "127.0.0.1:8080"

[keysets.web]
directory = "keys/web"        # KID.key, KID.crt
{crm}
[identity.web]                # the identity token for Salesforce Enhanced Chat
keyset = "web"
issuer = {issuer}   # byte for byte the keyset's JSON Web Key Issuer in Salesforce Setup
ttl = "1h"
{messaging}{oauth}{fin}
[callers.web-backend]         # `tokenmint callers new NAME` makes another
api_key_sha256 = ["{digest}"]
allow = {allow:?}
"#,
            crm = section(InitFeature::Oauth, CRM_KEYSET_SECTION),
            messaging = section(InitFeature::Messaging, MESSAGING_SECTION),
            oauth = section(InitFeature::Oauth, OAUTH_SECTION),
            fin = section(InitFeature::Fin, FIN_SECTION),
        )
    }
}

const CRM_KEYSET_SECTION: &str = r#"
[keysets.crm]
directory = "keys/crm"        # CrmKey1.crt goes into the External Client App
"#;

const MESSAGING_SECTION: &str = r#"
[identity.web.messaging]      # its exchange for a messaging access token
scrt_url = ""                 # https://MYDOMAIN.my.salesforce-scrt.com, from the deployment's code snippet
org_id = ""                   # Setup > Company Information
es_developer_name = ""        # the API name of the Embedded Service deployment
"#;

const OAUTH_SECTION: &str = r#"
[oauth.crm]                   # the OAuth 2.0 JWT bearer flow
keyset = "crm"
consumer_key = ""             # of the External Client App
username = ""                 # the integration user's Salesforce user name
audience = ""                 # https://MYDOMAIN.my.salesforce.com
"#;

const FIN_SECTION: &str = r#"
[intercom.fin]                # Intercom's user JWT
secret_file = "intercom.secret"   # the Messenger API Secret: Settings > Messenger > Security

[bundles.fin]                 # both tokens of a page load: POST /bundle
salesforce_identity_token = "identity.web"
intercom_user_jwt = "intercom.fin"
"#;

/// The file that [`FIN_SECTION`] names.
const INTERCOM_SECRET: &str = "intercom.secret";

/// The files and folders created so far. Dropping it removes them, so that no partial result remains. Clearing the list
/// keeps them.
#[derive(Default)]
struct CreatedFiles(Vec<PathBuf>);

impl CreatedFiles {
    /// Creates a folder with `make`, and records it and its missing parents.
    fn directory(
        &mut self,
        path: &Path,
        make: impl FnOnce(&Path) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let is_absent = |path: &&Path| !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err();
        let mut absent: Vec<PathBuf> =
            path.ancestors().take_while(is_absent).map(Path::to_path_buf).collect();
        absent.reverse();
        self.0.extend(absent);
        make(path)
    }
}

impl Drop for CreatedFiles {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // A folder that contains somebody else's file stays.
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
}

/// Loads the written configuration like `serve` would, without the environment. Returns the fields to fill in.
///
/// # Errors
/// A problem other than a field to fill in.
fn check_written(file: &Path, context: &CliContext<'_>) -> Result<Vec<Problem>, CliError> {
    let clock = &*context.clock_and_rng.clock;
    match Config::load(Some(file), &Environment::new()) {
        Ok(config) => LoadedConfig::new(config, clock).map(|_| Vec::new()).map_err(CliError::invalid_config),
        Err(invalid) => {
            let (to_do, mut problems): (Vec<_>, Vec<_>) =
                invalid.problems.into_iter().partition(|problem| is_placeholder_field(&problem.field));
            problems.extend(app::key_problems(&invalid.keysets, clock));
            if problems.is_empty() { Ok(to_do) } else { Err(CliError::invalid_config(problems)) }
        }
    }
}

/// Whether [`InitCommand::configuration`] leaves the field, or the file that it names, empty.
fn is_placeholder_field(field: &str) -> bool {
    field == "intercom.fin.secret_file"
        || field.starts_with("identity.web.messaging.")
        || ["consumer_key", "username", "audience"].iter().any(|name| field == format!("oauth.crm.{name}"))
}
