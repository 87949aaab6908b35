//! `gan-infer page`: what it writes and refuses, and that the page draws the same latents. `make check-page` runs it in a browser.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use assert_cmd::Command as Program;
use ganforge::infer::{Class, Conditioning, Generator, Options, builtin, page, runtime};
use ganforge::latent::{Distribution, Latent, Truncation};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::infer::{golden, runtime_path};

const PARTS: [&str; 6] = [
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
];

/// Has node answer questions with the page's own functions; `None` where there is no node.
fn ask_page(questions: &Value) -> Option<Value> {
    const PROGRAM: &str = r#"
import { latent, interpolate, truncate, withClass, classOf } from './latents.js';
let text = '';
for await (const part of process.stdin) text += part;
const bits = (z) => [...new Uint32Array(z.buffer)];
const answer = ({ space, seed, number, truncation, wanted, classes, to }) => {
  let z = latent(space, BigInt(seed), BigInt(number));
  if (truncation) z = truncate(space, z, truncation);
  if (classes) z = withClass(z, wanted, classes);
  if (to) z = interpolate(space, z, latent(space, BigInt(seed), BigInt(to.number)), to.t);
  return { bits: bits(z), class: classes ? classOf(z, classes) : null };
};
console.log(JSON.stringify(JSON.parse(text).map(answer)));
"#;
    let folder = tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/infer/page/latents.js");
    fs::copy(source, folder.path().join("latents.js")).unwrap();
    fs::write(folder.path().join("package.json"), r#"{ "type": "module" }"#).unwrap();
    fs::write(folder.path().join("answer.js"), PROGRAM).unwrap();
    let mut node = Command::new("node");
    let node = node.arg("answer.js").current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut node) = node.spawn() else {
        println!("skipped: there is no node");
        return None;
    };
    node.stdin.take().unwrap().write_all(questions.to_string().as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn question(latent: Latent, seed: u64, number: u64) -> Value {
    let space = json!({ "size": latent.size, "distribution": latent.distribution.name() });
    json!({ "space": space, "seed": seed.to_string(), "number": number.to_string() })
}

fn values(answer: &Value) -> Vec<f32> {
    let bits = answer["bits"].as_array().unwrap();
    bits.iter().map(|bits| f32::from_bits(bits.as_u64().unwrap() as u32)).collect()
}

/// Seeds and numbers from all over their ranges, beyond 2^53 too, where JavaScript's numbers have gaps.
fn addresses() -> impl Iterator<Item = (u64, u64)> {
    let seeds = [0, 1, 42, u64::from(u32::MAX), 1 << 32, (1 << 53) + 1, 0x0123_4567_89ab_cdef, u64::MAX];
    let numbers = [0, 1, 7, 99_999, 1 << 32, (1 << 53) + 1, (1 << 63) - 1];
    seeds.into_iter().flat_map(move |seed| numbers.map(|number| (seed, number)))
}

fn spaces() -> impl Iterator<Item = Latent> {
    let sizes = [1, 2, 31, 32, 33, 100, 513];
    let distributions = [Distribution::Normal, Distribution::Uniform];
    distributions.into_iter().flat_map(move |distribution| sizes.map(|size| Latent { size, distribution }))
}

#[test]
fn the_page_draws_the_same_latents_bit_for_bit() {
    let cases: Vec<_> = spaces().flat_map(|space| addresses().map(move |(seed, number)| (space, seed, number))).collect();
    let questions = cases.iter().map(|&(space, seed, number)| question(space, seed, number)).collect();
    let Some(answers) = ask_page(&questions) else { return };
    for (answer, (space, seed, number)) in answers.as_array().unwrap().iter().zip(&cases) {
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(values(answer)), bits(space.rows(*seed, *number, 1)), "{space:?}, seed {seed}, image {number}");
    }
    assert_eq!(cases.len(), 784);
}

/// The largest distance of two values, in steps from one f32 to the next.
fn steps(ours: &[f32], theirs: &[f32]) -> i64 {
    assert_eq!(ours.len(), theirs.len());
    let order = |value: f32| i64::from(value.to_bits() & 0x7fff_ffff) * if value < 0.0 { -1 } else { 1 };
    ours.iter().zip(theirs).map(|(&a, &b)| (order(a) - order(b)).abs()).max().unwrap_or(0)
}

/// Browsers have their own exponential function, sine and arc cosine: the last bit of an f32 may differ, no more.
#[test]
fn the_page_truncates_and_interpolates_as_the_library_does() {
    let spaces = [Distribution::Normal, Distribution::Uniform].map(|distribution| Latent { size: 100, distribution });
    let bounds = [0.001, 0.1, 0.5, 0.95, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0];
    let (mut questions, mut expected) = (Vec::new(), Vec::new());
    for space in spaces {
        for (seed, number) in addresses() {
            for bound in bounds {
                let Ok(truncation) = Truncation::new(bound, space.distribution) else { continue };
                let mut question = question(space, seed, number);
                question["truncation"] = json!(bound);
                questions.push(question);
                let mut z = space.rows(seed, number, 1);
                truncation.apply(space.distribution, &mut z);
                expected.push((format!("{space:?}, seed {seed}, image {number}, truncated to {bound}"), z));
            }
            for t in [0.0_f32, 0.25, 0.5, 1.0] {
                let mut question = question(space, seed, number);
                let to = number / 2 + 1;
                question["to"] = json!({ "number": to.to_string(), "t": t });
                questions.push(question);
                let z = space.interpolate(&space.rows(seed, number, 1), &space.rows(seed, to, 1), t).unwrap();
                expected.push((format!("{space:?}, seed {seed}, {t} of the way from image {number} to {to}"), z));
            }
        }
    }
    let Some(answers) = ask_page(&json!(questions)) else { return };
    for (answer, (what, z)) in answers.as_array().unwrap().iter().zip(&expected) {
        let apart = steps(&values(answer), z);
        assert!(apart <= 1, "{what}: {apart} steps apart");
    }
}

#[test]
fn the_page_chooses_classes_as_the_library_does() {
    let space = Latent { size: 42, distribution: Distribution::Normal };
    let cases: Vec<(u64, u64, usize)> =
        addresses().flat_map(|(seed, number)| [0, 3, 9].map(|class| (seed, number, class))).collect();
    let questions = cases.iter().map(|&(seed, number, class)| {
        let mut question = question(space, seed, number);
        (question["wanted"], question["classes"]) = (json!(class), json!(10));
        question
    });
    let Some(answers) = ask_page(&questions.collect()) else { return };
    runtime::load_from(runtime_path()).unwrap();
    let digits = builtin::open(Some("digits"), &Options::default()).unwrap();
    for (answer, &(seed, number, class)) in answers.as_array().unwrap().iter().zip(&cases) {
        assert_eq!(answer["class"], class);
        // What the library makes of a class of its own is what it makes of the page's latents.
        let class = Class::new(class, digits.contract(), "digits").unwrap();
        let of_class = Conditioning::default().class(class);
        if number == 7 {
            let images = digits.generate(&values(answer)).unwrap();
            assert!(images == digits.generate_with(&of_class, &space.rows(seed, number, 1)).unwrap());
        }
    }
}

fn gan_infer() -> Program {
    let mut program = Program::new(env!("CARGO_BIN_EXE_gan-infer"));
    program.env("ORT_DYLIB_PATH", runtime_path());
    program
}

/// A folder with files of onnxruntime-web's names.
fn web_runtime(place: &Path) -> PathBuf {
    let dist = place.join("package/dist");
    fs::create_dir_all(&dist).unwrap();
    PARTS.iter().for_each(|name| fs::write(dist.join(name), format!("// {name}")).unwrap());
    place.to_path_buf()
}

#[test]
fn a_page_is_a_folder_that_needs_nothing_else() {
    let place = tempdir().unwrap();
    let (web, out) = (web_runtime(&place.path().join("web")), place.path().join("a/page"));
    let write = |args: &[&str]| {
        let mut program = gan_infer();
        program.arg("page").args(args).arg("--onnxruntime-web").arg(&web).arg("--out").arg(&out);
        program
    };
    let told = write(&["digits"]).assert().success().stderr(contains("not onnxruntime-web 1.")).stderr(contains("http.server"));
    assert!(told.get_output().stdout.is_empty());
    let facts: Value = serde_json::from_slice(&fs::read(out.join("generator.json")).unwrap()).unwrap();
    assert_eq!((&facts["name"], &facts["classes"], &facts["latent"]["size"]), (&json!("digits"), &json!(10), &json!(42)));
    assert!(facts["engines"]["webgpu"].is_null());
    let digits = builtin::find(Some("digits")).unwrap();
    assert!(fs::read(out.join("generator.onnx")).unwrap() == digits.int8);
    // All that its files name is there, and nothing of it is elsewhere.
    for name in ["index.html", "app.js", "engine.js", "worker.js", "latents.js", "check.js", "page.css"] {
        let text = fs::read_to_string(out.join(name)).unwrap();
        assert!(!text.contains("https://") && !text.contains("//cdn"), "{name} names another server");
        let quoted = text.split(['"', '\'']).filter(|text| text.ends_with(".js") || text.ends_with(".css"));
        quoted.for_each(|file| assert!(out.join(file).is_file(), "{name} wants {file}"));
    }

    // What is there stays, unless it is asked for.
    fs::write(out.join("mine.txt"), "mine").unwrap();
    write(&["faces"]).assert().code(2).stderr(contains("is not empty").and(contains("--force")));
    assert!(fs::read(out.join("generator.onnx")).unwrap() == digits.int8);
    let json =
        write(&["digits", "--precision", "f32", "--webgpu", "--force", "--json", "--title", "<script>"]).assert().success();
    let summary: Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!((&summary["precision"], &summary["webgpu"]), (&json!("f32"), &json!("f32")));
    assert_eq!(summary["files"].as_array().unwrap().last().unwrap(), "index.html");
    assert!(fs::read(out.join("generator.onnx")).unwrap() == digits.bytes && out.join("mine.txt").exists());
    let facts: Value = serde_json::from_slice(&fs::read(out.join("generator.json")).unwrap()).unwrap();
    assert_eq!(facts["name"], "<script>");
    assert_eq!(facts["engines"]["webgpu"]["files"]["model"]["name"], "generator.onnx");
    // Its own copy of onnxruntime-web serves another page.
    let other = place.path().join("other");
    gan_infer().args(["page", "--out"]).arg(&other).arg("--onnxruntime-web").arg(&out).assert().success();
    assert!(fs::read(other.join("onnxruntime-web/ort.wasm.min.js")).unwrap() == b"// ort.wasm.min.mjs");
}

#[test]
fn what_makes_no_page_is_refused_before_anything_is_written() {
    let place = tempdir().unwrap();
    let (web, out) = (web_runtime(&place.path().join("web")), place.path().join("page"));
    let refused = |args: &[&str], code: i32, what: &str| {
        let mut program = gan_infer();
        program.arg("page").args(args).arg("--out").arg(&out).env("PATH", "/nowhere");
        program.assert().code(code).stderr(contains(what));
        assert!(!out.exists());
    };
    let (web, nowhere) = (web.to_str().unwrap(), place.path().to_str().unwrap());
    refused(&["digits"], 2, "--npm");
    refused(&["digits", "--npm", "--onnxruntime-web", web], 2, "cannot be used with");
    refused(&["digits", "--npm"], 1, "no npm on PATH");
    refused(&["digits", "--onnxruntime-web", nowhere], 1, "--npm");
    refused(&["digits", "--onnxruntime-web", web, "--webgpu", "--precision", "int8"], 2, "Leave --webgpu away");
    let half = golden("stranger_nhwc_f16.onnx");
    refused(&[half.to_str().unwrap(), "--onnxruntime-web", web, "--range", "tanh"], 1, "without half precision");
    let stranger = golden("stranger_nchw_f32.onnx");
    refused(&[stranger.to_str().unwrap(), "--onnxruntime-web", web], 2, "--range");
}

/// A registry that gives another package under the same name.
#[cfg(unix)]
#[test]
fn a_package_of_another_checksum_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let place = tempdir().unwrap();
    let (bin, out) = (place.path().join("bin"), place.path().join("page"));
    fs::create_dir(&bin).unwrap();
    let npm = bin.join("npm");
    fs::write(&npm, format!("#!/bin/sh\necho wrong > onnxruntime-web-{}.tgz\n", page::WEB_RUNTIME_VERSION)).unwrap();
    fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).unwrap();
    let mut program = gan_infer();
    program.args(["page", "digits", "--npm", "--out"]).arg(&out).env("PATH", &bin);
    program.assert().code(1).stderr(contains("its checksum is sha512-").and(contains("--onnxruntime-web DIR")));
    assert!(!out.exists());
}

#[test]
fn a_page_of_a_strangers_generator_knows_its_form() {
    let place = tempdir().unwrap();
    let web = page::WebRuntime::Folder(web_runtime(&place.path().join("web")));
    runtime::load_from(runtime_path()).unwrap();
    let range = Some(ganforge::image::Range::Tanh);
    let mut options = Options::default().provider(ganforge::infer::Provider::Cpu);
    options.range = range;
    let generator = Generator::open(golden("stranger_nchw_f32.onnx"), &options).unwrap();
    let (title, about) = page::title(golden("stranger_nchw_f32.onnx").to_str()).unwrap();
    assert_eq!((title.as_str(), about.as_str()), ("stranger_nchw_f32", ""));
    let page = page::Page { generator: &generator, webgpu: None, title, about, runtime: web, overwrite: false };
    let out = place.path().join("page");
    page.write(&out, &ganforge::progress::Silent).unwrap();
    let facts: Value = serde_json::from_slice(&fs::read(out.join("generator.json")).unwrap()).unwrap();
    assert_eq!(facts["output"]["element"], "f32");
    assert_eq!((&facts["output"]["scale"], &facts["output"]["channelsFirst"]), (&json!(127.5), &json!(true)));
}
