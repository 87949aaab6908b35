//! Single operations of training at the presets' shapes, as criterion measures them; throughput in multiply-adds × 2.
//!
//! ```text
//! cargo bench --bench ops                         # all; RAYON_NUM_THREADS says on how many threads
//! cargo bench --bench ops -- conv/                # only these
//! cargo bench --bench ops -- --save-baseline old  # to be compared with by --baseline old
//! ```

use std::hint::black_box;
use std::time::Duration;

use candle_core::{DType, Device, Result, Tensor};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ganforge::config::{InitConfig, TrainConfig};
use ganforge::error::Error;
use ganforge::nn::activation::Activation;
use ganforge::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use ganforge::nn::device::check_precision;
use ganforge::nn::geometry::ConvWindow;
use ganforge::nn::layers::Linear;
use ganforge::nn::norm::{batch_norm, batch_norm_grad};
use ganforge::nn::precision::Precision;
use ganforge::nn::{LayerSpec, Shape};
use ganforge::nn::{Network, Pass, Place, Role, Wanted};
use ganforge::optim::Optimizer;
use ganforge::train::critic_network;

/// As gan-train has it.
#[cfg(feature = "cli")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 64;
const PASS: Pass = Pass::Train { seed: 0, number: 0 };

/// A convolution of a critic: (name, channels in, channels out, size in, window).
type Conv = (&'static str, usize, usize, usize, ConvWindow);

const CONVS: [Conv; 12] = [
    ("dcgan-64 first", 3, 64, 64, ConvWindow::new(4, 2, 1)),
    ("dcgan-64 second", 64, 128, 32, ConvWindow::new(4, 2, 1)),
    ("dcgan-64 fourth", 256, 512, 8, ConvWindow::new(4, 2, 1)),
    ("dcgan-64 last", 512, 1, 4, ConvWindow::new(4, 1, 0)),
    ("wgan-anime second", 128, 256, 32, ConvWindow::new(3, 2, 1)),
    ("wgan-anime fourth", 512, 1024, 8, ConvWindow::new(3, 2, 1)),
    ("dcgan-fashion third of the generator", 256, 512, 13, ConvWindow::new(5, 2, 1)),
    ("r3gan-64-s widest groups", 512, 512, 8, ConvWindow::new(3, 1, 1).in_groups(32)),
    ("r3gan-64-s largest groups", 128, 128, 64, ConvWindow::new(3, 1, 1).in_groups(8)),
    ("r3gan-64-s widest 1×1", 256, 512, 16, ConvWindow::POINT),
    ("r3gan-64-s filter", 128, 128, 32, ConvWindow::new(4, 2, 1).in_groups(128)),
    ("wgan-gp-resnet-64 third block", 256, 256, 16, ConvWindow::new(3, 1, 1)),
];

fn random(dims: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, dims, &Device::Cpu)
}

/// Forward, to the input, to the kernels.
fn convolutions(criterion: &mut Criterion) -> Result<()> {
    for (name, ci, co, size, window) in CONVS {
        let out = window.output(size);
        let of_group = ci / window.groups;
        let kernels = random(&[co, of_group, window.kernel, window.kernel])?;
        let (x, dy) = (random(&[BATCH, size, size, ci])?, random(&[BATCH, out, out, co])?);

        let mut group = criterion.benchmark_group(format!("conv/{name}"));
        let flops = 2 * BATCH * co * out * out * of_group * window.kernel * window.kernel;
        group.throughput(Throughput::Elements(flops as u64));
        for precision in [Precision::F32, Precision::Bf16] {
            // Not every CPU has bf16.
            if check_precision(&Device::Cpu, precision).is_err() {
                continue;
            }
            let named = |what: &str| if precision == Precision::F32 { what.to_string() } else { format!("{what}, bf16") };
            group.bench_function(named("forward"), |b| b.iter(|| black_box(conv(&x, &kernels, window, precision))));
            group.bench_function(named("input gradient"), |b| {
                b.iter(|| black_box(conv_input_grad(&dy, &kernels, window, (size, size), precision)))
            });
            group.bench_function(named("weight gradient"), |b| {
                b.iter(|| black_box(conv_weight_grad(&x, &dy, window, precision)))
            });
        }
        group.finish();
    }
    Ok(())
}

fn batch_norms(criterion: &mut Criterion) -> Result<()> {
    let act = Activation::Rectifier { slope: 0.2 };
    for (name, c, size) in [("dcgan-64 first", 64, 32), ("dcgan-64 fourth", 512, 4)] {
        let (x, weight, bias) = (random(&[BATCH, size, size, c])?, random(&[c])?, random(&[c])?);
        let made = batch_norm(&x, &weight, &bias, act)?;
        let mut group = criterion.benchmark_group(format!("batch norm/{name}"));
        group.throughput(Throughput::Elements(x.elem_count() as u64));
        group.bench_function("forward", |b| b.iter(|| black_box(batch_norm(&x, &weight, &bias, act).map(|made| made.y))));
        // In place, so each round needs a gradient of its own.
        let backward = |dy: Tensor| batch_norm_grad(&x, &weight, &made, act, dy).map(|gradients| gradients.x);
        group.bench_function("backward", |b| {
            b.iter_batched(|| x.copy(), |dy| black_box(dy.and_then(backward)), BatchSize::LargeInput);
        });
        group.finish();
    }
    Ok(())
}

/// The widest layer of gan-fashion-mlp's critic, with its activation.
fn linear(criterion: &mut Criterion) -> ganforge::error::Result<()> {
    let (features, out) = (784, 1024);
    let layers = [LayerSpec::Linear(Linear { out, bias: true, spectral: false, gain: None }), LayerSpec::LeakyRelu(0.2)];
    let input = Shape::Flat(features);
    let network = Network::new(&layers, input, &InitConfig::default(), Role::Critic, 0, &Place::cpu(DType::F32))?;
    let (x, dy) = (random(&[BATCH, features])?, random(&[BATCH, out])?);
    let mut group = criterion.benchmark_group("linear/gan-fashion-mlp");
    group.throughput(Throughput::Elements((2 * BATCH * features * out) as u64));
    group.bench_function("forward", |b| b.iter(|| black_box(network.forward(&x, PASS))));
    group.throughput(Throughput::Elements((4 * BATCH * features * out) as u64));
    group.bench_function("forward and weight gradient", |b| {
        let work = |dy: Tensor| {
            let (_, trace) = network.forward_traced(&x, PASS)?;
            network.backward(trace, dy, Wanted::Parameters)
        };
        b.iter_batched(|| dy.copy(), |dy| black_box(dy.map_err(Error::from).and_then(work)), BatchSize::LargeInput);
    });
    group.finish();
    Ok(())
}

/// On the parameters of a critic: Adam and RMSprop.
fn optimizers(criterion: &mut Criterion) -> ganforge::error::Result<()> {
    for preset in ["dcgan-64", "wgan-anime"] {
        let config = TrainConfig::preset(preset)?;
        let critic = critic_network(&config, &Device::Cpu, DType::F32)?;
        let gradients = critic.trainable().map(|parameter| random(parameter.var.dims())).collect::<Result<Vec<_>>>()?;
        let mut optimizer = Optimizer::new(config.optimizer.critic, &critic)?;
        let mut group = criterion.benchmark_group(format!("optimiser/{preset}"));
        group.throughput(Throughput::Elements(critic.trainable_count() as u64));
        group.bench_function("step", |b| b.iter(|| black_box(optimizer.step(&critic, &gradients))));
        group.finish();
    }
    Ok(())
}

fn all(criterion: &mut Criterion) {
    let done = convolutions(criterion).and_then(|()| batch_norms(criterion)).map_err(Error::from);
    if let Err(error) = done.and_then(|()| linear(criterion)).and_then(|()| optimizers(criterion)) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = all
}
criterion_main!(benches);
