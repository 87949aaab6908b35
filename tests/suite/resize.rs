//! Systems for other sizes and widths: what becomes of the layers, that the networks train, and what is refused.

use candle_core::{DType, Device, Tensor};
use ganforge::config::{self, PRESETS, TrainConfig};
use ganforge::error::Error;
use ganforge::nn::layers::Linear;
use ganforge::nn::layers::output_shape;
use ganforge::nn::{LayerSpec, Shape};
use ganforge::train::{Batch, Phase, Trainer, critic_network, generator_network};

fn preset(name: &str) -> TrainConfig {
    TrainConfig::preset(name).unwrap()
}

/// Width and side of what each layer with kernels makes.
fn made(layers: &[LayerSpec], input: Shape) -> Vec<[usize; 2]> {
    let kernels = (0..layers.len())
        .filter(|&at| matches!(layers[at], LayerSpec::Linear(_) | LayerSpec::Conv(_) | LayerSpec::ConvTranspose(_)));
    let shapes = kernels.map(|at| output_shape(&layers[..=at], input).unwrap());
    shapes
        .map(|shape| match shape {
            Shape::Flat(features) => [features, 1],
            Shape::Map { channels, height, .. } => [channels, height],
        })
        .collect()
}

fn both(config: &TrainConfig) -> [Vec<[usize; 2]>; 2] {
    let latent = Shape::Flat(config.latent.size);
    [made(&config.generator.layers, latent), made(&config.critic.layers, config.image_shape())]
}

fn counts(config: &TrainConfig) -> [usize; 2] {
    let cpu = Device::Cpu;
    let [generator, critic] = [generator_network(config, &cpu, DType::F32), critic_network(config, &cpu, DType::F32)];
    [generator.unwrap().trainable_count(), critic.unwrap().trainable_count()]
}

#[test]
fn dcgans_lose_or_gain_their_widest_stage() {
    for name in ["dcgan-64", "dcgan-anime"] {
        let small = preset(name).with_size(32).unwrap();
        let generator = vec![[256, 4], [128, 8], [64, 16], [3, 32]];
        assert_eq!(both(&small), [generator, vec![[64, 16], [128, 8], [256, 4], [1, 1]]]);
        assert_eq!(preset(name).with_size(64).unwrap(), preset(name));
        let large = preset(name).with_size(128).unwrap();
        let generator = vec![[1024, 4], [512, 8], [256, 16], [128, 32], [64, 64], [3, 128]];
        assert_eq!(both(&large), [generator, vec![[64, 64], [128, 32], [256, 16], [512, 8], [1024, 4], [1, 1]]]);
        // Kernels of 16: with 64 pixels the published 3,576,704 and 2,765,696, or without the first norm 128 fewer.
        let first_norm = if name == "dcgan-64" { 128 } else { 0 };
        let kernels = |pairs: &[[usize; 2]]| pairs.iter().map(|[a, b]| 16 * a * b).sum::<usize>();
        let norms = |widths: &[usize]| 2 * widths.iter().sum::<usize>();
        let of = |wide: &[usize]| {
            let narrow = [wide, [64, 3].as_slice()].concat();
            let pairs: Vec<[usize; 2]> = narrow.windows(2).map(|pair| [pair[0], pair[1]]).collect();
            let shared = kernels(&pairs) + norms(&narrow[..narrow.len() - 1]);
            [shared + 16 * 100 * wide[0], shared + 16 * wide[0] - first_norm]
        };
        assert_eq!(of(&[512, 256, 128]), [3_576_704, 2_765_696 - first_norm]);
        assert_eq!(counts(&preset(name)), [3_576_704, 2_765_696 - first_norm]);
        assert_eq!(counts(&small), of(&[256, 128]));
        assert_eq!(counts(&large), of(&[1024, 512, 256, 128]));
        // There and back, and step by step.
        assert_eq!(small.with_size(128).unwrap(), large);
        assert_eq!(large.with_size(64).unwrap(), preset(name));
    }
}

#[test]
fn a_linear_first_layer_follows() {
    let small = preset("wgan-anime").with_size(32).unwrap();
    let generator = vec![[512 * 16, 1], [256, 8], [128, 16], [3, 32]];
    assert_eq!(both(&small), [generator, vec![[128, 16], [256, 8], [512, 4], [1, 1]]]);
    assert!(small.generator.layers.contains(&LayerSpec::Reshape([512, 4, 4])));
    let large = preset("wgan-anime").with_size(128).unwrap();
    let generator = vec![[2048 * 16, 1], [1024, 8], [512, 16], [256, 32], [128, 64], [3, 128]];
    assert_eq!(both(&large), [generator, vec![[128, 64], [256, 32], [512, 16], [1024, 8], [2048, 4], [1, 1]]]);
}

#[test]
fn every_convolutional_preset_of_64_pixels_has_the_other_sizes() {
    let mut sized = 0;
    for (name, _) in PRESETS {
        let config = preset(name);
        match config.data.size {
            64 => {
                for size in [32, 128] {
                    let mut whole = preset(name);
                    whole.schedule.batch_size = whole.schedule.batch_size.min(64); // of 256 the values are too many
                    let other = whole.with_size(size).unwrap();
                    assert_eq!(other.data.size, size);
                    let text = other.to_toml().unwrap();
                    assert_eq!(TrainConfig::from_toml(&text, name).unwrap(), other, "{name}");
                    sized += 1;
                }
            }
            _ => {
                let error = config.with_size(32).unwrap_err();
                assert!(matches!(error, Error::Usage { .. }), "{name}: {error}");
                assert!(error.to_string().contains("28 pixels, which do not double"), "{error}");
            }
        }
    }
    assert!(sized >= 6);
}

#[test]
fn widths_scale_but_for_the_ends() {
    let quarter = preset("dcgan-64").with_width(0.25).unwrap();
    assert_eq!(
        both(&quarter),
        [vec![[128, 4], [64, 8], [32, 16], [16, 32], [3, 64]], vec![[16, 32], [32, 16], [64, 8], [128, 4], [1, 1]]]
    );
    let linear = preset("wgan-anime").with_width(0.125).unwrap();
    assert_eq!(both(&linear)[0], vec![[128 * 16, 1], [64, 8], [32, 16], [16, 32], [3, 64]]);
    assert!(linear.generator.layers.contains(&LayerSpec::Reshape([128, 4, 4])));
    let features = preset("gan-fashion-mlp").with_width(0.5).unwrap();
    assert_eq!(both(&features), [vec![[128, 1], [256, 1], [512, 1], [784, 1]], vec![[512, 1], [256, 1], [128, 1], [1, 1]]]);
    for (name, _) in PRESETS {
        assert_eq!(preset(name).with_width(1.0).unwrap(), preset(name), "{name}");
        // Never to nothing.
        assert!(preset(name).with_width(1.0 / 64.0).is_ok(), "{name}");
    }
}

#[test]
fn the_last_layer_makes_the_channels_that_are_asked_for() {
    let with = |name: &str, assignments: &[&str]| {
        let mut table = config::preset_table(name).unwrap();
        assignments.iter().for_each(|assignment| config::set(&mut table, assignment).unwrap());
        TrainConfig::from_table(table, "it")
    };
    let outs = |config: &TrainConfig| config.generator.layers.iter().filter_map(LayerSpec::width).collect::<Vec<_>>();
    for (name, _) in PRESETS {
        let plain = preset(name);
        let (from, to) = (plain.data.channels, 4 - plain.data.channels);
        let other = with(name, &[&format!("data.channels={to}")]).unwrap();
        let (mut expected, made) = (outs(&plain), outs(&other));
        *expected.last_mut().unwrap() = expected.last().unwrap() * to / from;
        assert_eq!((made, &other.critic), (expected, &plain.critic), "{name}");
        let back = other.to_toml().unwrap().replace(&format!("channels = {to}"), &format!("channels = {from}"));
        assert_eq!(TrainConfig::from_toml(&back, "it").unwrap(), plain, "{name}: there and back");
    }
    let mixed = with("gan-fashion-mixed", &["data.channels=3"]).unwrap();
    assert_eq!(mixed.image_shape(), Shape::Map { channels: 3, height: 28, width: 28 });
    // Before another size and width are made of it, too.
    let table: toml::Table = "base = 'dcgan-64'\n[data]\nsize = 64\nchannels = 1\nrange = 'tanh'".parse().unwrap();
    let table = config::parse_table(&table.to_string(), "it").unwrap();
    let small = TrainConfig::from_table(config::resized(table, "it", Some(32), Some(0.5)).unwrap(), "it").unwrap();
    assert_eq!((outs(&small).last(), small.data.size), (Some(&1), 32));
    // What does not fit otherwise is not made to fit.
    let told = with("dcgan-28", &["data.channels=3", "data.size=32"]).unwrap_err().to_string();
    assert!(told.contains("makes 1×28×28, but data.size and data.channels ask for 3×32×32"), "{told}");
}

#[test]
fn groups_are_as_narrow_as_the_width_asks() {
    let layers = "critic.layers=[{ conv = { out = 64, kernel = 1 } }, { conv = { out = 128, kernel = 3, group_width = 16 } }, \
                  { conv = { out = 128, kernel = 3, group_width = 1 } }, { linear = { out = 1 } }]";
    let mut table = config::preset_table("dcgan-28").unwrap();
    config::set(&mut table, layers).unwrap();
    let narrow = TrainConfig::from_table(table, "it").unwrap().with_width(0.375).unwrap();
    let groups = |layer: &LayerSpec| if let LayerSpec::Conv(conv) = layer { conv.group_width } else { None };
    assert_eq!(narrow.critic.layers.iter().filter_map(groups).collect::<Vec<_>>(), [12, 1]);
}

#[test]
fn what_cannot_be_is_refused() {
    for size in [0, 16, 48, 63, 65, 256, 1024] {
        let error = preset("dcgan-64").with_size(size).unwrap_err().to_string();
        assert!(error.contains("Choose 32, 64 or 128"), "{size}: {error}");
    }
    for factor in [0.0, -1.0, 1.0 / 65.0, 17.0, f64::NAN, f64::INFINITY] {
        assert!(preset("dcgan-64").with_width(factor).is_err(), "{factor}");
    }
    // A generator of linear layers at 64 pixels.
    let mut flat = preset("dcgan-64");
    flat.generator.layers =
        vec![LayerSpec::Linear(Linear { out: 3 * 64 * 64, bias: true, spectral: false, gain: None }), LayerSpec::Tanh];
    let error = flat.with_size(32).unwrap_err().to_string();
    assert!(error.contains("the generator cannot be made for 32 pixels: it has no two layers that double"), "{error}");
    // A layer in the middle that neither doubles nor is part of a stage.
    let mut odd = preset("dcgan-64");
    odd.critic.layers = vec![LayerSpec::Linear(Linear { out: 1, bias: true, spectral: false, gain: None })];
    assert!(odd.with_size(128).unwrap_err().to_string().contains("the critic cannot be made for 128 pixels"));
}

#[test]
fn they_train() {
    for size in [32, 128] {
        let mut config = preset("dcgan-64").with_size(size).unwrap().with_width(1.0 / 32.0).unwrap();
        config.schedule.batch_size = 2;
        let mut trainer = Trainer::new(&config, &Device::Cpu, DType::F32).unwrap();
        let real = Batch::from(Tensor::rand(-1f32, 1.0, (2, size, size, 3), &Device::Cpu).unwrap());
        for _ in 0..2 {
            let mut phase = Phase::default();
            trainer.critic_step(&real, &mut phase).unwrap();
            trainer.generator_step(None, &mut phase).unwrap();
        }
        let means = trainer.take_means().unwrap();
        assert!(means.loss_critic.is_finite() && means.loss_generator.is_finite(), "{size}: {means:?}");
    }
}
