//! Models of strangers that mean harm: files they name, memory and time they take, values that are no colours. Each is made here, is
//! one that onnxruntime itself would run, and is sampled by `gan-infer` in a process of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use ganforge::error::Error;
use ganforge::eval::{FeatureModel, features};
use ganforge::export::onnx::tensor_proto::DataType;
use ganforge::export::onnx::tensor_shape_proto::{Dimension, dimension};
use ganforge::export::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TrainingInfoProto, TypeProto, ValueInfoProto, type_proto,
};
use ganforge::image::Range;
use ganforge::infer::{Generator, Options, Provider, runtime};
use ganforge::latent::{Distribution, Latent};
use prost::Message;
use tempfile::{TempDir, tempdir};

/// What no model may show: a file beside which it lies, as large as its image.
const SECRET: &[u8; 16] = b"root:x:0:0:root:";
/// The image of every model here that is not refused, 4 × 4 grey.
const IMAGE: [u8; 16] = [0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255];
/// For one refusal, far more than it takes.
const AT_ONCE: Duration = Duration::from_secs(20);

// --- models

fn tensor(name: &str, kind: DataType, dims: &[i64], data: &[u8]) -> TensorProto {
    TensorProto {
        name: name.into(),
        data_type: kind as i32,
        dims: dims.to_vec(),
        raw_data: data.to_vec(),
        ..Default::default()
    }
}

fn pixels(data: &[u8]) -> TensorProto {
    tensor("pixels", DataType::Uint8, &[1, 4, 4, 1], data)
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value: value.into() }
}

/// The image, taken from another file.
fn outside(entries: &[(&str, &str)]) -> TensorProto {
    let external_data = entries.iter().map(|(key, value)| entry(key, value)).collect();
    TensorProto { data_location: 1, external_data, ..pixels(&[]) }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |all: &[&str]| all.iter().map(ToString::to_string).collect();
    NodeProto {
        op_type: op.into(),
        name: format!("{op} of {}", outputs.first().unwrap_or(&"nothing")),
        input: names(inputs),
        output: names(outputs),
        attribute,
        ..Default::default()
    }
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: kind, ..Default::default() }
}

fn constant(output: &str, value: TensorProto) -> NodeProto {
    node("Constant", &[], &[output], vec![AttributeProto { t: Some(value), ..attribute("value", 4) }])
}

fn graph_attribute(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, 5) }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, 2) }
}

/// A size of 0 is left open.
fn value(name: &str, kind: DataType, dims: &[i64]) -> ValueInfoProto {
    let size = |&dim: &i64| match dim {
        0 => dimension::Value::DimParam("n".into()),
        dim => dimension::Value::DimValue(dim),
    };
    let dim = dims.iter().map(|dim| Dimension { value: Some(size(dim)), ..Default::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: Some(TensorShapeProto { dim }) };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.into(), r#type: Some(kind), ..Default::default() }
}

fn graph(
    node: Vec<NodeProto>,
    initializer: Vec<TensorProto>,
    input: Vec<ValueInfoProto>,
    output: Vec<ValueInfoProto>,
) -> GraphProto {
    GraphProto { name: "g".into(), node, initializer, input, output, ..Default::default() }
}

fn opset() -> Vec<OperatorSetIdProto> {
    [("", 17), ("local", 1)].map(|(domain, version)| OperatorSetIdProto { domain: domain.into(), version }).into()
}

/// A model of one image, whatever its latents are.
fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    let graph = graph(
        node,
        initializer,
        vec![value("z", DataType::Float, &[1, 4])],
        vec![value("image", DataType::Uint8, &[1, 4, 4, 1])],
    );
    ModelProto { ir_version: 8, opset_import: opset(), graph: Some(graph), ..Default::default() }
}

/// The image lies in the weights.
fn of_weights(weights: TensorProto) -> ModelProto {
    model(vec![node("Identity", &["pixels"], &["image"], vec![])], vec![weights])
}

/// Each place in a model where a tensor can be but the weights of the main graph.
fn places(secret: TensorProto) -> Vec<(&'static str, ModelProto)> {
    let local = NodeProto { domain: "local".into(), ..node("Secret", &[], &["image"], vec![]) };
    let function = |node: Vec<NodeProto>, output: &str| FunctionProto {
        name: "Secret".into(),
        domain: "local".into(),
        output: vec![output.into()],
        node,
        opset_import: opset(),
        ..Default::default()
    };
    let branch = |node, initializer| graph(node, initializer, vec![], vec![value("b", DataType::Uint8, &[1, 4, 4, 1])]);
    let conditional = |branch: GraphProto| {
        let branches = vec![graph_attribute("then_branch", branch.clone()), graph_attribute("else_branch", branch)];
        let condition = constant("yes", tensor("", DataType::Bool, &[], &[1]));
        model(vec![condition, node("If", &["yes"], &["image"], branches)], vec![])
    };
    let in_branch = TensorProto { name: "w".into(), ..secret.clone() };
    let by_weights = conditional(branch(vec![node("Identity", &["w"], &["b"], vec![])], vec![in_branch]));
    let mut in_function = model(vec![local.clone()], vec![]);
    in_function.functions = vec![function(vec![constant("s", secret.clone())], "s")];
    // A node in a graph in a node of a function.
    let mut deeper = in_function.clone();
    let inner = branch(vec![constant("b", secret.clone())], vec![]);
    let branches = vec![graph_attribute("then_branch", inner.clone()), graph_attribute("else_branch", inner)];
    let condition = constant("yes", tensor("", DataType::Bool, &[], &[1]));
    deeper.functions = vec![function(vec![condition, node("If", &["yes"], &["s"], branches)], "s")];
    vec![
        ("a constant", model(vec![constant("image", secret.clone())], vec![])),
        ("a function", in_function),
        ("a branch's constant", conditional(branch(vec![constant("b", secret.clone())], vec![]))),
        ("a branch's weights", by_weights),
        ("a branch in a function", deeper),
    ]
}

/// More of them, which onnxruntime does not run as they stand, or not at all.
fn odd_places(secret: &TensorProto) -> Vec<(&'static str, ModelProto)> {
    let plain = || of_weights(pixels(&IMAGE));
    let sparse = || SparseTensorProto {
        values: Some(secret.clone()),
        indices: Some(tensor("", DataType::Int64, &[1], &[0; 8])),
        dims: vec![1, 4, 4, 1],
    };
    let with = |attribute: AttributeProto| model(vec![node("Constant", &[], &["image"], vec![attribute])], vec![]);
    let [mut weights, mut training, mut defaults] = [plain(), plain(), plain()];
    weights.graph.as_mut().unwrap().sparse_initializer = vec![sparse()];
    let step = graph(vec![constant("s", secret.clone())], vec![], vec![], vec![]);
    training.training_info = vec![TrainingInfoProto { algorithm: Some(step.clone()), ..Default::default() }];
    let default = AttributeProto { t: Some(secret.clone()), ..attribute("a", 4) };
    defaults.functions = vec![FunctionProto { attribute_proto: vec![default], ..Default::default() }];
    vec![
        ("sparse weights", weights),
        ("training", training),
        ("a function's default", defaults),
        ("a sparse constant", with(AttributeProto { sparse_tensor: Some(sparse()), ..attribute("sparse_value", 11) })),
        ("sparse tensors", with(AttributeProto { sparse_tensors: vec![sparse()], ..attribute("a", 12) })),
        ("tensors", with(AttributeProto { tensors: vec![secret.clone()], ..attribute("a", 9) })),
        ("graphs", with(AttributeProto { graphs: vec![step], ..attribute("a", 10) })),
    ]
}

// --- calls

fn gan_infer(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).env_remove("RUST_BACKTRACE").current_dir(folder);
    command.timeout(AT_ONCE * 3);
    command
}

/// Samples an image of `model.onnx` in a folder, which is the working directory, too.
fn sample(folder: &Path) -> Output {
    let flags = ["--n", "1", "--provider", "cpu", "--format", "npy", "--out", "out", "--force", "--model", "model.onnx"];
    gan_infer(folder).args(flags).output().unwrap()
}

/// A folder with a model and a secret.
fn folder_with(model: &[u8]) -> TempDir {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("model.onnx"), model).unwrap();
    fs::write(folder.path().join("secret"), SECRET).unwrap();
    folder
}

/// That a model is refused by an error that says this, at once, and nothing is made.
fn refused(what: &str, folder: &Path, says: &[&str]) {
    let begun = Instant::now();
    let output = sample(folder);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    // To name a folder that is none of a run is a wrong call; anything else that is no model is the model's fault.
    assert_eq!(output.status.code(), Some(if what == "folder" { 2 } else { 1 }), "{what}: {error}");
    assert!(says.iter().all(|part| error.contains(part)) && error.contains("model.onnx"), "{what}: {error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{what}: {error}");
    assert!(!folder.join("out").exists(), "{what}");
    assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
}

/// The pixels of the image that is sampled.
fn image(what: &str, folder: &Path) -> Vec<u8> {
    let output = sample(folder);
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    let array = fs::read(folder.join("out/samples.npy")).unwrap();
    array[array.len() - 16..].to_vec()
}

fn open(path: &Path, options: Options) -> Result<Generator, Error> {
    runtime::load_from(crate::infer::runtime_path()).expect("the tests need an onnxruntime: ORT_DYLIB_PATH or .tools/python");
    Generator::open(path, &options.provider(Provider::Cpu))
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error was expected").to_string()
}

fn mkfifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

// --- files

/// With their data in them these models run; with data in a file they would show that file.
#[test]
fn data_in_other_files_is_for_weights_alone() {
    for (what, model) in places(pixels(&IMAGE)) {
        assert_eq!(image(what, folder_with(&model.encode_to_vec()).path()), IMAGE, "{what}");
    }
    let secret = outside(&[("location", "secret")]);
    for (what, model) in places(secret.clone()).into_iter().chain(odd_places(&secret)) {
        refused(what, folder_with(&model.encode_to_vec()).path(), &["in another file, secret; only weights of the main graph"]);
    }
    let error = |model: ModelProto| {
        runtime::load_from(crate::infer::runtime_path()).unwrap();
        message(Generator::from_bytes("m", model.encode_to_vec(), &Options::default()))
    };
    let [_, function, .., deeper] = <[_; 5]>::try_from(places(secret.clone())).unwrap().map(|(_, model)| error(model));
    assert!(
        function.contains("(in tensor 'pixels' of attribute 'value' of node 'Constant of s' (Constant) of function 'Secret')"),
        "{function}"
    );
    assert!(deeper.contains("of attribute 'then_branch' of node 'If of s' (If) of function 'Secret')"), "{deeper}");
    // Those of an evaluation are opened in the same way.
    let folder = folder_with(&model(vec![constant("image", secret)], vec![]).encode_to_vec());
    let features = FeatureModel::open(&folder.path().join("model.onnx"), &features::Options::default());
    assert!(message(features).contains("in another file, secret; only weights"));
}

/// Readers of protobuf disagree about fields that come twice and about values that nobody knows.
#[test]
fn no_trick_of_protobuf_hides_a_file() {
    let secret = outside(&[("location", "secret")]);
    let plain = of_weights(pixels(&IMAGE)).encode_to_vec();
    let part = |number: u8, bytes: &[u8]| {
        let mut field = vec![number << 3 | 2];
        prost::encode_length_delimiter(bytes.len(), &mut field).unwrap();
        [field, bytes.to_vec()].concat()
    };
    // An attribute whose tensor comes in two parts, of which neither is outside by itself.
    let named = TensorProto { data_location: 0, ..secret.clone() }.encode_to_vec();
    let moved = TensorProto { data_location: 1, ..Default::default() }.encode_to_vec();
    let of_parts = |parts: &[&[u8]]| {
        let mut attribute = attribute("value", 4).encode_to_vec();
        parts.iter().for_each(|bytes| attribute.extend(part(5, bytes)));
        let node = [
            NodeProto { op_type: "Constant".into(), output: vec!["image".into()], ..Default::default() }.encode_to_vec(),
            part(5, &attribute),
        ];
        let rest = model(vec![], vec![]);
        let graph = [part(1, &node.concat()), rest.graph.clone().unwrap().encode_to_vec()].concat();
        [ModelProto { graph: None, ..rest }.encode_to_vec(), part(7, &graph)].concat()
    };
    let weights = |tensor: Vec<u8>| {
        let rest = of_weights(TensorProto::default());
        let graph = GraphProto { initializer: vec![], ..rest.graph.clone().unwrap() };
        let graph = [graph.encode_to_vec(), part(5, &tensor)].concat();
        [ModelProto { graph: None, ..rest }.encode_to_vec(), part(7, &graph)].concat()
    };
    let location = |value: &[u8]| [vec![14 << 3], value.to_vec()].concat();
    let twice = |key: &[u8]| [part(1, key), part(1, key), part(2, b"secret")].concat();
    let outer = secret.encode_to_vec();
    let whole = pixels(&IMAGE).encode_to_vec();
    for (what, file, says) in [
        ("two halves", of_parts(&[&named, &moved]), "in another file"),
        ("halves the other way round", of_parts(&[&moved, &named]), "in another file"),
        ("named, not moved", of_parts(&[&named]), "in another file"),
        ("one of two", of_parts(&[&outer, &whole]), "in another file"),
        ("an unknown place in an attribute", of_parts(&[&[outer.clone(), location(&[5])].concat()]), "in another file"),
        (
            "a place of 33 bits in an attribute",
            of_parts(&[&[whole.clone(), location(&[0x81, 0x80, 0x80, 0x80, 0x10])].concat()]),
            "in another file",
        ),
        ("two places", weights([outer.clone(), location(&[0])].concat()), "location twice"),
        ("an unknown place", weights([outer.clone(), location(&[5])].concat()), "is unknown"),
        ("named, not moved, in weights", weights(named.clone()), "says that its data is inside"),
        ("two keys", weights([outer.clone(), part(13, &twice(b"location"))].concat()), "two keys"),
        ("two graphs", [plain.clone(), part(7, &model(vec![], vec![]).graph.unwrap().encode_to_vec())].concat(), "two graphs"),
        ("a field of a later version", [plain.clone(), part(15, b"anything")].concat(), "up to IR 14 does not know"),
        ("a group", [plain.clone(), vec![3 << 3 | 3, 3 << 3 | 4]].concat(), "a group begins"),
        ("half a field", [plain.clone(), vec![2 << 3 | 2, 100, 0]].concat(), "a part of 100 bytes"),
        ("no graph", ModelProto { ir_version: 8, ..Default::default() }.encode_to_vec(), "no graph"),
    ] {
        refused(what, folder_with(&file).path(), &[says]);
    }
    // onnxruntime's own format, by the four bytes that tell it.
    let mut other = part(2, b"..ORTM..");
    other.extend(&plain);
    assert_eq!(&other[4..8], b"ORTM");
    refused("ort", folder_with(&other).path(), &["onnxruntime's own format"]);
    let compiled = NodeProto { domain: "com.microsoft".into(), ..node("EPContext", &["z"], &["image"], vec![]) };
    refused("compiled", folder_with(&model(vec![compiled], vec![]).encode_to_vec()).path(), &["compiled for one provider"]);
    // A graph in a graph, and so on.
    let deep = (0..60).fold(GraphProto::default(), |inner, _| {
        graph(vec![node("If", &[], &[], vec![graph_attribute("b", inner)])], vec![], vec![], vec![])
    });
    let deep = ModelProto { graph: Some(deep), ..Default::default() }.encode_to_vec();
    refused("deep", folder_with(&deep).path(), &["lie in one another"]);
}

#[test]
fn weights_lie_in_the_folder_of_the_model() {
    let folder = tempdir().unwrap();
    let place = folder.path().join("a/model");
    fs::create_dir_all(place.join("sub")).unwrap();
    fs::create_dir_all(place.join("*/_ORT_MEM_ADDR_")).unwrap();
    fs::write(folder.path().join("a/secret"), SECRET).unwrap();
    for name in ["weights", "sub/weights", "*/_ORT_MEM_ADDR_/*"] {
        fs::write(place.join(name), [&[7; 16], &IMAGE[..], &[9; 3]].concat()).unwrap();
    }
    symlink("../secret", place.join("link")).unwrap();
    symlink("..", place.join("up")).unwrap();
    symlink("weights", place.join("within")).unwrap();
    mkfifo(&place.join("pipe"));
    fs::File::create(place.join("sparse")).unwrap().set_len(3 << 30).unwrap();
    let absolute = folder.path().join("a/secret").display().to_string();
    let write = |model: &ModelProto| fs::write(place.join("model.onnx"), model.encode_to_vec()).unwrap();

    for (name, says) in [
        (absolute.as_str(), "not beside it"),
        ("/etc/passwd", "not beside it"),
        ("../secret", "not beside it"),
        ("sub/../../secret", "not beside it"),
        ("..\\secret", "not beside it"),
        ("link", "a link leads elsewhere"),
        ("up/secret", "a link leads elsewhere"),
        ("none", "which is not there"),
        ("weights/none", "which is not there"),
        ("sub", "it is a folder, not a file"),
        ("pipe", "it is a pipe or a socket, not a file"),
        ("sparse", "it has 3221225472 bytes, and no more than"),
        ("", "does not say in which other file"),
    ] {
        write(&of_weights(outside(&[("location", name)])));
        refused(name, &place, &[says]);
    }
    let at = [("location", "weights"), ("offset", "16"), ("length", "16")];
    for (more, says) in
        [(("location", "weights"), "location twice"), (("offset", "0"), "offset twice"), (("length", "16"), "length twice")]
    {
        write(&of_weights(outside(&[&at[..], &[more]].concat())));
        refused(says, &place, &[says]);
    }
    for (offset, length, says) in [
        ("20", "16", "16 bytes lie in weights from byte 20 on, and that file has 35"),
        ("18446744073709551615", "16", "from byte 18446744073709551615 on"),
        ("-1", "16", "'-1', no number"),
        ("16", "17", "another number of them"),
        ("x", "16", "'x', no number"),
    ] {
        write(&of_weights(outside(&[("location", "weights"), ("offset", offset), ("length", length)])));
        refused(says, &place, &[says]);
    }
    write(&of_weights(TensorProto { raw_data: vec![1], ..outside(&at) }));
    refused("both", &place, &["data of its own"]);
    write(&of_weights(TensorProto { dims: vec![i64::MAX, 4, 4, 4], ..outside(&at) }));
    refused("endless", &place, &["do not tell how many bytes"]);
    // Many tensors of the same bytes: 3 GiB in all, though no file is large.
    let most = TensorProto { dims: vec![1 << 28], ..outside(&[("location", "half")]) };
    fs::File::create(place.join("half")).unwrap().set_len(1 << 28).unwrap();
    let all = (0..12).map(|number| TensorProto { name: format!("w{number}"), ..most.clone() }).collect();
    write(&model(vec![constant("image", pixels(&IMAGE))], all));
    refused("many", &place, &["larger than 2147483647 bytes"]);

    for name in ["weights", "./weights", "sub/weights", "within", "*/_ORT_MEM_ADDR_/*"] {
        for entries in [&at[1..], &[at[1]], &[at[1], ("length", "0"), ("checksum", "0"), ("prepacked_0", "x")]] {
            write(&of_weights(outside(&[&[("location", name)], entries].concat())));
            assert_eq!(image(name, &place), IMAGE, "{name}");
        }
    }
    // As the cache of a model hub keeps them: links beside one another, to files beside one another.
    let cache = folder.path().join("cache");
    fs::create_dir_all(cache.join("blobs")).unwrap();
    fs::create_dir_all(cache.join("snapshots/1")).unwrap();
    write(&of_weights(outside(&at)));
    for (name, blob) in [("model.onnx", "aaaa"), ("weights", "bbbb")] {
        fs::copy(place.join(name), cache.join("blobs").join(blob)).unwrap();
        symlink(format!("../../blobs/{blob}"), cache.join("snapshots/1").join(name)).unwrap();
    }
    assert_eq!(image("cache", &cache.join("snapshots/1")), IMAGE);
}

/// What was read on opening is what runs and what is hashed, in every session.
#[test]
fn weights_that_change_later_change_nothing() {
    let folder = folder_with(&of_weights(outside(&[("location", "weights"), ("offset", "3")])).encode_to_vec());
    let weights = folder.path().join("weights");
    fs::write(&weights, [&[1, 2, 3], &IMAGE[..]].concat()).unwrap();
    let generator = open(&folder.path().join("model.onnx"), Options::default().threads(3)).unwrap();
    let hash = generator.sha256().unwrap();
    let both = [fs::read(folder.path().join("model.onnx")).unwrap(), fs::read(&weights).unwrap()].concat();
    fs::write(folder.path().join("both"), both).unwrap();
    let told = std::process::Command::new("sha256sum").arg(folder.path().join("both")).output().unwrap();
    assert!(String::from_utf8(told.stdout).unwrap().starts_with(&hash));
    fs::write(&weights, SECRET).unwrap();
    fs::remove_file(&weights).unwrap();
    // Many, so that sessions are made that were not there before.
    let images = generator.sample(0, 0, 5_000).unwrap();
    assert!(images.pixels.chunks_exact(IMAGE.len()).all(|image| image == IMAGE));
    assert_eq!(generator.reopen(&Options::default()).unwrap().sample(0, 0, 1).unwrap().pixels, IMAGE);
    assert_eq!(generator.sha256().unwrap(), hash);
}

#[test]
fn what_is_no_file_is_no_model() {
    let folder = tempdir().unwrap();
    let model = folder.path().join("model.onnx");
    let try_it = |what: &str, says: &str| {
        refused(what, folder.path(), &[says]);
        let _ = fs::remove_file(&model);
    };
    mkfifo(&model);
    try_it("pipe", "it is a pipe or a socket, not a file");
    symlink("/dev/zero", &model).unwrap();
    try_it("device", "it is a device, not a file");
    fs::File::create(&model).unwrap().set_len(1 << 40).unwrap();
    try_it("sparse", "it has 1099511627776 bytes, and no more than 2147483647");
    fs::create_dir(&model).unwrap();
    try_it("folder", "is a folder, but not of a run");
}

// --- memory

/// Values of the network as they are, for `rows` images of any size.
fn float_model(nodes: Vec<NodeProto>, weights: Vec<TensorProto>, latent: &[i64], image: &[i64]) -> Vec<u8> {
    let graph = graph(nodes, weights, vec![value("z", DataType::Float, latent)], vec![value("image", DataType::Float, image)]);
    ModelProto { ir_version: 8, opset_import: opset(), graph: Some(graph), ..Default::default() }.encode_to_vec()
}

/// The sum of each row of latents, as an image of one colour.
fn sums(latent: &[i64; 2], image: [i64; 3]) -> Vec<u8> {
    let axes = tensor("axes", DataType::Int64, &[1], &1i64.to_le_bytes());
    let shape = tensor("shape", DataType::Int64, &[4], &[-1i64, 1, 1, 1].map(i64::to_le_bytes).concat());
    let [c, h, w] = image;
    let wide = tensor("wide", DataType::Int64, &[4], &[1, c, h, w].map(i64::to_le_bytes).concat());
    let nodes = vec![
        node("ReduceSum", &["z", "axes"], &["s"], vec![]),
        node("Reshape", &["s", "shape"], &["small"], vec![]),
        node("Expand", &["small", "wide"], &["image"], vec![]),
    ];
    float_model(nodes, vec![axes, shape, wide], latent, &[latent[0], c, h, w])
}

/// `info` of a model by a program with so many KiB of address space.
fn info(folder: &Path, memory: u64, flags: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {memory} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_gan-infer")]);
    command.args(["info", "model.onnx", "--provider", "cpu", "--json"]).args(flags).current_dir(folder).timeout(AT_ONCE * 3);
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).env_remove("RUST_BACKTRACE").output().unwrap()
}

#[test]
fn no_size_in_a_model_takes_memory_unchecked() {
    const GIB: u64 = 1 << 20;
    for (what, file, says) in [
        ("latents", sums(&[4096, 1 << 20], [1, 2, 2]), "the latents z: f32 [4096, 1048576] of a batch take 16.0 GiB"),
        (
            "images",
            sums(&[512, 4], [3, 1 << 14, 1 << 14]),
            "the images image: f32 [512, 3, 16384, 16384] of a batch take 1536.0 GiB",
        ),
    ] {
        let folder = folder_with(&file);
        let output = info(folder.path(), 6 * GIB, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {error}");
        assert!(error.contains(says) && error.contains("no more than 4 are allowed"), "{what}: {error}");
        assert!(error.contains("--batch-memory GIB"), "{what}: {error}");
    }
    // With a limit of one's own, what the machine has not is an error, too.
    let folder = folder_with(&sums(&[4096, 1 << 20], [1, 2, 2]));
    let output = info(folder.path(), 6 * GIB, &["--batch-memory", "20"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("no 17179869184 bytes of memory"), "{error}");
    // A batch that nobody chose is smaller where latents are large: 64 MiB of them.
    let folder = folder_with(&sums(&[0, 1 << 20], [1, 2, 2]));
    let output = info(folder.path(), 6 * GIB, &[]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&told["batch"], &told["latent.size"]), (&16.into(), &(1 << 20).into()));
    let output = info(folder.path(), 6 * GIB, &["--batch", "2048"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("take 8.0 GiB"), "{output:?}");
}

/// What onnxruntime takes by itself cannot be bounded; what it says then is explained.
#[test]
fn too_little_memory_is_named() {
    // 64 TiB in the middle of the network, of a size that is only known when it runs.
    let nodes = vec![
        node("Shape", &["z"], &["shape"], vec![]),
        node("Mul", &["shape", "times"], &["large"], vec![]),
        node("ConstantOfShape", &["large"], &["zeros"], vec![]),
        node("ReduceSum", &["zeros"], &["s"], vec![int("keepdims", 1)]),
        node("Add", &["z", "s"], &["t"], vec![]),
        node("Reshape", &["t", "form"], &["image"], vec![]),
    ];
    let times = tensor("times", DataType::Int64, &[2], &[1i64 << 20, 1 << 20].map(i64::to_le_bytes).concat());
    let form = tensor("form", DataType::Int64, &[4], &[-1i64, 1, 2, 2].map(i64::to_le_bytes).concat());
    let folder = folder_with(&float_model(nodes, vec![times, form], &[4, 4], &[4, 1, 2, 2]));
    let error = message(open(&folder.path().join("model.onnx"), Options::default()));
    assert!(
        error.contains(
            "There is not enough memory for it: a smaller `Options::batch` or fewer `SamplingJob::threads` need less."
        ),
        "{error}"
    );
    assert!(message(open(&crate_golden(), Options::default()).unwrap().sample(0, 0, 1 << 50)).contains("at once"));
}

fn crate_golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sealed.onnx")
}

// --- time

/// A loop that never ends, but for a batch whose first latent is `but`; its body adds 0 to what becomes the image.
fn endless(but: f32) -> Vec<u8> {
    let scalar = |name: &str, kind, data: &[u8]| tensor(name, kind, &[], data);
    let body = graph(
        vec![node("Identity", &["go"], &["go_on"], vec![]), node("Add", &["x", "zero"], &["y"], vec![])],
        vec![],
        vec![value("i", DataType::Int64, &[]), value("go", DataType::Bool, &[]), value("x", DataType::Float, &[4, 1, 2, 2])],
        vec![value("go_on", DataType::Bool, &[]), value("y", DataType::Float, &[4, 1, 2, 2])],
    );
    let form = tensor("form", DataType::Int64, &[4], &[-1i64, 1, 2, 2].map(i64::to_le_bytes).concat());
    let weights = vec![
        scalar("zero", DataType::Float, &[0; 4]),
        scalar("trips", DataType::Int64, &i64::MAX.to_le_bytes()),
        tensor("nought", DataType::Int64, &[2], &[0; 16]),
        tensor("one", DataType::Int64, &[2], &[1i64; 2].map(i64::to_le_bytes).concat()),
        scalar("but", DataType::Float, &but.to_le_bytes()),
        tensor("none", DataType::Int64, &[0], &[]),
        form,
    ];
    let nodes = vec![
        node("Reshape", &["z", "form"], &["first"], vec![]),
        node("Slice", &["z", "nought", "one"], &["one_latent"], vec![]),
        node("Reshape", &["one_latent", "none"], &["latent"], vec![]),
        node("Equal", &["latent", "but"], &["ends"], vec![]),
        node("Not", &["ends"], &["begins"], vec![]),
        node("Loop", &["trips", "begins", "first"], &["image"], vec![graph_attribute("body", body)]),
    ];
    float_model(nodes, weights, &[4, 4], &[4, 1, 2, 2])
}

/// A load that takes long: a long product of matrices, which onnxruntime computes when it optimises the graph.
fn slow_to_load() -> Vec<u8> {
    let side = tensor("side", DataType::Int64, &[2], &[1536i64; 2].map(i64::to_le_bytes).concat());
    let thousandth = tensor("value", DataType::Float, &[1], &0.001f32.to_le_bytes());
    let fill = AttributeProto { t: Some(thousandth), ..attribute("value", 4) };
    let mut nodes = vec![node("ConstantOfShape", &["side"], &["m0"], vec![fill])];
    for number in 0..2000 {
        nodes.push(node("MatMul", &[&format!("m{number}"), "m0"], &[&format!("m{}", number + 1)], vec![]));
    }
    nodes.push(node("ReduceMean", &["m2000"], &["mean"], vec![int("keepdims", 0)]));
    nodes.push(node("Add", &["z", "mean"], &["t"], vec![]));
    nodes.push(node("Reshape", &["t", "form"], &["image"], vec![]));
    let form = tensor("form", DataType::Int64, &[4], &[-1i64, 1, 2, 2].map(i64::to_le_bytes).concat());
    float_model(nodes, vec![side, form], &[4, 4], &[4, 1, 2, 2])
}

#[test]
fn a_model_has_its_time() {
    for (what, file) in [("an endless loop", endless(f32::NAN)), ("a slow load", slow_to_load())] {
        let folder = folder_with(&file);
        let begun = Instant::now();
        let mut command = gan_infer(folder.path());
        command.args(["--n", "1", "--out", "out", "--provider", "cpu", "--range", "tanh", "--model", "model.onnx"]);
        let output = command.args(["--load-timeout", "1"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {:?} {error}", output.status);
        assert!(error.contains("takes longer than 1 seconds") && error.contains("--load-timeout SECONDS"), "{what}: {error}");
        assert!(begun.elapsed() > Duration::from_secs(1) && begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
        assert!(!folder.path().join("out").exists());
    }
    // In a program that goes on, the run has ended and the next model opens.
    let folder = folder_with(&endless(f32::NAN));
    let limit = Duration::from_millis(500);
    let opened = open(&folder.path().join("model.onnx"), Options::default().load_timeout(limit));
    assert!(message(opened).contains("takes longer than 0.5 seconds"));
    open(&crate_golden(), Options::default().load_timeout(Duration::ZERO)).unwrap();
}

/// Samples with a model that does not come to an end, until there is a file of that name; one Ctrl-C then, and what came of it.
fn interrupted(folder: &Path, sign: &str) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command
        .env("ORT_DYLIB_PATH", crate::infer::runtime_path())
        .args(["--n", "40", "--out", "out", "--provider", "cpu", "--range", "tanh", "--model", "model.onnx"])
        .current_dir(folder)
        .stderr(Stdio::piped());
    // What a shell starts in the background ignores Ctrl-C, and so does what that starts: also these tests' programs.
    let listen = || {
        // SAFETY: a system call that may be made between fork and exec; no handler of ours is replaced in the new process.
        unsafe { nix::libc::signal(nix::libc::SIGINT, nix::libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: `listen` makes that one call and touches no memory.
    let mut child = unsafe { command.pre_exec(listen) }.spawn().unwrap();
    let begun = Instant::now();
    while !folder.join(sign).exists() && begun.elapsed() < AT_ONCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    assert!(child.try_wait().unwrap().is_none());
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() && begun.elapsed() < AT_ONCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    child.wait_with_output().unwrap()
}

#[test]
fn one_ctrl_c_ends_a_load() {
    let folder = folder_with(&endless(f32::NAN));
    assert_eq!(interrupted(folder.path(), "model.onnx").status.signal(), Some(2));
    assert!(!folder.path().join("out").exists());
}

#[test]
fn one_ctrl_c_ends_a_run() {
    let first = Latent { size: 4, distribution: Distribution::Normal }.rows(0, 0, 1)[0];
    let folder = folder_with(&endless(first));
    let output = interrupted(folder.path(), "out/.manifest.json.journal");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("error: interrupted:"), "{:?} {error}", output.status);
}

// --- values

/// 1/(z − c) as pixels: infinite for the one image whose latents begin with c; or 0/0 there.
fn one_wrong_image(kind: DataType, c: f32, nan: bool) -> Vec<u8> {
    let indices = |name: &str, values: &[i64]| {
        tensor(
            name,
            DataType::Int64,
            &[values.len() as i64],
            &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>(),
        )
    };
    let weights = vec![
        indices("zero", &[0]),
        indices("one", &[1]),
        indices("form", &[-1, 1, 1, 1]),
        indices("wide", &[1, 3, 5, 4]),
        tensor("c", DataType::Float, &[], &c.to_le_bytes()),
        tensor("thousandth", DataType::Float, &[], &1e-3f32.to_le_bytes()),
    ];
    let nodes = vec![
        node("Slice", &["z", "zero", "one", "one"], &["first"], vec![]),
        node("Sub", &["first", "c"], &["less"], vec![]),
        node("Div", &[if nan { "less" } else { "thousandth" }, "less"], &["quotient"], vec![]),
        node("Cast", &["quotient"], &["cast"], vec![int("to", kind as i64)]),
        node("Reshape", &["cast", "form"], &["small"], vec![]),
        node("Expand", &["small", "wide"], &["image"], vec![]),
    ];
    let graph = graph(nodes, weights, vec![value("z", DataType::Float, &[0, 8])], vec![value("image", kind, &[0, 3, 5, 4])]);
    ModelProto { ir_version: 8, opset_import: opset(), graph: Some(graph), ..Default::default() }.encode_to_vec()
}

#[test]
fn an_image_that_is_none_is_named() {
    let c = Latent { size: 8, distribution: Distribution::Normal }.rows(3, 5, 1)[0];
    for (kind, nan) in
        [(DataType::Float, false), (DataType::Float, true), (DataType::Float16, false), (DataType::Float16, true)]
    {
        let what = format!("{kind:?}, NaN {nan}");
        let folder = folder_with(&one_wrong_image(kind, c, nan));
        let options = Options::default().range(Range::Tanh).batch(4);
        let generator = open(&folder.path().join("model.onnx"), options).unwrap();
        for (start, n) in [(0, 5), (6, 20)] {
            assert_eq!(generator.sample(3, start, n).unwrap().n, n, "{what}");
        }
        for (start, n) in [(0, 9), (5, 1), (4, 2)] {
            let error = message(generator.sample(3, start, n));
            assert!(error.contains("for image 5 of seed 3 the network gives NaN or infinity"), "{what}: {error}");
        }
        let error = message(generator.generate(&generator.latents(3, 0, 7).unwrap()));
        assert!(error.contains("for latent 5 the network gives NaN or infinity"), "{what}: {error}");
        // The network's own values are given as they are.
        let mut values = vec![0.0; 2 * 60];
        generator.values_into(3, 5, &mut values).unwrap();
        assert!(
            values[..60].iter().all(|value| !value.is_finite()) && values[60..].iter().all(|value| value.is_finite()),
            "{what}"
        );
    }
    let folder = folder_with(&one_wrong_image(DataType::Float, c, true));
    // Of several that give none the first is named, whichever thread was first.
    let options = Options::default().range(Range::Tanh).batch(2).threads(4);
    let generator = open(&folder.path().join("model.onnx"), options).unwrap();
    let mut latents = generator.latents(0, 0, 60).unwrap();
    [33, 12, 13, 50].iter().for_each(|row: &usize| latents[8 * row] = c);
    for _ in 0..20 {
        let error = message(generator.generate(&latents));
        assert!(error.contains("for latent 12 the network gives NaN or infinity"), "{error}");
    }
    let run = |flags: &[&str]| {
        let mut command = gan_infer(folder.path());
        command.args(["--provider", "cpu", "--range", "sigmoid", "--model", "model.onnx"]).args(flags).output().unwrap()
    };
    let output = run(&["--seeds", "2-4", "--start", "5", "--out", "seeds"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("for image 5 of seed 3 the network gives"), "{error}");
    assert!(run(&["--seeds", "2,4", "--start", "5", "--out", "others"]).status.success());
}
