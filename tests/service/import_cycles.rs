//! No import cycles among the files of one top-level module: each file can be read before those that import from it.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::module_order::files;

/// A module, for example `["doctor", "checks", "keys"]`.
type Module = Vec<String>;

/// The text of each module's file.
type Texts = BTreeMap<Module, String>;

/// Which modules each module imports from.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// Top-level modules in which imports of a module from its own submodules don't count. There `mod.rs` calls its files and also holds
/// what they share, so it imports from them and they from it. Every other import counts as elsewhere. Don't add to this list.
const COMPOSED: [&str; 7] = ["app", "cli", "config", "api", "metadata", "sandbox", "traces"];

/// Cycles that are older than this test. Don't add to this list.
const OLD: [&[&str]; 2] = [&["app/reload", "app/retirement_watcher"], &["keys/batch", "keys/private_key"]];

struct Source {
    /// Re-exported names, and the path that each stands for.
    exports: BTreeMap<String, Vec<String>>,
    /// The paths that the file uses or re-exports, as written.
    paths: BTreeSet<Vec<String>>,
}

/// Expands `a::{b, c::{d, e}}` to single paths.
fn expand(path: &str) -> Vec<String> {
    let Some(open) = path.find('{') else { return vec![path.to_owned()] };
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for c in path[open..].chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match c {
            '{' if depth == 1 => {}
            '}' if depth == 0 => break,
            ',' if depth == 1 => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    parts.push(part);
    let parts = parts.iter().filter(|part| !part.is_empty());
    parts.flat_map(|part| expand(&format!("{}{part}", &path[..open]))).collect()
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

impl Source {
    /// Reads a file without its unit tests. `children` are its submodules.
    fn read(text: &str, children: &[String]) -> Self {
        let text = text.split("#[cfg(test)]\nmod tests").next().expect("a first part");
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        let uses = Regex::new(r"(?m)^\s*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);").expect("a pattern");
        let (mut exports, mut paths) = (BTreeMap::new(), BTreeSet::new());
        for found in uses.captures_iter(&code) {
            let written = found[2].split_whitespace().collect::<Vec<_>>().join(" ").replace(" as ", "@");
            for path in expand(&written.replace(' ', "")) {
                let (path, name) = path.split_once('@').map_or((path.as_str(), None), |(p, n)| (p, Some(n)));
                let mut path = segments(path);
                // `a::{self}` is `a`.
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let name = name.map_or_else(|| path.last().cloned().unwrap_or_default(), str::to_owned);
                if found.get(1).is_some() {
                    exports.insert(name, path.clone());
                }
                paths.insert(path);
            }
        }
        let visibility = Regex::new(r"pub\([^)]*\)").expect("a pattern");
        let rest = visibility.replace_all(&uses.replace_all(&code, ""), "").into_owned();
        let mut starts = ["crate", "self", "super"].map(str::to_owned).to_vec();
        starts.extend(children.iter().cloned());
        let inline = Regex::new(&format!(r"\b(?:{})(?:::\w+)+", starts.join("|"))).expect("a pattern");
        let written_alone = |at: usize| !rest[..at].ends_with([':', '.']);
        let found = inline.find_iter(&rest).filter(|found| written_alone(found.start()));
        paths.extend(found.map(|found| segments(found.as_str())));
        Self { exports, paths }
    }
}

/// Resolves a path that stands in `module` to one from the crate's root. `None` if it leads to another crate.
fn absolute(module: &Module, path: &[String], known: &BTreeMap<Module, Source>) -> Option<Module> {
    let first = path.first()?.as_str();
    if first == "crate" {
        return Some(path[1..].to_vec());
    }
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    if first == "self" || supers > 0 {
        let base = module.len().checked_sub(supers)?;
        let rest = path.iter().filter(|segment| !["super", "self"].contains(&segment.as_str()));
        return Some(module[..base].iter().chain(rest).cloned().collect());
    }
    let child: Module = module.iter().chain([&path[0]]).cloned().collect();
    known.contains_key(&child).then(|| module.iter().chain(path).cloned().collect())
}

/// The file that defines what an absolute path names. Follows re-exports.
fn definer(path: &Module, known: &BTreeMap<Module, Source>, depth: usize) -> Option<Module> {
    let length = (1..=path.len()).rev().find(|length| known.contains_key(&path[..*length]))?;
    let module = path[..length].to_vec();
    let further = path.get(length).and_then(|name| known[&module].exports.get(name));
    let further = further.filter(|_| depth < 8).and_then(|export| absolute(&module, export, known));
    further.and_then(|path| definer(&path, known, depth + 1)).or(Some(module))
}

/// `doctor/checks/mod.rs` is the module `doctor/checks`.
fn module(file: &str) -> Module {
    let name = file.trim_end_matches(".rs").trim_end_matches("/mod");
    name.split('/').map(str::to_owned).collect()
}

/// The imports of each module from others of its top-level module, without those that `COMPOSED` excludes.
fn imports(texts: &Texts) -> Imports {
    let children = |parent: &Module| -> Vec<String> {
        let below = texts.keys().filter(|other| other.len() == parent.len() + 1 && other.starts_with(parent));
        below.filter_map(|child| child.last().cloned()).collect()
    };
    let known: BTreeMap<Module, Source> =
        texts.iter().map(|(name, text)| (name.clone(), Source::read(text, &children(name)))).collect();
    known
        .iter()
        .map(|(module, source)| {
            let targets =
                source.paths.iter().filter_map(|path| definer(&absolute(module, path, &known)?, &known, 0));
            let composes =
                |target: &Module| COMPOSED.contains(&module[0].as_str()) && target.starts_with(module);
            let targets =
                targets.filter(|target| target != module && target[0] == module[0] && !composes(target));
            (module.clone(), targets.collect())
        })
        .collect()
}

fn reaches(from: &Module, to: &Module, imports: &Imports) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        for target in &imports[module] {
            if target == to {
                return true;
            }
            if seen.insert(target) {
                next.push(target);
            }
        }
    }
    false
}

/// The files that import from themselves through others.
fn in_cycles(texts: &Texts) -> BTreeSet<String> {
    let imports = imports(texts);
    let found = imports.keys().filter(|module| reaches(module, module, &imports));
    found.map(|module| module.join("/")).collect()
}

#[test]
fn the_files_of_a_module_import_each_other_without_cycles() {
    let files = files().into_iter().filter(|(name, ..)| name != "lib.rs" && name != "main.rs");
    let found = in_cycles(&files.map(|(name, _, text)| (module(&name), text)).collect());
    let old: BTreeSet<String> =
        OLD.iter().flat_map(|cycle| cycle.iter().map(|&file| file.to_owned())).collect();
    let new: Vec<&String> = found.difference(&old).collect();
    assert!(new.is_empty(), "files that import from each other in a cycle: {new:?}");
    let gone: Vec<&String> = old.difference(&found).collect();
    assert!(gone.is_empty(), "no longer in a cycle, remove them from OLD: {gone:?}");
}

/// Each row: what it is about, the files, and those of them that form a cycle.
#[test]
fn a_cycle_is_found_however_an_import_is_written() {
    type Row = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
    const ROWS: &[Row] = &[
        (
            "imports",
            &[("a/mod", "mod b;\nmod c;"), ("a/b", "use super::c::C;"), ("a/c", "use crate::a::b::B;")],
            &["a/b", "a/c"],
        ),
        (
            "one direction",
            &[("a/mod", "mod b;\nmod c;"), ("a/b", "use super::c::C;"), ("a/c", "use std::fs;")],
            &[],
        ),
        (
            "three files",
            &[
                ("a/b", "use super::c::C;"),
                ("a/c", "use super::d::D;"),
                ("a/d", "use super::b::B;"),
                ("a/mod", ""),
            ],
            &["a/b", "a/c", "a/d"],
        ),
        (
            "a list of imports over several lines",
            &[
                ("a/mod", ""),
                ("a/b", "use super::{\n    c::{self, C},\n    d,\n};"),
                ("a/c", "use super::{b};"),
                ("a/d", ""),
            ],
            &["a/b", "a/c"],
        ),
        (
            "a re-export of the parent's",
            &[
                ("a/mod", "mod b;\nmod c;\npub use b::B;"),
                ("a/b", "use super::c::C;"),
                ("a/c", "use super::B;"),
            ],
            &["a/b", "a/c"],
        ),
        (
            "a re-export under another name",
            &[
                ("a/mod", "pub(crate) use b::B as Other;"),
                ("a/b", "use super::c::C;"),
                ("a/c", "use super::Other;"),
            ],
            &["a/b", "a/c"],
        ),
        (
            "a re-export of a re-export",
            &[
                ("a/mod", "pub use b::Inner;"),
                ("a/b/mod", "pub use inner::Inner;"),
                ("a/b/inner", "use crate::a::c::C;"),
                ("a/c", "use super::Inner;"),
            ],
            &["a/b/inner", "a/c"],
        ),
        (
            "a file that re-exports what it imports",
            &[("a/mod", ""), ("a/b", "pub use super::c::C;"), ("a/c", "use super::b::B;")],
            &["a/b", "a/c"],
        ),
        (
            "the same within the crate",
            &[("a/mod", ""), ("a/b", "pub(crate) use super::c::C;"), ("a/c", "use super::b::B;")],
            &["a/b", "a/c"],
        ),
        (
            "inline paths",
            &[
                ("a/mod", ""),
                ("a/b", "fn f() { super::c::run() }"),
                ("a/c", "fn g() { crate::a::b::B::new() }"),
            ],
            &["a/b", "a/c"],
        ),
        (
            "inline paths to a child",
            &[("a/mod", "mod b;\nfn f() { b::run() }"), ("a/b", "use super::X;")],
            &["a", "a/b"],
        ),
        (
            "inline paths by self",
            &[("a/mod", "mod b;\nfn f() { self::b::run() }"), ("a/b", "use super::X;")],
            &["a", "a/b"],
        ),
        (
            "imports by self",
            &[("a/mod", "mod b;\nuse self::b::run;"), ("a/b", "use super::X;")],
            &["a", "a/b"],
        ),
        (
            "a parent that re-exports, and its child that imports what it holds",
            &[("a/mod", "mod b;\npub use b::B;"), ("a/b", "use super::X;")],
            &["a", "a/b"],
        ),
        (
            "a parent among COMPOSED",
            &[
                ("cli/mod", "mod b;\nuse b::B;\npub use b::C;\nfn f() { b::run() }"),
                ("cli/b", "use super::X;"),
            ],
            &[],
        ),
        (
            "files below one of COMPOSED",
            &[("cli/mod", "mod b;\nmod c;"), ("cli/b", "use super::c::C;"), ("cli/c", "use super::b::B;")],
            &["cli/b", "cli/c"],
        ),
        (
            "comments and unit tests",
            &[
                ("a/mod", ""),
                ("a/b", "use super::c::C;"),
                (
                    "a/c",
                    "// use super::b::B;\n/// [`super::b::B`]\n#[cfg(test)]\nmod tests {\n    use crate::a::b::B;\n}",
                ),
            ],
            &[],
        ),
        ("another top-level module", &[("a", "use crate::b::B;"), ("b", "use crate::a::A;")], &[]),
    ];
    for (about, files, cycle) in ROWS {
        let texts: Texts = files.iter().map(|(name, text)| (module(name), (*text).to_owned())).collect();
        let expected: BTreeSet<String> = cycle.iter().map(|&file| file.to_owned()).collect();
        assert_eq!(in_cycles(&texts), expected, "{about}");
    }
}
