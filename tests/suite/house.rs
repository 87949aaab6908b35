//! What holds of the source itself, beyond what the compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    entries.flat_map(below).filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

/// The library is called by programs that have other flags, or none: its messages and docs name fields and functions. Which flags
/// they are stands in `cli.rs`.
#[test]
fn the_library_knows_no_flags() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // Whose flags are those of pip, npm and nvcc; CSS variables; a card for people who call a program; and where messages are told to callers
    // of other languages.
    let others = [
        "capi/mod.rs",
        "cli.rs",
        "cli/generate.rs",
        "export/hub.rs",
        "infer/web_runtime.rs",
        "infer/wheels.rs",
        "nn/cuda/module.rs",
        "python/mod.rs",
        "train/report.rs",
    ]
    .map(|path| src.join(path));
    let ours = sources(&src).into_iter().filter(|path| !path.starts_with(src.join("bin")) && !others.contains(path));
    let is_flag = |line: &str| {
        let after = |at: usize| line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase());
        let before = |at: usize| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
        line.match_indices("--").any(|(at, _)| before(at) && after(at))
    };
    let mut seen = 0;
    for path in ours {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            assert!(!is_flag(line), "{}:{}: names a flag: {line}", path.display(), number + 1);
            seen += 1;
        }
    }
    assert!(seen > 10_000, "{seen} lines are not the library");
    assert!(is_flag("Use `--batch` or (--n 3)") && !is_flag("a--b, x -- y, // ---"));
}

/// The library's modules, each with its file.
fn modules() -> BTreeMap<Vec<String>, PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let ours = sources(&src).into_iter().filter(|path| !path.starts_with(src.join("bin")));
    let named = ours.map(|path| {
        let inside = path.strip_prefix(&src).unwrap().with_extension("");
        let mut names: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_string()).collect();
        names.pop_if(|last| last == "mod" || last == "lib");
        (names, path)
    });
    named.collect()
}

/// The single paths of a `use`: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let Some((before, rest)) = tree.split_once('{') else { return vec![tree.to_string()] };
    let inside = rest.strip_suffix('}').unwrap();
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in inside.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 { parts.push(String::new()) } else { parts.last_mut().unwrap().push(c) }
    }
    parts.iter().filter(|part| !part.is_empty()).flat_map(|part| paths(&format!("{before}{part}"))).collect()
}

/// What a module imports, and whether it hands it on: paths from the crate's root.
fn imports(module: &[String], text: &str) -> Vec<(Vec<String>, bool)> {
    let mut found = Vec::new();
    for statement in text.split(';') {
        let Some(line) =
            statement.lines().position(|line| line.starts_with("use ") || line.starts_with("pub") && line.contains(" use "))
        else {
            continue;
        };
        let statement = statement.lines().skip(line).collect::<Vec<_>>().join("");
        let (before, tree) = statement.split_once("use ").unwrap();
        for path in paths(
            &tree.split_whitespace().collect::<Vec<_>>().join(" ").replace(", ", ",").replace("{ ", "{").replace(" }", "}"),
        ) {
            // Another name for it says nothing of where it lies.
            let path = path.split(" as ").next().unwrap_or_default();
            let mut parts: Vec<String> = path.split("::").map(str::to_string).collect();
            parts.pop_if(|last| last == "self");
            let mut from = module.to_vec();
            match parts[0].as_str() {
                "crate" => from.clear(),
                "super" | "self" => {}
                _ if before.starts_with("pub") => parts.insert(0, "self".to_string()),
                _ => continue,
            }
            let names = parts.iter().skip_while(|part| matches!(part.as_str(), "crate" | "self" | "super"));
            let up = parts.iter().filter(|part| *part == "super").count();
            from.truncate(from.len().saturating_sub(up));
            found.push((from.into_iter().chain(names.cloned()).collect(), before.starts_with("pub")));
        }
    }
    found
}

/// A file can be understood after those that it imports. A folder's `mod.rs` is one with what is in the folder.
#[test]
fn no_two_files_import_each_other_in_a_circle() {
    let modules = modules();
    let texts: BTreeMap<_, _> = modules.iter().map(|(module, path)| (module, fs::read_to_string(path).unwrap())).collect();
    let imports: BTreeMap<_, _> = texts.iter().map(|(module, text)| (*module, imports(module, text))).collect();
    let handed_on: BTreeMap<Vec<String>, &Vec<String>> = imports
        .iter()
        .flat_map(|(module, paths)| paths.iter().filter(|(_, on)| *on).map(|(path, _)| (module.to_vec(), path)))
        .map(|(module, path)| (module.into_iter().chain(path.last().cloned()).collect(), path))
        .collect();
    // The module that a path leads into, through what others hand on.
    let leads_to = |path: &Vec<String>| {
        let mut path = path.clone();
        for _ in 0..modules.len() {
            let next =
                (1..=path.len()).find_map(|n| handed_on.get(&path[..n]).filter(|to| ***to != path[..n]).map(|to| (n, *to)));
            let Some((n, to)) = next else { break };
            path = [to, &path[n..]].concat();
        }
        (0..=path.len()).rev().map(|n| path[..n].to_vec()).find(|module| modules.contains_key(module)).unwrap()
    };
    let is_folder_of =
        |folder: &Vec<String>, file: &Vec<String>| file.starts_with(folder) && !modules[folder].ends_with("lib.rs");
    let mut needed: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (module, paths) in &imports {
        let to = paths.iter().map(|(path, _)| leads_to(path));
        let to = to.filter(|to| to != *module && !is_folder_of(module, to) && !is_folder_of(to, module));
        needed.insert(module.to_vec(), to.collect());
    }
    assert!(needed.values().map(BTreeSet::len).sum::<usize>() > 500, "the imports are not found");
    // Files that need none of those that are left are taken away, until none is.
    while let Some(free) = needed.iter().find(|(_, to)| to.is_empty()).map(|(module, _)| module.clone()) {
        needed.remove(&free);
        needed.values_mut().for_each(|to| _ = to.remove(&free));
    }
    assert!(needed.is_empty(), "in a circle, or above one: {needed:?}");
}

#[test]
fn imports_are_told_from_their_trees() {
    let text = "use std::fs;\nuse super::b::{self, C};\npub(crate) use d::{e::F, G};\nuse super::c as d;\nuse crate::x::{y, z::{v, w}};\n";
    let found = imports(&["a".to_string(), "m".to_string()], text);
    let told: Vec<(String, bool)> = found.into_iter().map(|(path, on)| (path.join("::"), on)).collect();
    let expected = [
        ("a::b", false),
        ("a::b::C", false),
        ("a::m::d::e::F", true),
        ("a::m::d::G", true),
        ("a::c", false),
        ("x::y", false),
        ("x::z::v", false),
        ("x::z::w", false),
    ];
    assert_eq!(told, expected.map(|(path, on)| (path.to_string(), on)));
}
