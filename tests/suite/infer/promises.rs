//! What a generator promises, and what becomes of a broken promise.

use ganforge::contract::Cost;
use ganforge::infer::Class;

use super::*;

fn any_contract() -> impl Strategy<Value = Contract> {
    let law = prop_oneof![Just(Distribution::Normal), Just(Distribution::Uniform)];
    let range = prop_oneof![Just(Range::Tanh), Just(Range::Sigmoid), Just(Range::Byte)];
    let layout = prop_oneof![Just(Layout::NhwcU8), Just(Layout::NchwU8), Just(Layout::NchwF32)];
    let weights = prop_oneof![Just(Weights::Ema), Just(Weights::Raw)];
    let texts = [".*", ".*", ".*", "[0-9a-f]{64}"];
    (law, range, layout, weights, texts, any::<[u64; 2]>(), any::<[u16; 3]>(), prop_oneof![Just(1), Just(3)]).prop_map(
        |(
            law,
            range,
            layout,
            weights,
            [preset, loss, data, data_sha256],
            [images_seen, seed],
            [size, height, width],
            channels,
        )| {
            let [size, height, width] = [size, height, width].map(usize::from);
            let latent = Latent { size, distribution: law };
            Contract {
                latent,
                classes: if size < 4 { 0 } else { size / 2 },
                // Of those with as many classes as a training takes, every second has names.
                class_names: match (size, seed % 2) {
                    (4..512, 0) => (0..size / 2).map(|number| format!("{preset}{number}")).collect(),
                    _ => vec![],
                },
                range,
                layout,
                height,
                width,
                channels,
                preset,
                loss,
                data,
                data_sha256,
                images_seen,
                seed,
                weights,
                batch: (size % 3 == 0).then_some(1 + size),
                cost: (channels == 3).then(|| Cost {
                    psnr: 36.5,
                    frechet: seed as f64 / 7.0,
                    frechet_f32: 0.25,
                    reference: String::new(),
                }),
            }
        },
    )
}

proptest! {
    #[test]
    fn contract_survives_its_metadata(contract in any_contract(), dropped in any::<prop::sample::Index>()) {
        let mut metadata = contract.to_metadata();
        let read = |metadata: &BTreeMap<String, String>| Contract::from_metadata("m", |key| metadata.get(key).cloned());
        prop_assert_eq!(read(&metadata).unwrap(), Some(contract));
        let keys: Vec<String> = metadata.keys().filter(|key| key.starts_with("ganforge.")).cloned().collect();
        let key = dropped.get(&keys);
        metadata.remove(key);
        match read(&metadata) {
            Ok(None) => prop_assert_eq!(key, "ganforge.contract"),
            // Without these lines there are none.
            Ok(Some(contract)) if key == "ganforge.classes.names" => prop_assert!(contract.class_names.is_empty()),
            Ok(Some(contract)) if key == "ganforge.batch" => prop_assert_eq!(contract.batch, None),
            Ok(Some(contract)) => prop_assert!(key == "ganforge.latent.classes" && contract.classes == 0),
            Err(e) if key == "ganforge.latent.classes" => prop_assert!(e.to_string().contains("names for 0 classes")),
            Err(e) => prop_assert!(e.to_string().contains(key.as_str())),
        }
    }

    #[test]
    fn any_flipped_bit_of_a_sealed_file_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut file = fs::read(golden(SEALED)).unwrap();
        prop_assert!(contract::check_seal("m", &file).is_ok());
        let at = at.index(file.len());
        file[at] ^= 1u8 << bit;
        let noticed = contract::check_seal("m", &file).is_err() || {
            runtime::load_from(runtime_path()).unwrap();
            // The entry itself is hit: the file has a contract, but no checksum.
            Generator::from_bytes("m", file, &Options::default()).is_err()
        };
        prop_assert!(noticed, "byte {}", at);
    }
}

/// The sealed generator with one metadata value changed to another of the same length, and sealed again.
fn resealed(key: &str, from: &str, to: &str) -> Vec<u8> {
    let mut file = fs::read(golden(SEALED)).unwrap();
    let entry = |value: &str| [key.as_bytes(), &[0x12, value.len() as u8], value.as_bytes()].concat();
    let find = |file: &[u8], bytes: &[u8]| file.windows(bytes.len()).rposition(|window| window == bytes).unwrap();
    let (old, new) = (entry(from), entry(to));
    let at = find(&file, &old);
    file[at..at + new.len()].copy_from_slice(&new);
    let digits = find(&file, b"ganforge.sha256\x12\x40") + 17;
    file[digits..digits + 64].fill(b'0');
    assert!(contract::seal(&mut file));
    file
}

#[test]
fn a_batch_that_is_no_number_of_images_is_refused() {
    let contract =
        Generator::from_bytes("m", fs::read(golden(SEALED)).unwrap(), &small_batches()).unwrap().contract().unwrap().clone();
    let with = |batch: &str| {
        let mut metadata = contract.to_metadata();
        metadata.insert("ganforge.batch".to_string(), batch.to_string());
        Contract::from_metadata("m", |key| metadata.get(key).cloned())
    };
    assert_eq!(with("4").unwrap().unwrap().batch, Some(4));
    for wrong in ["0", "-1", "1.5", "many", "", "99999999999999999999999"] {
        assert!(message(with(wrong)).contains("metadata ganforge.batch"), "{wrong}");
    }
}

#[test]
fn a_broken_promise_is_refused() {
    open(SEALED, Options::default()).unwrap();
    for (key, from, to, found) in [
        ("ganforge.width", "6", "7", "image: u8 [8, 8, 6, 3]"),
        ("ganforge.channels", "3", "1", "image: u8 [8, 8, 6, 3]"),
        ("ganforge.latent.size", "16", "17", "z: f32 [n, 16]"),
        ("ganforge.layout", "nhwc-u8", "nchw-u8", "image: u8 [8, 8, 6, 3]"),
        ("ganforge.contract", "1", "2", "contract version 2"),
        ("ganforge.range", "tanh", "tinh", "unknown value 'tinh'"),
    ] {
        let error = message(Generator::from_bytes("model", resealed(key, from, to), &small_batches()));
        assert!(error.contains(found), "{key}: {error}");
    }
}

#[test]
fn names_of_classes_are_looked_at() {
    let file = fs::read(golden(SEALED)).unwrap();
    runtime::load_from(runtime_path()).unwrap();
    let generator = Generator::from_bytes("m", file, &Options::default()).unwrap();
    let contract =
        Contract { classes: 3, latent: Latent { size: 8, ..generator.latent() }, ..generator.contract().unwrap().clone() };
    let read = |names: &str| {
        let mut metadata = contract.to_metadata();
        metadata.insert("ganforge.classes.names".to_string(), names.to_string());
        Contract::from_metadata("m", |key| metadata.get(key).cloned()).map(|contract| contract.unwrap().class_names)
    };
    assert_eq!(read(r#"["cat","2","dög"]"#).unwrap(), ["cat", "2", "dög"]);
    let long = format!(r#"["a","b","{}"]"#, "c".repeat(1025));
    for (names, why) in [
        ("cat,dog", "not a list of names"),
        (r#"["a",2,"c"]"#, "not a list of names"),
        (r#"["a","b"]"#, "2 names for 3 classes"),
        (r#"["a","b","a"]"#, "two classes are called 'a'"),
        (r#"["a","","c"]"#, "a name of 0 bytes"),
        (&long, "a name of 1025 bytes"),
    ] {
        let told = read(names).unwrap_err().to_string();
        assert!(told.contains(why) && told.contains("ganforge.classes.names"), "{told}");
    }

    // By name, by number; a name that is a number is a name.
    let named = Contract { class_names: ["cat", "0", "dog"].map(String::from).into(), ..contract.clone() };
    let number = |class: &str, contract: &Contract| Class::named(class, Some(contract), "m").map(Class::number);
    assert_eq!(["cat", "0", "dog", "1", "2"].map(|class| number(class, &named).unwrap()), [0, 1, 2, 1, 2]);
    assert_eq!(number("0", &contract).unwrap(), 0);
    // Capitals, where that leaves one.
    assert_eq!(number("CAT", &named).unwrap(), 0);
    let two = Contract { class_names: ["cat", "Cat", "dog"].map(String::from).into(), ..contract.clone() };
    assert_eq!(["cat", "Cat", "Dog"].map(|class| number(class, &two).unwrap()), [0, 1, 2]);
    assert!(number("CAT", &two).is_err());
    let told = |class: &str, contract: &Contract| number(class, contract).unwrap_err().to_string();
    assert!(told("dogs", &named).contains("there is no class 'dogs'. Did you mean 'dog'?"), "{}", told("dogs", &named));
    assert!(told("xyz", &named).contains("called cat, 0, dog, and its classes are 0 to 2."), "{}", told("xyz", &named));
    assert!(told("dog", &contract).contains("has no names for them: its classes are 0 to 2"), "{}", told("dog", &contract));
    assert!(told("3", &named).contains("there is no class 3"));
    let none = Contract { classes: 0, ..contract };
    assert!(told("cat", &none).contains("knows no classes"));
}
