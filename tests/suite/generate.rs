//! `--generate`: completions and manual pages that the shells and groff take, and that leave nothing out.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};

use tempfile::tempdir;

const SHELLS: [&str; 4] = ["complete-bash", "complete-zsh", "complete-fish", "complete-powershell"];

/// Those that this build has.
fn programs() -> Vec<(&'static str, &'static str)> {
    vec![
        ("gan-infer", env!("CARGO_BIN_EXE_gan-infer")),
        #[cfg(feature = "train")]
        ("gan-train", env!("CARGO_BIN_EXE_gan-train")),
    ]
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands of a program with those below them, and the flags of each, as their help tells them.
fn flags(program: &str, command: &[&str], found: &mut Vec<(String, BTreeSet<String>)>) {
    let help = said(program, &[command, &["--help"]].concat());
    // What it says of a flag stands further to the right.
    let lines = help.lines().filter(|line| line.starts_with("  -") || line.starts_with("      --"));
    let longs = lines.filter_map(|line| line.split_whitespace().find_map(|word| word.strip_prefix("--")));
    found.push((command.join(" "), longs.map(str::to_string).collect()));
    let below = help.split("\nCommands:\n").nth(1).unwrap_or_default().lines().take_while(|line| !line.is_empty());
    let names = below.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        flags(program, &[command, &[name]].concat(), found);
    }
}

#[test]
fn every_flag_of_every_command_is_there() {
    for (name, program) in programs() {
        let mut commands = Vec::new();
        flags(program, &[], &mut commands);
        let all = commands.iter().map(|(_, flags)| flags.len()).sum::<usize>();
        assert!(commands.len() >= 6 && all > 40, "{name}: {commands:?}");
        let manual = said(program, &["--generate", "man"]).replace("\\-", "-");
        let completions = SHELLS.map(|shell| said(program, &["--generate", shell]));
        for (command, flags) in &commands {
            // In the manual each command has its part.
            let heading = format!("\n.SS \"{name} {command}\"\n");
            let part = match command.as_str() {
                "" => manual.split("\n.SS ").next(),
                _ => manual.split(&heading).nth(1).and_then(|part| part.split("\n.SS ").next()),
            };
            let part = part.unwrap_or_else(|| panic!("the manual of {name} has no part for {command}"));
            for flag in flags {
                let global = matches!(flag.as_str(), "help" | "verbose") && !command.is_empty();
                assert!(
                    global || part.contains(&format!("\\fB--{flag}\\fR")),
                    "{name} {command}: --{flag} is not in the manual"
                );
                for (shell, text) in SHELLS.iter().zip(&completions) {
                    let written = if *shell == "complete-fish" { format!(" -l {flag} ") } else { format!("--{flag}") };
                    assert!(text.contains(&written), "{name} {command}: --{flag} is not in {shell}");
                }
            }
        }
    }
}

/// A program of the system's that takes `text`, if it is there.
fn taken(program: &str, arguments: &[&str], text: &str) -> Option<Output> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).arg(&path).env("LC_ALL", "C.UTF-8").env("HOME", folder.path()).stdin(Stdio::null());
    match command.output() {
        Ok(output) => Some(output),
        Err(_) => {
            println!("skipped: there is no {program} here");
            None
        }
    }
}

#[test]
fn the_shells_and_groff_take_them() {
    let checks: [(&str, &str, &[&str]); 5] = [
        ("complete-bash", "bash", &["-n"]),
        ("complete-zsh", "zsh", &["-n"]),
        ("complete-fish", "fish", &["--no-execute"]),
        ("man", "groff", &["-man", "-Tutf8", "-Kutf8", "-P-cbu", "-ww"]),
        ("man", "man", &["--warnings", "--local-file", "--pager=cat"]),
    ];
    for (name, program) in programs() {
        for (kind, checker, arguments) in checks {
            let Some(Output { status, stdout, stderr }) = taken(checker, arguments, &said(program, &["--generate", kind]))
            else {
                continue;
            };
            let complaint = String::from_utf8_lossy(&stderr);
            assert!(status.success() && complaint.is_empty(), "{checker} on the {kind} of {name}: {complaint}");
            if kind == "man" {
                let page = String::from_utf8_lossy(&stdout);
                for title in ["NAME", "SYNOPSIS", "OPTIONS", "COMMANDS", "EXAMPLES", "FILES", "ENVIRONMENT", "EXIT STATUS"] {
                    assert!(page.contains(title), "{checker}: {name}(1) has no {title}");
                }
            }
        }
    }
}

/// What bash offers for the last of these words.
#[cfg(unix)]
fn offered(program: &str, words: &[&str]) -> Vec<String> {
    let script = said(program, &["--generate", "complete-bash"]);
    let (last, before) = (words.len() - 1, words[words.len() - 2]);
    let list = words.join(" ");
    let function = script.split("complete -F ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let ask = format!(
        "{script}\nCOMP_WORDS=({list}); COMP_CWORD={last}; {function} {name} '{word}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        name = words[0],
        word = words[last],
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect()
}

#[test]
#[cfg(unix)]
fn bash_completes_flags_values_and_presets() {
    let infer = env!("CARGO_BIN_EXE_gan-infer");
    assert_eq!(offered(infer, &["gan-infer", "--trunc"]), ["--truncation"]);
    assert_eq!(offered(infer, &["gan-infer", "--format", "np"]), ["npy", "npz"]);
    assert_eq!(offered(infer, &["gan-infer", "runtime", "install", "--open"]), ["--openvino"]);
    #[cfg(feature = "train")]
    {
        let train = env!("CARGO_BIN_EXE_gan-train");
        assert_eq!(offered(train, &["gan-train", "export", "--layout", "tri"]), ["triton"]);
        let presets = said(train, &["presets"]);
        let names: BTreeSet<&str> = presets.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let of_dcgan: BTreeSet<String> =
            names.iter().filter(|name| name.starts_with("dcgan")).map(|name| name.to_string()).collect();
        assert!(of_dcgan.len() > 2);
        for words in [&["gan-train", "--preset", "dcgan"][..], &["gan-train", "export", "--preset", "dcgan"]] {
            assert_eq!(offered(train, words).into_iter().collect::<BTreeSet<_>>(), of_dcgan);
        }
        // What completions know is no bound on what is parsed.
        assert!(said(train, &["presets", "dcgan-64"]).contains("dcgan-64"));
    }
}

/// The variables that the source reads by name.
#[cfg(feature = "train")]
fn variables(folder: &std::path::Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            variables(&entry, found);
        } else if entry.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&entry).unwrap();
            let quoted = text.split('"');
            let is_name = |word: &str| word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            let ours = quoted.filter(|word| ["GANFORGE_", "ORT_", "CANDLE_"].iter().any(|start| word.starts_with(start)));
            found.extend(ours.filter(|word| is_name(word)).map(str::to_string));
        }
    }
}

#[test]
#[cfg(feature = "train")]
fn the_manuals_tell_every_variable() {
    let mut read = BTreeSet::new();
    variables(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut read);
    assert!(read.len() >= 6, "{read:?}");
    let manuals: String = programs().iter().map(|(_, program)| said(program, &["--generate", "man"])).collect();
    for variable in read {
        assert!(manuals.contains(&variable), "no manual tells of {variable}");
    }
}

#[test]
fn it_stands_alone_and_knows_its_kinds() {
    for (_, program) in programs() {
        for wrong in [&["--generate", "man", "--json"][..], &["--generate", "complete-tcsh"], &["--generate"]] {
            let output = Command::new(program).args(wrong).output().unwrap();
            assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{wrong:?}");
        }
        // Whoever reads only the beginning has what he wanted.
        let mut child = Command::new(program).args(["--generate", "man"]).stdout(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
