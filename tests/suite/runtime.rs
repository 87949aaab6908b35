//! Which code and which libraries are run: nothing from the current folder, nothing that others could have planted, nothing
//! that pip was not told to fetch; and what onnxruntime says of its user, which is nothing.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ganforge::infer::runtime;
use predicates::prelude::*;
use predicates::str::contains;
use sha2::{Digest, Sha256};
use tempfile::tempdir;

use crate::infer::{program_alone, runtime_path};

fn checkout(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The tests' library. Only load_from is sure to give it in every test, and the first of them decides.
fn library() -> PathBuf {
    runtime::load_from(runtime_path()).unwrap().path.canonicalize().unwrap()
}

/// Puts a copy of the tests' library, which belongs to this user, into a folder; with the name of a release.
fn plant(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let planted = folder.join("libonnxruntime.so.1.31.1");
    fs::copy(library(), &planted).unwrap();
    fs::set_permissions(&planted, fs::Permissions::from_mode(0o644)).unwrap();
    planted
}

/// Writes a program.
fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder full of traps: every module that Python might take from it leaves a line in `caught`, as does a program of PATH.
fn trap(folder: &Path) -> PathBuf {
    let caught = folder.join("caught");
    lay_traps(folder, &caught);
    caught
}

fn lay_traps(folder: &Path, caught: &Path) {
    let module = format!("open({:?}, 'a').write(__name__ + '\\n')\n", caught.to_str().unwrap());
    for name in ["sysconfig", "site", "runpy", "ctypes", "importlib", "sitecustomize", "grpc_tools", "encodings"] {
        fs::write(folder.join(format!("{name}.py")), &module).unwrap();
    }
    fs::create_dir(folder.join("pip")).unwrap();
    for name in ["__init__", "__main__"] {
        fs::write(folder.join(format!("pip/{name}.py")), &module).unwrap();
    }
    for name in ["python3", "dirname", "protoc", "nvcc"] {
        script(&folder.join(name), &format!("echo {name} >>'{}'; exit 1", caught.display()));
    }
}

/// PATH with the entries before it that stand for the current folder.
fn careless_path() -> OsString {
    let path = env::var_os("PATH").unwrap();
    env::join_paths([PathBuf::new(), PathBuf::from(".")].into_iter().chain(env::split_paths(&path))).unwrap()
}

fn caught(caught: &Path) -> String {
    fs::read_to_string(caught).unwrap_or_default()
}

/// A folder for PATH with a python3 that tells `log` where and with what it was called, then is the real one.
fn watched_python(place: &Path) -> Option<(PathBuf, PathBuf)> {
    let question = ["-I", "-c", "import sys; print(sys.executable)"];
    let answer = Command::new("python3").args(question).output().ok().filter(|answer| answer.status.success())?;
    let real = String::from_utf8(answer.stdout).unwrap();
    let (folder, log) = (place.join("programs"), place.join("calls"));
    fs::create_dir(&folder).unwrap();
    script(&folder.join("python3"), &format!("echo \"$PWD $1\" >>'{}'\nexec '{}' \"$@\"", log.display(), real.trim()));
    Some((folder, log))
}

/// The programs in a folder of traps, with a PATH and a PYTHONPATH that lead there.
fn careless(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("HOME", folder.join("home")).env("PYTHONPATH", ".").env("PATH", careless_path());
    for name in ["ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "GANFORGE_HOME", "XDG_DATA_HOME", "PIP_INDEX_URL", "PYTHON"] {
        command.env_remove(name);
    }
    // pip finds nothing, and soon.
    command.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", folder.join("wheels")).env("PIP_CONFIG_FILE", "/dev/null");
    command
}

#[test]
fn nothing_in_the_current_folder_is_run() {
    let (place, program) = program_alone();
    let here = tempdir().unwrap();
    let trap = trap(here.path());
    fs::create_dir(here.path().join("wheels")).unwrap();
    let Some((python, calls)) = watched_python(place.path()) else {
        println!("skipped: there is no python3");
        return;
    };
    // Careless entries first, then the watched Python.
    let path = env::join_paths([PathBuf::new(), PathBuf::from("."), python, "/usr/bin".into(), "/bin".into()]).unwrap();
    careless(&program, here.path()).env("PATH", &path).args(["info", "nothing.onnx"]).assert().failure();
    assert_eq!(caught(&trap), "");
    // A model that is there, so that the search goes on to its end, unless this system has an onnxruntime.
    let model = checkout("tests/golden/sealed.onnx");
    let run = careless(&program, here.path()).env("PATH", &path).arg("info").arg(&model).output().unwrap();
    assert_eq!(caught(&trap), "", "{}", String::from_utf8_lossy(&run.stderr));
    if !run.status.success() {
        assert!(fs::read_to_string(&calls).unwrap().lines().all(|call| call == "/ -I"), "{:?}", fs::read_to_string(&calls));
    }

    fs::write(&calls, "").unwrap();
    let run = careless(&program, here.path()).env("PATH", &path).args(["runtime", "install"]).assert().code(1);
    run.stderr(contains("could not fetch onnxruntime"));
    assert_eq!(caught(&trap), "");
    assert_eq!(fs::read_to_string(&calls).unwrap(), "/ -I\n");
    assert!(!here.path().join("home/.local/share/ganforge/onnxruntime").exists());
}

/// Called from a folder of traps, in a checkout that is one, too.
#[test]
fn the_scripts_of_the_checkout_run_nothing_else() {
    let outside = tempdir().unwrap();
    let trap = trap(outside.path());
    fs::create_dir(outside.path().join("wheels")).unwrap();
    let root = outside.path().join("checkout");
    for name in ["absolute-path.sh", "cuda-requirements.txt", "cuda-toolkit", "pins.py", "protoc", "requirements.txt", "setup"]
    {
        fs::create_dir_all(root.join(".cargo")).unwrap();
        fs::copy(checkout(".cargo").join(name), root.join(".cargo").join(name)).unwrap();
    }
    lay_traps(&root, &trap);
    fs::create_dir_all(root.join("src/infer")).unwrap();
    fs::copy(checkout("src/infer/onnxruntime.txt"), root.join("src/infer/onnxruntime.txt")).unwrap();
    let run = |name: &str| {
        let output = careless(&root.join(".cargo").join(name), outside.path()).env_remove("PROTOC").output().unwrap();
        assert_eq!(caught(&trap), "", "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    run("protoc");
    let said = run("setup");
    assert!(said.is_empty() || said.contains("pip could not fetch"), "{said}");
    run("cuda-toolkit");
}

/// Everything pip fetches has hashes, and of onnxruntime there is one list for `make setup` and `gan-infer runtime install`.
#[test]
fn every_pinned_package_has_hashes() {
    for file in [
        ".cargo/requirements.txt",
        ".cargo/cuda-requirements.txt",
        "src/infer/onnxruntime.txt",
        "src/infer/onnxruntime-cuda.txt",
        "src/infer/onnxruntime-openvino.txt",
    ] {
        let text = fs::read_to_string(checkout(file)).unwrap();
        let text = text.replace("\\\n", "");
        let pins: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(pins.len() >= 2, "{file}");
        for pin in pins {
            let mut words = pin.split(" --hash=sha256:").map(str::trim);
            assert!(words.next().unwrap().contains("=="), "{file}: {pin}");
            let hashes: Vec<&str> = words.collect();
            assert!(!hashes.is_empty() && hashes.iter().all(|hash| hash.len() == 64), "{file}: {pin}");
        }
        assert_eq!(text.contains("\nonnxruntime=="), file == "src/infer/onnxruntime.txt", "{file}");
    }
}

/// What `runtime` says, of the library that this setting makes the program find.
fn found(program: &Path, home: &Path, setting: (&str, &Path)) -> (bool, String) {
    let mut command = Command::new(program);
    command.env_clear().env("HOME", home).env("PATH", "").env(setting.0, setting.1).args(["runtime", "--json"]);
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn what_others_could_have_planted_is_not_opened() {
    let (place, program) = program_alone();
    let venv = place.path().join("venv");
    let capi = venv.join("lib/python3.12/site-packages/onnxruntime/capi");
    let planted = plant(&capi);
    let refused = |reason: &str| {
        let (_, said) = found(&program, place.path(), ("VIRTUAL_ENV", &venv));
        // The system may have one of its own.
        assert!(
            !said.contains("\"onnxruntime.found\":\"Python's site-packages\"") || !said.contains(capi.to_str().unwrap()),
            "{said}"
        );
        assert!(said.contains(reason) || said.contains("onnxruntime.found"), "{reason}: {said}");
        // Who names it means it.
        let (opened, said) = found(&program, place.path(), ("ORT_DYLIB_PATH", &planted));
        assert!(opened && said.contains("named by ORT_DYLIB_PATH"), "{said}");
    };
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let (opened, said) = found(&program, place.path(), ("VIRTUAL_ENV", &venv));
    assert!(opened && said.contains(planted.to_str().unwrap()), "{said}");

    mode(&venv, 0o777);
    refused("everybody may write to");
    // In a folder as /tmp nobody can replace it.
    mode(&venv, 0o1777);
    assert!(found(&program, place.path(), ("VIRTUAL_ENV", &venv)).0);
    mode(&venv, 0o755);
    // But anybody can put the providers there that it opens.
    mode(&capi, 0o1777);
    refused("everybody may put libraries into");
    mode(&capi, 0o755);
    mode(&planted, 0o666);
    refused("everybody may write to");
    mode(&planted, 0o644);
    assert!(found(&program, place.path(), ("VIRTUAL_ENV", &venv)).0);

    const STRANGER: u32 = 12345;
    if chown(&planted, Some(STRANGER), None).is_err() {
        println!("partly skipped: only root can make others the owners");
        return;
    }
    refused("belongs to user 12345");
    let us = fs::metadata(&program).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).unwrap();
    chown(&planted, Some(us), None).unwrap();
    chown(&venv, Some(STRANGER), None).unwrap();
    refused("belongs to user 12345");
    // Whose program this is could as well change the program.
    chown(&program, Some(STRANGER), None).unwrap();
    assert!(found(&program, place.path(), ("VIRTUAL_ENV", &venv)).0);
    chown(&program, Some(us), None).unwrap();
    chown(&venv, Some(us), None).unwrap();

    // By way of a stranger's link, and of a neighbour that onnxruntime would open.
    let link = place.path().join("link");
    symlink(&venv, &link).unwrap();
    assert!(found(&program, place.path(), ("VIRTUAL_ENV", &link)).0);
    std::os::unix::fs::lchown(&link, Some(STRANGER), None).unwrap();
    let (_, said) = found(&program, place.path(), ("VIRTUAL_ENV", &link));
    assert!(said.contains("link belongs to user 12345") || said.contains("onnxruntime.found"), "{said}");
    let neighbour = capi.join("libonnxruntime_providers_shared.so");
    fs::write(&neighbour, "").unwrap();
    chown(&neighbour, Some(STRANGER), None).unwrap();
    refused("libonnxruntime_providers_shared.so belongs to user 12345");
}

/// `.tools/python` counts in this package's own checkout only, not in any folder above the program.
#[test]
fn a_checkout_is_known_by_its_manifest() {
    let (place, program) = program_alone();
    plant(&place.path().join(".tools/python/onnxruntime/capi"));
    let root = place.path().join("checkout");
    let tools = root.join(".tools/python/onnxruntime/capi");
    plant(&tools);
    let build = |folder: &str| {
        let built = root.join(folder).join("gan-infer");
        fs::create_dir_all(built.parent().unwrap()).unwrap();
        fs::copy(&program, &built).unwrap();
        let (opened, said) = found(&built, place.path(), ("LANG", Path::new("C")));
        opened && said.contains(tools.to_str().unwrap())
    };
    let (_, said) = found(&program, place.path(), ("LANG", Path::new("C")));
    assert!(!said.contains(".tools/python"), "{said}");
    assert!(!build("target/release"));
    fs::write(root.join("Cargo.toml"), "[package]\nname = \"another\"\n").unwrap();
    assert!(!build("target/release"));
    fs::write(root.join("Cargo.toml"), "[package]\nname = \"ganforge\"\n").unwrap();
    for folder in ["target/release", "target/release/deps", "target/x86_64-unknown-linux-musl/debug"] {
        assert!(build(folder), "{folder}");
    }
    for folder in ["release", "target/a/b/release", "elsewhere"] {
        assert!(!build(folder), "{folder}");
    }
}

#[test]
fn what_is_tried_and_opened_is_told() {
    let (place, program) = program_alone();
    let planted = plant(&place.path().join("venv/lib/python3.12/site-packages/onnxruntime/capi"));
    let mut command = Command::new(&program);
    command.env_clear().env("HOME", place.path()).env("PATH", "").env("VIRTUAL_ENV", place.path().join("venv"));
    command.args(["runtime", "--verbose", "--json"]);
    let run = command.assert().success();
    let facts: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!(facts["onnxruntime.opened"], serde_json::json!([planted]));
    let missed =
        format!("{} (installed by ganforge): no such file", place.path().join(".local/share/ganforge/onnxruntime").display());
    run.stderr(contains(missed).and(contains(format!("\nopened {}\n", planted.display()))));

    let out = place.path().join("out");
    let sample = |flags: &[&str]| {
        let mut command = Command::new(&program);
        command.env("ORT_DYLIB_PATH", &planted).arg("--model").arg(checkout("tests/golden/sealed.onnx")).arg("--out").arg(&out);
        command.args(["--n", "1", "--provider", "cpu", "--force"]).args(flags).assert().success()
    };
    sample(&["--verbose", "--quiet"]).stderr(contains(format!("opened {}\n", planted.display())));
    sample(&["--quiet"]).stderr("");
}

/// A package folder as pip leaves it: the tests' library, and a record of everything.
fn package(folder: &Path) {
    let library = plant(&folder.join("onnxruntime/capi"));
    let info = folder.join("onnxruntime-1.31.1.dist-info");
    fs::create_dir(&info).unwrap();
    fs::write(info.join("INSTALLER"), "pip\n").unwrap();
    let line = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        format!("{name},sha256={},{}\n", URL_SAFE_NO_PAD.encode(Sha256::digest(&bytes)), bytes.len())
    };
    let own = "onnxruntime-1.31.1.dist-info/RECORD,,\n../../bin/onnxruntime_test,sha256=5ZCa3xE2E3wBtLCRv8oWqG7jAi6nuAiCLvzcixY_V4Y,257\n";
    fs::write(info.join("RECORD"), [own, &line(&info.join("INSTALLER")), &line(&library)].concat()).unwrap();
}

/// A PATH whose python3 is a pip that copies the package instead of fetching it.
fn obedient_pip(place: &Path, package: &Path) -> PathBuf {
    let folder = place.join("programs");
    fs::create_dir(&folder).unwrap();
    let copy = format!("for last; do :; done\nexec /bin/cp -R '{}' \"$last\"", package.display());
    script(&folder.join("python3"), &copy);
    folder
}

#[test]
fn only_what_the_package_recorded_is_installed() {
    let (place, program) = program_alone();
    let fetched = place.path().join("package");
    package(&fetched);
    let path = obedient_pip(place.path(), &fetched);
    let home = place.path().join("home");
    let install = || {
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", place.path()).env("PATH", &path).env("GANFORGE_HOME", &home);
        command.args(["runtime", "install"]).assert()
    };
    let verify = || Command::new("python3").arg("-I").arg(checkout(".cargo/pins.py")).arg("verify").arg(&fetched).assert();
    let installed = home.join("onnxruntime/onnxruntime/capi/libonnxruntime.so.1.31.1");
    install().success().stdout(contains(installed.to_str().unwrap()));
    assert!(installed.is_file());
    verify().success();

    let library = fetched.join("onnxruntime/capi/libonnxruntime.so.1.31.1");
    let whole = fs::read(&library).unwrap();
    let mut damaged = whole.clone();
    // In the table of names at the end, which nothing needs: the library would load.
    *damaged.last_mut().unwrap() ^= 1;
    fs::remove_dir_all(&home).unwrap();
    fs::write(&library, &damaged).unwrap();
    let refused = contains("libonnxruntime.so.1.31.1").and(contains("not as its Python package recorded it"));
    install().code(1).stderr(refused);
    verify().failure().stderr(contains("libonnxruntime.so.1.31.1 is not as its package recorded it"));
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0);

    fs::write(&library, &whole).unwrap();
    fs::write(fetched.join("onnxruntime/capi/libonnxruntime.so.1.99.0"), &whole).unwrap();
    install().code(1).stderr(contains("libonnxruntime.so.1.99.0: it is not as"));
    verify().failure().stderr(contains("libonnxruntime.so.1.99.0"));
}

/// pip itself, with another wheel of the same name and version.
#[test]
fn a_wheel_with_another_hash_is_refused() {
    const WHEEL: &str = "import sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1] + '/onnxruntime-1.31.1-py3-none-any.whl', 'w') as wheel:\n\
        \x20   info = 'onnxruntime-1.31.1.dist-info/'\n\
        \x20   wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: onnxruntime\\nVersion: 1.31.1\\n')\n\
        \x20   wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        \x20   wheel.writestr(info + 'RECORD', '')\n";
    let (place, program) = program_alone();
    let wheels = place.path().join("wheels");
    fs::create_dir(&wheels).unwrap();
    let newest = Command::new("python3").args(["-I", "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]).output();
    if !newest.is_ok_and(|answer| answer.status.success()) {
        println!("skipped: no Python 3.11 or later with pip");
        return;
    }
    Command::new("python3").args(["-I", "-c", WHEEL]).arg(&wheels).assert().success();
    let run = careless(&program, place.path())
        .env("GANFORGE_HOME", place.path().join("managed"))
        .args(["runtime", "install"])
        .assert();
    run.code(1).stderr(contains("the hash of a wheel is not the pinned one"));
    assert_eq!(fs::read_dir(place.path().join("managed")).unwrap().count(), 0);
}

#[test]
fn each_package_is_asked_for_by_its_name() {
    let (place, program) = program_alone();
    let here = tempdir().unwrap();
    fs::create_dir(here.path().join("wheels")).unwrap();
    let newest = Command::new("python3").args(["-I", "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]).output();
    if !newest.is_ok_and(|answer| answer.status.success()) {
        println!("skipped: no Python 3.11 or later with pip");
        return;
    }
    let install = |flags: &[&str]| {
        let mut command = careless(&program, here.path());
        command.env("GANFORGE_HOME", place.path().join("managed")).args(["runtime", "install"]).args(flags).assert()
    };
    install(&[]).code(1).stderr(contains("found for onnxruntime==").and(contains("x86-64").not()));
    install(&["--cuda"]).code(1).stderr(contains("found for onnxruntime-gpu=="));
    install(&["--openvino"]).code(1).stderr(contains("found for onnxruntime-openvino==").and(contains("Linux on x86-64")));
    install(&["--cuda", "--openvino"]).code(2);
}

/// Every file below a folder.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

/// A program with a home and a cache of its own, that nobody has asked to be silent: with no variables but these, for
/// onnxruntime is silent of itself wherever one of a dozen says that this is a continuous integration's machine.
fn at_home(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
    command.env("ORT_DYLIB_PATH", runtime_path()).env("HOME", home).env("XDG_CACHE_HOME", home.join("cache"));
    command.timeout(Duration::from_secs(300));
    command
}

#[test]
fn the_programs_leave_no_telemetry() {
    let home = tempdir().unwrap();
    let out = tempdir().unwrap();
    let infer = |flags: &[&str]| {
        let mut command = at_home(Path::new(env!("CARGO_BIN_EXE_gan-infer")), home.path());
        command.args(flags).assert().success();
        assert_eq!(files_in(home.path()), Vec::<PathBuf>::new(), "{flags:?}");
    };
    let model = checkout("tests/golden/sealed.onnx");
    let model = model.to_str().unwrap();
    infer(&["--n", "40", "--out", out.path().to_str().unwrap(), "--model", model, "--provider", "cpu"]);
    infer(&["info", model, "--provider", "cpu"]);
    infer(&["runtime"]);
    #[cfg(feature = "train")]
    {
        let mut train = at_home(Path::new(env!("CARGO_BIN_EXE_gan-train")), home.path());
        train.arg("export").arg(checkout("models/digits")).arg("--out").arg(out.path().join("digits.onnx")).assert().success();
        assert_eq!(files_in(home.path()), Vec::<PathBuf>::new());
    }
}

/// For how many seconds [`a_program_that_embeds_the_library`] lives.
const ALONE: &str = "GANFORGE_TEST_ALONE";

/// Not a test of its own, but a program that uses the library and does nothing else, for [`the_library_leaves_no_telemetry`].
#[test]
#[ignore = "a program that another test starts"]
fn a_program_that_embeds_the_library() {
    let seconds = env::var(ALONE).unwrap().parse().unwrap();
    runtime::load_from(runtime_path()).unwrap();
    let options = ganforge::infer::Options::default().provider(ganforge::infer::Provider::Cpu);
    ganforge::infer::Generator::open(checkout("tests/golden/sealed.onnx"), &options).unwrap();
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Whether [`a_program_that_embeds_the_library`] wrote below its home or opened a socket of the internet; the latter is `None`
/// where strace is missing or not allowed.
fn traces(setting: Option<(&str, &str)>, seconds: u32) -> (bool, Option<bool>) {
    let home = tempdir().unwrap();
    let log = home.path().join("log");
    let this = env::current_exe().unwrap();
    let test = ["runtime::a_program_that_embeds_the_library", "--exact", "--ignored", "--test-threads=1"];
    let strace = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    let with_strace = seconds > 0 && strace.is_ok_and(|run| run.status.success());
    let inner = home.path().join("inner");
    let mut command = at_home(if with_strace { Path::new("strace") } else { &this }, &inner);
    if with_strace {
        command.args(["-f", "-e", "trace=socket", "-o"]).arg(&log).arg(&this);
    }
    command.env(ALONE, seconds.to_string()).envs(setting).args(test).assert().success().stdout(contains("1 passed"));
    (!files_in(&inner).is_empty(), with_strace.then(|| fs::read_to_string(&log).unwrap().contains("AF_INET")))
}

#[test]
fn the_library_leaves_no_telemetry() {
    let (files, sockets) = traces(None, SECONDS);
    assert!(!files, "there are files in the cache folder");
    match sockets {
        Some(opened) => assert!(!opened, "a socket was opened"),
        None => println!("partly skipped: no strace to see sockets with"),
    }
    // Whoever wants it: the test can see it then. Only of the releases that have it.
    let version = &runtime::load_from(runtime_path()).unwrap().version;
    if version.starts_with("1.31") {
        assert!(
            traces(Some(("ORT_DISABLE_TELEMETRY", "0")), 0).0,
            "telemetry that was asked for left nothing in the cache folder"
        );
    }
}

/// Longer than until onnxruntime 1.31 first looks up its host, which it does after 9 seconds.
const SECONDS: u32 = 11;

/// Neither the home folder of who built them, nor cargo's, nor the checkout's: `.cargo/rustc` replaces them.
#[test]
fn the_programs_hold_no_paths_of_the_build() {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.components().count() > 1);
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from);
    let paths = [home, cargo, Some(checkout(""))];
    let programs = [
        env!("CARGO_BIN_EXE_gan-infer"),
        #[cfg(feature = "train")]
        env!("CARGO_BIN_EXE_gan-train"),
    ];
    for program in programs {
        let bytes = fs::read(program).unwrap();
        for path in paths.iter().flatten() {
            let text = format!("{}/", path.display().to_string().trim_end_matches('/'));
            let at = bytes.windows(text.len()).position(|part| part == text.as_bytes());
            let told = at.map(|at| String::from_utf8_lossy(&bytes[at..(at + 120).min(bytes.len())]).into_owned());
            assert_eq!(
                told, None,
                "{program} tells {text}; was it built before there was .cargo/rustc? Then `cargo clean` first"
            );
        }
    }
}
