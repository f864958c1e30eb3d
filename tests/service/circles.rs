//! The files of one room form no circle: whoever reads one of them reads down, and comes back to none.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::rooms::files;

/// A module, as `["doctor", "checks", "keys"]`.
type Module = Vec<String>;

/// Rooms whose `mod.rs` composes its files and holds what they share as well. Only circles among the files count there.
/// None is to be added.
const COMPOSED: [&str; 7] = ["app", "cli", "config", "http", "metadata", "sandbox", "traces"];

/// Circles that were there before anybody looked. None is to be added.
const OLD: [&[&str]; 3] =
    [&["app/reload", "app/retirement"], &["http/observe", "http/request"], &["keys/batch", "keys/private"]];

struct Source {
    /// What it re-exports: a name, and the path of what it is.
    exports: BTreeMap<String, Vec<String>>,
    /// The paths that it uses, as they are written.
    paths: BTreeSet<Vec<String>>,
}

/// `a::{b, c::{d, e}}` in single paths.
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
    /// `children` are the modules below it. Its unit tests don't count.
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
                let path = segments(path);
                let name = name.map_or_else(|| path.last().cloned().unwrap_or_default(), str::to_owned);
                if found.get(1).is_some() {
                    exports.insert(name, path);
                } else {
                    paths.insert(path);
                }
            }
        }
        let rest = uses.replace_all(&code, "");
        let mut starts = vec!["crate".to_owned(), "super".to_owned()];
        starts.extend(children.iter().cloned());
        let inline = Regex::new(&format!(r"\b(?:{})(?:::\w+)+", starts.join("|"))).expect("a pattern");
        let written_alone = |at: usize| !rest[..at].ends_with([':', '.']);
        let found = inline.find_iter(&rest).filter(|found| written_alone(found.start()));
        paths.extend(found.map(|found| segments(found.as_str())));
        Self { exports, paths }
    }
}

/// Where a path that stands in `module` leads, from the crate's root; `None` outside of it.
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

/// The file that defines what an absolute path names: a re-export leads on.
fn definer(path: &Module, known: &BTreeMap<Module, Source>, depth: usize) -> Option<Module> {
    let length = (1..=path.len()).rev().find(|length| known.contains_key(&path[..*length]))?;
    let module = path[..length].to_vec();
    let further = path.get(length).and_then(|name| known[&module].exports.get(name));
    let further = further.filter(|_| depth < 8).and_then(|export| absolute(&module, export, known));
    further.and_then(|path| definer(&path, known, depth + 1)).or(Some(module))
}

/// Which files each file imports from.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let module = |name: &str| -> Module {
        let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
        name.split('/').map(str::to_owned).collect()
    };
    let texts: BTreeMap<Module, String> = files()
        .into_iter()
        .filter(|(name, ..)| name != "lib.rs" && name != "main.rs")
        .map(|(name, _, text)| (module(&name), text))
        .collect();
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

fn reaches(from: &Module, to: &Module, imports: &BTreeMap<Module, BTreeSet<Module>>) -> bool {
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

#[test]
fn the_files_of_a_room_form_no_circle() {
    let imports = imports();
    let in_circle = |module: &Module| reaches(module, module, &imports);
    let found: BTreeSet<String> =
        imports.keys().filter(|module| in_circle(module)).map(|module| module.join("/")).collect();
    let old: BTreeSet<String> =
        OLD.iter().flat_map(|circle| circle.iter().map(|&file| file.to_owned())).collect();
    let new: Vec<&String> = found.difference(&old).collect();
    assert!(new.is_empty(), "files that import from each other in a circle: {new:?}");
    let gone: Vec<&String> = old.difference(&found).collect();
    assert!(gone.is_empty(), "no circle any more, take them out of OLD: {gone:?}");
}

/// The search sees what it is for.
#[test]
fn a_circle_is_found_through_re_exports_and_inline_paths() {
    let source = |text: &str, children: &[&str]| {
        let children: Vec<String> = children.iter().map(|&child| child.to_owned()).collect();
        Source::read(text, &children)
    };
    let name = |path: &str| path.split('/').map(str::to_owned).collect::<Module>();
    let known = BTreeMap::from([
        (name("a"), source("mod b;\nmod c;\npub use b::{B, B2 as Other};\nfn f() { c::run() }", &["b", "c"])),
        (name("a/b"), source("use super::c::C;\n// use super::Comment;", &[])),
        (name("a/c"), source("fn g(x: super::Other) { crate::a::B::new() }", &[])),
    ]);
    let leads = |from: &str| -> Vec<String> {
        let (from, source) = (name(from), &known[&name(from)]);
        let paths = source.paths.iter().filter_map(|path| absolute(&from, path, &known));
        paths.filter_map(|path| definer(&path, &known, 0)).map(|module| module.join("/")).collect()
    };
    assert_eq!(leads("a"), ["a/c"]);
    assert_eq!(leads("a/b"), ["a/c"]);
    assert_eq!(leads("a/c"), ["a/b", "a/b"]);
}
