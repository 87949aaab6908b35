//! Execution providers: their names, what is said where one is missing, what they are told; OpenVINO against the CPU.

use super::*;
use ganforge::infer::OpenVinoDevice::{Cpu, Gpu};
use ganforge::infer::tensorrt_options;

#[test]
fn a_provider_is_parsed() {
    assert_eq!("cuda".parse(), Ok(Provider::Cuda(0)));
    assert_eq!("cuda:3".parse(), Ok(Provider::Cuda(3)));
    assert_eq!("tensorrt".parse(), Ok(Provider::TensorRt(0)));
    assert_eq!("openvino".parse(), Ok(Provider::OpenVino(Cpu)));
    assert_eq!("openvino:GPU".parse(), Ok(Provider::OpenVino(Gpu(0))));
    assert_eq!("openvino:gpu.2".parse(), Ok(Provider::OpenVino(Gpu(2))));
    for provider in [
        Provider::Auto,
        Provider::Cpu,
        Provider::Cuda(7),
        Provider::TensorRt(1),
        Provider::OpenVino(Cpu),
        Provider::OpenVino(Gpu(1)),
        Provider::CoreMl,
    ] {
        assert_eq!(provider.to_string().parse(), Ok(provider));
    }
    for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:4294967295", "CPU", "cpu:0", "auto:", "coreml:0"] {
        assert!(wrong.parse::<Provider>().is_err(), "{wrong}");
    }
    for wrong in ["tensorrt:", "tensorrt:GPU", "openvino:", "openvino:0", "openvino:GPU.", "openvino:GPU.-1", "openvino:NPU"] {
        assert!(wrong.parse::<Provider>().is_err(), "{wrong}");
    }
}

/// Never another one in its place.
#[test]
fn a_provider_that_is_missing_is_an_error() {
    runtime::load_from(runtime_path()).unwrap();
    assert!(Provider::Cpu.is_offered().unwrap() && Provider::offered().unwrap().contains(&"cpu"));
    let all = [
        (Provider::Cuda(0), "gan-infer runtime install --cuda"),
        (
            Provider::TensorRt(0),
            "gan-infer runtime install --cuda`, whose onnxruntime has it, and install NVIDIA's TensorRT 10",
        ),
        (Provider::OpenVino(Gpu(0)), "gan-infer runtime install --openvino"),
        (Provider::CoreMl, "builds for macOS"),
    ];
    for (provider, hint) in all {
        if provider.is_offered().unwrap() {
            eprintln!("partly skipped: this onnxruntime has {provider}");
            continue;
        }
        let folder = tempdir().unwrap();
        let out = folder.path().join("out");
        let run = sample(&out, &["--n", "1", "--provider", &provider.to_string()]).assert().code(1);
        run.stderr(contains("was asked for").and(contains("has none")).and(contains(hint)).and(contains("--provider cpu")));
        assert!(!out.exists(), "{provider}");
    }
}

#[test]
fn tensorrt_is_told_the_one_batch() {
    let told = |f16, input| tensorrt_options(3, f16, input, "/home/trt/abc/512".as_ref(), "/home/trt".as_ref());
    let options = told(true, Some(("z", &[512, 100][..])));
    let expected = [
        ("device_id", "3"),
        ("trt_engine_cache_enable", "1"),
        ("trt_engine_cache_path", "/home/trt/abc/512"),
        ("trt_fp16_enable", "1"),
        ("trt_profile_max_shapes", "z:512x100"),
        ("trt_profile_min_shapes", "z:512x100"),
        ("trt_profile_opt_shapes", "z:512x100"),
        ("trt_timing_cache_enable", "1"),
        ("trt_timing_cache_path", "/home/trt"),
    ];
    assert_eq!(options, expected.map(|(key, value)| (key, value.to_string())).into());
    assert_eq!(told(false, None)["trt_fp16_enable"], "0");
    assert_eq!(told(true, Some(("latent/z.1", &[8, 64, 1, 1])))["trt_profile_opt_shapes"], "latent/z.1:8x64x1x1");
    // What cannot be said in such a list, or is not known, is not said.
    let silent: [Option<(&str, &[i64])>; 4] = [None, Some(("z:0", &[8, 64])), Some(("a,b", &[8, 64])), Some(("z", &[8, -1]))];
    for input in silent {
        assert!(told(true, input).keys().all(|key| !key.contains("profile")), "{input:?}");
    }
}

/// The library that `GANFORGE_OPENVINO` names: an onnxruntime with the OpenVINO provider.
fn openvino() -> Option<PathBuf> {
    let library = std::env::var_os("GANFORGE_OPENVINO").filter(|path| !path.is_empty()).map(PathBuf::from);
    if library.is_none() {
        eprintln!(
            "skipped: GANFORGE_OPENVINO names no onnxruntime with OpenVINO (`gan-infer runtime install --openvino` fetches one)"
        );
    }
    library
}

/// Images 0 to 39 of a model, with that library.
fn images(library: &Path, folder: &Path, model: &Path, flags: &[&str]) -> Vec<u8> {
    let (out, home) = (folder.join("out.npy"), folder.join("home"));
    let mut command = gan_infer();
    command.env("ORT_DYLIB_PATH", library).env("HOME", &home).env("XDG_CACHE_HOME", home.join("cache"));
    command.args(["--n", "40", "--quiet", "--force", "--model"]).arg(model).arg("--out").arg(&out).args(flags);
    command.assert().success().stderr("");
    assert!(!home.exists(), "something was left in the home folder");
    fs::read(out).unwrap()
}

#[test]
fn openvino_makes_the_images_of_the_cpu() {
    let Some(library) = openvino() else { return };
    let folder = tempdir().unwrap();
    let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx");
    for model in [golden(SEALED), golden(FIXED), onnx.join("digits.onnx"), onnx.join("faces.onnx")] {
        let made = |flags: &[&str]| images(&library, folder.path(), &model, flags);
        let cpu = made(&["--provider", "cpu"]);
        let openvino = made(&["--provider", "openvino"]);
        let apart = cpu.iter().zip(&openvino).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(cpu.len() == openvino.len() && apart <= Some(1), "{}: {apart:?}", model.display());
        for threads in ["1", "2", "5"] {
            let again = made(&["--provider", "openvino:CPU", "--threads", threads]);
            assert!(again == openvino, "{} with {threads} sessions", model.display());
        }
    }
}

#[test]
fn openvino_says_which_provider_runs() {
    let Some(library) = openvino() else { return };
    let info = |flags: &[&str]| {
        let mut command = gan_infer();
        command.env("ORT_DYLIB_PATH", &library).arg("info").arg(golden(SEALED)).args(flags).assert()
    };
    let told = contains("openvino:CPU").and(contains("cpu, openvino")).and(contains("note").not());
    info(&["--provider", "openvino"]).success().stdout(told);
    info(&["--provider", "openvino", "--tf32"]).success().stdout(contains("on openvino:CPU nothing changes"));
    // No one has as many.
    let none = contains("does not start on openvino:GPU.99").and(contains("--provider openvino runs on the CPU"));
    info(&["--provider", "openvino:GPU.99"]).code(1).stderr(none);
}
