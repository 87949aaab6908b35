//! The Python in README.md, run as it stands there on an exported generator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::tempdir;

/// The code block of README.md that imports `module`.
fn snippet(module: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = text.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.into_iter().find(|block| block.contains(&format!("import {module}"))).unwrap().to_string()
}

/// A Python that has these modules: GANFORGE_PYTHON, or the system's with what `make setup` has fetched.
pub fn python(modules: &str) -> Option<Command> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python");
    let named = std::env::var_os("GANFORGE_PYTHON").map(|path| (PathBuf::from(path), None));
    named.into_iter().chain([("python3".into(), Some(tools))]).find_map(|(program, path)| {
        let command = || {
            let mut command = Command::new(&program);
            path.iter().for_each(|path| _ = command.env("PYTHONPATH", path));
            command
        };
        command().args(["-c", &format!("import {modules}")]).output().ok()?.status.success().then(command)
    })
}

pub fn run(mut python: Command, folder: &Path, program: &str) -> String {
    let cache = folder.join("cache");
    python.env("XDG_CACHE_HOME", &cache).env_remove("ORT_DISABLE_TELEMETRY");
    let output = python.current_dir(folder).args(["-c", program]).output().unwrap();
    assert!(output.status.success(), "{program}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!cache.join("Microsoft").exists(), "onnxruntime has left telemetry");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn plain_onnxruntime_samples_a_generator() {
    let Some(python) = python("numpy, onnxruntime") else {
        println!("skipped: no Python with numpy and onnxruntime (`make setup` fetches them)");
        return;
    };
    let folder = tempdir().unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/digits.onnx"), folder.path().join("generator.onnx")).unwrap();
    let said = run(python, folder.path(), &(snippet("onnxruntime") + "\nprint(images.dtype, images.shape, images.std() > 20)"));
    assert_eq!(said.trim(), "uint8 (16, 28, 28, 1) True");
}

/// With a small feature extractor in the place of Inception, whose weights torch-fidelity would fetch.
#[test]
fn torch_fidelity_judges_a_generator() {
    const EXTRACTOR: &str = r#"
import functools, torch, torch_fidelity
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

class Means(FeatureExtractorBase):
    def __init__(self, name, features_list, **others):
        super().__init__(name, features_list)
        self.feature_extractor_internal_dtype = torch.float32

    def forward(self, images):
        assert images.dtype == torch.uint8 and images.shape[1:] == (3, 64, 64), images.shape
        return (torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).flatten(1),)

    @staticmethod
    def get_provided_features_list():
        return ("means",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "means"

    @staticmethod
    def can_be_compiled():
        return False

    @staticmethod
    def get_dummy_input_for_compile():
        return torch.zeros(1, 3, 64, 64, dtype=torch.uint8)

torch_fidelity.register_feature_extractor("means", Means)
torch_fidelity.calculate_metrics = functools.partial(
    torch_fidelity.calculate_metrics, feature_extractor="means", cuda=False, cache=False, verbose=False
)
"#;
    let Some(python) = python("torch_fidelity, onnxruntime") else {
        println!("skipped: no Python with torch-fidelity and onnxruntime (GANFORGE_PYTHON names one)");
        return;
    };
    let folder = tempdir().unwrap();
    let program = |name: &str| {
        let mut command = assert_cmd::Command::new(name);
        command.current_dir(folder.path()).env("ORT_DYLIB_PATH", crate::infer::runtime_path());
        command
    };
    let faces = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/faces");
    program(env!("CARGO_BIN_EXE_gan-train"))
        .arg("export")
        .arg(faces)
        .args(["--layout", "nchw-u8", "--out", "nchw.onnx"])
        .assert()
        .success();
    // Other samples of the same generator: a distance near 0.
    program(env!("CARGO_BIN_EXE_gan-infer")).args(["--n", "500", "--seed", "5", "--out", "faces"]).assert().success();
    let said = run(python, folder.path(), &format!("{EXTRACTOR}\n{}", snippet("torch_fidelity")));
    let scores: serde_json::Value = serde_json::from_str(said.trim().replace('\'', "\"").lines().last().unwrap()).unwrap();
    let distance = scores["frechet_inception_distance"].as_f64().unwrap();
    assert!((0.0..0.1).contains(&distance), "{said}");
}
