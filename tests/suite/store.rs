//! Tar files in an object store: the crate's own local one, and S3 where an emulator is to be had (`pip install 'moto[server]'`; GANFORGE_PYTHON names a Python
//! that has it).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::{TempDir, tempdir};

use crate::infer::{contents, golden, runtime_path, sample};

/// A folder as a store of objects.
fn url(folder: &Path) -> PathBuf {
    PathBuf::from(format!("file://{}", folder.display()))
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A job in a process of its own.
fn start(out: &Path, flags: &[&str]) -> Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command.env("ORT_DYLIB_PATH", runtime_path()).args(["--provider", "cpu", "--batch", "8", "--threads", "1", "--model"]);
    command.arg(golden("sealed.onnx")).arg("--out").arg(out).args(flags).stderr(Stdio::null()).spawn().unwrap()
}

/// What is in the store are the bytes of a folder; killed, damaged and resumed, too.
#[test]
fn a_store_holds_what_a_folder_does() {
    let folder = tempdir().unwrap();
    let [whole, stored, killed] = ["whole", "stored", "killed"].map(|name| folder.path().join(name));
    let flags = ["--n", "30500", "--start", "700", "--quiet"];
    let resume = [&flags[..], &["--resume"]].concat();
    sample(&whole, &[&flags[..], &["--format", "tar"]].concat()).assert().success();
    sample(&url(&stored), &flags).assert().success();
    assert!(contents(&stored) == contents(&whole));
    let journal = killed.join(".manifest-tar-000700-031199.json.journal");
    let notes = || fs::read_dir(&journal).into_iter().flatten().count();
    let mut child = start(&url(&killed), &flags);
    wait_for("some notes", || notes() > 7 || child.try_wait().unwrap().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(notes() > 7 && !killed.join("manifest-tar-000700-031199.json").exists());
    sample(&url(&killed), &flags).assert().code(2).stderr(contains("holds an unfinished job").and(contains("--resume")));
    let other = [&resume[..], &["--seed", "3"]].concat();
    sample(&url(&killed), &other).assert().code(2).stderr(contains("which is another: its seed is 0"));
    // One is lost, another is not what was noted.
    let is_tar = |name: &PathBuf| name.parent() == Some(Path::new("")) && name.extension().is_some_and(|it| it == "tar");
    let tars: Vec<PathBuf> = contents(&killed).into_keys().filter(is_tar).collect();
    fs::remove_file(killed.join(&tars[1])).unwrap();
    fs::write(killed.join(&tars[2]), "other").unwrap();
    let said = contains("2 tar files are made again");
    sample(&url(&killed), &["--n", "30500", "--start", "700", "--resume"]).assert().success().stderr(said);
    assert!(contents(&killed) == contents(&whole));
    // Finished: nothing is made again, but what is damaged.
    sample(&url(&killed), &["--n", "30500", "--start", "700", "--resume"]).assert().success().stderr(contains("0 images in"));
    let mut bytes = fs::read(killed.join(&tars[3])).unwrap();
    bytes[2000] ^= 1;
    fs::write(killed.join(&tars[3]), bytes).unwrap();
    let said = contains("not all is as it says: 1000 of 30500 images are made again");
    sample(&url(&killed), &["--n", "30500", "--start", "700", "--resume"]).assert().success().stderr(said);
    assert!(contents(&killed) == contents(&whole));
}

#[test]
fn shards_and_other_jobs_in_a_store() {
    let folder = tempdir().unwrap();
    let [local, stored] = ["local", "stored"].map(|name| folder.path().join(name));
    let flags = ["--n", "4000", "--quiet"];
    for part in ["1/3", "2/3", "3/3"] {
        sample(&local, &[&flags[..], &["--format", "tar", "--shard", part]].concat()).assert().success();
        sample(&url(&stored), &[&flags[..], &["--shard", part]].concat()).assert().success();
    }
    assert!(contents(&stored) == contents(&local));
    // What is whole is refused, and so are other jobs with the same names and shards of another, unless they are forced.
    sample(&url(&stored), &[&flags[..], &["--shard", "2/3"]].concat()).assert().code(2).stderr(contains("already"));
    sample(&url(&stored), &flags).assert().code(2).stderr(contains("tells of another job with files of the same names"));
    fs::remove_file(stored.join("manifest-tar-2-of-3.json")).unwrap();
    sample(&url(&stored), &[&flags[..], &["--shard", "2/3"]].concat())
        .assert()
        .code(2)
        .stderr(contains("holds 1 of these tar files already"));
    fs::remove_file(stored.join("000001.tar")).unwrap();
    let other = [&flags[..], &["--shard", "2/3", "--seed", "1"]].concat();
    sample(&url(&stored), &other).assert().code(2).stderr(contains("is of a shard of another job: its seed is 0"));
    sample(&url(&stored), &["--n", "4000", "--seed", "5", "--force"]).assert().success().stderr(contains("replaced: 3 files"));
    sample(&local, &["--n", "4000", "--seed", "5", "--format", "tar", "--force", "--quiet"]).assert().success();
    assert!(contents(&stored) == contents(&local));
    for (out, flags, said) in [
        ("s3://bucket/x", &["--format", "npy"][..], "takes tar files under a prefix"),
        ("s3://bucket/x.tar", &[], "takes tar files under a prefix"),
        ("ftp://host/x", &[], "ftp: is no object store"),
        ("s3://", &[], "it names no bucket"),
    ] {
        sample(Path::new(out), &[&["--n", "10"], flags].concat()).assert().code(2).stderr(contains(said));
    }
}

fn python() -> OsString {
    std::env::var_os("GANFORGE_PYTHON").unwrap_or("python3".into())
}

/// A server of S3.
struct Server {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// With a bucket named `images`; `None` where there is no emulator.
    fn start() -> Option<Self> {
        let has = std::process::Command::new(python()).args(["-c", "import boto3, flask, moto.server"]).output().ok()?;
        if !has.status.success() {
            return None;
        }
        let (port, folder) = (TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(), tempdir().unwrap());
        let mut command = std::process::Command::new(python());
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(folder.path());
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { process, port, _folder: folder };
        wait_for("the server", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert_eq!(server.call("PUT", "/images").0, 200);
        Some(server)
    }

    /// The status and the body of an answer.
    fn call(&self, method: &str, path: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), answer[end + 4..].to_vec())
    }

    /// The objects under a prefix, by their names in it.
    fn contents(&self, prefix: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        const PROGRAM: &str = r#"
import boto3, os, sys
endpoint, prefix, folder = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
for page in s3.get_paginator("list_objects_v2").paginate(Bucket="images", Prefix=prefix + "/"):
    for one in page.get("Contents", []):
        path = os.path.join(folder, one["Key"][len(prefix) + 1 :])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        s3.download_file("images", one["Key"], path)
"#;
        let (folder, endpoint) = (tempdir().unwrap(), format!("http://127.0.0.1:{}", self.port));
        let mut python = std::process::Command::new(python());
        python.env("NO_PROXY", "127.0.0.1").args(["-c", PROGRAM, &endpoint, prefix]).arg(folder.path());
        assert!(python.status().unwrap().success());
        contents(folder.path())
    }

    /// How many tar files there are.
    fn tars(&self, prefix: &str) -> usize {
        let (_, list) = self.call("GET", &format!("/images?list-type=2&prefix={prefix}/0"));
        String::from_utf8(list).unwrap().matches("<Key>").count()
    }

    fn env(&self, command: &mut std::process::Command) {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        command.env("AWS_ENDPOINT", endpoint).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("ORT_DYLIB_PATH", runtime_path());
        command.env("NO_PROXY", "127.0.0.1");
    }
}

/// Tar files of more than one part, killed, stopped and resumed.
#[test]
fn s3_holds_what_a_folder_does() {
    let Some(server) = Server::start() else {
        println!(
            "skipped: no Python with moto's server (pip install 'moto[server]'; GANFORGE_PYTHON names a Python that has it)"
        );
        return;
    };
    let folder = tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/faces.int8.onnx");
    let call = |out: &Path, flags: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"));
        server.env(&mut command);
        command
            .args(["--provider", "cpu", "--n", "4100", "--format", "tar", "--model"])
            .arg(&model)
            .arg("--out")
            .arg(out)
            .args(flags);
        command
    };
    let whole = folder.path().join("whole");
    assert!(call(&whole, &["--quiet"]).status().unwrap().success());
    assert!(fs::metadata(whole.join("000001.tar")).unwrap().len() > 8 << 20, "it has one part only");
    let out = Path::new("s3://images/some/faces");
    let uploads = || String::from_utf8(server.call("GET", "/images?uploads").1).unwrap().matches("<Upload>").count();
    for signal in ["KILL", "INT"] {
        let mut child = call(out, &["--resume", "--threads", "1"]).stderr(Stdio::null()).spawn().unwrap();
        let before = server.tars("some/faces");
        wait_for("a tar file", || server.tars("some/faces") > before || child.try_wait().unwrap().is_some());
        Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).assert().success();
        assert!(!child.wait().unwrap().success());
        let there = server.contents("some/faces");
        assert!(!there.contains_key(Path::new("manifest-tar.json")));
        // What is there is whole.
        let whole = contents(&whole);
        let mut tars = there
            .iter()
            .filter(|(name, _)| name.extension().is_some_and(|it| it == "tar") && name.parent() == Some(Path::new("")));
        assert!(tars.all(|(name, bytes)| whole[name] == *bytes), "{signal}");
        if signal == "INT" {
            // What was killed could not clean up; what was stopped could.
            assert!(uploads() <= 1, "{} uploads", uploads());
        }
    }
    let output = call(out, &["--resume"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("were there"), "{said}");
    assert!(server.contents("some/faces") == contents(&whole));
    let output = call(out, &["--resume"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("0 images in"));
    // Nobody knows of this bucket; and nobody answers.
    let output = call(Path::new("s3://nowhere/x"), &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && said.contains("s3://nowhere/x: the store does not answer as it should"),
        "{said}"
    );
}
