//! The reference of all keys of a config, held to what serde and the checks say: nothing is missing in it, nothing in it is
//! unknown, its defaults and ranges are those of the code; and all of it works.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ganforge::config::{self, PRESETS, REFERENCE, Span, TrainConfig, preset_table, with_all_keys};
use ganforge::data::{DataReport, Dataset, synthetic};
use ganforge::progress::Silent;
use ganforge::train::{RunFolder, TrainingJob, checkpoint, train};
use tempfile::tempdir;
use toml::{Table, Value};

/// A key of the reference.
#[derive(Debug)]
struct Key {
    section: String,
    name: String,
    /// The line above it, without `# `.
    about: String,
    value: Value,
    optional: bool,
    /// Whether its whole section may be left out.
    in_optional: bool,
}

/// What stands in the reference: its keys, and by section the values that some of these can take, with what each of them is.
struct Reference {
    keys: Vec<Key>,
    values: BTreeMap<String, Vec<Value>>,
}

fn parsed(value: &str) -> Value {
    let table: Table = format!("v = {value}").parse().unwrap_or_else(|e| panic!("{value}: {e}"));
    table["v"].clone()
}

fn reference() -> Reference {
    let (mut keys, mut values) = (Vec::new(), BTreeMap::<String, Vec<Value>>::new());
    let (mut section, mut in_optional, mut about) = (String::new(), false, Vec::new());
    let mut listed: Vec<Value> = Vec::new();
    for line in REFERENCE.lines() {
        let code = line.strip_prefix('#').unwrap_or(line);
        if let Some(value) = line.strip_prefix("#   ") {
            listed.push(parsed(value));
        } else if let Some(text) = line.strip_prefix("# ") {
            about.push(text.to_string());
        } else if let Some(name) = code.strip_prefix('[') {
            section = name.strip_suffix(']').unwrap().to_string();
            in_optional = line.starts_with('#');
            about.clear();
            values.entry(section.clone()).or_default().append(&mut listed);
        } else if let Some((name, value)) = code.split_once(" = ") {
            values.entry(section.clone()).or_default().append(&mut listed);
            let about = std::mem::take(&mut about).join(" ");
            assert!(about.len() > 10 && about.ends_with('.'), "{line}: {about}");
            let optional = line.starts_with('#');
            let (section, name, value) = (section.clone(), name.to_string(), parsed(value));
            keys.push(Key { section, name, about, value, optional, in_optional });
        } else {
            assert!(line.is_empty(), "{line}");
            about.clear();
        }
    }
    Reference { keys, values }
}

impl Key {
    fn path(&self) -> String {
        if self.section.is_empty() { self.name.clone() } else { format!("{}.{}", self.section, self.name) }
    }

    /// The kinds of its section that have it: all, unless it says of which it is.
    fn kinds(&self) -> Option<BTreeSet<String>> {
        let told = self.about.strip_prefix("With kind ")?.split_once(':').unwrap().0;
        Some(quoted(told))
    }

    /// What it says that its default is.
    fn default(&self) -> &str {
        let (_, told) = self.about.rsplit_once("Default: ").unwrap_or_else(|| panic!("{self:?}"));
        told.trim_end_matches('.')
    }
}

/// What stands in quotes.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('"').skip(1).step_by(2).map(String::from).collect()
}

/// What a message says was expected.
fn expected(message: &str) -> BTreeSet<String> {
    let (_, told) = message.split_once("expected ").unwrap_or_default();
    told.split('`').skip(1).step_by(2).map(String::from).collect()
}

/// Puts a value into a table, with the sections that lead there.
fn put(table: &mut Table, path: &str, value: Value) {
    let (sections, name) = path.rsplit_once('.').map_or(("", path), |split| split);
    let sections = sections.split('.').filter(|section| !section.is_empty());
    let section = sections.fold(table, |table, section| {
        table.entry(section).or_insert_with(|| Value::Table(Table::new())).as_table_mut().unwrap()
    });
    section.insert(name.to_string(), value);
}

/// A config of the preset `digits` with some values put into it.
fn with(values: &[(&str, Value)]) -> Table {
    let mut table = preset_table("digits").unwrap();
    values.iter().for_each(|(path, value)| put(&mut table, path, value.clone()));
    table
}

fn parse(table: Table) -> Result<TrainConfig, String> {
    Value::Table(table).try_into().map_err(|e: toml::de::Error| e.message().to_string())
}

/// The names of the fields that serde knows in a section, of this kind if it has some.
fn fields(section: &str, kind: Option<&str>) -> BTreeSet<String> {
    let mut values = Vec::new();
    if let Some(kind) = kind {
        values.push((section, Value::Table(Table::from_iter([("kind".to_string(), Value::from(kind))]))));
    }
    let unknown = if section.is_empty() { "zz".to_string() } else { format!("{section}.zz") };
    values.push((&unknown, Value::from(1)));
    match parse(with(&values)) {
        Err(message) if message.contains("unknown field `zz`") => expected(&message),
        // A kind without fields.
        _ if kind.is_some() => BTreeSet::new(),
        other => panic!("{section}: {other:?}"),
    }
}

/// The names of the values that serde knows at a place, if it knows a certain number of them.
fn variants(path: &str, wrong: Value) -> BTreeSet<String> {
    match parse(with(&[(path, wrong)])) {
        Err(message) if message.contains("unknown variant `zz`") => expected(&message),
        _ => BTreeSet::new(),
    }
}

/// Sections whose keys depend on their kind.
const TAGGED: [&str; 4] = ["loss", "penalty", "optimizer.generator", "optimizer.critic"];

fn kinds(section: &str) -> BTreeSet<String> {
    variants(section, parsed("{ kind = 'zz' }"))
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let reference = reference();
    let told = |section: &str| reference.keys.iter().filter(|key| key.section == section).collect::<Vec<_>>();
    let is_section = |path: &str| reference.values.keys().any(|s| s == path || s.starts_with(&format!("{path}.")));
    let mut open = vec![String::new()];
    let mut seen = BTreeSet::new();
    while let Some(section) = open.pop() {
        let known = match TAGGED.contains(&section.as_str()) {
            true => {
                let all = kinds(&section);
                assert!(all.len() >= 2, "{section}");
                all.iter().for_each(|kind| {
                    let mut known = fields(&section, Some(kind));
                    known.insert("kind".to_string());
                    let of_kind = |key: &&Key| key.kinds().is_none_or(|kinds| kinds.contains(kind));
                    let told: BTreeSet<String> =
                        told(&section).into_iter().filter(of_kind).map(|key| key.name.clone()).collect();
                    assert_eq!(told, known, "{section}, {kind}");
                });
                let named = told(&section).iter().filter_map(|key| key.kinds()).flatten().collect::<BTreeSet<_>>();
                assert!(named.is_subset(&all), "{section}: {named:?}");
                continue;
            }
            false => fields(&section, None),
        };
        let path = |name: &String| if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let mut told: BTreeSet<String> = told(&section).into_iter().map(|key| key.name.clone()).collect();
        for name in &known {
            if is_section(&path(name)) {
                open.push(path(name));
                told.insert(name.clone());
            }
        }
        // Of files only, and for critics only.
        told.remove("base");
        if section == "generator" {
            assert!(["norm", "san"].into_iter().all(|name| told.insert(name.to_string())));
        }
        assert_eq!(told, known, "[{section}]");
        seen.insert(section);
    }
    assert!(seen.len() >= 11, "{seen:?}");
}

#[test]
fn the_reference_has_every_value_and_no_other() {
    let Reference { keys, values } = reference();
    let mut listed = BTreeSet::new();
    // Lists of layers, rules and lengths.
    for (path, wrong, name) in [
        ("generator.layers", "['zz']", "generator"),
        ("init.conv", "'zz'", "init"),
        ("schedule.length", "{ zz = 1 }", "schedule"),
    ] {
        let all = variants(path, parsed(wrong));
        let name_of = |value: &Value| match value {
            Value::Table(table) => table.keys().next().unwrap().clone(),
            other => other.as_str().unwrap().to_string(),
        };
        assert_eq!(values[name].iter().map(name_of).collect::<BTreeSet<_>>(), all, "{path}");
        for value in &values[name] {
            let fields = value.as_table().and_then(|table| table.values().next()?.as_table());
            let wrong = parsed(&format!("{{ {} = {{ zz = 1 }} }}", name_of(value)));
            let wrong = if name == "generator" { Value::Array(vec![wrong]) } else { wrong };
            let message = parse(with(&[(path, wrong)])).unwrap_err();
            let known = if message.contains("unknown field `zz`") { expected(&message) } else { BTreeSet::new() };
            let told = fields.map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
            assert_eq!(known, told, "{value}");
        }
        listed.insert(all);
    }
    // Names of which a key has one, or a list has some.
    let mut seen = 0;
    for key in keys.iter().filter(|key| key.path() != "base") {
        let wrong = if key.value.is_array() { "['zz']" } else { "'zz'" };
        let mut values = vec![(key.path(), parsed(wrong))];
        if let Some(kind) = key.kinds().and_then(|kinds| kinds.first().cloned()) {
            values.insert(0, (key.section.clone(), Value::Table(Table::from_iter([("kind".to_string(), kind.into())]))));
        }
        let values: Vec<(&str, Value)> = values.iter().map(|(path, value)| (path.as_str(), value.clone())).collect();
        let message = parse(with(&values)).err().unwrap_or_default();
        let all = expected(&message);
        if !message.contains("unknown variant `zz`") || listed.contains(&all) || key.path().ends_with("layers") {
            continue;
        }
        let about = key.about.split_once("Default: ").map_or(key.about.as_str(), |(about, _)| about);
        let about = if key.kinds().is_some() { about.split_once(':').unwrap().1 } else { about };
        let mut told = quoted(about);
        if key.path() == "data.range" {
            told.insert("byte".to_string()); // known, and refused
        }
        assert_eq!(told, all, "{}", key.path());
        seen += 1;
    }
    assert!(seen >= 12, "{seen}");
}

/// What a section says at least, so that a key can be added to it.
fn least(key: &Key) -> Vec<(String, Value)> {
    let kind = key.kinds().and_then(|kinds| kinds.first().cloned());
    let value = match key.section.as_str() {
        "penalty" => "{ kind = 'r1' }".to_string(),
        "schedule.critic_warmup" => "{}".to_string(),
        "schedule.ramp" => "{ over = { steps = 2 } }".to_string(),
        "schedule.lr_decay" => "{ curve = 'linear', begin = { steps = 1 }, end = { steps = 2 } }".to_string(),
        "loss" => format!("{{ kind = '{}' }}", kind.unwrap_or("bce".to_string())),
        section if section.starts_with("optimizer") => {
            format!("{{ kind = '{}', lr = 0.1 }}", kind.unwrap_or("adam".to_string()))
        }
        _ => return Vec::new(),
    };
    vec![(key.section.clone(), parsed(&value))]
}

/// A config that has this key, or has it not.
fn around(key: &Key, value: Option<Value>) -> Table {
    let mut table = preset_table("digits").unwrap();
    for (path, value) in least(key) {
        put(&mut table, &path, value);
    }
    match value {
        Some(value) => put(&mut table, &key.path(), value),
        None => {
            let mut section = key.section.split('.').filter(|name| !name.is_empty());
            let table = section.try_fold(&mut table, |table, name| table.get_mut(name)?.as_table_mut());
            table.map(|table| table.remove(&key.name));
        }
    }
    table
}

#[test]
fn defaults_are_as_told() {
    let mut seen = 0;
    for key in reference().keys.iter().filter(|key| key.optional && key.path() != "base") {
        let required = around(key, None);
        let without = parse(required);
        if key.in_optional && without.is_err() {
            continue; // of a section that may be left out, and must say this
        }
        let without = without.unwrap_or_else(|e| panic!("{key:?}: {e}"));
        if key.default().starts_with("none") {
            let resolved: Table = without.to_toml().unwrap().parse().unwrap();
            let mut section = key.section.split('.').filter(|name| !name.is_empty());
            let section = section.try_fold(&resolved, |table, name| table.get(name)?.as_table());
            assert!(section.is_none_or(|section| !section.contains_key(&key.name)), "{key:?}");
            assert_ne!(parse(around(key, Some(key.value.clone()))).unwrap(), without, "{key:?}");
        } else {
            assert_eq!(parsed(key.default()), key.value, "{key:?}");
            assert_eq!(parse(around(key, Some(key.value.clone()))).unwrap(), without, "{key:?}");
        }
        seen += 1;
    }
    assert!(seen >= 45, "{seen}");
}

#[test]
fn ranges_are_as_told() {
    let mut seen = BTreeSet::new();
    for key in &reference().keys {
        for wrong in
            ["-1", "0", "1", "5", "70_000", "9_000_000_000", "-0.5", "0.0", "1.0", "1.5", "inf", "[-0.5, 0.5]", "[0.5, 1.0]"]
        {
            let table = around(key, Some(parsed(wrong)));
            let message = TrainConfig::from_table(table, "it").err().map(|e| e.to_string()).unwrap_or_default();
            let Some((_, range)) = message.split_once(" must be ") else { continue };
            if !message.contains(&key.name) && !message.contains("learning rate") {
                continue; // of another key, which the value goes against
            }
            let range = range.split(". Compare").next().unwrap();
            assert!(key.about.contains(range), "{}: {} does not say {range}", key.path(), key.about);
            seen.insert(key.path());
        }
    }
    assert!(seen.len() >= 24, "{seen:?}");
}

#[test]
fn the_reference_with_a_presets_values_is_the_preset() {
    let names = |text: &str| {
        let keys = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line)).filter(|line| !line.starts_with(' '));
        keys.filter_map(|line| Some(line.split_once(" = ")?.0.to_string())).filter(|key| !key.contains(' ')).collect::<Vec<_>>()
    };
    for (name, _) in PRESETS {
        let (text, config) = (with_all_keys(name).unwrap(), TrainConfig::preset(name).unwrap());
        assert_eq!(TrainConfig::from_toml(&text, name).unwrap(), config, "{name}");
        assert_eq!(names(&text), names(REFERENCE), "{name}");
        // Any line that is commented out says how it is; those of kinds and sections that are not there would be others' there.
        let (mut about, mut is_there) = ("", true);
        for (at, line) in text.lines().enumerate() {
            let is_key = line.starts_with('#') && names(line).len() == 1;
            if line.trim_start_matches('#').starts_with('[') {
                is_there = line.starts_with('[');
            } else if is_key && is_there && !about.contains("Default: none") && !about.contains("With kind") {
                let with = |(n, old): (usize, &str)| format!("{}\n", if n == at { &line[1..] } else { old });
                let with: String = text.lines().enumerate().map(with).collect();
                assert_eq!(TrainConfig::from_toml(&with, name).unwrap(), config, "{name}: {line}");
            }
            about = line;
        }
    }
    assert!(with_all_keys("digitz").unwrap_err().to_string().contains("Did you mean 'digits'"));
}

/// Two configs that say between them all that can be said, but for the kinds that exclude each other.
const ALL: [&str; 2] = [
    r#"
preset = "mine"
about = "all that can be said"
seed = 5
init_from = "BEGUN"
augment = ["color", "translation", "cutout"]
augment_probability = 0.5
[data]
source = "synthetic"
size = 28
channels = 1
range = "tanh"
held_out = 0.2
classes = 10
class_names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
flip = true
[latent]
size = 12
law = "normal"
[generator]
layers = [{ categorical = 10 }, { linear = { out = 49, bias = false } }, { reshape = [1, 7, 7] }, "batch_norm", "relu",
    { conv_transpose = { out = 3, kernel = 3, stride = 2, padding = 1, output_padding = 1, bias = true } }, { leaky_relu = 0.1 },
    { conv_transpose = { out = 1, kernel = 4, stride = 2, padding = 1 } }, "tanh"]
[critic]
layers = [{ conv = { out = 4, kernel = 4, stride = 2, padding = 1, bias = true, spectral = false } }, { leaky_relu = 0.2 },
    "layer_norm", { linear = { out = 8, bias = true, spectral = false } }, { dropout = 0.2 }, { linear = { out = 10 } }]
norm = "spectral"
san = true
[init]
conv = { normal = { mean = 0.0, std = 0.02 } }
linear = "fan-in-normal"
bias = "zeros"
norm_weight = "pytorch"
norm_bias = "zeros"
[loss]
kind = "bce"
reduction = "sum"
critic_scale = 0.5
[penalty]
kind = "r1"
weight = 0.1
every = 2
[optimizer.generator]
kind = "adam"
lr = 1e-3
betas = [0.5, 0.9]
eps = 1e-7
[optimizer.critic]
kind = "rmsprop"
lr = 1e-3
decay = 0.9
eps = 1e-7
[schedule]
length = { steps = 3 }
batch_size = 8
critic_steps = 2
generator_steps = 1
generator_latents = "reused"
generator_top_k = 1.0
ema_decay = 0.9
lr_warmup = { steps = 2 }
capture = false
precision = "f32"
[schedule.critic_warmup]
critic_steps = 3
first = 1
every = 2
[schedule.lr_decay]
curve = "cosine"
begin = { images = 16 }
end = { epochs = 3 }
to = 0.1
[schedule.ramp]
over = { steps = 2 }
beta2_to = 0.8
penalty_to = 0.5
augment_to = 1.0
[output]
log_every = { steps = 1 }
sample_every = { images = 16 }
checkpoint_every = { epochs = 1 }
samples = 4
keep_checkpoints = 3
[watch]
every = { images = 8 }
stop = false
judge_every = { images = 16 }
judge_samples = 100
"#,
    r#"
base = "wgan-mnist-mlp"
[data]
range = "sigmoid"
[latent]
size = 4
law = "uniform"
[generator]
layers = [{ linear = { out = 8, gain = 1.0 } }, { basis = 7 }, { upsample = "binomial" },
    { residual = { layers = [{ conv = { out = 4, kernel = 3, padding = 1, group_width = 4, gain = 0.5 } }, "relu"], shortcut = [{ conv = { out = 4, kernel = 1 } }] } },
    { upsample = "nearest" }, "bias", { conv = { out = 1, kernel = 1 } }, "sigmoid"]
[critic]
layers = [{ downsample = "average" }, { conv = { out = 4, kernel = 1 } }, { residual = { layers = ["tanh", { conv = { out = 4, kernel = 3, padding = 1, group_width = 1 } }] } },
    { downsample = "binomial" }, { pool = "sum" }, { linear = { out = 1 } }]
[init]
linear = { gain = 1.0 }
[loss]
kind = "wgan"
clip = 0.05
reduction = "mean"
[optimizer.generator]
kind = "rmsprop-tf"
lr = 1e-3
decay = 0.8
eps = 1e-9
[optimizer.critic]
kind = "sgd"
lr = 1e-3
momentum = 0.5
[schedule]
length = { steps = 4 }
batch_size = 8
critic_steps = 1
generator_steps = 2
generator_latents = "fresh"
generator_top_k = 0.5
ema_half_life = 10
[schedule.ramp]
over = { images = 24 }
ema_half_life_to = 40
"#,
];

/// Every key of a TOML text, with its section.
fn keys_of(section: &str, table: &Table, all: &mut BTreeSet<String>, sections: &BTreeSet<String>) {
    for (name, value) in table {
        let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        match value {
            Value::Table(inner) if sections.contains(&path) || sections.iter().any(|s| s.starts_with(&format!("{path}."))) => {
                keys_of(&path, inner, all, sections);
            }
            _ => _ = all.insert(path),
        }
    }
}

fn digits(config: &TrainConfig) -> Dataset {
    const LEN: usize = 30;
    let (report, pixels) = (DataReport::default(), synthetic::digits(LEN, 28, 1, 0));
    let labels = if config.data.classes > 0 { synthetic::labels()[..LEN].to_vec() } else { Vec::new() };
    Dataset { name: "digits".into(), sha256: "abc".into(), len: LEN, channels: 1, size: 28, pixels, labels, report }
}

fn go_on(folder: &RunFolder, config: &TrainConfig, length: u64) {
    let config = &TrainConfig {
        schedule: config::Schedule { length: Span::Steps(length), ..config.schedule.clone() },
        ..config.clone()
    };
    let (data, stop, device) = (digits(config), AtomicBool::new(false), &Device::Cpu);
    train(&TrainingJob { config, data: &data, device, folder, progress: &Silent, stop: &stop, judge: None, set: &[] }).unwrap();
}

/// The files of the latest checkpoint.
fn saved(folder: &RunFolder) -> BTreeMap<String, Vec<u8>> {
    let latest = checkpoint::latest(folder).unwrap().unwrap();
    let files = fs::read_dir(latest).unwrap().map(|entry| entry.unwrap());
    files.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

/// Trains in one go, and in two.
fn check_training(place: &Path, config: &TrainConfig, steps: u64) {
    let runs = ["straight", "resumed"].map(|name| RunFolder::create(&place.join(name), config).unwrap());
    go_on(&runs[0], config, steps);
    go_on(&runs[1], config, steps / 2);
    go_on(&runs[1], config, steps);
    let [straight, resumed] = runs.each_ref().map(saved);
    assert!(straight.len() >= 7 && straight.keys().eq(resumed.keys()), "{:?}", straight.keys());
    for (name, bytes) in straight {
        assert!(bytes == resumed[&name], "{}: {name} differs", config.preset);
    }
}

#[test]
fn every_key_loads_trains_and_resumes() {
    let place = tempdir().unwrap();
    let begun = place.path().join("begun");
    let text = ALL[0].replace("BEGUN", &begun.display().to_string());
    let first = TrainConfig::from_toml(&text, "it").unwrap();
    // The weights to begin with.
    let plain = TrainConfig { init_from: String::new().into(), seed: 1, ..first.clone() };
    go_on(&RunFolder::create(&begun, &plain).unwrap(), &plain, 1);
    fs::create_dir(place.path().join("0")).unwrap();
    check_training(&place.path().join("0"), &first, 3);
    fs::create_dir(place.path().join("1")).unwrap();
    check_training(&place.path().join("1"), &TrainConfig::from_toml(ALL[1], "it").unwrap(), 4);

    let reference = reference();
    let sections: BTreeSet<String> = reference.values.keys().cloned().collect();
    let mut used = BTreeSet::new();
    ALL.iter().for_each(|text| keys_of("", &text.parse().unwrap(), &mut used, &sections));
    let told: BTreeSet<String> = reference.keys.iter().map(Key::path).collect();
    // The two networks' optimisers have the same keys, of which each text gives one kind's.
    let merged =
        |keys: &BTreeSet<String>| keys.iter().map(|key| key.replace("optimizer.critic", "optimizer.generator")).collect();
    let (used, told): (BTreeSet<String>, BTreeSet<String>) = (merged(&used), merged(&told));
    assert_eq!(used, told);
    // And every layer, rule and length.
    for value in reference.values.values().flatten() {
        let name = value.as_table().map_or_else(|| value.as_str(), |table| table.keys().next().map(String::as_str)).unwrap();
        let is_it = |word: &str| word == name;
        let words = |text: &&str| text.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').any(is_it);
        assert!(ALL.iter().any(words), "{name}");
    }
}

/// Those kinds that exclude others.
#[test]
fn every_kind_trains() {
    let place = tempdir().unwrap();
    let penalties =
        ["{ kind = 'gradient', weight = 1.0 }", "{ kind = 'r1', weight = 1.0 }", "{ kind = 'r1-r2', weight = 1.0, every = 2 }"];
    assert_eq!(kinds("penalty").len(), penalties.len());
    for (at, loss) in kinds("loss").iter().enumerate() {
        for (number, (penalty, curve)) in penalties.iter().zip(["linear", "cosine", "linear"]).enumerate() {
            let mut table = config::parse_table(ALL[1], "it").unwrap();
            put(&mut table, "loss", parsed(&format!("{{ kind = '{loss}' }}")));
            put(&mut table, "penalty", parsed(penalty));
            put(&mut table, "schedule.generator_top_k", Value::from(1.0));
            put(&mut table, "schedule.generator_latents", Value::from("reused-fakes"));
            put(
                &mut table,
                "schedule.lr_decay",
                parsed(&format!("{{ curve = '{curve}', begin = {{ steps = 1 }}, end = {{ steps = 3 }} }}")),
            );
            let config = TrainConfig::from_table(table, loss).unwrap();
            let folder = place.path().join(format!("{at}-{number}"));
            fs::create_dir(&folder).unwrap();
            check_training(&folder, &config, 4);
        }
    }
}
