//! Batch signing, with Intel's library where `tests/batch/setup` has installed it, and with a fake of it that makes
//! faults on demand (`tests/batch/fake.c`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use tokenmint::clock::{Randomness, SystemRandomness};
use tokenmint::config::Algorithm;
use tokenmint::keys::{
    self, BatchLibrary, BatchLibraryError, BatchSigner, PrivateKey, SelfTestResult, SignRequest,
};
use tokenmint::metrics::Metrics;

use crate::support::{KEYS, Running, Workspace, configuration, eventually, retrying, user_1, verified};

/// Intel's library. Without it, or without a CPU that it supports, prints what the test leaves out.
fn real_library(left_out: &str) -> Option<PathBuf> {
    let tools = std::env::var_os("TOKENMINT_TOOLS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from);
    let library = tools.join("crypto_mb/lib/libcrypto_mb.so.13");
    if library.exists() && BatchLibrary::open(&library).is_ok() {
        return Some(library);
    }
    println!("left out, as {} isn't there or the CPU can't: {left_out}", library.display());
    None
}

/// A fake library. Its faults begin when the file `trigger` appears in the same directory.
struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    fn new(defines: &[&str]) -> Self {
        let fake = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let trigger = format!("-DTRIGGER=\"{}\"", fake.trigger().display());
        let compiled = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", &trigger])
            .args(defines.iter().map(|define| format!("-D{define}")))
            .arg("-o")
            .arg(fake.library())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/batch/fake.c"))
            .output()
            .expect("a C compiler, which the build needs as well");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        fake
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("libcrypto_mb.so.13")
    }

    fn trigger(&self) -> PathBuf {
        self.folder.path().join("trigger")
    }

    fn go_wrong(&self) {
        std::fs::write(self.trigger(), "").expect("a file");
    }
}

fn key(pem: &str) -> PrivateKey {
    PrivateKey::parse(&pem.to_owned().into(), None).unwrap_or_else(|refused| panic!("{refused}"))
}

fn batch(library: &Path, metrics: &Metrics) -> BatchSigner {
    let library = BatchLibrary::open(library).unwrap_or_else(|reason| panic!("{reason}"));
    BatchSigner::new(library, Arc::new(SystemRandomness::default()), metrics)
}

fn alone(key: &PrivateKey, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.signature_len()];
    key.sign(algorithm, message, &mut signature).expect("a good key signs");
    signature
}

/// Signs a batch and compares each signature with that of aws-lc.
#[track_caller]
fn sign_and_compare(batch: &BatchSigner, wanted: &[(&PrivateKey, Algorithm, Vec<u8>)]) {
    let hashes: Vec<_> =
        wanted.iter().map(|(_, algorithm, message)| keys::hash_message(*algorithm, message)).collect();
    let asked: Vec<_> =
        wanted.iter().zip(&hashes).map(|((key, ..), hash)| SignRequest { key, hash }).collect();
    let made = batch.sign(&asked);
    assert_eq!(made.len(), wanted.len());
    for ((key, algorithm, message), made) in wanted.iter().zip(made) {
        assert!(*made.expect("signed") == alone(key, *algorithm, message), "not the bytes of aws-lc");
    }
}

/// Every batch size, every mix of keys, RS256 and RS512. `BATCH_TOKENS` sets the number of tokens, 20,000 by
/// default.
#[test]
fn batch_signatures_equal_those_of_aws_lc() {
    let Some(library) = real_library("batches compared with aws-lc, signature by signature") else { return };
    let tokens: usize =
        std::env::var_os("BATCH_TOKENS").and_then(|tokens| tokens.to_str()?.parse().ok()).unwrap_or(20_000);
    let randomness = SystemRandomness::default();
    let metrics = Metrics::new();
    let batch = batch(&library, &metrics);
    let larger = |bits| {
        let pem = keys::generate_private_key(bits, &randomness).expect("random bytes");
        PrivateKey::parse(&pem, None).unwrap_or_else(|refused| panic!("{refused}"))
    };
    let sizes = [
        vec![key(&KEYS.web), key(&KEYS.web512), key(&KEYS.crm)],
        vec![larger(3072), larger(3072)],
        vec![larger(4096)],
    ];
    for key in sizes.iter().flatten() {
        let result = batch.self_test(key);
        assert!(matches!(result, SelfTestResult::Pays { .. } | SelfTestResult::DoesNotPay), "{result:?}");
    }
    let mut done = 0;
    while done < tokens {
        let mut chance = [0; 64];
        randomness.fill(&mut chance).expect("random bytes");
        // Only one in sixteen of the larger keys, which take ten times as long.
        let keys = &sizes[match chance[0] {
            0..8 => 2,
            8..16 => 1,
            _ => 0,
        }];
        let wanted: Vec<_> = (0..2 + usize::from(chance[1] % 7))
            .map(|lane| {
                let (key, algorithm) = (chance[2 + lane], chance[10 + lane]);
                let algorithm = if algorithm % 2 == 0 { Algorithm::Rs256 } else { Algorithm::Rs512 };
                (
                    &keys[usize::from(key) % keys.len()],
                    algorithm,
                    [&chance[18..], &[u8::try_from(lane).expect("< 8")]].concat(),
                )
            })
            .collect();
        sign_and_compare(&batch, &wanted);
        done += wanted.len();
    }
    assert_eq!(metrics.signing_batch_enabled.get(), 1);
}

/// tokenmint computes the padding itself. This compares it with other implementations without Intel's library: the
/// fake is plain arithmetic.
#[test]
fn the_padding_is_that_of_rfc_8017() {
    let fake = Fake::new(&[]);
    let (metrics, web) = (Metrics::new(), key(&KEYS.web));
    let batch = batch(&fake.library(), &metrics);
    assert_ne!(batch.self_test(&web), SelfTestResult::Unfit);
    let wanted: Vec<_> = [Algorithm::Rs256, Algorithm::Rs512]
        .into_iter()
        .flat_map(|algorithm| [(&web, algorithm, Vec::new()), (&web, algorithm, vec![7; 999])])
        .collect();
    sign_and_compare(&batch, &wanted);
    assert_eq!(metrics.signing_batch_enabled.get(), 1, "and all of it by the library");
}

/// Each of these faults would produce invalid tokens if signatures weren't verified.
#[test]
fn every_returned_signature_verifies_and_the_first_fault_disables_the_library() {
    let keys = [key(&KEYS.web), key(&KEYS.crm)];
    let good = Fake::new(&[]);
    for key in &keys {
        // Once for all faults: the fake is slow, and a key's self-test result is kept.
        let result = batch(&good.library(), &Metrics::new()).self_test(key);
        assert_ne!(result, SelfTestResult::Unfit);
    }
    for (fault, counted) in [
        ("wrong", "wrong"),
        ("swapped", "wrong"),
        ("partial", "wrong"),
        ("zero", "wrong"),
        ("unopened", "wrong"),
        ("shut", "wrong"),
        ("failed", "failed"),
        ("crazy", "failed"),
    ] {
        let fake = Fake::new(&[&format!("FAULT={fault}")]);
        let metrics = Metrics::new();
        let batch = batch(&fake.library(), &metrics);
        let wanted: Vec<_> =
            (0..5).map(|lane| (&keys[usize::from(lane % 2)], Algorithm::Rs256, vec![lane; 300])).collect();
        sign_and_compare(&batch, &wanted);
        assert_eq!(metrics.signing_batch_enabled.get(), 1, "{fault}");

        fake.go_wrong();
        sign_and_compare(&batch, &wanted);
        assert_eq!(metrics.signing_batch_enabled.get(), 0, "{fault}: not used any more");
        let faults = metrics.signing_batch_faults.with_label_values(&[counted]).get();
        assert!((1..=5).contains(&faults), "{fault}: {faults}");

        sign_and_compare(&batch, &wanted);
        assert!(batch.params_for(&Arc::new(key(&KEYS.web))).is_none(), "{fault}: nor for other keys");
        assert_eq!(metrics.signing_batch_faults.with_label_values(&[counted]).get(), faults, "{fault}");
    }
}

/// The library corrupts the signature in one lane, and its public operation confirms it. aws-lc verifies another
/// lane in each batch, so it detects the fault within as many batches as there are lanes. Until then each batch may
/// return one invalid signature: docs/security.md, "Batch signing".
#[test]
fn a_library_that_is_wrong_in_both_operations_of_one_lane_is_detected_when_that_lane_is_checked() {
    const PLACES: usize = 5;
    let web = key(&KEYS.web);
    assert_ne!(batch(&Fake::new(&[]).library(), &Metrics::new()).self_test(&web), SelfTestResult::Unfit);
    for made_before in 0..PLACES {
        let fake = Fake::new(&["FAULT=liar"]);
        let metrics = Metrics::new();
        let batch = batch(&fake.library(), &metrics);
        let wanted: Vec<_> = (0..5).map(|place| (&web, Algorithm::Rs256, vec![place; 300])).collect();
        for _ in 0..made_before {
            sign_and_compare(&batch, &wanted);
        }
        fake.go_wrong();
        let hashes: Vec<_> =
            wanted.iter().map(|(_, algorithm, message)| keys::hash_message(*algorithm, message)).collect();
        let asked: Vec<_> = hashes.iter().map(|hash| SignRequest { key: &web, hash }).collect();
        let mut batches = 0;
        while metrics.signing_batch_enabled.get() == 1 {
            batches += 1;
            let made = batch.sign(&asked);
            for (place, (asked, made)) in asked.iter().zip(made).enumerate() {
                let good = web.public.verifies(asked.hash, &made.expect("signed"));
                let last = metrics.signing_batch_enabled.get() == 0;
                assert!(good || (place == PLACES - 1 && !last), "place {place} of batch {batches}");
            }
        }
        assert_eq!(batches, PLACES - made_before, "when the last place has its turn");
        sign_and_compare(&batch, &wanted);
    }
}

#[test]
fn a_library_that_fails_the_self_test_signs_nothing() {
    let fake = Fake::new(&["FAULT=wrong"]);
    fake.go_wrong();
    let metrics = Metrics::new();
    let batch = batch(&fake.library(), &metrics);
    assert_eq!(batch.self_test(&key(&KEYS.web)), SelfTestResult::Unfit);
    assert_eq!(metrics.signing_batch_enabled.get(), 0);
    assert_eq!(metrics.signing_batch_keys.get(), 0);
}

/// Such a library isn't called at all, since its functions may take other parameters.
#[test]
fn an_unsupported_library_is_not_used() {
    let reason = |fake: &Fake| BatchLibrary::open(&fake.library()).err().expect("refused");
    let older = Fake::new(&[r#"VERSION="crypto_mb (k1) (ver: 1.1.0 (12.1) build: Oct 28 2024)""#]);
    assert!(
        matches!(reason(&older), BatchLibraryError::UnsupportedVersion(version) if version.contains("(12.1)"))
    );
    let lacking = Fake::new(&["WITHOUT_CRT"]);
    assert_eq!(reason(&lacking), BatchLibraryError::MissingSymbol("mbx_rsa_private_crt_mb8".to_owned()));
    let incapable = Fake::new(&["WIDTHS=0"]);
    assert_eq!(reason(&incapable), BatchLibraryError::UnsupportedCpu);
    let text = tempfile::NamedTempFile::new().expect("a file");
    assert!(matches!(BatchLibrary::open(text.path()).err(), Some(BatchLibraryError::NotLoaded(_))));
}

fn with_library(library: &Path, batch: &str) -> Workspace {
    let workspace = Workspace::bare();
    let signing = format!(
        "[server.signing]\nbatch = \"{batch}\"\nlibrary = \"{}\"\n[keysets.web]\n",
        library.display()
    );
    workspace.configure(&configuration().replacen("[keysets.web]\n", &signing, 1));
    workspace
}

#[tokio::test]
async fn without_a_library_auto_signs_one_at_a_time_and_required_does_not_start() {
    let nothing = Path::new("/nonexistent/libcrypto_mb.so.13");
    let service = with_library(nothing, "auto").serve().await;
    let why = service.logged("signs one at a time").await;
    assert!(why.contains("there is no such file"), "{why}");
    let token = service.post("/identity-token", &user_1()).await.ok();
    verified(token["token"].as_str().expect("a token"), &service.jwks("/.well-known/jwks.json").await);
    let metrics = service.metrics().await;
    for line in ["tokenmint_signing_batch_enabled 0", "tokenmint_signatures_total{path=\"one\"} 1"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let required = with_library(nothing, "required");
    for command in ["serve", "check"] {
        let ran = required.run(&[command]);
        assert_eq!(ran.code(), 64, "{}{}", ran.stdout, ran.stderr);
        assert!(
            ran.stderr.contains("server.signing.library (tokenmint.toml line ")
                && ran.stderr.contains("there is no such file"),
            "{}",
            ran.stderr
        );
    }
}

/// The log of the start doesn't mention the library, and its file isn't mapped into the process.
#[tokio::test]
#[ignore = "needs root, to look into another process: make system"]
async fn a_library_that_the_configuration_does_not_name_is_not_loaded() {
    let fake = Fake::new(&[]);
    std::fs::copy(fake.library(), fake.library().with_file_name("libcrypto_mb.so")).expect("copied");
    let mut workspace = Workspace::new();
    workspace.set("LD_LIBRARY_PATH", fake.folder.path().to_str().expect("text"));
    for batch in ["", "[server.signing]\nbatch = \"auto\"\n", "[server.signing]\nbatch = \"off\"\n"] {
        workspace.configure(&configuration().replacen(
            "[keysets.web]\n",
            &format!("{batch}[keysets.web]\n"),
            1,
        ));
        let service = workspace.serve().await;
        service.post("/identity-token", &user_1()).await.ok();
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", service.pid())).expect("our own child");
        assert!(!maps.contains("crypto_mb"), "{maps}");
        let log = service.whole_log().await;
        assert!(!log.contains("librar") && !log.contains("one at a time") && !log.contains("batch"), "{log}");
    }
    let required = "[server.signing]\nbatch = \"required\"\n[keysets.web]\n";
    workspace.configure(&configuration().replacen("[keysets.web]\n", required, 1));
    let ran = workspace.run(&["check"]);
    assert_eq!(ran.code(), 64, "{}", ran.stderr);
    assert!(ran.stderr.contains("server.signing.library ("), "{}", ran.stderr);
}

#[tokio::test]
async fn a_relative_library_lies_beside_the_configuration() {
    let fake = Fake::new(&[]);
    let workspace = with_library(Path::new("libcrypto_mb.so.13"), "required");
    std::fs::copy(fake.library(), workspace.path("libcrypto_mb.so.13")).expect("copied");
    workspace.serve().await.logged("signs in batches").await;
}

/// Panics where the self-test needs a random message.
struct NoChance;

impl Randomness for NoChance {
    fn fill(&self, _: &mut [u8]) -> Result<(), tokenmint::clock::NoRandomness> {
        panic!("a bug in the trial");
    }
}

#[tokio::test]
async fn a_self_test_that_panics_disables_batches_and_is_counted() {
    let fake = Fake::new(&[]);
    let metrics = Metrics::new();
    let library = BatchLibrary::open(&fake.library()).unwrap_or_else(|reason| panic!("{reason}"));
    let batch = BatchSigner::new(library, Arc::new(NoChance), &metrics);
    let key = Arc::new(key(&KEYS.web));
    assert!(batch.params_for(&key).is_none(), "on trial");
    eventually("batches are off", async || metrics.signing_batch_enabled.get() == 0).await;
    assert_eq!(metrics.signing_batch_faults.with_label_values(&["panicked"]).get(), 1);
    assert!(batch.params_for(&key).is_none());
}

/// Mints a hundred at a time until the metrics say that `enough` has happened. Every token is verified with the published keys.
async fn load_until(service: &Arc<Running>, what: &str, enough: impl Fn(&str) -> bool) {
    let set = service.jwks("/.well-known/jwks.json").await;
    eventually(what, async || {
        let asks: Vec<_> = (0..100)
            .map(|n| {
                let (service, body) = (service.clone(), json!({"sub": format!("user-{n}")}));
                tokio::spawn(async move { retrying(|| service.post("/identity-token", &body)).await })
            })
            .collect();
        for ask in asks {
            let answer = ask.await.expect("no panic").ok();
            verified(answer["token"].as_str().expect("a token"), &set);
        }
        enough(&service.metrics().await)
    })
    .await;
}

/// End to end over HTTP: the key passes its self-test, batches begin, the library fails under load. No invalid
/// token leaves, and the service goes on without the library.
#[tokio::test]
async fn a_library_fault_makes_the_service_sign_one_at_a_time() {
    let Some(library) = real_library("a service that signs in batches until its library goes wrong") else {
        return;
    };
    let fake = Fake::new(&["FAULT=wrong", &format!("REAL=\"{}\"", library.display())]);
    for companion in ["libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so"] {
        std::os::unix::fs::symlink(
            library.with_file_name(companion),
            fake.library().with_file_name(companion),
        )
        .expect("a link");
    }
    let service = Arc::new(with_library(&fake.library(), "required").serve().await);
    let value = |metrics: &str, name: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().expect("a number"))
    };
    load_until(&service, "a batch is signed", |metrics| {
        value(metrics, "tokenmint_signing_batch_size_count ") > 0
    })
    .await;
    fake.go_wrong();
    let wrong = "tokenmint_signing_batch_faults_total{fault=\"wrong\"} ";
    load_until(&service, "a wrong signature is found", |metrics| value(metrics, wrong) > 0).await;
    let metrics = service.metrics().await;
    assert_eq!(value(&metrics, "tokenmint_signing_batch_enabled "), 0);
    let batches = value(&metrics, "tokenmint_signing_batch_size_count ");
    assert!(service.logged("the library for batch signing is broken").await.contains("ERROR"));
    load_until(&service, "a hundred tokens are minted", |_| true).await;
    assert_eq!(value(&service.metrics().await, "tokenmint_signing_batch_size_count "), batches);
}
