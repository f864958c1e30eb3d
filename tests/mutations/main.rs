//! Mutation test: compares `verify` and `doctor` with strict verifiers of other libraries: `PyJWT`, joserfc,
//! cryptography and OpenSSL, in judge.py.
//!
//! Each mutation is a healthy set (a token, and the JWK, certificate, private key or configuration that it is verified by),
//! changed in one place by one of `mutators::MUTATORS`. What holds:
//!
//! - Where a strict verifier refuses a set, both commands end with another exit code than 0. A warning isn't enough: with warnings
//!   alone they end with 0.
//! - Healthy sets, and those whose change is harmless, end with 0. They may have warnings.
//! - Each mutator does what it says: it changes something, and what it changes is refused always, sometimes or never.
//! - The verifiers decide. A crash of judge.py is no refusal; it fails the test.
//!
//! The environment variable MUTATIONS is the number of mutations, 11,000 by default, and MUTATOR the name of the only mutator to
//! use. Mutations are the same in each run but for the keys, which are new each time. So a failure keeps one set of each mutator
//! below `target/tmp/mutations`, prints the commands that show it, and is printed before the table, because a CI log may be cut.
//!
//! The checks run in this process, because a process for each mutation would take minutes. The binary is run for every hundredth
//! mutation and for every healthy set, and must end like the checks.

#![allow(clippy::panic, clippy::print_stdout, reason = "a test panics to fail, and says what it saw")]

mod mutators;
mod random;
mod samples;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde::Deserialize;
use tokenmint::config::{Config, Environment};
use tokenmint::doctor::{
    CheckInput, CheckOutcome, ConfigView, FileAccess, GivenArtifacts, JwkDocument, UnverifiedToken,
    detect_artifact, run_checks, verify_token,
};
use tokenmint::keys::KeyRing;
use tokenmint::metrics::Metrics;

use mutators::{MUTATORS, Mutator, Refused};
use random::Random;
use samples::{CONFIGURATION, ISSUER, KEY_FILES, PAIRS, Purpose, Set, healthy, now, write_private};

const MUTATIONS: usize = 11_000;
/// The number of mutations that are made and checked at once. Their tokens are valid for longer than that takes.
const ROUND: usize = 20_000;

/// The verdict of judge.py on a set.
#[derive(Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum JudgeResult {
    Accepted(()),
    /// A verifier refuses it.
    Refused(String),
    /// An upload form refuses it, and no verifier does. Only `doctor` must report it.
    Unfit(String),
    /// judge.py has failed.
    Error(String),
}

const COMMANDS: [&str; 2] = ["doctor", "verify"];

impl JudgeResult {
    /// Why each of the commands mustn't end with 0.
    fn reasons(&self) -> [Option<&str>; 2] {
        match self {
            Self::Accepted(()) => [None, None],
            Self::Refused(why) => [Some(why), Some(why)],
            Self::Unfit(why) => [Some(why), None],
            Self::Error(_) => panic!("{self:?}"),
        }
    }
}

/// The verdicts of judge.py on the sets.
fn judge_sets(sets: &[&Set]) -> Vec<JudgeResult> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = std::env::var_os("TOKENMINT_TOOLS").map_or_else(|| root.join("target/tools"), PathBuf::from);
    let python = tools.join("venv/bin/python");
    assert!(python.exists(), "no {}: run tests/interop/setup first", python.display());
    let mut judge = Command::new(python)
        .arg(root.join("tests/mutations/judge.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut stdin = judge.stdin.take().expect("piped");
    let lines: Vec<String> = sets.iter().map(|set| set.for_judges().to_string()).collect();
    let writer =
        thread::spawn(move || lines.iter().for_each(|line| writeln!(stdin, "{line}").expect("it reads")));
    let output = judge.wait_with_output().expect("it ends");
    writer.join().expect("all is written");
    assert!(output.status.success(), "judge.py ended with {}", output.status);
    let text = String::from_utf8(output.stdout).expect("text");
    let verdicts: Vec<JudgeResult> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(verdicts.len(), sets.len());
    let crashes: Vec<&String> = verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            JudgeResult::Error(trace) => Some(trace),
            _ => None,
        })
        .collect();
    assert!(
        crashes.is_empty(),
        "judge.py crashed {} times, which is no verdict: {crashes:#?}",
        crashes.len()
    );
    verdicts
}

/// The option of `verify`, and the name and text of its file.
type File<'a> = (&'static str, &'static str, &'a str);

fn files(set: &Set) -> Vec<File<'_>> {
    let all = [
        ("--jwk", "Key1.jwk", &set.jwk),
        ("--key", "Key1.crt", &set.certificate),
        ("--key", "Key1.key", &set.key),
    ];
    all.into_iter().filter_map(|(option, name, text)| Some((option, name, text.as_deref()?))).collect()
}

/// The issuer that the relying party expects, where no configuration names it.
fn issuer(set: &Set) -> Option<String> {
    (set.purpose == Purpose::Identity && set.configuration.is_none()).then(|| ISSUER.to_owned())
}

/// The directory that the configuration names.
struct Workspace {
    folder: tempfile::TempDir,
    healthy: Option<(Config, KeyRing)>,
}

impl Workspace {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        write_keys(folder.path());
        let mut workspace = Self { folder, healthy: None };
        workspace.healthy = workspace.load(CONFIGURATION);
        workspace
    }

    fn load(&self, text: &str) -> Option<(Config, KeyRing)> {
        let base = self.folder.path().to_path_buf();
        let config = Config::parse("tokenmint.toml", text, base, &Environment::new()).ok()?;
        let ring = KeyRing::load(&config.keysets, now(), None, &std::sync::Arc::new(Metrics::new())).ok()?;
        Some((config, ring))
    }

    /// Whether each of the commands ends with 0.
    fn ends_well(&self, set: &Set) -> [bool; 2] {
        match set.configuration.as_deref() {
            None => examined(set, None),
            Some(CONFIGURATION) => examined(set, self.healthy.as_ref()),
            // The commands get the problems of a configuration that doesn't load.
            Some(text) => self.load(text).map_or([false; 2], |loaded| examined(set, Some(&loaded))),
        }
    }

    /// The same for the binary.
    fn binary_ends_well(&self, set: &Set) -> [bool; 2] {
        let folder = tempfile::tempdir_in(self.folder.path()).expect("a folder");
        lay_out(set, folder.path()).map(|(arguments, stdin)| {
            let mut run = Command::new(env!("CARGO_BIN_EXE_tokenmint"));
            run.args(arguments).current_dir(folder.path());
            run.stdin(stdin.map_or_else(Stdio::null, |name| open(&folder.path().join(name)).into()));
            run.stdout(Stdio::null())
                .stderr(Stdio::null())
                .env_remove("TOKENMINT_CONFIG")
                .env_remove("RUST_LOG");
            run.status().expect("the binary runs").success()
        })
    }
}

fn open(path: &Path) -> fs::File {
    fs::File::open(path).expect("a file")
}

fn write_keys(folder: &Path) {
    for (name, pair) in KEY_FILES.iter().zip(&*PAIRS) {
        write_private(&folder.join(name), &pair.pem);
    }
}

/// Writes the files of a set. Returns the arguments of each command, and which file it reads as standard input.
fn lay_out(set: &Set, folder: &Path) -> [(Vec<String>, Option<&'static str>); 2] {
    const TOKEN: &str = "token.txt";
    let files = files(set);
    write_private(&folder.join(TOKEN), &set.token);
    for (_, name, text) in &files {
        write_private(&folder.join(name), text);
    }
    let mut common = Vec::new();
    if let Some(text) = &set.configuration {
        write_private(&folder.join("tokenmint.toml"), text);
        write_keys(folder);
        common.extend(["--config", "tokenmint.toml"]);
    }
    let issuer = issuer(set);
    common.extend(issuer.iter().flat_map(|issuer| ["--issuer", issuer]));
    let doctor = files.iter().map(|(_, name, _)| *name).chain([TOKEN]);
    let verify = files.iter().flat_map(|(option, name, _)| [*option, *name]);
    let arguments = |command: &str, rest: Vec<&str>| {
        std::iter::once(command).chain(common.iter().copied()).chain(rest).map(str::to_owned).collect()
    };
    [
        (arguments(COMMANDS[0], doctor.collect()), None),
        (arguments(COMMANDS[1], verify.collect()), Some(TOKEN)),
    ]
}

/// Keeps the files of a set below `target`, and returns the commands that show the failure.
fn kept(name: &str, set: &Set) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations").join(name);
    let [doctor, verify] = lay_out(set, &folder).map(|(arguments, stdin)| {
        let stdin = stdin.map(|name| format!(" <{name}")).unwrap_or_default();
        format!("tokenmint {}{stdin}", arguments.join(" "))
    });
    format!("cd {}\n{doctor}\n{verify}", folder.display())
}

/// Whether each command would end with 0.
fn examined(set: &Set, configured: Option<&(Config, KeyRing)>) -> [bool; 2] {
    let known = |given: GivenArtifacts| {
        let configured = configured.map_or_else(ConfigView::default, |(config, ring)| ConfigView {
            config: Some(config),
            ring: Some(ring),
            issuer_keys: None,
            store_logins: &[],
            problems: &[],
            warnings: config.warnings.iter().chain(&ring.warnings).collect(),
        });
        CheckInput { now: now(), configured, given, probe_results: None }
    };
    let add = |given: &mut GivenArtifacts, name: &str, text: &str| {
        let found = detect_artifact(name, text.as_bytes(), FileAccess::OwnerOnly, &[]);
        found.map(|material| given.add(material)).is_ok()
    };
    let files = files(set);

    let mut given = GivenArtifacts { issuer: issuer(set), ..GivenArtifacts::default() };
    let doctor =
        files.iter().map(|(_, name, text)| (*name, *text)).chain([("token.txt", set.token.as_str())]);
    let all_are_something = doctor.into_iter().all(|(name, text)| add(&mut given, name, text));
    let doctor = all_are_something && run_checks(&known(given)).summary().outcome != CheckOutcome::Fail;

    let mut given = GivenArtifacts { issuer: issuer(set), verify_only: true, ..GivenArtifacts::default() };
    let all_are_something = files.iter().all(|(option, name, text)| {
        if *option == "--jwk" {
            let document = JwkDocument::parse(name, text);
            let served = document.is_jwk_set();
            given.jwks.push(JwkDocument { served, ..document });
            return true;
        }
        // `--key` refuses unreadable files.
        let material = detect_artifact(name, text.as_bytes(), FileAccess::OwnerOnly, &[]);
        material.is_ok_and(|material| {
            let is_read = material.refusal().is_none();
            given.add(material);
            is_read
        })
    });
    given.tokens.push(UnverifiedToken::parse("the token", &set.token));
    let verified = all_are_something && verify_token(&known(given)).1.outcome != CheckOutcome::Fail;
    [doctor, verified]
}

/// Runs `act` on all of them, on two threads.
fn on_two_cores<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (left, right) = items.split_at(items.len() / 2);
    thread::scope(|scope| {
        let other = scope.spawn(|| right.iter().map(&act).collect::<Vec<_>>());
        let mut done: Vec<R> = left.iter().map(&act).collect();
        done.extend(other.join().expect("no panic"));
        done
    })
}

/// The results of a mutator's mutations.
#[derive(Default)]
struct MutatorCounts {
    made: usize,
    changed: usize,
    refused: usize,
    ends_well: [usize; 2],
}

struct Mutation {
    mutator: usize,
    seed: u64,
    set: Set,
    is_changed: bool,
}

impl Mutation {
    fn new(mutator: usize, seed: u64, now: i64) -> Self {
        let mut random = Random::new(seed, now);
        let healthy = (MUTATORS[mutator].from)(&mut random);
        let mut set = healthy.clone();
        (MUTATORS[mutator].change)(&mut set, &mut random);
        Self { mutator, seed, is_changed: set != healthy, set }
    }
}

/// Describes each fault of the commands or of a mutator.
fn faults(
    mutator: &Mutator,
    mutation: &Mutation,
    verdict: &JudgeResult,
    ends_well: [bool; 2],
) -> Vec<String> {
    let reasons = verdict.reasons();
    let is_harmless = mutator.refused == Refused::Never || !mutation.is_changed;
    let mut faults = Vec::new();
    for ((command, reason), ends_well) in COMMANDS.iter().zip(reasons).zip(ends_well) {
        match reason {
            Some(why) if ends_well => {
                faults.push(format!("{command} ends with 0, and a judge refuses: {why}"));
            }
            None if is_harmless && !ends_well => faults.push(format!("{command} calls ill what is well")),
            _ => {}
        }
    }
    match reasons[0] {
        Some(why) if is_harmless => faults.push(format!("a judge refuses what is harmless: {why}")),
        None if mutator.refused == Refused::Always && mutation.is_changed => {
            faults.push("no judge refuses it".to_owned());
        }
        _ => {}
    }
    faults
}

#[test]
#[ignore = "needs the Python of tests/interop: make system"]
fn healthy_sets_end_with_0() {
    let workspace = Workspace::new();
    let healthy = healthy();
    let sets: Vec<&Set> = healthy.iter().map(|(_, set)| set).collect();
    let mut faults = Vec::new();
    for ((name, set), verdict) in healthy.iter().zip(judge_sets(&sets)) {
        let ends = [workspace.ends_well(set), workspace.binary_ends_well(set)];
        if verdict != JudgeResult::Accepted(()) || ends != [[true; 2]; 2] {
            faults.push(format!("{name}: {verdict:?}, {COMMANDS:?} end well {ends:?} (here, the binary)"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[ignore = "needs the Python of tests/interop: make system"]
fn mutations_end_with_0_where_they_are_harmless_and_never_where_a_judge_refuses() {
    let all = std::env::var_os("MUTATIONS").map_or(MUTATIONS, |text| {
        text.to_str().and_then(|text| text.parse().ok()).expect("MUTATIONS is a number")
    });
    let only = std::env::var_os("MUTATOR");
    let is_used = |mutator: &Mutator| only.as_ref().is_none_or(|name| name.as_os_str() == mutator.name);
    let used = || MUTATORS.iter().enumerate().filter(|(_, mutator)| is_used(mutator));
    let shares: usize = used().map(|(_, mutator)| mutator.share).sum();
    let of_mutator =
        |(at, mutator): (usize, &Mutator)| std::iter::repeat_n(at, (mutator.share * all).div_ceil(shares));
    let mutators: Vec<usize> = used().flat_map(of_mutator).collect();
    assert!(!mutators.is_empty(), "no mutator is named {only:?}");
    let seeds: Vec<(u64, usize)> = (0..).zip(mutators).collect();
    let workspace = Workspace::new();

    let mut counts_by_mutator: Vec<MutatorCounts> =
        MUTATORS.iter().map(|_| MutatorCounts::default()).collect();
    let mut wrong = BTreeMap::new();
    for round in seeds.chunks(ROUND) {
        let now = now().seconds();
        let mutations = on_two_cores(round, |(seed, mutator)| Mutation::new(*mutator, *seed, now));
        let sets: Vec<&Set> = mutations.iter().map(|mutation| &mutation.set).collect();
        let (verdicts, ends) = thread::scope(|scope| {
            let judges = scope.spawn(|| judge_sets(&sets));
            let ends: Vec<[bool; 2]> = sets.iter().map(|set| workspace.ends_well(set)).collect();
            (judges.join().expect("the judges judge"), ends)
        });
        for ((mutation, verdict), ends_well) in mutations.iter().zip(&verdicts).zip(ends) {
            let (Mutation { mutator, seed, set, is_changed }, counts) =
                (mutation, &mut counts_by_mutator[mutation.mutator]);
            counts.made += 1;
            counts.changed += usize::from(*is_changed);
            counts.refused += usize::from(verdict.reasons()[0].is_some());
            for (sum, ends_well) in counts.ends_well.iter_mut().zip(ends_well) {
                *sum += usize::from(ends_well);
            }
            let faults = faults(&MUTATORS[*mutator], mutation, verdict, ends_well);
            if !faults.is_empty() {
                wrong.entry(*mutator).or_insert_with(Vec::new).push((faults, set.clone()));
            }
            if seed % 100 == 0 {
                let binary = workspace.binary_ends_well(set);
                let name = MUTATORS[*mutator].name;
                assert_eq!(binary, ends_well, "the binary ends otherwise: {name}\n{}", kept(name, set));
            }
        }
    }

    let idle: Vec<&str> = MUTATORS
        .iter()
        .zip(&counts_by_mutator)
        .filter(|(mutator, counts)| {
            is_used(mutator)
                && (counts.changed == 0 || (mutator.refused == Refused::Sometimes && counts.refused == 0))
        })
        .map(|(mutator, _)| mutator.name)
        .collect();
    let shown = wrong.iter().map(|(mutator, wrong)| {
        let (name, (faults, set)) = (MUTATORS[*mutator].name, &wrong[0]);
        let (count, made) = (wrong.len(), counts_by_mutator[*mutator].made);
        format!("\"{name}\", {count} of {made}, the first: {}\n{}", faults.join("; "), kept(name, set))
    });
    let shown = shown.collect::<Vec<String>>().join("\n\n");
    println!("{shown}\n\nmade, changed, refused by a judge, ended with 0 by doctor and by verify:");
    for (mutator, MutatorCounts { made, changed, refused, ends_well: [doctor, verify] }) in
        MUTATORS.iter().zip(&counts_by_mutator)
    {
        println!("{made:6} {changed:6} {refused:6} {doctor:6} {verify:6}  {}", mutator.name);
    }
    assert!(shown.is_empty(), "wrong by mutator:\n\n{shown}");
    assert!(idle.is_empty(), "mutators that change nothing, or nothing that a judge minds: {idle:?}");
}
