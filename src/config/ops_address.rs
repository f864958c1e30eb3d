//! Reads the address that answers operators from a few settings, without validating the rest.
//!
//! Errors elsewhere in the configuration must not prevent a health check or a key retirement while the service
//! still runs.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::source::{self, ConfigNode, ConfigValue, Environment, Problem};
use super::{DEFAULT_CONFIG_FILE, ListenAddress};
use crate::files::{MAX_FILE_SIZE, OpenedFile};

/// The address of the ops listener, or of the minting listener if there is no ops listener.
pub(crate) struct OpsAddress {
    pub(crate) listen: ListenAddress,
    pub(crate) tls: Option<OpsTls>,
}

/// The TLS settings of the minting listener. The ops listener never uses TLS.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct OpsTls {
    pub(crate) certificate_file: PathBuf,
    /// Whether the listener requires a client certificate.
    pub(crate) is_mutual: bool,
}

impl OpsAddress {
    /// Reads `file`, by default [`DEFAULT_CONFIG_FILE`], and applies the overrides of `environment`.
    ///
    /// # Errors
    /// The file can't be read, or the address is invalid.
    pub(crate) fn load(file: Option<&Path>, environment: &Environment) -> Result<Self, Problem> {
        let path = file.unwrap_or_else(|| Path::new(DEFAULT_CONFIG_FILE));
        let name = path.display().to_string();
        let text =
            match OpenedFile::open(path).and_then(|file| file.read(MAX_FILE_SIZE)).map_err(io::Error::from) {
                Ok(bytes) => Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned()),
                // The default file may be missing: everything may come from the environment, or from defaults.
                Err(error) if file.is_none() && error.kind() == ErrorKind::NotFound => Zeroizing::default(),
                Err(error) => return Err(Problem::new("", name, format!("can't be read: {error}"))),
            };
        let mut root = source::parse_toml_lossy(&name, &text);
        // Problems of overrides are ignored. An override of the address that has one isn't applied, so the file's address counts.
        source::apply_environment(&mut root, environment, &mut Vec::new());
        let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let server = child(&root, "server");
        let ops = server.and_then(|server| child(child(server, "ops")?, "listen"));
        let node = ops.or_else(|| child(server?, "listen"));
        let listen = match node {
            None => ListenAddress::default(),
            Some(node) => {
                let field = if ops.is_some() { "server.ops.listen" } else { "server.listen" };
                let written = text_of(node).ok_or("must be a string");
                let listen =
                    written.map_err(str::to_owned).and_then(|written| ListenAddress::parse(written, &base));
                listen.map_err(|message| Problem::new(field, &node.origin, message))?
            }
        };
        let tls = server.filter(|_| ops.is_none()).and_then(|server| child(server, "tls"));
        let file = |tls: &ConfigNode, name: &str| Some(base.join(text_of(child(tls, name)?)?));
        let tls = tls.and_then(|tls| {
            Some(OpsTls {
                certificate_file: file(tls, "certificate_file")?,
                is_mutual: child(tls, "client_ca_file").is_some(),
            })
        });
        Ok(Self { listen, tls })
    }
}

fn child<'a>(node: &'a ConfigNode, name: &str) -> Option<&'a ConfigNode> {
    match &node.value {
        ConfigValue::Table(table) => table.get(name),
        _ => None,
    }
}

fn text_of(node: &ConfigNode) -> Option<&str> {
    match &node.value {
        ConfigValue::Text(text) | ConfigValue::Untyped(text) => Some(text.as_str()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, environment: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokenmint.toml");
        std::fs::write(&path, text).expect("written");
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let loaded = OpsAddress::load(Some(&path), &environment).map_err(|problem| problem.to_string());
        loaded.expect("an address").listen.to_string()
    }

    #[test]
    fn the_ops_address_is_found_despite_other_errors() {
        let ops = "[server]\nlisten = \"127.0.0.1:1\"\nnobody = \"knows\"\n[server.ops]\nlisten = \"127.0.0.1:2\"\n";
        assert_eq!(address(ops, &[]), "127.0.0.1:2");
        assert_eq!(
            address(&format!("{ops}[keysets.web\n= \n"), &[]),
            "127.0.0.1:2",
            "not even TOML behind it"
        );
        assert_eq!(address("[identity.web]\nttl = 7\n", &[]), "127.0.0.1:8080", "the default");
        assert_eq!(address(ops, &[("TOKENMINT_SERVER__OPS__LISTEN", "127.0.0.1:3")]), "127.0.0.1:3");
        assert!(address("[server]\nlisten = \"unix:run.sock\"\n", &[]).ends_with("/run.sock"));
    }
}
