//! `gan-train export --layout triton|hub`: what servers and hubs are given.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use assert_cmd::assert::Assert;
use ganforge::contract::Layout;
use ganforge::error::Error;
use ganforge::export::{self, Dtype, ModelFolder, Publication, Reduction, SAMPLES, contract_of};
use ganforge::image::{Images, Range};
use ganforge::infer::{Generator, Options, Precision, Provider};
use ganforge::progress::Silent;
use ganforge::train::Trained;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use prost::Message;
use tempfile::tempdir;

use crate::export::custom;
use crate::int8::small_features;
use crate::readme::{python, run};

/// What a text may hold that is put into Markdown, YAML, protobuf's text format and a terminal.
const HOSTILE: &str = "x\"\n---\nlicense: mit\n# [a](http://b) <script>|`$\\u{1b}[31m\u{1b}[31m{{title}}\u{2028}é";

fn small(layers: &str, classes: &[&str]) -> Trained {
    let mut trained = custom(6, [1, 8], Range::Tanh, layers);
    trained.config.data.classes = classes.len();
    trained.config.data.class_names = classes.iter().map(|name| name.to_string()).collect();
    trained
}

const MLP: &str = "{ linear = { out = 40 } }, \"relu\", { linear = { out = 64 } }, \"tanh\"";

fn triton(
    trained: &Trained,
    dtype: Dtype,
    path: &Path,
    name: &str,
    overwrite: bool,
) -> ganforge::error::Result<export::Checked> {
    let features = small_features(1);
    let how = Reduction { calibrate: 64, max_loss: 1.0, features: &features, real: None };
    let how = (dtype == Dtype::Int8).then_some(how);
    export::export_triton(trained, dtype, how.as_ref(), &ModelFolder { path, name, overwrite }, &Silent)
}

/// The part of Triton's `ModelConfig` that is written: names, numbers and types of its fields are the server's.
const SCHEMA: &str = r#"
syntax = "proto3";
message ModelConfig {
  string name = 1;
  int32 max_batch_size = 4;
  repeated Input input = 5;
  repeated Output output = 6;
  repeated InstanceGroup instance_group = 7;
  DynamicBatching dynamic_batching = 11;
  map<string, Parameter> parameters = 14;
  string backend = 17;
}
message Input { string name = 1; DataType data_type = 2; repeated int64 dims = 4; }
message Output { string name = 1; DataType data_type = 2; repeated int64 dims = 3; }
message InstanceGroup { int32 count = 2; Kind kind = 4; }
message DynamicBatching { repeated int32 preferred_batch_size = 1; uint64 max_queue_delay_microseconds = 2; }
message Parameter { string string_value = 1; }
enum DataType { TYPE_INVALID = 0; TYPE_UINT8 = 2; TYPE_FP32 = 11; }
enum Kind { KIND_AUTO = 0; KIND_CPU = 2; }
"#;

#[derive(Clone, PartialEq, Message)]
struct ModelConfig {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "4")]
    max_batch_size: i32,
    #[prost(message, repeated, tag = "5")]
    input: Vec<Input>,
    #[prost(message, repeated, tag = "6")]
    output: Vec<Output>,
    #[prost(message, repeated, tag = "7")]
    instance_group: Vec<InstanceGroup>,
    #[prost(message, optional, tag = "11")]
    dynamic_batching: Option<DynamicBatching>,
    #[prost(btree_map = "string, message", tag = "14")]
    parameters: BTreeMap<String, Parameter>,
    #[prost(string, tag = "17")]
    backend: String,
}

#[derive(Clone, PartialEq, Message)]
struct Input {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(int64, repeated, tag = "4")]
    dims: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Output {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(int64, repeated, tag = "3")]
    dims: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct InstanceGroup {
    #[prost(int32, tag = "2")]
    count: i32,
    #[prost(int32, tag = "4")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct DynamicBatching {
    #[prost(int32, repeated, tag = "1")]
    preferred_batch_size: Vec<i32>,
    #[prost(uint64, tag = "2")]
    max_queue_delay_microseconds: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(string, tag = "1")]
    string_value: String,
}

/// `config.pbtxt` as protobuf's own parser reads it.
fn parsed(config: &Path) -> Option<ModelConfig> {
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("schema.proto"), SCHEMA).unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo/protoc");
    let protoc = std::env::var_os("PROTOC").map(PathBuf::from).into_iter().chain([PathBuf::from("protoc"), ours]);
    let protoc =
        protoc.into_iter().find(|protoc| Command::new(protoc).arg("--version").output().is_ok_and(|it| it.status.success()));
    let Some(protoc) = protoc else {
        println!("skipped: no protoc to read config.pbtxt with (`make setup` fetches one)");
        return None;
    };
    let mut child = Command::new(protoc)
        .args(["--proto_path=.", "--encode=ModelConfig", "schema.proto"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&std::fs::read(config).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(ModelConfig::decode(output.stdout.as_slice()).unwrap())
}

/// The same by Triton's own schema, where its client is installed.
fn is_taken_by_tritons_schema(config: &Path) {
    const PARSE: &str = "import sys\n\
        from google.protobuf import text_format\n\
        from tritonclient.grpc import model_config_pb2\n\
        config = text_format.Parse(open(sys.argv[1], encoding='utf-8').read(), model_config_pb2.ModelConfig())\n\
        print(config.name, config.max_batch_size, config.input[0].dims, config.output[0].dims)";
    let Some(mut python) = python("tritonclient.grpc") else {
        println!("skipped: no Python with tritonclient[grpc] (GANFORGE_PYTHON names one)");
        return;
    };
    let output = python.args(["-c", PARSE]).arg(config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn triton_is_told_what_the_model_is() {
    let folder = tempdir().unwrap();
    let repository = folder.path().join("a/repository");
    let mut classed = small(MLP, &["cats", HOSTILE, "dogs"]);
    classed.state.data = HOSTILE.to_string();
    for (name, trained, dtype) in [
        ("plain", small(MLP, &[]), Dtype::F32),
        ("classed-1.0", classed, Dtype::F16),
        ("whole", small(MLP, &["a", "b"]), Dtype::Int8),
    ] {
        triton(&trained, dtype, &repository, name, false).unwrap();
        let model = repository.join(name);
        let contract = contract_of(&trained, Layout::NhwcU8);
        let generator = Generator::open(model.join("1/model.onnx"), &Options::default()).unwrap();
        is_taken_by_tritons_schema(&model.join("config.pbtxt"));
        let Some(config) = parsed(&model.join("config.pbtxt")) else { continue };
        assert_eq!((config.name.as_str(), config.backend.as_str()), (name, "onnxruntime"));
        let [height, width, channels] = generator.image_shape();
        let (input, output) = (&config.input[0], &config.output[0]);
        assert_eq!((config.input.len(), config.output.len(), input.data_type, output.data_type), (1, 1, 11, 2), "{name}");
        assert_eq!((&input.dims, &output.dims), (&vec![6], &vec![height as i64, width as i64, channels as i64]), "{name}");
        // As onnxruntime tells the ports of the file.
        assert_eq!(format!("{}: f32 [n, {}]", input.name, input.dims[0]), generator.input(), "{name}");
        assert_eq!(format!("{}: u8 [n, {height}, {width}, {channels}]", output.name), generator.output(), "{name}");
        let batching = config.dynamic_batching.unwrap();
        assert!(batching.preferred_batch_size.iter().all(|&n| 0 < n && n <= config.max_batch_size));
        assert!(batching.preferred_batch_size.len() > 1 && batching.max_queue_delay_microseconds > 0);
        let kind = if dtype == Dtype::Int8 { 2 } else { 0 };
        assert_eq!(config.instance_group, [InstanceGroup { count: 1, kind }]);
        // Whatever stands in them comes back.
        let told: BTreeMap<String, String> = config.parameters.into_iter().map(|(key, it)| (key, it.string_value)).collect();
        let metadata = contract.to_metadata();
        assert!(told.iter().all(|(key, value)| metadata.get(key) == Some(value)), "{told:?}");
        assert_eq!(told["ganforge.data"], trained.state.data);
        assert_eq!(told.contains_key("ganforge.classes.names"), contract.classes > 0);
        let labels = std::fs::read_to_string(model.join("labels.txt")).ok();
        assert_eq!(labels.map(|labels| labels.lines().count()), (contract.classes > 0).then_some(contract.classes));
    }
    // One repository holds them all.
    let names: BTreeSet<String> =
        std::fs::read_dir(&repository).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["classed-1.0", "plain", "whole"].map(str::to_string).into());
}

#[test]
fn a_model_of_triton_is_there_whole_or_not_at_all() {
    let folder = tempdir().unwrap();
    let repository = folder.path().join("new/repository");
    let sound = small(MLP, &[]);
    for name in ["", "a b", "../up", ".hidden", HOSTILE] {
        let error = triton(&sound, Dtype::F32, &repository, name, false).err().unwrap();
        assert!(matches!(&error, Error::Usage { .. }) && error.to_string().contains("`ModelFolder::name`"), "{error}");
    }
    // layer_norm cannot be exported: no folder is left, nor those above it.
    let unsound = small("{ linear = { out = 64 } }, \"layer_norm\", \"tanh\"", &[]);
    assert!(matches!(triton(&unsound, Dtype::F32, &repository, "m", false), Err(Error::Verification(_))));
    assert!(!folder.path().join("new").exists());

    triton(&small(MLP, &["a", "b"]), Dtype::F32, &repository, "m", false).unwrap();
    let model = repository.join("m");
    let before = std::fs::read(model.join("1/model.onnx")).unwrap();
    let error = triton(&sound, Dtype::F32, &repository, "m", false).err().unwrap();
    assert!(error.to_string().contains("is not empty") && error.to_string().contains("`ModelFolder::overwrite`"), "{error}");
    assert!(triton(&unsound, Dtype::F32, &repository, "m", true).is_err());
    assert_eq!(std::fs::read(model.join("1/model.onnx")).unwrap(), before);
    // Replaced is what an export has written; another version, for one, stays.
    std::fs::create_dir(model.join("2")).unwrap();
    std::fs::write(model.join("2/model.onnx"), "mine").unwrap();
    triton(&sound, Dtype::F32, &repository, "m", true).unwrap();
    assert_ne!(std::fs::read(model.join("1/model.onnx")).unwrap(), before);
    assert_eq!(std::fs::read(model.join("2/model.onnx")).unwrap(), b"mine");
    assert!(!model.join("labels.txt").exists(), "labels of classes that there are no more");
    assert_eq!(std::fs::read_dir(&model).unwrap().count(), 3);
}

/// The head of a card and what follows it.
fn card(folder: &Path) -> (String, String) {
    let text = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let rest = text.strip_prefix("---\n").expect("a card begins with its head");
    let (head, body) = rest.split_once("\n---\n").unwrap();
    assert!(!text.contains("{{") || text.contains("\\{\\{title"), "a key is left: {text}");
    (head.to_string(), body.to_string())
}

fn train(arguments: &[&str]) -> Assert {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_gan-train"));
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).arg("export").args(arguments).assert()
}

fn digits() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits").to_str().unwrap().to_string()
}

#[test]
fn a_folder_for_a_hub_and_the_code_in_its_card() {
    let folder = tempdir().unwrap();
    let hub = folder.path().join("hub");
    let (out, run_of) = (hub.to_str().unwrap(), digits());
    let arguments = [run_of.as_str(), "--layout", "hub", "--license", "CC-BY-4.0", "--out", out];
    train(&arguments).success().stdout(contains("onnx/model_int8.onnx").and(contains("1000064 images")));

    let (head, body) = card(&hub);
    for line in
        ["library_name: onnx", "pipeline_tag: unconditional-image-generation", "license: \"cc-by-4.0\"", "- name: \"digits\""]
    {
        assert!(head.lines().any(|it| it == line), "{line} is not in\n{head}");
    }
    for told in
        ["# digits\n", "1,000,064", "7,817", "69d2af57a7c47e6b", "0.5227 ± 0.0463", "standard normal", "`onnx/model_int8.onnx`"]
    {
        assert!(body.contains(told), "{told} is not in\n{body}");
    }
    let open = |file: &str| Generator::open(hub.join(file), &Options::default().provider(Provider::Cpu)).unwrap();
    let exact = open("onnx/model.onnx");
    let sheet = exact.sample(exact.contract().unwrap().seed, 0, SAMPLES).unwrap();
    let shown = image::open(hub.join("samples.png")).unwrap().into_luma8().into_raw();
    assert_eq!(shown, sheet.grid(Images::square_columns(SAMPLES)).pixels);
    assert_eq!(open("onnx/model_int8.onnx").precision(), Precision::Int8);
    let half = open("onnx/model_fp16.onnx");
    assert!(half.sample(0, 0, 4).unwrap().pixels.iter().any(|&pixel| pixel > 128));
    assert_eq!(half.precision(), Precision::F16);
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(hub.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["input"]["shape"], serde_json::json!(["n", 42]));
    assert_eq!(config["metadata"]["ganforge.latent.classes"], "10");

    let code = body.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    match python("numpy, onnxruntime") {
        Some(python) => {
            let all_of_one = "(z[:, :10].argmax(1) == 9).all()";
            let said =
                run(python, &hub, &format!("{code}\nprint(images.dtype, images.shape, images.std() > 20, {all_of_one})"));
            assert_eq!(said.trim(), "uint8 (16, 28, 28, 1) True True");
        }
        None => println!("skipped: no Python with numpy and onnxruntime (`make setup` fetches them)"),
    }

    // Not again, unless asked to; and then what is not made any more goes, and what is not an export's stays.
    train(&arguments).code(2).stderr(contains("is not empty").and(contains("--force")));
    std::fs::write(hub.join("LICENSE"), "mine").unwrap();
    let forced = [&arguments[..3], &["--out", out, "--force", "--name", "other", "--max-loss", "1e-9"]].concat();
    train(&forced).success().stderr(contains("model_int8.onnx is left out")).stdout(contains("without onnx/model_int8.onnx"));
    let (head, body) = card(&hub);
    assert!(head.contains("license: other\nlicense_name: not-stated\n") && body.contains("# other\n"));
    assert!(body.contains("`onnx/model_int8.onnx` is not here: ") && !body.contains("| `onnx/model_int8.onnx`"));
    assert!(!hub.join("onnx/model_int8.onnx").exists() && hub.join("LICENSE").exists());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().chain(std::fs::read_dir(&hub).unwrap()).collect();
    assert!(left.into_iter().all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with(".ganforge")));
}

#[test]
fn what_names_say_is_no_part_of_a_card() {
    let folder = tempdir().unwrap();
    let hub = folder.path().join("hub");
    let mut trained = small(MLP, &["cats", HOSTILE]);
    (trained.state.data, trained.config.preset) = (HOSTILE.to_string(), HOSTILE.to_string());
    let features = small_features(1);
    let how = Reduction { calibrate: 64, max_loss: 1.0, features: &features, real: None };
    let score = serde_json::json!({ "mean": 1.5, "deviation": null, "draws": [1.5] });
    let protocol = serde_json::json!({
        "weights": "raw", "images_seen": 384, "image": [8, 8, 1], "data": HOSTILE, "features": { "name": HOSTILE },
    });
    let evaluation = folder.path().join("evaluation.json");
    let told = serde_json::json!({ "frechet": score, "protocol": protocol });
    std::fs::write(&evaluation, told.to_string()).unwrap();
    let to = ModelFolder { path: &hub, name: HOSTILE, overwrite: false };
    let about = Publication { license: None, evaluation: Some(&evaluation) };
    export::export_hub(&trained, &how, about, &to, &Silent).unwrap();
    let (head, body) = card(&hub);
    assert_eq!(head.lines().filter(|line| line.starts_with("license:")).collect::<Vec<_>>(), ["license: other"]);
    let model_index = head.split_once("\nmodel-index:\n").unwrap().1;
    let strings = model_index.lines().filter_map(|line| line.split_once('"')).map(|(_, rest)| format!("\"{rest}"));
    let strings: Vec<String> = strings.map(|it| serde_json::from_str(&it).unwrap()).collect();
    assert_eq!(strings.len(), 4, "{model_index}");
    assert!(strings.iter().all(|text| text.contains("license: mit") && !text.contains('\n')));
    assert_eq!(body.lines().filter(|line| line.starts_with("# ")).count(), 2, "a heading, and a comment of the code:\n{body}");
    assert!(!body.contains('\u{1b}') && !body.contains("\nlicense: mit"));
    // Outside of code there is no link but the card's own two, and no tag.
    let without_code = |line: &str| line.replace("\\`", "").split('`').step_by(2).collect::<String>();
    let prose: String = body.lines().map(without_code).collect::<Vec<_>>().join("\n");
    let unescaped = |what: &str| prose.match_indices(what).filter(|(at, _)| !prose[..*at].ends_with('\\')).count();
    assert_eq!((unescaped("]("), unescaped("<")), (2, 0), "{prose}");

    // Figures of other weights are not this model's.
    let stale = told.to_string().replace("384", "385");
    std::fs::write(&evaluation, stale).unwrap();
    export::export_hub(&trained, &how, about, &ModelFolder { overwrite: true, ..to }, &Silent).unwrap();
    assert!(!card(&hub).0.contains("model-index") && card(&hub).1.contains("Nobody has measured any yet."));
    let bad = Publication { license: Some("mit\nx: y"), ..about };
    let error = export::export_hub(&trained, &how, bad, &to, &Silent).unwrap_err();
    assert!(matches!(error, Error::Usage { .. }), "{error}");
}

#[test]
fn wrong_calls_cost_nothing() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let (out, run_of) = (out.to_str().unwrap(), digits());
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    let inside = format!("{run_of}/checkpoints");
    for (arguments, says) in [
        (&["--layout", "hub"][..], "--out is missing"),
        (&["--layout", "triton"], "--out is missing"),
        (&["--layout", "hub", "--out", out, "--dtype", "f16"], "--dtype for a hub's folder"),
        (&["--layout", "hub", "--out", out, "--license", "My Own!"], "--license 'My Own!' is no abbreviation"),
        (&["--layout", "hub", "--out", file.to_str().unwrap()], "is a file, and a folder is to be written"),
        (&["--layout", "triton", "--out", out, "--license", "mit"], "--license for a server"),
        (&["--layout", "triton", "--out", out, "--name", "a/b"], "Give a --name of letters"),
        (&["--layout", "triton", "--out", out, "--calibrate", "9"], "for an export that loses nothing"),
        (&["--layout", "hub", "--out", out, "--name", " "], "--name is empty"),
        (&["--layout", "hub", "--out", &run_of], "is what the result is made from"),
        (&["--layout", "triton", "--out", &inside], "belongs to the run"),
        (&["--out", out, "--force"], "for a file"),
    ] {
        train(&[&[run_of.as_str()], arguments].concat()).code(2).stderr(contains(says));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{arguments:?}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}
