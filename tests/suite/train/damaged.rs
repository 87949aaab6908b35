//! Damaged checkpoints, other images, other optimisers.

use super::*;

#[test]
fn damaged_checkpoints_are_named() {
    let place = Place::new();
    let run = place.train("run", CONVOLUTIONAL, &["--steps=2"]);
    let saved = run.join("checkpoints/00000002");
    let before = result(&run);
    let check = |path: &Path, contents: Option<&[u8]>, says: &str| {
        let whole = fs::read(path).unwrap();
        match contents {
            Some(contents) => fs::write(path, contents).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let told = complaint(&mut resume(&run, &["--steps=4"]), 1);
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
        assert!(told.contains(&path.display().to_string()) && told.contains(says), "{told}");
        fs::write(path, whole).unwrap();
        told
    };
    for name in names(&saved).iter().filter(|name| name.ends_with("safetensors")) {
        let path = saved.join(name);
        let whole = fs::read(&path).unwrap();
        check(&path, None, "Check the path");
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        check(&path, Some(&changed), "its checksum is not the one in SHA256SUMS");
        // Half a file, or another network's tensors, in a checkpoint without checksums.
        let sums = saved.join("SHA256SUMS");
        let kept = fs::read(&sums).unwrap();
        fs::remove_file(&sums).unwrap();
        check(&path, Some(&whole[..whole.len() / 2]), "go back to an earlier checkpoint");
        check(&path, Some(&whole[..5]), "go back to an earlier checkpoint");
        check(&path, Some(b""), "go back to an earlier checkpoint");
        let other = if name.starts_with("optimizer") { "generator.safetensors" } else { "critic.safetensors" };
        let other = if name == "critic.safetensors" { "generator.safetensors" } else { other };
        check(&path, Some(&fs::read(saved.join(other)).unwrap()), "its checksum is not the one in state.json");
        // And as it was before the state knew of checksums.
        let state = fs::read(saved.join("state.json")).unwrap();
        let mut old: Value = serde_json::from_slice(&state).unwrap();
        old.as_object_mut().unwrap().remove("files").unwrap();
        fs::write(saved.join("state.json"), old.to_string()).unwrap();
        check(&path, Some(&fs::read(saved.join(other)).unwrap()), "the run");
        fs::write(saved.join("state.json"), state).unwrap();
        fs::write(&sums, kept).unwrap();
    }
    let garbage: [&[u8]; 4] = [b"", b"{}", b"\xff\xfe", b"{\"step\": -1}"];
    for contents in garbage {
        check(&saved.join("state.json"), Some(contents), "go back to an earlier checkpoint");
    }
    let names: [&[u8]; 4] = [b"00000009\n", b"", b"../../run", b"\xff"];
    for contents in names {
        let pointer = run.join("checkpoints/latest");
        check(&pointer, Some(contents), "Write the name of one of the folders beside it");
    }
    check(&run.join("config.toml"), Some(b"preset = 3"), "presets NAME");
    check(&run.join("config.toml"), Some(b"\xff"), "not UTF-8");
    // A line in the middle of the log; the end may be cut off.
    let log = [b"{}\n".to_vec(), fs::read(run.join("stats.jsonl")).unwrap()].concat();
    check(&run.join("stats.jsonl"), Some(&log), "line 1");
    // Nothing of this changed the run.
    assert!(before == result(&run));
    resume(&run, &["--steps=4"]).assert().success();
    assert_eq!(state(&run).step, 4);
}

#[test]
fn other_images_are_refused() {
    let place = Place::new();
    let run = place.train("run", WGAN, &["--steps=2"]);
    let (config, before) = (fs::read(run.join("config.toml")).unwrap(), result(&run));
    let other = place.path("other.idx");
    fs::write(&other, idx(50, 1)).unwrap();
    let told = complaint(&mut resume(&run, &["--steps=3", "--data", other.to_str().unwrap()]), 1);
    assert!(told.contains("00000002: this checkpoint was trained on other images (images.idx) than the 50 given (other.idx)"));
    assert!(told.contains("--data"), "{told}");
    let shown = run.display().to_string();
    let way = format!(
        "begin another run with its weights: --config {shown}/config.toml --init-from {shown}, with these --data and a new --out"
    );
    assert!(told.contains(&way), "{told}");
    fs::create_dir(place.path("alike")).unwrap();
    let alike = place.path("alike/images.idx");
    fs::copy(&other, &alike).unwrap();
    let told = complaint(&mut resume(&run, &["--steps=3", "--data", alike.to_str().unwrap()]), 1);
    assert!(told.contains("called the same: some were added, removed or changed"), "{told}");
    assert_eq!(fs::read(run.join("config.toml")).unwrap(), config, "a refused resume changed the run");
    assert!(before == result(&run));
    // The same images elsewhere are welcome, and remembered; the run's folder may move too.
    let (moved, images) = (place.path("moved"), place.path("moved.idx"));
    fs::rename(&run, &moved).unwrap();
    fs::rename(place.data(), &images).unwrap();
    assert!(complaint(&mut resume(&moved, &["--steps=3"]), 2).contains("images.idx"));
    resume(&moved, &["--steps=3", "--data", images.to_str().unwrap()]).assert().success();
    resume(&moved, &["--steps=4"]).assert().success();
    assert_eq!(state(&moved).step, 4);
    // And others are gone on with in another run, as the error says.
    let mut command = gan_train(&["--device=cpu", "--steps=2", "--config"]);
    command.arg(moved.join("config.toml")).arg("--init-from").arg(&moved).arg("--data").arg(&other);
    let more = place.path("more");
    let said = command.arg("--out").arg(&more).assert().success().get_output().stderr.clone();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("begins with ") && said.contains("generator from 'generator', critic from 'critic'"), "{said}");
    assert_eq!((state(&more).step, state(&more).data.as_str()), (2, "other.idx"));
}

#[test]
fn another_optimiser_is_refused() {
    let place = Place::new();
    let run = place.train("run", DROPOUT, &["--steps=2"]);
    let mut table: toml::Table = fs::read_to_string(run.join("config.toml")).unwrap().parse().unwrap();
    let sgd: toml::Table = "kind = 'sgd'\nlr = 0.1".parse().unwrap();
    table["optimizer"]["critic"] = sgd.into();
    fs::write(run.join("config.toml"), toml::to_string(&table).unwrap()).unwrap();
    let told = complaint(&mut resume(&run, &["--steps=3"]), 1);
    assert!(told.contains("config.toml: other than what the checkpoint 00000002 was made with: optimizer.critic."), "{told}");
    let told = complaint(&mut resume(&run, &["--steps=3", "--set=optimizer.critic={ kind = 'sgd', lr = 0.1 }"]), 1);
    assert!(told.contains("optimizer-critic.safetensors: the optimiser's state belongs to another optimiser"), "{told}");
}
