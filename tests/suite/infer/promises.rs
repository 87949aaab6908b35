//! What a generator promises, and what becomes of a broken promise.

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
                class_names: if named {
                    (0..if size < 4 { 0 } else { size / 2 }).map(|n| format!("{preset}{n}")).collect()
                } else {
                    vec![]
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
            // Without that line there are none.
            Ok(Some(contract)) => prop_assert!(key == "ganforge.latent.classes" && contract.classes == 0),
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
            runtime::load_from(&runtime_path()).unwrap();
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
