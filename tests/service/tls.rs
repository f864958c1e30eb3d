//! Certificates by openssl, and clients that trust and show them.

use std::process::Command;

use crate::support::Workspace;

/// A certificate of `authority`, which is made where there is none, for the host of the tests.
pub fn certificates(workspace: &Workspace, authority: &str, name: &str) {
    certified(workspace, authority, name, "DNS:localhost,IP:127.0.0.1");
}

/// As `certificates`, for these names; `NAME.both` holds key and certificate.
pub fn certified(workspace: &Workspace, authority: &str, name: &str, san: &str) {
    let script = format!(
        "[ -f {authority}.key ] || openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN={authority} \
            -keyout {authority}.key -out {authority}.crt
         openssl req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr
         printf 'subjectAltName={san}' > {name}.ext
         openssl x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 30 \
            -extfile {name}.ext -out {name}.crt && cat {name}.key {name}.crt > {name}.both && chmod 600 *.key"
    );
    let made =
        Command::new("bash").args(["-ec", &script]).current_dir(workspace.path("")).output().expect("bash");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Trusts `ca.crt`, and shows the certificate of `identity`.
pub fn client(workspace: &Workspace, identity: Option<&str>) -> reqwest::Client {
    let read = |name: &str| std::fs::read(workspace.path(name)).expect(name);
    let root = reqwest::Certificate::from_pem(&read("ca.crt")).expect("PEM");
    let builder = reqwest::Client::builder().tls_certs_only([root]);
    let builder = identity.into_iter().fold(builder, |builder, name| {
        builder.identity(reqwest::Identity::from_pem(&read(name)).expect("PEM"))
    });
    builder.build().expect("a client")
}
