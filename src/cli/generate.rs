//! Shell completions and manual pages, made from what the programs' parsers know and from what their manuals add.

use clap::builder::PossibleValuesParser;
use clap::{Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::error::{Error, Result};

/// What `--generate` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Completions for bash
    CompleteBash,
    /// Completions for zsh
    CompleteZsh,
    /// Completions for fish
    CompleteFish,
    /// Completions for PowerShell
    CompletePowershell,
    /// The manual page, in roff
    Man,
}

/// An entry of a manual's section: what it is about (a command line, a path, a variable), and what there is to say.
pub type Entry = (&'static str, &'static str);

/// What a program's manual page tells beyond its options.
pub struct Manual {
    /// The program's name.
    pub name: &'static str,
    /// How it is called, a form a line.
    pub synopsis: &'static str,
    /// Command lines, each with what it does.
    pub examples: &'static [Entry],
    /// Files and folders that the program reads or leaves.
    pub files: &'static [Entry],
    /// Variables of the environment that it heeds, beside those of [`ENVIRONMENT`].
    pub environment: &'static [Entry],
    /// Other pages.
    pub see_also: &'static str,
}

/// Variables that both programs heed.
pub const ENVIRONMENT: &[Entry] = &[
    (
        "ORT_DYLIB_PATH",
        "The library of onnxruntime (1.17 or later) to use, a file or a folder. Where it is set, nothing else is looked for. By default: \
         beside the program (and in ../lib of a bin), what `gan-infer runtime install` fetched, Python's site-packages, the system's libraries.",
    ),
    (
        "GANFORGE_HOME",
        "The folder below which `gan-infer runtime install` puts onnxruntime, and where it is found again; by default ganforge in the \
         user's data folder.",
    ),
    ("ORT_DISABLE_TELEMETRY", "Onnxruntime's telemetry is off, unless this is 0."),
    ("ORT_LOG", "Where it is set, onnxruntime also prints its own warnings and errors."),
    (
        "VIRTUAL_ENV, CONDA_PREFIX, PYENV_VERSION, PATH, LD_LIBRARY_PATH",
        "Where onnxruntime is looked for: the environment of Python that is active, the Python on PATH, folders of libraries.",
    ),
    ("RAYON_NUM_THREADS", "How many threads compute, read and encode; by default one a core. No result depends on it."),
];

const EXIT_STATUS: &[Entry] = &[
    ("0", "Done."),
    ("1", "Something failed, or was interrupted; what was whole before stays."),
    ("2", "The call is wrong: a flag, a name, a value."),
    ("130", "A second Ctrl-C ended the program at once."),
];

/// The text of a kind for a program, whose parser is given.
///
/// # Errors
/// When the text cannot be made, which would be a defect.
pub fn generated(kind: Kind, mut command: Command, manual: &Manual) -> Result<String> {
    // A parser is named after the package.
    command = command.name(manual.name).bin_name(manual.name).disable_help_subcommand(true);
    let mut bytes = Vec::new();
    match shell(kind) {
        Some(shell) => clap_complete::generate(shell, &mut command, manual.name, &mut bytes),
        None => return page(command, manual).map_err(Error::io("write", "the manual page".as_ref())),
    }
    let text = String::from_utf8(bytes).map_err(|e| Error::invalid("the completions", e.to_string(), "Please report this."))?;
    Ok(with_one_spelling(&text, manual.name))
}

/// clap_complete 4.6 spells a hyphen in a program's name in two ways in what it writes for bash, so that the shell would not find
/// the flags of commands.
fn with_one_spelling(text: &str, name: &str) -> String {
    text.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"))
}

fn shell(kind: Kind) -> Option<Shell> {
    match kind {
        Kind::CompleteBash => Some(Shell::Bash),
        Kind::CompleteZsh => Some(Shell::Zsh),
        Kind::CompleteFish => Some(Shell::Fish),
        Kind::CompletePowershell => Some(Shell::PowerShell),
        Kind::Man => None,
    }
}

/// A parser whose argument `id` is completed with these values, in the command itself and in those below it. For completions only:
/// what is parsed may be more.
pub fn with_values(command: Command, id: &str, values: &[&'static str]) -> Command {
    let below: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_string()).collect();
    let has_it = command.get_arguments().any(|arg| arg.get_id() == id);
    let command =
        below.into_iter().fold(command, |command, sub| command.mut_subcommand(sub, |sub| with_values(sub, id, values)));
    match has_it {
        true => command
            .mut_arg(id, |arg| arg.value_parser(PossibleValuesParser::new(values.iter().copied())).hide_possible_values(true)),
        false => command,
    }
}

/// One page for a program with all of its subcommands.
fn page(mut command: Command, manual: &Manual) -> std::io::Result<String> {
    command = command.override_usage(manual.synopsis);
    command.build();
    let program = Man::new(command.clone()).manual("ganforge");
    let mut bytes = Vec::new();
    program.render_title(&mut bytes)?;
    program.render_name_section(&mut bytes)?;
    program.render_synopsis_section(&mut bytes)?;
    program.render_description_section(&mut bytes)?;
    program.render_options_section(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if command.has_subcommands() {
        text.push_str(".SH COMMANDS\n");
        commands(&mut text, &command, manual.name)?;
    }
    let environment: Vec<Entry> = [manual.environment, ENVIRONMENT].concat();
    for (title, entries) in
        [("EXAMPLES", manual.examples), ("FILES", manual.files), ("ENVIRONMENT", &environment), ("EXIT STATUS", EXIT_STATUS)]
    {
        text.push_str(&section(title, entries));
    }
    let mut end = Roff::new();
    end.control("SH", ["SEE ALSO"]).text([roman(manual.see_also)]);
    text.push_str(&end.render());
    Ok(without_repeated_preambles(&text))
}

/// A subsection for each command below `command`, whose call begins with `path`.
fn commands(text: &mut String, command: &Command, path: &str) -> std::io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        // What holds for all commands stands in the options of the program.
        let own =
            sub.get_arguments().filter(|arg| arg.is_global_set() || arg.get_id() == "help").map(|arg| arg.get_id().to_string());
        let own: Vec<String> = own.collect();
        let sub = own.into_iter().fold(sub.clone(), |sub, id| sub.mut_arg(id, |arg| arg.hide(true)));
        let man = Man::new(sub.clone());
        let mut bytes = Vec::new();
        man.render_synopsis_section(&mut bytes)?;
        bytes.extend_from_slice(b".PP\n");
        man.render_description_section(&mut bytes)?;
        man.render_options_section(&mut bytes)?;
        let body = String::from_utf8_lossy(&bytes);
        let mut heading = Roff::new();
        heading.control("SS", [path.as_str()]);
        text.push_str(&heading.render());
        // The sections of a page of its own are parts of this one.
        body.lines().filter(|line| !line.starts_with(".SH ")).for_each(|line| {
            text.push_str(line);
            text.push('\n');
        });
        commands(text, &sub, &path)?;
    }
    Ok(())
}

fn section(title: &str, entries: &[Entry]) -> String {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, told) in entries {
        roff.control("TP", []).text([bold(*term)]).text([roman(*told)]);
    }
    roff.render()
}

/// What defines the apostrophe stands before each part; once, at the beginning, is enough.
fn without_repeated_preambles(text: &str) -> String {
    let mut seen = false;
    let mut page = String::with_capacity(text.len());
    for line in text.lines() {
        let is_preamble = line.starts_with(".ie \\n(.g") || line.starts_with(".el .ds Aq");
        if !(is_preamble && seen) {
            page.push_str(line);
            page.push('\n');
        }
        seen |= line.starts_with(".el .ds Aq");
    }
    page
}
